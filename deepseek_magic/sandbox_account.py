"""The money of the simulated account: what it holds, what it charges, what it shows.

The prices stand here a second time, apart from `prices.py`, on purpose: a
mistake in one of the two tables shows up as a bill that does not match.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from functools import cache
from types import MappingProxyType

Clock = Callable[[], datetime]

CURRENCIES = ("CNY", "USD")
_BEIJING = timezone(timedelta(hours=8))
_PEAK_HOURS = frozenset({9, 10, 11, 14, 15, 16, 17})
_PER = -6  # prices are per million tokens, 10**6


@dataclass(frozen=True, slots=True)
class Price:
    """Money for a million tokens: input from the cache, other input, output."""

    hit: Decimal
    miss: Decimal
    output: Decimal


def _price(hit: str, miss: str, output: str) -> Price:
    return Price(Decimal(hit), Decimal(miss), Decimal(output))


OFF_PEAK: Mapping[tuple[str, str], Price] = MappingProxyType(
    {
        ("deepseek-flash", "CNY"): _price("0.02", "1", "4"),
        ("deepseek-flash", "USD"): _price("0.003", "0.15", "0.60"),
        ("deepseek-v4-pro", "CNY"): _price("0.15", "4.5", "13.5"),
        ("deepseek-v4-pro", "USD"): _price("0.022", "0.66", "1.98"),
    }
)
"""Prices by model and currency; in peak hours they are double."""


@cache
def _public_holidays(year: int) -> frozenset[date]:
    from holidays import country_holidays

    return frozenset(country_holidays("CN", years=year))


def is_peak(at: datetime) -> bool:
    """Tell whether *at* is charged double: working hours of Beijing, holidays apart."""
    there = at.astimezone(_BEIJING)
    working_hours = there.weekday() < 5 and there.hour in _PEAK_HOURS
    return working_hours and there.date() not in _public_holidays(there.year)


def cost(*, hit: int, miss: int, output: int, model: str, currency: str, at: datetime) -> Decimal:
    """Price the tokens of one request, exactly."""
    price = OFF_PEAK[model, currency]
    off_peak = (price.hit * hit + price.miss * miss + price.output * output).scaleb(_PER)
    return off_peak * 2 if is_peak(at) else off_peak


def money(value: Decimal | str | int, what: str) -> Decimal:
    """Read an amount; a `ValueError` says which one cannot be used."""
    try:
        amount = Decimal(value)
    except (InvalidOperation, TypeError):
        amount = Decimal("NaN")
    if isinstance(value, float) or not amount.is_finite() or amount < 0:
        message = f"{what} is {value!r}, expected an amount from 0 as text, such as '10.00'."
        raise ValueError(message)
    return amount


def currency_name(value: str) -> str:
    """Give *value* back if it is a currency of the API; else a `ValueError`."""
    if value not in CURRENCIES:
        message = f"currency is {value!r}, expected one of {', '.join(CURRENCIES)}."
        raise ValueError(message)
    return value


@dataclass(slots=True)
class _Purse:
    granted: Decimal
    topped_up: Decimal

    @property
    def total(self) -> Decimal:
        return self.granted + self.topped_up


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """Money that is spent but still shown."""

    since: datetime
    currency: str
    granted: Decimal
    topped_up: Decimal


class Account:
    """One prepaid account; safe to use from several threads.

    An answer that costs more than is left takes what is left: the balance
    stops at 0, and `billed` counts the full price.
    """

    def __init__(self, currency: str, purses: Mapping[str, tuple[Decimal, Decimal]]) -> None:
        self.currency = currency
        self._purses = {name: _Purse(*parts) for name, parts in purses.items()}
        self._billed = dict.fromkeys(CURRENCIES, Decimal(0))
        self._unsettled: deque[_Unsettled] = deque()
        self._lock = threading.Lock()
        self._clock: Clock | None = None

    def now(self) -> datetime:
        """Give the time of the account, aware."""
        return self._clock() if self._clock else datetime.now(UTC)

    def set_clock(self, clock: Clock | datetime | None) -> None:
        """Take the time from *clock*, or stop it at a datetime; None is the real time."""
        at = clock() if callable(clock) else clock
        if at is not None and at.tzinfo is None:
            message = f"The clock gives {at!r}, which has no time zone. Give it one: tzinfo=UTC."
            raise ValueError(message)
        self._clock = (lambda: clock) if isinstance(clock, datetime) else clock

    def total(self, currency: str) -> Decimal:
        """Give what is truly left in *currency*, settled or not."""
        with self._lock:
            purse = self._purses.get(currency)
            return purse.total if purse else Decimal(0)

    def set_total(self, currency: str, amount: Decimal) -> None:
        """Make *amount* the money in *currency*, shown at once; grants stay as far as it goes."""
        with self._lock:
            purse = self._purses.setdefault(currency, _Purse(Decimal(0), Decimal(0)))
            purse.granted = min(purse.granted, amount)
            purse.topped_up = amount - purse.granted
            self._unsettled = deque(u for u in self._unsettled if u.currency != currency)

    def top_up(self, currency: str, amount: Decimal) -> None:
        """Add *amount* of paid money."""
        with self._lock:
            purse = self._purses.setdefault(currency, _Purse(Decimal(0), Decimal(0)))
            purse.topped_up += amount

    def payer(self) -> str | None:
        """Name the currency that the next request is charged in; None when all are empty."""
        with self._lock:
            names = sorted(self._purses, key=lambda name: name != self.currency)
            return next((name for name in names if self._purses[name].total > 0), None)

    def charge(self, currency: str, amount: Decimal) -> None:
        """Take *amount*, granted money first."""
        with self._lock:
            purse = self._purses[currency]
            granted = min(amount, purse.granted)
            topped_up = min(amount - granted, purse.topped_up)
            purse.granted -= granted
            purse.topped_up -= topped_up
            self._billed[currency] += amount
            self._unsettled.append(_Unsettled(self.now(), currency, granted, topped_up))

    def billed(self, currency: str) -> Decimal:
        """Give the sum of all charges in *currency*, exactly."""
        with self._lock:
            return self._billed[currency]

    def shown(self, currency: str, lag: float) -> tuple[Decimal, Decimal]:
        """Give granted and topped-up money as they were *lag* seconds ago, top-ups included."""
        settled = self.now() - timedelta(seconds=lag)
        with self._lock:
            while self._unsettled and self._unsettled[0].since <= settled:
                self._unsettled.popleft()
            purse = self._purses.get(currency) or _Purse(Decimal(0), Decimal(0))
            late = [u for u in self._unsettled if u.currency == currency and u.since > settled]
            granted = purse.granted + sum((u.granted for u in late), Decimal(0))
            return granted, purse.topped_up + sum((u.topped_up for u in late), Decimal(0))

    def names(self) -> tuple[str, ...]:
        """Name the currencies that the account holds, its own first."""
        with self._lock:
            return tuple(sorted(self._purses, key=lambda name: name != self.currency))


def balance_body(
    account: Account,
    *,
    listed: Iterable[str],
    lag: float,
    decimals: int,
    available: bool | None,
) -> dict[str, object]:
    """Build the body of `GET /user/balance`."""
    parts = {name: account.shown(name, lag) for name in account.names()}
    unit = Decimal(1).scaleb(-decimals)
    zero = (Decimal(0), Decimal(0))

    def row(currency: str, granted: Decimal, topped_up: Decimal) -> dict[str, str]:
        granted = granted.quantize(unit, ROUND_DOWN)
        topped_up = topped_up.quantize(unit, ROUND_DOWN)
        return {
            "currency": currency,
            "total_balance": str(granted + topped_up),
            "granted_balance": str(granted),
            "topped_up_balance": str(topped_up),
        }

    any_money = any(granted + topped_up > 0 for granted, topped_up in parts.values())
    return {
        "is_available": any_money if available is None else available,
        "balance_infos": [row(name, *parts.get(name, zero)) for name in listed],
    }
