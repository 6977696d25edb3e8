"""Say what two reports mean for each other: the tools compare, gate and keep_baseline.

A verdict is decided by what was declared before the run (margin and alpha, by the suite's ``gate``
unless the caller names others) and by the rows that both models answered. Where a report cannot
decide anything, because too many rows have no answer or because an uncalibrated judge gave the
scores, the verdict is inconclusive whatever the figures say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentd.sdk import Context, InputError, NotFound, Report, tool

from .datasets import read_rows
from .power import Pilot, plan, spread_of
from .verdict import MAX_ERROR_SHARE, Interval, Verdict, compare_scores, holm

MARGIN, ALPHA = 0.05, 0.05

Ref = Annotated[str, Field(description="report id, label, or model@suite for the newest")]
Margin = Annotated[
    float | None,
    Field(gt=0, lt=1, description="the loss of score that would be acceptable; the suite's by default"),
]
Alpha = Annotated[
    float | None, Field(gt=0, lt=0.5, description="1 - confidence of the interval; the suite's by default")
]


class Compared(BaseModel):
    """Candidate minus baseline on one suite, and what that means."""

    suite: str
    candidate: str
    baseline: str
    candidate_score: float
    baseline_score: float
    difference: float
    low: float
    high: float
    p_value: float
    n: int
    margin: float
    alpha: float
    verdict: Verdict
    why: str


@tool(title="Compare two reports", result=Compared, read_only=True, idempotent=True, trusted=True)
async def compare(
    ctx: Context, *, candidate: Ref, baseline: Ref, margin: Margin = None, alpha: Alpha = None
) -> Compared:
    """Say whether one model is better, not worse or worse than another on the same rows of one suite.

    Paired, with a confidence interval of the difference: better when all of it is above 0, not_worse when
    all of it is above -margin, worse when all of it is below 0 and a loss of margin is possible, else
    inconclusive.
    Not for reports of different suites. `evaluate` and `baseline` make reports.
    """
    return compared(ctx.reports.get(candidate), ctx.reports.get(baseline), margin, alpha)


def compared(one: Report, two: Report, margin: float | None = None, alpha: float | None = None) -> Compared:
    """Candidate `one` against baseline `two`. Raises `InputError` unless they measure the same rows."""
    if one.suite_digest != two.suite_digest:
        raise InputError(
            f"{one.id} measures {one.suite!r} as of {one.suite_digest[:8]}, "
            f"{two.id} {two.suite!r} as of {two.suite_digest[:8]}",
            hint="Evaluate both on the suite as it is now",
        )
    declared: dict[str, Any] = one.meta.get("gate") or {}
    margin = float(declared.get("margin", MARGIN)) if margin is None else margin
    alpha = float(declared.get("alpha", ALPHA)) if alpha is None else alpha
    pairs = _pairs(one, two)
    result = compare_scores([a for a, _ in pairs], [b for _, b in pairs], margin=margin, alpha=alpha)
    verdict, why = result.verdict, _why(result.verdict, result.difference, margin, len(pairs))
    if verdict == "inconclusive":
        why = f"{why}; {_missing(pairs, margin, alpha)}"
    if doubt := _doubt(one) or _doubt(two):
        verdict, why = "inconclusive", doubt
    return Compared(
        suite=one.suite,
        candidate=one.id,
        baseline=two.id,
        candidate_score=sum(a for a, _ in pairs) / len(pairs),
        baseline_score=sum(b for _, b in pairs) / len(pairs),
        difference=result.difference.value,
        low=result.difference.low,
        high=result.difference.high,
        p_value=result.p_value,
        n=len(pairs),
        margin=margin,
        alpha=alpha,
        verdict=verdict,
        why=f"{why} ({result.method}, {1 - alpha:.0%} interval)"
        f"{_differently_scored(one, two)}{_differently_asked(one, two)}",
    )


def _missing(pairs: Sequence[tuple[float, float]], margin: float, alpha: float) -> str:
    """What more rows would do, judged by how much these two differ row by row."""
    spread = spread_of([a for a, _ in pairs], [b for _, b in pairs])
    found = plan(len(pairs), margin, Pilot(spread, "as these two differ"), alpha=alpha)
    return "as many rows again may decide it" if found.enough else found.why


def _doubt(report: Report) -> str:
    """Why this report can decide nothing; "" if it can."""
    asked = report.errors + report.n
    if report.errors > MAX_ERROR_SHARE * asked:
        return f"{report.errors} of {asked} rows of {report.id} got no answer; evaluate it again"
    judge = report.metrics[0].judge if report.metrics else {}
    if judge and not judge.get("calibrated"):
        why = judge.get("why") or "nobody has measured how far it agrees with people"
        return (
            f"{report.id} was scored by the judge {judge.get('model', '')!r}, which decides nothing alone"
            f" ({why}); calibrate it (agentd call calibrate_judge) or let another metric decide"
        )
    return ""


def _differently_scored(one: Report, two: Report) -> str:
    scorers = {report.digests["scorer"] for report in (one, two) if "scorer" in report.digests}
    same = len(scorers) < 2
    return "" if same else "; they were scored by different versions of the scorer: evaluate both again"


def _differently_asked(one: Report, two: Report) -> str:
    """Which prompts the two were asked by, if not by the same."""
    first, second = (str(report.meta.get("prompt") or "the suite's own") for report in (one, two))
    return "" if first == second else f"; prompts differ: {first} against {second}"


def _pairs(one: Report, two: Report) -> list[tuple[float, float]]:
    """Scores of the rows that both answered. Raises `InputError` unless both were asked the same rows."""
    first, second = scores_of(one), scores_of(two)
    if first.keys() != second.keys():
        raise InputError(
            f"{one.id} and {two.id} were asked different rows ({len(first)} and {len(second)})",
            hint="Evaluate both with the same limit",
        )
    both = [(first[row], second[row]) for row in first]
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    if not pairs:
        raise InputError(f"No row was answered in both {one.id} and {two.id}", hint="Evaluate again")
    return pairs


def scores_of(report: Report) -> dict[str, float | None]:
    """The score of each row by its id; None where there is no answer."""
    return {row["id"]: row.get("score") for _, row in read_rows(report.rows)}


def _why(verdict: Verdict, difference: Interval, margin: float, n: int) -> str:
    span = f"{difference.value:+.3f}, between {difference.low:+.3f} and {difference.high:+.3f}, over {n} rows"
    return {
        "better": f"the difference is {span}: all above 0",
        "not_worse": f"the difference is {span}: a loss of {margin:g} is ruled out",
        "worse": f"the difference is {span}: all below 0, and a loss of {margin:g} is possible",
        "inconclusive": f"the difference is {span}: a loss of {margin:g} is neither shown nor ruled out",
    }[verdict]


# --- several suites at once -----------------------------------------------------------------


class Gated(BaseModel):
    """One verdict over several suites. `broken` when a comparison could not be made at all."""

    verdict: Literal["better", "not_worse", "worse", "inconclusive", "broken"]
    why: str
    suites: list[Compared]
    problems: list[str] = []


@tool(
    title="Put reports to the gate", result=Gated, read_only=True, idempotent=True, listed=False, trusted=True
)
async def gate(
    ctx: Context,
    *,
    candidates: Annotated[
        list[str], Field(min_length=1, description="reports of the candidate, one a suite")
    ],
    baselines: Annotated[
        list[str], Field(min_length=1, description="reports it is held against, in the same order")
    ],
    margin: Margin = None,
    alpha: Alpha = None,
) -> Gated:
    """One verdict over several suites, corrected for their number.

    Passing needs each suite to rule out a loss of the margin, which needs no correction (all must hold).
    Single claims of better and worse are corrected by Holm's procedure, so that a model that changed
    nothing is called worse on any suite with probability alpha at most. Inconclusive never passes.
    """
    if len(candidates) != len(baselines):
        raise InputError(
            f"{len(candidates)} candidates and {len(baselines)} baselines do not pair",
            hint="Name one baseline for each candidate",
        )
    made: list[Compared] = []
    problems: list[str] = []
    for one, two in zip(candidates, baselines, strict=True):
        try:
            made.append(compared(ctx.reports.get(one), ctx.reports.get(two), margin, alpha))
        except (InputError, NotFound) as error:
            problems.append(f"{one} against {two}: {error}")
    return together(made, problems)


def together(made: Sequence[Compared], problems: Sequence[str] = ()) -> Gated:
    """The verdict over all comparisons, a pure function of them."""
    adjusted = holm([each.p_value for each in made])
    suites = [_corrected(each, p) for each, p in zip(made, adjusted, strict=True)]
    verdicts = {each.verdict for each in suites}
    if problems:
        return Gated(verdict="broken", why="; ".join(problems), suites=suites, problems=list(problems))
    if "worse" in verdicts:
        return Gated(verdict="worse", why=_named(suites, "worse"), suites=suites)
    if "inconclusive" in verdicts:
        return Gated(verdict="inconclusive", why=_named(suites, "inconclusive"), suites=suites)
    if "better" in verdicts:
        return Gated(verdict="better", why=_named(suites, "better"), suites=suites)
    return Gated(verdict="not_worse", why=_named(suites, "not_worse"), suites=suites)


def _corrected(each: Compared, p: float) -> Compared:
    """A single claim of better or worse, withdrawn if it does not survive the correction."""
    if each.verdict not in ("better", "worse") or p <= each.alpha:
        return each.model_copy(update={"p_value": p})
    weaker = "not_worse" if each.low > -each.margin else "inconclusive"
    why = f"{each.why}; corrected for several suites p is {p:.3f}, so that {each.verdict} is not shown"
    return each.model_copy(update={"p_value": p, "verdict": weaker, "why": why})


def _named(suites: Sequence[Compared], verdict: Verdict) -> str:
    return "; ".join(f"{each.suite}: {each.why}" for each in suites if each.verdict == verdict)


# --- baselines that lie in a repository -----------------------------------------------------


class BundleRow(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    score: float | None = Field(default=None, ge=0, le=1)


class Bundle(BaseModel):
    """A report with its scores, small enough to be kept beside the code it guards."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    report: dict[str, Any]
    scores: list[BundleRow] = Field(min_length=1)


class Kept(BaseModel):
    report: str
    suite: str
    model: str


class Exported(BaseModel):
    bundle: dict[str, Any]


@tool(title="Export a report as a baseline", result=Exported, read_only=True, idempotent=True, listed=False)
async def export_baseline(ctx: Context, *, report: Ref) -> Exported:
    """A report and its rows' scores as one JSON object, kept in a repository and compared with later."""
    found = ctx.reports.get(report)
    scores = [{"id": row, "score": score} for row, score in scores_of(found).items()]
    return Exported(bundle={"report": found.model_dump(mode="json"), "scores": scores})


@tool(title="Take in a baseline", result=Kept, idempotent=True, listed=False)
async def keep_baseline(
    ctx: Context, *, bundle: Annotated[dict[str, Any], Field(description="what export_baseline gave")]
) -> Kept:
    """Keep an exported report in this daemon, so that reports made here can be compared with it."""
    try:
        read = Bundle.model_validate(bundle)
        digest = hashlib.sha256(json.dumps(bundle, sort_keys=True).encode()).hexdigest()[:16]
        lines = "".join(row.model_dump_json(exclude_none=True) + "\n" for row in read.scores)
        path = ctx.scratch() / "scores.jsonl"
        path.write_text(lines, encoding="utf-8")
        shown = {**read.report, "id": f"baseline-{digest}", "rows": str(path)}
        report = Report.model_validate(shown)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"This is no exported report: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint="Make one with: agentd eval export REPORT FILE",
        ) from error
    artifact = ctx.artifacts.add("report-rows", path, name=f"{report.suite}-{report.model}-baseline")
    kept = ctx.reports.save(report.model_copy(update={"rows": artifact.path}))
    return Kept(report=kept.id, suite=kept.suite, model=kept.model)
