from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest

from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session

Open = Callable[..., Session]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Give a function that opens a session on an account, all on one ledger."""
    sessions: list[Session] = []

    def open_one(api: Sandbox, **settings: Any) -> Session:
        sessions.append(
            Session(
                api_key=api.api_key,
                base_url=api.base_url,
                ledger=tmp_path / "ledger.sqlite",
                **settings,
            )
        )
        return sessions[-1]

    yield open_one
    for one in sessions:
        one.close()


def left(session: Session) -> Decimal:
    """Give what the session reckons with, after the reading that follows a query."""
    session.purse.wait(5)
    known = session.last_balance
    assert known is not None
    assert known.effective is not None
    return known.effective


def test_a_lagging_figure_is_not_believed(opened: Open) -> None:
    """What was spent is gone at once, though the API shows it much later."""
    with Sandbox(balance="1.00", lag=3600, decimals=8) as api:
        session = opened(api)
        session.balance()
        for n in range(3):
            session.ask(f"Why {n}?", think="off")

        shown = session.balance()

        assert api.billed > 0
        assert shown.infos["CNY"].total == Decimal("1.00")
        assert shown.effective == Decimal("1.00") - api.billed
        assert shown.spent_since == api.billed
        assert left(session) == Decimal("1.00") - api.billed


def test_a_figure_that_has_caught_up_is_believed(opened: Open) -> None:
    """Without lag nothing is deducted twice."""
    with Sandbox(balance="1.00", decimals=8) as api:
        session = opened(api)
        session.balance()
        for n in range(5):
            session.ask(f"Why {n}?", think="off")

            assert left(session) == api.balance
        assert session.balance().spent_since == 0


def test_a_top_up_counts_at_once(opened: Open) -> None:
    """A figure that rises is a top-up and is believed."""
    with Sandbox(balance="1.00", lag=3600, decimals=8) as api:
        session = opened(api)
        session.balance()
        session.ask("Why?", think="off")

        api.top_up("10.00")

        assert session.balance().effective == Decimal("11.00")


def test_what_others_spend_counts(opened: Open) -> None:
    """A figure below all that was recorded here is believed too."""
    with Sandbox(balance="5.00") as api:
        session = opened(api)
        session.balance()
        session.ask("Why?", think="off")

        api.balance = Decimal("2.00")

        assert session.balance().effective == Decimal("2.00")


def test_an_old_anchor_is_given_up(opened: Open) -> None:
    """After half an hour the API has settled, and its figure is believed as it stands."""
    time = [datetime(2026, 11, 22, 12, tzinfo=UTC)]
    with Sandbox(balance="1.00", lag=3600, decimals=8) as api:
        session = opened(api, clock=lambda: time[0])
        session.balance()
        time[0] += timedelta(seconds=1)
        session.ask("Why?", think="off")
        assert left(session) < Decimal("1.00")

        time[0] += timedelta(minutes=31)

        assert session.balance().effective == Decimal("1.00")


def test_two_kernels_share_what_they_know(opened: Open) -> None:
    """A reading, and spending, of one session are known to another on the same ledger."""
    with Sandbox(balance="5.00", decimals=8) as api:
        one, other = opened(api), opened(api)
        one.balance()
        other.balance()

        one.ask("Why?", think="off")
        one.purse.wait(5)
        api.balance = Decimal("3.00")
        one.balance()

        assert left(other) == Decimal("3.00")


def test_a_given_currency_is_the_one_reckoned_with(opened: Open) -> None:
    """A session that is told its currency reckons with that purse, not with the fuller one."""
    with Sandbox(balance="2.00", currency="USD", other="100.00") as api:
        session = opened(api, currency="USD")

        balance = session.balance()

        assert balance.currency == "USD"
        assert balance.effective == Decimal("2.00")


def test_accounts_at_other_ports_are_others(opened: Open) -> None:
    """Two relays on this machine with one key are two accounts."""
    with (
        Sandbox(balance="100", key="sk-the-same-key-0123456789") as first,
        Sandbox(balance="1", key="sk-the-same-key-0123456789") as second,
    ):
        opened(first).balance()

        assert opened(second).last_balance is None


def test_the_notebooks_own_rounding_changes_nothing(opened: Open) -> None:
    """Money is exact whatever precision the notebook computes with."""
    with Sandbox(balance="123.45678901", decimals=8) as api:
        session = opened(api)
        with localcontext() as context:
            context.prec = 4
            session.ask("Why?", think="off")
            known = left(session)

        assert known == api.balance
        assert session.spent == {"CNY": api.billed}
        assert session.usage()["cost"].sum() == api.billed


def test_an_answer_before_the_currency_is_priced_later(opened: Open) -> None:
    """Where the first readings fail, the answer is priced once one has come."""
    with Sandbox(balance="5.00", decimals=8) as api:
        api.script(Reply(status=500), path="/user/balance", forever=True)
        session = opened(api)
        answer = session.ask("Why?", think="off")
        session.purse.wait(5)
        unpriced = session.ledger.entries()[0]["cost"]

        api.unscript()
        session.balance()

        assert answer.cost is None
        assert unpriced is None
        assert session.ledger.entries()[0]["cost"] == api.billed
        assert session.spent == {"CNY": api.billed}
