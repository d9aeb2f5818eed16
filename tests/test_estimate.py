from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Context, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic.estimate import LONGEST, affordable, estimate, worst
from deepseek_magic.ledger import Past
from deepseek_magic.prices import PER, Price, cost
from deepseek_magic.tokens import most
from deepseek_magic.wire import Message, Request, Usage, question

PRICE = Price(
    model="deepseek-flash",
    currency="CNY",
    band="off-peak",
    since=datetime(2026, 9, 10, tzinfo=UTC),
    hit=Decimal("0.02"),
    miss=Decimal(1),
    out=Decimal(4),
)
KIND = "answers of this kind and length"
UNBOUND = "without --max-tokens it may take up to 393,216"
PAST = Past(number=24, low=120, likely=400, high=900, kind=KIND)

FIGURES = st.decimals(0, 1000, places=4)
PRICES = st.builds(
    lambda hit, more, out: replace(PRICE, hit=hit, miss=hit + more, out=out),
    FIGURES,
    FIGURES,
    FIGURES,
)
COUNTS = st.integers(0, LONGEST)
PASTS = st.builds(
    Past, number=st.integers(1, 50), low=COUNTS, likely=COUNTS, high=COUNTS, kind=st.just(KIND)
)
REQUESTS = st.builds(
    lambda texts, think, max_tokens: Request(
        tuple(Message("user", text) for text in texts), think=think, max_tokens=max_tokens
    ),
    st.lists(st.text(max_size=200), min_size=1, max_size=4),
    st.sampled_from(["off", "low", "high", "max", None]),
    st.none() | st.integers(1, 2 * LONGEST),
)


# The usual range and the worst case


@given(REQUESTS, PRICES, st.none() | PASTS)
def test_the_range_is_in_order(request: Request, price: Price, past: Past | None) -> None:
    """Low is not over likely, likely not over high, and high not over the worst case."""
    found = estimate(request, price, past)

    assert found.cost is not None
    assert found.worst is not None
    likely = found.cost.low if found.cost.likely is None else found.cost.likely
    assert 0 <= found.cost.low <= likely <= found.cost.high <= found.worst


@given(REQUESTS, PRICES, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_no_bill_passes_the_worst_case(
    request: Request, price: Price, filled: float, cached: float, length: float
) -> None:
    """Whatever of the text is billed, cached or not, with an answer of any length: it is inside."""
    prompt = int(filled * most(message.content for message in request.messages))
    hit = int(cached * prompt)
    out = int(length * estimate(request, price, None).longest)

    bill = cost(Usage(prompt, out, hit, prompt - hit), price)

    assert bill is not None
    assert bill <= worst(request, price)


def test_a_usual_bill_is_in_the_usual_range() -> None:
    """Answers like the earlier ones cost what the range says, found in the cache or not."""
    request = question("How are price and demand related?", think="off", max_tokens=2000)

    found = estimate(request, PRICE, PAST)

    assert found.cost is not None
    for prompt, hit, out in ((12, 0, 120), (12, 12, 120), (9, 0, 900), (15, 0, 400)):
        bill = cost(Usage(prompt, out, hit, prompt - hit), PRICE)
        assert bill is not None
        assert found.cost.low <= bill <= found.cost.high


def test_the_figures_of_an_estimate() -> None:
    """The range goes from a cached question and a short answer to a new one and a long one."""
    request = question("Why?", think="off", max_tokens=2000)

    found = estimate(request, PRICE, PAST)

    assert found.cost is not None
    assert found.cost.low == (found.tokens_in.low * PRICE.hit + 120 * PRICE.out) / PER
    assert found.cost.likely == (found.tokens_in.likely * PRICE.miss + 400 * PRICE.out) / PER
    assert found.cost.high == (found.tokens_in.high * PRICE.miss + 900 * PRICE.out) / PER
    assert found.worst == (most(["Why?"]) * PRICE.miss + 2000 * PRICE.out) / PER
    assert (found.tokens_out, found.likely_out, found.longest) == ((120, 900), 400, 2000)
    assert (found.model, found.currency, found.price) == ("deepseek-flash", "CNY", PRICE)


def test_without_earlier_answers_there_is_no_likely_cost() -> None:
    """Where nothing is known, the range goes from one token to the worst case."""
    request = question("Why?", max_tokens=500)

    found = estimate(request, PRICE, None)

    assert found.cost is not None
    assert found.cost.likely is None
    assert found.cost.low == (found.tokens_in.low * PRICE.hit + PRICE.out) / PER
    assert found.cost.high == found.worst
    assert (found.tokens_out, found.likely_out) == (None, None)


def test_a_bound_shortens_what_is_expected() -> None:
    """An answer is not expected to be longer than `max_tokens` lets it."""
    found = estimate(question("Why?", max_tokens=300), PRICE, PAST)

    assert (found.tokens_out, found.likely_out, found.longest) == ((120, 300), 300, 300)
    assert found.cost is not None
    assert found.worst is not None
    assert found.cost.high <= found.worst


@pytest.mark.parametrize("max_tokens", [None, LONGEST, LONGEST + 1])
def test_the_longest_answer_is_the_apis(max_tokens: int | None) -> None:
    """Without a bound, or with a higher one, an answer ends where the API ends it."""
    request = question("Why?", max_tokens=max_tokens)

    assert estimate(request, PRICE, None).longest == LONGEST


@pytest.mark.parametrize("past", [None, PAST])
def test_an_unknown_price_leaves_the_cost_unknown(past: Past | None) -> None:
    """Without a price the tokens are told and no amount, not even a worst one."""
    found = estimate(question("Why?", model="my-model", max_tokens=500), None, past)

    assert (found.cost, found.worst, found.price, found.currency) == (None, None, None, None)
    assert found.tokens_in.likely > 0
    assert found.longest == 500


def test_thinking_may_add_instructions() -> None:
    """What the API writes about thinking is in the high count of a request that thinks."""
    thinking, plain = (
        estimate(question("Why?", think=think), PRICE, None).tokens_in for think in ("high", "off")
    )

    assert plain.high < 92 < thinking.high
    assert thinking.low == plain.low


def test_every_message_counts() -> None:
    """A conversation has the tokens of all its turns."""
    turns = tuple(Message("user", "How are price and demand related? " * 20) for _ in range(3))

    one, three = (estimate(Request(turns[:number]), PRICE, None).tokens_in.low for number in (1, 3))

    assert three == 3 * one


def test_an_estimate_is_exact_in_every_context() -> None:
    """The figures do not depend on how precisely the notebook reckons."""
    request = question("Why? " * 1000, max_tokens=12_345)
    money = Decimal("0.123456789")
    expected = estimate(request, PRICE, PAST), affordable(request, PRICE, money)

    with localcontext(Context(prec=2)):
        assert (estimate(request, PRICE, PAST), affordable(request, PRICE, money)) == expected


# What is affordable


@given(REQUESTS, PRICES, st.decimals(0, 500, places=9))
def test_what_is_affordable_is_the_most_that_is(
    request: Request, price: Price, money: Decimal
) -> None:
    """With the bound that is given the worst case is within the money, and with one more not."""
    longest = estimate(request, price, None).longest

    room = affordable(request, price, money)

    if room is None:
        assert worst(replace(request, max_tokens=1), price) > money
    else:
        assert 1 <= room <= longest
        assert worst(replace(request, max_tokens=room), price) <= money
        if room < longest:
            assert worst(replace(request, max_tokens=room + 1), price) > money


def test_a_bound_of_the_users_own_is_not_raised() -> None:
    """A request that asks for less than is affordable keeps its `max_tokens`."""
    request = question("Why?", max_tokens=50)

    assert affordable(request, PRICE, Decimal(100)) == 50
    assert affordable(replace(request, max_tokens=None), PRICE, Decimal(100)) == LONGEST


@pytest.mark.parametrize("money", ["0", "-1", "0.000001", "0.000263"])
def test_too_little_money_affords_nothing(money: str) -> None:
    """Where the text alone takes the money, no answer is affordable."""
    assert affordable(question("Why?"), PRICE, Decimal(money)) is None


def test_the_last_token_is_affordable() -> None:
    """Money for exactly one token of an answer is enough for it."""
    request = question("Why?")
    money = worst(replace(request, max_tokens=1), PRICE)

    assert affordable(request, PRICE, money) == 1
    assert affordable(request, PRICE, money - Decimal("0.000000000001")) is None


def test_a_model_that_costs_nothing_is_always_affordable() -> None:
    """A model of the user's own that costs nothing can be asked without money."""
    free = replace(PRICE, hit=Decimal(0), miss=Decimal(0), out=Decimal(0))

    assert affordable(question("Why?"), free, Decimal(0)) == LONGEST


# Words


@pytest.mark.parametrize(
    ("past", "max_tokens", "reason"),
    [
        (
            PAST,
            2000,
            f"24 {KIND} mostly took 120 to 900 tokens; --max-tokens ends it at 2,000",
        ),
        (
            Past(1, 1200, 1200, 1200, "answers of this model"),
            None,
            f"1 answer of this model took 1,200 tokens; {UNBOUND}",
        ),
        (
            Past(3, 1, 1, 1, "answers of this model"),
            500_000,
            "3 answers of this model took 1 token; --max-tokens ends it at 393,216",
        ),
        (
            None,
            None,
            f"no answer of this kind is known yet; {UNBOUND}",
        ),
        (None, 300, "no answer of this kind is known yet; --max-tokens ends it at 300"),
    ],
)
def test_an_estimate_gives_its_reason(
    past: Past | None, max_tokens: int | None, reason: str
) -> None:
    """The reason names what was known, and what ends the answer."""
    assert estimate(question("Why?", max_tokens=max_tokens), PRICE, past).reason == reason


def test_the_reason_of_an_unpriced_estimate() -> None:
    """Where the price is what is missing, the reason says so."""
    found = estimate(question("Why?", model="my-model", max_tokens=300), None, PAST)

    assert found.reason.endswith("; the price of my-model is not known")
