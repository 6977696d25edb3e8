"""``completion/complete``: what may stand for a variable of an address or an argument of a prompt."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import mcp_types as types
from mcp.shared.exceptions import MCPError

from agentd.errors import AgentdError, NotFound
from agentd.server.asker import Asker, Context
from agentd.server.holdings import FORMATS, Holdings
from agentd.server.ports import Caller
from agentd.server.prompts import PROMPTS
from agentd.server.resources import REPORT_PAGE

__all__ = ["Completions", "narrowed"]

MOST = 100
"""As many as the protocol allows in one answer."""

T = TypeVar("T")
Names = Callable[[Caller], Awaitable[Sequence[str]]]


class Completions:
    """The handler of ``completion/complete``. It asks for role `view`."""

    def __init__(self, holdings: Holdings, caller_of: Asker) -> None:
        self._caller_of = caller_of
        kinds = holdings.kinds
        templates = {kind.template: kind.names for kind in kinds.values() if kind.template and kind.names}
        self._variables: Mapping[str, Mapping[str, Names]] = {
            **{uri: {_variable(uri): names} for uri, names in templates.items()},
            REPORT_PAGE: {"id": templates["agentd://reports/{id}"], "format": _formats},
        }
        sources: dict[str, Names] = {
            "alias": holdings.aliases,
            "collection": templates["agentd://collections/{name}"],
            "data": holdings.datasets,
            "model": templates["agentd://models/{name}"],
            "report": templates["agentd://reports/{id}"],
            "suite": holdings.suites,
        }
        self._arguments: Mapping[str, Mapping[str, Names]] = {
            name: {each.name: sources[each.source] if each.source else _nothing for each in prompt.arguments}
            for name, prompt in PROMPTS.items()
        }

    async def complete(self, ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
        caller = self._caller_of(ctx)
        ref, asked = params.ref, params.argument
        of_prompt = isinstance(ref, types.PromptReference)
        table = self._arguments if of_prompt else self._variables
        name = ref.name if of_prompt else str(ref.uri)
        what = "prompt" if of_prompt else "resource template"
        values = await _values(_found(_found(table, name, what), asked.name, f"argument of {name}"), caller)
        fit = narrowed(values, asked.value)
        completion = types.Completion(values=fit[:MOST], total=len(fit), has_more=len(fit) > MOST)
        return types.CompleteResult(completion=completion)


def narrowed(values: Sequence[str], typed: str) -> list[str]:
    """Those that begin with what was typed, then those that contain it; the nearest if none does."""
    low = typed.lower()
    begin = [value for value in values if value.lower().startswith(low)]
    contain = [value for value in values if low in value.lower() and value not in begin]
    return [*begin, *contain] or difflib.get_close_matches(typed, values, n=5, cutoff=0.5)


def _found(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        raise MCPError(types.INVALID_PARAMS, str(NotFound(what, name, table)))
    return table[name]


async def _values(names: Names, caller: Caller) -> Sequence[str]:
    """None, rather than an error, where they cannot be looked up just now: somebody is typing."""
    try:
        return await names(caller)
    except AgentdError:
        return ()


def _variable(template: str) -> str:
    return template.partition("{")[2].partition("}")[0]


async def _formats(caller: Caller) -> Sequence[str]:
    return list(FORMATS)


async def _nothing(caller: Caller) -> Sequence[str]:
    return ()
