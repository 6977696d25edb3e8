"""A tool whose jobs end in the way that is asked for."""

from __future__ import annotations

from agentd.sdk import Context, Launch, Quote, tool


@tool(title="Fail", launches=True, trusted=True)
async def fail(
    ctx: Context,
    *,
    how: str,
    times: int = 1_000_000,
    attempts: int = 1,
    repeatable: bool = False,
    resumes: bool = False,
    accelerator: str = "",
    starts: str = "",
    cgroup: str = "",
    timeout_s: float = 60.0,
) -> Launch:
    """Go wrong in the way that is asked for, so many times; after that, succeed."""
    return Launch(
        recipe="fault",
        title=f"Fail by {how}",
        spec={"how": how, "times": times, "starts": starts, "cgroup": cgroup, "timing_key": "fault"},
        quote=Quote(seconds=1.0, basis="a guess"),
        timeout_s=timeout_s,
        attempts=attempts,
        repeatable=repeatable,
        resumes=resumes,
        accelerator=accelerator,
    )
