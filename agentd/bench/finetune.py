"""A fine-tune as a job through the daemon, beside the same recipe run bare with the same spec."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from agentd.cli.client import Client, connect, stop_daemon
from agentd.locations import read_address

__all__ = ["ended", "run"]

DATASET = "evals/data/tickets/train.jsonl"


def run(rounds: int = 3, max_steps: int = 12) -> dict[str, Any]:
    """Job and bare run in turn, `rounds` times, after one unmeasured job; medians and their ratio.

    The wall time of the job is from the call to its end as a caller sees it: policy, approval by rule,
    snapshot, launch, training, artifact and ledger included.
    """
    folder = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
    os.environ.update(AGENTD_STATE=str(folder / "state"), AGENTD_POLICY="demo", AGENTD_PORT="0")
    client = connect()
    try:
        ended(client, client.call("get_model", {"source": "smollm2-135m"}))
        first = _job(client, max_steps, "warm-up")
        job, bare = [], []
        for turn in range(rounds):
            job.append(_job(client, max_steps, f"round-{turn}")[1])
            bare.append(_bare(folder, first[0], turn))
    finally:
        address = read_address(folder / "state")
        if address:
            stop_daemon(client, address["pid"], and_jobs=True)
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "rounds": rounds,
        "steps": max_steps,
        "agentd_s": [round(s, 2) for s in job],
        "bare_s": [round(s, 2) for s in bare],
        "ratio": round(statistics.median(job) / statistics.median(bare), 3),
        "ratio_of_fastest": round(min(job) / min(bare), 3),
    }


def _job(client: Client, max_steps: int, name: str) -> tuple[Path, float]:
    """One job; returns its attempt's folder and the seconds from call to end."""
    started = time.perf_counter()
    arguments = {"model": "smollm2-135m", "dataset": DATASET, "max_steps": max_steps, "name": name}
    view = ended(client, client.call("finetune", arguments))
    seconds = time.perf_counter() - started
    return Path(client.get(f"/api/jobs/{view['id']}/attempt")["folder"]), seconds


def ended(client: Client, view: dict[str, Any]) -> dict[str, Any]:
    """What became of a call, once its job is over. Raises `RuntimeError` unless it succeeded."""
    if view["id"]:
        *_, view = client.follow(f"/api/jobs/{view['id']}/follow")
    if view["state"] != "succeeded":
        raise RuntimeError(f"{view['title']} {view['state']}: {view['reason']}")
    return view


def _bare(folder: Path, attempt: Path, turn: int) -> float:
    """The attempt's own command and spec, with nothing of ours around it."""
    launch = json.loads((attempt / "launch.json").read_text(encoding="utf-8"))
    out = folder / f"bare-{turn}"
    out.mkdir()
    command = [*launch["argv"][:-1], str(out)]
    started = time.perf_counter()
    with (folder / f"bare-{turn}.log").open("wb") as log:
        subprocess.run(command, env={**os.environ, **launch["env"]}, stdout=log, stderr=log, check=True)
    return time.perf_counter() - started
