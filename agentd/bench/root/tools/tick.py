"""The least a job can do, so that what is measured is the launching."""

from __future__ import annotations

from agentd.sdk import Context, Launch, Quote, tool


@tool(title="Tick", launches=True)
async def tick(ctx: Context, *, number: int) -> Launch:
    """Say when it has started."""
    return Launch(
        recipe="tick",
        title=f"Tick {number}",
        spec={"number": number},
        quote=Quote(seconds=0.1, basis="a guess"),
        timeout_s=60.0,
    )
