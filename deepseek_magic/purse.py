"""What the account holds: read from the API, and followed between the readings.

The API's figure lags behind what was spent, by minutes and up to half an hour.
So one earlier reading is kept as an anchor: what it showed less all that was
recorded since is a bound that no lag can hide. A reading below that bound has
caught up and becomes the anchor; one that rose tells of a top-up and does too.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

from .errors import DeepSeekError
from .wire import EXACT, Balance, BalanceInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from .client import Client
    from .ledger import Ledger

LOG = logging.getLogger("deepseek_magic")
LAG = timedelta(minutes=30)
"""Until then a charge may be missing in a reading (measured: $1.34 settled after 30 minutes)."""

AHEAD = timedelta(minutes=1)
"""A reading on record from later than that is of a clock that was wrong."""


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
        self._anchor: Balance | None = None
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._read_again = False
        self._closed = False

    # -- reading ------------------------------------------------------------------

    def read(self) -> Balance:
        """Read the balance from the API."""
        # Before the request goes out: what ends meanwhile may not be in the figure yet.
        self._client.warm()
        with self._lock:
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
                self._take(reading)
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
            recorded = self._on_record()
            if recorded is not None and _newer(recorded, self._latest):
                self._take(recorded)
            return None if self._latest is None else self._followed(self._latest)

    @property
    def currency(self) -> str | None:
        """The currency that the account is billed in; None until a balance was read."""
        if self._currency is None:
            self.known  # noqa: B018  # it takes the currency from a reading on record
        return self._currency

    def _take(self, reading: Balance) -> None:
        """Make *reading* the newest, and the anchor where it tells more than the old one."""
        self._take_currency(reading)
        total, before, bound = self._total(reading), self._total(self._latest), self._bound()
        if total is None:
            self._latest = reading
            return
        risen = before is None or total > before
        caught_up = bound is None or total <= bound
        if risen or caught_up or self._is_old(self._anchor, reading):
            self._anchor = reading
        self._latest = reading

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
        total, bound = self._total(reading), self._bound()
        if total is None or bound is None:
            return told
        with localcontext(EXACT):
            return replace(told, spent_since=max(total - bound, Decimal(0)))

    def _bound(self) -> Decimal | None:
        total = self._total(self._anchor)
        if self._anchor is None or self._anchor.read_at is None or total is None:
            return None
        spent = self._ledger.spent(self._account, self._anchor.read_at)
        with localcontext(EXACT):
            return total - spent.get(self._currency or "", Decimal(0))

    def _total(self, reading: Balance | None) -> Decimal | None:
        info = reading.infos.get(self._currency or "") if reading else None
        return info.total if info else None

    @staticmethod
    def _is_old(anchor: Balance | None, reading: Balance) -> bool:
        """Tell whether an anchor says nothing any more, or is of a clock that was set back."""
        if anchor is None or anchor.read_at is None or reading.read_at is None:
            return True
        return not timedelta(0) <= reading.read_at - anchor.read_at <= LAG

    def _on_record(self) -> Balance | None:
        found = self._ledger.last_reading(self._account, until=self._clock() + AHEAD)
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
