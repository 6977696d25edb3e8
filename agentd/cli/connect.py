"""``connect``: MCP clients told of this daemon, in the files that they read. No daemon is needed for it."""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
import time
from pathlib import Path

import click

from agentd import locations
from agentd.cli import show
from agentd.cli.mcp_clients import CLIENTS, NAME, TOKEN_VARIABLE, McpClient, Server
from agentd.errors import AgentdError, InputError, NotFound
from agentd.redaction import redact

__all__ = ["connect"]

CARRIED = ("AGENTD_STATE", "AGENTD_CONFIG", "AGENTD_CACHE", "AGENTD_POLICY", "AGENTD_PORT", "AGENTD_OFFLINE")
"""Variables that say which daemon is meant: a client that a desktop starts would not have them."""


@click.command()
@click.argument("client", required=False)
@click.option("--write", is_flag=True, help="Write it into the client's file; a backup is kept.")
@click.option("--dry-run", is_flag=True, help="Show what would change in the client's file, and leave it.")
@click.option("--remove", is_flag=True, help="Take it out of the client's file again.")
@click.option("--project", is_flag=True, help="For the project in this folder, not for all of yours.")
@click.option("--http", is_flag=True, help="By URL; without it, the client starts 'agentd mcp'.")
@click.option("--json", "json_", is_flag=True, help="Print the list as JSON.")
def connect(
    client: str | None, write: bool, dry_run: bool, remove: bool, project: bool, http: bool, json_: bool
) -> None:
    """Let an MCP client know this daemon. Without --write it is only shown; without a name, they are listed.

    Clients: claude-code, claude-desktop, cursor, vscode, codex. No token is ever written into their files.

    \b
    Examples: agentd connect
              agentd connect cursor
              agentd connect claude-code --write
              agentd connect vscode --project --dry-run
              agentd connect codex --remove
    """
    if client is None:
        _list(json_)
        return
    known = CLIENTS.get(client)
    if known is None:
        raise NotFound("client", client, CLIENTS)
    if remove and (write or http):
        raise InputError("--remove goes with neither --write nor --http")
    path = known.file(Path.cwd() if project else None)
    server = _server(http)
    if not (write or dry_run or remove):
        show.errors.print(f"{known.title} reads {path}; --write puts this into it, beside what is there:")
        click.echo(known.shown(server), nl=False)
        _say_token(server)
        return
    before = _text(path)
    after = known.disconnected(path, before) if remove else known.connected(path, before, server)
    if after == before:
        state = "does not name agentd" if remove else "names agentd already"
        show.errors.print(f"Nothing to change: {path} {state}.")
        return
    click.echo(_diff(path, before, after), nl=False)
    if dry_run:
        show.errors.print("Nothing was written.")
        return
    if before:
        show.errors.print(f"What was there: {_back_up(path, before)}")
    _write(path, after, private=not project)
    show.errors.print(f"{'Disconnected' if remove else 'Connected'}: {path} was changed. {known.after}")
    if not remove:
        _say_token(server)


def _list(json_: bool) -> None:
    listed = [_seen(name, client) for name, client in CLIENTS.items()]
    if json_:
        show.as_json(listed)
        return
    show.table(
        ["client", "here", "connected", "its file"],
        [
            (each["client"], "found" if each["found"] else "–", each["connected"], each["file"])
            for each in listed
        ],
        empty="",
    )


def _seen(name: str, client: McpClient) -> dict[str, object]:
    """A client as it is listed; a file that cannot be read says so in place of an answer."""
    ways = list[str]()
    scopes = {"for you": None} | ({"in this project": Path.cwd()} if client.project_file else {})
    for scope, folder in scopes.items():
        path = client.file(folder)
        try:
            if client.entry_in(path, _text(path)) is not None:
                ways.append(scope)
        except AgentdError as error:
            ways.append(str(error))
    return {
        "client": name,
        "found": client.found(),
        "connected": "; ".join(ways) or "no",
        "file": str(client.user_file()),
    }


def _server(http: bool) -> Server:
    """How this daemon is reached from another program of this machine."""
    script = Path(sys.executable).with_name(NAME)
    command, args = (str(script), ("mcp",)) if script.is_file() else (sys.executable, ("-m", NAME, "mcp"))
    env = {name: value for name in CARRIED if (value := os.environ.get(name))}
    for name in ("AGENTD_STATE", "AGENTD_CONFIG", "AGENTD_CACHE"):
        if name in env:
            env[name] = str(Path(env[name]).expanduser().absolute())
    return Server(command, args, env, url=_url() if http else "")


def _url() -> str:
    """Where the daemon is; where it will be, if it does not run."""
    if remote := locations.remote():
        return f"{remote[0]}/mcp"
    address = locations.read_address(locations.state_dir())
    if address is not None:
        return f"{address['url']}/mcp"
    from agentd.config import load_config

    server = load_config().server
    if server.port == 0:
        raise InputError("A port is picked when the daemon starts", hint="Start it first: agentd tools")
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http://{host}:{server.port}/mcp"


def _say_token(server: Server) -> None:
    if server.url:
        where = "AGENTD_TOKEN" if locations.remote() else str(locations.state_dir() / locations.AGENT_TOKEN)
        show.errors.print(
            f"The client has the token from {TOKEN_VARIABLE} in its environment, or asks for it (VS Code): "
            f"what is in {where}."
        )


def _text(path: Path) -> str:
    """What the file holds, "" when it is not there. Raises `InputError`."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}", hint="Mend it; nothing was written") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _diff(path: Path, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{path} (now)", f"{path} (then)", lineterm=""
    )
    return "".join(f"{redact(line)}\n" for line in lines)


def _back_up(path: Path, text: str) -> Path:
    """A copy in the state directory, which only its owner may read: such files can hold secrets."""
    folder = locations.state_dir() / "client-backups"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stamp = time.strftime("%Y%m%dT%H%M%S")
    flat = str(path).strip("/").replace("/", "%")[-120:]
    handle, name = tempfile.mkstemp(prefix=f"{stamp}-", suffix=f"-{flat}", dir=folder)
    with os.fdopen(handle, "wb") as copy:
        copy.write(text.encode())
    return Path(name)


def _write(path: Path, text: str, *, private: bool) -> None:
    """Replace the file as a whole, with the rights it had. One that is a link stays one."""
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600 if private else 0o644
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
