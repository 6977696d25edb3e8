"""Results of tools as MCP has them: structured, in words, and errors that say what to do next."""

from __future__ import annotations

import mcp_types as types
from pydantic import BaseModel

from agentd.errors import NeedsApproval
from agentd.redaction import redact
from agentd.sdk import JobView, Tool
from agentd.server.job_text import headline, job_text
from agentd.server.wire import dump

__all__ = ["ERROR_META", "job_result", "tool_error", "tool_result"]

FAILED = ("failed", "timed_out")

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


def job_result(tool: Tool, job: JobView) -> types.CallToolResult:
    """What a tool answers with whose call became a job: that job where it launches one, else what it gave.

    A call that came to nothing, or is not over yet, is an error with its job in words.
    """
    if job.state == "succeeded" and not tool.launches:
        return tool_result(tool.result.model_validate(job.result))
    if job.state == "waiting_approval" and not tool.launches:
        error = {"code": NeedsApproval.code, "message": headline(job), "hint": job.next}
        return tool_error(redact({**error, "job_id": job.id, "approval_id": job.approval or ""}))
    failed = job.state in FAILED or not tool.launches
    return tool_result(job).model_copy(update={"is_error": failed})


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
