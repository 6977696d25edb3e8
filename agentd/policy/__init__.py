"""Who may do what, decided as data.

rules.py    deny, ask or allow: a pure function of a call and a rule set
digests.py  the canonical digest of exactly what would run
prices.py   the dated table that turns time into money, and which prices are in doubt
quotes.py   what calls will take: estimates, corrected by what past jobs took
credentials.py  bearer tokens: who they stand for, and who may make and revoke them
"""
