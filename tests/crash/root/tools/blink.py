"""The shortest job there is, and ways for it to go wrong."""

from __future__ import annotations

from typing import Literal

from agentd.sdk import Context, Launch, Quote, tool


@tool(title="Blink", launches=True)
async def blink(
    ctx: Context,
    *,
    number: int,
    starts: str,
    ms: int = 0,
    behaviour: Literal["write", "fail", "litter"] = "write",
    ask: bool = False,
    attempts: int = 1,
    timeout_s: float = 20.0,
) -> Launch:
    """Append a line to the file `starts`, wait `ms` milliseconds, and end as `behaviour` says.

    litter: succeeds, and leaves a process in a session of its own behind.
    """
    return Launch(
        recipe="blink",
        title=f"Blink {number}",
        spec={"starts": starts, "ms": ms, "behaviour": behaviour},
        quote=Quote(seconds=ms / 1000, basis="what it was told"),
        timeout_s=timeout_s,
        attempts=attempts,
    )
