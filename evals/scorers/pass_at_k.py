"""pass@k: the chance that at least one of `k` samples passes the tests, estimated without bias from all
samples of the row (Chen et al. 2021): 1 − C(n − c, k) / C(n, k).

    {"id": …, "input": "def add(a, b):\\n", "expected": {"tests": "assert add(1, 2) == 3"}}

`expected` is the tests as text, or an object with "tests" and perhaps "entry_point": with one, the tests
define ``check(candidate)``, as HumanEval's do. The code is the first fenced block of the output, or all of
it; where it does not define the entry point it goes on where the input ends.

Every sample runs in a process of its own, in new user, mount, pid, network, IPC and host name spaces: it
sees the interpreter and an empty /tmp, no network, no other process, nothing of this user's files; memory,
processor time, wall time, files and processes are limited. Where a machine does not offer that, nothing is
run, and rows have no score, unless `sandbox` is false, which a call has to allow as well.

Not covered: flaws of the kernel, and code that cheats, by looking for how its tests tell that they passed.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

WANTS = ("sandbox",)
FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
NO_SANDBOX = 97  # exit code of a child that could not be confined
OUTPUT_BYTES = 1 << 20


def score_samples(
    expected: object,
    outputs: Sequence[str],
    row: Mapping[str, Any],
    *,
    k: int = 1,
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    sandbox: bool = True,
) -> float:
    if k > len(outputs):
        raise ValueError(f"pass@{k} needs {k} samples a row, and there are {len(outputs)}")
    if sandbox and (why := missing_sandbox()):
        raise RuntimeError(f"code is not run without a sandbox, and there is none: {why}")
    programs = [program_of(output, expected, str(row["input"])) for output in outputs]
    test = partial(passes, timeout_s=timeout_s, memory_mb=memory_mb, sandbox=sandbox)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        passed = sum(pool.map(test, programs))
    return pass_at_k(len(outputs), passed, k)


def pass_at_k(n: int, passed: int, k: int) -> float:
    """The share of the ways to draw `k` of `n` samples that have one of the `passed` in them."""
    return 1 - math.comb(n - passed, k) / math.comb(n, k)


def program_of(output: str, expected: object, prompt: str) -> str:
    tests = expected.get("tests") if isinstance(expected, dict) else expected
    entry = expected.get("entry_point", "") if isinstance(expected, dict) else ""
    if not isinstance(tests, str) or not tests.strip():
        raise ValueError("'expected' holds no tests")
    fenced = FENCE.search(output)
    code = fenced[1] if fenced else output
    if entry and not re.search(rf"^\s*(async\s+)?def\s+{re.escape(entry)}\b", code, re.MULTILINE):
        code = prompt + code
    return f"{code}\n\n{tests}\n" + (f"\ncheck({entry})\n" if entry else "")


def passes(program: str, *, timeout_s: float, memory_mb: int, sandbox: bool) -> bool:
    """Whether the program runs to its end, without an exception and in time."""
    code, said = run(program, timeout_s=timeout_s, memory_mb=memory_mb, sandbox=sandbox)
    if code == NO_SANDBOX and sandbox:
        raise RuntimeError(f"the sandbox failed: {said[-300:]}")
    return code == 0


def run(program: str, *, timeout_s: float, memory_mb: int, sandbox: bool) -> tuple[int, str]:
    """Exit code (0 only if its last line was reached) and what was said of errors."""
    token = secrets.token_hex(16)
    orders = {"program": program, "token": token, "memory_mb": memory_mb, "sandbox": sandbox}
    orders["cpu_s"] = math.ceil(timeout_s) + 1
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", __file__, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"LANG": "C.UTF-8"},
            start_new_session=True,
            cwd=folder,
        )
        try:
            out, err = process.communicate(json.dumps(orders).encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return -signal.SIGKILL, f"took more than {timeout_s:g} s"
    reached = out.rstrip().endswith(token.encode())
    said = err.decode(errors="replace")
    return (process.returncode or (0 if reached else 1)), said


@cache
def missing_sandbox() -> str:
    """Why this machine confines nothing; "" if it does."""
    code, said = run("pass", timeout_s=20, memory_mb=512, sandbox=True)
    return "" if code == 0 else said.strip()[-300:] or f"exit code {code}"


# --- the child: confines itself, then becomes the program -----------------------------------

NEW_NAMESPACES = 0x00020000 | 0x08000000 | 0x04000000 | 0x10000000 | 0x20000000 | 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
KEPT_FLAGS = {os.ST_NOSUID: 2, os.ST_NODEV: 4, os.ST_NOEXEC: 8, os.ST_NOATIME: 1024, os.ST_NODIRATIME: 2048}
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
INSIDE_UID = 1000
SEEN = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
BOOT = "import sys; exec(compile(sys.stdin.read(), 'answer.py', 'exec'), {'__name__': '__main__'})"


def child(folder: str) -> NoReturn:
    orders = json.loads(sys.stdin.buffer.read())
    program = f"{orders['program']}\n__import__('os').write(1, {orders['token'].encode()!r})\n"
    python = os.path.realpath(sys.executable)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if orders["sandbox"]:
            _separate(libc)
            _build_root(libc, Path(folder))
            os.chroot(folder)
            os.chdir("/tmp")
        _limit(orders, confined=orders["sandbox"])
        _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        _feed(program)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(NO_SANDBOX)
    os.execve(python, [python, "-I", "-S", "-B", "-c", BOOT], {"LANG": "C.UTF-8"})


def _separate(libc: ctypes.CDLL) -> None:
    """New name spaces, as a user without rights; returns in the first process of the new ones."""
    uid, gid = os.geteuid(), os.getegid()
    _checked(libc.unshare(NEW_NAMESPACES), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE_UID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE_UID} {gid} 1")
    first = os.fork()
    if first:
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the parent")
    os.setsid()  # a signal to its process group would reach the one outside that waits for it


def _build_root(libc: ctypes.CDLL, root: Path) -> None:
    """An empty tmpfs with the interpreter and the system's libraries in it, read-only, and a /tmp."""

    def mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
        done = libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, data.encode())
        _checked(done, f"mount {target}")

    mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=755")
    own = [os.path.realpath(sys.base_prefix), str(Path(sys.executable).resolve().parent)]
    seen = [*SEEN, *(each for each in dict.fromkeys(own) if not each.startswith("/usr/"))]
    for each in (*seen, "/dev/null", "/dev/urandom"):
        source, target = Path(each), root / each[1:]
        if source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.readlink())
        elif source.exists() and not target.exists():
            _place(source, target)
            mount(each, target, "", MS_BIND | MS_REC)
            if source.is_dir() or source.is_file():
                kept = sum(to for at, to in KEPT_FLAGS.items() if os.statvfs(each).f_flag & at)
                mount("none", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | kept)
    (root / "tmp").mkdir(mode=0o777)


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
    else:
        target.touch()


def _limit(orders: Mapping[str, Any], *, confined: bool) -> None:
    memory = orders["memory_mb"] << 20
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: orders["cpu_s"],
        resource.RLIMIT_FSIZE: OUTPUT_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    if confined:  # elsewhere it would count everything else that this user runs
        limits[resource.RLIMIT_NPROC] = 32
    for what, most in limits.items():
        resource.setrlimit(what, (most, most))


def _feed(program: str) -> None:
    """Let the program be what is read from standard input."""
    content = os.memfd_create("program", 0)
    os.write(content, program.encode())
    os.lseek(content, 0, os.SEEK_SET)
    os.dup2(content, 0)


def _checked(code: int, what: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    child(sys.argv[1])
