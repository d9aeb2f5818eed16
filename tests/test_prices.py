"""What an answer costs, and when."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic import sandbox_account
from deepseek_magic.prices import Price, age, band, cost, price, price_list, prices_of_day
from deepseek_magic.wire import Usage

FRIDAY = (2026, 11, 20)
KNOWN_SINCE = datetime(2026, 9, 10, 4, tzinfo=UTC)


def there(year: int, month: int, day: int, clock: str) -> datetime:
    """Give the moment at which clocks in Beijing show *clock*."""
    return datetime.fromisoformat(f"{date(year, month, day)}T{clock}+08:00")


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        ("00:00:00", "off-peak"),
        ("08:59:59.999999", "off-peak"),
        ("09:00:00", "peak"),
        ("11:59:59.999999", "peak"),
        ("12:00:00", "off-peak"),
        ("13:59:59.999999", "off-peak"),
        ("14:00:00", "peak"),
        ("17:59:59.999999", "peak"),
        ("18:00:00", "off-peak"),
        ("23:59:59.999999", "off-peak"),
    ],
)
def test_boundaries_of_the_peak_hours(clock: str, expected: str) -> None:
    """Peak hours begin at their first moment and are over at their last."""
    at = there(*FRIDAY, clock)

    assert band(at) == expected
    assert band(at.astimezone(UTC)) == expected


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        ((2026, 11, 16), "peak"),  # Monday
        ((2026, 11, 20), "peak"),  # Friday
        ((2026, 11, 21), "off-peak"),  # Saturday
        ((2026, 11, 22), "off-peak"),  # Sunday
        ((2026, 9, 20), "off-peak"),  # Sunday, worked for the National Day
        ((2026, 10, 10), "off-peak"),  # Saturday, worked for the same
        ((2026, 9, 25), "off-peak"),  # Friday, Mid-Autumn
        ((2026, 10, 1), "off-peak"),  # Thursday, National Day
        ((2026, 10, 7), "off-peak"),  # Wednesday, its last day
        ((2026, 10, 8), "peak"),  # Thursday, the first working day
        ((2026, 12, 25), "peak"),  # Christmas is no holiday there
        ((2027, 1, 1), "off-peak"),  # New Year
    ],
)
def test_days_without_peak_hours(day: tuple[int, int, int], expected: str) -> None:
    """Weekends, worked ones too, and Chinese public holidays are off-peak all day."""
    assert band(there(*day, "10:00:00")) == expected


def test_the_day_is_that_of_beijing() -> None:
    """Sunday evening in New York is Monday morning in Beijing, and peak."""
    sunday = datetime.fromisoformat("2026-11-15T21:00:00-05:00")

    assert sunday.weekday() == 6
    assert band(sunday) == "peak"


@pytest.mark.parametrize("currency", ["CNY", "USD"])
@pytest.mark.parametrize("model", ["deepseek-flash", "deepseek-v4-pro"])
def test_peak_is_double(model: str, currency: str) -> None:
    """Both currencies and both models have both bands, and peak is twice off-peak."""
    off, peak = (price(model, currency, there(*FRIDAY, at)) for at in ("12:30:00", "10:00:00"))

    assert off is not None
    assert peak is not None
    assert (peak.hit, peak.miss, peak.out) == (2 * off.hit, 2 * off.miss, 2 * off.out)


@pytest.mark.parametrize(
    ("model", "currency", "at"),
    [
        ("deepseek-v9", "CNY", there(*FRIDAY, "10:00:00")),
        ("", "CNY", there(*FRIDAY, "10:00:00")),
        ("deepseek-flash", "EUR", there(*FRIDAY, "10:00:00")),
        ("deepseek-flash", None, there(*FRIDAY, "10:00:00")),
        ("deepseek-flash", "CNY", KNOWN_SINCE - timedelta(microseconds=1)),
        ("deepseek-flash", "CNY", datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_unknown_is_unpriced(model: str, currency: str | None, at: datetime) -> None:
    """A model, a currency or a day that is not in the table has no price."""
    assert price(model, currency, at) is None
    assert cost(Usage(1, 1, 0, 1), price(model, currency, at)) is None


def test_prices_hold_from_their_first_moment() -> None:
    """A price counts from the moment on that its row names."""
    found = price("deepseek-flash", "CNY", KNOWN_SINCE)

    assert found is not None
    assert found.since == KNOWN_SINCE


@pytest.mark.parametrize("alias", ["deepseek-v4-flash", "deepseek-v4-flash-vision-exp"])
def test_aliases_cost_what_their_model_costs(alias: str) -> None:
    """A name that the API maps to a model has that model's price."""
    at = there(*FRIDAY, "10:00:00")

    assert price(alias, "USD", at) == price("deepseek-flash", "USD", at)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        Usage(),
        Usage(10, None, 0, 10),
        Usage(10, 5, None, 10),
        Usage(10, 5, 0, None),
    ],
)
def test_a_missing_count_is_no_zero(usage: Usage | None) -> None:
    """Where a count is missing the cost is unknown."""
    found = price("deepseek-flash", "CNY", there(*FRIDAY, "10:00:00"))

    assert cost(usage, found) is None


def test_cost_of_nothing() -> None:
    """No tokens cost nothing, which is known."""
    found = price("deepseek-flash", "CNY", there(*FRIDAY, "10:00:00"))

    assert cost(Usage(0, 0, 0, 0), found) == 0


@given(
    model=st.sampled_from(["deepseek-flash", "deepseek-v4-pro"]),
    currency=st.sampled_from(["CNY", "USD"]),
    after=st.timedeltas(timedelta(0), timedelta(days=600)),
    counts=st.tuples(*[st.integers(0, 1_048_576)] * 3),
)
def test_bill_and_account_agree(
    model: str, currency: str, after: timedelta, counts: tuple[int, int, int]
) -> None:
    """At any moment the table here and the simulated account's own give the same amount."""
    at, (hit, miss, out) = KNOWN_SINCE + after, counts

    ours = cost(Usage(hit + miss, out, hit, miss), price(model, currency, at))

    assert ours == sandbox_account.cost(
        hit=hit, miss=miss, output=out, model=model, currency=currency, at=at
    )


def test_example_of_the_price_page() -> None:
    """A million tokens of each kind cost the three listed prices."""
    listed = price("deepseek-v4-pro", "USD", there(*FRIDAY, "10:00:00"))

    assert cost(Usage(2_000_000, 1_000_000, 1_000_000, 1_000_000), listed) == (
        Decimal("0.044") + Decimal("1.32") + Decimal("3.96")
    )


def test_the_table_names_its_source_and_day() -> None:
    """The table says where it is from and when it was checked, and how old that is."""
    table = price_list()

    assert table.source.startswith("https://api-docs.deepseek.com/")
    assert age(datetime.combine(table.checked, datetime.min.time(), UTC)) == timedelta(0)
    assert age(datetime(2026, 12, 15, tzinfo=UTC)).days == 30


def test_all_rows_are_sound() -> None:
    """Every row has positive prices, a zone on its date, and hits are cheaper than misses."""
    for row in price_list().rows:
        assert row.since.tzinfo is not None
        assert 0 < row.hit < row.miss < row.out


def test_prices_of_a_day() -> None:
    """The prices of a day are one per model, currency and hours."""
    found = prices_of_day(there(*FRIDAY, "10:00:00"))

    assert sorted((row.model, row.currency, row.band) for row in found) == [
        (model, currency, hours)
        for model in ("deepseek-flash", "deepseek-v4-pro")
        for currency in ("CNY", "USD")
        for hours in ("off-peak", "peak")
    ]
    assert all(isinstance(row, Price) for row in found)


def test_a_cost_is_exact_in_every_context() -> None:
    """The cost of an answer does not depend on how precisely the notebook reckons."""
    at = datetime(2026, 11, 21, 12, tzinfo=UTC)
    usage = Usage(1_234_567, 7_654_321, 234_567, 1_000_000)
    found = price("deepseek-flash", "CNY", at)
    expected = cost(usage, found)

    with localcontext(Context(prec=3)):
        assert cost(usage, found) == expected
