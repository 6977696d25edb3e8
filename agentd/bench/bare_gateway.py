"""The least that can stand between a client and a chat endpoint: the baseline of ``bench gateway``.

Run as ``python -P bare_gateway.py PORT ENDPOINT``. It reads a request, sends it on and sends the answer back:
no token, no router, no ledger, not even a look at the JSON.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import uvicorn

endpoint = sys.argv[2]
session: aiohttp.ClientSession | None = None


async def app(scope: Any, receive: Any, send: Any) -> None:
    global session
    assert scope["type"] == "http"
    session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = {"content-type": "application/json"}
    async with session.post(endpoint + scope["path"], data=body, headers=headers) as response:
        answer = await response.read()
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": response.status, "headers": fields})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", log_config=None, access_log=False,
        lifespan="off",
    )  # fmt: skip
