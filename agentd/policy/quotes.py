"""What a call will take: its tool's own estimate, corrected by what past jobs of the kind took.

A tool reckons from model size, data and method; the kernel keeps that raw estimate of each job beside
what the job did take, and learns the ratio. The kind is the tool and its ``timing_key``; as long as
there are too few of those, all jobs of the tool. The corrected time is the estimate times a median of
past ratios in which a job counts half as much as one four jobs later: it forgets, so it follows a
machine that was changed, and one job gone wrong does not move it.

Where the ratio goes with the size (a start that was reckoned too long, a cost that grows faster than
the rows), the time goes as another law of the estimate: a power of it, or what is left of it without
its start. Whichever law would have been nearest to the past jobs, each predicted from those before it,
is taken.

The interval is conformal: for each past job the correction is made from the jobs before it alone, and
the stated share of the errors seen that way, later ones counting for more, bounds the next one. It
assumes that the next job is like the last ones (Barber et al. 2023 on what is lost where it is not).
Memory is bounded by the worst of the last ratios instead: too little ends a job, too much does not.

All of this is a function of lists of numbers; `Quotes` puts rows in and prices on.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median

from pydantic import BaseModel, Field

from agentd.errors import InputError
from agentd.policy.prices import Prices
from agentd.sdk import Launch, Quote
from agentd.store.jobs import JobTable, PastJob

__all__ = ["LEVEL", "Kind", "Learned", "Quotes", "corrected", "kinds", "learn"]

LEVEL = 0.8
"""Share of jobs that should end within the interval stated for them."""
SAME_KIND = 3
"""From so many jobs on, a kind is judged by its own jobs and not by all of its tool."""
ENOUGH = 5
"""From so many jobs on, an interval is stated."""
WINDOW = 30
HALF_LIFE, SPREAD_HALF_LIFE = 4.0, 20.0
PEAKS = 10
PATIENCE = 3.0
"""A wall clock is at least so many times the upper end of the interval."""
RECENT = 10
LAWS: tuple[tuple[float, float], ...] = (
    (1.0, 0.0),
    (0.0, 0.0), (0.5, 0.0), (1.5, 0.0), (2.0, 0.0),
    (1.0, 0.4), (1.0, 0.7), (1.0, 0.85), (1.0, 0.95),
)  # fmt: skip
"""How time may go with the estimate: which power of it, and the share of the smallest that is left out."""
PREFERENCE = 0.8
"""Another law than the first has to bring past errors down to this share of them."""


@dataclass(frozen=True, slots=True)
class Learned:
    """From `jobs` past ones: the next one is about `ratio` times its estimate, in `LEVEL` of cases within
    a factor of `spread` of that. No `spread` while there are too few."""

    ratio: float
    spread: float | None
    jobs: int


class Quotes:
    """Quotes of launches on this machine."""

    def __init__(
        self,
        table: JobTable,
        prices: Prices,
        accelerator: str,
        *,
        max_price_days: int = 0,
        ram_bytes: int = 0,
        vram_bytes: int = 0,
    ) -> None:
        self._table, self._prices, self._accelerator = table, prices, accelerator
        self._max_price_days = max_price_days
        self._has = {"memory": ram_bytes, "GPU memory": vram_bytes}

    def of(self, tool: str, launch: Launch) -> Launch:
        """`launch` with its quote corrected and priced, and with time enough for what it should take.

        Raises `InputError` when it needs more memory than there is.
        """
        quote = corrected(launch.quote, self._table.past(tool), str(launch.spec.get("timing_key", "")))
        self._check_memory(tool, quote)
        on_gpu = self._accelerator != "cpu" and quote.vram_bytes > 0
        priced = quote.model_copy(
            update={
                "gpu_hours": round(quote.seconds / 3600, 4) if on_gpu else 0.0,
                "micro_usd": self._prices.of(self._accelerator, quote.seconds) + quote.tokens_micro_usd,
                "doubt": quote.doubt or self._doubt(),
            }
        )
        return replace(launch, quote=priced, timeout_s=self._limit(launch, quote))

    def kinds(self) -> list[Kind]:
        return kinds(self._table.past(limit=5_000))

    def _check_memory(self, tool: str, quote: Quote) -> None:
        for what, needed in (("memory", quote.ram_bytes), ("GPU memory", quote.vram_bytes)):
            if 0 < self._has[what] < needed:
                key = "ram_gb" if what == "memory" else "vram_gb"
                raise InputError(
                    f"{tool} would need about {needed / 1e9:.1f} GB of {what}, and there are"
                    f" {self._has[what] / 1e9:.1f} GB ({quote.basis})",
                    hint=f"Choose a smaller model, batch or method; if there is more, say so in {key}",
                )

    def _doubt(self) -> str:
        today = datetime.datetime.now(datetime.UTC).date()
        return self._prices.doubt(self._accelerator, today, self._max_price_days)

    def _limit(self, launch: Launch, quote: Quote) -> float:
        """The wall clock: what the tool asks for, or several times what past jobs took. A life stays."""
        if launch.service is not None or not quote.past_jobs:
            return launch.timeout_s
        needed = PATIENCE * max(quote.seconds, quote.seconds_high)
        return launch.timeout_s if needed <= launch.timeout_s else _two_figures(needed)


class Kind(BaseModel):
    """How good the quotes of one kind of job were. Errors are shares of what was taken."""

    tool: str
    key: str
    jobs: int
    factor: float = Field(description="what the tool's estimate is multiplied by now, if it is like the last")
    error: float | None = Field(description="median error of the last ten as they were quoted")
    stated: int = Field(description="jobs that had an interval stated")
    covered: int = Field(description="of these, those that ended within it")
    level: float = LEVEL


def learn(past: Sequence[tuple[float, float]], estimate: float) -> Learned:
    """For an `estimate`, from pairs of estimated and taken, oldest first; all in seconds."""
    past = past[-WINDOW:]
    if not past:
        return Learned(1.0, None, 0)
    smallest = min(estimate, *(estimated for estimated, _ in past))
    fitted = [_fitted(past, estimate, power, share * smallest) for power, share in LAWS]
    errors, expected = fitted[0]
    if len(past) < ENOUGH:
        return Learned(expected / estimate, None, len(past))
    best = min(fitted[1:], key=lambda law: sum(law[0]))
    if sum(best[0]) < PREFERENCE * sum(errors):
        errors, expected = best
    return Learned(expected / estimate, math.exp(_bound(errors)), len(past))


def _fitted(
    past: Sequence[tuple[float, float]], estimate: float, power: float, start: float
) -> tuple[list[float], float]:
    """Where time goes as that power of the estimate less `start`: how far off each of the past jobs was
    from those before it (logs), and the seconds that are to be expected."""
    logs = [math.log(taken) - power * math.log(estimated - start) for estimated, taken in past]
    errors = [abs(log - _center(logs[:index])) for index, log in enumerate(logs) if index]
    return errors, math.exp(_center(logs)) * (estimate - start) ** power


def corrected(estimate: Quote, past: Sequence[PastJob], key: str) -> Quote:
    """`estimate` with time and memory as past jobs of its tool (oldest first) took them; no price."""
    same = [job for job in past if job.key == key]
    like = same if len(same) >= SAME_KIND else past
    if not estimate.seconds or not (pairs := _pairs(like)):
        return _with_memory(estimate, like)
    learned = learn(pairs, estimate.seconds)
    seconds = estimate.seconds * learned.ratio
    whose = "like it" if like is same else f"of {past[0].tool}"
    jobs = f"{learned.jobs} past jobs {whose} took" if learned.jobs > 1 else f"one past job {whose} took"
    timed = estimate.model_copy(
        update={
            "seconds": _rounded(seconds),
            "seconds_low": _rounded(seconds / learned.spread) if learned.spread else 0.0,
            "seconds_high": _rounded(seconds * learned.spread) if learned.spread else 0.0,
            "level": LEVEL if learned.spread else 0.0,
            "past_jobs": learned.jobs,
            "basis": f"{estimate.basis or 'an estimate'}; times {learned.ratio:.2g}, as {jobs}",
        }
    )
    return _with_memory(timed, like)


def kinds(past: Iterable[PastJob]) -> list[Kind]:
    """What became of the quotes, a kind each, by tool and key."""
    ordered = sorted(past, key=lambda job: (job.tool, job.key))  # stable: within a kind the oldest first
    return [_kind(list(jobs)) for _, jobs in groupby(ordered, key=lambda job: (job.tool, job.key))]


def _kind(jobs: Sequence[PastJob]) -> Kind:
    errors = [abs(job.quote.seconds - job.seconds) / job.seconds for job in jobs if job.seconds > 0]
    stated = [job for job in jobs if job.quote.level]
    return Kind(
        tool=jobs[0].tool,
        key=jobs[0].key,
        jobs=len(jobs),
        factor=_factor(jobs),
        error=median(errors[-RECENT:]) if errors else None,
        stated=len(stated),
        covered=sum(job.quote.seconds_low <= job.seconds <= job.quote.seconds_high for job in stated),
    )


def _pairs(jobs: Iterable[PastJob]) -> list[tuple[float, float]]:
    """Estimated and taken seconds, where both are known."""
    pairs = ((job.estimate.seconds, job.seconds) for job in jobs)
    return [(estimated, taken) for estimated, taken in pairs if estimated > 0 and taken > 0]


def _factor(jobs: Sequence[PastJob]) -> float:
    """What an estimate like the last one is multiplied by now."""
    pairs = _pairs(jobs)
    return learn(pairs, pairs[-1][0]).ratio if pairs else 1.0


def _with_memory(quote: Quote, like: Sequence[PastJob]) -> Quote:
    """As much memory as the worst of the last jobs took of its estimate."""
    ratios = [
        job.max_rss_bytes / job.estimate.ram_bytes
        for job in like
        if job.estimate.ram_bytes and job.max_rss_bytes
    ]
    if len(ratios) < SAME_KIND or not quote.ram_bytes:
        return quote
    return quote.model_copy(update={"ram_bytes": round(quote.ram_bytes * max(ratios[-PEAKS:]))})


def _center(logs: Sequence[float]) -> float:
    """The weighted median, halfway between two where the weights meet."""
    weights = _weights(len(logs), HALF_LIFE)
    half, reached = sum(weights) / 2, 0.0
    ordered = sorted(zip(logs, weights, strict=True))
    for index, (value, weight) in enumerate(ordered):
        reached += weight
        if math.isclose(reached, half):
            return (value + ordered[index + 1][0]) / 2
        if reached > half:
            return value
    return ordered[-1][0]


def _bound(errors: Sequence[float]) -> float:
    """What `LEVEL` of the errors stay below, the unseen next one counted in; the largest if they are few."""
    weights = _weights(len(errors), SPREAD_HALF_LIFE)
    needed, reached = LEVEL * (sum(weights) + 1), 0.0
    for error, weight in sorted(zip(errors, weights, strict=True)):
        reached += weight
        if reached >= needed:
            return error
    return max(errors)


def _weights(count: int, half_life: float) -> list[float]:
    return [0.5 ** ((count - 1 - index) / half_life) for index in range(count)]


def _two_figures(seconds: float) -> float:
    """Rounded up, so that a job more or less behind it leaves a limit, and what is approved, as it was."""
    unit = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / unit) * unit


def _rounded(seconds: float) -> float:
    return round(seconds, 1) if seconds >= 1 else round(seconds, 3)
