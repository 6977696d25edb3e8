"""Rows that ask nearly the same: candidates by MinHash, each compared exactly."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from batches import BATCH
from events import Progress
from samples import SHOWN, Sample, Steps, excerpt, normalise
from sets import Sets

GRAM, PERMUTATIONS = 5, 128
BOILERPLATE = 20  # characters that all rows of a file share before they count as a template's


def grams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1)))


def shared(texts: Sequence[str]) -> str:
    """The words that all `texts` begin with: as far as the first and the last in order agree."""
    low, high = min(texts), max(texts)
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[: low.rfind(" ", 0, same) + 1]


def compared(samples: Sequence[Sample]) -> list[str]:
    """What is compared of each sample: what is asked, without what all rows of its file begin or end with.

    A template's words would make all rows alike.
    """
    texts = [normalise(sample.asked) for sample in samples]
    files: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        files[sample.origin.rpartition(":")[0]].append(i)
    for rows in files.values():
        some = [texts[i] for i in rows]
        if len(some) < BOILERPLATE:
            continue
        head, tail = shared(some), shared([text[::-1] for text in some])
        for i in rows:
            cut = texts[i][len(head) if len(head) >= BOILERPLATE else 0 :]
            cut = cut[: len(cut) - len(tail)] if len(tail) >= BOILERPLATE else cut
            texts[i] = cut.strip() or texts[i]
    return texts


def sketched(batch: list[str]) -> list[list[int]]:
    from rensa import RMinHash

    return RMinHash.digests_from_token_sets([list(grams(text)) for text in batch], PERMUTATIONS, 1)


def bands(near: float) -> int:
    """Rows of a band such that two texts as similar as `near` meet in some band in 999 of 1,000 cases."""
    fits = [r for r in range(1, 17) if 1 - (1 - near**r) ** (PERMUTATIONS // r) >= 0.999]
    return max(fits, default=1)


def cluster(samples: Sequence[Sample], near: float) -> tuple[Sets, int]:
    """Sets of near-duplicates, and how many comparisons confirmed one.

    Candidates meet in a band of their MinHash sketches; each is then compared exactly, with up to ten
    sets that met in the same place. So a set holds what is similar to some member of it.
    """
    import numpy as np

    texts = compared(samples)
    first: dict[str, int] = {}
    sets = Sets(len(samples))
    for i, text in enumerate(texts):
        sets.join(i, first.setdefault(text, i))
    rows = sorted(first.values())
    batches = [[texts[i] for i in rows[k : k + BATCH]] for k in range(0, len(rows), BATCH)]
    progress, sketches = Progress("rows sketched", len(rows)), []
    for batch in batches:
        sketches += sketched(batch)
        progress(len(sketches))
    matrix = np.array(sketches, dtype=np.uint32)
    width, confirmed = bands(near), 0
    shapes = functools.lru_cache(1 << 16)(lambda i: grams(texts[i]))
    progress = Progress("bands compared", PERMUTATIONS // width)
    for band in range(PERMUTATIONS // width):
        keys = (
            np.ascontiguousarray(matrix[:, band * width : (band + 1) * width]).view(f"V{4 * width}").ravel()
        )
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            if end - start > 1:
                confirmed += joined([rows[k] for k in order[start:end]], shapes, near, sets)
        progress(band + 1)
    return sets, confirmed


def joined(met: Sequence[int], shapes: Callable[[int], frozenset[str]], near: float, sets: Sets) -> int:
    """Join what met in a band and is similar; returns how many were."""
    seen: dict[int, int] = {}
    count = 0
    for i in met:
        if sets.find(i) in seen:
            continue
        for other in list(seen.values())[:10]:
            if similarity(shapes(i), shapes(other)) >= near:
                sets.join(i, other)
                count += 1
                break
        seen.setdefault(sets.find(i), i)
    return count


def similarity(one: frozenset[str], two: frozenset[str]) -> float:
    # Sets of very different sizes cannot be similar: the quick answer to most comparisons.
    shared = len(one & two)
    return shared / (len(one) + len(two) - shared)


def near_duplicates(
    samples: list[Sample], near: float, leave_out: bool, steps: Steps
) -> tuple[list[Sample], int]:
    """Number the clusters; with `leave_out` keep the first row of each. Gives the comparisons confirmed."""
    sets, confirmed = cluster(samples, near)
    numbers: dict[int, int] = {}
    first: dict[int, Sample] = {}
    later: dict[int, str] = {}
    for i, sample in enumerate(samples):
        sample.cluster = numbers.setdefault(sets.find(i), len(numbers))
        earlier = first.setdefault(sample.cluster, sample)
        if earlier is not sample:
            later[id(sample)] = f"it is nearly {earlier.origin}"
    sizes = Counter(sample.cluster for sample in samples)
    several = sum(1 for size in sizes.values() if size > 1)
    what = f"{len(later)} rows are near-duplicates of another, in {several} clusters"
    if leave_out:
        kept = steps.keep("near-duplicates", samples, lambda s: later.get(id(s), ""), f"{what}; left out")
        return kept, confirmed
    examples = [f"{s.origin}: {later[id(s)]}: {excerpt(s.asked)}" for s in samples if id(s) in later][:SHOWN]
    steps.tell("near-duplicates", len(samples), len(samples), len(later), f"{what}; kept, on one side",
               examples=examples)  # fmt: skip
    return samples, confirmed
