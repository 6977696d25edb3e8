"""Personal data, found by presidio's recognizers, and replaced by marks."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from batches import over
from events import emit
from reading import parsed
from samples import SHOWN, Sample, Steps, counted, excerpt

SECRET = (
    r"\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9_-]{20,}\b|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36,}\b"
    r"|\bxox[abprs]-[\w-]{10,}\b|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)

# A run of digits as long as a phone number; bare ones are told from order numbers by what stands before.
PHONE = re.compile(r"(?<![\w.])\+?\(?\d[\d ().\-/]{5,18}\d(?!\w)")
CALLS = re.compile(
    r"\b(?:(?:tele|cell|smart)?phone|call(?:ed|ing)?|cell|mobile|tel|whatsapp|sms|text me|reach me|fax"
    r"|my number is)\b",
    re.IGNORECASE,
)


class Pii:
    """Finds personal data with presidio's recognizers; names too, if a spaCy pipeline is installed.

    Each recognizer runs only on texts that could hold what it looks for.
    """

    KINDS = (
        "EMAIL",
        "PHONE",
        "CREDIT_CARD",
        "IBAN",
        "IP_ADDRESS",
        "MAC_ADDRESS",
        "US_SSN",
        "CRYPTO",
        "SECRET",
    )

    def __init__(self) -> None:
        import tldextract
        from presidio_analyzer import Pattern, PatternRecognizer
        from presidio_analyzer import predefined_recognizers as known

        suffixes = tldextract.TLDExtract(
            suffix_list_urls=(), cache_dir=None
        )  # the list it ships, no download

        class Email(known.EmailRecognizer):
            def validate_result(self, pattern_text: str) -> bool:
                return bool(suffixes(pattern_text).suffix)

        self.phones = known.PhoneRecognizer()
        self.found_phones = functools.lru_cache(1 << 16)(self._is_phone)
        digits = re.compile(r"\d")

        def many(least: int) -> Callable[[str], bool]:
            return lambda text: len(digits.findall(text)) >= least

        self.recognizers: list[tuple[str, Callable[[str], Any], Any]] = [
            ("EMAIL", lambda text: "@" in text, Email()),
            ("CREDIT_CARD", many(13), known.CreditCardRecognizer()),
            ("IBAN", re.compile(r"[A-Z]{2}\d\d").search, known.IbanRecognizer()),
            ("IP_ADDRESS", re.compile(r"\d\.\d|[0-9a-fA-F]:{1,2}[0-9a-fA-F]").search, known.IpRecognizer()),
            ("MAC_ADDRESS", re.compile(r"\w\w[:-]\w\w[:-]\w\w[:-]").search, known.MacAddressRecognizer()),
            ("US_SSN", re.compile(r"\d{3}[-. ]\d{2}[-. ]\d{4}").search, known.UsSsnRecognizer()),
            ("CRYPTO", re.compile(r"\b(?:[13]|bc1)\w{25,}").search, known.CryptoRecognizer()),
            ("SECRET", re.compile(r"\b(?:sk|pk|rk|gh|xox|eyJ|AKIA)|PRIVATE KEY").search,
             PatternRecognizer("SECRET", patterns=[Pattern("key", SECRET, 0.9)])),
        ]  # fmt: skip
        self.pipeline = pipeline()

    @property
    def kinds(self) -> list[str]:
        return [*self.KINDS, *(["PERSON", "LOCATION"] if self.pipeline else [])]

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, kind), in order and without overlaps: what is surer, then what is longer, wins."""
        found: list[tuple[float, int, int, str]] = []
        for kind, could_be, recognizer in self.recognizers:
            if could_be(text):
                results = recognizer.analyze(text, recognizer.supported_entities, None)
                found += [
                    (r.score, r.start, r.end, kind)
                    for r in results
                    # Cards that begin with 1 are an airline scheme's; order numbers by the thousand look so.
                    if r.score >= 0.4 and not (kind == "CREDIT_CARD" and text[r.start] == "1")
                ]
        for run in PHONE.finditer(text):
            bare = run[0].isdigit()
            if (not bare or CALLS.search(text, max(0, run.start() - 40), run.start())) and self.found_phones(
                run[0]
            ):
                found.append((0.45, run.start(), run.end(), "PHONE"))
        if self.pipeline:
            kinds = {"PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION"}
            found += [(0.4, e.start_char, e.end_char, kinds[e.label_]) for e in self.pipeline(text).ents
                      if e.label_ in kinds]  # fmt: skip
        spans: list[tuple[int, int, str]] = []
        for _, start, end, kind in sorted(found, key=lambda f: (-f[0], f[1] - f[2])):
            if all(end <= s or start >= e for s, e, _ in spans):
                spans.append((start, end, kind))
        return sorted(spans)

    def _is_phone(self, run: str) -> bool:
        return bool(self.phones.analyze(run, self.phones.supported_entities, None))


def pipeline() -> Any:
    """An installed spaCy pipeline that knows names, or None: nothing is downloaded."""
    import spacy
    from spacy.util import get_installed_models

    models = [model for model in get_installed_models() if "core" in model]
    return spacy.load(models[0], enable=["tok2vec", "transformer", "ner"]) if models else None


@functools.cache
def pii() -> Pii:
    return Pii()


class Masker:
    """Replaces what was found, the same value by the same mark throughout one conversation."""

    def __init__(self) -> None:
        self.marks: dict[tuple[str, str], str] = {}
        self.kinds: Counter[str] = Counter()

    def __call__(self, text: str) -> str:
        parts: list[str] = []
        at = 0
        for start, end, kind in pii().find(text):
            value = re.sub(r"\W", "", text[start:end]).casefold()
            if (kind, value) not in self.marks:
                self.kinds[kind] += 1
                self.marks[kind, value] = f"[{kind}_{self.kinds[kind]}]"
            parts += [text[at:start], self.marks[kind, value]]
            at = end
        return "".join([*parts, text[at:]]) if parts else text


def masked(batch: list[Sample]) -> list[tuple[Sample, dict[str, int]]]:
    """Each sample with personal data replaced, and how many values of each kind that were."""
    done: list[tuple[Sample, dict[str, int]]] = []
    for sample in batch:
        mask = Masker()
        sample.messages = [{**m, "content": mask(m["content"])} for m in sample.messages]
        sample.text, sample.rejected = mask(sample.text), mask(sample.rejected)
        if isinstance(sample.source, str):
            sample.source = mask(sample.source)
        done.append((sample, dict(mask.kinds)))
    return done


def redact(samples: list[Sample], how: str, steps: Steps) -> tuple[list[Sample], dict[str, Any]]:
    """Replace personal data, or only count it; also in what was left out already."""
    if how == "keep":
        return samples, {"looked": False}
    emit("progress", done=0, total=len(samples), unit="rows looked through for personal data")
    pii()
    before = samples
    marked = over(samples, masked, "rows looked through for personal data")
    kinds: Counter[str] = Counter()
    for _, found in marked:
        kinds.update(found)
    touched = [sample for sample, found in marked if found]
    examples = [f"{s.origin}: {excerpt(around(s.whole))}" for s in touched[:SHOWN]]
    if how == "replace":
        samples = [sample for sample, _ in marked]
        for each in steps.dropped:
            text = (
                each["row"]
                if isinstance(each["row"], str)
                else json.dumps(each["row"], ensure_ascii=False, default=str)
            )
            hidden = Masker()(text)
            each["row"] = hidden if isinstance(each["row"], str) else parsed(hidden)
        for told in steps.told:
            told["examples"] = [Masker()(text) for text in told["examples"]]
    verb = "replaced" if how == "replace" else "found (and left)"
    what = f"{verb}: {counted(kinds)}" if kinds else "no personal data found"
    steps.tell("pii", len(before), len(samples), len(touched), what, examples=examples)
    looked_for = pii().kinds
    return samples, {
        "looked": True,
        "found": dict(kinds.most_common()),
        "rows": len(touched),
        "looked_for": looked_for,
        "not_looked_for": ["postal addresses", "dates of birth", "customer and order numbers"]
        + ([] if "PERSON" in looked_for else ["names of people and places (no spaCy pipeline is installed)"]),
    }


def around(text: str) -> str:
    """The part of a text with the first mark in it."""
    found = re.search(r"\[[A-Z_]+_\d+\]", text)
    return text[max(0, found.start() - 60) : found.end() + 60] if found else text
