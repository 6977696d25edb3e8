"""Shims, forked from a process that has loaded the shim already.

A fork is spared the start of an interpreter, which took about 40 ms of a core. The server is a child of the
daemon and ends when the daemon does, however that ends; the shims that it forked go on. One that
was killed is replaced at the next request. It knows folders, and nothing of what is in them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from agentd.jobs import shim

__all__ = ["ForkServer", "has_ended"]

ANSWER_WITHIN_S = 20.0


class ForkServer:
    """One process that forks shims, started when it is first needed. `env` makes what they inherit."""

    def __init__(self, env: Callable[[], Mapping[str, str]]) -> None:
        self._env = env
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def start(self) -> None:
        """Have it running; returns before it has loaded anything. Raises `OSError`."""
        if self._channel is not None and self._owner == os.getpid():
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-I", "-S", shim.__file__, shim.SERVE, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=self._env(), start_new_session=True, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        ours.settimeout(ANSWER_WITHIN_S)
        self._channel, self._owner = ours, os.getpid()
        atexit.register(self.close)

    def fork(self, folder: Path) -> int | None:
        """A shim for the attempt in `folder`: its pidfd, None if it has ended already. Raises `OSError`."""
        try:
            return self._ask(folder)
        except (ConnectionError, TimeoutError):
            self.close()
            return self._ask(
                folder
            )  # the server had died: to a second shim it is harmless that there was a first

    def close(self) -> None:
        """End the server. Shims go on."""
        atexit.unregister(self.close)
        if self._channel is not None:
            self._channel.close()
        if self._process is not None and self._owner == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            self._process.kill()
            self._process.wait()
        self._channel = self._process = None

    def _ask(self, folder: Path) -> int | None:
        self.start()
        assert self._channel is not None
        self._channel.send(os.fsencode(folder))
        answer, fds, _, _ = socket.recv_fds(self._channel, 64, 1)
        if not answer:
            raise ConnectionResetError("the fork server has ended")
        if answer.isdigit():
            raise OSError(int(answer), os.strerror(int(answer)))
        return fds[0] if fds else None


def has_ended(pidfd: int) -> bool:
    """Whether the process behind `pidfd` is no more."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
