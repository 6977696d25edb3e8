"""Mistakes in YAML are reported at their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from agentd import documents
from agentd.errors import DataError


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    size: int = 0


class Box(BaseModel):
    model_config = ConfigDict(extra="forbid")
    label: str
    items: tuple[Item, ...] = ()


def mistake(text: str) -> DataError:
    with pytest.raises(DataError) as caught:
        documents.parse(text, Box, "box.yaml")
    return caught.value


def test_a_good_document_is_the_model() -> None:
    box = documents.parse("label: a\nitems:\n  - {name: x, size: 3}\n", Box, "box.yaml")
    assert box == Box(label="a", items=(Item(name="x", size=3),))


def test_a_wrong_value_is_reported_at_its_own_line() -> None:
    error = mistake("label: a\nitems:\n  - name: x\n    size: 3\n  - name: y\n    size: many\n")
    assert (error.line, error.field) == (6, "items.1.size")
    assert str(error).startswith("box.yaml:6: items.1.size: ")
    assert "'many'" in str(error)


def test_an_unknown_field_is_reported_with_the_known_ones() -> None:
    error = mistake("label: a\nitens: []\n")
    assert (error.line, error.field) == (2, "itens")
    assert "label, items" in error.hint


def test_a_missing_field_is_reported_where_it_belongs() -> None:
    error = mistake("label: a\nitems:\n  - name: x\n  - size: 3\n")
    assert (error.line, error.field) == (4, "items.1.name")
    assert "is missing" in str(error)


def test_what_is_no_mapping_is_refused() -> None:
    assert mistake("- a\n").line == 1
    assert mistake("").line == 1


def test_broken_yaml_is_reported_at_its_line() -> None:
    assert mistake("label: a\nitems: [\n").line == 3


@pytest.mark.parametrize("text", ["label: a\x07b", "label: 2026-13-45"])
def test_what_yaml_itself_cannot_take_is_an_error_of_the_document(text: str) -> None:
    assert "is not valid YAML" in str(mistake(text))


def test_a_tag_that_would_build_an_object_is_refused() -> None:
    error = mistake("label: !!python/object/apply:os.getcwd []\n")
    assert error.line == 1


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "box.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"box\.yaml: cannot be read"):
        documents.load(path, Box)


def test_a_line_can_be_asked_for() -> None:
    text = "steps:\n  - id: a\n  - id: b\n    args:\n      x: 1\n"
    assert documents.line_of(text, "steps", 1, "args", "x") == 5
    assert documents.line_of(text, "steps", 1, "args", "missing") == 4
    assert documents.line_of("", "steps") is None
