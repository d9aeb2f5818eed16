from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic.entries import Spending
from deepseek_magic.reconcile import Finding, findings

START = datetime(2026, 9, 21, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
CENT = Decimal("0.01")
ROUNDINGS = (ROUND_DOWN, ROUND_CEILING, ROUND_HALF_EVEN)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


@dataclass
class Account:
    """An account as the API sees it: money that goes and comes, shown late and rounded."""

    balance: Decimal = Decimal(100)
    rounding: str = ROUND_DOWN
    moves: list[tuple[datetime, Decimal]] = field(default_factory=list)
    spending: list[Spending] = field(default_factory=list)
    readings: list[tuple[datetime, Decimal]] = field(default_factory=list)

    def spend(
        self,
        when: datetime,
        cost: str | Decimal,
        *,
        lag: timedelta = timedelta(0),
        took: timedelta = timedelta(seconds=5),
        billed: str | Decimal | None = None,
        spread: tuple[str, str | None] | None = None,
    ) -> None:
        """Ask a question that ends at *when* and shows *lag* later; *billed* where that differs."""
        paid = Decimal(cost)
        low, high = (paid, paid) if spread is None else spread
        most = None if high is None else Decimal(high)
        self.spending.append(Spending(when, "CNY", Decimal(low), most, sent=when - took))
        self.moves.append((when + lag, -Decimal(paid if billed is None else billed)))

    def other(self, when: datetime, amount: str | Decimal) -> None:
        """Let somebody else spend *amount*, or pay it in where it is negative."""
        self.moves.append((when, -Decimal(amount)))

    def read(self, *whens: datetime) -> None:
        """Read the balance at each of *whens*."""
        for when in whens:
            left = self.balance + sum((m for moved, m in self.moves if moved <= when), Decimal(0))
            self.readings.append((when, max(left, Decimal(0)).quantize(CENT, self.rounding)))

    def found(self, currency: str = "CNY") -> list[Finding]:
        """Compare what was read with what was recorded."""
        return findings(self.readings, self.spending, currency)


def test_what_is_recorded_fits() -> None:
    """Days of questions whose charges show at once leave nothing to tell."""
    account = Account()
    for day in range(5):
        account.read(at(24 * day))
        for n in range(10):
            account.spend(at(24 * day + 1 + n / 10), "0.123")
            account.read(at(24 * day + 1 + n / 10) + MINUTE)
        account.read(at(24 * day + 9))

    assert account.found() == []


def test_a_charge_that_shows_late_is_no_finding() -> None:
    """Readings right after a question may show it or not."""
    account = Account()
    account.read(at(0))
    account.spend(at(1), "1.34", lag=30 * MINUTE)
    account.read(at(1), at(1) + 10 * MINUTE, at(1) + 29 * MINUTE, at(2))

    assert account.found() == []


def test_a_charge_that_shows_before_its_answer_was_read_is_no_finding() -> None:
    """An answer that is read slowly is charged before it ends here."""
    account = Account()
    account.read(at(0))
    account.spend(at(3), "1.34", took=2 * HOUR, lag=-HOUR)
    account.read(at(2.5), at(4))

    assert account.found() == []


def test_other_use_while_nothing_was_asked() -> None:
    """A fall without a question is other use, with its time and amount."""
    account = Account()
    account.spend(at(0), "0.50")
    account.read(at(9), at(9.5))
    account.other(at(11), "1.20")
    account.read(at(13), at(14))

    (found,) = account.found()

    assert found.kind == "other use"
    assert (found.since, found.until) == (at(9.5), at(13))
    assert found.amount == Decimal("1.20")
    assert found.recorded == 0


def test_other_use_beside_questions() -> None:
    """A fall that is larger than the questions' cost is other use too, if it happened once."""
    account = Account()
    for day in range(6):
        account.read(at(24 * day))
        account.spend(at(24 * day + 1), "0.80")
        account.read(at(24 * day + 3))
    account.other(at(49), "2.00")
    account.readings.clear()
    account.read(*(at(24 * day + hour) for day in range(6) for hour in (0, 3)))

    (found,) = account.found()

    assert found.kind == "other use"
    assert (found.since, found.until) == (at(48), at(51))
    assert found.amount == Decimal("2.00")
    assert found.recorded == Decimal("0.80")


def test_many_small_falls_are_one_finding() -> None:
    """Use that never passes the rounding by itself is told when it has added up."""
    account = Account()
    for hour in range(300):
        account.other(at(hour) + MINUTE, "0.007")
        account.read(at(hour + 1))

    (found,) = account.found()

    assert found.kind == "other use"
    assert Decimal("2.00") <= found.amount <= Decimal("2.12")


def test_other_use_long_after_is_another_finding() -> None:
    """What lies a week apart is told apart."""
    account = Account()
    for day in (1, 10):
        account.other(at(24 * day) + MINUTE, "1.00")
    account.read(*(at(24 * day + hour) for day in range(12) for hour in (0, 1)))

    assert [one.since for one in account.found()] == [at(24), at(240)]


@pytest.mark.parametrize("factor", ["2", "1.5", "1.25", "0.5", "0.8"])
def test_new_prices(factor: str) -> None:
    """A bill in a steady ratio to what is recorded tells of prices, and since when."""
    account = Account()
    for day in range(12):
        account.read(at(24 * day))
        cost = Decimal("2.31") + Decimal(day % 5) / 3
        billed = cost * Decimal(factor) if day >= 6 else cost
        account.spend(at(24 * day + 1), cost, billed=billed)
        account.read(at(24 * day + 2))

    (found,) = account.found()

    assert found.kind == "prices"
    assert at(24 * 6) < found.since <= at(24 * 6 + 1)
    assert found.until == at(24 * 11 + 2)
    assert f"by about {Decimal(factor):.2f} CNY for each CNY" in found.text()


def test_two_comparisons_tell_of_prices() -> None:
    """A ratio that comes back once, to the percent, is enough to say "may"."""
    account = Account()
    for day, cost in enumerate(("3.10", "4.70")):
        account.read(at(24 * day))
        account.spend(at(24 * day + 1), cost, billed=Decimal(cost) * Decimal("1.5"))
        account.read(at(24 * day + 2))

    assert [one.kind for one in account.found()] == ["prices"]


def test_scattered_falls_beside_questions_are_no_prices() -> None:
    """Falls in no ratio to the questions are other use, however many."""
    account = Account()
    extras = ("0.31", "2.50", "0.90", "5.10", "0.12", "1.75", "3.33", "0.55")
    for day, extra in enumerate(extras):
        account.read(at(24 * day))
        account.spend(at(24 * day + 1), "1.00")
        account.other(at(24 * day + 1), extra)
        account.read(at(24 * day + 2))

    (found,) = account.found()

    assert found.kind == "other use"
    assert found.amount == sum(map(Decimal, extras))


def test_prices_beside_other_use() -> None:
    """Both are told, each with its own time."""
    account = Account()
    account.other(at(24 * 2 + 12), "3.00")
    for day in range(10):
        account.read(at(24 * day))
        cost = Decimal(1) + Decimal(day) / 7
        account.spend(at(24 * day + 1), cost, billed=cost * 2 if day >= 5 else cost)
        account.read(at(24 * day + 3))

    first, second = account.found()

    assert (first.kind, first.since, first.until) == ("other use", at(51), at(72))
    assert (second.kind, second.since) == ("prices", at(121) - timedelta(seconds=5))


def test_new_prices_explain_what_was_in_doubt() -> None:
    """A question that a reading may hold already is charged at the new prices too."""
    account = Account()
    for day in range(6):
        account.read(at(24 * day))
        account.spend(at(24 * day + 1), "2.00", billed="4.00")
        account.read(at(24 * day + 3))
    account.spend(at(24 * 5 + 3) + MINUTE, "0.039", billed="0.078")
    account.read(at(24 * 5 + 5))

    assert [one.kind for one in account.found()] == ["prices"]


@pytest.mark.parametrize("amount", ["10", "0.50", "137.42"])
def test_a_rise_is_a_top_up(amount: str) -> None:
    """Money that came in is nothing to tell, and nothing is said of the time in which it came."""
    account = Account()
    account.read(at(0))
    account.spend(at(1), "0.30")
    account.other(at(2), "-" + amount)
    account.read(at(4))
    account.spend(at(5), "0.30")
    account.read(at(7))

    assert account.found() == []


def test_a_top_up_that_was_spent_before_it_was_seen() -> None:
    """A whole amount that is missing in a fall is a top-up and not a price."""
    account = Account()
    account.read(at(0))
    for n in range(10):
        account.spend(at(1 + n / 10), "2.13")
    account.other(at(1.5), "-20")
    account.read(at(4))

    assert account.found() == []


def test_a_fall_that_is_too_small_for_any_top_up_tells_of_prices() -> None:
    """Less than a whole unit is missing: nobody pays that in."""
    account = Account()
    account.read(at(0))
    account.spend(at(1), "1.00", billed="0.50")
    account.read(at(4))

    (found,) = account.found()

    assert (found.kind, found.amount) == ("prices", Decimal("-0.50"))
    assert "by about 0.50 CNY for each CNY recorded here" in found.text()


def test_an_account_that_ran_empty_pays_less() -> None:
    """The last answer may cost more than was left; that is no new price."""
    account = Account(balance=Decimal("0.50"))
    account.read(at(0))
    account.spend(at(1), "0.95")
    account.read(at(2))
    account.moves.append((at(3), Decimal("10.45")))
    account.read(at(4))

    assert account.found() == []


def test_a_cost_that_is_a_range_explains_what_lies_in_it() -> None:
    """An answer that broke off may have cost anything in its range."""
    account = Account()
    account.read(at(0))
    account.spend(at(1), "0.70", spread=("0", "1.60"))
    account.read(at(2))
    account.other(at(3), "0.40")
    account.read(at(4))

    (found,) = account.found()

    assert (found.since, found.amount) == (at(2), Decimal("0.40"))


def test_a_cost_that_nobody_knows_ends_the_comparison() -> None:
    """Nothing is said of a time with a question that has no price, and all of that before it."""
    account = Account()
    account.read(at(0))
    account.other(at(1), "0.40")
    account.read(at(2))
    account.spend(at(3), "7.77", spread=("0", None))
    account.read(at(4))

    (found,) = account.found()

    assert (found.until, found.amount) == (at(2), Decimal("0.40"))


def test_another_currency_is_left_out() -> None:
    """Spending in one currency explains nothing in the other."""
    account = Account()
    account.read(at(0))
    account.spend(at(1), "0.50")
    account.read(at(2))

    account.spending = [replace(one, currency="USD") for one in account.spending]

    assert [one.kind for one in account.found()] == ["other use"]


def test_spending_without_a_currency_may_be_of_any() -> None:
    """What was asked before the currency was known is in no comparison."""
    account = Account()
    account.read(at(0))
    account.spend(at(1), "0.50", spread=("0", None))
    account.read(at(2))

    account.spending = [replace(one, currency=None) for one in account.spending]

    assert account.found() == []


@pytest.mark.parametrize("readings", [[], [(at(0), Decimal(5))]])
def test_nothing_to_compare(readings: list[tuple[datetime, Decimal]]) -> None:
    """Fewer than two readings tell nothing."""
    assert findings(readings, [], "CNY") == []


def test_asking_without_a_pause_is_compared_too() -> None:
    """Use at all hours leaves a part in doubt, and what is far beyond it is told."""
    account = Account(balance=Decimal(1000))
    for n in range(24 * 12 * 7):
        account.spend(at(n / 12), "0.20", lag=timedelta(minutes=n % 31))
        account.read(at(n / 12))
    honest = account.found()
    account.other(at(70), "12.00")
    account.readings.clear()
    account.read(*(at(n / 12) for n in range(24 * 12 * 7)))

    (found,) = account.found()

    assert honest == []
    assert found.kind == "other use"
    assert found.since < at(70) <= found.until
    assert Decimal(4) < found.amount <= Decimal("12.02")


# What is said


def test_the_sentence_of_other_use() -> None:
    """One line with the reader's time, the amount, and what it may be."""
    found = Finding("other use", at(9), at(13), Decimal("1.2"), "CNY")

    text = found.text()

    since = at(9).astimezone()
    assert text.startswith(f"Between {since:%Y-%m-%d %H:%M} and ")
    assert "the balance fell by 1.20 CNY more than is recorded here: other use" in text
    assert "prices" not in text
    assert "\n" not in text


def test_beside_questions_prices_are_named_as_well() -> None:
    """Where something was asked meanwhile, one fall may be either."""
    found = Finding("other use", at(9), at(33), Decimal("1.2"), "CNY", Decimal(3))

    assert "or prices have changed: %deepseek prices" in found.text()
    assert f"and {at(33).astimezone():%Y-%m-%d %H:%M} the balance" in found.text()


def test_a_finding_that_grows_keeps_its_name() -> None:
    """What is told once is named by its kind, currency and month."""
    found = Finding("other use", at(9), at(13), Decimal("1.2"), "CNY")

    assert replace(found, until=at(99), amount=Decimal(9)).name == found.name
    assert replace(found, kind="prices").name != found.name
    assert replace(found, currency="USD").name != found.name


# Properties


@st.composite
def uses(draw: st.DrawFn) -> Account:
    """An account over some days: questions, late charges, ranges, readings and top-ups."""
    chance = draw(st.randoms(use_true_random=False))
    account = Account(Decimal(1000), draw(st.sampled_from(ROUNDINGS)))
    dense = draw(st.sampled_from([2, 20, 120]))
    for day in range(draw(st.integers(1, 8))):
        begins = 24 * day + chance.uniform(0, 8)
        for _ in range(chance.choice([0, 1, 3, 12])):
            _ask(account, at(begins + chance.uniform(0, 8)), chance)
        if chance.random() < 0.2:
            account.other(at(24 * day + chance.uniform(0, 24)), Decimal(-chance.randint(1, 50)))
        account.read(
            *(at(24 * day + chance.uniform(0, 24)) for _ in range(chance.randint(0, dense)))
        )
    return account


def _ask(account: Account, when: datetime, chance: random.Random) -> None:
    took = timedelta(seconds=chance.choice([1, 20, 600, 7200]))
    cost = Decimal(chance.randint(1, 3_000_000)) / 1_000_000
    spread = None
    if chance.random() < 0.1:
        spread = (
            str(cost * Decimal(chance.random())),
            str(cost * (1 + 9 * Decimal(chance.random()))),
        )
    lag = (
        timedelta(minutes=chance.uniform(0, 30)) - took * chance.choice([0, 0, 1]) * chance.random()
    )
    account.spend(when, cost, lag=lag, took=took, spread=spread)


@settings(max_examples=300, deadline=None)
@given(uses())
def test_honest_charges_are_never_a_finding(account: Account) -> None:
    """Whatever lags, rounds, breaks off or is paid in: what is recorded explains it."""
    assert account.found() == []


@settings(max_examples=100, deadline=None)
@given(uses(), st.integers(0, 48), st.integers(25, 2000))
def test_other_use_is_found(account: Account, hours: int, cents: int) -> None:
    """What somebody else spent while nothing was asked is told, once and in its time."""
    times = [when for when, _ in [*account.moves, *account.readings]]
    times += [one.at for one in account.spending if one.at is not None]
    begins = max([at(0), *times]) + 2 * HOUR
    account.read(begins)
    account.other(begins + HOUR * hours + MINUTE, Decimal(cents) / 100)
    account.read(begins + HOUR * hours + 2 * MINUTE)

    (found,) = account.found()

    assert found.kind == "other use"
    assert found.since == begins
    assert found.until == begins + HOUR * hours + 2 * MINUTE
    assert abs(found.amount - Decimal(cents) / 100) <= 2 * CENT


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(150, 900), min_size=5, max_size=20),
    st.sampled_from(["1.3", "1.5", "2", "4", "0.25", "0.5", "0.75"]),
    st.sampled_from(ROUNDINGS),
    st.data(),
)
def test_a_factor_is_told_as_prices(
    cents: list[int], factor: str, rounding: str, data: st.DataObject
) -> None:
    """A factor on all charges from some day on is one finding, dated to that day."""
    changed = data.draw(st.integers(0, len(cents) - 4))
    account = Account(Decimal(1000), rounding)
    for day, cost in enumerate(Decimal(c) / 100 for c in cents):
        account.read(at(24 * day))
        billed = cost * Decimal(factor) if day >= changed else cost
        account.spend(at(24 * day + 2), cost, billed=billed, lag=29 * MINUTE)
        account.read(at(24 * day + 5))

    (found,) = account.found()

    assert found.kind == "prices"
    assert at(24 * changed) < found.since < at(24 * changed + 5)


def test_a_month_of_readings_every_half_minute_is_compared_in_one_pass() -> None:
    """Readings that tell nothing new cost next to nothing: the test would not end otherwise."""
    readings = [(START + timedelta(seconds=30 * n), Decimal(50)) for n in range(86_400)]

    assert findings(readings, [], "CNY") == []
