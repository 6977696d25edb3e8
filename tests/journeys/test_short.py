"""From a base model to a tuned, served, quantized one: the command line, a daemon process, real models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.plugins import Plugins, bundled_root

pytestmark = pytest.mark.slow
PLAN = Path(__file__).with_name("short.yaml")


def agentd(env: dict[str, str], *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "agentd", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert not check or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    state = tmp_path_factory.mktemp("journey")
    values = {**os.environ, "AGENTD_STATE": str(state), "AGENTD_POLICY": "demo", "AGENTD_PORT": "0"}
    yield values
    agentd(values, "stop", "--jobs", check=False)


@pytest.fixture(scope="module")
def run(env: dict[str, str]) -> dict[str, Any]:
    return json.loads(agentd(env, "run", str(PLAN), "--json").stdout)


@pytest.fixture(scope="module")
def steps(run: dict[str, Any]) -> dict[str, Any]:
    return {step["id"]: step for step in run["steps"]}


def test_every_step_was_carried_out(run: dict[str, Any], steps: dict[str, Any]) -> None:
    assert run["state"] == "succeeded"
    skipped = {name for name, step in steps.items() if step["state"] != "succeeded"}
    assert skipped <= {"unearned"}


def test_a_result_has_no_key_that_its_tool_does_not_name(steps: dict[str, Any]) -> None:
    given = {name: set(tool.gives) for name, tool in Plugins((bundled_root(),)).tools().items()}
    told = {step["tool"]: step["result"].keys() for step in steps.values() if step.get("result")}
    assert told.keys() & {name for name, keys in given.items() if keys}
    more = {name: keys - given[name] for name, keys in told.items() if given[name] and "items" not in keys}
    assert {name: keys for name, keys in more.items() if keys} == {}


def test_citations_are_the_bytes_of_their_source(steps: dict[str, Any]) -> None:
    answered, unanswerable = steps["answers"]["result"]["items"]
    assert unanswerable["abstained"]
    assert answered["citations"]
    for cited in answered["citations"]:
        text = Path(cited["source"]).read_bytes()[cited["start"] : cited["end"]]
        assert text.decode() == cited["text"]


def test_the_adapter_changes_what_the_base_says(steps: dict[str, Any]) -> None:
    assert steps["tune"]["result"]["steps"] == 2
    assert steps["ask"]["result"]["model"] == "tickets-lora"
    assert "alias 'tickets' points at 'tickets-lora'" in steps["ask"]["result"]["why"]


def test_the_quantized_model_is_smaller_and_answers(steps: dict[str, Any]) -> None:
    made = steps["small"]["result"]
    assert made["bytes"] < made["bytes_before"]
    assert steps["ask_small"]["result"]["output_tokens"] > 0


def test_every_launch_was_decided_by_the_rule_and_paid_for(env: dict[str, str], run: dict[str, Any]) -> None:
    jobs = json.loads(agentd(env, "jobs", "--json").stdout)
    assert {job["decided_by"] for job in jobs} == {"policy:demo"}
    trained = next(job for job in jobs if job["tool"] == "finetune")
    assert trained["micro_usd"] > 0
    summary = json.loads(agentd(env, "ledger", "--json").stdout)
    open_entries = {entry["subject"] for entry in summary["entries"] if entry["settled"] is None}
    assert open_entries == {job["id"] for job in jobs if job["state"] == "running"}


def test_the_journal_is_intact(env: dict[str, str], run: dict[str, Any]) -> None:
    assert json.loads(agentd(env, "journal", "verify", "--json").stdout)["ok"]
