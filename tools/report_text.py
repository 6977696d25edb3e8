"""A report in words: JSON, Markdown for a pull request, JUnit XML for a build server.

Pure functions of `Page`. What models wrote is always escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from xml.etree import ElementTree

from agentd.sdk import Metric, Report

from .compare import Compared

__all__ = [
    "Page",
    "as_json",
    "as_junit",
    "as_markdown",
    "headline",
    "judged_blindly",
    "metrics_of",
    "named",
    "number",
    "span",
    "what_was_run",
]

WORST = 12


@dataclass(frozen=True, slots=True)
class Page:
    """What a page shows: `before` has the baseline's rows by id, `peers` are (name, seconds a row, score)."""

    report: Report
    rows: Sequence[Mapping[str, Any]]
    baseline: Report | None
    comparison: Compared | None
    before: Mapping[str, Mapping[str, Any]]
    peers: Sequence[tuple[str, float, float]]

    @property
    def failures(self) -> list[Mapping[str, Any]]:
        """The rows that scored worst, those that the baseline had right first."""
        scored = [row for row in self.rows if row.get("score") is not None and row["score"] < 1]

        def rank(row: Mapping[str, Any]) -> tuple[float, float]:
            was = self.before.get(row["id"], {}).get("score")
            return (row["score"] - (was if was is not None else row["score"]), row["score"])

        return sorted(scored, key=rank)[:WORST]

    def changed(self) -> tuple[int, int]:
        """Rows that score higher than in the baseline, and lower."""
        pairs = [(row.get("score"), self.before.get(row["id"], {}).get("score")) for row in self.rows]
        both = [(now, was) for now, was in pairs if now is not None and was is not None]
        return sum(now > was for now, was in both), sum(now < was for now, was in both)


def named(report: Report) -> str:
    return f"{report.model} ({report.label})" if report.label else report.model


def metrics_of(report: Report) -> list[Metric]:
    """All metrics; of a report from before there were several, the one."""
    if report.metrics:
        return list(report.metrics)
    return [
        Metric(
            name=report.metric,
            score=report.score,
            low=report.low,
            high=report.high,
            n=report.n,
            errors=report.errors,
        )
    ]


def what_was_run(report: Report) -> dict[str, str]:
    """Model, data and everything else that a score depends on, as name and text."""
    shown = {
        "model": named(report),
        "suite": f"{report.suite} ({report.suite_digest[:16]})",
        "rows": f"{report.n} scored, {report.errors} without an answer",
        **{f"digest of {name}": digest[:16] for name, digest in report.digests.items()},
    }
    for name, value in report.meta.items():
        if name not in ("slices", "metrics", "warning", "gate") and value not in (None, "", [], {}):
            shown[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown


def headline(page: Page) -> str:
    r = page.report
    said = f"{named(r)} on {r.suite}: {r.metric} {r.score:.3f} ({r.low:.3f} to {r.high:.3f}, n = {r.n})"
    return f"{said}; {page.comparison.verdict.replace('_', ' ')}" if page.comparison else said


# --- JSON and Markdown ----------------------------------------------------------------------


def as_json(page: Page) -> str:
    return json.dumps(
        {
            "report": page.report.model_dump(mode="json"),
            "baseline": page.baseline.model_dump(mode="json") if page.baseline else None,
            "comparison": page.comparison.model_dump() if page.comparison else None,
            "failures": [dict(row) for row in page.failures],
        },
        ensure_ascii=False,
        indent=2,
    )


def as_markdown(page: Page) -> str:
    """For a pull request: the verdict, the metrics, the slices, what was run."""
    lines = [f"## {headline(page)}", ""]
    if page.comparison and page.baseline:
        better, worse = page.changed()
        lines += [
            f"**{page.comparison.verdict.replace('_', ' ')}** than {named(page.baseline)}:"
            f" {page.comparison.why}. {better} rows score higher than before, {worse} lower.",
            "",
        ]
    if warning := page.report.meta.get("warning"):
        lines += [f"> {warning}", ""]
    lines += ["| metric | score | 95 % interval | n | errors |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {_cell(m.name)}{judged_blindly(m)} | {number(m.score)} | {span(m.low, m.high)}"
        f" | {m.n} | {m.errors or ''} |"
        for m in [*metrics_of(page.report), *page.report.redteam]
    ]
    for field, values in (page.report.meta.get("slices") or {}).items():
        lines += ["", f"| {_cell(field)} | score | 95 % interval | n |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {_cell(value)} | {s['score']:.3f} | {span(s['low'], s['high'])} | {s['n']} |"
            for value, s in values.items()
        ]
    lines += ["", "<details><summary>What was run</summary>", ""]
    lines += [f"- {_cell(name)}: {_cell(value)}" for name, value in what_was_run(page.report).items()]
    return "\n".join([*lines, "", "</details>", ""])


def _cell(text: object) -> str:
    """Text that can break neither a table nor a page."""
    return escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")


def judged_blindly(metric: Metric) -> str:
    return " (uncalibrated judge)" if metric.judge and not metric.judge.get("calibrated") else ""


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


# --- JUnit ----------------------------------------------------------------------------------


def as_junit(page: Page) -> str:
    """One test case for the gate, one for the share of answered rows, as build servers show them."""
    cases: list[tuple[str, str, str]] = []
    if page.comparison:
        passed = page.comparison.verdict in ("better", "not_worse")
        cases.append(
            (
                f"{page.report.suite}: not worse than {named(page.baseline) if page.baseline else ''}",
                "" if passed else page.comparison.verdict,
                page.comparison.why,
            )
        )
    warning = str(page.report.meta.get("warning", ""))
    cases.append((f"{page.report.suite}: rows are answered", "unanswered rows" if warning else "", warning))
    failures = sum(bool(problem) for _, problem, _ in cases)
    suite = ElementTree.Element(
        "testsuite",
        name=f"agentd {page.report.suite} {named(page.report)}",
        tests=str(len(cases)),
        failures=str(failures),
        time=f"{page.report.meta.get('seconds', 0.0):.3f}",
    )
    for name, problem, why in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=f"agentd.{page.report.suite}", name=name)
        if problem:
            ElementTree.SubElement(case, "failure", message=problem).text = why
        else:
            ElementTree.SubElement(case, "system-out").text = why or headline(page)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)
