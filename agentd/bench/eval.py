"""Rows per second of the evaluate recipe, beside a bare asynchronous client that asks the same.

Both are programs of their own and have the same model asked, with as many requests at a time. Unless one is
named, that is a process on loopback that answers every request after a fixed time, as a model that is not
at its limit would. The recipe looks for answers that were kept, and keeps every answer, retries and tells
how far it is; the bare client posts and reads JSON, and keeps nothing.

A model that agentd serves is asked by the recipe as its jobs ask, through the gateway with its metering, and
by the bare client straight, with the key of the service.

Time is that of asking, as either program measures it: starting an interpreter takes both of them as long.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

from agentd.cli.client import connect
from agentd.errors import AgentdError, InputError, NotFound
from agentd.jobs.launching import TOKEN_FILE
from agentd.locations import AGENT_TOKEN, remote, state_dir
from agentd.plugins import bundled_root

__all__ = ["endpoint", "run"]

ROWS = 1000
CONCURRENCY = 16
ANSWERS_AFTER_S = 0.05
URL, KEY = "AGENTD_GATEWAY_URL", "AGENTD_GATEWAY_KEY"
"""Environment variables in which both programs find where to ask, and the key."""
BARE = """
import asyncio, json, os, sys, time
import httpx
model, concurrency = sys.argv[2], int(sys.argv[3])
url, key = os.environ["AGENTD_GATEWAY_URL"], os.environ["AGENTD_GATEWAY_KEY"]
headers = {"Authorization": f"Bearer {key}"} if key else {}
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
async def main():
    waiting, answers = list(reversed(rows)), []
    async def work():
        while waiting:
            message = {"role": "user", "content": waiting.pop()["input"]}
            body = {"model": model, "messages": [message], "max_tokens": 16, "temperature": 0, "seed": 0}
            answers.append((await http.post("chat/completions", json=body)).raise_for_status().json())
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    options = {"headers": headers, "limits": limits, "timeout": 120, "trust_env": False}
    async with httpx.AsyncClient(base_url=url + "/", **options) as http:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
        print(len(answers) / (time.perf_counter() - started))
asyncio.run(main())
"""


class Asked(NamedTuple):
    """Where one of the two programs asks: a URL that ends in /v1, the model's name there, and a key or ""."""

    url: str
    model: str
    key: str


def run(rounds: int = 5, model: str = "") -> dict[str, Any]:
    """Both in turn, `rounds` times, after one unmeasured round; medians and their ratio.

    `model` is one that agentd serves. Without it ``AGENTD_BENCH_URL`` and ``AGENTD_BENCH_MODEL`` may name
    another endpoint, and ``AGENTD_BENCH_KEY_ENV`` the environment variable that holds its key.
    ``AGENTD_BENCH_ROWS`` says how many rows are asked. Raises `InputError` for a key that is not set,
    `NotFound` for a model that is not served.
    """
    folder = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
    count = int(os.environ.get("AGENTD_BENCH_ROWS", ROWS))
    samples: dict[str, list[float]] = {"agentd": [], "bare": []}
    try:
        with contextlib.ExitStack() as stack:
            told, ours, bare = _asked(model, stack)
            for turn in range(rounds + 1):
                for name, measure, asked in (("bare", _bare, bare), ("agentd", _recipe, ours)):
                    # Nobody asks what was asked before: a served model keeps prefixes.
                    rate = measure(_rows(folder / f"{name}-{turn}", count), asked)
                    if turn:
                        samples[name].append(rate)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rates = {name: statistics.median(found) for name, found in samples.items()}
    return {
        "rounds": rounds,
        "rows": count,
        "concurrency": CONCURRENCY,
        "endpoint": told,
        "agentd_rows_per_s": round(rates["agentd"], 1),
        "bare_rows_per_s": round(rates["bare"], 1),
        "ratio": round(rates["agentd"] / rates["bare"], 3),
    }


def _asked(model: str, stack: contextlib.ExitStack) -> tuple[str, Asked, Asked]:
    """What is asked, in words; where the recipe asks it, and where the bare client does."""
    if model:
        return f"{model}, served here", *_served(model)
    url, named = os.environ.get("AGENTD_BENCH_URL", ""), os.environ.get("AGENTD_BENCH_MODEL", "m")
    told = url or f"answers after {ANSWERS_AFTER_S * 1000:.0f} ms"
    both = Asked(url or stack.enter_context(endpoint(ANSWERS_AFTER_S)), named, _key() if url else "")
    return told, both, both


def _key() -> str:
    name = os.environ.get("AGENTD_BENCH_KEY_ENV", "")
    if name and not os.environ.get(name):
        raise InputError(
            f"AGENTD_BENCH_KEY_ENV names {name}, which is not set", hint=f"Put the endpoint's key into {name}"
        )
    return os.environ.get(name, "") if name else ""


def _served(model: str) -> tuple[Asked, Asked]:
    """The gateway as an agent asks it, and the service itself. Raises `NotFound`, `InputError`."""
    if remote():
        raise InputError(
            "A served model is measured on its own machine, and AGENTD_URL names another daemon",
            hint="Run the bench there, or without AGENTD_URL",
        )
    client = connect()
    jobs = [job for job in client.get("/api/jobs", state="live") if (job["service"] or {}).get("ready")]
    for job in jobs:
        if model in job["service"]["serves"]:
            folder = Path(client.get(f"/api/jobs/{job['id']}/attempt")["folder"])
            token = (folder / TOKEN_FILE).read_text(encoding="ascii")
            agent = (state_dir() / AGENT_TOKEN).read_text(encoding="ascii").strip()
            return Asked(f"{client.url}/v1", model, agent), Asked(job["service"]["url"], model, token)
    raise NotFound("served model", model, [name for job in jobs for name in job["service"]["serves"]])


def _rows(folder: Path, count: int) -> Path:
    folder.mkdir()
    path = folder / "rows.jsonl"
    rows = ({"id": str(n), "input": f"{folder.name}: what is {n} + 1?", "expected": ""} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _bare(rows: Path, asked: Asked) -> float:
    command = [sys.executable, "-P", "-c", BARE, str(rows), asked.model, str(CONCURRENCY)]
    return float(_ended(command, asked).stdout)


def _recipe(rows: Path, asked: Asked) -> float:
    spec = {
        "inputs": {"rows": str(rows)},
        "model": asked.model,
        "max_tokens": 16,
        "concurrency": CONCURRENCY,
    }
    (rows.parent / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    recipe = bundled_root() / "tools/recipes/evaluate"
    command = [sys.executable, "-P", str(recipe), str(rows.parent / "spec.json"), str(rows.parent)]
    _ended(command, asked)
    result = json.loads((rows.parent / "result.json").read_text(encoding="utf-8"))
    if result["errors"]:
        raise RuntimeError(f"{result['errors']} of {result['n']} rows got no answer from {asked.url}")
    return result["n"] / result["seconds"]


def _ended(command: list[str], asked: Asked) -> subprocess.CompletedProcess[str]:
    """Run one of the two programs. Raises `AgentdError` with what it said last, should it fail."""
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {URL: asked.url, KEY: asked.key}
    )
    if done.returncode:
        said = [line.strip(" |") for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
        why = said[-1] if said else f"exit code {done.returncode}"
        raise AgentdError(f"{asked.model!r} at {asked.url} could not be asked: {why}")
    return done


@contextlib.contextmanager
def endpoint(answers_after_s: float) -> Generator[str]:
    """The URL of a chat endpoint on loopback that gives every request one answer after so long."""
    program = Path(__file__).with_name("slow_endpoint.py")
    command = [sys.executable, "-P", str(program), str(answers_after_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.terminate()
