"""Verdicts of judges about answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from desk import Desk
from failures import RowFailed
from kept import Reply
from questions import Question, constrained_to
from rows import Row, value_at

CLOSED = r"<\\/"


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
