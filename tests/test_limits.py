"""From facts to a refusal or none: each check, its words, and what it leaves alone."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic import limits, prices
from deepseek_magic.elements import with_code
from deepseek_magic.errors import InsufficientBalance, InvalidOption, OverLimit
from deepseek_magic.estimate import Estimate, estimate
from deepseek_magic.ledger import Past
from deepseek_magic.limits import Cap, Facts
from deepseek_magic.wire import Balance, BalanceInfo, Request, question
from deepseek_magic.words import VARIABLE

CALM = datetime(2026, 11, 21, 2, tzinfo=UTC)
PEAK = CALM - timedelta(days=1)
PAST = Past(number=10, low=500, likely=1000, high=2000, kind="answers of this kind")


def guess(request: Request, at: datetime = CALM, past: Past | None = PAST) -> Estimate:
    return estimate(request, prices.price(request.model, "CNY", at), past)


def facts(*, past: Past | None = PAST, at: datetime = CALM, **more: Any) -> Facts:
    """Make the facts of a question that usually costs 0.004 CNY, and whatever else is said."""
    settings = {name: more.pop(name) for name in ("model", "think", "max_tokens") if name in more}
    request = question("Why?", **{"think": "off", **settings})
    price = prices.price(request.model, "CNY", at)
    known = {"currency": "CNY", "dear": price, **more}
    return Facts(request=request, estimate=guess(request, at, past), at=at, **known)


def holding(amount: str, currency: str = "CNY") -> Balance:
    return Balance(True, {currency: BalanceInfo(currency, Decimal(amount))}, CALM)


# -- what passes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"balance": holding("0.005")},
        {"balance": holding("0")},
        {"balance": Balance(None, {}, None)},
        {"balance": Balance(False, {"CNY": BalanceInfo("CNY", None)}, CALM)},
        {"budget": Decimal(2)},
        {"budget": Decimal("0.01")},
        {"day_limit": Decimal(1), "day_left": Decimal("0.01")},
        {"currency": None, "dear": None},
    ],
    ids=str,
)
def test_nothing_speaks_against_it(known: dict[str, Any]) -> None:
    """Money that does passes, and so does what is unknown, empty or unlimited."""
    assert limits.refusal(facts(**known)) is None


# -- what does not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "kind", "words"),
    [
        (
            {"balance": holding("0.001")},
            InsufficientBalance,
            ["costs about 0.004 CNY", "0.001 CNY is left", "--anyway"],
        ),
        (
            {"balance": holding("0.0000001"), "past": None},
            InsufficientBalance,
            ["costs at least", "0.0000001 CNY is left"],
        ),
        (
            {"budget": Decimal("0.001")},
            OverLimit,
            ["usually costs about 0.004 CNY", "budget has 0.001 CNY left", "Raise --budget"],
        ),
        (
            {"budget": Decimal("0.006"), "max_tokens": 2000},
            OverLimit,
            ["may cost 0.0083 CNY", "lower --max-tokens"],
        ),
        (
            {"budget": Decimal("0.0001"), "past": None},
            OverLimit,
            ["budget has 0.0001 CNY left"],
        ),
        (
            {"day_limit": Decimal(5), "day_left": Decimal("0.001")},
            OverLimit,
            ["0.001 of 5.00 CNY is left for today", "DeepSeekMagics.day_limit = '10'"],
        ),
        (
            {"day_limit": Decimal(5), "day_left": Decimal(-1)},
            OverLimit,
            ["0.00 of 5.00 CNY is left for today"],
        ),
        (
            {"day_limit": Decimal(5), "day_known": False},
            OverLimit,
            ["the ledger cannot tell what was spent today"],
        ),
        (
            {"budget": Decimal(5), "currency": None},
            OverLimit,
            ["the account's currency is not known"],
        ),
        (
            {"budget": Decimal(5), "model": "v9"},
            OverLimit,
            ["price of 'v9' in CNY is not known", "%deepseek prices --set v9 CNY HIT MISS OUT"],
        ),
    ],
    ids=str,
)
def test_a_refusal(known: dict[str, Any], kind: type[Exception], words: list[str]) -> None:
    """A refusal says what happened with its figures, that nothing was sent, and what to do."""
    refused = limits.refusal(facts(**known))

    assert type(refused) is kind
    assert refused is not None
    assert refused.unsent
    assert "Nothing was sent." in str(refused)
    assert "\n" not in str(refused)
    for word in words:
        assert word in str(refused)


def test_the_narrowest_limit_bounds_the_answer() -> None:
    """Of a budget and what is left of the day the smaller one sets `max_tokens`."""
    both = facts(budget=Decimal("0.03"), day_limit=Decimal(5), day_left=Decimal("0.01"), past=None)
    bounded = limits.bounded(both)

    assert bounded.max_tokens is not None
    worst = guess(bounded).worst
    assert worst is not None
    assert Decimal("0.009") < worst <= Decimal("0.01")
    assert limits.bounded(replace(both, budget=None, day_left=None)).max_tokens is None


def test_a_bound_of_the_users_own_stays() -> None:
    """A `max_tokens` that fits is left as it is."""
    assert limits.bounded(facts(budget=Decimal(1), max_tokens=70)).max_tokens == 70


# -- what would be cheaper -------------------------------------------------------------------


def test_cheaper_ways() -> None:
    """The other model, less thinking and other hours are named with what they cost, to paste."""
    dear = facts(model="pro", think="high", at=PEAK)

    def ask(request: Request, at: datetime) -> Estimate:
        return guess(request, at, PAST if request.thinks else replace(PAST, likely=600))

    ways = limits.cheaper(dear, ask)

    assert [way.rpartition(": ")[2] for way in ways] == ["-m flash", "--think off", "--off-peak"]
    assert "instead of" in ways[0]
    assert "Off-peak, from" in ways[2]


def test_cheaper_ways_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be pasted stands at the end in this language, too, and is set off."""
    monkeypatch.setenv(VARIABLE, "zh")
    dear = facts(model="pro", think="high", at=PEAK)

    ways = limits.cheaper(dear, guess)

    flags = ["-m flash", "--off-peak"]
    assert [way.rpartition("：")[2] for way in ways] == flags
    assert [re.findall("<code[^>]*>(.*)</code>", with_code(way)) for way in ways] == [
        [flag] for flag in flags
    ]


def test_a_way_that_costs_as_much_is_none() -> None:
    """Where nothing is saved, as with a price of the user's own for all hours, nothing is named."""
    dear = facts(think="high", at=PEAK)

    assert limits.cheaper(dear, lambda *_: dear.estimate) == ()


def test_no_cheaper_way() -> None:
    """What is cheap already has none."""
    assert limits.cheaper(facts(), guess) == ()


# -- caps ------------------------------------------------------------------------------------


@given(
    st.decimals("0", "10", places=6),
    st.lists(st.tuples(st.decimals("0", "3", places=6), st.decimals("0", "1", places=3))),
)
def test_a_cap_is_never_passed(amount: Decimal, tries: list[tuple[Decimal, Decimal]]) -> None:
    """Whatever is reserved and paid in any order, no more than the cap is taken."""
    cap, paid, open_ones = Cap(amount), Decimal(0), []

    for number, (worst, share) in enumerate(tries):
        if cap.hold(number, worst):
            open_ones.append((number, worst, worst * share))
        assert paid + sum(one for _, one, _ in open_ones) + cap.left == amount
        assert cap.left >= 0
        if open_ones and number % 2:
            name, _, cost = open_ones.pop(0)
            cap.release(name, cost)
            paid += cost
    for name, _, cost in open_ones:
        cap.release(name, cost)
    paid += sum(cost for _, _, cost in open_ones)

    assert cap.left == amount - paid >= 0


def test_many_threads_share_a_cap() -> None:
    """Threads that reserve at once get no more than there is, to the last one."""
    cap, taken = Cap(Decimal(100)), list[int]()

    def take() -> None:
        taken.extend(1 for _ in range(100) if cap.hold(object(), Decimal(1)))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(taken) == 100
    assert cap.left == 0


# -- amounts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "read"),
    [(None, None), ("0.5", "0.5"), (0.5, "0.5"), (1, "1"), (Decimal("2.50"), "2.50"), ("0", "0")],
)
def test_an_amount(value: object, read: str | None) -> None:
    """A limit is read from text and from any number; None sets none."""
    assert limits.read_amount("budget", value) == (None if read is None else Decimal(read))


@pytest.mark.parametrize("value", ["", "ten", "-1", True, float("inf"), [], "1e99"])
def test_no_amount(value: object) -> None:
    """What is no amount is told in one line."""
    with pytest.raises(InvalidOption, match=r"`budget` cannot be .* such as '0.50'"):
        limits.read_amount("budget", value)


# -- before sending --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("balance", "past", "number"),
    [
        (holding("1"), PAST, 234),
        (holding("0"), PAST, 0),
        (holding("1"), None, None),
        (None, PAST, None),
        (Balance(None, {}, None), PAST, None),
    ],
)
def test_what_the_balance_covers(
    balance: Balance | None, past: Past | None, number: int | None
) -> None:
    """The balance covers so many questions like this; nobody knows without a likely cost."""
    found = limits.covers(balance, guess(question("Why?", think="off"), past=past))

    assert (found is None) == (number is None)
    assert found is None or number is None or abs(found - number) <= 15
