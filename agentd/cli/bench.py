"""``bench``: figures, each beside a named baseline in the same run."""

from __future__ import annotations

import importlib

import click

from agentd.cli import show
from agentd.errors import NotFound

__all__ = ["bench"]

BENCHES = {
    "startup": "time to the first MCP answer and memory, beside a bare SDK server",
    "finetune": "a fine-tune as a job, beside the same recipe run bare",
    "jobs": "claiming, launching and starting a job, beside bare SQLite and a bare subprocess",
}


@click.command()
@click.argument("name", required=False)
@click.option("--rounds", type=int, help="How often each side is measured.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def bench(name: str | None, rounds: int | None, json_: bool) -> None:
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
    with show.errors.status(f"measuring {BENCHES[name]}"):
        figures = measure(**({"rounds": rounds} if rounds else {}))
    if json_:
        show.as_json(figures)
    else:
        show.facts(figures)
