"""What rows may cost: each reserves its worst case, in a budget they share and in the day's limit.

Where there is a limit and the caller has set no bound for the length of an answer,
one is set: wide enough for several times what was usual, so that none is cut.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from . import prices
from .clearance import Admitted
from .estimate import affordable, estimate, worst
from .records import Call
from .survey import longest_cut
from .wire import EXACT

if TYPE_CHECKING:
    from .clearance import Terms
    from .entries import Past
    from .estimate import Estimate
    from .prices import Price
    from .survey import Asker, Survey
    from .tally import Tally
    from .wire import Request

PILOTS = 8
"""So many questions tell how long answers are, where a limit has to bound them."""
PILOT_TOKENS = 2000
"""So much room, at the least, an answer gets until it is known how long answers are."""
ROOM = 4
"""A limit leaves an answer room for so many times the longest that was usual."""
PRICES_SECONDS = 5.0
"""How long a price is taken for that of now."""
CURRENCY_SECONDS = 3.0
"""How long the rows of an account that was never read wait for its currency."""


class Allowance:
    """What the rows of *found* may spend by *terms*."""

    def __init__(self, asker: Asker, terms: Terms, found: Survey, tally: Tally) -> None:
        self.terms = terms
        self.cut = 0
        """So long was an answer to one of these questions when it was cut, in an earlier run."""
        self.day_limit = None if terms.anyway else asker.clearance.day_limit
        self._asker = asker
        self._found = found
        self._first = found.sample[0]
        self._tally = tally
        self._day_left: Decimal | None = None
        self._past: Past | None = None
        self._usual: Estimate | None = None
        self._rates: tuple[Price | None, Price | None] = (None, None)
        self._rates_until = float("-inf")

    def check(self) -> None:
        """Raise where not even the first question may go out, as for one question alone."""
        asker, request = self._asker, self._first
        if asker.currency is None:
            asker.purse.refresh()
            asker.purse.wait(CURRENCY_SECONDS)
        facts = asker.clearance.check(request, self.terms)
        self._past = asker.ledger.past(
            asker.account,
            prices.price_list().aliases.get(request.model, request.model),
            request.think,
            json=request.json,
            tokens_in=facts.estimate.tokens_in.likely,
        )
        self.cut = longest_cut(asker, self._found) if self._sets_bounds else 0

    @property
    def pilots(self) -> int | None:
        """How many may be under way until it is known how long answers are; None for any number."""
        return PILOTS if self._sets_bounds and self._longest is None else None

    def look(self) -> None:
        """Look what is left of the day; the ledger is asked once for a group of questions."""
        self._day_left = self._asker.clearance.day_left()

    @property
    def left(self) -> Decimal | None:
        """What is left of the narrowest limit; None without one."""
        cap = self.terms.cap
        lefts = (None if cap is None else cap.left, self._day_left)
        return min((left for left in lefts if left is not None), default=None)

    def admit(self, request: Request, at: datetime) -> Admitted | None:
        """Reserve in the budget what *request* may cost; None where it has no room for it."""
        cap, dear = self.terms.cap, self._dear
        bounded = self._bounded(request) if self._sets_bounds else request
        if bounded is None:
            return None
        call = Call(self._asker.ledger.new_entry(), bounded, self._as_usual(bounded), at)
        going = Admitted(call, worst(bounded, dear) if dear else Decimal(0), cap)
        if cap is not None:
            if dear is None and not self.terms.anyway:
                return None
            if not cap.hold(call.entry, going.reserved, beyond=self.terms.anyway):
                return None
        if self._day_left is not None:
            self._day_left = EXACT.subtract(self._day_left, going.reserved)
        return going

    def reserved(self, going: Admitted) -> Decimal | None:
        """Give what a call may cost at most; None where no price is known."""
        return None if self._dear is None else going.reserved

    def reckoned(self, going: Admitted) -> Call:
        """Give a call that has brought no usage, with a proper estimate of what it may cost."""
        call = going.call
        guess = estimate(call.request, self._price, self._past, exactly=False)
        return replace(call, estimate=replace(guess, worst=self.reserved(going)))

    # -- prices and lengths -------------------------------------------------------

    @property
    def _price(self) -> Price | None:
        now = time.monotonic()
        if now > self._rates_until:
            self._rates = self._asker.clearance.rates(self._first.model)
            self._rates_until = now + PRICES_SECONDS
        return self._rates[0]

    @property
    def _dear(self) -> Price | None:
        self._price  # noqa: B018  # it reads both
        return self._rates[1]

    def _as_usual(self, request: Request) -> Estimate:
        """Give the estimate of a usual question; that of each alone is made where it is needed."""
        if self._usual is None:
            self._usual = estimate(request, self._price, self._past, exactly=False)
        return self._usual

    @property
    def _longest(self) -> int | None:
        """The tokens of a long answer, as far as any are known."""
        past = None if self._past is None else self._past.high
        mine = self._tally.longest if self._tally.lengths else None
        return max((one for one in (past, mine, self.cut or None) if one is not None), default=None)

    @property
    def _sets_bounds(self) -> bool:
        limited = self.terms.cap is not None or self.day_limit is not None
        return limited and self._first.max_tokens is None and not self.terms.anyway

    def _bounded(self, request: Request) -> Request | None:
        """Give *request* with the bound that the limit asks for; None where there is no room."""
        left, dear, longest = self.left, self._dear, self._longest
        if left is None or dear is None:
            return request
        room = affordable(request, dear, left)
        share = self._tally.left if longest is not None else PILOTS
        fair = affordable(request, dear, left / max(share, 1)) or 0
        most = max(fair, PILOT_TOKENS if longest is None else ROOM * longest)
        if room is None or min(room, most) < max(longest or 1, self.cut + 1):
            return None
        return replace(request, max_tokens=min(room, most), limited=True)
