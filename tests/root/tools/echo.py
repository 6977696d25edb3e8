"""Small tools for the tests: one answers, one changes something, one works, one serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from agentd.sdk import (
    Context,
    DataError,
    Finished,
    InputError,
    Launch,
    Quote,
    ServiceSpec,
    ServiceView,
    Unavailable,
    tool,
)

Behaviour = Literal[
    "write",
    "refuse",
    "crash",
    "exit_quietly",
    "hang",
    "spawn_and_hang",
    "ask_gateway",
    "tell",
    "tell_and_refuse",
]


class Said(BaseModel):
    text: str
    principal: str = ""


class Moved(BaseModel):
    name: str
    times: int


class Rung(BaseModel):
    text: str
    pid: int
    job: str


@tool(title="Say", result=Said, read_only=True, trusted=True)
async def say(ctx: Context, *, text: Annotated[str, Field(description="what to say")]) -> Said:
    """Say it back."""
    return Said(text=text, principal=ctx.principal)


@tool(title="Move a name", result=Moved, destructive=True, trusted=True)
async def move(ctx: Context, *, name: str) -> Moved:
    """Count how often a name was moved."""
    log = ctx.data_dir("moves") / name
    with log.open("a", encoding="utf-8") as file:
        file.write("moved\n")
    return Moved(name=name, times=len(log.read_text(encoding="utf-8").splitlines()))


@tool(title="Work", launches=True, trusted=True)
async def work(
    ctx: Context,
    *,
    text: str = "done",
    behaviour: Behaviour = "write",
    path: Annotated[str, Field(description="a file to read")] = "",
    hold: Annotated[str, Field(description="a named pipe to wait for")] = "",
    starts: Annotated[str, Field(description="a file that gets a line for each start")] = "",
    timeout_s: float = 60.0,
    done_fails: bool = False,
    needs: tuple[str, ...] = (),
    ram_bytes: int = 0,
    secrets: tuple[str, ...] = (),
) -> Launch:
    """Write a text to a file, or go wrong in the way that is asked for."""
    source = ctx.path(path) if path else None
    if source and not source.read_text(encoding="utf-8").strip():
        raise DataError(source, "holds nothing", line=1, hint="Write something into it")
    return Launch(
        recipe="work",
        title=f"Work on {text}",
        spec={
            "text": text,
            "behaviour": behaviour,
            "hold": hold,
            "starts": starts,
            "done_fails": done_fails,
            "timing_key": "work",
        },
        quote=Quote(seconds=1.0, ram_bytes=ram_bytes, basis="a guess"),
        timeout_s=timeout_s,
        inputs={"source": source} if source else {},
        needs=needs,
        gateway=behaviour == "ask_gateway",
        tokens_micro_usd=100_000 if behaviour == "ask_gateway" else 0,
        secrets=secrets,
    )


@work.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    note = ctx.artifacts.add("note", finished.out / finished.result["note"], name="note")
    if finished.spec["done_fails"]:
        raise InputError("The note cannot be used", hint="Write another")
    return {"artifact": note.id, "text": note.path.read_text(encoding="utf-8"), **finished.result}


def bell(starts: str = "", idle_stop_s: float = 600.0, broken: bool = False) -> Launch:
    return Launch(
        recipe="bell",
        title="Keep a bell",
        spec={"starts": starts, "broken": broken},
        quote=Quote(),
        timeout_s=600.0,
        service=ServiceSpec(serves=("chime",), ready_within_s=20.0, idle_stop_s=idle_stop_s),
    )


@tool(title="Hang a bell", launches=True, trusted=True)
async def hang_bell(
    ctx: Context, *, starts: str = "", idle_stop_s: float = 600.0, broken: bool = False
) -> Launch:
    """Start the bell as a service."""
    return bell(starts, idle_stop_s, broken)


async def _bell(ctx: Context, starts: str, broken: bool = False) -> ServiceView:
    service = await ctx.services.ensure("bell", bell(starts, broken=broken))
    if service is None:
        raise Unavailable("The bell is being hung", retry_after_s=0.1)
    return service


@tool(title="Ring the bell", result=Rung, read_only=True, trusted=True)
async def ring(ctx: Context, *, text: str, starts: str = "", broken: bool = False) -> Rung:
    """Ring the bell, which is started when it is not there."""
    service = await _bell(ctx, starts, broken)
    answer = await ctx.services.request(service, "/ring", {"text": text})
    return Rung(text=answer["text"], pid=answer["pid"], job=service.job_id)


@tool(title="Measure a file", result=Said, read_only=True, trusted=True)
async def measure(ctx: Context, *, path: str) -> Said:
    """Tell how long a file is."""
    return Said(text=str(len(Path(ctx.path(path)).read_bytes())))
