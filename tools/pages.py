"""A report as something to hand round: the tool report_page."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from agentd.sdk import Context, Report, tool

from .compare import Ref, compared
from .datasets import read_rows
from .report_html import as_html
from .report_text import Page, as_json, as_junit, as_markdown, named


class Rendered(BaseModel):
    format: str
    text: str


@tool(title="Write a report as a page", result=Rendered, read_only=True, idempotent=True, listed=False)
async def report_page(
    ctx: Context,
    *,
    report: Ref,
    baseline: Annotated[str, Field(description="report that it is held against; empty for none")] = "",
    format: Annotated[
        Literal["html", "markdown", "junit", "json"], Field(description="what to write")
    ] = "html",
) -> Rendered:
    """One report as a page that needs nothing else: what was run, scores, plots, worst failures, changes."""
    page = page_of(ctx, ctx.reports.get(report), ctx.reports.get(baseline) if baseline else None)
    write = {"html": as_html, "markdown": as_markdown, "junit": as_junit, "json": as_json}[format]
    return Rendered(format=format, text=write(page))


def page_of(ctx: Context, report: Report, baseline: Report | None) -> Page:
    """Read what a page shows. Raises `InputError` when the two reports do not measure the same rows."""
    rows = [row for _, row in read_rows(report.rows)]
    before = {row["id"]: row for _, row in read_rows(baseline.rows)} if baseline else {}
    same = [each for each in ctx.reports.list() if each.suite_digest == report.suite_digest and each.n]
    peers = [(named(each), each.meta.get("seconds", 0.0) / each.n, each.score) for each in same[:20]]
    comparison = compared(report, baseline) if baseline else None
    return Page(report, rows, baseline, comparison, before, peers)
