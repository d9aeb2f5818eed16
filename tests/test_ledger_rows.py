"""The ledger among many rows: noted in groups, found by the name of the question."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from deepseek_magic import schema
from deepseek_magic.ledger import Asked, Ledger, Outcome
from deepseek_magic.records import name_of
from deepseek_magic.wire import CostRange, question

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ASKED = Asked(at=AT, account="me", model="deepseek-flash", think="off", currency="CNY")
DONE = Outcome(
    state="done",
    at=AT,
    model="deepseek-flash",
    completion_tokens=3,
    finish_reason="stop",
    currency="CNY",
    cost=Decimal("0.000012"),
    answer="yes",
)
STRANGE = (
    "plain",
    "a\0b",
    "half \ud83d",
    "snow ☃ 雪 🦊",
    "'; DROP TABLE entries; --",
    ":id $[0]",
    "",
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def noted(ledger: Ledger, texts: tuple[str, ...], outcome: Outcome = DONE) -> list[int]:
    """Note a call for each text, and its end with the text as answer."""
    entries = [ledger.new_entry() for _ in texts]
    asked = [replace(ASKED, request=text, question=f"q{n}") for n, text in enumerate(texts)]
    ledger.note(zip(entries, asked, strict=True), []).result(5)
    ended = [replace(outcome, answer=text) for text in texts]
    ledger.note([], zip(entries, ended, strict=True)).result(5)
    return entries


def test_a_group_is_noted_as_each_alone(ledger: Ledger, tmp_path: Path) -> None:
    """Rows that are noted together are what they are when each is noted by itself."""
    alone = Ledger(tmp_path / "alone.sqlite")
    span = CostRange(Decimal(0), Decimal("0.5"), Decimal("0.1"))
    outcomes = (DONE, replace(DONE, state="partial", cost=None, cost_range=span))
    for outcome in outcomes:
        noted(ledger, STRANGE, outcome)
        for n, text in enumerate(STRANGE):
            entry = alone.ask(replace(ASKED, request=text, question=f"q{n}"))
            alone.end(entry, replace(outcome, answer=text)).result(5)

    together, single = (
        [{**row, "id": 0, "owner": ""} for row in one.entries()] for one in (ledger, alone)
    )

    assert together == single
    assert ledger.usage("me") == alone.usage("me")
    assert ledger.problem is None
    alone.close()


def test_ends_and_calls_in_one_group(ledger: Ledger) -> None:
    """What has ended and what goes out in its place are on disk together."""
    first, second = ledger.new_entry(), ledger.new_entry()
    ledger.note([(first, replace(ASKED, question="a"))], []).result(5)

    ledger.note([(second, replace(ASKED, question="b"))], [(first, DONE)]).result(5)

    assert [row["state"] for row in ledger.entries()] == ["done", "sent"]


def test_answers_are_found_by_their_question(ledger: Ledger) -> None:
    """The newest whole answer to a question is found among others; no other kind of end is."""
    names = [f"q{n}" for n in range(6)]
    entries = [ledger.new_entry() for _ in names]
    calls = [replace(ASKED, question=name) for name in names]
    ledger.note(zip(entries, calls, strict=True), []).result(5)
    ends = (
        DONE,
        replace(DONE, state="unusable"),
        replace(DONE, state="partial", cost=None),
        replace(DONE, finish_reason="length"),
        replace(DONE, state="refused", cost=None, answer=None),
        replace(DONE, completion_tokens=900),
    )
    ledger.note([], zip(entries, ends, strict=True)).result(5)
    again = ledger.ask(replace(ASKED, question="q0"))
    ledger.end(again, replace(DONE, at=AT + timedelta(hours=1), answer="newer")).result(5)

    assert ledger.which_have_answers("me", [*names, "other"]) == {"q0", "q5"}
    assert ledger.which_have_answers("me", names, 100) == {"q0"}
    assert ledger.which_have_answers("you", names) == set()
    assert ledger.answers_to("me", names)["q0"]["answer"] == "newer"
    assert set(ledger.answers_to("me", names, 100)) == {"q0"}


@pytest.mark.parametrize("keep", ["figures", "nothing"])
def test_names_of_questions_are_texts(tmp_path: Path, keep: str) -> None:
    """Where no text is kept, no name of a question is: it could be guessed."""
    ledger = Ledger(tmp_path / "ledger.sqlite", keep=keep)  # type: ignore[arg-type]  # one of them
    noted(ledger, ("yes",))

    (row,) = ledger.entries()

    assert row["question"] is None
    assert row["answer"] is None
    ledger.close()


def test_many_reserve_together(ledger: Ledger) -> None:
    """Of calls that are reserved in one go, those that the day has room for are noted."""
    calls = [(ledger.new_entry(), replace(ASKED, reserved=Decimal("0.3"))) for _ in range(5)]

    found = ledger.reserve_all(calls, Decimal("1.00")).result(5)

    assert found is not None
    assert [one.entry for one in found] == [*(entry for entry, _ in calls[:3]), None, None]
    assert found[3].under_way == Decimal("0.9")
    assert len(ledger.entries()) == 3


def test_an_older_file_is_brought_up_to_date(tmp_path: Path) -> None:
    """A ledger of the version before gets the column, and keeps what it has."""
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TABLE steps (name TEXT PRIMARY KEY, at INTEGER)")
    for step in schema.STEPS[:3]:
        step(db)
        db.execute("INSERT INTO steps VALUES (?, 0)", (step.__name__,))
    db.execute(
        "INSERT INTO entries (id, sent, account, state, model) VALUES (1, 1, 'me', 'done', 'm')"
    )
    db.close()
    ledger = Ledger(path)

    noted(ledger, ("yes",))

    assert [row["question"] for row in ledger.entries()] == [None, "q0"]
    assert ledger.problem is None
    ledger.close()


PLAIN = question("Why?", think="off")


@pytest.mark.parametrize(
    "other",
    [
        question("Why not?", think="off"),
        question("Why?", think="low"),
        question("Why?"),
        question("Why?", think="off", model="pro"),
        question("Why?", think="off", system="Be brief."),
        question("Why?", think="off", temperature=0.5),
        question("Why?", think="off", top_p=0.5),
        question("Why?", think="off", stop="."),
        question("Why? As JSON.", think="off", json=True),
    ],
)
def test_all_that_shapes_an_answer_names_it(other: object) -> None:
    """Another model, setting or word is another question."""
    assert name_of(other) != name_of(PLAIN)  # type: ignore[arg-type]  # a request it is


def test_a_bound_does_not_name_it() -> None:
    """The same question with another bound on its answer has the same name, everywhere."""
    assert name_of(question("Why?", think="off", max_tokens=50)) == name_of(PLAIN)
    assert name_of(PLAIN) == "wQz69wqpCL7yuymWCF6S"


def test_the_sum_of_a_hundred_thousand(ledger: Ledger) -> None:
    """What was spent since a day is told by the kept sums, ranges by their likely figure."""
    span = CostRange(Decimal(0), Decimal("0.5"), Decimal("0.25"))
    noted(ledger, ("a", "b"))
    noted(ledger, ("c",), replace(DONE, state="partial", cost=None, cost_range=span))
    day = AT.astimezone().date()

    assert ledger.sum_from("me", "CNY", day) == Decimal("0.250024")
    assert ledger.sum_from("me", "USD", day) == 0
    assert ledger.sum_from("me", "CNY", day + timedelta(days=1)) == 0
