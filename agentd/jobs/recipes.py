"""A recipe as files: ``tools/recipes/NAME.py``, or a folder ``tools/recipes/NAME`` with a ``__main__.py``.

A folder is for what is more than one subject. It is run as ``python -P FOLDER SPEC OUT``: its modules import
one another by their plain names, and nothing else of where it lies can be imported. Whichever it is, all of
its files are digested into an approval and copied for each attempt; bytecode is not, and is made anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agentd.errors import NotFound
from agentd.plugins import Plugins
from agentd.policy.digests import digest_file, digest_value

__all__ = ["copy_recipe", "digest_recipe", "find_recipe", "program_of", "recipe_names"]

PLACE, MAIN = "tools/recipes", "__main__.py"


def find_recipe(plugins: Plugins, name: str) -> Path:
    """The file or the folder, the user's roots first. Raises `NotFound` with near names."""
    for root in plugins.roots:
        for path in (root / PLACE / f"{name}.py", root / PLACE / name):
            if program_of(path).is_file():
                return path
    raise NotFound("recipe", name, recipe_names(plugins))


def recipe_names(plugins: Plugins) -> list[str]:
    """Every recipe of every root, sorted."""
    folders = {path.parent.name for root in plugins.roots for path in (root / PLACE).glob(f"*/{MAIN}")}
    return sorted(folders.union(plugins.names(PLACE, ".py")))


def program_of(recipe: Path) -> Path:
    """The file that is run, and whose header says what it needs."""
    return recipe / MAIN if recipe.is_dir() else recipe


def digest_recipe(recipe: Path) -> str:
    """SHA-256 of a file's content; of a folder's, that of the relative names and digests of its files."""
    if recipe.is_dir():
        return digest_value([(name, digest_file(path)) for name, path in sorted(_files(recipe))])
    return digest_file(recipe)


def copy_recipe(recipe: Path, target: Path) -> None:
    """Copy contents to `target`, a file or a folder as the recipe is."""
    for name, path in _files(recipe) if recipe.is_dir() else [("", recipe)]:
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of everything in a folder but bytecode."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and "__pycache__" not in name.parts:
            yield name.as_posix(), path
