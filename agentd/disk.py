"""Room on the disk of the state directory: for what must be written down, and for what is started.

A reserve lies beside the database, allocated but empty. When a commit finds the disk full, a slice of
it is given up and the commit is done again at once; whoever filled the disk gets none of the rest. It is
laid aside again when there is room. Launches are refused long before, while there is less than `low`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from agentd.errors import DiskFull
from agentd.store.journal import Journal

__all__ = ["RESERVE", "Room"]

log = logging.getLogger(__name__)

RESERVE = "reserve"
SLICE = 1 << 20  # thousands of journal entries
ENOUGH = 1.25
"""So much of what is low has to be free before it is not low any more: not told at every turn."""


class Room:
    """The disk of `folder`. Nothing is written by making one; sizes are in bytes.

    Look after it with `look`, now and then.
    """

    def __init__(self, folder: Path, *, reserve: int, low: int) -> None:
        self._folder, self._path = folder, folder / RESERVE
        self._reserve, self._low_bytes = reserve, low
        self._told = False

    @property
    def free(self) -> int:
        """What may still be written there, the reserve not counted."""
        seen = os.statvfs(self._folder)
        return seen.f_bavail * seen.f_frsize

    def give_up(self) -> bool:
        """Free a slice of the reserve; tells whether there was one."""
        try:
            left = self._path.stat().st_size
            if not left:
                return False
            os.truncate(self._path, max(0, left - SLICE))
        except OSError:
            return False
        log.warning("the disk of %s is full: writing goes on in what was set aside", self._folder)
        return True

    def check(self, what: str, needed: int = 0) -> None:
        """Raise `DiskFull` unless `needed` bytes fit and enough is left after that."""
        free, wanted = self.free, needed + self._low_bytes
        if free < wanted:
            raise DiskFull(
                f"{what} needs {_mb(wanted)} free in {str(self._folder)!r}, and {_mb(free)} are"
                + (f" ({_mb(needed)} for itself)" if needed else ""),
                hint="Free some disk: 'agentd env prune', or remove artifacts; 'disk_low_gb' sets the bound",
            )

    def look(self, journal: Journal) -> None:
        """Lay aside what was given up, and journal once when room gets low and once when it is back."""
        self._lay_aside()
        free, told = self.free, self._told
        low = free < self._low_bytes * (ENOUGH if told else 1)
        if low != told:
            journal.append(
                "disk.low" if low else "disk.enough", str(self._folder), "daemon",
                free=free, low=self._low_bytes,
            )  # fmt: skip
        self._told = low

    def _lay_aside(self) -> None:
        """Only where room for as much again would be left: a reserve must not be what fills a disk."""
        missing = self._reserve - (self._path.stat().st_size if self._path.exists() else 0)
        if missing <= 0 or self.free < 2 * missing:
            return
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # some other time
                os.posix_fallocate(file, 0, self._reserve)
        finally:
            os.close(file)


def _mb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
