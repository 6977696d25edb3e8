"""``agentd mcp``: from an editor's stdin to the daemon and back.

An editor waits for the first answer, so nothing heavy is imported here: no click, no pydantic.
"""

from __future__ import annotations

import sys

from agentd import locations
from agentd.cli.client import ensure_daemon
from agentd.errors import AgentdError
from agentd.server import proxy

__all__ = ["run_proxy"]


def run_proxy() -> int:
    """Speak MCP on stdin and stdout for the daemon, which is started if it is not there."""
    if sys.stdin.isatty():
        print(
            "agentd mcp speaks MCP on stdin and stdout; an MCP client starts it (agentd mcp --help)",
            file=sys.stderr,
        )
    try:
        url, state = ensure_daemon(quiet=True)
    except AgentdError as error:
        print(f"agentd: {error}", file=sys.stderr)
        return 1
    token = (state / locations.AGENT_TOKEN).read_text(encoding="ascii").strip()
    return proxy.run(url, token, sys.stdin.buffer, sys.stdout.buffer)
