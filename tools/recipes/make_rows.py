# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Turn indexed documents into training rows, each tied to the bytes it came from and checked against them.

    python -P make_rows.py SPEC OUT

SPEC
    collection          what was ingested
    kind                qa: question and answer; passage_qa: the passage stands in the question;
                        instruction: explain a heading with what stands under it
    rows (200)          as many as are wanted; fewer if the documents do not bear them
    per_document (0)    at most so many of one document; 0 for no limit
    model               catalog model that writes the questions; "" for rules
    system              system prompt put before each row; "" for none
    evidence (0.5)      least evidence of the retriever that its documents answer the question
    top (3)             the source must be among so many sentences found for the question
    seed (0), concurrency (8)
    services.retriever  {"url", "token_env"}; AGENTD_GATEWAY_URL and AGENTD_GATEWAY_KEY with a model
OUT
    rows.jsonl          {"prompt", "completion", "document", "source", "made_by", "checks"}; the source is
                        {document, source, title, heading, page, start, end, text, sha256}
    dropped.jsonl       {"question", "source", "why"}: what was tried and not kept
    result.json         rows, tried, documents, dropped: {why: count}, made_by, seconds

A row is kept when: its source bytes are read back and equal; the question is a question, is no copy of the
answer and speaks of no "passage"; and, asked of the index, it finds its own sentence again with enough
evidence. The answer is the source's own sentence, never a model's.

Not covered: whether the question is one that people would ask. That is what a review is for.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHORTEST, LONGEST = 6, 60  # words of a sentence that can bear a question
QUESTION_WORDS = (4, 40)
COPIED = 0.8  # share of the answer's content words that a question may repeat
POINTING = re.compile(
    r"\b(passage|sentence|text|paragraph|statement|document above|according to the)\b", re.IGNORECASE
)
WORD = re.compile(r"[\w'-]+")
STOP_WORDS = (
    "a an and are as at be been but by can could did do does for from had has have how if in into is it its"
    " may more most must no not of on one only or other our out should so some such than that the their them"
    " then there these they this to up was we were what when where which who will with would you your"
)
STOP = frozenset(STOP_WORDS.split())
ASK = """Write one short question that the sentence answers. Write only the question.

Topic: Returns > Deadlines
Sentence: Goods can be sent back within 30 days of delivery.
Question: How many days do I have to send goods back?

Topic: {topic}
Sentence: {sentence}
Question:"""


class Refused(Exception):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


# --- the services -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """POSTs JSON. Everything that is asked here may be asked again."""

    url: str
    token: str
    name: str

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url.rstrip("/") + path, json.dumps(body).encode(), headers)
        for pause in (0.5, 2.0, 5.0, None):
            try:
                with urllib.request.urlopen(request, timeout=300) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if pause is None or error.code < 500:
                    raise Refused(f"The {self.name} answered {error.code}: {_said(error)}") from None
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if pause is None:
                    raise Refused(f"The {self.name} at {self.url} does not answer: {error}") from None
            time.sleep(pause)
        raise AssertionError("unreachable")


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return error.reason


def spans(retriever: Service, collection: str) -> Iterator[dict[str, Any]]:
    """Every sentence of the collection with its place."""
    after = 0
    while True:
        part = retriever.post("/spans", {"collection": collection, "after": after, "limit": 200})
        yield from part["spans"]
        if part["next"] is None:
            return
        after = part["next"]


# --- what can be asked about ------------------------------------------------------------------


def content(text: str) -> list[str]:
    return [word for word in WORD.findall(text.lower()) if word not in STOP and len(word) > 1]


def bears_a_question(span: Mapping[str, Any]) -> bool:
    text = span["text"]
    count = len(WORD.findall(text))
    prose = text[:1].isupper() or text[:1].isdigit() or "|" in text
    return SHORTEST <= count <= LONGEST and prose and not text.rstrip().endswith(("?", ":"))


def read_back(span: Mapping[str, Any]) -> bool:
    """Whether the source still holds just this text at these bytes."""
    try:
        with Path(span["source"]).open("rb") as file:
            file.seek(span["start"])
            return file.read(span["end"] - span["start"]) == span["text"].encode()
    except OSError:
        return False


def topic(span: Mapping[str, Any]) -> str:
    return " > ".join(dict.fromkeys(filter(None, [span["title"], *span["heading"]])))


def by_rule(span: Mapping[str, Any], rarity: Mapping[str, int]) -> str:
    """A question from the sentence's rarest words and its heading: plain, and always about something said."""
    heading = (span["heading"] or [span["title"]])[-1]
    known = set(content(heading))
    words = [w for w in dict.fromkeys(WORD.findall(span["text"])) if w.lower() in rarity and w.isalpha()]
    rare = sorted((w for w in words if w.lower() not in known), key=lambda w: (rarity[w.lower()], -len(w)))[
        :2
    ]
    about = " and ".join(sorted(rare, key=words.index))
    place = f" when it comes to {heading[:1].lower()}{heading[1:]}" if heading else ""
    return f"What do I need to know about {about}{place}?"


def by_model(gateway: Service, model: str, span: Mapping[str, Any], seed: int) -> str:
    prompt = ASK.format(topic=topic(span), sentence=span["text"])
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 48,
        "temperature": 0,
        "seed": seed,
    }
    said = gateway.post("/chat/completions", body)["choices"][0]["message"].get("content") or ""
    first = next((line.strip() for line in said.splitlines() if line.strip()), "")
    return first.removeprefix("Question:").strip().strip('"')


# --- whether it may stay ----------------------------------------------------------------------


def wrong_with(question: str, span: Mapping[str, Any]) -> str:
    """What disqualifies a question before the index is asked; "" if nothing does."""
    count = len(WORD.findall(question))
    if not question.endswith("?") or question.count("?") > 1:
        return "no single question"
    if not QUESTION_WORDS[0] <= count <= QUESTION_WORDS[1]:
        return "too short or too long"
    if POINTING.search(question):
        return "speaks of a text that nobody will see"
    answer = set(content(span["text"]))
    if answer and len(answer & set(content(question))) > COPIED * len(answer):
        return "repeats the answer"
    return ""


def round_trip(
    retriever: Service, collection: str, question: str, span: Mapping[str, Any], top: int, least: float
) -> tuple[str, dict[str, Any]]:
    """What is wrong ("" if nothing), and the figures: the question must lead back to its sentence."""
    found = retriever.post(
        "/sentences", {"collection": collection, "question": question, "limit": max(top, 5)}
    )
    same = [
        rank
        for rank, each in enumerate(found["sentences"], 1)
        if each["source"] == span["source"] and each["start"] < span["end"] and span["start"] < each["end"]
    ]
    figures = {"rank": same[0] if same else None, "evidence": found["evidence"]}
    if not same or same[0] > top:
        return "does not lead back to its sentence", figures
    return ("" if found["evidence"] >= least else "too little evidence"), figures


# --- rows -------------------------------------------------------------------------------------


def as_row(kind: str, system: str, question: str, span: Mapping[str, Any]) -> dict[str, Any]:
    asked = question
    if kind == "passage_qa":
        asked = f"{topic(span)}\n\n{span['passage']}\n\n{question}"
    elif kind == "instruction":
        asked = f"Explain what applies to {topic(span)}."
    messages = [{"role": "system", "content": system}] if system else []
    answer = span["passage"] if kind == "instruction" else span["text"]
    return {
        "prompt": [*messages, {"role": "user", "content": asked}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def source_of(span: Mapping[str, Any]) -> dict[str, Any]:
    names = ("document", "source", "title", "heading", "page", "start", "end", "text")
    return {name: span[name] for name in names} | {
        "sha256": hashlib.sha256(span["text"].encode()).hexdigest()
    }


@dataclass
class Work:
    """Tries spans one after the other until there are rows enough."""

    spec: Mapping[str, Any]
    retriever: Service
    gateway: Service | None
    rarity: Mapping[str, int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    documents: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def run(self, chosen: list[dict[str, Any]]) -> None:
        wanted, size = int(self.spec.get("rows", 200)), int(self.spec.get("concurrency", 8))
        with ThreadPoolExecutor(size) as pool:
            for at in range(0, len(chosen), size):
                part = [span for span in chosen[at : at + size] if self.has_room(span)]
                for span, outcome in zip(part, pool.map(self.attempt, part), strict=True):
                    self.keep(span, *outcome)
                self.progress(wanted)
                if len(self.rows) >= wanted:
                    del self.rows[wanted:]
                    return

    def has_room(self, span: Mapping[str, Any]) -> bool:
        most = int(self.spec.get("per_document", 0))
        return not most or self.documents[span["document"]] < most

    def attempt(self, span: dict[str, Any]) -> tuple[str, str, str, dict[str, Any]]:
        """(question, who made it, what is wrong, figures)"""
        if not read_back(span):
            return "", "", "its source has changed", {}
        if self.spec.get("kind") == "instruction":
            return topic(span), "rule", "", {}
        asked = [(by_rule(span, self.rarity), "rule")]
        if self.gateway:
            question = by_model(self.gateway, self.spec["model"], span, int(self.spec.get("seed", 0)))
            asked = [(question, self.spec["model"])]
        question, who = asked[0]
        if wrong := wrong_with(question, span):
            return question, who, wrong, {}
        wrong, figures = round_trip(
            self.retriever,
            self.spec["collection"],
            question,
            span,
            int(self.spec.get("top", 3)),
            float(self.spec.get("evidence", 0.5)),
        )
        return question, who, wrong, figures

    def keep(
        self, span: dict[str, Any], question: str, who: str, wrong: str, figures: dict[str, Any]
    ) -> None:
        key = " ".join(content(question))
        if not wrong and (key in self.asked or not self.has_room(span)):
            wrong = "asked before" if key in self.asked else "enough of this document"
        if wrong:
            self.dropped.append({"question": question, "source": source_of(span), "why": wrong})
            return
        self.asked.add(key)
        self.documents[span["document"]] += 1
        row = as_row(self.spec.get("kind", "qa"), self.spec.get("system", ""), question, span)
        self.rows.append(
            {
                **row,
                "document": span["document"],
                "source": source_of(span),
                "made_by": who,
                "checks": figures,
            }
        )

    def progress(self, wanted: int) -> None:
        rate = len(self.rows) / max(1e-6, time.monotonic() - self.began)
        left = (wanted - len(self.rows)) / rate if rate else None
        emit(
            "progress",
            done=min(wanted, len(self.rows)),
            total=wanted,
            unit="rows",
            rows_per_s=round(rate, 2),
            seconds_left=left,
        )


def choose(found: Iterable[dict[str, Any]], kind: str, seed: int) -> list[dict[str, Any]]:
    """What is tried, in an order that takes all documents in turn. For instructions, one span a passage."""
    # Neighbouring passages overlap: a sentence in both is tried once.
    placed = {(span["source"], span["start"], span["end"]): span for span in found if bears_a_question(span)}
    usable = list(placed.values())
    if kind == "instruction":
        first: dict[tuple[str, int], dict[str, Any]] = {}
        for span in usable:
            first.setdefault((span["source"], span["chunk"]), span | span["whole"])
        usable = list(first.values())
    random.Random(seed).shuffle(usable)
    turn: Counter[str] = Counter()
    ranked: list[tuple[int, int, dict[str, Any]]] = []
    for place, span in enumerate(usable):
        ranked.append((turn[span["document"]], place, span))
        turn[span["document"]] += 1
    return [span for _, _, span in sorted(ranked, key=lambda item: item[:2])]


def make(spec: Mapping[str, Any], out: Path) -> dict[str, Any]:
    began = time.monotonic()
    service = spec["services"]["retriever"]
    retriever = Service(service["url"], os.environ.get(service["token_env"], ""), "retriever")
    gateway = None
    if spec.get("model"):
        gateway = Service(
            os.environ["AGENTD_GATEWAY_URL"], os.environ.get("AGENTD_GATEWAY_KEY", ""), "gateway"
        )
    found = list(spans(retriever, spec["collection"]))
    rarity = Counter(word for span in found for word in set(content(span["text"])))
    chosen = choose(found, spec.get("kind", "qa"), int(spec.get("seed", 0)))
    if not chosen:
        raise Refused(
            f"No sentence of {spec['collection']!r} can bear a question", "Ingest documents with prose"
        )
    work = Work(spec, retriever, gateway, rarity)
    work.run(chosen)
    write_lines(out / "dropped.jsonl", work.dropped)
    if not work.rows:
        raise Refused(
            f"None of {len(work.dropped)} questions passed the checks",
            f"See {out / 'dropped.jsonl'}; try a better model, or lower evidence",
        )
    write_lines(out / "rows.jsonl", work.rows)
    return {
        "rows": len(work.rows),
        "tried": len(work.rows) + len(work.dropped),
        "documents": len(work.documents),
        "dropped": dict(Counter(row["why"] for row in work.dropped)),
        "made_by": dict(Counter(row["made_by"] for row in work.rows)),
        "seconds": round(time.monotonic() - began, 3),
    }


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    part = path.with_suffix(".tmp")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)


def main(spec_path: str, out: str) -> int:
    try:
        result = make(json.loads(Path(spec_path).read_text(encoding="utf-8")), Path(out))
    except Refused as error:
        emit("error", message=error.message, hint=error.hint)
        return 2
    partial = Path(out, "result.json.tmp")
    partial.write_text(json.dumps(result, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(Path(out, "result.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
