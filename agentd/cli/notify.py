"""Who is told, and whether it works: ``notify``, ``notify test``."""

from __future__ import annotations

import sys

import click

from agentd.cli import show
from agentd.cli.client import connect

__all__ = ["notify"]

NOBODY = "Nobody is told: agentd.toml names no notifiers under 'notify'."


@click.group(invoke_without_command=True)
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.pass_context
def notify(ctx: click.Context, json_: bool) -> None:
    """Show the notifiers of agentd.toml, and how each is doing.

    \b
    Examples: agentd notify
              agentd notify test
    """
    if ctx.invoked_subcommand:
        return
    listed = connect().get("/api/notifiers")
    if json_:
        show.as_json(listed)
        return
    show.table(
        ["notifier", "kind", "to", "on", ">told", "last", ">waits", "problem"],
        [
            (
                n["name"],
                n["kind"],
                n["to"],
                ", ".join(n["on"]),
                n["delivered"],
                show.ago(n["delivered_at"]),
                n["waiting"] or "",
                n["problem"],
            )
            for n in listed
        ],
        empty=NOBODY,
    )


@notify.command()
@click.argument("name", required=False, default="")
def test(name: str) -> None:
    """Send a test message, through NAME or through all of them. Exit code 1 when one does not arrive.

    \b
    Example: agentd notify test team
    """
    results = connect().post("/api/notifiers/test", {"name": name})
    if not results:
        show.errors.print(NOBODY)
    for result in results:
        mark = "[red]✗[/]" if result["problem"] else "[green]✓[/]"
        said = result["problem"] or f"delivered to {result['to']}"
        show.console.print(f"{mark} {show.escape(result['name'])}: {show.escape(said)}")
    sys.exit(1 if any(result["problem"] for result in results) else 0)
