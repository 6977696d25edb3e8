"""A tool that answers at once with what it is given: what a step of a run takes besides its work."""

from __future__ import annotations

from pydantic import BaseModel

from agentd.sdk import Context, tool


class Echoed(BaseModel):
    text: str


@tool(title="Echo", result=Echoed, read_only=True, trusted=True)
async def echo(ctx: Context, *, text: str) -> Echoed:
    """Say a text back."""
    return Echoed(text=text)
