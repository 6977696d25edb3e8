"""Who may import whom, kept on the syntax trees; and what a running daemon never loads."""

from __future__ import annotations

import ast
import functools
import graphlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE = REPO / "agentd"

# From the ground up. A part may import from the floors below, and from its own if nothing goes in circles.
FLOORS = (
    ("errors", "hardware", "ids", "locations", "lock", "signals", "caretaker", "wording"),
    ("redaction",),
    ("sdk", "documents"),
    ("config", "schema"),
    ("store",),
    ("policy", "plugins", "jobs", "artifacts", "notify", "disk"),
    ("sight",),
    ("context", "backup"),
    ("binder",),
    ("router", "calls"),
    ("agent",),
    ("daemon",),
    ("server",),
    ("cli", "bench", "testing", "__main__"),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
STDLIB_ONLY = ("jobs/shim.py", "locations.py", "ids.py", "signals.py", "errors.py")
HEAVY = ("torch", "transformers", "chromadb", "vllm", "numpy")
TRAP = """
import traceback
with open({log!r}, "a") as log:
    log.write("".join(traceback.format_stack()))
raise ImportError("this package must not be imported")
"""


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "_bundled" not in path.parts)


def plugins() -> list[Path]:
    """Files that the daemon loads: neither recipes nor the scorers that they are handed."""
    folders = (REPO / "tools", REPO / "adapters")
    return [path for folder in folders for path in sources(folder) if "recipes" not in path.parts]


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[tuple[int, str, int]]:
    """(relative level, dotted name, line) of every import in a file, also of those within functions."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module == "agentd":  # from agentd import x: a part of ours
                yield from ((0, f"agentd.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.level, module, node.lineno


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def edges() -> Iterator[tuple[str, str, str]]:
    """(importing part, imported part, place) between the parts of the kernel."""
    for path in sources(PACKAGE):
        for _, name, line in imports(path):
            parts = name.split(".")
            if parts[0] == "agentd" and len(parts) > 1 and not parts[1].startswith("__"):
                yield part_of(path), parts[1], f"{path.relative_to(REPO)}:{line}"


def test_every_part_of_the_kernel_has_a_floor() -> None:
    assert {part_of(path) for path in sources(PACKAGE)} - {"__init__"} <= FLOOR.keys()


def test_nothing_imports_from_a_floor_above() -> None:
    wrong = [
        f"{where}: {part} imports {other}" for part, other, where in edges() if FLOOR[other] > FLOOR[part]
    ]
    assert wrong == []


def test_nothing_goes_in_circles() -> None:
    graph: dict[str, set[str]] = {}
    for part, other, _ in edges():
        if part != other:
            graph.setdefault(part, set()).add(other)
    graphlib.TopologicalSorter(graph).prepare()


def test_the_kernel_never_imports_the_folders_that_users_extend() -> None:
    folders = {"tools", "policies", "adapters", "evals"}
    wrong = [
        f"{path}:{line}: {name}"
        for path in sources(PACKAGE)
        for _, name, line in imports(path)
        if name.split(".")[0] in folders
    ]
    assert wrong == []


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_what_must_start_fast_or_alone_needs_the_standard_library_only(name: str) -> None:
    found = {module.split(".")[0] for _, module, _ in imports(PACKAGE / name)}
    assert found <= set(sys.stdlib_module_names)


def test_plugins_come_in_through_the_one_door() -> None:
    wrong = [
        f"{path.relative_to(REPO)}:{line}: {name}"
        for path in plugins()
        for level, name, line in imports(path)
        if level > 1 or (name.split(".")[0] == "agentd" and name != "agentd.sdk")
    ]
    assert wrong == []


def test_recipes_import_nothing_of_ours() -> None:
    recipes = sources(REPO / "tools/recipes")
    handed = [REPO / "evals/scoring.py", REPO / "tools/verdict.py", *sources(REPO / "evals/scorers")]
    assert recipes
    ours = {path.stem for path in recipes} | {"agentd", "tools", "evals"}

    def own(path: Path) -> set[str]:
        """The modules beside one that is part of a recipe in a folder."""
        return (
            {each.stem for each in sources(path.parent)} if (path.parent / "__main__.py").exists() else set()
        )

    wrong = [
        f"{path.relative_to(REPO)}:{line}: {name}"
        for path in (*recipes, *handed)
        for level, name, line in imports(path)
        if level or name.split(".")[0] in ours - own(path)
    ]
    assert wrong == []


def test_nothing_that_the_daemon_loads_names_a_heavy_package() -> None:
    wrong = [
        f"{path.relative_to(REPO)}:{line}: {name}"
        for path in (*sources(PACKAGE), *plugins())
        for _, name, line in imports(path)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_only_the_command_line_prints() -> None:
    wrong = [
        f"{path.relative_to(REPO)}:{node.lineno}"
        for path in (*sources(PACKAGE), *plugins())
        if part_of_or_plugin(path) != "cli"
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert wrong == []


def part_of_or_plugin(path: Path) -> str:
    return part_of(path) if path.is_relative_to(PACKAGE) else "plugin"


def test_a_running_daemon_has_imported_no_heavy_package(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for name in HEAVY:
        (trap / name).mkdir(parents=True)
        (trap / name / "__init__.py").write_text(TRAP.format(log=str(tmp_path / name)), encoding="utf-8")
    env = {
        **os.environ, "PYTHONPATH": str(trap), "AGENTD_STATE": str(tmp_path / "state"), "AGENTD_PORT": "0",
        "AGENTD_CONFIG": "", "XDG_CONFIG_HOME": str(tmp_path),
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "agentd", "serve"]
    with subprocess.Popen(command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        try:
            said = daemon.stderr.readline()
            assert said.startswith("agentd "), said + daemon.stderr.read()
            address = json.loads((tmp_path / "state/daemon.json").read_text(encoding="utf-8"))
            token = (tmp_path / "state/owner-token").read_text(encoding="ascii")
            connection = http.client.HTTPConnection(address["url"].removeprefix("http://"), timeout=20)
            for path in ("/health", "/api/tools", "/api/models"):
                connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
                response = connection.getresponse()
                assert (response.status, bool(response.read())) == (200, True)
            connection.close()
            mapped = Path(f"/proc/{daemon.pid}/maps").read_text(encoding="utf-8")
        finally:
            daemon.terminate()
            daemon.communicate(timeout=20)
    caught = {name: (tmp_path / name).read_text("utf-8") for name in HEAVY if (tmp_path / name).exists()}
    # sqlite-utils takes numpy's types into account where somebody else has installed it.
    assert [name for name, stack in caught.items() if name != "numpy" or "sqlite_utils" not in stack] == []
    assert [name for name in HEAVY if f"/{name}/" in mapped] == []
