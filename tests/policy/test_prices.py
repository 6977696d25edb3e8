"""Prices: rounded up, and in doubt when they are unknown, undated or old."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import DataError
from agentd.policy.prices import Prices, load_prices, model_doubt
from agentd.sdk import Model

TABLE = Prices.model_validate(
    {"as_of": "2026-05-01", "compute": {"cpu": {"usd_per_hour": 0.02, "source": "a bill"}}}
)
MAY, NOVEMBER = datetime.date(2026, 5, 2), datetime.date(2026, 11, 22)


def test_time_is_priced_by_the_hour_and_rounded_up() -> None:
    assert TABLE.of("cpu", 3600) == 20_000
    assert TABLE.of("cpu", 0.1) == 1
    assert TABLE.of("cuda", 3600) == 0


@pytest.mark.parametrize(
    ("accelerator", "day", "days", "why"),
    [
        ("cpu", MAY, 180, ""),
        ("cpu", NOVEMBER, 180, "the price table is of 2026-05-01, 205 days ago"),
        ("cpu", NOVEMBER, 205, ""),
        ("cpu", NOVEMBER, 0, ""),
        ("cuda", MAY, 180, "what an hour on 'cuda' costs is not in the price table"),
    ],
)
def test_a_price_is_in_doubt_when_it_is_missing_or_old(
    accelerator: str, day: datetime.date, days: int, why: str
) -> None:
    assert TABLE.doubt(accelerator, day, days) == why


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"kind": "local"}, ""),
        ({}, "what 'big' costs is not known"),
        ({"input_micro_usd_per_mtok": 1}, "what 'big' costs is not known"),
        ({"input_micro_usd_per_mtok": 0, "output_micro_usd_per_mtok": 0}, ""),
        ({"input_micro_usd_per_mtok": 1, "output_micro_usd_per_mtok": 2}, "the price of 'big' has no date"),
        (
            {"input_micro_usd_per_mtok": 1, "output_micro_usd_per_mtok": 2, "prices_as_of": "2026-05-01"},
            "the price of 'big' is of 2026-05-01, 205 days ago",
        ),
        ({"input_micro_usd_per_mtok": 1, "output_micro_usd_per_mtok": 2, "prices_as_of": "2026-11-01"}, ""),
    ],
)
def test_a_model_behind_an_api_must_say_what_it_costs_and_since_when(said: dict[str, Any], why: str) -> None:
    model = Model.model_validate({"name": "big", "kind": "frontier", **said})
    assert model_doubt(model, NOVEMBER, 180) == why


def test_a_table_that_is_wrong_names_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("as_of: 2026-05-01\ncompute:\n  cpu: {usd_per_hour: -1, source: x}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"prices\.yaml:3: compute\.cpu\.usd_per_hour"):
        load_prices(path)
