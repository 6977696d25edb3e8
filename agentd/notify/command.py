"""Notices as runs of a program on this machine: a desktop notification, a script of one's own.

There is no shell. The message is on its standard input, as the JSON that a webhook is sent. ``{title}``,
``{text}`` and ``{id}`` in its arguments are filled in; ``AGENTD_NOTICE_TITLE``, ``…_TEXT`` and ``…_ID`` hold
them too. It gets no secrets of the daemon. Not covered: what it started may outlive it, unless it is late.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal

from agentd.config import CommandConfig
from agentd.errors import Unavailable
from agentd.notify.notices import Message
from agentd.redaction import redact, without_secrets

__all__ = ["Command"]

PLACE = re.compile(r"\{(id|title|text)\}")


class Command:
    """An adapter: see `agentd.notify.outbox.Adapter`. Whoever cancels a delivery ends the program."""

    def __init__(self, config: CommandConfig) -> None:
        self._argv = config.argv

    @property
    def to(self) -> str:
        return self._argv[0]

    async def send(self, message: Message) -> None:
        facts = redact({"id": message.id, "title": message.title, "text": message.text})
        argv = [self._argv[0], *(_filled(each, facts) for each in self._argv[1:])]
        named = {f"AGENTD_NOTICE_{name.upper()}": value for name, value in facts.items()}
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, env=without_secrets() | named, start_new_session=True,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise Unavailable(f"{self.to!r} cannot be started: {error.strerror or error}") from error
        try:
            await process.communicate(json.dumps(message.body(), ensure_ascii=False).encode())
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            raise Unavailable(f"{self.to!r} ended with {process.returncode}")

    async def aclose(self) -> None:
        """Nothing stays open between two messages."""


def _filled(argument: str, facts: dict[str, str]) -> str:
    """In one pass: what is filled in is not looked at again."""
    return PLACE.sub(lambda found: facts[found[1]], argument)
