"""Vectors of texts, in the words of OpenAI's API."""

from __future__ import annotations

import base64
from typing import Any

from bodies import Embeddings
from problems import Problem
from retriever import Retriever


def embeddings(retriever: Retriever, ask: Embeddings) -> dict[str, Any]:
    """Vectors of length 1; base64, which OpenAI's client asks for, holds them as little-endian float32."""
    texts = [ask.input] if isinstance(ask.input, str) else ask.input
    if not all(texts):
        raise Problem(422, "input: an empty text has no vector")
    found = retriever.embedder.remembered(texts)
    told = [
        base64.b64encode(vector.astype("<f4").tobytes()).decode()
        if ask.encoding_format == "base64"
        else vector.tolist()
        for vector in found
    ]
    tokens = retriever.embedder.tokens(texts)
    return {
        "object": "list",
        "model": ask.model or retriever.embedder.name,
        "data": [{"object": "embedding", "index": n, "embedding": each} for n, each in enumerate(told)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
