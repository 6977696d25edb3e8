"""Where things lie, by environment variables and custom. Standard library only: the stdio proxy uses it."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "ADDRESS",
    "AGENT_TOKEN",
    "CAPTURE_HEADER",
    "OWNER_TOKEN",
    "PROJECT_HEADER",
    "TRAFFIC",
    "cache_dir",
    "config_file",
    "project",
    "read_address",
    "remote",
    "state_dir",
    "write_private",
]

ADDRESS, TRAFFIC = "daemon.json", "traffic.db"
OWNER_TOKEN, AGENT_TOKEN = "owner-token", "agent-token"
PROJECT_HEADER, CAPTURE_HEADER = "agentd-project", "agentd-capture"


def config_file(env: Mapping[str, str] = os.environ) -> Path | None:
    """The file that ``AGENTD_CONFIG`` names, else the usual one when it exists."""
    if named := env.get("AGENTD_CONFIG"):
        return Path(named)
    usual = _xdg(env, "XDG_CONFIG_HOME", ".config") / "agentd" / "agentd.toml"
    return usual if usual.is_file() else None


def state_dir(env: Mapping[str, str] = os.environ) -> Path:
    """The state directory: ``AGENTD_STATE``, else what the config file says, else the usual one."""
    if named := env.get("AGENTD_STATE"):
        return Path(named).expanduser().resolve()
    path = config_file(env)
    if path is not None and path.is_file():
        said = tomllib.loads(path.read_text(encoding="utf-8")).get("state_dir")
        if said:
            return (path.parent / Path(said).expanduser()).resolve()
    return _xdg(env, "XDG_STATE_HOME", ".local/state") / "agentd"


def cache_dir(env: Mapping[str, str] = os.environ) -> Path:
    return _xdg(env, "XDG_CACHE_HOME", ".cache") / "agentd"


def remote(env: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """URL and token of a daemon elsewhere: ``AGENTD_URL`` and ``AGENTD_TOKEN``. None without the first."""
    url = env.get("AGENTD_URL", "").rstrip("/")
    return (url, env.get("AGENTD_TOKEN", "")) if url else None


def project(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header that books what is called on a project: ``AGENTD_PROJECT``, if it is set."""
    return {PROJECT_HEADER: env["AGENTD_PROJECT"]} if env.get("AGENTD_PROJECT") else {}


def read_address(state: Path) -> dict[str, Any] | None:
    """``{"url", "pid", "version"}`` of this state directory's daemon; None when none has said where it is."""
    try:
        return json.loads((state / ADDRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, by one that only its owner may read."""
    waiting = path.with_name(f".{path.name}.part")
    waiting.unlink(missing_ok=True)
    waiting.touch(mode=0o600, exist_ok=False)
    waiting.write_text(text, encoding="utf-8")
    waiting.replace(path)


def _xdg(env: Mapping[str, str], name: str, default: str) -> Path:
    return Path(env[name]) if env.get(name) else Path.home() / default
