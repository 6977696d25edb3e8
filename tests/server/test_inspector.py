"""A client that is not ours: the MCP Inspector's command line, in both eras and over both transports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load

pytestmark = pytest.mark.inspector

ROOT = Path(__file__).parents[2]
TOOL_ERROR = 5

Inspect = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def inspector() -> Path:
    """Installed once, with the Node that it needs."""
    programs: Path | None = load(ROOT / "tests" / "conformance" / "node.py").programs()
    if programs is None:
        pytest.skip("npm is not installed")
    return programs


@pytest.fixture(params=["http-legacy", "http-modern", "stdio-legacy", "stdio-modern"])
def inspect(request: pytest.FixtureRequest, inspector: Path, daemon: Any) -> Inspect:
    transport, _, era = request.param.partition("-")
    proxy = (
        "import sys; from agentd.server.proxy import run;"
        f"sys.exit(run({daemon.url!r}, 'operate', sys.stdin.buffer, sys.stdout.buffer))"
    )
    target = {
        "http": [
            *("--server-url", f"{daemon.url}/mcp", "--transport", "http"),
            *("--header", "Authorization: Bearer operate"),
        ],
        "stdio": ["-e", f"PYTHONPATH={ROOT}", "--transport", "stdio"],
    }[transport]
    tail = ["--", sys.executable, "-c", proxy] if transport == "stdio" else []

    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        command = [str(inspector / "mcp-inspector"), "--cli", *target, "--protocol-era", era]
        command += ["--format", "json", "-q", *arguments, *tail]
        env = os.environ | {"PATH": f"{inspector}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
        assert done.returncode == status, done.stderr
        assert status or not done.stderr  # with --strict, what is wrong with a schema
        return json.loads(done.stdout)

    return run


def test_it_lists_the_tools(inspect: Inspect) -> None:
    listed = inspect("--method", "tools/list", "--strict")
    tools = {tool["name"]: tool for tool in listed.get("result", listed)["tools"]}
    assert tools["finetune"]["inputSchema"]["required"] == ["data"]
    assert tools["echo"]["annotations"]["readOnlyHint"] is True


def test_it_calls_a_tool(inspect: Inspect) -> None:
    arguments = json.dumps({"text": "Grüße"})
    said = inspect("--method", "tools/call", "--tool-name", "echo", "--tool-args-json", arguments)
    assert said.get("result", said)["structuredContent"]["text"] == "Grüße"


def test_it_shows_a_tool_error(inspect: Inspect) -> None:
    said = inspect("--method", "tools/call", "--tool-name", "overspend", status=TOOL_ERROR)
    assert said.get("result", said)["isError"] is True


def test_it_reads_a_resource(inspect: Inspect) -> None:
    read = inspect("--method", "resources/read", "--uri", "agentd://jobs/job-1")
    (content,) = read.get("result", read)["contents"]
    assert json.loads(content["text"])["state"] == "succeeded"
