"""tools/retrieve.py against a retriever that listens: citations hold, unsupported claims are dropped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from pydantic import ValidationError

from agentd.plugins import Plugins, bundled_root
from agentd.sdk import (
    Alias,
    ChatResult,
    Conflict,
    DataError,
    Finished,
    InputError,
    Launch,
    Model,
    NotFound,
    ServiceView,
    Unavailable,
)

retrieve = Plugins((bundled_root(),)).module("tools", "retrieve")


class Listener(ThreadingHTTPServer):
    """Answers each path with what the test put there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, dict[str, Any]] = {
            "/collections": {
                "collections": [{"name": "handbook", "documents": 1, "chunks": 1}],
                "embedder": "minilm-l6",
            }
        }
        self.asked: list[tuple[str, dict[str, Any]]] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.asked.append(
            (self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        )
        data = json.dumps(self.server.answers[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class Bench:
    """The part of a Context that these tools use; the service behind it is real HTTP."""

    principal = "user:ann"

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.cwd = folder, folder
        self.catalog = self.services = self
        self.view: ServiceView | None = None
        self.url = url
        self.models = {"minilm-l6": Model(name="minilm-l6", kind="local", path=folder)}
        self.launched: list[Launch] = []
        self.says = ""

    def run(self) -> None:
        self.view = ServiceView(job_id="job-1", name="retriever", url=self.url, token="t", ready=True)

    def path(self, text: str) -> Path:
        if not (self.folder / text).exists():
            raise NotFound("path", text)
        return self.folder / text

    def data_dir(self, name: str) -> Path:
        return self.folder / "state" / name

    def price(self, seconds: float) -> int:
        return round(seconds * 10)

    def get(self, name: str) -> Model:
        if name not in self.models:
            raise NotFound("model", name, self.models)
        return self.models[name]

    def alias(self, name: str) -> Alias | None:
        return None

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> ChatResult:
        return ChatResult(request_id="r", model=model, text=self.says, why="")

    def find(self, name: str) -> ServiceView | None:
        return self.view

    async def ensure(self, name: str, launch: Launch) -> ServiceView | None:
        self.launched.append(launch)
        return self.view

    async def request(
        self, service: ServiceView, path: str, body: Mapping[str, Any], *, timeout_s: float = 30.0
    ) -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            return (await client.post(service.url + path, json=dict(body))).json()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def bench(tmp_path: Path, listener: Listener) -> Bench:
    return Bench(tmp_path, f"http://127.0.0.1:{listener.server_port}")


def call(tool: Any, bench: Bench, **arguments: Any) -> Any:
    """Check the arguments as the daemon does, then call."""
    checked = tool.arguments(**arguments)
    given = {name: getattr(checked, name) for name in tool.arguments.model_fields}
    return asyncio.run(tool.handler(cast("Any", bench), **given))


TEXT = "Größe zählt.\nRefunds take 3 to 5 working days.\r\nCards are accepted."


def cited(folder: Path, text: str, **more: Any) -> dict[str, Any]:
    source = folder / "refunds.md"
    source.write_bytes(TEXT.encode())
    start = TEXT.encode().index(text.encode())
    place = {
        "source": str(source),
        "document": str(source),
        "page": None,
        "title": "Refunds",
        "heading": ["A"],
    }
    return {
        "text": text,
        "start": start,
        "end": start + len(text.encode()),
        "chunk": 1,
        "score": 0.9,
        **place,
        **more,
    }


def told(listener: Listener, sentences: list[dict[str, Any]], evidence: float = 0.9) -> None:
    listener.answers["/sentences"] = {
        "answer": sentences[:1],
        "sentences": sentences,
        "evidence": evidence,
        "missing": ["giraffes"],
    }


def test_a_retriever_that_is_not_there_is_asked_for_and_the_caller_told_to_come_again(bench: Bench) -> None:
    with pytest.raises(Unavailable, match="starting") as refused:
        call(retrieve.search, bench, query="refunds")
    assert refused.value.hint == "call again with the same arguments"
    (launch,) = bench.launched
    assert launch.recipe == "serve_retriever"
    assert launch.inputs == {"embedder": bench.folder}
    assert launch.service is not None


def test_without_an_embedder_the_hint_says_how_to_get_it(bench: Bench) -> None:
    bench.models.clear()
    with pytest.raises(InputError) as refused:
        call(retrieve.search, bench, query="refunds")
    assert refused.value.hint == "agentd call get_model source=minilm-l6"


def test_an_unknown_collection_offers_the_nearest(bench: Bench) -> None:
    bench.run()
    with pytest.raises(NotFound, match="handbook"):
        call(retrieve.search, bench, query="refunds", collection="handbok")


def test_a_hit_whose_source_has_changed_is_stale(bench: Bench, listener: Listener) -> None:
    bench.run()
    hit = cited(bench.folder, "Refunds take 3 to 5 working days.", rank=1)
    listener.answers["/search"] = {"hits": [hit]}
    assert not call(retrieve.search, bench, query="refunds", collection="handbook").hits[0].stale
    Path(hit["source"]).write_text("Rewritten.")
    assert call(retrieve.search, bench, query="refunds", collection="handbook").hits[0].stale


def test_an_answer_quotes_bytes_that_are_there(bench: Bench, listener: Listener) -> None:
    bench.run()
    told(listener, [cited(bench.folder, "Refunds take 3 to 5 working days.")])
    answer = call(retrieve.answer, bench, question="How long?", collection="handbook")
    assert answer.text == "Refunds take 3 to 5 working days. [1]"
    (citation,) = answer.citations
    assert Path(citation.source).read_bytes()[citation.start : citation.end].decode() == citation.text
    assert not answer.abstained


def test_weak_evidence_is_no_answer_but_names_what_is_missing(bench: Bench, listener: Listener) -> None:
    bench.run()
    told(listener, [cited(bench.folder, "Cards are accepted.")], evidence=0.4)
    answer = call(retrieve.answer, bench, question="Giraffes?", collection="handbook")
    assert (answer.abstained, answer.citations, answer.missing) == (True, [], ["giraffes"])
    assert answer.text == "The documents in 'handbook' do not speak of 'giraffes'."


def test_a_source_that_changed_is_not_quoted(bench: Bench, listener: Listener) -> None:
    bench.run()
    sentence = cited(bench.folder, "Cards are accepted.")
    told(listener, [sentence])
    Path(sentence["source"]).write_text("short")
    answer = call(retrieve.answer, bench, question="Cards?", collection="handbook")
    assert answer.abstained
    assert "Ingest it again" in answer.text


def test_only_sentences_of_a_model_that_a_citation_bears_out_are_kept(
    bench: Bench, listener: Listener
) -> None:
    bench.run()
    bench.models["small"] = Model(name="small", kind="local")
    told(
        listener,
        [
            cited(bench.folder, "Refunds take 3 to 5 working days."),
            cited(bench.folder, "Cards are accepted."),
        ],
    )
    bench.says = "You wait 3 to 5 days. [1] It is free! [2] Cash too. [9]"
    good = {"similarity": 0.8, "coverage": 0.7, "contradicts": False}
    listener.answers["/support"] = {"support": [[good], [{**good, "coverage": 0.1}]]}
    answer = call(retrieve.answer, bench, question="How long?", collection="handbook", model="small")
    assert answer.text == "You wait 3 to 5 days. [1]"
    assert [citation.text for citation in answer.citations] == ["Refunds take 3 to 5 working days."]
    listener.answers["/support"] = {
        "support": [[{**good, "contradicts": True}], [{**good, "similarity": 0.2}]]
    }
    answer = call(retrieve.answer, bench, question="How long?", collection="handbook", model="small")
    assert (answer.abstained, answer.citations) == (True, [])


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("It costs 4.90 euros. [1][2] Yes.", [("It costs 4.90 euros.", [0, 1]), ("Yes.", [0, 1])]),
        ("NO ANSWER.", []),
        ("Made up. [7]", []),
        ("- one [1]\n- two [2]", [("- one", [0]), ("- two", [1])]),
    ],
)
def test_claims_come_with_what_they_cite(text: str, claims: list[tuple[str, list[int]]]) -> None:
    assert retrieve.claims_of(text, 2) == claims


def test_ingest_takes_a_pattern_and_quotes_by_size(bench: Bench) -> None:
    (bench.folder / "docs/deep").mkdir(parents=True)
    (bench.folder / "docs/a.md").write_text("a" * 9000)
    (bench.folder / "docs/deep/b.md").write_text("b")
    launch = call(retrieve.ingest, bench, path="docs/**/*.md", collection="handbook")
    assert launch.inputs == {"documents": (bench.folder / "docs").resolve()}
    assert (launch.spec["glob"], launch.needs) == ("**/*.md", ("retriever",))
    assert launch.quote.basis.startswith("2 files")
    small = call(retrieve.ingest, bench, path="docs/deep", collection="handbook")
    assert small.quote.seconds < launch.quote.seconds
    assert small.spec["timing_key"] == launch.spec["timing_key"]


def test_ingest_refuses_what_cannot_work_before_anybody_is_asked(bench: Bench) -> None:
    (bench.folder / "empty").mkdir()
    with pytest.raises(DataError, match="no document"):
        call(retrieve.ingest, bench, path="empty")
    with pytest.raises(InputError, match="overlap 50"):
        call(retrieve.ingest, bench, path="empty", words=40, overlap=50)
    with pytest.raises(ValidationError):
        call(retrieve.ingest, bench, path="empty", collection="../up")


def test_ingest_with_another_embedder_than_the_running_one_is_a_conflict(bench: Bench) -> None:
    bench.run()
    bench.models["other"] = Model(name="other", kind="local", path=bench.folder)
    (bench.folder / "a.md").write_text("a")
    with pytest.raises(Conflict, match="embeds with 'minilm-l6', not with 'other'"):
        call(retrieve.ingest, bench, path="a.md", embedder="other")


def test_what_an_ingest_left_is_its_result(bench: Bench) -> None:
    result = {"collection": "handbook", "documents": 1}
    finished = Finished("job-2", {}, result, bench.folder, 1.0)
    assert retrieve.ingest.on_done(cast("Any", bench), finished) == result


def test_a_private_collection_is_seen_and_written_by_its_owner_alone(bench: Bench) -> None:
    bench.run()
    (bench.folder / "a.md").write_text("a")
    data = bench.data_dir("retriever")
    data.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(data / "store.sqlite")) as store:
        store.executescript(
            "CREATE TABLE collections(id INTEGER PRIMARY KEY, name, embedder, owner, staging_of);"
            "CREATE TABLE documents(id INTEGER PRIMARY KEY, collection);"
            "CREATE TABLE chunks(id INTEGER PRIMARY KEY, document);"
            "INSERT INTO collections VALUES(1, 'ours', 'e', '', NULL), (2, 'hers', 'e', 'user:eve', NULL),"
            " (3, 'mine', 'e', 'user:ann', NULL), (4, 'ours under way', 'e', '', 1);"
        )
    seen = call(retrieve.list_collections, bench).collections
    assert [(row.name, row.owner) for row in seen] == [("mine", "user:ann"), ("ours", "")]
    for name, private in (("hers", False), ("hers", True), ("ours", True)):
        with pytest.raises(Conflict, match="belongs to"):
            call(retrieve.ingest, bench, path="a.md", collection=name, private=private)
    for name, private, owner in (("ours", False, ""), ("mine", False, "user:ann"), ("new", True, "user:ann")):
        launch = call(retrieve.ingest, bench, path="a.md", collection=name, private=private)
        assert launch.spec["owner"] == owner


def test_a_search_names_who_asks_and_passes_filters_on(bench: Bench, listener: Listener) -> None:
    bench.run()
    listener.answers["/search"] = {"hits": []}
    call(retrieve.search, bench, query="refund", collection="handbook", where={"tags": ["law"]})
    assert listener.asked[0] == ("/collections", {"principal": "user:ann"})
    assert listener.asked[1][1]["where"] == {"tags": ["law"]}
