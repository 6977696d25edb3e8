"""A ranking learned from judgments is kept as it was sent, and used only for the features it knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.recipes.serve_retriever.conftest import recipe

COUNT = len(recipe.features.NAMES)


def ranking(**changed: list[float]) -> object:
    values = {"weights": [1.0] * COUNT, "means": [0.5] * COUNT, "deviations": [2.0] * COUNT} | changed
    return recipe.bodies.Ranking(collection="a", **values)


def test_what_was_learned_is_read_again_and_scores_standardised_features(tmp_path: Path) -> None:
    path = tmp_path / "ranking/1.json"
    kept = recipe.learned.save(path, ranking())
    assert recipe.learned.load(path) == kept
    assert kept.score([2.5] + [0.5] * (COUNT - 1)) == pytest.approx(1.0)
    assert recipe.learned.save(path, recipe.bodies.Ranking(collection="a")) is None
    assert recipe.learned.load(path) is None


def test_a_ranking_of_other_features_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    recipe.learned.save(path, ranking())
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"names": ["other", *kept["names"][1:]]}))
    assert recipe.learned.load(path) is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"means": [0.0]}, f"means: there are {COUNT} features"), ({"deviations": [0.0] * COUNT}, "above 0")],
)
def test_weights_that_cannot_be_used_are_refused(
    changed: dict[str, list[float]], why: str, tmp_path: Path
) -> None:
    with pytest.raises(recipe.problems.Problem, match=why):
        recipe.learned.save(tmp_path / "1.json", ranking(**changed))
