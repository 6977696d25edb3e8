"""BM25 over stems: on disk and incremental, or exact and in memory."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ranking import best
from sieve import OPEN, Sieve


class Keywords:
    """BM25 (k1 = 1.2, b = 0.75) over the stems of each chunk, on disk, incremental."""

    def __init__(self, folder: Path) -> None:
        import tantivy

        self.tantivy = tantivy
        folder.mkdir(parents=True, exist_ok=True)
        # a signed field: deleting by an unsigned term silently deletes nothing
        schema = tantivy.SchemaBuilder().add_integer_field("chunk", indexed=True, fast=True)
        self.schema = schema.add_text_field("stems", tokenizer_name="whitespace", index_option="freq").build()
        try:
            self.index = tantivy.Index(self.schema, path=str(folder))
        except ValueError:  # damaged, or of another version: it is derived, so begin again
            shutil.rmtree(folder)
            folder.mkdir()
            self.index = tantivy.Index(self.schema, path=str(folder))

    def update(self, added: Mapping[int, Sequence[str]], removed: Iterable[int]) -> None:
        writer = self.index.writer(30_000_000, 1)
        for chunk in removed:
            writer.delete_documents_by_term("chunk", chunk)
        for chunk, stems in added.items():
            document = self.tantivy.Document()
            document.add_integer("chunk", chunk)
            document.add_text("stems", " ".join(stems))
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()

    def ids(self) -> set[int]:
        searcher = self.index.searcher()
        if not searcher.num_docs:
            return set()
        hits = searcher.search(self.tantivy.Query.all_query(), searcher.num_docs, count=False).hits
        return set(searcher.fast_field_values("chunk", [address for _, address in hits]))

    def search(self, stems: Sequence[str], limit: int, sieve: Sieve = OPEN) -> dict[int, float]:
        """The best `limit` chunks that the sieve lets through: it reads on until it has them."""
        query, should = self.tantivy.Query, self.tantivy.Occur.Should
        terms = [(should, query.term_query(self.schema, "stems", s, index_option="freq")) for s in stems]
        searcher = self.index.searcher()
        if not terms:
            return {}
        depth = limit
        while True:
            hits = searcher.search(query.boolean_query(terms), depth, count=False).hits
            chunks = searcher.fast_field_values("chunk", [address for _, address in hits])
            found = [(chunk, hit[0]) for chunk, hit in zip(chunks, hits, strict=True) if sieve.keeps(chunk)]
            if len(found) >= limit or len(hits) < depth:
                return dict(found[:limit])
            depth *= 8

    def idf(self, stems: Iterable[str]) -> dict[str, float]:
        searcher = self.index.searcher()
        n = searcher.num_docs
        frequency = {s: searcher.doc_freq("stems", s) for s in stems}
        return {s: math.log1p((n - min(df, n) + 0.5) / (df + 0.5)) for s, df in frequency.items()}


class ExactKeywords:
    """rank-bm25's Okapi over all chunks in memory: a reference to compare with, O(chunks) a query."""

    def __init__(self, chunks: Mapping[int, Sequence[str]]) -> None:
        from rank_bm25 import BM25Okapi

        self.ids = list(chunks)
        self.model = BM25Okapi([list(stems) or [""] for stems in chunks.values()])

    def search(self, stems: Sequence[str], limit: int, sieve: Sieve = OPEN) -> dict[int, float]:
        scores = self.model.get_scores(list(stems))
        # by a shared stem, not by the score: Okapi's IDF is 0 for a stem in half of the chunks
        holding = [at for at, counts in enumerate(self.model.doc_freqs) if any(s in counts for s in stems)]
        kept = [at for at in holding if sieve.keeps(self.ids[at])]
        return dict(best({self.ids[index]: float(scores[index]) for index in kept}, limit))
