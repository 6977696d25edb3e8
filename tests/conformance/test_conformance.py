"""The official conformance suite finds nothing wrong, in both eras and with tasks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.inspector


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_no_check_fails_unexpectedly_in_either_era_nor_with_tasks() -> None:
    run = [sys.executable, str(Path(__file__).with_name("run.py"))]
    done = subprocess.run(run, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert all(figures[part]["passed"] >= least for part, least in LEAST.items()), figures


LEAST = {"2025-11-25": 80, "2026-07-28": 200, "tasks": 40}
"""Fewer would mean that scenarios were left out, not that they failed."""
