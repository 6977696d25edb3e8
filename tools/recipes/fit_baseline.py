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
"""Answer a suite without a generating model: linear heads or neighbours for labels, patterns for spans.

    python -P fit_baseline.py SPEC OUT

The rungs below a fine-tune: the nearest training rows, linear heads with a lexicon, and learned patterns.
Answers are flat JSON objects (or plain labels). Each field is one of two kinds:

- label: with the head ``linear``, logistic regression over sentence embeddings, TF-IDF of characters and
  words, or both, whichever is best in cross-validation on the training rows; with ``neighbours``, the
  vote of the most similar training rows, their number chosen in the same way;
- span (its values stand in the input): a lexicon of the values seen in training. With ``patterns``,
  also rules generalised from them (shape of the value, the words around it), kept where they were
  right often enough; learned for each value of the label that tells best whether there is a span at
  all. How often is often enough is chosen by cross-validation over *unseen values*.

SPEC
    inputs.train      training set: {"prompt", "completion"} or {"messages"} rows
    inputs.rows       the suite's JSONL of {"id", "input", "expected"}; "expected" is only passed on
    inputs.embedder   folder of a sentence-transformers model; without it, TF-IDF alone
    head ("linear" or "neighbours"), patterns (false), seed (0), limit (0: all rows)
    metrics, slices, inputs.scoring, inputs.statistics, inputs.scorer-NAME   as in evaluate.py; or none
OUT
    rows.jsonl        the rows with "output", and "scores" and "score" if there are metrics
    result.json       n, answered, errors, seconds, fields: how each is answered, with its training estimate;
                      metrics and slices
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDS = 3
# Inverse regularization: short texts, many classes; flat between 10 and 100 on the tickets.
C = 30.0
PRECISIONS = (0.4, 0.55, 0.7, 0.85)
NEIGHBOURS = (1, 3, 5, 9, 15)
NO_RULES = 2.0  # a precision that no rule reaches
# Share of a field's values that must stand in the input for the field to be a span.
SPAN_SHARE = 0.95

Answer = dict[str, Any]
Predict = Callable[[Sequence[str]], list[Any]]


class BadInput(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


# --- rows -----------------------------------------------------------------------------------


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]


def prompt_and_answer(row: dict[str, Any]) -> tuple[str, str]:
    if "messages" in row:
        prompt, completion = row["messages"][:-1], row["messages"][-1:]
    else:
        prompt, completion = row["prompt"], row["completion"]
    said = (
        prompt if isinstance(prompt, str) else next(m["content"] for m in prompt[::-1] if m["role"] == "user")
    )
    return said, completion if isinstance(completion, str) else completion[-1]["content"]


def read_training(path: Path) -> tuple[list[str], list[Answer], bool]:
    """Inputs and answers; plain answers become one unnamed field. The last says whether they are JSON."""
    pairs = [prompt_and_answer(row) for row in read_lines(path)]
    inputs = [prompt for prompt, _ in pairs]
    try:
        answers = [json.loads(answer) for _, answer in pairs]
    except ValueError:
        return inputs, [{"": answer} for _, answer in pairs], False
    names = {tuple(sorted(answer)) if isinstance(answer, dict) else () for answer in answers}
    nested = any(isinstance(v, dict | list) for a in answers if isinstance(a, dict) for v in a.values())
    if len(names) != 1 or () in names or nested:
        raise BadInput(
            f"{path.name}: the answers are not flat JSON objects with the same fields",
            "This baseline answers flat objects and plain labels; compare with a prompted model instead",
        )
    return inputs, answers, True


def is_span(inputs: Sequence[str], values: Sequence[Any]) -> bool:
    given = [(text, value) for text, value in zip(inputs, values, strict=True) if value is not None]
    inside = [isinstance(value, str) and value in text for text, value in given]
    return bool(given) and sum(inside) >= SPAN_SHARE * len(inside)


def folds_of(groups: Sequence[object]) -> list[list[int]]:
    """Indices in `FOLDS` parts; rows of one group lie in one part."""
    order = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return [[i for i, group in enumerate(groups) if order[group] % FOLDS == part] for part in range(FOLDS)]


# --- labels ---------------------------------------------------------------------------------


@dataclass
class Features:
    """Texts as sparse matrices, each text embedded once."""

    embedder: Path | None

    def __post_init__(self) -> None:
        self.known: dict[str, Any] = {}

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("embedding", "embedding+tfidf") if self.embedder else ("tfidf",)

    def embed(self, texts: Sequence[str]) -> None:
        from sentence_transformers import SentenceTransformer

        if self.embedder is None:
            return
        model = SentenceTransformer(str(self.embedder), device="cpu", trust_remote_code=False)
        fresh = sorted({text for text in texts if text not in self.known}, key=len)
        size = 64
        for start in range(0, len(fresh), size):
            batch = fresh[start : start + size]
            vectors = model.encode(batch, batch_size=size, normalize_embeddings=True, show_progress_bar=False)
            self.known.update(zip(batch, vectors, strict=True))
            emit("progress", done=min(start + size, len(fresh)), total=len(fresh), unit="texts embedded")

    def fit(self, kind: str, texts: Sequence[str]) -> Callable[[Sequence[str]], Any]:
        """What turns texts into a matrix of `kind`, its vocabulary that of `texts`."""
        import numpy as np
        from scipy.sparse import csr_matrix, hstack
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizers = [
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
            TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True),
        ]
        used = [vectorizer.fit(texts) for vectorizer in vectorizers] if "tfidf" in kind else []

        def matrix(some: Sequence[str]) -> Any:
            parts = [vectorizer.transform(some) for vectorizer in used]
            if "embedding" in kind:
                parts.append(csr_matrix(np.stack([self.known[text] for text in some])))
            return hstack(parts).tocsr()

        return rotated(matrix, texts)


def rotated(matrix: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> Callable[[Sequence[str]], Any]:
    """The same inner products in as many dimensions as there are `texts`.

    An L2-regularized head sees features only through inner products with its training rows, so it
    is the same head, fitted in a tenth of the time where features are many and rows are few.
    """
    import numpy as np

    trained = matrix(texts)
    squares, directions = np.linalg.eigh((trained @ trained.T).toarray().astype(np.float64))
    kept = squares > squares[-1] * 1e-9
    basis = directions[:, kept] / np.sqrt(squares[kept])
    return lambda some: (matrix(some) @ trained.T).toarray() @ basis


def fit_label(features: Features, kind: str, texts: Sequence[str], values: Sequence[Any]) -> Predict:
    from sklearn.linear_model import LogisticRegression

    labels = [json.dumps(value) for value in values]
    if len(set(labels)) == 1:
        return lambda some: [values[0]] * len(some)
    matrix = features.fit(kind, texts)
    head = LogisticRegression(C=C, max_iter=400).fit(matrix(texts), labels)
    return lambda some: [json.loads(label) for label in head.predict(matrix(some))]


def fit_neighbours(features: Features, kind: str, texts: Sequence[str], values: Sequence[Any]) -> Predict:
    """The vote of the k most similar training rows, by cosine and weighted with it; ``kind`` ends in k."""
    import numpy as np

    kind, _, k = kind.rpartition("@")
    labels = sorted({json.dumps(value) for value in values})
    votes = np.zeros((len(texts), len(labels)))
    votes[np.arange(len(texts)), [labels.index(json.dumps(value)) for value in values]] = 1.0
    matrix = features.fit(kind, texts)

    def unit(some: Sequence[str]) -> Any:
        from sklearn.preprocessing import normalize

        return normalize(matrix(some))

    trained = unit(texts)

    def predict(some: Sequence[str]) -> list[Any]:
        near = np.asarray(unit(some) @ trained.T)
        kept = np.argpartition(-near, min(int(k), near.shape[1]) - 1, axis=1)[:, : int(k)]
        weights = np.zeros_like(near)
        np.put_along_axis(weights, kept, np.take_along_axis(near, kept, axis=1), axis=1)
        return [json.loads(labels[i]) for i in np.argmax(weights @ votes, axis=1)]

    return predict


HEADS = {"linear": fit_label, "neighbours": fit_neighbours}


def kinds_of(features: Features, head: str) -> list[str]:
    """What cross-validation chooses among."""
    if head == "linear":
        return list(features.kinds)
    return [f"{kind}@{k}" for kind in features.kinds for k in NEIGHBOURS]


# --- spans ----------------------------------------------------------------------------------

RUN = re.compile(r"[A-Z][a-z]+|[a-z]+|[A-Z]+|\d+|\s+|.", re.DOTALL)
START, END = r"(?<!\w)", r"(?!\w)"


def fine_shape(value: str) -> str:
    """The value with each run of letters or digits made a class: "INV-20" → [A-Z]+\\-\\d+."""

    def class_of(run: re.Match[str]) -> str:
        text = run[0]
        if text.isdigit():
            return r"\d+"
        if text.isspace():
            return r"\s+"
        if text.isascii() and text.isalpha():
            return "[a-z]+" if text.islower() else "[A-Z][a-z]+" if text[1:].islower() else "[A-Z]+"
        return re.escape(text)

    return RUN.sub(class_of, value)


def coarse_shape(value: str) -> str:
    """As many words as the value has, each with a digit or without."""
    word = [
        r"[#\w/-]*\d(?:[\w/.-]*\w)?" if re.search(r"\d", part) else r"[^\W\d][^\s\d,?!]*"
        for part in value.split()
    ]
    return r"\s+".join(word)


def around(text: str, value: str) -> tuple[str, str]:
    """Patterns of the word before and the word after the value; empty at the ends."""
    start = text.find(value)
    before = re.search(r"(\w+)\W+$", text[:start])
    after = re.match(r"\W+(\w+)", text[start + len(value) :])
    return (
        START + re.escape(before[1].lower()) + r"\W+" if before else "",
        r"\W+" + re.escape(after[1].lower()) + END if after else "",
    )


@dataclass(frozen=True)
class Rule:
    """`pattern` finds the value as its first group; it was right in `right` of `found` training inputs."""

    pattern: re.Pattern[str]
    right: int
    found: int

    @property
    def worth(self) -> tuple[float, int]:
        # Laplace's rule of succession: three of three is worth less than thirty of thirty.
        return (self.right + 1) / (self.found + 2), self.right


def learn_rules(texts: Sequence[str], values: Sequence[str | None]) -> list[Rule]:
    """Every generalisation that two different values share, best first."""
    shared: dict[str, set[str]] = defaultdict(set)
    for text, value in zip(texts, values, strict=True):
        if not value or value not in text:
            continue
        before, after = around(text, value)
        for shape in {fine_shape(value), coarse_shape(value)}:
            for left in {"", before}:
                for right in {"", after}:
                    left_edge = f"(?i:{left})" if left else START
                    right_edge = f"(?i:{right})" if right else END
                    shared[f"{left_edge}({shape}){right_edge}"].add(value)
    rules = [count(re.compile(pattern), texts, values) for pattern, seen in shared.items() if len(seen) > 1]
    return sorted(rules, key=lambda rule: (*rule.worth, rule.pattern.pattern), reverse=True)


def count(pattern: re.Pattern[str], texts: Sequence[str], values: Sequence[str | None]) -> Rule:
    hits = [
        (match[1], value)
        for text, value in zip(texts, values, strict=True)
        if (match := pattern.search(text))
    ]
    return Rule(pattern, sum(found == value for found, value in hits), len(hits))


def fit_span(
    texts: Sequence[str], values: Sequence[str | None], precision: float
) -> Callable[[str], str | None]:
    """A function from a text to the span in it: a value seen before, else what the best rule finds."""
    lexicon = sorted({value.casefold() for value in values if value}, key=len, reverse=True)
    seen = (
        re.compile(START + "(" + "|".join(map(re.escape, lexicon)) + ")" + END, re.IGNORECASE)
        if lexicon
        else None
    )
    rules = [rule for rule in learn_rules(texts, values) if rule.worth[0] >= precision]

    def find(text: str) -> str | None:
        if seen and (match := seen.search(text)):
            return match[0]
        return next((match[1] for rule in rules if (match := rule.pattern.search(text))), None)

    return find


@dataclass(frozen=True)
class Spans:
    """An extractor for each value of the label `by`; without one, one for all (key None)."""

    by: str
    finders: dict[str, Callable[[str], str | None]]

    def find(self, text: str, answer: Answer) -> str | None:
        finder = self.finders.get(json.dumps(answer.get(self.by)))
        return finder(text) if finder else None


def fit_spans(
    texts: Sequence[str], answers: Sequence[Answer], field: str, by: str, precision: float
) -> Spans:
    groups: dict[str, list[int]] = defaultdict(list)
    for i, answer in enumerate(answers):
        groups[json.dumps(answer.get(by))].append(i)
    return Spans(
        by,
        {
            key: fit_span([texts[i] for i in rows], [answers[i][field] for i in rows], precision)
            for key, rows in groups.items()
            if any(answers[i][field] for i in rows)
        },
    )


def deciding_label(answers: Sequence[Answer], field: str, labels: Iterable[str]) -> str:
    """The label that tells best whether `field` is null, the coarser of equals; "" where none does."""
    best: tuple[float, int, str] = (0.0, 0, "")
    for label in labels:
        counts: dict[str, Counter[bool]] = defaultdict(Counter)
        for answer in answers:
            counts[json.dumps(answer[label])][answer[field] is None] += 1
        purity = sum(max(counter.values()) for counter in counts.values()) / len(answers)
        best = max(best, (purity, -len(counts), label))
    return best[2] if best[0] >= SPAN_SHARE else ""


# --- fitting and answering ------------------------------------------------------------------


@dataclass
class Baseline:
    labels: dict[str, Predict]
    spans: dict[str, Spans]
    order: list[str]
    notes: dict[str, dict[str, Any]]

    def answer(self, texts: Sequence[str]) -> list[Answer]:
        columns = {field: predict(texts) for field, predict in self.labels.items()}
        answers: list[Answer] = [
            {field: column[i] for field, column in columns.items()} for i in range(len(texts))
        ]
        for field, spans in self.spans.items():
            found = [spans.find(text, answer) for text, answer in zip(texts, answers, strict=True)]
            for answer, value in zip(answers, found, strict=True):
                answer[field] = value
        return [{field: answer[field] for field in self.order} for answer in answers]


def fit(
    features: Features, texts: Sequence[str], answers: Sequence[Answer], patterns: bool, head: str = "linear"
) -> Baseline:
    """A head for each label field and a finder for each span field; without `patterns`, a lexicon alone."""
    fields = list(answers[0])
    spans = [field for field in fields if is_span(texts, [answer[field] for answer in answers])]
    labels = [field for field in fields if field not in spans]
    made = Baseline({}, {}, fields, {})
    for done, field in enumerate(labels):
        emit("progress", done=done, total=len(fields), unit="fields", message=f"label {field}")
        values = [answer[field] for answer in answers]
        kinds = kinds_of(features, head)
        scores = {kind: cross_validate_label(features, head, kind, texts, values) for kind in kinds}
        kind = max(scores, key=lambda name: scores[name])
        made.labels[field] = HEADS[head](features, kind, texts, values)
        made.notes[field] = {"kind": "label", "features": kind, "cross_validated": scores[kind]}
    for done, field in enumerate(spans, len(labels)):
        emit("progress", done=done, total=len(fields), unit="fields", message=f"span {field}")
        by = deciding_label(answers, field, labels)
        offered = PRECISIONS if patterns else (NO_RULES,)
        scores = {p: cross_validate_span(texts, answers, field, by, p) for p in offered}
        precision = max(scores, key=lambda p: scores[p])
        made.spans[field] = fit_spans(texts, answers, field, by, precision)
        made.notes[field] = {
            "kind": "span",
            "by": by,
            "precision": precision,
            "cross_validated_unseen_values": scores[precision],
        }
    return made


def cross_validate_label(
    features: Features, head: str, kind: str, texts: Sequence[str], values: Sequence[Any]
) -> float:
    right = 0
    for part in folds_of(range(len(texts))):
        inside, held = set(part), part
        rest = [i for i in range(len(texts)) if i not in inside]
        predict = HEADS[head](features, kind, [texts[i] for i in rest], [values[i] for i in rest])
        said = predict([texts[i] for i in held])
        right += sum(value == values[i] for value, i in zip(said, held, strict=True))
    return round(right / len(texts), 4)


def cross_validate_span(
    texts: Sequence[str], answers: Sequence[Answer], field: str, by: str, precision: float
) -> float:
    """Share of rows with a span found right, given the true label, when their values are new."""
    groups = [answer[field].casefold() if answer[field] else f"row {i}" for i, answer in enumerate(answers)]
    right = total = 0
    for part in folds_of(groups):
        inside = set(part)
        rest = [i for i in range(len(texts)) if i not in inside]
        spans = fit_spans([texts[i] for i in rest], [answers[i] for i in rest], field, by, precision)
        right += sum(spans.find(texts[i], answers[i]) == answers[i][field] for i in part)
        total += len(part)
    return round(right / total, 4)


def replace(path: Path, text: str) -> None:
    part = path.with_suffix(".tmp")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def run(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    started = time.monotonic()
    inputs = {name: Path(path) for name, path in spec["inputs"].items()}
    texts, answers, as_json = read_training(inputs["train"])
    rows = read_lines(inputs["rows"])[: spec.get("limit") or None]
    features = Features(inputs.get("embedder"))
    features.embed([*texts, *(row["input"] for row in rows)])
    baseline = fit(features, texts, answers, bool(spec.get("patterns")), spec.get("head", "linear"))
    began = time.monotonic()
    said = baseline.answer([row["input"] for row in rows])
    each = round((time.monotonic() - began) / max(1, len(rows)), 6)
    outputs = [
        json.dumps(a, ensure_ascii=False, separators=(",", ":")) if as_json else str(a[""]) for a in said
    ]
    lines = [
        {**row, "output": output, "seconds": each, "input_tokens": 0, "output_tokens": 0}
        for row, output in zip(rows, outputs, strict=True)
    ]
    figures = scored(spec, lines) if spec.get("metrics") else {}
    replace(out / "rows.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return {
        "n": len(rows),
        "answered": len(rows),
        "errors": sum("error" in line for line in lines),
        "seconds": round(time.monotonic() - started, 3),
        "input_tokens": 0,
        "output_tokens": 0,
        "tokens_per_s": 0.0,
        "p50_s": each,
        "p95_s": each,
        "models": [],
        "fields": baseline.notes,
        **figures,
    }


def scored(spec: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Score the rows by evals/scoring.py, which comes with the scorers as an input."""
    scoring, statistics = (load(Path(spec["inputs"][name])) for name in ("scoring", "statistics"))
    try:
        scorers = scoring.load_scorers(spec["metrics"], spec["inputs"])
        scoring.score_rows(rows, scorers)
        if not any("score" in row for row in rows):
            raise BadInput(f"None of {len(rows)} rows has a score: {rows[0]['error']}", "Mend the scorer")
        return scoring.summary(rows, scorers, spec.get("slices", ()), statistics)
    except scoring.BadScorer as error:
        raise BadInput(str(error), error.hint) from error


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main(spec_path: Path, out: Path) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Matrices of a few hundred rows: on a busy machine BLAS threads wait for each other most of the time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        result = run(json.loads(spec_path.read_text(encoding="utf-8")), out)
    except BadInput as error:
        emit("error", message=str(error), hint=error.hint)
        return 2
    replace(out / "result.json", json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
