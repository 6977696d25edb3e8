"""The only SQL in the program.

database.py   one SQLite file, transactions, migrations
schema.py     the tables, as migrations
journal.py    append-only, hash-chained record of what happened and who decided it
jobs.py       jobs and their attempts
approvals.py  durable questions, answered once
ledger.py     money: reserve, then settle
leases.py     money for many requests in one commit
catalog.py    models and aliases
artifacts.py  what jobs left
reports.py    what was measured
runs.py       runs of plans, and their steps
requests.py   answered chat requests, and why they went where they went
tokens.py     hashed credentials
notifiers.py  how far each notifier has told the journal
"""

from agentd.store.database import Store

__all__ = ["Store"]
