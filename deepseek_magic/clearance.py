"""May a question go out? The facts of the account, the checks on them, and what is reserved.

A check uses the last reading of the balance. It waits for a fresh one only where
that can change what it says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

from . import image_tokens, limits, prices
from .errors import DeepSeekError, OutOfMoney, OverLimit, WrongKey
from .estimate import estimate, worst
from .limits import Cap, Facts, Preview
from .prices import BEIJING, PEAK_HOURS, Price
from .records import Call, at_most
from .wire import EXACT, Answer, Request
from .words import t

if TYPE_CHECKING:
    from .estimate import Estimate
    from .ledger import Asked, Ledger
    from .purse import Purse

LOG = logging.getLogger("deepseek_magic")

OLD = timedelta(hours=1)
"""A reading of the balance that is older is read anew before a question."""
JUST_READ = timedelta(seconds=5)
READ_SECONDS = 1.0
"""How long a check waits for a reading, at most; what comes later is unknown to it."""
FIRST_READ_SECONDS = 3.0
"""The same for a dry run on an account that was never read: it is to show the balance."""
LONG_ANSWER = timedelta(hours=3)
"""A change of the hours within this time may decide the price of an answer that begins now."""
TRIES = 20
"""How often a question that others overtake looks for room under the limits."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What one question may spend: no more than *cap*; *anyway* asks no check."""

    cap: Cap | None = None
    anyway: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """A question that may go out, and what it has *reserved* of its cap, by its entry's name."""

    call: Call
    reserved: Decimal
    cap: Cap | None

    def settle(self, answer: Answer, *, billed: bool) -> None:
        """Give back what was reserved and not spent; what may have been billed counts in full."""
        if self.cap is not None:
            paid = at_most(answer)
            if paid is None:
                paid = self.reserved if billed else Decimal(0)
            self.cap.release(self.call.entry, paid)


class Clearance:
    """The checks of one *account*, against its *ledger* and its *purse*."""

    def __init__(
        self, ledger: Ledger, purse: Purse, account: str, clock: Callable[[], datetime]
    ) -> None:
        self.day_limit: Decimal | None = None
        self.own: Sequence[Price] = ()
        self._ledger = ledger
        self._purse = purse
        self._account = account
        self._clock = clock

    def admit(
        self, request: Request, terms: Terms, asked: Callable[[Request, datetime], Asked]
    ) -> Admitted:
        """Note in the ledger that *request* goes out, or raise the reason why it may not.

        A request without `max_tokens` gets one where a limit asks for it. *asked*
        makes its record.
        """
        for _ in range(TRIES):
            facts = self.check(request, terms)
            if (admitted := self._reserve(facts, terms, asked)) is not None:
                return admitted
        raise OverLimit(
            t("Too many questions ask for what is left of the limit at the same moment."),
            t("Nothing was sent of this one."),
            t("Send it again."),
        )

    def check(self, request: Request, terms: Terms) -> Facts:
        """Give what is known of *request* before it goes out, or raise why it may not."""
        limited = terms.cap is not None or self.day_limit is not None
        if limited and self._purse.currency is None:
            self._learn_currency()
        facts = self._facts(request, terms.cap, checked=not terms.anyway)
        refusal = None if terms.anyway else limits.refusal(facts)
        if refusal is not None:
            raise self._with_steps(refusal, facts)
        self._log(facts)
        return facts

    def _reserve(
        self, facts: Facts, terms: Terms, asked: Callable[[Request, datetime], Asked]
    ) -> Admitted | None:
        """Reserve the worst case, everywhere or nowhere; None where others were quicker."""
        request, guess = facts.request, facts.estimate
        if not terms.anyway and (bounded := limits.bounded(facts)) != request:
            request, guess = bounded, self.estimate(bounded, facts.at)
        note = replace(
            asked(facts.request, facts.at), currency=facts.currency, reserved=guess.worst
        )
        call = Call(self._ledger.new_entry(), request, guess, facts.at)
        going = Admitted(call, guess.worst or Decimal(0), terms.cap)
        try:
            if self._is_reserved(going, note, facts, anyway=terms.anyway):
                return going
        except BaseException:  # an interrupt, most likely: nothing was sent, nothing stays reserved
            self._ledger.withdraw(call.entry)
            going.settle(Answer(), billed=False)
            raise
        going.settle(Answer(), billed=False)
        return None

    def _is_reserved(self, going: Admitted, note: Asked, facts: Facts, *, anyway: bool) -> bool:
        entry, cap = going.call.entry, going.cap
        if cap is not None and not cap.hold(entry, going.reserved, beyond=anyway):
            return False
        if anyway or self.day_limit is None:
            self._ledger.ask(note, entry=entry)
            return True
        found = self._ledger.reserve(note, self.day_limit, entry=entry)
        if found.entry is None and found.spent is None:
            raise self._with_steps(limits.day_unknown(facts), facts)
        return found.entry is not None

    def _log(self, facts: Facts) -> None:
        """Log the state of the money before a question: one line, without its words."""
        known, usual = facts.balance, facts.estimate.cost
        LOG.info(
            "before a query: model=%s think=%s tokens_in=%d cost=%s..%s worst=%s currency=%s "
            "balance=%s read_at=%s band=%s budget_left=%s day_left=%s",
            facts.request.model,
            facts.request.think,
            facts.estimate.tokens_in.likely,
            usual and usual.low,
            usual and usual.high,
            facts.estimate.worst,
            facts.currency,
            known and known.effective,
            known and known.read_at and known.read_at.isoformat(timespec="seconds"),
            prices.band(facts.at),
            facts.budget,
            facts.day_left,
        )

    # -- the facts ----------------------------------------------------------------

    def estimate(self, request: Request, at: datetime) -> Estimate:
        """Reckon what *request* will cost at the moment *at*."""
        return self._reckoned(request, at)[0]

    def rates(self, model: str) -> tuple[Price | None, Price | None]:
        """Give the price of *model* at this moment, and that of the worst case."""
        return rates(model, self._purse.currency, self._clock(), self.own)

    def day_left(self) -> Decimal | None:
        """Give what is left of the day's limit; None without one, or where nobody can tell."""
        currency, at = self._purse.currency, self._clock()
        if self.day_limit is None or currency is None:
            return None
        day = at.astimezone().date().isoformat()
        today = self._ledger.today(self._account, day, currency)
        if today is None:
            return None
        with localcontext(EXACT):
            return self.day_limit - today.spent - today.under_way

    def _reckoned(
        self, request: Request, at: datetime, *, exactly: bool = False
    ) -> tuple[Estimate, Price | None]:
        return estimate_at(
            self._ledger,
            self._account,
            request,
            currency=self._purse.currency,
            at=at,
            own=self.own,
            exactly=exactly,
        )

    def _facts(
        self, request: Request, cap: Cap | None, *, exactly: bool = False, checked: bool = True
    ) -> Facts:
        at, currency = self._clock(), self._purse.currency
        guess, dear = self._reckoned(request, at, exactly=exactly)
        facts = Facts(
            request=request,
            estimate=guess,
            dear=dear,
            at=at,
            currency=currency,
            balance=self._purse.known,
            budget=None if cap is None else cap.left,
            day_limit=self.day_limit,
        )
        if self.day_limit is not None and facts.currency is not None:
            left = self.day_left()
            facts = replace(facts, day_left=left, day_known=left is not None)
        if checked and self._wants_reading(facts):
            fresh = self._purse.reread(READ_SECONDS)
            facts = replace(facts, balance=self._purse.known, fresh=fresh)
        return facts

    def _wants_reading(self, facts: Facts) -> bool:
        """Tell whether a fresh reading may change what the checks say.

        It is what a refusal rests on: a top-up may have come since the last one.
        """
        known = facts.balance
        if known is None or not known.effective:
            return False  # nothing is refused for it
        if limits.lacks(facts) or limits.is_old(known, facts.at, OLD):
            return True
        return limits.is_near(facts) and limits.is_old(known, facts.at, JUST_READ)

    def _learn_currency(self) -> None:
        try:
            self._purse.read()
        except WrongKey:
            raise
        except DeepSeekError as error:
            LOG.info("the currency is not known: %s", error)

    def _with_steps(self, refusal: OutOfMoney, facts: Facts) -> OutOfMoney:
        refusal.steps = limits.cheaper(facts, self.estimate)
        return refusal

    # -- a dry run ----------------------------------------------------------------

    def preview(self, request: Request, cap: Cap | None) -> Preview:
        """Tell all that is known of *request*; sends nothing but, if need be, for the balance."""
        if self._purse.known is None:
            self._purse.refresh()
            self._purse.wait(FIRST_READ_SECONDS)
        facts = self._facts(request, cap, exactly=True)
        changes, _ = prices.next_change(facts.at)
        return Preview(
            request=limits.bounded(facts),
            estimate=facts.estimate,
            band=prices.band(facts.at),
            changes=changes,
            other=self._reckoned(request, changes, exactly=True)[0],
            balance=facts.balance,
            currency=facts.currency,
            covers=limits.covers(facts.balance, facts.estimate),
            budget=facts.budget,
            day_limit=facts.day_limit,
            day_left=facts.day_left,
            refusal=limits.refusal(facts),
            steps=limits.cheaper(facts, self.estimate),
        )


def estimate_at(
    ledger: Ledger,
    account: str | None,
    request: Request,
    *,
    currency: str | None,
    at: datetime,
    own: Sequence[Price],
    exactly: bool = False,
) -> tuple[Estimate, Price | None]:
    """Reckon what *request* will cost at the moment *at*, and find the price of its worst case.

    Without an *account* nothing is known of earlier answers. A price that will change
    soon may be the one that counts. Counting tokens *exactly* takes its time.
    """
    size = sum(len(message.words.encode("utf-8", "replace")) for message in request.messages)
    tokens_in = size // 4 + image_tokens.count(request.images).likely
    model = prices.price_list().aliases.get(request.model, request.model)
    past = None
    if account is not None:
        past = ledger.past(account, model, request.think, json=request.json, tokens_in=tokens_in)
    price, dear = rates(request.model, currency, at, own)
    guess = estimate(request, price, past, exactly=exactly)
    if dear is not None and dear != price:
        guess = replace(guess, worst=worst(request, dear))
    return guess, dear


def rates(
    model: str, currency: str | None, at: datetime, own: Sequence[Price]
) -> tuple[Price | None, Price | None]:
    """Give the price of *model* at the moment *at*, and what an answer begun then costs at most."""
    price = prices.price(model, currency, at, own=own)
    ahead = (prices.price(model, currency, when, own=own) for when in _edges_ahead(at))
    return price, prices.dearest(price, *ahead)


def _edges_ahead(at: datetime) -> list[datetime]:
    local = at.astimezone(BEIJING)
    clocks = (clock for hours in PEAK_HOURS for clock in hours)
    edges = (datetime.combine(local.date(), clock, BEIJING) for clock in clocks)
    return [edge for edge in edges if local < edge <= local + LONG_ANSWER]
