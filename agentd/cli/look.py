"""Reading what was measured: ``reports``."""

from __future__ import annotations

import click

from agentd.cli import show
from agentd.cli.client import connect

__all__ = ["reports"]


@click.command()
@click.argument("ref", required=False)
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def reports(ref: str | None, json_: bool) -> None:
    """List what was measured, or one report by id or as model@suite.

    \b
    Example: agentd reports smollm2-135m@tickets
    """
    client = connect()
    listed = [client.get(f"/api/reports/{ref}")] if ref else client.get("/api/reports")
    if json_:
        show.as_json(listed[0] if ref else listed)
        return
    rows = [
        (
            r["id"],
            r["suite"],
            r["model"],
            r["label"],
            f"{r['score']:.3f}",
            f"{r['low']:.3f} to {r['high']:.3f}",
            r["n"],
            r["errors"] or "",
        )
        for r in listed
    ]
    show.table(
        ["report", "suite", "model", "label", ">score", "95 % interval", ">n", ">errors"],
        rows,
        empty="No reports yet: agentd call evaluate suite=tickets model=…",
    )
    if ref:
        show.facts({"rows": listed[0]["rows"]})
