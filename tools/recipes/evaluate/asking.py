"""One question to an OpenAI-compatible endpoint, again where that helps."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from failures import Hopeless, RowDelayed, RowFailed
from kept import Reply
from questions import Body

if TYPE_CHECKING:
    import httpx


PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}

# Nothing that is asked will be answered: wrong key, no money left, no such model or path.
FATAL = {401, 402, 403, 404, 405}
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 20.0


@dataclass
class Asker:
    """Asks with retries: exponential back-off with full jitter, or as the endpoint's Retry-After says."""

    http: httpx.AsyncClient
    retries: int
    patience_s: float
    jitter: random.Random
    last_reached: float = field(default_factory=time.monotonic)

    async def ask(self, body: Body) -> Reply:
        """The endpoint's answer. Raises `RowFailed` for one that will not come, or `Hopeless`."""
        import httpx

        failures = 0
        while True:
            try:
                return await self.once(body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                # Nobody was asked, so this is no try: the endpoint may be restarting.
                self.check_patience(error)
                await asyncio.sleep(self.jitter.uniform(0.1, 2.0))
            except RowDelayed as error:
                failures += 1
                if failures > self.retries:
                    raise RowFailed(f"{error} (asked {failures} times)") from error
                longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**failures)
                await asyncio.sleep(error.wait_s or self.jitter.uniform(0, longest))

    async def once(self, body: Body) -> Reply:
        import httpx

        began = time.monotonic()
        try:
            if body.get("stream"):
                return await self.streamed(body, began)
            response = await self.http.post("chat/completions", json=body)
            self.last_reached = time.monotonic()
            answer = response.json() if response.is_success else self.refused(response)
            return read_answer(answer, self.last_reached - began)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise
        except httpx.TransportError as error:
            raise RowDelayed(f"{type(error).__name__}: {error}") from error
        except json.JSONDecodeError as error:
            raise RowDelayed(f"the endpoint's answer is not JSON: {error}") from error

    async def streamed(self, body: Body, began: float) -> Reply:
        """The same by server-sent events, which tells when the first token came."""
        whole: dict[str, Any] = {"choices": [{"message": {"content": ""}}]}
        choice, first_s, logprobs, ended = whole["choices"][0], None, [], False
        async with self.http.stream("POST", "chat/completions", json=body) as response:
            self.last_reached = time.monotonic()
            if not response.is_success:
                await response.aread()
                self.refused(response)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                if (data := line[5:].strip()) == "[DONE]":
                    ended = True
                    break
                chunk = json.loads(data)
                if "error" in chunk:
                    raise RowDelayed(f"the stream broke off: {json.dumps(chunk['error'])[:300]}")
                whole |= {name: chunk[name] for name in ("model", "usage") if chunk.get(name)}
                for part in chunk.get("choices") or ():
                    said = (part.get("delta") or {}).get("content") or ""
                    if said and first_s is None:
                        first_s = time.monotonic() - began
                    choice["message"]["content"] += said
                    choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
                    logprobs += (part.get("logprobs") or {}).get("content") or ()
        if not ended and not choice.get("finish_reason"):
            raise RowDelayed("the stream ended before the answer did")
        if logprobs:
            choice["logprobs"] = {"content": logprobs}
        reply = read_answer(whole, time.monotonic() - began)
        return reply if first_s is None else reply | {"first_s": round(first_s, 4)}

    def refused(self, response: httpx.Response) -> NoReturn:
        status, said = response.status_code, f"{response.status_code} {message_of(response)}"
        if status in FATAL:
            raise Hopeless(
                f"{self.http.base_url} refuses: {said}", "Check model, key and budget, then run again"
            )
        if status not in PASSING:
            raise RowFailed(said)
        after = response.headers.get("retry-after", "")
        raise RowDelayed(said, min(float(after), 60.0) if after.isdigit() else 0.0)

    def check_patience(self, error: Exception) -> None:
        if time.monotonic() - self.last_reached > self.patience_s:
            raise Hopeless(
                f"{self.http.base_url} could not be reached for {self.patience_s:g} s: {error}",
                "Start the endpoint, then run the same evaluation again",
            ) from error


def message_of(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError):
        return response.text[:500]


def read_answer(answer: Any, seconds: float) -> Reply:
    try:
        choice = answer["choices"][0]
        text = choice["message"].get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise RowFailed(
            f"the endpoint's answer has no choices.0.message: {json.dumps(answer)[:300]}"
        ) from error
    usage = answer.get("usage") or {}
    reply: Reply = {
        "text": text,
        "finish_reason": choice.get("finish_reason"),
        "model": (answer.get("agentd") or {}).get("model") or answer.get("model", ""),
        "seconds": round(seconds, 4),
        "input_tokens": usage.get("prompt_tokens") or 0,
        "output_tokens": usage.get("completion_tokens") or 0,
    }
    if tokens := (choice.get("logprobs") or {}).get("content"):
        reply["logprobs"] = [round(token["logprob"], 5) for token in tokens]
    if prompt := answer.get("prompt_logprobs"):
        reply["prompt_logprobs"] = [prompt_logprob(token) for token in prompt]
    return reply


def prompt_logprob(token: Mapping[str, Any] | None) -> float | None:
    """vLLM lists the prompt's own token first, perhaps with likelier ones after it."""
    return round(next(iter(token.values()))["logprob"], 5) if token else None
