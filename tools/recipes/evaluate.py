# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "httpx==0.28.1",
#   "krippendorff==0.9.0",
#   "numpy==2.4.6",
#   "rouge-score==0.1.2",
#   "sacrebleu==2.6.0",
#   "scikit-learn==1.9.1",
#   "scipy==1.17.1",
# ]
# ///
"""Ask an OpenAI-compatible endpoint every row of a suite, and judges about the answers; score them.

    AGENTD_GATEWAY_URL=http://127.0.0.1:8000/v1 python -P evaluate.py SPEC OUT

SPEC
    inputs.rows       JSONL of {"id", "input", "expected", …}
    inputs.redteam    more such rows, scored apart (optional)
    model             model or alias; null: the rows have an "output" each, and are only scored
    system, user      the prompt; {name} in `user` stands for a field of the row
    examples          messages between the two, as few-shot turns (optional)
    schema            JSON Schema that answers must follow (constrained decoding), or null
    max_tokens, temperature (0), seed (0), samples (1) of each row, logprobs (false), stream (false)
    concurrency (16), limit (0: all rows)
    timeout_s (120) for one answer; retries (4) of a failed one
    patience_s (120) for an endpoint that refuses connections, as while it restarts
    base_url, key_env   instead of AGENTD_GATEWAY_URL and AGENTD_GATEWAY_KEY
    identity          what the model is, beyond its name; answers are kept under it
    answers           SQLite file that keeps answers, shared by runs (OUT/answers.sqlite)
    answers_mb        how large it may grow (512); the least used go first
    fresh             true: answers from before this run was first started are not used
    unserved          {model or alias: the model that is not served}: these are not asked, all their answers
                      must have been kept
    prices            {model: [input, output]}, micro-USD a million tokens
    metrics           [{"name", "scorer" or "judge", "options", "files"}], the primary one first; may be empty
    slices            fields of rows by which the primary metric is broken down
    judges            {metric: {"model", "identity", "system", "show", "scale", "pairwise", …}}
    inputs.scoring, inputs.statistics, inputs.scorer-NAME   evals/scoring.py, tools/verdict.py and the
                      scorers, if there are metrics
OUT
    rows.jsonl        the rows with "output" (and "outputs"), "scores", "score" of the primary metric, or
                      with "error" and no score: an error is never a zero
    redteam.jsonl     the same of the red-team rows
    result.json       n, answered, errors, cached, seconds, input_tokens, output_tokens, tokens_per_s, p50_s,
                      p95_s, first_p50_s, first_p95_s, micro_usd, spent_micro_usd, cut_short, models (who
                      said it answered), rendered_sha256 (of the messages of all rows), metrics, slices and
                      redteam as in evals/scoring.py, versions

An answer is kept the moment it has come, by the digest of model, messages and options, so one that was
kept is never asked for again: not after kill -9, not by another run, not to be scored otherwise. What is
under way at a kill, at most `concurrency` requests, is asked again. Errors are not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import random
import re
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import httpx

Row = dict[str, Any]
Body = dict[str, Any]
Reply = dict[str, Any]
"""An answer as it is kept: text, model, finish_reason, seconds, input_tokens, output_tokens …; or "error"."""

PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
# Nothing that is asked will be answered: wrong key, no money left, no such model or path.
FATAL = {401, 402, 403, 404, 405}
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 20.0
EVENT_S = 0.5
CLOSED = r"<\\/"
LIBRARIES = ("httpx", "krippendorff", "numpy", "rouge-score", "sacrebleu", "scikit-learn", "scipy")


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


def read_rows(path: Path, limit: int = 0) -> list[Row]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    return rows[:limit] if limit else rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def replace(path: Path, text: str) -> None:
    part = path.with_suffix(".tmp")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def value_at(row: Mapping[str, Any], dotted: str) -> Any:
    value: Any = row
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


# --- questions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """One request. Its key is what the answer depends on; "" stands for nothing that can be known."""

    body: Body
    key: str

    @classmethod
    def of(cls, body: Body, identity: Any, sample: int = 0) -> Question:
        asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        what = json.dumps([identity, sample, asked], sort_keys=True, separators=(",", ":"))
        return cls(body, hashlib.sha256(what.encode()).hexdigest())


def messages_of(spec: Mapping[str, Any], row: Row) -> list[dict[str, str]]:
    def filled(match: re.Match[str]) -> str:
        value = row.get(match[1], match[0])
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    messages = [{"role": "system", "content": spec["system"]}] if spec.get("system") else []
    user = re.sub(r"\{(\w+)\}", filled, spec.get("user", "{input}"))
    return [*messages, *spec.get("examples", ()), {"role": "user", "content": user}]


def rendered(spec: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The SHA-256 of all that the rows are asked in, as it is sent."""
    said = json.dumps([messages_of(spec, row) for row in rows], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def questions_of(spec: Mapping[str, Any], row: Row) -> list[Question]:
    """One for every sample of the row."""
    body: Body = {
        "model": spec["model"],
        "messages": messages_of(spec, row),
        "max_tokens": spec.get("max_tokens", 256),
        "temperature": spec.get("temperature", 0),
        "seed": spec.get("seed", 0),
    }
    if spec.get("schema"):
        body["response_format"] = constrained_to(spec["schema"])
    if spec.get("logprobs"):
        body["logprobs"] = True
    if spec.get("stream"):
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    identity = spec.get("identity") or [spec["model"], base_url_of(spec)]
    return [
        Question.of({**body, "seed": body["seed"] + sample}, identity, sample)
        for sample in range(spec.get("samples", 1))
    ]


def constrained_to(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


# --- what was answered before ---------------------------------------------------------------


class Answers:
    """Answers by key, in one SQLite file that runs may share.

    Every answer is written when it comes, without waiting for the disk: a killed process loses none of
    them, and a power cut at most those of the last moments.
    """

    def __init__(self, path: Path, since: float = 0.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._since = since
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=60)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers"
                " (key TEXT PRIMARY KEY, answer TEXT NOT NULL, at REAL NOT NULL, used REAL NOT NULL)"
            )
        except sqlite3.DatabaseError as error:
            raise Hopeless(
                f"The kept answers in {str(path)!r} cannot be read: {error}", "Remove it"
            ) from error

    def find(self, key: str) -> Reply | None:
        row = self._db.execute("SELECT answer FROM answers WHERE key = ? AND at >= ?", (key, self._since))
        found = row.fetchone()
        return json.loads(found[0]) if found else None

    def keep(self, key: str, reply: Reply) -> None:
        now = time.time()
        text = json.dumps(reply, ensure_ascii=False, separators=(",", ":"))
        self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, text, now, now))

    def close(self, used: Iterable[str], most_bytes: int) -> None:
        """Note what was of use, and drop what was not for longest until the rest fits."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("UPDATE answers SET used = ? WHERE key = ?", ((time.time(), k) for k in used))
        self._db.execute(
            "DELETE FROM answers WHERE key IN (SELECT key FROM (SELECT key, SUM(LENGTH(answer))"
            " OVER (ORDER BY used DESC, key) AS size FROM answers) WHERE size > ?)",
            (most_bytes,),
        )
        self._db.execute("COMMIT")
        self._db.close()


# --- asking ---------------------------------------------------------------------------------


@dataclass
class Asker:
    """Asks with retries: exponential back-off with full jitter, or as the endpoint's Retry-After says."""

    http: httpx.AsyncClient
    retries: int
    patience_s: float
    jitter: random.Random
    last_reached: float = field(default_factory=time.monotonic)

    async def ask(self, body: Body) -> Reply:
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

    async def once(self, body: Body) -> Reply:
        import httpx

        began = time.monotonic()
        try:
            if body.get("stream"):
                return await self.streamed(body, began)
            response = await self.http.post("chat/completions", json=body)
            self.last_reached = time.monotonic()
            answer = response.json() if response.is_success else self.refused(response)
            return read_answer(answer, self.last_reached - began)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise
        except httpx.TransportError as error:
            raise RowDelayed(f"{type(error).__name__}: {error}") from error
        except json.JSONDecodeError as error:
            raise RowDelayed(f"the endpoint's answer is not JSON: {error}") from error

    async def streamed(self, body: Body, began: float) -> Reply:
        """The same by server-sent events, which tells when the first token came."""
        whole: dict[str, Any] = {"choices": [{"message": {"content": ""}}]}
        choice, first_s, logprobs, ended = whole["choices"][0], None, [], False
        async with self.http.stream("POST", "chat/completions", json=body) as response:
            self.last_reached = time.monotonic()
            if not response.is_success:
                await response.aread()
                self.refused(response)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                if (data := line[5:].strip()) == "[DONE]":
                    ended = True
                    break
                chunk = json.loads(data)
                if "error" in chunk:
                    raise RowDelayed(f"the stream broke off: {json.dumps(chunk['error'])[:300]}")
                whole |= {name: chunk[name] for name in ("model", "usage") if chunk.get(name)}
                for part in chunk.get("choices") or ():
                    said = (part.get("delta") or {}).get("content") or ""
                    if said and first_s is None:
                        first_s = time.monotonic() - began
                    choice["message"]["content"] += said
                    choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
                    logprobs += (part.get("logprobs") or {}).get("content") or ()
        if not ended and not choice.get("finish_reason"):
            raise RowDelayed("the stream ended before the answer did")
        if logprobs:
            choice["logprobs"] = {"content": logprobs}
        reply = read_answer(whole, time.monotonic() - began)
        return reply if first_s is None else reply | {"first_s": round(first_s, 4)}

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


def read_answer(answer: Any, seconds: float) -> Reply:
    try:
        choice = answer["choices"][0]
        text = choice["message"].get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise RowFailed(
            f"the endpoint's answer has no choices.0.message: {json.dumps(answer)[:300]}"
        ) from error
    usage = answer.get("usage") or {}
    reply: Reply = {
        "text": text,
        "finish_reason": choice.get("finish_reason"),
        "model": (answer.get("agentd") or {}).get("model") or answer.get("model", ""),
        "seconds": round(seconds, 4),
        "input_tokens": usage.get("prompt_tokens") or 0,
        "output_tokens": usage.get("completion_tokens") or 0,
    }
    if tokens := (choice.get("logprobs") or {}).get("content"):
        reply["logprobs"] = [round(token["logprob"], 5) for token in tokens]
    if prompt := answer.get("prompt_logprobs"):
        reply["prompt_logprobs"] = [prompt_logprob(token) for token in prompt]
    return reply


def prompt_logprob(token: Mapping[str, Any] | None) -> float | None:
    """vLLM lists the prompt's own token first, perhaps with likelier ones after it."""
    return round(next(iter(token.values()))["logprob"], 5) if token else None


@dataclass
class Desk:
    """Puts questions, many at a time, each key once; what was answered before is not asked."""

    asker: Asker
    answers: Answers
    concurrency: int
    unserved: Mapping[str, str] = field(default_factory=dict[str, str])
    used: set[str] = field(default_factory=set[str])
    asked: int = 0
    asked_tokens: int = 0
    spent: list[Reply] = field(default_factory=list[Reply])

    async def ask(self, questions: Sequence[Question], unit: str) -> list[Reply]:
        """A reply to each, in order, one with "error" where there is no answer. Raises `Hopeless`."""
        found: dict[str, Reply] = {}
        waiting: deque[Question] = deque()
        for question in {question.key: question for question in questions}.values():
            if known := self.answers.find(question.key):
                found[question.key] = known | {"cached": True}
            else:
                waiting.append(question)
        self.check_served(waiting, len(found), unit)
        meter = Meter(unit, len(found) + len(waiting), len(found))

        async def work() -> None:
            while waiting:
                question = waiting.popleft()
                found[question.key] = reply = await self.put(question)
                meter.count(reply)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, len(waiting))):
                group.create_task(work())
        self.used |= found.keys()
        return [found[question.key] for question in questions]

    def check_served(self, waiting: Iterable[Question], kept: int, unit: str) -> None:
        """Raise `Hopeless` if a model would have to be asked that is not there."""
        missing = [question.body["model"] for question in waiting if question.body["model"] in self.unserved]
        if missing:
            model = self.unserved[missing[0]]
            raise Hopeless(
                f"{model!r} is not being served, and of {len(missing) + kept} {unit} only {kept} were kept",
                f"agentd call serve model={model}, then evaluate again",
            )

    async def put(self, question: Question) -> Reply:
        try:
            reply = await self.asker.ask(question.body)
        except RowFailed as error:
            return {"error": str(error)}
        self.answers.keep(question.key, reply)
        self.asked += 1
        self.asked_tokens += reply["output_tokens"]
        self.spent.append(reply)
        return reply


@dataclass
class Meter:
    """Tells how far it is, at most twice a second and at the end."""

    unit: str
    total: int
    kept: int
    counted: int = 0
    errors: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    last: float = 0.0

    def count(self, reply: Reply) -> None:
        self.counted += 1
        self.errors += "error" in reply
        self.tokens += reply.get("output_tokens", 0)
        now = time.monotonic()
        if now - self.last > EVENT_S or self.kept + self.counted == self.total:
            self.last = now
            self.tell(max(now - self.started, 1e-6))

    def tell(self, seconds: float) -> None:
        done, rate = self.kept + self.counted, self.counted / seconds
        emit(
            "progress",
            done=done,
            total=self.total,
            unit=self.unit,
            seconds_left=round((self.total - done) / rate, 1),
            rows_per_s=round(rate, 2),
            errors=self.errors,
            **({"tokens_per_s": round(self.tokens / seconds, 1)} if self.tokens else {}),
        )


# --- answering rows -------------------------------------------------------------------------


async def answer_rows(spec: Mapping[str, Any], rows: Sequence[Row], desk: Desk, unit: str) -> None:
    """Write "output" and what is known of it into every row, or "error"."""
    asked = [questions_of(spec, row) for row in rows]
    replies = iter(await desk.ask([question for each in asked for question in each], unit))
    for row, questions in zip(rows, asked, strict=True):
        mine = [next(replies) for _ in questions]
        failed = [reply["error"] for reply in mine if "error" in reply]
        row.update({"error": failed[0]} if failed else told(mine, spec.get("prices", {})))


def told(replies: Sequence[Reply], prices: Mapping[str, Sequence[int]]) -> Row:
    """What a row takes over of its answers; times are those of when it was asked."""
    first = replies[0]
    made: Row = {
        "output": first["text"],
        "finish_reason": first["finish_reason"],
        "model": first["model"],
        "seconds": first["seconds"],
        "input_tokens": sum(reply["input_tokens"] for reply in replies),
        "output_tokens": sum(reply["output_tokens"] for reply in replies),
    }
    if prices:
        made["micro_usd"] = sum(cost(reply, prices) for reply in replies)
    if len(replies) > 1:
        made["outputs"] = [reply["text"] for reply in replies]
    if any(reply.get("cached") for reply in replies):
        made["cached"] = True
    return made | {name: first[name] for name in ("first_s", "logprobs") if name in first}


def cost(reply: Reply, prices: Mapping[str, Sequence[int]]) -> int:
    """Micro-USD, rounded up; of a model whose name is not known here, the dearest's."""
    known = [prices[reply["model"]]] if reply["model"] in prices else list(prices.values())
    each = [reply["input_tokens"] * price[0] + reply["output_tokens"] * price[1] for price in known]
    return -(-max(each) // 1_000_000) if each else 0


async def add_likelihoods(spec: Mapping[str, Any], rows: Sequence[Row], desk: Desk) -> None:
    """Write "likelihood" of the expected text into every row, or "likelihood_error".

    The expected text is put to the endpoint as the beginning of its own answer, and it is asked for the
    log-probabilities of what it read (vLLM's extension of the protocol). The tokens of the prompt before
    it are counted by asking that alone.
    """
    identity = spec.get("identity") or [spec["model"], base_url_of(spec)]
    asked = [row for row in rows if "error" not in row]
    before = [Question.of(only_reading(spec, messages_of(spec, row)), identity) for row in asked]
    whole = [Question.of(with_expected(spec, row), identity) for row in asked]
    replies = await desk.ask(before[:1] + whole[:1], "likelihoods")
    if asked and not replies[-1].get("prompt_logprobs"):
        why = replies[-1].get("error") or "the endpoint tells no prompt_logprobs, as vLLM would"
        for row in asked:
            row["likelihood_error"] = why
        return
    replies = await desk.ask([*before, *whole], "likelihoods")
    for row, prefix, read in zip(asked, replies[: len(asked)], replies[len(asked) :], strict=True):
        if failed := [reply["error"] for reply in (prefix, read) if "error" in reply]:
            row["likelihood_error"] = failed[0]
            continue
        of_expected = read["prompt_logprobs"][prefix["input_tokens"] :]
        if not of_expected or None in of_expected:
            row["likelihood_error"] = "the expected text has no tokens of its own"
        else:
            row["likelihood"] = {"logprob": round(sum(of_expected), 5), "tokens": len(of_expected)}


def only_reading(spec: Mapping[str, Any], messages: list[dict[str, str]]) -> Body:
    return {"model": spec["model"], "messages": messages, "max_tokens": 1, "temperature": 0}


def with_expected(spec: Mapping[str, Any], row: Row) -> Body:
    expected = row["expected"]
    text = expected if isinstance(expected, str) else json.dumps(expected, ensure_ascii=False)
    body = only_reading(spec, [*messages_of(spec, row), {"role": "assistant", "content": text}])
    return body | {"prompt_logprobs": 0, "add_generation_prompt": False, "continue_final_message": True}


# --- judging --------------------------------------------------------------------------------


async def judge_rows(spec: Mapping[str, Any], rows: Sequence[Row], desk: Desk) -> None:
    """Write the judges' verdicts into the rows: {metric: {"score" in 0…1, …} or {"error"}}."""
    for metric, judge in spec.get("judges", {}).items():
        judged = [row for row in rows if "error" not in row]
        asked = [verdict_questions(judge, row) for row in judged]
        replies = iter(await desk.ask([each for pair in asked for each in pair], f"verdicts of {metric}"))
        for row, questions in zip(judged, asked, strict=True):
            mine = [next(replies) for _ in questions]
            cut = [part for part, value in parts_of(judge, row) if len(readable(value)) > judge["clip"]]
            verdict = verdict_of(judge, mine) | ({"cut": cut} if cut else {})
            row.setdefault("verdicts", {})[metric] = verdict


def verdict_questions(judge: Mapping[str, Any], row: Row) -> list[Question]:
    """One; of a pairwise judge two, the second with the answers swapped."""
    parts = parts_of(judge, row)
    if not judge["pairwise"]:
        return [verdict_question(judge, parts)]
    *shown, (a, one), (b, two) = parts
    return [verdict_question(judge, parts), verdict_question(judge, [*shown, (a, two), (b, one)])]


def parts_of(judge: Mapping[str, Any], row: Row) -> list[tuple[str, Any]]:
    """What the judge is shown of a row: (heading, value), the answer or both of them last."""
    shown = [(heading, value_at(row, name)) for heading, name in judge["show"].items()]
    if not judge["pairwise"]:
        return [*shown, ("Answer", row["output"])]
    return [*shown, ("Answer A", row["output"]), ("Answer B", value_at(row, judge["against"]))]


def verdict_question(judge: Mapping[str, Any], parts: Sequence[tuple[str, Any]]) -> Question:
    content = blocks([(tag_of(heading), clipped(value, judge["clip"])) for heading, value in parts])
    body = {
        "model": judge["model"],
        "messages": [
            {"role": "system", "content": judge["system"]},
            *judge["examples"],
            {"role": "user", "content": f"{content}\n\n{judge['ask']}"},
        ],
        "max_tokens": judge["max_tokens"],
        "temperature": 0,
        "seed": 0,
        "response_format": constrained_to(judge["schema"]),
    }
    return Question.of(body, judge["identity"])


def blocks(parts: Sequence[tuple[str, str]]) -> str:
    """What a judge is shown, each part between tags that nothing inside of it can close."""
    closing = re.compile(rf"</(?=\s*({'|'.join(tag for tag, _ in parts)})\s*>)", re.IGNORECASE)
    return "\n\n".join(f"<{tag}>\n{closing.sub(CLOSED, text)}\n</{tag}>" for tag, text in parts)


def clipped(value: Any, clip: int) -> str:
    """At most `clip` characters: of a conversation the end, of anything else the beginning."""
    text = readable(value)
    if len(text) <= clip:
        return text
    said = isinstance(value, list) and any("speaker" in each or "role" in each for each in value)
    return f"[…] {text[-clip:]}" if said else f"{text[:clip]} […]"


def tag_of(heading: str) -> str:
    return re.sub(r"\W+", "_", heading).strip("_").lower()


def readable(value: Any) -> str:
    """A text as it is; turns and passages one below the other; anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, dict) and "text" in each for each in value):
        names = (each.get("speaker") or each.get("role") or f"[{at}]" for at, each in enumerate(value, 1))
        return "\n".join(f"{name}: {each['text']}" for name, each in zip(names, value, strict=True))
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(f"[{at}] {each}" for at, each in enumerate(value, 1))
    return json.dumps(value, ensure_ascii=False)


def verdict_of(judge: Mapping[str, Any], replies: Sequence[Reply]) -> dict[str, Any]:
    try:
        said = [read_verdict(judge, reply) for reply in replies]
    except RowFailed as error:
        return {"error": str(error)}
    reasons = [each["reason"] for each in said if each.get("reason")]
    made = {"reason": reasons[0] if len(reasons) == 1 else reasons} if reasons else {}
    if not judge["pairwise"]:
        low, high = judge["scale"]
        return {"score": (said[0]["score"] - low) / (high - low), "rating": said[0]["score"], **made}
    winners = [each["winner"] for each in said]
    won = {("A", "B"): 1.0, ("B", "A"): 0.0}
    return {"score": won.get((winners[0], winners[1]), 0.5), "winners": winners, **made}


def read_verdict(judge: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """The JSON object in a judge's answer. Raises `RowFailed` for one that is no verdict."""
    if "error" in reply:
        raise RowFailed(reply["error"])
    text = reply["text"]
    try:
        said = json.loads(text[text.find("{") : text.rfind("}") + 1])
        given = said["winner" if judge["pairwise"] else "score"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RowFailed(f"the judge gave no verdict: {text[:200]!r}") from error
    low, high = judge["scale"]
    allowed = ("A", "B", "tie") if judge["pairwise"] else range(low, high + 1)
    if isinstance(given, bool) or given not in allowed:
        raise RowFailed(f"the judge said {given!r}, which is no verdict")
    return said


# --- scoring --------------------------------------------------------------------------------


class Scoring:
    """The scorers of a spec, by evals/scoring.py, which comes with them as an input."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._scoring = load(Path(spec["inputs"]["scoring"]))
        self._statistics = load(Path(spec["inputs"]["statistics"]))
        try:
            self.scorers = self._scoring.load_scorers(spec["metrics"], spec["inputs"])
            self.redteam = self._scoring.load_scorers(redteam_metrics(spec), spec["inputs"])
        except self._scoring.BadScorer as error:
            raise Hopeless(str(error), error.hint) from error

    def score(self, rows: Sequence[Row], scorers: Sequence[Any], slices: Sequence[str]) -> dict[str, Any]:
        """Score the rows; returns what they come to. Raises `Hopeless` if not one has a score."""
        meter = Meter("scores", len(rows), 0)
        self._scoring.score_rows(rows, scorers, lambda _: meter.count({}))
        failed = [row["error"] for row in rows if "output" in row and "error" in row]
        if failed and not any("score" in row for row in rows):
            raise Hopeless(f"None of {len(rows)} rows has a score: {failed[0]}", "Mend scorer or judge")
        try:
            return self._scoring.summary(rows, scorers, slices, self._statistics)
        except self._scoring.BadScorer as error:
            raise Hopeless(str(error), error.hint) from error


def redteam_metrics(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "redteam", "scorer": "refusal"}] if "redteam" in spec["inputs"] else []


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# --- the run --------------------------------------------------------------------------------


def base_url_of(spec: Mapping[str, Any]) -> str:
    return (spec.get("base_url") or os.environ.get("AGENTD_GATEWAY_URL", "")).rstrip("/")


async def desk_of(spec: Mapping[str, Any], answers: Answers, stack: AsyncExitStack) -> Desk:
    import httpx

    key = os.environ.get(spec.get("key_env") or "AGENTD_GATEWAY_KEY", "")
    concurrency = max(1, spec.get("concurrency", 16))
    http = httpx.AsyncClient(
        base_url=base_url_of(spec) + "/",
        # A proxy from the environment is meant for the world outside, not for the daemon's gateway.
        trust_env=bool(spec.get("base_url")),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(spec.get("timeout_s", 120), connect=10),
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
    )
    await stack.enter_async_context(http)
    jitter = random.Random(spec.get("seed", 0))
    return Desk(
        Asker(http, spec.get("retries", 4), spec.get("patience_s", 120), jitter),
        answers,
        concurrency,
        spec.get("unserved", {}),
    )


async def collect(spec: Mapping[str, Any], rows: Sequence[Row], redteam: Sequence[Row], out: Path) -> Desk:
    """Everything that is asked: answers, likelihoods, verdicts."""
    answers = Answers(
        Path(spec.get("answers") or out / "answers.sqlite"), first_started(out) if spec.get("fresh") else 0.0
    )
    used: set[str] = set()
    try:
        async with AsyncExitStack() as stack:
            desk = await desk_of(spec, answers, stack)
            used = desk.used
            if spec.get("model"):
                await answer_rows(spec, rows, desk, "rows")
                await answer_rows({**spec, "samples": 1}, redteam, desk, "red-team rows")
            if any("likelihood" in metric.get("wants", ()) for metric in spec.get("metrics", ())):
                await add_likelihoods(spec, rows, desk)
            await judge_rows(spec, rows, desk)
            return desk
    finally:
        answers.close(used, spec.get("answers_mb", 512) << 20)


def first_started(out: Path) -> float:
    """When this run was started for the first time."""
    path = out / "began"
    if not path.exists():
        replace(path, repr(time.time()))
    return float(path.read_text(encoding="ascii"))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0


def summary(rows: Sequence[Row], desk: Desk, seconds: float, prices: Mapping[str, Any]) -> dict[str, Any]:
    answered = [row for row in rows if "output" in row]
    latencies = [row["seconds"] for row in answered if "seconds" in row]
    firsts = [row["first_s"] for row in answered if "first_s" in row]
    made = {
        "n": len(rows),
        "answered": len(answered),
        "errors": sum("error" in row for row in rows),
        "asked": desk.asked,
        "cached": sum("cached" in row for row in answered),
        "seconds": round(seconds, 3),
        "input_tokens": sum(row.get("input_tokens", 0) for row in answered),
        "output_tokens": sum(row.get("output_tokens", 0) for row in answered),
        "tokens_per_s": round(desk.asked_tokens / max(seconds, 1e-6), 1),
        "p50_s": quantile(latencies, 0.5),
        "p95_s": quantile(latencies, 0.95),
        "cut_short": sum(row.get("finish_reason") == "length" for row in answered),
        "models": sorted({row["model"] for row in answered if row.get("model")}),
    }
    if firsts:
        made |= {"first_p50_s": quantile(firsts, 0.5), "first_p95_s": quantile(firsts, 0.95)}
    if prices:
        made["micro_usd"] = sum(row.get("micro_usd", 0) for row in answered)
        made["spent_micro_usd"] = sum(cost(reply, prices) for reply in desk.spent)
    return made


def evaluate(spec: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Answer and score every row into ``out/rows.jsonl``, in the suite's order. Raises `Hopeless`."""
    if not base_url_of(spec):
        raise Hopeless("there is no endpoint to ask", "Set 'base_url' in the spec or AGENTD_GATEWAY_URL")
    inputs = spec["inputs"]
    scoring = Scoring(spec) if spec.get("metrics") else None  # a scorer that is wrong is told before asking
    rows = read_rows(Path(inputs["rows"]), spec.get("limit", 0))
    redteam = read_rows(Path(inputs["redteam"]), spec.get("limit", 0)) if "redteam" in inputs else []
    asked_in = rendered(spec, rows)
    started = time.monotonic()
    desk = asyncio.run(collect(spec, rows, redteam, out))
    result = summary(rows, desk, time.monotonic() - started, spec.get("prices", {}))
    if spec.get("model"):
        result["rendered_sha256"] = asked_in
    if not result["answered"]:
        why = rows[0]["error"] if rows else "there are no rows"
        raise Hopeless(
            f"none of {len(rows)} rows was answered: {why}", "Try the model with one message first"
        )
    if scoring:
        result |= scoring.score(rows, scoring.scorers, spec.get("slices", ()))
        if redteam:
            result["redteam"] = scoring.score(redteam, scoring.redteam, ())["metrics"][0]
        result["errors"] = sum("error" in row for row in rows)
        result["versions"] = versions()
    write_rows(out / "rows.jsonl", rows)
    if redteam:
        write_rows(out / "redteam.jsonl", redteam)
    return result


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


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
