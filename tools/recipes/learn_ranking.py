# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "numpy==2.4.6",
# ]
# ///
"""Learn how a collection's candidates are to be ranked, from judgments, and keep it if it is better.

    python -P learn_ranking.py SPEC OUT

The spec:

    inputs.judgments    JSONL of {query, document, grade?}, or a folder in BEIR's layout
    inputs.verdict      the statistics, a Python file without imports of its own
    collection          what was ingested
    services.retriever  {"url", "token_env"} of serve_retriever

A linear ranking of standardised features, by the softmax cross entropy of graded lists (ListNet, Cao et al.
2007) with a weight penalty. It is measured on questions that it was not fitted to, in five folds, beside the
search as it is; only a difference whose interval is above 0 keeps it. Else what was learned is forgotten.

The result, of nDCG@10 with gain 2^grade - 1: ``{questions, judged, before, after, difference, low, high,
kept, weights: {feature: weight}}``. `judged` is how many questions have a relevant candidate at all.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDS, STEPS, RATE, PENALTY = 5, 300, 0.05, 1.0
FEWEST = 20  # questions
SCORE = "score"  # the feature that is the search as it is


class Refused(Exception):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class Listed:
    """A question's candidates, best first: features (n, f), gains (n,), documents; and the ideal DCG@10."""

    features: Any
    gains: Any
    documents: list[str]
    ideal: float


def event(kind: str, **values: Any) -> None:
    print(json.dumps({"event": kind, **values}), flush=True)


class Retriever:
    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url.rstrip("/"), token

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            told = json.loads(error.read() or b"{}").get("error", {})
            raise Refused(told.get("message", str(error)), told.get("hint", "")) from None
        except (urllib.error.URLError, ConnectionError) as error:
            raise Refused(
                f"The retriever does not answer: {error}", "look at its logs, then call again"
            ) from None


# --- judgments --------------------------------------------------------------------------------


def read_judgments(path: Path) -> dict[str, dict[str, int]]:
    """Grades by question and document, as documents are named in the judgments."""
    if path.is_dir():
        return of_beir(path)
    grades: dict[str, dict[str, int]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            grades.setdefault(row["query"], {})[row["document"]] = int(row.get("grade", 1))
        except (ValueError, KeyError, TypeError):
            hint = 'write {"query": "…", "document": "…", "grade": 1} a line'
            raise Refused(f"{path}, line {number}: no query with a document and a grade", hint) from None
    return grades


def of_beir(folder: Path) -> dict[str, dict[str, int]]:
    """Of every split there is: what is held out is held out in folds."""
    asked = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines() if line]
    texts = {row["_id"]: row["text"] for row in asked}
    grades: dict[str, dict[str, int]] = {}
    for path in sorted((folder / "qrels").glob("*.tsv")):
        for line in path.read_text("utf-8").splitlines():
            cells = line.split("\t")
            if len(cells) >= 3 and cells[-1].strip().lstrip("-").isdigit() and cells[0] in texts:
                grades.setdefault(texts[cells[0]], {})[cells[-2]] = int(cells[-1])
    return grades


def grade_of(document: str, grades: Mapping[str, int]) -> int:
    """A judgment names a document by its path, by the end of it, or by the id of a row."""
    if document in grades:
        return grades[document]
    row = document.rpartition("#")[2]
    if row in grades:
        return grades[row]
    parts = document.split("/")
    ends = ("/".join(parts[at:]) for at in range(1, len(parts)))
    return next((grades[end] for end in ends if end in grades), 0)


def gain(grade: int) -> float:
    return 2.0 ** max(grade, 0) - 1


def dcg(gains: Sequence[float]) -> float:
    return sum(value / math.log2(at + 2) for at, value in enumerate(gains[:10]))


# --- learning ---------------------------------------------------------------------------------


def listed(retriever: Retriever, collection: str, query: str, grades: Mapping[str, int]) -> Listed | None:
    """None if no candidate is relevant: nothing can be learned of it, and no order changes its score."""
    import numpy as np

    found = retriever.post("/features", {"collection": collection, "query": query[:10_000]})
    gains = [gain(grade_of(document, grades)) for document in found["documents"]]
    if not any(gains):
        return None
    ideal = dcg(sorted(map(gain, grades.values()), reverse=True))
    return Listed(np.array(found["rows"]), np.array(gains), found["documents"], ideal)


def fit(lists: Sequence[Listed]) -> tuple[Any, Any, Any]:
    """Weights, means and deviations of the features. Adam; the loss is convex."""
    import numpy as np

    rows = np.concatenate([one.features for one in lists])
    means, deviations = rows.mean(0), rows.std(0) + 1e-6
    scaled = [((one.features - means) / deviations, one.gains / one.gains.sum()) for one in lists]
    weights, first, second = (np.zeros(rows.shape[1]) for _ in range(3))
    for step in range(1, STEPS + 1):
        slope = PENALTY * weights
        for features, wanted in scaled:
            told = np.exp((scores := features @ weights) - scores.max())
            slope = slope + features.T @ (told / told.sum() - wanted)
        slope = slope / len(scaled)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        weights = weights - RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights, means, deviations


def ndcg(one: Listed, scores: Any) -> float:
    """nDCG@10, a document counting with its best candidate."""
    best: dict[str, float] = {}
    for at in (-scores).argsort(kind="stable"):
        best.setdefault(one.documents[at], float(one.gains[at]))
    return dcg(list(best.values())) / one.ideal


def held_out(lists: Sequence[Listed]) -> list[float]:
    """The score of each question by a ranking that was fitted to the others."""
    scores = [0.0] * len(lists)
    for fold in range(FOLDS):
        weights, means, deviations = fit([one for at, one in enumerate(lists) if at % FOLDS != fold])
        for at in range(fold, len(lists), FOLDS):
            scores[at] = ndcg(lists[at], ((lists[at].features - means) / deviations) @ weights)
    return scores


def learn(spec: Mapping[str, Any]) -> dict[str, Any]:
    service, collection = spec["services"]["retriever"], spec["collection"]
    retriever = Retriever(service["url"], os.environ.get(service["token_env"], ""))
    judgments = read_judgments(Path(spec["inputs"]["judgments"]))
    names: list[str] = retriever.post("/features", {"collection": collection, "query": "names"})["names"]
    lists: list[Listed] = []
    began = time.monotonic()
    for done, (query, grades) in enumerate(judgments.items()):
        if found := listed(retriever, collection, query, grades):
            lists.append(found)
        if done % 20 == 0:
            left = (time.monotonic() - began) / (done + 1) * (len(judgments) - done)
            event("progress", done=done, total=len(judgments), unit="questions", seconds_left=left)
    if len(lists) < FEWEST:
        hint = f"judge documents that are in {collection!r}, of {FEWEST} questions or more"
        raise Refused(f"{len(lists)} of {len(judgments)} questions have a relevant candidate", hint)
    before = [ndcg(one, one.features[:, names.index(SCORE)]) for one in lists]
    after = held_out(lists)
    compared = loaded(spec["inputs"]["verdict"]).compare_scores(after, before)
    kept = compared.verdict == "better"
    weights, means, deviations = (values.tolist() for values in fit(lists))
    told = {"weights": weights, "means": means, "deviations": deviations} if kept else {}
    retriever.post("/ranking", {"collection": collection, **told})
    return {
        "questions": len(judgments),
        "judged": len(lists),
        "before": round(sum(before) / len(before), 4),
        "after": round(sum(after) / len(after), 4),
        "difference": round(compared.difference.value, 4),
        "low": round(compared.difference.low, 4),
        "high": round(compared.difference.high, 4),
        "kept": kept,
        "weights": {name: round(weight, 3) for name, weight in zip(names, weights, strict=True)},
    }


def loaded(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("verdict", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["verdict"] = module
    spec.loader.exec_module(module)
    return module


def main(spec_path: str, out: str) -> int:
    try:
        result = learn(json.loads(Path(spec_path).read_text(encoding="utf-8")))
    except Refused as error:
        event("error", message=error.message, hint=error.hint)
        return 2
    partial = Path(out, "result.json.tmp")
    partial.write_text(json.dumps(result, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(Path(out, "result.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
