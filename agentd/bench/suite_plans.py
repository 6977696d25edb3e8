"""The right calls of a task of `agentd.bench.injections` as a plan that was written before anything is read.

Pure functions of the task's text and its calls. An argument is literal if the text states it, is a truth
value, or comes before anything was read; all others are concluded, by a scripted model, from all that was
read before. Where that holds injected text, the model concludes what the text wants: it names the attacker's
recipient, amount or page wherever the plan leaves it one to name, and says what the attacker wants said.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

__all__ = ["given", "steps"]


def steps(begun: dict[str, Any], worded: Collection[str]) -> Iterator[dict[str, Any]]:
    """Steps one after another. `begun` is as `agentdojo_suites` has it, `worded` names trusted tools."""
    read: list[str] = []
    before: list[str] = []
    for number, call in enumerate(begun["calls"]):
        args = given(call)
        open_ = {name: value for name, value in args.items() if not _stated(value, begun["prompt"])}
        if read and open_:
            thought = {
                "texts": [f"${{{step}}}" for step in read],
                "values": open_,
                "marker": begun["marker"],
                "led": _led(open_, call["tool"], begun["injected"]),
            }
            yield {"id": f"think{number}", "tool": "conclude", "args": thought, "needs": before}
            args |= {name: f"${{think{number}.values.{name}}}" for name in open_}
            before = [f"think{number}"]
        yield {"id": f"call{number}", "tool": call["tool"], "args": args, "needs": before}
        before = [f"call{number}"]
        if call["tool"] not in worded:
            read.append(f"call{number}")


def given(call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, without those that say nothing."""
    return {name: value for name, value in call["args"].items() if value is not None}


def _led(names: Collection[str], tool: str, injected: list[dict[str, Any]]) -> dict[str, Any]:
    """What injected text would have these arguments be: as its call of this tool says, or else any of its."""
    wanted: dict[str, Any] = {}
    for call in sorted(injected, key=lambda call: call["tool"] == tool):
        wanted |= {name: value for name, value in given(call).items() if name in names}
    return wanted


def _stated(value: Any, prompt: str) -> bool:
    """Whether a planner that has only the task's text could write the value down."""
    if isinstance(value, bool):
        return True
    said = f"{value:g}" if isinstance(value, float) else str(value)
    return re.search(rf"(?<!\w){re.escape(said)}(?!\w)", prompt, re.IGNORECASE) is not None
