# /// script
# requires-python = ">=3.11"
# dependencies = ["datasketch==2.0.0", "jinja2==3.1.6", "numpy==2.4.6", "tokenizers==0.23.3"]
# ///
"""Look at a training set the way a training run will: tokens, duplicates, leaks, balance.

    python -P check_dataset.py SPEC OUT

SPEC
    inputs.dataset      JSONL of {"prompt", "completion"}, {"messages"} or {"text"} rows, checked for format
    inputs.tokenizer    model folder with tokenizer.json and its chat template; without it nothing is counted
    inputs.suite        JSONL of a suite's rows; without it no leak is looked for
    max_length (512)    rows of more tokens are too long
    near (0.8)          Jaccard similarity of character 5-grams from which two texts are near-duplicates
OUT
    dataset.jsonl       the file as it was checked
    result.json         rows, duplicates, near_duplicates, conflicts, leaks, shared_values {field: values},
                        too_long, tokens_median, tokens_max, tokens_total, histogram {"≤64": 3, …},
                        balance {field: {label: rows}}, problems [sentence, …]
A row that stands in the suite (the same input, a near-duplicate of it, or 13 words of it in a row, as
in GPT-3's contamination study, Brown et al. 2020) ends the recipe with an error that names the rows.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

GRAM, RUN_OF_WORDS, PERMUTATIONS = 5, 13, 128
BINS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SHOWN = 5
# A field of answers is a label to balance if it has at most this many values, each used often.
MOST_LABELS = 200
FEW_ROWS_OF_A_LABEL = 3
# A field is a span if at least this share of its values stand in the prompt.
SPAN_SHARE = 0.95


class Leak(Exception):
    """The training set holds rows that the suite measures by."""


@dataclass(frozen=True)
class Example:
    line: int
    prompt: str
    answer: str
    row: Mapping[str, Any]

    @property
    def key(self) -> str:
        """What duplicates are found by: the prompt, or the text where there is none."""
        return normalise(self.prompt or self.answer)


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


# --- reading --------------------------------------------------------------------------------


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]


def example(line: int, row: Mapping[str, Any]) -> Example:
    if "text" in row:
        return Example(line, "", row["text"], row)
    messages = row.get("messages")
    prompt, completion = (messages[:-1], messages[-1:]) if messages else (row["prompt"], row["completion"])
    if isinstance(prompt, str):
        return Example(line, prompt, completion, row)
    said = next((m["content"] for m in prompt[::-1] if m["role"] == "user"), "")
    return Example(line, said, completion[-1]["content"], row)


def normalise(text: str) -> str:
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


# --- tokens ---------------------------------------------------------------------------------


def token_counter(folder: Path) -> Callable[[Mapping[str, Any]], int]:
    """Counts a row's tokens as a trainer sees it: through the model's chat template where it is a chat."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    render = chat_renderer(folder)

    def count(row: Mapping[str, Any]) -> int:
        chat = row.get("messages")
        if isinstance(row.get("prompt"), list):
            chat = [*row["prompt"], *row["completion"]]
        if chat:
            return len(tokenizer.encode(render(chat), add_special_tokens=False).ids)
        text = row["text"] if "text" in row else row["prompt"] + row["completion"]
        return len(tokenizer.encode(text).ids)

    return count


def chat_renderer(folder: Path) -> Callable[[list[Any]], str]:
    """The model's chat template, in jinja's sandbox; without one, the messages' text line by line."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    config_path, template_path = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
    template = (
        template_path.read_text(encoding="utf-8") if template_path.exists() else config.get("chat_template")
    )
    if isinstance(template, list):
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    if not template:
        return lambda chat: "\n".join(message["content"] for message in chat)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = time.strftime
    compiled = environment.from_string(template)
    special = {
        name: plain(config[name]) for name in ("bos_token", "eos_token", "pad_token") if config.get(name)
    }
    return lambda chat: compiled.render(messages=chat, add_generation_prompt=False, **special)


def refuse(message: str) -> None:
    raise ValueError(f"the chat template refuses: {message}")


def plain(token: str | Mapping[str, str]) -> str:
    return token if isinstance(token, str) else token["content"]


# --- near-duplicates ------------------------------------------------------------------------


def grams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1)))


def similarity(one: frozenset[str], two: frozenset[str]) -> float:
    return len(one & two) / len(one | two)


class Neighbours:
    """Finds texts similar to others: candidates by MinHash and banding, each checked exactly."""

    def __init__(self, near: float) -> None:
        from datasketch import MinHash, MinHashLSH

        # A little below, so that few true neighbours are missed; the exact check sorts out the rest.
        self.near, self.hash_of = near, MinHash
        self.index = MinHashLSH(threshold=max(0.1, near - 0.1), num_perm=PERMUTATIONS)
        self.texts: dict[str, frozenset[str]] = {}

    def sketch(self, shapes: frozenset[str]) -> Any:
        made = self.hash_of(num_perm=PERMUTATIONS, seed=1)
        made.update_batch([gram.encode() for gram in shapes])
        return made

    def add(self, key: str, text: str) -> None:
        self.texts[key] = grams(text)
        self.index.insert(key, self.sketch(self.texts[key]))

    def nearest(self, text: str) -> str | None:
        """The most similar text added, if it is similar enough."""
        shapes = grams(text)
        found = [(similarity(shapes, self.texts[key]), key) for key in self.index.query(self.sketch(shapes))]
        best = max(found, default=(0.0, ""))
        return best[1] if best[0] >= self.near else None


# --- leaks ----------------------------------------------------------------------------------


def word_runs(text: str) -> Iterable[tuple[str, ...]]:
    words = text.split()
    return (tuple(words[i : i + RUN_OF_WORDS]) for i in range(len(words) - RUN_OF_WORDS + 1))


def leaks(examples: Sequence[Example], suite: Sequence[Mapping[str, Any]], near: float) -> list[str]:
    """One sentence for each training row that a suite row can be recognised in."""
    exact: dict[str, str] = {}
    runs: dict[tuple[str, ...], str] = {}
    neighbours = Neighbours(near)
    for row in suite:
        text = normalise(row["input"])
        exact[text] = row["id"]
        runs.update((run, row["id"]) for run in word_runs(text))
        neighbours.add(row["id"], text)
    progress = Progress("rows compared with the suite", len(examples))
    found: list[str] = []
    for number, each in enumerate(examples, 1):
        progress(number)
        row, how = exact.get(each.key), "the same input"
        if row is None and each.prompt:
            row, how = neighbours.nearest(each.key), "nearly the same input"
        if row is None and runs:
            text = normalise(f"{each.prompt} {each.answer}")
            row = next((runs[run] for run in word_runs(text) if run in runs), None)
            how = f"{RUN_OF_WORDS} words in a row"
        if row is not None:
            found.append(
                f"line {each.line} and suite row {row!r} ({how}): {each.prompt or each.answer[:80]!r}"
            )
    return found


def spans(examples: Sequence[Example]) -> set[str]:
    """Fields of JSON answers whose values are pieces of the prompt, as opposed to labels."""
    inside: dict[str, list[bool]] = defaultdict(list)
    for each in examples:
        for field, value in fields(each).items():
            if value is not None:
                inside[field].append(isinstance(value, str) and value in each.prompt)
    return {field for field, found in inside.items() if sum(found) >= SPAN_SHARE * len(found)}


def shared_values(
    examples: Sequence[Example], suite: Sequence[Mapping[str, Any]], spans: set[str]
) -> dict[str, list[str]]:
    """By span field: values that the suite asks for and that were also trained on."""
    asked = [row["expected"] for row in suite if isinstance(row["expected"], dict)]
    trained = [fields(each) for each in examples]
    shared: dict[str, list[str]] = {}
    for field in sorted(spans):
        here, there = (
            {str(row[field]).casefold() for row in rows if row.get(field) is not None}
            for rows in (asked, trained)
        )
        if both := sorted(here & there):
            shared[field] = both
    return shared


# --- the whole picture ----------------------------------------------------------------------


def fields(each: Example) -> dict[str, Any]:
    """The answer's fields if it is a JSON object."""
    try:
        value = json.loads(each.answer)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def balance(examples: Sequence[Example], spans: set[str]) -> dict[str, dict[str, int]]:
    """Rows by value of every answer field that is a label: no piece of the prompt, and few values."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for each in examples:
        for field, value in fields(each).items():
            if field not in spans and not isinstance(value, dict | list):
                counts[field][value if isinstance(value, str) else json.dumps(value)] += 1
    most = min(MOST_LABELS, len(examples) / 4)
    return {field: dict(counter.most_common()) for field, counter in counts.items() if len(counter) <= most}


def repeats(examples: Sequence[Example], near: float) -> tuple[list[str], list[str], list[str]]:
    """Sentences on exact duplicates, near-duplicates, and equal prompts with different answers."""
    first: dict[str, Example] = {}
    exact: list[str] = []
    close: list[str] = []
    conflicts: list[str] = []
    neighbours = Neighbours(near)
    progress = Progress("rows compared", len(examples))
    for number, each in enumerate(examples, 1):
        progress(number)
        if earlier := first.get(each.key):
            kind = exact if normalise(earlier.answer) == normalise(each.answer) else conflicts
            kind.append(f"lines {earlier.line} and {each.line}")
            continue
        if each.prompt and (line := neighbours.nearest(each.key)):
            close.append(f"lines {line} and {each.line}")
        first[each.key] = each
        neighbours.add(str(each.line), each.key)
    return exact, close, conflicts


def histogram(lengths: Sequence[int]) -> dict[str, int]:
    def bin_of(length: int) -> str:
        return next((f"≤{top}" for top in BINS if length <= top), f">{BINS[-1]}")

    counts = Counter(map(bin_of, lengths))
    return {name: counts[name] for name in (*(f"≤{top}" for top in BINS), f">{BINS[-1]}") if counts[name]}


def some(places: Sequence[str]) -> str:
    return "; ".join(places[:SHOWN]) + (f"; and {len(places) - SHOWN} more" if len(places) > SHOWN else "")


def check(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Everything there is to say about the training set. Raises `Leak`."""
    inputs = {name: Path(path) for name, path in spec["inputs"].items()}
    near, limit = spec.get("near", 0.8), spec.get("max_length", 512)
    examples = [example(line, row) for line, row in read_lines(inputs["dataset"])]
    suite = [row for _, row in read_lines(inputs["suite"])] if "suite" in inputs else []
    if found := leaks(examples, suite, near):
        raise Leak(f"{len(found)} of {len(examples)} rows leak from the suite: {some(found)}")
    exact, close, conflicts = repeats(examples, near)
    lengths = [0] * len(examples)
    if "tokenizer" in inputs:
        count, progress = token_counter(inputs["tokenizer"]), Progress("rows counted", len(examples))
        for number, each in enumerate(examples):
            lengths[number] = count(each.row)
            progress(number + 1)
    too_long = [f"line {e.line} ({n} tokens)" for e, n in zip(examples, lengths, strict=True) if n > limit]
    cut = spans(examples)
    shared, labels = shared_values(examples, suite, cut), balance(examples, cut)
    rare = [
        f"{field}={label!r} ({rows})"
        for field, counts in labels.items()
        for label, rows in counts.items()
        if rows < FEW_ROWS_OF_A_LABEL
    ]
    problems = [
        (conflicts, f"{len(conflicts)} rows ask what another asks and answer otherwise: {some(conflicts)}"),
        (exact, f"{len(exact)} rows repeat another: {some(exact)}"),
        (len(close) > len(examples) / 10, f"{len(close)} rows are near-duplicates: {some(close)}"),
        (too_long, f"{len(too_long)} rows are longer than {limit} tokens: {some(too_long)}"),
        (rare, f"labels with fewer than {FEW_ROWS_OF_A_LABEL} rows: {some(rare)}"),
        *((v, f"{len(v)} values of {f!r} are in the suite's rows too: {some(v)}") for f, v in shared.items()),
    ]
    return {
        "rows": len(examples),
        "duplicates": len(exact),
        "near_duplicates": len(close),
        "conflicts": len(conflicts),
        "leaks": 0,
        "shared_values": shared,
        "too_long": len(too_long),
        "tokens_median": int(median(lengths)),
        "tokens_max": max(lengths),
        "tokens_total": sum(lengths),
        "histogram": histogram(lengths) if "tokenizer" in inputs else {},
        "balance": labels,
        "problems": [sentence for here, sentence in problems if here],
    }


def main(spec_path: Path, out: Path) -> int:
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    shutil.copyfile(spec["inputs"]["dataset"], out / "dataset.jsonl")
    spec["inputs"]["dataset"] = str(out / "dataset.jsonl")
    try:
        result = check(spec)
    except Leak as error:
        emit("error", message=str(error), hint="Take these rows out of the training set and check it again")
        return 2
    part = out / "result.tmp"
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(out / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
