"""How many seeded leaks `check_leaks` finds, how many clean rows it takes for leaks, and how long it takes.

Rows of a file are split: a third is the suite, the others are clean training rows. Leaks of the suite's
rows are then sown among them:

    copy        the input, written in capitals, without punctuation, or as it stands
    fragment    13 words of it in a row, between sentences of clean rows
    rewritten   by rule, not by a person: its last sentence first, common words replaced, numbers as words
    paraphrase  by hand (evals/data/leaks), where the file is GSM8K's: `chosen` are those that settings of
                `check_leaks` were chosen on, `unseen` the others

Found is what would stop a launch. It is measured once with the file's rows, and once with as many as are
wanted: sentences of clean rows put together anew, with other numbers. All rows that are not sown count as
clean, also where the file itself holds the same problem twice. The baseline, in the same run, is what is
usual: equal texts, 13 words in a row (GPT-3), and MinHash at a Jaccard similarity of 0.8 of character
5-grams, by the library of `prepare_data`, each candidate compared exactly.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.bench.finetune import ended
from agentd.cli.client import connect, stop_daemon
from agentd.config import load_config
from agentd.errors import DataError
from agentd.jobs.environments import Environments
from agentd.jobs.recipes import find_recipe
from agentd.locations import read_address
from agentd.plugins import Plugins, bundled_root

__all__ = [
    "SHIPPED",
    "Row",
    "brought_embedder",
    "interpreter_of",
    "rewritten",
    "run",
    "sown",
    "texts_of",
]

ROWS = 100_000
SUITE_SHARE, LARGEST_SUITE = 3, 1000
SEEDS = 200
RUN = 13
FIELDS = ("question", "prompt", "input", "instruction", "text")
SHIPPED = "evals/data/banking10/train.jsonl"
WORDS: list[str] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
REPLACED = {
    "how many": "what number of", "how much": "what amount of", "each": "every", "buys": "purchases",
    "bought": "purchased", "gives": "hands", "gave": "handed", "gets": "receives", "got": "received",
    "makes": "produces", "made": "produced", "has": "owns", "had": "owned", "wants": "would like",
    "needs": "requires", "total": "overall", "altogether": "in all", "then": "afterwards", "also": "too",
    "big": "large", "small": "little", "friends": "pals", "kids": "children", "why": "for what reason",
    "my": "our", "can't": "cannot", "help": "assistance", "still": "even now", "money": "cash",
    "day": "weekday", "spends": "pays", "sells": "offers", "sold": "offered", "starts": "begins",
}  # fmt: skip
BASELINE = r"""
import json, re, sys, time
from collections import defaultdict
from rensa import RMinHash
def read(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]
def plain(text):
    return re.sub(r"\W+", " ", text.casefold()).strip()
def grams(text):
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}
def runs(text):
    words = text.split(" ")
    return (" ".join(words[i : i + 13]) for i in range(len(words) - 12))
def sketched(texts):
    return RMinHash.digests_from_token_sets([list(grams(text)) for text in texts], 128, 1)
started = time.perf_counter()
suite = [plain(row["input"]) for row in read(sys.argv[1])]
train = [plain(row["prompt"]) for row in read(sys.argv[2])]
same = set(suite)
thirteen = {run for text in suite for run in runs(text)}
banded = [defaultdict(list) for _ in range(128 // 5)]
def bands(digest):
    return [(index, tuple(digest[5 * band : 5 * band + 5])) for band, index in enumerate(banded)]
for place, digest in enumerate(sketched(suite)):
    for index, key in bands(digest):
        index[key].append(place)
shapes = [grams(text) for text in suite]
found = []
for start in range(0, len(train), 1024):
    chunk = train[start : start + 1024]
    for line, (text, digest) in enumerate(zip(chunk, sketched(chunk)), start + 1):
        if text in same or any(run in thirteen for run in runs(text)):
            found.append(line)
            continue
        near = {place for index, key in bands(digest) for place in index.get(key, ())}
        if near:
            own = grams(text)
            if any(len(own & shapes[p]) >= 0.8 * len(own | shapes[p]) for p in near):
                found.append(line)
print(json.dumps({"found": found, "seconds": time.perf_counter() - started}))
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A training row, and what was sown: "clean", or how it leaks which row of the suite."""

    text: str
    kind: str = "clean"
    of: str = ""


def run(data: Path | None = None) -> dict[str, Any]:
    """Both on the file's rows, and on ``AGENTD_BENCH_ROWS`` rows (100,000). `data` is JSONL."""
    path = data or bundled_root() / SHIPPED
    texts = texts_of(path)
    suite, train = sown(texts, _by_hand())
    wanted = int(os.environ.get("AGENTD_BENCH_ROWS", ROWS))
    clean = [row.text for row in train if row.kind == "clean"]
    filled = [*train, *(Row(text) for text in _recombined(clean, max(0, wanted - len(train))))]
    folder = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
    try:
        embedder = brought_embedder(folder)
        table = [
            _line(name, rows, found, seconds)
            for number, rows in enumerate([train] if len(filled) == len(train) else [train, filled])
            for name, found, seconds in _measured(folder / str(number), suite, rows, embedder)
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "file": path.name,
        "suite_rows": len(suite),
        "sown": dict(Counter(row.kind for row in train if row.kind != "clean")),
        "cores": len(os.sched_getaffinity(0)),
        "found": table,
    }


def sown(texts: Sequence[str], by_hand: Sequence[tuple[str, str, str]]) -> tuple[dict[str, str], list[Row]]:
    """The suite by id, and training rows in random order: the same for the same texts.

    `by_hand` are (digest of a text, kind, paraphrase). Texts that have one belong to the suite.
    """
    rng = random.Random(0)
    digests = {hashlib.sha256(text.encode()).hexdigest()[:16]: text for text in texts}
    rewritten_by_hand = [(digests[of], kind, text) for of, kind, text in by_hand if of in digests]
    first = list(dict.fromkeys(text for text, _, _ in rewritten_by_hand))
    others = sorted(set(texts) - set(first))
    rng.shuffle(others)
    size = max(0, min(len(texts) // SUITE_SHARE, LARGEST_SUITE) - len(first))
    suite = {f"r{number}": text for number, text in enumerate([*first, *others[:size]])}
    ids, clean = {text: row for row, text in suite.items()}, others[size:]
    leaks = [Row(text, kind, ids[of]) for of, kind, text in rewritten_by_hand]
    drawn = rng.sample(sorted(suite), min(SEEDS, len(suite)))
    leaks += [Row(_copied(suite[row], number), "copy", row) for number, row in enumerate(drawn)]
    long = [row for row in drawn if len(suite[row].split()) > RUN]
    leaks += [Row(_embedded(suite[row], rng.choice(clean), rng), "fragment", row) for row in long]
    leaks += [
        Row(changed, "rewritten", row) for row in drawn if (changed := rewritten(suite[row])) is not None
    ]
    rows = [*(Row(text) for text in clean), *leaks]
    rng.shuffle(rows)
    return suite, rows


def _copied(text: str, number: int) -> str:
    return (text, text.upper(), re.sub(r"[^\w\s]+", " ", text))[number % 3]


def _embedded(text: str, around: str, rng: random.Random) -> str:
    """13 words of `text` after the first half of `around` and before the rest."""
    words, other = text.split(), around.split()
    start = rng.randrange(len(words) - RUN + 1)
    return " ".join([*other[: len(other) // 2], *words[start : start + RUN], *other[len(other) // 2 :]])


def rewritten(text: str) -> str | None:
    """`text` by rule: last sentence first, words of `REPLACED` and numbers written otherwise.

    None if fewer than three places would change: that is a near copy.
    """
    changes = 0

    def other(match: re.Match[str]) -> str:
        nonlocal changes
        found = match[0]
        if found.isdigit():
            new = WORDS[int(found)] if int(found) < len(WORDS) else found
        elif found.casefold() in WORDS:
            new = str(WORDS.index(str(found.casefold())))
        else:
            new = REPLACED[found.casefold()]
        changes += new != found
        return new

    pattern = (
        r"\b(?:" + "|".join([*map(re.escape, REPLACED), *WORDS]) + r")\b|(?<![\d.,/$])\b\d{1,2}\b(?![\d.,/%])"
    )
    changed = re.sub(pattern, other, text, flags=re.IGNORECASE)
    first, *rest = re.split(r"(?<=[.?!])\s+", changed.strip())
    moved = " ".join([rest[-1], first, *rest[:-1]]) if rest else first
    return moved if changes >= 3 else None


def _recombined(texts: Sequence[str], count: int) -> Iterator[str]:
    """Texts of two to four sentences that stand in `texts`, with other numbers, ended by another's last."""
    rng = random.Random(1)
    sentences = [re.split(r"(?<=[.?!])\s+", text.strip()) for text in texts]
    first = [each for parts in sentences for each in parts[:-1]] or [parts[-1] for parts in sentences]
    last = [parts[-1] for parts in sentences]

    def varied(text: str) -> str:
        return re.sub(r"\d+", lambda m: str(max(1, int(int(m[0]) * rng.uniform(0.5, 2)))), text)

    for _ in range(count):
        chosen = [*rng.sample(first, min(len(first), rng.randint(1, 3))), rng.choice(last)]
        yield " ".join(map(varied, chosen))


def texts_of(path: Path) -> list[str]:
    """What is asked in each row of a JSONL file. Raises `DataError` if a row has none of `FIELDS`."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    field = next((name for name in FIELDS if rows and name in rows[0]), None)
    texts = [_said(row[field]) for row in rows] if field else []
    if not all(texts) or not texts:
        raise DataError(path, f"not every row has one of {', '.join(FIELDS)}", hint="Give JSONL of texts")
    return texts


def _said(asked: Any) -> str:
    """A text, or what the last message says."""
    return asked if isinstance(asked, str) else asked[-1]["content"] if asked else ""


def _by_hand() -> list[tuple[str, str, str]]:
    lines = (bundled_root() / "evals/data/leaks/paraphrases.jsonl").read_text("utf-8").splitlines()
    kinds = ("paraphrase, chosen", "paraphrase, unseen")
    return [(row["of"], kinds[number % 2], row["text"]) for number, row in enumerate(map(json.loads, lines))]


def brought_embedder(folder: Path) -> Path:
    """The folder of minilm-l6, brought by a daemon of its own, kept in `folder`."""
    os.environ.update(AGENTD_STATE=str(folder / "state"), AGENTD_POLICY="demo", AGENTD_PORT="0")
    client = connect()
    try:
        return Path(ended(client, client.call("get_model", {"source": "minilm-l6"}))["result"]["path"])
    finally:
        if address := read_address(folder / "state"):
            stop_daemon(client, address["pid"], and_jobs=True)


def _measured(
    folder: Path, suite: dict[str, str], rows: Sequence[Row], embedder: Path
) -> Iterator[tuple[str, set[int], float]]:
    """(name, lines that were found, seconds) of either."""
    folder.mkdir()
    asked, train, spec = folder / "suite.jsonl", folder / "train.jsonl", folder / "spec.json"
    _write(asked, ({"id": row, "input": text, "expected": ""} for row, text in suite.items()))
    _write(train, ({"prompt": row.text, "completion": "x"} for row in rows))
    inputs = {"suite": str(asked), "dataset": str(train), "embedder": str(embedder)}
    spec.write_text(json.dumps({"inputs": inputs, "stop": False}), encoding="utf-8")
    recipe = bundled_root() / "tools/recipes/check_leaks.py"
    command = [str(interpreter_of("check_leaks")), "-P", str(recipe), str(spec), str(folder)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    pairs = map(json.loads, (folder / "leaks.jsonl").read_text("utf-8").splitlines())
    yield "check_leaks", {pair["line"] for pair in pairs if pair["stops"]}, seconds
    command = [str(interpreter_of("prepare_data")), "-P", "-c", BASELINE, str(asked), str(train)]
    started = time.perf_counter()
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["found"]
    yield "texts, 13 words, MinHash", set(found), time.perf_counter() - started


def _write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def interpreter_of(recipe: str) -> Path:
    """That of a recipe's environment, which is built if it must be. Benches have recipes of their own."""
    environments = Environments(load_config().cache_dir)
    roots = (bundled_root(), Path(__file__).parent / "root")
    lock = asyncio.run(environments.lock(find_recipe(Plugins(roots), recipe)))
    return asyncio.run(environments.build(lock))


def _line(name: str, rows: Sequence[Row], found: set[int], seconds: float) -> dict[str, Any]:
    """The share of each kind that was found; of clean rows, those that were taken for leaks."""
    kinds = Counter(row.kind for row in rows)
    hit = Counter(row.kind for line, row in enumerate(rows, 1) if line in found)
    line: dict[str, Any] = {"by": name, "rows": len(rows)}
    for kind in ("copy", "fragment", "rewritten", "paraphrase, chosen", "paraphrase, unseen"):
        line[kind] = round(hit[kind] / kinds[kind], 3) if kinds[kind] else "-"
    return line | {
        "false alarms": f"{hit['clean']} ({hit['clean'] / kinds['clean']:.4%})",
        "seconds": round(seconds, 1),
    }
