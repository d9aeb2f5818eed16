"""What an answer costs, and when."""

from __future__ import annotations

import ast
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal, localcontext
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic import sandbox_account
from deepseek_magic.errors import InvalidOption
from deepseek_magic.prices import (
    ALWAYS,
    BEIJING,
    Band,
    Price,
    age,
    band,
    cost,
    dearest,
    next_change,
    off_peak_from,
    own_prices,
    paid,
    price,
    price_list,
    prices_of_day,
    saved,
)
from deepseek_magic.wire import CostRange, Usage

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


# When the hours change


@pytest.mark.parametrize(
    ("at", "changes", "to"),
    [
        (there(2026, 11, 20, "08:59:59.999999"), there(2026, 11, 20, "09:00:00"), "peak"),
        (there(2026, 11, 20, "09:00:00"), there(2026, 11, 20, "12:00:00"), "off-peak"),
        (there(2026, 11, 20, "11:59:59.999999"), there(2026, 11, 20, "12:00:00"), "off-peak"),
        (there(2026, 11, 20, "12:00:00"), there(2026, 11, 20, "14:00:00"), "peak"),
        (there(2026, 11, 20, "14:00:00"), there(2026, 11, 20, "18:00:00"), "off-peak"),
        # Over a weekend, a worked Sunday, New Year, Spring Festival and the National Day.
        (there(2026, 11, 20, "18:00:00"), there(2026, 11, 23, "09:00:00"), "peak"),
        (there(2026, 9, 18, "18:00:00"), there(2026, 9, 21, "09:00:00"), "peak"),
        (there(2025, 12, 31, "18:00:00"), there(2026, 1, 5, "09:00:00"), "peak"),
        (there(2026, 12, 31, "23:59:59.999999"), there(2027, 1, 4, "09:00:00"), "peak"),
        (there(2026, 2, 13, "18:00:00"), there(2026, 2, 24, "09:00:00"), "peak"),
        (there(2026, 9, 30, "17:59:59.999999"), there(2026, 9, 30, "18:00:00"), "off-peak"),
        (there(2026, 9, 30, "18:00:00"), there(2026, 10, 8, "09:00:00"), "peak"),
    ],
)
def test_the_next_change(at: datetime, changes: datetime, to: str) -> None:
    """The next change is the next edge of peak hours on a working day, in UTC."""
    assert next_change(at) == (changes, to)
    assert next_change(at.astimezone(UTC)) == (changes, to)
    assert next_change(at)[0].tzinfo is UTC


MOMENTS = st.builds(
    lambda after, zone: datetime(2025, 1, 1, tzinfo=UTC).astimezone(zone) + after,
    st.timedeltas(timedelta(0), timedelta(days=3 * 365)),
    st.sampled_from([UTC, BEIJING]),
)


@given(MOMENTS, st.floats(0, 0.999))
def test_the_hours_stay_until_they_change(at: datetime, share: float) -> None:
    """Between a moment and its next change the hours are the same, and other ones after it."""
    changes, to = next_change(at)
    between = at + share * (changes - at)

    assert changes > at
    assert band(between) == band(at) == band(changes - timedelta(microseconds=1))
    assert band(changes) == to != band(at)


@given(MOMENTS)
def test_off_peak_from_is_the_first_cheap_moment(at: datetime) -> None:
    """The cheaper hours are now, or begin at the next change, and last beyond their beginning."""
    begins = off_peak_from(at)

    assert band(begins) == "off-peak"
    assert begins == (at if band(at) == "off-peak" else next_change(at)[0])
    assert off_peak_from(begins) == begins


def test_the_changes_of_a_year() -> None:
    """A year has two spans of peak hours, of three and four hours, on each working day."""
    at, end = there(2026, 1, 1, "00:00:00"), there(2027, 1, 1, "00:00:00")
    spans: list[timedelta] = []

    while (begins := next_change(at))[0] < end:
        at = off_peak_from(begins[0])
        spans.append(at - begins[0])

    # 261 days from Monday to Friday, 19 of them public holidays or taken off for a weekend.
    assert spans == [timedelta(hours=3), timedelta(hours=4)] * 242


def test_a_moment_without_a_zone_is_local() -> None:
    """A datetime as `datetime.now()` gives it is read by the clock of this machine."""
    at = there(*FRIDAY, "10:00:00")
    naive = at.astimezone().replace(tzinfo=None)

    assert band(naive) == band(at)
    assert next_change(naive) == next_change(at)
    assert price("deepseek-flash", "CNY", naive) == price("deepseek-flash", "CNY", at)


# What was paid, and what was saved

USAGE = Usage(
    prompt_tokens=1000,
    completion_tokens=500,
    prompt_cache_hit_tokens=600,
    prompt_cache_miss_tokens=400,
)


def of(hours: Band, currency: str = "CNY") -> Price:
    found = price("deepseek-flash", currency, there(*FRIDAY, "10:00:00"), hours)
    assert found is not None
    return found


def test_one_price_makes_one_cost() -> None:
    """A request that began and ended at the same price has its cost to the digit."""
    assert paid(USAGE, of("peak"), of("peak")) == cost(USAGE, of("peak"))


def test_a_change_of_hours_makes_a_range() -> None:
    """A request that saw the hours change costs between the two, whichever came first."""
    low, high = cost(USAGE, of("off-peak")), cost(USAGE, of("peak"))

    assert low is not None
    assert high is not None
    assert low < high
    assert paid(USAGE, of("off-peak"), of("peak")) == CostRange(low, high, likely=high)
    assert paid(USAGE, of("peak"), of("off-peak")) == CostRange(low, high, likely=high)


def test_nothing_costs_nothing_at_any_hour() -> None:
    """Where no token was billed, the cost is known though the price has changed."""
    assert paid(Usage(0, 0, 0, 0), of("off-peak"), of("peak")) == 0


@pytest.mark.parametrize(
    ("usage", "first", "last"),
    [
        (None, of("peak"), of("peak")),
        (Usage(1000, None), of("peak"), of("peak")),
        (USAGE, None, of("peak")),
        (USAGE, of("peak"), None),
        (USAGE, of("peak"), of("peak", "USD")),
    ],
)
def test_what_is_not_known_is_not_paid(
    usage: Usage | None, first: Price | None, last: Price | None
) -> None:
    """Without counts, without a price, or with two currencies, the cost is unknown."""
    assert paid(usage, first, last) is None


@pytest.mark.parametrize("usage", [Usage(1000, 500), Usage(1000, 500, 700, None)])
def test_a_cache_that_nobody_tells_of(usage: Usage) -> None:
    """Where the API does not tell what the cache held, the cost lies between all and nothing."""
    told = Usage(1000, 500, 700, 300)

    span = paid(usage, of("peak"), of("peak"))

    assert isinstance(span, CostRange)
    assert span.low == cost(Usage(1000, 500, 1000, 0), of("peak"))
    assert span.high == span.likely == cost(Usage(1000, 500, 0, 1000), of("peak"))
    assert span.low < (cost(told, of("peak")) or 0) < span.high


def test_the_dearest_of_several_prices() -> None:
    """What bounds several prices is at no part under any of them."""
    first, second = of("peak"), of("off-peak")
    odd = replace(second, miss=first.miss * 3)

    assert dearest(None, first, None) == first
    assert dearest(None) is None
    bound = dearest(first, odd)
    assert bound is not None
    assert (bound.hit, bound.miss, bound.out) == (first.hit, odd.miss, first.out)


def test_the_cache_saves_the_difference() -> None:
    """What the cache saved is what its tokens would have cost more without it."""
    without = replace(USAGE, prompt_cache_hit_tokens=0, prompt_cache_miss_tokens=1000)
    more, less = cost(without, of("peak")), cost(USAGE, of("peak"))

    assert more is not None
    assert less is not None
    assert saved(USAGE, of("peak")) == more - less
    assert saved(without, of("peak")) == 0


def test_an_unknown_saving_is_no_zero() -> None:
    """Where the hits or the price are not known, nor is what was saved."""
    assert saved(Usage(1000, 500), of("peak")) is None
    assert saved(None, of("peak")) is None
    assert saved(USAGE, None) is None


# Prices of the user's own


@pytest.mark.parametrize(
    "given",
    [
        "0.02 1 4",
        " 0.02, 1, 4 ",
        "0.02 / 1 / 4",
        ["0.02", "1", "4"],
        (0.02, 1, 4),
        [Decimal("0.02"), 1.0, "4"],
        "0.02 1 4 0.02 1 4",
    ],
)
def test_three_numbers_hold_at_all_hours(given: object) -> None:
    """A price is written as a text or as numbers; three of them hold at peak hours as well."""
    rows = own_prices({"my-model": {"cny": given}})

    for hours in get_args(Band):
        found = price("my-model", "CNY", there(2020, 1, 1, "10:00:00"), hours, own=rows)
        assert found == Price(
            "my-model", "CNY", hours, ALWAYS, Decimal("0.02"), Decimal(1), Decimal(4)
        )


def test_six_numbers_are_off_peak_and_peak() -> None:
    """Of six numbers the first three hold off-peak, the others at peak hours."""
    rows = own_prices({"my-model": {"USD": "0.1 1 2 0.3 3 4"}})

    found = [
        price("my-model", "USD", there(*FRIDAY, at), own=rows) for at in ("12:30:00", "10:00:00")
    ]

    assert [[str(n) for n in (p.hit, p.miss, p.out)] for p in found if p] == [
        ["0.1", "1", "2"],
        ["0.3", "3", "4"],
    ]


@pytest.mark.parametrize("name", ["flash", "deepseek-flash", " deepseek-flash "])
@pytest.mark.parametrize("asked", ["deepseek-flash", "deepseek-v4-flash"])
def test_an_own_price_comes_first(name: str, asked: str) -> None:
    """A price of the user's own beats the list's, by short name and for other names of it."""
    rows = own_prices({name: {"CNY": "1 2 3"}})
    at = there(*FRIDAY, "10:00:00")

    found = price(asked, "CNY", at, own=rows)

    assert found is not None
    assert [found.hit, found.miss, found.out] == [Decimal(n) for n in (1, 2, 3)]
    assert price(asked, "USD", at, own=rows) == price(asked, "USD", at)
    assert price("deepseek-v4-pro", "CNY", at, own=rows) == price("deepseek-v4-pro", "CNY", at)


def test_an_own_price_of_another_name_is_that_names() -> None:
    """A price for another name of a model holds for that name alone."""
    rows = own_prices({"deepseek-v4-flash": {"CNY": "1 2 3"}})
    at = there(*FRIDAY, "10:00:00")

    found = price("deepseek-v4-flash", "CNY", at, own=rows)

    assert found is not None
    assert found.out == 3
    assert price("deepseek-flash", "CNY", at, own=rows) == price("deepseek-flash", "CNY", at)


def test_own_prices_are_among_those_of_the_day() -> None:
    """The prices of a day hold those of the user's own, in place of the list's."""
    at = there(*FRIDAY, "10:00:00")
    rows = own_prices({"flash": {"CNY": "1 2 3"}, "my-model": {"EUR": "0 0 0"}})

    found = prices_of_day(at, rows)

    assert set(rows) <= set(found)
    assert len(found) == len(prices_of_day(at)) + 2


def test_no_prices_of_ones_own() -> None:
    """An empty table sets none."""
    assert own_prices({}) == ()


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"my-model": {"CNY": "0.02 1"}}, "'0.02 1' is no price of 'my-model' in CNY"),
        ({"my-model": {"CNY": "0.02 1 4 5"}}, "'0.02 1 4 5' is no price"),
        ({"my-model": {"CNY": "0,02 1 4"}}, "'0,02 1 4' is no price"),
        ({"my-model": {"CNY": "0.02 1 four"}}, "'0.02 1 four' is no price"),
        ({"my-model": {"CNY": "-0.02 1 4"}}, "'-0.02 1 4' is no price"),
        ({"my-model": {"CNY": "nan 1 4"}}, "'nan 1 4' is no price"),
        ({"my-model": {"CNY": "0 1 Infinity"}}, "'0 1 Infinity' is no price"),
        ({"my-model": {"CNY": "0 1 1000000000"}}, "'0 1 1000000000' is no price"),
        ({"my-model": {"CNY": ""}}, "'' is no price"),
        ({"my-model": {"CNY": [True, 1, 4]}}, "[True, 1, 4] is no price"),
        ({"my-model": {"CNY": None}}, "None is no price"),
        ({"my-model": {"CNY": 4}}, "4 is no price"),
        ({"my-model": {"CNY": b"0 1 4"}}, "b'0 1 4' is no price"),
        ({"my-model": {"CNY": {"out": 4}}}, "{'out': 4} is no price"),
        ({"my-model": {"CNY": "1 0.02 4"}}, "input found in the cache costs more"),
        ({"my-model": {"CNY": "0 1 4 2 1 4"}}, "input found in the cache costs more"),
        ({"my-model": {"YUAN": "0.02 1 4"}}, "'YUAN' is no currency"),
        ({"my-model": {"元": "0.02 1 4"}}, "'元' is no currency"),
        ({"my-model": {1: "0.02 1 4"}}, "1 is no currency"),
        ({"my-model": "0.02 1 4"}, "The price of 'my-model' names no currency"),
        ({"": {"CNY": "0.02 1 4"}}, "'' is no model's name"),
        ({7: {"CNY": "0.02 1 4"}}, "7 is no model's name"),
        ("my-model", "'my-model' is no table of prices"),
        (None, "None is no table of prices"),
    ],
)
def test_a_wrong_price_says_what_to_write(table: Any, named: str) -> None:
    """A price that cannot be read is one line: what is wrong, that none is set, and the form."""
    with pytest.raises(InvalidOption) as told:
        own_prices(table)

    assert named in str(told.value)
    assert "No price was set." in str(told.value)
    assert "such as {'my-model': {'CNY': '0.02 1 4'}}" in str(told.value)
    assert "\n" not in str(told.value)


def test_the_form_that_is_told_can_be_pasted() -> None:
    """The example in the error is itself a table of prices."""
    with pytest.raises(InvalidOption) as told:
        own_prices({"my-model": {"CNY": "0.02"}})
    example = str(told.value).partition("such as ")[2].partition("}}")[0] + "}}"

    assert len(own_prices(ast.literal_eval(example))) == 2
