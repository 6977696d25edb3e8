"""tools/recipes/evaluate.py against a real HTTP server on loopback that speaks the chat protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

RECIPE = Path(__file__).parents[2] / "tools/recipes/evaluate.py"
Reply = tuple[int, Any]
ROWS = [{"id": f"r{n}", "input": f"say {n}", "expected": str(n), "lang": "en"} for n in range(6)]


def said(text: str | None, **more: Any) -> Reply:
    message = {"role": "assistant", "content": text}
    return 200, {
        "model": "echo-1",
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    } | more


def last(body: Any) -> str:
    return body["messages"][-1]["content"]


@dataclass
class Endpoint:
    """A chat endpoint that answers as `reply` says; `asked` are the bodies it was sent."""

    reply: Callable[[Any, int], Reply]
    asked: list[Any] = field(default_factory=list[Any])
    keys: set[str] = field(default_factory=set[str])
    url: str = ""


@contextmanager
def serving(reply: Callable[[Any, int], Reply], port: int = 0) -> Iterator[Endpoint]:
    endpoint, lock = Endpoint(reply), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                endpoint.asked.append(body)
                endpoint.keys.add(self.headers.get("Authorization", ""))
                times = sum(last(each) == last(body) for each in endpoint.asked)
            status, answer = endpoint.reply(body, times)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status if self.path == "/v1/chat/completions" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def start(folder: Path, url: str, rows: Any = ROWS, **spec: Any) -> subprocess.Popen[str]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = {"inputs": {"rows": str(folder / "rows.jsonl")}, "model": "m", "system": "Echo.", "retries": 2}
    (folder / "spec.json").write_text(json.dumps(given | spec))
    return subprocess.Popen(
        [sys.executable, "-P", str(RECIPE), str(folder / "spec.json"), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "AGENTD_GATEWAY_URL": url, "AGENTD_GATEWAY_KEY": "secret"},
    )


def run(folder: Path, url: str, rows: Any = ROWS, **spec: Any) -> tuple[int, list[Any], str]:
    process = start(folder, url, rows, **spec)
    stdout, stderr = process.communicate(timeout=60)
    return (
        process.returncode,
        [json.loads(line) for line in stdout.splitlines() if line.startswith('{"event"')],
        stderr,
    )


def written(folder: Path) -> tuple[Any, list[Any]]:
    lines = (folder / "out/rows.jsonl").read_text(encoding="utf-8").split("\n")
    return json.loads((folder / "out/result.json").read_text()), [json.loads(line) for line in lines if line]


def echo(body: Any, times: int) -> Reply:
    return said(last(body).removeprefix("say "))


def test_every_row_is_asked_once_and_answers_keep_the_suites_order(tmp_path: Path) -> None:
    with serving(echo) as endpoint:
        code, events, stderr = run(tmp_path, endpoint.url)
    assert code == 0, stderr
    result, rows = written(tmp_path)
    assert [(row["id"], row["output"], row["expected"]) for row in rows] == [
        (row["id"], row["expected"], row["expected"]) for row in ROWS
    ]
    assert len(endpoint.asked) == len(ROWS)
    assert endpoint.keys == {"Bearer secret"}
    counted = {
        name: result[name] for name in ("n", "answered", "errors", "input_tokens", "output_tokens", "models")
    }
    assert counted == {
        "n": 6,
        "answered": 6,
        "errors": 0,
        "input_tokens": 42,
        "output_tokens": 12,
        "models": ["echo-1"],
    }
    assert result["p95_s"] >= result["p50_s"] > 0
    assert events[-1]["event"] == "progress"
    assert (events[-1]["done"], events[-1]["total"], events[-1]["seconds_left"]) == (6, 6, 0)


def test_the_request_carries_prompt_sampling_and_schema_as_given(tmp_path: Path) -> None:
    schema = {"type": "object"}
    with serving(echo) as endpoint:
        run(
            tmp_path,
            endpoint.url,
            user='{lang}: {input} as {"json"} {unknown}',
            schema=schema,
            max_tokens=9,
            seed=5,
            limit=1,
        )
    assert endpoint.asked == [
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Echo."},
                {"role": "user", "content": 'en: say 0 as {"json"} {unknown}'},
            ],
            "max_tokens": 9,
            "temperature": 0,
            "seed": 5,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            },
        }
    ]


@pytest.mark.parametrize(
    "passing", [(503, {"error": {"message": "busy"}}), (429, {}), (200, b"<html>"), (500, b"")]
)
def test_a_passing_failure_is_asked_again(tmp_path: Path, passing: Reply) -> None:
    with serving(lambda body, times: passing if times == 1 else echo(body, times)) as endpoint:
        code, _, stderr = run(tmp_path, endpoint.url)
    assert code == 0, stderr
    assert len(endpoint.asked) == 2 * len(ROWS)
    assert written(tmp_path)[0]["errors"] == 0


@pytest.mark.parametrize(
    ("reply", "asked", "says"),
    [
        ((400, {"error": {"message": "too long"}}), 1, "400 too long"),
        ((503, {"error": {"message": "busy"}}), 3, "503 busy (asked 3 times)"),
        ((200, {"choices": []}), 1, "no choices.0.message"),
    ],
)
def test_a_row_without_an_answer_is_an_error_and_has_no_output(
    tmp_path: Path, reply: Reply, asked: int, says: str
) -> None:
    with serving(lambda body, times: reply if last(body) == "say 3" else echo(body, times)) as endpoint:
        code, _, stderr = run(tmp_path, endpoint.url)
    assert code == 0, stderr
    result, rows = written(tmp_path)
    assert (result["errors"], result["answered"]) == (1, 5)
    assert says in rows[3]["error"]
    assert "output" not in rows[3]
    assert sum(last(body) == "say 3" for body in endpoint.asked) == asked


def test_an_answer_without_content_is_an_empty_output_and_no_error(tmp_path: Path) -> None:
    with serving(lambda body, times: said(None)) as endpoint:
        run(tmp_path, endpoint.url)
    assert [row["output"] for row in written(tmp_path)[1]] == [""] * 6


@pytest.mark.parametrize("status", [401, 402, 404])
def test_what_no_row_can_survive_ends_the_run_with_an_error_event(tmp_path: Path, status: int) -> None:
    with serving(lambda body, times: (status, {"error": {"message": "no such thing"}})) as endpoint:
        code, events, _ = run(tmp_path, endpoint.url)
    assert code == 2
    assert events[-1]["event"] == "error"
    assert f"{status} no such thing" in events[-1]["message"]
    assert events[-1]["hint"]
    assert not (tmp_path / "out/result.json").exists()


def test_no_answer_at_all_is_a_failure_and_not_a_score(tmp_path: Path) -> None:
    with serving(lambda body, times: (400, {"error": {"message": "bad schema"}})) as endpoint:
        code, events, _ = run(tmp_path, endpoint.url)
    assert code == 2
    assert "none of 6 rows was answered: 400 bad schema" in events[-1]["message"]


def test_an_endpoint_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    with serving(echo) as endpoint:
        port = int(endpoint.url.rpartition(":")[2].removesuffix("/v1"))
    process = start(tmp_path, endpoint.url, ROWS)
    with serving(echo, port):
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    assert written(tmp_path)[0]["errors"] == 0


def test_patience_with_an_endpoint_that_stays_away_ends(tmp_path: Path) -> None:
    with serving(echo) as endpoint:
        pass
    code, events, _ = run(tmp_path, endpoint.url, patience_s=0.2)
    assert code == 2
    assert "could not be reached for 0.2 s" in events[-1]["message"]


def test_a_killed_run_goes_on_where_it_was_and_asks_nothing_twice(tmp_path: Path) -> None:
    third, stop = threading.Event(), threading.Event()

    def stuck_from_the_fourth(body: Any, times: int) -> Reply:
        if last(body) == "say 3":
            third.set()
            stop.wait(30)
        return echo(body, times)

    with serving(stuck_from_the_fourth) as endpoint:
        process = start(tmp_path, endpoint.url, ROWS, concurrency=1)
        assert third.wait(30)
        process.kill()
        process.communicate()
        stop.set()
    path = tmp_path / "out/rows.jsonl"
    assert path.read_text().count("\n") == 3
    with path.open("a") as file:
        file.write('{"id": "r3", "outp')
    with serving(echo) as endpoint:
        code, events, stderr = run(tmp_path, endpoint.url)
    assert code == 0, stderr
    assert sorted(last(body) for body in endpoint.asked) == ["say 3", "say 4", "say 5"]
    assert [row["output"] for row in written(tmp_path)[1]] == [row["expected"] for row in ROWS]
    assert events[-1]["done"] == 6


def test_a_row_that_failed_is_asked_again_when_the_run_is_taken_up(tmp_path: Path) -> None:
    with serving(lambda body, times: (400, {}) if last(body) == "say 1" else echo(body, times)) as endpoint:
        run(tmp_path, endpoint.url)
    with serving(echo) as endpoint:
        run(tmp_path, endpoint.url)
    assert [last(body) for body in endpoint.asked] == ["say 1"]
    result, rows = written(tmp_path)
    assert (result["errors"], len(rows)) == (0, 6)


def test_it_ends_promptly_when_told_to(tmp_path: Path) -> None:
    asked, stop = threading.Event(), threading.Event()

    def never(body: Any, times: int) -> Reply:
        asked.set()
        stop.wait(30)
        return echo(body, times)

    with serving(never) as endpoint:
        process = start(tmp_path, endpoint.url)
        assert asked.wait(30)
        process.terminate()
        process.communicate(timeout=10)
        stop.set()
    assert process.returncode != 0
