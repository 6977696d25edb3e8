"""Programs from npm that tests drive, with the Node they need: installed once, all of them together.

A second ``npm install`` without a manifest would remove what the first one installed.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "node"
PACKAGES = (
    "@modelcontextprotocol/inspector@2.12.0",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "node@22.23.3",
)


def programs() -> Path | None:
    """The folder of their commands; None where npm is not installed."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(map(_is_installed, PACKAGES)):
            options = ["--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
            subprocess.run(
                [npm, "install", "--prefix", str(FOLDER), *options, *PACKAGES], check=True, timeout=600
            )
    return FOLDER / "node_modules" / ".bin"


def _is_installed(package: str) -> bool:
    name, _, version = package.rpartition("@")
    manifest = FOLDER / "node_modules" / name / "package.json"
    return manifest.is_file() and json.loads(manifest.read_text())["version"] == version
