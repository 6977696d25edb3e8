"""evals/scorers: what counts as right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.plugins import Plugins, bundled_root

plugins = Plugins((bundled_root(),))


def score(scorer: str, expected: Any, output: str) -> float:
    return plugins.module("evals/scorers", scorer).score(expected, output, {"id": "1"})


@pytest.mark.parametrize(
    ("output", "points"),
    [
        ('{"a": 1, "b": null}', 1),
        ('\n{"b":null,"a":1} ', 1),
        ('{"a": 1}', 0),
        ('{"a": 1, "b": null, "c": 2}', 0),
        ('{"a": true, "b": null}', 0),
        ('{"a": "1", "b": null}', 0),
        ('{"a": 2, "a": 1, "b": null}', 0),
        ('Sure! {"a": 1, "b": null}', 0),
        ('```json\n{"a": 1, "b": null}\n```', 0),
        ('{"a": 1, "b": NaN}', 0),
        ("[" * 100_000, 0),
        ("", 0),
    ],
)
def test_exact_json_wants_the_whole_output_to_be_the_expected_value(output: str, points: int) -> None:
    assert score("exact_json", {"a": 1, "b": None}, output) == points


@given(
    st.dictionaries(
        st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=9), max_size=4
    )
)
def test_exact_json_accepts_every_value_written_in_any_way(value: Any) -> None:
    assert score("exact_json", value, json.dumps(value, indent=2)) == 1


def test_json_fields_gives_the_share_of_fields_and_counts_uncalled_for_ones() -> None:
    expected = {"a": 1, "b": None}
    assert score("json_fields", expected, '{"a": 1, "b": 2}') == 0.5
    assert score("json_fields", expected, '{"a": 1, "b": null, "c": 0, "d": 0}') == 0.5
    assert score("json_fields", expected, '{"a": 1}') == 0.5
    assert score("json_fields", expected, "a: 1") == 0


def test_text_scorers_overlook_what_they_say_they_overlook() -> None:
    assert score("exact_text", "Paris  France", " Paris France\n") == 1
    assert score("exact_text", "Paris", "paris") == 0
    assert score("contains", ["Paris", "seine"], "PARIS lies on the Seine.") == 1
    assert score("contains", ["Paris", "Rhine"], "Paris lies on the Seine.") == 0
    assert score("token_f1", "the capital is Paris", "Paris") == pytest.approx(0.5)
    assert score("token_f1", ["Lyon", "Paris"], "A Paris!") == 1
    assert score("token_f1", "Paris", "") == 0
