# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "httpx==0.28.1",
#   "krippendorff==0.9.0",
#   "numpy==2.4.6",
#   "rouge-score==0.1.2",
#   "sacrebleu==2.6.0",
#   "scikit-learn==1.9.1",
#   "scipy==1.17.1",
# ]
# ///
"""Ask an OpenAI-compatible endpoint every row of a suite, and judges about the answers; score them.

    AGENTD_GATEWAY_URL=http://127.0.0.1:8000/v1 python -P evaluate SPEC OUT

SPEC
    inputs.rows       JSONL of {"id", "input", "expected", …}
    inputs.redteam    more such rows, scored apart (optional)
    model             model or alias; null: the rows have an "output" each, and are only scored
    system, user      the prompt; {name} in `user` stands for a field of the row
    examples          messages between the two, as few-shot turns (optional)
    schema            JSON Schema that answers must follow (constrained decoding), or null
    max_tokens, temperature (0), seed (0), samples (1) of each row, logprobs (false), stream (false)
    concurrency (16), limit (0: all rows)
    timeout_s (120) for one answer; retries (4) of a failed one
    patience_s (120) for an endpoint that refuses connections, as while it restarts
    base_url, key_env   instead of AGENTD_GATEWAY_URL and AGENTD_GATEWAY_KEY
    identity          what the model is, beyond its name; answers are kept under it
    answers           SQLite file that keeps answers, shared by runs (OUT/answers.sqlite)
    answers_mb        how large it may grow (512); the least used go first
    fresh             true: answers from before this run was first started are not used
    unserved          {model or alias: the model that is not served}: these are not asked, all their answers
                      must have been kept
    prices            {model: [input, output]}, micro-USD a million tokens
    metrics           [{"name", "scorer" or "judge", "options", "files"}], the primary one first; may be empty
    slices            fields of rows by which the primary metric is broken down
    judges            {metric: {"model", "identity", "system", "show", "scale", "pairwise", …}}
    inputs.scoring, inputs.statistics, inputs.scorer-NAME   evals/scoring.py, tools/verdict.py and the
                      scorers, if there are metrics
OUT
    rows.jsonl        the rows with "output" (and "outputs"), "scores", "score" of the primary metric, or
                      with "error" and no score: an error is never a zero
    redteam.jsonl     the same of the red-team rows
    result.json       n, answered, errors, cached, seconds, input_tokens, output_tokens, tokens_per_s, p50_s,
                      p95_s, first_p50_s, first_p95_s, micro_usd, spent_micro_usd, cut_short, models (who
                      said it answered), rendered_sha256 (of the messages of all rows), metrics, slices and
                      redteam as in evals/scoring.py, versions

An answer is kept the moment it has come, by the digest of model, messages and options, so one that was
kept is never asked for again: not after kill -9, not by another run, not to be scored otherwise. What is
under way at a kill, at most `concurrency` requests, is asked again. Errors are not kept.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from answering import add_likelihoods, answer_rows
from desk import Desk, desk_of
from failures import Hopeless
from figures import summary, versions
from judging import judge_rows
from kept import Answers
from marks import Scoring
from progress import emit
from questions import base_url_of, rendered
from rows import Row, read_rows, replace, write_rows


async def collect(spec: Mapping[str, Any], rows: Sequence[Row], redteam: Sequence[Row], out: Path) -> Desk:
    """Everything that is asked: answers, likelihoods, verdicts."""
    answers = Answers(
        Path(spec.get("answers") or out / "answers.sqlite"), first_started(out) if spec.get("fresh") else 0.0
    )
    used: set[str] = set()
    try:
        async with AsyncExitStack() as stack:
            desk = await desk_of(spec, answers, stack)
            used = desk.used
            if spec.get("model"):
                await answer_rows(spec, rows, desk, "rows")
                await answer_rows({**spec, "samples": 1}, redteam, desk, "red-team rows")
            if any("likelihood" in metric.get("wants", ()) for metric in spec.get("metrics", ())):
                await add_likelihoods(spec, rows, desk)
            await judge_rows(spec, rows, desk)
            return desk
    finally:
        answers.close(used, spec.get("answers_mb", 512) << 20)


def first_started(out: Path) -> float:
    """When this run was started for the first time."""
    path = out / "began"
    if not path.exists():
        replace(path, repr(time.time()))
    return float(path.read_text(encoding="ascii"))


def evaluate(spec: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Answer and score every row into ``out/rows.jsonl``, in the suite's order. Raises `Hopeless`."""
    if not base_url_of(spec):
        raise Hopeless("there is no endpoint to ask", "Set 'base_url' in the spec or AGENTD_GATEWAY_URL")
    inputs = spec["inputs"]
    scoring = Scoring(spec) if spec.get("metrics") else None  # a scorer that is wrong is told before asking
    rows = read_rows(Path(inputs["rows"]), spec.get("limit", 0))
    redteam = read_rows(Path(inputs["redteam"]), spec.get("limit", 0)) if "redteam" in inputs else []
    asked_in = rendered(spec, rows)
    started = time.monotonic()
    desk = asyncio.run(collect(spec, rows, redteam, out))
    result = summary(rows, desk, time.monotonic() - started, spec.get("prices", {}))
    if spec.get("model"):
        result["rendered_sha256"] = asked_in
    if not result["answered"]:
        why = rows[0]["error"] if rows else "there are no rows"
        raise Hopeless(
            f"none of {len(rows)} rows was answered: {why}", "Try the model with one message first"
        )
    if scoring:
        result |= scoring.score(rows, scoring.scorers, spec.get("slices", ()))
        if redteam:
            result["redteam"] = scoring.score(redteam, scoring.redteam, ())["metrics"][0]
        result["errors"] = sum("error" in row for row in rows)
        result["versions"] = versions()
    write_rows(out / "rows.jsonl", rows)
    if redteam:
        write_rows(out / "redteam.jsonl", redteam)
    return result


def main(spec_path: Path, out: Path) -> int:
    try:
        result = evaluate(json.loads(spec_path.read_text(encoding="utf-8")), out)
    except* Hopeless as group:
        first = group.exceptions[0]
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        emit("error", message=str(first), hint=getattr(first, "hint", ""))
        return_code = 2
    else:
        replace(out / "result.json", json.dumps(result))
        return_code = 0
    return return_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
