"""Answers that were kept, whoever asked."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from failures import Hopeless

Reply = dict[str, Any]
"""An answer as it is kept: text, model, finish_reason, seconds, input_tokens, output_tokens …; or "error"."""


class Answers:
    """Answers by key, in one SQLite file that runs may share.

    Every answer is written when it comes, without waiting for the disk: a killed process loses none of
    them, and a power cut at most those of the last moments.
    """

    def __init__(self, path: Path, since: float = 0.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._since = since
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=60)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers"
                " (key TEXT PRIMARY KEY, answer TEXT NOT NULL, at REAL NOT NULL, used REAL NOT NULL)"
            )
        except sqlite3.DatabaseError as error:
            raise Hopeless(
                f"The kept answers in {str(path)!r} cannot be read: {error}", "Remove it"
            ) from error

    def find(self, key: str) -> Reply | None:
        row = self._db.execute("SELECT answer FROM answers WHERE key = ? AND at >= ?", (key, self._since))
        found = row.fetchone()
        return json.loads(found[0]) if found else None

    def keep(self, key: str, reply: Reply) -> None:
        now = time.time()
        text = json.dumps(reply, ensure_ascii=False, separators=(",", ":"))
        self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, text, now, now))

    def close(self, used: Iterable[str], most_bytes: int) -> None:
        """Note what was of use, and drop what was not for longest until the rest fits."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("UPDATE answers SET used = ? WHERE key = ?", ((time.time(), k) for k in used))
        self._db.execute(
            "DELETE FROM answers WHERE key IN (SELECT key FROM (SELECT key, SUM(LENGTH(answer))"
            " OVER (ORDER BY used DESC, key) AS size FROM answers) WHERE size > ?)",
            (most_bytes,),
        )
        self._db.execute("COMMIT")
        self._db.close()
