"""Rule sets are tested with example calls: the shipped ones with all that lie beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentd import documents
from agentd.cli.app import app
from agentd.errors import DataError, NotFound
from agentd.plugins import Plugins, bundled_root
from agentd.policy.examples import Asked, Examples, call_of, moment, tried
from agentd.policy.rules import RuleSet, load_rules
from agentd.sdk import Tool

POLICIES = bundled_root() / "policies"
SETS = ["default", "demo", "read_only", "unattended"]


@pytest.fixture(scope="module")
def tools() -> dict[str, Tool]:
    return Plugins((bundled_root(),)).tools()


@pytest.mark.parametrize("name", SETS)
def test_a_shipped_rule_set_decides_its_examples_as_expected(name: str, tools: dict[str, Tool]) -> None:
    examples = documents.load(POLICIES / f"tests/{name}.yaml", Examples)
    assert examples.rules == name
    outcomes = tried(load_rules(POLICIES / f"{name}.yaml"), examples, tools)
    assert [one for one in outcomes if not one.as_expected] == []


@pytest.mark.parametrize("name", SETS)
def test_every_rule_of_a_shipped_set_decides_at_least_one_example(name: str, tools: dict[str, Tool]) -> None:
    rules = load_rules(POLICIES / f"{name}.yaml")
    examples = documents.load(POLICIES / f"tests/{name}.yaml", Examples)
    decided = {one.decision.rule for one in tried(rules, examples, tools)}
    assert {rule.name for rule in (*rules.deny, *rules.ask, *rules.allow)} <= decided


def test_the_default_rules_speak_of_every_shipped_tool_that_costs_or_reaches_out(
    tools: dict[str, Tool],
) -> None:
    rules = load_rules(POLICIES / "default.yaml")
    named = {name for rule in (*rules.ask, *rules.allow) for name in rule.tools}
    costly = {
        name for name, tool in tools.items() if tool.launches or (tool.open_world and not tool.read_only)
    }
    assert costly - named == set()


def test_every_shipped_rule_set_has_examples() -> None:
    sets = {path.stem for path in POLICIES.glob("*.yaml")} - {"prices"}
    assert sets == set(SETS) == {path.stem for path in (POLICIES / "tests").glob("*.yaml")}


@pytest.mark.parametrize("tool", ["evaluate", "finetune", "ingest"])
def test_unattended_rules_let_nothing_costly_through_once_the_budget_is_nearly_spent(
    tool: str, tools: dict[str, Tool]
) -> None:
    rules = load_rules(POLICIES / "unattended.yaml")
    call = {"tool": tool, "usd": 0.01, "remaining_usd": 0.49, "expect": "deny"}
    assert tried(rules, examples_of(call), tools)[0].as_expected


def examples_of(*calls: dict[str, Any]) -> Examples:
    return Examples.model_validate({"rules": "x", "calls": calls})


def test_a_tool_is_what_its_program_says_unless_the_example_says_otherwise(tools: dict[str, Tool]) -> None:
    call = call_of(Asked(tool="finetune"), tools)
    assert (call.launches, call.read_only) == (True, False)
    assert call_of(Asked(tool="finetune", launches=False), tools).launches is False
    with pytest.raises(NotFound, match="Did you mean 'finetune'"):
        call_of(Asked(tool="finetun"), tools)
    mine = Asked(tool="mine", read_only=True, launches=False, open_world=False)
    assert call_of(mine, tools).read_only


def test_an_example_has_the_defaults_of_its_tool(tools: dict[str, Tool]) -> None:
    call = call_of(Asked(tool="evaluate", arguments={"suite": "tickets", "model": "small"}), tools)
    assert call.arguments["unsandboxed"] is False
    without_its_suite = call_of(Asked(tool="evaluate", arguments={"unsandboxed": True}), tools)
    assert without_its_suite.arguments["unsandboxed"] is True


@pytest.mark.parametrize("text", ["", "noon", "mon", "mon 25:00", "monday 12:00"])
def test_a_moment_is_a_day_and_a_time(text: str) -> None:
    assert moment("sat 22:30")[0] == "sat"
    with pytest.raises(ValueError, match=r"such as|isoformat|hour must"):
        moment(text)


@pytest.mark.parametrize(
    ("wanted", "as_expected"),
    [
        ({"expect": "ask"}, True),
        ({"expect": "allow"}, False),
        ({"expect": "ask", "rule": "two"}, True),
        ({"expect": "ask", "rule": "one"}, False),
        ({"expect": "ask", "people": 2}, True),
        ({"expect": "ask", "people": 1}, False),
    ],
)
def test_what_is_expected_may_be_the_decision_the_rule_and_the_number_of_people(
    wanted: dict[str, Any], as_expected: bool, tools: dict[str, Tool]
) -> None:
    rules = RuleSet.model_validate({"name": "x", "ask": [{"name": "two", "people": 2}]})
    [outcome] = tried(rules, examples_of({"tool": "finetune", **wanted}), tools)
    assert outcome.as_expected == as_expected


# --- on the command line --------------------------------------------------------------------


@pytest.fixture
def agentd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line with settings of its own, and no daemon."""
    monkeypatch.chdir(tmp_path)
    env = {"AGENTD_CONFIG": "", "XDG_CONFIG_HOME": str(tmp_path), "AGENTD_STATE": str(tmp_path / "state")}

    def run(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, ["policy", *words], env=env, catch_exceptions=False)
        assert done.exit_code == code, f"{words}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
        assert not (tmp_path / "state").exists()
        return done

    return run


def test_all_shipped_examples_pass_on_the_command_line(agentd: Any) -> None:
    done = agentd("test")
    assert "unattended.yaml  11 of 11 as expected" in done.stdout
    assert "finetune usd=0.01 hours=0.5" in done.stdout
    assert "✗" not in done.stdout


def test_a_difference_is_shown_with_the_deciding_rule_and_exits_with_1(agentd: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nask: [{name: all}]\n", encoding="utf-8")
    calls = "calls:\n  - {tool: finetune, expect: deny, rule: never}\n  - {tool: serve, expect: ask}\n"
    (tmp_path / "calls.yaml").write_text(f"rules: mine.yaml\n{calls}", encoding="utf-8")
    done = agentd("test", "calls.yaml", code=1)
    assert "calls.yaml  1 of 2 as expected" in done.stdout
    [wrong] = [line for line in done.stdout.splitlines() if line.startswith("✗")]
    assert wrong.split() == ["✗", "finetune", "ask", "all", "deny", "by", "'never'"]
    rows = json.loads(agentd("test", "calls.yaml", "--json", code=1).stdout)
    assert [(row["ok"], row["effect"], row["rule"]) for row in rows] == [
        (False, "ask", "all"),
        (True, "ask", "all"),
    ]
    assert "0 of 2 as expected" in agentd("test", "calls.yaml", "--rules", "demo", code=1).stdout


def test_a_wrong_file_of_examples_is_told_at_its_line(agentd: Any, tmp_path: Path) -> None:
    (tmp_path / "calls.yaml").write_text("rules: default\ncalls:\n  - {tool: serve}\n", encoding="utf-8")
    assert "calls.yaml:3: calls.0.expect: is missing" in agentd("test", "calls.yaml", code=2).stderr
    (tmp_path / "calls.yaml").write_text("rules: default\ncalls: []\n", encoding="utf-8")
    with pytest.raises(DataError):
        documents.load(tmp_path / "calls.yaml", Examples)


def test_a_call_is_explained_with_the_rules_before_the_deciding_one(agentd: Any) -> None:
    done = agentd("explain", "evaluate", "suite=tickets", "--usd", "1.5")
    lines = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    assert done.stdout.splitlines()[0] == "ask  rule 'money' of 'default'"
    assert lines[2] == ["–", "ask", "training", "tools: 'evaluate' is none of finetune, quantize"]
    assert lines[-1] == ["✓", "ask", "money"]


def test_a_call_is_explained_for_whoever_asks_and_whenever(agentd: Any, tmp_path: Path) -> None:
    rules = (
        "name: mine\ndeny: [{name: nights, between: '22:00-06:00', days: [sat]}]\n"
        "ask: [{name: people, principals: ['user:*'], people: 2, requester_may_answer: false}]\n"
        "allow: [{name: rest}]\n"
    )
    (tmp_path / "mine.yaml").write_text(rules, encoding="utf-8")

    def explained(*words: str) -> str:
        return agentd("explain", "serve", "--rules", "mine.yaml", *words).stdout

    assert explained("--at", "sat 23:00").startswith("deny  rule 'nights' of 'mine'")
    assert explained("--at", "sun 23:00").startswith("allow  rule 'rest' of 'mine'")
    asked = explained("--at", "sun 23:00", "--as", "user:bob", "--surface", "cli")
    assert asked.startswith("ask  rule 'people' of 'mine'")
    assert "2 people have to approve" in asked
    assert "the one who asks may not approve" in asked
    answer = json.loads(explained("--at", "sun 23:00", "--json"))
    assert (answer["effect"], [one["rule"] for one in answer["tried"]]) == (
        "allow",
        ["nights", "people", "rest"],
    )


def test_what_cannot_be_explained_is_told(agentd: Any) -> None:
    assert "Did you mean 'finetune'" in agentd("explain", "finetun", code=2).stderr
    assert "--at: " in agentd("explain", "serve", "--at", "noon", code=2).stderr
    assert "no rule set 'defualt'" in agentd("explain", "serve", "--rules", "defualt", code=2).stderr
    assert "count as 0" in agentd("explain", "finetune").stderr
