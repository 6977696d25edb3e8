"""A process that parses documents, so that none of them hangs, crashes or bloats the job.

It serves one document after another and is replaced when one of them ended it. Not covered: memory is
bounded on Linux only; elsewhere the limits of size and time have to do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import resource
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from failures import Unreadable
from parsers import parser_of
from strategies import Way, cut

SECONDS = 120.0  # for one document; 50 MB of text take half of it
OCR_SECONDS = 3600.0
MEMORY_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Read:
    """A document's canonical text and its chunks: {start, end, heading, page, parent}, in bytes."""

    title: str
    text: str
    own_text: bool
    warning: str
    chunks: list[dict[str, Any]]


class ParserProcess:
    """Limits are per document: `seconds` of wall-clock time, and `memory` bytes that the process may hold."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY_BYTES) -> None:
        self.seconds, self.memory = seconds, memory
        self.process: Any = None
        self.pipe: Connection | None = None

    def read(self, path: Path, data: bytes, way: Way) -> Read:
        """Parse and cut. Raises `Unreadable`, also when a limit is reached or the parser crashes."""
        pipe = self.pipe or self.start()
        try:
            pipe.send((path.name, data, dataclasses.astuple(way)))
            seconds = OCR_SECONDS if way.ocr else self.seconds
            if not pipe.poll(seconds):
                self.close()
                raise Unreadable(f"parsing it takes longer than {seconds:.0f} s; split it")
            why, read = pipe.recv()
        except (EOFError, ConnectionError):
            self.close()
            raise Unreadable(
                f"the parser crashed: it is damaged, or needs more than {self.memory / 1e9:.1f} GB of memory"
            ) from None
        if why:
            raise Unreadable(why)
        return Read(*read)

    def start(self) -> Connection:
        context = multiprocessing.get_context("fork")  # nothing is imported twice; the job has one thread
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.pipe, self.memory), daemon=True)
        self.process.start()
        theirs.close()
        return self.pipe

    def close(self) -> None:
        if self.pipe:
            self.process.kill()
            self.process.join()
            self.pipe.close()
        self.pipe = None


def serve(pipe: Connection, other_end: Connection, memory: int) -> None:
    """Answer ``(why not, fields of Read)`` until the job hangs up."""
    other_end.close()
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            pipe.send(answer(*pipe.recv(), memory))


def answer(name: str, data: bytes, way: tuple[Any, ...], memory: int) -> tuple[str, tuple[Any, ...] | None]:
    try:
        how = Way(*way)
        parsed = parser_of(Path(name), how.ocr)(data)
        chunks = cut(parsed, how)
    except Unreadable as error:
        return str(error), None
    except MemoryError:
        return f"parsing it needs more than {memory / 1e9:.1f} GB of memory; split it", None
    except Exception as error:  # whatever a parser makes of a broken document concerns this one alone
        return f"the parser failed: {type(error).__name__}: {error}", None
    if not chunks:
        return "the document has no text", None
    told = [dataclasses.asdict(chunk) for chunk in chunks]
    return "", (parsed.title, parsed.text, parsed.own_text, parsed.warning, told)
