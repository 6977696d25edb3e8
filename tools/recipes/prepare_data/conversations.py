"""Records to conversations: what the columns of a file are, and who says what."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from events import Progress, Stop
from reading import files_of, read_file
from roles import ROLE_OF
from samples import Message, Record, Sample, Steps, normalise

LOOKED_AT = 500  # records of a file that its columns are guessed from

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


class Unusable(Exception):
    """A record that makes no row; the message says why."""


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
