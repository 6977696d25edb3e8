"""Importing much in little time and memory, for a process that must answer soon."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Generator

__all__ = ["loading"]


@contextlib.contextmanager
def loading() -> Generator[None]:
    """Within it, classes and modules are taken to stay, and most of them to be used later or never.

    Nobody looks for garbage among them, then or afterwards. Pydantic builds a model when it is first
    used: the MCP SDK alone defines hundreds, of which a server needs a few. It does not search all
    packages for plugins of its own.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.disable()
    try:
        from pydantic import BaseModel

        BaseModel.model_config["defer_build"] = True
        try:
            yield
        finally:
            del BaseModel.model_config["defer_build"]
    finally:
        gc.freeze()
        gc.enable()
