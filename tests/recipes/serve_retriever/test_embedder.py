"""What is taken for an embedder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes.serve_retriever.conftest import recipe


def test_pickled_weights_are_no_embedder(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(recipe.problems.Problem, match="holds no"):
        recipe.embedder.weights_digest(tmp_path)
