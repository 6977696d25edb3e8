"""Real client programs from npm: each reads what `agentd connect` wrote, connects, and lists the tools.

They run in a network namespace that has nothing but a loopback interface, and tell nobody. The daemon is
started in there too, by the `agentd mcp` that they start.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.inspector

PACKAGES = ["@anthropic-ai/claude-code@2.1.197", "@openai/codex@0.169.0"]
FOLDER = Path(__file__).parents[2] / "build" / "clients"
ALONE = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
SILENT = {
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}
TOOLS = {"finetune", "evaluate", "job_wait"}


@pytest.fixture(scope="module")
def programs() -> Path:
    """Their folder; they are installed once."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    alone = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    if alone.returncode:
        pytest.skip(f"no network namespace can be made here: {alone.stderr.strip()}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    programs = FOLDER / "node_modules" / ".bin"
    options = ["--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
    if any(not _installed(package) for package in PACKAGES):
        subprocess.run(
            [npm, "install", "--prefix", str(FOLDER), *options, *PACKAGES], check=True, timeout=600
        )
    for name in ("claude", "codex"):
        tried = subprocess.run([*ALONE, str(programs / name), "--version"], capture_output=True, check=False)
        if tried.returncode:
            pytest.skip(f"{name} does not run here: {tried.stderr.decode()[-200:]}")
    return programs


def _installed(package: str) -> bool:
    name, _, version = package.rpartition("@")
    manifest = FOLDER / "node_modules" / name / "package.json"
    return manifest.is_file() and json.loads(manifest.read_text())["version"] == version


@pytest.fixture(scope="module")
def told(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What they say, of servers that `agentd connect` named in their own files."""
    home = tmp_path_factory.mktemp("home")
    (home / "project").mkdir()
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("AGENTD_", "ANTHROPIC_"))
    }
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "XDG_CONFIG_HOME", "OPENAI_API_KEY"):
        env.pop(name, None)
    env |= {**SILENT, "HOME": str(home), "AGENTD_STATE": str(home / "state"), "AGENTD_PORT": "0"}
    for client in ("claude-code", "codex"):
        command = [sys.executable, "-P", "-m", "agentd", "connect", client, "--write"]
        subprocess.run(command, env=env, cwd=home / "project", check=True, capture_output=True, timeout=60)
    script = Path(__file__).with_name("inside.py")
    done = subprocess.run(
        [*ALONE, sys.executable, str(script), str(programs), "http://127.0.0.1:9"],
        env=env, cwd=home / "project", capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_claude_code_finds_the_server_healthy(told: dict[str, Any]) -> None:
    (line,) = [line for line in told["claude"]["health"].splitlines() if line.startswith("agentd: ")]
    assert line.endswith("Connected")
    assert "Scope: User config" in told["claude"]["got"]


def test_claude_code_offers_its_model_the_tools(told: dict[str, Any]) -> None:
    assert told["claude"]["mcp_servers"] == [{"name": "agentd", "status": "connected"}]
    assert {f"mcp__agentd__{name}" for name in TOOLS} <= set(told["claude"]["tools"])


def test_codex_reads_the_entry_as_it_was_meant(told: dict[str, Any]) -> None:
    (entry,) = told["codex"]["listed"]
    assert (entry["name"], entry["enabled"]) == ("agentd", True)
    assert entry["transport"]["type"] == "stdio"
    assert Path(entry["transport"]["command"]).is_absolute()
    assert set(entry["transport"]["env"]) == {"AGENTD_STATE", "AGENTD_PORT"}


def test_codex_lists_the_tools(told: dict[str, Any]) -> None:
    (server,) = told["codex"]["data"]
    assert server["serverInfo"]["name"] == "agentd"
    assert set(server["tools"]) >= TOOLS
