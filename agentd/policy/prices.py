"""The dated table that turns time on this machine into money."""

from __future__ import annotations

import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from agentd import documents

__all__ = ["ComputePrice", "Prices", "load_prices"]


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
        """Micro-USD, rounded up. An accelerator without a price costs nothing here; `known` tells."""
        price = self.compute.get(accelerator)
        return 0 if price is None else -int(-price.usd_per_hour * seconds / 3600 * 1_000_000 // 1)

    def known(self, accelerator: str) -> bool:
        return accelerator in self.compute


def load_prices(path: Path) -> Prices:
    """Read a price table. Raises `DataError` with line and field."""
    return documents.load(path, Prices)
