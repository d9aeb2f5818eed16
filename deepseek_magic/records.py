"""What the ledger is told of a call: what it may cost as it goes out, what it did as it ended."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from . import prices
from .errors import BrokenAnswer, ConnectionFailed, DeepSeekError, OutOfMoney, RequestRefused
from .estimate import most_in
from .ledger import Outcome, State
from .tokens import approximate
from .wire import Answer, CostRange, Request, Usage

if TYPE_CHECKING:
    from .estimate import Estimate
    from .prices import Price

FREE: frozenset[State] = frozenset({"refused", "failed"})
"""How a call ends that costs nothing."""

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode

SHAPELESS = frozenset({"max_tokens", "stream", "stream_options"})
"""Settings of a request that do not shape a whole answer."""

UNSETTLED: frozenset[State] = frozenset({"partial", "interrupted"})
"""How a call ends that may be billed although its usage never arrived."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that went out: its entry in the ledger, its request, and what it was to cost.

    *estimate* bounds what is billed where the usage never arrives.
    """

    entry: int
    request: Request
    estimate: Estimate
    at: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that has ended: what came of it, how, and when."""

    call: Call
    answer: Answer
    state: State
    at: datetime
    error: DeepSeekError | None = None

    def priced(self, currency: str | None, own: Sequence[Price]) -> tuple[Answer, Price | None]:
        """Price the answer: as the model that answered, else as the one that was asked.

        Which moment of a request decides its hours is not published, so one that
        saw the prices change has a range.
        """
        asked = self.call.request.model
        for model in (self.answer.model or asked, asked):
            first = prices.price(model, currency, self.call.at, own=own)
            if first is not None:
                last = prices.price(model, currency, self.at, own=own)
                return self._with_cost(currency, first, last), first
        return replace(self.answer, cost=None, cost_range=None, currency=currency), None

    def _with_cost(self, currency: str | None, first: Price, last: Price | None) -> Answer:
        paid = prices.paid(self.answer.usage, first, last)
        if paid is None and self.state not in FREE:
            paid = self._at_most(first, last)
        return replace(
            self.answer,
            cost=paid if isinstance(paid, Decimal) else None,
            cost_range=paid if isinstance(paid, CostRange) else None,
            currency=currency,
        )

    def _at_most(self, first: Price, last: Price | None) -> CostRange | None:
        """Bound what may be billed for an answer whose usage never arrived.

        Nothing is published about what an answer that was broken off costs.
        """
        guess = self.call.estimate
        dear = prices.dearest(first, last) or first
        if guess.currency is not None and guess.currency != dear.currency:
            return None
        out = min(arrived(self.answer), guess.longest)
        likely = prices.cost(_usage(guess.tokens_in.likely, out), first)
        high = prices.cost(_usage(most_in(self.call.request), guess.longest), dear)
        if likely is None or high is None:
            return None
        return CostRange(Decimal(0), max(high, likely), likely)

    def outcome(self, currency: str | None, own: Sequence[Price]) -> tuple[Answer, Outcome]:
        """Give the priced answer, and what the ledger is told of it."""
        answer, found = self.priced(currency, own)
        return answer, Outcome(
            state=self.state,
            at=self.at,
            model=answer.model,
            seconds=answer.seconds,
            finish_reason=answer.finish_reason,
            error=None if self.error is None else str(self.error),
            trace_id=None if self.error is None else self.error.trace_id,
            answer=answer.text or None,
            reasoning=answer.reasoning or None,
            **price_columns(answer, found),
            **counts_of(answer.usage),
        )

    @property
    def is_unsure(self) -> bool:
        """Whether the API may have billed this call, and nobody can tell."""
        return self.state in UNSETTLED and self.answer.usage is None


def counts_of(usage: Usage | None) -> dict[str, Any]:
    """Give the counts of *usage* by their names."""
    return {name: getattr(usage, name, None) for name in Usage.__slots__}


def _usage(prompt: int, out: int) -> Usage:
    return Usage(prompt, out, prompt_cache_hit_tokens=0, prompt_cache_miss_tokens=prompt)


def arrived(answer: Answer) -> int:
    """Reckon the tokens of what has arrived of *answer*."""
    return approximate(answer.reasoning).likely + approximate(answer.text).likely


def price_columns(answer: Answer, found: Price | None) -> dict[str, Any]:
    """Give the columns of the ledger that are known once the currency is."""
    return {
        "price": f"{found.hit}/{found.miss}/{found.out}" if found else None,
        "band": found.band if found else None,
        "currency": answer.currency,
        "cost": answer.cost,
        "cost_range": answer.cost_range,
        "saved": prices.saved(answer.usage, found) if found else None,
    }


def at_most(answer: Answer) -> Decimal | None:
    """Give what an ended call can have cost at most; None when that is not known."""
    return answer.cost_range.high if answer.cost_range is not None else answer.cost


def answer_of(row: Mapping[str, Any]) -> Answer:
    """Read the answer of an entry of the ledger."""
    usage = Usage(**{name: row[name] for name in Usage.__slots__})
    span = None
    if row.get("low") is not None and row.get("high") is not None:
        span = CostRange(row["low"], row["high"], row.get("likely"))
    return Answer(
        text=row["answer"] or "",
        reasoning=row["reasoning"] or "",
        usage=None if usage == Usage() else usage,
        cost_range=span,
        **{n: row[n] for n in ("model", "finish_reason", "cost", "currency", "seconds")},
    )


def as_sent(request: Request) -> str:
    """Give the text that names *request* in the ledger: all that shapes its answer.

    A picture is named by what it is and a hash of its bytes, which are not kept.
    """
    return _ENCODE(request.body(brief=True))


def name_of(request: Request, shape: bytes | None = None) -> str:
    """Name a question by all that shapes its answer, for finding it in the ledger.

    A bound on the answer's length does not: what ended by itself within one bound
    is the answer under any other that it keeps to. *shape* is that of the request,
    where it is known.
    """
    asks = request.messages[-1].content.encode("utf-8", "surrogatepass")
    named = hashlib.blake2b(asks, digest_size=15, key=shape or shape_of(request))
    return base64.urlsafe_b64encode(named.digest()).decode()


def shape_of(request: Request) -> bytes:
    """Name all of *request* but what its last message says, which differs from row to row."""
    *before, last = request.messages
    body = replace(request, messages=(*before, replace(last, content=""))).body(brief=True)
    shaping = {name: value for name, value in body.items() if name not in SHAPELESS}
    told = json.dumps(shaping, sort_keys=True).encode()
    return hashlib.blake2b(told, digest_size=32).digest()


def state_of(error: DeepSeekError | None) -> State:
    """Tell how a call ended, by its *error*."""
    match error:
        case None:
            return "done"
        case ConnectionFailed():
            return "failed"
        case BrokenAnswer():
            return "partial"
        case OutOfMoney() | RequestRefused():
            return "partial" if error.may_be_billed else "refused"
        case _:
            return "unusable"
