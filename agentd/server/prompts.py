"""Workflows that a person picks in their client, as MCP prompts."""

from __future__ import annotations

import mcp_types as types
from mcp.shared.exceptions import MCPError

from agentd.errors import NotFound
from agentd.server.asker import Asker, Context

__all__ = ["Prompts"]


class Prompts:
    """The handlers of ``prompts/…``. Each asks for role `view`."""

    def __init__(self, caller_of: Asker) -> None:
        self._caller_of = caller_of

    async def list(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        self._caller_of(ctx)
        return types.ListPromptsResult(prompts=[PROMPT])

    async def get(self, ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        self._caller_of(ctx)
        if params.name != PROMPT.name:
            raise MCPError(types.INVALID_PARAMS, str(NotFound("prompt", params.name, [PROMPT.name])))
        arguments = params.arguments or {}
        if missing := [name for name in ("data", "base") if not arguments.get(name)]:
            raise MCPError(types.INVALID_PARAMS, f"{PROMPT.name} needs {' and '.join(missing)}")
        text = PROMPT_TEXT.format(**{"suite": "a suite made from held-out rows of it", **arguments})
        message = types.PromptMessage(role="user", content=types.TextContent(text=text))
        return types.GetPromptResult(description=PROMPT.description, messages=[message])


PROMPT = types.Prompt(
    name="finetune_and_compare",
    title="Fine-tune and compare",
    description="Train a LoRA on a data set and say, with an interval, whether it is worth having.",
    arguments=[
        types.PromptArgument(name="data", description="path of a JSONL data set", required=True),
        types.PromptArgument(name="base", description="catalog name of the base model", required=True),
        types.PromptArgument(name="suite", description="evaluation suite, if there is one"),
    ],
)

PROMPT_TEXT = """\
Find out whether fine-tuning {base} on {data} is worth it.
1. Check the data set; stop and report if rows are wrong or leak between splits.
2. Measure {base} as it is on {suite}, so that there is something to beat.
3. Fine-tune a LoRA. It will say what it costs; a person may have to approve it. Follow the job with job_wait.
4. Measure the adapter on the same suite and compare the two reports on the same rows.
5. Report both scores with intervals, the cost, and the verdict: better, not worse, worse or inconclusive.
Do not promote anything without being asked."""
