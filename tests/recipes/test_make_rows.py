"""tools/recipes/make_rows.py against a retriever on loopback that holds three sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load

RECIPE = Path(__file__).parents[2] / "tools/recipes/make_rows.py"
TEXT = """# Lager

Pakete über 20 kg werden von zwei Personen in das große Regal gehoben.
Defekte Ware kommt am selben Tag in den roten Behälter neben der Rampe.
Der Schlüssel zum Tresor hängt abends nie mehr hinter der grünen Tür.
"""


recipe = load(RECIPE)


class Retriever(ThreadingHTTPServer):
    """Knows the sentences of one document, and finds the one that shares most words with a question."""

    def __init__(self, document: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        data = document.read_bytes()
        self.spans: list[dict[str, Any]] = []
        for number, line in enumerate(TEXT.splitlines()[2:]):
            start = data.index(line.encode())
            end = start + len(line.encode())
            named = {
                "document": str(document),
                "source": str(document),
                "title": "Lager",
                "heading": ["Lager"],
            }
            placed = {"page": None, "start": start, "end": end, "text": line, "chunk": number}
            whole = {"text": line, "start": start, "end": end}
            self.spans.append(named | placed | {"passage": line, "whole": whole})
        self.evidence = 0.9
        self.said: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Retriever

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/spans":
            answer: dict[str, Any] = {"spans": self.server.spans, "next": None}
        elif self.path == "/sentences":
            asked = set(recipe.content(body["question"]))
            ranked = sorted(self.server.spans, key=lambda s: -len(asked & set(recipe.content(s["text"]))))
            answer = {"sentences": ranked[:1], "evidence": self.server.evidence}
        else:
            said = self.server.said.pop(0) if self.server.said else "What is it?"
            answer = {"choices": [{"message": {"content": said}}]}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def retriever(tmp_path: Path) -> Iterator[Retriever]:
    document = tmp_path / "lager.md"
    document.write_text(TEXT, encoding="utf-8")
    server = Retriever(document)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(retriever: Retriever, folder: Path, **spec: Any) -> tuple[int, list[dict[str, Any]], str]:
    url = f"http://127.0.0.1:{retriever.server_port}"
    given = {"collection": "c", "concurrency": 1, "services": {"retriever": {"url": url, "token_env": "T"}}}
    out = folder / "out"
    out.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(given | spec), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", str(RECIPE), str(folder / "spec.json"), str(out)],
        env={**os.environ, "AGENTD_GATEWAY_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    kept = out / "rows.jsonl"
    rows = (
        [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    )
    return done.returncode, rows, done.stdout


def test_each_row_holds_the_very_bytes_that_it_names(retriever: Retriever, tmp_path: Path) -> None:
    code, rows, _ = run(retriever, tmp_path)
    assert (code, len(rows)) == (0, 3)
    for row in rows:
        source = row["source"]
        assert Path(source["source"]).read_bytes()[source["start"] : source["end"]].decode() == source["text"]
        assert row["completion"][0]["content"] == source["text"]
        assert row["made_by"] == "rule"


def test_a_row_whose_document_changed_is_dropped_with_the_reason(
    retriever: Retriever, tmp_path: Path
) -> None:
    document = tmp_path / "lager.md"
    document.write_text(TEXT.replace("zwei", "drei"), encoding="utf-8")
    _, rows, _ = run(retriever, tmp_path)
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert [each["why"] for each in dropped] == ["its source has changed"]
    assert "Pakete" in dropped[0]["source"]["text"]


def test_a_models_question_stays_only_if_it_leads_back_to_its_sentence(
    retriever: Retriever, tmp_path: Path
) -> None:
    retriever.spans = retriever.spans[1:]
    retriever.said = ["Question: Wohin kommt defekte Ware am selben Tag?"] * 2
    code, rows, _ = run(retriever, tmp_path, model="m")
    assert code == 0
    assert [(row["made_by"], row["source"]["text"][:12]) for row in rows] == [("m", "Defekte Ware")]
    assert rows[0]["prompt"][-1]["content"] == "Wohin kommt defekte Ware am selben Tag?"


def test_too_little_evidence_leaves_nothing_and_says_what_to_do(retriever: Retriever, tmp_path: Path) -> None:
    retriever.evidence = 0.2
    code, rows, said = run(retriever, tmp_path)
    assert (code, rows) == (2, [])
    error = json.loads(said.splitlines()[-1])
    assert "None of 3 questions passed" in error["message"]
    assert not (tmp_path / "out/result.json").exists()


def test_a_passage_stands_in_the_question_where_it_was_asked_for(
    retriever: Retriever, tmp_path: Path
) -> None:
    _, rows, _ = run(retriever, tmp_path, kind="passage_qa", system="Antworte.")
    assert all(row["source"]["text"] in row["prompt"][1]["content"] for row in rows)
    assert {row["prompt"][0]["content"] for row in rows} == {"Antworte."}


@pytest.mark.parametrize(
    ("question", "wrong"),
    [
        ("Where do defective goods go on the same day?", ""),
        ("Where do defective goods go", "no single question"),
        ("Where?", "too short or too long"),
        ("What does the passage say about goods?", "speaks of a text that nobody will see"),
        ("Do defective goods go into the red bin on the same day?", "repeats the answer"),
    ],
)
def test_a_question_must_be_one_that_somebody_without_the_text_could_ask(question: str, wrong: str) -> None:
    span = {"text": "Defective goods go into the red bin on the same day."}
    assert recipe.wrong_with(question, span) == wrong
