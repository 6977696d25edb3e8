"""tools/recipes/quantize.py: what it asks for, how it draws rows, and a whole run of a small model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import load

RECIPE = Path(__file__).parents[2] / "tools/recipes/quantize.py"


recipe = load(RECIPE)


class Template:
    """Stands where a tokenizer would, and renders messages plainly."""

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool) -> str:
        assert not tokenize
        return "|".join(message["content"] for message in messages)


def read(tmp_path: Path, **values: Any) -> Any:
    inputs = {"model": str(tmp_path), **values.pop("inputs", {})}
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"inputs": inputs, **values}))
    return recipe.Recipe.read(path)


def test_an_unknown_scheme_is_refused_naming_the_known(tmp_path: Path) -> None:
    with pytest.raises(recipe.Stop, match="'int3'") as stopped:
        read(tmp_path, scheme="int3")
    assert "int8-w8a8" in stopped.value.hint


@pytest.mark.parametrize(
    ("scheme", "method", "calibrates"),
    [
        ("int8-w8a8", "rtn", False),
        ("int8-w8a8", "gptq", True),
        ("int8-w8a8-static", "rtn", True),
        ("fp8-dynamic", "gptq", False),
        ("int4-w4a16", "rtn", False),
    ],
)
def test_rows_are_needed_where_activations_are_looked_at(
    tmp_path: Path, scheme: str, method: str, calibrates: bool
) -> None:
    given = read(tmp_path, scheme=scheme, method=method, inputs={"dataset": str(tmp_path / "rows.jsonl")})
    assert given.calibrates is calibrates
    if calibrates:
        with pytest.raises(recipe.Stop, match="no dataset is given"):
            read(tmp_path, scheme=scheme, method=method)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"prompt": "a", "completion": "b"}, "ab"),
        ({"text": "t"}, "t"),
        ({"messages": [{"content": "x"}, {"content": "y"}]}, "x|y"),
        ({"prompt": [{"content": "p"}], "completion": [{"content": "c"}]}, "p|c"),
    ],
)
def test_each_kind_of_row_is_rendered_as_the_model_sees_it(row: dict[str, Any], text: str) -> None:
    assert recipe.row_text(row, Template()) == text


def test_the_group_of_int4_divides_every_width() -> None:
    assert recipe.group_size(SimpleNamespace(hidden_size=576, intermediate_size=1536)) == 64
    with pytest.raises(recipe.Stop):
        recipe.group_size(SimpleNamespace(hidden_size=100, intermediate_size=400))
