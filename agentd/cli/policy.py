"""Asking the rules without calling anything: ``policy explain``, ``policy test``. No daemon is needed."""

from __future__ import annotations

import datetime
import getpass
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import ValidationError
from rich.text import Text

from agentd import documents
from agentd.cli import show
from agentd.cli.call import named_values
from agentd.config import Config, load_config
from agentd.errors import InputError
from agentd.plugins import Plugins
from agentd.policy.examples import Asked, Examples, Outcome, call_of, tried
from agentd.policy.rules import DAYS, Decision, RuleSet, Trial, explain, load_rules
from agentd.sdk import Tool
from agentd.store.tokens import Role

__all__ = ["policy"]

_STYLES = {"deny": "red", "ask": "magenta", "allow": "green"}


@click.group()
def policy() -> None:
    """Ask a rule set what it would decide, and test it. Nothing is called, and no daemon is needed.

    \b
    Examples: agentd policy explain finetune usd=0.02 --surface mcp
              agentd policy test
    """


@policy.command(name="explain")
@click.argument("tool")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--rules", "name", help="A name in policies/ or a path; the configured set by default.")
@click.option("--as", "principal", help="Who asks, such as user:ann; your agent by default.")
@click.option("--role", type=click.Choice(get_args(Role)), default="operate", show_default=True)
@click.option("--surface", default="mcp", show_default=True, help="Through what: cli, mcp, gateway.")
@click.option("--usd", type=float, default=0.0, help="The most it may cost.")
@click.option("--quoted-usd", type=float, default=0.0, help="What it is expected to cost.")
@click.option("--hours", type=float, default=0.0, help="Its wall clock limit.")
@click.option("--gpu-hours", type=float, default=0.0, help="Quoted GPU-hours.")
@click.option("--remaining-usd", type=float, help="Left of the budget; no limit unless given.")
@click.option("--at", metavar='"DAY HH:MM"', help='When, such as "sat 22:30"; now by default.')
@click.option("--tainted", is_flag=True, help="What came from documents or models led to it.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def explain_(tool: str, arguments: tuple[str, ...], name: str | None, json_: bool, **facts: Any) -> None:
    """Tell what the rules decide about one call, by which rule, and why the rules before it did not hold.

    Figures that are not given count as nothing: 'agentd call TOOL … --quote' tells those of a call.

    \b
    Example: agentd policy explain evaluate suite=tickets model=big --usd 2 --as agent:ann
    """
    config = load_config()
    plugins = Plugins.open(config.roots)
    rules, tools = _rules(plugins, config, name), plugins.tools()
    given = {key: value for key, value in facts.items() if value is not None}
    asked = _asked({"principal": f"agent:{getpass.getuser()}", "at": _now()} | given, tool, arguments)
    decision, trials = explain(rules, call_of(asked, tools))
    if json_:
        show.as_json(
            {
                "rules": rules.name,
                **decision.model_dump(),
                "tried": [trial.model_dump() for trial in trials],
            }
        )
        return
    _print_decision(decision, trials)
    if tools.get(tool) and tools[tool].launches and not asked.usd and not asked.hours:
        show.errors.print(
            "Cost and limit were not given and count as 0: --usd, --hours", style="dim", soft_wrap=True
        )


@policy.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--rules", "name", help="Try these rules instead of those that the file names.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def test(files: tuple[Path, ...], name: str | None, json_: bool) -> None:
    """Put example calls to a rule set, and print the rule that decides each. Exit code 1 on a difference.

    Without FILES, all that lie in policies/tests/ of your roots and of agentd.

    \b
    Examples: agentd policy test
              agentd policy test mine.yaml --rules unattended
    """
    config = load_config()
    plugins = Plugins.open(config.roots)
    tools = plugins.tools()
    found = files or tuple(
        plugins.find("policies/tests", f"{stem}.yaml") for stem in plugins.names("policies/tests", ".yaml")
    )
    outcomes = {file: _tried(plugins, config, file, name, tools) for file in found}
    if json_:
        show.as_json([_as_row(file, outcome) for file, listed in outcomes.items() for outcome in listed])
    else:
        for file, listed in outcomes.items():
            _print_outcomes(file, listed)
    sys.exit(0 if all(one.as_expected for listed in outcomes.values() for one in listed) else 1)


def _tried(
    plugins: Plugins, config: Config, file: Path, name: str | None, tools: Mapping[str, Tool]
) -> list[Outcome]:
    examples = documents.load(file, Examples)
    named = name or examples.rules
    if name is None and named.endswith((".yaml", ".yml")):
        named = str(file.parent / named)
    return tried(_rules(plugins, config, named), examples, tools)


def _rules(plugins: Plugins, config: Config, name: str | None) -> RuleSet:
    from agentd.daemon import named_document

    return load_rules(named_document(plugins, name or config.policy))


def _asked(facts: Mapping[str, Any], tool: str, pairs: tuple[str, ...]) -> Asked:
    try:
        return Asked(tool=tool, arguments=named_values(pairs), **facts)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{first['loc'][0]}: {first['msg']} (it says {first['input']!r})") from error


def _now() -> str:
    now = datetime.datetime.now().astimezone()
    return f"{DAYS[now.weekday()]} {now:%H:%M}"


def _print_decision(decision: Decision, trials: Sequence[Trial]) -> None:
    show.console.print(Text.assemble((decision.effect, _STYLES[decision.effect]), f"  {decision.why}"))
    if decision.people > 1:
        show.console.print(f"{decision.people} people have to approve")
    if not decision.requester_may_answer:
        show.console.print("the one who asks may not approve")
    if decision.client_may_answer:
        show.console.print("an answer given in the asking MCP client counts")
    rows = [
        (Text("–" if trial.unmet else "✓"), trial.effect, trial.rule, "; ".join(trial.unmet))
        for trial in trials
    ]
    show.table(["", "list", "rule", "why it did not hold"], rows, empty="The set has no rules.")


def _print_outcomes(file: Path, outcomes: Sequence[Outcome]) -> None:
    right = sum(outcome.as_expected for outcome in outcomes)
    show.console.print(f"[bold]{show.escape(str(file))}[/]  {right} of {len(outcomes)} as expected")
    rows = [
        (
            Text("✓", "green") if outcome.as_expected else Text("✗", "red"),
            _call(outcome),
            Text(outcome.decision.effect, _STYLES[outcome.decision.effect]),
            outcome.decision.rule,
            "" if outcome.as_expected else _expected(outcome),
        )
        for outcome in outcomes
    ]
    show.table(["", "call", "decision", "by rule", "expected"], rows, empty="")


def _call(outcome: Outcome) -> str:
    """The tool, and what was said of the call."""
    asked = outcome.example.model_dump(
        mode="json", exclude_defaults=True, exclude={"tool", "expect", "rule", "people"}
    )
    arguments = asked.pop("arguments", {})
    return " ".join((outcome.example.tool, *(f"{k}={v}" for k, v in {**arguments, **asked}.items())))


def _expected(outcome: Outcome) -> str:
    wanted = outcome.example
    who = f" by {wanted.people} people" if wanted.people is not None else ""
    return f"{wanted.expect}{f' by {wanted.rule!r}' if wanted.rule else ''}{who}"


def _as_row(file: Path, outcome: Outcome) -> dict[str, Any]:
    return {
        "file": str(file),
        "ok": outcome.as_expected,
        "call": outcome.example.model_dump(mode="json", exclude_defaults=True),
        **outcome.decision.model_dump(),
    }
