"""The daemon is killed while it passes requests on: the ledger never shows less than the endpoint billed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentd.config import Budget
from agentd.store import Store
from agentd.store.journal import Journal
from agentd.store.ledger import Ledger

PRICE = 20 * 3 + 10 * 15  # micro-USD: what the endpoint says each request took
BUDGET_USD = 1.0


class Endpoint(ThreadingHTTPServer):
    """`billed` counts answers as they begin to be sent: whoever does not get one has been billed for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.billed, self.lock = 0, threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.billed += 1
        usage = {"prompt_tokens": 20, "completion_tokens": 10}
        body = json.dumps({"choices": [{"message": {"content": "hi"}}], "usage": usage}).encode()
        time.sleep(random.random() / 50)
        with contextlib.suppress(OSError):  # the daemon has been killed
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def settings(folder: Path, endpoint: Endpoint) -> Path:
    path = folder / "agentd.toml"
    path.write_text(
        f"[budget]\nper_day_usd = {BUDGET_USD}\n"
        + "".join(
            f'[[models]]\nname = "{name}"\nkind = "frontier"\nendpoint = "http://127.0.0.1:{port}/v1"\n'
            "input_micro_usd_per_mtok = 3000000\noutput_micro_usd_per_mtok = 15000000\n"
            for name, port in (("gone", 1), ("big", endpoint.server_address[1]))
        )
        + '[[aliases]]\nname = "support"\nweights = { gone = 1 }\nfallbacks = ["big"]\n',
        encoding="utf-8",
    )
    return path


async def ask_until_killed(url: str, token: str, daemon: subprocess.Popen[bytes], after: float) -> int:
    """Sixteen clients ask without a pause; the daemon is killed meanwhile. How many answers came."""
    answers = 0
    body = {"model": "support", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal answers
        while True:
            answered = await http.post("/v1/chat/completions", json=body)
            assert answered.status_code == 200, answered.text
            answers += 1

    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=10) as http:
        asking = [asyncio.create_task(client(http)) for _ in range(16)]
        await asyncio.sleep(after)
        os.kill(daemon.pid, signal.SIGKILL)
        ended = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(each, httpx.TransportError) for each in ended), ended
    return answers


def test_a_killed_gateway_has_billed_no_more_than_its_ledger_shows(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    state, config = tmp_path / "state", settings(tmp_path, endpoint)
    command = [sys.executable, "-m", "agentd", "serve", "--config", str(config)]
    answers = 0
    for _ in range(2):
        daemon = subprocess.Popen(command, env={**os.environ, "AGENTD_STATE": str(state), "AGENTD_PORT": "0"})
        address = state / "daemon.json"
        give_up = time.monotonic() + 60
        while not address.exists() or json.loads(address.read_text())["pid"] != daemon.pid:
            assert time.monotonic() < give_up
            assert daemon.poll() is None
            time.sleep(0.02)
        url, token = json.loads(address.read_text())["url"], (state / "agent-token").read_text().strip()
        answers += asyncio.run(ask_until_killed(url, token, daemon, 0.5 + random.random()))
        daemon.wait()
    store = Store(state / "agentd.db")
    ledger = Ledger(store, Budget(per_day_usd=BUDGET_USD), Journal(store))
    ledger.recover()
    spent = ledger.summary().day_spent
    store.close()
    assert 0 < answers <= endpoint.billed
    assert endpoint.billed * PRICE <= spent <= BUDGET_USD * 1e6
