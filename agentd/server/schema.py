"""JSON Schemas of tools, made small: every agent pays for tools/list in tokens.

Pure functions of data. Both results are looser than the models they come from, never stricter than
what a sensible caller sends: the kernel checks arguments and results against the models themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

__all__ = ["input_schema", "output_schema"]

Schema = dict[str, Any]


def input_schema(model: type[BaseModel]) -> Schema:
    """The arguments: ``$defs`` inlined (but for recursive ones), no titles, optional instead of null."""
    schema = model.model_json_schema()
    return {"type": "object", **_shrink(schema, schema.get("$defs", {}), ())}


def output_schema(model: type[BaseModel]) -> Schema:
    """The result, one level deep: names and types. Fields that may be null may be absent."""
    schema = model.model_json_schema()
    defs = schema.get("$defs", {})
    properties = {name: _outline(field, defs) for name, field in schema.get("properties", {}).items()}
    required = [name for name in schema.get("required", []) if "null" not in _types(properties[name])]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


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
        if key in ("title", "$defs"):
            continue
        elif key == "properties":
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
        return _joined([_outline(branch, defs) for branch in node["anyOf"]])
    if "enum" in node:
        return {"enum": node["enum"]}
    return {"type": node["type"]} if "type" in node else {}


def _joined(branches: list[Schema]) -> Schema:
    if all(set(branch) == {"type"} for branch in branches):
        return {"type": sorted({name for branch in branches for name in _types(branch)})}
    return {"anyOf": branches}


def _types(node: Schema) -> list[str]:
    if "anyOf" in node:
        return [name for branch in node["anyOf"] for name in _types(branch)]
    found = node.get("type", [])
    return [found] if isinstance(found, str) else found


def _target(node: Schema) -> str | None:
    reference = node.get("$ref")
    return reference.rpartition("/")[2] if isinstance(reference, str) else None
