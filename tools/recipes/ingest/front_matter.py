"""What a Markdown file says of itself between ``---`` lines, as far as filters can use it.

A small part of YAML: ``name: value``, ``name: [a, b]``, and a name with ``- a`` lines under it. Whatever else
stands there is left out, as are values of more than 300 characters.
"""

from __future__ import annotations

import re
from typing import Any

from plain_text import FRONT_MATTER

LINE = re.compile(r"([\w-]+):[ \t]*(.*?)\s*$")
ITEM = re.compile(r"\s*-[ \t]+(.*?)\s*$")
MOST_FIELDS, MOST_CHARS = 64, 300


def fields_of(text: str) -> dict[str, Any]:
    """Texts and lists of texts by name; empty if there is no front matter."""
    matter = FRONT_MATTER.match(text)
    found: dict[str, Any] = {}
    name = ""
    for line in matter[1].splitlines() if matter else ():
        if (item := ITEM.match(line)) and isinstance(found.get(name), list):
            found[name].append(plain(item[1]))
        elif pair := LINE.match(line):
            name, value = pair[1], pair[2]
            found[name] = listed(value) if value[:1] == "[" else plain(value) or []
    kept = {name: value for name, value in found.items() if value and fits(value)}
    return dict(list(kept.items())[:MOST_FIELDS])


def listed(value: str) -> list[str]:
    return [one for part in value.strip("[]").split(",") if (one := plain(part.strip()))]


def plain(value: str) -> str:
    if value[:1] in ("'", '"') and value[-1:] == value[:1] and len(value) > 1:
        return value[1:-1]
    return re.sub(r"\s+#.*$", "", value)


def fits(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return len(values) <= MOST_FIELDS and all(len(one) <= MOST_CHARS for one in values)
