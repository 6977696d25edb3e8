"""The least that can answer MCP with the SDK: the baseline of ``bench startup`` and ``bench mcp``.

Run as ``python -P bare_mcp.py PORT``, or ``… stdio``: without -P, mcp.py beside it would pass for the SDK.
No auth, no store. `echo` says a text back; `list_models` answers with the JSON object in BARE_ANSWER.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from mcp.server import MCPServer

server = MCPServer("bare")
ANSWER: dict[str, Any] = json.loads(os.environ.get("BARE_ANSWER", "{}"))


@server.tool()
def echo(text: str) -> str:
    """Say it back."""
    return text


@server.tool()
async def list_models() -> dict[str, Any]:
    """What it was started with."""
    return ANSWER


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        import uvicorn

        json_answers = "BARE_ANSWER" in os.environ  # as ours does; the baseline of a start stays what it was
        app = server.streamable_http_app(stateless_http=True, json_response=json_answers)
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)
