"""Questions to people, and their answers: ``approvals``, ``approve``, ``deny``."""

from __future__ import annotations

import click
from rich.text import Text

from agentd.cli import show
from agentd.cli.client import connect
from agentd.cli.follow import ask, interactive, show_question
from agentd.cli.visible import visible
from agentd.policy.told import people_of

__all__ = ["approvals", "approve", "deny"]


@click.command()
@click.argument("approval_id", required=False, metavar="[ID]")
@click.option("--ask", "ask_", is_flag=True, help="Go through the open questions one by one.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def approvals(approval_id: str | None, ask_: bool, json_: bool) -> None:
    """List the questions that wait for a person, or show one with its facts.

    \b
    Example: agentd approvals --ask
    """
    client = connect()
    if approval_id:
        approval = client.get(f"/api/approvals/{approval_id}")
        show.as_json(approval) if json_ else show_question(approval)
        return
    listed = client.get("/api/approvals")
    if json_:
        show.as_json(listed)
        return
    if ask_ and interactive():
        for approval in reversed(listed):
            ask(client, client.get(f"/api/approvals/{approval['id']}"))
        return
    rows = [
        (
            a["id"],
            a["action"],
            show.span((a["facts"].get("quote") or {}).get("seconds")),
            show.money(a["facts"].get("max_micro_usd")),
            f"{a['given']} of {a['people']}",
            a["requested_by"],
            show.ago(a["created_at"]),
        )
        for a in listed
    ]
    show.table(
        ["approval", "action", ">takes", ">at most", "approved by", "asked by", "asked"],
        rows,
        empty="Nothing waits for approval.",
    )


@click.command()
@click.argument("approval_id", metavar="ID")
@click.option("--reason", default="", help="Why; it is written to the journal.")
def approve(approval_id: str, reason: str) -> None:
    """Approve exactly what was asked; it starts at once. ID is the approval's or the job's.

    \b
    Example: agentd approve apr-1m8… --reason "cheap enough"
    """
    _decide(approval_id, "approve", reason)


@click.command()
@click.argument("approval_id", metavar="ID")
@click.option("--reason", default="", help="Why; whoever asked is told.")
def deny(approval_id: str, reason: str) -> None:
    """Deny what was asked. The same action is refused for a day without asking again.

    \b
    Example: agentd deny apr-1m8… --reason "use the small model"
    """
    _decide(approval_id, "deny", reason)


def _decide(approval_id: str, verdict: str, reason: str) -> None:
    client = connect()
    answered = client.post(f"/api/approvals/{approval_id}", {"verdict": verdict, "reason": reason})
    told = (
        f"approved by {people_of(answered)}; somebody else has to approve it as well"
        if answered["state"] == "pending"
        else answered["state"]
    )
    said = visible(answered["action"])
    show.errors.print(Text.assemble(f"{answered['id']} {told}: ", said, f" ({answered['job']})"))
