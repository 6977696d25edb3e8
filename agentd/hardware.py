"""What this machine has: the kind of its accelerator, and memory.

Memory is that of the machine, or of the control group that the daemon was put into. GPU memory is asked
of ``nvidia-smi``, once; of other makes it is not known.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["accelerator", "ram_bytes", "vram_bytes"]

LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")


def accelerator() -> str:
    """What jobs run on here: "cuda", "rocm" or "cpu"."""
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return "cuda"
    return "rocm" if Path("/dev/kfd").exists() else "cpu"


def ram_bytes(root: Path = Path("/")) -> int:
    """Memory that processes here may use, 0 if that is not known."""
    limits = [_number(root / name) for name in LIMITS]
    return min((limit for limit in [_meminfo(root).get("MemTotal", 0), *limits] if limit), default=0)


@functools.cache
def vram_bytes() -> int:
    """Memory of the largest GPU, 0 if that is not known."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    asked = [command, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True, env=os.environ)
    except (OSError, subprocess.SubprocessError):
        return 0
    return max((int(line) << 20 for line in said.stdout.split() if line.isdecimal()), default=0)


def _meminfo(root: Path) -> Mapping[str, int]:
    """``/proc/meminfo`` in bytes."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0].rstrip(":"): int(pair[1]) << 10 for pair in pairs if len(pair) == 3}


def _number(path: Path) -> int:
    """A limit in a file; 0 for none, which cgroups write as "max" or as more than there could be."""
    try:
        said = path.read_text(encoding="ascii").strip()
    except OSError:
        return 0
    return int(said) if said.isdecimal() and int(said) < 1 << 60 else 0
