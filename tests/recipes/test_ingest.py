"""tools/recipes/ingest.py: offsets to the byte, files that cannot be read, and what the retriever is told."""

from __future__ import annotations

import itertools
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
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import load

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools/recipes/ingest.py"


recipe = load(RECIPE)

words = st.sampled_from(
    ["order", "Größe", "返品", "naïve.", "two", "Euro €5.", "🙂", "end!", "- item", "| a | b |"]
)
breaks = st.sampled_from(
    [" ", "\n", "\r\n", "\n\n", "\r\n\r\n", "\n# Head\n\n", "\n- ", "\t", "\u2028", "\x0c"]
)
documents = st.lists(st.tuples(words, breaks), max_size=60).map(
    lambda pairs: "".join(w + b for w, b in pairs)
)
anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)
marks = st.sampled_from([b"", b"\xef\xbb\xbf"])


def cut(data: bytes, suffix: str, longest: int, overlap: int) -> tuple[Any, list[Any]]:
    parsed = recipe.parser_of(Path(f"a{suffix}"))(data)
    return parsed, recipe.chunks_of(parsed, longest, overlap)


@given(
    st.one_of(documents, anything),
    marks,
    st.sampled_from([".md", ".txt", ".py", ".jsonl"]),
    st.integers(2, 40),
)
@settings(max_examples=300, deadline=None)
def test_every_chunk_is_a_range_of_the_files_own_bytes(
    text: str, mark: bytes, suffix: str, longest: int
) -> None:
    data = mark + text.encode()
    if not data.strip():
        return
    parsed, chunks = cut(data, suffix, longest, longest // 3)
    assert not parsed.own_text
    assert parsed.text.encode() == data
    for chunk in chunks:
        piece = data[chunk.start : chunk.end].decode()  # raises inside of a character
        assert piece == piece.strip()
        assert not piece.startswith("\ufeff")
        assert recipe.size(piece) <= longest


@given(documents, st.integers(5, 40))
@settings(max_examples=200, deadline=None)
def test_no_word_of_a_text_is_lost_between_chunks(text: str, longest: int) -> None:
    data = text.encode()
    if not data.strip():
        return
    _, chunks = cut(data, ".txt", longest, 0)
    inside = "".join("".join(data[c.start : c.end].decode().split()) for c in chunks)
    assert inside == "".join(text.split())


def test_a_chunk_knows_the_headings_above_it_and_never_crosses_one() -> None:
    text = "# Shop\n\nIntro.\n\n## Refunds\n\nIn 45 days.\n\n### Bulky\n\nWe collect.\n\n## Hours\n\nNine.\n"
    parsed, chunks = cut(text.encode(), ".md", 200, 30)
    assert parsed.title == "Shop"
    assert [(c.heading, text[c.start : c.end]) for c in chunks] == [
        (("Shop",), "Intro."),
        (("Shop", "Refunds"), "In 45 days."),
        (("Shop", "Refunds", "Bulky"), "We collect."),
        (("Shop", "Hours"), "Nine."),
    ]


def test_front_matter_gives_the_title_and_is_no_chunk() -> None:
    data = b"---\r\ntitle: 'Returns'\r\n---\r\nSend it back.\r\n"
    parsed, chunks = cut(data, ".md", 200, 30)
    assert parsed.title == "Returns"
    assert [data[c.start : c.end] for c in chunks] == [b"Send it back."]


def test_a_long_section_is_cut_between_sentences_and_neighbours_share_one() -> None:
    text = " ".join(f"Sentence number {n} has seven words here." for n in range(20))
    _, chunks = cut(text.encode(), ".txt", 30, 8)
    pieces = [text[c.start : c.end] for c in chunks]
    assert all(piece.startswith("Sentence") and piece.endswith("here.") for piece in pieces)
    for before, after in itertools.pairwise(pieces):
        assert after.startswith(before[before.rindex("Sentence") :])


def test_a_pdf_line_becomes_a_heading_only_before_a_paragraph() -> None:
    lines = [
        "Buying a card",
        "The value is free to choose between ten and two hundred and fifty euros, and",
        "a message of up to three hundred characters is printed on it. The receiver finds",
        "the code below the message, and the card is sent at once.",
        "one two",
        "three four",
    ]
    assert list(recipe.reflow(lines)) == [
        ("heading", "Buying a card"),
        ("text", " ".join(lines[1:4])),
        ("text", "one two three four"),
    ]


def test_a_word_broken_by_a_hyphen_is_joined_again() -> None:
    assert recipe.joined(["a non-", "stick pan", "Made"]) == "a non-stick pan Made"


def test_links_out_of_the_folder_and_hidden_files_are_not_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "docs", tmp_path / "secret.md"
    (inside / ".git").mkdir(parents=True)
    (inside / ".git/config.md").write_text("hidden")
    (inside / "a.md").write_text("a")
    outside.write_text("secret")
    (inside / "b.md").symlink_to(outside)
    (inside / "c.md").symlink_to(inside / "nothing")
    (inside / "up").symlink_to(tmp_path)
    found = {path.name: why for path, why in recipe.find_files(inside, "")}
    assert found == {
        "a.md": "",
        "b.md": "a symbolic link that leads out of the folder",
        "c.md": "a symbolic link to nothing",
        "up": "a symbolic link to a folder is not followed",
    }


@pytest.mark.parametrize(
    ("path", "pattern", "wanted"),
    [
        ("a.md", "*.md", True),
        ("a.md", "**/*.md", True),
        ("x/a.md", "**/*.md", True),
        ("a.txt", "*.md", False),
    ],
)
def test_patterns_match_as_in_a_shell(path: str, pattern: str, wanted: bool) -> None:
    assert recipe.matches(path, pattern) is wanted


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"caf\xe9", "not UTF-8: byte 0xe9 at offset 3"),
        (b"\x7fELF\0", "not a text"),
    ],
)
def test_bytes_that_are_no_text_say_why(data: bytes, why: str) -> None:
    with pytest.raises(recipe.Unreadable, match=why):
        recipe.parse_text(data)


# --- against a retriever that listens ---------------------------------------------------------


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
        {"path": "/the/docs/latin.txt", "why": "not UTF-8: byte 0xe9 at offset 3; convert it"}
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


def test_a_folder_without_documents_removes_nothing(listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, events, _ = run(tmp_path / "empty", listener, tmp_path)
    assert (code, listener.asked) == (2, [])
    assert "No document under" in events[-1]["message"]


@pytest.mark.slow
def test_html_and_pdf_keep_a_text_of_their_own_with_headings_and_pages(
    interpreter: Callable[[str], Path], listener: Listener, tmp_path: Path
) -> None:
    python = interpreter("ingest")
    broken = tmp_path / "more"
    broken.mkdir()
    for name in ("warranty.html", "gift-cards.pdf"):
        (broken / name).write_bytes((ROOT / "evals/data/handbook" / name).read_bytes())
    (broken / "cut.pdf").write_bytes((broken / "gift-cards.pdf").read_bytes()[:900])
    (broken / "none.html").write_text("<nav>only a menu</nav>")
    code, _, result = run(broken, listener, tmp_path, python=str(python))
    assert code == 0
    assert {Path(row["path"]).name: row["why"] for row in result["skipped"]} == {
        "cut.pdf": "the PDF is malformed",
        "none.html": "the page has no text",
    }
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
    pdf = listener.texts[str(broken / "gift-cards.pdf")]
    assert {c["page"] for c in pdf["chunks"]} == {1, 2}
    assert ["Expiry"] in [c["heading"] for c in pdf["chunks"]]
