"""tools/exports.py: what each form holds, what is left out, and that a reward is the scorer's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentd.context import Context
from agentd.errors import InputError, NotFound
from agentd.plugins import Plugins, bundled_root
from tests.conftest import load
from tests.tools.conftest import call
from tests.tools.test_prepare import row, write_lines

load_suite = Plugins((bundled_root(),)).module("tools", "suites").load_suite


def dataset(ctx: Context, folder: Path, *rows: Any) -> str:
    write_lines(folder / "set/data.jsonl", rows)
    return ctx.artifacts.add("dataset", folder / "set", name="support").id


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(path) / "data.jsonl").read_text("utf-8").splitlines()]


def test_rows_to_imitate_are_the_rows_without_what_is_known_about_them(ctx: Context, tmp_path: Path) -> None:
    made = dataset(ctx, tmp_path, row(1, label="refund"), row(2))
    exported = call(ctx, "export_dataset", dataset=made)
    assert (exported.rows, exported.left_out) == (2, {})
    assert lines(exported.path)[0] == {k: row(1)[k] for k in ("id", "prompt", "completion")}
    assert ctx.artifacts.get(exported.export).parents == (made,)


def test_pairs_are_the_rows_with_a_worse_answer_that_is_another(ctx: Context, tmp_path: Path) -> None:
    worse = [{"role": "assistant", "content": "no"}]
    made = dataset(
        ctx, tmp_path, row(1, rejected=worse), row(2), row(3, rejected="no"), row(4, rejected="yes")
    )
    exported = call(ctx, "export_dataset", dataset=made, form="preference")
    assert exported.left_out == {"without a worse answer": 1, "whose answers are the same": 1}
    first, third = lines(exported.path)
    assert first == {
        "id": row(1)["id"],
        "prompt": row(1)["prompt"],
        "chosen": row(1)["completion"],
        "rejected": worse,
    }
    assert third["rejected"] == worse


@pytest.mark.parametrize(
    ("scorer", "right", "answers", "rewards"),
    [
        ("exact_text", "yes", ["yes", " no "], [1.0, 0.0]),
        ("exact_json", '{"a": 1}', ['{ "a":1 }', "{'a': 1}"], [1.0, 0.0]),
    ],
)
def test_a_reward_is_the_score_of_its_scorer(
    ctx: Context, tmp_path: Path, scorer: str, right: str, answers: list[str], rewards: list[float]
) -> None:
    made = dataset(ctx, tmp_path, row(1, right), row(2, right))
    exported = call(ctx, "export_dataset", dataset=made, form="verifier", scorer=scorer)
    expected = [each["expected"] for each in lines(exported.path)]
    assert expected == [right, right]
    reward = load(Path(exported.path) / "reward.py").reward
    assert reward(answers, expected) == rewards
    assert reward([[{"role": "assistant", "content": text}] for text in answers], expected) == rewards


def test_answers_that_are_not_json_cannot_be_checked_as_json(ctx: Context, tmp_path: Path) -> None:
    made = dataset(ctx, tmp_path, row(1, "yes"), row(2, "{}"))
    exported = call(ctx, "export_dataset", dataset=made, form="verifier", scorer="exact_json")
    assert (exported.rows, exported.left_out) == (1, {"whose answer is not JSON": 1})


def test_a_form_that_no_row_fits_says_where_such_rows_come_from(ctx: Context, tmp_path: Path) -> None:
    made = dataset(ctx, tmp_path, row(1), row(2))
    with pytest.raises(InputError, match=r"No row of 'support' .* 2 without a worse answer.*data review"):
        call(ctx, "export_dataset", dataset=made, form="preference")
    with pytest.raises(NotFound, match=r"scorer 'exact_txt'.*'exact_text'"):
        call(ctx, "export_dataset", dataset=made, form="verifier", scorer="exact_txt")


def test_what_clients_put_right_becomes_eval_cases(ctx: Context, tmp_path: Path) -> None:
    def asked(number: int, *turns: tuple[str, str]) -> dict[str, Any]:
        messages = [{"role": role, "content": text} for role, text in turns]
        return row(number, "5 days") | {"prompt": messages}

    made = dataset(
        ctx,
        tmp_path,
        asked(1, ("system", "Be short."), ("user", "How long do refunds take?")),
        asked(2, ("system", "Be short."), ("user", "And exchanges?")),
        asked(3, ("system", "Be long."), ("user", "And gifts?")),
        asked(4, ("user", "Hi"), ("assistant", "Hello"), ("user", "How long?")),
    )
    exported = call(ctx, "export_dataset", dataset=made, form="suite")
    suite = load_suite(Path(exported.path) / "support.yaml")
    assert suite.file.prompt.system == "Be short."
    assert [(each["input"], each["expected"]) for each in suite.rows] == [
        ("How long do refunds take?", "5 days"),
        ("And exchanges?", "5 days"),
    ]
    assert exported.rows == 2
    assert exported.left_out == {
        "whose question has several turns": 1,
        "with another system prompt than most": 1,
    }
    assert str(suite.path) in exported.load


def test_cases_that_are_checked_as_json_expect_json(ctx: Context, tmp_path: Path) -> None:
    made = dataset(ctx, tmp_path, row(1, '{"a": 1}'), row(2, "no JSON"))
    exported = call(ctx, "export_dataset", dataset=made, form="suite", scorer="exact_json")
    suite = load_suite(Path(exported.path) / "support.yaml")
    assert [each["expected"] for each in suite.rows] == [{"a": 1}]
