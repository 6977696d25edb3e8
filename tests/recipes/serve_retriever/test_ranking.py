"""Two rankings made one."""

from __future__ import annotations

import pytest

from tests.recipes.serve_retriever.conftest import recipe


def test_min_max_fusion_gives_half_to_each_side() -> None:
    fused = recipe.ranking.fuse_scores({1: 0.9, 2: 0.5, 3: 0.1}, {3: 8.0, 2: 4.0})
    assert fused == {1: pytest.approx(0.5), 2: pytest.approx(0.5), 3: pytest.approx(0.5)}


def test_rank_fusion_counts_what_only_one_side_found() -> None:
    fused = recipe.ranking.fuse_ranks({1: 0.9, 2: 0.5}, {2: 3.0})
    assert fused == {1: pytest.approx(1 / 61), 2: pytest.approx(1 / 62 + 1 / 61)}


def test_a_document_has_at_most_so_many_hits_and_one_that_is_gone_has_none() -> None:
    ranked = [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6)]
    assert recipe.ranking.limited(ranked, {1: 10, 2: 10, 3: 11}, 1) == [(1, 0.9), (3, 0.7)]
