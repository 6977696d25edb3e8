"""JSON as editors write it, with comments and trailing commas: changed at one place, the rest left as it is.

`read` gives the values; `put` and `drop` give the text with one member set or gone. They know nothing of
what the file is for. Of a key that stands twice in an object, the last counts, as it does for editors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentd.errors import DataError

__all__ = ["drop", "put", "read"]

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_PLAIN = re.compile(r"-?\d[\d.eE+-]*|[A-Za-z]+")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')


@dataclass
class _Node:
    """A value between two offsets of the text; `members` of an object in the order they stand."""

    start: int
    value: Any
    end: int = 0
    members: list[_Member] = field(default_factory=list["_Member"])


@dataclass
class _Member:
    start: int
    key: str
    node: _Node
    comma: int = -1  # the offset of the comma behind it, if there is one


def read(path: Path, text: str) -> dict[str, Any]:
    """What the file holds, {} when it is blank. Raises `DataError` naming the line."""
    return _Reader(path, text).document().value


def put(path: Path, text: str, keys: Sequence[str], value: Any) -> str:
    """`text` with the member at `keys` set to `value`; objects on the way are made. Raises `DataError`."""
    if not _BLANK.sub("", text):
        text = text.rstrip() + "\n{\n}\n" if text.strip() else "{\n}\n"
    node, unit = _Reader(path, text).document(), _indent(text)
    for depth, key in enumerate(keys):
        member = _member(node, key)
        if member is None:
            for name in reversed(keys[depth + 1 :]):
                value = {name: value}
            return _insert(text, node, key, value, unit)
        if depth < len(keys) - 1 and not isinstance(member.node.value, dict):
            raise DataError(
                path,
                f"should be an object, not {json.dumps(member.node.value)[:60]}",
                line=_line(text, member.start),
                field=".".join(keys[: depth + 1]),
            )
        node = member.node
    dumped = _dump(value, unit, _margin(text, node.start))
    return text[: node.start] + dumped + text[node.end :]


def drop(path: Path, text: str, keys: Sequence[str]) -> str:
    """`text` without the member at `keys`, nor its object if that is empty then. Raises `DataError`."""
    node = _Reader(path, text).document()
    way: list[tuple[_Node, _Member]] = []
    for key in keys:
        member = _member(node, key)
        if member is None:
            return text
        way.append((node, member))
        node = member.node
    while len(way) > 1 and len(way[-1][0].members) == 1:
        way.pop()
    return _remove(text, *way[-1])


def _insert(text: str, node: _Node, key: str, value: Any, unit: str) -> str:
    close = node.end - 1
    margin = _margin(text, close)
    last = node.members[-1] if node.members else None
    if last is not None and "\n" not in text[node.start : node.end]:
        dumped = f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        return text[: last.node.end] + f", {dumped}" + text[last.node.end :]
    inner = _margin(text, last.start) if last else margin + unit
    trailing = "," if last is not None and last.comma >= 0 else ""  # as who wrote it does
    line = f"\n{inner}{json.dumps(key)}: {_dump(value, unit, inner)}{trailing}"
    kept = len(text[:close].rstrip(" \t\r\n"))  # comments before the brace stay before the new member
    text = text[:kept] + line + "\n" + margin + text[close:]
    if last is not None and last.comma < 0:
        text = text[: last.node.end] + "," + text[last.node.end :]
    return text


def _remove(text: str, node: _Node, member: _Member) -> str:
    place = node.members.index(member)
    before = node.members[place - 1] if place else None
    end = member.comma + 1 if member.comma >= 0 else member.node.end
    start = len(text[: member.start].rstrip(" \t"))
    rest = text[end:]
    if start and text[start - 1] == "\n" and re.match(r"[ \t\r]*(\n|\})", rest):
        start -= 1  # it had its lines to itself
        start -= text[:start].endswith("\r")
    elif re.match(r"[ \t]+[^ \t]", rest):
        rest = rest.lstrip(" \t")
        start = member.start
    text = text[:start] + rest
    if member.comma < 0 and before is not None and before.comma >= 0:
        text = text[: before.comma] + text[before.comma + 1 :]
    return text


def _member(node: _Node, key: str) -> _Member | None:
    return next((member for member in reversed(node.members) if member.key == key), None)


def _dump(value: Any, unit: str, margin: str) -> str:
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", "\n" + margin)


def _margin(text: str, at: int) -> str:
    """The white space that the line of an offset begins with."""
    line = text[text.rfind("\n", 0, at) + 1 :]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _indent(text: str) -> str:
    found = re.search(r"\n([ \t]+)\S", text)
    return found[1] if found else "  "


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


class _Reader:
    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text, self._at = path, text, 1 if text.startswith("\ufeff") else 0

    def document(self) -> _Node:
        self._skip()
        if self._at == len(self._text):
            return _Node(self._at, {}, self._at)
        if self._text[self._at] != "{":
            raise self._wrong("should begin with '{'")
        node = self._value(0)
        self._skip()
        if self._at < len(self._text):
            raise self._wrong("goes on after its end")
        return node

    def _value(self, depth: int) -> _Node:
        if depth > 64:
            raise self._wrong("is nested deeper than 64 levels")
        node = _Node(self._at, None)
        match self._text[self._at : self._at + 1]:
            case "{":
                self._object(node, depth)
            case "[":
                self._array(node, depth)
            case '"':
                node.value = self._string()
            case _:
                node.value = self._plain()
        node.end = self._at
        return node

    def _object(self, node: _Node, depth: int) -> None:
        self._at += 1
        self._skip()
        while not self._takes("}"):
            if node.members and node.members[-1].comma < 0:
                raise self._wrong("lacks a ',' or '}'")
            start = self._at
            if self._text[start : start + 1] != '"':
                raise self._wrong("needs a key in double quotes")
            key = self._string()
            self._skip()
            if not self._takes(":"):
                raise self._wrong(f"lacks a ':' after {key!r}")
            self._skip()
            member = _Member(start, key, self._value(depth + 1))
            self._skip()
            comma = self._at
            if self._takes(","):
                member.comma = comma
            node.members.append(member)
            self._skip()
        node.value = {member.key: member.node.value for member in node.members}

    def _array(self, node: _Node, depth: int) -> None:
        self._at += 1
        node.value, more = list[Any](), True
        self._skip()
        while not self._takes("]"):
            if not more:
                raise self._wrong("lacks a ',' or ']'")
            node.value.append(self._value(depth + 1).value)
            self._skip()
            more = self._takes(",")
            self._skip()

    def _string(self) -> str:
        found = _STRING.match(self._text, self._at)
        if found is None:
            raise self._wrong("has a string that does not end")
        try:
            value = json.loads(found[0])
        except ValueError as error:
            raise self._wrong("has a string with an escape that is none") from error
        self._at = found.end()
        return value

    def _plain(self) -> Any:
        found = _PLAIN.match(self._text, self._at)
        try:
            value = json.loads(found[0] if found else "")
        except ValueError as error:
            shown = found[0] if found else self._text[self._at : self._at + 1]
            raise self._wrong(f"has {shown!r}, which is no value" if shown else "ends too early") from error
        assert found is not None
        self._at = found.end()
        return value

    def _takes(self, letter: str) -> bool:
        if not self._text.startswith(letter, self._at):
            return False
        self._at += 1
        return True

    def _skip(self) -> None:
        found = _BLANK.match(self._text, self._at)
        assert found is not None, "it matches nothing, too"
        self._at = found.end()

    def _wrong(self, what: str) -> DataError:
        return DataError(
            self._path,
            f"is no JSON: it {what}",
            line=_line(self._text, self._at),
            hint="Mend the file; nothing was written",
        )
