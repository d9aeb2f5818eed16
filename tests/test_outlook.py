from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic.entries import Spending
from deepseek_magic.outlook import LONGEST, Alarm, Warned, ends_at, lasts, warning

TODAY = date(2026, 9, 30)
NOW = datetime(2026, 9, 30, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def days(*spent: str) -> dict[date, Decimal]:
    """Give what the last days took, today's last; "" is a day of which nothing is recorded."""
    first = TODAY - timedelta(days=len(spent) - 1)
    return {first + timedelta(days=n): Decimal(one) for n, one in enumerate(spent) if one}


def spend(ago: timedelta, low: str, high: str | None = None) -> Spending:
    end = NOW - ago
    return Spending(end, "CNY", Decimal(low), Decimal(high or low), sent=end - timedelta(seconds=9))


# By the days


@pytest.mark.parametrize(
    ("spent", "passed", "expected"),
    [
        (("1", "1", "1", "1", "1", "1", "1"), 1.0, 14 * DAY),
        (("9", "1", "1", "1", "1", "1", "1", "1"), 1.0, 14 * DAY),
        (("5", "", "", "", "", "2", "", ""), 1.0, 49 * DAY),
        (("1", "", "", "", "", "", "", "7"), 1.0, 14 * DAY),
        (("2", "2"), 1.0, 7 * DAY),
        (("2", "", "2"), 1.0, 10.5 * DAY),
        (("2", "0.5"), 0.25, 7 * DAY),
        (("2",), 0.01, 7 * DAY),
        (("1", "1", "1", "1", "1", "1", "0"), 0.0, 14 * DAY),
    ],
)
def test_how_long_the_money_lasts(
    spent: tuple[str, ...], passed: float, expected: timedelta
) -> None:
    """It lasts at the mean of seven days, or of those since the account was first used."""
    assert lasts(Decimal(14), days(*spent), TODAY, passed=passed) == expected


@pytest.mark.parametrize("spent", [(), ("0", "0"), ("3", "", "", "", "", "", "", "")])
def test_nothing_spent_says_nothing(spent: tuple[str, ...]) -> None:
    """Without spending in the last seven days nobody can tell."""
    assert lasts(Decimal(14), days(*spent), TODAY) is None


def test_an_empty_account_lasts_no_time() -> None:
    """Where nothing is left, no time is left either."""
    assert lasts(Decimal(0), days("1"), TODAY) == timedelta(0)
    assert ends_at(Decimal(0), [spend(MINUTE, "1")], NOW) == timedelta(0)


@given(
    st.decimals(0, 10**12, places=2),
    st.lists(st.decimals(0, 10**9, places=12), max_size=12),
    st.floats(0, 1),
)
def test_any_amounts_have_a_time(left: Decimal, spent: list[Decimal], passed: float) -> None:
    """No amount, however large or small, is an error or a time below zero."""
    known = {TODAY - timedelta(days=n): one for n, one in enumerate(spent)}

    found = lasts(left, known, TODAY, passed=passed)

    assert found is None or timedelta(0) <= found <= LONGEST


@given(st.lists(st.decimals("0.01", 100, places=2), min_size=1, max_size=12))
def test_more_money_lasts_longer(spent: list[Decimal]) -> None:
    """Twice the money lasts twice as long."""
    known = {TODAY - timedelta(days=n): one for n, one in enumerate(spent)}

    once, twice = (lasts(Decimal(left), known, TODAY) for left in (50, 100))

    assert once is not None
    assert twice is not None
    assert abs(twice - 2 * once) <= timedelta(seconds=2)


# By the hour


def test_the_rate_of_the_last_hour() -> None:
    """What lies further back than an hour does not count."""
    recent = [spend(3 * HOUR, "50"), *(spend(MINUTE * n, "0.10") for n in range(0, 60, 6))]

    found = ends_at(Decimal(5), recent, NOW)

    assert found is not None
    assert 4.4 * HOUR < found <= 5 * HOUR


def test_a_job_that_has_just_begun_is_reckoned_by_its_own_time() -> None:
    """A quarter of an hour of spending is no hour of it."""
    recent = [spend(MINUTE * n, "0.10") for n in range(15)]

    found = ends_at(Decimal(3), recent, NOW)

    assert found is not None
    assert 25 * MINUTE < found < 32 * MINUTE


def test_one_question_is_no_trend() -> None:
    """The first question counts as ten minutes' worth."""
    assert ends_at(Decimal(6), [spend(timedelta(0), "1")], NOW) == HOUR


def test_a_range_counts_at_its_least() -> None:
    """The bound of an answer that broke off rings no alarm."""
    assert ends_at(Decimal(6), [spend(MINUTE, "0", "5")], NOW) is None


def test_no_spending_in_the_hour_says_nothing() -> None:
    """A session that asked nothing lately has no rate."""
    assert ends_at(Decimal(6), [], NOW) is None
    assert ends_at(Decimal(6), [spend(2 * HOUR, "1")], NOW) is None


# The warning


def warned(
    *looks: tuple[str | None, timedelta | None], mark: str | None = "5"
) -> list[Warned | None]:
    """Let an alarm look at each balance and the time it lasts; give what it says."""
    alarm, said = Alarm(), []
    for left, lasting in looks:
        alarm, due = alarm.after(
            None if left is None else Decimal(left), Decimal(mark) if mark else None, lasting
        )
        said.append(due)
    return said


def test_below_the_mark_is_said_once() -> None:
    """The balance passes below its mark: one warning, and no more while it stays there."""
    said = warned(("6", None), ("5", None), ("4.99", None), ("4", None), ("0", None))

    assert said == [None, None, "low", None, None]


def test_it_is_said_again_after_a_rise() -> None:
    """After a top-up the next passing is told."""
    said = warned(("4", None), ("14", None), ("4", None))

    assert said == ["low", None, "low"]


def test_a_figure_that_wavers_at_the_mark_is_said_once() -> None:
    """The figure is rounded and late; a cent up and down is no rise."""
    said = warned(("4.99", None), ("5.01", None), ("4.98", None), ("5.02", None), ("4.9", None))

    assert said == ["low", None, None, None, None]


def test_an_unknown_balance_changes_nothing() -> None:
    """A reading that failed neither warns nor forgets."""
    said = warned((None, None), ("4", None), (None, None), ("3", None))

    assert said == [None, "low", None, None]


def test_without_a_mark_nothing_is_low() -> None:
    """A currency without a mark has no low balance."""
    assert warned(("0.01", None), mark=None) == [None]


def test_an_hour_at_this_rate_is_said_once() -> None:
    """It will not last the session: once, until money comes in."""
    said = warned(
        ("90", 3 * HOUR),
        ("70", 59 * MINUTE),
        ("60", 50 * MINUTE),
        ("60", 2 * HOUR),
        ("50", 30 * MINUTE),
        ("150", 90 * MINUTE),
        ("99", 40 * MINUTE),
    )

    assert said == [None, "short", None, None, None, None, "short"]


def test_of_two_the_pressing_one_is_said() -> None:
    """Both at the same moment are one warning."""
    said = warned(("4", 10 * MINUTE), ("3", 9 * MINUTE))

    assert said == ["short", None]


def test_an_empty_account_is_not_short() -> None:
    """What is gone does not run out any more."""
    assert warned(("6", None), ("0", timedelta(0)), mark=None) == [None, None]


@given(st.lists(st.decimals(0, 10, places=2), max_size=40))
def test_a_falling_balance_is_told_at_most_once(amounts: list[Decimal]) -> None:
    """Without a rise there is one warning of each kind at most, and it is never missed."""
    falling = sorted(amounts, reverse=True)

    said = warned(*((str(left), None) for left in falling))

    assert said.count("low") == any(left < 5 for left in falling)


def test_the_words_of_a_low_balance() -> None:
    """The figure is never above what is left."""
    text = warning("low", Decimal("4.999"), "CNY", mark=Decimal(5))

    assert text == "4.99 CNY is left, which is under 5 CNY. Top up: %deepseek balance"


def test_the_words_of_a_short_balance() -> None:
    """It says how many minutes, and what to do."""
    text = warning("short", Decimal("1.50"), "USD", lasting=timedelta(minutes=18.4))

    assert text.startswith("1.50 USD is left: about 18 minutes at the present rate.")
    assert "Top up" in text
