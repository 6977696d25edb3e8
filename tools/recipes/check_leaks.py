# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "tokenizers==0.23.3"]
# ///
"""Find a suite's rows in a training set: copies, shared runs of words, and paraphrases.

    python -P check_leaks.py SPEC OUT

SPEC
    inputs.dataset      JSONL of {"prompt", "completion"}, {"messages"} or {"text"} rows, checked for format
    inputs.suite        JSONL of {"id", "input", "expected"} rows
    inputs.embedder     folder of a BERT-like sentence embedder; without it no paraphrase is looked for
    accept ([])         ids of suite rows that may stand in the training set
    false_alarms (0.1)  clean rows of the whole training set that may be taken for paraphrases
    stop (true)         end with an error if there is a leak that was not accepted
OUT
    leaks.jsonl         every pair, the worst kinds first: kind, score, line, row, train, answer, suite,
                        accepted, stops
    leaks.md            the same as a table
    result.json         rows, suite_rows, leaks, accepted, kinds {kind: pairs}, paraphrases {…}, seconds

A training row is held against each suite row, and the first of these that holds is what it is called:

    copy        the same input, but for case, punctuation and spaces
    contained   the whole input within a text (rows of fewer than 8 words: and three quarters of it)
    run         13 words in a row (Brown et al. 2020, GPT-3)
    partial     half of the input's words, in runs of at least 5
    near        Jaccard similarity of character 5-grams of at least 0.8, of at most 200 characters
    answer      the expected answer, if it has 8 words: all of it, or 13 words in a row
    paraphrase  embeddings and numbers nearer than distinct rows of the suite are to each other

What stands in more than two suite rows or, of answers and pieces, under more than three prompts, is a set
phrase and no leak. A partial copy also shares more words with its suite row than suite rows share with
each other. Paraphrases are looked for among the rows that are nearest by averaged word vectors
(`CANDIDATE_TOKENS`), and called so above a threshold that is set by the suite's own rows: a normal tail
fitted to how near each is to its nearest other, at the rate that `false_alarms` is of the training set.

Not covered: translations; paraphrases within long texts; the same problem with other numbers, unless
its words are the same. Where fewer than half of the suite's rows are so far from each other that an
ordinary paraphrase could be told (`reach`), paraphrases are listed and stop nothing.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

# One thread a matrix product: as many products as there are cores run at a time instead.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

KINDS = {
    "copy": "the same input",
    "contained": "the whole input within its text",
    "run": "13 words in a row",
    "partial": "half of the words, in runs",
    "near": "nearly the same input",
    "answer": "the expected answer",
    "paraphrase": "a paraphrase",
}
RUN, PIECE, FEWEST_WORDS = 13, 5, 8
HALF, MOST = 0.5, 0.75
GRAM, NEAR = 5, 0.8
# Of longer texts (in characters) a typo or two leave runs of words that say as much.
NEAR_LONGEST = 200
SET_PHRASE_ROWS, SET_PHRASE_PROMPTS = 2, 3
CHUNK = 1024  # training rows looked at together
SHOWN = 5

# What equal numbers count beside a cosine. Chosen on the first, third, fifth … of evals/data/leaks; of the
# others `agentd bench leaks` reports apart how many are found.
NUMBERS_FIRST, NUMBERS_THEN, NUMBERS_SHRINK = 1.5, 0.35, np.float32(2)
STATIC_WIDTH, MOST_WORDS = 128, 60_000
HUB_ROWS, HUB_SHARE = 4096, 0.014
PARTNERS = 2
# What embedding may cost: about a quarter of a minute on two cores.
CANDIDATE_TOKENS, FEWEST_CANDIDATES, CANDIDATE_SHARE = 100_000, 300, 0.02
# Suites of more rows are embedded in part only: what is near to a candidate, and this many to compare with.
WHOLE_SUITE, NULL_ROWS, FEWEST_NULL_ROWS = 1000, 300, 50
# The cosine of an ordinary paraphrase with what it paraphrases.
ORDINARY = 0.9
# Below this nobody would call two rows paraphrases, however far apart all others are.
LOWEST_THRESHOLD = 0.75
# A tail is not known further out than this, and no test at all nearer.
LOWEST_RATE, HIGHEST_RATE = 1e-5, 0.1
LONGEST = 256  # tokens embedded of a text

WORD_NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13",
    "fourteen": "14", "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18",
    "nineteen": "19", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60",
    "seventy": "70", "eighty": "80", "ninety": "90", "hundred": "100", "thousand": "1000",
    "million": "1000000", "dozen": "12", "once": "1", "twice": "2", "double": "2", "triple": "3",
    "half": "1/2", "third": "1/3", "quarter": "1/4",
}  # fmt: skip
# re's \W, many times as fast.
ASCII_WORDS = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:/\d+)?")


Told = Callable[[str, int], Callable[[int], None]]
"""What is told of a step of so many things: their name and number, then how many are done."""


@dataclass(frozen=True)
class Row:
    """A training row: the texts that a suite's input may stand in, and what it is asked and taught."""

    line: int
    prompt: str
    answer: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A training row and the suite row it was recognised in, both by place in their lists."""

    kind: str
    score: float
    row: int
    suite: int

    @property
    def rank(self) -> tuple[int, float]:
        return list(KINDS).index(self.kind), -self.score


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


# --- reading --------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, json.loads(line)


def read_row(line: int, row: Mapping[str, Any]) -> Row:
    if "text" in row:
        return Row(line, row["text"], "", (row["text"],))
    if "messages" in row:
        prompt, completion = row["messages"][:-1], row["messages"][-1:]
    else:
        prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        return Row(line, prompt, completion, (prompt, completion))
    said = next((m["content"] for m in prompt[::-1] if m["role"] == "user"), "")
    answer = completion[-1]["content"]
    return Row(line, said, answer, tuple(m["content"] for m in [*prompt, *completion]))


def expected_texts(expected: Any) -> list[str]:
    """The strings of an expected answer, whatever holds them."""
    if isinstance(expected, str):
        return [expected]
    if isinstance(expected, dict):
        expected = list(expected.values())
    return (
        [text for value in expected for text in expected_texts(value)] if isinstance(expected, list) else []
    )


def normalise(text: str) -> str:
    if text.isascii():
        return " ".join(text.lower().translate(ASCII_WORDS).split())
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def numbers(text: str, words: Iterable[str]) -> frozenset[str]:
    """The numbers of a text, in one form: 1,200.50 and 1200.5, "half" and 1/2 are the same."""
    found = {word for word in map(WORD_NUMBERS.get, words) if word}
    for match in NUMBER.findall(text):
        plain = match.replace(",", "")
        found.add(plain.rstrip("0").rstrip(".") if "." in plain and "/" not in plain else plain)
    return frozenset(found)


# --- runs of words --------------------------------------------------------------------------


class Words(dict[str, int]):
    """Words as numbers, and rolling hashes of runs of them. A text ends with a word that none has."""

    def __init__(self) -> None:
        super().__init__({"\n": 0})

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number

    def encode(self, words: Sequence[str]) -> list[int]:
        return list(map(self.__getitem__, words))

    @staticmethod
    def runs(stream: np.ndarray, lengths: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(length, hash of the run beginning at each place) of a stream of word ids."""
        codes = mixed(stream.astype(np.uint64))
        powers = np.full(len(codes) + 1, BASE, np.uint64)
        powers[0] = 1
        np.multiply.accumulate(powers, out=powers)
        inverse = np.full(len(codes) + 1, pow(int(BASE), -1, 1 << 64), np.uint64)
        inverse[0] = 1
        np.multiply.accumulate(inverse, out=inverse)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(codes * powers[:-1], dtype=np.uint64)])
        for n in lengths:
            if n <= len(codes):
                yield n, mixed((sums[n:] - sums[:-n]) * inverse[: len(codes) - n + 1])


BASE = 0x9E3779B97F4A7C15


def mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64: neighbouring numbers become far ones."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class Index:
    """Hashes of one length, with (owner, place) of each: found in a stream in one pass."""

    BITS = 22

    def __init__(self, hashes: np.ndarray, owners: np.ndarray, places: np.ndarray) -> None:
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.owners, self.places = hashes[order], owners[order], places[order]
        self.maybe = np.zeros(1 << self.BITS, bool)
        self.maybe[self._slot(hashes)] = True

    def _slot(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(64 - self.BITS)).astype(np.int64)

    def without(self, drop: np.ndarray) -> Index:
        """Without the entries where `drop` holds."""
        return Index(self.hashes[~drop], self.owners[~drop], self.places[~drop])

    def find(self, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place in the stream, entry) of every match."""
        if not len(self.hashes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        places = np.flatnonzero(self.maybe[self._slot(stream)])
        first = np.searchsorted(self.hashes, stream[places], "left")
        last = np.searchsorted(self.hashes, stream[places], "right")
        counts = last - first
        starts = np.repeat(first, counts)
        offsets = np.arange(len(starts)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(places, counts), starts + offsets


@dataclass
class Suite:
    """What is looked for."""

    ids: list[str]
    inputs: list[str]
    plain: list[str]
    words: list[list[int]]
    numbers: list[frozenset[str]]
    answers: list[tuple[int, list[int]]]
    """(suite row, words) of each expected text of at least 8 words."""

    @cached_property
    def copies(self) -> dict[str, int]:
        return {text: place for place, text in enumerate(self.plain) if text}


def read_suite(path: Path, vocabulary: Words) -> Suite:
    rows = [row for _, row in read_lines(path)]
    plain = [normalise(row["input"]) for row in rows]
    split = [text.split(" ") for text in plain]
    answers = [
        (place, vocabulary.encode(words))
        for place, row in enumerate(rows)
        for text in expected_texts(row["expected"])
        if len(words := normalise(text).split(" ")) >= FEWEST_WORDS
    ]
    return Suite(
        ids=[row["id"] for row in rows],
        inputs=[row["input"] for row in rows],
        plain=plain,
        words=[vocabulary.encode(words) for words in split],
        numbers=[numbers(row["input"], words) for row, words in zip(rows, split, strict=True)],
        answers=answers,
    )


def indexed(texts: Iterable[tuple[int, Sequence[int]]], length: int) -> Index:
    """Every run of `length` words of the texts, but for those in more than two owners' texts."""
    hashes, owners, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for owner, words in texts:
        for _, found in Words.runs(np.array(words, np.int64), [length]):
            hashes.append(found)
            owners.append(np.full(len(found), owner))
            places.append(np.arange(len(found)))
    index = Index(np.concatenate(hashes), np.concatenate(owners), np.concatenate(places))
    pairs = np.unique(np.stack([index.hashes, index.owners.astype(np.uint64)]), axis=1)[0]
    values, counts = np.unique(pairs, return_counts=True)
    common = values[counts > SET_PHRASE_ROWS]
    return index.without(np.isin(index.hashes, common))


@dataclass
class Runs:
    """Matches of runs of words, collected chunk by chunk."""

    suite: Suite
    lengths: np.ndarray = field(init=False)
    pieces: Index = field(init=False)
    whole: dict[int, Index] = field(init=False)
    answers: dict[int, Index] = field(init=False)
    found: list[Pair] = field(default_factory=list)
    pieces_found: list[np.ndarray] = field(default_factory=list)
    """(training row, entry of `pieces`)"""
    answered: list[tuple[int, int, int]] = field(default_factory=list)
    """(answer's hash, training row, suite row)"""

    def __post_init__(self) -> None:
        # The same input twice is one owner, or all of it would be a set phrase.
        inputs = [(place, self.suite.words[place]) for place in self.suite.copies.values()]
        self.lengths = np.array([len(words) for words in self.suite.words])
        self.pieces = indexed(inputs, PIECE)
        lengths = {min(len(words), RUN) for words in self.suite.words if len(words) >= 3}
        self.whole = {
            n: indexed([(i, w) for i, w in inputs if len(w) == n or n == RUN < len(w)], n) for n in lengths
        }
        self.answers = {
            n: indexed([(i, w) for i, w in self.suite.answers if len(w) == n or n == RUN < len(w)], n)
            for n in {min(len(words), RUN) for _, words in self.suite.answers}
        }

    def look(self, stream: np.ndarray, rows: np.ndarray, sizes: np.ndarray) -> None:
        """Look through texts laid end to end; `rows` and `sizes` (in words) say whose each word is."""
        for n, hashes in Words.runs(stream, sorted({PIECE, *self.whole, *self.answers})):
            if n in self.whole:
                places, entries = self.whole[n].find(hashes)
                for place, entry in zip(places, entries, strict=True):
                    self._run(n, int(rows[place]), int(self.whole[n].owners[entry]), int(sizes[place]))
            if n in self.answers:
                places, entries = self.answers[n].find(hashes)
                index = self.answers[n]
                self.answered += [
                    (int(index.hashes[e]), int(rows[p]), int(index.owners[e]))
                    for p, e in zip(places, entries, strict=True)
                ]
            if n == PIECE:
                places, entries = self.pieces.find(hashes)
                self.pieces_found.append(np.stack([rows[places], entries]))

    def _run(self, n: int, row: int, owner: int, size: int) -> None:
        words = len(self.suite.words[owner])
        if words > RUN or n == RUN:
            self.found.append(Pair("run", n / words, row, owner))
        elif words >= FEWEST_WORDS or words >= MOST * size:
            self.found.append(Pair("contained", 1.0, row, owner))

    def pairs(self, rows: Sequence[Row]) -> list[Pair]:
        """All matches, but for those of phrases that many different prompts have."""
        prompts: dict[int, set[str]] = defaultdict(set)
        for answer, row, _ in self.answered:
            prompts[answer].add(rows[row].prompt)
        answers = {
            Pair("answer", 1.0, row, owner)
            for answer, row, owner in self.answered
            if len(prompts[answer]) <= SET_PHRASE_PROMPTS
        }
        return [*self.found, *answers, *self._partial(rows)]

    def _partial(self, rows: Sequence[Row]) -> list[Pair]:
        """Pairs in which pieces cover half of a suite row, and more than suite rows have in common."""
        numbered: dict[str, int] = {}
        prompt = np.array([numbered.setdefault(row.prompt, len(numbered)) for row in rows])
        found = np.concatenate([np.zeros((2, 0), np.int64), *self.pieces_found], axis=1)
        row, entry = np.unique(found, axis=1)
        used = np.unique(np.stack([self.pieces.hashes[entry], prompt[row].astype(np.uint64)]), axis=1)[0]
        hashes, counts = np.unique(used, return_counts=True)
        kept = ~np.isin(self.pieces.hashes[entry], hashes[counts > SET_PHRASE_PROMPTS])
        row, owner, share = self._covered(row[kept], entry[kept])
        enough = (share >= max(HALF, self._shared())) & (share * self.lengths[owner] >= FEWEST_WORDS)
        return [
            Pair("contained" if share[at] == 1 else "partial", float(share[at]), int(row[at]), int(owner[at]))
            for at in np.flatnonzero(enough)
        ]

    def _covered(self, row: np.ndarray, entry: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row, suite row, share of its words) of matched pieces, which may overlap."""
        if not len(row):
            return row, entry, np.zeros(0)
        row, owner, place = np.unique(
            np.stack([row, self.pieces.owners[entry], self.pieces.places[entry]]), axis=1
        )
        same = (row[1:] == row[:-1]) & (owner[1:] == owner[:-1])
        covers = np.append(np.where(same, np.minimum(place[1:] - place[:-1], PIECE), PIECE), PIECE)
        starts = np.flatnonzero(np.append(True, ~same))
        row, owner = row[starts], owner[starts]
        return row, owner, np.add.reduceat(covers, starts) / self.lengths[owner]

    def _shared(self) -> float:
        """The share of its words that about one suite row in 500 would have in common with another."""
        order = np.argsort(self.pieces.hashes, kind="stable")
        hashes, owners = self.pieces.hashes[order], self.pieces.owners[order]
        twice = np.flatnonzero((hashes[1:] == hashes[:-1]) & (owners[1:] != owners[:-1]))
        row = np.concatenate([owners[twice], owners[twice + 1]])
        entry = np.concatenate([order[twice + 1], order[twice]])
        shares = np.zeros(len(self.lengths))
        row, _, share = self._covered(row, entry)
        np.maximum.at(shares, row, share)
        high, higher = np.quantile(shares, (0.95, 0.99))
        return float(high + 2 * (higher - high))  # an exponential tail: a fifth of the rows each step


# --- nearly the same ------------------------------------------------------------------------


class Near:
    """Rows that share four fifths of their character 5-grams with a suite row.

    Of any half of such a row's 5-grams, that row has all but a fifth of the whole. So the rarest half
    are counted, as hashes; the few rows that have enough of them are compared by their 5-grams.
    """

    BITS = 22

    def __init__(self, suite: Sequence[str]) -> None:
        self.grams = [shapes(text) for text in suite]
        slots = [np.unique(each) for each in self.slots(suite)]
        flat = np.concatenate(slots)
        order = np.argsort(flat, kind="stable")
        self.owners = np.repeat(np.arange(len(slots)), [len(each) for each in slots])[order]
        self.counts = np.bincount(flat, minlength=1 << self.BITS).astype(np.int32)
        self.starts = (np.cumsum(self.counts) - self.counts).astype(np.int32)

    def slots(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Where the 5-grams of each text hash to; a shorter text is one gram."""
        padded = [text.ljust(GRAM) for text in texts]
        points = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32).astype(np.uint64)
        code = np.zeros(len(points) - GRAM + 1, np.uint64)
        for place in range(GRAM):
            code = code * np.uint64(0x100000001B3) + points[place : len(points) - GRAM + 1 + place]
        hashed = (mixed(code) >> np.uint64(64 - self.BITS)).astype(np.int64)
        ends = np.cumsum([len(text) for text in padded])
        return [hashed[end - len(text) : end - GRAM + 1] for text, end in zip(padded, ends, strict=True)]

    def of(self, text: str, slots: np.ndarray) -> tuple[int, float] | None:
        """The most similar suite row and its similarity, if that is enough."""
        if len(text) > NEAR_LONGEST:
            return None
        slots = np.unique(slots)
        counts = self.counts[slots]
        spare = (1 - NEAR) * len(slots)
        if np.count_nonzero(counts == 0) > spare:
            return None
        half = np.argsort(counts, kind="stable")[: (len(slots) + 1) // 2]
        counts, starts = counts[half], self.starts[slots[half]]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        shared = np.bincount(self.owners[np.repeat(starts, counts) + offsets], minlength=len(self.grams))
        tried = np.flatnonzero(shared >= max(1, len(half) - spare))
        if not len(tried):
            return None
        grams = shapes(text)
        best = max((similarity(grams, self.grams[owner]), int(owner)) for owner in tried)
        return (best[1], best[0]) if best[0] >= NEAR else None


def shapes(text: str) -> frozenset[str]:
    return frozenset(text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1)))


def similarity(one: frozenset[str], two: frozenset[str]) -> float:
    return len(one & two) / len(one | two)


# --- paraphrases ----------------------------------------------------------------------------


class Embedder:
    """A BERT-like sentence embedder (mean of the last layer's tokens), computed with numpy alone.

    Its GELU is the tanh form, a quarter of the time of the error function; embeddings differ by less
    than 0.001 from those of sentence-transformers.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
            raise Unsuitable(f"{folder.name} is no BERT with GELU but {config.get('model_type')!r}")
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config["layer_norm_eps"]
        self.weights = read_safetensors(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        self.tokenizer.enable_truncation(LONGEST)
        return [each.ids for each in self.tokenizer.encode_batch(list(texts))]

    def embed(
        self, tokens: Sequence[Sequence[int]], told: Callable[[int], None], threads: int = 0
    ) -> np.ndarray:
        """Unit vectors of token lists. Batches are of like lengths, one a thread (core) at a time."""
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        batches = [order[start : start + 16] for start in range(0, len(order), 16)]
        vectors = np.zeros((len(tokens), self.weights["embeddings.LayerNorm.weight"].size), np.float32)
        done = 0
        with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
            made_of = pool.map(lambda batch: self._batch([tokens[i] for i in batch]), batches)
            for batch, made in zip(batches, made_of, strict=True):
                vectors[batch] = made
                done += len(batch)
                told(done)
        return vectors

    def _batch(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        rows, length = len(tokens), max(map(len, tokens))
        ids = np.zeros((rows, length), np.int64)
        mask = np.zeros((rows, length), np.float32)
        for row, each in enumerate(tokens):
            ids[row, : len(each)] = each
            mask[row, : len(each)] = 1
        weights = self.weights
        x = weights["embeddings.word_embeddings.weight"][ids]
        x += weights["embeddings.position_embeddings.weight"][:length]
        x += weights["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x.reshape(rows * length, -1), "embeddings.LayerNorm")
        hidden = ((1 - mask) * np.float32(-1e9))[:, None, None, :]
        for number in range(self.layers):
            layer = f"encoder.layer.{number}."
            seen = self._attend(x, hidden, layer + "attention.self.", (rows, length))
            x += self._linear(seen, layer + "attention.output.dense")
            x = self._norm(x, layer + "attention.output.LayerNorm")
            inner = gelu(self._linear(x, layer + "intermediate.dense"))
            x += self._linear(inner, layer + "output.dense")
            x = self._norm(x, layer + "output.LayerNorm")
        return units((x.reshape(rows, length, -1) * mask[..., None]).sum(1))

    def _attend(self, x: np.ndarray, hidden: np.ndarray, prefix: str, shape: tuple[int, int]) -> np.ndarray:
        width = x.shape[-1] // self.heads
        query, key, value = (
            self._linear(x, prefix + name).reshape(*shape, self.heads, width).transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2)
        scores *= np.float32(width**-0.5)
        scores += hidden
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        return (scores @ value).transpose(0, 2, 1, 3).reshape(x.shape)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        y = x @ self.weights[name + ".weight"].T
        y += self.weights[name + ".bias"]
        return y

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.epsilon))
        x *= self.weights[name + ".weight"]
        x += self.weights[name + ".bias"]
        return x


class Unsuitable(Exception):
    """This model cannot embed here."""


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    read: dict[str, np.ndarray] = {}
    for name, about in header.items():
        first, last = about["data_offsets"]
        if about["dtype"] == "F32":
            tensor = np.frombuffer(raw, np.float32, (last - first) // 4, start + first)
            read[name.removeprefix("bert.")] = tensor.reshape(about["shape"])
    if "embeddings.word_embeddings.weight" not in read:
        raise Unsuitable(f"{path} holds no float32 weights of a BERT")
    return read


def gelu(x: np.ndarray) -> np.ndarray:
    y = x * x
    y *= np.float32(0.044715 * 0.7978845608)
    y += np.float32(0.7978845608)
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= np.float32(0.5)
    return y


def units(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.float32(1e-9), np.linalg.norm(x, axis=-1, keepdims=True))


class Figures:
    """The numbers of rows as weighted bags: rare numbers count more.

    Similarity is weighted Jaccard, shrunk: to have one common number in common is no evidence.
    """

    def __init__(self, suite: Sequence[frozenset[str]], train: Sequence[frozenset[str]]) -> None:
        counts = Counter(number for found in (*suite, *train) for number in found)
        total = len(suite) + len(train) + 1
        self.weights = {number: float(np.log(total / (count + 0.5))) for number, count in counts.items()}
        self.places = {number: i for i, number in enumerate({n for found in suite for n in found})}
        self.suite, self.suite_weights = self.bags(suite)

    def bags(self, rows: Sequence[frozenset[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Rows by the suite's numbers, and each row's whole weight."""
        bags = np.zeros((len(rows), max(1, len(self.places))), np.float32)
        weights = np.zeros(len(rows), np.float32)
        for row, found in enumerate(rows):
            for number in found:
                weights[row] += self.weights[number]
                if number in self.places:
                    bags[row, self.places[number]] = self.weights[number] ** 0.5
        return bags, weights

    def similarity(self, rows: Sequence[frozenset[str]]) -> np.ndarray:
        """Of rows to every suite row: near 1 for many numbers that are the same, 0 for none in common."""
        bags, weights = self.bags(rows)
        shared = bags @ self.suite.T
        return shared / (weights[:, None] + self.suite_weights - shared + NUMBERS_SHRINK)

    def own(self) -> np.ndarray:
        """Of every suite row to itself."""
        return self.suite_weights / (self.suite_weights + NUMBERS_SHRINK)


class Static:
    """Texts as weighted means of their words' vectors, from the embedder's input layer: fast and rough."""

    def __init__(self, embedder: Embedder, vocabulary: Words, counts: np.ndarray, rows: int) -> None:
        """`counts` says in how many of `rows` texts each word stands."""
        names = list(vocabulary)
        kept = np.sort(np.argsort(-counts, kind="stable")[:MOST_WORDS])
        kept = kept[counts[kept] > 0]
        table = embedder.weights["embeddings.word_embeddings.weight"]
        table = units(table - table.mean(0))
        embedder.tokenizer.no_truncation()
        pieces = embedder.tokenizer.encode_batch([names[i] for i in kept], add_special_tokens=False)
        # The leading directions of the words that occur here; the rest is left out for speed.
        vectors = np.stack([table[each.ids].mean(0) if each.ids else table[0] * 0 for each in pieces])
        _, directions = np.linalg.eigh(vectors.T @ vectors)
        vectors = vectors @ directions[:, -STATIC_WIDTH:]
        vectors *= np.log((rows + 1) / (counts[kept] + 0.5)).astype(np.float32)[:, None]
        self.vectors = np.zeros((len(kept) + 1, STATIC_WIDTH), np.float32)
        self.vectors[1:] = vectors
        self.place = np.zeros(len(names), np.int32)
        self.place[kept] = np.arange(1, len(kept) + 1)
        self.mean = np.zeros(STATIC_WIDTH, np.float32)

    def of(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors of texts given as word ids."""
        vectors = [self._sums(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
        return units(units(np.concatenate(vectors)) - self.mean)

    def _sums(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """As a product with the words that occur, which is faster than adding rows up."""
        owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
        words, places = np.unique(self.place[np.concatenate(texts)], return_inverse=True)
        counts = np.bincount(owners * len(words) + places, minlength=len(texts) * len(words))
        return counts.reshape(len(texts), len(words)).astype(np.float32) @ self.vectors[words]


class Asked:
    """The suite's rows, embedded by a thread of its own while something else goes on."""

    def __init__(self, embedder: Embedder, inputs: Sequence[str]) -> None:
        count = len(inputs) if len(inputs) <= WHOLE_SUITE else NULL_ROWS
        self.embedder, self.inputs = embedder, inputs
        self.rows = np.linspace(0, len(inputs) - 1, count).round().astype(int)
        tokens = embedder.tokens([inputs[i] for i in self.rows])
        self._pool = ThreadPoolExecutor(1)
        self._first = self._pool.submit(embedder.embed, tokens, lambda _: None, threads=1)
        self._pool.shutdown(wait=False)

    def tokens_besides(self, rows: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
        """Of these, the rows that are still to be embedded, and their tokens."""
        rows = np.setdiff1d(rows, self.rows)
        return rows, self.embedder.tokens([self.inputs[i] for i in rows])

    def first(self) -> np.ndarray:
        """Vectors of `rows`."""
        return self._first.result()


@dataclass
class Search:
    """Paraphrases among training rows. `texts` are their prompts as word ids."""

    suite: Suite
    prompts: Sequence[str]
    texts: Sequence[np.ndarray]
    figures: Sequence[frozenset[str]]
    vocabulary: Words
    given: Asked

    def __post_init__(self) -> None:
        counts = np.zeros(len(self.vocabulary), np.int64)
        asked = [np.array(words, np.int32) for words in self.suite.words]
        for text in (*asked, *self.texts):
            counts[np.unique(text)] += 1
        self.static = Static(self.given.embedder, self.vocabulary, counts, len(self.texts) + len(asked))
        self.numbers = Figures(self.suite.numbers, self.figures)
        sample = range(0, len(self.texts), max(1, len(self.texts) // HUB_ROWS))
        self.static.mean = units(
            np.concatenate([self.static.of([self.texts[i] for i in sample]), self.static.of(asked)])
        ).mean(0)
        self.asked = self.static.of(asked)
        # What is near to everything is no sign of a leak: how near, is taken off.
        near = self._rough([self.texts[i] for i in sample], [self.figures[i] for i in sample])
        top = max(5, round(HUB_SHARE * len(near)))
        self.hub = np.sort(near, axis=0)[-top:].mean(0)

    def _rough(self, texts: Sequence[np.ndarray], figures: Sequence[frozenset[str]]) -> np.ndarray:
        return self.static.of(texts) @ self.asked.T + NUMBERS_FIRST * self.numbers.similarity(figures)

    def candidates(self, told: Callable[[int], None]) -> np.ndarray:
        """The rows that come nearest to a suite row, as many as may be embedded."""
        best = np.zeros(len(self.texts), np.float32)
        for start in range(0, len(best), CHUNK):
            chunk = slice(start, start + CHUNK)
            best[chunk] = (self._rough(self.texts[chunk], self.figures[chunk]) - self.hub).max(1)
            told(min(start + CHUNK, len(best)))
        order = np.argsort(-best, kind="stable")
        order = order[: max(FEWEST_CANDIDATES, round(CANDIDATE_SHARE * len(order)))]
        tokens = np.cumsum([min(LONGEST, 2 + 1.3 * len(self.texts[i])) for i in order])
        return order[: max(1, int(np.searchsorted(tokens, CANDIDATE_TOKENS)))]

    def partners(self, texts: Sequence[np.ndarray], figures: Sequence[frozenset[str]]) -> np.ndarray:
        """The suite rows that each text comes nearest to, nearest first."""
        rough = self._rough(texts, figures) - self.hub
        return np.argsort(-rough, axis=1, kind="stable")[:, :PARTNERS]

    def run(self, rate: float, told: Told) -> tuple[list[Pair], dict[str, Any]]:
        """Pairs above the threshold, by place in `texts`, and how it was set."""
        chosen = self.candidates(told("rows compared roughly", len(self.texts)))
        figures = [self.figures[i] for i in chosen]
        near = self.partners([self.texts[i] for i in chosen], figures)
        more, tokens = self.given.tokens_besides(np.concatenate([near.ravel(), self._near_own()]))
        tokens += self.given.embedder.tokens([self.prompts[i] for i in chosen])
        vectors = self.given.embedder.embed(tokens, told("texts embedded", len(tokens)))
        needed = np.concatenate([self.given.rows, more])
        suite, train = np.concatenate([self.given.first(), vectors[: len(more)]]), vectors[len(more) :]
        null = self._nearest_others(suite, needed)
        if len(null) < FEWEST_NULL_ROWS:
            why = (
                f"{len(null)} rows of the suite are fewer than the {FEWEST_NULL_ROWS} that a threshold takes"
            )
            return [], {"looked_for": False, "why": why}
        threshold = threshold_of(null, rate)
        scores = train @ suite.T + NUMBERS_THEN * self.numbers.similarity(figures)[:, needed]
        pairs = [
            Pair("paraphrase", float(scores[at].max()), int(row), int(needed[scores[at].argmax()]))
            for at, row in enumerate(chosen)
            if scores[at].max() >= threshold
        ]
        facts: dict[str, Any] = {
            "threshold": round(threshold, 4),
            "rate": rate,
            "candidates": len(chosen),
            "nearest_in_suite": round(float(np.median(null)), 4),
            # Of how many suite rows an ordinary paraphrase would pass.
            "reach": round(float((ORDINARY + NUMBERS_THEN * self.numbers.own() > threshold).mean()), 4),
        }
        if facts["reach"] < HALF:
            facts["why"] = (
                "rows of the suite are as near to each other as paraphrases are: none stops a launch"
            )
        return pairs, {"looked_for": True, **facts}

    def _near_own(self) -> np.ndarray:
        """The rows that come nearest to those of `given`, if these are not all."""
        rows = self.given.rows
        if len(rows) == len(self.asked):
            return rows[:0]
        rough = self.asked[rows] @ self.asked.T
        rough += NUMBERS_FIRST * self.numbers.similarity([self.suite.numbers[i] for i in rows])
        return np.argsort(-(rough - self.hub), axis=1, kind="stable")[:, : PARTNERS + 1].ravel()

    def _nearest_others(self, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How near each row of `given` is to the nearest of `rows` that is not the same text."""
        own = self.given.rows
        scores = vectors[: len(own)] @ vectors.T
        scores += NUMBERS_THEN * self.numbers.similarity([self.suite.numbers[i] for i in own])[:, rows]
        texts = np.array([self.suite.copies.get(self.suite.plain[i], -1) for i in rows])
        scores[texts[: len(own), None] == texts] = -np.inf
        nearest = scores.max(1)
        return nearest[np.isfinite(nearest)]


def threshold_of(null: np.ndarray, rate: float) -> float:
    """The score that clean rows reach at `rate`, from how near each distinct row is to its nearest other.

    A normal tail through the median and the 95th percentile: what few duplicates the suite holds itself do
    not move it.
    """
    middle, high = float(np.median(null)), float(np.quantile(null, 0.95))
    normal = NormalDist()
    return max(LOWEST_THRESHOLD, middle + (high - middle) * normal.inv_cdf(1 - rate) / normal.inv_cdf(0.95))


# --- the whole ------------------------------------------------------------------------------


class Progress:
    """A step's progress, at most twice a second."""

    def __init__(self, unit: str, total: int) -> None:
        self.unit, self.total, self.last = unit, total, 0.0

    def __call__(self, done: int) -> None:
        if (now := time.monotonic()) - self.last > 0.5 or done == self.total:
            self.last = now
            emit("progress", done=done, total=self.total, unit=self.unit)


def check(spec: Mapping[str, Any], told: Told) -> tuple[list[Row], Suite, list[Pair], dict[str, Any]]:
    """Training rows, suite, the strongest pair of each training row, and what was done about paraphrases."""
    inputs = {name: Path(path) for name, path in spec["inputs"].items()}
    vocabulary = Words()
    suite = read_suite(inputs["suite"], vocabulary)
    given: Asked | None = None
    facts: dict[str, Any] = {"looked_for": False, "why": "no embedder was given"}
    if "embedder" in inputs:
        try:
            given = Asked(Embedder(inputs["embedder"]), suite.inputs)
        except Unsuitable as error:
            facts["why"] = str(error)
    rows = [read_row(line, row) for line, row in read_lines(inputs["dataset"])]
    runs, near = Runs(suite), Near(suite.plain)
    pairs: list[Pair] = []
    prompts: list[np.ndarray] = []
    figures: list[frozenset[str]] = []
    progress = told("rows compared word by word", len(rows))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        plain = [{text: normalise(text) for text in {row.prompt, *row.texts}} for row in chunk]
        slots = near.slots([texts[row.prompt] for row, texts in zip(chunk, plain, strict=True)])
        words: list[int] = []
        owners: list[int] = []
        sizes: list[int] = []
        for number, (row, texts, grams) in enumerate(zip(chunk, plain, slots, strict=True), start):
            asked = texts[row.prompt].split(" ")
            encoded = {row.prompt: vocabulary.encode(asked)}
            prompts.append(np.array(encoded[row.prompt], np.int32))
            figures.append(numbers(row.prompt, asked))
            if (copied := copy_in(row, texts, suite)) is not None:
                pairs.append(Pair("copy", 1.0, number, copied))
                continue
            if (alike := near.of(texts[row.prompt], grams)) is not None:
                pairs.append(Pair("near", alike[1], number, alike[0]))
            for text in row.texts:
                ids = encoded.get(text) or vocabulary.encode(texts[text].split(" "))
                words += ids
                words.append(0)
                owners.append(number)
                sizes.append(len(ids))
        lengths = np.array(sizes, np.int64) + 1
        runs.look(np.array(words, np.int64), np.repeat(owners, lengths), np.repeat(sizes, lengths))
        progress(min(start + CHUNK, len(rows)))
    pairs += runs.pairs(rows)
    if given is not None:
        known = {pair.row for pair in pairs}
        found, facts = paraphrases(spec, rows, suite, prompts, figures, vocabulary, given, known, told)
        pairs += found
    return rows, suite, strongest(pairs), facts


def paraphrases(
    spec: Mapping[str, Any],
    rows: Sequence[Row],
    suite: Suite,
    prompts: Sequence[np.ndarray],
    figures: Sequence[frozenset[str]],
    vocabulary: Words,
    given: Asked,
    known: set[int],
    told: Told,
) -> tuple[list[Pair], dict[str, Any]]:
    """Among rows that were not recognised yet; of equal prompts one is looked at."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if place not in known and row.prompt.strip():
            places[row.prompt].append(place)
    first = [each[0] for each in places.values()]
    if not first:
        return [], {"looked_for": True, "candidates": 0}
    search = Search(
        suite,
        [rows[i].prompt for i in first],
        [prompts[i] for i in first],
        [figures[i] for i in first],
        vocabulary,
        given,
    )
    rate = min(HIGHEST_RATE, max(LOWEST_RATE, spec.get("false_alarms", 0.1) / len(first)))
    found, facts = search.run(rate, told)
    every = [
        Pair(pair.kind, pair.score, place, pair.suite)
        for pair in found
        for place in places[rows[first[pair.row]].prompt]
    ]
    return every, facts


def copy_in(row: Row, plain: Mapping[str, str], suite: Suite) -> int | None:
    """The suite row whose input is the prompt, or another text of at least five words."""
    asked = suite.copies.get(plain[row.prompt])
    if asked is not None:
        return asked
    long = (plain[text] for text in row.texts if plain[text].count(" ") >= PIECE - 1)
    return next((suite.copies[text] for text in long if text in suite.copies), None)


def strongest(pairs: Iterable[Pair]) -> list[Pair]:
    best: dict[int, Pair] = {}
    for pair in sorted(pairs, key=lambda pair: pair.rank):
        best.setdefault(pair.row, pair)
    return sorted(best.values(), key=lambda pair: (*pair.rank, pair.row))


# --- telling --------------------------------------------------------------------------------


def described(
    pair: Pair, rows: Sequence[Row], suite: Suite, accepted: set[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    row = rows[pair.row]
    return {
        "kind": pair.kind,
        "score": round(pair.score, 4),
        "line": row.line,
        "row": suite.ids[pair.suite],
        "train": row.prompt or row.answer,
        "answer": row.answer,
        "suite": suite.inputs[pair.suite],
        "accepted": suite.ids[pair.suite] in accepted,
        "stops": suite.ids[pair.suite] not in accepted
        and (pair.kind != "paraphrase" or facts["reach"] >= HALF),
    }


def as_markdown(found: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    head = ["line", "suite row", "how", "score", "training row", "row of the suite"]
    lines = [f"| {' | '.join(head)} |", "| ---: | --- | --- | ---: | --- | --- |"]
    for pair in found:
        noted = ", accepted" if pair["accepted"] else "" if pair["stops"] else ", told only"
        how = KINDS[pair["kind"]] + noted
        cells = [str(pair["line"]), pair["row"], how, f"{pair['score']:.2f}", pair["train"], pair["suite"]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    said = "looked for" if facts["looked_for"] else "not looked for"
    why = f": {facts['why']}" if "why" in facts else ""
    return "\n".join([*lines, "", f"Paraphrases were {said}{why}.", ""])


def shown(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 120 else text[:119] + "…")


def main(spec_path: Path, out: Path) -> int:
    started = time.monotonic()
    sys.setswitchinterval(2e-4)  # the thread that embeds wants the interpreter often, and briefly
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    rows, suite, pairs, facts = check(spec, Progress)
    accepted = set(spec.get("accept", []))
    found = [described(pair, rows, suite, accepted, facts) for pair in pairs]
    leaks = [pair for pair in found if pair["stops"]]
    lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in found)
    (out / "leaks.jsonl").write_text(lines, encoding="utf-8")
    (out / "leaks.md").write_text(as_markdown(found, facts), encoding="utf-8")
    if leaks and spec.get("stop", True):
        first = "; ".join(
            f"line {each['line']} and suite row {each['row']!r} ({KINDS[each['kind']]}):"
            f" {shown(each['train'])}" + ("" if each["kind"] == "copy" else f" and {shown(each['suite'])}")
            for each in leaks[:SHOWN]
        )
        rest = f"; and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
        emit(
            "error",
            message=f"{len(leaks)} of {len(rows)} rows leak from the suite: {first}{rest}",
            hint="Take these rows out and check again, or accept their suite rows by id."
            f" All of them: {out / 'leaks.md'}",
        )
        return 2
    result = {
        "rows": len(rows),
        "suite_rows": len(suite.ids),
        "leaks": len(leaks),
        "accepted": sorted({pair["row"] for pair in found if pair["accepted"]}),
        "kinds": {kind: count for kind in KINDS if (count := sum(pair["kind"] == kind for pair in found))},
        "paraphrases": facts,
        "seconds": round(time.monotonic() - started, 2),
    }
    part = out / "leaks.tmp"
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(out / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
