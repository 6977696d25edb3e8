"""A report as one HTML page that needs nothing else: no script, no network.

Everything that came from outside is escaped: a page about hostile outputs is opened by people.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from agentd.sdk import Metric

from . import charts
from .report_text import Page, headline, judged_blindly, metrics_of, named, number, span, what_was_run

__all__ = ["as_html", "reliability"]

LONGEST = 1200

STYLE = """
:root{color-scheme:light dark;--accent:#2563eb;--quiet:#6b7280;--line:#8884;--bad:#dc2626;--good:#15803d}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;line-height:1.3}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .75rem .25rem 0;
border-bottom:1px solid var(--line);vertical-align:top}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font-size:.85rem}
.verdict{padding:.75rem 1rem;border-left:4px solid var(--quiet);background:#8881}
.better,.not_worse{border-color:var(--good)}.worse{border-color:var(--bad)}
figure{display:inline-block;margin:0 1rem 1rem 0}figcaption{color:var(--quiet);font-size:.85rem}
svg text{font-size:10px;fill:currentColor}.axis{fill:none;stroke:var(--quiet)}.rule{stroke:var(--line)}
.track{fill:var(--line)}.fill{fill:var(--accent);opacity:.75}.dot{fill:var(--accent);opacity:.8}
.whisker{stroke:currentColor;stroke-width:2}.quiet{color:var(--quiet)}
"""


def as_html(page: Page) -> str:
    """The whole page; everything that came from outside is escaped."""
    r = page.report
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(headline(page))}</title><style>{STYLE}</style><h1>{escape(headline(page))}</h1>",
        _verdict(page),
        f"<p class=verdict>{escape(str(warning))}</p>" if (warning := r.meta.get("warning")) else "",
        "<h2>Scores</h2>",
        _metric_table([*metrics_of(r), *r.redteam]),
        _charts(page),
        *(_slice_table(field, values) for field, values in (r.meta.get("slices") or {}).items()),
        _failures(page),
        "<h2>What was run</h2>",
        _table([], [(name, f"<pre>{escape(text)}</pre>") for name, text in what_was_run(r).items()]),
    ]
    return "".join(parts) + "</html>\n"


def _verdict(page: Page) -> str:
    if not page.comparison or not page.baseline:
        return ""
    better, worse = page.changed()
    return (
        f"<p class='verdict {page.comparison.verdict}'><b>{page.comparison.verdict.replace('_', ' ')}</b>"
        f" than {escape(named(page.baseline))}: {escape(page.comparison.why)}.<br>"
        f"{better} rows score higher than in the baseline, {worse} lower.</p>"
    )


def _metric_table(metrics: Iterable[Metric]) -> str:
    rows = [
        (
            escape(m.name + judged_blindly(m)),
            number(m.score),
            span(m.low, m.high),
            charts.interval_bar(m.score, m.low, m.high)
            if m.score is not None and m.low is not None and m.high is not None
            else "",
            str(m.n),
            str(m.errors or ""),
            escape(m.why),
        )
        for m in metrics
    ]
    return _table(["metric", "score", "95 % interval", "", "n", "errors", ""], rows)


def _slice_table(field: str, values: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        (
            escape(value),
            f"{s['score']:.3f}",
            span(s["low"], s["high"]),
            charts.interval_bar(s["score"], s["low"], s["high"]),
            str(s["n"]),
        )
        for value, s in sorted(values.items(), key=lambda item: item[1]["score"])
    ]
    return f"<h2>By {escape(field)}</h2>" + _table([field, "score", "95 % interval", "", "n"], rows)


def _charts(page: Page) -> str:
    scores = [row["score"] for row in page.rows if row.get("score") is not None]
    drawn = [charts.histogram(scores, "How the rows scored")]
    if points := reliability(page.rows):
        drawn.append(charts.calibration(points, "Confidence and how often it was right"))
    if len(page.peers) > 1:
        drawn.append(charts.scatter(page.peers, "Reports of this suite", "seconds a row"))
    return f"<div>{''.join(drawn)}</div>"


def reliability(rows: Iterable[Mapping[str, Any]], bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean confidence, mean score, rows) of each filled bin of rows that state a ``confidence``."""
    grouped: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        said, score = row.get("confidence"), row.get("score")
        if isinstance(said, (int, float)) and 0 <= said <= 1 and score is not None:
            grouped.setdefault(min(bins - 1, int(said * bins)), []).append((float(said), score))
    return [
        (sum(s for s, _ in pairs) / len(pairs), sum(r for _, r in pairs) / len(pairs), len(pairs))
        for _, pairs in sorted(grouped.items())
    ]


def _failures(page: Page) -> str:
    if not page.failures:
        return "<h2>Worst answers</h2><p>Every row that was answered has the full score.</p>"
    answered_by = [named(page.report), *([named(page.baseline)] if page.baseline else [])]
    rows: list[tuple[str, ...]] = []
    for row in page.failures:
        was = page.before.get(row["id"])
        cells = [escape(str(row["id"])), _pre(row.get("input")), _pre(row.get("expected")), _answer(row)]
        rows.append((*cells, *([_answer(was) if was else ""] if page.baseline else [])))
    return "<h2>Worst answers</h2>" + _table(["row", "input", "expected", *answered_by], rows)


def _answer(row: Mapping[str, Any]) -> str:
    score = row.get("score")
    said = f"<span class=quiet>{score:.2f}</span>" if score is not None else ""
    return said + _pre(row.get("output", row.get("error", "")))


def _pre(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<pre>{escape(text[:LONGEST])}{'…' if len(text) > LONGEST else ''}</pre>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already; the first row is the head, if there is one."""
    top = f"<tr>{''.join(f'<th>{escape(name)}' for name in head)}" if head else ""
    body = "".join("<tr>" + "".join(f"<td class=n>{cell}" for cell in row) for row in rows)
    return f"<table>{top}{body}</table>"
