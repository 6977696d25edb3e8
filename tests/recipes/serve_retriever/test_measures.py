"""nDCG as the bench computes it, beside scikit-learn's, which is in the retriever's environment."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.bench.beir import ndcg

PROGRAM = """
import json, sys
from sklearn.metrics import ndcg_score
rows = json.load(sys.stdin)
ranks = [list(range(len(row), 0, -1)) for row in rows]
print(json.dumps([float(ndcg_score([[2**g - 1 for g in row]], [r], k=10)) for row, r in zip(rows, ranks)]))
"""


@pytest.mark.slow
def test_ndcg_is_that_of_scikit_learn(interpreter: Callable[[str], Path]) -> None:
    draw = random.Random(0)
    rows = [[draw.choice([0, 0, 0, 1, 2, 4]) for _ in range(draw.randint(3, 40))] for _ in range(200)]
    python = str(interpreter("serve_retriever"))
    said = subprocess.run(
        [python, "-P", "-c", PROGRAM], input=json.dumps(rows), capture_output=True, text=True
    )
    theirs = json.loads(said.stdout)
    for row, score in zip(rows, theirs, strict=True):
        grades = {str(place): grade for place, grade in enumerate(row)}
        assert ndcg([str(place) for place in range(len(row))], grades, 10) == pytest.approx(score)
