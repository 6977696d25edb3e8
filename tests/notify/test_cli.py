"""``agentd notify`` and what ``agentd doctor`` says of notifiers, with a daemon in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agentd.cli.app import app
from agentd.store import Store
from agentd.store.notifiers import NotifierTable

Receiver = Any


class Shell:
    def __init__(self, folder: Path, notify: str) -> None:
        self.folder = folder
        config = folder / "agentd.toml"
        config.write_text(f'state_dir = "state"\n[server]\nport = 0\n{notify}', encoding="utf-8")
        own = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
        self.env = {**own, "AGENTD_CONFIG": str(config), "NO_COLOR": "1"}

    def __call__(self, *words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, words, env=self.env, catch_exceptions=False)
        return done.exit_code, done.stdout, done.stderr

    def spawn(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "agentd", *words], cwd=self.folder, env=self.env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def finding(self) -> dict[str, Any]:
        """What doctor says of notifiers."""
        return next(each for each in json.loads(self("doctor", "--json")[1]) if each["what"] == "notifiers")


def test_a_test_says_whether_it_arrived(tmp_path: Path, receiver: Receiver) -> None:
    shell = Shell(tmp_path, f'[[notify]]\nname = "team"\nkind = "webhook"\nurl = "{receiver.url}"\n')
    started = shell.spawn("notify", "test")
    try:
        assert (started.returncode, "✓ team: delivered to http://127.0.0.1" in started.stdout) == (0, True)
        assert receiver.came.get(timeout=30).data["title"] == "agentd: a test"
        receiver.answers.append(500)
        code, out, _ = shell("notify", "test", "team")
        assert (code, "answered 500" in out) == (1, True)
        assert shell("notify", "test", "nobody")[0] == 2
        [listed] = json.loads(shell("notify", "--json")[1])
        assert (listed["name"], listed["delivered"], listed["problem"]) == ("team", 0, "")
        assert "team" in shell("notify")[1]
    finally:
        shell("stop")


def test_a_wrong_url_keeps_the_daemon_from_starting_and_is_named(tmp_path: Path) -> None:
    shell = Shell(
        tmp_path, '[[notify]]\nname = "team"\nkind = "webhook"\nurl = "ftp://u:hunter22@example.com"\n'
    )
    done = shell.spawn("serve")
    assert (done.returncode, "notify.0.webhook.url: " in done.stderr) == (2, True)
    assert "begins with http:// or https://" in done.stderr
    assert "hunter22" not in done.stderr


@pytest.mark.parametrize("failing", [False, True])
def test_doctor_says_which_notifier_fails_and_why(tmp_path: Path, failing: bool) -> None:
    shell = Shell(tmp_path, '[[notify]]\nname = "team"\nkind = "command"\nargv = ["false"]\n')
    assert shell.finding()["ok"]
    store = Store(tmp_path / "state" / "agentd.db")
    NotifierTable(store).keep(["team", "gone"], 0)
    if failing:
        NotifierTable(store).failed("team", "'false' ended with 1")
    store.close()
    found = shell.finding()
    assert (found["ok"], "'false' ended with 1" in found["found"]) == (not failing, failing)
