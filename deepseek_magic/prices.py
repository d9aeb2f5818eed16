"""List prices with their date and source, the hours they hold, and what an answer costs.

The figures are in `prices.json`, not here: DeepSeek changed prices or billing
rules about ten times in two years.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from functools import cache, reduce
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, get_args

from .errors import InvalidOption, one_line
from .wire import EXACT, SHORT_NAMES, CostRange
from .words import later, t

if TYPE_CHECKING:
    from .wire import Usage

Band = Literal["peak", "off-peak"]
BANDS = later("peak"), later("off-peak")
"""What the hours are called on screen."""


BEIJING = timezone(timedelta(hours=8), "Beijing")
PEAK_HOURS = ((time(9), time(12)), (time(14), time(18)))
"""Monday to Friday, Beijing time (api-docs.deepseek.com/quick_start/pricing)."""

PER = Decimal(1_000_000)

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
"""Since when a price of the user's own holds."""

_DAYS_AHEAD = 30  # three times the longest holiday
_HIGHEST = Decimal(1_000_000)
_OWN_FORM = later(
    "Write three numbers, per million tokens: input found in the cache, other input, output; "
    "such as {'my-model': {'CNY': '0.02 1 4'}}. Six are three off-peak and three for peak hours."
)


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
    """Tell whether *at* falls into the peak hours; without a zone it is local time.

    Weekends are off-peak, also where a holiday swap makes one a working day.
    The days off of a year are known once they are published, late in the year before.
    """
    local = at.astimezone(BEIJING)
    in_hours = any(start <= local.time() < end for start, end in PEAK_HOURS)
    if not in_hours or local.weekday() >= 5 or local.date() in _holidays(local.year):
        return "off-peak"
    return "peak"


def _edges(at: datetime) -> Iterator[datetime]:
    """Give the moments after *at* at which peak hours begin or end on a working day."""
    local = at.astimezone(BEIJING)
    days = (local.date() + timedelta(days=n) for n in range(_DAYS_AHEAD))
    for day in days:
        for edge in (clock for hours in PEAK_HOURS for clock in hours):
            if (moment := datetime.combine(day, edge, BEIJING)) > local:
                yield moment.astimezone(UTC)


def next_change(at: datetime) -> tuple[datetime, Band]:
    """Tell when the hours next change after *at*, and to what."""
    now = band(at)
    moment = next(edge for edge in _edges(at) if band(edge) != now)
    return moment, band(moment)


def off_peak_from(at: datetime) -> datetime:
    """Tell from when on it is off-peak: *at* itself where it is."""
    return at if band(at) == "off-peak" else next_change(at)[0]


def price(
    model: str,
    currency: str | None,
    at: datetime,
    hours: Band | None = None,
    own: Sequence[Price] = (),
) -> Price | None:
    """Find the price of *model* at the moment *at*; None when it is not known.

    *hours* asks for the price of that day in the peak or the off-peak hours. A
    price of the user's *own* comes before the published one.
    """
    moment, hours = at.astimezone(UTC), hours or band(at)
    name = price_list().aliases.get(model, model)
    for rows, wanted in ((own, model), (own, name), (price_list().rows, name)):
        kind = (wanted, currency, hours)
        found = [r for r in rows if (r.model, r.currency, r.band) == kind and r.since <= moment]
        if found:
            return max(found, key=lambda row: row.since)
    return None


def dearest(*prices: Price | None) -> Price | None:
    """Give what nothing costs more than at any of these *prices*; None where there are none."""
    known = [price for price in prices if price is not None]
    if not known or known.count(known[0]) == len(known):
        return known[0] if known else None
    most = {part: max(getattr(price, part) for price in known) for part in ("hit", "miss", "out")}
    return replace(known[0], **most)


def prices_of_day(at: datetime, own: Sequence[Price] = ()) -> list[Price]:
    """Give the prices that hold on the day of *at*: by model, currency and hours."""
    rows = (*price_list().rows, *own)
    kinds = dict.fromkeys((row.model, row.currency, row.band) for row in rows)
    found = (price(model, currency, at, hours, own) for model, currency, hours in kinds)
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
    return charge(price, hit=hit, miss=miss, out=out)


def charge(price: Price, *, hit: int = 0, miss: int = 0, out: int = 0) -> Decimal:
    """Give what so many tokens cost."""
    parts = ((hit, price.hit), (miss, price.miss), (out, price.out))
    # By the context itself: to change to it and back takes longer than the sum.
    total = reduce(EXACT.add, (EXACT.multiply(tokens, each) for tokens, each in parts))
    return EXACT.divide(total, PER)


def paid(
    usage: Usage | None, first: Price | None, last: Price | None
) -> Decimal | CostRange | None:
    """Price *usage* of a request by the price at its sending, *first*, and at its end, *last*.

    Where the two differ the cost lies between them, for it is not published
    which of them counts; where the API does not tell what was found in the cache,
    between all of it and none. The highest is taken as likely.
    """
    found = [cost(one, price) for price in (first, last) for one in _extremes(usage)]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found) or (first and last and first.currency != last.currency):
        return None
    low, high = min(known), max(known)
    return low if low == high else CostRange(low, high, high)


def _extremes(usage: Usage | None) -> list[Usage | None]:
    """Give *usage* as the cache may have had it: nothing of the question, and all of it."""
    if usage is None or usage.prompt_tokens is None:
        return [usage]
    if None not in {usage.prompt_cache_hit_tokens, usage.prompt_cache_miss_tokens}:
        return [usage]
    hits = (0, usage.prompt_tokens)
    return [
        replace(
            usage,
            prompt_cache_hit_tokens=hit,
            prompt_cache_miss_tokens=usage.prompt_tokens - hit,
        )
        for hit in hits
    ]


def saved(usage: Usage | None, price: Price | None) -> Decimal | None:
    """Tell how much more *usage* had cost without the context cache."""
    hits = None if usage is None else usage.prompt_cache_hit_tokens
    if hits is None or price is None:
        return None
    return EXACT.divide(EXACT.multiply(hits, EXACT.subtract(price.miss, price.hit)), PER)


def own_prices(table: Mapping[str, Mapping[str, object]]) -> tuple[Price, ...]:
    """Read prices of the user's own: `{"my-model": {"CNY": "0.02 1 4"}}`.

    Three numbers hold at all hours; of six, the first three are off-peak.
    """
    if not isinstance(table, Mapping):
        raise _unfit(t("{value} is no table of prices.", value=_shown(table)))
    return tuple(row for model, entries in table.items() for row in _own_rows(model, entries))


def _unfit(what: str) -> InvalidOption:
    return InvalidOption(what, t("No price was set."), t(_OWN_FORM))


def _shown(value: object) -> str:
    return one_line(repr(value), 80)


def _own_rows(model: object, entries: object) -> Iterator[Price]:
    if not (isinstance(model, str) and model.strip()):
        raise _unfit(t("{value} is no model's name.", value=_shown(model)))
    if not isinstance(entries, Mapping):
        raise _unfit(t("The price of {model} names no currency.", model=_shown(model)))
    name = SHORT_NAMES.get(model.strip(), model.strip())
    for currency, given in entries.items():
        if not (isinstance(currency, str) and re.fullmatch("[A-Za-z]{3}", currency.strip())):
            raise _unfit(t("{value} is no currency such as CNY or USD.", value=_shown(currency)))
        whose = t("{model} in {currency}", model=_shown(model), currency=currency.strip().upper())
        numbers = _three_or_six(given, whose)
        for hours, of_hours in zip(get_args(Band)[::-1], (numbers[:3], numbers[-3:]), strict=True):
            yield Price(name, currency.strip().upper(), hours, ALWAYS, *of_hours)


def _three_or_six(given: object, whose: str) -> list[Decimal]:
    """Read the numbers of one price, in a text or one by one."""
    parts: Iterable[object] = ()
    if isinstance(given, str):
        parts = re.split(r"[\s,;/]+", given.strip(" \t\n,;/"))
    elif isinstance(given, Sequence) and not isinstance(given, bytes | bytearray):
        parts = given
    numbers = [_number(part) for part in parts]
    read = [number for number in numbers if number is not None]
    if len(numbers) not in {3, 6} or len(read) != len(numbers):
        raise _unfit(t("{value} is no price of {whose}.", value=_shown(given), whose=whose))
    if any(hit > miss for hit, miss in ((n[0], n[1]) for n in (read[:3], read[-3:]))):
        raise _unfit(
            t(
                "In {value}, the price of {whose}, input found in the cache costs more than other "
                "input.",
                value=_shown(given),
                whose=whose,
            )
        )
    return read


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and 0 <= number <= _HIGHEST else None


def age(at: datetime) -> timedelta:
    """Tell how long ago the table was last checked against the published prices."""
    return at - datetime.combine(price_list().checked, time(), UTC)
