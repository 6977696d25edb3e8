"""Filters on what is known of documents: chunks that meet all of them.

`document` (name, ``*`` and ``?`` as in a shell), `path` (a name begins with it), `title` and `page` are known
of every document; other names are fields of its own: of its row, or of a Markdown file's front matter. A
list of values means any of them; ``{"gte": …, "lte": …}`` a range. Values compare as text, so that "3" is 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bodies import Bounds
from problems import Problem
from store import Store

COLUMNS = {"document": "d.name", "path": "d.name", "title": "d.title", "page": "c.page"}


def matching(store: Store, collection: int, where: Mapping[str, Any]) -> frozenset[int]:
    """Ids of chunks. Raises `Problem` for a field that no document of the collection has."""
    clauses, values = ["d.collection = ?"], [collection]
    for name, wanted in where.items():
        clause, bound = condition(name, wanted)
        clauses.append(clause)
        values += bound
    sql = "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document WHERE"
    found = frozenset(row["id"] for row in store.rows(f"{sql} {' AND '.join(clauses)}", *values))
    if not found:
        refuse_unknown(store, collection, where)
    return found


def condition(name: str, wanted: Any) -> tuple[str, list[Any]]:
    """SQL over one document ``d`` and its chunk ``c``, and what it binds."""
    if name in COLUMNS:
        test, values = comparison(name, COLUMNS[name], wanted)
        return f"({test})", values
    test, values = comparison(name, "e.value", wanted)
    return f"EXISTS (SELECT 1 FROM json_each(d.meta, ?) e WHERE {test})", [f'$."{own(name)}"', *values]


def own(name: str) -> str:
    if not name or '"' in name or "\\" in name:
        raise Problem(
            422, f"where: {name!r} is no name of a field", "name one without quotes and backslashes"
        )
    return name


def comparison(name: str, place: str, wanted: Any) -> tuple[str, list[Any]]:
    if isinstance(wanted, Bounds):
        return bounds(name, place, wanted)
    values = [text_of(value) for value in (wanted if isinstance(wanted, list) else [wanted])]
    if name == "path":
        return " OR ".join(["substr(d.name, 1, length(?)) = ?"] * len(values)) or "0", [
            value for value in values for _ in range(2)
        ]
    if name == "document":
        return " OR ".join(["d.name = ? OR d.name GLOB ?"] * len(values)) or "0", [
            value for value in values for _ in range(2)
        ]
    return f"CAST({place} AS TEXT) IN (SELECT value FROM json_each(?))", [json.dumps(values)]


def bounds(name: str, place: str, wanted: Bounds) -> tuple[str, list[Any]]:
    tests, values = [f"{place} IS NOT NULL"], []
    for sign, value in ((">=", wanted.gte), ("<=", wanted.lte)):
        if value is not None:
            kind = "TEXT" if isinstance(value, str) else "REAL"
            tests.append(f"CAST({place} AS {kind}) {sign} ?")
            values.append(value)
    if not values:
        raise Problem(422, f"where.{name}: a range needs gte or lte", 'such as {"gte": 2020}')
    return " AND ".join(tests), values


def text_of(value: Any) -> str:
    """As SQLite casts what JSON holds: true is 1."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def refuse_unknown(store: Store, collection: int, where: Mapping[str, Any]) -> None:
    rows = store.rows(
        "SELECT DISTINCT e.key FROM documents d, json_each(d.meta) e WHERE d.collection = ? ORDER BY 1",
        collection,
    )
    there = {row["key"] for row in rows}
    if unknown := sorted(where.keys() - COLUMNS.keys() - there):
        names = ", ".join([*COLUMNS, *sorted(there)][:40])
        raise Problem(422, f"where: no document has a field {unknown[0]!r}", f"there are: {names}")
