"""Deny before ask before allow, the first rule that holds, and what happens when none does."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentd.errors import DataError
from agentd.plugins import bundled_root
from agentd.policy.rules import Call, Decision, Rule, RuleSet, decide, explain, load_rules, unmet
from agentd.sdk import Quote


def call(**facts: Any) -> Call:
    return Call(**({"tool": "finetune", "principal": "user:ada", "surface": "cli", "launches": True} | facts))


def holds(rule: Rule, asked: Call) -> bool:
    return not list(unmet(rule, asked))


def rules(**lists: list[dict[str, Any]]) -> RuleSet:
    return RuleSet.model_validate({"name": "test", **lists})


def test_deny_goes_before_ask_and_ask_before_allow() -> None:
    every = [{"name": "all"}]
    assert decide(rules(deny=every, ask=every, allow=every), call()).effect == "deny"
    assert decide(rules(ask=every, allow=every), call()).effect == "ask"
    assert decide(rules(allow=every), call()) == Decision(
        effect="allow", rule="all", why="rule 'all' of 'test'"
    )


def test_the_first_rule_that_holds_is_the_one_that_is_named() -> None:
    listed = [{"name": "other", "tools": ["serve"]}, {"name": "this", "tools": ["fine*"]}, {"name": "late"}]
    assert decide(rules(ask=listed), call()).rule == "this"


def test_what_no_rule_speaks_of_is_asked_about_when_it_costs_or_reaches_out() -> None:
    nothing = rules()
    assert decide(nothing, call()).effect == "ask"
    assert decide(nothing, call(launches=False, open_world=True)).effect == "ask"
    assert decide(nothing, call(launches=False, max_micro_usd=1)).effect == "ask"
    assert decide(nothing, call(launches=False)).effect == "allow"
    assert decide(nothing, call(launches=False, read_only=True, open_world=True)).effect == "allow"
    assert decide(nothing, call()).rule == "(none)"


def test_a_launch_whose_price_is_not_known_is_never_allowed_silently() -> None:
    decision = decide(rules(allow=[{"name": "all"}]), call(quote=Quote(doubt="nobody knows")))
    assert (decision.effect, decision.rule) == ("ask", "all")


@pytest.mark.parametrize(
    ("condition", "met", "unmet"),
    [
        ({"tools": ["fine*", "serve"]}, {}, {"tool": "evaluate"}),
        ({"principals": ["user:*"]}, {}, {"principal": "agent:ada"}),
        ({"surfaces": ["cli"]}, {}, {"surface": "mcp"}),
        (
            {"arguments": {"model": "smol*"}},
            {"arguments": {"model": "smollm2"}},
            {"arguments": {"model": "qwen"}},
        ),
        ({"arguments": {"model": "?*"}}, {"arguments": {"model": "a"}}, {"arguments": {}}),
        ({"arguments": {"force": True}}, {"arguments": {"force": True}}, {"arguments": {"force": "true"}}),
        ({"arguments": {"force": False}}, {"arguments": {"force": False}}, {"arguments": {"force": 0}}),
        ({"arguments": {"epochs": 3}}, {"arguments": {"epochs": 3}}, {"arguments": {"epochs": True}}),
        ({"arguments": {"epochs": "> 3"}}, {"arguments": {"epochs": 3.5}}, {"arguments": {"epochs": 3}}),
        ({"arguments": {"epochs": "> 3"}}, {"arguments": {"epochs": 4}}, {"arguments": {"epochs": "4"}}),
        ({"arguments": {"needs": '*"a"*'}}, {"arguments": {"needs": ["a"]}}, {"arguments": {"needs": ["b"]}}),
        ({"roles": ["admin", "approve"]}, {"role": "admin"}, {"role": "operate"}),
        ({"quoted_usd": "< 1"}, {"quote": Quote(micro_usd=1)}, {"quote": Quote(micro_usd=1_000_000)}),
        ({"gpu_hours": ">= 2"}, {"quote": Quote(gpu_hours=2)}, {"quote": Quote(gpu_hours=1.9)}),
        ({"days": ["sat", "sun"]}, {"day": "sun"}, {"day": "mon"}),
        ({"read_only": True}, {"read_only": True}, {}),
        ({"open_world": False}, {}, {"open_world": True}),
        ({"usd": "<= 0.50"}, {"max_micro_usd": 500_000}, {"max_micro_usd": 500_001}),
        ({"usd": "> 1"}, {"max_micro_usd": 1_000_001}, {"max_micro_usd": 1_000_000}),
        ({"hours": "< 2"}, {"hours": 1.9}, {"hours": 2.0}),
        ({"gpu_hours": ">= 1"}, {"quote": Quote(gpu_hours=1)}, {}),
        ({"remaining_usd": "< 1"}, {"remaining_micro_usd": 999_999}, {"remaining_micro_usd": None}),
        ({"remaining_usd": "> 1000000"}, {"remaining_micro_usd": None}, {"remaining_micro_usd": 0}),
        ({"tainted": True}, {"taint": ("search",)}, {}),
        ({"between": "08:00-18:00"}, {"time": datetime.time(8)}, {"time": datetime.time(18)}),
        ({"between": "22:00-06:00"}, {"time": datetime.time(23)}, {"time": datetime.time(6)}),
        ({"between": "22:00-06:00"}, {"time": datetime.time(5, 59)}, {"time": datetime.time(12)}),
    ],
)
def test_each_condition_holds_and_fails(
    condition: dict[str, Any], met: dict[str, Any], unmet: dict[str, Any]
) -> None:
    rule = Rule(name="r", **condition)
    assert holds(rule, call(**met))
    assert not holds(rule, call(**unmet))


def test_what_was_tried_is_told_with_the_conditions_that_were_not_met() -> None:
    tried = rules(
        deny=[{"name": "a", "tools": ["serve"], "usd": "> 1"}], ask=[{"name": "b"}], allow=[{"name": "c"}]
    )
    decision, trials = explain(tried, call(max_micro_usd=500_000))
    assert (decision.effect, decision.rule) == ("ask", "b")
    assert [(trial.effect, trial.rule, trial.unmet) for trial in trials] == [
        ("deny", "a", ("tools: 'finetune' is none of serve", "usd: 0.5 is not > 1")),
        ("ask", "b", ()),
    ]


def test_a_question_says_how_many_people_have_to_answer_and_who_may_not() -> None:
    asked = decide(rules(ask=[{"name": "a", "people": 2, "requester_may_answer": False}]), call())
    assert (asked.people, asked.requester_may_answer) == (2, False)


def test_a_question_says_whether_the_asking_client_may_answer() -> None:
    assert decide(rules(ask=[{"name": "a", "client_may_answer": True}]), call()).client_may_answer
    assert not decide(rules(ask=[{"name": "a"}]), call()).client_may_answer


@pytest.mark.parametrize("field", [{"people": 2}, {"requester_may_answer": False}])
def test_a_client_does_not_answer_for_others(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not go with"):
        rules(ask=[{"name": "a", "client_may_answer": True, **field}])


@pytest.mark.parametrize(
    "field", [{"people": 2}, {"requester_may_answer": False}, {"client_may_answer": True}]
)
@pytest.mark.parametrize("effect", ["deny", "allow"])
def test_who_answers_is_only_said_of_questions(effect: str, field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"rule 'a': .* (is|are) for rules under 'ask'"):
        rules(**{effect: [{"name": "a", **field}]})


def test_all_conditions_of_a_rule_have_to_hold() -> None:
    rule = Rule(name="r", tools=("finetune",), surfaces=("mcp",))
    assert not holds(rule, call())


@given(st.integers(0, 10**9), st.booleans(), st.booleans(), st.sampled_from(["cli", "mcp"]))
def test_a_denied_call_stays_denied_whatever_else_is_said(
    micro: int, read_only: bool, launches: bool, surface: str
) -> None:
    everything = [{"name": "all"}]
    asked = call(max_micro_usd=micro, read_only=read_only, launches=launches, surface=surface)
    assert decide(rules(deny=everything, ask=everything, allow=everything), asked).effect == "deny"


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("name: x\nask:\n  - name: a\n    usd: cheap\n", 4, "ask.0.usd"),
        ("name: x\nask:\n  - name: a\n    between: 8-18\n", 4, "ask.0.between"),
        ("name: x\nask:\n  - name: a\n    tool: [serve]\n", 4, "ask.0.tool"),
        ("name: x\npermit: []\n", 2, "permit"),
        ("name: x\nask:\n  - name: a\n    days: [monday]\n", 4, "ask.0.days.0"),
        ("name: x\nask:\n  - name: a\n    people: 0\n", 4, "ask.0.people"),
    ],
)
def test_a_wrong_rule_is_reported_at_its_line(tmp_path: Path, text: str, line: int, field: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_rules(path)
    assert (caught.value.line, caught.value.field) == (line, field)


@pytest.mark.parametrize("name", ["default", "demo", "read_only", "unattended"])
def test_a_shipped_rule_set_loads_and_says_what_it_is_for(name: str) -> None:
    shipped = load_rules(bundled_root() / f"policies/{name}.yaml")
    assert shipped.name == name
    assert shipped.description
    assert decide(shipped, call(tool="job_status", read_only=True, launches=False)).effect == "allow"


def test_the_default_rules_ask_about_training_and_about_money() -> None:
    default = load_rules(bundled_root() / "policies/default.yaml")
    assert decide(default, call()).rule == "training"
    assert decide(default, call(tool="evaluate")).effect == "allow"
    assert decide(default, call(tool="evaluate", max_micro_usd=1_000_001)).rule == "money"
