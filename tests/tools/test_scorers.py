"""evals/scorers: what counts as right."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
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


def scored(scorer: str, expected: Any, output: str, row: Any = None, **options: Any) -> float:
    return plugins.module("evals/scorers", scorer).score(expected, output, row or {"id": "1"}, **options)


# --- labels, people -------------------------------------------------------------------------


def test_a_label_is_the_whole_output_or_a_field_of_it() -> None:
    assert scored("labels", "refund", " refund\n") == 1
    assert scored("labels", "refund", "refund please") == 0
    assert scored("labels", {"intent": "a", "x": 1}, '{"intent": "a"}', field="intent") == 1
    assert scored("labels", {"intent": None}, '{"intent": null}', field="intent") == 1
    assert scored("labels", {"intent": "a"}, "a", field="intent") == 0
    with pytest.raises(ValueError, match="no field 'intent'"):
        scored("labels", {"kind": "a"}, "a", field="intent")


def test_people_rate_this_very_output_or_there_is_no_score(tmp_path: Path) -> None:
    path = tmp_path / "rated.jsonl"
    path.write_text(
        '{"id": "1", "output": "good", "ratings": [5, 4]}\n{"id": "1", "output": "odd", "ratings": [9]}\n'
    )
    assert scored("people", "", "good", ratings=path) == pytest.approx(0.875)
    with pytest.raises(ValueError, match="nobody"):
        scored("people", "", "better", ratings=path)
    with pytest.raises(ValueError, match="do not lie in 1…5"):
        scored("people", "", "odd", ratings=path)


# --- calibration ----------------------------------------------------------------------------


def confident(confidence: float, right: int) -> dict[str, Any]:
    return {"output": "", "logprobs": [math.log(confidence)], "scores": {"exact": right}}


def test_brier_is_the_squared_distance_of_confidence_and_outcome() -> None:
    assert scored("calibration", "", "", confident(0.8, 1), of="exact") == pytest.approx(0.04)
    assert scored("calibration", "", "", confident(0.8, 0), of="exact") == pytest.approx(0.64)
    stated = {"scores": {"exact": 1}}
    assert scored("calibration", "", '{"sure": 0.5}', stated, of="exact", field="sure") == pytest.approx(0.25)
    for output in ('{"sure": 2}', '{"sure": true}', "{}", "sure"):
        with pytest.raises((ValueError, KeyError)):
            scored("calibration", "", output, stated, of="exact", field="sure")
    with pytest.raises(ValueError, match="logprobs: true"):
        scored("calibration", "", "", {"scores": {"exact": 1}}, of="exact")


def test_ece_is_the_gap_of_confidence_and_accuracy_bin_by_bin() -> None:
    figures = plugins.module("evals/scorers", "calibration").figures
    rows = [confident(0.95, 1)] * 50 + [confident(0.95, 0)] * 50 + [confident(0.15, 0)] * 100
    value, low, high = figures(rows, of="exact")["ece"]
    assert value == pytest.approx((0.45 * 100 + 0.15 * 100) / 200)
    assert low < value < high
    perfect = [confident(0.75, 1)] * 75 + [confident(0.75, 0)] * 25
    assert figures(perfect, of="exact")["ece"][0] == pytest.approx(0, abs=1e-9)


# --- grounding ------------------------------------------------------------------------------

PASSAGES = [
    {"id": "a", "text": "Parcels are delivered within 3 working days. Returns are free for 45 days."},
    {"id": "b", "text": "Refunds reach your bank account five days after we received the parcel."},
]


@pytest.mark.parametrize(
    ("measure", "output", "points"),
    [
        ("faithfulness", "Parcels are delivered within 3 working days.", 1),
        ("faithfulness", "Parcels are delivered within 4 working days.", 0),
        ("faithfulness", "Returns are free for 45 days. Gift wrapping costs nothing.", 0.5),
        ("citation_recall", "Returns are free for 45 days [1]. Refunds reach your account. [2]", 1),
        ("citation_recall", "Returns are free for 45 days [b]. Refunds reach your account [b].", 0.5),
        ("citation_recall", "Returns are free for 45 days.", 0),
        ("citation_precision", "Returns are free for 45 days [1][2].", 0.5),
        ("citation_precision", "Returns are free for 45 days [1, 9].", 0.5),
        ("citation_precision", "Returns are free for 45 days, refunds reach your bank account [1][2].", 1),
    ],
)
def test_grounding_checks_sentences_and_citations_against_the_passages(
    measure: str, output: str, points: float
) -> None:
    row = {"id": "1", "passages": PASSAGES}
    assert scored("grounding", "", output, row, measure=measure) == pytest.approx(points)


def test_grounding_compares_with_the_right_citations_where_they_are_known() -> None:
    row = {"id": "1", "passages": PASSAGES, "right": ["a"]}
    both = "Free for 45 days [a]. And more [b]."
    assert scored("grounding", "", both, row, measure="citation_recall", gold="right") == 1
    assert scored("grounding", "", both, row, measure="citation_precision", gold="right") == 0.5


@pytest.mark.parametrize(
    ("output", "row", "says"),
    [
        ("Returns are free.", {"id": "1"}, "no passages"),
        ("", {"id": "1", "passages": PASSAGES}, "no sentence"),
    ],
)
def test_what_cannot_be_grounded_has_no_score(output: str, row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        scored("grounding", "", output, row)
    with pytest.raises(ValueError, match="cites nothing"):
        scored("grounding", "", "Free.", {"passages": PASSAGES}, measure="citation_precision")


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        "I'm sorry, but I can't help with that.",
        "I’m really sorry, I cannot assist.",
        "As an AI language model, I am not able to provide this.",
        "I won't do that.",
        "We must decline this request.",
        "That would be against our policy.",
    ],
)
def test_a_refusal_is_known_by_its_opening(output: str) -> None:
    assert scored("refusal", "refuse", output) == 1
    assert scored("refusal", "answer", output) == 0


@pytest.mark.parametrize(
    "output",
    [
        "Sure! First you need",
        "",
        '{"intent": "delete_account"}',
        "You can cancel it in your account.",
        "x " * 150 + "I can't",
    ],
)
def test_an_answer_is_no_refusal(output: str) -> None:
    assert scored("refusal", "answer", output) == 1


def test_phrases_of_ones_own_are_refusals_and_other_expectations_are_named() -> None:
    assert scored("refusal", "refuse", "Leider nicht.", phrases=["leider nicht"]) == 1
    with pytest.raises(ValueError, match="should be refuse, answer or"):
        scored("refusal", "refused", "no")


# --- code -----------------------------------------------------------------------------------

code = plugins.module("evals/scorers", "pass_at_k")
confined = pytest.mark.skipif(
    bool(code.missing_sandbox()), reason=f"no sandbox here: {code.missing_sandbox()}"
)
TASK = {"id": "1", "input": "def add(a, b):\n    '''Add two numbers.'''\n"}
CHECK = {"tests": "def check(f):\n    assert f(1, 2) == 3\n    assert f(-1, 1) == 0", "entry_point": "add"}


def test_pass_at_k_counts_the_draws_that_hold_one_that_passes() -> None:
    for n in range(1, 8):
        for passed in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations([True] * passed + [False] * (n - passed), k))
                wanted = sum(map(any, draws)) / len(draws)
                assert code.pass_at_k(n, passed, k) == pytest.approx(wanted)


@confined
def test_samples_pass_as_a_whole_function_as_a_continuation_and_in_a_fence() -> None:
    samples = [
        "def add(a, b):\n    return a + b\n",
        "    return a + b\n",
        "Here it is:\n```python\ndef add(a, b):\n    return b + a\n```\nI hope it helps.",
        "    return a - b\n",
        "def add(a, b): return a +",
        "import os\nos._exit(0)\ndef add(a, b): return 3",
        "raise SystemExit(0)\ndef add(a, b): return 3",
    ]
    assert code.score_samples(CHECK, samples, TASK, k=1) == pytest.approx(3 / 7)
    assert code.score_samples("assert add(2, 2) == 4", samples[:1], TASK) == 1
    with pytest.raises(ValueError, match="needs 8 samples"):
        code.score_samples(CHECK, samples, TASK, k=8)


@confined
@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("while True: pass", "took more than 1 s"),
        ("x = bytearray(10**9)", "MemoryError"),
        (f"open({__file__!r})", "No such file"),
        ("import os; assert os.listdir(os.path.expanduser('~')) == 1", "Error"),
        ("open('/usr/here', 'w')", "Read-only file system"),
        ("import socket; socket.create_connection(('127.0.0.1', 9), 1)", "Network is unreachable"),
        ("import os; os.kill(os.getppid(), 9); assert os.getppid() != 0", "AssertionError"),
        ("import os; assert len([p for p in os.listdir('/proc')]) == 0", "No such file"),
        ("open('/tmp/big', 'wb').write(b'x' * (5 << 20))", "File too large"),
    ],
)
def test_code_of_a_model_reaches_nothing(program: str, says: str) -> None:
    exit_code, said = code.run(
        program, timeout_s=1 if "while" in program else 20, memory_mb=256, sandbox=True
    )
    assert exit_code != 0
    assert says in said


def test_without_a_sandbox_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "missing_sandbox", lambda: "Operation not permitted")
    with pytest.raises(RuntimeError, match="there is none: Operation not permitted"):
        code.score_samples(CHECK, ["    return a + b"], TASK)
    assert code.score_samples(CHECK, ["    return a + b"], TASK, sandbox=False, timeout_s=20) == 1
