"""One answer, put to a judge: what it is asked, and what its reply comes to. Pure.

The words and the frame are those of an evaluation (`tools/recipes/evaluate/judging.py`), since that is how
people's agreement with the judge was measured. Of a request there are the question and the answer, nothing
more, so that only judges that need no more can be asked; pairwise ones cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from agentd.errors import InputError

__all__ = ["loss_in", "question", "refuse"]

CLOSED = r"<\\/"
SHOWN = "input"


def refuse(judge: Mapping[str, Any]) -> None:
    """Raise `InputError` for a judge that a request and its answer are not enough for."""
    fields = [field for field in judge["show"].values() if field != SHOWN]
    if judge["pairwise"] or fields:
        needs = "another answer to compare with" if judge["pairwise"] else f"the field {fields[0]!r}"
        raise InputError(
            f"The judge asks for {needs}, which a request does not have",
            hint='Name one that rates single answers and is shown {Question: "input"} only',
        )


def question(judge: Mapping[str, Any], asked: str, answered: str) -> dict[str, Any]:
    """The body of the request to the judge's model."""
    shown = [(heading, asked) for heading in judge["show"]]
    parts = [
        (_tag(heading), _clipped(text, judge["clip"])) for heading, text in (*shown, ("Answer", answered))
    ]
    closing = re.compile(rf"</(?=\s*({'|'.join(tag for tag, _ in parts)})\s*>)", re.IGNORECASE)
    blocks = "\n\n".join(f"<{tag}>\n{closing.sub(CLOSED, text)}\n</{tag}>" for tag, text in parts)
    schema = {"name": "answer", "schema": judge["schema"], "strict": True}
    return {
        "model": judge["model"],
        "messages": [
            {"role": "system", "content": judge["system"]},
            *judge["examples"],
            {"role": "user", "content": f"{blocks}\n\n{judge['ask']}"},
        ],
        "max_tokens": judge["max_tokens"],
        "temperature": 0,
        "seed": 0,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


def loss_in(judge: Mapping[str, Any], text: str) -> float | None:
    """How far below the best rating the verdict is, 0 … 1; None for a text that holds no verdict."""
    low, high = judge["scale"]
    try:
        given = json.loads(text[text.find("{") : text.rfind("}") + 1])["score"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if isinstance(given, bool) or given not in range(low, high + 1):
        return None
    return (high - given) / (high - low)


def _tag(heading: str) -> str:
    return re.sub(r"\W+", "_", heading).strip("_").lower()


def _clipped(text: str, clip: int) -> str:
    return text if len(text) <= clip else f"{text[:clip]} […]"
