"""``agentd connect``: files of clients, changed and put back; nothing is lost, no token is in them."""

from __future__ import annotations

import json
import stat
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentd.cli import jsonc
from agentd.cli.app import app
from agentd.cli.connect import CARRIED
from agentd.cli.mcp_clients import CLIENTS, McpClient

COMMAND = str(Path(sys.executable).with_name("agentd"))
Connect = Callable[..., Result]

THEIRS = {
    "json": """{
  // mine
  "theme": "dark",
  "KEYS": {
    "other": {"command": "other", "env": {"KEY": "s3cret"}} // keep
  }
}
""",
    "toml": 'model = "m" # mine\n\n[KEYS.other]\ncommand = "other"\n',
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "XDG_CONFIG_HOME", "AGENTD_URL", *CARRIED):
        monkeypatch.delenv(name, raising=False)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("AGENTD_STATE", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def connect(home: Path) -> Connect:
    def run(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, ["connect", *words], catch_exceptions=False)
        assert done.exit_code == code, f"{words}: {done.stdout}\n{done.stderr}"
        return done

    return run


def read(path: Path) -> dict[str, Any]:
    text = path.read_text()
    return tomllib.loads(text) if path.suffix == ".toml" else jsonc.read(path, text)


def theirs(client: McpClient, path: Path) -> str:
    return THEIRS[path.suffix.lstrip(".")].replace("KEYS", client.keys[0])


SCOPES = [
    (name, scope, way)
    for name, client in CLIENTS.items()
    for scope in ("user", "project")
    for way in ("stdio", "http")
    if (scope == "user" or client.project_file) and (way == "stdio" or client.speaks_http)
]


@pytest.mark.parametrize(("name", "scope", "way"), SCOPES)
def test_a_client_is_connected_and_disconnected_and_the_rest_stays(
    home: Path, connect: Connect, name: str, scope: str, way: str
) -> None:
    client = CLIENTS[name]
    path = client.file(home / "project" if scope == "project" else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(theirs(client, path))
    path.chmod(0o640)
    before = path.read_text()
    options = [*(["--project"] if scope == "project" else []), *(["--http"] if way == "http" else [])]

    dry = connect(name, *options, "--dry-run")
    assert path.read_text() == before
    done = connect(name, *options, "--write")
    assert dry.stdout == done.stdout
    added = [line for line in done.stdout.splitlines() if line.startswith("+") and "(then)" not in line]
    assert added
    entry = read(path)[client.keys[0]]["agentd"]
    if way == "stdio":
        assert (entry["command"], entry["args"]) == (COMMAND, ["mcp"])
        assert entry["env"] == {"AGENTD_STATE": str(home / "state")}
    else:
        assert entry["url"] == "http://127.0.0.1:8731/mcp"
        assert "AGENTD_AGENT_TOKEN" in str(entry) or entry["headers"]["Authorization"].endswith("-token}")
    there = {line.rstrip(",") for line in path.read_text().splitlines()}
    assert {line.rstrip(",") for line in before.splitlines() if "keep" not in line} <= there
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (backup,) = (home / "state" / "client-backups").iterdir()
    assert backup.read_text() == before
    assert str(backup) in done.stderr.replace("\n", "")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600

    again = connect(name, *options, "--write")
    assert "Nothing to change" in again.stderr
    assert not again.stdout

    connect(name, *options[:1] if scope == "project" else [], "--remove")
    assert path.read_text() == before
    assert "Nothing to change" in connect(name, *options[:1] if scope == "project" else [], "--remove").stderr


@pytest.mark.parametrize("name", CLIENTS)
def test_without_a_file_there_is_one_that_only_its_owner_reads(
    home: Path, connect: Connect, name: str
) -> None:
    shown = connect(name)
    path = CLIENTS[name].user_file()
    assert not path.exists()
    connect(name, "--write")
    assert path.read_text() == shown.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", CLIENTS)
def test_a_file_that_cannot_be_read_is_left_alone(home: Path, connect: Connect, name: str) -> None:
    path = CLIENTS[name].user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n= nonsense")
    failed = connect(name, "--write", code=2)
    assert f"{path}:" in failed.stderr
    assert "nothing was written" in failed.stderr
    assert path.read_text() == "{\n= nonsense"
    assert not (home / "state").exists()
    listed = {each["client"]: each["connected"] for each in json.loads(connect("--json").stdout)}
    assert str(path) in listed.pop(name)  # the list goes on
    assert set(listed.values()) == {"no"}


def test_what_somebody_wrote_into_our_entry_stays(home: Path, connect: Connect) -> None:
    path = CLIENTS["cursor"].user_file()
    path.parent.mkdir()
    mine = {"command": "old", "env": {"HF_TOKEN": "x"}, "disabled": True}
    path.write_text(json.dumps({"mcpServers": {"agentd": mine}}, indent=2))
    connect("cursor", "--write")
    entry = read(path)["mcpServers"]["agentd"]
    assert entry["disabled"] is True
    assert entry["env"] == {"HF_TOKEN": "x", "AGENTD_STATE": str(home / "state")}
    connect("cursor", "--write", "--http")
    assert set(read(path)["mcpServers"]["agentd"]) == {"disabled", "url", "headers"}


def test_no_token_is_written_whatever_the_environment_holds(
    home: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "state").mkdir()
    (home / "state" / "agent-token").write_text("tok-text-of-the-agents")
    monkeypatch.setenv("AGENTD_TOKEN", "tok-text-of-mine")
    monkeypatch.setenv("AGENTD_URL", "https://box.example:8731/")
    for name, scope, way in SCOPES:
        options = [*(["--project"] if scope == "project" else []), *(["--http"] if way == "http" else [])]
        connect(name, *options, "--write")
        path = CLIENTS[name].file(home / "project" if scope == "project" else None)
        assert "tok-text" not in path.read_text()
        if way == "http":
            assert "https://box.example:8731/mcp" in path.read_text()


def test_a_secret_beside_ours_is_not_shown(home: Path, connect: Connect) -> None:
    path = CLIENTS["cursor"].user_file()
    path.parent.mkdir()
    secret = "sk-ant-api03-" + "Ab1" * 20
    path.write_text(json.dumps({"mcpServers": {"x": {"env": {"ANTHROPIC_API_KEY": secret}}}}, indent=2))
    shown = connect("cursor", "--dry-run").stdout
    assert "ANTHROPIC_API_KEY" in shown
    assert secret not in shown


def test_a_link_stays_a_link(home: Path, connect: Connect) -> None:
    kept = home / "dotfiles" / "mcp.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    path = CLIENTS["cursor"].user_file()
    path.parent.mkdir()
    path.symlink_to(kept)
    connect("cursor", "--write")
    assert path.is_symlink()
    assert "agentd" in read(kept)["mcpServers"]


def test_the_list_says_which_are_here_and_which_are_connected(home: Path, connect: Connect) -> None:
    connect("codex", "--write")
    connect("vscode", "--project", "--write")
    listed = {each["client"]: each for each in json.loads(connect("--json").stdout)}
    assert list(listed) == list(CLIENTS)
    assert (listed["codex"]["found"], listed["codex"]["connected"]) == (True, "for you")
    assert listed["vscode"]["connected"] == "in this project"
    assert (listed["cursor"]["found"], listed["cursor"]["connected"]) == (False, "no")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["codexx"], "There is no client 'codexx'. Did you mean 'codex'"),
        (["claude-desktop", "--project"], "Claude Desktop has no settings for a project"),
        (["claude-desktop", "--http"], "Leave --http out"),
        (["codex", "--remove", "--write"], "--remove goes with neither"),
    ],
)
def test_what_cannot_be_is_refused(connect: Connect, words: list[str], said: str) -> None:
    assert said in connect(*words, code=2).stderr.replace("\n", " ")
