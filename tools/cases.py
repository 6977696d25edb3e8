"""Eval cases out of a data set: a suite whose rows are its questions, with what a right answer is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .suites import load_suite

__all__ = ["write_suite"]

SEVERAL_TURNS = "whose question has several turns"
OTHER_SYSTEM = "with another system prompt than most"

Case = tuple[str, str, dict[str, Any]]
"""System prompt, question, and the row of the suite."""


def write_suite(
    folder: Path,
    name: str,
    source: str,
    rows: Sequence[Mapping[str, Any]],
    scorer: str,
    options: Mapping[str, Any],
) -> tuple[Path, int, Counter[str]]:
    """Write ``NAME.yaml`` and ``rows.jsonl``: the suite, its rows, and why others have no place in it.

    `rows` hold ``prompt``, ``expected`` and perhaps ``id``. Raises `DataError` for a suite that is none.
    """
    found = list(_cases(rows))
    left_out = Counter({SEVERAL_TURNS: len(rows) - len(found)} if len(found) < len(rows) else {})
    [(system, _)] = Counter(system for system, _, _ in found).most_common(1) or [("", 0)]
    cases = [case for its, _, case in found if its == system]
    if others := len(found) - len(cases):
        left_out[OTHER_SYSTEM] = others
    path = folder / f"{name}.yaml"
    if cases:
        (folder / "rows.jsonl").write_text(
            "".join(json.dumps(case, ensure_ascii=False) + "\n" for case in cases), encoding="utf-8"
        )
        path.write_text(_yaml(name, source, system, scorer, options), encoding="utf-8")
        load_suite(path)
    return path, len(cases), left_out


def _cases(rows: Sequence[Mapping[str, Any]]) -> Iterator[Case]:
    for number, row in enumerate(rows, 1):
        prompt = row["prompt"]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        system = "\n".join(str(turn["content"]) for turn in turns if turn["role"] == "system")
        asked = [turn for turn in turns if turn["role"] != "system"]
        if len(asked) == 1:
            question = str(asked[0]["content"])
            yield (
                system,
                question,
                {
                    "id": str(row.get("id") or number),
                    "input": question,
                    "expected": row["expected"],
                },
            )


def _yaml(name: str, source: str, system: str, scorer: str, options: Mapping[str, Any]) -> str:
    suite = {
        "suite": name,
        "description": f"Whether questions of {source} are answered as they were, or as they were put right.",
        "inclusion": "every row with one question and an answer; see what was left out in README.md",
        "source": source,
        "licence": "your own",
        "data": "rows.jsonl",
        "prompt": {**({"system": system} if system else {}), "user": "{input}"},
        "metrics": [{"name": scorer, "scorer": scorer, **({"options": dict(options)} if options else {})}],
    }
    return yaml.safe_dump(suite, sort_keys=False, allow_unicode=True)
