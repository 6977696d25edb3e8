"""``agentd open``: an address that works once, handed to a desktop in a file that nobody else can read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1] / "root"
OPENER = """#!/bin/sh
printf '%s\\n' "$@" > "$SEEN/words"
cp "$1" "$SEEN/page.html"
stat -c %a "$1" > "$SEEN/mode"
exit $(cat "$SEEN/code")
"""


class Desk:
    """A daemon of its own, a question that waits, and a desktop whose opener notes what it is handed."""

    def __init__(self, folder: Path) -> None:
        config = folder / "agentd.toml"
        config.write_text(
            f'state_dir = "state"\ncache_dir = "cache"\nroots = [{json.dumps(str(ROOT))}]\n'
            'policy = "asking"\n[server]\nport = 0\n',
            encoding="utf-8",
        )
        self.seen, programs = folder / "seen", folder / "bin"
        self.seen.mkdir()
        programs.mkdir()
        (programs / "xdg-open").write_text(OPENER, encoding="utf-8")
        (programs / "xdg-open").chmod(0o755)
        strange = ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION")
        own = {k: v for k, v in os.environ.items() if not k.startswith("AGENTD_") and k not in strange}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.env = {
            **own,
            "AGENTD_CONFIG": str(config),
            "SEEN": str(self.seen),
            "PATH": path,
            "NO_COLOR": "1",
        }
        self.agentd("call", "work", "--no-wait")
        [question] = json.loads(self.agentd("approvals", "--json").stdout)
        self.approval, self.job = question["id"], question["job"]
        self.state = folder / "state"
        self.url = json.loads((self.state / "daemon.json").read_text("utf-8"))["url"]

    def agentd(self, *words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "agentd", *words], env=self.env | env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def opens(self, code: int) -> None:
        (self.seen / "code").write_text(str(code))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("open"))
    yield desk
    desk.agentd("stop", "--jobs")


def page_of(url: str) -> httpx.Response:
    with httpx.Client(verify=False) as client:
        return client.get(url)


def test_without_a_desktop_the_address_is_printed_and_leads_to_the_question(desk: Desk) -> None:
    done = desk.agentd("open", desk.job)
    [url] = done.stdout.split()
    assert url.startswith(f"{desk.url}/login?code=")
    assert url.endswith(f"&next=/approve/{desk.job}")
    assert "within 60 seconds" in done.stderr
    assert "ssh -L" not in done.stderr
    assert "Sign in as user:" in page_of(url).text
    assert "ssh -L" in desk.agentd("open", SSH_CONNECTION="1 2 3 4").stderr


def test_a_desktop_is_handed_a_private_file_and_no_secret_in_words(desk: Desk) -> None:
    desk.opens(0)
    done = desk.agentd("open", DISPLAY=":1")
    assert done.stdout == ""
    assert f"Opened {desk.url}/approve in your browser" in done.stderr
    [file] = (desk.seen / "words").read_text().split()
    assert Path(file) == desk.state / "open.html"
    assert (desk.seen / "mode").read_text().strip() == "600"
    found = re.search(r'url=([^"]+)"', (desk.seen / "page.html").read_text())
    assert found is not None
    assert "Sign in as user:" in page_of(found[1].replace("&amp;", "&")).text


def test_a_desktop_that_cannot_open_it_leaves_the_address_to_be_read(desk: Desk) -> None:
    desk.opens(4)
    assert "/login?code=" in desk.agentd("open", DISPLAY=":1").stdout
    assert "/login?code=" in desk.agentd("open", "--print", DISPLAY=":1").stdout


def test_a_question_that_is_not_there_is_told_at_once(desk: Desk) -> None:
    assert "There is no approval 'apr-none'" in desk.agentd("open", "apr-none", code=2).stderr


def test_an_agent_gets_no_address(desk: Desk) -> None:
    token = (desk.state / "agent-token").read_text("ascii")
    done = desk.agentd("open", code=3, AGENTD_URL=desk.url, AGENTD_TOKEN=token)
    assert (done.stdout, "needs 'approve'" in done.stderr) == ("", True)
