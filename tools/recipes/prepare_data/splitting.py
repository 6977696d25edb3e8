"""Balance of labels, and groups to training, validation and test, none to two of them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from random import Random
from statistics import median_low
from typing import Any

from samples import Sample, Steps, normalise
from sets import Sets


def rank(seed: int, text: str) -> str:
    """A place in an order that depends on the seed and the row only."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()


def level(samples: Sequence[Sample], per_label: int) -> int:
    counts = Counter(sample.label for sample in samples)
    return per_label or median_low(counts.values())


def capped(samples: list[Sample], per_label: int, seed: int, steps: Steps) -> list[Sample]:
    """At most so many rows of each label, drawn by the seed."""
    most = level(samples, per_label)
    over_it: dict[int, str] = {}
    labels: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        labels[sample.label].append(sample)
    for label, rows in labels.items():
        rows.sort(key=lambda s: rank(seed, s.whole))
        over_it |= {id(s): f"label {label!r} has {most} rows without it" for s in rows[most:]}
    what = f"at most {most} rows of each of {len(labels)} labels"
    return steps.keep("balance", samples, lambda s: over_it.get(id(s), ""), what)


def upsampled(train: list[Sample], per_label: int, seed: int, steps: Steps) -> list[Sample]:
    """Rows of rare labels again, up to so many; in the training rows only."""
    least = level(train, per_label)
    labels: dict[str, list[Sample]] = defaultdict(list)
    for sample in train:
        labels[sample.label].append(sample)
    more: list[Sample] = []
    for rows in labels.values():
        rows = sorted(rows, key=lambda s: rank(seed, s.whole))
        more += [rows[k % len(rows)] for k in range(max(0, least - len(rows)))]
    steps.tell(
        "balance", len(train), len(train) + len(more), len(more), f"rows repeated up to {least} a label"
    )
    return train + more


def group(samples: Sequence[Sample]) -> None:
    """Number what must stay together: a cluster, a user's rows, a document's rows, and what these link."""
    sets = Sets(len(samples))
    for what in ("cluster", "user", "document"):
        first: dict[Any, int] = {}
        for i, sample in enumerate(samples):
            value = getattr(sample, what)
            if value not in ("", -1):
                sets.join(i, first.setdefault(value, i))
    numbers: dict[int, int] = {}
    for i, sample in enumerate(samples):
        sample.group = numbers.setdefault(sets.find(i), len(numbers))


def split(samples: list[Sample], shares: Mapping[str, float], seed: int) -> dict[str, list[Sample]]:
    """Groups to splits: drawn by the seed, each label to each split by its share as far as groups allow.

    A group goes to a split with a chance in proportion to how many rows of its labels are still missing
    there, large groups first; one larger than what is missing goes elsewhere.
    """
    group(samples)
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    totals = Counter(sample.label for sample in samples)
    missing = {s: {label: share * n for label, n in totals.items()} for s, share in shares.items()}
    room = {s: share * len(samples) for s, share in shares.items()}
    keyed = sorted(groups.values(), key=lambda g: (-len(g), rank(seed, g[0].whole)))
    made: dict[str, list[Sample]] = {s: [] for s in shares}
    draw = Random(seed)
    for rows in keyed:
        labels = Counter(sample.label for sample in rows)
        weights = [
            sum(n * max(0.0, missing[s][label]) for label, n in labels.items())
            if s == "train" or len(rows) <= room[s] + 0.5
            else 0.0
            for s in shares
        ]
        chosen = draw.choices(list(shares), weights)[0] if any(weights) else "train"
        made[chosen] += rows
        room[chosen] -= len(rows)
        for label, n in labels.items():
            missing[chosen][label] -= n
    return {s: sorted(rows, key=lambda r: rank(seed, r.whole)) for s, rows in made.items()}


def proof(splits: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Counted anew on the finished splits: how many clusters, users, documents, questions are in two."""
    told: dict[str, Any] = {}
    kinds: dict[str, Callable[[Sample], Any]] = {
        "clusters": lambda s: s.cluster if s.cluster >= 0 else None,
        "users": lambda s: s.user or None,
        "documents": lambda s: s.document or None,
        "equal_questions": lambda s: normalise(s.asked),
    }
    for what, value_of in kinds.items():
        where: dict[Any, set[str]] = defaultdict(set)
        for name, rows in splits.items():
            for sample in rows:
                if (value := value_of(sample)) is not None:
                    where[value].add(name)
        told[what] = {"of": len(where), "crossing": sum(1 for names in where.values() if len(names) > 1)}
    return told
