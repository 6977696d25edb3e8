"""The daemon's one ASGI app, and the server that runs it."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncGenerator, Callable

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from agentd.errors import AgentdError, Busy, InputError
from agentd.server.api import api_routes, on_agentd_error, on_crash, on_http_error
from agentd.server.auth import Gate, Guard
from agentd.server.connection import Punctual
from agentd.server.gateway import Shortcut, gateway_routes
from agentd.server.mcp import McpEndpoint, mcp_server
from agentd.server.mcp_sessions import key_in
from agentd.server.oauth import Resource
from agentd.server.pages import page_routes
from agentd.server.ports import Kernel
from agentd.server.sessions import Sessions

__all__ = ["bind", "create_app", "http_server", "routes_of"]


def create_app(
    kernel: Kernel,
    gate: Gate | None = None,
    shutdown: Callable[[], None] = lambda: None,
    endpoint: McpEndpoint | None = None,
    oauth: Resource | None = None,
) -> ASGIApp:
    """The guarded app: ``/mcp``, ``/api``, ``/v1``, ``/health``, and pages for people.

    `shutdown` is what ``/api/shutdown`` calls. The lifespan must be run, once: uvicorn does.
    """
    mcp = endpoint or McpEndpoint(mcp_server(kernel), key_in(kernel.state_dir))
    sessions = Sessions(kernel.tokens)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        async with mcp.run():
            yield

    app = Starlette(
        routes=[*routes_of(kernel, mcp, shutdown, sessions), *(oauth.routes() if oauth else [])],
        exception_handlers={
            AgentdError: on_agentd_error,
            HTTPException: on_http_error,
            Exception: on_crash,
        },
        lifespan=lifespan,
    )
    return Guard(Shortcut(app, gateway_routes(kernel)), kernel.tokens, gate, oauth, sessions)


def routes_of(
    kernel: Kernel, mcp: McpEndpoint, shutdown: Callable[[], None], sessions: Sessions
) -> list[Route]:
    """The route table. GET and DELETE of ``/mcp`` are for the few clients that have a session."""
    return [
        Route("/mcp", mcp, methods=["GET", "POST", "DELETE"]),
        *gateway_routes(kernel),  # what is posted to them never comes so far: see `Shortcut`
        *api_routes(kernel, shutdown),
        *page_routes(kernel, sessions),
    ]


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one. Raises `Busy` or `InputError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Busy(
                f"Port {port} of {host} is taken", hint="Stop who has it, or set AGENTD_PORT to another."
            ) from error
        raise InputError(f"Cannot listen on {host}:{port}: {error.strerror}") from error
    listener.set_inheritable(False)  # or jobs would keep the port open after the daemon
    return listener


def http_server(
    kernel: Kernel,
    gate: Gate | None = None,
    oauth: Resource | None = None,
    endpoint: McpEndpoint | None = None,
) -> uvicorn.Server:
    """Ready for ``await server.serve(sockets=[bind(host, port)])`` on the kernel's own event loop.

    ``server.started`` tells that it answers; ``server.should_exit = True`` ends it within seconds.
    """

    def shutdown() -> None:
        server.should_exit = True

    endpoint = endpoint or McpEndpoint(mcp_server(kernel), key_in(kernel.state_dir))
    config = uvicorn.Config(
        create_app(kernel, gate, shutdown, endpoint, oauth),
        http=Punctual,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # or a client could choose the address that it is limited by
        limit_concurrency=1000,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    server = _Server(config, endpoint)
    return server


class _Server(uvicorn.Server):
    """Ends the streams that clients listen to before it waits for connections to end."""

    def __init__(self, config: uvicorn.Config, endpoint: McpEndpoint) -> None:
        super().__init__(config)
        self._endpoint = endpoint

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._endpoint.close_streams()
        await super().shutdown(sockets)
