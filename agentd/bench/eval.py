"""Rows per second of the evaluate recipe, beside a bare asynchronous client that asks the same.

Both are programs of their own and ask the same endpoint, with as many requests at a time. Unless a served
model is named, that is a process on loopback that answers every request after a fixed time, as a model
that is not at its limit would. The recipe looks for answers that were kept, and keeps every answer, retries
and tells how far it is; the bare client posts and reads JSON, and keeps nothing.

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
from typing import Any

from agentd.plugins import bundled_root

__all__ = ["run"]

ROWS = 1000
CONCURRENCY = 16
ANSWERS_AFTER_S = 0.05
BARE = """
import asyncio, json, sys, time
import httpx
url, model, concurrency = sys.argv[2], sys.argv[3], int(sys.argv[4])
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
async def main():
    waiting, answers = list(reversed(rows)), []
    async def work():
        while waiting:
            message = {"role": "user", "content": waiting.pop()["input"]}
            body = {"model": model, "messages": [message], "max_tokens": 16, "temperature": 0, "seed": 0}
            answers.append((await http.post("chat/completions", json=body)).raise_for_status().json())
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url + "/", limits=limits, timeout=120, trust_env=False) as http:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
        print(len(answers) / (time.perf_counter() - started))
asyncio.run(main())
"""


def run(rounds: int = 5) -> dict[str, Any]:
    """Both in turn, `rounds` times, after one unmeasured round; medians and their ratio.

    ``AGENTD_BENCH_URL`` and ``AGENTD_BENCH_MODEL`` name a served model instead, ``AGENTD_BENCH_ROWS`` how
    many rows it is asked.
    """
    folder = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
    url, model = os.environ.get("AGENTD_BENCH_URL", ""), os.environ.get("AGENTD_BENCH_MODEL", "m")
    count = int(os.environ.get("AGENTD_BENCH_ROWS", ROWS))
    samples: dict[str, list[float]] = {"agentd": [], "bare": []}
    try:
        with contextlib.ExitStack() as stack:
            url = url or stack.enter_context(_endpoint())
            for turn in range(rounds + 1):
                for name, measure in (("bare", _bare), ("agentd", _recipe)):
                    # Nobody asks what was asked before: a served model keeps prefixes.
                    rate = measure(_rows(folder / f"{name}-{turn}", count), url, model)
                    if turn:
                        samples[name].append(rate)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rates = {name: statistics.median(found) for name, found in samples.items()}
    return {
        "rounds": rounds,
        "rows": count,
        "concurrency": CONCURRENCY,
        "endpoint": os.environ.get("AGENTD_BENCH_URL", f"answers after {ANSWERS_AFTER_S * 1000:.0f} ms"),
        "agentd_rows_per_s": round(rates["agentd"], 1),
        "bare_rows_per_s": round(rates["bare"], 1),
        "ratio": round(rates["agentd"] / rates["bare"], 3),
    }


def _rows(folder: Path, count: int) -> Path:
    folder.mkdir()
    path = folder / "rows.jsonl"
    rows = ({"id": str(n), "input": f"{folder.name}: what is {n} + 1?", "expected": ""} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _bare(rows: Path, url: str, model: str) -> float:
    command = [sys.executable, "-P", "-c", BARE, str(rows), url, model, str(CONCURRENCY)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _recipe(rows: Path, url: str, model: str) -> float:
    spec = {
        "inputs": {"rows": str(rows)},
        "model": model,
        "base_url": url,
        "max_tokens": 16,
        "concurrency": CONCURRENCY,
    }
    (rows.parent / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    recipe = bundled_root() / "tools/recipes/evaluate.py"
    command = [sys.executable, "-P", str(recipe), str(rows.parent / "spec.json"), str(rows.parent)]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads((rows.parent / "result.json").read_text(encoding="utf-8"))
    if result["errors"]:
        raise RuntimeError(f"{result['errors']} of {result['n']} rows got no answer from {url}")
    return result["n"] / result["seconds"]


@contextlib.contextmanager
def _endpoint() -> Generator[str]:
    program = Path(__file__).with_name("slow_endpoint.py")
    command = [sys.executable, "-P", str(program), str(ANSWERS_AFTER_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.terminate()
