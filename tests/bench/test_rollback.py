"""The simulation of rollbacks finds what is plainly wrong, and says by which measure."""

from __future__ import annotations

import pytest

from agentd.bench.rollback import EFFECTS, STAGES, Effect, detections, false_alarms

GROSS = [
    effect for effect in EFFECTS if effect.name in ("errors +20 %", "time × 2", "requests 2.5 × as long")
]


@pytest.mark.parametrize("effect", GROSS, ids=lambda effect: effect.name)
def test_what_is_plainly_wrong_is_found_at_half_of_the_requests(effect: Effect) -> None:
    row = detections(effect, STAGES[1], 3)
    assert row["found"] == 1
    assert row["requests, 9 of 10"] < 1500
    said = {"errors": "error rate", "time": "time", "requests": "requests"}[effect.name.split()[0]]
    assert said in row["by"]


def test_what_is_not_wrong_is_rarely_found() -> None:
    found = false_alarms(range(4), horizon=900)
    assert found.total() - found["z test"] <= 1
