"""A report that was measured, read by its address: as data, and as the pages written of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentd.daemon import Daemon
from agentd.errors import NotFound
from agentd.policy.callers import Caller
from agentd.sdk import Report
from agentd.server.holdings import Holdings

pytestmark = pytest.mark.anyio


@pytest.fixture
def report(daemon: Daemon, tmp_path: Path) -> Report:
    rows = tmp_path / "rows.jsonl"
    row = {"id": "1", "input": "Capital?", "expected": "Rome", "output": "<b>Paris</b>", "score": 0.0}
    rows.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return daemon.reports.save(
        Report(
            id="rep-1",
            suite="capitals",
            suite_digest="d",
            model="small",
            metric="exact_match",
            score=0.0,
            low=0.0,
            high=0.8,
            n=1,
            rows=rows,
        )
    )


async def test_it_is_data_and_pages(daemon: Daemon, report: Report, tmp_path: Path) -> None:
    ann = Caller("user:ann", "view", "mcp", tmp_path, is_agent=True)
    holdings = Holdings(daemon)
    data = await holdings.read(f"agentd://reports/{report.id}", ann)
    markdown = await holdings.read(f"agentd://reports/{report.id}/markdown", ann)
    html = await holdings.read(f"agentd://reports/{report.id}/html", ann)
    assert json.loads(data.text)["model"] == "small"
    assert "## small on capitals: exact_match 0.000" in markdown.text
    assert html.text.startswith("<!doctype html>")
    assert "<b>Paris" not in html.text
    assert (markdown.mime, html.mime) == ("text/markdown", "text/html")


async def test_one_that_is_not_there_names_the_nearest(
    daemon: Daemon, report: Report, tmp_path: Path
) -> None:
    ann = Caller("user:ann", "view", "mcp", tmp_path, is_agent=True)
    with pytest.raises(NotFound, match=report.id):
        await Holdings(daemon).read(f"agentd://reports/{report.id}x/markdown", ann)
