"""Starting and stopping the daemon: ``serve``, ``stop``; and ``mcp``, which editors start."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentd import locations
from agentd.cli.client import client_of, stop_daemon
from agentd.cli.loading import loading
from agentd.errors import Busy
from agentd.lock import hold

if TYPE_CHECKING:  # what takes time is imported once the state directory is ours
    from agentd.config import Config

__all__ = ["mcp", "serve", "stop"]


@click.command()
@click.option(
    "--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="Read this agentd.toml."
)
@click.option("--port", type=int, help="Listen there; 0 picks a free port.")
@click.option("--policy", help="Rule set: a name in policies/ or a path.")
@click.option("--verbose", is_flag=True, help="Log what is done.")
def serve(path: Path | None, port: int | None, policy: str | None, verbose: bool) -> None:
    """Run the daemon in the foreground, on loopback, until it is interrupted.

    Other commands start it by themselves when it is not there. Jobs and services go on when it ends,
    and are adopted when it starts again.

    \b
    Example: agentd serve --policy unattended
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level)
    held = _hold_early(path)
    with loading():
        import asyncio

        from agentd.config import load_config
        from agentd.redaction import Redacting

        config = load_config(path, port=port, policy=policy)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    lock = held.get(config.state_dir)
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, lock))


def _hold_early(path: Path | None) -> dict[Path, int]:
    """The state directory's lock, taken before anything is loaded: a second daemon says so at once."""
    env = {**os.environ, **({"AGENTD_CONFIG": str(path)} if path else {})}
    try:
        state = locations.state_dir(env)
    except (OSError, ValueError, TypeError):
        return {}  # what is wrong with the configuration is told by whoever reads all of it
    return {state.resolve(): hold(state)}


async def _serve(config: Config, lock: int | None) -> None:
    lock = hold(config.state_dir) if lock is None else lock
    with loading():
        from agentd.daemon import Daemon
        from agentd.server.app import http_server
        from agentd.server.auth import Gate
        from agentd.server.oauth import Resource

        listener = _listen(config)
        host, port = listener.getsockname()[:2]
        url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
        daemon = Daemon(config, url=url, lock=lock)
    _port_file(config).write_text(str(port), encoding="ascii")
    gate = Gate.around(config.server.host, config.server.hosts, config.server.origins)
    oauth = Resource(config.server.oauth) if config.server.oauth else None
    server = http_server(daemon, gate, oauth)
    await daemon.start()
    click.echo(f"agentd {daemon.version} at {url} (MCP: {url}/mcp), state in {config.state_dir}", err=True)
    for file, problem in daemon.plugins.problems.items():
        click.echo(f"agentd: left out {file}: {problem}", err=True)
    try:
        await server.serve(sockets=[listener])
    finally:
        await daemon.aclose()


def _listen(config: Config) -> socket.socket:
    """With port 0, the port of last time if it is still free: jobs that run know it as their gateway."""
    from agentd.server.app import bind

    remembered = _port_file(config)
    if config.server.port == 0 and remembered.is_file():
        with contextlib.suppress(Busy, ValueError):
            return bind(config.server.host, int(remembered.read_text(encoding="ascii")))
    return bind(config.server.host, config.server.port)


def _port_file(config: Config) -> Path:
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return config.state_dir / "port"


def _loop_factory():  # type: ignore[no-untyped-def]
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@click.command()
@click.option("--jobs", "and_jobs", is_flag=True, help="Cancel everything that runs, services too.")
def stop(and_jobs: bool) -> None:
    """Stop the daemon. Jobs and services go on, unless --jobs is given.

    \b
    Example: agentd stop --jobs
    """
    state = locations.state_dir()
    address = locations.read_address(state)
    if address is None:
        click.echo("No daemon is running.", err=True)
        return
    ended = stop_daemon(client_of(address["url"], state), address["pid"], and_jobs=and_jobs)
    click.echo(f"stopped{f', with {ended} job(s)' if ended else ''}", err=True)


@click.command()
def mcp() -> None:
    """Speak MCP on stdin and stdout; this is what an IDE or chat client starts.

    It is a thin proxy to the one daemon, which is started if it is not there.

    \b
    Example (Claude Code): claude mcp add agentd -- agentd mcp
    """
    from agentd.cli.proxy import run_proxy

    sys.exit(run_proxy())
