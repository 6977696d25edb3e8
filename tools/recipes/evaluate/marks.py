"""Scores, by the scorers and the summary that the recipe is handed as inputs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from failures import Hopeless
from progress import Meter
from rows import Row


class Scoring:
    """The scorers of a spec, by evals/scoring.py, which comes with them as an input."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._scoring = load(Path(spec["inputs"]["scoring"]))
        self._statistics = load(Path(spec["inputs"]["statistics"]))
        try:
            self.scorers = self._scoring.load_scorers(spec["metrics"], spec["inputs"])
            self.redteam = self._scoring.load_scorers(redteam_metrics(spec), spec["inputs"])
        except self._scoring.BadScorer as error:
            raise Hopeless(str(error), error.hint) from error

    def score(self, rows: Sequence[Row], scorers: Sequence[Any], slices: Sequence[str]) -> dict[str, Any]:
        """Score the rows; returns what they come to. Raises `Hopeless` if not one has a score."""
        meter = Meter("scores", len(rows), 0)
        self._scoring.score_rows(rows, scorers, lambda _: meter.count({}))
        failed = [row["error"] for row in rows if "output" in row and "error" in row]
        if failed and not any("score" in row for row in rows):
            raise Hopeless(f"None of {len(rows)} rows has a score: {failed[0]}", "Mend scorer or judge")
        try:
            return self._scoring.summary(rows, scorers, slices, self._statistics)
        except self._scoring.BadScorer as error:
            raise Hopeless(str(error), error.hint) from error


def redteam_metrics(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "redteam", "scorer": "refusal"}] if "redteam" in spec["inputs"] else []


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
