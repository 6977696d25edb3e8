"""The digest of exactly what would run: arguments, recipe, environment, and inputs by content.

An approval is given for such a digest and for nothing else.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from agentd.errors import InputError

__all__ = ["digest_file", "digest_tree", "digest_value"]


def digest_value(value: Any) -> str:
    """SHA-256 of canonical JSON: sorted keys, no spaces. Raises `InputError` for NaN and infinity."""
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str
        )
    except ValueError as error:
        raise InputError(f"{error}: NaN and infinity stand for nothing here") from error
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(path: Path) -> str:
    """Of a file: its content's digest. Of a folder: that of the sorted list of relative names and digests.

    Symbolic links are followed, but one that leads out of the folder raises `InputError`: what lies
    there is not part of what was looked at.
    """
    if path.is_file():
        return digest_file(path)
    root = path.resolve()
    manifest: list[tuple[str, str]] = []
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        if not file.resolve().is_relative_to(root) and file.is_symlink():
            raise InputError(
                f"{str(file)!r} is a link out of {str(path)!r}", hint="Copy the file into the folder"
            )
        manifest.append((file.relative_to(path).as_posix(), digest_file(file)))
    return digest_value(manifest)
