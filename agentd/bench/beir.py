"""A test collection for retrieval in BEIR's layout, and how well rankings answer its queries.

``corpus.jsonl`` ({_id, title, text}), ``queries.jsonl`` ({_id, text}) and ``qrels/SPLIT.tsv`` (query-id,
corpus-id, score, under a header).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.errors import DataError

__all__ = ["Collection", "measures", "mrr", "ndcg", "read_collection", "recall"]

SPLITS = ("test", "dev", "train")


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents as (title, text), queries that were judged, and grades: relevance by query and document."""

    name: str
    split: str
    documents: dict[str, tuple[str, str]]
    queries: dict[str, str]
    grades: dict[str, dict[str, int]]


def read_collection(folder: Path) -> Collection:
    """The judgments of the test split, or else of dev or train, or else of whichever file there is.

    Raises `DataError` with path, line and field where a file is not what it should be.
    """
    documents = {
        row["_id"]: (row.get("title") or "", row["text"]) for row in _rows(folder / "corpus.jsonl", "text")
    }
    path = _judgments(folder)
    grades: dict[str, dict[str, int]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        cells = line.split("\t")
        if number == 1 and not cells[-1].strip().lstrip("-").isdigit():
            continue  # the header
        try:
            query, document, grade = cells[0], cells[-2], int(cells[-1])
        except (ValueError, IndexError):
            raise DataError(path, "not query, document and a whole number, by tabs", line=number) from None
        grades.setdefault(query, {})[document] = grade
    asked = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl", "text")}
    judged = {query for query, found in grades.items() if max(found.values()) > 0}
    queries = {query: text for query, text in asked.items() if query in judged}
    if not queries:
        raise DataError(
            path, "judges no query of queries.jsonl", hint="see whether both are of one collection"
        )
    return Collection(folder.resolve().name, path.stem, documents, queries, grades)


def _judgments(folder: Path) -> Path:
    files = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    if not files:
        raise DataError(folder / "qrels", "no *.tsv in it", hint="name a folder in BEIR's layout")
    return files[next((split for split in SPLITS if split in files), next(iter(files)))]


def _rows(path: Path, field: str) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DataError(path, "there is no such file", hint="name a folder in BEIR's layout")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                raise DataError(path, "not JSON", line=number) from None
            for name in ("_id", field):
                if not isinstance(row, dict) or not isinstance(row.get(name), str):
                    raise DataError(path, "is missing, or no text", line=number, field=name)
            yield row


def measures(collection: Collection, rankings: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """nDCG@10, recall@100 and MRR, means over the queries; a query without a ranking counts as 0."""
    found = [(rankings.get(query, ()), collection.grades[query]) for query in collection.queries]
    return {
        "ndcg@10": sum(ndcg(ranking, grades, 10) for ranking, grades in found) / len(found),
        "recall@100": sum(recall(ranking, grades, 100) for ranking, grades in found) / len(found),
        "mrr": sum(mrr(ranking, grades) for ranking, grades in found) / len(found),
    }


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Normalised discounted cumulative gain with gain 2^grade - 1 (Burges et al. 2005)."""

    def dcg(ordered: Sequence[int]) -> float:
        return sum((2 ** max(grade, 0) - 1) / math.log2(at + 2) for at, grade in enumerate(ordered[:k]))

    ideal = dcg(sorted(grades.values(), reverse=True))
    return dcg([grades.get(document, 0) for document in ranking]) / ideal if ideal else 0.0


def recall(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """The share of the relevant documents (grade above 0) that is among the first `k`."""
    relevant = {document for document, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def mrr(ranking: Sequence[str], grades: Mapping[str, int]) -> float:
    """1 / the rank of the first relevant document; 0 if there is none."""
    ranks = (at for at, document in enumerate(ranking, start=1) if grades.get(document, 0) > 0)
    return 1 / next(ranks, math.inf)
