"""Texts to vectors."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from problems import Problem

FEW = 4  # texts: a question, or what was made of it


class Embedder:
    """A sentence-transformers model. Vectors have length 1, so that a dot product is a cosine."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self.torch, self.threads = torch, threads
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = SentenceTransformer(str(folder), device=device, local_files_only=True)
        self.name = weights_digest(folder)[:16]
        self.lock = threading.Lock()
        self.recent: OrderedDict[str, Any] = OrderedDict()

    def encode(self, texts: Sequence[str]) -> Any:
        """float32 of shape (len(texts), dimension). Long lists let others in between.

        A short list is embedded by one thread: more of them wait for each other longer than they help, and
        on busy cores many times longer.
        """
        import numpy as np

        threads = 1 if len(texts) <= FEW else self.threads
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        parts: list[Any] = []
        for at in range(0, len(order), 32):
            batch = [texts[index] for index in order[at : at + 32]]
            with self.lock:  # tokenizers are not safe to share between threads
                self.torch.set_num_threads(threads)  # holds for the thread that calls
                parts.append(self.model.encode(batch, normalize_embeddings=True, show_progress_bar=False))
        whole = np.concatenate(parts).astype(np.float32)
        result = np.empty_like(whole)
        result[order] = whole
        return result

    def tokens(self, texts: Sequence[str]) -> int:
        """How many it reads, cut off where the model cuts them off."""
        with self.lock:
            read = self.model.tokenizer(list(texts), truncation=True, max_length=self.model.max_seq_length)
        return sum(len(ids) for ids in read["input_ids"])

    def remembered(self, texts: Sequence[str]) -> Any:
        """Like `encode`, for short texts that come again: questions, sentences, words."""
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in self.recent]
        known = {text: self.recent[text] for text in texts if text in self.recent}
        if new:
            known |= dict(zip(new, self.encode(new), strict=True))
        self.recent.update(known)
        while len(self.recent) > 20_000:
            self.recent.popitem(last=False)
        return np.stack([known[text] for text in texts])


def weights_digest(folder: Path) -> str:
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise Problem(400, f"{folder} holds no *.safetensors", "name a sentence-transformers model folder")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
