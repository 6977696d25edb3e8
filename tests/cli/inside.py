"""What test_client_programs.py runs inside a network namespace: real clients, and what each says, as JSON.

python inside.py BIN URL      # BIN: the folder of their programs; URL: a model API that is not there
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def lines_of(*command: str, says: list[dict[str, Any]] | None = None) -> Iterator[dict[str, Any]]:
    """The JSON lines that a program prints, until nobody wants more."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            for each in says or []:
                program.stdin.write(json.dumps(each) + "\n")
            program.stdin.flush()
            if says is None:
                program.stdin.close()
            for line in program.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
        finally:
            program.kill()


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def claude(program: str) -> dict[str, Any]:
    """Its health check; and the tools it would offer a model, told before it asks one.

    It does not wait for servers that are slow to start; by then the daemon runs.
    """
    checked = {"health": said(program, "mcp", "list"), "got": said(program, "mcp", "get", "agentd")}
    asking = (program, "-p", "hello", "--output-format", "stream-json", "--verbose")
    return checked | next(line for line in lines_of(*asking) if line.get("subtype") == "init")


def codex(program: str) -> dict[str, Any]:
    """What it has read, and what its server for editors lists after connecting."""
    hello = {"clientInfo": {"name": "test", "title": "test", "version": "1"}}
    says = [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "initialized"},
        {"id": 2, "method": "mcpServerStatus/list", "params": {}},
    ]
    answer = next(line for line in lines_of(program, "app-server", says=says) if line.get("id") == 2)
    return {"listed": json.loads(said(program, "mcp", "list", "--json")), **answer["result"]}


def main(programs: Path, url: str) -> None:
    os.environ |= {"ANTHROPIC_API_KEY": "none", "ANTHROPIC_BASE_URL": url, "MCP_CONNECTION_NONBLOCKING": "0"}
    try:
        told = {"claude": claude(str(programs / "claude")), "codex": codex(str(programs / "codex"))}
    finally:
        subprocess.run([sys.executable, "-P", "-m", "agentd", "stop"], check=False, stdout=sys.stderr)
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
