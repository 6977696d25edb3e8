# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx==0.28.1"]
# ///
"""Ask an OpenAI-compatible endpoint every row of a suite and keep the answers. Scores nothing.

    AGENTD_GATEWAY_URL=http://127.0.0.1:8000/v1 python -P evaluate.py SPEC OUT

SPEC
    inputs.rows     JSONL of {"id", "input", "expected", …}
    model           model or alias
    system, user    the prompt; {name} in `user` stands for a field of the row
    schema          JSON Schema that answers must follow (constrained decoding), or null
    max_tokens, temperature (0), seed (0), concurrency (16), limit (0: all rows)
    timeout_s (120) for one answer; retries (4) of a failed one
    patience_s (120) for an endpoint that refuses connections, as while it restarts
    base_url, key_env   instead of AGENTD_GATEWAY_URL and AGENTD_GATEWAY_KEY
OUT
    rows.jsonl      the rows with "output", or with "error" and no output: an error is never a zero
    result.json     n, answered, errors, seconds, input_tokens, output_tokens, tokens_per_s, p50_s, p95_s,
                    models (who said it answered)

Answers are written as they come. Started again on the same OUT, it asks only what is still open.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import httpx

PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
# Nothing that is asked will be answered: wrong key, no money left, no such model or path.
FATAL = {401, 402, 403, 404, 405}
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 20.0


class RowFailed(Exception):
    """This row has no answer; the others may."""


class RowDelayed(Exception):
    """This row may be answered when asked again, `wait_s` later if that is not 0."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Hopeless(Exception):
    """No row will be answered until somebody mends something."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


# --- rows -----------------------------------------------------------------------------------


def read_rows(path: Path, limit: int) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    return rows[:limit] if limit else rows


def read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """Answers of an interrupted run by id. A last line cut short by the interruption is dropped."""
    answers: dict[str, dict[str, Any]] = {}
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    for line in whole.splitlines():
        row = json.loads(line)
        if "error" not in row:
            answers[row["id"]] = row
    return answers


def replace(path: Path, text: str) -> None:
    part = path.with_suffix(".tmp")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- asking ---------------------------------------------------------------------------------


def request_body(spec: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    def filled(match: re.Match[str]) -> str:
        value = row.get(match[1], match[0])
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    messages = [{"role": "system", "content": spec["system"]}] if spec.get("system") else []
    user = re.sub(r"\{(\w+)\}", filled, spec.get("user", "{input}"))
    body: dict[str, Any] = {
        "model": spec["model"],
        "messages": [*messages, {"role": "user", "content": user}],
        "max_tokens": spec.get("max_tokens", 256),
        "temperature": spec.get("temperature", 0),
        "seed": spec.get("seed", 0),
    }
    if spec.get("schema"):
        wanted = {"name": "answer", "schema": spec["schema"], "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}
    return body


@dataclass
class Asker:
    """Asks with retries: exponential back-off with full jitter, or as the endpoint's Retry-After says."""

    http: httpx.AsyncClient
    retries: int
    patience_s: float
    jitter: random.Random
    last_reached: float = field(default_factory=time.monotonic)

    async def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The endpoint's answer. Raises `RowFailed` for one that will not come, or `Hopeless`."""
        import httpx

        failures = 0
        while True:
            try:
                return await self.once(body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                # Nobody was asked, so this is no try: the endpoint may be restarting.
                self.check_patience(error)
                await asyncio.sleep(self.jitter.uniform(0.1, 2.0))
            except RowDelayed as error:
                failures += 1
                if failures > self.retries:
                    raise RowFailed(f"{error} (asked {failures} times)") from error
                longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**failures)
                await asyncio.sleep(error.wait_s or self.jitter.uniform(0, longest))

    async def once(self, body: Mapping[str, Any]) -> dict[str, Any]:
        import httpx

        try:
            response = await self.http.post("chat/completions", json=body)
            self.last_reached = time.monotonic()
            return response.json() if response.is_success else self.refused(response)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise
        except httpx.TransportError as error:
            raise RowDelayed(f"{type(error).__name__}: {error}") from error
        except json.JSONDecodeError as error:
            raise RowDelayed(f"the endpoint's answer is not JSON: {error}") from error

    def refused(self, response: httpx.Response) -> NoReturn:
        status, said = response.status_code, f"{response.status_code} {message_of(response)}"
        if status in FATAL:
            raise Hopeless(
                f"{self.http.base_url} refuses: {said}", "Check model, key and budget, then run again"
            )
        if status not in PASSING:
            raise RowFailed(said)
        after = response.headers.get("retry-after", "")
        raise RowDelayed(said, min(float(after), 60.0) if after.isdigit() else 0.0)

    def check_patience(self, error: Exception) -> None:
        if time.monotonic() - self.last_reached > self.patience_s:
            raise Hopeless(
                f"{self.http.base_url} could not be reached for {self.patience_s:g} s: {error}",
                "Start the endpoint, then run the same evaluation again",
            ) from error


def message_of(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError):
        return response.text[:500]


def read_answer(row: Mapping[str, Any], answer: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    try:
        choice = answer["choices"][0]
        output = choice["message"].get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise RowFailed(
            f"the endpoint's answer has no choices.0.message: {json.dumps(answer)[:300]}"
        ) from error
    usage = answer.get("usage") or {}
    return {
        **row,
        "output": output,
        "finish_reason": choice.get("finish_reason"),
        "model": answer.get("model", ""),
        "seconds": round(seconds, 4),
        "input_tokens": usage.get("prompt_tokens", 0),
        "output_tokens": usage.get("completion_tokens", 0),
    }


@dataclass
class Run:
    spec: Mapping[str, Any]
    asker: Asker
    journal: IO[str]
    total: int
    kept: int
    answers: dict[str, dict[str, Any]]
    started: float = field(default_factory=time.monotonic)
    last_event: float = 0.0
    asked: int = 0
    output_tokens: int = 0

    async def work(self, waiting: asyncio.Queue[dict[str, Any]]) -> None:
        while not waiting.empty():
            row = waiting.get_nowait()
            began = time.monotonic()
            try:
                answer = await self.asker.ask(request_body(self.spec, row))
                done = read_answer(row, answer, time.monotonic() - began)
            except RowFailed as error:
                done = {**row, "error": str(error)}
            self.record(done)

    def record(self, row: dict[str, Any]) -> None:
        self.answers[row["id"]] = row
        self.asked += 1
        self.output_tokens += row.get("output_tokens", 0)
        self.journal.write(as_lines([row]))
        self.journal.flush()
        os.fsync(self.journal.fileno())
        now = time.monotonic()
        if now - self.last_event > 0.5 or self.kept + self.asked == self.total:
            self.last_event = now
            self.progress(now - self.started)

    def progress(self, seconds: float) -> None:
        done = self.kept + self.asked
        rate = self.asked / max(seconds, 1e-6)
        emit(
            "progress",
            done=done,
            total=self.total,
            unit="rows",
            seconds_left=round((self.total - done) / rate, 1),
            rows_per_s=round(rate, 2),
            tokens_per_s=round(self.output_tokens / max(seconds, 1e-6), 1),
            errors=sum("error" in row for row in self.answers.values()),
        )


async def ask_all(spec: Mapping[str, Any], rows: list[dict[str, Any]], path: Path) -> Run:
    import httpx

    answers = read_answers(path)
    replace(path, as_lines(list(answers.values())))
    open_rows = [row for row in rows if row["id"] not in answers]
    concurrency = max(1, min(spec.get("concurrency", 16), len(open_rows) or 1))
    waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    for row in open_rows:
        waiting.put_nowait(row)
    base_url = spec.get("base_url") or os.environ["AGENTD_GATEWAY_URL"]
    key = os.environ.get(spec.get("key_env") or "AGENTD_GATEWAY_KEY", "")
    async with httpx.AsyncClient(
        base_url=base_url.rstrip("/") + "/",
        # A proxy from the environment is meant for the world outside, not for the daemon's gateway.
        trust_env=bool(spec.get("base_url")),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(spec.get("timeout_s", 120), connect=10),
        limits=httpx.Limits(max_connections=concurrency),
    ) as http:
        asker = Asker(
            http, spec.get("retries", 4), spec.get("patience_s", 120), random.Random(spec.get("seed", 0))
        )
        with path.open("a", encoding="utf-8") as journal:
            run = Run(spec, asker, journal, len(rows), len(rows) - len(open_rows), answers)
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(run.work(waiting))
    return run


# --- result ---------------------------------------------------------------------------------


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0


def summary(rows: list[dict[str, Any]], run: Run) -> dict[str, Any]:
    answered = [row for row in rows if "error" not in row]
    seconds = time.monotonic() - run.started
    latencies = [row["seconds"] for row in answered]
    return {
        "n": len(rows),
        "answered": len(answered),
        "errors": len(rows) - len(answered),
        "seconds": round(seconds, 3),
        "input_tokens": sum(row["input_tokens"] for row in answered),
        "output_tokens": sum(row["output_tokens"] for row in answered),
        "tokens_per_s": round(run.output_tokens / max(seconds, 1e-6), 1),
        "p50_s": quantile(latencies, 0.5),
        "p95_s": quantile(latencies, 0.95),
        "models": sorted({row["model"] for row in answered}),
    }


def evaluate(spec: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Answer every row into ``out/rows.jsonl``, in the suite's order. Raises `Hopeless`."""
    if not (spec.get("base_url") or os.environ.get("AGENTD_GATEWAY_URL")):
        raise Hopeless("there is no endpoint to ask", "Set 'base_url' in the spec or AGENTD_GATEWAY_URL")
    rows = read_rows(Path(spec["inputs"]["rows"]), spec.get("limit", 0))
    path = out / "rows.jsonl"
    run = asyncio.run(ask_all(spec, rows, path))
    ordered = [run.answers[row["id"]] for row in rows]
    result = summary(ordered, run)
    if not result["answered"]:
        why = ordered[0]["error"] if ordered else "there are no rows"
        raise Hopeless(
            f"none of {len(rows)} rows was answered: {why}", "Try the model with one message first"
        )
    replace(path, as_lines(ordered))
    return result


def main(spec_path: Path, out: Path) -> int:
    try:
        result = evaluate(json.loads(spec_path.read_text(encoding="utf-8")), out)
    except* Hopeless as group:
        first = group.exceptions[0]
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        emit("error", message=str(first), hint=getattr(first, "hint", ""))
        return_code = 2
    else:
        replace(out / "result.json", json.dumps(result))
        return_code = 0
    return return_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
