"""The Python environment of each recipe: locked, hashed, built once, shared by digest.

A recipe's PEP 723 header is compiled by uv to a lock (PEP 751, ``pylock.toml``: every file with its
hash and size), whose digest names the environment and is part of what a person approves. The lock
of a header is compiled once per machine and kept, so asking again is instant and needs no network.

    <cache>/locks/pylock.<key>.toml     key: header, Python, platform, find-links, accelerator
    <cache>/envs/<digest>/              the environment
    <cache>/envs/<digest>.json          written when it is whole; its mtime is the last use
    <cache>/envs/<digest>.lock          held by whoever builds or removes it, shared by what runs in it

Bytecode is compiled by the first job that imports a module, not at build time. Measured for the
training environment on 2 cores: install 3 s, then the first import 25 s, later ones 9 s; with
everything compiled ahead, install 53 s, imports 8-9 s. Compiling ahead pays only when nobody waits:
`Environments.build` with ``compile_bytecode=True``.

Not covered: a source distribution runs its own build code while the environment is built.
"""

from __future__ import annotations

import asyncio
import configparser
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
import tomllib
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.errors import DataError, Unavailable
from agentd.jobs.recipes import program_of

__all__ = ["Environment", "Environments", "Estimate", "Lock", "find_links", "lock_of", "script_header"]

Progress = Callable[[dict[str, Any]], None]

HEADER = re.compile(r"(?m)^# /// script$\s(?P<body>(?:^#(?:| .*)$\s)+)^# ///$")
UNPACKED = 3.5  # bytes on disk per byte of wheel: 3.2 for the training environment, bytecode on top
HEADROOM = 512 << 20
LOCK_POLL_S = 0.2
HINTS = (
    (r"No space left", "Free some disk: agentd env prune"),
    (r"network was disabled|error sending request|Failed to fetch|dns error|Connection refused",
     "Is the machine offline? Build it once with a network: agentd env build"),
    (r"Hash mismatch", "The index serves another file than the one that was locked: do not install it"),
    (r"No solution found", "The versions in the recipe's header exclude one another, or one does not exist"),
    (r"No interpreter|Failed to inspect Python", "agentd needs a working Python where it runs"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lock:
    """What a recipe's environment consists of. `python` is set if config names an interpreter instead."""

    digest: str
    recipe: str
    path: Path | None = None
    python: Path | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What building would take, at most: files that uv has cached are not downloaded again.

    `unknown` counts packages whose index states no size.
    """

    packages: int = 0
    download_bytes: int = 0
    disk_bytes: int = 0
    unknown: int = 0
    built: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment that is built. Its files may share disk with uv's cache (hard links)."""

    digest: str
    recipes: tuple[str, ...]
    size_bytes: int
    last_used: float
    path: Path


class Environments:
    """The environments under `cache_dir`, for the interpreter `python` (the daemon's own by default).

    `interpreters` maps recipe names to existing interpreters, which are then used as they are.
    """

    def __init__(
        self,
        cache_dir: Path,
        uv: Path | None = None,
        *,
        python: Path | None = None,
        interpreters: Mapping[str, Path] | None = None,
        accelerator: str = "cpu",
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._locks = cache_dir.absolute() / "locks"
        self._envs = cache_dir.absolute() / "envs"
        self._uv = uv
        self._python = python or Path(sys.executable)
        self._interpreters = dict(interpreters or {})
        self._accelerator = accelerator
        self._environ = environ
        self._digests: dict[tuple[Path, int, int], str] = {}

    async def lock(self, recipe: Path, *, refresh: bool = False) -> Lock:
        """The lock of a recipe's header: compiled by uv the first time (seconds), then at once.

        Raises `DataError` for a bad header, `Unavailable` when uv can't resolve it.
        """
        if python := self._interpreters.get(recipe.stem):
            return _given(recipe.stem, python)
        header = script_header(recipe)
        _check_python(recipe, tomllib.loads(header).get("requires-python", ""))
        path = self._locks / f"pylock.{self._key(header)}.toml"
        if refresh or not path.exists():
            await self._compile(recipe, path)
        return Lock(self._digest_of(path), recipe.stem, path)

    async def build(
        self, lock: Lock, progress: Progress | None = None, *, compile_bytecode: bool = False
    ) -> Path:
        """The environment's interpreter; built if it is not there yet, by one builder at a time.

        `progress` gets events of the recipe protocol in bytes downloaded. Raises `Unavailable`.
        """
        if lock.python or lock.path is None:
            return _existing(lock)
        folder = self._envs / lock.digest
        if self._touch(lock.digest, lock.recipe):
            return folder / "bin/python"
        self._envs.mkdir(parents=True, exist_ok=True)
        async with _locked(self._envs / f"{lock.digest}.lock") as held:
            if not self._touch(lock.digest, lock.recipe):
                self._check_disk(lock)
                await self._install(lock, folder, progress or (lambda _: None), compile_bytecode, held)
        return folder / "bin/python"

    def ready(self, digest: str, recipe: Path) -> Path | None:
        """The interpreter of an environment that is built, None otherwise. Reads one small file."""
        if not self._touch(digest, recipe.stem):
            return None
        return self._envs / digest / "bin/python"

    def estimate(self, lock: Lock) -> Estimate:
        """What `build` would download and write, from the sizes in the lock."""
        if lock.path is None or self._marker(lock.digest):
            return Estimate(built=True)
        sizes = [_size(package) for package in _packages(lock.path)]
        known = sum(size for size in sizes if size)
        return Estimate(len(sizes), known, int(known * UNPACKED), sizes.count(0))

    def list(self) -> tuple[Environment, ...]:
        """The environments that are built, the one used last first."""
        found = [self._describe(path) for path in self._envs.glob("*.json")]
        return tuple(sorted(found, key=lambda env: -env.last_used))

    def prune(self, *, unused_s: float = 0.0, keep: Collection[str] = ()) -> tuple[Environment, ...]:
        """Remove the environments that were not used for `unused_s` seconds; returns them.

        What something runs in stays, whoever started it; `keep` holds digests that are needed soon.
        Remains of builds that were broken off go as well.
        """
        old = [e for e in self.list() if e.digest not in keep and time.time() - e.last_used >= unused_s]
        gone = tuple(env for env in old if self._remove(env.digest))
        for folder in self._envs.glob("*/"):
            if not self._marker(folder.name):
                self._remove(folder.name)
        return gone

    # --- locks ---

    def _key(self, header: str) -> str:
        links = [(str(f), sorted(wheel.name for wheel in f.glob("*.whl"))) for f in find_links(self._environ)]
        facts = [header, sys.version, platform.machine(), platform.libc_ver(), links, self._accelerator]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    async def _compile(self, recipe: Path, path: Path) -> None:
        self._locks.mkdir(parents=True, exist_ok=True)
        temporary = self._locks / f"{path.stem}-{uuid.uuid4().hex}.toml"
        command = ["pip", "compile", "--quiet", "--no-header", "--format", "pylock.toml"]
        command += ["--python", str(self._python), "--output-file", str(temporary)]
        command.append(str(program_of(recipe).absolute()))
        try:
            await self._call(command, f"The environment of recipe {recipe.stem!r} could not be resolved")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _digest_of(self, path: Path) -> str:
        """The digest of a lock; parsing a large one takes 50 ms, so it is done once for each content."""
        status = path.stat()
        content = (path, status.st_mtime_ns, status.st_size)
        if content not in self._digests:
            self._digests[content] = _digest(_packages(path))
        return self._digests[content]

    # --- environments ---

    def _marker(self, digest: str) -> dict[str, Any] | None:
        """What is recorded of an environment that is whole and whose interpreter still works."""
        if not (self._envs / digest / "bin/python").exists():  # follows links: the base may be gone
            return None
        try:
            marker: dict[str, Any] = json.loads((self._envs / f"{digest}.json").read_text("utf-8"))
            return marker
        except (FileNotFoundError, ValueError):
            return None

    def _touch(self, digest: str, recipe: str) -> bool:
        """Record a use, and by which recipe; False if there is nothing whole to use."""
        marker = self._marker(digest)
        if marker is None:
            return False
        if recipe in marker["recipes"]:
            os.utime(self._envs / f"{digest}.json")
        else:
            self._write_marker(digest, marker | {"recipes": sorted({*marker["recipes"], recipe})})
        return True

    def _write_marker(self, digest: str, marker: Mapping[str, Any]) -> None:
        temporary = self._envs / f"{digest}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(marker), "utf-8")
        temporary.replace(self._envs / f"{digest}.json")

    def _describe(self, marker_path: Path) -> Environment:
        marker = json.loads(marker_path.read_text("utf-8"))
        return Environment(
            digest=marker_path.stem,
            recipes=tuple(marker["recipes"]),
            size_bytes=marker["size_bytes"],
            last_used=marker_path.stat().st_mtime,
            path=self._envs / marker_path.stem,
        )

    def _check_disk(self, lock: Lock) -> None:
        need = self.estimate(lock).disk_bytes + HEADROOM
        free = shutil.disk_usage(self._envs).free
        if free < need:
            raise Unavailable(
                f"The environment of recipe {lock.recipe!r} needs about {need / 2**30:.1f} GiB"
                f" in {str(self._envs)!r}, {free / 2**30:.1f} GiB are free",
                hint="Free some disk: agentd env prune",
            )

    async def _install(
        self, lock: Lock, folder: Path, progress: Progress, compile_bytecode: bool, held: int
    ) -> None:
        assert lock.path is not None
        what = f"The environment of recipe {lock.recipe!r} could not be built"
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await self._call(["venv", "--quiet", "--python", str(self._python), str(folder)], what, held=held)
        command = ["pip", "sync", "--python", str(folder / "bin/python")]
        command += ["--require-hashes", *(["--compile-bytecode"] if compile_bytecode else [])]
        if packages := _packages(lock.path):
            requirements = folder / "requirements.txt"
            requirements.write_text(_requirements(packages), "utf-8")
            await self._call([*command, str(requirements)], what, _downloads(packages, progress), held)
        size = await asyncio.to_thread(_disk_bytes, folder)
        marker = {"recipes": [lock.recipe], "size_bytes": size, "built": time.time(), "python": sys.version}
        self._write_marker(lock.digest, marker)

    def _remove(self, digest: str) -> bool:
        """Remove an environment, whole or not; False if somebody is building it, or runs in it."""
        with (self._envs / f"{digest}.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            (self._envs / f"{digest}.json").unlink(missing_ok=True)
            shutil.rmtree(self._envs / digest, ignore_errors=True)
        return True

    # --- uv ---

    async def _call(
        self,
        arguments: Sequence[str],
        what: str,
        on_line: Callable[[str], None] | None = None,
        held: int | None = None,
    ) -> None:
        """Run uv; its stderr goes to `on_line` line by line. Ended with the task that awaits it.

        It inherits the lock `held`: should we be killed, nobody builds there while it still does.
        """
        process = await asyncio.create_subprocess_exec(
            self._program(), *arguments, env=self._uv_env(), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, cwd=self._locks.parent,
            pass_fds=[] if held is None else [held],
        )  # fmt: skip
        assert process.stderr is not None
        lines: list[str] = []
        try:
            async for raw in process.stderr:
                lines.append(raw.decode("utf-8", "replace").rstrip())
                if on_line:
                    on_line(lines[-1])
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if code:
            said = "\n".join(line for line in lines if line)[-1500:].rstrip(".")
            raise Unavailable(f"{what}: {said}", hint=_hint(said))

    def _program(self) -> str:
        if self._uv is None:
            try:
                import uv  # here: the daemon starts without it

                self._uv = Path(uv.find_uv_bin())
            except (ImportError, FileNotFoundError) as error:
                raise Unavailable("uv is not installed", hint="pip install uv") from error
        return str(self._uv)

    def _uv_env(self) -> dict[str, str]:
        env = {k: v for k, v in self._environ.items() if k not in ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")}
        folders = find_links(self._environ)
        env |= {"UV_NO_PROGRESS": "1", "UV_PREVIEW_FEATURES": "pylock"}
        if folders:
            env["UV_FIND_LINKS"] = ",".join(map(str, folders))
        if self._accelerator != "cuda" and not any(any(f.glob("torch-*.whl")) for f in folders):
            # PyPI's torch is the CUDA build; other builds come from PyTorch's own index.
            env.setdefault("UV_TORCH_BACKEND", "cpu" if self._accelerator == "cpu" else "auto")
        return env


# --- headers and locks ----------------------------------------------------------------------


def lock_of(python: Path) -> Path | None:
    """The lock of the environment that this interpreter belongs to; None if it is none of ours."""
    folder = python.parents[1]
    lock = folder.with_name(f"{folder.name}.lock")
    return lock if lock.exists() else None


def script_header(recipe: Path) -> str:
    """The TOML of a recipe's PEP 723 header. Raises `DataError` if it has none, two or a bad one."""
    found = list(HEADER.finditer(program_of(recipe).read_text("utf-8")))
    if len(found) != 1:
        raise DataError(
            recipe, f"{len(found)} PEP 723 headers where one is needed", hint="Start it with # /// script"
        )
    header = "".join(
        line[2:] if line.startswith("# ") else line[1:] for line in found[0]["body"].splitlines(True)
    )
    try:
        tomllib.loads(header)
    except tomllib.TOMLDecodeError as error:
        raise DataError(recipe, f"the PEP 723 header is not TOML: {error}") from error
    return header


def _check_python(recipe: Path, wanted: str) -> None:
    """uv would resolve for a Python that the script refuses; refuse first. Raises `Unavailable`."""
    have = sys.version_info[:2]
    for operator, major, minor in re.findall(r"(>=|<=|==|~=|!=|<|>)\s*(\d+)(?:\.(\d+))?", wanted):
        other = (int(major), int(minor or 0))
        allowed = {
            ">=": have >= other, "~=": have >= other, "<=": have <= other, "<": have < other,
            ">": have > other, "==": have == other, "!=": have != other,
        }  # fmt: skip
        if not allowed[operator]:
            raise Unavailable(
                f"Recipe {recipe.stem!r} wants Python {wanted}, this is {have[0]}.{have[1]}",
                hint="Name an interpreter for it in agentd.toml, or run agentd under such a Python",
            )


def _packages(lock: Path) -> list[dict[str, Any]]:
    packages: list[dict[str, Any]] = tomllib.loads(lock.read_text("utf-8")).get("packages", [])
    return packages


def _files(package: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What may be installed of a package: its wheels, else its source."""
    source = [package[kind] for kind in ("sdist", "archive") if kind in package]
    return package.get("wheels") or source


def _size(package: Mapping[str, Any]) -> int:
    """Bytes of a package's file, 0 if unknown."""
    local = (Path(file["url"].removeprefix("file://")) for file in _files(package) if "url" in file)
    stated = max((file.get("size", 0) for file in _files(package)), default=0)
    return stated or sum(path.stat().st_size for path in local if path.is_file())


def _requirements(packages: Sequence[Mapping[str, Any]]) -> str:
    """The lock as pip writes it. From a pylock.toml, uv 0.13 installs without looking into its cache."""
    lines: list[str] = []
    for package in packages:
        archive = package.get("archive")
        pinned = (
            f"{package['name']} @ {archive['url']}" if archive else f"{package['name']}=={package['version']}"
        )
        files = [*package.get("wheels", ()), *(package[k] for k in ("sdist", "archive") if k in package)]
        hashes = [f"--hash={kind}:{value}" for file in files for kind, value in file["hashes"].items()]
        lines.append(" \\\n    ".join([pinned, *hashes]))
    return "\n".join(lines) + "\n"


def _digest(packages: list[dict[str, Any]]) -> str:
    """Of names, versions and file hashes, and the Python and machine they are for; of no address."""
    facts = [
        [p["name"], p.get("version", ""), sorted(json.dumps(f.get("hashes", {})) for f in _files(p))]
        for p in packages
    ]
    python = [sys.implementation.cache_tag, platform.machine(), sys.platform]
    return hashlib.sha256(json.dumps([sorted(facts), python]).encode()).hexdigest()[:32]


def _given(recipe: str, python: Path) -> Lock:
    if not os.access(python, os.X_OK):
        raise Unavailable(
            f"The interpreter of recipe {recipe!r} is not there: {str(python)!r}", hint="See agentd.toml"
        )
    status = python.stat()
    facts = f"interpreter {python.resolve()} {status.st_size} {status.st_mtime_ns}"
    return Lock(hashlib.sha256(facts.encode()).hexdigest()[:32], recipe, python=python.absolute())


def _existing(lock: Lock) -> Path:
    assert lock.python is not None
    return _given(lock.recipe, lock.python).python or lock.python


# --- the machine ----------------------------------------------------------------------------


def find_links(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Folders of local wheels that pip or uv is configured with; existing ones only."""
    words = environ.get("UV_FIND_LINKS", "").split(",")
    words += environ.get("PIP_FIND_LINKS", "").split()
    for path in _pip_configs(environ):
        config = configparser.RawConfigParser()
        config.read(path)
        for section in ("global", "install"):
            words += config.get(section, "find-links", fallback="").split()
    folders = [Path(word.strip().removeprefix("file://")).expanduser() for word in words if word.strip()]
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _pip_configs(environ: Mapping[str, str]) -> list[Path]:
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(environ.get("HOME") or "/nonexistent")
    shared = [
        Path(folder) / "pip/pip.conf" for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
    ]
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    return [*shared, Path("/etc/pip.conf"), home / ".pip/pip.conf", user, *([Path(named)] if named else [])]


def _hint(said: str) -> str:
    return next((hint for pattern, hint in HINTS if re.search(pattern, said)), "")


def _downloads(packages: Sequence[Mapping[str, Any]], progress: Progress) -> Callable[[str], None]:
    """Turns uv's lines into progress events; uv names only the larger files, the rest counts at the end."""
    sizes = {package["name"]: _size(package) for package in packages}
    total, done = sum(sizes.values()), 0

    def on_line(line: str) -> None:
        nonlocal done
        words = line.split()
        if words[:1] == ["Downloaded"]:
            done += sizes.get(words[1], 0)
        elif words[:1] == ["Prepared"]:
            done = total
        if words[:1] in (["Downloading"], ["Downloaded"], ["Prepared"], ["Installed"], ["Building"]):
            progress(
                {"event": "progress", "done": done, "total": total, "unit": "bytes", "message": line.strip()}
            )

    return on_line


def _disk_bytes(folder: Path) -> int:
    def blocks() -> Iterator[int]:
        for where, _, names in os.walk(folder):
            for name in names:
                yield os.lstat(os.path.join(where, name)).st_blocks * 512  # noqa: PTH118 - 30,000 files

    return sum(blocks())


@asynccontextmanager
async def _locked(path: Path) -> AsyncGenerator[int]:
    """Hold `path` against other builders. Polled, so that a task that gives up leaves no thread behind."""
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(LOCK_POLL_S)
        yield file.fileno()
