"""Finding the daemon, starting it when there is none, and talking to its control API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from agentd import __version__, locations
from agentd.errors import (
    AgentdError,
    Busy,
    Conflict,
    Denied,
    DiskFull,
    InputError,
    NeedsApproval,
    OverBudget,
    Unauthorized,
    Unavailable,
    Unknown,
)

__all__ = ["Client", "client_of", "connect", "ensure_daemon", "stop_daemon"]

START_WITHIN_S = 30.0


def ensure_daemon(*, quiet: bool = False) -> tuple[str, Path]:
    """The URL of this user's daemon, started if it is not there, and its state directory."""
    state = locations.state_dir()
    address = locations.read_address(state)
    if address is not None and _alive(address):
        if address["version"] != __version__:
            raise AgentdError(
                f"The daemon at {address['url']} is version {address['version']}, this is {__version__}",
                hint="Run 'agentd stop'; running jobs go on and are adopted by the new one",
            )
        return address["url"], state
    return _start(state, quiet), state


def _alive(address: Mapping[str, Any]) -> bool:
    import http.client
    from urllib.parse import urlsplit

    where = urlsplit(address["url"])
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _start(state: Path, quiet: bool) -> str:
    """Start a daemon in a session of its own and wait for its answer; raises with its last words."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = state / "daemon.log"
    with log.open("ab") as out:
        daemon = subprocess.Popen(
            [sys.executable, "-P", "-m", "agentd", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    give_up = time.monotonic() + START_WITHIN_S
    while time.monotonic() < give_up:
        address = locations.read_address(state)
        if address is not None and _alive(address):
            if not quiet:
                print(
                    f"started the daemon ({address['url']}, log {log}); end it with 'agentd stop'",
                    file=sys.stderr,
                )
            return address["url"]
        if (code := daemon.poll()) is not None:
            words = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
            kind = Busy if code == 75 else Unavailable
            raise kind(
                f"The daemon did not start: {' / '.join(words) or f'exit code {code}'}",
                hint=f"Its log is {log}",
            )
        time.sleep(0.05)
    raise Unavailable(f"The daemon did not answer within {START_WITHIN_S:.0f} s", hint=f"Its log is {log}")


def connect() -> Client:
    """A client of this user's daemon, as the person who owns it.

    Where ``AGENTD_URL`` and ``AGENTD_TOKEN`` name another daemon, as on a build server, of that one.
    """
    if remote := locations.remote():
        return _closed_later(Client(*remote))
    return client_of(*ensure_daemon())


def client_of(url: str, state: Path) -> Client:
    """A client of the daemon at `url`; closed when the command that asked for it ends."""
    return _closed_later(Client(url, (state / locations.OWNER_TOKEN).read_text(encoding="ascii").strip()))


def _closed_later(client: Client) -> Client:
    if command := click.get_current_context(silent=True):
        command.call_on_close(client.close)
    return client


class Client:
    """The control API. Errors of the daemon are raised here as the same `AgentdError`."""

    def __init__(self, url: str, token: str) -> None:
        import httpx

        self.url, self.token = url, token
        headers = {"Authorization": f"Bearer {token}", **locations.project()}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._send("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = 60.0
    ) -> Any:
        """`timeout_s` is how long the daemon may take; None is as long as it wants."""
        return self._send("POST", path, json=dict(body or {}), timeout=timeout_s)

    def delete(self, path: str) -> Any:
        return self._send("DELETE", path)

    def call(self, tool: str, arguments: Mapping[str, Any], *, key: str = "") -> Any:
        """Call a tool from the current folder."""
        body = {"arguments": dict(arguments), "cwd": os.getcwd(), "key": key}  # noqa: PTH109 - a string is sent
        return self.post(f"/api/call/{tool}", body)

    def follow(self, path: str) -> Iterator[Any]:
        """The objects of a stream, one after the other. Goes on after a restart of the daemon."""
        import httpx

        while True:
            try:
                with self._http.stream("GET", path, timeout=httpx.Timeout(60.0, read=None)) as response:
                    if response.status_code != 200:
                        response.read()
                        raise _error(response.status_code, response.text)
                    for line in response.iter_lines():
                        if line.strip():
                            yield json.loads(line)
                return
            except httpx.TransportError as error:
                if not self._back(20.0):
                    raise Unavailable(
                        "The daemon has gone", hint="What it started goes on; see 'agentd jobs'"
                    ) from error

    def _back(self, within_s: float) -> bool:
        give_up = time.monotonic() + within_s
        while time.monotonic() < give_up:
            if _alive({"url": self.url}):
                return True
            time.sleep(0.2)
        return False

    def _send(self, method: str, path: str, **options: Any) -> Any:
        import httpx

        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unavailable(
                f"The daemon at {self.url} does not answer: {error}", hint="Try again, or 'agentd doctor'"
            ) from error
        if response.status_code >= 400:
            raise _error(response.status_code, response.text)
        return response.json()


def _error(status: int, text: str) -> AgentdError:
    """The daemon's error, as the class it was there."""
    try:
        said = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return AgentdError(f"The daemon answered {status}: {text[:300]}")
    code, message, hint = said.get("code", ""), said.get("message", ""), said.get("hint", "")
    if code == NeedsApproval.code:
        return NeedsApproval(
            message, hint=hint, job_id=said.get("job_id", ""), approval_id=said.get("approval_id", "")
        )
    kinds = (Denied, OverBudget, Unauthorized, DiskFull, Unavailable, Unknown, Busy, Conflict)
    kind = next(
        (k for k in kinds if k.code == code), InputError if status in (400, 404, 409, 422) else AgentdError
    )
    return kind(message, hint=hint)


def stop_daemon(client: Client, pid: int, *, and_jobs: bool = False) -> int:
    """End the daemon, and with `and_jobs` first everything it runs; returns how many jobs that were."""
    live = client.get("/api/jobs", state="live", limit=1000) if and_jobs else []
    for job in live:
        client.post(f"/api/jobs/{job['id']}/cancel")
    client.post("/api/shutdown")
    give_up = time.monotonic() + 15.0
    while time.monotonic() < give_up and Path(f"/proc/{pid}").exists():
        time.sleep(0.05)
    return len(live)
