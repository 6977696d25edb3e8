"""Reading what there is: ``models``, ``reports``."""

from __future__ import annotations

from typing import Any

import click

from agentd.cli import show
from agentd.cli.client import connect

__all__ = ["models", "reports"]


@click.command()
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def models(json_: bool) -> None:
    """List models and aliases, and which of them answer now.

    \b
    Example: agentd models
    """
    client = connect()
    answer = client.call("list_models", {})
    if json_:
        show.as_json(answer)
        return
    rows = [
        (
            m["name"],
            m["kind"],
            m.get("base") or "",
            show.bytes_(m["size_bytes"]) if m.get("size_bytes") else "",
            m["served_by"],
            "  ".join(f"{q['suite']} {q['score']:.2f}" for q in m["quality"]),
        )
        for m in answer["models"]
    ]
    show.table(
        ["model", "kind", "base", ">size", "answered by", "quality"],
        rows,
        empty="No models yet: agentd call get_model source=smollm2-135m",
    )
    for each in answer["rollouts"]:
        _say_rollout(each)
    resting = {n: h for n, h in client.get("/api/models")["health"].items() if h["rests_s"]}
    for name, health in resting.items():
        show.console.print(f"[yellow]{show.escape(name)} rests[/]: {show.escape(health['problem'])}")
    for alias in answer["aliases"]:
        weights = ", ".join(
            f"{m} ({w:g})" if len(alias["weights"]) > 1 else m for m, w in alias["weights"].items()
        )
        then = f", then {show.escape(', '.join(alias['fallbacks']))}" if alias.get("fallbacks") else ""
        show.console.print(
            f"[bold]{show.escape(alias['name'])}[/] → {show.escape(weights)}{then}  "
            f"[dim]{show.escape(alias['reason'])}[/]"
        )


def _say_rollout(each: dict[str, Any]) -> None:
    """Where an alias stands on its way to another model, and what it waits for."""
    state = each["state"].replace("_", " ")
    colour = {"running": "cyan", "done": "green"}.get(each["state"], "yellow")
    show.console.print(
        f"[bold]{show.escape(each['alias'])}[/] → {show.escape(each['model'])} by stages:"
        f" [{colour}]{state}[/], {show.escape(each['stage'])} ({each['number']} of {len(each['stages'])})"
        f" for {show.ago(each['stage_at']).removesuffix(' ago')}"
        f"  [dim]{each['id']}: {show.escape(each['why'])}[/]"
    )
    show.facts({f"  {name}": said for name, said in each["seen"].items()})
    if each["waits_for"]:
        show.facts({"  waits for": "; ".join(each["waits_for"])})


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
