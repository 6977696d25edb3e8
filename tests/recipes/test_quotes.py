"""Quotes of real jobs: learned from those before, with an interval after five, and counted as they came.

`AGENTD_QUOTE_JOBS=14` runs all of them, and then holds the figures to what is promised.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import pytest

from agentd.daemon import Daemon
from agentd.policy.callers import Caller
from agentd.policy.quotes import ENOUGH
from agentd.sdk import JobView

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SIZES = (200, 1_500, 600, 300, 1_000, 700, 400, 5_000, 900, 1_800, 2_600, 3_000, 4_000, 2_200)
JOBS = int(os.environ.get("AGENTD_QUOTE_JOBS", ENOUGH + 1))


def rows(path: Path, count: int) -> Path:
    """Training rows of as many different words as people would write."""
    dice = random.Random(count)
    words = [f"w{number}" for number in range(4_000)]

    def text() -> str:
        return " ".join(dice.choices(words, k=40))

    lines = (json.dumps({"prompt": text(), "completion": f"{text()} {number}"}) for number in range(count))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


async def test_real_jobs_of_different_sizes_are_quoted_from_those_before(
    boot: Callable[..., Awaitable[Daemon]],
    agent: Caller,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    daemon = await boot()
    jobs: list[JobView] = []
    for count in SIZES[:JOBS]:
        arguments = {"path": str(rows(tmp_path / f"{count}.jsonl", count)), "tokenizer_model": ""}
        view = await daemon.calls.call("check_dataset", arguments, agent)
        assert isinstance(view, JobView)
        jobs.append(await daemon.jobs.settled(view.id))
    assert {job.state for job in jobs} == {"succeeded"}
    later = jobs[ENOUGH:]
    errors = [abs(job.quote.seconds - (job.seconds or 0)) / (job.seconds or 1) for job in later]
    within = [job.quote.seconds_low <= (job.seconds or 0) <= job.quote.seconds_high for job in later]
    [kind] = daemon.quotes.kinds()
    for job, count in zip(jobs, SIZES[:JOBS], strict=True):
        print(f"{count} rows: quoted {job.quote.seconds} s "
              f"({job.quote.seconds_low} to {job.quote.seconds_high}), took {job.seconds:.2f} s")  # fmt: skip
    print(f"median error {median(errors):.1%}, within the interval {sum(within)} of {len(within)}: {kind}")
    record_property("median_error", median(errors))
    assert (kind.jobs, kind.stated, kind.covered) == (len(jobs), len(later), sum(within))
    assert all(0 < job.quote.seconds_low <= job.quote.seconds <= job.quote.seconds_high for job in later)
    assert [job.quote.past_jobs for job in jobs] == list(range(len(jobs)))
    if len(jobs) == len(SIZES):  # a machine that does other things as well takes other times
        assert median(errors) <= 0.2
        assert sum(within) >= len(within) // 2, "nine jobs say little of a share of 80 %"
