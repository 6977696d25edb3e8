"""The official conformance suite against agentd's app: ``make conformance``.

The fixture server takes what each revision requires, and what it only reports (the tasks extension). The
daemon as it ships takes the scenarios that need no tool of their own. Every scenario is a line, with what
failed under it. The last line has the figures, in checks; the exit status is 1 if one failed that `EXPECTED`
does not excuse.
``run.py 2026-07-28`` runs that revision alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from node import programs

HERE = Path(__file__).parent
REVISIONS = ("2025-11-25", "2026-07-28")

OF_THEMSELVES = {
    "2025-11-25": (
        "server-initialize",
        "ping",
        "tools-list",
        "resources-list",
        "prompts-list",
        "dns-rebinding-protection",
        "server-session-lifecycle",
    ),
    "2026-07-28": (
        "server-stateless",
        "tools-list",
        "resources-list",
        "prompts-list",
        "sep-2164-resource-not-found",
        "dns-rebinding-protection",
        "caching",
        "http-header-validation",
    ),
}
"""Scenarios that need no tool or resource of a name that they choose."""

NOT_TESTABLE = "Not testable"
"""How the suite begins what it says of a check that needs a tool of its own: no failure of the daemon."""

EXPECTED: dict[tuple[str, str, str], str] = {}
"""Checks that fail, by server, scenario and check id, and why. The docs say the same."""


@contextlib.contextmanager
def server(what: str) -> Iterator[str]:
    """The address of a server of `serving.py`, ended afterwards."""
    command = [sys.executable, "-W", "ignore", str(HERE / "serving.py"), what]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                log.seek(0)
                raise SystemExit(f"The server did not start:\n{log.read().decode()}")
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=30)


class Suite:
    """What ran on one server: `figures` by part, and `unexpected` failures, not excused by `EXPECTED`."""

    def __init__(self, what: str, commands: Path, folder: Path) -> None:
        self._what, self._commands, self._folder, self._runs = what, commands, folder / what, 0
        self.figures = {part: Counter[str](passed=0, failed=0) for part in (*REVISIONS, "tasks")}
        self.unexpected = 0

    def run(self, revisions: Sequence[str]) -> Suite:
        """What each revision requires of the fixture, or what needs none of the daemon itself."""
        with server(self._what) as url:
            for revision in revisions:
                if self._what == "fixture":
                    self._run(url, revision, "--requirements", revision)
                    continue
                for name in OF_THEMSELVES[revision]:
                    self._run(url, revision, "--scenario", name, "--spec-version", revision)
        return self

    def _run(self, url: str, revision: str, *which: str) -> None:
        self._runs += 1
        folder = self._folder / str(self._runs)
        environment = os.environ | {"PATH": f"{self._commands}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            [str(self._commands / "conformance"), "server", "--url", url, *which, "-o", str(folder)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
            check=False,
        )
        found = sorted(folder.rglob("checks.json"))
        if not found:
            raise SystemExit(f"The suite gave no results for {' '.join(which)}:\n{done.stdout}{done.stderr}")
        for file in found:
            self._count(revision, file)

    def _count(self, revision: str, file: Path) -> None:
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT.*$", "", file.parent.name)
        checks = json.loads(file.read_text())
        counts = Counter(verdict(self._what, check) for check in checks)
        self.figures["tasks" if scenario.startswith("tasks-") else revision] += counts
        tail = f", {counts['skipped']} skipped" if counts["skipped"] else ""
        head = f"{self._what:8} {scenario:45}"
        lines = [f"{head} {counts['passed']:2} passed, {counts['failed']} failed{tail}"]
        for check in checks:
            if verdict(self._what, check) != "passed":
                reason = EXPECTED.get((self._what, scenario, check["id"]))
                self.unexpected += reason is None and verdict(self._what, check) == "failed"
                lines.append(f"         {check['id']}: {reason or said_of(check)}")
        print("\n".join(lines), flush=True)


def verdict(what: str, check: Mapping[str, Any]) -> Literal["passed", "failed", "skipped"]:
    if check["status"] == "FAILURE" and not (what == "agentd" and said_of(check).startswith(NOT_TESTABLE)):
        return "failed"
    return "passed" if check["status"] == "SUCCESS" else "skipped"


def said_of(check: Mapping[str, Any]) -> str:
    return check.get("errorMessage") or check.get("description") or ""


def main(revisions: list[str]) -> int:
    commands = programs()
    if commands is None:
        raise SystemExit("npm is not installed: the suite is a program from there")
    with (
        tempfile.TemporaryDirectory(prefix="agentd-conformance-") as folder,
        ThreadPoolExecutor() as pool,  # one is busy while the other waits
    ):
        suites = [Suite(what, commands, Path(folder)) for what in ("fixture", "agentd")]
        done = list(pool.map(lambda suite: suite.run(revisions or REVISIONS), suites))
    figures = {
        part: {count: sum(suite.figures[part][count] for suite in done) for count in ("passed", "failed")}
        for part in (*REVISIONS, "tasks")
    }
    print(json.dumps(figures))
    return 1 if any(suite.unexpected for suite in done) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
