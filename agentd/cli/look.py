"""Reading what there is: ``models``, ``reports``, ``why``."""

from __future__ import annotations

import click

from agentd.cli import show
from agentd.cli.client import connect

__all__ = ["models", "reports", "why"]


@click.command()
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def models(json_: bool) -> None:
    """List models and aliases, and which of them answer now.

    \b
    Example: agentd models
    """
    answer = connect().call("list_models", {})
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
    for alias in answer["aliases"]:
        weights = ", ".join(
            f"{m} ({w:g})" if len(alias["weights"]) > 1 else m for m, w in alias["weights"].items()
        )
        show.console.print(
            f"[bold]{show.escape(alias['name'])}[/] → {show.escape(weights)}  "
            f"[dim]{show.escape(alias['reason'])}[/]"
        )


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


@click.command()
@click.argument("request_id", metavar="[REQUEST]", required=False)
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def why(request_id: str | None, json_: bool) -> None:
    """Explain an answered request: which model, why that one, what it cost.

    Without an id, lists the last requests.

    \b
    Example: agentd why req-1m8…
    """
    client = connect()
    if request_id:
        row = client.get(f"/api/requests/{request_id}")
        show.as_json(row) if json_ else show.facts(
            {**row, "micro_usd": show.money(row["micro_usd"]), "at": show.ago(row["at"])}
        )
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
