"""Does the money do? Small checks from facts to a refusal or none, and what would be cheaper.

Nothing here asks the network or the ledger: the facts are gathered by the session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal, localcontext
from numbers import Real
from typing import TYPE_CHECKING

from .elements import at_least, clock_time, money
from .errors import InsufficientBalance, InvalidOption, OutOfMoney, OverLimit, one_line
from .estimate import affordable
from .prices import Band, off_peak_from
from .wire import EXACT, SHORT_NAMES, Balance, Request, amount
from .words import later, t

if TYPE_CHECKING:
    from .estimate import Estimate
    from .prices import Price

NEAR = 3
"""A balance under so many times the likely cost is near enough to be read once more."""


class Cap:
    """Money that may be spent and not more, by several questions at once.

    What a question may cost is reserved before it is sent and given back when
    its cost is known. Safe to use from several threads.
    """

    def __init__(self, amount: Decimal) -> None:
        self.amount = amount
        self._taken = Decimal(0)
        self._held: dict[object, Decimal] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Cap({self.amount}, left={self.left})"

    @property
    def left(self) -> Decimal:
        """What is neither spent nor reserved."""
        with self._lock, localcontext(EXACT):
            return self.amount - self._taken

    def hold(self, name: object, amount: Decimal, *, beyond: bool = False) -> bool:
        """Reserve *amount* under a *name*, if so much is left; *beyond* passes the cap.

        Whoever is interrupted here can `release` it, whether it was taken or not.
        """
        with self._lock, localcontext(EXACT):
            taken = self._taken + amount
            if taken > self.amount and not beyond:
                return False
            # Nothing is called between these two, so that no interrupt comes between them.
            self._held[name] = amount
            self._taken = taken
            return True

    def release(self, name: object, paid: Decimal) -> None:
        """Give back what is held under *name*, less what was *paid* at most; once."""
        with self._lock, localcontext(EXACT):
            if (held := self._held.get(name)) is None:
                return
            taken = self._taken + paid - held
            del self._held[name]
            self._taken = taken


def read_amount(name: str, value: object) -> Decimal | None:
    """Read an amount of money that is a limit; None, for no limit, stays None."""
    if value is None:
        return None
    number = str(value) if isinstance(value, Real) and not isinstance(value, bool) else value
    found = amount(number)
    if found is None:
        raise InvalidOption(
            t(
                "`{name}` cannot be {shown}; it is an amount in the account's currency, such as "
                "'0.50'.",
                name=name,
                shown=one_line(repr(value), 60),
            ),
            t("Nothing was sent."),
        )
    return found


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a question before it is sent.

    Amounts are in *currency*. *dear* is the price of the worst case. *balance* is
    the last known one. *budget* is what is left of the cell's, *day_left* of the
    *day_limit*; None where there is no such limit. *day_known* is False when the
    ledger could not tell, *fresh* when the balance was to be read anew and was not:
    an old figure refuses nothing.
    """

    request: Request
    estimate: Estimate
    at: datetime
    currency: str | None
    dear: Price | None = None
    balance: Balance | None = None
    budget: Decimal | None = None
    day_limit: Decimal | None = None
    day_left: Decimal | None = None
    day_known: bool = True
    fresh: bool = True

    @property
    def limit(self) -> Decimal | None:
        """The narrowest of the user's own limits; None without any."""
        known = [left for left in (self.budget, self.day_left) if left is not None]
        return min(known, default=None)

    @property
    def needed(self) -> Decimal | None:
        """What the question will probably cost, at the least; None when it is not known."""
        usual = self.estimate.cost
        if usual is None:
            return None
        return usual.low if usual.likely is None else usual.likely


# The checks


_WAY_OUT = later("Try again, or send it all the same: --anyway (anyway=True in Python)")


def day_untold() -> OverLimit:
    """Give the refusal of what the ledger could not reserve for."""
    return OverLimit(
        t("There is a limit for the day, and the ledger cannot tell what was spent today."),
        t("Nothing was sent."),
        t(_WAY_OUT),
    )


def _unknown(facts: Facts) -> OutOfMoney | None:
    """Refuse to guess where the user has set a limit."""
    if facts.budget is None and facts.day_limit is None:
        return None
    if facts.currency is None:
        return OverLimit(
            t(
                "There is a limit, and the account's currency is not known, since its balance "
                "could not be read."
            ),
            t("Nothing was sent."),
            t(_WAY_OUT),
        )
    if facts.estimate.worst is None:
        return _unpriced(one_line(facts.request.model, 60), facts.currency)
    return None if facts.day_known else day_untold()


def _unpriced(model: str, currency: str) -> OverLimit:
    return OverLimit(
        t(
            "There is a limit, and the price of {model!r} in {currency} is not known.",
            model=model,
            currency=currency,
        ),
        t("Nothing was sent."),
        t(
            "Set it: %deepseek prices --set {model} {currency} HIT MISS OUT, or send it all the "
            "same: --anyway (anyway=True in Python)",
            model=model,
            currency=currency,
        ),
    )


def _over_budget(facts: Facts) -> OutOfMoney | None:
    if facts.budget is None or not _passes(facts, facts.budget):
        return None
    return OverLimit(
        t(
            "{costs}, and its budget has {left} left.",
            costs=_may_cost(facts, facts.budget),
            left=at_least(facts.budget, facts.currency),
        ),
        t("Nothing was sent."),
        t(
            "Raise --budget, shorten it, or send it all the same: --anyway (anyway=True in Python)"
            if facts.request.max_tokens is None
            else "Raise --budget, lower --max-tokens, or send it all the same: --anyway "
            "(anyway=True in Python)"
        ),
    )


def _over_day(facts: Facts) -> OutOfMoney | None:
    left = facts.day_left
    if left is None or not _passes(facts, left):
        return None
    limit = facts.day_limit or Decimal(0)
    return OverLimit(
        t(
            "{costs}, and {left} of {limit} is left for today.",
            costs=_may_cost(facts, left),
            left=at_least(max(left, Decimal(0)), None),
            limit=money(limit, facts.currency),
        ),
        t("Nothing was sent."),
        t(
            "Shorten it, raise it: %config DeepSeekMagics.day_limit = '{more}', or send it all the "
            "same: --anyway"
            if facts.request.max_tokens is None
            else "Lower --max-tokens, raise it: %config DeepSeekMagics.day_limit = '{more}', or "
            "send it all the same: --anyway",
            more=_round_up(limit),
        ),
    )


def lacks(facts: Facts) -> bool:
    """Tell whether the balance does not cover the question; an empty one is the API's to tell.

    So is what money of another currency pays for, which is not published.
    """
    known, needed = facts.balance, facts.needed
    left = known.effective if known else None
    if known is None or left is None or needed is None or not 0 < left < needed:
        return False
    return not any(info.total for name, info in known.infos.items() if name != known.currency)


def _too_little(facts: Facts) -> OutOfMoney | None:
    """Refuse what the balance does not cover, where it was read lately."""
    left, needed = facts.balance.effective if facts.balance else None, facts.needed
    if left is None or needed is None or not facts.fresh or not lacks(facts):
        return None
    least = facts.estimate.cost is not None and facts.estimate.cost.likely is None
    return InsufficientBalance(
        t(
            "This question costs at least {cost}, and {left} is left."
            if least
            else "This question costs about {cost}, and {left} is left.",
            cost=money(needed, facts.currency),
            left=at_least(left, facts.currency),
        ),
        t("Nothing was sent."),
        t("Top up, or send it all the same: --anyway (anyway=True in Python)"),
        balance=facts.balance,
    )


CHECKS: tuple[Callable[[Facts], OutOfMoney | None], ...] = (
    _unknown,
    _over_budget,
    _over_day,
    _too_little,
)


def refusal(facts: Facts) -> OutOfMoney | None:
    """Give the first reason not to send a question, with its figures; None when it may go."""
    for check in CHECKS:
        if (error := check(facts)) is not None:
            return _with_figures(error, facts)
    return None


def day_unknown(facts: Facts) -> OutOfMoney:
    """Give the refusal of a question that the ledger could not reserve for."""
    return _with_figures(day_untold(), facts)


def _with_figures(error: OutOfMoney, facts: Facts) -> OutOfMoney:
    error.unsent, error.estimate = True, facts.estimate
    error.balance = error.balance or facts.balance
    return error


def _passes(facts: Facts, left: Decimal) -> bool:
    """Tell whether the question may cost more than is *left*, or will without a bound of its own.

    A question without `max_tokens` gets one that keeps it within the limit, if
    that leaves room for a usual answer.
    """
    estimate, price = facts.estimate, facts.dear
    if estimate.worst is None or estimate.worst <= left:
        return False
    if facts.request.max_tokens is not None or price is None:
        return True
    room = affordable(facts.request, price, left)
    return room is None or room < (estimate.likely_out or 1)


def bounded(facts: Facts) -> Request:
    """Give the request with a `max_tokens` that keeps its worst case within the limits."""
    worst, price, limit = facts.estimate.worst, facts.dear, facts.limit
    if limit is None or worst is None or price is None or worst <= limit:
        return facts.request
    room = affordable(facts.request, price, limit)
    return facts.request if room is None else replace(facts.request, max_tokens=room, limited=True)


def _may_cost(facts: Facts, left: Decimal) -> str:
    """Say what of the estimate does not fit into what is *left*."""
    usual, worst, currency = facts.estimate.cost, facts.estimate.worst, facts.currency
    if usual is not None and usual.likely is not None and usual.likely > left:
        return t("This question usually costs about {cost}", cost=money(usual.likely, currency))
    if usual is not None and usual.low > left:
        return t("This question costs at least {cost}", cost=money(usual.low, currency))
    return t("This question may cost {cost}", cost=money(worst, currency))


def _round_up(limit: Decimal) -> str:
    """Suggest twice a limit, as text to paste."""
    return f"{max(2 * limit, Decimal('0.01')).normalize():f}"


# What would be cheaper


def cheaper(facts: Facts, ask: Callable[[Request, datetime], Estimate]) -> tuple[str, ...]:
    """Name the cheaper ways to ask the same, one sentence each, with their likely cost.

    *ask* estimates another request at another time.
    """
    ways = (_other_model, _less_thinking, _later)
    return tuple(said for way in ways if (said := way(facts, ask)) is not None)


def _other_model(facts: Facts, ask: Callable[[Request, datetime], Estimate]) -> str | None:
    if facts.request.model != SHORT_NAMES["pro"]:
        return None
    less = _less(facts, ask(replace(facts.request, model=SHORT_NAMES["flash"]), facts.at))
    return less and t("The other model costs {less}: -m flash", less=less)


def _less_thinking(facts: Facts, ask: Callable[[Request, datetime], Estimate]) -> str | None:
    if not facts.request.thinks:
        return None
    other = ask(replace(facts.request, think="off"), facts.at)
    if _likely(other) is None:
        return t("Thinking is billed as output; without it answers are shorter: --think off")
    less = _less(facts, other)
    return less and t("Without thinking it costs {less}: --think off", less=less)


def _later(facts: Facts, ask: Callable[[Request, datetime], Estimate]) -> str | None:
    begins = off_peak_from(facts.at)
    if begins <= facts.at:
        return None
    less = _less(facts, ask(facts.request, begins))
    when = clock_time(begins, facts.at)
    return less and t(
        "Off-peak, from {time} your time, it costs {less}: --off-peak", time=when, less=less
    )


def _likely(estimate: Estimate) -> Decimal | None:
    return None if estimate.cost is None else estimate.cost.likely


def _less(facts: Facts, other: Estimate) -> str | None:
    """Say how much less another way costs than this one; None where it does not."""
    mine, its = _likely(facts.estimate), _likely(other)
    if its is not None and mine is not None:
        if its >= mine:
            return None
        its_cost, my_cost = money(its, facts.currency), money(mine, facts.currency)
        return t("about {cost} instead of {usual}", cost=its_cost, usual=my_cost)
    share = _share(facts.estimate.price, other.price)
    return share and t("{share} of it per token", share=share)


def _share(mine: Price | None, its: Price | None) -> str | None:
    if mine is None or its is None or not mine.out or its.out >= mine.out:
        return None
    return f"{its.out / mine.out:.0%}"


# Before sending


@dataclass(frozen=True, slots=True)
class Preview:
    """All that is known of a question before it is sent, for a dry run.

    *other* is the estimate in the hours that come next, from *changes* on. *covers*
    says how many such questions the balance pays for; None when that is not known.
    *refusal* is what a check would say, *steps* what would be cheaper.
    """

    request: Request
    estimate: Estimate
    band: Band
    changes: datetime
    other: Estimate
    balance: Balance | None
    currency: str | None
    covers: int | None
    budget: Decimal | None
    day_limit: Decimal | None
    day_left: Decimal | None
    refusal: OutOfMoney | None
    steps: tuple[str, ...]


def covers(balance: Balance | None, estimate: Estimate) -> int | None:
    """Tell how many questions like this the *balance* pays for."""
    left, likely = balance.effective if balance else None, _likely(estimate)
    if left is None or not likely:
        return None
    with localcontext(EXACT):
        return int((left / likely).to_integral_value(ROUND_DOWN))


def is_near(facts: Facts) -> bool:
    """Tell whether the balance is so near to what is needed that it is worth a fresh reading."""
    left, needed = facts.balance.effective if facts.balance else None, facts.needed
    return left is not None and needed is not None and left < NEAR * needed


def is_old(balance: Balance | None, at: datetime, age: timedelta) -> bool:
    """Tell whether *balance* was read longer ago than *age*."""
    return balance is None or balance.read_at is None or at - balance.read_at > age
