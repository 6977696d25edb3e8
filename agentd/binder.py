"""What a job would be if it started now: the parts that an approval is bound to, looked up anew.

`agentd.policy.bindings` says what the parts are; this is where they are found: the tool's program, its
arguments with defaults, the catalog, reports and artifacts, files, and present prices.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.context import Offer
from agentd.policy import bindings, named
from agentd.policy.bindings import Binding
from agentd.policy.callers import Caller
from agentd.policy.digests import digest_file, digest_value
from agentd.policy.prices import Prices
from agentd.policy.rules import RuleSet, with_defaults
from agentd.sdk import Tool
from agentd.store.jobs import JobRow

__all__ = ["Binder"]


class Binder:
    """Binds calls of `tools` under the rules and prices of this daemon."""

    def __init__(self, tools: Mapping[str, Tool], offer: Offer, rules: RuleSet, prices: Prices) -> None:
        self._tools, self._offer, self._prices = tools, offer, prices
        self._catalog = offer.catalog_for(Caller("daemon", "view", "daemon", Path("/"), is_agent=True))
        self._programs = {name: digest_file(_source_of(tool)) for name, tool in tools.items()}
        self._rules = digest_value(rules.model_dump(mode="json"))

    async def bind(self, job: JobRow) -> Binding:
        """The job as it is stored, in the world as it is."""
        files = {} if job.launch else await self.files_named(job.arguments, job.cwd)
        return self.bound(job, files)

    def bound(self, job: JobRow, files: Mapping[str, str]) -> Binding:
        """The same, with the files it names already digested."""
        action = self.action(job.tool, job.arguments, job.cwd, job.launch, files)
        return action.model_copy(update={"asked": bindings.asked_of(job)})

    def action(
        self, tool: str, arguments: Mapping[str, Any], cwd: Path, launch: Mapping[str, Any] | None,
        files: Mapping[str, str],
    ) -> Binding:  # fmt: skip
        """The action alone, whoever asks for it."""
        full = self.with_defaults(tool, arguments)
        words = bindings.words_of([full, launch.get("spec") if launch else None])
        known = named.named_by(words, self._catalog, self._offer.reports, self._offer.artifacts)
        program = self._programs.get(tool, "")
        parts = bindings.action_of(tool, program, self._rules, full, {**known, **files}, launch, cwd)
        return Binding(action=parts, most=self.most(launch))

    def around(self, launch: Mapping[str, Any] | None) -> Binding:
        """Only what the world decides about an action: its rules and its price."""
        return Binding(action={bindings.RULES: digest_value(self._rules)}, most=self.most(launch))

    async def files_named(self, arguments: Mapping[str, Any], cwd: Path) -> dict[str, str]:
        """The files that a tool would read by itself, with their digests."""
        files = named.files_named(bindings.words_of(arguments), cwd, self._offer.reports)
        return await asyncio.to_thread(named.digests_of_files, files) if files else {}

    def with_defaults(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as the tool will see them."""
        return with_defaults(self._tools.get(tool), arguments)

    def each(self, launch: Mapping[str, Any]) -> int:
        """What one attempt of a launch, as stored, may cost at most, in micro-USD at present prices."""
        limit = launch.get("timeout_s")
        return self._prices.of(self._offer.accelerator, limit) if isinstance(limit, int | float) else 0

    def most(self, launch: Mapping[str, Any] | None) -> int:
        """What all its attempts may cost together, and all that it asks of models."""
        if launch is None:
            return 0
        attempts, tokens = launch.get("attempts", 1), launch.get("tokens_micro_usd", 0)
        time = self.each(launch) * (attempts if isinstance(attempts, int) else 1)
        return time + (tokens if isinstance(tokens, int) else 0)


def _source_of(tool: Tool) -> Path:
    """The file that a tool's handler was read from."""
    return Path(inspect.getsourcefile(tool.handler) or __file__)
