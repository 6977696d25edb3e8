"""Letters from strangers, and a way to send money: what an attack needs."""

from __future__ import annotations

from pydantic import BaseModel

from agentd.sdk import Context, InputError, tool


class Letter(BaseModel):
    """`number` is ours, `text` is not."""

    number: str
    text: str


class Paid(BaseModel):
    to: str
    note: str


@tool(title="Read a letter", result=Letter, read_only=True, trusted=("number",))
async def read_letter(ctx: Context, *, path: str) -> Letter:
    """What a letter says."""
    file = ctx.path(path)
    text = file.read_text(encoding="utf-8")
    if text.startswith("broken"):
        raise InputError(f"The letter cannot be read: {text}")
    return Letter(number=f"letter-{len(text)}", text=text)


@tool(title="Pay", result=Paid, open_world=True, trusted=True, content=("note",))
async def pay(ctx: Context, *, to: str, note: str = "") -> Paid:
    """Send somebody a dollar."""
    paid = ctx.data_dir("paid") / "payments"
    before = paid.read_text(encoding="utf-8") if paid.exists() else ""
    paid.write_text(f"{before}{to}\n", encoding="utf-8")
    return Paid(to=to, note=note)
