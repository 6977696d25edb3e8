"""Suites: the shipped ones are whole, and a mistake in one is named by file, line and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentd.errors import DataError
from agentd.plugins import Plugins, bundled_root

plugins = Plugins((bundled_root(),))
suites = plugins.module("tools", "suites")

YAML = """\
suite: small
description: d
inclusion: i
source: s
licence: CC0-1.0
data: rows.jsonl
prompt:
  user: "{input} in {language}"
metric: exact_match
scorer: exact_text
"""
ROW = {"id": "1", "input": "hello", "expected": "bonjour", "language": "French"}


def written(folder: Path, yaml: str = YAML, *rows: object) -> Path:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows or (ROW,))))
    path = folder / "small.yaml"
    path.write_text(yaml)
    return path


def test_the_tickets_suite_is_whole_and_its_schema_admits_every_expected_answer() -> None:
    suite = suites.load_suite(plugins.find("evals", "tickets.yaml"))
    properties = suite.file.output_schema["properties"]
    assert len(suite.rows) == 162
    for row in suite.rows:
        assert list(row["expected"]) == suite.file.output_schema["required"]
        assert row["expected"]["intent"] in properties["intent"]["enum"]
        assert row["expected"]["entity_type"] in properties["entity_type"]["enum"]


def test_training_rows_carry_the_suites_system_prompt() -> None:
    suite = suites.load_suite(plugins.find("evals", "tickets.yaml"))
    lines = (suite.data.parent / "train.jsonl").read_text().splitlines()
    assert {json.loads(line)["prompt"][0]["content"] for line in lines} == {suite.file.prompt.system}


def test_the_digest_changes_with_the_yaml_and_with_the_rows(tmp_path: Path) -> None:
    first = suites.load_suite(written(tmp_path)).digest
    assert suites.load_suite(written(tmp_path)).digest == first
    assert suites.load_suite(written(tmp_path, YAML + "max_tokens: 9\n")).digest != first
    assert suites.load_suite(written(tmp_path, YAML, ROW | {"expected": "salut"})).digest != first


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("suite: small", "suite: a/b", 1, "suite"),
        ("licence: CC0-1.0", "license: CC0-1.0", None, "licence"),
        ("  user:", "  usr:", 8, "prompt.usr"),
        ("metric: exact_match", "metric: exact_match\nmax_tokens: many", 10, "max_tokens"),
    ],
)
def test_a_mistake_in_the_yaml_is_named_with_line_and_field(
    tmp_path: Path, old: str, new: str, line: int | None, field: str
) -> None:
    with pytest.raises(DataError) as caught:
        suites.load_suite(written(tmp_path, YAML.replace(old, new)))
    assert caught.value.field == field
    assert line is None or caught.value.line == line


@pytest.mark.parametrize(
    ("rows", "line", "field"),
    [
        ([{"id": "1", "input": "x", "language": "y"}], 1, "expected"),
        ([ROW, {"id": "2", "input": "x", "expected": ""}], 2, "language"),
        ([ROW, ROW], 2, "id"),
        ([ROW | {"input": ""}], 1, "input"),
        ([ROW | {"id": 7}], 1, "id"),
    ],
)
def test_a_mistake_in_the_rows_is_named_with_line_and_field(
    tmp_path: Path, rows: list[object], line: int, field: str
) -> None:
    with pytest.raises(DataError) as caught:
        suites.load_suite(written(tmp_path, YAML, *rows))
    assert (caught.value.line, caught.value.field) == (line, field)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        (
            "metrics: [exact_text, {name: exact_text, scorer: contains}]",
            "two metrics are called 'exact_text'",
        ),
        ("metrics: [{name: x}]", "either a scorer or a judge"),
        ("metrics: [{judge: kind, options: {a: 1}}]", "in its own file"),
        ("metrics: []", "at least 1"),
        ("metrics: [exact_text]\nsamples: 3", "give a temperature"),
        ("metrics: [exact_text]\ntarget: {field: x, shares: {a: 0.5, b: 0.2}}", "sum to 0.7"),
        ("metrics: [exact_text]\ngate: {margin: 2}", "less than 1"),
        ("metrics: [exact_text]\nredteam: none.jsonl", "there is no file"),
        ("metrics: [{scorer: people, files: {ratings: none.jsonl}}]", "there is no file"),
    ],
)
def test_what_makes_no_sense_together_is_refused(tmp_path: Path, yaml: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        suites.load_suite(
            written(tmp_path, YAML.replace("metric: exact_match\nscorer: exact_text\n", yaml + "\n"))
        )


def test_one_metric_in_short_is_the_same_as_in_full(tmp_path: Path) -> None:
    full = YAML.replace(
        "metric: exact_match\nscorer: exact_text", "metrics: [{name: exact_match, scorer: exact_text}]"
    )
    short, long = (suites.load_suite(written(tmp_path, yaml)).file for yaml in (YAML, full))
    assert short == long
    assert short.primary.name == "exact_match"
    assert short.gate.margin == 0.05


def test_the_digest_covers_every_file_that_a_suite_names(tmp_path: Path) -> None:
    yaml = YAML.replace(
        "metric: exact_match\nscorer: exact_text", "metrics: [{scorer: people, files: {ratings: r.jsonl}}]"
    )
    (tmp_path / "red.jsonl").write_text(json.dumps(ROW))
    (tmp_path / "r.jsonl").write_text("{}")
    digests = {suites.load_suite(written(tmp_path, yaml + "redteam: red.jsonl\n")).digest}
    for name in ("red.jsonl", "r.jsonl"):
        (tmp_path / name).write_text(json.dumps(ROW | {"id": name}))
        digests.add(suites.load_suite(written(tmp_path, yaml + "redteam: red.jsonl\n")).digest)
    assert len(digests) == 3


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        suites.load_suite(written(tmp_path, YAML.replace("rows.jsonl", "nowhere.jsonl")))


def test_a_field_is_found_by_its_dotted_path() -> None:
    row = {"expected": {"intent": "a", "deep": {"er": 1}}, "input": "x"}
    assert suites.field_of(row, "expected.intent") == "a"
    assert suites.field_of(row, "expected.deep.er") == 1
    assert suites.field_of(row, "input.more") is None
