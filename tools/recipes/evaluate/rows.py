"""Rows of a suite, read, written and looked into."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path, limit: int = 0) -> list[Row]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    return rows[:limit] if limit else rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def replace(path: Path, text: str) -> None:
    part = path.with_suffix(".tmp")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def value_at(row: Mapping[str, Any], dotted: str) -> Any:
    value: Any = row
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
