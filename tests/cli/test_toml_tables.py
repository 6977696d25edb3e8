"""TOML: one table is changed, and the lines of others stay."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.cli import toml_tables
from agentd.errors import DataError

PATH = Path("config.toml")
KEYS = ["mcp_servers", "agentd"]
ENTRY = {"command": "/a b/agentd", "args": ["mcp"], "env": {"AGENTD_STATE": 'x"\\\n'}}
OTHERS = """\
model = "m"   # chosen with care
notes = '''
[not a table]
'''

# theirs
[mcp_servers.other]
command = "other"

[[profiles]]
name = "p"
"""


@pytest.mark.parametrize("text", ["", OTHERS, OTHERS.rstrip("\n"), "[mcp_servers]\n", "# only this\n"])
def test_a_table_is_added_and_taken_out_again(text: str) -> None:
    changed = toml_tables.put(PATH, text, KEYS, ENTRY)
    assert changed.startswith(text)
    assert tomllib.loads(changed)["mcp_servers"]["agentd"] == ENTRY
    assert toml_tables.drop(PATH, changed, KEYS) == text.rstrip("\n") + ("\n" if text else "")


@pytest.mark.parametrize("tail", ["", "\n# theirs\n[x.y]\nz = 1\n", "[[x]]\n[[x]]\nz = 1\n"])
def test_a_table_is_changed_where_it_stands_with_its_comments(tail: str) -> None:
    ours = '[mcp_servers.agentd]  # ours\n# why\ncommand = "old"\n\n[mcp_servers.agentd.env]\nA = "b"\n'
    changed = toml_tables.put(PATH, OTHERS + "\n" + ours + tail, KEYS, ENTRY)
    assert changed.startswith(OTHERS)
    assert changed.endswith(tail)
    assert "# why" in changed
    assert tomllib.loads(changed) == {
        **tomllib.loads(OTHERS + tail),
        "mcp_servers": {"other": {"command": "other"}, "agentd": ENTRY},
    }
    assert tomllib.loads(toml_tables.drop(PATH, changed, KEYS)) == tomllib.loads(OTHERS + tail)


names = st.text("ab-. \"'é", min_size=1, max_size=4)
scalars = (
    st.text(max_size=6) | st.integers(-9, 9) | st.booleans() | st.floats(-2, 2).map(lambda x: round(x, 3))
)


@given(
    st.dictionaries(
        names, scalars | st.lists(scalars, max_size=2) | st.dictionaries(names, scalars, max_size=2)
    )
)
def test_any_table_is_written_as_it_is_read_or_refused(table: dict[str, Any]) -> None:
    text = OTHERS.replace("'''\n[not a table]\n'''", '"x"')
    try:
        changed = toml_tables.put(PATH, text, KEYS, table)
    except DataError:
        return  # an empty table within it, or a name that no header can be told by
    read = tomllib.loads(changed)["mcp_servers"]["agentd"]
    assert {key: each for key, each in read.items() if each != {}} == {
        key: each for key, each in table.items() if each != {}
    }


@pytest.mark.parametrize("text", ["mcp_servers = {}\n", 'mcp_servers.agentd.command = "x"\n'])
def test_a_file_that_says_it_in_one_line_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"mcp_servers\.agentd: is written in a way"):
        toml_tables.put(PATH, text, KEYS, ENTRY)


def test_what_is_no_toml_is_an_error_with_its_line() -> None:
    with pytest.raises(DataError, match=r"^config\.toml:2: is no TOML"):
        toml_tables.put(PATH, "a = 1\nb = \n", KEYS, ENTRY)
