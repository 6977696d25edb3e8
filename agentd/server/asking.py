"""The question of a waiting job, put to the client that asked: only where a rule lets its answer count.

An accepted elicitation does not prove a person: a hook or a script can answer it. So what no rule names
is not asked here at all, and the job says where a person answers. Decline, cancel, silence and nonsense
leave the question open. A client that did not declare forms is never asked.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agentd.errors import Conflict
from agentd.policy.approvals import IN_CLIENT, Question, Verdict
from agentd.redaction import redact
from agentd.server.asker import Context
from agentd.server.ports import Caller, Kernel
from agentd.store.ledger import usd

__all__ = ["Asking"]

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


class Asking:
    """Questions out, answers in. The key of a question is the id of its approval."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def of(self, ctx: Context, job_id: str, caller: Caller) -> dict[str, Any]:
        """What to put to this client about a job; empty when there is nothing that it may answer."""
        if not _takes_forms(ctx) or (question := self._kernel.approvals.for_client(job_id, caller)) is None:
            return {}
        form = {"mode": "form", "message": _words(question), "requestedSchema": SCHEMA}
        return {question.id: {"method": "elicitation/create", "params": form}}

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
        """Somebody answers what was not asked of them: it counts for nothing, and is written down."""
        job = self._kernel.jobs.get(job_id)
        if job.approval and job.approval in answers and job.state == "waiting_approval":
            self._kernel.approvals.refused(job.approval, replace(caller, surface=IN_CLIENT), "approve")


def _takes_forms(ctx: Context) -> bool:
    declared = ctx.session.client_capabilities
    elicitation = declared.elicitation if declared else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


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
