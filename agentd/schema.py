"""JSON Schemas of tools, made small: every agent pays for tools/list in tokens.

Pure functions of data. They say less than the models they come from, and say it portably (one type
for each place): the kernel checks arguments and results against the models themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from agentd.sdk import JobView

__all__ = ["input_schema", "output_schema"]

Schema = dict[str, Any]
LONGEST_ENUM = 10

OUTLINED = {JobView: ("id", "state", "reason", "progress", "result", "approval", "service", "next")}
"""What a caller acts on, of results with many fields. Every tool that launches answers with the first."""


class _Generator(GenerateJsonSchema):
    """Defaults that are JSON already are taken as they are: a serializer for each is half of the work."""

    def encode_default(self, dft: Any) -> Any:
        return dft if dft is None or type(dft) in (bool, int, str) else super().encode_default(dft)


@cache
def input_schema(model: type[BaseModel]) -> Schema:
    """The arguments: ``$defs`` inlined (but for recursive ones), no titles, optional instead of null."""
    schema = model.model_json_schema(schema_generator=_Generator)
    return {"type": "object", **_shrink(schema, schema.get("$defs", {}), ())}


@cache  # tools that launch something share theirs
def output_schema(model: type[BaseModel]) -> Schema:
    """The result, one level deep: names and types. A field that is null is left out of the answer.

    An answer may have more fields than are named here: nothing forbids them.
    """
    schema = model.model_json_schema(schema_generator=_Generator)
    defs, fields = schema.get("$defs", {}), schema.get("properties", {})
    if model in OUTLINED:
        fields = {name: fields[name] for name in OUTLINED[model]}
    required = [
        name for name in schema.get("required", []) if name in fields and not _is_nullable(fields[name])
    ]
    outline = {name: _outline(field, defs) for name, field in fields.items()}
    if model in OUTLINED:  # said once, in docs/tools.md, instead of by every tool
        for field in outline.values():
            field.pop("enum", None)
    return {"type": "object", "properties": outline} | ({"required": required} if required else {})


def _shrink(node: Any, defs: Mapping[str, Schema], inside: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_shrink(item, defs, inside) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    node = _without_null(cast("Schema", node))
    if (name := _target(node)) is not None and name not in inside:
        siblings = {key: value for key, value in node.items() if key != "$ref"}
        return _shrink({**defs[name], **siblings}, defs, (*inside, name))
    if name is not None:  # recursive: say no more than that it is an object
        return {"type": "object"}
    shrunk: Schema = {}
    for key, value in node.items():
        if key in ("title", "$defs") or (key == "default" and value in ("", [], {})):
            continue  # to leave an optional argument out is to leave it empty
        if key == "properties":
            shrunk[key] = {field: _shrink(sub, defs, inside) for field, sub in value.items()}
        elif key in ("default", "const", "enum", "examples"):  # data, not schema
            shrunk[key] = value
        else:
            shrunk[key] = _shrink(value, defs, inside)
    return shrunk


def _without_null(node: Schema) -> Schema:
    """``X | None = None`` is told as an optional X: leaving it out says the same."""
    if "default" in node and node["default"] is None:
        node = {key: value for key, value in node.items() if key != "default"}
        branches = [branch for branch in node.get("anyOf", []) if branch.get("type") != "null"]
        if len(branches) == 1:
            return {**branches[0], **{key: value for key, value in node.items() if key != "anyOf"}}
        if branches:
            return {**node, "anyOf": branches}
    return node


def _outline(node: Schema, defs: Mapping[str, Schema]) -> Schema:
    if (name := _target(node)) is not None:
        node = defs[name]
    if "anyOf" in node:
        branches = [_outline(branch, defs) for branch in node["anyOf"] if branch.get("type") != "null"]
        return branches[0] if len(branches) == 1 else {"anyOf": branches}
    kept = {key: node[key] for key in ("type", "enum", "const") if key in node}
    if len(kept.get("enum", ())) > LONGEST_ENUM:  # a reader of answers meets the value itself
        del kept["enum"]
    return kept


def _is_nullable(node: Schema) -> bool:
    return node.get("type") == "null" or any(_is_nullable(branch) for branch in node.get("anyOf", []))


def _target(node: Schema) -> str | None:
    reference = node.get("$ref")
    return reference.rpartition("/")[2] if isinstance(reference, str) else None
