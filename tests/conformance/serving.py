"""A server for the conformance suite, in a process of its own: ``python serving.py fixture|agentd``.

Both are the daemon's app around a real kernel on an empty state directory, on a free port of loopback. Its
address is the first line of the output. The suite sends no token: it is put on every request, before the
guard.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from agentd.config import Config
from agentd.daemon import Daemon
from agentd.server.app import bind, http_server
from agentd.server.mcp import McpEndpoint

ROOT = Path(__file__).parents[2]


class WithToken:
    """The app, as a client with this token sees it."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], (b"authorization", f"Bearer {self._token}".encode())]
        await self._app(scope, receive, send)


async def serve(what: str, folder: Path) -> None:
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = Config(state_dir=folder / "state", cache_dir=folder / "cache", roots=(ROOT,))
    daemon = Daemon(config, url=url)
    await daemon.start()
    endpoint = None
    if what == "fixture":
        from fixture import fixture

        endpoint = McpEndpoint(fixture())
    server = http_server(daemon, endpoint=endpoint)
    server.config.app = WithToken(server.config.app, (daemon.state_dir / "agent-token").read_text("ascii"))
    print(f"{url}/mcp", flush=True)
    try:
        await server.serve(sockets=[listener])
    finally:
        await daemon.aclose()
        listener.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="agentd-conformance-") as folder:
        asyncio.run(serve(sys.argv[1], Path(folder)))
