"""Tool schemas are small, whole, and never refuse what the model accepts."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from agentd.schema import input_schema, output_schema
from agentd.sdk import JobView


class Split(BaseModel):
    share: float = Field(default=0.1, gt=0)


class Node(BaseModel):
    children: list[Node] = []


class Arguments(BaseModel):
    title: Annotated[str, Field(description="an argument may be called title")]
    kind: Literal["lora", "full"] = "lora"
    split: Split = Split()
    limit: int | None = None
    name: str | int | None = Field(None, description="either")
    tree: Node | None = None


def test_arguments_are_inlined_without_titles_and_nulls() -> None:
    assert input_schema(Arguments) == {
        "type": "object",
        "properties": {
            "title": {"type": "string", "description": "an argument may be called title"},
            "kind": {"type": "string", "enum": ["lora", "full"], "default": "lora"},
            "split": {
                "type": "object",
                "properties": {"share": {"type": "number", "exclusiveMinimum": 0, "default": 0.1}},
                "default": {"share": 0.1},
            },
            "limit": {"type": "integer"},
            "name": {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "either"},
            "tree": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"type": "object"}}},
            },
        },
        "required": ["title"],
    }


def test_a_result_is_outlined_one_level_deep() -> None:
    class Result(BaseModel):
        split: Split
        note: str | None
        rows: list[Split]
        any: Any
        kind: Literal["a", "b"] | int | None = None

    assert output_schema(Result) == {
        "type": "object",
        "properties": {
            "split": {"type": "object"},
            "note": {"type": "string"},
            "rows": {"type": "array"},
            "any": {},
            "kind": {"anyOf": [{"type": "string", "enum": ["a", "b"]}, {"type": "integer"}]},
        },
        "required": ["split", "rows", "any"],
    }


def test_a_job_costs_few_tokens() -> None:
    assert len(json.dumps(output_schema(JobView), separators=(",", ":"))) < 800


def test_an_answer_with_a_job_names_what_a_caller_acts_on() -> None:
    schema = output_schema(JobView)
    assert list(schema["properties"]) == [
        "id", "state", "reason", "progress", "result", "approval", "service", "next"
    ]  # fmt: skip
    assert schema["required"] == ["id", "state"]
    assert schema["properties"]["state"] == {"type": "string"}


def test_an_empty_default_is_not_told() -> None:
    class Given(BaseModel):
        name: str = ""
        names: list[str] = []
        n: int = 0

    properties = input_schema(Given)["properties"]
    assert ["default" in properties[each] for each in ("name", "names", "n")] == [False, False, True]
