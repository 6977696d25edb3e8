"""A canonical text in blocks, each under its headings: what every parser returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from failures import Unreadable

MOST_CHARS = 50_000_000  # of an extracted text: a small file may unpack to anything


@dataclass(frozen=True, slots=True)
class Block:
    """Characters ``[start:end]`` of the canonical text that belong together: a paragraph, a list, a table."""

    start: int
    end: int
    heading: tuple[str, ...] = ()
    page: int | None = None


@dataclass(slots=True)
class Parsed:
    """A canonical text and its blocks in order. `own_text`: the text isn't the file's own bytes.

    `warning`: what a person should know who cites it, such as pages without text.
    """

    text: str
    blocks: list[Block]
    title: str = ""
    own_text: bool = False
    warning: str = ""


@dataclass(slots=True)
class Outline:
    """The headings above the current place."""

    path: list[tuple[int, str]] = field(default_factory=list)

    def enter(self, level: int, heading: str) -> None:
        self.path = [(above, text) for above, text in self.path if above < level]
        self.path.append((level, heading))

    def headings(self) -> tuple[str, ...]:
        return tuple(text for _, text in self.path)


@dataclass(slots=True)
class Writer:
    """Builds a canonical text block by block, for formats whose files aren't text."""

    parts: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    outline: Outline = field(default_factory=Outline)
    length: int = 0

    def heading(self, level: int, text: str) -> None:
        self.outline.enter(level, text)
        self._append(text)

    def block(self, text: str, page: int | None = None) -> None:
        start = self._append(text)
        self.blocks.append(Block(start, start + len(text), self.outline.headings(), page))

    def parsed(self, title: str, warning: str = "") -> Parsed:
        return Parsed("".join(self.parts), self.blocks, title, own_text=True, warning=warning)

    def _append(self, text: str) -> int:
        start = self.length
        self.parts += (text, "\n\n")
        self.length += len(text) + 2
        if self.length > MOST_CHARS:
            raise Unreadable(f"it unpacks to more than {MOST_CHARS / 1e6:.0f} million characters; split it")
        return start
