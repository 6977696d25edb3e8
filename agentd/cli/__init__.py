"""The command line: one file per group of commands; the only place that prints.

app.py        the list of commands, and the translation of errors to exit codes
client.py     finding (or starting) the daemon, and talking to it
show.py       tables, progress, figures
follow.py     watching a job or a run until its end, asking at a terminal on the way
serve.py      serve, stop, mcp        call.py       call, run, runs
connect.py    connect                 mcp_clients.py  their files, and what stands in them
jsonc.py toml_tables.py  files of others, changed at one place
loading.py    importing much in little time, for serve
jobs.py       jobs                    approvals.py  approvals, approve, deny
browser.py    open                    visible.py    text for a terminal, with nothing hidden
policy.py     policy explain, test    tokens.py     token create, list, revoke
models.py     models, add, remove     look.py       reports
routes.py     why, route
ledger.py     ledger, export, quotes  notify.py     notify, notify test
journal.py    journal: what happened, its head, and whether nobody edited it
evals.py      eval run, gate, report, export
data.py       data prepare, check …   review.py     data review, publish
backup.py     backup, restore
envs.py       env list, build, prune  doctor.py     doctor
demo.py       demo                    bench.py      bench
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The ``agentd`` command. ``agentd mcp`` takes a short way: an editor waits for its first answer."""
    if sys.argv[1:] == ["mcp"]:
        from agentd.cli.proxy import run_proxy

        sys.exit(run_proxy())
    from agentd.cli.app import app

    app()
