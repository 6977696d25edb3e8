# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "llama-index-core==0.14.25",
#   "llama-index-embeddings-huggingface==0.8.0",
#   "llama-index-retrievers-bm25==0.8.0",
#   "sentence-transformers==6.2.0",
#   "torch==2.13.0",
#   "transformers==5.23.0",
# ]
# ///
"""Rank documents by LlamaIndex with the same embedder: its hybrid search, by its defaults.

    python -P rank_by_llamaindex.py SPEC OUT

The spec: ``inputs.embedder`` (folder), ``inputs.texts`` and ``inputs.queries`` (JSON lists of texts),
``depth``. The result: ``{documents_per_s, chunks, p50_ms, p95_ms, rankings}``, for each query at most `depth`
indexes of texts, best first. Documents a second are from a text to its place in both indexes.

That is SentenceSplitter, VectorStoreIndex in memory, BM25Retriever (bm25s) and QueryFusionRetriever by
reciprocal ranks, without a model that rewrites queries. Nothing is kept on disk.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def index_of(texts: Sequence[str], embedder: str, depth: int) -> tuple[Any, int]:
    """The fused retriever, and of how many chunks."""
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.llms import MockLLM
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.retrievers.bm25 import BM25Retriever

    documents = [Document(text=text, id_=str(number)) for number, text in enumerate(texts) if text]
    nodes = SentenceSplitter().get_nodes_from_documents(documents)
    model = HuggingFaceEmbedding(model_name=embedder, embed_batch_size=32)
    index = VectorStoreIndex(nodes, embed_model=model)
    most = min(2 * depth, len(nodes))
    pair = [
        index.as_retriever(similarity_top_k=most),
        BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=most),
    ]
    fused = QueryFusionRetriever(
        pair,
        llm=MockLLM(),  # of which one query asks nothing
        similarity_top_k=most,
        num_queries=1,
        mode="reciprocal_rerank",
        use_async=False,
    )
    return fused, len(nodes)


def main(spec_path: str, out: str) -> int:
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    given = (Path(spec["inputs"][name]) for name in ("texts", "queries"))
    texts, queries = (json.loads(path.read_text(encoding="utf-8")) for path in given)
    index_of(texts[:8], spec["inputs"]["embedder"], spec["depth"])  # what is imported and loaded once
    began = time.perf_counter()
    retriever, chunks = index_of(texts, spec["inputs"]["embedder"], spec["depth"])
    pace = len(texts) / (time.perf_counter() - began)
    rankings: list[list[int]] = []
    seconds: list[float] = []
    for query in queries:
        began = time.perf_counter()
        found = retriever.retrieve(query)
        seconds.append(time.perf_counter() - began)
        named = dict.fromkeys(int(hit.node.ref_doc_id) for hit in found)
        rankings.append(list(named)[: spec["depth"]])
    result = {
        "documents_per_s": pace,
        "chunks": chunks,
        "p50_ms": 1000 * statistics.median(seconds),
        "p95_ms": 1000 * statistics.quantiles(seconds, n=20)[18],
        "rankings": rankings,
    }
    partial = Path(out, "result.json.tmp")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(Path(out, "result.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
