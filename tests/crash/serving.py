"""A tiny model, an adapter trained on it, and a vLLM that is asked all the time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from callers import training
from ground import Caller, Chaos, interpreter, say, succeeded

from agentd.jobs import shim

PROMPT = [{"role": "user", "content": "Say 7."}]

# A Llama of two layers under SmolLM2's own tokenizer, with random weights.
TINY = """
import sys, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
config = LlamaConfig(
    hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    head_dim=64, vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True,
    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.pad_token_id, initializer_range=0.2)
LlamaForCausalLM(config).to(torch.float32).save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""


async def prepare_models(chaos: Chaos, owner: Caller) -> None:
    """A tiny model under a real tokenizer, and one adapter that was trained on it."""
    say("fetching the tokenizer, and making a tiny model")
    fetched = await succeeded(owner, await owner.call("get_model", "get-base", source="smollm2-135m"))
    environment = await interpreter("finetune")
    tiny = chaos.folder / "tiny"
    await asyncio.to_thread(
        subprocess.run, [str(environment), "-P", "-c", TINY, fetched["path"], str(tiny)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    await succeeded(owner, await owner.call("get_model", "get-tiny", source=f"path:{tiny}", name="tiny"))
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(32)]
    (chaos.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    say("training the adapter that is served")
    await succeeded(owner, await owner.call("finetune", "train-adapter", **training(0, max_steps=30)))


@dataclass(frozen=True, slots=True)
class Service:
    """Where vLLM answers, and what its adapter says."""

    job: str
    attempt: str
    url: str
    headers: dict[str, str]
    text: str


async def serve(chaos: Chaos, owner: Caller) -> Service:
    say("starting vLLM with the adapter")
    job = await owner.call("serve", "serve", model="tiny-0", max_model_len=256, hours=1.0)
    await succeeded(owner, job)
    folder = Path((await owner.ask("GET", f"/api/jobs/{job}/attempt")).json()["folder"])
    port = json.loads((folder / "spec.json").read_text("utf-8"))["port"]
    headers = {"Authorization": f"Bearer {(folder / 'service-token').read_text('ascii')}"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with httpx.AsyncClient(trust_env=False, timeout=60.0, headers=headers) as http:
        base, tuned = [await completion(http, url, model) for model in ("tiny", "tiny-0")]
    if base == tuned:
        chaos.problems.append(f"the adapter answers as its base does: {base!r}")
    say(f"vLLM answers {tuned!r} with the adapter, and {base!r} without")
    return Service(job, folder.name, url, headers, tuned)


async def completion(http: httpx.AsyncClient, url: str, model: str) -> str:
    body = {"model": model, "messages": PROMPT, "temperature": 0, "max_tokens": 8}
    response = await http.post(url, json=body)
    response.raise_for_status()
    return response.json()["choices"][0]["message"]["content"]


async def probe(chaos: Chaos, service: Service) -> None:
    """Ask the service itself, twice a second, whether there is a daemon or not. It must always answer."""
    async with httpx.AsyncClient(trust_env=False, timeout=60.0, headers=service.headers) as http:
        while True:
            await count(chaos, "direct", service, lambda: completion(http, service.url, "tiny-0"))
            await asyncio.sleep(0.5)


async def probe_gateway(chaos: Chaos, service: Service) -> None:
    """Ask through the gateway; a daemon that was killed meanwhile is no failure."""
    while True:
        with contextlib.suppress(OSError, ValueError, httpx.TransportError):
            await count(chaos, "gateway", service, lambda: through_gateway(chaos))
        await asyncio.sleep(0.5)


async def through_gateway(chaos: Chaos) -> str:
    address = json.loads((chaos.state / "daemon.json").read_text("utf-8"))
    token = (chaos.state / "agent-token").read_text("ascii").strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(trust_env=False, timeout=60.0, headers=headers) as http:
        return await completion(http, f"{address['url']}/v1/chat/completions", "tiny-0")


async def count(chaos: Chaos, way: str, service: Service, answer: Callable[[], Awaitable[str]]) -> None:
    """Ask once. What fails, or is not what the adapter says, is a problem."""
    try:
        text = await answer()
    except httpx.HTTPStatusError as error:
        chaos.problems.append(f"asked {way}, it answered {error.response.status_code}: {error.response.text}")
        return
    except httpx.TransportError as error:
        if way == "gateway":
            raise
        chaos.problems.append(f"asked {way}, it did not answer: {error!r}")
        return
    chaos.asked[way] = chaos.asked.get(way, 0) + 1
    if text != service.text:
        chaos.problems.append(f"asked {way}, it answered {text!r}")


def kill_shim_of(chaos: Chaos, service: Service) -> None:
    """The service goes on without its shim."""
    go = shim.read_json(str(chaos.state / "attempts" / service.attempt / "go"))
    if go:
        chaos.kill(go["pid"], "shim", service.attempt, go["start_time"])
