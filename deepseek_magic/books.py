"""What the ledger tells of an account: what was spent, what does not fit, what is about to end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

from . import outlook, reconcile
from .errors import DeepSeekError, InvalidOption, nearest, one_line
from .outlook import Alarm
from .schema import BY
from .wire import EXACT, Balance, Usage
from .words import t

if TYPE_CHECKING:
    import pandas as pd

    from .ledger import Ledger
    from .reconcile import Finding

LOG = logging.getLogger("deepseek_magic")

SUMS = ("currency", "queries", "cost", "unpriced", "cost_low", "cost_high", "ranged", "saved")
NUMBERS = ("queries", "unpriced", "ranged")
LOOKS_BACK = timedelta(days=30)
"""How far back readings of the balance are compared with what is recorded."""
COMPARES = timedelta(minutes=10)
"""How often that is done, at most."""


class Books:
    """The books of one *account*, read from its *ledger*. Safe to use from several threads."""

    def __init__(self, ledger: Ledger, account: str, clock: Callable[[], datetime]) -> None:
        self.warn_below: Mapping[str, Decimal] = {}
        self._ledger = ledger
        self._account = account
        self._clock = clock
        self._began = clock()
        self._alarm: Alarm | None = None
        self._findings: list[Finding] = []
        self._compared: datetime | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()

    def usage(self, by: str | Iterable[str], days: int | None) -> pd.DataFrame:
        """Add up the queries *by* day, model, notebook or cell; of the last *days*, if given."""
        try:
            import pandas as pd
        except ImportError:
            raise DeepSeekError(
                t(
                    "Session.usage() gives a DataFrame, and pandas is not installed: "
                    "pip install pandas"
                )
            ) from None
        names = dimensions([by] if isinstance(by, str) else by)
        rows = self._ledger.usage(self._account, by=names, since=self._first(days))
        frame = pd.DataFrame(rows, columns=[*names, *SUMS, *Usage.__slots__])
        return frame.astype(dict.fromkeys(NUMBERS, "int64"))

    def _first(self, days: int | None) -> date | None:
        """Give the first of the last *days*, up to today."""
        if days is None:
            return None
        if not isinstance(days, int):
            raise InvalidOption(
                t(
                    "`days` is a whole number of days up to today, such as 7, and {value} is none.",
                    value=one_line(repr(days), 40),
                )
            )
        today = self._clock().astimezone().date()
        return today - timedelta(days=min(max(days, 1), today.toordinal()) - 1)

    # -- before it hurts ------------------------------------------------------------

    def lasts(self, left: Decimal, days: Mapping[date, Decimal]) -> timedelta | None:
        """Tell how long *left* lasts at the rate of the last week; None when nothing was spent.

        *days* map a day to what was spent on it.
        """
        now = self._clock().astimezone()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return outlook.lasts(left, days, now.date(), passed=(now - midnight) / timedelta(days=1))

    def alerts(self, balance: Balance | None) -> list[str]:
        """Give the warnings that have come up since the last time, each once.

        One when the balance passes below its mark or will not last the next hour,
        and one for what the readings tell beyond the ledger.
        """
        said = [self._low(balance), *self._told_once()]
        for line in (lines := [line for line in said if line]):
            LOG.info("%s", line)
        return lines

    def _low(self, balance: Balance | None) -> str | None:
        left, currency = (balance.effective, balance.currency) if balance else (None, None)
        if left is None or currency is None:
            return None
        now, mark = self._clock(), self.warn_below.get(currency)
        found = self._ledger.spending(self._account, max(self._began, now - outlook.HOUR))
        recent = [one for one in found if one.currency == currency]
        lasting = outlook.ends_at(left, recent, now)
        with self._lock:
            if self._alarm is None:  # what was low from the beginning does not pass below a mark
                with localcontext(EXACT):
                    first = left + sum((one.low for one in recent), Decimal(0))
                self._alarm = Alarm(low=mark is not None and first < mark)
            self._alarm, due = self._alarm.after(left, mark, lasting)
        return due and outlook.warning(due, left, currency, mark=mark, lasting=lasting)

    # -- what does not fit ------------------------------------------------------------

    def findings(self) -> list[str]:
        """Say what the readings of the balance tell beyond the ledger."""
        self.compare()
        return [one.text() for one in self._findings]

    def _told_once(self) -> list[str]:
        return [one.text() for one in self._findings if self._ledger.told(self._account, one.name)]

    def compare_soon(self) -> None:
        """Compare on a thread of its own, now and then: it takes a moment on a long ledger."""
        if not self._closed and self._is_due():
            self._thread = threading.Thread(
                target=self._compare, name="deepseek_magic compare", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Compare no more; what is under way is left to itself after a second."""
        self._closed = True
        if self._thread is not None:
            self._thread.join(1.0)

    def compare(self) -> None:
        """Compare the readings of the balance with what is recorded, if it was not done lately."""
        if self._is_due():
            self._compare()

    def _is_due(self) -> bool:
        now = self._clock()
        with self._lock:
            if self._compared is not None and timedelta(0) <= now - self._compared < COMPARES:
                return False
            self._compared = now
            return True

    def _compare(self) -> None:
        since = self._clock() - LOOKS_BACK
        readings = self._ledger.readings(self._account, since)
        before = since - reconcile.LAG - reconcile.SKEW
        spending = self._ledger.spending(self._account, before)
        found: list[Finding] = []
        for currency in {name for _, totals in readings for name in totals}:
            totals = [(at, row[currency]) for at, row in readings if currency in row]
            found += reconcile.findings(totals, spending, currency)
        self._findings = found


def dimensions(names: object) -> tuple[str, ...]:
    """Check the *names* by which spending is added up; each counts once."""
    given = tuple(names) if isinstance(names, Iterable) else (names,)
    for name in given:
        if name not in BY:
            near = nearest(str(name), BY)
            what = t(
                "Usage is added up by {names}, and {name} is none of them.",
                names=", ".join(BY),
                name=one_line(repr(name), 40),
            )
            raise InvalidOption(what, t("Did you mean {name}?", name=near) if near else "")
    return tuple(dict.fromkeys(given))
