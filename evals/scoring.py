"""Apply scorers to answered rows, and keep what could not be scored apart from what scored 0.

Recipes that collect answers are handed this file and the scorers as inputs, and load both by path;
the daemon loads neither. Standard library only; knows nothing of endpoints, suites or reports.

A scorer is one Python file with one of the first two, and whatever it likes of the rest:

    score(expected, output, row, **options) -> float            one output
    score_samples(expected, outputs, row, **options) -> float   all samples of a row at once
    figures(rows, **options) -> {name: value or (value, low, high)}   over all rows that it scored
    BETTER = "lower"          for a score where less is better; it cannot be a suite's first metric
    WANTS = ("likelihood",)   row["likelihood"]: {"logprob", "tokens"} of the expected text
    WANTS = ("sandbox",)      runs code that a model wrote

A row that a scorer raises on, or gives no finite number for, has an error for that metric and no
score: it is never a zero. Without a score of the first metric the row itself counts as an error.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

Row = dict[str, Any]
Figure = float | tuple[float, float, float]


class BadScorer(Exception):
    """A scorer that cannot be used. `hint` says what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Unscored(Exception):
    """This row has no score of this metric."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """One metric: `of_row` gives a row's score, `of_all` figures over all rows that have one."""

    name: str
    of_row: Callable[[Row], float]
    of_all: Callable[[Sequence[Row]], Mapping[str, Figure]]
    better: str = "higher"
    primary: bool = field(default=False, kw_only=True)


# --- from files -----------------------------------------------------------------------------


def load_scorers(metrics: Sequence[Mapping[str, Any]], inputs: Mapping[str, str]) -> list[Scorer]:
    """The scorers of `metrics`: {"name", "scorer" or "judge", "options", "files"}, paths from `inputs`.

    Raises `BadScorer` for one that cannot be loaded or takes no such options.
    """
    return [
        _judged(metric, primary=not number)
        if metric.get("judge")
        else _from_file(metric, inputs, primary=not number)
        for number, metric in enumerate(metrics)
    ]


def _from_file(metric: Mapping[str, Any], inputs: Mapping[str, str], *, primary: bool) -> Scorer:
    module = _module(metric["scorer"], Path(inputs[f"scorer-{metric['scorer']}"]))
    files = {option: Path(inputs[name]) for option, name in metric.get("files", {}).items()}
    options = {**metric.get("options", {}), **files}
    score = getattr(module, "score_samples", None) or getattr(module, "score", None)
    if score is None:
        raise BadScorer(f"The scorer {metric['scorer']!r} defines no score()", "See docs/plugins.md")
    _check_options(metric, score, options)
    if score is getattr(module, "score_samples", None):

        def of_row(row: Row) -> float:
            return score(row["expected"], outputs_of(row), row, **options)
    else:

        def of_row(row: Row) -> float:
            return fmean(_number(score(row["expected"], each, row, **options)) for each in outputs_of(row))

    summarise = getattr(module, "figures", None)

    def of_all(rows: Sequence[Row]) -> Mapping[str, Figure]:
        return summarise(rows, **options) if summarise else {}

    return Scorer(metric["name"], of_row, of_all, getattr(module, "BETTER", "higher"), primary=primary)


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scorer_{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadScorer(
            f"The scorer {name!r} cannot be loaded: {type(error).__name__}: {error}", f"Mend {path.name}"
        ) from error
    return module


def _check_options(metric: Mapping[str, Any], score: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(score).bind("expected", "output", {}, **options)
    except TypeError as error:
        known = [p.name for p in inspect.signature(score).parameters.values() if p.kind is p.KEYWORD_ONLY]
        raise BadScorer(
            f"The scorer {metric['scorer']!r} of metric {metric['name']!r} cannot be used so: {error}",
            f"Its options are: {', '.join(known) or 'none'}",
        ) from error


def _judged(metric: Mapping[str, Any], *, primary: bool) -> Scorer:
    """A judge has been asked before: its verdicts stand in the rows."""
    name = metric["name"]

    def of_row(row: Row) -> float:
        verdict = row["verdicts"][name]
        if "error" in verdict:
            raise Unscored(verdict["error"])
        return verdict["score"]

    def of_all(rows: Sequence[Row]) -> Mapping[str, Figure]:
        verdicts = [row["verdicts"][name] for row in rows]
        return position_figures(verdicts) | rating_figures(verdicts)

    return Scorer(name, of_row, of_all, primary=primary)


def position_figures(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, Figure]:
    """Of pairwise verdicts: how often swapping changed the winner, and how often the first one won."""
    pairs = [verdict["winners"] for verdict in verdicts if "winners" in verdict]
    if not pairs:
        return {}
    flipped = fmean(one != {"A": "B", "B": "A", "tie": "tie"}[two] for one, two in pairs)
    decided = [winner for pair in pairs for winner in pair if winner != "tie"]
    first = {"first_wins": fmean(winner == "A" for winner in decided)} if decided else {}
    return {"disagrees_when_swapped": flipped, **first}


def rating_figures(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """The share of the rating given most, and of verdicts on what was shown in part."""
    ratings = [verdict["rating"] for verdict in verdicts if "rating" in verdict]
    made: dict[str, Figure] = {}
    if ratings:
        made["most_given"] = Counter(ratings).most_common(1)[0][1] / len(ratings)
    if cut := sum("cut" in verdict for verdict in verdicts):
        made["shown_in_part"] = cut / len(verdicts)
    return made


# --- over rows ------------------------------------------------------------------------------


def outputs_of(row: Mapping[str, Any]) -> list[str]:
    """All samples of a row."""
    return row.get("outputs") or [row["output"]]


def score_rows(
    rows: Iterable[Row], scorers: Sequence[Scorer], report: Callable[[int], None] = lambda _: None
) -> None:
    """Write "scores", "score" (of the first) and "score_errors" into every row that has an output.

    `report` is told how many rows are done.
    """
    for done, row in enumerate(rows, 1):
        if "error" not in row:
            _score_row(row, scorers)
        report(done)


def _score_row(row: Row, scorers: Sequence[Scorer]) -> None:
    row["scores"] = {}
    for scorer in scorers:
        try:
            value = _number(scorer.of_row(row))
            if scorer.primary and not 0 <= value <= 1:
                raise Unscored(f"gave {value}, and a first metric's scores lie in 0…1")
        except Exception as error:  # noqa: BLE001 - a scorer is somebody else's program
            said = str(error) if isinstance(error, Unscored) else f"{type(error).__name__}: {error}"
            row.setdefault("score_errors", {})[scorer.name] = said
            if scorer.primary:
                row["error"] = f"no score of {scorer.name}: {said}"
            continue
        row["scores"][scorer.name] = value
        if scorer.primary:
            row["score"] = value


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise Unscored(f"gave {number}, which is no score")
    return number


def summary(
    rows: Sequence[Row], scorers: Sequence[Scorer], slices: Sequence[str], statistics: Any
) -> dict[str, Any]:
    """What the scored rows come to.

    {"metrics": [{"name", "score", "low", "high", "n", "errors", "better", "figures", "why"}],
    "slices": {field: {value: {"n", "score", "low", "high"}}}}, slices of the first metric. `statistics` is
    tools/verdict.py. Raises `BadScorer` when a scorer's figures fail.
    """
    primary = scorers[0].name
    scored = [row for row in rows if "score" in row]
    return {
        "metrics": [_metric(rows, scorer, statistics) for scorer in scorers],
        "slices": {
            at: {
                value: _interval([row["scores"][primary] for row in members], statistics)
                for value, members in sorted(_groups(scored, at).items())
            }
            for at in slices
        },
    }


def _metric(rows: Sequence[Row], scorer: Scorer, statistics: Any) -> dict[str, Any]:
    scored = [row for row in rows if scorer.name in row.get("scores", {})]
    errors = [row["score_errors"][scorer.name] for row in rows if scorer.name in row.get("score_errors", {})]
    made = {"name": scorer.name, "better": scorer.better, "n": len(scored), "errors": len(rows) - len(scored)}
    if errors:
        made["why"] = errors[0]
    if not scored:
        return made | {"why": made.get("why", "no row was answered")}
    interval = _interval([row["scores"][scorer.name] for row in scored], statistics)
    return made | interval | {"figures": _figures(scored, scorer)}


def _interval(scores: Sequence[float], statistics: Any) -> dict[str, float]:
    """Mean and 95 % interval: Wilson's where all are 0 or 1, else a bootstrap of bounded work."""
    if statistics.is_binary(scores):
        found = statistics.wilson(round(sum(scores)), len(scores))
    else:
        found = statistics.bca(scores, resamples=min(statistics.RESAMPLES, 20_000_000 // len(scores)))
    return {"n": len(scores), "score": found.value, "low": found.low, "high": found.high}


def _groups(rows: Iterable[Row], dotted: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        value: Any = row
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        groups.setdefault(value if isinstance(value, str) else json.dumps(value), []).append(row)
    return groups


def _figures(scored: Sequence[Row], scorer: Scorer) -> dict[str, dict[str, float]]:
    """{figure: {"value", "low"?, "high"?}}. One that is not finite is left out."""
    try:
        figures = scorer.of_all(scored)
    except Exception as error:
        raise BadScorer(
            f"The figures of {scorer.name!r} failed: {type(error).__name__}: {error}", "Mend the scorer"
        ) from error
    return {name: told for name, value in figures.items() if (told := _figure(value))}


def _figure(value: Figure) -> dict[str, float]:
    numbers = [float(part) for part in (value if isinstance(value, tuple) else (value,))]
    if not all(map(math.isfinite, numbers)):
        return {}
    return dict(zip(("value", "low", "high"), numbers, strict=False))
