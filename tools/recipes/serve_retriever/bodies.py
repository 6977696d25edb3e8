"""What callers send, checked."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Literal

from problems import Problem
from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True, slots=True)
class NewChunk:
    start: int
    end: int
    page: int | None
    heading: list[str]
    text: str
    embedded: str
    parent: tuple[int, int] | None = None  # the range that is given in its place

    def moved(self, by: int) -> NewChunk:
        """The same chunk of a text that begins `by` bytes later."""
        parent = (self.parent[0] + by, self.parent[1] + by) if self.parent else None
        return dataclasses.replace(self, start=self.start + by, end=self.end + by, parent=parent)

    def digest(self, embedder: str) -> str:
        return hashlib.sha256(f"{embedder}\n{self.embedded}".encode()).hexdigest()


Value = str | int | float | bool


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Who(Body):
    principal: str = ""  # who asks; "": whoever may see what is shared


class Scope(Body):
    collection: str
    root: str
    owner: str = ""  # to whom a new collection belongs; "": it is shared


class Range(Body):
    start: int = Field(ge=0)
    end: int = Field(gt=0)
    page: int | None = None
    heading: list[str] = []
    parent: tuple[int, int] | None = None


class NewDocument(Body):
    document: str
    digest: str
    title: str
    text: str
    own_text: bool = False
    meta: dict[str, Value | list[Value]] = Field({}, max_length=64)  # what filters look at
    row: int | None = None  # its text is kept together with that of other rows
    chunks: list[Range]

    def cut(self) -> list[NewChunk]:
        data = self.text.encode()
        return [self.chunk(data, piece) for piece in self.chunks]

    def chunk(self, data: bytes, piece: Range) -> NewChunk:
        try:
            text = data[piece.start : piece.end].decode()
        except UnicodeDecodeError:
            text = ""
        if not text or piece.end > len(data):
            raise Problem(422, f"{self.document}: no text at bytes {piece.start}-{piece.end} of {len(data)}")
        above = " > ".join(dict.fromkeys(filter(None, [self.title, *piece.heading])))
        embedded = f"{above}\n{text}" if above else text
        return NewChunk(piece.start, piece.end, piece.page, piece.heading, text, embedded, piece.parent)


class Documents(Body):
    collection: str
    owner: str = ""  # to whom a new collection belongs; "": it is shared
    documents: list[NewDocument]


class Addition(Documents):
    root: str
    staged: bool = False  # unseen until `/finish`


class Drop(Body):
    collection: str


class Finish(Scope):
    keep: list[str]


class Bounds(Body):
    """From `gte` to `lte`, both included: numbers as such, texts (dates) by their characters."""

    gte: float | str | None = None
    lte: float | str | None = None


class Search(Body):
    collection: str
    query: str = Field(min_length=1, max_length=10_000)
    k: int = Field(10, ge=1, le=1000)
    mode: Literal["hybrid", "dense", "bm25"] = "hybrid"
    fusion: Literal["minmax", "rrf"] = "minmax"
    bm25: Literal["tantivy", "rank-bm25"] = "tantivy"
    feedback: bool = False  # pseudo-relevance feedback on vectors
    diffusion: bool = True  # of fused scores, among candidates that resemble each other
    where: dict[str, Value | list[Value] | Bounds] = Field({}, max_length=20)  # filters; all of them hold
    rewrites: list[str] = Field([], max_length=8)  # other wordings of the query
    rerank: bool = True  # by what was learned from judgments, where something was
    diversity: float = Field(0.0, ge=0, le=1)  # how much it counts against a hit to resemble others
    tokens: int = Field(0, ge=0)  # of the embedder, at most so many in all hits; 0: no limit
    per_document: int = Field(0, ge=0, le=1000)  # at most so many hits of one document; 0: no limit


class Features(Body):
    collection: str
    query: str = Field(min_length=1, max_length=10_000)


class Ranking(Body):
    """Weights of standardised features; none at all: forget what was learned."""

    collection: str
    weights: list[float] = []
    means: list[float] = []
    deviations: list[float] = []


class Question(Body):
    collection: str
    question: str = Field(min_length=1, max_length=10_000)
    k: int = Field(6, ge=1, le=50)
    limit: int = Field(12, ge=1, le=100)


class Spans(Body):
    collection: str
    after: int = Field(0, ge=0)
    limit: int = Field(200, ge=1, le=1000)


class Pair(Body):
    claim: str
    sentences: list[str] = Field(min_length=1, max_length=50)


class Claims(Body):
    pairs: list[Pair] = Field(min_length=1, max_length=50)


class Embeddings(BaseModel):
    """A request of OpenAI's embeddings API; what it may say besides changes nothing here."""

    model: str = ""
    input: str | list[str] = Field(min_length=1, max_length=2048)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None
