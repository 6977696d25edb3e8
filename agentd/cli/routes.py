"""Who answers requests, and why: ``why`` of one that was made, ``route`` of one that was not."""

from __future__ import annotations

import json
from typing import Any

import click

from agentd.cli import show
from agentd.cli.client import connect
from agentd.errors import InputError

__all__ = ["route", "why"]


@click.command()
@click.argument("request_id", metavar="[REQUEST]", required=False)
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def why(request_id: str | None, json_: bool) -> None:
    """Explain an answered request: which model, why that one, what it cost.

    Without an id, lists the last requests. `agentd route` tells it of one that was not made.

    \b
    Example: agentd why req-1m8…
    """
    client = connect()
    if request_id:
        row = client.get(f"/api/requests/{request_id}")
        show.as_json(row) if json_ else _explained(row)
        return
    listed = client.get("/api/requests")
    if json_:
        show.as_json(listed)
        return
    rows = [
        (
            r["id"],
            r["asked"],
            r["model"],
            r["status"],
            r["input_tokens"],
            r["output_tokens"],
            show.money(r["micro_usd"]),
        )
        for r in listed
    ]
    show.table(
        ["request", "asked for", "answered by", "status", ">in", ">out", ">cost"],
        rows,
        empty="No requests yet.",
    )


def _explained(row: dict[str, Any]) -> None:
    trace, change = row.pop("trace"), row.pop("alias_change")
    answered_by: dict[str, Any] = row.pop("answered_by")
    prompts: list[str] = row.pop("prompts")
    facts = {**row, "cost": show.money(row.pop("micro_usd")), "at": show.ago(row["at"])}
    facts.pop("micro_usd")
    facts |= {f"model {name}": value for name, value in answered_by.items()}
    facts |= {name: trace[name] for name in ("api", "task", "classified", "cached") if name in trace}
    facts["prompt"] = ", ".join(prompts) or (f"unknown ({trace['system']})" if "system" in trace else "")
    if change:
        facts["alias changed"] = (
            f"{show.ago(change['at'])}: {change['data'].get('reason') or 'no reason given'}"
        )
    show.facts({name: value for name, value in facts.items() if value not in ("", None)})
    if sources := trace.get("sources"):
        show.table(["from documents"], [(source,) for source in sources], empty="")
    if attempts := trace.get("attempts"):
        show.table(
            ["attempt", "status", ">seconds", ">cost"],
            [(a["model"], a["status"], a["seconds"], show.money(a["micro_usd"])) for a in attempts],
            empty="",
        )
    if passed := trace.get("passed"):
        show.table(["not asked", "why"], list(passed.items()), empty="")


@click.command()
@click.argument("model")
@click.argument("message", default="Hello")
@click.option("--body", type=click.File("rb"), help="A whole request as JSON instead of a message.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def route(model: str, message: str, body: Any, json_: bool) -> None:
    """Show who would answer a request for MODEL, a model or an alias: in which order, and why.

    Nothing is sent.

    \b
    Example: agentd route support "My parcel is late"
    """
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": message}]}
    if body is not None:
        try:
            asked = json.load(body)
        except ValueError as error:
            raise InputError(f"{body.name!r} is not JSON: {error}") from error
    told = connect().post("/api/explain", {**asked, "model": model})
    if json_:
        show.as_json(told)
        return
    if told["classified"]:
        show.facts({"classified": told["classified"]})
    rows = [
        (n, each["model"], show.money(each["micro_usd"]), each["why"])
        for n, each in enumerate(told["order"], start=1)
    ]
    show.table([">", "model", ">costs about", "why"], rows, empty="No model can answer this.")
    if told["passed"]:
        show.table(["not asked", "why"], list(told["passed"].items()), empty="")
