"""What can be read over MCP by address: ``agentd://…``, as JSON without secrets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import mcp_types as types
from mcp.shared.exceptions import MCPError

from agentd.errors import NotFound
from agentd.redaction import redact
from agentd.server.asker import Asker, Context
from agentd.server.job_text import headline
from agentd.server.ports import Kernel
from agentd.server.wire import dump

__all__ = ["Resources"]

JSON = "application/json"

TEMPLATES = {
    "agentd://jobs/{id}": "A job: state, progress, quote, result",
    "agentd://reports/{id}": "What measuring a model on a suite gave",
    "agentd://runs/{id}": "A plan or goal being carried out, step by step",
}


class Resources:
    """The handlers of ``resources/…``. Each asks for role `view`."""

    def __init__(self, kernel: Kernel, caller_of: Asker) -> None:
        self._kernel, self._caller_of = kernel, caller_of

    async def list(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        self._caller_of(ctx)
        jobs = [
            types.Resource(uri=f"agentd://jobs/{job.id}", name=job.id, title=headline(job), mime_type=JSON)
            for job in self._kernel.jobs.list(limit=10)
        ]
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    uri="agentd://catalog",
                    name="catalog",
                    title="Models and aliases",
                    mime_type=JSON,
                ),
                *jobs,
            ]
        )

    async def templates(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        self._caller_of(ctx)
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(uri_template=uri, name=uri.split("/")[2], title=title, mime_type=JSON)
                for uri, title in TEMPLATES.items()
            ]
        )

    async def read(self, ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        self._caller_of(ctx)
        uri = str(params.uri)
        try:
            text = dump(redact(json.loads(dump(self._value(uri)))))
        except NotFound as error:
            raise MCPError(types.INVALID_PARAMS, str(error), {"uri": uri}) from error
        contents = types.TextResourceContents(uri=uri, mime_type=JSON, text=text)
        return types.ReadResourceResult(contents=[contents])

    def _value(self, uri: str) -> Any:
        kind, _, ref = uri.removeprefix("agentd://").partition("/")
        if uri == "agentd://catalog":
            return {"models": self._kernel.catalog.list(), "aliases": self._kernel.catalog.aliases()}
        readers: dict[str, Callable[[str], Any]] = {
            "jobs": self._kernel.jobs.get,
            "reports": self._kernel.reports.get,
            "runs": self._kernel.runs.view,
        }
        if not uri.startswith("agentd://") or kind not in readers or not ref:
            raise NotFound("resource", uri, ["agentd://catalog", *TEMPLATES])
        return readers[kind](unquote(ref))
