"""A chunk's row as it is analyzed, and as it is cited."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from words import analyze


def place(row: sqlite3.Row) -> str:
    """Title and headings, without repeating what they share."""
    return " > ".join(dict.fromkeys(filter(None, [row["title"], *json.loads(row["heading"])])))


def stems_of(row: sqlite3.Row) -> list[str]:
    return analyze(f"{place(row)}\n{row['text']}")


def citation(row: sqlite3.Row) -> dict[str, Any]:
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


def hit(row: sqlite3.Row, rank: int, score: float) -> dict[str, Any]:
    return {"rank": rank, "score": round(score, 6), **citation(row)}
