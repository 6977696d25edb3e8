"""tools/distribution.py: the index of known distributions, and what it says where nothing differs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from agentd.plugins import Plugins, bundled_root

distribution = Plugins((bundled_root(),)).module("tools", "distribution")
shift, declared_shift = distribution.shift, distribution.declared_shift


def counted(**counts: int) -> list[object]:
    return [name for name, count in counts.items() for _ in range(count)]


def test_the_index_is_that_of_the_shares() -> None:
    found = shift(counted(a=5000, b=5000), counted(a=8000, b=2000))
    assert found.psi == pytest.approx(0.3 * math.log(4), rel=1e-3)
    assert found.noise == pytest.approx(2 / 10_000)
    assert (found.level(), [share.value for share in found.shares]) == ("far", ["b", "a"])
    assert (found.shares[0].suite, found.shares[0].traffic) == (0.5, 0.2)


@pytest.mark.parametrize(
    ("a", "level"), [(5000, "stable"), (6200, "stable"), (6900, "shifted"), (7500, "far"), (10_000, "far")]
)
def test_an_index_is_read_by_convention(a: int, level: str) -> None:
    assert shift(counted(a=a, b=10_000 - a), counted(a=5000, b=5000)).level() == level


def test_of_few_rows_a_large_index_is_unclear() -> None:
    found = shift(counted(a=7, b=5), counted(a=3, b=7))
    assert found.psi > distribution.FAR
    assert found.level() == "unclear"
    assert shift(counted(a=700, b=500), counted(a=300, b=700)).level() == "far"


def test_so_few_rows_that_far_could_not_be_told_are_never_stable() -> None:
    letters = [chr(97 + n % 6) for n in range(30)]
    same = shift(letters, letters)
    assert same.psi == 0
    assert same.level() == "unclear"
    assert shift(letters * 20, letters * 20).level() == "stable"


def test_values_that_are_all_rare_say_nothing() -> None:
    found = shift([f"x{n}" for n in range(40)], [f"y{n}" for n in range(40)])
    assert (found.level(), found.p_value) == ("unclear", 1.0)
    assert "and 77 more" in found.shares[0].value


def test_a_value_that_the_suite_lacks_is_far_and_named() -> None:
    found = shift(counted(a=100), counted(a=600, refund=400))
    assert (found.level(), found.shares[0].value) == ("far", "refund")


def test_numbers_are_compared_by_deciles() -> None:
    rng = random.Random(0)
    short, long = ([round(rng.gauss(mean, 10)) for _ in range(1000)] for mean in (50, 62))
    found = shift(short, long)
    assert (found.level(), len(found.shares)) == ("far", 10)
    assert any(share.value.startswith("below ") for share in found.shares)
    assert shift(short, short).psi == 0


def test_declared_shares_are_exact_and_need_not_be_named_in_full() -> None:
    wanted = {"a": 0.5, "b": 0.5}
    assert declared_shift(counted(a=50, b=50), wanted).level() == "stable"
    assert declared_shift(counted(a=90, b=10), wanted).level() == "far"
    assert declared_shift(counted(a=40, b=40, c=40), wanted).shares[0].value == "c"
    for wrong in ({}, {"a": -1.0, "b": 2.0}, {"a": 0.0}):
        with pytest.raises(ValueError, match="shares"):
            declared_shift(["a"], wrong)


NULLS: dict[str, Callable[[random.Random, int], list[object]]] = {
    "two values": lambda rng, n: [rng.random() < 0.2 for _ in range(n)],
    "ten values": lambda rng, n: [str(rng.randrange(10)) for _ in range(n)],
    "a long tail": lambda rng, n: list(
        rng.choices([f"{v}" for v in range(60)], [1 / v for v in range(1, 61)], k=n)
    ),
    "lengths": lambda rng, n: [int(rng.lognormvariate(3, 0.6)) for _ in range(n)],
}


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize(("rows", "traffic"), [(30, 30), (50, 1000)])
def test_where_nothing_differs_p_is_below_a_twentieth_in_about_a_twentieth(
    null: str, rows: int, traffic: int
) -> None:
    """200 draws of a fixed seed; up to 20 is within three standard errors of 10."""
    rng = random.Random(1)
    found = [shift(NULLS[null](rng, rows), NULLS[null](rng, traffic)) for _ in range(200)]
    assert sum(each.p_value <= 0.05 for each in found) <= 20
    assert sum(each.level() in ("shifted", "far") for each in found) <= 20


def test_of_thirty_rows_two_fifths_have_an_index_that_convention_calls_far_and_few_are_called_so() -> None:
    """The figures of docs/evaluation.md."""
    rng = random.Random(3)
    found = [shift(NULLS["lengths"](rng, 30), NULLS["lengths"](rng, 30)) for _ in range(400)]
    far = sum(each.psi >= distribution.FAR for each in found) / 400
    called = sum(each.level() in ("shifted", "far") for each in found) / 400
    assert (round(far, 2), round(called, 2)) == (0.43, 0.06)


def test_the_noise_is_the_mean_index_where_nothing_differs() -> None:
    rng = random.Random(2)
    found = [shift(NULLS["ten values"](rng, 160), NULLS["ten values"](rng, 1000)) for _ in range(200)]
    assert sum(each.psi for each in found) == pytest.approx(sum(each.noise for each in found), rel=0.1)
