"""Short, sortable identifiers: ``job-mhx2k4q7-3fa9``. The middle is time, the end is random."""

from __future__ import annotations

import secrets
import time

__all__ = ["new_id"]

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(kind: str) -> str:
    """A new id for a `kind` of thing; ids made later sort later, to the millisecond."""
    stamp, text = time.time_ns() // 1_000_000, ""
    while stamp:
        stamp, digit = divmod(stamp, 32)
        text = _DIGITS[digit] + text
    return f"{kind}-{text}-{secrets.token_hex(3)}"
