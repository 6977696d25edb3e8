"""Rows as documents: their fields found or named, and what is wrong with single ones told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.ingest.conftest import recipe


def rows_of(path: Path, data: str | bytes, **fields: str) -> list[Any]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(recipe.rows.read_rows(path, fields))


def test_beirs_corpus_is_read_as_it_is(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path / "corpus.jsonl", '{"_id": "MED-10", "title": "Statins", "text": "They help."}')
    assert (row.id, row.title, row.text, row.why) == ("MED-10", "Statins", "They help.", "")


@pytest.mark.parametrize(("ending", "mark"), [(".csv", ","), (".csv", ";"), (".tsv", "\t")])
def test_a_table_without_a_text_column_is_read_column_by_column(
    tmp_path: Path, ending: str, mark: str
) -> None:
    data = f'\ufeffid{mark}name{mark}colour{mark}size\r\n7{mark}Knife{mark}"red\r\nor blue"{mark}\r\n'
    (row,) = rows_of(tmp_path / f"a{ending}", data)
    assert (row.id, row.title, row.text) == ("7", "Knife", "colour: red\r\nor blue")


def test_columns_that_are_named_are_taken_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    data = '{"text": "no", "body": "yes", "key": 3}'
    (row,) = rows_of(tmp_path / "a.jsonl", data, text="body", id="key")
    assert (row.id, row.text) == ("3", "yes")
    with pytest.raises(
        recipe.failures.Unreadable, match="no field 'boddy' for the text; there are: text, body"
    ):
        rows_of(tmp_path / "a.jsonl", data, text="boddy")


def test_a_row_that_cannot_be_read_says_why_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe.rows, "MOST_BYTES", 100)
    lines = [
        b'{"id": 1, "text": "one"}',
        b"{",
        b"[1]",
        b'{"id": 1, "text": "again"}',
        b'{"text": "caf\xe9"}',
        b'{"text": "' + b"long " * 100 + b'"}',
        b"[" * 90,
        b'{"text": ""}',
        b'"a text alone"',
    ]
    found = rows_of(tmp_path / "a.jsonl", b"\n".join(lines))
    assert [(row.number, row.why) for row in found] == [
        (1, ""),
        (2, "no JSON"),
        (3, "no JSON object"),
        (4, "its id '1' is that of row 1"),
        (5, "not UTF-8: byte 0xe9"),
        (6, "longer than 0 MB"),
        (7, "no JSON"),
        (8, "no text"),
        (9, ""),
    ]
    assert (found[-1].id, found[-1].text) == ("9", "a text alone")


def test_a_file_whose_first_line_is_no_json_is_refused_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(recipe.failures.Unreadable, match="first line is no JSON"):
        rows_of(tmp_path / "a.jsonl", "plain words\n" + json.dumps({"text": "x"}))


def test_a_line_of_csv_with_too_many_cells_is_left_out(tmp_path: Path) -> None:
    found = rows_of(tmp_path / "a.csv", "id,text\n1,one\n2,two,too many\n3,three\n")
    assert [(row.id, row.why) for row in found] == [
        ("1", ""),
        ("", "more cells than the first line has names"),
        ("3", ""),
    ]
