"""Which way of chunking finds what questions ask for: each is ingested, asked and dropped again.

Two kinds of judgments. Grades of documents (BEIR's layout): a question scores nDCG@10, with gain
2^grade - 1, a document counting with its best chunk. Right passages (JSONL of ``{question, passage}``, with
``document`` where it is known): a question scores the share of the passage's words that are in what is
found, best first, until `BUDGET` words of context are full: the same for long and for short chunks.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chunks import WORD
from failures import Refused
from retriever import Retriever

DEPTH = 10
BUDGET = 1000  # words of context


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    text: str
    grades: dict[str, int] = field(default_factory=dict)  # by the id of a row
    passage: str = ""
    document: str = ""


def beir_questions(folder: Path) -> list[Question]:
    """Those of the judged split: test, else dev, else train, else whichever there is."""
    files = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    if not files:
        raise Refused(f"{folder}/qrels has no *.tsv", "name a folder in BEIR's layout")
    path = files[next((split for split in ("test", "dev", "train") if split in files), next(iter(files)))]
    grades: dict[str, dict[str, int]] = {}
    for line in path.read_text("utf-8").splitlines():
        cells = line.split("\t")
        if len(cells) >= 3 and cells[-1].strip().lstrip("-").isdigit():
            grades.setdefault(cells[0], {})[cells[-2]] = int(cells[-1])
    asked = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines() if line]
    return [
        Question(row["_id"], row["text"], grades[row["_id"]])
        for row in asked
        if max(grades.get(row["_id"], {}).values(), default=0) > 0
    ]


def passage_questions(path: Path) -> list[Question]:
    found: list[Question] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question = Question(str(number), row["question"], {}, row["passage"], row.get("document", ""))
        except (ValueError, KeyError, TypeError):
            hint = 'write {"question": "…", "passage": "…"} a line, with "document" where it is known'
            raise Refused(f"{path}, line {number}: no question with its passage", hint) from None
        found.append(question)
    return found


def measure(
    retriever: Retriever,
    questions: Sequence[Question],
    ingest: Callable[[str], dict[str, Any]],
    told: Callable[[int], None],
) -> dict[str, Any]:
    """Scores by question, and what the index takes. The collection is of this measurement alone."""
    collection = f"compare-{secrets.token_hex(4)}"
    try:
        result = ingest(collection)
        scores: dict[str, float] = {}
        began = time.monotonic()
        for number, question in enumerate(questions):
            told(number)
            ask = {"collection": collection, "query": question.text[:10_000]}
            many = {"k": DEPTH, "per_document": 1} if question.grades else {"k": 50}
            hits = retriever.post("/search", ask | many)["hits"]
            scores[question.id] = round(ndcg(hits, question) if question.grades else held(hits, question), 4)
        milliseconds = 1000 * (time.monotonic() - began) / max(len(questions), 1)
    finally:
        retriever.post("/drop", {"collection": collection})
    taken = {name: result[name] for name in ("chunks", "seconds", "documents_per_s")}
    return {**taken, "search_ms": round(milliseconds, 1), "scores": scores}


def ndcg(hits: Sequence[Mapping[str, Any]], question: Question) -> float:
    """nDCG@10 of documents, which are rows called FILE#ID."""
    found = [question.grades.get(hit["document"].partition("corpus.jsonl#")[2], 0) for hit in hits]
    best = gain(sorted(question.grades.values(), reverse=True))
    return gain(found) / best if best else 0.0


def gain(grades: Sequence[int]) -> float:
    return sum((2 ** max(grade, 0) - 1) / math.log2(at + 2) for at, grade in enumerate(grades[:DEPTH]))


def held(hits: Sequence[Mapping[str, Any]], question: Question) -> float:
    """The share of the right passage's words in the context, of the right document if it is known."""
    wanted, found, room = set(words(question.passage)), set[str](), BUDGET
    for hit in hits:
        inside = words(hit["text"])
        if not question.document or hit["document"].endswith(question.document):
            found |= wanted.intersection(inside[:room])
        room -= len(inside)
        if room <= 0:
            break
    return len(found) / len(wanted) if wanted else 0.0


def words(text: str) -> list[str]:
    return [word.strip(".,;:!?()[]\"'").lower() for word in WORD.findall(text)]
