"""The whole of it, against a retriever that listens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.ingest.conftest import RECIPE, ROOT
from tests.recipes.ingest.pdfs import LOCK, SCAN, line, pdf


class Listener(ThreadingHTTPServer):
    """Speaks the retriever's protocol and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.known: dict[str, str] = {}
        self.texts: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(path)
        if path == "/documents":
            return {"documents": dict(self.known)}
        if path == "/add":
            for document in body["documents"]:
                self.known[document["document"]] = document["digest"]
                self.texts[document["document"]] = document
            return {"added": len(body["documents"]), "updated": 0, "unchanged": 0}
        if path == "/finish":
            gone = self.known.keys() - set(body["keep"])
            for name in gone:
                del self.known[name]
            chunks = sum(len(self.texts[name]["chunks"]) for name in self.known)
            return {"removed": len(gone), "documents": len(self.known), "chunks": chunks}
        if path == "/search":  # whatever holds a word of the question, as far as this collection goes
            asked = set(body["query"].lower().split())
            texts = [(name, document["text"]) for name, document in self.texts.items()]
            found = [(name, text) for name, text in texts if asked & set(text.lower().split())]
            return {"hits": [{"document": name, "text": text} for name, text in found]}
        return {"embedded": 0}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Listener)
        right = self.headers["Authorization"] == "Bearer secret"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        wrong = {"error": {"message": "The bearer token is wrong", "hint": "send the right one"}}
        data = json.dumps(self.server.answer(self.path, body) if right else wrong).encode()
        self.send_response(200 if right else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(
    folder: Path,
    listener: Listener,
    tmp_path: Path,
    *,
    token: str = "secret",
    python: str = sys.executable,
    **spec: Any,
) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Run the recipe as the daemon does: exit code, events, result."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    (out / "result.json").unlink(missing_ok=True)
    url = f"http://127.0.0.1:{listener.server_port}"
    whole = {
        "inputs": {"documents": str(folder)},
        "collection": "handbook",
        "services": {"retriever": {"url": url, "token_env": "RETRIEVER_TOKEN"}},
        **spec,
    }
    (tmp_path / "spec.json").write_text(json.dumps(whole))
    ran = subprocess.run(
        [python, "-P", str(RECIPE), str(tmp_path / "spec.json"), str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "RETRIEVER_TOKEN": token},
        check=False,
    )
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    written = out / "result.json"
    return ran.returncode, events, json.loads(written.read_text()) if written.exists() else {}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "refunds.md").write_bytes("# Refunds\r\n\r\nZurück in 45 Tagen.\r\n".encode())
    (docs / "hours.txt").write_text("Open from nine to five.")
    (docs / "latin.txt").write_bytes(b"caf\xe9")
    return docs


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(
    folder: Path, listener: Listener, tmp_path: Path
) -> None:
    code, events, result = run(folder, listener, tmp_path, root="/the/docs")
    assert code == 0
    assert (result["documents"], result["chunks"], result["added"]) == (2, 2, 2)
    assert result["skipped"] == [
        {
            "path": "/the/docs/latin.txt",
            "why": "not UTF-8: byte 0xe9 at offset 3; convert it to UTF-8, e.g. iconv -f ENCODING -t UTF-8",
        }
    ]
    assert events[-1]["done"] == events[-1]["total"] == 3
    sent = listener.texts["/the/docs/refunds.md"]
    (chunk,) = sent["chunks"]
    assert (folder / "refunds.md").read_bytes()[
        chunk["start"] : chunk["end"]
    ].decode() == "Zurück in 45 Tagen."


def test_only_what_changed_is_sent_again_and_what_is_gone_is_removed(
    folder: Path, listener: Listener, tmp_path: Path
) -> None:
    run(folder, listener, tmp_path)
    (folder / "refunds.md").write_text("# Refunds\n\nIn 30 days.\n")
    (folder / "hours.txt").unlink()
    (folder / "new.md").write_text("New.")
    before = listener.asked.count("/add")
    _, _, result = run(folder, listener, tmp_path)
    assert listener.asked.count("/add") == before + 1
    assert (result["documents"], result["unchanged"], result["removed"]) == (2, 0, 1)
    _, _, result = run(folder, listener, tmp_path)
    assert (result["unchanged"], result["added"], result["removed"]) == (2, 0, 0)


def test_a_long_document_is_embedded_in_pieces_before_it_is_added(listener: Listener, tmp_path: Path) -> None:
    book = tmp_path / "book.md"
    book.write_text("\n\n".join(f"## Chapter {n}\n\nOne sentence — of chapter {n}." for n in range(120)))
    code, _, result = run(book, listener, tmp_path)
    assert (code, result["chunks"]) == (0, 120)
    assert listener.asked == ["/documents", "/embed", "/embed", "/add", "/finish"]


def test_a_wrong_token_ends_the_job_with_what_the_retriever_said(
    folder: Path, listener: Listener, tmp_path: Path
) -> None:
    code, events, result = run(folder, listener, tmp_path, token="wrong")
    assert (code, result) == (2, {})
    assert events == [
        {"event": "error", "message": "The bearer token is wrong", "hint": "send the right one"}
    ]


def test_what_was_indexed_stays_when_the_system_does_not_give_it_any_more(
    folder: Path, listener: Listener, tmp_path: Path
) -> None:
    run(folder, listener, tmp_path)
    (folder / "refunds.md").unlink()
    (folder / "refunds.md").symlink_to(folder / ("n" * 300))  # looking it up fails, for root too
    (folder / "hours.txt").write_bytes(b"\x7fELF\0")
    _, _, result = run(folder, listener, tmp_path)
    why = {Path(row["path"]).name: row["why"] for row in result["skipped"]}
    assert (result["documents"], result["removed"]) == (2, 0), "both as they were read before"
    assert "cannot be read (File name too long)" in why["refunds.md"]
    assert "binary" in why["hours.txt"]
    assert why["hours.txt"].endswith("what was read of it before stays in the index")


def test_rows_are_documents_and_only_those_that_changed_are_sent_again(
    listener: Listener, tmp_path: Path
) -> None:
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    (beir / "queries.jsonl").write_text('{"_id": "q", "text": "Which?"}\n')
    corpus = beir / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "title": "T", "text": "One."}\n{"_id": "b", "text": "Two."}\n{}\n')
    _, events, result = run(beir, listener, tmp_path)
    assert (result["documents"], events[-1]["done"], events[-1]["total"]) == (2, 3, 3)
    assert {row["path"].rpartition("/")[2] for row in result["skipped"]} == {
        "corpus.jsonl#3",
        "queries.jsonl",
        "test.tsv",
    }
    sent = listener.texts[f"{corpus}#a"]
    assert (sent["title"], sent["text"], sent["row"], sent["own_text"]) == ("T", "One.", 1, True)
    corpus.write_text('{"_id": "b", "text": "Two."}\n{"_id": "a", "text": "New."}\n')
    _, _, result = run(beir, listener, tmp_path)
    assert (result["unchanged"], result["removed"], result["documents"]) == (1, 0, 2)
    assert listener.texts[f"{corpus}#a"]["text"] == "New."


def test_ways_of_chunking_are_scored_on_the_same_questions_and_dropped_again(
    listener: Listener, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "refunds.txt").write_text("Refunds take five days.")
    asked = tmp_path / "questions.jsonl"
    rows = [
        ("refunds", "Refunds take five days."),
        ("refunds", "Refunds are free."),
        ("hours", "Nine to five."),
    ]
    asked.write_text("".join(json.dumps({"question": q, "passage": p}) + "\n" for q, p in rows))
    inputs = {"documents": str(docs), "questions": str(asked)}
    ways = ["structure", "fixed", "hierarchical"]
    code, _, result = run(docs, listener, tmp_path, inputs=inputs, compare=ways)
    assert code == 0
    assert [row["strategy"] for row in result["measured"]] == ways
    assert [row["scores"] for row in result["measured"]] == [{"1": 1.0, "2": 0.3333, "3": 0.0}] * 3
    assert listener.asked.count("/drop") == 3


def test_questions_without_a_passage_are_refused_by_their_line(listener: Listener, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A.")
    (tmp_path / "q.jsonl").write_text('{"question": "?", "passage": "A."}\n{"question": "?"}\n')
    inputs = {"documents": str(docs), "questions": str(tmp_path / "q.jsonl")}
    code, events, _ = run(docs, listener, tmp_path, inputs=inputs, compare=["structure"])
    assert (code, listener.asked) == (2, [])
    assert "line 2: no question with its passage" in events[-1]["message"]


def test_a_folder_without_documents_removes_nothing(listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, events, _ = run(tmp_path / "empty", listener, tmp_path)
    assert (code, listener.asked) == (2, [])
    assert "No document under" in events[-1]["message"]


WORD = """
import sys
import docx
document = docx.Document()
document.add_heading("Returns", 0)
document.add_heading("By post", 1)
document.add_paragraph("Within 45 days – with the receipt.")
table = document.add_table(1, 3)
for cell, text in zip(table.rows[0].cells, ("Parcel", "5 €", "free")):
    cell.text = text
table.rows[0].cells[1].merge(table.rows[0].cells[2])
document.save(sys.argv[1])
"""


CODE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from parsers import parser_of
from strategies import STRATEGIES, Way, cut
for path in map(Path, sys.argv[2:]):
    data = path.read_bytes()
    parsed = parser_of(path)(data)
    pieces = [(b.heading, parsed.text[b.start:b.end]) for b in parsed.blocks]
    assert parsed.text.encode() == data and not parsed.own_text
    names = {name for heading, _ in pieces for name in heading}
    assert {"Way", "one", "two"} <= names, names
    assert next(text for heading, text in pieces if heading == ("Way", "one")).rstrip("} ;\\n").endswith("1")
    for chunk in cut(parsed, Way("recursive", 20, 5)):
        assert len(data[chunk.start:chunk.end].decode().split()) <= 20
"""
PYTHON = (
    f'class Way:\n    """{"Long. " * 200}"""\n\n    # why\n'
    "    def one(self):\n        return 1\n\n\ndef two(): ...\n"
)
JAVA = f"class Way {{\n  // {'Long. ' * 200}\n  int one() {{ return 1; }}\n  class two {{}}\n}}\n"
TYPESCRIPT = (
    f"export class Way {{\n  // {'Long. ' * 200}\n  one(): number {{ return 1 }}\n}}\nfunction two() {{}}\n"
)
RUST = (
    f"// {'Long. ' * 200}\nimpl Way {{\n  // {'Long. ' * 200}\n  fn one() -> i32 {{ 1 }}\n}}\nfn two() {{}}\n"
)
CPP = f"namespace Way {{\n// {'Long. ' * 200}\nint one() {{ return 1; }}\n}}\nint two() {{ return 2; }}\n"


@pytest.mark.slow
def test_source_code_is_cut_by_its_definitions(interpreter: Callable[[str], Path], tmp_path: Path) -> None:
    sources = {".py": PYTHON, ".java": JAVA, ".ts": TYPESCRIPT, ".rs": RUST, ".cpp": CPP}
    for ending, source in sources.items():
        (tmp_path / f"a{ending}").write_text(source)
    files = [str(tmp_path / f"a{ending}") for ending in sources]
    ran = subprocess.run(
        [str(interpreter("ingest")), "-c", CODE, str(RECIPE), *files], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_html_pdf_and_word_keep_a_text_of_their_own_with_headings_and_pages(
    interpreter: Callable[[str], Path], listener: Listener, tmp_path: Path
) -> None:
    python = interpreter("ingest")
    broken = tmp_path / "more"
    broken.mkdir()
    for name in ("warranty.html", "gift-cards.pdf"):
        (broken / name).write_bytes((ROOT / "evals/data/handbook" / name).read_bytes())
    (broken / "cut.pdf").write_bytes((broken / "gift-cards.pdf").read_bytes()[:900])
    (broken / "none.html").write_text("<nav>only a menu</nav>")
    (broken / "locked.pdf").write_bytes(pdf([line("Secret.")], LOCK))
    (broken / "scan.pdf").write_bytes(pdf([SCAN]))
    (broken / "half.pdf").write_bytes(pdf([line("The first page."), SCAN]))
    (broken / "blank.pdf").write_bytes(pdf([b""]))
    (broken / "none.pdf").write_bytes(b"")
    (broken / "many.pdf").write_bytes(pdf([b""] * 5001))
    subprocess.run([python, "-c", WORD, str(broken / "returns.docx")], check=True)
    (broken / "old.docx").write_bytes(b"\xd0\xcf\x11\xe0 and more")
    (broken / "torn.docx").write_bytes((broken / "returns.docx").read_bytes()[:2000])
    code, _, result = run(broken, listener, tmp_path, python=str(python))
    assert code == 0
    assert {Path(row["path"]).name: row["why"] for row in result["skipped"]} == {
        "blank.pdf": "the PDF has no text",
        "cut.pdf": "the PDF is malformed: get it anew, or mend it, e.g. qpdf IN OUT",
        "locked.pdf": "the PDF is encrypted: decrypt it first, e.g. qpdf --decrypt --password=… IN OUT",
        "many.pdf": "5001 pages; at most 5000 are read: split it",
        "none.html": "the page has no text",
        "none.pdf": "the file is empty",
        "old.docx": "an encrypted or an old Word document: save it as DOCX without a password",
        "torn.docx": "the Word document is malformed: get it anew",
        "scan.pdf": "the PDF has no text layer, a scan: ingest it with ocr=eng, or run ocrmypdf IN OUT",
    }
    (warning,) = result["warnings"]
    assert warning["path"].endswith("half.pdf")
    assert warning["why"].startswith("pages without a text layer: 2; ingest it with ocr")
    page = listener.texts[str(broken / "warranty.html")]
    text = page["text"].encode()
    assert page["own_text"]
    assert page["title"] == "Warranty and repairs"
    pieces = {tuple(c["heading"]): text[c["start"] : c["end"]].decode() for c in page["chunks"]}
    assert (
        "Sharpening of a knife | 7 euros | 1 week"
        in pieces["Warranty and repairs", "Repairs outside the warranty"]
    )
    assert "window.loaded" not in page["text"]
    cards = listener.texts[str(broken / "gift-cards.pdf")]
    assert {c["page"] for c in cards["chunks"]} == {1, 2}
    assert ["Expiry"] in [c["heading"] for c in cards["chunks"]]
    word = listener.texts[str(broken / "returns.docx")]
    told = word["text"].encode()
    assert (word["title"], word["own_text"]) == ("Returns", True)
    assert [(c["heading"], told[c["start"] : c["end"]].decode()) for c in word["chunks"]] == [
        ([], "Returns"),
        (["By post"], "Within 45 days – with the receipt.\n\nParcel | 5 € free"),
    ]
