"""Files of any kind that people have, record by record. What a record means is not known here."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from events import Stop
from roles import ROLE_OF
from samples import Message, Record

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")


def files_of(path: Path, name: str) -> list[tuple[Path, str]]:
    """The files to read at `path`, and what they are called in origins."""
    if path.is_dir():
        return [(part, f"{name}/{part.relative_to(path)}") for part in parts_of(path)]
    return [(path, name)]


def read_file(path: Path, name: str) -> Iterator[tuple[str, Record | str]]:
    """(origin, record) of everything in a file; a record that could not be read is its text."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise Stop(
            f"{name} is a {path.suffix or 'nameless kind of'} file", f"Readable are {', '.join(SUFFIXES)}."
        )
    try:
        for place, record in reader(path):
            yield f"{name}:{place}", record
    except UnicodeDecodeError as error:
        raise Stop(f"{name}: byte {error.start + 1} is not UTF-8", "Save the file as UTF-8.") from error
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise Stop(
            f"{name} cannot be read: {error}", "Check that the file is whole and of its kind."
        ) from error


def parts_of(folder: Path) -> list[Path]:
    """The files of a folder in order. Of one saved by `datasets`, only the files its state names."""
    state = folder / "state.json"
    if state.is_file():
        told = json.loads(state.read_text(encoding="utf-8"))
        if told.get("_indices_files"):
            raise Stop(
                f"{folder.name} was saved with an index over its rows", "Save flatten_indices() of it."
            )
        return [folder / each["filename"] for each in told["_data_files"]]
    if (folder / "dataset_dict.json").is_file():
        return [part for split in sorted(folder.iterdir()) if split.is_dir() for part in parts_of(split)]
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    kept = [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not kept:
        raise Stop(f"{folder.name} holds no readable file", f"Readable are {', '.join(SUFFIXES)}.")
    return kept


def read_jsonl(path: Path) -> Iterator[tuple[int, Record | str]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                yield line, parsed(text)


def parsed(text: str) -> Record | str:
    try:
        value = json.loads(text)
    except ValueError:
        return text.rstrip("\r\n")
    return value if isinstance(value, dict) else text.rstrip("\r\n")


def read_json(path: Path) -> Iterator[tuple[int, Record | str]]:
    """A list of objects, one object with such a list under a name, or columns of equal length."""
    value = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(value, dict):
        lists = {k: v for k, v in value.items() if isinstance(v, list)}
        rows = next((v for v in lists.values() if v and all(isinstance(each, dict) for each in v)), None)
        if rows is None and lists and len({len(v) for v in lists.values()}) == 1:
            rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        whole = "messages" in value or "conversations" in value or rows is None
        value = [value] if whole else rows
    if value and all(isinstance(each, list) for each in value):  # a list of conversations
        value = [{"messages": each} for each in value]
    for number, each in enumerate(value, 1):
        yield number, each if isinstance(each, dict) else json.dumps(each, ensure_ascii=False)


def read_table(path: Path) -> Iterator[tuple[int, Record | str]]:
    csv.field_size_limit(1 << 27)
    with path.open(encoding="utf-8-sig", newline="") as file:
        sample = file.read(1 << 16)
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else delimiter_of(sample)
        rows = csv.reader(file, delimiter=delimiter)
        header = [name.strip() for name in next(rows, [])]
        if not any(header) or len(set(header)) < len(header):
            raise Stop(
                f"{path.name} has no usable header: {header[:8]}", "Give every column a name of its own."
            )
        for row in rows:
            if len(row) == len(header):
                yield rows.line_num, dict(zip(header, row, strict=True))
            elif row:
                yield rows.line_num, delimiter.join(row)


def delimiter_of(sample: str) -> str:
    """The separator that stands most often in the first line."""
    first = sample.split("\n", 1)[0]
    return max(",;\t|", key=first.count)


def read_parquet(path: Path) -> Iterator[tuple[int, Record | str]]:
    from pyarrow import parquet

    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=2000):
            for record in batch.to_pylist():
                number += 1
                yield number, record


def read_arrow(path: Path) -> Iterator[tuple[int, Record | str]]:
    import pyarrow

    number = 0
    with pyarrow.memory_map(str(path)) as mapped:
        head = mapped.read(6)
        mapped.seek(0)
        kind = pyarrow.ipc.open_file if head == b"ARROW1" else pyarrow.ipc.open_stream
        for batch in kind(mapped).read_all().to_batches(max_chunksize=2000):
            for record in batch.to_pylist():
                number += 1
                yield number, record


SPEAKER = re.compile(r"^\s*(?:[\[(][^\])]{0,40}[\])]\s*)?(\w[\w .'-]{0,30}?)\s*:\s+(\S.*)$")
RULE = re.compile(r"^\s*([-=*#_~])\1{2,}\s*$")


def read_transcript(path: Path) -> Iterator[tuple[int, Record | str]]:
    """Conversations of "Name: what they say", told apart by a rule (---) or by two blank lines."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = Counter(found[1].strip() for line in lines if (found := SPEAKER.match(line)))
    speakers = {name for name, times in names.items() if times > 1 or name.casefold() in ROLE_OF}
    said: list[Message] = []
    start, blank = 1, 0
    for number, line in enumerate([*lines, "---"], 1):
        blank = blank + 1 if not line.strip() else 0
        found = SPEAKER.match(line)
        if RULE.match(line) or blank == 2:
            if said:
                yield start, {"messages": said}
            said, start = [], number + 1
        elif found and found[1].strip() in speakers:
            said.append({"role": found[1].strip(), "content": found[2].strip()})
        elif said:
            said[-1]["content"] += f"\n{line.strip()}"
        elif line.strip():
            yield number, line


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Record | str]]]] = {
    ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_json, ".csv": read_table, ".tsv": read_table,
    ".parquet": read_parquet, ".arrow": read_arrow, ".txt": read_transcript,
}  # fmt: skip
