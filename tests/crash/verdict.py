"""What became of a state directory whose daemon was killed again and again, counted from raw files.

    python tests/crash/verdict.py FOLDER

Nothing of agentd is imported: what is judged does not judge itself. Read are

    FOLDER/starts.jsonl  a line for each start, written by the payload itself before anything else
    FOLDER/kills.jsonl   what was killed, written before the signal was sent
    FOLDER/calls.jsonl   which job a caller was told that its key stands for
    FOLDER/state         the database, and what each attempt left
    the process table

An attempt is *lost* when it has no state that it ended in, or one that the files contradict. A job
that is called lost because its shim was killed is told the truth about, and counted apart. *Double*
is an attempt that started twice, a key behind two jobs, or a job with more attempts than were
allowed. *Orphans* are processes of an attempt that are alive when everything has ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ENDED = ("succeeded", "failed", "cancelled", "lost", "timed_out")
ID_VARIABLE = b"AGENTD_ATTEMPT_ID="
FORKED = b"--serve"  # in the command line of a shim that was forked
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Left:
    """What one attempt left in its folder: the JSON files that tell how it went, None for those missing."""

    go: Row | None = None
    exit: Row | None = None
    stop: Row | None = None
    result: Row | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is judged, as plain data."""

    starts: list[Row]
    kills: list[Row]
    calls: list[Row]
    jobs: list[Row]
    attempts: list[Row]
    approvals: list[Row]
    keys: list[Row]
    ledger: list[Row]
    journal: list[Row]
    left: dict[str, Left]
    processes: list[str]
    database: str = "ok"


@dataclass(slots=True)
class Verdict:
    """Counts, and for each that should be 0 the sentences that say why it is not."""

    kills: int = 0
    runs: int = 0
    lost: list[str] = field(default_factory=list[str])
    double: list[str] = field(default_factory=list[str])
    orphans: list[str] = field(default_factory=list[str])
    integrity: list[str] = field(default_factory=list[str])
    killed: dict[str, int] = field(default_factory=dict[str, int])
    states: dict[str, int] = field(default_factory=dict[str, int])
    started: dict[str, int] = field(default_factory=dict[str, int])
    named_lost: list[str] = field(default_factory=list[str])

    @property
    def good(self) -> bool:
        return not (self.lost or self.double or self.orphans or self.integrity)

    def line(self) -> Row:
        """The result in one line."""
        return {
            "kills": self.kills,
            "runs": self.runs,
            "lost": len(self.lost),
            "double": len(self.double),
            "orphans": len(self.orphans),
            "integrity": "ok" if not self.integrity else "; ".join(self.integrity[:3]),
        }

    def report(self) -> Row:
        """All of it."""
        return asdict(self) | {"summary": self.line()}


# --- judging --------------------------------------------------------------------------------


def judge(seen: Evidence) -> Verdict:
    """Count. Looks at nothing but `seen`."""
    return Verdict(
        kills=len(seen.kills),
        runs=sum(left.go is not None for left in seen.left.values()),
        lost=[*_lost_attempts(seen), *_lost_jobs(seen)],
        double=list(_double(seen)),
        orphans=seen.processes,
        integrity=list(_integrity(seen)),
        killed=dict(Counter(kill["what"] for kill in seen.kills)),
        states=dict(Counter(job["state"] for job in seen.jobs)),
        started=dict(Counter(line["what"] for line in seen.starts)),
        named_lost=[attempt["id"] for attempt in seen.attempts if attempt["outcome"] == "lose"],
    )


def _lost_attempts(seen: Evidence) -> Iterator[str]:
    """Attempts that did not end, or of which something is told that did not happen."""
    jobs = {job["id"]: job for job in seen.jobs}
    starts = Counter(line["attempt"] for line in seen.starts)
    killed: dict[str, set[int]] = {}
    for kill in seen.kills:
        killed.setdefault(kill["attempt"], set()).add(kill["pid"])
    known = {attempt["id"] for attempt in seen.attempts}
    yield from (
        f"{one} started, and no attempt of that name is recorded" for one in starts if one not in known
    )
    for attempt in seen.attempts:
        one, job = attempt["id"], jobs.get(attempt["job"])
        if job is None:
            yield f"{one} belongs to no job"
        elif attempt["ended_at"] is None:
            yield f"{one} has not ended, {job['id']} is {job['state']}"
        else:
            told = _untrue(
                attempt["outcome"], seen.left.get(one, Left()), starts[one], killed.get(one, set())
            )
            if told:
                yield f"{one} is told to have ended with {attempt['outcome']!r}, but {told}"


def _untrue(outcome: str, left: Left, starts: int, killed: set[int]) -> str:
    """What contradicts the outcome of an attempt, "" when nothing does. `killed`: pids of its processes."""
    exit, supervisor = left.exit or {}, (left.go or {}).get("pid")
    match outcome:
        case "succeed" if not starts:
            return "it never started"
        case "succeed" if left.result is None:
            return "it left no result"
        case "succeed" if left.exit and exit["code"] != 0:
            return f"its exit says {exit['reason']} {exit['code']}"
        case "lose" if left.exit:
            return "it left an exit"
        case "lose" if left.go is None:
            return "nothing had been launched"
        case "lose" if supervisor not in killed:
            return "nobody had killed its shim"
        case "fail" if starts and exit.get("reason") == "unstartable":
            return "it started, and its exit says that it could not"
        case "fail" if exit.get("signal") == 9 and not killed - {supervisor}:
            return "nobody had killed its payload"
        case "fail" | "time_out" | "cancel" if not (left.exit or left.stop or left.result):
            return "nothing says how it ended"
        case "succeed" | "lose" | "fail" | "time_out" | "cancel":
            return ""
        case _:
            return "nobody knows what that means"


def _lost_jobs(seen: Evidence) -> Iterator[str]:
    """Jobs that did not end, and jobs that a caller was told of and that are not there."""
    there = {job["id"] for job in seen.jobs}
    yield from (f"{job['id']} is still {job['state']}" for job in seen.jobs if job["state"] not in ENDED)
    yield from (
        f"{call['job']} was answered for key {call['key']!r}, and is not there"
        for call in seen.calls
        if call["job"] not in there
    )


def _double(seen: Evidence) -> Iterator[str]:
    starts = Counter(line["attempt"] for line in seen.starts)
    yield from (f"{one} started {count} times" for one, count in starts.items() if count > 1)
    answers: dict[str, set[str]] = {}
    for call in seen.calls:
        answers.setdefault(call["key"], set()).add(call["job"])
    yield from (f"key {key!r} stands for {sorted(jobs)}" for key, jobs in answers.items() if len(jobs) > 1)
    keyed = Counter(key["job"] for key in seen.keys)
    yield from (
        f"{job['id']} was made for no key" for job in seen.jobs if job["launch"] and not keyed[job["id"]]
    )
    used = Counter(one["job"] for one in seen.approvals if one["state"] == "consumed")
    made = Counter(attempt["job"] for attempt in seen.attempts)
    for job in seen.jobs:
        allowed = used[job["id"]] * json.loads(job["launch"] or "{}").get("attempts", 1)
        if made[job["id"]] > allowed:
            yield f"{job['id']} has {made[job['id']]} attempts where {allowed} were approved"


def _integrity(seen: Evidence) -> Iterator[str]:
    if seen.database != "ok":
        yield f"the database: {seen.database}"
    yield from _broken_chain(seen.journal)
    kinds = Counter((entry["kind"], entry["subject"]) for entry in seen.journal)
    attempts = Counter(attempt["job"] for attempt in seen.attempts)
    for job in seen.jobs:
        ends = sum(kinds[f"job.{state}", job["id"]] for state in ENDED)
        if job["state"] in ENDED and (ends != 1 or not kinds[f"job.{job['state']}", job["id"]]):
            yield f"the journal ends {job['id']}, which is {job['state']}, {ends} times"
        if kinds["job.running", job["id"]] != attempts[job["id"]]:
            yield f"the journal and the attempts of {job['id']} differ"
    live = {job["id"] for job in seen.jobs if job["state"] not in ENDED}
    yield from (
        f"{entry['id']} of {entry['subject']} is set aside, and nothing of it goes on"
        for entry in seen.ledger
        if entry["settled"] is None and entry["subject"] not in live
    )


def _broken_chain(journal: Iterable[Row]) -> Iterator[str]:
    """The first place where the journal does not hold together."""
    previous = "0" * 64
    for number, entry in enumerate(journal, 1):
        parts = [entry[name] for name in ("seq", "at", "kind", "subject", "principal", "data", "previous")]
        text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
        if (
            entry["seq"] != number
            or entry["previous"] != previous
            or entry["hash"] != hashlib.sha256(text.encode()).hexdigest()
        ):
            yield f"the journal is broken at entry {number}"
            return
        previous = entry["hash"]


# --- reading --------------------------------------------------------------------------------


def collect(folder: Path) -> Evidence:
    """Read everything there is about the state directory ``folder/state``."""
    state = folder / "state"
    database = sqlite3.connect(f"file:{state / 'agentd.db'}?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    try:
        tables = {
            name: [dict(row) for row in database.execute(f"SELECT * FROM {name} ORDER BY rowid")]
            for name in ("jobs", "attempts", "approvals", "keys", "ledger", "journal")
        }
        health = "; ".join(row[0] for row in database.execute("PRAGMA integrity_check"))
    finally:
        database.close()
    attempts = [Path(attempt["folder"]) for attempt in tables["attempts"]]
    return Evidence(
        starts=_lines(folder / "starts.jsonl"),
        kills=_lines(folder / "kills.jsonl"),
        calls=_lines(folder / "calls.jsonl"),
        left={attempt.name: _left(attempt) for attempt in attempts},
        processes=[f"{pid} of {one}: {what}" for pid, (one, what) in processes(state / "attempts").items()],
        database=health,
        **tables,
    )


def processes(attempts: Path) -> dict[int, tuple[str, str]]:
    """``{pid: (attempt, command line)}`` of live processes that belong to an attempt under that folder.

    They carry its id in their environment, name it in their command line, or, forked from a fork
    server, hold a file of it open. An attempt that the database does not know counts too.
    """
    known = {entry.name for entry in attempts.glob("*")}
    found: dict[int, tuple[str, str]] = {}
    for pid in pids():
        process = Path(f"/proc/{pid}")
        try:
            if process.joinpath("stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X"):
                continue
            mark = _marked(process)
            if one := named_by(pid, attempts) or (mark if mark in known else ""):
                words = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ")
                found[pid] = one, words.decode("utf-8", "replace").strip()
        except OSError:  # gone meanwhile, or somebody else's
            continue
    return found


def pids() -> list[int]:
    """Of all processes but this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]


def named_by(pid: int, attempts: Path) -> str:
    """The attempt whose files a command line names, or a forked shim holds open; "" for none."""
    process, prefix = Path(f"/proc/{pid}"), os.fsencode(attempts) + b"/"
    words = process.joinpath("cmdline").read_bytes().split(b"\0")
    if FORKED in words:
        words = [os.fsencode(entry.readlink()) for entry in process.joinpath("fd").iterdir()]
    found = next((word for word in words if word.startswith(prefix)), b"").removeprefix(prefix)
    return found.split(b"/")[0].decode("utf-8", "replace")


def _marked(process: Path) -> str:
    """The attempt whose id a process carries."""
    words = process.joinpath("environ").read_bytes().split(b"\0")
    found = next((word for word in words if word.startswith(ID_VARIABLE)), b"")
    return found.removeprefix(ID_VARIABLE).decode("utf-8", "replace")


def _left(attempt: Path) -> Left:
    return Left(
        go=_json(attempt / "go"),
        exit=_json(attempt / "exit.json"),
        stop=_json(attempt / "stop.json"),
        result=_json(attempt / "out/result.json"),
    )


def _json(path: Path) -> Row | None:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


if __name__ == "__main__":
    verdict = judge(collect(Path(sys.argv[1]).absolute()))
    print(json.dumps(verdict.report(), indent=1), file=sys.stderr)
    print(json.dumps(verdict.line()))
    sys.exit(0 if verdict.good else 1)
