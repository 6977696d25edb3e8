"""Prompt, RAG, fine-tune or both: the tool advise.

It lays the four out for the user's own numbers: what each costs in a month and why, where two of them cost
the same, which are ruled out, what evidence is missing, how much every number matters. It starts from the
simplest thing that could do, one prompt and one call. On cost alone nothing is replaced: a less simple
option is advised once a report shows it to be not worse.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated

from pydantic import BaseModel, Field

from agentd.sdk import Context, InputError, load_document, tool

from .choice import Flip, Rules, chosen, flips, ruled_out, swing
from .compare import Compared, compared
from .costs import OPTIONS, Curve, Option, crossings, curve, gpu_hours, parts, requests, retrieves, side_of
from .lookups import Found, look_up
from .situation import Gpu, Host, Limits, Origin, Retrieval, Situation, Tokens, Training, Volume, numbers

NAMES: Mapping[Option, str] = {
    "prompt": "prompt only",
    "rag": "RAG",
    "fine_tune": "fine-tune",
    "hybrid": "fine-tune + RAG",
}
WHY = {
    "context": "a request does not fit the context of its model",
    "latency": "answers take longer than limits.latency_s",
    "examples": "there are fewer examples than training.examples_needed",
    "freshness": "it is trained less often than limits.fresh_within_days asks for",
}


class OptionRow(BaseModel):
    option: Option
    a_month: str
    micro_usd: int = Field(description="of a month, each part rounded up")
    gpu_hours: float = Field(description="of a month, paid for answering")
    ruled_out: list[str] = Field(description="why; empty if it is not")


class CostRow(BaseModel):
    option: Option
    part: str
    a_month: str
    micro_usd: int


class BreakEven(BaseModel):
    """Where two options cost the same. `requests` is null if their order never changes."""

    one: Option
    other: Option
    requests: float | None = Field(description="a month")
    says: str


class Missing(BaseModel):
    what: str
    why: str
    do: str


class InputRow(BaseModel):
    input: str
    value: float
    origin: Origin
    source: str
    as_of: str


class Sensitivity(BaseModel):
    """What the option that is best on cost would cost with one number ±50 %, and where another is chosen."""

    input: str
    less_half: str
    half_more: str
    flips: str
    width_micro_usd: int
    flips_below: float | None = None
    below: Option | None = None
    flips_above: float | None = None
    above: Option | None = None


class Advice(BaseModel):
    """`best` is chosen on cost alone, `recommended` also on what was shown; null if all are ruled out."""

    start: Option | None = Field(description="the simplest option that is not ruled out")
    best: Option | None
    recommended: Option | None
    advice: str
    would_change_it: str
    requests: float = Field(description="of a month")
    evidence: str = Field(description="the verdict of the best option's report against the start's, if any")
    options: list[OptionRow]
    costs: list[CostRow]
    break_even: list[BreakEven]
    missing: list[Missing]
    inputs: list[InputRow]
    sensitivity: list[Sensitivity]


@tool(
    title="Advise on prompt, RAG or fine-tune", result=Advice, read_only=True, idempotent=True, listed=False
)
async def advise(
    ctx: Context,
    *,
    file: Annotated[str, Field(description="YAML with any of the groups below")] = "",
    volume: Annotated[Volume | None, Field(description="users and requests of a month")] = None,
    tokens: Annotated[Tokens | None, Field(description="tokens of one request")] = None,
    general: Annotated[Host | None, Field(description="the model asked as it is")] = None,
    tuned: Annotated[Host | None, Field(description="the fine-tuned model")] = None,
    gpu: Annotated[Gpu | None, Field(description="machines by the hour")] = None,
    retrieval: Annotated[Retrieval | None, Field(description="finding passages")] = None,
    training: Annotated[Training | None, Field(description="making the tuned model")] = None,
    limits: Annotated[Limits | None, Field(description="what an option has to keep to")] = None,
    suite: Annotated[str, Field(description="whose reports say how good the models are")] = "",
    reports: Annotated[
        dict[str, str] | None, Field(description="option -> report that measures it (prompt, rag, …)")
    ] = None,
) -> Advice:
    """Lay out prompt only, RAG, fine-tune and both for your own numbers: costs, break-even, what is missing.

    Needs the volume and a model with prices; whatever else nobody states is assumed, and listed as such.
    Groups that are given win over those of the file. Not for deciding what is good enough: `compare` and
    `ladder` do that.
    """
    groups = {"volume": volume, "tokens": tokens, "general": general, "tuned": tuned, "gpu": gpu}
    groups |= {"retrieval": retrieval, "training": training, "limits": limits}
    given = {name: part for name, part in groups.items() if part is not None}
    if file:
        situation = load_document(ctx.path(file), Situation).model_copy(update=given)
    elif volume is None:
        raise InputError(
            "volume: nobody said how much is asked",
            hint="Set volume={monthly_users: …, requests_per_user: …}, or name a file",
        )
    else:
        situation = Situation.model_validate(given)
    found = look_up(ctx, situation, suite, reports or {})
    return await asyncio.to_thread(_advice, found, suite)


def _advice(found: Found, suite: str) -> Advice:
    facts, rules = found.facts, Rules(_always(found))
    out = ruled_out(facts, rules)
    best = chosen(facts, rules)
    start: Option | None = next((option for option in OPTIONS if option not in out), None)
    verdict, problem = _verdict(found, start, best)
    recommended: Option | None = best if verdict and verdict.verdict in ("better", "not_worse") else start
    options = [_option(found, option, out.get(option, ())) for option in OPTIONS]
    evens = list(_break_even(found))
    rows = sorted(_sensitivity(found, rules, best), key=lambda row: -row.width_micro_usd) if best else []
    return Advice(
        start=start,
        best=best,
        recommended=recommended,
        advice=_said(options, start, best, recommended),
        would_change_it=_changes(start, best, evens, rows, options),
        requests=float(requests(facts)),
        evidence=f"{verdict.verdict}: {verdict.why}" if verdict else problem,
        options=options,
        costs=[
            CostRow(option=option, part=part, a_month=_usd(cost), micro_usd=math.ceil(cost))
            for option in OPTIONS
            for part, cost in parts(facts, option).items()
            if cost
        ],
        break_even=evens,
        missing=[*_unmeasured(found, suite, start, best, verdict), *_doubtful(found)],
        inputs=[
            InputRow(
                input=name,
                value=float(known.value),
                origin=known.origin,
                source=known.source,
                as_of=str(known.as_of or ""),
            )
            for name, known in found.numbers.items()
        ],
        sensitivity=rows,
    )


def _option(found: Found, option: Option, reasons: Sequence[str]) -> OptionRow:
    total = sum(math.ceil(cost) for cost in parts(found.facts, option).values())
    return OptionRow(
        option=option,
        a_month=_usd(Fraction(total)),
        micro_usd=total,
        gpu_hours=float(max(gpu_hours(found.facts, option))),
        ruled_out=[WHY.get(reason, reason) for reason in reasons],
    )


# --- what is ruled out whatever the numbers are ---------------------------------------------


def _always(found: Found) -> dict[Option, tuple[str, ...]]:
    return {option: tuple(_placed(found, option)) + tuple(_short(found, option)) for option in OPTIONS}


def _placed(found: Found, option: Option) -> Iterator[str]:
    """What may not go where this option would send it. A place that nobody knows is none that is allowed."""
    limits, side = found.situation.limits, side_of(option)
    answers = found.place(side)
    trained = found.situation.training.residency or answers
    searched = found.situation.retrieval.residency
    with_documents = retrieves(option) or (option == "prompt" and found.facts["tokens.knowledge"] > 0)
    goes = [("questions", limits.questions_stay_in, answers)]
    if retrieves(option):
        goes += [
            ("questions", limits.questions_stay_in, searched),
            ("documents", limits.documents_stay_in, searched),
        ]
    if with_documents:
        goes.append(("documents", limits.documents_stay_in, answers))
    if side == "tuned":
        goes.append(("examples", limits.examples_stay_in, trained))
    for what, allowed, place in dict.fromkeys((w, tuple(a), p) for w, a, p in goes):
        if allowed and place not in allowed:
            there = repr(place) if place else "a place that nobody names"
            yield f"{what} would go to {there}, and may only be in {', '.join(allowed)}"


def _short(found: Found, option: Option) -> Iterator[str]:
    """A report that shows it to be short of the score that is needed."""
    report, needed = found.reports.get(option), found.facts.numbers.get("limits.score")
    if report and needed is not None and report.high < needed:
        measured = f"{report.score:.3f}, at most {report.high:.3f}"
        yield f"{report.id} measured {measured}: {float(needed):g} is needed"


# --- evidence -------------------------------------------------------------------------------


def _verdict(found: Found, start: Option | None, best: Option | None) -> tuple[Compared | None, str]:
    """What reports say of the best option on cost against the simplest, or why they say nothing."""
    if start is None or best is None or start == best:
        return None, ""
    one, two = found.reports.get(best), found.reports.get(start)
    if one is None or two is None:
        return None, ""
    try:
        return compared(one, two), ""
    except InputError as error:
        return None, str(error)


def _unmeasured(
    found: Found, suite: str, start: Option | None, best: Option | None, verdict: Compared | None
) -> Iterator[Missing]:
    named = suite or "SUITE"
    asked: list[Option] = [option for option in OPTIONS if option in (start, best)]
    for option in asked:
        if option in found.reports:
            continue
        host: Host = getattr(found.situation, side_of(option))
        passages = ", on a suite whose prompts hold retrieved passages" if retrieves(option) else ""
        yield Missing(
            what=f"how good {NAMES[option]} is",
            why=f"no report of it{passages}",
            do=f"agentd call evaluate suite={named} model={host.model or 'MODEL'} label={option};"
            f" then name it here: reports='{{{option}: {option}}}'",
        )
    if start != best and not (verdict and verdict.verdict in ("better", "not_worse")):
        yield Missing(
            what=f"whether {NAMES[best or 'prompt']} may replace {NAMES[start or 'prompt']}",
            why=verdict.why if verdict else "no two reports to compare",
            do=f"agentd call compare candidate={best} baseline={start}",
        )


def _doubtful(found: Found) -> Iterator[Missing]:
    for name, known in found.numbers.items():
        if name in found.doubts:
            yield Missing(what=name, why=found.doubts[name], do="state it again with source and as_of")
        elif known.origin == "assumed" and (name.startswith("tokens.") or name.endswith("_tokens_per_s")):
            yield Missing(
                what=name, why=f"a guess: {known.source}", do="measure it, and state it with a source"
            )
    limits = found.facts.numbers
    for side in ("general", "tuned"):
        if "limits.latency_s" in limits and f"{side}.latency_s" not in limits:
            yield Missing(
                what=f"{side}.latency_s", why="nobody measured it, so that it rules out nothing",
                do="agentd call evaluate, or state it",
            )  # fmt: skip
        if limits["tokens.knowledge"] > 0 and f"{side}.context" not in limits:
            yield Missing(what=f"{side}.context", why="its context length is not known", do="state it")
    if "training.examples" not in limits:
        yield Missing(what="training.examples", why="nobody said how many there are", do="count them")


# --- figures --------------------------------------------------------------------------------


def _break_even(found: Found) -> Iterator[BreakEven]:
    curves: dict[Option, Curve] = {option: curve(found.facts, option, "requests") for option in OPTIONS}
    for number, one in enumerate(OPTIONS):
        for other in OPTIONS[number + 1 :]:
            names = {-1: f"{NAMES[one]} costs less", 1: f"{NAMES[other]} costs less", 0: "both cost the same"}
            met = crossings(curves[one], curves[other])
            for each in met:
                says = f"below, {names[each.below]}; above, {names[each.above]}"
                yield BreakEven(one=one, other=other, requests=float(each.at), says=says)
            if not met:
                at = curves[one].at(Fraction(1)) - curves[other].at(Fraction(1))
                says = f"never: {names[(at > 0) - (at < 0)]} at any volume"
                yield BreakEven(one=one, other=other, requests=None, says=says)


def _sensitivity(found: Found, rules: Rules, best: Option) -> Iterator[Sensitivity]:
    facts = found.facts
    most = {
        name: info.json_schema_extra.get("most")
        for name, info, _ in numbers(found.situation)
        if isinstance(info.json_schema_extra, dict)
    }
    for name in found.numbers:
        top = most.get(name)
        upper = Fraction(str(top)) if isinstance(top, (int, float)) else None
        moved = swing(facts, best, name, upper) if facts[name] else None
        below, above = flips(facts, rules, name, upper)
        if not (moved and moved.width) and below is None and above is None:
            continue
        yield Sensitivity(
            input=name,
            less_half=_usd(moved.low) if moved else "",
            half_more=_usd(moved.high) if moved else "",
            flips="; ".join([*_flip("below", below), *_flip("above", above)]) or "never",
            width_micro_usd=math.ceil(moved.width) if moved else 0,
            flips_below=float(below.at) if below else None,
            below=below.option if below else None,
            flips_above=float(above.at) if above else None,
            above=above.option if above else None,
        )


def _flip(where: str, flip: Flip | None) -> Iterator[str]:
    if flip:
        yield f"{where} {float(flip.at):,.6g}: {NAMES[flip.option] if flip.option else 'nothing is left'}"


# --- in words -------------------------------------------------------------------------------


def _said(
    options: Sequence[OptionRow], start: Option | None, best: Option | None, recommended: Option | None
) -> str:
    if start is None or best is None or recommended is None:
        return "Every option is ruled out; see options for why. One of the limits has to give."
    costs: dict[Option, OptionRow] = {row.option: row for row in options}
    simplest = "one prompt and one call" if start == "prompt" else NAMES[start]
    said = f"Start with {simplest}: the simplest that is not ruled out, at {costs[start].a_month} a month."
    if best == start:
        return f"{said} No other option saves enough to be worth its upkeep."
    saved = _usd(Fraction(costs[start].micro_usd - costs[best].micro_usd))
    if recommended == best:
        return (
            f"{NAMES[best]} is shown to do what {NAMES[start]} does: it costs {costs[best].a_month} a month,"
            f" {saved} less than {simplest}."
        )
    return f"{said} {NAMES[best]} would save {saved} a month: move once a report shows that it is not worse."


def _changes(
    start: Option | None,
    best: Option | None,
    evens: Sequence[BreakEven],
    rows: Sequence[Sensitivity],
    options: Sequence[OptionRow],
) -> str:
    """What would change the recommendation, a line each."""
    lines: list[str] = []
    if start != best:
        lines += [
            f"at {each.requests:,.0f} requests a month: {each.says}"
            for each in evens
            if {each.one, each.other} == {start, best} and each.requests is not None
        ]
    lines += [f"{row.input}: {row.flips}" for row in [each for each in rows if each.flips != "never"][:5]]
    lines += [f"{NAMES[row.option]} is out: {'; '.join(row.ruled_out)}" for row in options if row.ruled_out]
    return "\n".join(lines)


def _usd(micro: Fraction) -> str:
    """US dollars and cents, rounded up; below a cent exact to the micro-dollar."""
    whole = math.ceil(micro)
    return f"${whole / 1e6:,.2f}" if whole >= 10_000 or not whole else f"${whole / 1e6:.6f}"
