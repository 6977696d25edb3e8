"""A conversation on its way to being rows, and what each step says it did to them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN, EXCERPT = 3, 160
Message = dict[str, str]
Record = dict[str, Any]


@dataclass(slots=True)
class Sample:
    """One conversation, or one plain text, on its way to being rows."""

    origin: str
    messages: list[Message] = field(default_factory=list)
    text: str = ""
    rejected: str = ""
    label: str = ""
    user: str = ""
    document: str = ""
    rating: float | None = None
    source: Any = None
    cluster: int = -1
    group: int = -1

    @property
    def asked(self) -> str:
        """What near-duplicates are told by: everything the user says, or the text."""
        return "\n".join(m["content"] for m in self.messages if m["role"] == "user") or self.text

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"] if self.messages else ""

    @property
    def whole(self) -> str:
        return "\n".join(m["content"] for m in self.messages) or self.text


@dataclass
class Steps:
    """What each step did: rows before and after, how many it touched, examples, and what it left out."""

    told: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, step: str, origin: str, reason: str, row: Any) -> None:
        self.dropped.append({"origin": origin, "step": step, "reason": reason, "row": row})

    def tell(self, step: str, before: int, after: int, touched: int, what: str, **more: Any) -> None:
        left_out = [d for d in self.dropped if d["step"] == step]
        examples = more.pop("examples", None) or [
            f"{d['origin']}: {d['reason']}: {excerpt(shown(d['row']))}" for d in left_out[:SHOWN]
        ]
        self.told.append(
            {"step": step, "before": before, "after": after, "touched": touched, "what": what}
            | {"dropped": len(left_out), "examples": examples[:SHOWN]}
            | more
        )

    def keep(
        self, step: str, samples: Sequence[Sample], reason_of: Callable[[Sample], str], what: str, **more: Any
    ) -> list[Sample]:
        """Leave out the samples that have a reason, and tell so."""
        kept: list[Sample] = []
        for sample in samples:
            if reason := reason_of(sample):
                self.drop(step, sample.origin, reason, as_record(sample))
            else:
                kept.append(sample)
        self.tell(step, len(samples), len(kept), len(samples) - len(kept), what, **more)
        return kept


def as_record(sample: Sample) -> Record:
    """The sample as it is kept among what was left out: in a shape that can be read in again."""
    kept = {k: v for k, v in asdict(sample).items() if v not in ("", None, [], -1) and k != "origin"}
    return {k: v for k, v in kept.items() if k not in ("cluster", "group")}


def shown(row: Any) -> str:
    if isinstance(row, dict) and isinstance(row.get("messages"), list):
        return " / ".join(str(m.get("content", "")) for m in row["messages"])
    return row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)


def excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def normalise(text: str) -> str:
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in Counter(counts).most_common())
