"""YAML documents (config, policies, prices, suites, plans) checked against a pydantic model.

Every mistake is reported at its place: file, line, field, and what was expected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from agentd.errors import DataError

__all__ = ["line_of", "load", "parse", "read"]

M = TypeVar("M", bound=BaseModel)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(path: Path, model: type[M]) -> M:
    """Read `path` as one YAML document shaped like `model`. Raises `DataError` with the line."""
    return parse(read(path), model, path)


def read(path: Path) -> str:
    """The text of `path`. Raises `DataError`."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read: {error}") from error


def parse(text: str, model: type[M], path: Path | str) -> M:
    """As `load`, for text already in hand; `path` is only named in errors."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise DataError(path, f"is not valid YAML: {error.problem}", line=line) from error
    except (yaml.YAMLError, ValueError) as error:  # a control character; a date such as 2026-13-01
        raise DataError(path, f"is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise DataError(path, "should hold a mapping of fields", line=1, hint=f"Fields: {_fields(model)}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = first["loc"]
        raise DataError(
            path,
            _reason(first),
            line=_line(node, place),
            field=".".join(str(part) for part in place),
            hint=f"Fields here: {_fields(model)}" if first["type"] == "extra_forbidden" else "",
        ) from error


def line_of(text: str, *place: int | str) -> int | None:
    """The 1-based line where `place` (keys and indices) stands in the YAML `text`, or as near as there is.

    None for an empty text.
    """
    return _line(yaml.compose(text, Loader=_Loader), place)


def _reason(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "is not a field that is known here"
    if error["type"] == "missing":
        return "is missing"
    return f"{error['msg']} (it says {error['input']!r})"


def _fields(model: type[BaseModel]) -> str:
    return ", ".join(info.alias or name for name, info in model.model_fields.items())


def _line(node: yaml.Node | None, place: tuple[int | str, ...]) -> int | None:
    """The 1-based line of the deepest node along `place` that exists."""
    line = node.start_mark.line + 1 if node else None
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found: Any = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            item: Any = node.value[part]
            line, node = item.start_mark.line + 1, item
    return line
