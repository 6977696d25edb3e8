"""Tables, progress and figures, for people. What goes to other programs is JSON."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from agentd.cli.visible import visible
from agentd.policy.told import figures, money, takes
from agentd.wording import bytes_, span, spelled

__all__ = [
    "ago",
    "as_json",
    "bytes_",
    "console",
    "errors",
    "escape",
    "estimates",
    "facts",
    "figures",
    "is_estimate",
    "money",
    "progress_line",
    "span",
    "state_mark",
    "table",
    "takes",
]

PIPE_WIDTH = 160  # what reads a pipe does not wrap
console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)

# JSON leaves these as they are; a terminal obeys them, hides them, or shows what is around them otherwise.
_UNPRINTABLE = re.compile(
    "[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]"
)

_MARKS = {
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "lost": ("✗", "red"),
    "timed_out": ("✗", "red"),
    "cancelled": ("–", "yellow"),
    "skipped": ("–", "dim"),
    "stopped": ("–", "yellow"),
    "waiting_approval": ("?", "magenta"),
    "running": ("·", "cyan"),
}


def as_json(value: Any) -> None:
    """The one place where results for programs are written: JSON on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    click.echo(_UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], text))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """A plain table; `empty` is said when there are no rows. Cells are escaped: they may be hostile."""
    listed = list(rows)
    if not listed:
        errors.print(empty)
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(
            column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in listed:
        shown.add_row(*(cell if isinstance(cell, Text) else visible(cell) for cell in row))
    console.print(shown)


def state_mark(state: str) -> Text:
    """A state with its colour."""
    mark, style = _MARKS.get(state, ("·", ""))
    return Text(f"{mark} {state}", style=style)


def facts(values: Mapping[str, Any], to: Console = console, *, lines: bool = True) -> None:
    """Name and value, a line each; empty values are left out.

    With `lines`, newlines in values are kept. Without, a value stays in its column however long it
    is: nothing in it can pass for a fact of its own.
    """
    shown = {name: value for name, value in values.items() if value not in (None, "", {}, [])}
    width = max((len(spelled(name)) for name in values), default=0)
    for name, value in shown.items():
        label = Text(f"{spelled(name):>{width}}  ", style="dim")
        if lines:
            to.print(Text.assemble(label, visible(value, lines=True)))
        else:
            beside = max(to.width - len(label), 20)
            for number, line in enumerate(visible(value).wrap(to, beside, overflow="fold")):
                to.print(Text.assemble(label if number == 0 else " " * len(label), line), soft_wrap=True)


def is_estimate(value: Any) -> bool:
    """Whether this is a number with its interval, or with none."""
    return isinstance(value, dict) and {"value"} <= value.keys() <= {"value", "low", "high"}


def estimates(heading: str, values: Mapping[str, Mapping[str, float | None]]) -> None:
    """A table of numbers with their intervals, where they have one."""

    def rounded(number: float | None) -> str:
        return "" if number is None else f"{number:.3f}"

    parts = ("value", "low", "high")
    rows = [[name, *(rounded(each.get(part)) for part in parts)] for name, each in values.items()]
    table([heading, *(f">{part}" for part in parts)], rows, empty="")


def ago(at: float | None) -> str:
    return "" if at is None else f"{span(max(0.0, time.time() - at))} ago"


def progress_line(progress: Mapping[str, Any]) -> str:
    """One line out of a recipe's progress: done of total, the figures it reports, time left."""
    parts: list[str] = []
    done, total, unit = progress.get("done"), progress.get("total"), progress.get("unit", "")
    if total and unit == "bytes":
        parts.append(f"{bytes_(done or 0)} of {bytes_(total)}")
    elif total:
        parts.append(f"{done}/{total} {unit}".rstrip())
    if message := progress.get("message"):
        parts.append(str(message))
    for name, form in (
        ("loss", "loss {:.3f}"),
        ("tokens_per_s", "{:,.0f} tokens/s"),
        ("rows_per_s", "{:.1f} rows/s"),
        ("documents_per_s", "{:.1f} documents/s"),
    ):
        if isinstance(value := progress.get(name), (int, float)):
            parts.append(form.format(value))
    if isinstance(left := progress.get("seconds_left"), (int, float)):
        parts.append(f"{span(left)} left")
    return ", ".join(parts)
