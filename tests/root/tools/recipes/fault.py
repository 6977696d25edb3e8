# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""End in the way that ``spec["how"]`` says, in the first ``spec["times"]`` attempts; then succeed.

python -P fault.py SPEC OUT
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path


def emit(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def started(path: str) -> int:
    """Note this start; which one it is, from 1."""
    if not path:
        return 1
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{os.environ['AGENTD_ATTEMPT_ID']} {os.getpid()}\n")
    return len(Path(path).read_text("utf-8").splitlines())


def write_until_full(out: Path) -> None:
    with (out / "ballast").open("wb") as file:
        while True:
            file.write(b"x" * (1 << 20))
            file.flush()


def end(how: str, spec: dict[str, str], out: Path) -> int:
    match how.split(":", 1):
        case ["signal", number]:
            os.kill(os.getpid(), int(number))
        case ["exit", code]:
            return int(code)
        case ["said", cause]:
            emit("error", message="it cannot go on", hint="Change something", cause=cause)
            return 2
        case ["say", line]:
            print(line, file=sys.stderr)
            return 1
        case ["null"]:
            ctypes.string_at(0)
        case ["swell"]:  # more memory than the cgroup has: the kernel ends it
            (Path(spec["cgroup"]) / "cgroup.procs").write_text("0", encoding="ascii")
            kept = [bytes([1]) * (4 << 20) for _ in range(64)]
            return len(kept)
        case ["memory"]:  # more memory than it may have: Python says so
            resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
            return len(bytes(1 << 30))
        case ["disk"]:
            write_until_full(out)
        case ["disk_quietly"]:
            try:
                write_until_full(out)
            except OSError:
                return 1
        case ["hang"]:
            emit("progress", message="hanging")
            signal.pause()
    return 0


spec, out = json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2])
if started(spec["starts"]) <= spec["times"]:
    sys.exit(end(spec["how"], spec, out))
(out / "result.part").write_text(json.dumps({"fine": True}), "utf-8")
(out / "result.part").replace(out / "result.json")
