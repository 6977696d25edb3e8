"""A chunk's row as it is analyzed, and as it is cited."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from words import analyze

Row = Mapping[str, Any] | sqlite3.Row


def place(row: Row) -> str:
    """Title and headings, without repeating what they share."""
    return " > ".join(dict.fromkeys(filter(None, [row["title"], *json.loads(row["heading"])])))


def stems_of(row: sqlite3.Row) -> list[str]:
    return analyze(f"{place(row)}\n{row['text']}")


def with_parents(ranked: Iterable[tuple[sqlite3.Row, float]]) -> list[tuple[Row, float]]:
    """Small to big: the parents of chunks that have one, each once, where its best chunk stood.

    A parent is read from the source; a chunk whose source has changed since is given as it is.
    """
    found: dict[tuple[Any, ...], tuple[Row, float]] = {}
    for row, score in ranked:
        start, end = row["parent_start"], row["parent_end"]
        text = parent_text(row) if start is not None else None
        if text is None:
            found.setdefault((row["id"],), (row, score))
        else:
            parent = {**row, "start": start, "end": end, "text": text}
            found.setdefault((row["source"], start, end), (parent, score))
    return list(found.values())


def parent_text(row: sqlite3.Row) -> str | None:
    """What the source holds at the parent's bytes, if the chunk is still in it."""
    start, end = row["parent_start"], row["parent_end"]
    try:
        with Path(row["source"]).open("rb") as source:
            source.seek(start)
            data = source.read(end - start)
        same = data[row["start"] - start : row["end"] - start] == row["text"].encode()
        return data.decode() if same else None
    except (OSError, UnicodeDecodeError):
        return None


def citation(row: Row) -> dict[str, Any]:
    return {
        "text": row["text"],
        "source": row["source"],
        "document": row["document"],
        "title": row["title"],
        "heading": json.loads(row["heading"]),
        "page": row["page"],
        "start": row["start"],
        "end": row["end"],
        "chunk": row["id"],
    }


def hit(row: Row, rank: int, score: float) -> dict[str, Any]:
    return {"rank": rank, "score": round(score, 6), **citation(row)}
