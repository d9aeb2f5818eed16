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
from typing import TYPE_CHECKING

from . import image_tokens
from .errors import one_line
from .prices import PER, charge
from .tokens import Count, framed, most
from .wire import EXACT, CostRange

if TYPE_CHECKING:
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
        each = "a picture takes" if number == 1 else f"each of {number} pictures takes"
        parts.append(f"{each} up to {image_tokens.MOST:,} tokens, by its size")
    if price is None:
        parts.append(f"the price of {one_line(request.model, 60)} is not known")
    return "; ".join(parts)


def _known(past: Past | None) -> str:
    if past is None:
        return "no answer of this kind is known yet"
    kind = past.kind if past.number != 1 else past.kind.replace("answers", "answer", 1)
    low, _, high = _ordered(past, LONGEST)
    # Past.low and Past.high leave out the shortest and the longest tenth.
    took = f"mostly took {low:,} to {high:,}" if low < high else f"took {high:,}"
    return f"{past.number:,} {kind} {took} token{'' if high == 1 else 's'}"


def _end(request: Request) -> str:
    if request.max_tokens is None:
        return f"without --max-tokens it may take up to {LONGEST:,}"
    return f"--max-tokens ends it at {longest(request):,}"
