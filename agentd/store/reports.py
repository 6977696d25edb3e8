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
        self._newest: dict[tuple[str, str], Report | None] = {}

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
        self._newest.clear()
        return report

    def newest(self, model: str, suite: str) -> Report | None:
        """The last of a model on a suite; read once, since requests are routed by it."""
        if (model, suite) not in self._newest:
            row = self._store.row(
                "SELECT report FROM reports WHERE model = ? AND suite = ? ORDER BY at DESC LIMIT 1",
                [model, suite],
            )
            self._newest[model, suite] = Report(**loads(row["report"])) if row else None
        return self._newest[model, suite]

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
