"""A question for every row, over a real socket: what comes back, what is paid, what is kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import BaseModel

from deepseek_magic.errors import (
    BadRequest,
    BrokenAnswer,
    DeepSeekError,
    InsufficientBalance,
    InvalidOption,
    KeyInText,
    NoKey,
    OverLimit,
    ServerFailure,
    WrongKey,
)
from deepseek_magic.jobs import Forecast, Progress
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session

CALM = datetime(2026, 11, 21, 2, tzinfo=UTC)
"""A Saturday: prices do not change in the midst of a test."""
PLAIN: dict[str, Any] = {"model": "flash", "think": "off", "progress": False}
TOLD = "Tell of {{text}}"
TURNED_AWAY = {
    "rate": 429,
    "busy": 503,
    "pause": Reply(status=429, headers={"Retry-After": "0"}),
    "money": Reply(
        status=429,
        body={
            "error": {
                "message": "Too many requests. Your current concurrency is 9, which exceeds your "
                "concurrency limit of 5 based on your remaining balance. Please top up."
            }
        },
    ),
}
SPOILT = {
    "risk": 400,
    "page": Reply(status=500),
    "empty": Reply(""),
    "blank": Reply(" \n "),
    "cut": Reply("Half an ans", finish_reason="length"),
    "filtered": Reply("No", finish_reason="content_filter"),
    "resources": Reply("No", finish_reason="insufficient_system_resource"),
    "unfinished": Reply("No", then="no-finish"),
    "closed": Reply("One two three", after=1, then="close"),
    "reset": Reply(after="request", then="reset"),
    "garbage": Reply("No", then="garbage"),
    "error in it": Reply(body={"error": {"message": "out of order"}}),
    "sign-in page": Reply(body="<html><title>Sign in</title></html>", content_type="text/html"),
    "nothing": Reply(body=""),
}


@pytest.fixture(autouse=True)
def calm(api: Sandbox) -> None:
    """Stop the account's clock."""
    api.set_clock(CALM)


@pytest.fixture
def session(api: Sandbox, open_session: Callable[..., Session]) -> Session:
    """Give a session whose ledger is a file."""
    return open_session(api, clock=lambda: CALM)


def rows(number: int) -> pd.DataFrame:
    texts = [f"item-{n:04}" for n in range(number)]
    return pd.DataFrame({"text": texts, "n": range(number)}, index=[f"r{n}" for n in range(number)])


def asked(api: Sandbox) -> list[str]:
    """Give what the questions said, in the order in which they came."""
    return [row.body["messages"][-1]["content"] for row in api.requests if row.body]


def assert_paired(frame: pd.DataFrame) -> None:
    wrong = [
        text
        for text, answer in zip(frame["text"], frame["answer"], strict=True)
        if text not in str(answer)
    ]
    assert not wrong, f"rows with another's answer: {wrong}"


# -- what comes back ---------------------------------------------------------------------


def test_the_frame(session: Session, api: Sandbox) -> None:
    """The frame has the columns and the index of the data, then answer, cost and error."""
    data = rows(40)

    frame = session.map(data, TOLD, **PLAIN)

    assert list(frame.columns) == ["text", "n", "answer", "cost", "error"]
    pd.testing.assert_frame_equal(frame[["text", "n"]], data)
    assert_paired(frame)
    assert frame["error"].isna().all()
    assert list(data.columns) == ["text", "n"], "the caller's own frame was changed"
    assert len(api.requests) == 40


def test_the_bill(session: Session, api: Sandbox) -> None:
    """The costs of the rows, the session's sum and the ledger's are the account's bill."""
    frame = session.map(rows(40), TOLD, **PLAIN)

    assert sum(frame["cost"], Decimal(0)) == api.billed
    assert session.spent["CNY"] == api.billed
    assert session.usage()["cost"].sum() == api.billed
    assert all(isinstance(cost, Decimal) for cost in frame["cost"])


def test_late_answers_stay_with_their_rows(session: Session, api: Sandbox) -> None:
    """Answers that come in another order than they were asked in stand in the right rows."""
    api.script(*[Reply(latency=0.2 - 0.02 * n) for n in range(10)])

    frame = session.map(rows(10), TOLD, **PLAIN)

    assert_paired(frame)


def test_equal_rows(session: Session, api: Sandbox) -> None:
    """Equal rows are asked once, and the first bears the cost."""
    data = pd.DataFrame({"text": ["one", "two", "one", "one", "two"]}, index=[5, 5, 3, 2, 1])

    frame = session.map(data, TOLD, **PLAIN)

    assert len(api.requests) == 2
    assert frame["answer"].iloc[0] == frame["answer"].iloc[2] == frame["answer"].iloc[3]
    assert [cost > 0 for cost in frame["cost"]] == [True, True, False, False, False]
    assert list(frame.index) == [5, 5, 3, 2, 1]
    assert_paired(frame)


@pytest.mark.parametrize(
    ("data", "requests"),
    [([], 0), (["one"], 1), (["one"] * 50, 1), ([None, "", "  "], 0)],
    ids=["no row", "one row", "all equal", "all blank"],
)
def test_few_rows(session: Session, api: Sandbox, data: list[Any], requests: int) -> None:
    """Data without rows, with one, with equal ones or blank ones gives a frame as long as it is."""
    frame = session.map(pd.DataFrame({"text": data}, dtype=object), TOLD, **PLAIN)

    assert len(frame) == len(data)
    assert len(api.requests) == requests
    assert list(frame["answer"].isna()) == [not (text or "").strip() for text in data]
    assert list(frame["error"].notna()) == [not (text or "").strip() for text in data]


@pytest.mark.parametrize("kind", ["list", "dicts", "series", "polars", "csv", "parquet"])
def test_data_of_many_kinds(session: Session, tmp_path: Path, kind: str) -> None:
    """A list, dicts, a series, a Polars frame and files are asked about alike."""
    frame = rows(5)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    made: dict[str, Callable[[], Any]] = {
        "list": lambda: list(frame["text"]),
        "dicts": lambda: frame.to_dict("records"),
        "series": lambda: frame["text"],
        "polars": lambda: pytest.importorskip("polars").from_pandas(frame),
        "csv": lambda: str(tmp_path / "rows.csv"),
        "parquet": lambda: tmp_path / "rows.parquet",
    }
    data = made[kind]()

    found = session.map(data, TOLD, **PLAIN)

    assert [
        text in answer for text, answer in zip(frame["text"], found["answer"], strict=True)
    ] == [True] * 5


def test_strange_texts(session: Session, api: Sandbox) -> None:
    """Whatever letters a row holds, its answer is the same when it comes from the ledger."""
    texts = [
        "\U0001f600 smile",
        "a\u2028b",
        "line\r\nline",
        "{{text}}",
        "'\"; --",
        "\x1b[31m",
        "ω" * 9,
    ]
    answers = [
        "before\0after",
        "\U0001f600",
        "\u2028|",
        "a\r\nb",
        "{{x}}",
        "\x1b[31mred",
        "ω" * 5000,
    ]
    api.script(*answers)

    first = session.map(texts, "About {{text}}", **PLAIN, concurrency=1)
    again = session.map(texts, "About {{text}}", **PLAIN, concurrency=1)

    assert list(first["answer"]) == answers
    assert list(again["answer"]) == answers
    assert len(api.requests) == len(texts)


def test_half_a_character(session: Session, api: Sandbox) -> None:
    """A row whose text cannot be sent is told before anything is paid, or has its own error."""
    data = ["good", "lone \ud800 half", "fine"]

    try:
        frame = session.map(data, TOLD, **PLAIN)
    except InvalidOption:
        assert not len(api.requests)
    else:
        assert list(frame["error"].isna()) == [True, False, True]
        assert len(api.requests) == 2


def test_a_large_row(session: Session, api: Sandbox) -> None:
    """A row of a megabyte is asked like any other."""
    frame = session.map(["small", "x" * 2**20], "Tell of {{text}}", **PLAIN)

    assert frame["error"].isna().all()
    assert sum(frame["cost"], Decimal(0)) == api.billed


def test_other_names_and_fewer_rows(session: Session, api: Sandbox) -> None:
    """The answers go into the column that is named, for the first rows if they are limited."""
    frame = session.map(rows(9), TOLD, **PLAIN, column="label", limit=3)

    assert list(frame.columns) == ["text", "n", "label", "cost", "error"]
    assert list(frame.index) == ["r0", "r1", "r2"]
    assert len(api.requests) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"template": "Tell of {{txt}}"},
        {"column": "n"},
        {"column": "cost"},
        {"limit": 0},
        {"concurrency": 0},
        {"concurrency": True},
        {"budget": "much"},
        {"model": ""},
        {"max_tokens": 0},
        {"data": 5},
    ],
    ids=str,
)
def test_what_cannot_be_asked(session: Session, api: Sandbox, wrong: dict[str, Any]) -> None:
    """A template, an option or data that cannot be used is told before anything is sent."""
    given = {"data": rows(3), "template": TOLD, **PLAIN, **wrong}

    with pytest.raises(InvalidOption):
        session.map(given.pop("data"), given.pop("template"), **given)

    assert not len(api.requests)


def test_settings(session: Session, api: Sandbox) -> None:
    """Every setting of one question is sent with each row."""
    session.map(
        rows(2),
        TOLD,
        model="pro",
        think="high",
        system="Be short.",
        max_tokens=900,
        stop=["END"],
        progress=False,
    )

    for request in api.requests:
        assert request.body is not None
        assert request.body["model"] == "deepseek-v4-pro"
        assert request.body["thinking"] == {"type": "enabled"}
        assert request.body["messages"][0] == {"role": "system", "content": "Be short."}
        assert (request.body["max_tokens"], request.body["stop"]) == (900, ["END"])
        assert request.headers["authorization"] == f"Bearer {api.api_key}"


class Label(BaseModel):
    """What is made of a row."""

    topic: str
    score: int


def test_json(session: Session, api: Sandbox) -> None:
    """With json the answers are parsed, and what is no JSON is the row's error."""
    api.script('{"a": 1}', "no JSON", "[1, 2]")

    frame = session.map(rows(3), TOLD, **PLAIN, json=True, repair=False, concurrency=1)

    assert list(frame["answer"]) == [{"a": 1}, None, [1, 2]]
    assert list(frame["error"].isna()) == [True, False, True]
    assert sum(frame["cost"], Decimal(0)) == api.billed


def test_a_schema(session: Session, api: Sandbox) -> None:
    """With a schema each field is a column; an answer that does not fit is the row's error."""
    api.script(
        '{"topic": "tea", "score": 3}', '{"topic": "tea"}', "chat", '{"topic": "x", "score": 4}'
    )

    how: dict[str, Any] = {**PLAIN, "schema": Label, "repair": False, "concurrency": 1}
    frame = session.map(rows(3), TOLD, **how)
    again = session.map(rows(3), TOLD, **how)

    assert list(frame.columns) == ["text", "n", "topic", "score", "cost", "error"]
    assert list(frame["topic"].fillna("-")) == ["tea", "-", "-"]
    assert frame["score"].iloc[0] == 3
    assert list(frame["error"].isna()) == [True, False, False]
    assert sum(frame["cost"], Decimal(0)) + sum(again["cost"], Decimal(0)) == api.billed
    assert again["topic"].iloc[1] == "x"
    assert len(api.requests) == 5, "the row that had its answer was asked again"


# -- what was answered before ------------------------------------------------------------


def test_a_second_run_is_free(
    session: Session, api: Sandbox, open_session: Callable[..., Session]
) -> None:
    """What was answered earlier comes from the ledger, for nothing, in another session too."""
    first = session.map(rows(30), TOLD, **PLAIN)
    session.close()
    other = open_session(api, clock=lambda: CALM)

    again = other.map(rows(40), TOLD, **PLAIN)

    assert len(api.requests) == 40
    assert list(again["answer"])[:30] == list(first["answer"])
    assert set(again["cost"].iloc[:30]) == {Decimal(0)}
    assert_paired(again)


def test_fresh(session: Session, api: Sandbox) -> None:
    """With fresh every row is asked again."""
    session.map(rows(3), TOLD, **PLAIN)

    session.map(rows(3), TOLD, **PLAIN, fresh=True)

    assert len(api.requests) == 6


@pytest.mark.parametrize(
    ("change", "requests"),
    [
        ({"max_tokens": 5000}, 0),
        ({"concurrency": 1}, 0),
        ({"budget": "1"}, 0),
        ({"column": "other"}, 0),
        ({"system": "Be short."}, 2),
        ({"temperature": 0.1}, 2),
        ({"think": "low"}, 2),
        ({"model": "pro"}, 2),
        ({"stop": ["END"]}, 2),
        ({"max_tokens": 1}, 2),
    ],
    ids=str,
)
def test_what_makes_a_question_another_one(
    session: Session, api: Sandbox, change: dict[str, Any], requests: int
) -> None:
    """All that shapes an answer makes it another question, and nothing else does."""
    session.map(rows(2), TOLD, **PLAIN)
    api.requests.clear()

    session.map(rows(2), TOLD, **{**PLAIN, **change})

    assert len(api.requests) == requests


def test_one_question_serves_a_row(session: Session, api: Sandbox) -> None:
    """What was answered as a question of its own is not paid for again as a row."""
    answer = session.ask("Tell of tea", model="flash", think="off")

    frame = session.map(["tea"], TOLD, **PLAIN)

    assert list(frame["answer"]) == [answer.text]
    assert len(api.requests) == 1


@pytest.mark.parametrize("keep", ["figures", "nothing"])
def test_no_texts_are_kept(
    api: Sandbox, open_session: Callable[..., Session], path: Path, keep: str
) -> None:
    """Where no texts may be kept none are on disk, and this session does not pay twice."""
    one = open_session(api, clock=lambda: CALM, keep=keep)

    first = one.map(rows(5), "My secret is {{text}}", **PLAIN)
    again = one.map(rows(5), "My secret is {{text}}", **PLAIN)
    one.close()

    assert list(first["answer"]) == list(again["answer"])
    assert len(api.requests) == 5
    written = path.read_bytes() if path.exists() else b""
    assert b"secret" not in written
    assert b"item-0001" not in written


# -- rows that fail by themselves --------------------------------------------------------


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
def test_a_failed_row(session: Session, api: Sandbox, spoilt: Reply | int) -> None:
    """A row that fails has its error, the others their answers, and only it is asked again."""
    api.script("An answer.", spoilt if isinstance(spoilt, Reply) else Reply(status=spoilt))

    frame = session.map(rows(4), TOLD, **PLAIN, concurrency=1)
    first = len(api.requests)
    again = session.map(rows(4), TOLD, **PLAIN, concurrency=1)

    assert list(frame["answer"].isna()) == [False, True, False, False]
    assert list(frame["error"].notna()) == [False, True, False, False]
    assert "\n" not in frame["error"].iloc[1]
    assert first == 4
    assert len(api.requests) == 5
    assert again["error"].isna().all()


def test_the_cost_of_failed_rows(session: Session, api: Sandbox) -> None:
    """A failed row costs what was billed for it; where nobody knows, its cost is unknown."""
    api.script("Fine.", 400, Reply(""), Reply("One two", after=1, then="close"))

    frame = session.map(rows(4), TOLD, **PLAIN, concurrency=1)
    api.wait_idle()
    used = session.usage().iloc[0]

    assert frame["cost"].iloc[1] == 0
    assert frame["cost"].iloc[2] is not None
    assert frame["cost"].iloc[3] is None
    assert used["cost_low"] <= api.billed <= used["cost_high"]


@pytest.mark.parametrize("reply", TURNED_AWAY.values(), ids=TURNED_AWAY)
def test_a_row_is_turned_away(session: Session, api: Sandbox, reply: Reply | int) -> None:
    """A row that was turned away unbilled is asked again by itself, and costs once."""
    api.script("A first answer.", reply, reply)

    frame = session.map(rows(6), TOLD, **PLAIN, concurrency=3)

    assert frame["error"].isna().all()
    assert len(api.requests) == 8
    assert sum(frame["cost"], Decimal(0)) == api.billed


def test_the_accounts_limit(session: Session, api: Sandbox) -> None:
    """An account that takes few requests at once is asked all the same, every row once paid."""
    api.change(concurrency={"deepseek-flash": 20}, latency=0.01)

    frame = session.map(rows(70), TOLD, **PLAIN)

    assert frame["error"].isna().all()
    assert_paired(frame)
    assert sum(frame["cost"], Decimal(0)) == api.billed


def test_a_limit_by_the_balance(session: Session, api: Sandbox) -> None:
    """Where little money allows few requests at once, the rows go on with fewer."""
    api.change(concurrency_per_unit=1, latency=0.005)  # 5 CNY: 4 or 5 at once

    frame = session.map(rows(60), TOLD, **PLAIN)

    assert frame["error"].isna().all()
    assert sum(frame["cost"], Decimal(0)) == api.billed


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_the_users_limit(session: Session, api: Sandbox, at_once: int) -> None:
    """No more requests are under way than the user allows."""
    api.change(concurrency={"deepseek-flash": at_once}, latency=0.005)

    session.map(rows(30), TOLD, **PLAIN, concurrency=at_once)

    assert {row.status for row in api.requests} == {200}


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=502), ServerFailure),
        (Reply(status=500), ServerFailure),
        (Reply(status=503), ServerFailure),
        (Reply(status=301, headers={"Location": "http://127.0.0.1:9/"}), DeepSeekError),
        (Reply(status=400), BadRequest),
        (Reply(after="request", then="reset"), BrokenAnswer),
        (Reply(body="<html>Sign in</html>", content_type="text/html"), BrokenAnswer),
    ],
    ids=["502", "500", "503", "301", "400", "reset", "page"],
)
def test_nothing_is_answered(
    api: Sandbox, open_session: Callable[..., Session], reply: Reply, error: type[Exception]
) -> None:
    """Where nothing is answered any more the rest of the rows is not sent."""
    api.script(reply, forever=True)
    session = open_session(api, clock=lambda: CALM, retries=0)

    with pytest.raises(error) as caught:
        session.map(rows(400), TOLD, **PLAIN, concurrency=4)

    assert len(api.requests) < 30
    assert len(caught.value.partial) == 400  # type: ignore[attr-defined]  # it is one of ours


def test_failures_after_answers(session: Session, api: Sandbox) -> None:
    """A server that breaks down in the midst of it is not asked for every row that is left."""
    api.script(*["An answer."] * 20, Reply(status=502), forever=True)

    with pytest.raises(ServerFailure) as caught:
        session.map(rows(400), TOLD, **PLAIN, concurrency=4)

    assert len(api.requests) < 150
    assert caught.value.partial["answer"].notna().sum() == 20


# -- money -------------------------------------------------------------------------------


def test_the_money_ends(session: Session, api: Sandbox) -> None:
    """At the first 402 nothing more is sent, all that was paid is there, and a top-up pays on."""
    api.balance = Decimal("0.008")
    api.change(latency=0.01)

    with pytest.raises(InsufficientBalance) as caught:
        session.map(rows(200), TOLD, **PLAIN, concurrency=4)

    refused = [row.status for row in api.requests].count(402)
    partial = caught.value.partial
    done = partial["answer"].notna()
    assert 1 <= refused <= 4
    assert done.sum() == len(api.requests) - refused
    assert partial["error"].notna().equals(~done)
    assert sum(partial["cost"].dropna(), Decimal(0)) >= api.billed
    assert caught.value.progress is not None
    assert caught.value.progress.asked == done.sum()
    assert f"{done.sum()} of 200 rows" in str(caught.value)

    api.top_up("5")
    api.requests.clear()
    frame = session.map(rows(200), TOLD, **PLAIN, concurrency=4)

    assert len(api.requests) == 200 - done.sum()
    assert frame["error"].isna().all()
    assert_paired(frame)


@pytest.mark.parametrize("left", ["0.003", "0"])
@pytest.mark.parametrize("keep", ["all", "figures"])
def test_what_was_paid_earlier_is_in_what_there_is(
    api: Sandbox, open_session: Callable[..., Session], keep: str, left: str
) -> None:
    """Wherever the money ends, rows answered earlier have their answers, and cost nothing."""
    session = open_session(api, keep=keep)
    first = session.map(rows(8), TOLD, **PLAIN)
    api.balance = Decimal(left)
    api.change(latency=0.01)
    session.balance()

    with pytest.raises(InsufficientBalance) as caught:
        session.map(rows(100), TOLD, **PLAIN, concurrency=2)

    partial = caught.value.partial
    assert list(partial["answer"][:8]) == list(first["answer"])
    assert set(partial["cost"][:8]) == {Decimal(0)}
    assert f"{partial['answer'].notna().sum()} of 100 rows" in str(caught.value)
    assert caught.value.progress is not None
    assert caught.value.progress.kept == 8


def test_no_money_at_all(session: Session, api: Sandbox) -> None:
    """An account that is known to be empty is tried with one request, or with none."""
    api.balance = Decimal(0)
    session.balance()

    with pytest.raises(InsufficientBalance) as caught:
        session.map(rows(50), TOLD, **PLAIN)

    assert len(api.requests) <= 1
    assert caught.value.partial["answer"].isna().all()
    assert set(caught.value.partial["cost"]) == {Decimal(0)}


def test_a_budget(session: Session, api: Sandbox) -> None:
    """A budget smaller than the job is spent as far as it goes, and never passed."""
    with pytest.raises(OverLimit) as caught:
        session.map(rows(200), TOLD, **PLAIN, max_tokens=200, budget="0.02")

    partial = caught.value.partial
    assert Decimal(0) < api.billed <= Decimal("0.02")
    assert partial["answer"].notna().sum() == len(api.requests) > 5
    assert sum(partial["cost"], Decimal(0)) == api.billed
    assert "of 200 rows" in str(caught.value)


def test_a_budget_bounds_the_answers(session: Session, api: Sandbox) -> None:
    """Without a bound of the caller's own, a budget sets one for each row."""
    with pytest.raises(OverLimit):
        session.map(rows(200), TOLD, **PLAIN, budget="0.02")

    assert all(row.body and row.body["max_tokens"] for row in api.requests)
    assert Decimal(0) < api.billed <= Decimal("0.02")


def test_a_budget_that_does(session: Session, api: Sandbox) -> None:
    """A budget that is large enough changes nothing."""
    frame = session.map(rows(20), TOLD, **PLAIN, budget="4")

    assert frame["error"].isna().all()
    assert len(api.requests) == 20


def test_a_budget_that_is_too_small(session: Session, api: Sandbox) -> None:
    """A budget that does not do for one row sends none; *anyway* sends all the same."""
    with pytest.raises(OverLimit):
        session.map(rows(3), TOLD, **PLAIN, max_tokens=1000, budget="0.0000001")
    assert not len(api.requests)

    frame = session.map(rows(3), TOLD, **PLAIN, max_tokens=1000, budget="0.0000001", anyway=True)

    assert frame["error"].isna().all()


def test_an_answer_without_usage_is_paid_once(session: Session, api: Sandbox) -> None:
    """An answer of no known length has its row, also where the length is bounded."""
    api.script(Reply("Good.", then="no-usage"))
    first = session.map(["a"], TOLD, **PLAIN, max_tokens=20)

    frame = session.map(["a"], TOLD, **PLAIN, max_tokens=10)

    assert list(first["answer"]) == list(frame["answer"]) == ["Good."]
    assert len(api.requests) == 1


@pytest.mark.parametrize("think", ["off", "high"])
def test_a_row_that_the_budget_cuts_is_paid_once(
    session: Session, api: Sandbox, think: str
) -> None:
    """A row that had too little room is not sent with the same room again."""
    asked = {**PLAIN, "think": think}
    with pytest.raises(OverLimit) as caught:
        session.map(rows(6), TOLD, **asked, budget="0.0004")
    cut = caught.value.partial["error"].iloc[0]
    paid = api.billed
    assert paid
    assert "limit had no room for more" in cut
    assert "--max-tokens" not in cut

    with pytest.raises(
        OverLimit, match=r"was cut at \d+ tokens already\. Raise the limit"
    ) as again:
        session.map(rows(6), TOLD, **asked, budget="0.0004")
    assert api.billed == paid
    assert again.value.partial["error"].str.startswith("Not asked").all()

    frame = session.map(rows(6), TOLD, **asked, budget="0.05")

    assert frame["error"].isna().all()


def test_the_days_limit(api: Sandbox, open_session: Callable[..., Session]) -> None:
    """All jobs of a day, of two sessions on one ledger, stay within the day's limit together."""
    first = open_session(api, clock=lambda: CALM, day_limit="0.02")
    second = open_session(api, clock=lambda: CALM, day_limit="0.02")

    with pytest.raises(OverLimit):
        first.map(rows(200), TOLD, **PLAIN, max_tokens=200)
    with pytest.raises(OverLimit):
        second.map(rows(200), TOLD, **PLAIN, max_tokens=200)

    assert Decimal("0.01") < api.billed <= Decimal("0.02")


def test_the_days_limit_bounds_the_answers(
    api: Sandbox, open_session: Callable[..., Session]
) -> None:
    """Without a bound of the caller's own, a day's limit sets one, and is used up."""
    api.script(Reply(tokens=2), forever=True)
    session = open_session(api, clock=lambda: CALM, day_limit="0.01")

    with pytest.raises(OverLimit) as caught:
        session.map(rows(1000), TOLD, **PLAIN)

    assert all(row.body and row.body["max_tokens"] for row in api.requests)
    assert Decimal("0.0095") < api.billed <= Decimal("0.01")
    assert caught.value.partial["answer"].notna().sum() == len(api.requests)


def test_two_jobs_share_the_days_limit(api: Sandbox, open_session: Callable[..., Session]) -> None:
    """Two jobs at the same time cannot pass the day's limit together."""
    api.change(latency=0.01)
    sessions = [open_session(api, clock=lambda: CALM, day_limit="0.02") for _ in range(2)]
    caught: list[BaseException] = []

    def ask(session: Session, start: int) -> None:
        try:
            session.map(rows(400)[start : start + 200], TOLD, **PLAIN, max_tokens=200)
        except OverLimit as error:
            caught.append(error)

    threads = [threading.Thread(target=ask, args=(one, 200 * n)) for n, one in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(caught) == 2
    assert Decimal("0.01") < api.billed <= Decimal("0.02")


def test_a_wrong_key(api: Sandbox, open_session: Callable[..., Session]) -> None:
    """A key that is not accepted ends the job at the first word of it, and is in no text."""
    key = "sk-" + "f" * 32
    session = open_session(api, clock=lambda: CALM, api_key=key)

    with pytest.raises(WrongKey) as caught:
        session.map(rows(50), TOLD, **PLAIN, concurrency=1)

    assert len(api.requests) == 1
    assert key not in f"{caught.value!r} {caught.value.partial.to_string()}"


def test_no_key(api: Sandbox, open_session: Callable[..., Session]) -> None:
    """Without a key nothing is sent, and the error says what to do."""
    with pytest.raises(NoKey):
        open_session(api, api_key=None).map(rows(3), TOLD, **PLAIN)

    assert not len(api.requests)


@pytest.mark.parametrize("place", [0, 7])
def test_a_key_in_a_row(session: Session, api: Sandbox, place: int) -> None:
    """A row that holds a key, the session's own or another, stops the job before it begins."""
    for key in (api.api_key, "sk-" + "0123456789abcdef" * 2):
        data = rows(10)
        data.iloc[place, 0] = f"see {key} here"

        with pytest.raises(KeyInText) as caught:
            session.map(data, TOLD, **PLAIN)

        assert key not in str(caught.value)
    assert not len(api.requests)


def test_the_key_is_nowhere(session: Session, api: Sandbox) -> None:
    """A server that repeats the key does not get it into the frame or the ledger."""
    api.script(
        f"Your key is {api.api_key}.",
        Reply(status=400, body={"error": {"message": f"bad {api.api_key}"}}),
    )

    frame = session.map(rows(3), TOLD, **PLAIN, concurrency=1)

    assert api.api_key not in frame.to_csv()
    assert api.api_key not in repr(session.ledger.entries())


# -- before it begins --------------------------------------------------------------------


def test_a_forecast(session: Session, api: Sandbox) -> None:
    """A forecast counts rows, repeats, kept and blank ones, prices the rest, and sends nothing."""
    session.map(rows(3), TOLD, **PLAIN)
    api.requests.clear()
    data = [*rows(10)["text"], "item-0009", None]

    found = session.forecast(data, TOLD, model="flash", think="off", max_tokens=5000)

    assert (found.rows, found.repeated, found.kept, found.blank, found.to_ask) == (12, 1, 3, 1, 7)
    assert found.cost is not None
    assert found.worst is not None
    assert found.cost.low <= found.cost.high <= found.worst
    assert not found.is_doubtful
    assert not len(api.requests)


def test_a_forecast_bounds_the_bill(session: Session, api: Sandbox) -> None:
    """What the rows then cost is not above the worst that was told."""
    found = session.forecast(rows(50), TOLD, model="flash", think="off", max_tokens=300)

    session.map(rows(50), TOLD, **PLAIN, max_tokens=300)

    assert found.worst is not None
    assert api.billed <= found.worst


def test_confirmation_in_doubt(session: Session, api: Sandbox) -> None:
    """Where a limit may not do, the caller is asked before anything is sent, and may stop it."""
    told: list[Forecast] = []

    def stop(found: Forecast) -> None:
        told.append(found)
        raise InvalidOption("stopped")

    with pytest.raises(InvalidOption, match="stopped"):
        session.map(rows(500), TOLD, **PLAIN, budget="0.01", confirm=stop)

    assert not len(api.requests)
    assert told[0].within is not None
    assert told[0].within < told[0].to_ask == 500


def test_no_confirmation_without_doubt(session: Session) -> None:
    """Where the money does, nobody is asked."""
    told: list[Forecast] = []

    session.map(rows(3), TOLD, **PLAIN, confirm=told.append)

    assert not told


# -- while it runs -----------------------------------------------------------------------


def test_progress(session: Session, api: Sandbox) -> None:
    """Who listens is told in the calling thread how far it is, and at the end of all rows."""
    told: list[tuple[int, Progress]] = []
    api.change(latency=0.1)
    data = [*rows(20)["text"], "item-0001", None]

    session.map(
        data,
        TOLD,
        **{**PLAIN, "progress": lambda now: told.append((threading.get_ident(), now))},
        concurrency=5,
    )

    last = told[-1][1]
    assert {thread for thread, _ in told} == {threading.get_ident()}
    assert len(told) > 1
    assert (last.rows, last.done, last.asked, last.repeated, last.failed) == (22, 22, 20, 1, 1)
    assert last.cost == api.billed
    assert last.under_way == 0


def test_a_listener_that_fails(session: Session, api: Sandbox) -> None:
    """Whatever a listener raises, no request follows it, and none of the answers is lost."""
    api.change(latency=0.1)

    def told(now: Progress) -> None:
        if now.asked:
            raise ValueError("a bad listener")

    try:
        session.map(rows(30), TOLD, **{**PLAIN, "progress": told}, concurrency=5)
    except ValueError:
        assert not [one for one in threading.enumerate() if one.name == "deepseek_magic rows"]
        assert api.wait_idle()
        assert len(api.requests) < 30
    entries = session.ledger.entries()

    assert [entry["state"] for entry in entries] == ["done"] * len(api.requests)


def test_nothing_runs_on(session: Session, api: Sandbox) -> None:
    """When it ends, well or not, no thread of it is left."""
    session.map(rows(20), TOLD, **PLAIN)
    api.balance = Decimal(0)
    with pytest.raises(InsufficientBalance):
        session.map(rows(40), TOLD, **PLAIN)

    assert not [one.name for one in threading.enumerate() if one.name == "deepseek_magic rows"]


def test_in_a_running_loop(session: Session) -> None:
    """It works where an event loop runs already, as in a kernel."""

    async def cell() -> Any:
        return session.map(rows(10), TOLD, **PLAIN)

    assert_paired(asyncio.run(cell()))


def test_in_threads(session: Session, api: Sandbox) -> None:
    """Two threads ask about their own rows at the same time."""
    found: dict[int, Any] = {}

    def ask(start: int) -> None:
        found[start] = session.map(rows(60)[start : start + 30], TOLD, **PLAIN)

    threads = [threading.Thread(target=ask, args=(start,)) for start in (0, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for frame in found.values():
        assert_paired(frame)
    costs = [cost for frame in found.values() for cost in frame["cost"]]
    assert sum(costs, Decimal(0)) == api.billed
    assert len(api.requests) == 60


def test_data_that_changes(session: Session, api: Sandbox, tmp_path: Path) -> None:
    """A file that is written to meanwhile ends the job, and what was under way still arrives."""
    path = tmp_path / "rows.csv"
    # What is read ahead of the first rows is less than this file.
    data = pd.DataFrame({"text": [f"item-{n // 100:04}" for n in range(9000)], "pad": "-" * 500})
    data.to_csv(path, index=False)
    api.change(latency=0.1)

    def told(now: Progress) -> None:
        if now.asked and path.stat().st_size > 1000:
            path.write_text("text,pad\nother,1\n")

    with pytest.raises(DeepSeekError):
        session.map(path, TOLD, **{**PLAIN, "progress": told}, concurrency=5)

    assert {entry["state"] for entry in session.ledger.entries()} == {"done"}


# -- interrupts --------------------------------------------------------------------------

STOPPED = """
import json, os, signal, sys, threading
from deepseek_magic.errors import Interrupted
from deepseek_magic.session import Session

url, key, ledger, times = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
session = Session(api_key=key, base_url=url, ledger=ledger)
sent = []

def told(now):
    if now.under_way >= 6 and not sent:
        sent.append(1)
        os.kill(os.getpid(), signal.SIGINT)
    elif sent and len(sent) < times:
        sent.append(1)
        os.kill(os.getpid(), signal.SIGINT)

try:
    session.map([f"item-{n:04}" for n in range(60)], "Tell of {{text}}", model="flash",
                think="off", concurrency=6, progress=told)
except Interrupted as error:
    frame = error.partial
    print(json.dumps({
        "answers": int(frame["answer"].notna().sum()), "rows": len(frame),
        "errors": int(frame["error"].notna().sum()), "asked": error.progress.asked,
        "lines": error._render_traceback_(),
        "threads": [one.name for one in threading.enumerate() if one.name.endswith("rows")],
    }))
session.close()
"""


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt(api: Sandbox, path: Path, times: int) -> None:
    """An interrupt sends nothing more and takes what is under way; a second one drops that."""
    api.change(latency=0.6 if times == 1 else 30.0)

    ran = subprocess.run(
        [sys.executable, "-c", STOPPED, api.base_url, api.api_key, str(path), str(times)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )

    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert ran.stderr == ""
    assert len(api.requests) == 6
    assert found["answers"] == (6 if times == 1 else 0)
    assert (found["rows"], found["errors"]) == (60, 60 - found["answers"])
    assert found["asked"] == found["answers"]
    assert len(found["lines"]) == 1
    assert not found["threads"]


def test_an_interrupted_job_goes_on(session: Session, api: Sandbox) -> None:
    """After an interrupt only the missing rows are asked."""
    api.change(latency=0.1)
    at_once = threading.Event()

    def told(now: Progress) -> None:
        if now.asked and not at_once.is_set():
            at_once.set()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        session.map(rows(40), TOLD, **{**PLAIN, "progress": told}, concurrency=5)
    before = len(api.requests)
    done = caught.value.partial["answer"].notna().sum()  # type: ignore[attr-defined]  # ours
    frame = session.map(rows(40), TOLD, **PLAIN)

    assert 0 < done == before < 40
    assert len(api.requests) == 40
    assert frame["error"].isna().all()
    assert_paired(frame)


# -- a ledger that fails -----------------------------------------------------------------


def test_a_damaged_ledger(api: Sandbox, open_session: Callable[..., Session], path: Path) -> None:
    """A ledger that cannot be read does not stop the rows, and says so."""
    path.write_bytes(b"not a database" * 1000)
    session = open_session(api, clock=lambda: CALM)

    frame = session.map(rows(10), TOLD, **PLAIN)

    assert frame["error"].isna().all()
    assert session.ledger.problem is not None


def test_a_clock_that_stands(session: Session, api: Sandbox) -> None:
    """Jobs within one moment of a clock that stands do not get into each other's way."""
    frames = [session.map(rows(5), f"{n}: {TOLD}", **PLAIN) for n in range(3)]

    assert all(frame["error"].isna().all() for frame in frames)
    assert session.usage()["queries"].sum() == len(api.requests) == 15
