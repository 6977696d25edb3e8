"""``agentd data`` against a real daemon: lists, shows, reviews at a terminal and from a file, publishes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentd.cli.app import app
from agentd.config import Config
from agentd.daemon import Daemon

CACHE = os.environ.get("AGENTD_CACHE") or str(Path(__file__).parents[2] / "build" / "cache")


class Shell:
    """The command line on a state directory of its own, which holds the data set "talk"."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
        state = {"AGENTD_STATE": str(folder / "state"), "AGENTD_CACHE": CACHE, "AGENTD_PORT": "0"}
        self.env = {
            **own,
            **state,
            "XDG_CONFIG_HOME": str(folder),
            "NO_COLOR": "1",
            "EDITOR": "",
            "VISUAL": "",
        }

    def __call__(self, *words: str, code: int = 0) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            done = CliRunner().invoke(app, words, env=self.env, catch_exceptions=False)
        assert done.exit_code == code, f"{words}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json").stdout)

    def typed(self, answers: list[tuple[str, str]], *words: str) -> str:
        """What a terminal shows while somebody answers: (what is asked, what is typed).

        Single keys are typed once the terminal takes them one by one: what came before is thrown away.
        """
        ours, theirs = pty.openpty()
        command = [sys.executable, "-P", "-m", "agentd", *words]
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown, told = "", 0
        try:
            while piece := os.read(ours, 4096):
                shown += piece.decode()
                if answers and answers[0][0] in shown[told:]:
                    told = len(shown)
                    _, keys = answers.pop(0)
                    while len(keys) == 1 and termios.tcgetattr(ours)[3] & termios.ICANON:
                        select.select([], [], [], 0.01)
                    os.write(ours, keys.encode())
        except OSError:  # the terminal's other side was closed: the command has ended
            pass
        finally:
            os.close(ours)
        assert process.wait(timeout=30) == 0
        assert not answers, shown
        return shown


@pytest.fixture(scope="module")
def agentd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("data"))
    config = Config(state_dir=shell.folder / "state", cache_dir=shell.folder / "cache")
    daemon = Daemon(config, url="http://127.0.0.1:9")
    folder = shell.folder / "talk"
    folder.mkdir()
    answer = [{"role": "assistant", "content": "yes"}]
    rows = [
        {
            "prompt": [{"role": "user", "content": f"question {n}"}],
            "completion": answer,
            "source": f"page {n}",
        }
        for n in range(4)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "README.md").write_text("---\nconfigs: []\n---\n\n# talk, the card\n", encoding="utf-8")
    daemon.artifacts.add("dataset", folder, name="talk", meta={"family": "talk", "split": "train", "rows": 4})
    asyncio.run(daemon.aclose())
    # In a process of its own: who starts the daemon is its parent, and has to wait for it.
    command = [sys.executable, "-P", "-m", "agentd", "data", "list"]
    subprocess.run(command, cwd=shell.folder, env=shell.env, check=True, capture_output=True, timeout=120)
    yield shell
    shell("stop", "--jobs")


def test_a_data_set_is_listed_and_shown_with_its_card(agentd: Shell) -> None:
    assert [(each["name"], each["rows"]) for each in agentd.json("data", "list")["datasets"]] == [("talk", 4)]
    assert "talk" in agentd("data", "list").stdout
    shown = agentd("data", "show", "talk", "-n", "1").stdout
    assert "# talk, the card" in shown
    assert "configs" not in shown
    assert "user: question 0\nassistant: yes\nsource: page 0" in shown
    assert agentd("data", "show", "tlak", code=2).stderr.startswith("agentd: There is no dataset 'tlak'")


def test_rows_are_reviewed_at_a_terminal_undone_and_published(agentd: Shell) -> None:
    keys = [("uit", key) for key in "aruaf"]
    shown = agentd.typed([*keys, ("answer", "better\n"), ("uit", "s")], "data", "review", "talk")
    assert "Nothing waits for user:" in shown
    assert "4 waiting, 0 decided" in shown
    assert shown.count("source: page") >= 4
    review = agentd.json("data", "show", "talk")["review"]
    assert (review["accepted"], review["fixed"], review["rejected"], review["unreviewed"]) == (2, 1, 0, 1)
    left = agentd.json("data", "review", "talk")["rows"]
    (agentd.folder / "d.jsonl").write_text(
        json.dumps({"id": left[0]["id"], "verdict": "reject"}), encoding="utf-8"
    )
    assert "waiting  0" in agentd("data", "review", "talk", "--decide", "d.jsonl").stdout
    told = agentd("data", "publish", "talk").stdout
    assert "4 of 4 rows: 2 accepted, 1 fixed, 1 rejected" in told
    versions = agentd.json("data", "list", "talk")["datasets"]
    assert [(each["made"], each["rows"]) for each in versions] == [("reviewed", 3), ("prepared", 4)]
    assert "only_a  2" in agentd("data", "diff", versions[1]["dataset"], "talk").stdout


def test_without_a_terminal_the_ways_out_are_named(agentd: Shell) -> None:
    assert "--decide FILE" in agentd("data", "review", "talk", code=2).stderr
    (agentd.folder / "bad.jsonl").write_text('{"id": "x"}\n', encoding="utf-8")
    assert (
        "bad.jsonl:1: has no id and verdict"
        in agentd("data", "review", "talk", "--decide", "bad.jsonl", code=2).stderr
    )
    assert (
        "is not NAME=VALUE"
        in agentd("data", "prepare", "x.csv", "--name", "x", "--column", "prompt", code=2).stderr
    )
