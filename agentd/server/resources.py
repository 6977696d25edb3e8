"""What can be read over MCP by address, ``agentd://…``: lists in pages, templates, and contents."""

from __future__ import annotations

import mcp_types as types
from mcp.shared.exceptions import MCPError

from agentd.errors import AgentdError, NotFound
from agentd.server.asker import Asker, Context
from agentd.server.holdings import FORMATS, Holdings, address

__all__ = ["REPORT_PAGE", "Resources"]

PAGE = 100
REPORT_PAGE = "agentd://reports/{id}/{format}"
"""A report as a page, in one of `holdings.FORMATS`."""


class Resources:
    """The handlers of ``resources/…``. Each asks for role `view`."""

    def __init__(self, holdings: Holdings, caller_of: Asker) -> None:
        self._holdings, self._caller_of = holdings, caller_of

    async def listing(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """What is whole first, then the newest of each kind, `PAGE` at a time."""
        caller = self._caller_of(ctx)
        kinds = self._holdings.kinds
        found = [
            types.Resource(
                uri=address(name),
                name=name,
                title=kind.title,
                mime_type=kind.mime if name == "docs" else JSON,
            )
            for name, kind in kinds.items()
            if name != "models"  # they are the catalog
        ]
        for name, kind in kinds.items():
            for entry in await kind.entries(caller) if kind.entries else ():
                uri = address(name, *entry.path.split("/"))
                found.append(
                    types.Resource(uri=uri, name=entry.path, title=entry.title, mime_type=entry.mime)
                )
        start = _start(params)
        more = str(start + PAGE) if len(found) > start + PAGE else None
        return types.ListResourcesResult(resources=found[start : start + PAGE], next_cursor=more)

    async def templates(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        self._caller_of(ctx)
        found = [
            types.ResourceTemplate(
                uri_template=kind.template, name=name, title=kind.one_title, mime_type=kind.mime
            )
            for name, kind in self._holdings.kinds.items()
            if kind.template
        ]
        title = f"A report as a page: format is {' or '.join(FORMATS)}"
        found.append(types.ResourceTemplate(uri_template=REPORT_PAGE, name="report-page", title=title))
        return types.ListResourceTemplatesResult(resource_templates=found)

    async def read(self, ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        caller = self._caller_of(ctx)
        uri = str(params.uri)
        try:
            read = await self._holdings.read(uri, caller)
        except AgentdError as error:
            code = types.INVALID_PARAMS if isinstance(error, NotFound) else types.INTERNAL_ERROR
            raise MCPError(code, str(error), {"uri": uri}) from error
        contents = types.TextResourceContents(uri=uri, mime_type=read.mime, text=read.text)
        return types.ReadResourceResult(contents=[contents])


JSON = "application/json"


def _start(params: types.PaginatedRequestParams | None) -> int:
    cursor = (params.cursor if params else None) or "0"
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 10):
        raise MCPError(types.INVALID_PARAMS, f"{cursor!r} is no cursor of this list. Start again without one")
    return int(cursor)
