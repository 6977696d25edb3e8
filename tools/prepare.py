"""Data sets out of files, traffic and reports: cleaned, split, and kept as artifacts with their lineage.

What is done to rows is the recipe's; here sources are found, and what was made is named:
``NAME`` (the training rows), ``NAME-validation``, ``NAME-test``, and ``NAME-dropped`` for the rest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agentd.sdk import Context, DataError, Finished, InputError, Launch, NotFound, Quote, Report, tool

from .datasets import read_rows, rows_file
from .traffic import rows_of as traffic_rows

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
SPLITS = ("train", "validation", "test")
# Importing, then reading, looking for personal data, languages and neighbours: measured on two cores.
START_S, BYTES_PER_S, ROW_BYTES = 8.0, 400e3, 250.0
Share = Annotated[float, Field(ge=0, le=0.5)]


@tool(title="Make a data set", launches=True, trusted=("name", "datasets", "rows", "dropped", "dropped_rows"))
async def prepare_data(
    ctx: Context,
    *,
    sources: Annotated[
        list[str],
        Field(
            min_length=1,
            max_length=50,
            description="files or folders (JSONL, JSON, CSV, TSV, Parquet, Arrow, saved by `datasets`,"
            " transcripts as .txt), names of data sets, report:ID for the answers of an evaluation,"
            " or traffic:ALIAS[,rated|up|corrected][,pairs][,since=7d] for what the gateway kept",
        ),
    ],
    name: Annotated[str, Field(pattern=NAME, description="what to call it")],
    columns: Annotated[
        dict[str, str],
        Field(
            description="column by what it holds: prompt, completion, messages, text, system, rejected,"
            " label, user, document, rating, conversation, role, content, order, source; 'a+b' joins two."
            " The rest is guessed, and told"
        ),
    ] = {},  # noqa: B006  (pydantic copies it)
    speakers: Annotated[
        dict[str, Literal["user", "assistant", "system"]],
        Field(description="who asks and who answers, for names that do not tell: {'Ann': 'assistant'}"),
    ] = {},  # noqa: B006
    system: Annotated[str, Field(description="system message for rows that have none")] = "",
    turns: Annotated[
        Literal["last", "each"], Field(description="a row a conversation, or one for each of its answers")
    ] = "last",
    pii: Annotated[
        Literal["replace", "report", "keep"],
        Field(description="personal data: replace it by marks, only count it, or do not look"),
    ] = "replace",
    languages: Annotated[
        list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]],
        Field(description="ISO 639-1 codes to keep; none keeps all"),
    ] = [],  # noqa: B006
    min_chars: Annotated[int, Field(ge=0, description="characters a conversation must have")] = 0,
    max_chars: Annotated[int, Field(ge=0, description="characters it may have; 0: any number")] = 0,
    min_rating: Annotated[float | None, Field(description="leave out rows that are rated lower")] = None,
    duplicates: Annotated[
        Literal["none", "exact", "near"],
        Field(description="what is left out; near ones stay together if kept"),
    ] = "exact",
    near: Annotated[
        float, Field(ge=0.3, le=1, description="Jaccard similarity from which rows are near-duplicates")
    ] = 0.8,
    balance: Annotated[
        Literal["none", "cap", "upsample"],
        Field(description="draw or repeat rows to per_label of each label"),
    ] = "none",
    per_label: Annotated[int, Field(ge=0, description="rows of a label; 0: as many as the median label")] = 0,
    validation: Annotated[Share, Field(description="share of rows kept for validation")] = 0.1,
    test: Annotated[Share, Field(description="share of rows kept for testing")] = 0.1,
    seed: Annotated[int, Field(ge=0, description="of the split and every draw")] = 0,
) -> Launch:
    """Make training, validation and test rows from files as people have them.

    Reads chats, tickets and transcripts; replaces personal data; leaves out duplicates and what the other
    options say, each with its reason; keeps near-duplicates, users and documents on one side of the split.
    Costs nothing. Result: datasets (NAME, NAME-validation, NAME-test), mapping (what columns were taken
    for: check it), steps, problems. Then `check_dataset`, `finetune`. Not for documents: use `ingest`.
    """
    if validation + test >= 1:
        raise InputError("validation and test leave nothing to train on", hint="Give shares below 0.5 each")
    inputs: dict[str, Path] = {}
    named: list[dict[str, str]] = []
    parents: list[str] = []
    for number, text in enumerate(sources):
        path, called, lineage = found(ctx, text)
        key = f"source{number}"
        inputs[key] = path
        taken = [each["name"] for each in named]
        named.append({"input": key, "name": called if called not in taken else f"{number + 1}-{called}"})
        parents += [each for each in lineage if each not in parents]
    size = sum(bytes_of(path) for path in inputs.values())
    seconds = START_S + size / BYTES_PER_S
    return Launch(
        recipe="prepare_data",
        title=f"Make data set {name} from {', '.join(each['name'] for each in named[:3])}"
        + (f" and {len(named) - 3} more" if len(named) > 3 else ""),
        spec={
            "name": name,
            "sources": named,
            "columns": columns,
            "speakers": speakers,
            "system": system,
            "turns": turns,
            "pii": pii,
            "languages": languages,
            "min_chars": min_chars,
            "max_chars": max_chars,
            "min_rating": min_rating,
            "duplicates": duplicates,
            "near": near,
            "balance": balance,
            "per_label": per_label,
            "validation": validation,
            "test": test,
            "seed": seed,
            "parents": parents,
            "timing_key": f"{pii}:{bool(languages)}:{duplicates}",
        },
        inputs=inputs,
        quote=Quote(
            seconds=round(seconds, 1),
            ram_bytes=(400 << 20) + 12 * size,
            disk_bytes=4 * size,
            basis=f"{size / 1e6:.1f} MB at {BYTES_PER_S / 1e6:g} MB/s, and {START_S:g} s to start",
        ),
        timeout_s=max(900.0, 20 * seconds),
    )


# --- sources --------------------------------------------------------------------------------


def found(ctx: Context, text: str) -> tuple[Path, str, list[str]]:
    """Where a source lies, what it is called, and the artifacts or reports it comes from."""
    if text.startswith("report:"):
        report = ctx.reports.get(text.removeprefix("report:"))
        path = ctx.scratch() / f"{report.id}.jsonl"
        write(path, answers(report))
        return path, f"report:{report.id}", [report.id]
    if text.startswith("traffic:"):
        path = ctx.scratch() / "traffic.jsonl"
        write(path, iter(traffic_rows(ctx, text.removeprefix("traffic:"))))
        return path, text, []
    for kind in ("dataset", "dropped"):
        with suppress(NotFound):
            artifact = ctx.artifacts.get(text, kind)
            return rows_file(artifact.path), f"{artifact.name}.jsonl", [artifact.id]
    path = ctx.path(text)
    if not path.is_dir() and not path.stat().st_size:
        raise DataError(path, "is empty", hint="Name a file with rows in it")
    return path, path.name, []


def answers(report: Report) -> Iterator[dict[str, Any]]:
    """What a model answered to the rows of a suite, with its score as the rating."""
    for _, row in read_rows(report.rows):
        if row.get("output") and not row.get("error"):
            asked = row["input"] if isinstance(row["input"], str) else json.dumps(row["input"])
            yield {
                "prompt": asked,
                "completion": row["output"],
                "rating": row.get("score"),
                "source": row["id"],
            }


def write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def bytes_of(path: Path) -> int:
    return (
        sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        if path.is_dir()
        else path.stat().st_size
    )


# --- what was made --------------------------------------------------------------------------


@prepare_data.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    """Register the splits and what was left out. The recipe's files stay: done twice, it does the same."""
    spec, result = finished.spec, finished.result
    parents = list(spec["parents"])
    dropped = kept(
        finished.out / "dropped.jsonl", finished.out / "kept" / "dropped" / f"{spec['name']}-dropped.jsonl"
    )
    rest = ctx.artifacts.add(
        "dropped",
        dropped,
        name=f"{spec['name']}-dropped",
        meta={"rows": result["dropped"], "job": finished.job_id},
        parents=parents,
    )
    about = {
        "family": spec["name"],
        "dropped": rest.id,
        "sources": {file: told["sha256"] for file, told in result["mapping"].items()},
        "options": {
            k: v for k, v in spec.items() if k not in ("inputs", "sources", "parents", "name", "services")
        },
        "steps": result["steps"],
        "pii": result["pii"],
        "crossing": result["crossing"],
        "job": finished.job_id,
    }
    made: dict[str, str] = {}
    for split in (s for s in SPLITS if s in result["splits"] and result["splits"][s]):
        name = spec["name"] if split == "train" else f"{spec['name']}-{split}"
        artifact = ctx.artifacts.add(
            "dataset",
            kept(finished.out / split, finished.out / "kept" / split / name),
            name=name,
            meta=about
            | {"split": split, "rows": result["splits"][split], "format": format_of(finished.out / split)},
            parents=parents,
        )
        made[split] = artifact.id
    return {
        "name": spec["name"],
        "datasets": made,
        "rows": result["splits"],
        "dropped": result["dropped"],
        "dropped_rows": rest.id,
        **{
            k: result[k]
            for k in ("mapping", "steps", "pii", "languages", "labels", "pairs", "crossing", "problems")
        },
        "next": f"agentd data show {spec['name']}",
    }


def kept(made: Path, to: Path) -> Path:
    """A copy that may be moved into the store."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.is_dir():
        shutil.rmtree(to)
    copy = shutil.copytree if made.is_dir() else shutil.copyfile
    copy(made, to)
    return to


def format_of(folder: Path) -> str:
    row = next(row for _, row in read_rows(folder / "data.jsonl"))
    return "text" if "text" in row else "prompt_completion"


def names_of(family: str) -> Sequence[str]:
    return [family, *(f"{family}-{split}" for split in SPLITS[1:])]
