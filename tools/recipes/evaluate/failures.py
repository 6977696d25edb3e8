"""What can go wrong: for one row, for now, or for all of them."""

from __future__ import annotations


class RowFailed(Exception):
    """This row has no answer; the others may."""


class RowDelayed(Exception):
    """This row may be answered when asked again, `wait_s` later if that is not 0."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Hopeless(Exception):
    """No row will be answered until somebody mends something."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint
