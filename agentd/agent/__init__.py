"""Pursuing goals.

plans.py  a plan: typed steps that refer to each other's results; checked before it starts
planner.py  how a model is asked for a plan, and what its reply comes to
drafts.py   drafted plans, and a person's, checked and quoted before anything starts
runs.py   carrying a plan out, step by step, so that it survives a restart
"""
