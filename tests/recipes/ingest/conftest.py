"""The recipe's modules, as far as they need nothing of its environment."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import load_recipe

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "tools/recipes/ingest"
recipe = load_recipe(RECIPE)
