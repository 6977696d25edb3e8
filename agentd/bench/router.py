"""What a router learned from examples is worth, beside the text's length, chance and an oracle.

The recipe `train_router` learns it. `data` is a folder of JSONL, told by their fields. Of
``{"prompt", MODEL: "True" | "False", …}`` the model that is right more often is the large one; of
``{"question", "target"}`` target 1 says that a small model is enough. Intents lie in
``../intents/NAME/{train,test}.jsonl`` beside the folder, ``{"text", "label"}``.

    apgr        area under the share of the quality gap won (PGR) by the share of requests sent to the large
                model, both 0 to 1: chance has 0.5. The mean over `rounds` repeats of 5-fold cross-validation,
                its 95 % interval by a bootstrap that draws questions
    cpt50, 80   the smallest share sent to the large model that wins 50 % or 80 % of the gap
    saved       of what the large model alone would cost for these very questions and answers, tokens taken as
                4 characters. The threshold of each fold is chosen on the other folds; non-inferiority to the
                large model is then tested once, over all folds, by `tools/verdict.py`

All choices of the recipe are made inside the training folds. Texts that come twice count once. With intents,
every fourth is held out and its test rows are out of scope; that run learns from `FEW` rows an intent.

Sources: Ong et al., RouteLLM (2024): PGR, APGR, CPT, and the default prices, US dollars per million tokens of
Mixtral-8x7B (0.24) and GPT-4 (24.7).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.bench.leaks import brought_embedder, interpreter_of
from agentd.errors import DataError, InputError
from agentd.plugins import Plugins, bundled_root
from agentd.router.classify import Classifier
from agentd.router.decide import need_of, route
from agentd.sdk import Alias, Model

__all__ = ["Question", "apgr", "cpt", "of_folder", "routed", "run"]

PRICES = "0.24,24.7"
MARGIN, ALPHA = 0.05, 0.05
# A threshold is chosen as if the margin were smaller: it loses a little on rows that it was not chosen on.
CAREFUL = 0.75
FOLDS, RESAMPLES, FEW, HELD_OUT = 5, 1000, 30, 4

verdict = Plugins((bundled_root(),)).module("tools", "verdict")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """How right the small and the large model were, 0 or 1, and tokens that each takes."""

    text: str
    small: float
    big: float
    small_tokens: float = 0.0
    big_tokens: float = 0.0


# --- the curve ------------------------------------------------------------------------------


def _won(questions: Sequence[Question], scores: Sequence[float]) -> list[float]:
    """PGR after each question sent to the large model, highest score first. `ValueError` without a gap."""
    gap = sum(q.big - q.small for q in questions)
    if gap <= 0:
        raise ValueError("the large model is not the better one")
    order = sorted(range(len(questions)), key=lambda i: -scores[i])
    won, total = [0.0], 0.0
    for i in order:
        total += questions[i].big - questions[i].small
        won.append(total / gap)
    return won


def apgr(questions: Sequence[Question], scores: Sequence[float]) -> float:
    """Area under PGR over the share sent to the large model, by trapezoids; equal scores in their order."""
    won = _won(questions, scores)
    return (sum(won) - (won[0] + won[-1]) / 2) / len(questions)


def cpt(questions: Sequence[Question], scores: Sequence[float], share: float) -> float:
    """The smallest share of requests to the large model that wins `share` of the gap."""
    won = _won(questions, scores)
    return next(k for k, each in enumerate(won) if each >= share) / len(questions)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered)) - 1]


def curves(
    questions: Sequence[Question], by: Mapping[str, Sequence[Sequence[float]]]
) -> tuple[list[dict[str, Any]], dict[str, tuple[float, float]]]:
    """A row for each router, and the interval of the first one's lead over each other, drawn together."""
    rng = random.Random(0)
    drawn: dict[str, list[float]] = {name: [] for name in by}
    for _ in range(RESAMPLES):
        places = rng.choices(range(len(questions)), k=len(questions))
        some = [questions[i] for i in places]
        if sum(q.big - q.small for q in some) <= 0:
            continue
        for name, repeats in by.items():
            drawn[name].append(statistics.fmean(apgr(some, [s[i] for i in places]) for s in repeats))
    table = []
    for name, repeats in by.items():
        low, high = _interval(drawn[name])
        table.append({
            "by": name,
            "apgr": round(statistics.fmean(apgr(questions, s) for s in repeats), 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "cpt50": round(statistics.fmean(cpt(questions, s, 0.5) for s in repeats), 4),
            "cpt80": round(statistics.fmean(cpt(questions, s, 0.8) for s in repeats), 4),
        })  # fmt: skip
    first = drawn[next(iter(by))]
    leads = {
        name: _interval([a - b for a, b in zip(first, others, strict=True)]) for name, others in drawn.items()
    }
    return table, leads


# --- money ----------------------------------------------------------------------------------


def routed(questions: Sequence[Question], scores: Sequence[float], folds: int = FOLDS) -> list[bool]:
    """Whether each goes to the large model; the threshold of a fold comes from the other folds."""
    order = list(range(len(questions)))
    random.Random(0).shuffle(order)
    sent = [True] * len(questions)
    for fold in range(folds):
        rest = [i for place, i in enumerate(order) if place % folds != fold]
        bar = _threshold([questions[i] for i in rest], [scores[i] for i in rest])
        for i in order[fold::folds]:
            sent[i] = scores[i] >= bar
    return sent


def _threshold(questions: Sequence[Question], scores: Sequence[float]) -> float:
    """The highest at which the route is not worse than the large model alone; else below every score."""
    ranked = sorted(scores, reverse=True)
    for percent in range(2, 100, 2):
        bar = ranked[percent * len(ranked) // 100]
        said = _tested(questions, [score >= bar for score in scores], CAREFUL * MARGIN)
        if said.verdict in ("better", "not_worse"):
            return bar
    return ranked[-1]


def _tested(questions: Sequence[Question], sent: Sequence[bool], margin: float) -> Any:
    got = [q.big if large else q.small for q, large in zip(questions, sent, strict=True)]
    return verdict.compare_scores(got, [q.big for q in questions], margin=margin, alpha=ALPHA)


def money(questions: Sequence[Question], scores: Sequence[float], prices: tuple[float, float]) -> Row:
    """What is saved, and whether it is proven that quality is not worse by the margin."""
    sent = routed(questions, scores)
    said = _tested(questions, sent, MARGIN)
    small, big = (price / 1e6 for price in prices)
    spent = sum(
        q.big_tokens * big if large else q.small_tokens * small
        for q, large in zip(questions, sent, strict=True)
    )
    alone = sum(q.big_tokens * big for q in questions)
    return {
        "to the large model": round(sum(sent) / len(sent), 4),
        "difference": round(said.difference.value, 4),
        "low": round(said.difference.low, 4),
        "high": round(said.difference.high, 4),
        "verdict": said.verdict,
        "usd": round(spent, 4),
        "usd alone": round(alone, 4),
        "saved": round(1 - spent / alone, 4) if alone else 0.0,
    }


# --- the whole ------------------------------------------------------------------------------


def run(data: Path | None = None, rounds: int = 5, prices: str = PRICES) -> dict[str, Any]:
    """Everything in `data`. `prices` are "SMALL,LARGE" in US dollars per million tokens."""
    if data is None or not data.is_dir():
        raise InputError("bench router needs a folder", hint="agentd bench router --data FOLDER")
    try:
        small, big = map(float, prices.split(","))
    except ValueError as error:
        raise InputError(f"--prices should be two numbers, and is {prices!r}", hint=PRICES) from error
    folder = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
    try:
        train = _Trainer(folder, brought_embedder(folder))
        found: dict[str, Any] = {"prices": {"small": small, "large": big}, "margin": MARGIN}
        for path, kind in of_folder(data):
            if kind == "answers":
                found |= _answers(train, path, rounds, (small, big))
            else:
                found |= _targets(train, path)
        for intents in sorted((data.parent / "intents").glob("*/train.jsonl")):
            found |= _intents(train, intents.parent)
        return found | _times(train)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def of_folder(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, "answers" or "targets"). Raises `DataError` for a file that is neither."""
    for path in sorted(folder.glob("*.jsonl")):
        row = next(iter(_read(path)), {})
        if "question" in row and "target" in row:
            yield path, "targets"
        elif "prompt" in row and len(_models(row)) == 2:
            yield path, "answers"
        else:
            raise DataError(
                path,
                "holds neither two models' answers nor targets",
                hint='Rows are {"prompt", MODEL: "True", …} or {"question", "target"}',
            )


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def _models(row: Row) -> list[str]:
    return [name for name, value in row.items() if str(value) in ("True", "False")]


def questions_of(path: Path) -> list[Question]:
    """Each text once; the model that is right more often is the large one."""
    rows = list({row["prompt"]: row for row in _read(path)}.values())
    right = {name: [float(str(row[name]) == "True") for row in rows] for name in _models(rows[0])}
    small, big = sorted(right, key=lambda name: sum(right[name]))

    def tokens(row: Row, name: str) -> float:
        return (len(row["prompt"]) + len(row.get(f"{name}_response", ""))) / 4

    return [
        Question(row["prompt"], right[small][i], right[big][i], tokens(row, small), tokens(row, big))
        for i, row in enumerate(rows)
    ]


class _Trainer:
    """Runs the recipe as the daemon does, in its environment, and reads what it left."""

    def __init__(self, folder: Path, embedder: Path) -> None:
        self.folder, self.embedder, self.python = folder, embedder, interpreter_of("train_router")
        self.heads: dict[str, Path] = {}

    def __call__(
        self, name: str, kind: str, rows: Sequence[Row], test: Sequence[Row] = (), **spec: Any
    ) -> tuple[Row, list[Row]]:
        out = self.folder / name
        out.mkdir()
        inputs = {"embedder": str(self.embedder), "rows": _write(out / "given.jsonl", rows)}
        if test:
            inputs["test"] = _write(out / "test.jsonl", test)
        (out / "spec.json").write_text(json.dumps({"inputs": inputs, "kind": kind, **spec}))
        recipe = bundled_root() / "tools/recipes/train_router.py"
        command = [str(self.python), "-P", str(recipe), str(out / "spec.json"), str(out)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(
                f"train_router ended with {ran.returncode}: {(ran.stdout + ran.stderr)[-2000:]}"
            )
        self.heads[name] = out / "router.json"
        return json.loads((out / "result.json").read_text()), _read(out / "rows.jsonl")


def _write(path: Path, rows: Sequence[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _answers(train: _Trainer, path: Path, rounds: int, prices: tuple[float, float]) -> Row:
    questions = questions_of(path)
    rows = [
        {"id": str(i), "text": q.text, "label": "not_enough" if q.big > q.small else "enough"}
        for i, q in enumerate(questions)
    ]
    result, lines = train(path.stem, "difficulty", rows, repeats=rounds)
    learned = list(zip(*(line.get("repeats", [line.get("p")]) for line in lines), strict=True))
    rng = random.Random(1)
    chance = [[rng.random() for _ in questions] for _ in range(rounds)]
    by = {
        "learned": learned,
        "length alone": [[float(len(q.text)) for q in questions]],
        "random": chance,
        "oracle": [[q.big - q.small for q in questions]],
    }
    table, leads = curves(questions, by)
    return {
        path.stem: table,
        f"{path.stem}, money": [
            {"by": name} | money(questions, by[name][0], prices)
            for name in ("learned", "length alone", "random")
        ],
        f"{path.stem}, lead over length": [round(each, 4) for each in leads["length alone"]],
        f"{path.stem}, lead over random": [round(each, 4) for each in leads["random"]],
        f"{path.stem}, rows": len(questions),
        f"{path.stem}, ece": result["figures"]["ece"],
    }


def _targets(train: _Trainer, path: Path) -> Row:
    rows = [
        {"id": str(i), "text": row["question"], "label": "enough" if row["target"] else "not_enough"}
        for i, row in enumerate({row["question"]: row for row in _read(path)}.values())
    ]
    result, lines = train(path.stem, "difficulty", rows)
    right = verdict.interval_of([line["score"] for line in lines])
    most = max(sum(row["label"] == label for row in rows) for label in ("enough", "not_enough"))
    return {
        path.stem: [
            {"by": "learned", "accuracy": right.value, "low": right.low, "high": right.high},
            {"by": "always the commoner", "accuracy": most / len(rows)},
        ],
        f"{path.stem}, rows": len(rows),
        f"{path.stem}, figures": result["figures"],
    }


def _intents(train: _Trainer, folder: Path) -> Row:
    learn, test = _read(folder / "train.jsonl"), _read(folder / "test.jsonl")
    seen = {row["text"] for row in learn}
    test = [row for row in test if row["text"] not in seen]

    def rows(some: Sequence[Row], known: Callable[[str], bool]) -> list[Row]:
        return [
            {"id": str(i), "text": row["text"], "label": row["label"] if known(row["label"]) else None}
            for i, row in enumerate(some)
        ]

    result, lines = train(folder.name, "classes", rows(learn, bool), rows(test, bool))
    right = verdict.interval_of([line["score"] for line in lines])
    labels = sorted({row["label"] for row in learn})
    held = set(labels[::HELD_OUT])
    some = [
        row
        for label in labels
        if label not in held
        for row in [each for each in learn if each["label"] == label][:FEW]
    ]
    apart, others = train(
        f"{folder.name}-apart", "classes", rows(some, bool), rows(test, lambda label: label not in held)
    )
    inside = verdict.interval_of([line["score"] for line in others if line["score"] is not None])
    return {
        folder.name: [
            {"task": f"{len(labels)} intents", "accuracy": right.value, "low": right.low, "high": right.high},
            {"task": f"{len(labels) - len(held)} intents, {FEW} rows each", "accuracy": inside.value,
             "low": inside.low, "high": inside.high},
        ],
        f"{folder.name}, ece": result["figures"]["ece"],
        f"{folder.name}, {len(held)} intents held out": {
            name: figure for name, figure in apart["figures"].items() if name != "ece"
        },
    }  # fmt: skip


def _times(train: _Trainer) -> Row:
    """Milliseconds of a decision, median of 300: by rule, and by each head once the embedding is there."""
    rng, found = random.Random(0), {}
    for name, path in train.heads.items():
        head = Classifier.load(path)
        vector = [rng.gauss(0, 0.05) for _ in range(head.dimension)]
        found[f"p50 ms, {name}"] = _median_ms(
            lambda head=head, vector=vector: head.classify("How long does my card take to arrive?", vector)
        )
    body = {"messages": [{"role": "user", "content": "How long does my card take to arrive?"}]}
    models = {name: Model(name=name, kind="local") for name in ("small", "large")}
    alias = Alias(name="any", weights={"small": 1.0, "large": 1.0})
    found["p50 ms, rule"] = _median_ms(lambda: route(alias, models, need_of("chat/completions", body), 0.3))
    return found | {"cores": len(os.sched_getaffinity(0))}


def _median_ms(act: Callable[[], Any]) -> float:
    taken = []
    for _ in range(300):
        started = time.perf_counter()
        act()
        taken.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(taken), 3)
