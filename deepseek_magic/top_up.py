"""When has money come? What the readings after a refusal say, and how often to look.

The API's figure lags, so neither "there is money" nor "there is none" is
certain. What is certain is a rise: a reading above the lowest one since the
refusal. A figure that contradicts the refusal, or cannot be read, gets one try
now and then, which costs nothing when it is refused again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from .wire import Balance

TOP_UP = "https://platform.deepseek.com/top_up"
"""Where an account of DeepSeek's is topped up."""

FIRST = 3.0
"""Seconds until the second look."""
GROWTH = 1.3
LONGEST = 300.0
"""Seconds between two looks, at most."""
SPREAD = 0.2
"""How much of a pause is left to chance, so that many kernels do not ask together."""
TRY_AFTER = 15.0
"""Seconds from a refusal that the figure contradicts until a try is let through; doubled by each
that is refused."""
TRY_AT_MOST = 1800.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the account while a top-up is waited for; it found nothing yet.

    *balance* is None when it could not be read, and *problem* says why not.
    *pause* is the seconds until the next look. Times are aware.
    """

    at: datetime
    balance: Balance | None
    problem: str | None
    pause: float
    since: datetime
    until: datetime


def pauses(chance: random.Random | None = None) -> Iterator[float]:
    """Give the seconds between looks: short at first, then ever longer, a little uneven."""
    chance = chance or random.Random()  # noqa: S311  # no secret hangs on it
    pause = FIRST
    while True:
        yield pause * chance.uniform(1 - SPREAD, 1 + SPREAD)
        pause = min(pause * GROWTH, LONGEST)


def _totals(reading: Balance | None) -> dict[str, Decimal]:
    infos = reading.infos.values() if reading else ()
    return {info.currency: info.total for info in infos if info.total is not None}


@dataclass(slots=True)
class Watch:
    """What is known since the API refused a question for want of money.

    Without a refusal any money that is available counts. Times are seconds of a
    clock that only goes forward.
    """

    lowest: dict[str, Decimal] = field(default_factory=dict)
    unavailable: bool = False
    refused_at: float | None = None
    refusals: int = 0

    def refused(self, known: Balance | None, at: float) -> None:
        """Note a refusal, and the figure that was *known* after it."""
        self.lowest = _totals(known)
        self.unavailable = known is not None and known.available is False
        self.refused_at = at
        self.refusals += 1

    def paid(self) -> None:
        """Note that a question was answered."""
        self.refused_at, self.refusals, self.lowest, self.unavailable = None, 0, {}, False

    def arrived(self, reading: Balance | None, at: float) -> bool:
        """Tell whether a question is worth sending after *reading*; None is one that failed."""
        totals = _totals(reading)
        there = any(total > 0 for total in totals.values())
        if reading is not None and (reading.available is False or (totals and not there)):
            self._note(totals, unavailable=reading.available is False)
            return False
        if there and (self.refused_at is None or self._risen(totals)):
            return True
        if totals:
            self._note(totals, unavailable=False)
        return self.refused_at is not None and at - self.refused_at >= self._patience()

    def _risen(self, totals: dict[str, Decimal]) -> bool:
        if not self.lowest:  # nothing to compare with
            return self.unavailable
        return self.unavailable or any(
            total > self.lowest.get(currency, 0) for currency, total in totals.items()
        )

    def _note(self, totals: dict[str, Decimal], *, unavailable: bool) -> None:
        for currency, total in totals.items():
            self.lowest[currency] = min(total, self.lowest.get(currency, total))
        self.unavailable = unavailable

    def _patience(self) -> float:
        return float(min(TRY_AFTER * 2 ** (self.refusals - 1), TRY_AT_MOST))
