"""What is imported while `loading` is like any other; only later."""

from __future__ import annotations

import gc

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentd.cli.loading import loading


def test_models_made_meanwhile_check_as_strictly_and_others_are_built_at_once() -> None:
    with loading():

        class Within(BaseModel):
            model_config = ConfigDict(extra="forbid")
            size: int = Field(ge=1)

        assert not gc.isenabled()

    class After(BaseModel):
        size: int

    assert gc.isenabled()
    assert not Within.__pydantic_complete__
    assert After.__pydantic_complete__
    assert Within(size=3).size == 3
    with pytest.raises(ValidationError):
        Within.model_validate({"size": 0})
    with pytest.raises(ValidationError):
        Within.model_validate({"size": 1, "colour": "red"})


def test_what_fails_while_loading_leaves_things_as_they_were() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError("no such module")
    assert gc.isenabled()
    assert "defer_build" not in BaseModel.model_config
