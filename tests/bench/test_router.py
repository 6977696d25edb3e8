"""agentd/bench/router.py: curves and money on made data whose answers are known."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from agentd.bench.router import Question, apgr, cpt, money, of_folder, questions_of, routed
from agentd.errors import DataError

EASY, HARD = Question("easy", 1, 1, 10, 10), Question("hard", 0, 1, 10, 10)


def test_an_order_by_what_is_gained_is_best_and_the_reverse_worst() -> None:
    questions = [HARD, EASY] * 50
    gain = [q.big - q.small for q in questions]
    assert apgr(questions, gain) == pytest.approx(0.75)
    assert apgr(questions, [-each for each in gain]) == pytest.approx(0.25)
    assert cpt(questions, gain, 0.5) == 0.25
    assert cpt(questions, [-each for each in gain], 0.8) == 0.9


def test_chance_has_half_of_the_area() -> None:
    rng, questions = random.Random(0), [HARD, EASY] * 500
    assert apgr(questions, [rng.random() for _ in questions]) == pytest.approx(0.5, abs=0.03)


def test_without_a_gap_there_is_no_curve() -> None:
    with pytest.raises(ValueError, match="not the better one"):
        apgr([EASY], [1.0])


def test_what_a_perfect_score_saves_is_proven_and_a_useless_one_saves_little() -> None:
    questions = [HARD, EASY] * 300
    rng = random.Random(0)
    good = money(questions, [q.big - q.small for q in questions], (1.0, 10.0))
    bad = money(questions, [rng.random() for _ in questions], (1.0, 10.0))
    assert good["verdict"] == "not_worse"
    assert good["saved"] >= 0.44
    assert bad["saved"] < 0.1


def test_a_fold_has_no_say_in_its_own_threshold() -> None:
    questions = [HARD, EASY] * 300
    scores = [random.Random(i).random() for i in range(600)]
    order = list(range(600))
    random.Random(0).shuffle(order)
    fold = set(order[0::5])
    turned = [Question("", q.big, q.small) if i in fold else q for i, q in enumerate(questions)]
    before, after = routed(questions, scores), routed(turned, scores)
    assert [before[i] for i in fold] == [after[i] for i in fold]


def test_files_are_told_by_their_fields_and_repeated_texts_count_once(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "m": "True", "n": "False"}, {"prompt": "a", "m": "True", "n": "False"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.jsonl").write_text('{"question": "q", "target": 1}\n')
    assert [kind for _, kind in of_folder(tmp_path)] == ["answers", "targets"]
    assert [(q.small, q.big) for q in questions_of(tmp_path / "a.jsonl")] == [(0.0, 1.0)]
    (tmp_path / "c.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(DataError, match="neither two models' answers nor targets"):
        list(of_folder(tmp_path))
