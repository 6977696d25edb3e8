"""The wheel holds the kernel and the four folders, and works beside packages that have their names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
REPO = Path(__file__).parents[1]
NEEDED = ("agentd", "tools", "policies", "adapters", "evals", "docs", "pyproject.toml", "README.md")


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy without what git would leave out: empty folders and byte code."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in NEEDED:
        for path in [REPO / name, *(REPO / name).rglob("*")]:
            if path.is_file() and "__pycache__" not in path.parts:
                target = source / path.relative_to(REPO)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
    pip("wheel", "--no-deps", "--wheel-dir", str(out), str(source))
    [built] = out.glob("agentd_mcp-*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_it_holds_nothing_beside_the_package_and_its_metadata(names: list[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"agentd", names[-1].split("/")[0]}
    assert names[-1].split("/")[0].endswith(".dist-info")
    assert not [name for name in names if "__pycache__" in name]


def test_the_four_folders_and_the_docs_travel_inside_the_package(names: list[str]) -> None:
    bundled = {name.split("/")[2] for name in names if name.startswith("agentd/_bundled/")}
    assert bundled == {"tools", "policies", "adapters", "evals", "docs"}
    some = (
        "tools/recipes/finetune.py",
        "tools/recipes/evaluate/__main__.py",
        "tools/recipes/evaluate/rows.py",
        "tools/plans/tickets.yaml",
        "policies/default.yaml",
        "evals/prompts/tickets-brief.yaml",
        "evals/tickets.yaml",
        "docs/policy.md",
    )
    assert {f"agentd/_bundled/{path}" for path in some} <= set(names)


def test_it_works_from_a_folder_with_packages_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    here = tmp_path / "here"
    for package in ("tools", "evals", "adapters", "policies"):
        (here / package).mkdir(parents=True)
        (here / package / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    program = (
        "import agentd, sys; from agentd.plugins import Plugins, bundled_root\n"
        "plugins = Plugins.open()\n"
        "assert plugins.tools() and not plugins.problems, plugins.problems\n"
        "print(agentd.__file__, bundled_root(), sep='\\n')"
    )
    env = {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{here}"}
    run = {"cwd": here, "env": env, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-c", program], **run)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(target / "agentd/__init__.py"), str(target / "agentd/_bundled")]
    told = subprocess.run([sys.executable, "-m", "agentd", "--version"], **run)  # type: ignore[call-overload]
    assert (told.returncode, told.stderr) == (0, "")
