"""What stops one document, and what stops the job."""

from __future__ import annotations


class Unreadable(Exception):
    """A document that is left out, with the reason as its message."""


class Refused(Exception):
    """The job cannot be done as asked."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint
