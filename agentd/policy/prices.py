"""Dated prices: the table that turns time on this machine into money, and what models say they cost.

A price that is not known, or is older than the configured age, is in doubt: it is used all the same,
and whoever decides is told. Nothing here reads a clock.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from agentd import documents
from agentd.sdk import HourPrice, Model

__all__ = ["ComputePrice", "Prices", "load_prices", "model_doubt"]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ComputePrice(Strict):
    """What an hour of the whole machine costs, and where the figure is from."""

    usd_per_hour: float = Field(ge=0)
    source: str


class Prices(Strict):
    """Prices of compute by kind of accelerator, as of a day."""

    as_of: datetime.date
    compute: dict[str, ComputePrice]

    def of(self, accelerator: str, seconds: float) -> int:
        """Micro-USD, rounded up. An accelerator without a price costs nothing here; `doubt` tells."""
        price = self.compute.get(accelerator)
        return 0 if price is None else -int(-price.usd_per_hour * seconds / 3600 * 1_000_000 // 1)

    def doubt(self, accelerator: str, today: datetime.date, max_days: int) -> str:
        """Why an hour's price is not certain; empty when it is. `max_days` of 0 is no limit."""
        if accelerator not in self.compute:
            return f"what an hour on {accelerator!r} costs is not in the price table"
        age = _too_old(self.as_of, today, max_days)
        return f"the price table is of {self.as_of}, {age} days ago" if age else ""

    def hour(self, accelerator: str, today: datetime.date, max_days: int) -> HourPrice | None:
        """An hour's price with source, date and doubt; None where there is none."""
        if (price := self.compute.get(accelerator)) is None:
            return None
        doubt = self.doubt(accelerator, today, max_days)
        return HourPrice(usd_per_hour=price.usd_per_hour, source=price.source, as_of=self.as_of, doubt=doubt)


def model_doubt(model: Model, today: datetime.date, max_days: int) -> str:
    """Why a model's price is not certain. Unknown is that of an API which states none; others are free."""
    if model.price_unknown:
        return f"what {model.name!r} costs is not known"
    if not (model.input_micro_usd_per_mtok or model.output_micro_usd_per_mtok) or not max_days:
        return ""
    if model.prices_as_of is None:
        return f"the price of {model.name!r} has no date"
    age = _too_old(model.prices_as_of, today, max_days)
    return f"the price of {model.name!r} is of {model.prices_as_of}, {age} days ago" if age else ""


def load_prices(path: Path) -> Prices:
    """Read a price table. Raises `DataError` with line and field."""
    return documents.load(path, Prices)


def _too_old(as_of: datetime.date, today: datetime.date, max_days: int) -> int:
    """Its age in days if that is above the limit, else 0."""
    age = (today - as_of).days
    return age if 0 < max_days < age else 0
