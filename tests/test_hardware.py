"""What the machine says of its memory, as the kernel's files and ``nvidia-smi`` tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.hardware import ram_bytes, vram_bytes

MEMINFO = "MemTotal:       8000000 kB\nMemFree:   100 kB\nMemAvailable:    3000000 kB\nHugePages_Total:  0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("proc", "sys/fs/cgroup/memory"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(MEMINFO, encoding="ascii")
    return tmp_path


def test_memory_is_the_machines_or_less_where_a_control_group_says_so(root: Path) -> None:
    assert ram_bytes(root) == 8_000_000 << 10
    (root / "sys/fs/cgroup/memory.max").write_text("max\n", encoding="ascii")
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712", encoding="ascii")
    assert ram_bytes(root) == 8_000_000 << 10
    (root / "sys/fs/cgroup/memory.max").write_text("1000000\n", encoding="ascii")
    assert ram_bytes(root) == 1_000_000


def test_a_machine_that_says_nothing_has_unknown_memory(tmp_path: Path) -> None:
    assert ram_bytes(tmp_path) == 0


@pytest.mark.parametrize(
    ("script", "found"),
    [("echo 81559; echo 40960", 81_559 << 20), ("exit 9", 0), ("echo '[N/A]'", 0)],
)
def test_gpu_memory_is_that_of_the_largest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: int
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    vram_bytes.cache_clear()
    assert vram_bytes() == found
    vram_bytes.cache_clear()
