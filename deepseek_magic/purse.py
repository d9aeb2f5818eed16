"""What the account holds: read from the API, and followed between the readings.

The API's figure lags behind what was spent, by minutes and up to half an hour.
So what is left is reckoned from what was left before, less what was recorded
since. A reading corrects that where it must: never more is left than it shows,
never less than it shows without the spending of the last half hour, and a figure
that rose tells of a top-up.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

from .errors import DeepSeekError
from .wire import EXACT, Balance, BalanceInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Client
    from .ledger import Ledger

LOG = logging.getLogger("deepseek_magic")
LAG = timedelta(minutes=30)
"""Until then a charge may be missing in a reading (measured: $1.34 settled after 30 minutes)."""

AHEAD = timedelta(minutes=1)
"""A reading on record from later than that is of a clock that was wrong."""


LOOKS_BACK = (timedelta(0), LAG, 2 * LAG, 6 * LAG, timedelta(days=1))
"""So long before the newest reading on record lie those that a new kernel begins with."""


@dataclass(frozen=True, slots=True)
class _Anchor:
    """What was *left* at a moment, spent or not settled; and what the newest reading *showed*.

    What was spent since is the sum of all from the *day* on, less its *base*; None
    where that could not be told.
    """

    at: datetime
    left: Decimal
    showed: Decimal
    day: date
    base: Decimal | None


class Purse:
    """The balance of one *account*; reading it holds up no query.

    *told* is called, from any thread, after every reading and every failure.
    Safe to use from several threads.
    """

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        account: str,
        *,
        currency: str | None,
        clock: Callable[[], datetime],
        told: Callable[[], None],
    ) -> None:
        self.problem: str | None = None
        """Why the newest reading failed; None when it did not."""
        self._client = client
        self._ledger = ledger
        self._account = account
        self._given = currency
        self._currency = currency
        self._clock = clock
        self._told = told
        self._latest: Balance | None = None
        self._asked = 0  # readings are told apart by their turn: a clock can be set back
        self._taken = 0
        self._anchor: _Anchor | None = None
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._read_again = False
        self._missed: int | None = None  # the reading beyond which none came in time
        self._begun = False
        self._closed = False

    # -- reading ------------------------------------------------------------------

    def read(self) -> Balance:
        """Read the balance from the API."""
        # Before the request goes out: what ends meanwhile may not be in the figure yet.
        self._client.warm()
        with self._lock:
            self._begin()
            self._asked += 1
            turn, at = self._asked, self._clock()
        try:
            reading = replace(self._client.balance(), read_at=at)
        except DeepSeekError as error:
            self.problem = str(error)
            self._told()
            raise
        self.problem = None
        self._ledger.reading(self._account, at, _rows(reading))
        with self._lock:
            if turn > self._taken:
                self._taken = turn
                self._take(reading, came=self._clock())
            known = self._followed(reading)
        self._told()
        return known

    def refresh(self) -> None:
        """Read on a thread of its own; one at a time, and once more if asked meanwhile."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                self._read_again = True
                return
            thread = threading.Thread(
                target=self._read_on, name="deepseek_magic balance", daemon=True
            )
            thread.start()
            self._thread = thread

    def wait(self, seconds: float) -> None:
        """Wait for the reading that is under way, if there is one."""
        if (thread := self._thread) is not None:
            thread.join(seconds)

    def reread(self, seconds: float) -> bool:
        """Read anew, and tell whether that came within *seconds*.

        After a wait in vain none is waited for until a reading has come again, so
        that an endpoint which is silent holds up one question and not all.
        """
        with self._lock:
            before, taken = self._asked, self._taken
        self.refresh()
        if taken != self._missed:
            self.wait(seconds)
        with self._lock:
            came = self._taken > before
            self._missed = None if came else self._taken
        return came

    def close(self) -> None:
        """Read no more; a reading under way is left to itself after a second."""
        self._closed = True
        self.wait(1.0)

    def _read_on(self) -> None:
        while not self._closed:
            try:
                self.read()
            except DeepSeekError as error:
                LOG.debug("the balance was not read: %s", error)
            with self._lock:
                if not self._read_again:
                    self._thread = None
                    return
                self._read_again = False

    # -- what is known ------------------------------------------------------------

    @property
    def known(self) -> Balance | None:
        """The newest reading of any kernel, with what was spent since; asks no network."""
        with self._lock:
            self._begin()
            recorded = self._on_record(self._clock() + AHEAD)
            if recorded is not None and _newer(recorded, self._latest):
                self._take(recorded)
            return None if self._latest is None else self._followed(self._latest)

    @property
    def currency(self) -> str | None:
        """The currency that the account is billed in; None until a balance was read."""
        if self._currency is None:
            self.known  # noqa: B018  # it takes the currency from a reading on record
        return self._currency

    def _begin(self) -> None:
        """Take what is on record from before this kernel, once."""
        if self._begun:
            return
        self._begun = True
        until, found = self._clock() + AHEAD, list[Balance]()
        for back in LOOKS_BACK:
            if (reading := self._on_record(until - back)) is None or reading.read_at is None:
                break
            if not found:
                until = reading.read_at
            found.append(reading)
        for reading in reversed(found):
            if _newer(reading, self._latest):
                self._take(reading)

    def _take(self, reading: Balance, came: datetime | None = None) -> None:
        """Make *reading* the newest, and correct by it what is left.

        What ended before it *came* may be in its figure.
        """
        self._take_currency(reading)
        self._latest = reading
        total, at, anchor = self._total(reading), reading.read_at, self._anchor
        if total is None or at is None:
            return
        if anchor is None or at < anchor.at:  # the first, or of a clock that was set back
            self._anchor = self._anchored(at, left=total, showed=total)
            return
        until = max(at, came or at)
        with localcontext(EXACT):
            spent = self._spent(anchor.at, until) if came is None else self._spent_since(anchor)
            left = anchor.left - spent + max(total - anchor.showed, Decimal(0))
            if left < total:
                # Read after the sum above: what ends between the two is spent, not forgiven.
                lately = self._spent(at - LAG, until if came is None else None)
                left = max(left, total - lately)
            # An account does not go below zero: what its last answer cost beyond that is let go.
            left = max(min(left, total), Decimal(0))
            if until - anchor.at > LAG:  # a sum over a short time is a quick one
                since = until - timedelta(minutes=1)
                self._anchor = self._anchored(since, left + self._spent(since, until), total)
            else:
                self._anchor = replace(anchor, left=left + spent, showed=total)

    def _anchored(self, at: datetime, left: Decimal, showed: Decimal) -> _Anchor:
        # A call that ends now was sent a few hours ago at most.
        day = (at - timedelta(days=1)).astimezone().date()
        return _Anchor(at, left, showed, day, self._base(at, day))

    def _base(self, at: datetime, day: date) -> Decimal | None:
        """Give what was spent from *day* up to the moment *at*."""
        total = self._ledger.sum_from(self._account, self._currency or "", day)
        return None if total is None else EXACT.subtract(total, self._spent(at))

    def rebase(self) -> None:
        """Take note that calls of before have got a price."""
        with self._lock:
            if (anchor := self._anchor) is not None:
                self._anchor = replace(anchor, base=self._base(anchor.at, anchor.day))

    def _take_currency(self, reading: Balance) -> None:
        """Stay with a currency while it holds money; one that was given never changes."""
        held = reading.infos.get(self._currency or "")
        if self._given is not None or (held is not None and held.total != 0):
            return
        if self._currency is None or (reading.effective or 0) > 0:
            if reading.currency != self._currency:
                self._anchor = self._latest = None
            self._currency = reading.currency

    def _followed(self, reading: Balance) -> Balance:
        """Give *reading* with what of the spending it cannot show yet."""
        told = replace(reading, prefers=self._currency)
        total, anchor = self._total(reading), self._anchor
        if total is None or anchor is None:
            return told
        with localcontext(EXACT):
            left = anchor.left - self._spent_since(anchor)
            return replace(told, spent_since=max(total - left, Decimal(0)))

    def _spent_since(self, anchor: _Anchor) -> Decimal:
        total = self._ledger.sum_from(self._account, self._currency or "", anchor.day)
        if total is None or anchor.base is None:
            return self._spent(anchor.at)
        return EXACT.subtract(total, anchor.base)

    def _spent(self, since: datetime, until: datetime | None = None) -> Decimal:
        spent = self._ledger.spent(self._account, since, until=until)
        return spent.get(self._currency or "", Decimal(0))

    def _total(self, reading: Balance | None) -> Decimal | None:
        info = reading.infos.get(self._currency or "") if reading else None
        return info.total if info else None

    def _on_record(self, until: datetime) -> Balance | None:
        found = self._ledger.last_reading(self._account, until=until)
        if found is None:
            return None
        at, rows = found
        infos = {
            row["currency"]: BalanceInfo(
                row["currency"],
                *(_decimal(row[part]) for part in ("total", "granted", "topped_up")),
            )
            for row in rows
        }
        available = rows[0]["available"]
        return Balance(None if available is None else bool(available), infos, at)


def _newer(reading: Balance, other: Balance | None) -> bool:
    if other is None or other.read_at is None or reading.read_at is None:
        return True
    return reading.read_at > other.read_at


def _rows(reading: Balance) -> list[dict[str, Any]]:
    return [
        {"available": reading.available, "currency": info.currency}
        | {part: _digits(getattr(info, part)) for part in ("total", "granted", "topped_up")}
        for info in reading.infos.values()
    ]


def _digits(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
