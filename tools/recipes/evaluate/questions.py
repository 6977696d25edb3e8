"""Rows as requests, and what an answer depends on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rows import Row

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """One request. Its key is what the answer depends on; "" stands for nothing that can be known."""

    body: Body
    key: str

    @classmethod
    def of(cls, body: Body, identity: Any, sample: int = 0) -> Question:
        asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        what = json.dumps([identity, sample, asked], sort_keys=True, separators=(",", ":"))
        return cls(body, hashlib.sha256(what.encode()).hexdigest())


def messages_of(spec: Mapping[str, Any], row: Row) -> list[dict[str, str]]:
    def filled(match: re.Match[str]) -> str:
        value = row.get(match[1], match[0])
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    messages = [{"role": "system", "content": spec["system"]}] if spec.get("system") else []
    user = re.sub(r"\{(\w+)\}", filled, spec.get("user", "{input}"))
    return [*messages, *spec.get("examples", ()), {"role": "user", "content": user}]


def rendered(spec: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The SHA-256 of all that the rows are asked in, as it is sent."""
    said = json.dumps([messages_of(spec, row) for row in rows], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def questions_of(spec: Mapping[str, Any], row: Row) -> list[Question]:
    """One for every sample of the row."""
    body: Body = {
        "model": spec["model"],
        "messages": messages_of(spec, row),
        "max_tokens": spec.get("max_tokens", 256),
        "temperature": spec.get("temperature", 0),
        "seed": spec.get("seed", 0),
    }
    if spec.get("schema"):
        body["response_format"] = constrained_to(spec["schema"])
    if spec.get("logprobs"):
        body["logprobs"] = True
    if spec.get("stream"):
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    identity = spec.get("identity") or [spec["model"], base_url_of(spec)]
    return [
        Question.of({**body, "seed": body["seed"] + sample}, identity, sample)
        for sample in range(spec.get("samples", 1))
    ]


def constrained_to(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def base_url_of(spec: Mapping[str, Any]) -> str:
    return (spec.get("base_url") or os.environ.get("AGENTD_GATEWAY_URL", "")).rstrip("/")
