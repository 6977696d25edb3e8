"""What a job reads, fixed: digested when it is asked about, copied and checked when it is launched.

Folders in the artifact store never change and are used where they lie. Everything else is copied
into the attempt's folder, and what was copied must have the digest that was approved.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from agentd.errors import Conflict, InputError
from agentd.policy.digests import digest_tree

__all__ = ["digest_inputs", "take"]


def digest_inputs(inputs: Mapping[str, str], fixed: Path) -> dict[str, str]:
    """Name -> digest. What lies under `fixed` is named by its path there, since that holds its digest."""
    digests: dict[str, str] = {}
    for name, text in inputs.items():
        path = Path(text)
        if not path.exists():
            raise InputError(f"Input {name!r} is not there any more: {text!r}")
        digests[name] = (
            f"store:{path.relative_to(fixed)}" if path.is_relative_to(fixed) else digest_tree(path)
        )
    return digests


def take(inputs: Mapping[str, str], digests: Mapping[str, str], fixed: Path, folder: Path) -> dict[str, str]:
    """Copy the inputs under `folder`; returns name -> path. Raises `Conflict` naming what changed."""
    taken: dict[str, str] = {}
    for name, text in inputs.items():
        source = Path(text)
        if source.is_relative_to(fixed):
            taken[name] = str(source)
            continue
        target = folder / name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
        if digest_tree(target) != digests[name]:
            raise Conflict(
                f"Input {name!r} ({text!r}) was changed since it was approved", hint="Start it again"
            )
        taken[name] = str(target)
    return taken
