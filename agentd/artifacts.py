"""The artifact store: content-addressed folders, named after the digest of what they hold.

A folder is complete before it gets its name, and never changes afterwards. What a job left stays where it
is as well, as a second name for the same blocks: a daemon that dies before it has written down what it
kept finds it there, and keeps it again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.errors import InputError, NotFound
from agentd.ids import new_id
from agentd.policy.digests import digest_tree
from agentd.sdk import Artifact
from agentd.store.artifacts import ArtifactTable
from agentd.store.journal import Journal

__all__ = ["Artifacts"]

WAITING = ".part"


class Artifacts:
    """What jobs left, under `folder`; what lies under `linkable` is linked in, all else copied."""

    def __init__(self, folder: Path, linkable: Path, table: ArtifactTable, journal: Journal) -> None:
        self._folder, self._linkable, self._table, self._journal = folder, linkable, table, journal
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(f"*/{WAITING}*"):  # of a daemon that died while it copied
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()

    def add(
        self,
        kind: str,
        path: Path,
        *,
        name: str,
        meta: Mapping[str, Any] | None = None,
        parents: Sequence[str] = (),
    ) -> Artifact:
        """Take a file or folder in. The same content under the same name is the artifact that is there.

        Either way it is the newest of its name afterwards.
        """
        if not path.exists():
            raise InputError(f"There is nothing at {str(path)!r} to keep as {kind} {name!r}")
        digest = digest_tree(path)
        existing = self._table.find(f"{kind}-{digest[:12]}-{name}", kind)
        if existing is not None and existing.path.exists():
            self._table.touch(existing.id)
            return existing
        target = self._folder / digest[:16] / path.name
        if not target.exists():
            self._place(path, target)
        artifact = Artifact(
            id=f"{kind}-{digest[:12]}-{name}",
            kind=kind,
            name=name,
            digest=digest,
            path=target,
            size_bytes=_size(target),
            meta=dict(meta or {}),
            parents=tuple(parents),
        )
        self._table.add(artifact)
        self._journal.append("artifact.added", artifact.id, "daemon", digest=digest, parents=list(parents))
        return artifact

    def get(self, ref: str, kind: str | None = None) -> Artifact:
        """By id or newest by name. Raises `NotFound`."""
        artifact = self._table.find(ref, kind)
        if artifact is None:
            raise NotFound(kind or "artifact", ref, [a.name for a in self.list(kind)])
        return artifact

    def list(self, kind: str | None = None) -> list[Artifact]:
        return self._table.list(kind)

    def _place(self, path: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = target.with_name(new_id(WAITING))
        place = _linked if path.is_relative_to(self._linkable) else shutil.copy2
        if path.is_dir():
            shutil.copytree(path, waiting, copy_function=place)
        else:
            place(path, waiting)
        waiting.rename(target)


def _linked(source: str | Path, target: str | Path) -> None:
    """A second name for a file, or a copy where a disk has no such thing, or ends in between."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file())
    return sum(file.stat().st_size for file in files)
