"""Pursuing goals.

plans.py  a plan: typed steps that refer to each other's results; checked before it starts
runs.py   carrying a plan out, step by step, so that it survives a restart
"""
