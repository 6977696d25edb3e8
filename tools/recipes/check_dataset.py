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
    inputs.check_leaks  the recipe that looks for them: it runs first, with the same spec, in OUT/leaks
    max_length (512)    rows of more tokens are too long
    near (0.8)          Jaccard similarity of character 5-grams from which two texts are near-duplicates
OUT
    dataset.jsonl       the file as it was checked
    leaks/              what check_leaks wrote
    result.json         rows, duplicates, near_duplicates, conflicts, leaks, shared_values {field: values},
                        too_long, tokens_median, tokens_max, tokens_total, histogram {"≤64": 3, …},
                        balance {field: {label: rows}}, problems [sentence, …], and for chats the
                        template: how the model's chat template renders them (`rendering`); with a suite
                        leak_check: the result of check_leaks
A row of the suite that stands in the set ends the recipe with the error of check_leaks.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

GRAM, PERMUTATIONS = 5, 128
BINS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SHOWN, RENDERED = 5, 2
# A field of answers is a label to balance if it has at most this many values, each used often.
MOST_LABELS = 200
FEW_ROWS_OF_A_LABEL = 3
# A field is a span if at least this share of its values stand in the prompt.
SPAN_SHARE = 0.95


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


# --- what the model is shown ----------------------------------------------------------------


class Template:
    """A model's chat template, in jinja's sandbox; without one, the messages' text line by line."""

    def __init__(self, folder: Path) -> None:
        config_path, template_path = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
        given = (
            template_path.read_text(encoding="utf-8")
            if template_path.exists()
            else config.get("chat_template")
        )
        if isinstance(given, list):
            given = next((each["template"] for each in given if each["name"] == "default"), None)
        self.source: str = given or ""
        self.special = {
            name: plain(config[name]) for name in ("bos_token", "eos_token", "pad_token") if config.get(name)
        }
        self.eos = self.special.get("eos_token", "")
        self._compiled = compiled(self.source) if self.source else None

    def render(self, chat: Sequence[Mapping[str, Any]], *, ask: bool = False) -> str:
        """The text of a chat; with `ask`, up to where the model is to go on. Raises `Refused`."""
        if self._compiled is None:
            return "\n".join(message["content"] for message in chat)
        from jinja2 import TemplateError

        try:
            return self._compiled.render(messages=chat, add_generation_prompt=ask, **self.special)
        except (TemplateError, TypeError, ValueError) as error:
            raise Refused(str(error)) from error


class Refused(Exception):
    """The chat template does not render a chat; the message says why."""


def compiled(source: str) -> Any:
    """A template as transformers compiles it: the same tags, filters and functions."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` around what the assistant says: it marks tokens and changes no text."""

        tags = {"generation"}  # noqa: RUF012  (jinja's own form)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = time.strftime
    return environment.from_string(source)


def refuse(message: str) -> None:
    raise Refused(message)


def plain(token: str | Mapping[str, str]) -> str:
    return token if isinstance(token, str) else token["content"]


def chat_of(row: Mapping[str, Any]) -> tuple[list[Any], list[Any]] | None:
    """What is given and what is learned of a chat; None for rows of plain text."""
    if isinstance(row.get("prompt"), list):
        return row["prompt"], row["completion"]
    return (row["messages"][:-1], row["messages"][-1:]) if "messages" in row else None


@dataclass(frozen=True)
class Rendered:
    """A row as the model sees it: what it is given, what it learns, and what is wrong with that."""

    line: int
    given: str
    learned: str
    wrong: str = ""


def rendered(each: Example, template: Template) -> Rendered:
    """Whether a trainer would learn the whole answer, nothing but the answer, and where it ends."""
    chat = chat_of(each.row)
    if chat is None:
        text = each.row["text"] if "text" in each.row else each.row["prompt"] + each.row["completion"]
        return Rendered(each.line, "", text)
    try:
        given, whole = template.render(chat[0], ask=True), template.render([*chat[0], *chat[1]])
    except Refused as error:
        return Rendered(each.line, "", "", f"the chat template refuses it: {error}")
    if not template.source:
        return Rendered(each.line, given, whole[len(given) :])
    if not whole.startswith(given):
        wrong = (
            "the template renders the question otherwise once it is answered: the wrong tokens are learned"
        )
        return Rendered(each.line, given, whole, wrong)
    learned = whole[len(given) :]
    if not learned.strip().removesuffix(template.eos).strip():
        return Rendered(each.line, given, learned, "nothing of the answer is learned")
    if each.answer.strip() not in learned:
        return Rendered(each.line, given, learned, "the template changes the answer")
    if template.eos and not learned.rstrip().endswith(template.eos):
        return Rendered(each.line, given, learned, f"the answer does not end with {template.eos}")
    return Rendered(each.line, given, learned)


def rendering(rows: Sequence[Rendered], template: Template, learned_tokens: int) -> dict[str, Any]:
    """How the chat template renders the set: both digests, what is wrong with how many rows, two rows.

    `generation_prompt` tells whether the template says where the model goes on, `generation_markers`
    whether it marks what the assistant says.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.given}{row.learned}\0".encode())
    return {
        "sha256": hashlib.sha256(template.source.encode()).hexdigest(),
        "rendered_sha256": digest.hexdigest(),
        "eos": template.eos,
        "generation_prompt": "add_generation_prompt" in template.source,
        "generation_markers": "{% generation" in template.source or "{%- generation" in template.source,
        "learned_tokens": learned_tokens,
        "wrong": dict(Counter(row.wrong for row in rows if row.wrong).most_common()),
        "shown": [{"line": r.line, "given": r.given, "learned": r.learned} for r in rows[:RENDERED]],
    }


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


# --- spans of answers -----------------------------------------------------------------------


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


def counted(examples: Sequence[Example], folder: Path) -> tuple[list[int], dict[str, Any]]:
    """Tokens of each row as a trainer sees it, and for chats how the model's template renders them."""
    from tokenizers import Tokenizer

    tokenizer, template = Tokenizer.from_file(str(folder / "tokenizer.json")), Template(folder)
    tokenizer.no_truncation()
    progress, rows, lengths, learned = Progress("rows counted", len(examples)), [], [], 0
    for number, each in enumerate(examples, 1):
        row = rendered(each, template)
        special = chat_of(each.row) is None  # a chat template writes its own
        lengths.append(len(tokenizer.encode(row.given + row.learned, add_special_tokens=special).ids))
        learned += len(tokenizer.encode(row.learned, add_special_tokens=False).ids)
        rows.append(row)
        progress(number)
    chats = any(chat_of(each.row) for each in examples)
    return lengths, rendering(rows, template, learned) if chats else {}


def check(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Everything there is to say about the training set, but for leaks."""
    inputs = {name: Path(path) for name, path in spec["inputs"].items()}
    near, limit = spec.get("near", 0.8), spec.get("max_length", 512)
    examples = [example(line, row) for line, row in read_lines(inputs["dataset"])]
    suite = [row for _, row in read_lines(inputs["suite"])] if "suite" in inputs else []
    exact, close, conflicts = repeats(examples, near)
    lengths, template = [0] * len(examples), {}
    if "tokenizer" in inputs:
        lengths, template = counted(examples, inputs["tokenizer"])
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
        *((n, f"{n} rows: {wrong}") for wrong, n in template.get("wrong", {}).items()),
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
        "template": template,
        "problems": [sentence for here, sentence in problems if here],
    }


def look_for_leaks(spec: Mapping[str, Any], out: Path) -> int:
    """Run check_leaks as a program of its own; what it says is said by this one. Returns its exit code."""
    out.mkdir(exist_ok=True)
    (out / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-P", spec["inputs"]["check_leaks"], str(out / "spec.json"), str(out)]
    return subprocess.run(command, check=False).returncode


def main(spec_path: Path, out: Path) -> int:
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    shutil.copyfile(spec["inputs"]["dataset"], out / "dataset.jsonl")
    spec["inputs"]["dataset"] = str(out / "dataset.jsonl")
    leaks = out / "leaks"
    if "suite" in spec["inputs"] and (code := look_for_leaks(spec, leaks)) != 0:
        return code
    result = check(spec)
    if leaks.exists():
        result["leak_check"] = json.loads((leaks / "result.json").read_text(encoding="utf-8"))
    part = out / "result.tmp"
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(out / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
