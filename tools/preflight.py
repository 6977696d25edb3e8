"""What a suite can show, said before anything is asked of a model: the tool power, and what refuses.

`tools/power.py` has the arithmetic. Here stands what is known of the suite at hand: how many rows would be
asked, how much two models differed on them before, and the difference that somebody wants to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from agentd.sdk import Context, InputError, Report, tool

from .compare import scores_of
from .power import Pilot, Plan, pilot_of, plan
from .suites import Suite, find_suite

__all__ = ["Difference", "planned", "refuse_too_small", "too_small"]

Difference = Annotated[
    float,
    Field(ge=0, lt=1, description="difference of score that rows must be able to show, or refuse; 0: any"),
]


class Planned(BaseModel):
    """What the rows of a suite can show, beside what is asked of them."""

    suite: str
    rows: int
    difference: float
    needed: int
    difference_shown: float
    power: float
    wanted: float
    alpha: float
    suites: int
    basis: str
    enough: bool
    why: str


@tool(
    title="Say what a suite can show",
    result=Planned,
    read_only=True,
    idempotent=True,
    listed=False,
    trusted=True,
)
async def power(
    ctx: Context,
    *,
    suite: Annotated[str, Field(description="name of a suite in evals/, or a path to its .yaml")],
    difference: Annotated[
        float | None, Field(gt=0, lt=1, description="of score; the margin of the suite's gate by default")
    ] = None,
    power: Annotated[
        float | None,
        Field(ge=0.5, lt=1, description="chance to notice the difference; the suite's by default"),
    ] = None,
    alpha: Annotated[
        float | None, Field(gt=0, lt=0.5, description="1 - confidence; the suite's by default")
    ] = None,
    pilot: Annotated[
        list[str],
        Field(max_length=2, description="one or two reports of this suite; the newest two by default"),
    ] = [],  # noqa: B006  (pydantic copies it)
    limit: Annotated[int, Field(ge=0, description="only the first so many rows; 0 for all")] = 0,
    suites: Annotated[int, Field(ge=1, le=100, description="how many suites are decided over at once")] = 1,
) -> Planned:
    """Say how many rows a difference needs, before anything is asked of a model.

    How much two models differ row by row is taken from earlier reports of the suite, else guessed. Enough
    means: a model that loses the difference is called worse, and one that is as good not worse or better,
    each with that power. `evaluate` with `difference` refuses rows that are not enough.
    """
    found = find_suite(ctx, suite)
    made = planned(
        ctx, found, difference, alpha=alpha, wanted=power, pilots=pilot, limit=limit, suites=suites
    )
    return Planned(
        suite=found.name,
        rows=made.rows,
        difference=made.margin,
        needed=made.needed,
        difference_shown=made.margin_shown,
        power=made.power,
        wanted=made.wanted,
        alpha=made.alpha,
        suites=suites,
        basis=made.basis,
        enough=made.enough,
        why=made.why,
    )


def planned(
    ctx: Context,
    suite: Suite,
    difference: float | None = None,
    *,
    alpha: float | None = None,
    wanted: float | None = None,
    pilots: Sequence[str] = (),
    limit: int = 0,
    suites: int = 1,
) -> Plan:
    """What the first `limit` rows (0 for all) can show. What is not named is as the suite's gate says."""
    gate = suite.file.gate
    rows = min(limit, len(suite.rows)) if limit else len(suite.rows)
    return plan(
        rows,
        difference or gate.margin,
        _pilot(ctx, suite, pilots),
        alpha=alpha or gate.alpha,
        power=wanted or max(gate.power, 0.5),
        suites=suites,
    )


def too_small(ctx: Context, suite: Suite, limit: int = 0) -> str:
    """Why the rows cannot show what the suite itself declares; "" if they can, or it declares nothing."""
    if "gate" not in suite.file.model_fields_set:
        return ""
    made = planned(ctx, suite, limit=limit)
    return "" if made.enough else made.why


def refuse_too_small(ctx: Context, suite: Suite, difference: float, limit: int = 0) -> None:
    """Raise `InputError` if the rows cannot show the difference asked about."""
    made = planned(ctx, suite, difference, limit=limit)
    if not made.enough:
        raise InputError(
            f"The suite {suite.name!r} is too small: {made.why}",
            hint=f"Collect rows, ask for {made.margin_shown:.2g} or more, or leave the difference out",
        )


def _pilot(ctx: Context, suite: Suite, names: Sequence[str]) -> Pilot:
    """From the reports named, or else from the newest two models' on the suite as it is.

    Raises `InputError` for reports of another suite, `NotFound` for none.
    """
    if names:
        reports = [ctx.reports.get(name) for name in names]
        if other := next((each for each in reports if each.suite_digest != suite.digest), None):
            raise InputError(
                f"{other.id} measures {other.suite!r} as of {other.suite_digest[:8]},"
                f" and not {suite.name!r} as it is ({suite.digest[:8]})",
                hint="Name reports of the suite as it is now",
            )
    else:
        reports = _newest(ctx, suite)
    return pilot_of(_paired(reports))


def _newest(ctx: Context, suite: Suite) -> list[Report]:
    """Of two different models at most, newest first."""
    found: dict[tuple[str, str], Report] = {}
    for report in ctx.reports.list():
        if report.suite_digest == suite.digest and report.n and report.rows.is_file():
            found.setdefault((report.model, report.label), report)
    return list(found.values())[:2]


def _paired(reports: Sequence[Report]) -> list[tuple[str, list[float]]]:
    """Scores of the rows that all of them answered, or of the first alone."""
    scores = [{row: s for row, s in scores_of(each).items() if s is not None} for each in reports]
    both = [row for row in scores[0] if all(row in other for other in scores)] if scores else []
    if len(scores) > 1 and not both:
        return _paired(reports[:1])
    return [(each.id, [known[row] for row in both]) for each, known in zip(reports, scores, strict=True)]
