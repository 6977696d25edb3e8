"""What an answer may carry into the context of whoever reads it: pure functions of tools and answers.

Text of documents, data sets, logs, web pages, and of models that read such text may hold instructions of
a stranger. A tool says which parts of its result are worded by itself (`agentd.sdk.tool`, ``trusted``);
the rest is data, and whoever has read it is tainted by the tool's name. Nothing here looks at the text:
whether it is an attack is not known, and not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from agentd.sdk import JobView, Tool

__all__ = ["is_trusted", "joined", "listed", "sources_of"]

SHOWN = 5


def is_trusted(tool: Tool | None, path: Sequence[str] = ()) -> bool:
    """Whether the part of a tool's result at `path` is worded by the tool alone; all of it without a path.

    A tool that is not known is not trusted.
    """
    if tool is None or isinstance(tool.trusted, bool):
        return tool is not None and bool(tool.trusted)
    return bool(path) and path[0] in tool.trusted


def sources_of(
    answer: BaseModel,
    tool: Tool | None,
    tools: Mapping[str, Tool],
    led_by: Callable[[str], Sequence[str]] = lambda _: (),
) -> tuple[str, ...]:
    """What `answer` of `tool` taints its reader by; a view of a job or step stands for the tool of that.

    `led_by` tells by a job's id what those had read who asked for it: their arguments come back with it.
    A job that has told nothing yet carries nothing, and neither does an empty field.
    """
    if tool is None or tool.launches:
        return joined(_told(answer, tools, led_by))
    if isinstance(tool.trusted, bool):
        return () if tool.trusted else (tool.name,)
    found: list[str] = []
    for name in type(answer).model_fields:
        value = getattr(answer, name)
        if name not in tool.trusted and value not in (None, "", [], (), {}):
            found += [tool.name] if not any(True for _ in _views(value)) else _told(value, tools, led_by)
    return joined(found)


def _told(value: Any, tools: Mapping[str, Tool], led_by: Callable[[str], Sequence[str]]) -> Iterator[str]:
    for tool, job, failed, told in _views(value):
        if told and (failed or not is_trusted(tools.get(tool))):
            yield f"{tool} ({job})" if job else tool
        if job:
            yield from led_by(job)


def joined(*sources: Iterable[str]) -> tuple[str, ...]:
    """All of them once, in the order they came."""
    return tuple(dict.fromkeys(one for each in sources for one in each))


def listed(sources: Sequence[str]) -> str:
    """``search, job_logs and 3 more``, for the person who is asked."""
    more = len(sources) - SHOWN
    return ", ".join(sources[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _views(value: Any) -> Iterator[tuple[str, str, bool, bool]]:
    """Of every job and step in it: the tool, the job, whether it failed, whether it told something."""
    if isinstance(value, JobView):
        failed = value.state == "failed"
        yield value.tool, value.id, failed, value.result is not None or (failed and bool(value.reason))
    elif isinstance(value, BaseModel):
        yield from _views([getattr(value, name) for name in type(value).model_fields])
    elif isinstance(value, Mapping):
        if {"tool", "state"} <= value.keys():
            failed = value["state"] == "failed"
            told = value.get("result") is not None or (failed and bool(value.get("reason")))
            yield str(value["tool"]), str(value.get("job") or ""), failed, told
        yield from _views([one for name, one in value.items() if name != "result"])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _views(one)
