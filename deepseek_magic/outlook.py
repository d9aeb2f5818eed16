"""How long the money lasts, and the one quiet warning before it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Literal

from .elements import at_least
from .wire import EXACT
from .words import t

if TYPE_CHECKING:
    from .entries import Spending

DAYS = 7
HOUR = timedelta(hours=1)
WARM_UP = timedelta(minutes=10)
"""A session's first spending counts as that of so much time, so that one question is no trend."""

LONGEST = timedelta(days=36525)
"""A hundred years: longer is not told apart."""

RISEN = Decimal("1.1")
"""A balance has risen above a mark at so many times it: its figure is rounded, and late."""

Warned = Literal["low", "short"]


def lasts(
    left: Decimal, days: Mapping[date, Decimal], today: date, *, passed: float = 1.0
) -> timedelta | None:
    """Tell how long *left* lasts at the mean of the last seven days; None when nothing was spent.

    *days* is what each day took, and a day that is missing took nothing, so that
    weekends count. An account that was first used within the seven days has the
    mean of the days since. *passed* is the part of *today* that is over.
    """
    first = today - timedelta(days=DAYS - 1)
    recent = {day: spent for day, spent in days.items() if first <= day <= today}
    if not any(day <= first for day in days):
        first = min(recent, default=today)
    with localcontext(EXACT):
        spent = sum(recent.values(), Decimal(0))
        # The first day counts as a whole one: its first hour is no trend.
        length = max(Decimal((today - first).days) + Decimal(str(passed)), Decimal(1))
        return _time_for(left, spent, timedelta(days=1) * float(length))


def ends_at(left: Decimal, recent: Sequence[Spending], now: datetime) -> timedelta | None:
    """Tell how long *left* lasts at the rate of the last hour; None when nothing was spent.

    *recent* is what the session has spent. A cost that is a range counts at its
    least, as its most is a bound that is hardly ever met.
    """
    within = [one for one in recent if one.at is not None and now - HOUR < one.at <= now]
    if not within:
        return None
    began = min(one.sent for one in within)
    with localcontext(EXACT):
        spent = sum((one.low for one in within), Decimal(0))
    return _time_for(left, spent, min(max(now - began, WARM_UP), HOUR))


def _time_for(left: Decimal, spent: Decimal, length: timedelta) -> timedelta | None:
    if spent <= 0:
        return None
    if left <= 0:
        return timedelta(0)
    with localcontext(EXACT):
        share = left / spent * Decimal(length / timedelta(seconds=1))
    longest = Decimal(LONGEST / timedelta(seconds=1))
    return timedelta(seconds=round(float(min(share, longest))))


@dataclass(frozen=True, slots=True)
class Alarm:
    """What has been warned of, so that it is said once.

    *low*: the balance is below its mark. *short*: it will not last the session,
    an hour at the present rate; then it is what was *left* at the time.
    """

    low: bool = False
    short: Decimal | None = None

    def after(
        self, left: Decimal | None, mark: Decimal | None, lasting: timedelta | None
    ) -> tuple[Alarm, Warned | None]:
        """Give the alarm after a look at the balance, and what to warn of now, if anything.

        Each warning comes again only after the balance has risen: above *mark*,
        or above what it was. A balance that is not known changes nothing. Where
        both are due, the one that presses is said.
        """
        if left is None:
            return self, None
        now = self._rearmed(left, mark)
        below = mark is not None and left < mark
        ends = left > 0 and lasting is not None and lasting < HOUR
        due: Warned | None = None
        if below and not now.low:
            now, due = replace(now, low=True), "low"
        if ends and now.short is None:
            now, due = replace(now, short=left), "short"
        return now, due

    def _rearmed(self, left: Decimal, mark: Decimal | None) -> Alarm:
        with localcontext(EXACT):
            low = self.low and mark is not None and left < mark * RISEN
            rose = self.short is not None and left > self.short * RISEN
        return Alarm(low=low, short=None if rose else self.short)


def warning(
    due: Warned,
    left: Decimal,
    currency: str,
    *,
    mark: Decimal | None = None,
    lasting: timedelta | None = None,
) -> str:
    """Say what is *due* in one line, with the figures and what to do."""
    amount = at_least(left, currency)
    if due == "short" and lasting is not None:
        minutes = max(round(lasting / timedelta(minutes=1)), 1)
        return t(
            "{money} is left: about {minutes} minutes at the present rate. "
            "Top up, or ask less: %deepseek balance",
            money=amount,
            minutes=minutes,
        )
    if mark is None:
        return t("{money} is left. Top up: %deepseek balance", money=amount)
    return t(
        "{money} is left, which is under {mark}. Top up: %deepseek balance",
        money=amount,
        mark=f"{mark} {currency}",
    )
