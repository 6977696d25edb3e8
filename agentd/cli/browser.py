"""Answering in a browser: ``open``."""

from __future__ import annotations

import html
import os
import shutil
import subprocess
from urllib.parse import quote, urlsplit

import click

from agentd import locations
from agentd.cli import show
from agentd.cli.client import connect
from agentd.cli.visible import visible

__all__ = ["open_"]

FILE = "open.html"
OPENERS = ("wslview", "xdg-open")


@click.command("open")
@click.argument("what", required=False, default="approvals", metavar="[approvals|ID]")
@click.option("--print", "print_", is_flag=True, help="Only print the address.")
def open_(what: str, print_: bool) -> None:
    """Open what waits for approval in a browser, signed in as you.

    ID is an approval's or a job's. Without a desktop the address is printed: it signs one browser in,
    within a minute.

    \b
    Example: agentd open apr-1m8…
    """
    client = connect()
    path = "/approve" if what == "approvals" else f"/approve/{quote(what, safe='')}"
    if what != "approvals":
        client.get(f"/api/approvals/{quote(what, safe='')}")  # one that is not there is told here
    made = client.post("/api/sign-in")
    url = f"{client.url}{made['path']}&next={quote(path)}"
    if print_ or not _opened(url):
        click.echo(url)
        show.errors.print(f"Open it within {made['seconds']:.0f} seconds; it works once.", style="dim")
        if os.environ.get("SSH_CONNECTION"):
            port = urlsplit(client.url).port
            show.errors.print(
                f"From your own machine, go through ssh first: ssh -L {port}:127.0.0.1:{port} …", style="dim"
            )
        return
    show.errors.print(
        visible(f"Opened {client.url}{path} in your browser. If it was not: agentd open --print")
    )


def _opened(url: str) -> bool:
    """Whether a desktop was asked to open it.

    It is handed a private file that leads there: others on the machine see what programs are called with.
    """
    opener = _opener()
    if opener is None:
        return False
    file = locations.state_dir() / FILE
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    there = html.escape(url)
    locations.write_private(
        file,
        f"<!doctype html><meta charset=utf-8><meta name=referrer content=no-referrer>"
        f'<meta http-equiv=refresh content="0; url={there}"><a href="{there}">agentd</a>\n',
    )
    try:
        done = subprocess.run(
            [opener, str(file)], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _opener() -> str | None:
    """The program that opens files on this desktop; None where there is no desktop."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return None
    return next(filter(None, map(shutil.which, OPENERS)), None)
