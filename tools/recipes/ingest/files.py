"""Which files of a folder are read, and why others are not."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

LARGEST_BYTES = 50_000_000


def find_files(base: Path, pattern: str) -> Iterator[tuple[Path, str]]:
    """Files under `base` in order, hidden ones left out, as ``(path, "" or why it is left out)``."""
    if base.is_file():
        yield base, refusal(base, base.parent.resolve())
        return
    inside = base.resolve()
    for folder, folders, names in os.walk(base):
        here = Path(folder)
        for name in [name for name in folders if (here / name).is_symlink()]:
            yield here / name, "a symbolic link to a folder is not followed"
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = here / name
            if not name.startswith(".") and matches(path.relative_to(base).as_posix(), pattern):
                yield path, refusal(path, inside)


def matches(path: str, pattern: str) -> bool:
    """Shell matching in which ``**/`` also stands for no folder at all."""
    return not pattern or fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, pattern.replace("**/", ""))


def refusal(path: Path, inside: Path) -> str:
    target = path.resolve()
    if path.is_symlink() and not target.is_relative_to(inside):
        return "a symbolic link that leads out of the folder"
    if not target.is_file():
        return "not a file" if target.exists() else "a symbolic link to nothing"
    bytes_ = target.stat().st_size
    return (
        f"{bytes_ / 1e6:.0f} MB; the largest is {LARGEST_BYTES / 1e6:.0f} MB"
        if bytes_ > LARGEST_BYTES
        else ""
    )
