"""The environments that recipes run in: ``env list``, ``env build``, ``env prune``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from agentd.cli import show
from agentd.config import Config, load_config
from agentd.errors import AgentdError, NotFound
from agentd.hardware import accelerator
from agentd.jobs.environments import Environments, Lock
from agentd.jobs.recipes import find_recipe, recipe_names
from agentd.plugins import Plugins
from agentd.store.jobs import environments_needed

__all__ = ["env"]


@click.group()
def env() -> None:
    """Look at, build and remove the Python environments of recipes. No daemon is needed.

    \b
    Example: agentd env list
    """


@env.command(name="list")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def list_(json_: bool) -> None:
    """Every recipe, whether its environment is built, and what building would download."""
    config = load_config()
    environments = _environments(config)
    rows = [_row(environments, path) for path in _recipes(config).values()]
    if json_:
        show.as_json(rows)
        return
    show.table(
        ["recipe", "state", ">download", ">disk", "environment"],
        [
            (
                r["recipe"],
                r["state"],
                show.bytes_(r["download_bytes"]) if r["download_bytes"] else "",
                show.bytes_(r["disk_bytes"]) if r["disk_bytes"] else "",
                r["digest"][:12],
            )
            for r in rows
        ],
        empty="There are no recipes.",
    )
    show.errors.print(
        f"in {config.cache_dir}; environments share files, so together they take less", style="dim"
    )


@env.command()
@click.argument("recipes", nargs=-1)
@click.option(
    "--compile", "compile_", is_flag=True, help="Compile bytecode too: slower now, first start faster."
)
def build(recipes: tuple[str, ...], compile_: bool) -> None:
    """Build environments ahead of time, all of them without names; as before going offline.

    \b
    Example: agentd env build finetune serve_vllm
    """
    config = load_config()
    known, environments = _recipes(config), _environments(config)
    for name in recipes or known:
        if name not in known:
            raise NotFound("recipe", name, known)
        _build(environments, known[name], compile_)


def _build(environments: Environments, recipe: Path, compile_: bool) -> None:
    """Build one environment, with its download on a live line."""
    lock = asyncio.run(environments.lock(recipe))
    size = show.bytes_(environments.estimate(lock).download_bytes)
    with show.errors.status(f"{recipe.stem}: at most {size} to download") as status:

        def on_progress(event: dict[str, Any]) -> None:
            status.update(f"{recipe.stem}: {show.progress_line(event)}")

        asyncio.run(environments.build(lock, on_progress, compile_bytecode=compile_))
    show.errors.print(f"[green]✓[/] {recipe.stem}")


@env.command()
@click.option("--days", default=0.0, help="Only those that were not used for so many days.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(days: float, yes: bool) -> None:
    """Remove environments. They are built again when a job needs them.

    Those of jobs that run, wait or are queued stay.

    \b
    Example: agentd env prune --days 30
    """
    config = load_config()
    environments, keep = _environments(config), environments_needed(config.state_dir / "agentd.db")
    listed = [environment for environment in environments.list() if environment.digest not in keep]
    if not listed:
        show.errors.print("There are no environments that nothing needs.")
        return
    if not yes:
        click.confirm(
            f"Remove up to {len(listed)} environments ({show.bytes_(sum(e.size_bytes for e in listed))})?",
            abort=True,
        )
    gone = environments.prune(unused_s=days * 86_400, keep=keep)
    show.errors.print(f"removed {len(gone)}, {show.bytes_(sum(e.size_bytes for e in gone))}")


def _environments(config: Config) -> Environments:
    interpreters = {name: recipe.python for name, recipe in config.recipes.items()}
    return Environments(config.cache_dir, interpreters=interpreters, accelerator=accelerator())


def _recipes(config: Config) -> dict[str, Path]:
    plugins = Plugins.open(config.roots)
    return {name: find_recipe(plugins, name) for name in recipe_names(plugins)}


def _row(environments: Environments, recipe: Path) -> dict[str, Any]:
    try:
        lock: Lock = asyncio.run(environments.lock(recipe))
    except AgentdError as error:
        return {
            "recipe": recipe.stem,
            "state": f"cannot be resolved: {error.message[:80]}",
            "digest": "",
            "download_bytes": 0,
            "disk_bytes": 0,
        }
    estimate = environments.estimate(lock)
    built = {e.digest: e for e in environments.list()}
    disk = built[lock.digest].size_bytes if lock.digest in built else estimate.disk_bytes
    state = "built" if estimate.built else "not built"
    return {
        "recipe": recipe.stem,
        "state": state,
        "digest": lock.digest,
        "download_bytes": estimate.download_bytes,
        "disk_bytes": disk,
    }
