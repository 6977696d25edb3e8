"""The documents say what the code does: generated parts, names, commands, and examples that run."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from agentd import documents
from agentd.agent import plans
from agentd.cli.app import COMMANDS
from agentd.config import Config, load_config
from agentd.daemon import Daemon
from agentd.notify.notices import KINDS
from agentd.plugins import Plugins, bundled_root
from agentd.policy.callers import Caller
from agentd.policy.rules import RuleSet
from agentd.sdk import JobView, Tool

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]

BUILT = {"build", "dist", "docs/__pycache__"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
TREE_LINE = re.compile(r"(?P<indent> *)(?P<names>\S+(?: \S+)*?) {2,}(?P<caption>\S.*)")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
ANY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def block(page: Path, language: str, holding: str) -> str:
    """The one code block in `page` that holds a text."""
    found = [body for body in blocks(page, language) if holding in body]
    assert len(found) == 1, f"{len(found)} blocks of {page.name} hold {holding!r}"
    return found[0]


@pytest.fixture(scope="module")
def tools() -> dict[str, Tool]:
    return Plugins((bundled_root(),)).tools()


# --- generated parts ------------------------------------------------------------------------


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("agentd_docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_generated_parts_are_what_the_code_says_now(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == generator().renewed(page), "run: python docs/generate.py"


def test_every_environment_variable_that_is_read_is_documented() -> None:
    said = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    code = "".join(
        (ROOT / "agentd" / name).read_text(encoding="utf-8") for name in ("config.py", "locations.py")
    )
    read = set(re.findall(r'"(AGENTD_[A-Z]+|XDG_[A-Z_]+)"', code))
    assert read
    assert {name for name in read if f"`{name}`" not in said} == set()


# --- the tree -------------------------------------------------------------------------------


def tree() -> dict[str, str]:
    """Path -> caption of every entry of the README's tree."""
    text = README.read_text(encoding="utf-8").partition("## The tree")[2]
    drawn = FENCE.search(text)
    assert drawn is not None
    entries: dict[str, str] = {}
    parents: list[str] = []
    for line in drawn[2].splitlines():
        found = TREE_LINE.fullmatch(line)
        assert found is not None, f"no caption: {line!r}"
        depth = len(found["indent"]) // 2
        for name in found["names"].split():
            entries["".join(parents[:depth]) + name] = found["caption"]
        parents[depth:] = [found["names"]]
    return entries


def test_every_entry_of_the_tree_exists() -> None:
    missing = [path for path in tree() if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("pattern", ["agentd/*.py", "tools/*.py", "tools/recipes/*.py"])
def test_every_module_tool_and_recipe_has_a_caption(pattern: str) -> None:
    captioned = tree().keys()
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("tools/recipes/*/__main__.py")}
    assert (files | folders) - captioned == set()


def test_every_folder_and_file_at_the_top_has_a_caption() -> None:
    captioned = {path.split("/")[0] for path in tree()}
    there = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".") and not is_empty(entry)}
    assert there - captioned - BUILT == set()


def test_every_package_of_the_kernel_has_a_caption() -> None:
    packages = {f"agentd/{path.parent.name}/" for path in ROOT.glob("agentd/*/*.py")}
    assert packages - {"agentd/_bundled/"} - tree().keys() == set()


def is_empty(entry: Path) -> bool:
    return entry.is_dir() and not any(path.is_file() for path in entry.rglob("*"))


# --- links, commands, names -----------------------------------------------------------------


@ANY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {path}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


def anchors(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)"', text))


def commands_in(page: Path) -> Iterator[list[str]]:
    """Every ``agentd …`` in code, as words."""
    text = page.read_text(encoding="utf-8")
    shell = "\n".join(body for name, body in FENCE.findall(text) if name == "bash")
    lines = [*shell.replace("\\\n", " ").splitlines(), *CODE.findall(FENCE.sub("", text))]
    for line in lines:
        for part in re.split(r"&&|;|\|", re.sub(r"\s#.*", "", line)):
            found = re.match(r"\s*(?:\S*/)?agentd (.+)", part)
            if found and not found[1].startswith(("COMMAND", "-- ")):
                yield shlex.split(found[1])


@ANY_PAGE
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands_in(page):
        assert words[0] in COMMANDS, f"{page.name}: agentd {' '.join(words)}"
        command = loaded(words[0])
        rest = words[1:]
        if isinstance(command, click.Group) and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert given <= known, f"{page.name}: agentd {' '.join(words)}"


def loaded(name: str) -> click.Command:
    module, _, attribute = COMMANDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


@ANY_PAGE
def test_tools_and_arguments_named_in_calls_exist(page: Path, tools: dict[str, Tool]) -> None:
    own = set(re.findall(r"^async def (\w+)", "".join(blocks(page, "python")), re.MULTILINE))
    for words in commands_in(page):
        if words[0] != "call" or len(words) == 1 or words[1] in own | {"TOOL"}:
            continue
        assert words[1] in tools, f"{page.name}: {words}"
        given = {word.partition("=")[0] for word in words[2:] if not word.startswith("-") and "=" in word}
        assert given <= tools[words[1]].arguments.model_fields.keys(), f"{page.name}: {words}"


def test_the_keys_of_results_in_plans_md_stand_in_the_code() -> None:
    section = (ROOT / "docs" / "plans.md").read_text(encoding="utf-8").partition("## Keys of results")[2]
    kernel = (ROOT / "agentd/agent/runs.py", ROOT / "agentd/jobs/views.py")
    files = [*ROOT.glob("tools/*.py"), *ROOT.glob("tools/recipes/**/*.py"), *kernel]
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    rows = re.findall(r"^\| `[a-z_`, ]+ \| (.+) \|$", section, re.MULTILINE)
    assert len(rows) > 5
    keys = {key for row in rows for key in CODE.findall(row)}
    assert {key for key in keys if f'"{key}"' not in code} == set()


# --- examples -------------------------------------------------------------------------------


@ANY_PAGE
def test_json_and_yaml_and_toml_examples_can_be_read(page: Path) -> None:
    for body in blocks(page, "json"):
        json.loads(body)
    for body in blocks(page, "yaml"):
        yaml.safe_load(body)
    for body in blocks(page, "toml"):
        tomllib.loads(body)


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "configuration.md"], ids=lambda page: page.name)
def test_settings_in_examples_are_taken(page: Path, tmp_path: Path) -> None:
    file = tmp_path / "agentd.toml"
    file.write_text(block(page, "toml", "EXAMPLE_API_KEY"), encoding="utf-8")
    config = load_config(file, {"AGENTD_CACHE": str(tmp_path)}, state_dir=tmp_path)
    assert next(model.key_env for model in config.models if model.name == "big") == "EXAMPLE_API_KEY"


def test_the_notifiers_of_the_documentation_are_taken_and_every_kind_of_notice_is_in_it(
    tmp_path: Path,
) -> None:
    page = ROOT / "docs" / "notify.md"
    file = tmp_path / "agentd.toml"
    file.write_text(block(page, "toml", "[[notify]]"), encoding="utf-8")
    config = load_config(file, {"AGENTD_CACHE": str(tmp_path)}, state_dir=tmp_path)
    assert [each.kind for each in config.notify] == ["webhook", "command"]
    rows = re.findall(r"^\| (`.+`) \| [^|]+ \| *(yes)? *\|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    told = {kind: bool(by_itself) for names, by_itself in rows for kind in CODE.findall(names)}
    assert told == {kind: kind in config.notify[1].on for kind in KINDS}


def test_the_rule_set_of_the_documentation_is_one() -> None:
    page = ROOT / "docs" / "policy.md"
    rules = documents.parse(block(page, "yaml", "name: team"), RuleSet, page)
    assert [rule.name for rule in rules.allow] == ["reading", "daytime"]


def test_the_plan_of_the_documentation_would_start(tools: dict[str, Tool]) -> None:
    page = ROOT / "docs" / "plans.md"
    plans.check(plans.parse_plan(block(page, "yaml", "plan: smaller"), page), tools, page)


def test_the_verdicts_of_the_documentation_are_those_of_compare() -> None:
    judge = Plugins((bundled_root(),)).module("tools", "verdict").judge
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (-?[\d.]+) \| (-?[\d.]+) \| ([\d.]+) \| (\w+) \|$", text, re.MULTILINE)
    assert {row[3] for row in rows} == {"better", "not_worse", "worse", "inconclusive"}
    for low, high, margin, verdict in rows:
        assert judge(float(low), float(high), float(margin)) == verdict


def test_the_plugin_of_the_documentation_runs(tmp_path: Path) -> None:
    page = ROOT / "docs" / "plugins.md"
    recipes = tmp_path / "mine" / "tools" / "recipes"
    recipes.mkdir(parents=True)
    (recipes.parent / "words.py").write_text(block(page, "python", "async def count_file"), encoding="utf-8")
    (recipes / "count_words.py").write_text(block(page, "python", "# /// script"), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("to be or not to be", encoding="utf-8")
    config = Config.model_validate(
        {
            "state_dir": tmp_path / "state",
            "cache_dir": tmp_path / "cache",
            "roots": [tmp_path / "mine"],
            "policy": "unattended",
            "recipes": {"count_words": {"python": sys.executable}},
        }
    )
    at_once, job = asyncio.run(_count(config, Caller("ann", "operate", "cli", tmp_path, is_agent=True)))
    assert at_once == {"words": 6, "longest": "not"}
    assert (job.state, job.reason) == ("succeeded", "")
    assert job.result is not None
    assert job.result["words"] == 6
    assert job.decided_by == "policy:bounded"


async def _count(config: Config, caller: Caller) -> tuple[dict[str, Any], JobView]:
    daemon = Daemon(config, url="http://127.0.0.1:9")
    assert daemon.plugins.problems == {}
    await daemon.start()
    try:
        counted = await daemon.calls.call("count_words", {"text": "to be or not to be"}, caller)
        started = await daemon.calls.call("count_file", {"path": "notes.txt"}, caller)
        assert isinstance(started, JobView)
        return counted.model_dump(), await daemon.jobs.wait(started.id, 60)
    finally:
        await daemon.aclose()
