"""Reading row files: what is accepted, and that every refusal names its place."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import DataError
from agentd.plugins import Plugins, bundled_root

datasets, leaks = (Plugins((bundled_root(),)).module("tools", name) for name in ("datasets", "leaks"))

GOOD = {
    "prompt": [{"role": "user", "content": "hi"}],
    "completion": [{"role": "assistant", "content": "hello"}],
}


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize(
    ("row", "format", "prompt", "answer"),
    [
        (GOOD, "prompt_completion", "hi", "hello"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion", "a", "b"),
        ({"messages": [*GOOD["prompt"], *GOOD["completion"]]}, "messages", "hi", "hello"),
        ({"text": "once upon"}, "text", "", "once upon"),
    ],
)
def test_each_kind_of_row_is_read(tmp_path: Path, row: Any, format: str, prompt: str, answer: str) -> None:
    read = datasets.read_dataset(written(tmp_path, row, "", row))
    assert (read.format, len(read)) == (format, 2)
    assert [(e.line, e.prompt, e.answer) for e in read.examples] == [(1, prompt, answer), (3, prompt, answer)]


@pytest.mark.parametrize(
    ("row", "line", "field", "says"),
    [
        ("{", 2, "", "is not JSON"),
        ("[1]", 2, "", "not an object"),
        ('{"text": NaN}', 2, "", "NaN"),
        ({"question": "?"}, 2, "", "has only the fields question"),
        ({"prompt": "a"}, 2, "completion", "is missing"),
        ({"prompt": "a", "completion": " "}, 2, "completion", "is empty"),
        ({"prompt": "a", "completion": 3}, 2, "completion", "is int"),
        ({"prompt": "a", "completion": GOOD["completion"]}, 2, "completion", "is messages|is text"),
        ({"prompt": [], "completion": []}, 2, "prompt", "is not a list of messages"),
        ({"prompt": [{"role": "me", "content": "x"}], "completion": "b"}, 2, "prompt.0.role", "'me'"),
        ({"prompt": [{"role": "user"}], "completion": "b"}, 2, "prompt.0.content", "is NoneType"),
        ({"messages": GOOD["prompt"]}, 2, "", "the rows before are"),
    ],
)
def test_a_bad_row_is_refused_with_line_field_and_mend(
    tmp_path: Path, row: Any, line: int, field: str, says: str
) -> None:
    path = written(tmp_path, GOOD, row)
    with pytest.raises(DataError, match=says) as caught:
        datasets.read_dataset(path)
    assert (caught.value.path, caught.value.line, caught.value.field) == (str(path), line, field)
    assert caught.value.hint


def test_a_chat_must_end_with_the_assistant(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ends without an answer"):
        datasets.read_dataset(written(tmp_path, {"messages": GOOD["prompt"]}))


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"\n \n", "is empty"), (b"\xff\xfe{", "not UTF-8")]
)
def test_a_file_that_is_no_text_with_rows_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        datasets.read_dataset(path)
    with pytest.raises(DataError, match="cannot be read"):
        datasets.read_dataset(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"text": "a\u2028b"}, ensure_ascii=False).encode() + b"\r\n"
    )
    assert datasets.read_dataset(path).examples[0].answer == "a\u2028b"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_as_data(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            assert len(datasets.read_dataset(path)) > 0


def test_the_shipped_tickets_are_clean() -> None:
    folder = bundled_root() / "evals/data/tickets"
    train = datasets.read_dataset(folder / "train.jsonl")
    heldout = [row for _, row in datasets.read_rows(folder / "heldout.jsonl")]
    assert (len(train), len(heldout)) == (513, 162)
    assert leaks.copies(train.examples, [(row["id"], row["input"]) for row in heldout]) == []
    trained = {json.loads(e.answer)["entity_value"] for e in train.examples}
    asked = {row["expected"]["entity_value"] for row in heldout}
    assert {v.lower() for v in trained if v}.isdisjoint({v.lower() for v in asked if v})
    for row in heldout:
        assert row["expected"]["entity_value"] is None or row["expected"]["entity_value"] in row["input"]
