"""The MCP clients that ``agentd connect`` knows: where each keeps its servers, and how it writes one down.

Files and forms are those that the clients document (November 2026), on Linux. No entry holds a secret: one
that speaks HTTP names the environment variable, or the question, that the client has the token from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.cli import jsonc, toml_tables
from agentd.errors import DataError, InputError

__all__ = ["CLIENTS", "NAME", "TOKEN_VARIABLE", "McpClient", "Server"]

NAME = "agentd"
TOKEN_VARIABLE = "AGENTD_AGENT_TOKEN"
"""The environment variable that clients which speak HTTP have the bearer token from."""

QUESTION = "agentd-token"
LOCAL = ("command", "args", "env", "envFile", "env_vars", "cwd")
"""What only a server that is a program has in its entry."""
DISTANT = ("url", "headers", "bearer_token_env_var", "http_headers", "env_http_headers")
"""What only a server at a URL has."""


@dataclass(frozen=True, slots=True)
class Server:
    """How agentd is reached: by starting `command`, or at `url` if there is one."""

    command: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    url: str = ""


@dataclass(frozen=True, slots=True)
class McpClient:
    """A client: its files, and the form of an entry. `project_file` is relative to the project's folder."""

    title: str
    programs: tuple[str, ...]
    user_file: Callable[[], Path]
    project_file: str
    keys: tuple[str, ...]
    form: Callable[[Server], dict[str, Any]]
    speaks_http: bool = True
    after: str = ""

    def file(self, project: Path | None) -> Path:
        """The file of the user, or of the project in that folder. Raises `InputError` where it has none."""
        if project is None:
            return self.user_file()
        if not self.project_file:
            raise InputError(f"{self.title} has no settings for a project", hint="Leave --project out")
        return project / self.project_file

    def found(self) -> bool:
        """Whether it seems to be installed here."""
        return any(map(shutil.which, self.programs)) or self._own_folder()

    def _own_folder(self) -> bool:
        file = self.user_file()
        return file.exists() or (file.parent != Path.home() and file.parent.is_dir())

    def entry_in(self, path: Path, text: str) -> dict[str, Any] | None:
        """Our entry in a file that holds `text`. Raises `DataError`."""
        values: Any = self._format(path).read(path, text)
        for key in (*self.keys, NAME):
            if not isinstance(values, dict):
                raise DataError(path, "should be an object of servers", field=".".join(self.keys))
            values = values.get(key)
            if values is None:
                return None
        if not isinstance(values, dict):
            raise DataError(path, "should be an object", field=".".join((*self.keys, NAME)))
        return values

    def connected(self, path: Path, text: str, server: Server) -> str:
        """`text` with our entry in it: what others wrote into it stays, unless it is of the other transport.

        Raises `DataError`, `InputError`.
        """
        wanted = self.entry(server)
        there = self.entry_in(path, text) or {}
        gone = (*LOCAL, "type") if server.url else (*DISTANT, "type")
        kept = {key: value for key, value in there.items() if key not in gone}
        if isinstance(kept.get("env"), dict) and "env" in wanted:
            wanted["env"] = kept["env"] | wanted["env"]
        entry = kept | wanted
        if entry == there:
            return self._with_question(path, text, entry)
        changed = self._format(path).put(path, text, (*self.keys, NAME), entry)
        return self._with_question(path, changed, entry)

    def disconnected(self, path: Path, text: str) -> str:
        """`text` without our entry. Raises `DataError`."""
        if self.entry_in(path, text) is None:
            return text
        changed = self._format(path).drop(path, text, (*self.keys, NAME))
        asked = self._questions(path, changed)
        if self.keys == ("servers",) and any(each.get("id") == QUESTION for each in asked):
            rest = [each for each in asked if each.get("id") != QUESTION]
            changed = (
                jsonc.put(path, changed, ["inputs"], rest) if rest else jsonc.drop(path, changed, ["inputs"])
            )
        return changed

    def entry(self, server: Server) -> dict[str, Any]:
        """The entry in this client's form. Raises `InputError` for a URL where it takes programs only."""
        if server.url and not self.speaks_http:
            raise InputError(
                f"{self.title} is told of programs only in its file",
                hint="Leave --http out: the program it starts speaks to the daemon for it",
            )
        return self.form(server)

    def shown(self, server: Server) -> str:
        """The entry as a file that holds nothing else."""
        path = Path(self.project_file or self.user_file().name)
        return self.connected(path, "", server)

    def _with_question(self, path: Path, text: str, entry: Mapping[str, Any]) -> str:
        """VS Code asks for the token once and keeps it: its file says so beside the servers."""
        if self.keys != ("servers",) or "${input:" not in str(entry.get("headers", "")):
            return text
        asked = self._questions(path, text)
        if any(each.get("id") == QUESTION for each in asked):
            return text
        ours = {
            "type": "promptString",
            "id": QUESTION,
            "description": "Token of agentd: what is in its agent-token file",
            "password": True,
        }
        return jsonc.put(path, text, ["inputs"], [*asked, ours])

    def _questions(self, path: Path, text: str) -> list[dict[str, Any]]:
        if self.keys != ("servers",):
            return []
        asked = jsonc.read(path, text).get("inputs", [])
        if not isinstance(asked, list) or not all(isinstance(each, dict) for each in asked):
            raise DataError(path, "should be a list of objects", field="inputs")
        return asked

    @staticmethod
    def _format(path: Path) -> Any:
        return toml_tables if path.suffix == ".toml" else jsonc


def _program(server: Server) -> dict[str, Any]:
    entry: dict[str, Any] = {"command": server.command, "args": list(server.args)}
    return entry | ({"env": dict(server.env)} if server.env else {})


def _bearer(reference: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {reference}"}


def _claude(server: Server) -> dict[str, Any]:
    if server.url:
        return {"type": "http", "url": server.url, "headers": _bearer(f"${{{TOKEN_VARIABLE}}}")}
    return {"type": "stdio", **_program(server)}


def _cursor(server: Server) -> dict[str, Any]:
    if server.url:
        return {"url": server.url, "headers": _bearer(f"${{env:{TOKEN_VARIABLE}}}")}
    return {"type": "stdio", **_program(server)}


def _vscode(server: Server) -> dict[str, Any]:
    if server.url:
        return {"type": "http", "url": server.url, "headers": _bearer(f"${{input:{QUESTION}}}")}
    return {"type": "stdio", **_program(server)}


def _codex(server: Server) -> dict[str, Any]:
    if server.url:
        return {"url": server.url, "bearer_token_env_var": TOKEN_VARIABLE}
    return _program(server)


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _desktop_file() -> Path:
    return _config_home() / "Claude" / "claude_desktop_config.json"


def _claude_file() -> Path:
    return Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home()) / ".claude.json"


def _codex_file() -> Path:
    return Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex") / "config.toml"


CLIENTS: Mapping[str, McpClient] = {
    "claude-code": McpClient(
        "Claude Code", ("claude",), _claude_file, ".mcp.json", ("mcpServers",), _claude,
        after="Look with: claude mcp get agentd",
    ),
    "claude-desktop": McpClient(
        "Claude Desktop", ("claude-desktop",), _desktop_file,
        "", ("mcpServers",), _program, speaks_http=False, after="Quit it and start it again.",
    ),
    "cursor": McpClient(
        "Cursor", ("cursor",), lambda: Path.home() / ".cursor" / "mcp.json", ".cursor/mcp.json",
        ("mcpServers",), _cursor, after="Switch it on under Settings, MCP.",
    ),
    "vscode": McpClient(
        "VS Code", ("code",), lambda: _config_home() / "Code" / "User" / "mcp.json", ".vscode/mcp.json",
        ("servers",), _vscode, after="Run 'MCP: List Servers' in it to start it.",
    ),
    "codex": McpClient(
        "Codex", ("codex",), _codex_file, ".codex/config.toml", ("mcp_servers",), _codex,
        after="Look with: codex mcp get agentd",
    ),
}  # fmt: skip
"""What `agentd connect` is given, to the client it means."""
