"""Balance, and splits that no group crosses."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.recipes.prepare_data.conftest import chat, recipe


def test_balance_draws_down_or_repeats_up_to_a_level() -> None:
    def labels(samples: Iterable[Any]) -> Counter[str]:
        return Counter(s.label for s in samples)

    samples = [
        chat(f"{label} {n}", label=label)
        for label, many in (("a", 9), ("b", 5), ("c", 2))
        for n in range(many)
    ]
    steps = recipe.samples.Steps()
    assert labels(recipe.splitting.capped(list(samples), 0, 0, steps)) == {
        "a": 5,
        "b": 5,
        "c": 2,
    }
    assert labels(recipe.splitting.upsampled(list(samples), 0, 0, steps)) == {
        "a": 9,
        "b": 5,
        "c": 5,
    }


rows = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from(["", "u1", "u2", "u3"]), st.sampled_from(["", "d1", "d2"]),
              st.sampled_from("xy")),
    min_size=1, max_size=60,
)  # fmt: skip


@given(rows, st.integers(0, 5))
def test_no_cluster_user_or_document_is_ever_on_two_sides(
    given_rows: list[tuple[int, str, str, str]], seed: int
) -> None:
    samples = [
        chat(f"{cluster} {n}", cluster=cluster, user=user, document=document, label=label)
        for n, (cluster, user, document, label) in enumerate(given_rows)
    ]
    splits = recipe.splitting.split(samples, {"train": 0.8, "validation": 0.1, "test": 0.1}, seed)
    assert sum(map(len, splits.values())) == len(samples)
    for one, other in itertools.combinations(splits.values(), 2):
        for a, b in itertools.product(one, other):
            assert a.cluster != b.cluster
            assert not a.user or a.user != b.user
            assert not a.document or a.document != b.document
    assert all(told["crossing"] == 0 for told in recipe.splitting.proof(splits).values())


def test_rows_without_groups_are_split_by_share_and_label() -> None:
    samples = [chat(f"{n}", label="rare" if n % 10 == 0 else "often") for n in range(1000)]
    splits = recipe.splitting.split(samples, {"train": 0.8, "validation": 0.1, "test": 0.1}, 0)
    counts = {name: Counter(s.label for s in rows) for name, rows in splits.items()}
    assert counts == {
        "train": {"often": 720, "rare": 80},
        "validation": {"often": 90, "rare": 10},
        "test": {"often": 90, "rare": 10},
    }
    again = recipe.splitting.split(list(reversed(samples)), {"train": 0.8, "validation": 0.1, "test": 0.1}, 0)
    assert {s.asked for s in again["test"]} == {s.asked for s in splits["test"]}


def test_proof_counts_what_crosses() -> None:
    splits = {"train": [chat("a", cluster=1, user="u")], "test": [chat("b", cluster=1, user="u")]}
    told = recipe.splitting.proof(splits)
    assert (told["clusters"]["crossing"], told["users"]["crossing"], told["equal_questions"]["crossing"]) == (
        1,
        1,
        0,
    )
