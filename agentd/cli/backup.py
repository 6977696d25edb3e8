"""A state directory as one file, and back: ``backup``, ``restore``. Neither needs a daemon."""

from __future__ import annotations

import time
from pathlib import Path

import click

from agentd import locations
from agentd.cli import show

__all__ = ["backup", "restore"]

_file = click.argument("file", type=click.Path(path_type=Path))


@click.command()
@_file
@click.option("--verify", "only_verify", is_flag=True, help="Read a backup instead, and check all of it.")
@click.option("--json", "json_", is_flag=True, help="Print what it holds as JSON.")
def backup(file: Path, only_verify: bool, json_: bool) -> None:
    """Write the state directory to FILE, while the daemon goes on. Tokens are left out.

    \b
    Examples: agentd backup /backups/agentd-monday.tar
              agentd backup /backups/agentd-monday.tar --verify
    """
    from agentd import backup as backups

    if only_verify:
        manifest = backups.verify(file)
    else:
        manifest = backups.back_up(locations.state_dir(), file.absolute())
    if json_:
        show.as_json(manifest.model_dump())
        return
    show.facts(
        {
            "holds": f"{len(manifest.files)} files, {show.bytes_(manifest.size_bytes)}",
            "checked": "every file is as it was backed up" if only_verify else "",
            "taken": f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(manifest.at))} on {manifest.host}",
            "of": manifest.state_dir,
            "journal": manifest.head,
        }
    )


@click.command()
@_file
@click.option("--into", type=click.Path(path_type=Path), help="Another folder than the state directory.")
@click.option("--replace", is_flag=True, help="Put the present state aside and take its place.")
def restore(file: Path, into: Path | None, replace: bool) -> None:
    """Make a backup the state directory again. Nothing is launched by that.

    What had not ended when the backup was taken is ended with the cause 'restored' at the next start; tokens
    are made anew, so programs that use one need the new one.

    \b
    Example: agentd stop --jobs; agentd restore /backups/agentd-monday.tar --replace
    """
    from agentd import backup as backups

    target = (into or locations.state_dir()).expanduser().absolute()
    manifest, aside = backups.restore(file.absolute(), target, replace=replace)
    show.errors.print(f"{show.escape(str(target))} is as of {time.ctime(manifest.at)} again")
    if aside:
        show.errors.print(f"what was there is in {show.escape(str(aside))}")
