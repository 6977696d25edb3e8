"""Rows of JSONL, CSV and TSV as documents, each with an id, a title and a text.

Which fields these are is told, or found by the names that data sets use. A row without a text field is read
as its fields, a line each. JSONL is streamed: one line at a time is held, however large the file.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from failures import Unreadable
from files import STREAMED, read
from text_bytes import decode

SUFFIXES = STREAMED | {".csv", ".tsv"}
MOST_BYTES = 5_000_000  # of one line or field
MOST_META, META_CHARS = 64, 300  # fields of a row that are kept for filters, and how long they may be
NAMES: dict[str, tuple[str, ...]] = {
    "id": ("_id", "id", "doc_id", "docid", "uid", "uuid"),
    "title": ("title", "name", "subject", "headline", "heading"),
    "text": ("text", "body", "content", "contents", "passage", "abstract", "description"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """`number` counts from 1, a header line not included. `why`: why it is left out, else "".

    `meta`: its other fields, for filters.
    """

    number: int
    id: str = ""
    title: str = ""
    text: str = ""
    why: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


def read_rows(path: Path, fields: Mapping[str, str]) -> Iterator[Row]:
    """Rows in order. `fields` names the fields that hold `id`, `title` and `text`, as far as they are known.

    Raises `Unreadable` where the file as a whole is no such table, or lacks a field that was named.
    """
    records = lines_of(path) if path.suffix.lower() in STREAMED else table_of(path)
    taken: dict[str, int] = {}
    chosen: dict[tuple[str, ...], dict[str, str]] = {}  # by the names that a row has
    for number, record in records:
        if isinstance(record, str):
            yield Row(number, why=record)
            continue
        names = tuple(record)
        if not chosen:
            refuse_unknown(names, fields)
        if names not in chosen:
            chosen[names] = choose(names) | dict(fields)
        row = made(number, record, chosen[names])
        first = taken.setdefault(row.id, number) if not row.why else number
        yield row if first == number else Row(number, why=f"its id {row.id!r} is that of row {first}")


def refuse_unknown(names: Sequence[str], fields: Mapping[str, str]) -> None:
    for part, name in fields.items():
        if name not in names:
            raise Unreadable(f"has no field {name!r} for the {part}; there are: {', '.join(names)}")


def choose(names: Sequence[str]) -> dict[str, str]:
    """The field for each of id, title and text, as far as there is one."""
    known = {name.lower(): name for name in reversed(names)}
    found = {part: next((known[n] for n in wanted if n in known), "") for part, wanted in NAMES.items()}
    return {part: name for part, name in found.items() if name}


def made(number: int, record: Mapping[str, Any], chosen: Mapping[str, str]) -> Row:
    title = plain(record.get(chosen.get("title", "")))
    if "text" in chosen:
        text = plain(record.get(chosen["text"]))
    else:
        named = {name: plain(value) for name, value in record.items() if name not in chosen.values()}
        text = "\n".join(f"{name}: {value}" for name, value in named.items() if value)
    if not text:
        text, title = title, ""
    if not text:
        return Row(number, why="no text")
    id_ = plain(record.get(chosen.get("id", ""))) or str(number)
    return Row(number, id_, " ".join(title.split()), text, meta=meta_of(record, chosen))


def meta_of(record: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, Any]:
    """The other fields, as far as they are short values or lists of such; BEIR's ``metadata`` too."""
    nested = record.get("metadata")
    whole = {**(nested if isinstance(nested, dict) else {}), **record}
    kept = {name: value for name, value in whole.items() if name not in chosen.values() and is_meta(value)}
    return dict(list(kept.items())[:MOST_META])


def is_meta(value: Any) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= MOST_META and all(
            is_meta(one) and not isinstance(one, list) for one in value
        )
    if isinstance(value, int | float):
        return math.isfinite(value)
    return isinstance(value, str) and 0 < len(value) <= META_CHARS


def plain(value: Any) -> str:
    if value is None or isinstance(value, str):
        return (value or "").replace("\0", "").strip()
    return json.dumps(value, ensure_ascii=False)


def lines_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Objects of JSONL, or what is wrong with a line. Raises `Unreadable` if the first line is no JSON."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MOST_BYTES + 1):
            number += 1
            if len(line) > MOST_BYTES and not line.endswith(b"\n"):
                skip_line(stream)
                yield number, f"longer than {MOST_BYTES / 1e6:.0f} MB"
            elif line.strip():
                yield number, parsed(line, number)


def skip_line(stream: BinaryIO) -> None:
    while (part := stream.readline(MOST_BYTES)) and not part.endswith(b"\n"):
        pass


def parsed(line: bytes, number: int) -> Mapping[str, Any] | str:
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {line[error.start]:#04x}"
    except (ValueError, RecursionError):
        if number == 1:
            raise Unreadable("its first line is no JSON; give it another ending, such as .txt") from None
        return "no JSON"
    if isinstance(record, str):
        return {"text": record}
    return record if isinstance(record, dict) else "no JSON object"


def table_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Records by the names in the first line. A cell of any length within the file's limit is read."""
    text, _ = decode(read(path))
    csv.field_size_limit(MOST_BYTES)
    tabs = path.suffix.lower() == ".tsv"
    reader = csv.DictReader(
        io.StringIO(text.removeprefix("\ufeff"), newline=""),
        delimiter="\t" if tabs else separator(text),
        restkey="",
    )
    number = 0
    while True:
        number += 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"no CSV: {error}"
            continue
        extra = record.pop("", None)
        yield number, "more cells than the first line has names" if extra else record


def separator(text: str) -> str:
    """Comma, semicolon or tab: whichever parts the first line most."""
    first = text.split("\n", 1)[0]
    return max(",;\t", key=first.count)


def holds_rows(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def count_rows(path: Path) -> int:
    """About how many there are: the ends of its lines. 0 if it cannot be read, which the reading tells."""
    try:
        with path.open("rb") as stream:
            return sum(part.count(b"\n") for part in iter(lambda: stream.read(1 << 20), b""))
    except OSError:
        return 0
