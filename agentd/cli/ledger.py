"""Money and quotes: ``ledger``, ``ledger export``, ``quotes``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from agentd.cli import show
from agentd.cli.client import Client, connect

__all__ = ["ledger", "quotes"]

PAGE = 10_000


@click.group(invoke_without_command=True)
@click.option("--principal", help="Only entries of this principal.")
@click.option("--project", help="Only entries of this project.")
@click.option("--for", "subject", metavar="JOB", help="Only entries of this job, its requests included.")
@click.option("-n", "count", default=30, show_default=True, help="How many entries, the newest first.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON; amounts are millionths of a dollar.")
@click.pass_context
def ledger(
    ctx: click.Context,
    principal: str | None,
    project: str | None,
    subject: str | None,
    count: int,
    json_: bool,
) -> None:
    """Show where the budgets stand, and what was spent and is set aside, of jobs and tokens together.

    \b
    Examples: agentd ledger
              agentd ledger --project support -n 100
              agentd ledger export > ledger.csv
    """
    if ctx.invoked_subcommand:
        return
    summary = connect().get("/api/ledger", principal=principal, project=project, subject=subject, limit=count)
    if json_:
        show.as_json(summary)
        return
    show.table(
        ["budget of", "", "this", ">spent", ">set aside", ">limit", ">left"],
        [_standing(s) for s in summary["budgets"] if s["spent"] or s["reserved"] or s["limit"] is not None],
        empty="",
    )
    show.console.print()
    show.table(
        ["for", "kind", "by", "project", ">set aside", ">spent", "when"],
        [
            (
                e["subject"],
                e["kind"],
                e["principal"],
                e["project"],
                show.money(e["reserved"]),
                "open" if e["settled"] is None else show.money(e["settled"]),
                show.ago(e["at"]),
            )
            for e in summary["entries"]
        ],
        empty="Nothing was spent yet.",
    )


@ledger.command()
@click.option("--principal", help="Only entries of this principal.")
@click.option("--project", help="Only entries of this project.")
def export(principal: str | None, project: str | None) -> None:
    """Write every entry to stdout as CSV, the newest first. Amounts are millionths of a dollar.

    \b
    Example: agentd ledger export --project support > support.csv
    """
    columns = ["id", "kind", "subject", "attempt", "principal", "project", "reserved", "settled", "at",
               "settled_at"]  # fmt: skip
    out = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    out.writeheader()
    out.writerows(_all_entries(connect(), principal=principal, project=project))


@click.command()
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def quotes(json_: bool) -> None:
    """Show how good the quotes were: for each kind of job, the error of the last and how many kept to it.

    The factor is what past jobs taught: a tool's own estimate is multiplied by it from now on.

    \b
    Example: agentd quotes
    """
    kinds = connect().get("/api/quotes")
    if json_:
        show.as_json(kinds)
        return
    show.table(
        ["tool", "kind", ">jobs", ">factor", ">median error", ">within the interval"],
        [
            (
                k["tool"],
                k["key"],
                k["jobs"],
                f"{k['factor']:.2f}",
                "" if k["error"] is None else f"{k['error']:.0%}",
                f"{k['covered']} of {k['stated']} ({k['level']:.0%} stated)" if k["stated"] else "",
            )
            for k in kinds
        ],
        empty="No job has ended yet: quotes are what tools reckon.",
    )


def _standing(standing: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        standing["scope"],
        standing["name"],
        standing["period"],
        show.money(standing["spent"]),
        show.money(standing["reserved"]),
        show.money(standing["limit"]),
        show.money(standing["left"]),
    )


def _all_entries(client: Client, **which: str | None) -> Iterator[Mapping[str, Any]]:
    before = None
    while True:
        entries = client.get("/api/ledger", limit=PAGE, before=before, **which)["entries"]
        yield from entries
        if len(entries) < PAGE:
            return
        before = entries[-1]["id"]
