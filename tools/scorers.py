"""Scorers as the daemon knows them: read from their source, and never run here.

What a scorer takes and wants is checked before anybody is asked to approve an evaluation; running it,
with whatever it imports, is for the recipe. `evals/scoring.py` says what a scorer is.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.sdk import Context, DataError, InputError

__all__ = ["Scorer", "check_options", "find_scorer"]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A scorer's file, the options it takes, those it cannot do without, and what it says of itself."""

    name: str
    path: Path
    options: tuple[str, ...]
    needed: tuple[str, ...]
    wants: tuple[str, ...] = ()
    better: str = "higher"


def find_scorer(ctx: Context, name: str) -> Scorer:
    """The scorer `name` in ``evals/scorers``. Raises `NotFound`, or `DataError` for one that is no scorer."""
    path = ctx.plugins.find("evals/scorers", f"{name}.py")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        raise DataError(path, f"is not Python: {error}", line=line) from error
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    function = functions.get("score_samples") or functions.get("score")
    if function is None:
        raise DataError(path, "defines no score()", hint="def score(expected, output, row) -> float")
    given = function.args
    defaults = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return Scorer(
        name=name,
        path=path,
        options=tuple(argument.arg for argument in given.kwonlyargs),
        needed=tuple(argument.arg for argument, default in defaults if default is None),
        wants=_constant(tree, "WANTS", ()),
        better=_constant(tree, "BETTER", "higher"),
    )


def check_options(scorer: Scorer, metric: str, options: Mapping[str, Any]) -> None:
    """Raise `InputError` for an option that the scorer does not take, or one that it lacks."""
    for option in options:
        if option not in scorer.options:
            near = difflib.get_close_matches(option, scorer.options, 1)
            raise InputError(
                f"The metric {metric!r} gives its scorer {scorer.name!r} an option {option!r}",
                hint=f"Did you mean {near[0]!r}?"
                if near
                else f"It takes: {', '.join(scorer.options) or 'none'}",
            )
    for option in scorer.needed:
        if option not in options:
            raise InputError(
                f"The metric {metric!r} must give its scorer {scorer.name!r} the option {option!r}",
                hint=f"See {scorer.path}",
            )


def _constant(tree: ast.Module, name: str, default: Any) -> Any:
    for node in tree.body:
        names = node.targets if isinstance(node, ast.Assign) else ()
        if isinstance(node, ast.Assign) and any(isinstance(n, ast.Name) and n.id == name for n in names):
            return ast.literal_eval(node.value)
    return default
