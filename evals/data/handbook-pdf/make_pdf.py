# /// script
# requires-python = ">=3.11"
# dependencies = ["fpdf2==2.8.9"]
# ///
"""Set gift-cards.txt as handbook/gift-cards.pdf, one page for each form feed.

    uv run --script make_pdf.py

A line that begins with ``#`` is a heading. The date is fixed, so that the file comes out the same.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path


def main() -> None:
    from fpdf import FPDF

    here = Path(__file__).parent
    pages = (here / "gift-cards.txt").read_text(encoding="ascii").split("\\f\n")
    pdf = FPDF(format="A4")
    pdf.set_creation_date(datetime(2026, 11, 1, tzinfo=UTC))
    pdf.set_title("Gift cards")
    pdf.set_margins(25, 25)
    for page in pages:
        pdf.add_page()
        for line in page.splitlines():
            mark, _, heading = line.partition(" ")
            if mark.startswith("#"):
                pdf.set_font("Helvetica", "B", 18 - 3 * len(mark))
                pdf.multi_cell(0, 9, heading, new_x="LMARGIN", new_y="NEXT")
            elif line:
                pdf.set_font("Helvetica", size=11)
                pdf.multi_cell(0, 6, line, new_x="LMARGIN", new_y="NEXT")
            else:
                pdf.ln(3)
    pdf.output(str(here.parent / "handbook" / "gift-cards.pdf"))


if __name__ == "__main__":
    main()
