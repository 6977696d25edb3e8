"""Small charts as SVG text, drawn without a library: they must stand in one page that needs nothing else.

Colours follow the page's ``currentColor`` and ``--accent``, so that they work on light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["calibration", "histogram", "interval_bar", "scatter"]

WIDTH, HEIGHT, PAD = 360, 180, 34


def interval_bar(score: float, low: float, high: float) -> str:
    """A score in 0…1 as a bar with its interval, 160 by 14 pixels."""
    x, a, b = (round(160 * min(1.0, max(0.0, v)), 1) for v in (score, low, high))
    return (
        '<svg class="bar" width="160" height="14" role="img" aria-hidden="true">'
        '<rect width="160" height="14" class="track"/>'
        f'<rect width="{x}" height="14" class="fill"/>'
        f'<line x1="{a}" x2="{b}" y1="7" y2="7" class="whisker"/></svg>'
    )


def histogram(values: Sequence[float], title: str, bins: int = 10) -> str:
    """How many of `values`, all in 0…1, fall into each of `bins` equal parts."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(value * bins))] += 1
    most, step = max(counts, default=0) or 1, (WIDTH - 2 * PAD) / bins
    bars = "".join(
        f'<rect class="fill" x="{PAD + i * step + 1:.1f}" y="{HEIGHT - PAD - h:.1f}" width="{step - 2:.1f}"'
        f' height="{h:.1f}"><title>{i / bins:.1f} to {(i + 1) / bins:.1f}: {count}</title></rect>'
        for i, count in enumerate(counts)
        for h in [(HEIGHT - 2 * PAD) * count / most]
    )
    return _frame(title, bars, "score", "rows", ("0", "1"), ("0", str(most)))


def calibration(points: Sequence[tuple[float, float, int]], title: str) -> str:
    """Stated confidence against share that was right, a dot a bin (its area follows the rows in it)."""
    most = max((n for _, _, n in points), default=1)
    dots = "".join(
        f'<circle class="dot" cx="{_x(said):.1f}" cy="{_y(right):.1f}" r="{3 + 7 * (n / most) ** 0.5:.1f}">'
        f"<title>said {said:.2f}, right {right:.2f}, {n} rows</title></circle>"
        for said, right, n in points
    )
    diagonal = f'<line class="rule" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>'
    return _frame(title, diagonal + dots, "confidence", "right", ("0", "1"), ("0", "1"))


def scatter(points: Sequence[tuple[str, float, float]], title: str, x_name: str) -> str:
    """(name, x ≥ 0, score in 0…1) as labelled dots."""
    widest = max((x for _, x, _ in points), default=0) or 1
    dots = "".join(
        f'<circle class="dot" cx="{_x(0.9 * x / widest):.1f}" cy="{_y(y):.1f}" r="4">'
        f"<title>{escape(name)}: {y:.3f}</title></circle>"
        f'<text x="{_x(0.9 * x / widest) + 6:.1f}" y="{_y(y) - 5:.1f}">{escape(name[:28])}</text>'
        for name, x, y in points
    )
    return _frame(title, dots, x_name, "score", ("0", f"{widest / 0.9:.3g}"), ("0", "1"))


def _x(share: float) -> float:
    return PAD + (WIDTH - 2 * PAD) * share


def _y(share: float) -> float:
    return HEIGHT - PAD - (HEIGHT - 2 * PAD) * share


def _frame(
    title: str, inside: str, x_name: str, y_name: str, x_ends: tuple[str, str], y_ends: tuple[str, str]
) -> str:
    left, right, bottom, top = PAD, WIDTH - PAD, HEIGHT - PAD, PAD
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img"'
        f' aria-label="{escape(title)}">'
        f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>{inside}'
        f'<text x="{left}" y="{bottom + 14}">{escape(x_ends[0])}</text>'
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{escape(x_ends[1])}</text>'
        f'<text x="{(left + right) / 2}" y="{bottom + 26}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end">{escape(y_ends[0])}</text>'
        f'<text x="{left - 4}" y="{top + 8}" text-anchor="end">{escape(y_ends[1])}</text>'
        f'<text x="{left}" y="{top - 8}">{escape(y_name)}</text></svg>'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )
