"""The digest of exactly what would run: arguments, recipe, environment, and inputs by content.

An approval is given for such a digest and for nothing else. A large file that was read is not read
again while its inode says that nothing touched it: weights are looked at before every launch.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentd.errors import InputError

__all__ = ["digest_file", "digest_tree", "digest_value"]

_LARGE = 1 << 20  # bytes from which a digest is remembered
_SETTLED_S = 2.0  # younger files may change again within one tick of the file system's clock
_REMEMBERED = 4096  # files, about a megabyte

_digests: dict[tuple[int, ...], str] = {}


def digest_value(value: Any) -> str:
    """SHA-256 of canonical JSON: sorted keys, no spaces.

    Raises `InputError` for what JSON or UTF-8 cannot say: NaN, infinity, half of a surrogate pair.
    """
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str
        ).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"A text holds {error.object[error.start]!r}, which is no character") from error
    except ValueError as error:
        raise InputError(f"{error}: NaN and infinity stand for nothing here") from error
    return hashlib.sha256(text).hexdigest()


def digest_file(path: Path, *, still: bool = False) -> str:
    """SHA-256 of a file's content.

    A large file's is remembered by device, inode, size and the times of its last write and last change
    of any kind; the last of these cannot be set back by a program. A young file's only if whoever calls
    knows that nobody writes to it any more (`still`).
    """
    with path.open("rb") as file:
        seen = os.fstat(file.fileno())
        identity = _identity(seen)
        if identity in _digests:
            return _digests[identity]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        settled = still or time.time() - max(seen.st_ctime, seen.st_mtime) > _SETTLED_S
        if seen.st_size >= _LARGE and settled and identity == _identity(os.fstat(file.fileno())):
            if len(_digests) >= _REMEMBERED:
                _digests.clear()
            _digests[identity] = digest
    return digest


def _identity(seen: os.stat_result) -> tuple[int, ...]:
    """What changes when a file's content does."""
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def digest_tree(path: Path, *, still: bool = False) -> str:
    """Of a file: its content's digest. Of a folder: that of its manifest, relative names and digests, sorted.

    Symbolic links count as what they name, files and folders alike. `InputError` is raised for what
    cannot be looked at whole: a link that leads out of the folder, into itself or nowhere, a pipe.
    """
    if path.is_file():
        return digest_file(path, still=still)
    entries = sorted(_entries(path, (path.resolve(),)))
    manifest = [
        (f"{entry.relative_to(path).as_posix()}/", "")  # a folder stands here only when it is empty
        if entry.is_dir()
        else (entry.relative_to(path).as_posix(), digest_file(entry, still=still))
        for entry in entries
    ]
    return digest_value(manifest)


def _entries(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files under `folder`, and folders with nothing in them; `above` are the real folders around it."""
    for entry in folder.iterdir():
        real = entry.resolve() if entry.is_symlink() else above[-1] / entry.name
        if not real.is_relative_to(above[0]):
            raise InputError(
                f"{str(entry)!r} is a link out of {str(above[0])!r}",
                hint="Copy what it names into the folder",
            )
        if entry.is_file():
            yield entry
        elif not entry.is_dir():
            raise InputError(
                f"{str(entry)!r} is neither a file nor a folder, or a link to nothing", hint="Remove it"
            )
        elif real in above:
            raise InputError(f"{str(entry)!r} is a link to a folder it lies in", hint="Remove it")
        elif next(entry.iterdir(), None) is None:
            yield entry
        else:
            yield from _entries(entry, (*above, real))
