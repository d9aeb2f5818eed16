"""List prices with their date and source, the hours they hold, and what an answer costs.

The figures are in `prices.json`, not here: DeepSeek changed prices or billing
rules about ten times in two years.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from .wire import EXACT

if TYPE_CHECKING:
    from .wire import Usage

Band = Literal["peak", "off-peak"]

BEIJING = timezone(timedelta(hours=8), "Beijing")
PEAK_HOURS = ((time(9), time(12)), (time(14), time(18)))
"""Monday to Friday, Beijing time (api-docs.deepseek.com/quick_start/pricing)."""

PER = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost: input found in the cache, other input, output."""

    model: str
    currency: str
    band: Band
    since: datetime
    hit: Decimal
    miss: Decimal
    out: Decimal


@dataclass(frozen=True, slots=True)
class PriceList:
    """All known prices, the day they were last *checked*, and where they stand."""

    rows: tuple[Price, ...]
    aliases: dict[str, str]
    checked: date
    source: str


def _read(row: dict[str, str]) -> Price:
    return Price(
        model=row["model"],
        currency=row["currency"],
        band="peak" if row["band"] == "peak" else "off-peak",
        since=datetime.fromisoformat(row["since"]),
        hit=Decimal(row["hit"]),
        miss=Decimal(row["miss"]),
        out=Decimal(row["out"]),
    )


@cache
def price_list() -> PriceList:
    """Read the table that comes with the package."""
    data: dict[str, Any] = json.loads((files(__package__) / "prices.json").read_text("utf-8"))
    return PriceList(
        rows=tuple(_read(row) for row in data["prices"]),
        aliases=data["aliases"],
        checked=date.fromisoformat(data["checked"]),
        source=data["source"],
    )


@cache
def _holidays(year: int) -> frozenset[date]:
    from holidays import country_holidays

    return frozenset(country_holidays("CN", years=year))


def band(at: datetime) -> Band:
    """Tell whether *at* (aware) falls into the peak hours.

    Weekends are off-peak, also where a holiday swap makes one a working day.
    """
    local = at.astimezone(BEIJING)
    in_hours = any(start <= local.time() < end for start, end in PEAK_HOURS)
    if not in_hours or local.weekday() >= 5 or local.date() in _holidays(local.year):
        return "off-peak"
    return "peak"


def price(
    model: str, currency: str | None, at: datetime, hours: Band | None = None
) -> Price | None:
    """Find the price of *model* at the moment *at*; None when it is not known.

    *hours* asks for the price of that day in the peak or the off-peak hours.
    """
    name, hours = price_list().aliases.get(model, model), hours or band(at)
    rows = [
        row
        for row in price_list().rows
        if (row.model, row.currency, row.band) == (name, currency, hours) and row.since <= at
    ]
    return max(rows, key=lambda row: row.since, default=None)


def prices_of_day(at: datetime) -> list[Price]:
    """Give the prices that hold on the day of *at*: by model, currency and hours."""
    kinds = dict.fromkeys((row.model, row.currency, row.band) for row in price_list().rows)
    found = (price(model, currency, at, hours) for model, currency, hours in kinds)
    return [row for row in found if row is not None]


def cost(usage: Usage | None, price: Price | None) -> Decimal | None:
    """Price *usage*; None, to be shown as unknown, when a count or the price is missing."""
    if usage is None or price is None:
        return None
    hit, miss, out = (
        usage.prompt_cache_hit_tokens,
        usage.prompt_cache_miss_tokens,
        usage.completion_tokens,
    )
    if hit is None or miss is None or out is None:
        return None
    with localcontext(EXACT):
        return (hit * price.hit + miss * price.miss + out * price.out) / PER


def age(at: datetime) -> timedelta:
    """Tell how long ago the table was last checked against the published prices."""
    return at - datetime.combine(price_list().checked, time(), UTC)
