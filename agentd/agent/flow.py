"""Which untrusted text a plan's references carry into a step: a pure function of the plan and the tools.

The tools of a plan and what it says literally were fixed before any result was there. What flows through
its references afterwards weighs nothing as long as it only fills `content` arguments. Where it fills
another one, or says by `each` how often a step is taken, it decides, and taints the step. The result of a
step that was given untrusted text, in whatever argument, is untrusted as a whole.

A condition is not looked at: it chooses among steps that were fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentd.agent.plans import Plan, Step, references
from agentd.policy.taint import is_trusted, joined
from agentd.sdk import Tool

__all__ = ["deciding"]


def deciding(step: Step, plan: Plan, tools: Mapping[str, Tool]) -> tuple[str, ...]:
    """The sources of untrusted text that decide about a step, such as ``step 'find' (search)``."""
    tool = tools.get(step.tool)
    content = tool.content if tool else ()
    weighty = {name: value for name, value in step.args.items() if name not in content}
    return joined(_carried([weighty, step.each], step, plan, tools))


def _carried(value: Any, within: Step, plan: Plan, tools: Mapping[str, Tool]) -> Iterator[str]:
    """What the references in `value`, a part of the step `within`, carry."""
    for path in references(value):
        first, *rest = path.split(".")
        if first == "item":
            yield from _carried(within.each, within, plan, tools)
        elif first != "params":
            yield from _of_result(plan.step(first), rest, plan, tools)


def _of_result(step: Step, path: list[str], plan: Plan, tools: Mapping[str, Tool]) -> Iterator[str]:
    """What the part at `path` of a step's result carries."""
    if step.each is not None:
        path = path[2:]  # items, and which
    if not is_trusted(tools.get(step.tool), path):
        yield f"step {step.id!r} ({step.tool})"
    else:
        yield from _carried([step.args, step.each], step, plan, tools)
