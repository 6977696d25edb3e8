"""Text in pictures of pages, by tesseract, where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

from failures import Unreadable

PROGRAM = "tesseract"
DPI, MOST_PIXELS = 300, 40_000_000
SECONDS = 60.0  # for one page


def require() -> None:
    """Raises `Unreadable`, with what to do, where there is no tesseract."""
    if shutil.which(PROGRAM) is None:
        raise Unreadable("a scan, and OCR needs tesseract, which is not installed: apt install tesseract-ocr")


def lines_of(page: Any, languages: str) -> list[str]:
    """The lines of a page of pypdfium2. `languages` as tesseract names them, such as eng+deu."""
    width, height = page.get_size()
    scale = min(DPI / 72, (MOST_PIXELS / max(width * height, 1.0)) ** 0.5)
    command = [PROGRAM, "stdin", "stdout", "-l", languages]
    env = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    try:
        ran = subprocess.run(
            command, input=grey_map(page.render(scale=scale, grayscale=True)), env=env, timeout=SECONDS,
            capture_output=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unreadable(f"OCR of a page takes longer than {SECONDS:.0f} s") from None
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().splitlines()
        raise Unreadable(f"tesseract failed: {said[-1] if said else ran.returncode}")
    return [" ".join(line.split()) for line in ran.stdout.decode(errors="replace").splitlines()]


def grey_map(bitmap: Any) -> bytes:
    """A bitmap as PGM, a byte a pixel, without what pads its rows."""
    rows = bytes(bitmap.buffer)
    lines = (rows[at : at + bitmap.width] for at in range(0, bitmap.stride * bitmap.height, bitmap.stride))
    return b"P5 %d %d 255\n" % (bitmap.width, bitmap.height) + b"".join(lines)
