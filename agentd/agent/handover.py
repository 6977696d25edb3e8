"""How a run that is stuck ends: what was done, what was not, and the next command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentd.agent.carrying import Waiting
from agentd.agent.guards import Fired
from agentd.store.runs import StepRow

__all__ = ["handover"]


def handover(run_id: str, fired: Fired, steps: Sequence[StepRow], jobs: Waiting) -> dict[str, Any]:
    """What a person needs to go on from here. Reads only what is stored."""
    open_jobs = [step.job for step in steps if step.job and not jobs.get(step.job).ended]
    denied = [step for step in steps if step.outcome == "denied"]
    if fired.more:
        next_ = f"agentd run --resume {run_id} {fired.more}"
    elif fired.guard == "model":
        next_ = f"agentd run --resume {run_id}"
    elif open_jobs:
        next_ = f"agentd jobs {open_jobs[0]} --follow"
    elif denied:
        next_ = f'agentd run --tell {run_id} "what to do instead"; then: agentd run --resume {run_id}'
    else:
        next_ = f'agentd run --tell {run_id} "what it misses"; then: agentd run --resume {run_id}'
    return {
        "guard": fired.guard,
        "why": fired.why,
        "done": [_line(step) for step in steps if step.state == "succeeded"],
        "not_done": [
            f"{_line(step)}: {step.reason or step.state}" for step in steps if step.state != "succeeded"
        ],
        "open_jobs": open_jobs,
        "next": next_,
    }


def _line(step: StepRow) -> str:
    arguments = " ".join(
        f"{name}={json.dumps(value, ensure_ascii=False, default=str)}"
        for name, value in (step.arguments or {}).items()
    )
    job = f" ({step.job})" if step.job else ""
    return f"{step.step} {step.tool} {arguments[:200]}".rstrip() + job
