"""agentd/jobs/recipes.py: a recipe that is a folder, from its digest to its run."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon import Daemon
from agentd.errors import NotFound
from agentd.jobs.environments import script_header
from agentd.jobs.recipes import copy_recipe, digest_recipe, find_recipe, program_of, recipe_names
from agentd.plugins import Plugins
from agentd.policy.callers import Caller
from agentd.sdk import JobView

pytestmark = pytest.mark.anyio
Boot = Any
Until = Callable[..., Awaitable[JobView]]
HERE = Path(__file__).parents[1] / "root"
MAIN = '''\
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Write what its sibling says."""

import json
import sys
from pathlib import Path

from words import said

out = Path(sys.argv[2])
(out / "said.txt").write_text(said(json.loads(Path(sys.argv[1]).read_text())["text"]))
(out / "result.json").write_text(json.dumps({"note": "said.txt", "safe": sys.flags.safe_path}))
'''
WORDS = "def said(text): return text.upper()\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A root whose recipe `work` is a folder: it takes the place of the file of that name."""
    folder = tmp_path / "mine/tools/recipes/work"
    folder.mkdir(parents=True)
    (folder / "__main__.py").write_text(MAIN, encoding="utf-8")
    (folder / "words.py").write_text(WORDS, encoding="utf-8")
    return tmp_path / "mine"


async def launched(daemon: Daemon, caller: Caller) -> JobView:
    view = await daemon.calls.call("work", {"text": "done"}, caller)
    assert isinstance(view, JobView)
    return view


async def test_its_modules_import_one_another_and_lie_with_the_attempt(
    boot: Boot, mine: Path, agent: Caller
) -> None:
    daemon = await boot(roots=(mine, HERE))
    view = await launched(daemon, agent)
    ended = await daemon.jobs.settled(view.id)
    assert ended.state == "succeeded", ended.reason
    folder = daemon.jobs.attempt_folder(view.id)
    assert folder is not None
    [note] = daemon.artifacts.list("note")
    assert note.path.read_text(encoding="utf-8") == "DONE"
    assert digest_recipe(folder / "recipe/work") == digest_recipe(mine / "tools/recipes/work")
    assert '"safe": true' in (folder / "out/result.json").read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("changed", ["words.py", "__main__.py", "more.py"])
async def test_any_of_its_files_that_changed_after_the_approval_stops_the_launch(
    boot: Boot, mine: Path, agent: Caller, person: Caller, until: Until, changed: str
) -> None:
    daemon = await boot(policy="asking", roots=(mine, HERE))
    view = await launched(daemon, agent)
    await until(daemon, view.id, state="waiting_approval")
    with (mine / "tools/recipes/work" / changed).open("a", encoding="utf-8") as file:
        file.write("# and more\n")
    await daemon.approvals.decide(view.id, "approve", person)
    ended = await daemon.jobs.settled(view.id)
    assert (ended.state, ended.micro_usd) == ("failed", None)
    assert "The recipe 'work' was changed since it was approved" in ended.reason


def test_a_digest_is_of_names_and_contents_and_not_of_bytecode(mine: Path, tmp_path: Path) -> None:
    folder, copy = mine / "tools/recipes/work", tmp_path / "copy"
    first = digest_recipe(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/words.cpython-311.pyc").write_bytes(b"planted")
    assert digest_recipe(folder) == first
    copy_recipe(folder, copy)
    assert sorted(path.name for path in copy.rglob("*")) == ["__main__.py", "words.py"]
    assert digest_recipe(copy) == first
    (copy / "words.py").rename(copy / "other.py")
    assert digest_recipe(copy) != first


def test_the_users_recipe_takes_the_place_of_one_further_down_whichever_kind_it_is(mine: Path) -> None:
    plugins = Plugins((mine, HERE))
    assert find_recipe(plugins, "work") == mine / "tools/recipes/work"
    assert "dependencies = []" in script_header(find_recipe(plugins, "work"))
    assert recipe_names(plugins) == ["bell", "fault", "work"]
    shutil.copy(HERE / "tools/recipes/work.py", mine / "tools/recipes/bell.py")
    assert program_of(find_recipe(plugins, "bell")) == mine / "tools/recipes/bell.py"


def test_a_folder_without_a_program_is_no_recipe(mine: Path) -> None:
    (mine / "tools/recipes/work/__main__.py").unlink()
    assert find_recipe(Plugins((mine, HERE)), "work") == HERE / "tools/recipes/work.py"
    with pytest.raises(NotFound, match="work"):
        find_recipe(Plugins((mine,)), "work")
