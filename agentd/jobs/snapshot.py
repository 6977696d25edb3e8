"""What a job reads, fixed: digested when it is asked about, copied and checked when it is launched.

Folders in the artifact store never change and are used where they lie, after a look whether that is
true. Everything else is copied into the attempt's folder. Either way, what the job is given has the
digest that comes back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from agentd.errors import Conflict, InputError
from agentd.policy.digests import digest_tree
from agentd.sdk import Artifact

__all__ = ["digest_inputs", "take"]


def digest_inputs(inputs: Mapping[str, str], artifacts: Iterable[Artifact] = ()) -> dict[str, str]:
    """Name -> digest of the content. An artifact was digested when it was kept, and is not read again."""
    known = {artifact.path: artifact.digest for artifact in artifacts}
    digests: dict[str, str] = {}
    for name, text in inputs.items():
        path = Path(text)
        if not path.exists():
            raise InputError(f"Input {name!r} is not there any more: {text!r}")
        digests[name] = known.get(path) or digest_tree(path)
    return digests


def take(
    inputs: Mapping[str, str], digests: Mapping[str, str], fixed: Path, folder: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Copy the inputs under `folder`, but for what lies under `fixed`; returns name -> path and digest.

    Raises `Conflict` naming what changed.
    """
    taken: dict[str, str] = {}
    found: dict[str, str] = {}
    for name, text in inputs.items():
        source = Path(text)
        target = source if source.is_relative_to(fixed) else _copied(source, folder / name / source.name)
        found[name] = digest_tree(target)
        if found[name] != digests.get(name):
            raise Conflict(
                f"Input {name!r} ({text!r}) was changed since it was approved", hint="Start it again"
            )
        taken[name] = str(target)
    return taken, found


def _copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
    return target
