"""Which rung is enough: the tool ladder.

A task is tried from the cheapest rung up: the base model with its answers constrained, neighbours and
linear heads over embeddings, a LoRA of one's own, a frontier model. The first rung that is *shown* to
reach the target (the low end of its interval does) is enough, and what lies above it is a luxury. Of
each rung it says what it gained over the one below and what a point of score cost; of the first one
that was not tried, the quote and the most that it could still gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from agentd.sdk import AgentdError, Context, InputError, NotFound, Report, tool

from .compare import Ref, compared

ANSWERS = 1000


class Rung(BaseModel):
    """One measured way of doing the task. Gains are over the rung before it, paired, with their interval."""

    rung: str
    model: str
    report: str
    score: float
    low: float
    high: float
    n: int
    reaches: Literal["yes", "no", "unclear"] = Field(description="whether the target is reached")
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    micro_usd_to_make: int = Field(description="what was paid to have it, without the base model")
    micro_usd_per_1000: int = Field(
        description="what a thousand answers cost, at the speed of its evaluation"
    )
    p50_s: float
    points_per_usd: float | None = Field(
        default=None, description="hundredths of score gained over the rung before, per dollar to make it"
    )


class NextRung(BaseModel):
    """A rung that was not tried: its quote, and the most it could gain."""

    tool: str
    seconds: float
    micro_usd: int
    most_gain: float
    basis: str


class Ladder(BaseModel):
    """The rungs from the cheapest up, and the first that is enough (its model; "" while none is)."""

    suite: str
    target: float
    enough: str
    advice: str
    rungs: list[Rung]
    next: NextRung | None = None


@tool(
    title="Say which rung is enough",
    result=Ladder,
    read_only=True,
    idempotent=True,
    listed=False,
    trusted=True,
)
async def ladder(
    ctx: Context,
    *,
    reports: Annotated[
        list[Ref], Field(min_length=1, description="reports on one suite, from the cheapest rung up")
    ],
    target: Annotated[float, Field(gt=0, le=1, description="the score that the task needs")],
    next_tool: Annotated[str, Field(description="tool that would make the next rung, such as finetune")] = "",
    next_arguments: Annotated[
        dict[str, Any] | None, Field(description="its arguments: they are quoted, nothing is started")
    ] = None,
) -> Ladder:
    """Say from reports which is the cheapest way that is good enough, and what the next one buys.

    Run the plan `ladder` to make the reports and ask this; alone, for reports that are there already.
    """
    found = [ctx.reports.get(ref) for ref in reports]
    if len({report.suite_digest for report in found}) > 1:
        raise InputError(
            "The rungs were measured on different suites or versions of one",
            hint="Evaluate all of them on the suite as it is now",
        )
    rungs = [rung_of(ctx, report, target) for report in found]
    for i in range(1, len(rungs)):
        rungs[i] = _over(rungs[i], found[i], found[i - 1])
    enough = next((rung for rung in rungs if rung.reaches == "yes"), None)
    above = await _next(ctx, next_tool, next_arguments or {}, rungs) if next_tool else None
    return Ladder(
        suite=found[0].suite,
        target=target,
        enough=enough.model if enough else "",
        advice=advice(rungs, target, enough, above),
        rungs=rungs,
        next=above,
    )


def rung_of(ctx: Context, report: Report, target: float) -> Rung:
    reaches: Literal["yes", "no", "unclear"] = (
        "yes" if report.low >= target else "no" if report.high < target else "unclear"
    )
    return Rung(
        rung=f"{report.model} ({report.label})" if report.label else report.model,
        model=report.model,
        report=report.id,
        score=report.score,
        low=report.low,
        high=report.high,
        n=report.n,
        reaches=reaches,
        micro_usd_to_make=_making(ctx, report),
        micro_usd_per_1000=_answering(ctx, report),
        p50_s=float(report.meta.get("p50_s", 0.0)),
    )


def _making(ctx: Context, report: Report) -> int:
    """What the job that made the model cost; of a baseline, the one that fitted and measured it."""
    try:
        source = ctx.catalog.get(report.model).source
    except NotFound:
        source = f"job:{report.id.removeprefix('report-')}"
    if not source.startswith("job:"):
        return 0
    try:
        return ctx.jobs.get(source.removeprefix("job:")).micro_usd or 0
    except NotFound:
        return 0


def _answering(ctx: Context, report: Report) -> int:
    """Tokens at their price for a remote model, the machine's time for a local one."""
    if not report.n:
        return 0
    try:
        model = ctx.catalog.get(report.model)
    except NotFound:
        model = None
    if model is not None and model.endpoint:
        tokens_in, tokens_out = report.meta.get("input_tokens", 0), report.meta.get("output_tokens", 0)
        return math.ceil(model.price(tokens_in, tokens_out) / report.n * ANSWERS)
    seconds = report.meta.get("seconds", 0.0)
    if model is None:  # a baseline's time is mostly fitting: what an answer takes is its latency
        return ctx.price(report.meta.get("p50_s", 0.0) * ANSWERS)
    return ctx.price(seconds / report.n * ANSWERS)


def _over(rung: Rung, report: Report, below: Report) -> Rung:
    result = compared(report, below)
    cost = rung.micro_usd_to_make
    per_usd = round(100 * result.difference / (cost / 1e6), 1) if cost else None
    gains = {"gain": result.difference, "gain_low": result.low, "gain_high": result.high}
    return rung.model_copy(update={**gains, "points_per_usd": per_usd})


async def _next(ctx: Context, name: str, arguments: dict[str, Any], rungs: Sequence[Rung]) -> NextRung | None:
    try:
        quote = await ctx.quote(name, arguments)
    except AgentdError as error:
        raise InputError(f"The next rung cannot be quoted: {error}", hint="Check next_arguments") from error
    most = 1.0 - max(rung.score for rung in rungs)
    return NextRung(
        tool=name,
        seconds=quote.seconds,
        micro_usd=quote.micro_usd,
        most_gain=round(most, 4),
        basis=quote.basis,
    )


def advice(rungs: Sequence[Rung], target: float, enough: Rung | None, above: NextRung | None) -> str:
    """What to do, in one or two sentences: a pure function of the figures."""
    best = max(rungs, key=lambda rung: rung.score)
    if enough is not None:
        said = (
            f"{enough.rung} is enough: {enough.score:.3f} ({enough.low:.3f} to {enough.high:.3f})"
            f" reaches {target:g}, at {_usd(enough.micro_usd_to_make)} to make and"
            f" {_usd(enough.micro_usd_per_1000)} a thousand answers."
        )
        if others := [
            f"{rung.rung} {rung.score:.3f}" for rung in rungs if rung.reaches == "yes" and rung != enough
        ]:
            said += f" So is {', '.join(others)}."
        if above:
            said += (
                f" {above.tool} would cost {_usd(above.micro_usd)} and about {above.seconds / 60:.0f} min,"
                f" and could gain {above.most_gain:.3f} at most."
            )
        return said
    if best.reaches == "unclear":
        return (
            f"{best.rung} may be enough: {best.score:.3f}, but between {best.low:.3f} and {best.high:.3f}"
            f" over {best.n} rows, and {target:g} is needed. Measure more rows before paying for more."
        )
    said = f"No rung reaches {target:g}: the best is {best.rung} with {best.score:.3f}."
    if above:
        said += (
            f" Next is {above.tool}: {_usd(above.micro_usd)} and about {above.seconds / 60:.0f} min, for"
            f" {above.most_gain:.3f} at most."
        )
    return said


def _usd(micro: int) -> str:
    return f"${micro / 1e6:.6f}".rstrip("0").rstrip(".") if micro else "nothing"
