"""Make ``train.jsonl`` and ``heldout.jsonl`` from Bitext's customer-support messages.

    python make_tickets.py bitext_support.jsonl [OUT_FOLDER]

A row pairs a message, typos and all, with a ticket of three flat fields::

    {"intent": "cancel_order", "entity_type": "order_id", "entity_value": "00123842"}

`entity_value` is a verbatim substring of the message; both entity fields are null where the
message names none. The values are divided before the rows are: none of the held-out rows' was
ever trained on. Nor is any held-out message a near-duplicate of a training message.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SEED = 20261122
TRAIN, HELDOUT = 19, 6  # rows per intent, 27 intents
HELDOUT_SHARE_OF_VALUES = 0.4
# Jaccard similarity of character 5-grams, entity masked, at which two messages count as the same.
NEAR = 0.7
SYSTEM = "Turn the support message into a JSON ticket with intent, entity_type and entity_value."

AMOUNT = re.compile(r"\$\s?(\d+)|(\d+)\s?dollars")
COARSE = re.compile(r"fuck|goddamn", re.IGNORECASE)


class Ticket(NamedTuple):
    message: str
    intent: str
    entity_type: str | None = None
    span: tuple[int, int] = (0, 0)
    """Where in `message` the entity stands."""

    @property
    def entity_value(self) -> str | None:
        return self.message[slice(*self.span)] or None

    @property
    def expected(self) -> dict[str, str | None]:
        return {"intent": self.intent, "entity_type": self.entity_type, "entity_value": self.entity_value}

    @property
    def grams(self) -> frozenset[str]:
        """Character 5-grams of the message, lower-cased, entity masked."""
        text = self.around("@" if self.entity_type else "")
        text = re.sub(r"[^a-z@]+", " ", text.lower()).strip()
        return frozenset(text[i : i + 5] for i in range(max(1, len(text) - 4)))

    def around(self, value: str) -> str:
        start, end = self.span
        return self.message[:start] + value + self.message[end:]


def tickets(source: Path) -> Iterator[Ticket]:
    """Read Bitext's rows, mending the annotation where it does not match the message."""
    with source.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            message = re.sub(r"\s+", " ", row["instruction"]).strip()
            if not COARSE.search(message):
                yield Ticket(
                    message, row["intent"], *entity(message, row["entity_type"], row["entity_value"])
                )


def entity(message: str, kind: str, value: str) -> tuple[str | None, tuple[int, int]]:
    """Type of the entity in `message`, and where it stands.

    The source annotates order numbers without their leading zeros, cuts amounts short ("1" for
    $160) and leaves amounts unmarked where a refund is being tracked.
    """
    if amount := AMOUNT.search(message):
        return "refund_amount", amount.span(amount.lastindex or 0)
    if not kind:
        return None, (0, 0)
    pattern = rf"\d*{re.escape(value)}\d*" if kind == "order_id" else re.escape(value)
    # "a problem with the Pro account" has it as a word; "problem with creating aPro account" at the end.
    whole = list(re.finditer(rf"(?<!\w){pattern}(?!\w)", message, re.IGNORECASE))
    found = whole or list(re.finditer(pattern, message, re.IGNORECASE))
    if not found:
        raise ValueError(f"{value!r} is not in {message!r}")
    return kind, found[-1].span()


def pick(pool: Sequence[Ticket], count: int, seen: list[frozenset[str]]) -> list[Ticket]:
    """The first `count` tickets of each intent that are not near to another or to `seen`, which grows."""
    taken: list[Ticket] = []
    for intent in sorted({ticket.intent for ticket in pool}):
        taken += fresh((ticket for ticket in pool if ticket.intent == intent), count, seen)
    return taken


def fresh(rows: Iterable[Ticket], count: int, seen: list[frozenset[str]]) -> list[Ticket]:
    """Up to `count` rows none of which is near to one in `seen`, which grows by them."""
    taken: list[Ticket] = []
    for row in rows:
        grams = row.grams
        if len(taken) < count and not any(len(grams & one) >= NEAR * len(grams | one) for one in seen):
            taken.append(row)
            seen.append(grams)
    return taken


def heldout_values(pool: Iterable[Ticket], rng: random.Random) -> set[tuple[str | None, str]]:
    """About two fifths of the values of each type, compared without case."""
    values: dict[str | None, set[str]] = {}
    for ticket in pool:
        values.setdefault(ticket.entity_type, set()).add((ticket.entity_value or "").casefold())
    chosen: set[tuple[str | None, str]] = set()
    for kind, known in sorted(values.items(), key=str):
        if kind:
            share = max(1, round(len(known) * HELDOUT_SHARE_OF_VALUES))
            chosen |= {(kind, value) for value in rng.sample(sorted(known), share)}
    return chosen


def split(source: Path) -> tuple[list[Ticket], list[Ticket]]:
    """Training and held-out tickets, the same for the same source."""
    rng = random.Random(SEED)
    pool = list(tickets(source))
    rng.shuffle(pool)
    unseen = heldout_values(pool, rng)
    named = [ticket for ticket in pool if ticket.entity_type]
    plain = [ticket for ticket in pool if not ticket.entity_type]
    apart = [
        ticket for ticket in named if (ticket.entity_type, (ticket.entity_value or "").casefold()) in unseen
    ]
    rest = [
        ticket
        for ticket in named
        if (ticket.entity_type, (ticket.entity_value or "").casefold()) not in unseen
    ]
    seen: list[frozenset[str]] = []
    heldout = pick(shuffled(rng, [*apart, *plain]), HELDOUT, seen)
    train = pick(shuffled(rng, [*rest, *plain]), TRAIN, seen)
    return shuffled(rng, train), shuffled(rng, heldout)


def shuffled(rng: random.Random, rows: Sequence[Ticket]) -> list[Ticket]:
    return rng.sample(rows, len(rows))


def write(path: Path, rows: Iterable[object]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main(source: Path, out: Path) -> None:
    train, heldout = split(source)
    write(
        out / "train.jsonl",
        (
            {
                "prompt": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": ticket.message},
                ],
                "completion": [
                    {"role": "assistant", "content": json.dumps(ticket.expected, separators=(",", ":"))}
                ],
            }
            for ticket in train
        ),
    )
    write(
        out / "heldout.jsonl",
        (
            {"id": f"ticket-{number:03}", "input": ticket.message, "expected": ticket.expected}
            for number, ticket in enumerate(heldout, 1)
        ),
    )
    print(f"{len(train)} training rows, {len(heldout)} held out")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent)
