"""Which files of a folder are read, and why others are not."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from failures import Unreadable

LARGEST_BYTES = 50_000_000
STREAMED = frozenset({".jsonl", ".ndjson"})  # read line by line, so that only the line counts
LARGEST_STREAMED_BYTES = 20_000_000_000


def find_files(base: Path, pattern: str) -> Iterator[tuple[Path, str]]:
    """Files under `base` in order, hidden ones left out, as ``(path, "" or why it is left out)``.

    A folder that cannot be listed is found too, so that reading it tells why.
    """
    if base.is_file():
        yield base, refusal(base, base.parent.resolve())
        return
    inside = base.resolve()
    closed: list[Path] = []
    for folder, folders, names in os.walk(base, onerror=lambda error: closed.append(Path(error.filename))):
        here = Path(folder)
        for name in [name for name in folders if (here / name).is_symlink()]:
            yield here / name, "a symbolic link to a folder is not followed"
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = here / name
            if not name.startswith(".") and matches(path.relative_to(base).as_posix(), pattern):
                yield path, refusal(path, inside)
    yield from ((folder, "") for folder in closed)


def matches(path: str, pattern: str) -> bool:
    """Shell matching in which ``**/`` also stands for no folder at all."""
    return not pattern or fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, pattern.replace("**/", ""))


def refusal(path: Path, inside: Path) -> str:
    """Why it is not read; "" too when nothing can be told without reading it."""
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            return "a symbolic link that leads out of the folder"
        mode = path.stat().st_mode
        size = path.stat().st_size
    except RuntimeError:  # of `resolve`
        return "a symbolic link that leads to itself"
    except FileNotFoundError:
        return "a symbolic link to nothing" if path.is_symlink() else ""
    except OSError:
        return ""
    if not stat.S_ISREG(mode):
        return "not a file"  # a pipe or a device: reading it may never end
    most = LARGEST_STREAMED_BYTES if path.suffix.lower() in STREAMED else LARGEST_BYTES
    return too_large(size, most) if size > most else ""


def read(path: Path) -> bytes:
    """The file's bytes, of which there may have come more since it was found."""
    with path.open("rb") as stream:
        data = stream.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise Unreadable(too_large(path.stat().st_size))
    return data


def too_large(size: int, most: int = LARGEST_BYTES) -> str:
    return f"{size / 1e6:.0f} MB; the largest is {most / 1e6:.0f} MB: split it"
