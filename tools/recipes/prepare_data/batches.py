"""Work on many rows at once, on every core."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from events import Progress
from samples import Sample

BATCH = 500  # rows handed to a worker at once


def over(samples: Sequence[Sample], work: Callable[[list[Sample]], list[Any]], unit: str) -> list[Any]:
    """`work` over batches of samples on every core, in order."""
    batches = [list(samples[i : i + BATCH]) for i in range(0, len(samples), BATCH)]
    cores = min(len(os.sched_getaffinity(0)), len(batches))
    progress, done = Progress(unit, len(samples)), 0
    results: list[Any] = []
    if cores <= 1:
        parts: Iterable[list[Any]] = map(work, batches)
        for part in parts:
            results += part
            progress(done := done + len(part))
        return results
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        for part in pool.imap(work, batches):
            results += part
            progress(done := done + len(part))
    return results
