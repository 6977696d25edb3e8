"""One table of a TOML file, set or gone: the lines of others, and their comments, stay as they are.

Whatever is written was read again and found to hold what it should; a file whose tables are written
in a way that this cannot change (all in one line) is refused.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.errors import DataError

__all__ = ["drop", "put", "read"]

_HEADER = re.compile(r"[ \t]*\[\[?(?P<name>[^\[\]\n]+)\]\]?[ \t]*(#.*)?\r?\n?$")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read(path: Path, text: str) -> dict[str, Any]:
    """What the file holds. Raises `DataError` naming the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        raise DataError(
            path,
            f"is no TOML: {error}",
            line=int(found[1]) if found else None,
            hint="Mend the file; nothing was written",
        ) from error


def put(path: Path, text: str, keys: Sequence[str], table: Mapping[str, Any]) -> str:
    """`text` with the table at `keys` holding just `table`; comments in it are kept. Raises `DataError`."""
    values = read(path, text)
    wanted = _with(values, keys, dict(table))
    start, end, comments = _span(text, keys)
    section = "\n".join([f"[{_dotted(keys)}]", *comments, *_lines(table, keys)]) + "\n"
    if start == end:  # there is none yet
        gap = "" if not text.strip() else "\n" if text.endswith("\n") else "\n\n"
        changed = text + gap + section
    else:
        changed = text[:start] + section + text[end:]
    return _checked(path, changed, wanted, keys)


def drop(path: Path, text: str, keys: Sequence[str]) -> str:
    """`text` without the table at `keys`. Raises `DataError`."""
    values = read(path, text)
    wanted = _without(values, keys)
    if wanted == values:
        return text
    start, end, _ = _span(text, keys)
    before, tail = text[:start].rstrip("\n"), text[end:].lstrip("\n")
    gap = "\n\n" if before and tail else "\n" if before else ""
    changed = before + gap + tail
    return _checked(path, changed, wanted, keys)


def _checked(path: Path, changed: str, wanted: Mapping[str, Any], keys: Sequence[str]) -> str:
    try:
        came = tomllib.loads(changed)
    except tomllib.TOMLDecodeError:
        came = None
    if _solid(came) != _solid(wanted):
        raise DataError(
            path,
            "is written in a way that cannot be changed here",
            field=_dotted(keys),
            hint=f"Write it as a table, [{_dotted(keys)}], or change it by hand; nothing was written",
        )
    return changed


def _solid(value: Any) -> Any:
    """Without tables that hold nothing: a file may say, or leave out, that there are none."""
    if not isinstance(value, dict):
        return value
    inner = {key: _solid(each) for key, each in value.items()}
    return {key: each for key, each in inner.items() if each != {}}


def _span(text: str, keys: Sequence[str]) -> tuple[int, int, list[str]]:
    """Where the table and those within it stand, and its comments; not those that introduce the next."""
    lines = text.splitlines(keepends=True)
    heads = {n: _names(found["name"]) for n, line in enumerate(lines) if (found := _HEADER.match(line))}
    ours = [n for n, names in heads.items() if names[: len(keys)] == list(keys)]
    if not ours:
        return len(text), len(text), []
    first = ours[0]
    last = next((n for n in heads if n > ours[-1]), len(lines))
    while not lines[last - 1].strip() or lines[last - 1].lstrip().startswith("#"):
        last -= 1
    comments = [line.rstrip() for line in lines[first + 1 : last] if line.lstrip().startswith("#")]
    return len("".join(lines[:first])), len("".join(lines[:last])), comments


def _names(dotted: str) -> list[str]:
    """The parts of a header's name, such as ``a."b.c"``."""
    parts = re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s\"']+", dotted)
    return [part.strip("\"'") for part in parts]


def _dotted(keys: Sequence[str]) -> str:
    return ".".join(key if _BARE.fullmatch(key) else json.dumps(key) for key in keys)


def _lines(table: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    own = [f"{_dotted([key])} = {_value(each)}" for key, each in table.items() if not isinstance(each, dict)]
    for key, each in table.items():
        if isinstance(each, dict):
            own += ["", f"[{_dotted([*keys, key])}]", *_lines(each, [*keys, key])]
    return own


def _value(value: Any) -> str:
    """Strings and numbers as TOML writes them, which for these is as JSON does."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_dotted([key])} = {_value(each)}" for key, each in value.items()) + "}"
    if value is None or isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return value.isoformat()  # the one kind that is left: dates and times


def _with(values: Mapping[str, Any], keys: Sequence[str], table: Any) -> dict[str, Any]:
    first, *rest = keys
    inner = values.get(first, {})
    return {**values, first: _with(inner if isinstance(inner, dict) else {}, rest, table) if rest else table}


def _without(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    first, *rest = keys
    if first not in values:
        return dict(values)
    if not rest:
        return {key: each for key, each in values.items() if key != first}
    inner = values[first]
    return {**values, first: _without(inner, rest) if isinstance(inner, dict) else inner}
