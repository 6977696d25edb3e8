"""JSON with comments: one member is changed, and every other byte stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.cli import jsonc
from agentd.errors import DataError

PATH = Path("mcp.json")
COMMENTED = """\
// servers of the team
{
    "servers": {
        /* ask before removing */
        "other": {"type": "stdio", "command": "other", "args": ["// no comment", "}"]}, // theirs
    },
    "inputs": [1, 2,], // the end
}
"""

names = st.text('ab/*"\\{}[],:é \n', min_size=1, max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(names, values, max_size=3)


def test_comments_and_the_ways_of_others_stay() -> None:
    changed = jsonc.put(PATH, COMMENTED, ["servers", "agentd"], {"command": "x"})
    assert [line for line in COMMENTED.splitlines() if line not in changed.splitlines()] == []
    assert jsonc.read(PATH, changed)["servers"]["agentd"] == {"command": "x"}
    assert '\n        "agentd": {\n            "command": "x"\n        },\n    },' in changed
    assert jsonc.drop(PATH, changed, ["servers", "agentd"]) == COMMENTED


@given(
    objects, names, values, st.sampled_from([None, 1, 4, "\t"]), st.sampled_from(["", "\n", "// é\n", "/**/"])
)
def test_a_member_that_is_put_is_read_and_nothing_else_changes(
    held: dict[str, Any], name: str, value: Any, indent: Any, around: str
) -> None:
    text = around + json.dumps(held, indent=indent, ensure_ascii=False) + around
    changed = jsonc.put(PATH, text, [name], value)
    assert jsonc.read(PATH, changed) == {**held, name: value}
    gone = jsonc.drop(PATH, changed, [name])
    assert jsonc.read(PATH, gone) == {key: each for key, each in held.items() if key != name}
    if name not in held and held:
        assert gone == text


@given(objects, names, names, objects)
def test_objects_on_the_way_are_made_and_go_when_they_are_empty(
    held: dict[str, Any], outer: str, inner: str, value: dict[str, Any]
) -> None:
    held.pop(outer, None)
    changed = jsonc.put(PATH, json.dumps(held, indent=2), [outer, inner], value)
    assert json.loads(changed) == {**held, outer: {inner: value}}  # no comment came in: it is still JSON
    assert json.loads(jsonc.drop(PATH, changed, [outer, inner])) == held


@pytest.mark.parametrize("text", ["", "  \n", "{}", "// nothing\n", "{ /* yet */ }"])
def test_a_file_with_nothing_in_it_is_begun(text: str) -> None:
    assert jsonc.read(PATH, jsonc.put(PATH, text, ["a", "b"], 1)) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{\n"a": 1\n"b": 2}', 3), ("{\n'a': 1}", 2), ('{"a"\n 1}', 2), ('{"a": nul}', 1), ("[1]", 1),
        ('{"a": 1}\n}', 2), ('{"a": "open\n}', 1), ('{"a": [1 2]}', 1), ('{\n"a": {', 2), ("{,}", 1),
        ("{" * 80, 1), ('{"a": "\\q"}', 1), ("{/* open }", 1),
    ],
)  # fmt: skip
def test_what_is_no_json_is_an_error_with_its_line(text: str, line: int) -> None:
    with pytest.raises(DataError, match=r"^mcp\.json:") as raised:
        jsonc.put(PATH, text, ["a"], 1)
    assert raised.value.line == line


def test_a_value_where_an_object_should_be_is_not_replaced() -> None:
    with pytest.raises(DataError, match="servers: should be an object, not 3"):
        jsonc.put(PATH, '{"servers": 3}', ["servers", "agentd"], {})


@given(st.text('{}[]",:/*\\ \nab1-'))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = jsonc.read(PATH, text)
    except DataError:
        return
    assert isinstance(read, dict)
