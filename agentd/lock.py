"""One daemon per state directory: the one that holds its lock.

Standard library and our errors only, so that it can be asked for before anything that takes time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from agentd.errors import Busy
from agentd.locations import read_address

__all__ = ["hold"]


def hold(state_dir: Path) -> int:
    """Hold the state directory for as long as this process lives. Raises `Busy`."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid, there = os.read(lock, 20).decode(), read_address(state_dir)
        os.close(lock)
        at = f", {there['url']}" if there and str(there["pid"]) == pid else ""
        raise Busy(
            f"Another daemon (pid {pid or 'unknown'}{at}) uses {str(state_dir)!r}",
            hint="Use that one, stop it with 'agentd stop', or set AGENTD_STATE to another folder",
        ) from error
    with contextlib.suppress(OSError):  # on a full disk the next one is not told who we are
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    return lock
