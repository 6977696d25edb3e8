"""Answers to rows, and how likely the expected ones were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from desk import Desk
from kept import Reply
from questions import Body, Question, base_url_of, messages_of, questions_of
from rows import Row


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
