"""Rows of a suite in a training set: what stops a launch.

Copies and 13 words in a row are looked for at once, in plain Python, whenever a training set is named
together with a suite. The recipe ``check_leaks`` looks for more (partial and near copies, answers,
paraphrases), alone or as a part of `check_dataset`. What it finds fails the job; what it did not find is
kept as an artifact of kind "leak-check", which holds for the content of both files and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from agentd.sdk import Artifact, Context, Finished, InputError, Launch, NotFound, Quote, tool

from .datasets import Dataset, Example, dataset_path, normalise, read_dataset
from .suites import Suite, find_suite

__all__ = ["Copy", "copies", "job_parts", "keep_check", "refuse_leaks", "seconds_for", "what_was_checked"]

KIND = "leak-check"
EMBEDDER = "minilm-l6"
# Brown et al. 2020 (GPT-3): 13 words, or a whole row of at least 8.
RUN, FEWEST_WORDS = 13, 8
# Any 8 words in a row hold 4 that begin at a multiple of 5: only those are looked up.
PIECE, STRIDE = 4, 5
SET_PHRASE_ROWS = 2
SHOWN = 5
# Measured on two cores: words and characters compared, and texts of some sixty tokens embedded.
START_S, ROWS_PER_S, EMBEDDED_PER_S = 2.0, 4000.0, 60.0
FALSE_ALARMS = 0.1

Accept = Annotated[
    list[str],
    Field(description="suite rows that may stand in the training set; recorded"),
]


@dataclass(frozen=True, slots=True)
class Copy:
    """A training row, the suite row that stands in it, and how."""

    example: Example
    row: str
    input: str
    how: str


# --- at once --------------------------------------------------------------------------------


def copies(examples: Iterable[Example], rows: Sequence[tuple[str, str]]) -> list[Copy]:
    """Training rows that hold one of the (id, input) pairs: the same input, or 13 words of it in a row.

    Case, punctuation and spaces do not count. A row of 8 to 12 words must stand there whole, and a shorter
    one must be the whole prompt. What more than two different suite rows have in common is a set phrase.
    """
    texts = {normalise(text): (row, text) for row, text in rows}
    texts.pop("", None)
    index = _Index([text.split(" ") for text in texts])
    known = list(texts.values())
    found: list[Copy] = []
    for example in examples:
        asked = normalise(example.prompt or example.answer)
        if asked in texts:
            found.append(Copy(example, *texts[asked], "the same input"))
            continue
        both = (asked, normalise(example.answer)) if example.prompt else (asked,)
        place = next((row for text in both if (row := index.run_in(text.split(" "))) is not None), None)
        if place is not None:
            found.append(Copy(example, *known[place], f"{min(RUN, index.length(place))} words in a row"))
    return found


class _Index:
    """Runs of words of suite rows, found in other texts."""

    def __init__(self, rows: Sequence[list[str]]) -> None:
        self._rows = rows
        self._pieces: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for number, words in enumerate(rows):
            if len(words) >= FEWEST_WORDS:
                for place in range(len(words) - PIECE + 1):
                    self._pieces[tuple(words[place : place + PIECE])].append((number, place))

    def length(self, row: int) -> int:
        return len(self._rows[row])

    def run_in(self, words: list[str]) -> int | None:
        """The first row of which a long enough run stands in `words`."""
        for place in range(0, len(words) - PIECE + 1, STRIDE):
            at = self._pieces.get(tuple(words[place : place + PIECE]), ())
            runs = [(row, self._length(words, place, row, there)) for row, there in at]
            long = {row for row, length in runs if length >= min(RUN, self.length(row))}
            if 0 < len(long) <= SET_PHRASE_ROWS:
                return min(long)
        return None

    def _length(self, words: list[str], here: int, row: int, there: int) -> int:
        """Of the run that holds the piece which stands `here` in the text and `there` in the row."""
        other = self._rows[row]
        back = 0
        while here > back < there and words[here - back - 1] == other[there - back - 1]:
            back += 1
        end = PIECE
        while (
            here + end < len(words) and there + end < len(other) and words[here + end] == other[there + end]
        ):
            end += 1
        return back + end


def refuse_leaks(ctx: Context, data: Dataset, suite: Suite, accept: Sequence[str] = ()) -> dict[str, Any]:
    """What is known of leaks between the two files, for the record. Raises `InputError` showing rows.

    What an earlier check accepted stays accepted, for the same content.
    """
    checked = what_was_checked(ctx, data.path, suite)
    accepted = sorted({*_known_rows(suite, accept), *(checked.meta["accepted"] if checked else ())})
    found = [copy for copy in copies(data.examples, suite.inputs) if copy.row not in accepted]
    if found:
        rest = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError(
            f"{len(found)} of {len(data)} training rows of {data.path.name} stand in suite {suite.name!r}:"
            f" {'; '.join(map(_said, found[:SHOWN]))}{rest}",
            hint="Take them out of the training set, or every score on this suite is worthless;"
            " or accept the suite's rows by id",
        )
    return {
        "suite": suite.name,
        "accepted": accepted,
        "check": checked.id if checked else "",
        "paraphrases": bool(checked and checked.meta["paraphrases"]["looked_for"]),
    }


def _said(copy: Copy) -> str:
    asked = copy.example.prompt or copy.example.answer
    beside = "" if copy.how == "the same input" else f" and {_short(copy.input)}"
    return f"line {copy.example.line} is {copy.row} ({copy.how}): {_short(asked)}{beside}"


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return repr(plain if len(plain) <= 80 else plain[:79] + "…")


def _known_rows(suite: Suite, ids: Sequence[str]) -> list[str]:
    """`ids`, if the suite has them all. Raises `NotFound` with the nearest."""
    there = [row for row, _ in suite.inputs]
    for row in ids:
        if row not in there:
            raise NotFound(f"row of suite {suite.name!r}", row, there)
    return list(ids)


# --- as a job -------------------------------------------------------------------------------


@tool(title="Look for a suite's rows in a training set", launches=True, listed=False, trusted=("check", "ok"))
async def check_leaks(
    ctx: Context,
    *,
    dataset: Annotated[str, Field(description="JSONL of training rows: path, or name of a data set")],
    suite: Annotated[
        str, Field(description="suite whose rows must not be in it: name, or path to its .yaml")
    ],
    accept: Accept = [],  # noqa: B006  (pydantic copies it)
    embedder: Annotated[
        str, Field(description="embedding model of the catalog; empty to look for no paraphrases")
    ] = EMBEDDER,
    false_alarms: Annotated[
        float, Field(gt=0, le=100, description="clean rows of the file that may be taken for paraphrases")
    ] = FALSE_ALARMS,
) -> Launch:
    """Find copies, shared runs of words, answers and paraphrases of a suite's rows in a training set.

    Fails if there are any that were not accepted, and shows both rows of each. `check_dataset` with a suite
    does this as well; `finetune` says whether it was done.
    """
    file, artifact = dataset_path(ctx, dataset)
    data, found = read_dataset(file), find_suite(ctx, suite)
    refuse_leaks(ctx, data, found, accept)
    inputs, spec = job_parts(ctx, file, found, accept, embedder, false_alarms)
    if embedder and "embedder" not in inputs:
        raise InputError(
            f"The embedder {embedder!r} is not in the catalog",
            hint=f"agentd call get_model source={embedder}",
        )
    inputs.pop("check_leaks")
    seconds = seconds_for(len(data), len(found.rows), embedder=bool(embedder))
    return Launch(
        recipe="check_leaks",
        title=f"Look for {found.name} in {artifact.name if artifact else file.name} ({len(data)} rows)",
        spec={**spec, "timing_key": str(bool(embedder))},
        inputs=inputs | {"dataset": file},
        quote=Quote(
            seconds=round(seconds, 1),
            ram_bytes=(400 << 20) + 8 * file.stat().st_size,
            disk_bytes=4 << 20,
            basis=f"{len(data)} rows, {len(found.rows)} of the suite",
        ),
        timeout_s=max(600.0, 20 * seconds),
    )


@check_leaks.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    artifact = keep_check(ctx, finished.spec, finished.result, finished.out)
    return {"check": artifact.id, **finished.result, "ok": True}


def seconds_for(rows: int, suite: int, *, embedder: bool) -> float:
    """About how long two cores take. As many rows are embedded as come near, within limits."""
    embedded = min(suite, 1000) + min(rows, max(300, min(2000, 0.02 * rows))) if embedder else 0
    return START_S + rows / ROWS_PER_S + embedded / EMBEDDED_PER_S


def job_parts(
    ctx: Context, file: Path, suite: Suite, accept: Sequence[str], embedder: str, false_alarms: float
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Inputs and spec of the recipe: what it compares, and what its answer will hold for.

    Without the embedder on this machine, it goes without one and says so.
    """
    inputs = {"suite": suite.data, "check_leaks": ctx.plugins.find("tools", "recipes/check_leaks.py")}
    model = next((each for each in ctx.catalog.list() if each.name == embedder), None)
    if model is not None and model.path is not None:
        inputs["embedder"] = model.path
    return inputs, {
        "accept": _known_rows(suite, accept),
        "false_alarms": false_alarms,
        "leak_check": {"suite": suite.name, **_digests(file, suite)},
    }


def keep_check(ctx: Context, spec: Mapping[str, Any], result: Mapping[str, Any], out: Path) -> Artifact:
    """Register that a training set was held against a suite, and what was accepted."""
    meta = {
        **spec["leak_check"],
        "accepted": result["accepted"],
        "paraphrases": result["paraphrases"],
        "kinds": result["kinds"],
    }
    kept = out / "kept" / "leak-check.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(meta, sort_keys=True), encoding="utf-8")
    return ctx.artifacts.add(KIND, kept, name=f"leaks-{meta['suite']}", meta=meta)


def what_was_checked(ctx: Context, file: Path, suite: Suite) -> Artifact | None:
    """The best check of this content: one that looked for paraphrases before one that did not."""
    wanted = _digests(file, suite)
    there = [
        each
        for each in ctx.artifacts.list(KIND)
        if all(each.meta.get(name) == digest for name, digest in wanted.items())
    ]
    return max(there, key=lambda each: bool(each.meta["paraphrases"]["looked_for"]), default=None)


def _digests(file: Path, suite: Suite) -> dict[str, str]:
    return {"dataset_sha256": _sha256(file), "rows_sha256": _sha256(suite.data)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
