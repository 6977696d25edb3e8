"""Whether what an answer says stands in the passages it was given, and in those that it cites.

`measure` is one of

    faithfulness          share of the answer's sentences that the passages, taken together, support
    citation_recall       share of its sentences that the passages they cite support (ALCE, Gao et al. 2023)
    citation_precision    share of its citations whose passage supports the sentence, alone or needed for it

Passages stand in the row's field `passages`: texts, or objects with "text" and perhaps "id". A citation is
``[2]``, the second passage, or ``[its id]``. With `gold`, a field that holds the right ids, recall and
precision are those of the cited ids against it, and nothing is read.

A sentence is supported if `threshold` of its content words and all its numbers occur in the text. That is
a check of words: what is turned round or negated in the same words passes. For more, use a judge.
An answer without a sentence, or for precision without a citation, has no score.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

CITATION = re.compile(r"\[([^\[\]\n]{1,200})\]")
SENTENCE_END = re.compile(r"(?<=[.!?])((?:\s*\[[^\[\]\n]{1,200}\])*)\s+(?=[\"'(]?[A-Z0-9])|\n+")
WORD = re.compile(r"\d+(?:[.,:]\d+)*%?|[^\W\d_]+", re.UNICODE)
STOP = frozenset(
    re.findall(
        r"\w+",
        """a an and any are as at be been but by can could do does for from had has have he her his how i if
        in into is it its may might must no not of on or our shall she should so such than that the their them
        then there these they this those to too was we were what when where which who will with would you your
        also""",
    )
)


def score(
    expected: object,
    output_text: str,
    row: Mapping[str, Any],
    *,
    measure: str = "faithfulness",
    passages: str = "passages",
    gold: str = "",
    threshold: float = 0.7,
) -> float:
    if measure not in ("faithfulness", "citation_recall", "citation_precision"):
        raise ValueError(f"there is no measure {measure!r}")
    texts = _passages(row.get(passages), passages)
    if gold:
        return _against_gold(measure, _cited(output_text, texts), row, gold)
    sentences = _sentences(output_text)
    if not sentences:
        raise ValueError("the answer has no sentence")
    if measure == "faithfulness":
        return _share(_supported(_bare(each), texts.values(), threshold) for each in sentences)
    pairs = [(_bare(each), _cited(each, texts)) for each in sentences]
    if measure == "citation_recall":
        return _share(
            bool(ids) and _supported(said, [texts[i] for i in ids if i in texts], threshold)
            for said, ids in pairs
        )
    precise = [_precise(said, one, ids, texts, threshold) for said, ids in pairs for one in ids]
    if not precise:
        raise ValueError("the answer cites nothing")
    return _share(precise)


def _against_gold(measure: str, cited: Sequence[str], row: Mapping[str, Any], gold: str) -> float:
    wanted = {str(each) for each in cast("Iterable[object]", _field(row, gold) or ())}
    hits = len(wanted & set(cited))
    if measure == "citation_recall" and wanted:
        return hits / len(wanted)
    if measure == "citation_precision" and cited:
        return hits / len(set(cited))
    raise ValueError(f"there is nothing to compare: {len(wanted)} right citations, {len(cited)} given")


def _precise(said: str, one: str, ids: Sequence[str], texts: Mapping[str, str], threshold: float) -> bool:
    """Alone it supports the sentence, or the sentence is supported with it and not without."""
    if one not in texts:
        return False
    rest = [texts[i] for i in ids if i in texts and i != one]
    if _supported(said, [texts[one]], threshold):
        return True
    return _supported(said, [*rest, texts[one]], threshold) and not _supported(said, rest, threshold)


def _supported(said: str, texts: Iterable[str], threshold: float) -> bool:
    words = _content(said)
    known = set().union(*(_content(text) for text in texts))
    if any(word not in known for word in words if word[0].isdigit()):
        return False
    return bool(words) and sum(word in known for word in words) >= threshold * len(words)


def _content(text: str) -> set[str]:
    """Numbers, and words but for the commonest, with plain English endings taken off."""
    words = (word.casefold() for word in WORD.findall(text))
    return {word if word[0].isdigit() else _stem(word) for word in words if word not in STOP}


def _stem(word: str) -> str:
    for ending in ("ingly", "edly", "ing", "ies", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    return word


def _sentences(text: str) -> list[str]:
    """Sentences with the citations that follow their full stop."""
    parts, start = list[str](), 0
    for match in SENTENCE_END.finditer(text):
        parts.append(text[start : match.start()] + (match[1] or ""))
        start = match.end()
    return [part.strip() for part in (*parts, text[start:]) if _content(_bare(part))]


def _bare(text: str) -> str:
    return CITATION.sub(" ", text)


def _cited(text: str, texts: Mapping[str, str]) -> list[str]:
    """Ids of the passages that `text` cites, and numbers of none; other words in brackets do not count."""
    ids = list(texts)
    found: list[str] = []
    for inside in CITATION.findall(text):
        for mark in (part.strip() for part in inside.split(",")):
            if mark in texts:
                found.append(mark)
            elif mark.isdigit():
                found.append(ids[int(mark) - 1] if 0 < int(mark) <= len(ids) else mark)
    return list(dict.fromkeys(found))


def _passages(value: object, name: str) -> dict[str, str]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"the row has no passages in its field {name!r}")
    made: dict[str, str] = {}
    for number, each in enumerate(value, 1):
        text = each.get("text", "") if isinstance(each, dict) else each
        made[str(each.get("id", number)) if isinstance(each, dict) else str(number)] = str(text)
    return made


def _field(row: Mapping[str, Any], dotted: str) -> object:
    value: Any = row
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found)
