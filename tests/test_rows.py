"""What a cell shows of a question for every row, from the facts alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import pytest

from deepseek_magic.jobs import Forecast, Progress
from deepseek_magic.rows import (
    Ended,
    answered,
    counts,
    ended_shown,
    forecast_shown,
    head_shown,
    kinds_of_errors,
    reach_line,
    summary,
)
from deepseek_magic.wire import Balance, BalanceInfo, CostRange, question

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script> $x^2$ \x1b[31mred"
BALANCE = Balance(
    available=True,
    infos={"CNY": BalanceInfo("CNY", Decimal(1), Decimal(0), Decimal(1))},
    read_at=NOON,
)
FORECAST = Forecast(
    rows=500,
    repeated=0,
    kept=12,
    blank=0,
    to_ask=488,
    at=NOON,
    first=question("Label: good", think="off", max_tokens=20),
    tokens_in=6000,
    cost=CostRange(Decimal(1), Decimal(3), Decimal(2)),
    worst=Decimal(4),
    currency="CNY",
    balance=BALANCE,
    covered=333,
    reason="40 answers of this kind took 5 tokens",
)
DONE = Progress(
    rows=500,
    done=500,
    asked=470,
    kept=12,
    repeated=15,
    failed=3,
    cost=Decimal("0.0123"),
    currency="CNY",
    seconds=43.0,
    rate=11.0,
)


def frame(rows: int = 3, **columns: list[Any]) -> pd.DataFrame:
    base: dict[str, list[Any]] = {
        "text": [f"text {n}" for n in range(rows)],
        "answer": [f"answer {n}" for n in range(rows)],
        "cost": [Decimal("0.0001")] * rows,
        "error": [None] * rows,
    }
    return pd.DataFrame({**base, **columns})


# Before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "The balance covers about 340 of 500 rows, 12 of them already answered."),
        ({"covered": 488}, ""),
        ({"covered": None}, ""),
        ({"covered": None, "within": 50}, "The limit covers about 62 of 500 rows, 12 of them"),
        ({"within": 50}, "The limit covers about 62 of 500 rows"),
        ({"covered": 0, "kept": 0, "to_ask": 500}, "The balance covers none of 500 rows."),
        ({"covered": 100, "kept": 0, "to_ask": 400, "repeated": 100}, "about 120 of 500 rows."),
        ({"cost": None}, "At worst the balance covers about 340 of 500 rows"),
    ],
)
def test_how_far_the_money_goes(changed: dict[str, Any], said: str) -> None:
    """What ends first is named, with the rows that will have their answer; else nothing is."""
    line = reach_line(replace(FORECAST, **changed))

    assert said in line
    assert bool(said) == bool(line)


def test_the_rows_are_counted() -> None:
    """Each reason why a row is not asked is told with its number."""
    some = replace(FORECAST, repeated=4, blank=1, to_ask=483)

    said = counts(some)
    all_of_them = counts(replace(FORECAST, kept=0, to_ask=500))

    assert said == (
        "500: 12 answered earlier, 4 equal to others, 1 with nothing to ask about, 483 to ask"
    )
    assert all_of_them == "500, all to ask"


def test_the_forecast() -> None:
    """It tells cost, rows, balance and the first question, and that nothing was sent."""
    shown = forecast_shown(FORECAST, NOON, remarks=["Temperature is ignored."])

    for text in (shown.text, shown.html):
        assert "Would cost about 2.00 CNY" in text
        assert "(1.00 to 3.00), at most 4.00. Nothing was sent." in text
        assert "would end early" in text
        assert "deepseek-flash, no thinking, max_tokens 20" in text
        assert "covers about 330 of 488 to ask" in text
        assert "Temperature is ignored." in text
        assert "Label: good" in text


@pytest.mark.parametrize(
    ("changed", "badge"),
    [
        ({"covered": 488}, "would be sent"),
        ({"covered": 0}, "would end at once"),
        ({"to_ask": 0, "kept": 500, "first": None, "cost": None}, "nothing to send"),
        ({"cost": None, "covered": None}, "would be sent"),
    ],
)
def test_the_badge_of_a_forecast(changed: dict[str, Any], badge: str) -> None:
    """A word says what would become of the rows."""
    shown = forecast_shown(replace(FORECAST, **changed), NOON)

    assert f"({badge})" in shown.text
    assert badge in shown.html


def test_a_hostile_first_question() -> None:
    """What the data holds is escaped, not typeset, and steers no terminal."""
    shown = forecast_shown(replace(FORECAST, first=question(HOSTILE)), NOON)

    assert "<script>" not in shown.html
    assert "mathjax_ignore" in shown.html
    assert "\x1b" not in shown.html + shown.text


# After


def test_the_summary() -> None:
    """One line tells what became of the rows, the cost, the time, the speed and what is left."""
    line = summary(Ended(DONE, None, ("answer",), after=("4.99 CNY left",)))

    assert line == (
        "500 rows: 470 asked, 12 from the ledger, 15 equal to others, 3 failed (column error) · "
        "0.012 CNY · 43 s · 11 rows/s · 4.99 CNY left"
    )


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (Progress(rows=1, done=1, asked=1, cost=None), "1 row: 1 asked · cost unknown · 0.0 s"),
        (
            Progress(rows=3, done=3, kept=3, cost=Decimal(0), currency="CNY"),
            "3 rows: 3 from the ledger · nothing to pay",
        ),
        (
            Progress(rows=9, done=2, asked=2, cost=Decimal(1), currency="USD", seconds=2.0),
            "9 rows: 2 asked, 7 left · 1.00 USD · 2.0 s",
        ),
    ],
)
def test_other_summaries(progress: Progress, said: str) -> None:
    """Unknown is unknown, nothing is nothing, and what is left is counted."""
    assert summary(Ended(progress, None, ("answer",))) == said


def test_why_it_ended_early_comes_first() -> None:
    """The ending stands at the head of the line."""
    assert summary(Ended(DONE, None, ("answer",), "interrupted")).startswith("interrupted · 500")


def test_errors_by_kind() -> None:
    """Errors that tell the same are counted together; rows that were not asked are no failures."""
    errors = [
        "Content Exists Risk. It was not billed.",
        "The answer is not JSON (line 1). It was billed.",
        None,
        "Content Exists Risk. It was not billed.",
        "Not asked, as the balance was empty. Run again for this row.",
    ]
    made = frame(5, error=errors)

    assert kinds_of_errors(made) == [
        "2 × Content Exists Risk",
        "1 × The answer is not JSON (line 1)",
    ]
    assert answered(made) == 1


def test_many_kinds_of_errors_are_bounded() -> None:
    """Of many kinds the most frequent are named, and the rest counted."""
    made = frame(10, error=[f"Error number {n}" for n in range(10)])

    told = kinds_of_errors(made)

    assert len(told) == 4
    assert told[-1] == "7 × other errors"


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_the_head_of_a_frame(library: str) -> None:
    """The first rows are shown, with the answers and the costs; an empty error column is not."""
    made: Any = frame(9)
    made = pl.DataFrame(made.to_dict("list")) if library == "polars" else made

    shown = head_shown(made, ("answer",))

    assert "answer 4" in shown.text
    assert "answer 5" not in shown.text
    assert "The first 5 of 9 rows" in shown.text
    assert shown.text.splitlines()[0].split() == ["text", "answer", "cost"]
    assert "0.0001" in shown.text
    assert "answer 4" in shown.html


def test_a_wide_frame_is_bounded() -> None:
    """Many columns of the data are left out, never the new ones."""
    made = pd.DataFrame({f"c{n}": ["v"] * 2 for n in range(50)})
    more = frame(2, error=[None, "It failed"])[["answer", "cost", "error"]]
    made = pd.concat([made, more], axis=1)

    shown = head_shown(made, ("answer",))

    assert shown.text.splitlines()[0].split() == ["c0", "c1", "c2", "c3", "answer", "cost", "error"]
    assert "46 columns not shown" in shown.text


def test_values_of_every_kind() -> None:
    """Missing values are blank, an unknown cost says so, and long texts are cut."""
    made = frame(
        3,
        answer=[None, float("nan"), "long " * 1000],
        cost=[None, Decimal(0), Decimal("0.5")],
        other=[pd.NA, pd.NaT, 3],
    )

    shown = head_shown(made, ("answer",))

    assert "unknown" in shown.text
    assert "nan" not in shown.text.lower()
    assert "NaT" not in shown.text
    assert len(shown.html) < 6000


def test_hostile_values_and_names() -> None:
    """Whatever stands in data, answers, errors and names of columns, it is shown as text."""
    made = frame(1, **{"answer": [HOSTILE], "error": [HOSTILE], HOSTILE: [HOSTILE]})
    ended = Ended(replace(DONE, rows=1), made, ("answer",))

    shown = ended_shown(ended, "Run: %deepseek")

    assert "<script>" not in shown.html
    assert "\x1b" not in shown.html + shown.text
    assert shown.html.count("mathjax_ignore") >= 2


def test_an_empty_frame() -> None:
    """No rows are no fault."""
    shown = ended_shown(Ended(Progress(rows=0, cost=Decimal(0)), frame(0), ("answer",)))

    assert "0 rows: 0 asked · nothing to pay" in shown.text
