"""The recipe's modules, and what its tests are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.conftest import load_recipe

RECIPE = Path(__file__).parents[3] / "tools/recipes/prepare_data"
recipe = load_recipe(RECIPE)


def said(sample: Any) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in sample.messages]


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(asked: str, answer: str = "yes", **about: Any) -> Any:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return recipe.samples.Sample("f:1", messages, **about)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
