# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "numpy==2.4.6",
#   "scikit-learn==1.9.1",
#   "scipy==1.17.1",
#   "sentence-transformers==6.2.0",
#   "torch==2.13.0",
#   "transformers==5.23.0",
# ]
# ///
"""Learn what class a request is of, or whether the larger model is worth asking, from labelled texts.

    python -P train_router.py SPEC OUT

A linear head over a sentence embedding and a few counts of the text itself (its length, numbers, clauses).
Regularisation and the weight of the counts are chosen by cross-validation on the training rows, and the
temperature, which makes probabilities out of scores, is fitted on rows that the head had not seen. A text is
out of scope by its energy, its confidence and its nearest class, weighed on classes left out of training,
and on examples of out-of-scope texts where there are any. What is reported comes from the rows of
``inputs.test``, or from outer folds in which all of these choices were made without the rows measured.

SPEC
    inputs.rows      JSONL of {"id", "text", "label"}; label null: out of scope. For the kind "difficulty"
                     the label is "enough" or "not_enough": what the smaller model is
    inputs.test      such rows to measure on; without them, cross-validation
    inputs.embedder  folder of a sentence-transformers model; without it, the counts alone
    kind             "classes" or "difficulty"
    folds (5), repeats (1) of the cross-validation, reject (0.05: share of known texts that may be
    refused as out of scope), seed (0), embedder_name, embedder_digest
OUT
    router.json      everything that classifying needs, as plain numbers
    rows.jsonl       {"id", "input", "expected", "output", "confidence", "score", "out"?, "repeats"?}
    result.json      n, how it was measured, figures with 95 % intervals, classes, chosen, seconds
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLIP = 4000
INNER_FOLDS = 3
OUTER_FOLDS = 5
# Inner choices with many classes are made on so many rows: they are about the data, not about each row.
MOST_CHOOSING = 3000
GRIDS = {"classes": ((3.0, 30.0), (0.0, 0.1)), "difficulty": ((0.02, 0.2, 1.0, 5.0), (0.3, 1.0))}
MEASURES = {
    "characters": r"(?s).",
    "words": r"\w+",
    "numbers": r"\d+(?:[.,]\d+)*",
    "sentences": r"[.?!](?=\s|$)",
    "clauses": r"[,;:]",
    "questions": r"\?",
    "capitals": r"\b[A-Z]\w*",
    "long words": r"\b\w{8,}",
    "comparisons": r"(?i)\b(?:more|less|fewer|than|twice|half|double|triple|times|each|every|per|total|"
    r"remaining|left|rest|if|then|after|before|percent)\b",
    "money": r"[%$€£]",
    "question words": r"(?i)\b(?:how|what|why|when|where|which|who)\b",
    "code": r"[`_(){}\[\]<>=]|\w\.\w",
    "fractions": r"(?i)\d/\d|\b(?:half|third|quarter|fourth|twice|percent)\b",
    "negations": r"(?i)\b(?:not|no|never|without|\w+n't)\b",
}
RESAMPLES = 1000


class BadInput(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


# --- features -------------------------------------------------------------------------------


def counts_of(texts: Sequence[str]) -> Any:
    """log(1 + count) of each of `MEASURES`, float64 of shape (texts, measures)."""
    import numpy as np

    found = [re.compile(pattern) for pattern in MEASURES.values()]
    counted = [[math.log1p(sum(1 for _ in p.finditer(text[:CLIP]))) for p in found] for text in texts]
    return np.array(counted).reshape(len(texts), len(found))


def embeddings_of(folder: str, texts: Sequence[str]) -> Any:
    """float64 of shape (texts, dimension), each of length 1."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", trust_remote_code=False, local_files_only=True)
    known: dict[str, Any] = {}
    fresh = sorted({text[:CLIP] for text in texts}, key=len)
    for start in range(0, len(fresh), 64):
        batch = fresh[start : start + 64]
        vectors = model.encode(batch, normalize_embeddings=True, show_progress_bar=False)
        known.update(zip(batch, vectors, strict=True))
        emit("progress", done=min(start + 64, len(fresh)), total=len(fresh), unit="texts embedded")
    return np.stack([known[text[:CLIP]] for text in texts]).astype(float)


# --- a head ---------------------------------------------------------------------------------


@dataclass
class Head:
    """Scores are ``matrix @ weights.T + bias``; divided by the temperature, a softmax makes them probable."""

    labels: list[str]
    weights: Any
    bias: Any
    mean: Any
    scale: Any
    temperature: float = 1.0
    chosen: dict[str, float] | None = None
    centroids: Any = None
    scope: dict[str, Any] | None = None

    def logits(self, vectors: Any, counts: Any) -> Any:
        import numpy as np

        return np.hstack([vectors, (counts - self.mean) / self.scale]) @ self.weights.T + self.bias

    def signals(self, vectors: Any, counts: Any) -> Any:
        """Energy, log of the largest probability, cosine of the nearest class: shape (rows, 3)."""
        import numpy as np
        from scipy.special import log_softmax, logsumexp

        logits = self.logits(vectors, counts) / self.temperature
        near = (vectors @ self.centroids.T).max(axis=1)
        return np.column_stack([logsumexp(logits, axis=1), log_softmax(logits, axis=1).max(axis=1), near])

    def out(self, vectors: Any, counts: Any) -> Any:
        """Probability of being out of scope, as far as it is known: shape (rows,)."""
        from scipy.special import expit

        assert self.scope
        return expit(self.signals(vectors, counts) @ self.scope["weights"] + self.scope["bias"])


def fit_head(vectors: Any, counts: Any, labels: Any, c: float, share: float) -> Head:
    """Logistic regression; `share` is how much a count that is one deviation off weighs beside the vector."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    mean, scale = counts.mean(axis=0), np.maximum(counts.std(axis=0), 1e-6)
    standard = (counts - mean) / scale * share
    model = LogisticRegression(C=c, max_iter=300).fit(np.hstack([vectors, standard]), labels)
    weights, bias = model.coef_.copy(), model.intercept_
    weights[:, vectors.shape[1] :] *= share
    if len(weights) == 1:
        weights, bias = np.vstack([-weights / 2, weights / 2]), np.array([-bias[0] / 2, bias[0] / 2])
    return Head([str(label) for label in model.classes_], weights, bias, mean, scale)


def folds(labels: Any, parts: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """(training, held) indices, every class spread evenly."""
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    return StratifiedKFold(parts, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels)


def loss(logits: Any, targets: Any) -> float:
    import numpy as np
    from scipy.special import log_softmax

    return float(-log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean())


def temperature_of(logits: Any, targets: Any) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda t: loss(logits / math.exp(t), targets), bounds=(-4, 3), method="bounded")
    return math.exp(found.x)


def learn(kind: str, vectors: Any, counts: Any, labels: Any, out: Any, reject: float, seed: int) -> Head:
    """All choices and the head itself, from these rows. `out` are (vectors, counts) of out-of-scope texts."""
    import numpy as np

    names = sorted(set(labels))
    targets = np.array([names.index(label) for label in labels])
    some = sampled(targets, seed)
    strengths, shares = GRIDS[kind]
    best: tuple[float, float, float, Any] | None = None
    for c in strengths:
        for share in shares if vectors.shape[1] else (1.0,):
            logits = np.zeros((len(some), len(names)))
            for train, held in folds(targets[some], INNER_FOLDS, seed):
                head = fit_head(vectors[some[train]], counts[some[train]], labels[some[train]], c, share)
                logits[held] = head.logits(vectors[some[held]], counts[some[held]])
            temperature = temperature_of(logits, targets[some])
            lost = loss(logits / temperature, targets[some])
            if best is None or lost < best[0]:
                best = (lost, c, share, temperature)
    assert best
    head = fit_head(vectors, counts, labels, best[1], best[2])
    head.temperature, head.chosen = best[3], {"C": best[1], "counts": best[2]}
    if kind == "classes" and vectors.shape[1]:
        head.centroids = centroids_of(vectors, targets, len(names))
        head.scope = scope_of(head, vectors[some], counts[some], labels[some], out, reject, seed)
    return head


def sampled(targets: Any, seed: int) -> Any:
    """Indices of at most `MOST_CHOOSING` rows, of every class as large a share (and no fewer than three)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    share = min(1.0, MOST_CHOOSING / len(targets))
    parts = []
    for target in range(targets.max() + 1):
        rows = rng.permutation(np.flatnonzero(targets == target))
        parts.append(rows[: max(INNER_FOLDS, round(share * len(rows)))])
    return np.sort(np.concatenate(parts))


def centroids_of(vectors: Any, targets: Any, count: int) -> Any:
    import numpy as np

    means = np.stack([vectors[targets == target].mean(axis=0) for target in range(count)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def trained(like: Head, vectors: Any, counts: Any, labels: Any) -> Head:
    """A head with what was chosen for another, from these rows."""
    import numpy as np

    assert like.chosen
    head = fit_head(vectors, counts, labels, like.chosen["C"], like.chosen["counts"])
    head.temperature = like.temperature
    targets = np.array([head.labels.index(label) for label in labels])
    head.centroids = centroids_of(vectors, targets, len(head.labels))
    return head


def scope_of(
    head: Head, vectors: Any, counts: Any, labels: Any, out: Any, reject: float, seed: int
) -> dict[str, Any] | None:
    """How the signals tell what is out of scope, weighed on classes that a head was trained without.

    None with fewer than six classes and no examples. The threshold refuses `reject` of known texts, as heads
    see them that know all classes: one that misses some is less sure of the others too.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    names = np.array(sorted(set(labels)))
    left_out = len(names) >= 2 * INNER_FOLDS
    if not left_out and not len(out[0]):
        return None
    groups = np.random.default_rng(seed).permutation(len(names)) % INNER_FOLDS
    inside, outside, examples = [], [], []
    for part, (train, held) in enumerate(folds(labels, INNER_FOLDS, seed + 1)):
        away = np.isin(labels, names[groups == part]) if left_out else np.zeros(len(labels), bool)
        train, held = train[~away[train]], held[~away[held]]
        other = trained(head, vectors[train], counts[train], labels[train])
        inside.append(other.signals(vectors[held], counts[held]))
        outside.append(other.signals(vectors[away], counts[away]))
        if len(out[0]):
            examples.append(other.signals(*out))
    known, unknown = np.vstack(inside), np.vstack([*outside, *examples])
    signals, answers = np.vstack([known, unknown]), np.repeat([0, 1], [len(known), len(unknown)])
    mean, scale = signals.mean(axis=0), np.maximum(signals.std(axis=0), 1e-9)
    model = LogisticRegression(C=1.0, class_weight="balanced").fit((signals - mean) / scale, answers)
    weights = model.coef_[0] / scale
    bias = float(model.intercept_[0] - weights @ mean)
    fewest = min(Counter(labels.tolist()).values())
    usual = np.vstack(
        [
            trained(head, vectors[train], counts[train], labels[train]).signals(vectors[held], counts[held])
            for train, held in folds(labels, min(OUTER_FOLDS, fewest), seed + 2)
        ]
    )
    return {
        "weights": weights,
        "bias": bias,
        "threshold": float(1 / (1 + np.exp(-np.quantile(usual @ weights + bias, 1 - reject)))),
        "auroc": float(roc_auc_score(answers, signals @ weights + bias)),
        "learned_from": "examples and left-out classes" if len(out[0]) and left_out else
        "examples" if len(out[0]) else "left-out classes",
    }  # fmt: skip


# --- measuring ------------------------------------------------------------------------------


def ece(confidence: Any, right: Any, bins: int = 10) -> float:
    """Expected calibration error over bins of equally many rows."""
    import numpy as np

    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence)))
    return float(sum(len(p) * abs(confidence[p].mean() - right[p].mean()) for p in parts) / len(confidence))


def auroc(scores: Any, truth: Any) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


def with_interval(figure: Any, *columns: Any) -> dict[str, float] | None:
    """A figure of rows and its bootstrap interval; None where it has no value."""
    import numpy as np

    rng, values = np.random.default_rng(0), []
    try:
        value = figure(*columns)
        while len(values) < RESAMPLES:
            drawn = rng.integers(0, len(columns[0]), len(columns[0]))
            if columns[-1][drawn].min() != columns[-1][drawn].max():
                values.append(figure(*(column[drawn] for column in columns)))
            elif columns[-1].min() == columns[-1].max():
                return None
    except ValueError:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def answers_of(head: Head, vectors: Any, counts: Any) -> list[dict[str, Any]]:
    from scipy.special import softmax

    probable = softmax(head.logits(vectors, counts) / head.temperature, axis=1)
    out = head.out(vectors, counts) if head.scope else [None] * len(vectors)
    harder = head.labels.index("not_enough") if "not_enough" in head.labels else None
    return [
        {
            "output": head.labels[int(row.argmax())],
            "confidence": round(float(row.max()), 6),
            **({} if o is None else {"out": round(float(o), 6)}),
            **({} if harder is None else {"p": round(float(row[harder]), 6)}),
        }
        for row, o in zip(probable, out, strict=True)
    ]  # fmt: skip


# --- the whole ------------------------------------------------------------------------------


def read_lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]


def run(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    import numpy as np

    started = time.monotonic()
    inputs, kind, seed = spec["inputs"], spec["kind"], int(spec.get("seed", 0))
    rows, test = read_lines(inputs["rows"]), read_lines(inputs["test"]) if "test" in inputs else []
    texts = [row["text"] for row in (*rows, *test)]
    counts = counts_of(texts)
    vectors = embeddings_of(inputs["embedder"], texts) if "embedder" in inputs else np.zeros((len(texts), 0))
    known = np.array([i for i, row in enumerate(rows) if row["label"] is not None])
    foreign = np.array([i for i, row in enumerate(rows) if row["label"] is None], dtype=int)
    labels = np.array([rows[i]["label"] for i in known], dtype=object).astype(str)
    reject, parts = float(spec.get("reject", 0.05)), int(spec.get("folds", 5))
    fewest = min(int((labels == name).sum()) for name in set(labels)) if len(labels) else 0
    least = INNER_FOLDS if test else INNER_FOLDS + 1
    if fewest < least or len(set(labels)) < 2:
        raise BadInput(
            f"two labels or more are needed, with {least} rows each; the smallest has {fewest}",
            "Add rows, or drop the label",
        )

    def learned(train: Any, outside: Any) -> Head:
        return learn(kind, vectors[known[train]], counts[known[train]], labels[train],
                     (vectors[outside], counts[outside]), reject, seed)  # fmt: skip

    whole = learned(np.arange(len(known)), foreign)
    emit("progress", done=1, total=1, unit="heads", message=f"chosen {whole.chosen}")
    if test:
        places = np.arange(len(rows), len(texts))
        said, measured = [answers_of(whole, vectors[places], counts[places])], test
    else:
        said, measured = [], rows
        for repeat in range(int(spec.get("repeats", 1))):
            answers: list[dict[str, Any]] = [{}] * len(rows)
            away = np.random.default_rng(seed + repeat).permutation(len(foreign)) % parts
            number = min(parts, fewest)
            for part, (train, held) in enumerate(folds(labels, number, seed + repeat)):
                head = learned(train, foreign[away % number != part])
                places = np.concatenate([known[held], foreign[away % number == part]])
                for place, answer in zip(
                    places, answers_of(head, vectors[places], counts[places]), strict=True
                ):
                    answers[place] = answer
                emit("progress", done=repeat * number + part + 1, total=int(spec.get("repeats", 1)) * number,
                     unit="folds")  # fmt: skip
            said.append(answers)
    lines = [
        {"id": row["id"], "input": row["text"], "expected": row["label"], **answer}
        for row, answer in zip(measured, said[0], strict=True)
    ]
    for place, line in enumerate(lines):
        line["score"] = float(line["expected"] == line["output"]) if line["expected"] is not None else None
        if len(said) > 1:
            line["repeats"] = [answers[place]["p" if "p" in line else "confidence"] for answers in said]
    plain = (
        learn(kind, np.zeros((len(known), 0)), counts[known], labels, ((), ()), reject, seed)
        if kind == "difficulty"
        else None
    )
    written = document(spec, whole, plain, vectors.shape[1])
    replace(out / "router.json", json.dumps(written, ensure_ascii=False))
    replace(out / "rows.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return {
        "n": sum(line["score"] is not None for line in lines),
        "trained_on": len(rows),
        "measured": "test rows" if test else f"{parts}-fold cross-validation",
        "figures": figures_of(lines, whole, kind),
        "classes": per_class(lines),
        "chosen": whole.chosen,
        "temperature": round(whole.temperature, 4),
        "seconds": round(time.monotonic() - started, 2),
    }


def figures_of(lines: Sequence[dict[str, Any]], head: Head, kind: str) -> dict[str, Any]:
    import numpy as np

    inside = [line for line in lines if line["score"] is not None]
    confidence = np.array([line["confidence"] for line in inside])
    right = np.array([line["score"] for line in inside])
    found: dict[str, Any] = {"ece": with_interval(ece, confidence, right)}
    if kind == "difficulty":
        needed = np.array([float(line["expected"] == "not_enough") for line in inside])
        found["auroc"] = with_interval(auroc, np.array([line["p"] for line in inside]), needed)
    if head.scope:
        foreign = np.array([float(line["expected"] is None) for line in lines])
        found["out_of_scope_auroc"] = with_interval(auroc, np.array([line["out"] for line in lines]), foreign)
        found["left_out_classes_auroc"] = {"value": round(head.scope["auroc"], 4)}
        refused = np.array([line["out"] > head.scope["threshold"] for line in lines])
        if foreign.any():
            found["out_of_scope_found"] = {"value": round(float(refused[foreign == 1].mean()), 4)}
        if not foreign.all():
            found["known_refused"] = {"value": round(float(refused[foreign == 0].mean()), 4)}
    return {name: figure for name, figure in found.items() if figure}


def per_class(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Rows and share found of every label."""
    found: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if line["score"] is not None:
            found[line["expected"]].append(line["score"])
    return {name: {"n": len(s), "recall": round(sum(s) / len(s), 4)} for name, s in sorted(found.items())}


def numbers(values: Any) -> Any:
    """Nested lists with six digits: more than the embedding itself is good for."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [numbers(each) for each in values] if isinstance(values, list) else float(f"{values:.6g}")


def document(spec: dict[str, Any], head: Head, plain: Head | None, dimension: int) -> dict[str, Any]:
    def told(one: Head) -> dict[str, Any]:
        return {
            "weights": numbers(one.weights),
            "bias": numbers(one.bias),
            "temperature": numbers(one.temperature),
        }

    scope = {k: numbers(head.scope[k]) for k in ("weights", "bias", "threshold")} if head.scope else None
    return {
        "format": "agentd-router/1",
        "kind": spec["kind"],
        "labels": head.labels,
        "embedder": {
            "name": spec.get("embedder_name", ""),
            "digest": spec.get("embedder_digest", ""),
            "dimension": dimension,
        },
        "clip": CLIP,
        "counts": [
            {"name": name, "pattern": pattern, "mean": numbers(mean), "scale": numbers(scale)}
            for (name, pattern), mean, scale in zip(
                MEASURES.items(), head.mean.tolist(), head.scale.tolist(), strict=True
            )
        ],
        "head": told(head),
        "without_embedding": told(plain) if plain else None,
        "centroids": numbers(head.centroids) if head.scope else None,
        "scope": scope,
    }


def replace(path: Path, text: str) -> None:
    part = path.with_suffix(".tmp")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def main(spec_path: Path, out: Path) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        result = run(json.loads(spec_path.read_text(encoding="utf-8")), out)
    except BadInput as error:
        emit("error", message=str(error), hint=error.hint)
        return 2
    replace(out / "result.json", json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
