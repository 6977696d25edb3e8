# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "rank-bm25==0.2.2",
#   "sentence-transformers==6.2.0",
#   "snowballstemmer==3.1.1",
#   "torch==2.13.0",
#   "transformers==5.23.0",
# ]
# ///
"""Rank whole documents as is usual: an embedder, BM25, and both joined by their ranks.

    python -P rank_plainly.py SPEC OUT

The spec: ``inputs.embedder`` (folder), ``inputs.texts`` and ``inputs.queries`` (JSON lists of texts),
``depth``. The result: ``{documents_per_s, rankings: {dense, bm25, rrf}}``, each a list, by
query, of at most `depth` indexes of texts, best first.

BM25 is Okapi's (k1 = 1.5, b = 0.75) over Snowball's English stems without stopwords; reciprocal rank fusion
has k = 60. Texts longer than the embedder reads are cut off.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

STOPWORDS = (  # Lucene's
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these"
    " they this to was will with"
)


def first(scores: Any, depth: int) -> list[int]:
    return [int(index) for index in (-scores).argsort(kind="stable")[:depth]]


def by_embedder(
    folder: str, texts: Sequence[str], queries: Sequence[str], depth: int
) -> tuple[list[list[int]], float]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, local_files_only=True)
    model.encode(texts[:8])
    began = time.perf_counter()
    documents = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    seconds = time.perf_counter() - began
    asked = model.encode(queries, normalize_embeddings=True, show_progress_bar=False)
    return [first(documents @ query, depth) for query in asked], len(texts) / seconds


def by_bm25(texts: Sequence[str], queries: Sequence[str], depth: int) -> list[list[int]]:
    import snowballstemmer
    from rank_bm25 import BM25Okapi

    stemmer, stopwords = snowballstemmer.stemmer("english"), frozenset(STOPWORDS.split())

    def stems(text: str) -> list[str]:
        words = (word for word in re.findall(r"\w+", text.lower()) if word not in stopwords)
        return stemmer.stemWords(list(words))

    model = BM25Okapi([stems(text) or [""] for text in texts])
    return [first(model.get_scores(stems(query)), depth) for query in queries]


def by_ranks(rankings: Iterable[Sequence[int]], depth: int, k: int = 60) -> list[int]:
    fused: dict[int, float] = {}
    for ranking in rankings:
        for rank, index in enumerate(ranking, start=1):
            fused[index] = fused.get(index, 0.0) + 1 / (k + rank)
    return sorted(fused, key=lambda index: -fused[index])[:depth]


def main(spec_path: str, out: str) -> int:
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    given = (Path(spec["inputs"][name]) for name in ("texts", "queries"))
    texts, queries = (json.loads(path.read_text(encoding="utf-8")) for path in given)
    depth = spec["depth"]
    dense, pace = by_embedder(spec["inputs"]["embedder"], texts, queries, depth)
    sparse = by_bm25(texts, queries, depth)
    both = [by_ranks(pair, depth) for pair in zip(dense, sparse, strict=True)]
    result = {"documents_per_s": pace, "rankings": {"dense": dense, "bm25": sparse, "rrf": both}}
    partial = Path(out, "result.json.tmp")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(Path(out, "result.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
