"""What was measured, one row a report."""

from __future__ import annotations

from agentd.errors import NotFound
from agentd.sdk import Report
from agentd.store.database import Store, loads

__all__ = ["ReportTable"]


class ReportTable:
    """Also the `sdk.Reports` that tools are handed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, report: Report) -> Report:
        row = {
            "id": report.id,
            "suite": report.suite,
            "model": report.model,
            "label": report.label,
            "report": report.model_dump(mode="json"),
            "at": self._store.now(),
        }
        self._store.insert("reports", row, replace=True)
        return report

    def get(self, ref: str) -> Report:
        """By id, or the newest as ``model@suite`` (or a label). Raises `NotFound`."""
        row = self._store.row(
            "SELECT report FROM reports WHERE id = ?1 OR model || '@' || suite = ?1"
            " OR (label != '' AND label = ?1) ORDER BY at DESC LIMIT 1",
            [ref],
        )
        if row is None:
            raise NotFound("report", ref, [r.id for r in self.list()])
        return Report(**loads(row["report"]))

    def list(self) -> list[Report]:
        """Newest first."""
        return [
            Report(**loads(row["report"]))
            for row in self._store.rows("SELECT report FROM reports ORDER BY at DESC")
        ]
