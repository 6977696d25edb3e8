"""Watching a job or a run until its end, asking at a terminal on the way.

At a terminal there is one live line for what is running; otherwise a line now and then. All of it
goes to stderr, so that stdout carries nothing but the result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import click
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from agentd.cli.client import Client
from agentd.cli.show import errors, facts, progress_line, span, state_mark
from agentd.cli.visible import visible
from agentd.errors import AgentdError, Conflict, NeedsApproval
from agentd.policy.told import told
from agentd.wording import spelled

__all__ = ["ask", "fail_unless_done", "follow_job", "follow_run", "interactive", "show_question"]

QUIET_EVERY_S = 15.0


def interactive() -> bool:
    """Whether a person is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def follow_job(client: Client, job_id: str) -> dict[str, Any]:
    """Watch a job; returns its last view. At a terminal it asks for approval, else raises `NeedsApproval`."""
    view: dict[str, Any] = {}
    with _Line() as line:
        for view in client.follow(f"/api/jobs/{job_id}/follow"):
            if view["state"] == "waiting_approval":
                with line.paused():
                    _decide(client, view)
            line.show(view["title"], view["state"], view["progress"], view["started_at"])
            if view["service"] and view["service"]["ready"]:
                break
    return view


def follow_run(client: Client, run_id: str) -> dict[str, Any]:
    """Watch a run, a line a finished step; returns its last view. Ctrl-C leaves it running."""
    view: dict[str, Any] = {}
    told: set[str] = set()
    asked: set[str] = set()
    with _Line() as line:
        for view in client.follow(f"/api/runs/{run_id}/follow"):
            running: list[Mapping[str, Any]] = []
            for step in view["steps"]:
                if step["state"] in ("succeeded", "failed", "skipped", "stopped") and step["id"] not in told:
                    told.add(step["id"])
                    line.clear()
                    _tell_step(step)
                elif step["state"] == "running":
                    running.append(step)
                    job = step.get("job_view")
                    if job and job["state"] == "waiting_approval" and job["approval"] not in asked:
                        asked.add(job["approval"])
                        with line.paused():
                            _decide(client, job, must=False)
            if running:
                step = running[0]
                job = step.get("job_view") or {}
                progress = job.get("progress") or ({"message": step["reason"]} if step.get("reason") else {})
                line.show(step["title"], job.get("state", "running"), progress, step["started_at"])
    return view


def ask(client: Client, approval: Mapping[str, Any]) -> None:
    """Put a question to the person at the terminal, and send the answer. Nothing is answered by silence."""
    show_question(approval)
    try:
        answer = click.prompt(
            "Approve? [y]es, [n]o, [l]ater",
            type=click.Choice(["y", "n", "l"]),
            default="l",
            show_choices=False,
            err=True,
        )
    except click.Abort:
        answer = "l"
    if answer == "l":
        errors.print(f"It stays open: agentd approve {approval['id']}")
        return
    reason = click.prompt("Why not?", default="", show_default=False, err=True) if answer == "n" else ""
    body = {"verdict": "approve" if answer == "y" else "deny", "reason": reason}
    try:
        client.post(f"/api/approvals/{approval['id']}", body)
    except Conflict as error:
        errors.print(visible(error), style="yellow")


def show_question(approval: Mapping[str, Any]) -> None:
    """What is new and what it costs first, then what it is. Every value is escaped: it may be hostile."""
    said = told(approval)
    title = visible(said.title)
    title.stylize("bold")
    errors.rule(title, style="magenta", align="left")
    facts(said.first, errors, lines=False)
    compared = visible(said.compared)
    compared.stylize("dim")
    errors.print(compared)
    facts(said.changed, errors, lines=False)
    facts(said.facts, errors, lines=False)


def _decide(client: Client, job: Mapping[str, Any], *, must: bool = True) -> None:
    approval = client.get(f"/api/approvals/{job['approval']}")
    if approval["state"] != "pending":
        return
    if interactive():
        ask(client, approval)
        return
    if must:
        raise NeedsApproval(
            f"{job['title']} waits for a person",
            job_id=job["id"],
            approval_id=approval["id"],
            hint=f"agentd approve {approval['id']}; then: agentd jobs {job['id']} --follow",
        )
    how = f": agentd approve {approval['id']}"
    errors.print(Text.assemble("waiting for approval of ", visible(job["title"]), how))


def _tell_step(step: Mapping[str, Any]) -> None:
    took = (step.get("ended_at") or 0) - (step.get("started_at") or 0)
    text = Text.assemble(
        state_mark(step["state"]), "  ", (step["title"], "bold" if step["state"] == "failed" else "")
    )
    if step["state"] == "succeeded":
        text.append(f"  {span(took)}", style="dim")
    if step.get("reason"):
        text.append(f"  {step['reason']}", style="red" if step["state"] == "failed" else "dim")
    errors.print(text)


class _Line:
    """What is running, on one live line; without a terminal, a plain line every 15 seconds."""

    def __init__(self) -> None:
        self._live = (
            Live(console=errors, refresh_per_second=8, transient=True) if errors.is_terminal else None
        )
        self._spinner = Spinner("dots")
        self._said, self._at = "", 0.0

    def __enter__(self) -> _Line:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
        if self._live:
            self._live.stop()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Off the screen while a person is asked."""
        if self._live:
            self.clear()
            self._live.stop()
        yield
        if self._live:
            self._live.start()

    def clear(self) -> None:
        if self._live:
            self._live.update(Text(""), refresh=True)

    def show(self, title: str, state: str, progress: Mapping[str, Any], since: float | None) -> None:
        detail = progress_line(progress)
        running = f" ({span(time.time() - since)})" if since else ""
        if self._live:
            self._spinner.update(
                text=Text(spelled(f"{title}: {detail or state}{running}"), overflow="ellipsis", no_wrap=True)
            )
            self._live.update(self._spinner)
            return
        now, said = time.monotonic(), f"{title}: {state}"
        if said != self._said or now - self._at >= QUIET_EVERY_S:
            errors.print(visible(f"· {title}: {detail or state}{running}"), soft_wrap=True)
            self._said, self._at = said, now


def fail_unless_done(view: Mapping[str, Any]) -> None:
    """Raises `AgentdError` for a job or run that did not succeed."""
    if view["state"] not in ("succeeded", "running"):
        raise AgentdError(f"{view['id']} {view['state']}: {view['reason']}")
