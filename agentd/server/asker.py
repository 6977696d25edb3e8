"""Who asks over MCP: over HTTP whom the guard let in, in memory whom the server was given. Never a person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from starlette.requests import Request

from agentd.errors import Unauthorized
from agentd.server.auth import caller_of, require
from agentd.server.ports import Caller

__all__ = ["Asker", "Context"]

CWD_HEADER = "agentd-cwd"
"""The folder that a client's relative paths start from, percent-encoded. The stdio proxy sends it."""

Context = ServerRequestContext[Any, Request]


class Asker:
    """Calling it with a request's context gives the caller, who has role `view` at least."""

    def __init__(self, local: Caller | None) -> None:
        self._local = local

    def __call__(self, ctx: Context) -> Caller:
        """Raises `MCPError`: a key that is only good for inference sees nothing here."""
        try:
            return require(self.known(ctx), "view")
        except Unauthorized as error:
            raise MCPError(types.INVALID_REQUEST, str(error)) from error

    def known(self, ctx: Context) -> Caller:
        """Who asks, whatever their role. Raises `Unauthorized` when nobody does."""
        if ctx.request is None:
            if self._local is None:
                raise Unauthorized("This server was given no caller")
            return replace(self._local, surface="mcp", is_agent=True)
        caller = caller_of(ctx.request.scope, "mcp", is_agent=True)
        cwd = unquote(ctx.request.headers.get(CWD_HEADER, ""))
        return replace(caller, cwd=Path(cwd)) if cwd.startswith("/") else caller
