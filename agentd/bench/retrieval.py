"""Quality and pace of retrieval on BEIR collections, beside plain rank fusion on whole documents.

The shipped ingest reads ``corpus.jsonl`` as it is, a document a row, and the shipped retriever indexes and
searches it, over HTTP and with their defaults: the same for every collection. The baseline ranks whole
documents by the same embedder and by Okapi's BM25, and joins both by reciprocal ranks; it also says how many
documents a second the bare embedder does.

nDCG@10 (gain 2^grade - 1), recall@100 and MRR are means over the judged queries. `p50_ms` and `p95_ms` are
of searches for ten passages by one client, each query for the first time: its embedding is part of it.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.bench.beir import Collection, measures, read_collection
from agentd.bench.leaks import brought_embedder, interpreter_of
from agentd.bench.retriever_process import TOKEN_ENV, Retriever, recipe_result, retriever
from agentd.errors import InputError
from agentd.plugins import Plugins, bundled_root

__all__ = ["run"]

DEPTH = 100
STAGES: dict[str, dict[str, Any]] = {  # what each stage adds, on the index of passages
    "dense": {"mode": "dense"},
    "bm25": {"mode": "bm25"},
    "rrf": {"fusion": "rrf"},
    "minmax": {"diffusion": False},
    "minmax, feedback": {"diffusion": False, "feedback": True},
    "minmax, diffusion": {},
    "minmax, feedback, diffusion": {"feedback": True},
    "default, diversity 0.2": {"diversity": 0.2},
}
HERE = Path(__file__).parent


def run(beir: Sequence[Path] = (), stages: bool = False, peer: bool = False) -> dict[str, Any]:
    """One folder: its figures and the baseline's. Several: a row each, and the mean gain over rank fusion.

    With `stages`, nDCG@10 and recall@100 of each stage of the search too, on the same index; with `peer`,
    LlamaIndex beside it, on the same texts with the same embedder.
    """
    if not beir:
        raise InputError("bench retrieval needs --beir FOLDER", hint="a folder in BEIR's layout")
    collections = [read_collection(folder) for folder in beir]
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder:
        embedder = brought_embedder(Path(folder))
        ways = STAGES if stages else {}
        pairs = zip(collections, beir, strict=True)
        found = [
            _figures(each, source, embedder, Path(folder) / str(n), ways, peer)
            for n, (each, source) in enumerate(pairs)
        ]
    rows, added = [row for row, _ in found], [line for _, lines in found for line in lines]
    more = {"stages": added} if stages else {}
    if len(rows) == 1:
        return rows[0] | more
    return {
        "collections": rows,
        **more,
        "ndcg@10": round(statistics.fmean(row["ndcg@10"] for row in rows), 4),
        "mean gain": round(statistics.fmean(row["gain"] for row in rows), 4),
        "least gain": min(row["gain"] for row in rows),
    }


def _figures(
    collection: Collection,
    source: Path,
    embedder: Path,
    folder: Path,
    ways: Mapping[str, dict[str, Any]],
    peer: bool,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    threads = len(os.sched_getaffinity(0))
    plain, pace = _baseline(collection, embedder, folder / "plain")
    with retriever(embedder, folder / "service", threads) as service:
        ingested = service.ingest(source.resolve() / "corpus.jsonl", "bench", folder / "ingest")
        rankings, seconds = _searched(service, collection)
        memory = service.memory_bytes()
        lines = [_stage(service, collection, way, options) for way, options in ways.items()]
        if ways:
            lines += [
                _reworded(service, collection),
                _learned(service, collection, source, folder / "learned"),
            ]
    beside = _peer(collection, folder / "plain", folder / "peer") if peer else {}
    found, baseline = measures(collection, rankings), plain["rrf"]
    row = {
        "collection": collection.name,
        **{name: round(value, 4) for name, value in found.items()},
        "p50_ms": round(statistics.median(seconds) * 1000, 2),
        "p95_ms": round(statistics.quantiles(seconds, n=20)[18] * 1000, 2),
        "ingest_docs_per_s": round(ingested["documents_per_s"], 2),
        "chunks": ingested["chunks"],
        "gain": round(found["ndcg@10"] / baseline["ndcg@10"] - 1, 4),
        **{f"{name} ndcg@10": round(row["ndcg@10"], 4) for name, row in plain.items()},
        "rrf recall@100": round(baseline["recall@100"], 4),
        "bare_docs_per_s": round(pace, 2),
        "memory_mb": round(memory / 1e6),
        "documents": len(collection.documents),
        "queries": len(collection.queries),
        "split": collection.split,
        **beside,
    }
    return row, lines


def _stage(
    service: Retriever,
    collection: Collection,
    way: str,
    options: dict[str, Any],
    by_query: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measures of all queries by one way to search; `by_query` has more options by the text of a query."""
    more = by_query or {}
    ask = {"collection": "bench", "k": DEPTH, "per_document": 1, **options}
    began = time.perf_counter()
    rankings = {
        query: [
            _row(hit) for hit in service.post("/search", ask | {"query": text, **more.get(text, {})})["hits"]
        ]
        for query, text in collection.queries.items()
    }
    seconds = (time.perf_counter() - began) / len(collection.queries)
    found = measures(collection, rankings)
    return {
        "collection": collection.name,
        "stages": way,
        "ndcg@10": round(found["ndcg@10"], 4),
        "recall@100": round(found["recall@100"], 4),
        "ms": round(seconds * 1000, 2),
    }


def _reworded(service: Retriever, collection: Collection) -> dict[str, Any]:
    """Several wordings of each query, by rules."""
    by_rules = Plugins((bundled_root(),)).module("tools", "rewriting").by_rules
    others = {text: {"rewrites": by_rules(text)} for text in collection.queries.values()}
    return _stage(service, collection, "default, several wordings", {}, others)


def _learned(service: Retriever, collection: Collection, source: Path, folder: Path) -> dict[str, Any]:
    """A ranking learned from the judgments themselves, on questions held out of its fit; not kept."""
    verdict = bundled_root() / "tools/verdict.py"
    asked = {"inputs": {"judgments": str(source), "verdict": str(verdict)}, "collection": "bench"}
    spec = {**asked, "services": {"retriever": {"url": service.url, "token_env": TOKEN_ENV}}}
    recipe, python = bundled_root() / "tools/recipes/learn_ranking.py", interpreter_of("learn_ranking")
    found = recipe_result(recipe, python, spec, folder, {TOKEN_ENV: service.token})
    row = _stage(service, collection, "default, learned", {}) if found["kept"] else {}
    service.post("/ranking", {"collection": "bench"})
    told = {name: found[name] for name in ("before", "after", "low", "high", "kept")}
    return {"collection": collection.name, "stages": "default, learned", **told, "ms": row.get("ms")}


def _peer(collection: Collection, texts: Path, folder: Path) -> dict[str, Any]:
    """LlamaIndex's quality and pace, from the files that the baseline was given."""
    inputs = {name: str(texts / f"{name}.json") for name in ("texts", "queries")}
    spec = {"inputs": {**inputs, "embedder": str(_embedder_of(texts))}, "depth": DEPTH}
    recipe = HERE / "root/tools/recipes/rank_by_llamaindex.py"
    found = recipe_result(recipe, interpreter_of("rank_by_llamaindex"), spec, folder)
    ids = list(collection.documents)
    named = _named(collection, ([ids[index] for index in one] for one in found["rankings"]))
    measured = measures(collection, named)
    figures = {**{name: round(value, 4) for name, value in measured.items()}, "chunks": found["chunks"]}
    pace = {"p50_ms": "p50_ms", "p95_ms": "p95_ms", "documents_per_s": "ingest_docs_per_s"}
    figures |= {name: round(found[key], 2) for key, name in pace.items()}
    return {f"llamaindex {name}": value for name, value in figures.items()}


def _embedder_of(texts: Path) -> Path:
    return Path(json.loads((texts / "spec.json").read_text("utf-8"))["inputs"]["embedder"])


def _baseline(
    collection: Collection, embedder: Path, folder: Path
) -> tuple[dict[str, dict[str, float]], float]:
    """Measures of whole documents by dense, bm25 and rrf; and documents per second of the bare embedder."""
    folder.mkdir(parents=True)
    texts = [f"{title}\n{text}".strip() for title, text in collection.documents.values()]
    for name, value in (("texts", texts), ("queries", list(collection.queries.values()))):
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    inputs = {name: str(folder / f"{name}.json") for name in ("texts", "queries")}
    spec = {"inputs": inputs | {"embedder": str(embedder)}, "depth": DEPTH}
    recipe = HERE / "root/tools/recipes/rank_plainly.py"
    found = recipe_result(recipe, interpreter_of("rank_plainly"), spec, folder)
    ids = list(collection.documents)
    plain = {
        name: measures(collection, _named(collection, ([ids[index] for index in one] for one in rankings)))
        for name, rankings in found["rankings"].items()
    }
    return plain, found["documents_per_s"]


def _named(collection: Collection, rankings: Iterable[Sequence[str]]) -> dict[str, Sequence[str]]:
    return dict(zip(collection.queries, rankings, strict=True))


def _row(hit: Mapping[str, Any]) -> str:
    """The id of the row that a hit is of: documents are called FILE#ID."""
    return hit["document"].partition("corpus.jsonl#")[2]


def _searched(service: Retriever, collection: Collection) -> tuple[dict[str, list[str]], list[float]]:
    """Documents by query, best first, and the seconds that ten passages took."""
    rankings: dict[str, list[str]] = {}
    seconds: list[float] = []
    for query, text in collection.queries.items():
        began = time.perf_counter()
        service.post("/search", {"collection": "bench", "query": text})
        seconds.append(time.perf_counter() - began)
        ask = {"collection": "bench", "query": text, "k": DEPTH, "per_document": 1}
        rankings[query] = [_row(hit) for hit in service.post("/search", ask)["hits"]]
    return rankings, seconds
