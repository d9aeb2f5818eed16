"""Whatever rows there are and whatever fails: rows keep their answers, each is paid once."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek_magic.errors import DeepSeekError, InsufficientBalance
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session

FEW = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
ASK: dict[str, Any] = {"model": "flash", "think": "off", "progress": False}
TEMPLATE = "Tell of {{text}}"

TEXTS = st.lists(
    st.one_of(
        st.none(),
        st.integers(0, 12).map(lambda number: f"item-{number:03}"),
        st.integers(0, 12).map(lambda number: f"item-{number:03}"),
    ),
    max_size=30,
)
FREE = (429, 503, 400)
"""What is refused and not billed."""
BILLED = (
    Reply(""),
    Reply("cut off", finish_reason="length"),
    Reply("one two three", after=1, then="close"),
    Reply("No", then="no-finish"),
)
FAILURES = st.lists(
    st.one_of(st.none(), st.none(), st.sampled_from(FREE), st.sampled_from(BILLED)),
    max_size=12,
)


def script(api: Sandbox, failures: list[Any]) -> None:
    """Let requests fail as given; None is an answer as the account gives it."""
    api.unscript()
    given = [Reply() if one is None else one for one in failures]
    if given:
        api.script(*(one if isinstance(one, Reply) else Reply(status=one) for one in given))


def whole(api: Sandbox) -> Counter[str]:
    """Count the whole answers that were paid for, by the question."""
    return Counter(
        row.body["messages"][-1]["content"]
        for row in api.requests
        if row.body and row.status == 200 and row.finished
    )


def map_until_done(session: Session, data: pd.DataFrame, **more: Any) -> list[Any]:
    """Map again and again until no row fails; give all frames, the partial ones too."""
    frames = []
    for _ in range(30):
        try:
            frames.append(session.map(data, TEMPLATE, **ASK, **more))
        except DeepSeekError as error:
            frames.append(error.partial)
        missing = frames[-1]["answer"].isna() & data["text"].notna()
        if not missing.any():
            return frames
    raise AssertionError("it does not come to an end")


@given(texts=TEXTS, at_once=st.integers(1, 9))
@FEW
def test_pairs_order_and_repeats(texts: list[str | None], at_once: int) -> None:
    """Every row has the answer to its own text, equal rows are asked once, blank ones never."""
    data = pd.DataFrame({"text": texts}, index=range(100, 100 + len(texts)), dtype=object)

    with (
        Sandbox() as api,
        Session(api_key=api.api_key, base_url=api.base_url, ledger=":memory:") as session,
    ):
        frame = session.map(data, TEMPLATE, **ASK, concurrency=at_once)

        assert list(frame.index) == list(data.index)
        for text, answer, error in zip(texts, frame["answer"], frame["error"], strict=True):
            assert (answer is None and error) if text is None else (text in answer and not error)
        asked = {text for text in texts if text is not None}
        assert sorted(whole(api)) == sorted(f"Tell of {text}" for text in asked)
        assert set(whole(api).values()) <= {1}
        assert sum(frame["cost"], Decimal(0)) == api.billed
        repeats = data["text"].duplicated() | data["text"].isna()
        assert set(frame["cost"][repeats]) <= {Decimal(0)}


@given(texts=TEXTS, failures=FAILURES, at_once=st.integers(1, 9))
@FEW
def test_resumed_after_failures(texts: list[str | None], failures: list[Any], at_once: int) -> None:
    """After any failures, running again asks for the missing rows alone, and each is paid once."""
    data = pd.DataFrame({"text": texts}, dtype=object)

    with (
        Sandbox() as api,
        Session(
            api_key=api.api_key, base_url=api.base_url, ledger=":memory:", retries=1
        ) as session,
    ):
        script(api, failures)
        frames = map_until_done(session, data, concurrency=at_once)

        usable = Counter(
            entry["question"] for entry in session.ledger.entries() if entry["state"] == "done"
        )
        assert set(usable.values()) <= {1}, "an answer that was there was paid for again"
        for text, answer in zip(texts, frames[-1]["answer"], strict=True):
            assert text is None or text in answer
        used = session.usage()
        assert api.wait_idle()
        assert Decimal(used["cost_low"].sum()) <= api.billed <= Decimal(used["cost_high"].sum())


@given(
    number=st.integers(1, 25),
    money=st.integers(6, 40).map(lambda tenths: Decimal(tenths) / 10_000),
    at_once=st.integers(1, 9),
)
@settings(FEW, max_examples=3)
def test_resumed_after_top_ups(number: int, money: Decimal, at_once: int) -> None:
    """However often the money ends, each row is paid once, and little is asked in vain."""
    data = pd.DataFrame({"text": [f"item-{n:03}" for n in range(number)]})

    with (
        Sandbox(balance=money) as api,
        Session(api_key=api.api_key, base_url=api.base_url, ledger=":memory:") as session,
    ):
        for _ in range(100):
            try:
                frame = session.map(data, TEMPLATE, **ASK, concurrency=at_once)
                break
            except InsufficientBalance as error:
                partial = error.partial
            assert len(partial) == number
            statuses = [row.status for row in api.requests]
            assert statuses.count(402) <= at_once
            assert len(statuses) <= number + at_once
            assert set(whole(api).values()) <= {1}
            api.requests.clear()
            api.top_up(money)
            session.balance()
        else:
            raise AssertionError("it does not come to an end")

        assert frame["error"].isna().all()
        assert all(
            text in answer for text, answer in zip(data["text"], frame["answer"], strict=True)
        )
        assert session.usage()["queries"].sum() == number
