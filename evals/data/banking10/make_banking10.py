"""Make the two files here from banking77: ``python make_banking10.py BANKING77_FOLDER``.

Ten intents, the first ten of the training file; of each, 32 rows for training and up to 40 held out.
A held-out message that is nearly one of the training rows is left out (character 5-grams, Jaccard ≥ 0.6).
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
INTENTS, TRAIN, HELDOUT, SEED, NEAR = 10, 32, 40, 0, 0.6
SYSTEM = "Name the intent of the bank customer's message as JSON."


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(folder: Path) -> None:
    train, test = read(folder / "train.jsonl"), read(folder / "test.jsonl")
    intents = list(dict.fromkeys(row["label"] for row in train))[:INTENTS]
    rng = random.Random(SEED)
    chosen: list[dict[str, str]] = []
    for intent in intents:
        chosen += rng.sample([row for row in train if row["label"] == intent], TRAIN)
    rng.shuffle(chosen)
    known = [grams(row["text"]) for row in chosen]
    heldout: list[dict[str, str]] = []
    for intent in intents:
        fresh = [row for row in test if row["label"] == intent and not near(row["text"], known)]
        heldout += rng.sample(fresh, min(HELDOUT, len(fresh)))
    rng.shuffle(heldout)
    write("train.jsonl", [as_training(row) for row in chosen])
    write(
        "heldout.jsonl",
        [
            {"id": f"b{n:03}", "input": row["text"], "expected": {"intent": row["label"]}}
            for n, row in enumerate(heldout, 1)
        ],
    )


def grams(text: str) -> set[str]:
    plain = " ".join(re.findall(r"\w+", text.casefold()))
    return {plain[i : i + 5] for i in range(max(1, len(plain) - 4))}


def near(text: str, known: list[set[str]]) -> bool:
    mine = grams(text)
    # Half of a longer message found again is too much, whatever stands around it.
    return any(len(mine & each) >= min(NEAR * len(mine | each), 0.5 * max(60, len(mine))) for each in known)


def as_training(row: dict[str, str]) -> dict[str, object]:
    return {
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["text"]}],
        "completion": [
            {"role": "assistant", "content": json.dumps({"intent": row["label"]}, separators=(",", ":"))}
        ],
    }


def write(name: str, rows: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
