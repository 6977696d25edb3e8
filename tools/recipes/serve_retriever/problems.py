"""What a request is refused with."""

from __future__ import annotations


class Problem(Exception):
    """A request that cannot be answered as asked: HTTP status, what happened, what to do next."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint
