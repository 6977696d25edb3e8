"""Text for a terminal, with whatever it would obey or an eye not see spelled out (`agentd.wording`)."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from agentd.wording import pieces

__all__ = ["visible"]


def visible(value: Any, *, lines: bool = False) -> Text:
    """A text for a rich console, the escapes in reverse: a text cannot fake one."""
    shown = Text()
    for piece, is_escape in pieces(str(value), lines=lines):
        shown.append(piece, style="reverse" if is_escape else None)
    return shown
