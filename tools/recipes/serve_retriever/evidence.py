"""Whether sentences answer a question, and bear a claim: pure functions of words and similarities."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from words import WORD, analyze

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
ASKS_AMOUNT = re.compile(
    r"\b(?:how (?:many|much|long|often|old|high|large|big|far|late|soon|fast)|when"
    r"|what (?:time|day|does .* cost))\b",
    re.I,
)
AMOUNT = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|first|second|third|fourth|once|twice|every|daily"
    r"|weekly|monthly|yearly|always|never|free|at once|immediately"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)days?)\b",
    re.I,
)
NEGATION = re.compile(r"\b(?:no|not|never|none|nobody|nothing|neither|nor|cannot|without|\w+n['’]t)\b", re.I)
MANNER = re.compile(r"\bhow (?:many|much|long|often|old|high|large|big|far|late|soon|fast)\b", re.I)
SYNONYM = 0.5, 0.9  # cosine of two words from which one covers a little, and wholly, of the other


def asked_words(question: str) -> dict[str, str]:
    """Stems of a question's words that a passage should speak of, each with the word as it was written."""
    return {s: word for word in WORD.findall(MANNER.sub(" ", question)) for s in analyze(word)}


def covered(question: Mapping[str, float], stems: Iterable[str]) -> float:
    """The share of the question's weight (IDF by stem) that these stems cover, 0 to 1."""
    present = set(stems)
    whole = sum(question.values())
    return sum(weight for s, weight in question.items() if s in present) / whole if whole else 0.0


def fits(question: str, sentence: str) -> float:
    """1 unless the question asks for an amount or a time and the sentence has none, then 0."""
    return float(not ASKS_AMOUNT.search(question) or bool(AMOUNT.search(sentence)))


def extract(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The best sentences, at most four, in the order of the text: an answer without a writer.

    `found` is in the order of the text. A sentence that leans on a neighbour ("It …", "…:") brings it along.
    """
    if not found:
        return []
    order = sorted(range(len(found)), key=lambda index: -found[index]["score"])
    first = found[order[0]]
    chosen = {order[0]}
    for index in order[1:8]:
        near = 0.85 if found[index]["chunk"] == first["chunk"] else 0.93
        if len(chosen) < 3 and found[index]["score"] >= near * first["score"]:
            chosen.add(index)
    for index in sorted(chosen):
        before, after = index - 1, index + 1
        if leans_back(found[index]["text"]) and same_chunk(found, before, index):
            chosen.add(before)
        elif same_chunk(found, index, after) and (
            leans_on(found[index]["text"]) or leans_back(found[after]["text"])
        ):
            chosen.add(after)
    return [found[index] for index in sorted(chosen, key=lambda i: (found[i]["chunk"] != first["chunk"], i))][
        :4
    ]


def leans_back(sentence: str) -> bool:
    return bool(
        re.match(
            r"(?:it|its|they|their|this|these|those|then|that|after that|otherwise|without it)\b",
            sentence,
            re.I,
        )
    )


def leans_on(sentence: str) -> bool:
    return sentence.endswith(":") or len(sentence.split()) < 5


def same_chunk(found: Sequence[Mapping[str, Any]], one: int, other: int) -> bool:
    inside = 0 <= one < len(found) and 0 <= other < len(found)
    return inside and found[one]["chunk"] == found[other]["chunk"]


def contradicts(claim: str, evidence: str) -> bool:
    """Whether the claim has a number that the evidence lacks, or only one of them denies."""
    numbers = set(NUMBER.findall(claim)) - set(NUMBER.findall(evidence))
    return bool(numbers) or bool(NEGATION.search(claim)) != bool(NEGATION.search(evidence))


def evidence(features: Mapping[str, float]) -> float:
    """Logistic score, 0 to 1, that the question is answered; 0.5 was set on development questions."""
    z = BIAS + sum(WEIGHTS[name] * features[name] for name in WEIGHTS)
    return round(1 / (1 + math.exp(-z)), 4)


WEIGHTS = {"sentence": 4.0, "passage": 4.0, "coverage": 8.0}
BIAS = -7.9
