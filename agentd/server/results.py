"""Results of tools as MCP has them: structured, in words, and errors that say what to do next."""

from __future__ import annotations

import mcp_types as types
from pydantic import BaseModel

from agentd.redaction import redact
from agentd.sdk import JobView
from agentd.server.job_text import headline, job_text
from agentd.server.wire import dump

__all__ = ["ERROR_META", "tool_error", "tool_result"]

ERROR_META = "agentd/error"
"""A tool error's ``_meta`` holds it as data under this name: `wire.error_of`."""


def tool_result(result: BaseModel) -> types.CallToolResult:
    """A model reads it: the last place where a secret can be taken out.

    A job, or what holds one in its field `job`, is told in words and comes with a link to it.
    """
    plain = redact(result.model_dump(mode="json"))
    structured = {name: value for name, value in plain.items() if value is not None}
    job = result if isinstance(result, JobView) else getattr(result, "job", None)
    if not isinstance(job, JobView):
        return types.CallToolResult(
            content=[types.TextContent(text=dump(structured))], structured_content=structured
        )
    content: list[types.ContentBlock] = [types.TextContent(text=redact(job_text(job)))]
    if job.id:
        content.append(job_link(job.id, redact(headline(job))))
    return types.CallToolResult(content=content, structured_content=structured)


def tool_error(error: dict[str, str]) -> types.CallToolResult:
    """`error` is one of `wire.error_of`; of one that waits for a person, the job is linked."""
    text = f"{error['code']}: {error['message']}. {error['hint']}".strip()
    content: list[types.ContentBlock] = [types.TextContent(text=text)]
    if job := error.get("job_id"):
        content.append(job_link(job, f"What became of {job}"))
    return types.CallToolResult(content=content, is_error=True, _meta={ERROR_META: error})


def job_link(job_id: str, title: str) -> types.ResourceLink:
    return types.ResourceLink(
        uri=f"agentd://jobs/{job_id}", name=job_id, title=title, mime_type="application/json"
    )
