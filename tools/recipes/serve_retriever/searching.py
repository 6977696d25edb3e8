"""Chunks for a query: by vectors, by words, and both made one ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bodies import Features, Ranking, Search
from features import NAMES
from filters import matching
from keywords import ExactKeywords
from learned import Pool, described, save
from passages import Row, hit, stems_of, with_parents
from ranking import best, diverse, fuse_rankings, fuse_ranks, fuse_scores, limited
from retriever import DEPTH, Retriever
from sieve import Sieve
from words import analyze, analyze_all

NEIGHBOURS, SHARE, POWER = 3, 0.25, 4  # of `diffused`
SIBLINGS = 5  # how many chunks of one parent may come before others
FEEDBACK, ALPHA = 3, 0.7  # Rocchio: q' = α·q + (1-α)·mean of the first FEEDBACK vectors


def search(retriever: Retriever, ask: Search) -> dict[str, Any]:
    collection = retriever.find(ask.collection)
    while True:
        generation = retriever.staging.generation(collection)
        found = given(retriever, rank(retriever, collection, ask))
        if len(found) < ask.k and any(row["parent_start"] is not None for row, _ in found):
            wider = ask.model_copy(update={"k": SIBLINGS * ask.k})  # chunks of one parent count as one
            found = given(retriever, rank(retriever, collection, wider))[: ask.k]
        if generation == retriever.staging.generation(collection):
            break  # else an ingest became whole meanwhile: a part of each is neither
    if ask.tokens:
        found = within(found, ask.tokens, retriever.embedder.tokens)
    return {"hits": [hit(row, at, score) for at, (row, score) in enumerate(found, start=1)]}


def within(
    found: Sequence[tuple[Row, float]], budget: int, count: Callable[[Sequence[str]], int]
) -> list[tuple[Row, float]]:
    """The best that fit into a budget of tokens, one that is too long left out for shorter ones after it."""
    kept: list[tuple[Row, float]] = []
    for row, score in found:
        tokens = count([row["text"]])
        if tokens <= budget:
            budget -= tokens
            kept.append((row, score))
    return kept


def given(retriever: Retriever, ranked: Sequence[tuple[int, float]]) -> list[tuple[Row, float]]:
    """What is handed out for chunks: they themselves, or their parents."""
    rows = retriever.store.chunks(chunk for chunk, _ in ranked)
    return with_parents((rows[chunk], score) for chunk, score in ranked if chunk in rows)


def rank(retriever: Retriever, collection: int, ask: Search) -> list[tuple[int, float]]:
    """At most `k` chunk ids with scores, best first."""
    ranked = candidates(retriever, collection, ask)
    if ask.per_document:
        owners = retriever.store.owners(chunk for chunk, _ in ranked)
        ranked = limited(ranked, owners, ask.per_document)
    if ask.diversity:
        ranked = diverse(ranked, retriever.vectors_of(collection), ask.k, ask.diversity)
    return ranked[: ask.k]


def candidates(retriever: Retriever, collection: int, ask: Search) -> list[tuple[int, float]]:
    """Every candidate, as chunk ids with scores, best first; of several wordings, joined by their ranks."""
    rankings = [
        candidates_of(retriever, collection, ask, wording)
        for wording in dict.fromkeys([ask.query, *ask.rewrites])
    ]
    return rankings[0] if len(rankings) == 1 else best(fuse_rankings(rankings))


def candidates_of(
    retriever: Retriever, collection: int, ask: Search, wording: str
) -> list[tuple[int, float]]:
    depth = max(DEPTH, ask.k)
    stems = analyze(wording) or analyze_all(wording)
    sieve = sieve_of(retriever, collection, ask)
    sparse = (
        sparse_scores(retriever, collection, stems, depth, ask.bm25, sieve) if ask.mode != "dense" else {}
    )
    if ask.mode == "bm25":
        return best(sparse)
    question = retriever.embedder.remembered([wording])[0]
    if ask.feedback:
        question = with_feedback(
            retriever, question, dense_scores(retriever, collection, question, FEEDBACK, sieve)
        )
    dense = dense_scores(retriever, collection, question, depth, sieve)
    if ask.mode == "dense":
        return best(dense)
    if ask.fusion == "rrf":
        return best(fuse_ranks(dense, sparse))
    found = pool(retriever, collection, question, dense, sparse, ask.diffusion)
    learned = retriever.ranking_of(collection) if ask.rerank else None
    return learned.rerank(retriever, collection, stems, found) if learned else found.ranked()


def pool(
    retriever: Retriever,
    collection: int,
    question: Any,
    dense: Mapping[int, float],
    sparse: Mapping[int, float],
    diffusion: bool,
) -> Pool:
    """Scores of every candidate that either half of the search brought."""
    chunks, vectors = retriever.vectors_of(collection).of({**dense, **sparse})
    near = dict(zip(chunks, (vectors @ question).tolist(), strict=True)) if chunks else {}
    fused = fuse_scores(near, sparse)
    scores = fused
    if diffusion and len(chunks) > NEIGHBOURS:
        scores = dict(zip(chunks, diffused([fused[chunk] for chunk in chunks], vectors), strict=True))
    return Pool(near, sparse, fused, scores)


def diffused(scores: Sequence[float], vectors: Any) -> list[float]:
    """Scores made alike among neighbours (Diaz 2005): what resembles good passages is likely good itself.

    `vectors` is float32 of shape (len(scores), dimension), of length 1. Each score becomes ``1 - SHARE`` of
    itself and `SHARE` of the mean of its `NEIGHBOURS` nearest, weighted by cosine to the power `POWER`.
    """
    import numpy as np

    own = np.array(scores, dtype=np.float32)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 0.0)
    every = np.arange(len(own))
    theirs, whole = np.zeros_like(own), np.zeros_like(own)
    for _ in range(NEIGHBOURS):  # three times the largest is faster than a partition
        nearest = cosines.argmax(axis=1)
        weights = cosines[every, nearest].clip(1e-3) ** POWER
        theirs, whole = theirs + weights * own[nearest], whole + weights
        cosines[every, nearest] = -1.0
    return ((1 - SHARE) * own + SHARE * theirs / whole).tolist()


def sieve_of(retriever: Retriever, collection: int, ask: Search) -> Sieve:
    only = matching(retriever.store, collection, ask.where) if ask.where else None
    return Sieve(only, retriever.staging.hidden(collection))


def dense_scores(
    retriever: Retriever, collection: int, question: Any, limit: int, sieve: Sieve
) -> dict[int, float]:
    from chromadb.errors import ChromaError

    if not sieve.is_open:
        return retriever.vectors_of(collection).nearest(question, limit, sieve)
    index = retriever.vectors_index(collection)
    limit = min(limit, len(retriever.vectors_of(collection)))
    if not limit:
        return {}
    try:
        found = index.query(query_embeddings=[question], n_results=limit, include=["distances"])
    except ChromaError:  # HNSW with many deletions may find too few neighbours: compare with all instead
        return retriever.vectors_of(collection).nearest(question, limit, sieve)
    return {int(c): 1 - d for c, d in zip(found["ids"][0], found["distances"][0], strict=True)}


def with_feedback(retriever: Retriever, question: Any, first: Mapping[int, float]) -> Any:
    """Rocchio's pseudo-relevance feedback on vectors."""
    import numpy as np

    vectors = list(retriever.store.chunk_vectors(first).values())
    if not vectors:
        return question
    moved = ALPHA * question + (1 - ALPHA) * np.mean(vectors, axis=0)
    return moved / np.linalg.norm(moved)


def sparse_scores(
    retriever: Retriever, collection: int, stems: Sequence[str], limit: int, kind: str, sieve: Sieve
) -> dict[int, float]:
    if kind == "tantivy":
        return retriever.keywords_index(collection).search(stems, limit, sieve)
    (row,) = retriever.store.rows("SELECT version FROM collections WHERE id = ?", collection)
    version, exact = retriever.exact.get(collection, (-1, None))
    if exact is None or version != row["version"]:
        rows = retriever.store.chunks(retriever.store.chunk_ids(collection))
        exact = ExactKeywords({chunk: stems_of(row) for chunk, row in rows.items()})
        retriever.exact[collection] = row["version"], exact
    return exact.search(stems, limit, sieve)


def features(retriever: Retriever, ask: Features) -> dict[str, Any]:
    """What is known of each of the first candidates: what a ranking is learned from."""
    collection = retriever.find(ask.collection)
    stems = analyze(ask.query) or analyze_all(ask.query)
    sieve = sieve_of(retriever, collection, Search(collection=ask.collection, query=ask.query))
    sparse = sparse_scores(retriever, collection, stems, DEPTH, "tantivy", sieve)
    question = retriever.embedder.remembered([ask.query])[0]
    dense = dense_scores(retriever, collection, question, DEPTH, sieve)
    found = pool(retriever, collection, question, dense, sparse, diffusion=True)
    _, documents, rows = described(retriever, collection, stems, found)
    return {"names": NAMES, "documents": documents, "rows": rows}


def ranking(retriever: Retriever, ask: Ranking) -> dict[str, Any]:
    """Keep a ranking that was learned, or forget it."""
    collection = retriever.find(ask.collection)
    retriever.learned[collection] = save(retriever.ranking_file(collection), ask)
    return {"kept": bool(ask.weights)}
