"""A client that keeps its connection: the MCP Inspector's `mcpdo`, in both eras and over both transports.

Its own daemon is private to the test: in a folder of its own, with a token of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load

pytestmark = pytest.mark.inspector

ROOT = Path(__file__).parents[2]
TOOL_ERROR = 5
Do = Callable[..., Any]


@pytest.fixture(scope="session")
def programs() -> Path:
    found: Path | None = load(ROOT / "tests" / "conformance" / "node.py").programs()
    if found is None:
        pytest.skip("npm is not installed")
    return found


@pytest.fixture(params=["http-legacy", "http-modern", "stdio-legacy", "stdio-modern"])
def do(request: pytest.FixtureRequest, programs: Path, daemon: Any, tmp_path: Path) -> Iterator[Do]:
    """``do("tools/list")``: one command of an open connection, as data."""
    transport, _, era = request.param.partition("-")
    env = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "MCP_INSPECTOR_DAEMON_DIR": str(tmp_path / "mcpdo"),
        "MCP_INSPECTOR_DAEMON_TOKEN": "a-token-of-this-test",
    }

    def run(*arguments: str, status: int = 0) -> Any:
        command = [str(programs / "mcpdo"), "--format", "json", "--connection", "agentd", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    proxy = (
        "import sys; from agentd.server.proxy import run;"
        f"sys.exit(run({daemon.url!r}, 'operate', sys.stdin.buffer, sys.stdout.buffer))"
    )
    target = {
        "http": ["--server-url", f"{daemon.url}/mcp", "--transport", "http", "--header",
                 "Authorization: Bearer operate"],
        "stdio": ["-e", f"PYTHONPATH={ROOT}", "--transport", "stdio", "--", sys.executable, "-c", proxy],
    }[transport]  # fmt: skip
    run("connect", "--era", era, "--elicit", "off", *target)
    yield run
    run("daemon", "stop")


def test_one_connection_lists_calls_and_reads(do: Do) -> None:
    tools = {tool["name"] for tool in do("tools/list")["tools"]}
    assert {"echo", "finetune"} <= tools
    said = do("tools/call", "echo", json.dumps({"text": "Grüße"}))
    assert (said["structuredContent"]["text"], said["structuredContent"]["principal"]) == (
        "Grüße",
        "ada-operate",
    )
    refused = do("tools/call", "overspend", status=TOOL_ERROR)
    assert refused["_meta"]["agentd/error"]["code"] == "over_budget"
    [content] = do("resources/read", "agentd://jobs/job-1")["contents"]
    assert json.loads(content["text"])["state"] == "succeeded"
