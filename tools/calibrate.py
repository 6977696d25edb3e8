"""The tool calibrate_judge: how far an LLM judge agrees with people, measured before it counts.

The judge is asked about answers that people have rated, by the recipe that evaluates; what came out is
kept as an artifact under the judge's digest, where `evaluate` finds it, and as a report.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from agentd.sdk import Context, DataError, Finished, InputError, Launch, Metric, Quote, Report, tool

from .datasets import read_rows
from .evaluate import CHARACTERS_PER_TOKEN, KEPT_ANSWERS_MB, VERDICT_TOKENS, scoring_inputs, service_of
from .identities import dearest, doubt_of, models_behind, prices_of
from .judges import CALIBRATION, Judge, check_fields, find_judge
from .scorers import find_scorer
from .verdict import MAX_ERROR_SHARE

AGREEMENT = "agreement"
SECONDS_A_VERDICT = 4.0
MOST_TIMES = 4  # what verdicts are expected to cost may be paid for so many times


@tool(title="Calibrate an LLM judge", launches=True, listed=False, trusted=True)
async def calibrate_judge(
    ctx: Context,
    *,
    judge: Annotated[str, Field(description="name of a judge in evals/judges/, or a path to its .yaml")],
    ratings: Annotated[str, Field(description="JSONL of answers that people have rated")],
    output: Annotated[str, Field(description="field that holds the answer")] = "output",
    rating: Annotated[
        str, Field(description="field that holds people's ratings, a list of whole numbers")
    ] = "ratings",
    group: Annotated[
        str, Field(description="field alike in rows that belong together, as answers to one question")
    ] = "",
    author: Annotated[str, Field(description="field that says which model gave the answer")] = "",
    own: Annotated[list[str], Field(description="authors that are the judge itself, or of its family")] = [],  # noqa: B006 - pydantic copies it
    floor: Annotated[
        float, Field(ge=0, lt=1, description="the judge counts if kappa is above this with 97.5 % certainty")
    ] = 0.2,
    limit: Annotated[int, Field(ge=0, description="only the first so many rows; 0 for all")] = 0,
    concurrency: Annotated[int, Field(ge=1, le=256, description="requests under way at a time")] = 16,
    fresh: Annotated[bool, Field(description="ask again what was answered before")] = False,
) -> Launch:
    """Measure how far a judge agrees with people, and whether order, length or its own answers sway it.

    Needs answers that people have rated on the judge's scale; a pairwise judge is given pairs of answers
    of one `group`, and compared with whom people rated higher. Until it is calibrated, a judge decides
    nothing alone. Result: report, calibrated, why, figures {kappa, people_kappa, alpha, spearman, …}.
    """
    found = find_judge(ctx, judge)
    path = ctx.path(ratings)
    rows = list(rated_rows(path, found, output, rating, group, author))
    if found.file.pairwise:
        rows = list(pairs_of(path, rows, found.file.against, group))
    rows = rows[:limit] if limit else rows
    check_fields(found, rows[0], path.name)
    kept = ctx.scratch() / "rows.jsonl"
    kept.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    models = models_behind(ctx, found.file.model)
    needs = tuple(dict.fromkeys(service for model in models if (service := service_of(ctx, model))))
    name, quote = found.file.judge, quote_of(ctx, found, rows, concurrency)
    agreement, kind = find_scorer(ctx, AGREEMENT), "pairs" if found.file.pairwise else "answers"
    options = {
        "of": name,
        "scale": list(found.scale),
        "group": "_group",
        "author": "_author",
        "against": found.file.against if found.file.pairwise else "",
        "own": [*own, found.file.model, *(model.upstream for model in models if model.upstream)],
    }
    return Launch(
        recipe="evaluate",
        title=f"Calibrate the judge {name} on {len(rows)} rated {kind}",
        spec={
            "model": None,
            "metrics": [
                {"name": name, "judge": name},
                {"name": AGREEMENT, "scorer": AGREEMENT, "options": options},
            ],
            "judges": {name: found.spec},
            "judge_digest": found.digest,
            "ratings": path.name,
            "ratings_digest": hashlib.sha256(path.read_bytes()).hexdigest(),
            "rating": rating,
            "floor": floor,
            "concurrency": concurrency,
            "fresh": fresh,
            "answers": str(ctx.data_dir("answers") / "answers.sqlite"),
            "answers_mb": KEPT_ANSWERS_MB,
            "prices": prices_of(models),
            "timing_key": found.digest[:12],
        },
        inputs={"rows": kept, f"scorer-{AGREEMENT}": agreement.path} | scoring_inputs(ctx),
        quote=quote,
        timeout_s=max(1800.0, 10 * SECONDS_A_VERDICT * len(rows)),
        needs=needs,
        gateway=True,
        tokens_micro_usd=MOST_TIMES * quote.tokens_micro_usd,
        resumes=True,
    )


@calibrate_judge.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    """Keep what was measured under the judge's digest. Twice gives the same."""
    spec, result = finished.spec, finished.result
    verdicts, agreement = (Metric(**told) for told in result["metrics"])
    name, digest = verdicts.name, spec["judge_digest"]
    figures = {key: figure.model_dump() for key, figure in {**agreement.figures, **verdicts.figures}.items()}
    calibrated, why = judged(figures, result["n"], result["errors"], spec["floor"])
    told: dict[str, Any] = {
        "judge": name,
        "model": spec["judges"][name]["model"],
        "digest": digest,
        "ratings": spec["ratings"],
        "rating": spec["rating"],
        "n": agreement.n,
        "errors": result["errors"],
        "asked": result["asked"],
        "calibrated": calibrated,
        "why": why,
        "figures": figures,
    }
    rows = finished.out / "rows.jsonl"
    if rows.exists():
        (finished.out / CALIBRATION).mkdir(exist_ok=True)
        rows.rename(finished.out / CALIBRATION / "rows.jsonl")
        (finished.out / CALIBRATION / "calibration.json").write_text(json.dumps(told, indent=1), "utf-8")
    artifact = ctx.artifacts.add(
        CALIBRATION, finished.out / CALIBRATION, name=f"judge-{digest}", meta=told | {"job": finished.job_id}
    )
    report = ctx.reports.save(report_of(finished, told, artifact.path / "rows.jsonl", verdicts, agreement))
    return told | {"report": report.id, "artifact": artifact.id, "rows": str(report.rows)}


def judged(figures: Mapping[str, Mapping[str, Any]], n: int, errors: int, floor: float) -> tuple[bool, str]:
    """Whether a judge of such figures may decide, and why or why not."""
    if errors > MAX_ERROR_SHARE * n:
        return False, f"{errors} of {n} verdicts could not be had"
    kappa = figures.get("kappa")
    if kappa is None or kappa["low"] is None:
        return False, "its agreement with people is not defined: all of them said one and the same thing"
    span = f"kappa with people is {kappa['value']:.2f} ({kappa['low']:.2f} to {kappa['high']:.2f}, {n} rows)"
    if kappa["low"] <= floor:
        alike = figures.get("most_given", {}).get("value") == 1
        said = "; it gives every answer the same rating" if alike else ""
        return False, f"{span}, and not surely above {floor:g}{said}"
    return True, span


def report_of(
    finished: Finished, told: Mapping[str, Any], rows: Path, verdicts: Metric, agreement: Metric
) -> Report:
    spec, kappa = finished.spec, told["figures"].get("kappa", {})
    value = kappa.get("value", 0.0)
    return Report(
        id=f"report-{finished.job_id}",
        suite=f"judge:{told['judge']}",
        suite_digest=spec["ratings_digest"],
        model=told["model"],
        label=told["rating"],
        metric="kappa",
        score=value,
        low=kappa.get("low", value),
        high=kappa.get("high", value),
        n=told["n"],
        errors=told["errors"],
        rows=rows,
        metrics=(agreement, verdicts),
        digests={"judge": told["digest"], "ratings": spec["ratings_digest"]},
        meta={
            "judge": {name: told[name] for name in ("judge", "model", "digest", "calibrated", "why")},
            "seconds": finished.result["seconds"],
            "versions": finished.result.get("versions", {}),
        },
    )


# --- rows -----------------------------------------------------------------------------------


def rated_rows(
    path: Path, judge: Judge, output: str, rating: str, group: str, author: str
) -> Iterator[dict[str, Any]]:
    """Rows as the recipe reads them, with what the judge is shown as it stands in the file.

    Raises `DataError` with line and field.
    """
    low, high = judge.file.scale
    for line, row in read_rows(path):
        for name in (output, rating, *(each for each in (group, author) if each)):
            if name not in row:
                raise DataError(path, "is missing", line=line, field=name, hint=f"It has: {', '.join(row)}")
        given = row[rating] if isinstance(row[rating], list) else [row[rating]]
        if not given or any(
            isinstance(each, bool) or not isinstance(each, int) or not low <= each <= high for each in given
        ):
            raise DataError(
                path,
                f"says {row[rating]!r}, and should hold whole numbers of the judge's scale, {low} to {high}",
                line=line,
                field=rating,
            )
        if not isinstance(row[output], str) or not row[output].strip():
            raise DataError(path, "is not a filled string", line=line, field=output)
        yield {
            **row,
            "id": str(line),
            "expected": row.get("expected", row.get("reference", "")),
            "output": row[output],
            "ratings": given,
            "_group": str(row[group]) if group else str(line),
            "_author": str(row[author]) if author else "",
        }


def pairs_of(
    path: Path, rows: Sequence[dict[str, Any]], against: str, group: str
) -> Iterator[dict[str, Any]]:
    """Every two answers of a group; rated 0, 1 or 2: each person rated the first lower, alike or higher."""
    if not group:
        raise InputError(
            "A pairwise judge is calibrated on answers to one question", hint="Name the field `group`"
        )
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["_group"]].append(row)
    pairs = [pair for members in groups.values() for pair in itertools.combinations(members, 2)]
    if not pairs:
        raise DataError(path, "no two answers belong together", field=group)
    for one, two in pairs:
        people = zip(one["ratings"], two["ratings"], strict=False)
        yield {
            **one,
            "id": f"{one['id']}-{two['id']}",
            against: two["output"],
            "ratings": [1 + (first > second) - (first < second) for first, second in people],
            "_author": "",
        }


def quote_of(ctx: Context, judge: Judge, rows: Sequence[Mapping[str, Any]], concurrency: int) -> Quote:
    verdicts = len(rows) * (2 if judge.file.pairwise else 1)
    shown = [str(row.get(field.split(".")[0], "")) for row in rows for field in judge.file.show.values()]
    characters = sum(min(len(text), judge.file.clip) for text in shown) + sum(len(r["output"]) for r in rows)
    tokens = verdicts * (100 + len(judge.spec["system"]) / CHARACTERS_PER_TOKEN)
    tokens += characters / CHARACTERS_PER_TOKEN * verdicts / len(rows)
    models = models_behind(ctx, judge.file.model)
    return Quote(
        seconds=round(20 + SECONDS_A_VERDICT * verdicts / min(concurrency, 4), 1),
        ram_bytes=400 << 20,
        disk_bytes=8 << 20,
        tokens_micro_usd=dearest(models, tokens, verdicts * VERDICT_TOKENS),
        doubt=doubt_of(ctx, models),
        basis=f"{verdicts} verdicts, about {tokens:.0f} tokens in; {SECONDS_A_VERDICT:g} s each, 4 at a time",
    )
