"""The question of a waiting job, put to the client that asked: as a form, or as a page to open.

An accepted elicitation does not prove a person: a hook or a script can answer it. So a form is for what a
rule lets the client answer. For everything else a client that opens addresses is handed that of the page,
once, where a person who is signed in answers. Decline, cancel, silence and nonsense leave the question
open. A client is asked in no way that it did not declare, and one of an older revision only where it has
a session through which it can be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, ConfigDict, ValidationError

from agentd.errors import Conflict
from agentd.policy.approvals import IN_CLIENT, Question, Verdict
from agentd.redaction import redact
from agentd.server.asker import Context
from agentd.server.ports import Caller, Kernel
from agentd.store.ledger import usd

__all__ = ["Asking"]

log = logging.getLogger(__name__)

ANSWERS_WITHIN_S = 40.0  # below the minute at which many clients give a call up
SINCE = "2025-11-25"
"""The revision that brought addresses to open."""

ON_THE_PAGE = "A person answers it on this page, signed in: 'agentd open' does that."
MOST_HANDED = 1000

SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {
            "type": "string",
            "title": "Your answer",
            "enum": ["approve", "deny"],
            "description": "Exactly this action, once. Decline to leave it open.",
        }
    },
    "required": ["answer"],
}


class _Content(BaseModel):
    answer: Verdict


class _Response(BaseModel):
    model_config = ConfigDict(extra="ignore")

    action: str
    content: _Content | None = None


class _Opened(BaseModel):
    action: Literal["accept", "decline", "cancel"]
    content: Any = None


class Asking:
    """Questions out, answers in. The key of a question is the id of its approval."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._handed: OrderedDict[str, None] = OrderedDict()

    def of(self, ctx: Context, job_id: str, caller: Caller) -> dict[str, Any]:
        """What to put to this client about a job; empty when there is nothing that it can do."""
        asked = self._form(ctx, job_id, caller) or self._page(ctx, job_id, caller)
        if asked is None:
            return {}
        approval_id, params = asked
        return {approval_id: {"method": "elicitation/create", "params": params}}

    def _form(self, ctx: Context, job_id: str, caller: Caller) -> tuple[str, dict[str, Any]] | None:
        if not _takes_forms(ctx) or (question := self._kernel.approvals.for_client(job_id, caller)) is None:
            return None
        return question.id, {"mode": "form", "message": _words(question), "requestedSchema": SCHEMA}

    def _page(self, ctx: Context, job_id: str, caller: Caller) -> tuple[str, dict[str, Any]] | None:
        job = self._kernel.jobs.get(job_id)
        if not _takes_urls(ctx) or job.state != "waiting_approval" or not job.approval:
            return None
        url = self._kernel.approvals.page(job.approval)
        if not url or job.approval in self._handed:
            return None
        question = self._kernel.seen_by(caller).approvals.get(job.approval)
        assert isinstance(question, Question)
        return job.approval, {"mode": "url", "message": f"{_words(question)}\n{ON_THE_PAGE}", "url": url}

    async def put(self, ctx: Context, job_id: str, caller: Caller) -> bool:
        """Ask the client of a session while its call is open, and let count what counts of its answer.

        Nobody is waited for longer than `ANSWERS_WITHIN_S`: silence leaves the question open. Tells
        whether there was an answer, whatever it was.
        """
        if not ctx.session.can_send_request or not (asked := self.of(ctx, job_id, caller)):
            return False
        [(approval_id, request)] = asked.items()
        params = request["params"]
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                if params["mode"] == "form":
                    schema = params["requestedSchema"]
                    answer = await ctx.session.elicit_form(params["message"], schema, ctx.request_id)
                else:
                    url = params["url"]
                    answer = await ctx.session.elicit_url(params["message"], url, approval_id, ctx.request_id)
        except (TimeoutError, MCPError, ValidationError) as error:
            log.info("%s was not answered in the client: %s", approval_id, error)
            return False
        self.take(job_id, {approval_id: answer.model_dump()}, caller)
        return True

    def take(self, job_id: str, answers: Mapping[str, Any], caller: Caller) -> None:
        """Let the answer to the job's question count, if there is one."""
        question = self._kernel.approvals.for_client(job_id, caller)
        if question is None:
            self._note_attempts(job_id, answers, caller)
            return
        if question.id not in answers:
            return
        try:
            response = _Response.model_validate(answers[question.id])
        except ValidationError:
            return
        if response.action == "accept" and response.content is not None:
            with contextlib.suppress(Conflict):  # somebody was faster
                self._kernel.approvals.answer_in_client(question.id, response.content.answer, caller)

    def _note_attempts(self, job_id: str, answers: Mapping[str, Any], caller: Caller) -> None:
        """Somebody answers what was not asked of them: it counts for nothing, and is written down.

        That a page was opened, or was not to be, is no answer: it has been handed over.
        """
        job = self._kernel.jobs.get(job_id)
        if not job.approval or job.approval not in answers or job.state != "waiting_approval":
            return
        try:
            response = _Opened.model_validate(answers[job.approval])
        except ValidationError:
            response = None
        if response is not None and not (response.action == "accept" and response.content):
            self._handed[job.approval] = None
            if len(self._handed) > MOST_HANDED:
                self._handed.popitem(last=False)
            return
        self._kernel.approvals.refused(job.approval, replace(caller, surface=IN_CLIENT), "approve")


def _takes_forms(ctx: Context) -> bool:
    declared = ctx.session.client_capabilities
    elicitation = declared.elicitation if declared else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _takes_urls(ctx: Context) -> bool:
    declared = ctx.session.client_capabilities
    elicitation = declared.elicitation if declared and ctx.protocol_version >= SINCE else None
    return elicitation is not None and elicitation.url is not None


def _words(question: Question) -> str:
    """Facts first, what it costs at most, and what differs from the last approved one like it."""
    most = question.facts.get("max_micro_usd")
    lines = [question.action, f"asked by {question.requested_by}: {question.reason}"]
    if isinstance(most, int):
        lines.append(f"costs at most {usd(most)}")
    lines += [f"{name}: {json.dumps(value)}" for name, value in question.facts.get("arguments", {}).items()]
    if question.like:
        changed = ", ".join(each.what for each in question.differences) or "nothing"
        lines.append(f"differs from {question.like} in: {changed}")
    return redact("\n".join(lines))
