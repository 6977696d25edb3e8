# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""A service that answers POST /ring with what it was sent, and its pid.

python -P bell.py SPEC OUT
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Bell(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(200, {"ok": True})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {os.environ['AGENTD_SERVICE_TOKEN']}":
            self.answer(401, {"error": {"message": "who is there?"}})
        elif body.get("text") == "crack":
            self.answer(400, {"error": {"message": "the bell would crack", "hint": "Ring softly"}})
        else:
            self.answer(200, {"text": body.get("text"), "pid": os.getpid()})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


spec = json.loads(Path(sys.argv[1]).read_text("utf-8"))
if spec["starts"]:
    with Path(spec["starts"]).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
if spec["broken"]:
    sys.exit("the clapper is missing")
ThreadingHTTPServer(("127.0.0.1", spec["port"]), Bell).serve_forever()
