"""The four folders under a root: which file wins, and what a mistake in one does to the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.errors import InputError, NotFound
from agentd.plugins import Plugins

TOOL = '''
from pydantic import BaseModel
from agentd.sdk import Context, tool
from .shared import ANSWER

class Said(BaseModel):
    text: str

@tool(title="Say", result=Said, read_only=True)
async def {name}(ctx: Context) -> Said:
    """Say {text!r}."""
    return Said(text=ANSWER + {text!r})
'''


def root_with(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / "tools" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_the_bundled_tools_load_without_a_problem() -> None:
    plugins = Plugins.open()
    assert {"finetune", "serve", "evaluate", "ingest", "job_wait"} <= plugins.tools().keys()
    assert plugins.problems == {}
    listed = [tool for tool in plugins.tools().values() if tool.listed]
    assert len(listed) <= 25, "more visible tools cost a model accuracy"


def test_a_users_file_wins_over_the_bundled_one_of_its_name(tmp_path: Path) -> None:
    root = root_with(tmp_path, serve=TOOL.format(name="serve", text="mine"), shared="ANSWER = ''")
    plugins = Plugins.open((root,))
    assert plugins.tools()["serve"].description == "Say 'mine'."
    assert plugins.find("tools", "serve.py") == root / "tools/serve.py"


def test_a_users_tool_wins_over_a_bundled_one_in_a_file_of_another_name(tmp_path: Path) -> None:
    root = root_with(tmp_path, aaa=TOOL.format(name="serve", text="mine"), shared="ANSWER = ''")
    assert Plugins.open((root,)).tools()["serve"].description == "Say 'mine'."


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x = 1\ndef broken(:\n", ":2: SyntaxError"),
        ("x = 1\n\nimport nothing_of_this_name\n", ":3: ModuleNotFoundError"),
        ("raise SystemError('no')\n", ":1: SystemError: no"),
    ],
)
def test_a_file_that_does_not_load_is_reported_and_the_others_load(
    tmp_path: Path, text: str, place: str
) -> None:
    root = root_with(tmp_path, broken=text, fine=TOOL.format(name="fine", text="hi"), shared="ANSWER = ''")
    plugins = Plugins.open((root,))
    assert {"fine", "job_wait"} <= plugins.tools().keys()
    assert f"broken.py{place}" in plugins.problems[root / "tools/broken.py"]


@pytest.mark.anyio
async def test_two_roots_with_files_of_one_name_share_nothing(tmp_path: Path) -> None:
    roots = [
        root_with(
            tmp_path / name, **{name: TOOL.format(name=name, text=name), "shared": f"ANSWER = '{name} '"}
        )
        for name in ("first", "second")
    ]
    tools = Plugins.open(tuple(roots)).tools()
    for name in ("first", "second"):
        assert (await tools[name].handler(None)).text == f"{name} {name}"


def test_a_tools_package_in_the_current_folder_is_not_touched(tmp_path: Path) -> None:
    for package in ("tools", "evals", "adapters", "policies"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    program = (
        "import sys; from agentd.plugins import Plugins\n"
        "plugins = Plugins.open(); print(len(plugins.tools()), plugins.problems)\n"
        "assert not {'tools', 'evals', 'adapters', 'policies'} & sys.modules.keys()"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("{}")


def test_a_root_without_any_of_the_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has none of tools/"):
        Plugins.open((tmp_path,))


def test_a_missing_file_is_reported_with_the_nearest_name() -> None:
    with pytest.raises(NotFound, match="Did you mean 'unattended'"):
        Plugins.open().find("policies", "unatended.yaml")


def test_private_and_hidden_files_are_no_plugins(tmp_path: Path) -> None:
    root = root_with(tmp_path, _private="raise SystemError", fine="")
    assert "_private" not in Plugins.open((root,)).names("tools", ".py")
