"""What happened and who decided it: ``journal``, and whether nobody edited it, with or without a daemon."""

from __future__ import annotations

import datetime
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentd import locations
from agentd.cli import show
from agentd.cli.client import connect
from agentd.errors import InputError

if TYPE_CHECKING:  # the store takes a moment to import, and most commands go without
    from agentd.store.journal import Head

__all__ = ["duration", "journal"]

SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group(invoke_without_command=True)
@click.option("-n", "count", default=30, show_default=True, help="How many entries, the newest ones.")
@click.option("--subject", help="Only what happened to this job, approval, model, …")
@click.option("--kind", help="Only entries of this kind, or a pattern: 'approval.*'.")
@click.option("--since", metavar="WHEN", help="Only what happened since: 30m, 12h, 7d, or a date and time.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.pass_context
def journal(
    ctx: click.Context, count: int, subject: str | None, kind: str | None, since: str | None, json_: bool
) -> None:
    """Show what happened and who decided it, newest last.

    \b
    Examples: agentd journal --kind 'approval.*' --since 7d
              agentd journal head --output head.json
              agentd journal verify --head head.json
    """
    if ctx.invoked_subcommand:
        return
    after = None if since is None else moment(since)
    entries = connect().get("/api/journal", tail=count, subject=subject, kind=kind, since=after)
    if json_:
        show.as_json(entries)
        return
    rows = [
        (
            e["seq"],
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(e["at"])),
            e["kind"],
            e["subject"],
            e["principal"],
            ", ".join(f"{k}={v}" for k, v in e["data"].items() if v)[:120],
        )
        for e in entries
    ]
    show.table([">#", "at", "what", "subject", "who", ""], rows, empty="No such entries.")


@journal.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it to this file.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.argument("where", type=click.Path(path_type=Path), required=False)
def head(where: Path | None, output: Path | None, json_: bool) -> None:
    """Print the head: the number and hash of the last entry, which stand for all before it.

    Keep it where this machine cannot write, and check against it later. WHERE is a state directory,
    an agentd.db or a backup; without it, this user's state directory. Needs no daemon.

    \b
    Example: agentd journal head --output /mnt/elsewhere/head.json
    """
    from agentd.store.journal import head_of

    found = head_of(database(where))
    if output is not None:
        output.write_text(found.model_dump_json() + "\n", encoding="utf-8")
    if json_:
        show.as_json(found.model_dump())
    elif output is None:
        show.console.print(str(found))


@journal.command()
@click.option("--head", "kept", metavar="FILE|SEQ:HASH", help="Look for this exported head as well.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.argument("where", type=click.Path(path_type=Path), required=False)
def verify(where: Path | None, kept: str | None, json_: bool) -> None:
    """Check the journal's chain. Exit code 1 when an entry was changed, removed, reordered or cut off.

    WHERE is a state directory, an agentd.db or a backup; without it, this user's state directory.
    Needs no daemon. The head that the daemon noted beside the database is looked for too; only one
    that was kept elsewhere finds what somebody did who can write to both.

    \b
    Example: agentd journal verify --head /mnt/elsewhere/head.json
    """
    from agentd.store.journal import verify as walk

    verdict = walk(database(where), {"exported": exported(kept)} if kept else {})
    if json_:
        show.as_json(verdict.model_dump())
    else:
        said = "intact" if verdict.ok else f"BROKEN: {verdict.problem}"
        against = f"looked for the head that was {' and '.join(verdict.against)}" if verdict.against else ""
        show.console.print(f"{verdict.entries} entries, {show.escape(said)}")
        show.console.print(f"head {verdict.entries}:{verdict.head}")
        if against:
            show.console.print(f"[dim]{show.escape(against)}[/]")
    sys.exit(0 if verdict.ok else 1)


def moment(text: str) -> float:
    """Seconds since the epoch of ``12h`` ago, or of a date and time here. Raises `InputError`."""
    if (seconds := duration(text)) is not None:
        return time.time() - seconds
    try:
        return datetime.datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError as error:
        raise InputError(
            f"{text!r} is no time", hint="Write 30m, 12h, 7d, or 2026-11-22, or '2026-11-22 14:30'"
        ) from error


def duration(text: str) -> float | None:
    """Seconds of ``30m``, ``12h``, ``7d``; None for anything else."""
    span = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    return float(span[1]) * SPANS[span[2]] if span else None


def exported(kept: str) -> Head:
    """A head from a file, or as it was printed. Raises `InputError`."""
    from agentd.store.journal import Head

    try:
        path = Path(kept)
        return Head.read(path.read_text(encoding="utf-8") if path.is_file() else kept)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{kept!r} is neither a file that 'agentd journal head --output' wrote nor SEQ:HASH",
            hint="agentd journal head prints one",
        ) from error


def database(where: Path | None) -> Path:
    """The database in `where`: a state directory, or the file itself."""
    place = where or locations.state_dir()
    return place / "agentd.db" if place.is_dir() or where is None else place
