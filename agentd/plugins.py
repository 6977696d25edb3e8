"""Load what users extend: the four folders under each root.

A root is a folder with any of ``tools/``, ``policies/``, ``adapters/`` and ``evals/``. The user's
roots come first, the bundled one last, so a user's file of the same name wins. The folders are not
packages: each is given a private package name of its own, so that siblings can be imported
relatively (``from .verdict import compare``), two roots with equally named files share nothing,
and a ``tools`` package elsewhere on ``sys.path`` is never touched. A file that fails to load is
reported and does not keep the others from loading.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from agentd.errors import InputError, NotFound
from agentd.sdk import Tool

__all__ = ["FOLDERS", "Plugins", "bundled_root"]

FOLDERS = ("tools", "policies", "adapters", "evals")
_CONTENT = {
    "evals": "suite",
    "evals/judges": "judge",
    "evals/prompts": "prompt",
    "evals/scorers": "scorer",
    "policies": "rule set",
    "policies/tests": "file of example calls",
    "tools/plans": "plan",
    "tools/recipes": "recipe",
    "adapters/models": "provider",
}
log = logging.getLogger(__name__)


def bundled_root() -> Path:
    """Where the shipped folders are: inside the wheel, or the checkout of an editable install."""
    package = Path(__file__).parent
    wheel = package / "_bundled"
    return wheel if wheel.is_dir() else package.parent


@dataclass(slots=True)
class Plugins:
    """The plugin files under `roots`, found by folder and name, the user's roots first."""

    roots: tuple[Path, ...]
    problems: dict[Path, str] = field(default_factory=dict[Path, str])

    @classmethod
    def open(cls, user_roots: tuple[Path, ...] = ()) -> Plugins:
        """Raises `InputError` for a user's root that is not a folder with one of the four in it."""
        for root in user_roots:
            if not any((root / name).is_dir() for name in FOLDERS):
                raise InputError(
                    f"The plugin root {str(root)!r} has none of {', '.join(f + '/' for f in FOLDERS)}",
                    hint="Name the folder that contains them in 'roots' of agentd.toml",
                )
        return cls((*user_roots, bundled_root()))

    def find(self, folder: str, name: str) -> Path:
        """The file ``<root>/<folder>/<name>``, the user's roots first. Raises `NotFound`."""
        for root in self.roots:
            path = root / folder / name
            if path.exists():
                return path
        place = f"{folder}/{name}".rpartition("/")[0]
        what = _CONTENT.get(place, f"file in {place}/")
        raise NotFound(what, Path(name).stem, self.names(place, Path(name).suffix))

    def names(self, folder: str, suffix: str) -> list[str]:
        """Stems of the files in `folder` that end in `suffix`, over all roots, sorted."""
        return sorted(
            {
                path.stem
                for root in self.roots
                for path in (root / folder).glob(f"*{suffix}")
                if path.is_file() and not path.name.startswith(("_", "."))
            }
        )

    def module(self, folder: str, name: str) -> ModuleType:
        """Import ``<root>/<folder>/<name>.py``. Raises `InputError` with the place of a mistake in it."""
        return _import(self.find(folder, f"{name}.py"))

    def tools(self) -> dict[str, Tool]:
        """Every tool in ``tools/*.py``, of two with one name the one of the earlier root.

        Files that cannot be loaded are kept in `problems`.
        """
        found: dict[str, Tool] = {}
        files = (self.find("tools", f"{name}.py") for name in self.names("tools", ".py"))
        for path in sorted(files, key=self._rank):
            try:
                module = _import(path)
            except InputError as error:
                self.problems[path] = str(error)
                log.warning("plugin left out: %s", error)
                continue
            for value in vars(module).values():
                if isinstance(value, Tool) and value.handler.__module__ == module.__name__:
                    found.setdefault(value.name, value)
        return dict(sorted(found.items()))

    def _rank(self, path: Path) -> int:
        return next(rank for rank, root in enumerate(self.roots) if path.is_relative_to(root))


# A plugin is somebody else's program: whatever its import raises is its own mistake, to be reported.
_ImportProblem = Exception


def _import(path: Path) -> ModuleType:
    package = _package(path.parent)
    name = f"{package}.{path.stem}"
    try:
        return importlib.import_module(name)
    except _ImportProblem as error:
        sys.modules.pop(name, None)
        raise InputError(f"{_place(error, path)}: {type(error).__name__}: {error}") from error


def _place(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    lines = [tb for tb in _frames(error) if tb[0] == str(path.resolve())]
    return f"{path}:{lines[-1][1]}" if lines else str(path)


def _frames(error: BaseException) -> list[tuple[str, int]]:
    frames: list[tuple[str, int]] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return frames


def _package(folder: Path) -> str:
    """The private package that stands for `folder`, made on first use."""
    folder = folder.resolve()
    name = f"agentd_plugins_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        package = importlib.util.module_from_spec(spec)
        sys.modules[name] = package
    return name
