"""``agentd eval`` against a real daemon: exit codes for builds, pages, and a daemon elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from agentd import locations
from agentd.plugins import Plugins, bundled_root

suites = Plugins((bundled_root(),)).module("tools", "suites")
CACHE = os.environ.get("AGENTD_CACHE") or str(Path(__file__).parents[2] / "build" / "cache")


class Shell:
    """The command line as processes, with a state directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        own = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
        state = {"AGENTD_STATE": str(self.state), "AGENTD_CACHE": CACHE, "AGENTD_PORT": "0"}
        self.own, self.env, self.said = own, own | state, ""

    def __call__(self, *words: str, code: int = 0, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "agentd", *words], cwd=self.folder, env=env or self.env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        self.said = " ".join(done.stderr.split())
        return done.stdout

    def baseline(self, name: str, right: int, wrong: int, suite: str = "s", first: int = 0) -> str:
        """A file as ``eval export`` writes it; right are so many rows from the `first` on."""
        report = {
            "id": name, "suite": suite, "suite_digest": suite, "model": name, "metric": "exact_match",
            "score": right / (right + wrong), "low": 0.0, "high": 1.0, "n": right + wrong, "rows": "x",
        }  # fmt: skip
        scores = [{"id": str(n), "score": float(first <= n < first + right)} for n in range(right + wrong)]
        path = self.folder / f"{name}-{suite}.json"
        path.write_text(json.dumps({"report": report, "scores": scores}), encoding="utf-8")
        return str(path)

    def kept(self, path: str) -> str:
        bundle = Path(path).read_text(encoding="utf-8")
        return json.loads(self("call", "keep_baseline", f"bundle={bundle}", "--json"))["report"]


@pytest.fixture(scope="module")
def agentd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("evals"))
    shell("call", "list_models", "--json")
    yield shell
    shell("stop", "--jobs")


@pytest.mark.parametrize(
    ("first", "right", "code", "verdict"),
    [(0, 399, 0, "better"), (0, 360, 0, "not_worse"), (0, 300, 10, "worse"), (60, 340, 11, "inconclusive")],
)
def test_a_gate_tells_worse_from_what_cannot_be_told(
    agentd: Shell, first: int, right: int, code: int, verdict: str
) -> None:
    old = agentd.baseline("old", 360, 40)
    new = agentd.kept(agentd.baseline(f"new-{right}", right, 400 - right, first=first))
    told = json.loads(agentd("eval", "gate", new, "--baseline", old, "--json", code=code))
    assert told["verdict"] == verdict


def test_a_bench_names_a_model_that_is_not_served(agentd: Shell) -> None:
    agentd("bench", "eval", "--model", "nobody", "--rounds", "1", code=2)
    assert "no served model 'nobody'" in agentd.said.lower()


def test_a_gate_over_other_rows_is_broken(agentd: Shell) -> None:
    new = agentd.kept(agentd.baseline("new", 9, 1, suite="other"))
    told = json.loads(
        agentd("eval", "gate", new, "--baseline", agentd.baseline("old", 9, 1), "--json", code=12)
    )
    assert told["verdict"] == "broken"
    agentd("eval", "gate", new, "--baseline", "missing.json", code=2)


def test_rows_needed_are_told_before_anything_is_asked(agentd: Shell) -> None:
    (made,) = json.loads(agentd("eval", "power", "tickets", "--difference", "0.05", "--json", code=11))
    assert (made["rows"], made["enough"]) == (162, False)
    assert made["needed"] > 162
    agentd("eval", "power", "tickets", "--difference", "0.2")
    agentd("eval", "run", "tickets", "--model", "nobody", "--difference", "0.05", code=2)
    assert "'tickets' is too small: 162 rows show a difference of 0.05" in agentd.said


def test_a_suite_far_from_the_traffic_has_an_exit_code_of_its_own(agentd: Shell) -> None:
    train = bundled_root() / "evals/data/tickets/train.jsonl"
    alike = json.loads(agentd("eval", "drift", "tickets", "--against", str(train), "--json"))
    assert alike["level"] == "stable"
    rows = [{"prompt": "please", "kind": "get_refund"} for _ in range(500)]
    (agentd.folder / "far.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    table = agentd(
        "eval", "drift", "tickets", "--against", "far.jsonl", "--field", "expected.intent=kind", code=10
    )
    assert "get_refund" in table
    assert "not compared: expected.entity_type of the traffic" in agentd.said


def test_a_gate_says_that_its_margin_cannot_be_shown_before_a_model_is_asked(agentd: Shell) -> None:
    digest = suites.load_suite(bundled_root() / "evals/tickets.yaml").digest
    known = agentd.baseline("small", 100, 62, suite=digest)
    gate = ("--baseline", known, "--gate", "--margin", "0.05")
    agentd("eval", "run", "tickets", "--model", "nobody", *gate, code=12)
    told, broken = agentd.said.split("broken: ")
    assert "tickets: 162 rows show a difference of 0.05 with power" in told
    assert "rows are needed" in told
    assert "nobody" in broken


def test_a_gate_against_another_suite_is_broken_before_a_model_is_asked(agentd: Shell) -> None:
    known = agentd.baseline("elsewhere", 9, 1)
    agentd("eval", "run", "tickets", "--model", "nobody", "--baseline", known, "--gate", code=12)
    assert "and not 'tickets' as it is" in agentd.said


def test_a_report_is_written_in_every_form_and_exported_as_it_was_kept(agentd: Shell) -> None:
    path = agentd.baseline("page", 9, 1)
    name = agentd.kept(path)
    agentd("eval", "report", name, "--html", "page.html", "--junit", "page.xml", "--markdown", "page.md")
    assert (agentd.folder / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert ElementTree.parse(agentd.folder / "page.xml").getroot().get("failures") == "0"
    assert "page on s: exact_match 0.900" in (agentd.folder / "page.md").read_text(encoding="utf-8")
    agentd("eval", "export", name, "exported.json")
    exported: dict[str, Any] = json.loads((agentd.folder / "exported.json").read_text(encoding="utf-8"))
    assert exported["scores"] == json.loads(Path(path).read_text(encoding="utf-8"))["scores"]


def test_a_daemon_elsewhere_is_asked_with_its_address_and_token(agentd: Shell, tmp_path: Path) -> None:
    name = agentd.kept(agentd.baseline("far", 9, 1))
    address = locations.read_address(agentd.state)
    assert address is not None
    token = (agentd.state / locations.AGENT_TOKEN).read_text(encoding="ascii").strip()
    elsewhere = agentd.own | {"AGENTD_STATE": str(tmp_path / "nothing"), "AGENTD_URL": address["url"]}
    told = json.loads(agentd("reports", name, "--json", env=elsewhere | {"AGENTD_TOKEN": token}))
    assert told["model"] == "far"
    agentd("reports", name, code=3, env=elsewhere | {"AGENTD_TOKEN": "wrong"})
    assert not (tmp_path / "nothing").exists(), "no daemon of its own was started"
