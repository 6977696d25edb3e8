"""Prompts and their versions: ``prompt list``, ``show``, ``diff``, ``rollback``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from agentd.cli import show
from agentd.cli.client import connect
from agentd.errors import Conflict, InputError

__all__ = ["prompt"]

CONTENT = ("name", "description", "system", "template", "examples")


@click.group()
def prompt() -> None:
    """Look at prompts, tell versions apart, and bring one back.

    A prompt is a file in evals/prompts/. Every version that was evaluated is kept by its digest.

    \b
    Examples: agentd prompt list
              agentd eval run tickets --model small --prompt tickets-brief
              agentd prompt rollback tickets-brief@3f2a91
    """


@prompt.command(name="list")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def list_(json_: bool) -> None:
    """List prompts: files as they are now, then earlier versions that were evaluated.

    \b
    Example: agentd prompt list
    """
    answer = connect().call("list_prompts", {})
    if json_:
        show.as_json(answer)
        return
    rows = [
        (each["prompt"], "file" if each["current"] else "earlier", len(each["reports"]), each["description"])
        for each in answer["prompts"]
    ]
    show.table(
        ["prompt", "", ">reports", "description"], rows,
        empty="No prompts yet: write evals/prompts/NAME.yaml",
    )  # fmt: skip


@prompt.command(name="show")
@click.argument("prompt")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def show_(prompt: str, json_: bool) -> None:
    """Show a prompt as YAML: NAME as its file is now, or the version NAME@DIGEST.

    \b
    Example: agentd prompt show tickets-brief@3f2a91
    """
    answer = connect().call("show_prompt", {"prompt": prompt})
    if json_:
        show.as_json(answer)
        return
    show.facts({"version": answer["prompt"], "reports": ", ".join(answer["reports"])})
    show.console.print(show.escape(as_yaml(answer)), soft_wrap=True)


@prompt.command()
@click.argument("a")
@click.argument("b")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def diff(a: str, b: str, json_: bool) -> None:
    """Say line by line what differs between two prompts, or two versions of one.

    \b
    Example: agentd prompt diff tickets-brief@3f2a91 tickets-brief
    """
    answer = connect().call("diff_prompts", {"a": a, "b": b})
    if json_:
        show.as_json(answer)
        return
    told = f"{answer['a']} and {answer['b']} are the same" if answer["same"] else answer["diff"]
    show.console.print(show.escape(told), soft_wrap=True)


@prompt.command()
@click.argument("version", metavar="NAME@DIGEST")
@click.option("--to", type=click.Path(path_type=Path), help="Write it there instead of over its file.")
@click.option("--force", is_flag=True, help="Also over a version that was never evaluated, and is lost.")
def rollback(version: str, to: Path | None, force: bool) -> None:
    """Let a prompt's file hold an earlier version again.

    \b
    Example: agentd prompt rollback tickets-brief@3f2a91
    """
    client = connect()
    answer = client.call("show_prompt", {"prompt": version})
    if to is None and not answer["path"]:
        raise InputError(f"{answer['name']!r} has no file any more", hint="Name one with --to")
    path = to or Path(answer["path"])
    if answer["current"] and to is None:
        show.console.print(show.escape(f"{path} holds {answer['prompt']} already"), soft_wrap=True)
        return
    if to is None and not force:
        now = client.call("show_prompt", {"prompt": answer["name"]})
        if not now["reports"]:
            raise Conflict(
                f"{str(path)!r} holds a version that was never evaluated, and would be lost",
                hint="Evaluate it or copy it first, or add --force",
            )
    path.write_text(as_yaml(answer), encoding="utf-8")
    show.console.print(show.escape(f"{path} holds {answer['prompt']}"), soft_wrap=True)


def as_yaml(shown: Mapping[str, Any]) -> str:
    """A prompt's file. What is empty is left out."""
    content = {name: shown[name] for name in CONTENT if shown[name]}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
