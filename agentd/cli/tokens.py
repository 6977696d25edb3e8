"""Credentials for people and programs: ``token create``, ``token list``, ``token revoke``."""

from __future__ import annotations

import time
from typing import Any

import click

from agentd.cli import show
from agentd.cli.client import connect
from agentd.cli.journal import duration
from agentd.errors import InputError

__all__ = ["token"]

ROLES = ("infer", "view", "operate", "approve", "admin")


@click.group()
def token() -> None:
    """Make, list and revoke tokens: a second person's, or that of a program on a build server.

    Only a person with role 'admin' may, such as the one who owns the daemon.

    \b
    Examples: agentd token create --person alice --role approve --expires 30d
              agentd token list
              agentd token revoke tok-1m8…
    """


@token.command()
@click.option("--person", default="", metavar="NAME", help="For a person, who is 'user:NAME' from then on.")
@click.option("--agent", default="", metavar="NAME", help="For a program, 'agent:NAME': it never approves.")
@click.option(
    "--role", type=click.Choice(ROLES), required=True, help="What it may; each includes those before."
)
@click.option("--expires", metavar="SPAN", help="When it stops working: 12h, 30d. Without it, never.")
@click.option("--project", default="", help="It works for this project alone, and spends its budget.")
@click.option(
    "--models",
    multiple=True,
    metavar="NAME",
    help="It may ask this model or alias; '*' stands for any letters.",
)
@click.option(
    "--per-minute", type=click.IntRange(min=1), help="Requests of models that it may make a minute."
)
@click.option("--usd", type=click.FloatRange(min=0), help="What its requests of models may cost in all.")
@click.option("--note", default="", help="What it is for; it is listed.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def create(
    person: str,
    agent: str,
    role: str,
    expires: str | None,
    project: str,
    models: tuple[str, ...],
    per_minute: int | None,
    usd: float | None,
    note: str,
    json_: bool,
) -> None:
    """Make a token, and print it: this once, since only its hash is kept.

    Whoever gets it sets AGENTD_TOKEN to it and AGENTD_URL to the daemon's address.

    \b
    Examples: agentd token create --person alice --role approve --expires 30d
              agentd token create --agent ci --role operate --project nightly --expires 90d > ci-token
              agentd token create --agent shop --role infer --models support --per-minute 600 --usd 20
    """
    wanted = {
        "person": person,
        "agent": agent,
        "role": role,
        "project": project,
        "note": note,
        "lifetime_s": None if expires is None else _lifetime(expires),
        "models": models,
        "per_minute": per_minute,
        "micro_usd": None if usd is None else round(usd * 1_000_000),
    }
    client = connect()
    made = client.post("/api/tokens", wanted)
    if json_:
        show.as_json(made)
        return
    click.echo(made["token"])
    until = "for ever" if made["expires_at"] is None else f"until {_day(made['expires_at'])}"
    show.errors.print(
        f"{made['id']} for {made['principal']}, role {made['role']}, {until}; it is not shown again."
    )
    show.errors.print(f"To use it: export AGENTD_URL={client.url} AGENTD_TOKEN=…")
    if made["is_person"] and made["role"] in ("approve", "admin"):
        show.errors.print(f"Or paste it in a browser: {client.url}/login")
    if made["is_person"] and not made["counts_as"]:
        show.errors.print(
            f"agentd.toml does not say who {made['principal']!r} is: rules that want two people will not"
            " count them until \\[people] does."
        )


@token.command("list")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def list_(json_: bool) -> None:
    """List tokens: whose they are, what they may, and when they were last used. Never their text.

    \b
    Example: agentd token list
    """
    listed = connect().get("/api/tokens")
    if json_:
        show.as_json(listed)
        return
    show.table(
        ["token", "for", "role", "project", "limits", "made by", "made", "expires", "last used", "note"],
        [
            (
                t["id"],
                t["principal"],
                t["role"],
                t["project"],
                _limits(t),
                t["created_by"],
                show.ago(t["created_at"]),
                _expiry(t),
                show.ago(t["used_at"]) or "never",
                t["note"],
            )
            for t in listed
        ],
        empty="There are no tokens.",
    )


@token.command()
@click.argument("token_id", metavar="ID")
def revoke(token_id: str) -> None:
    """Make a token worthless, from its next use on. What was done with it stays done.

    One that lies in a file of the state directory is replaced there by a new one.

    \b
    Example: agentd token revoke tok-1m8…
    """
    gone = connect().post(f"/api/tokens/{token_id}/revoke")
    show.errors.print(f"{gone['id']} of {gone['principal']} is worthless now.")


def _limits(listed: dict[str, Any]) -> str:
    """What it may ask of models, in short."""
    limits = [", ".join(listed["models"])]
    limits += [f"{listed['per_minute']} a minute"] if listed["per_minute"] else []
    limits += [show.money(listed["allowance"])] if listed["allowance"] is not None else []
    return "; ".join(filter(None, limits))


def _lifetime(text: str) -> float:
    if (seconds := duration(text)) is None:
        raise InputError(f"{text!r} is no span of time", hint="Write 12h, 30d")
    return seconds


def _expiry(listed: dict[str, Any]) -> str:
    if listed["expires_at"] is None:
        return "never"
    return f"{_day(listed['expires_at'])}{' (expired)' if listed['expired'] else ''}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
