"""``bench``: figures, each beside a named baseline in the same run."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import click

from agentd.cli import show
from agentd.errors import InputError, NotFound

__all__ = ["bench"]

BENCHES = {
    "loop": "a step of the agent's loop, beside a bare pydantic-ai agent",
    "agent": "valid and right calls of a model through the agent's loop, native beside constrained",
    "startup": "time to the first MCP answer and memory, beside a bare SDK server",
    "mcp": "pace of a tool call and of the stdio proxy, beside bare SDK servers",
    "gateway": "what the gateway adds to a chat request, beside the endpoint, a pass-through and Portkey",
    "eval": "rows per second of the evaluate recipe, beside a bare asynchronous client",
    "capture": "latency of the gateway where texts are kept, beside the same where none are",
    "finetune": "a fine-tune as a job, beside the same recipe run bare",
    "injections": "AgentDojo's attacks, always obeyed, and its tasks with their questions, guarded and not",
    "leaks": "seeded leaks found, false alarms and time, beside equal texts, 13 words and MinHash",
    "retrieval": "nDCG, recall and pace on BEIR collections, beside plain rank fusion on whole documents",
    "rollback": "requests until a worse model is turned back, and how often a good one is, by simulation",
    "router": "what a router learned from examples is worth, beside length, chance and an oracle",
    "verdicts": "how often verdicts err, and whether planned rows are enough, beside what is stated",
    "jobs": "claiming, launching and starting a job, beside bare SQLite and a bare subprocess",
}


@click.command()
@click.argument("name", required=False)
@click.option("--rounds", type=int, help="How often each side is measured.")
@click.option(
    "--data",
    "--tools",
    "data",
    type=click.Path(exists=True, path_type=Path),
    help="A file or folder to measure with.",
)
@click.option("--model", help="A model that agentd serves, to measure with; for agent ENDPOINT/v1/NAME.")
@click.option("--limit", type=int, help="How many cases of each category are asked, for agent.")
@click.option("--half", type=int, help="1 or 2: only every other case, for agent.")
@click.option(
    "--keep",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of answers to go on from, for agent.",
)
@click.option("--prices", help="SMALL,LARGE in US dollars per million tokens, for router.")
@click.option(
    "--beir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="A collection in BEIR's layout, for retrieval. May be repeated.",
)
@click.option("--stages", is_flag=True, help="What each stage of retrieval adds, too.")
@click.option("--peer", is_flag=True, help="LlamaIndex beside retrieval, on the same data.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def bench(
    name: str | None,
    rounds: int | None,
    data: Path | None,
    model: str | None,
    limit: int | None,
    half: int | None,
    keep: Path | None,
    prices: str | None,
    beir: tuple[Path, ...],
    stages: bool,
    peer: bool,
    json_: bool,
) -> None:
    """Measure agentd beside a baseline, on this machine. Without a name, lists what can be measured.

    \b
    Example: agentd bench startup --rounds 5
    """
    if name is None:
        show.table(["bench", "what it measures"], list(BENCHES.items()), empty="")
        return
    if name not in BENCHES:
        raise NotFound("bench", name, BENCHES)
    measure = importlib.import_module(f"agentd.bench.{name}").run
    given = {"rounds": rounds, "data": data, "model": model, "prices": prices, "beir": beir or None}
    given |= {"stages": stages or None, "peer": peer or None}
    given |= {"limit": limit, "half": half, "keep": keep}
    options = {option: value for option, value in given.items() if value is not None}
    if extra := sorted(options.keys() - inspect.signature(measure).parameters.keys()):
        raise InputError(f"bench {name} takes no --{extra[0]}", hint=f"agentd bench {name}")
    with show.errors.status(f"measuring {BENCHES[name]}"):
        figures = measure(**options)
    if json_:
        show.as_json(figures)
    else:
        _shown(figures)
        if name == "router":  # for scripts: the last line is all of it
            click.echo(json.dumps(figures))


def _shown(figures: dict[str, Any]) -> None:
    """Lists of rows as tables, everything else a line each."""
    tables = {name: rows for name, rows in figures.items() if rows and _is_table(rows)}
    for rows in tables.values():
        columns = list(rows[0])
        marked = [f">{c}" if isinstance(rows[0][c], int | float) else c for c in columns]
        show.table(marked, [[_cell(row.get(c, "")) for c in columns] for row in rows], empty="")
    show.facts({name: value for name, value in figures.items() if name not in tables})


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
