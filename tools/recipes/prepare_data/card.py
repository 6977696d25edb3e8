"""The data set's card: what a person must know before using it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from conversations import told_columns
from samples import Record, counted

FRONT = """\
---
configs:
- config_name: default
  data_files:
  - split: {part}
    path: data.jsonl
---

# {title}

"""


def card(
    name: str, part: str, rows: Sequence[Record], result: Mapping[str, Any], spec: Mapping[str, Any]
) -> str:
    """The data set's card: what a person must know before using it, in the form model hubs read."""
    title = name if part == "train" else f"{name}, {part}"
    lines = FRONT.format(part=part, title=title).splitlines()
    lines += [
        f"{len(rows)} rows for {part}. " + ", ".join(f"{s}: {n}" for s, n in result["splits"].items()) + "."
    ]
    lines += [
        "",
        "## Sources",
        "",
        "| source | SHA-256 | records | rows | read as |",
        "| --- | --- | --- | --- | --- |",
    ]
    for file, told in result["mapping"].items():
        read_as = cell(f"{told['shape']}: {told_columns(told['columns'])}")
        figures = f"`{told['sha256'][:16]}` | {told['records']} | {told['rows']}"
        lines.append(f"| {cell(file)} | {figures} | {read_as} |")
    lines += [
        "",
        "## Steps",
        "",
        "| step | rows before | after | touched | what |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {s['step']} | {s['before']} | {s['after']} | {s['touched']} | {cell(s['what'])} |"
        for s in result["steps"]
    ]
    found = result["pii"]
    lines += ["", "## Personal data", ""]
    if found["looked"]:
        lines += [f"Found in {found['rows']} rows: {counted(found['found']) or 'nothing'}.",
                  f"Looked for: {', '.join(found['looked_for'])}.",
                  f"**Not** looked for: {', '.join(found['not_looked_for'])}."]  # fmt: skip
    else:
        lines += ["It was not looked for."]
    lines += ["", "## Split", ""]
    lines += [
        f"- {what.replace('_', ' ')}: {told['of']}, in two splits: {told['crossing']}"
        for what, told in result["crossing"].items()
    ]
    for title, counts in (("Labels", result["labels"]), ("Languages", result["languages"])):
        if counts:
            lines += ["", f"## {title}", "", ", ".join(f"{cell(k)}: {v}" for k, v in counts.items())]
    options = {k: spec[k] for k in OPTIONS if k in spec}
    lines += ["", "## Options", "", "```json", json.dumps(options, indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


OPTIONS = (
    "columns", "speakers", "system", "turns", "pii", "languages", "min_chars", "max_chars", "min_rating",
    "duplicates", "near", "balance", "per_label", "validation", "test", "seed",
)  # fmt: skip


def cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
