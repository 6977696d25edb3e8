"""Pointing an alias at another model: at once, or by stages that the daemon moves through and back from.

What is good enough is decided by `compare`, here before anything moves and by the daemon before each stage.
How stages are watched is its affair, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from agentd.sdk import Alias, Context, InputError, Model, NotFound, Report, Rollout, RolloutLimits, tool

from .datasets import read_rows
from .judges import find_judge, standing_of

__all__ = ["promote"]

MOST_INPUTS = 2000


class Promotion(BaseModel):
    """Where an alias points now, and where it pointed before."""

    alias: str
    model: str
    previous: str = Field(default="", description="what it pointed at mostly before; empty for a new alias")
    why: str
    rollout: Rollout | None = Field(default=None, description="with stages: where it stands")


@tool(title="Promote a model", result=Promotion, destructive=True, idempotent=True, trusted=True)
async def promote(
    ctx: Context,
    *,
    alias: Annotated[str, Field(pattern=r"^[\w.-]+$", description="the name that callers use")],
    model: Annotated[str, Field(description="the model it shall point at")] = "",
    report: Annotated[str, Field(description="this model's report: its id, or model@suite")] = "",
    against: Annotated[str, Field(description="report it must not be worse than: the present model's")] = "",
    margin: Annotated[
        float | None,
        Field(gt=0, lt=1, description="acceptable loss of score; the suite's by default"),
    ] = None,
    alpha: Annotated[float | None, Field(gt=0, lt=0.5, description="the suite's by default")] = None,
    stages: Annotated[str, Field(description='"shadow 5%, canary 10%, 50%, full"; empty: all at once')] = "",
    limits: Annotated[
        dict[str, Any],
        Field(description="{error_margin: 0.02, …}: agentd://docs/promotion"),
    ] = {},  # noqa: B006  (pydantic copies it)
    approve: Annotated[
        Literal["start", "each"], Field(description="each: every stage waits for step=next")
    ] = "start",
    judge: Annotated[str, Field(description="of stages: a calibrated judge that rates some answers")] = "",
    step: Annotated[
        Literal["start", "next", "abort"], Field(description="next: the next stage; abort: back as it was")
    ] = "start",
    because: Annotated[str, Field(description="the reason in words; needed with force and abort")] = "",
    force: Annotated[bool, Field(description="move it without or against the evidence")] = False,
) -> Promotion:
    """Point an alias at another model, for everybody who uses it.

    The two reports are compared anew, and the alias moves only if the model is better or not worse. With
    `stages` the daemon moves it on when a stage has shown enough, and back when errors, times or requests say
    so; `list_models` tells where it stands. With `force` it moves in any case: for a first alias, or to roll
    back. Not for trying a model: ask it by name.
    """
    if step == "next":
        rollout = await ctx.rollouts.proceed(alias, by=ctx.principal, because=because, force=force)
        return _promotion(rollout)
    if step == "abort":
        return _promotion(ctx.rollouts.abort(alias, by=ctx.principal, because=because))
    target, found, why = await grounds(
        ctx, alias, model, report, against, margin, alpha, stages, because, force=force
    )
    held_to = limits_of(limits)
    before = ctx.catalog.alias(alias)
    previous = max(before.weights, key=lambda name: before.weights[name]) if before else ""
    if not stages:
        ctx.rollouts.supersede(alias, by=ctx.principal, because=f"{alias} is promoted at once: {why}")
        ctx.catalog.set_alias(moved(before, alias, target.name, why))
        return Promotion(alias=alias, model=target.name, previous=previous, why=why)
    evidence: dict[str, Any] = {}
    if found is not None and not force:
        baseline = ctx.reports.get(against).id
        evidence = {"report": found.id, "against": baseline, "margin": margin, "alpha": alpha}
    rollout = ctx.rollouts.start(
        alias, target.name, stages, held_to, why=why, by=ctx.principal, evidence=evidence,
        inputs=inputs_of(found) if found else (), approve=approve, judge=judge_of(ctx, judge),
    )  # fmt: skip
    return Promotion(alias=alias, model=target.name, previous=previous, why=why, rollout=rollout)


@promote.check
async def _(
    ctx: Context,
    *,
    alias: str,
    model: str,
    report: str,
    against: str,
    margin: float | None,
    alpha: float | None,
    stages: str,
    limits: dict[str, Any],
    approve: str,
    judge: str,
    step: str,
    because: str,
    force: bool,
) -> None:
    if step == "start":
        judge_of(ctx, judge)
        limits_of(limits)
        await grounds(ctx, alias, model, report, against, margin, alpha, stages, because, force=force)
        return
    live = [each.alias for each in ctx.rollouts.list() if each.ended_at is None]
    if alias not in live:
        raise NotFound("rollout of alias", alias, live)
    if not because and (force or step == "abort"):
        raise InputError(f"step={step} needs a reason here", hint="Say why in because")


def moved(before: Alias | None, alias: str, model: str, why: str) -> Alias:
    """The alias with all of its requests for one model, and what else it says as it was."""
    if before is None:
        return Alias(name=alias, weights={model: 1.0}, reason=why)
    shadow = {name: share for name, share in before.shadow.items() if name != model}
    return before.model_copy(update={"weights": {model: 1.0}, "shadow": shadow, "reason": why})


async def grounds(
    ctx: Context,
    alias: str,
    name: str,
    report: str,
    against: str,
    margin: float | None,
    alpha: float | None,
    stages: str,
    because: str,
    *,
    force: bool,
) -> tuple[Model, Report | None, str]:
    """The model, its report, and why the alias may move to it. Raises `InputError` or what is under it."""
    if not name:
        raise InputError("No model is named", hint="Say model=…")
    model = ctx.catalog.get(name)
    if model.kind == "baseline" or model.meta.get("task") == "embedding":
        raise InputError(f"{name!r} does not answer chats", hint="Promote a model that generates text")
    ctx.rollouts.check(alias, name, stages=stages, force=force)
    if not force:
        found, why = await evidence(ctx, model, report, against, margin, alpha)
        return model, found, why
    if not because:
        raise InputError("A forced promotion needs a reason", hint="Say why in because")
    return model, ctx.reports.get(report) if report else None, f"forced: {because}"


async def evidence(
    ctx: Context, model: Model, report: str, against: str, margin: float | None, alpha: float | None
) -> tuple[Report, str]:
    """Compare the two reports; returns the model's, and what speaks for the move, or raises `InputError`."""
    if not report or not against:
        raise InputError(
            f"{model.name!r} is to be promoted without evidence",
            hint="Name its report and the one it must not be worse than, or say force=true and because",
        )
    found = ctx.reports.get(report)
    if found.model != model.name:
        raise InputError(
            f"Report {found.id!r} is about {found.model!r}, not {model.name!r}", hint="Name its report"
        )
    given = {"candidate": found.id, "baseline": against, "margin": margin, "alpha": alpha}
    result = await ctx.call("compare", given)
    if result.verdict not in ("better", "not_worse"):
        raise InputError(
            f"{model.name!r} is not promoted: it is {result.verdict} than {result.baseline} ({result.why})"
            if result.verdict == "worse"
            else f"{model.name!r} is not promoted: the comparison is inconclusive ({result.why})",
            hint="Keep the present model, or measure more rows",
        )
    return found, (
        f"{result.verdict.replace('_', ' ')} than {ctx.reports.get(result.baseline).model} on {found.suite}:"
        f" {result.candidate_score:.3f} against {result.baseline_score:.3f},"
        f" difference {result.low:+.3f} to {result.high:+.3f}"
    )


def inputs_of(report: Report) -> list[str]:
    """Texts that the report's rows asked, which requests are held against."""
    if not report.rows.is_file():
        return []
    inputs = (row.get("input") for _, row in read_rows(report.rows))
    return [text for text in inputs if isinstance(text, str)][:MOST_INPUTS]


def limits_of(given: Mapping[str, Any]) -> RolloutLimits:
    """Raises `InputError` that names the limit, and those that there are."""
    try:
        return RolloutLimits.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise NotFound("limit", name, RolloutLimits.model_fields) from error
        raise InputError(f"limits.{name}: {first['msg']} (it says {first['input']!r})") from error


def judge_of(ctx: Context, name: str) -> dict[str, Any] | None:
    """What the judge is told. Raises `InputError` for one that nobody calibrated."""
    if not name:
        return None
    found = find_judge(ctx, name)
    standing = standing_of(ctx, found)
    if not standing.calibrated:
        raise InputError(f"The judge {name!r} decides nothing: {standing.why}")
    return found.spec


def _promotion(rollout: Rollout) -> Promotion:
    back = rollout.state == "aborted"
    return Promotion(
        alias=rollout.alias,
        model=", ".join(rollout.incumbents) if back else rollout.model,
        previous=rollout.model if back else ", ".join(rollout.incumbents),
        why=rollout.why,
        rollout=rollout,
    )
