"""Rows as a trainer reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from samples import Record, Sample


def rows_of(samples: Sequence[Sample], turns: str, users: Mapping[str, str]) -> list[Record]:
    """Rows as a trainer reads them, all with the same fields."""
    rows: list[Record] = []
    for sample in samples:
        ends = [len(sample.messages) - 1]
        if turns == "each":
            asked = next((i for i, m in enumerate(sample.messages) if m["role"] == "user"), 0)
            ends = [i for i, m in enumerate(sample.messages) if m["role"] == "assistant" and i > asked]
        for end in ends:
            if sample.text:
                said: Record = {"text": sample.text}
            else:
                said = {"prompt": sample.messages[:end], "completion": sample.messages[end : end + 1]}
            last = end == len(sample.messages) - 1
            about = {
                "rejected": sample.rejected if last else "",
                "label": sample.label,
                "user": users.get(sample.user, ""),
                "document": sample.document,
                "source": sample.source,
            }
            rows.append({"id": row_id(said), **said, **about, "origin": sample.origin, "group": sample.group})
    return rows


def row_id(said: Record) -> str:
    """The same words are the same row, in every version of a data set."""
    return hashlib.sha256(json.dumps(said, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]


def used_fields(splits: Mapping[str, Sequence[Record]]) -> set[str]:
    """Fields with a value in some row of some split."""
    return {k for rows in splits.values() for row in rows for k, v in row.items() if v not in ("", None)}


def write_rows(path: Path, rows: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
