"""The shipped retriever and the shipped ingest as processes of a bench: the recipes, without a daemon."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agentd.bench.leaks import interpreter_of
from agentd.errors import Unavailable
from agentd.plugins import bundled_root

__all__ = ["TOKEN_ENV", "Retriever", "recipe_result", "retriever"]

TOKEN_ENV = "AGENTD_SERVICE_TOKEN"


@dataclass(frozen=True, slots=True)
class Retriever:
    """A running service, asked over one kept connection."""

    url: str
    token: str
    pid: int
    client: httpx.Client

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.client.post(path, json=body)
        if answer.status_code != 200:
            raise Unavailable(f"The retriever refused {path}: {answer.text[:500]}")
        return answer.json()

    def ingest(self, documents: Path, collection: str, folder: Path, **options: Any) -> dict[str, Any]:
        """The result of the ingest recipe."""
        service = {"url": self.url, "token_env": TOKEN_ENV}
        spec = {"inputs": {"documents": str(documents)}, "collection": collection, **options}
        spec["services"] = {"retriever": service}
        recipe = bundled_root() / "tools/recipes/ingest"
        return recipe_result(recipe, interpreter_of("ingest"), spec, folder, {TOKEN_ENV: self.token})

    def memory_bytes(self) -> int:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def retriever(embedder: Path, folder: Path, threads: int) -> Generator[Retriever]:
    """The service over ``folder/data``, ready, and ended afterwards. Raises `Unavailable`."""
    folder.mkdir(parents=True, exist_ok=True)
    token, port, spec = secrets.token_hex(16), _free_port(), folder / "spec.json"
    asked = {"inputs": {"embedder": str(embedder)}, "data": str(folder / "data")}
    spec.write_text(json.dumps({**asked, "port": port, "threads": threads}), encoding="utf-8")
    recipe = bundled_root() / "tools/recipes/serve_retriever"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [str(interpreter_of("serve_retriever")), "-P", str(recipe), str(spec), str(folder)],
            env={**os.environ, TOKEN_ENV: token, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            if not any('"ready"' in line for line in process.stdout):
                said = (folder / "log").read_text("utf-8", "replace")[-1000:]
                raise Unavailable(f"The retriever did not start: {said}")
            url = f"http://127.0.0.1:{port}"
            transport = httpx.HTTPTransport(retries=8)
            headers = {"Authorization": f"Bearer {token}"}
            with httpx.Client(transport=transport, base_url=url, headers=headers, timeout=600) as client:
                client.get("/health").raise_for_status()
                yield Retriever(url, token, process.pid, client)
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def recipe_result(
    recipe: Path, python: Path, spec: dict[str, Any], folder: Path, environ: dict[str, str] | None = None
) -> dict[str, Any]:
    """What a recipe leaves in ``folder/result.json``. Raises `Unavailable`, with its last words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [str(python), "-P", str(recipe), str(folder / "spec.json"), str(folder)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **(environ or {})}
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    if ended.returncode:
        raise Unavailable(f"{recipe.stem} failed: {(ended.stdout + ended.stderr)[-1000:]}")
    return json.loads((folder / "result.json").read_text("utf-8"))
