"""Write the parts of these documents that the code knows better: tools, recipes, settings, exit codes.

    python docs/generate.py            # put them in shape
    python docs/generate.py --check    # exit code 1, and the names, if any of them is out of date

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; NAME is a key of `PARTS`.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from agentd import sdk
from agentd.cli.app import exit_code
from agentd.config import (
    Budget,
    Capture,
    CommandConfig,
    Config,
    OAuthConfig,
    RecipeConfig,
    ServerConfig,
    WebhookConfig,
)
from agentd.errors import AgentdError
from agentd.jobs.causes import NAMED
from agentd.jobs.environments import script_header
from agentd.jobs.machine import REPEATED
from agentd.jobs.recipes import find_recipe, program_of, recipe_names
from agentd.plugins import Plugins, bundled_root
from agentd.policy.rules import Rule
from agentd.sdk import Model, Tool
from agentd.server.wire import status_of

DOCS = Path(__file__).parent
MEANINGS = {  # of fields that say nothing of themselves in the code
    "server": "where the daemon listens",
    "budget": "what may be spent",
    "recipes": "interpreters that are there already",
    "host": "address to listen on",
    "per_day_usd": "US dollars a day, UTC",
    "per_month_usd": "US dollars a calendar month, UTC",
    "name": "what it is called: in calls, or in the journal",
    "kind": "what sort of model it is; APIs are `frontier` or `reasoning`",
    "digest": "of its files; filled in by the tools that make models",
    "input_micro_usd_per_mtok": "price of a million input tokens, in millionths of a dollar",
    "output_micro_usd_per_mtok": "price of a million output tokens, in millionths of a dollar",
    "size_bytes": "of its files",
    "meta": "anything else",
    "python": "path of the interpreter; it must have the recipe's packages",
    "tools": "names of tools, as patterns",
    "principals": "who asks, as patterns: `user:ann`, `agent:*`",
    "surfaces": "through what: `cli`, `mcp`, `gateway`",
    "read_only": "whether the tool only reads",
    "open_world": "whether the tool reaches beyond this machine",
    "gpu_hours": "quoted GPU-hours",
}
PART = re.compile(r"(<!-- generated: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    stale = [path for path in sorted(DOCS.glob("*.md")) if path.read_text(encoding="utf-8") != renewed(path)]
    if "--check" in arguments:
        sys.stderr.writelines(f"{path} is out of date: python docs/generate.py\n" for path in stale)
        return 1 if stale else 0
    for path in stale:
        path.write_text(renewed(path), encoding="utf-8")
    return 0


def renewed(path: Path) -> str:
    """The document with its generated parts as they should be."""
    return PART.sub(
        lambda part: f"{part[1]}\n{PARTS[part['name']]()}\n\n{part[3]}", path.read_text(encoding="utf-8")
    )


# --- tools ----------------------------------------------------------------------------------


def tools() -> str:
    """Every tool: what kind of call it is, what a model is told about it, its arguments and its answer."""
    loaded = Plugins((bundled_root(),)).tools()
    index = table(
        ("tool", "what it is for", "kind"),
        ((f"[`{tool.name}`](#{tool.name})", tool.title, kind_of(tool)) for tool in loaded.values()),
    )
    return "\n\n".join([index, *(tool_section(tool) for tool in loaded.values())])


def tool_section(tool: Tool) -> str:
    schema = tool.arguments.model_json_schema()
    required = schema.get("required", [])
    rows = [
        (
            f"`{name}`",
            type_of(field),
            "needed" if name in required else shown(field.get("default")),
            field.get("description", ""),
        )
        for name, field in schema.get("properties", {}).items()
    ]
    arguments = table(("argument", "type", "default", "meaning"), rows) if rows else "It takes no arguments."
    answer = "a job" if tool.launches else ", ".join(f"`{name}`" for name in tool.result.model_fields)
    if tool.gives:
        answer += f", whose result has {', '.join(f'`{name}`' for name in tool.gives)}"
    quoted = "\n".join(f"> {line}".rstrip() for line in tool.description.splitlines())
    head = f"### {tool.name}\n\n**{tool.title}**: {kind_of(tool)}."
    return f"{head}\n\n{quoted}\n\n{arguments}\n\nAnswers with {answer}."


def keys() -> str:
    """What the results of launched jobs hold, for plans that refer to them."""
    loaded = Plugins((bundled_root(),)).tools()
    told = [tool for tool in loaded.values() if tool.gives]
    rows = ((f"`{tool.name}`", ", ".join(f"`{name}`" for name in tool.gives)) for tool in told)
    return table(("tool", "keys"), rows)


def kind_of(tool: Tool) -> str:
    names = {
        "launches a job": tool.launches,
        "only reads": tool.read_only,
        "answers at once": not tool.launches and not tool.read_only,
        "may undo something": tool.destructive,
        "reaches beyond this machine": tool.open_world,
        "not listed over MCP": not tool.listed,
    }
    return ", ".join(name for name, holds in names.items() if holds)


def type_of(field: dict[str, Any]) -> str:
    """A property of a JSON schema in a few words: its type, choices and bounds."""
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(type_of(each) for each in field["anyOf"])
    name = field.get("type", "any")
    if name == "array":
        return f"list of {type_of(field.get('items', {}))}"
    bounds = (("exclusiveMinimum", ">"), ("minimum", "≥"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    limits = ", ".join(f"{sign} {field[key]:g}" for key, sign in bounds if key in field)
    return f"{name}, {limits}" if limits else name


# --- recipes --------------------------------------------------------------------------------


def recipes() -> str:
    """Every recipe with its first line, and the packages its header pins."""
    rows: list[tuple[str, str, str]] = []
    plugins = Plugins((bundled_root(),))
    for path in (find_recipe(plugins, name) for name in recipe_names(plugins)):
        packages = tomllib.loads(script_header(path))["dependencies"]
        rows.append(
            (f"`{path.stem}`", summary(program_of(path)), ", ".join(f"`{package}`" for package in packages))
        )
    return table(("recipe", "what it does", "direct dependencies"), rows)


def summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    found = re.search(r'"""(.+?)(?:\n|""")', path.read_text(encoding="utf-8"))
    assert found is not None, f"{path} has no docstring"
    return found[1]


# --- settings -------------------------------------------------------------------------------


def settings() -> str:
    """Every key of agentd.toml, a table a section."""
    sections: list[tuple[str, type[BaseModel]]] = [
        ("Top level", Config),
        ("`[server]`", ServerConfig),
        ("`[server.oauth]`", OAuthConfig),
        ("`[budget]`", Budget),
        ("`[capture]`", Capture),
        ("`[[models]]`", Model),
        ("`[recipes.NAME]`", RecipeConfig),
        ("`[[notify]]` of kind `webhook`", WebhookConfig),
        ("`[[notify]]` of kind `command`", CommandConfig),
    ]
    parts = [f"#### {title}\n\n{prose(model)}\n\n{fields(model)}" for title, model in sections]
    return "\n\n".join(parts)


def rules() -> str:
    """Every condition a policy rule may have."""
    return fields(Rule)


def fields(model: type[BaseModel]) -> str:
    rows: list[tuple[str, str, str, str]] = []
    for name, field in model.model_json_schema()["properties"].items():
        info = model.model_fields[name]
        nested = "$ref" in json.dumps(field)
        default = "" if info.is_required() or nested else shown(field.get("default"))
        meaning = info.description or MEANINGS.get(name, "")
        rows.append(
            (
                f"`{name}`",
                "see below" if nested and model is Config else "table" if is_table(field) else type_of(field),
                default,
                meaning,
            )
        )
    return table(("key", "type", "default", "meaning"), rows)


def situation() -> str:
    """Every number that advice is given on, with its stand-in or where it is looked up."""
    module = Plugins((bundled_root(),)).module("tools", "situation")
    rows: list[tuple[str, str, str]] = []
    for group, part in module.Situation.model_fields.items():
        for name, info in part.annotation.model_fields.items():
            more = info.json_schema_extra or {}
            value = "needed" if info.is_required() else shown(info.default)
            if more.get("assumed") is not None:
                value = f"assumed: {more['assumed']:g}, {more['because']}"
            elif "found" in more:
                value = f"looked up: {more['found']}"
            rows.append((f"`{group}.{name}`", value, info.description or ""))
    return table(("input", "if nobody states it", "meaning"), rows)


def is_table(field: Mapping[str, Any]) -> bool:
    return "additionalProperties" in field or "$ref" in json.dumps(field)


def prose(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split())


# --- errors ---------------------------------------------------------------------------------


def errors() -> str:
    """Every kind of error, with its exit code and HTTP status."""
    rows = [
        (f"`{kind.code}`", f"{exit_code(example(kind))}", f"{status_of(example(kind))}", prose_of(kind))
        for kind in family(AgentdError)
        if kind.code != AgentdError.code
    ]
    return table(("code", "exit code", "HTTP status", "what it says"), rows)


def family(kind: type[AgentdError]) -> list[type[AgentdError]]:
    """The tree of `errors.py` in its order."""
    children = [child for child in kind.__subclasses__() if child.__module__ == "agentd.errors"]
    return [kind, *(each for child in children for each in family(child))]


def example(kind: type[AgentdError]) -> AgentdError:
    """An error of that kind, to be translated; what it says does not matter."""
    return kind.__new__(kind)


def prose_of(kind: type[AgentdError]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0].replace("`", "")


# --- Markdown -------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A default value as it is written on the command line or in a file; nothing for an empty one."""
    return "" if value in (None, "", [], {}) else f"`{json.dumps(value)}`".replace('"', "")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells on one line each, their pipes escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# --- causes ---------------------------------------------------------------------------------


def causes() -> str:
    """Every cause, what it means, who can name it, and whether another attempt follows."""
    meanings = dict(re.findall(r'^    "(\w+)",(?:  # (.+))?$', inspect.getsource(sdk), re.MULTILINE))
    return table(
        ("cause", "why it ended", "a recipe may say so", "tried again"),
        (
            (
                f"`{cause}`",
                meanings.get(cause, ""),
                "yes" if cause in NAMED else "",
                "yes" if cause in REPEATED else "if `repeatable`" if cause == "lost" else "",
            )
            for cause in get_args(sdk.Cause)
        ),
    )


PARTS: dict[str, Callable[[], str]] = {
    "tools": tools,
    "recipes": recipes,
    "settings": settings,
    "rules": rules,
    "situation": situation,
    "errors": errors,
    "causes": causes,
    "keys": keys,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
