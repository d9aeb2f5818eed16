"""What a request will cost, before it is sent: a usual range, a worst case, and the reason.

Tokens in are counted, or estimated, with what the API itself adds to them. Tokens
out are what answers of this kind have taken before, and at most `max_tokens`.
The usual range goes from a short answer to a question found in the cache, to a
long answer to one that is not; nothing passes the worst case, which is what is
reserved and held against limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext
from types import MappingProxyType
from typing import TYPE_CHECKING

from . import image_tokens
from .errors import one_line
from .prices import PER, charge
from .tokens import Count, framed, most
from .wire import EXACT, CostRange
from .words import later, t, tn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .ledger import Past
    from .prices import Price
    from .wire import Request

LONGEST = 393_216
"""Tokens of the longest answer, its reasoning included (api-docs.deepseek.com/api/list-models).

A request without `max_tokens` has a default that is not published; it cannot be more.
"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request will probably take, and what it takes at most.

    *tokens_out* and *likely_out* are None where no answer of the kind is known;
    *cost*, the usual range, and *worst* where there is no *price*. An answer can
    come out of the usual range, and not over *worst*. *reason* tells an analyst
    how it was reckoned.
    """

    model: str
    tokens_in: Count
    tokens_out: tuple[int, int] | None
    likely_out: int | None
    longest: int
    price: Price | None
    currency: str | None
    cost: CostRange | None
    worst: Decimal | None
    reason: str


def estimate(
    request: Request, price: Price | None, past: Past | None, *, exactly: bool = True
) -> Estimate:
    """Reckon what *request* will cost at *price*, as answers of the *past* tell.

    Unless *exactly*, its tokens are not counted, even where that can be done.
    """
    texts = (message.words for message in request.messages)
    tokens_in = framed(texts, thinks=request.thinks, exactly=exactly)
    tokens_in += image_tokens.count(request.images)
    most_out = longest(request)
    out = None if past is None else _ordered(past, most_out)
    return Estimate(
        model=request.model,
        tokens_in=tokens_in,
        tokens_out=None if out is None else (out[0], out[2]),
        likely_out=None if out is None else out[1],
        longest=most_out,
        price=price,
        currency=None if price is None else price.currency,
        cost=None if price is None else _usual(request, price, tokens_in, out),
        worst=None if price is None else worst(request, price),
        reason=_reason(request, price, past),
    )


def worst(request: Request, price: Price) -> Decimal:
    """Give what *request* costs at most: all that it can hold, and the longest answer."""
    return charge(price, miss=most_in(request), out=longest(request))


def affordable(request: Request, price: Price, money: Decimal) -> int | None:
    """Give the largest `max_tokens` with which *request* costs no more than *money*.

    None when not even an answer of one token is within it. A `max_tokens` that
    the request has is not raised.
    """
    with localcontext(EXACT):
        left = money * PER - most_in(request) * price.miss
        if left < price.out:
            return None
        room = (left / price.out).to_integral_value(ROUND_FLOOR) if price.out else LONGEST
    return min(int(room), longest(request))


def longest(request: Request) -> int:
    """Give the most tokens that an answer to *request* can take."""
    return LONGEST if request.max_tokens is None else min(max(request.max_tokens, 1), LONGEST)


def most_in(request: Request) -> int:
    """Give what *request* has at most, its pictures included."""
    texts = most(message.words for message in request.messages)
    return texts + image_tokens.most(request.images)


def _ordered(past: Past, longest: int) -> tuple[int, int, int]:
    """Give the tokens of a short, a usual and a long answer, none over the *longest*."""
    low, likely, high = sorted((past.low, past.likely, past.high))
    return min(low, longest), min(likely, longest), min(high, longest)


def _usual(
    request: Request, price: Price, tokens_in: Count, out: tuple[int, int, int] | None
) -> CostRange:
    """Give the range in which a question of this kind usually lies, never over the worst case."""
    bound = worst(request, price)
    if out is None:
        return CostRange(min(charge(price, hit=tokens_in.low, out=1), bound), bound)
    high = min(charge(price, miss=tokens_in.high, out=out[2]), bound)
    likely = min(charge(price, miss=tokens_in.likely, out=out[1]), high)
    return CostRange(min(charge(price, hit=tokens_in.low, out=out[0]), likely), high, likely)


# Words


def _reason(request: Request, price: Price | None, past: Past | None) -> str:
    parts = [_known(past), _end(request)]
    if number := len(request.images):
        parts.append(
            tn(
                number,
                "a picture takes up to {most:,} tokens, by its size",
                "each of {n} pictures takes up to {most:,} tokens, by its size",
                most=image_tokens.MOST,
            )
        )
    if price is None:
        parts.append(t("the price of {model} is not known", model=one_line(request.model, 60)))
    return t("; ").join(parts)


def _known(past: Past | None) -> str:
    if past is None:
        return t("no answer of this kind is known yet")
    low, _, high = _ordered(past, LONGEST)
    which = tn(past.number, *_KINDS[past.kind])
    # Past.low and Past.high leave out the shortest and the longest tenth.
    if low < high:
        return t("{which} mostly took {low:,} to {high:,} tokens", which=which, low=low, high=high)
    return tn(high, "{which} took {n:,} token", "{which} took {n:,} tokens", which=which)


_KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "answers of this kind and length": (
            later("{n:,} answer of this kind and length"),
            later("{n:,} answers of this kind and length"),
        ),
        "answers of this kind": (
            later("{n:,} answer of this kind"),
            later("{n:,} answers of this kind"),
        ),
        "answers of this model": (
            later("{n:,} answer of this model"),
            later("{n:,} answers of this model"),
        ),
    }
)


def _end(request: Request) -> str:
    if request.max_tokens is None:
        return t("without --max-tokens it may take up to {n:,}", n=LONGEST)
    return t("--max-tokens ends it at {n:,}", n=longest(request))
