"""Make ``train.jsonl`` and ``heldout.jsonl`` from Bitext's customer-support messages.

    python make_tickets.py bitext_support.jsonl [OUT_FOLDER]

A row pairs a message, typos and all, with a ticket of three flat fields::

    {"intent": "cancel_order", "entity_type": "order_id", "entity_value": "ORD-48213"}

`entity_value` is a verbatim substring of the message; both entity fields are null where the
message names none. The source has 40 distinct entity values in all, so that a list of them would
do; here each is replaced by one of many (`VALUES`), written as customers write: in lower case,
with dashes, in two or three words. Values are divided before rows are: none of the held-out rows'
was ever trained on. Nor is any held-out message a near-duplicate of a training message.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

SEED = 20261122
# Rows per intent, (with entities, without): the intents that carry entities are the harder ones.
TRAIN = 26, 14
HELDOUT = 9, 4
HELDOUT_SHARE_OF_VALUES = 0.3
# Jaccard similarity of character 5-grams, entity masked, at which two messages count as the same.
NEAR = 0.7
SYSTEM = "Turn the support message into a JSON ticket with intent, entity_type and entity_value."

AMOUNT = re.compile(r"\$\s?(\d+)|(\d+)\s?dollars")
COARSE = re.compile(r"fuck|goddamn", re.IGNORECASE)

ACCOUNTS = """Free Freemium Pro Premium Gold Platinum Standard Silver Bronze Diamond Basic Starter Student
Family Business Enterprise Team Lite Trial Plus Junior Guest Unlimited Partner Advanced Reseller
Wholesale Teacher Early+Bird Home+Office Night+Owl Pay+Monthly First+Class Under+25"""
CITIES = """Liverpool Toronto Munich Seattle Detroit Dublin Valencia Philadelphia Lisbon Oslo Porto Lyon Turin
Krakow Bergen Ghent Boston Denver Austin Chicago Montreal Perth Nairobi Osaka Lima Bogota Mumbai Zurich Leeds
Aarhus New+York San+Diego Cape+Town Rio+de+Janeiro Buenos+Aires Tel+Aviv Kuala+Lumpur"""
COUNTRIES = """Japan Canada USA Mexico Hungary Finland Spain Portugal Norway Kenya Peru Chile India Poland
Austria Greece Turkey Brazil Iceland Ireland UK Vietnam Ghana Egypt New+Zealand South+Africa Costa+Rica
Czech+Republic South+Korea"""
FIRST = """Anna David Siobhan Maria Kofi Wei Fatima Lars Ines Tomasz Priya Omar Greta Hiroshi Elena Marcus
Aisha Pablo Noor Jack"""
LAST = """Freeman Miller O'Brien Ruiz Mensah Zhang Haddad Lindqvist Costa Nowak Patel Farouk Vogel Tanaka
Petrova Reed Okafor van+Dijk de+Souza Baker"""


def spread(words: str) -> list[str]:
    return [word.replace("+", " ") for word in words.split()]


def shuffled(rng: random.Random, words: Sequence[str]) -> list[str]:
    return rng.sample(words, len(words))


def people(rng: random.Random) -> list[str]:
    """Four ways to name each of twenty people, family by family, so that a cut parts families too."""
    first, last = shuffled(rng, spread(FIRST)), shuffled(rng, spread(LAST))
    return [
        name
        for given, family in zip(first, last, strict=True)
        for name in (f"{given} {family}", f"{given[0]}. {family}", f"Mr. {family}", f"Ms. {family}")
    ]


def numbers(rng: random.Random, forms: str, count: int) -> list[str]:
    """`count` different numbers in the given forms: 0 stands for a digit, 1 for one but 0, A for a letter."""
    drawn = {"0": "0123456789", "1": "123456789", "A": "BCDFGHKLMPRSTWXZ"}
    made: dict[str, None] = {}
    for form in cycle(forms.split()):
        made["".join(rng.choice(drawn.get(sign, sign)) for sign in form)] = None
        if len(made) == count:
            break
    return list(made)


def values(rng: random.Random) -> dict[str, list[str]]:
    """Everything an entity of each type may be, in the order the split cuts."""
    orders = "00000 0000000 000000000000 000000000000000 ORD-00000 A0000-00 0000/0000 AA000000 0000-0000"
    listed = {
        "account_type": spread(ACCOUNTS),
        "delivery_city": spread(CITIES),
        "delivery_country": spread(COUNTRIES),
        "order_id": numbers(rng, orders, 120),
        "invoice_id": numbers(rng, "#00000 #00000 INV-0000 INV00000 0000-000 RE/00000 #AA-000", 70),
        "refund_amount": numbers(rng, "100 1000 10.00 100.00", 70),
    }
    return {kind: shuffled(rng, pool) for kind, pool in listed.items()} | {"person_name": people(rng)}


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

    def naming(self, value: str) -> Ticket:
        """The same message about another entity; who writes all in lower case writes names so too."""
        old = self.entity_value or ""
        careless = self.around("").islower() and sum(map(ord, self.message)) % 2
        if old[0].islower() or careless:
            value = value.lower()
        start = self.span[0]
        return self._replace(message=self.around(value), span=(start, start + len(value)))


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


def pick(pool: Sequence[Ticket], counts: tuple[int, int], avoid: Sequence[frozenset[str]]) -> list[Ticket]:
    """The first tickets of each intent that are not near to another or to `avoid`.

    Where an intent has entities, four rows in five carry one, if there are that many.
    """
    taken: list[Ticket] = []
    seen = list(avoid)
    for intent in sorted({ticket.intent for ticket in pool}):
        rows = [ticket for ticket in pool if ticket.intent == intent]
        named = [ticket for ticket in rows if ticket.entity_type]
        wanted = counts[0] if len(named) > len(rows) / 4 else counts[1]
        chosen = fresh(named, round(wanted * 0.8), seen)
        chosen += fresh([ticket for ticket in rows if not ticket.entity_type], wanted - len(chosen), seen)
        taken += chosen
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


def fill(rows: Iterable[Ticket], pools: Mapping[str, Sequence[str]]) -> list[Ticket]:
    """Give each row the next value of its type."""
    turns = {kind: cycle(pool) for kind, pool in pools.items()}
    return [row.naming(next(turns[row.entity_type])) if row.entity_type else row for row in rows]


def split(source: Path) -> tuple[list[Ticket], list[Ticket]]:
    """Training and held-out tickets, the same for the same source."""
    rng = random.Random(SEED)
    pool = list(tickets(source))
    rng.shuffle(pool)
    heldout = pick(pool, HELDOUT, [])
    train = pick(pool, TRAIN, [ticket.grams for ticket in heldout])
    rng.shuffle(train)
    rng.shuffle(heldout)
    made = values(rng)
    cut = {kind: round(len(pool) * HELDOUT_SHARE_OF_VALUES) for kind, pool in made.items()}
    return (
        fill(train, {kind: pool[cut[kind] :] for kind, pool in made.items()}),
        fill(heldout, {kind: pool[: cut[kind]] for kind, pool in made.items()}),
    )


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
