"""Files of rows: training sets and the held-out rows of suites.

Reads JSON Lines and says exactly what is wrong with them: every mistake is a `DataError` with file,
line, field and the mend. Knows nothing of tokenizers, models or jobs.

A training set holds one kind of row throughout:

    {"prompt": "…", "completion": "…"}                       or lists of messages in both
    {"messages": [{"role": "user", "content": "…"}, …]}      the last by the assistant
    {"text": "…"}                                            plain text, all of it learned
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from agentd.sdk import Artifact, Context, DataError, NotFound

__all__ = [
    "Dataset",
    "Example",
    "Format",
    "dataset_path",
    "normalise",
    "read_dataset",
    "read_row",
    "read_rows",
    "row_id",
    "rows_file",
    "words_of",
]

Format = Literal["prompt_completion", "messages", "text"]
Message = dict[str, str]

MAX_BYTES = 2 << 30
ROLES = ("system", "user", "assistant", "tool")
SHAPES = 'Rows are {"prompt", "completion"}, {"messages"} or {"text"}'


@dataclass(frozen=True, slots=True)
class Example:
    """One training row: what is given, what is to be learned, and where it stands in the file."""

    line: int
    prompt: str
    """The last user message, or the prompt itself; empty for plain text."""
    answer: str
    """What the model is taught to say."""
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dataset:
    path: Path
    format: Format
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)


# --- reading --------------------------------------------------------------------------------


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of `path` with their 1-based lines; blank lines are passed over.

    Raises `DataError` for a file that is missing, too large, empty or not UTF-8, and for a line that is
    not one JSON object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(path, f"is {size >> 20} MiB", hint=f"At most {MAX_BYTES >> 20} MiB are read")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}", hint="Name a JSONL file") from error
    empty = True
    for line, raw in enumerate(content.split(b"\n"), 1):
        if text := _decoded(path, line, raw).strip():
            empty = False
            yield line, _object(path, line, text)
    if empty:
        raise DataError(path, "is empty", hint="Write one JSON object a line")


def _decoded(path: Path, line: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            path, f"byte {error.start + 1} is not UTF-8", line=line, hint="Save the file as UTF-8"
        ) from error


def _object(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        whole_array = line == 1 and text.startswith("[")
        raise DataError(
            path,
            f"is not JSON: {error}",
            line=line,
            hint="Write one JSON object a line, not one array" if whole_array else "Mend or drop this line",
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            path,
            f"holds {type(value).__name__}, not an object",
            line=line,
            hint="Write one JSON object a line",
        )
    return cast("dict[str, Any]", value)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def read_dataset(path: Path) -> Dataset:
    """Read a whole training set. Raises `DataError` at the first row that cannot be trained on."""
    examples: list[Example] = []
    shape: Format | None = None
    for line, row in read_rows(path):
        found = _format(path, line, row)
        if shape not in (None, found):
            raise DataError(path, f"this row is {found}, the rows before are {shape}", line=line, hint=SHAPES)
        shape = found
        examples.append(_example(path, line, row, found))
    if shape is None:
        raise DataError(path, "is empty", hint=SHAPES)
    return Dataset(path, shape, tuple(examples))


def read_row(path: Path, line: int, row: dict[str, Any]) -> Example:
    """One row, of any kind. Raises `DataError`."""
    return _example(path, line, row, _format(path, line, row))


def words_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says, without what is known about it."""
    return {k: row[k] for k in ("prompt", "completion", "messages", "text") if k in row}


def row_id(row: Mapping[str, Any]) -> str:
    """The same words are the same row, in every version of a data set: what `prepare_data` writes as id."""
    words = json.dumps(words_of(row), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _format(path: Path, line: int, row: Mapping[str, Any]) -> Format:
    if "prompt" in row or "completion" in row:
        return "prompt_completion"
    if "messages" in row:
        return "messages"
    if "text" in row:
        return "text"
    raise DataError(
        path, f"has only the fields {', '.join(sorted(row)) or 'of an empty object'}", line=line, hint=SHAPES
    )


def _example(path: Path, line: int, row: dict[str, Any], shape: Format) -> Example:
    if shape == "text":
        return Example(line, "", _text(path, line, "text", row.get("text")), row)
    if shape == "messages":
        messages = _messages(path, line, "messages", row.get("messages"))
        if messages[-1]["role"] != "assistant":
            raise DataError(
                path,
                "ends without an answer",
                line=line,
                field="messages",
                hint="Let the assistant speak last",
            )
        return Example(line, _last_user(messages[:-1]), messages[-1]["content"], row)
    prompt, completion = (_side(path, line, name, row) for name in ("prompt", "completion"))
    if isinstance(prompt, str) != isinstance(completion, str):
        raise DataError(
            path,
            "is text where the other is messages",
            line=line,
            field="completion",
            hint="Use one form in both",
        )
    return Example(
        line,
        prompt if isinstance(prompt, str) else _last_user(prompt),
        completion if isinstance(completion, str) else completion[-1]["content"],
        row,
    )


def _side(path: Path, line: int, field: str, row: Mapping[str, Any]) -> str | list[Message]:
    if field not in row:
        raise DataError(path, "is missing", line=line, field=field, hint=SHAPES)
    value = row[field]
    return _messages(path, line, field, value) if isinstance(value, list) else _text(path, line, field, value)


def _text(path: Path, line: int, field: str, value: object) -> str:
    if not isinstance(value, str):
        raise DataError(
            path, f"is {type(value).__name__}, not text", line=line, field=field, hint="Give a string"
        )
    if not value.strip():
        raise DataError(path, "is empty", line=line, field=field, hint="Fill it or drop the row")
    return value


def _messages(path: Path, line: int, field: str, value: object) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(
            path, "is not a list of messages", line=line, field=field, hint='[{"role", "content"}, …]'
        )
    checked: list[Message] = []
    for number, message in enumerate(cast("list[object]", value)):
        where = f"{field}.{number}"
        if not isinstance(message, dict):
            raise DataError(path, "is not a message", line=line, field=where, hint='{"role", "content"}')
        role, content = (cast("dict[str, object]", message).get(name) for name in ("role", "content"))
        if role not in ROLES:
            raise DataError(
                path, f"is {role!r}", line=line, field=f"{where}.role", hint=f"Use one of {', '.join(ROLES)}"
            )
        checked.append({"role": str(role), "content": _text(path, line, f"{where}.content", content)})
    return checked


def _last_user(messages: Sequence[Message]) -> str:
    return next(
        (m["content"] for m in reversed(messages) if m["role"] == "user"),
        messages[-1]["content"] if messages else "",
    )


# --- finding and comparing ------------------------------------------------------------------


def dataset_path(ctx: Context, ref: str) -> tuple[Path, Artifact | None]:
    """The file that `ref` stands for: the id or name of a data set artifact, or a path."""
    try:
        artifact = ctx.artifacts.get(ref, "dataset")
    except NotFound:
        return ctx.path(ref), None
    return rows_file(artifact.path), artifact


def rows_file(path: Path) -> Path:
    """The rows of an artifact: the file itself, or in a folder ``data.jsonl``, else the first JSONL."""
    if not path.is_dir():
        return path
    named = path / "data.jsonl"
    return named if named.is_file() else next(iter(sorted(path.glob("*.jsonl"))), path)


def normalise(text: str) -> str:
    """`text` as compared when looking for leaks: no case, accents' form, punctuation or runs of space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\W+", " ", folded).strip()
