"""Plans and goals: carried out step by step, over the same tools, policy and jobs as everybody else.

plans.py     a plan: typed steps that refer to each other's results; checked before it starts
runs.py      carrying a plan out, so that it survives a restart; and all runs, of plans and of goals
carrying.py  one call of a run, to its end
flow.py      which untrusted text a plan's references carry into a step
planner.py   how a model is asked for a plan, and what its reply comes to
drafts.py    drafted plans, and a person's, checked and quoted before anything starts
goals.py     what a goal may take, which model thinks, what it is told of its surroundings
pursuit.py   the loop: a model reasons and acts, and everything is stored before it is acted on
wire.py      the conversation as chat requests, and replies as their parts
choice.py    which tools a goal needs
guards.py    what ends a run that goes nowhere
trim.py      results made small enough for a model
handover.py  how a run that is stuck ends
"""
