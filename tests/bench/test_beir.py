"""agentd/bench/beir.py: collections are read or refused by line, and rankings measured as the field does."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from agentd.bench.beir import Collection, measures, mrr, ndcg, read_collection, recall
from agentd.errors import DataError

GRADES = {"a": 3, "b": 0, "c": 1, "d": 2}


def collection_in(folder: Path, qrels: str = "q1\td1\t2\nq1\td2\t0\n", split: str = "test") -> Path:
    (folder / "qrels").mkdir(exist_ok=True)
    corpus = [{"_id": "d1", "title": "One", "text": "first"}, {"_id": "d2", "text": "second"}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "two?"}\n')
    (folder / f"qrels/{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
    return folder


def test_gain_is_exponential_and_the_ideal_is_that_of_the_judgments() -> None:
    ideal = 7 + 3 / math.log2(3) + 1 / 2
    assert ndcg(["a", "d", "c"], GRADES, 10) == pytest.approx(1)
    assert ndcg(["b", "c", "a"], GRADES, 10) == pytest.approx((1 / math.log2(3) + 7 / 2) / ideal)
    assert ndcg(["x", "a"], GRADES, 1) == 0


def test_recall_counts_what_is_relevant_and_mrr_the_first_of_it() -> None:
    assert recall(["b", "a", "x", "c"], GRADES, 3) == pytest.approx(1 / 3)
    assert mrr(["b", "x", "c"], GRADES) == pytest.approx(1 / 3)
    assert mrr(["b"], GRADES) == 0


def test_a_query_without_a_ranking_counts_as_nothing_found() -> None:
    collection = Collection("c", "test", {}, {"q1": "", "q2": ""}, {"q1": {"a": 1}, "q2": {"a": 1}})
    assert measures(collection, {"q1": ["a"]}) == {"ndcg@10": 0.5, "recall@100": 0.5, "mrr": 0.5}


def test_a_collection_holds_the_queries_that_were_judged_and_prefers_the_test_split(tmp_path: Path) -> None:
    collection_in(tmp_path, "q2\td2\t1\n", split="train")
    read = read_collection(collection_in(tmp_path))
    assert read.queries == {"q1": "one?"}
    assert read.documents == {"d1": ("One", "first"), "d2": ("", "second")}
    assert (read.split, read.grades) == ("test", {"q1": {"d1": 2, "d2": 0}})


def test_what_is_wrong_is_named_by_file_line_and_field(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus\.jsonl: there is no such file"):
        read_collection(tmp_path / "none")
    folder = collection_in(tmp_path, "q1\td1\tgood\n")
    with pytest.raises(DataError, match=r"test\.tsv:2: not query, document and a whole number"):
        read_collection(folder)
    collection_in(tmp_path, "q9\td1\t1\n")
    with pytest.raises(DataError, match=r"judges no query"):
        read_collection(folder)
    (folder / "corpus.jsonl").write_text('{"_id": 1, "text": "x"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: _id: is missing, or no text"):
        read_collection(folder)
