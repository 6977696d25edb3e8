"""Sentences that speak to a question, and how well they bear it or a claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bodies import Claims, Question, Search, Spans
from evidence import SYNONYM, asked_words, contradicts, covered, evidence, extract, fits
from passages import Row, citation, place, stems_of
from retriever import Retriever
from searching import given, rank
from sentences import sentences_of
from words import WORD, analyze


def sentences(retriever: Retriever, ask: Question) -> dict[str, Any]:
    """The sentences that speak to a question, and how well the collection covers it."""
    collection = retriever.find(ask.collection)
    query = Search(collection=ask.collection, query=ask.question, k=ask.k)
    passages = given(retriever, rank(retriever, collection, query))
    rows = {row["id"]: row for row, _ in passages}
    words_ = asked_words(ask.question)
    weights = retriever.keywords_index(collection).idf(words_)
    found = score_sentences(retriever, ask.question, weights, passages)
    answer = extract(found)
    found.sort(key=lambda sentence: -sentence["score"])
    home = rows[found[0]["chunk"]] if found else None
    shares = shares_of(retriever, words_, home) if home else dict.fromkeys(words_, 0.0)
    features = features_of(retriever, ask.question, weights, shares, found, rows)
    return {
        "sentences": found[: ask.limit],
        "answer": answer,
        "features": features,
        "evidence": evidence(features),
        "missing": [word for s, word in words_.items() if shares[s] < 0.5],
    }


def shares_of(retriever: Retriever, words_: Mapping[str, str], row: Row) -> dict[str, float]:
    """How far a passage speaks of each word of a question: 1 for the same stem, less if only near."""
    present = set(stems_of(row))
    near = sorted({word for word in WORD.findall(f"{place(row)} {row['text']}".lower()) if analyze(word)})
    absent = [s for s in words_ if s not in present]
    shares = dict.fromkeys(words_, 1.0)
    if absent and near:
        vectors = retriever.embedder.remembered([*(words_[s].lower() for s in absent), *near])
        nearest = (vectors[: len(absent)] @ vectors[len(absent) :].T).max(axis=1)
        low, high = SYNONYM
        shares |= {
            s: min(max((float(c) - low) / (high - low), 0.0), 1.0)
            for s, c in zip(absent, nearest, strict=True)
        }
    return shares


def score_sentences(
    retriever: Retriever,
    question: str,
    weights: Mapping[str, float],
    ranked: Sequence[tuple[Row, float]],
) -> list[dict[str, Any]]:
    pairs = [(row, score, s) for row, score in ranked for s in sentences_of(row["text"], place(row))]
    if not pairs:
        return []
    vectors = retriever.embedder.remembered(
        [question, *(s.text for _, _, s in pairs), *(s.placed for _, _, s in pairs)]
    )
    plain, placed = (vectors[1:] @ vectors[0]).reshape(2, len(pairs)).tolist()
    found: list[dict[str, Any]] = []
    for (row, score, sentence), alone, inside in zip(pairs, plain, placed, strict=True):
        coverage = covered(weights, analyze(f"{sentence.context} {sentence.text}"))
        similarity = max(alone, inside)
        start = row["start"] + len(row["text"][: sentence.start].encode())
        cited = {"text": sentence.text, "start": start, "end": start + len(sentence.text.encode())}
        found.append(
            citation(row)
            | cited
            | {
                "score": round(
                    0.5 * similarity + 0.2 * coverage + 0.2 * score + 0.1 * fits(question, sentence.text),
                    4,
                ),
                "similarity": round(similarity, 4),
                "coverage": round(coverage, 4),
            }
        )
    return found


def features_of(
    retriever: Retriever,
    question: str,
    weights: Mapping[str, float],
    shares: Mapping[str, float],
    found: Sequence[Mapping[str, Any]],
    chunks: Iterable[int],
) -> dict[str, float]:
    """Best cosine of a sentence and of a passage, and how much of the question the passage covers."""
    vectors = retriever.store.chunk_vectors(chunks)
    asked = retriever.embedder.remembered([question])[0]
    whole = sum(weights.values())
    return {
        "sentence": max((sentence["similarity"] for sentence in found), default=0.0),
        "passage": round(max((float(vector @ asked) for vector in vectors.values()), default=0.0), 4),
        "coverage": round(sum(weights[s] * shares[s] for s in weights) / whole, 4) if whole else 0.0,
    }


def spans(retriever: Retriever, ask: Spans) -> dict[str, Any]:
    """The sentences of some passages in order, with their places; `next` is what to ask for after."""
    collection = retriever.find(ask.collection)
    after = (chunk for chunk in retriever.store.chunk_ids(collection) if chunk > ask.after)
    chunks = sorted(after)[: ask.limit]
    rows = retriever.store.chunks(chunks)
    found: list[dict[str, Any]] = []
    for row in (rows[chunk] for chunk in chunks if chunk in rows):
        whole = {name: citation(row)[name] for name in ("text", "start", "end")}
        for sentence in sentences_of(row["text"], place(row)):
            start = row["start"] + len(row["text"][: sentence.start].encode())
            span = {"text": sentence.text, "start": start, "end": start + len(sentence.text.encode())}
            found.append(citation(row) | span | {"passage": row["text"], "whole": whole})
    return {"spans": found, "next": chunks[-1] if len(chunks) == ask.limit else None}


def support(retriever: Retriever, ask: Claims) -> dict[str, Any]:
    """How well each sentence bears each claim: cosine, share of the claim's words, and numbers."""
    return {"support": [support_of(retriever, pair.claim, pair.sentences) for pair in ask.pairs]}


def support_of(retriever: Retriever, claim: str, sentences: Sequence[str]) -> list[dict[str, Any]]:
    vectors = retriever.embedder.remembered([claim, *sentences])
    stems = dict.fromkeys(analyze(claim), 1.0)
    return [
        {
            "similarity": round(float(vector @ vectors[0]), 4),
            "coverage": round(covered(stems, analyze(sentence)), 4),
            "contradicts": contradicts(claim, sentence),
        }
        for vector, sentence in zip(vectors[1:], sentences, strict=True)
    ]
