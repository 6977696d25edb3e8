"""Secrets, taken out of what is kept, shown or handed to a model.

Two kinds are known: *values*, of this process's environment variables whose names say that they are
secret (and of those that agentd.toml names as ``key_env``), and *shapes* that credentials have.
`redact` is applied where things become durable or leave: journal, job rows, logs that are served,
answers to models, errors, request records, the daemon's own log.

Not covered: a secret without a shape that this process was never told; one that was cut in two, or
encoded in a way of its own; and what programs write into their own files, which stay as they are.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from agentd.errors import InputError

__all__ = [
    "MARK",
    "Redacting",
    "find_secret",
    "hide",
    "hide_environment",
    "redact",
    "redact_lines",
    "refuse_secrets",
    "without_secrets",
]

MARK = "[redacted]"
SHORTEST = 8  # a shorter value is a word or figure that stands everywhere
SURE = 16  # a value this long is looked for within words too, and cannot be there by chance

SECRET_VARIABLE = re.compile(r"TOKEN(?!IZ|S)|SECRET|PASSW|CREDENTIAL|APIKEY|(^|_)(KEY|PAT)$", re.IGNORECASE)
SECRET_FIELD = re.compile(
    r"(^|[_.-])(password|passwd|passphrase|secret|secret_?key|api_?key|access_?key|private_?key|signing_?key"
    r"|credentials?|authorization|(access|auth|api|bearer|refresh|session|bot)_?token)$",
    re.IGNORECASE,
)
A_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
COMMON = frozenset({"disabled", "required", "optional", "undefined", "localhost", "changeme"})


class Shape(NamedTuple):
    """Its one group is the secret. It is tried only on texts that hold one of `marks`.

    What is `certain` is nothing else; the others need the words around them, and are only hidden.
    """

    what: str
    marks: tuple[str, ...]
    pattern: re.Pattern[str]
    certain: bool


def _token(what: str, *prefixes: str, least: int = 20, letters: str = r"[\w-]") -> Shape:
    """A prefix nobody uses for anything else, and at least that many letters, not all of them small."""
    begin = "|".join(map(re.escape, prefixes))
    text = rf"(?<![\w-])((?:{begin})(?={letters}*[A-Z0-9]){letters}{{{least},}})"
    return Shape(what, prefixes, re.compile(text, re.ASCII), certain=True)


def _around(what: str, marks: str, pattern: str, *, certain: bool = False) -> Shape:
    return Shape(what, tuple(marks.split()), re.compile(pattern, re.DOTALL), certain)


KEY_BLOCK = r"[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
VALUE = r"(?=[^\s\"'\\,;&]{0,200}[0-9])([^\s\"'\\,;&<>{}()\[\]]{8,})"
SHAPES = (
    _token("a token of this daemon", "agentd_", least=40),
    _token("an API key", "sk-", "gsk_", "xai-", "nvapi-", "r8_", "pplx-", "tvly-"),
    _token("a Hugging Face token", "hf_", letters="[A-Za-z0-9]"),
    _token("a GitHub token", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", least=30, letters="[A-Za-z0-9]"),
    _token("a GitHub token", "github_pat_"),
    _token("a GitLab token", "glpat-"),
    _token("a Slack token", "xoxb-", "xoxp-", "xoxa-", "xoxo-", "xoxr-", "xoxs-", "xapp-", least=10),
    _token("an AWS key", "AKIA", "ASIA", least=16, letters="[A-Z0-9]"),
    _token("a Google key", "AIza", "ya29.", least=30),
    _token("a Stripe key", "sk_live_", "sk_test_", "rk_live_", "rk_test_", least=16),
    _token("a token of a package index", "npm_", least=36, letters="[A-Za-z0-9]"),
    _token("a token of a package index", "pypi-AgE", least=40),
    _around("a JSON web token", "eyJ", r"(?<![\w-])(eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)", certain=True),
    _around(
        "a private key", "PRIVATE", rf"(-----BEGIN {KEY_BLOCK}.*?(?:-----END {KEY_BLOCK}|\Z))", certain=True
    ),
    _around(
        "a private key",
        "PRIVATE",
        rf"(?m:^)((?:[A-Za-z0-9+/=]{{16,}}[ \r]*\n){{1,60}}-----END {KEY_BLOCK})",
        certain=True,
    ),
    _around("a webhook", "hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows)/([\w/-]{20,})"),
    _around("a webhook", "/api/webhooks/", r"/api/webhooks/(\d+/[\w-]{30,})"),
    _around("a password in an address", "://", r"\w://[^\s/:@\"']*:([^\s/@\"']+)@"),
    _around(
        "a credential",
        "uthorization UTHORIZATION",
        r"(?i:authorization)[\"'\\]*\s*[:=]\s*[\"'\\]*(?:(?i:bearer|basic|token)\s+)?([^\s\"'\\,;]{8,})",
    ),
    _around("a bearer token", "earer BEARER", r"\b(?i:bearer)\s+((?=[\w.~+/=-]{0,200}[0-9])[\w.~+/=-]{16,})"),
    _around(
        "a credential in an address",
        "oken= ecret= assword= ignature= key= sig=",
        r"[?&][\w-]*(?i:token|secret|password|signature|api_?key|sig)=([^&\s\"'\\]{8,})",
    ),
    _around(
        "a secret",
        "assw ecret key token PASSW SECRET KEY TOKEN Key Token",
        r"(?:(?i:passw(?:or)?d|passphrase|secret|(?:api|access|private|secret|signing)[_-]?key"
        r"|(?:access|auth|api|bearer|refresh|session|bot)[_-]?token)|[A-Z0-9]_(?:KEY|TOKEN))"
        rf"[\"'\\]*\s*[:=]\s*[\"'\\]*{VALUE}",
    ),
)
MAYBE = re.compile("|".join(re.escape(mark) for shape in SHAPES for mark in shape.marks))


class _Values:
    """The values that are known to be secret, and the pattern that finds them in any of their spellings."""

    def __init__(self) -> None:
        self.whose: dict[str, str] = {}
        self.pattern: re.Pattern[str] | None = None

    def add(self, values: Mapping[str, str]) -> None:
        new = {spelt: whose for value, whose in values.items() for spelt in _spellings(value)}
        if new.keys() <= self.whose.keys():
            return
        self.whose |= new
        longest_first = sorted(self.whose, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(_searched, longest_first)))


_values = _Values()


def hide(value: str, whose: str) -> None:
    """Let `redact` know a secret value; `whose` says what it is without telling it."""
    _values.add({value: whose})


def hide_environment(names: Iterable[str] = (), environ: Mapping[str, str] = os.environ) -> None:
    """Let `redact` know the values of variables that look secret, and of those in `names`."""
    named = set(names)
    for name, value in environ.items():
        if name in named or (SECRET_VARIABLE.search(name) and not Path(value).is_absolute()):
            hide(value, f"the value of {name}")


def without_secrets(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for a program that is none of ours, without what looks or is known to be secret."""
    return {
        name: value
        for name, value in environ.items()
        if not SECRET_VARIABLE.search(name) and _redacted(value) == value
    }


def redact(value: Any) -> Any:
    """`value`, a text or dicts and lists of them, with a mark in place of every secret."""
    if isinstance(value, str):
        return _redacted(value)
    if isinstance(value, Mapping):
        return {key: _field(key, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(each) for each in value]
    return value


def redact_lines(lines: Sequence[str]) -> list[str]:
    """The same for the lines of a log, where a secret may take several."""
    text = "\n".join(lines)
    clean = _redacted(text)
    return list(lines) if clean == text else clean.split("\n")


def find_secret(value: Any, where: str = "") -> tuple[str, str] | None:
    """Where in `value` something stands that is surely a secret, and what it is; None if nothing does."""
    if isinstance(value, str):
        what = _certain(value)
        return (where, what) if what else None
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, (list, tuple)):
        inside = enumerate(value)
    for key, each in inside:
        if found := find_secret(each, f"{where}.{key}" if where else str(key)):
            return found
    return None


def refuse_secrets(what: str, value: Any) -> None:
    """Raises `InputError` when `value`, which would be stored and shown, surely holds a secret."""
    if found := find_secret(value):
        where, kind = found
        raise InputError(
            f"{what} holds {kind} in {where!r}, and what is given there is stored and shown",
            hint="Set an environment variable where the daemon is started, and name that instead",
        )


class Redacting(logging.Formatter):
    """Log lines without secrets, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return _redacted(super().format(record))


def _field(key: Any, value: Any) -> Any:
    named = isinstance(value, str) and isinstance(key, str) and SECRET_FIELD.search(key)
    if named and value and not A_VARIABLE.fullmatch(value):
        return MARK
    return redact(value)


def _redacted(text: str) -> str:
    if len(text) < SHORTEST:
        return text
    if _values.pattern is not None:
        text = _values.pattern.sub(MARK, text)
    if not MAYBE.search(text):
        return text
    for shape in SHAPES:
        if any(mark in text for mark in shape.marks):
            text = shape.pattern.sub(_marked, text)
    return text


def _marked(found: re.Match[str]) -> str:
    if MARK in found[1]:
        return found[0]
    start, end = found.span(1)
    whole, offset = found[0], found.start()
    return whole[: start - offset] + MARK + whole[end - offset :]


def _certain(text: str) -> str:
    if _values.pattern is not None:
        for found in _values.pattern.finditer(text):
            if len(found[0]) >= SURE:
                return _values.whose[found[0]]
    for shape in SHAPES:
        if shape.certain and any(mark in text for mark in shape.marks) and shape.pattern.search(text):
            return shape.what
    return ""


def _spellings(value: str) -> set[str]:
    """A value as it may be met: as it is, in JSON, in an address, in base64; and each long line of it."""
    value = value.strip()
    spelt = {value, json.dumps(value)[1:-1], quote(value, safe=""), base64.b64encode(value.encode()).decode()}
    spelt |= {line.strip() for line in value.splitlines() if len(line.strip()) >= SURE}
    return {each for each in spelt if len(each) >= SHORTEST and value.lower() not in COMMON}


def _searched(value: str) -> str:
    text = re.escape(value)
    return text if len(value) >= SURE else rf"(?<!\w){text}(?!\w)"
