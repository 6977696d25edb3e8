"""``demo``: the tickets plan, run through a daemon of its own, and what came out of it as files.

Nothing is computed here: the plan is carried out by the daemon, and this collects the results of its
steps into ``demo-report.json`` and ``demo-rows.jsonl``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from agentd import locations
from agentd.cli import show
from agentd.cli.client import Client, connect, stop_daemon
from agentd.cli.follow import fail_unless_done, follow_run, interactive
from agentd.errors import Unavailable
from agentd.store.ledger import usd

__all__ = ["demo"]

SCHEMES = {  # name in the files -> the step that made it; eval_, gate_ and serve_ steps carry its name
    "int8-w8a8-static": "static",
    "fp8-dynamic": "fp8",
}
VARIANTS = {  # name in the rows file -> the step that measured it
    "base": "eval_base",
    "base_constrained": "eval_constrained",
    "baseline": "baseline",
    "tuned": "eval_tuned",
    **{scheme: f"eval_{step}" for scheme, step in SCHEMES.items()},
}
MADE_BY = {"baseline": "baseline", "tuned": "tune", **SCHEMES}


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="build",
    show_default=True,
    help="Where the report is written; the demo's daemon keeps its state in OUT/demo.",
)
@click.option(
    "--yes", is_flag=True, help="Do not ask: the demo's own policy decides, and is recorded as policy:demo."
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Forget an earlier demo's state first (environments and downloads are kept).",
)
def demo(out: Path, yes: bool, fresh: bool) -> None:
    """From a small open model to a served one of our own, in about 20 minutes on two cores.

    No GPU, no API key, no model hub. At a terminal you are asked before money or hours are spent;
    otherwise the rule set 'demo' decides. An interrupted demo goes on where it stopped.

    \b
    Example: agentd demo --yes
    """
    started = time.time()
    out = out.resolve()
    state = out / "demo"
    _own_daemon(state, "demo" if yes or not interactive() else "default", fresh)
    client = connect()
    try:
        run_id = _unfinished(client) or client.call("run_plan", {"plan": "tickets", "params": {}})["run"]
        show.errors.print(f"{run_id}: agentd's plan 'tickets' (tools/plans/tickets.yaml), state in {state}")
        view = follow_run(client, run_id)
        if view["state"] == "running":
            return
        fail_unless_done(view)
        report = _report(client, view, started)
        _write(out, report, _rows(view))
        _tell(report, view, _costs(client, view))
    finally:
        _leave(client, state)


def _own_daemon(state: Path, policy: str, fresh: bool) -> None:
    """Settings of the demo's daemon, handed on through the environment."""
    if fresh and state.exists():
        if locations.read_address(state):
            raise Unavailable(
                f"A daemon uses {str(state)!r}", hint=f"AGENTD_STATE={state} agentd stop --jobs"
            )
        shutil.rmtree(state)
    os.environ.update(
        AGENTD_STATE=str(state), AGENTD_POLICY=policy, AGENTD_PORT=os.environ.get("AGENTD_PORT", "0")
    )


def _unfinished(client: Client) -> str | None:
    """The demo that was interrupted, going on again; None when there is none."""
    last = next(iter(client.get("/api/runs", limit=1)), None)
    if last is None or last["state"] == "succeeded":
        return None
    if last["state"] != "running":
        client.post(f"/api/runs/{last['id']}/resume")
    show.errors.print(
        f"going on with {last['id']}, which {last['state'] if last['state'] != 'running' else 'is running'}"
    )
    return last["id"]


def _leave(client: Client, state: Path) -> None:
    """Stop what the demo started; its state stays and can be looked at."""
    address = locations.read_address(state)
    if address:
        stop_daemon(client, address["pid"], and_jobs=True)


def _results(view: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["id"]: step["result"] for step in view["steps"] if step.get("result")}


def _report(client: Client, view: Mapping[str, Any], started: float) -> dict[str, Any]:
    done = _results(view)
    alias = next(a for a in client.call("list_models", {})["aliases"] if a["name"] == "tickets")
    seconds = (view["ended_at"] or time.time()) - view["created_at"]
    return {
        "base": {
            "score": done["eval_base"]["score"],
            "constrained": done["eval_constrained"]["score"],
            "n": done["eval_base"]["n"],
        },
        "baseline": {"score": done["baseline"]["score"]},
        "tuned": {"score": done["eval_tuned"]["score"], "n": done["eval_tuned"]["n"]},
        "compare": {name: done["compare"][name] for name in ("difference", "low", "high", "verdict")},
        "compare_baseline": {
            name: done["compare_baseline"][name] for name in ("difference", "low", "high", "verdict")
        },
        "answers": [
            {
                "question": answer["question"],
                "text": answer["text"],
                "abstained": answer["abstained"],
                "citations": [
                    {k: c[k] for k in ("source", "document", "page", "start", "end", "text")}
                    for c in answer["citations"]
                ],
            }
            for answer in done["answers"]["items"]
        ],
        "approvals": [
            {"action": a["action"], "decided_by": a["decided_by"], "digest": a["digest"], "rule": a["rule"]}
            for a in reversed(client.get("/api/approvals", state="all"))
        ],
        "alias": {"name": alias["name"], "model": next(iter(alias["weights"])), "why": alias["reason"]},
        "quantized": [_quantized(scheme, done) for scheme, step in SCHEMES.items() if f"gate_{step}" in done],
        "run": view["id"],
        "seconds": round(seconds, 1),
        "watched_seconds": round(time.time() - started, 1),
    }


def _quantized(scheme: str, done: Mapping[str, Any]) -> dict[str, Any]:
    step = SCHEMES[scheme]
    gate, answer = done[f"gate_{step}"], done.get("ask_small")
    return {
        "scheme": scheme,
        "score": done[f"eval_{step}"]["score"],
        "bytes": done[step]["bytes"],
        "verdict": "accepted" if gate["verdict"] in ("better", "not_worse") else "rejected",
        "compare": gate,
        "served": bool(answer and answer["model"] == done[step]["model"]),
    }


def _rows(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every held-out row with the raw output of every variant, joined by id."""
    done, rows = _results(view), dict[str, dict[str, Any]]()
    for variant, step in VARIANTS.items():
        if step not in done:
            continue
        for line in Path(done[step]["rows"]).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            kept = rows.setdefault(
                row["id"],
                {"id": row["id"], "input": row["input"], "expected": row["expected"], "outputs": {}},
            )
            kept["outputs"][variant] = row.get("output")
    return list(rows.values())


def _write(out: Path, report: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "demo-report.json").write_text(
        json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "demo-rows.jsonl").write_text(lines, encoding="utf-8")
    show.errors.print(f"written: {out / 'demo-report.json'} and {out / 'demo-rows.jsonl'}")


def _costs(client: Client, view: Mapping[str, Any]) -> dict[str, int]:
    """Step -> what its job cost, in micro-USD."""
    jobs = {step["id"]: client.get(f"/api/jobs/{step['job']}") for step in view["steps"] if step.get("job")}
    return {step: job["micro_usd"] for step, job in jobs.items() if job["micro_usd"] is not None}


def _tell(report: Mapping[str, Any], view: Mapping[str, Any], costs: Mapping[str, int]) -> None:
    """The answers, the approvals and the table that the demo ends with."""
    done = _results(view)
    show.console.print("\n[bold]Questions to the handbook[/]")
    for answer in report["answers"]:
        said = "[dim]abstained:[/] " if answer["abstained"] else ""
        cited = "".join(
            f" [dim]({Path(c['document']).name}:{c['start']}-{c['end']})[/]" for c in answer["citations"]
        )
        show.console.print(f"{show.escape(answer['question'])}\n  {said}{show.escape(answer['text'])}{cited}")
    show.console.print("\n[bold]Who decided[/]")
    show.table(
        ["action", "decided by", "digest"],
        [(a["action"], a["decided_by"], a["digest"][:12]) for a in report["approvals"]],
        empty="",
    )
    show.console.print("\n[bold]Exact tickets on rows never trained on[/]")
    show.table(
        ["model", ">score", "95 % interval", ">n", ">size", ">tokens/s", ">cost to make", "verdict"],
        _table(done, costs),
        empty="",
    )
    for name in ("ask", "ask_small"):
        if name in done:
            show.console.print(
                f"\n{show.escape(done[name]['text'])}\n  [dim]{show.escape(done[name]['why'])}[/]"
            )
    show.console.print(f"\n{show.span(report['seconds'])} in all")


def _table(done: Mapping[str, Any], costs: Mapping[str, int]) -> list[tuple[Any, ...]]:
    base = done["base"]["size_bytes"]
    sizes = {"base": base, "base_constrained": base, "tuned": base + done["tune"]["size_bytes"]}
    verdicts = {"tuned": done["compare"]["verdict"] + " than the constrained base"}
    for scheme, step in SCHEMES.items():
        if f"gate_{step}" in done:
            sizes[scheme] = done[step]["bytes"]
            verdicts[scheme] = done[f"gate_{step}"]["verdict"].replace("_", " ") + " than tuned"
    rows: list[tuple[Any, ...]] = []
    for variant, step in VARIANTS.items():
        if step in done:
            r = done[step]
            rows.append(
                (
                    variant,
                    f"{r['score']:.3f}",
                    f"{r['low']:.3f} to {r['high']:.3f}",
                    r["n"],
                    show.bytes_(sizes[variant]) if sizes.get(variant) else "",
                    f"{r['tokens_per_s']:.0f}" if r["tokens_per_s"] else "",
                    usd(costs[MADE_BY[variant]]) if MADE_BY.get(variant) in costs else "",
                    verdicts.get(variant) or "",
                )
            )
    return rows
