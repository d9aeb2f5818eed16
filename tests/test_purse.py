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
    """A figure that rises is a top-up, and what it lags behind stays spent."""
    with Sandbox(balance="1.00", lag=3600, decimals=8) as api:
        session = opened(api)
        session.balance()
        session.ask("Why?", think="off")

        api.top_up("10.00")

        assert session.balance().effective == Decimal("11.00") - api.billed


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


def ticking(begin: datetime) -> tuple[Callable[[], datetime], Callable[[timedelta], None]]:
    """Give a clock that goes on a little at every look, and a function that sets it ahead."""
    time = [begin]

    def now() -> datetime:
        time[0] += timedelta(milliseconds=1)
        return time[0]

    def ahead(by: timedelta) -> None:
        time[0] += by

    return now, ahead


def test_an_hour_of_asking_is_never_lost_sight_of(opened: Open) -> None:
    """However long questions go on, what has not settled yet is not promised again."""
    now, ahead = ticking(datetime(2026, 11, 22, 12, tzinfo=UTC))
    with Sandbox(balance="1.00", lag=1800, decimals=8, clock=now) as api:
        session = opened(api, clock=now)
        session.balance()
        for n in range(14):
            session.ask(f"Why {n}?", think="off")
            ahead(timedelta(minutes=7))

            assert session.balance().effective == api.balance


def test_a_new_kernel_knows_what_has_not_settled(opened: Open) -> None:
    """A restart in the middle of the work does not make spent money come back."""
    now, ahead = ticking(datetime(2026, 11, 22, 12, tzinfo=UTC))
    with Sandbox(balance="1.00", lag=1800, decimals=8, clock=now) as api:
        before = opened(api, clock=now)
        before.balance()
        for n in range(9):
            before.ask(f"Why {n}?", think="off")
            ahead(timedelta(minutes=7))
            before.balance()
        before.close()

        after = opened(api, clock=now)

        assert left(after) == api.balance
        assert after.balance().effective == api.balance


def test_a_top_up_hides_nothing_that_was_spent(opened: Open) -> None:
    """Money that came in is added to what was left, not to the figure that lags."""
    now, ahead = ticking(datetime(2026, 11, 22, 12, tzinfo=UTC))
    with Sandbox(balance="1.00", lag=1800, decimals=8, clock=now) as api:
        session = opened(api, clock=now)
        session.balance()
        session.ask("Why?", think="off")
        api.top_up("0.00000001")
        ahead(timedelta(minutes=1))

        assert session.balance().effective == api.balance


def test_a_top_up_after_heavy_use_counts_at_once(opened: Open) -> None:
    """An account that was emptied and topped up has money, whatever was spent just before."""
    now, ahead = ticking(datetime(2026, 11, 22, 12, tzinfo=UTC))
    with Sandbox(balance="0.02", decimals=8, clock=now) as api:
        session = opened(api, clock=now)
        session.balance()
        for n in range(3):
            session.ask(f"Why {n}? " + "word " * 3000, think="off")
        ahead(timedelta(minutes=1))
        session.balance()

        api.top_up("0.01")

        assert session.balance().effective == api.balance


def test_what_others_spend_counts_beside_ones_own(opened: Open) -> None:
    """Use by somebody else is seen as soon as it settles, and own spending on top of it."""
    now, _ = ticking(datetime(2026, 11, 22, 12, tzinfo=UTC))
    with Sandbox(balance="1.00", lag=60, decimals=8, clock=now) as api:
        session = opened(api, clock=now)
        session.balance()
        api.balance -= Decimal("0.50")
        session.balance()

        session.ask("Why?", think="off")

        assert session.balance().effective == api.balance


def test_readings_beside_answers_promise_nothing_twice(opened: Open) -> None:
    """Readings that overlap with answers, charged or not, never tell of more than there is."""
    with Sandbox(balance="1.00", decimals=8) as api:
        session = opened(api)
        session.balance()
        for n in range(20):
            session.refresh()
            session.ask(f"Why {n}?", think="off")
            session.refresh()
        session.purse.wait(5)

        known = session.balance()

        assert known.effective is not None
        assert known.effective <= api.balance


@pytest.mark.parametrize("listed", [("CNY", "USD"), ("USD", "CNY")])
@pytest.mark.parametrize("held", [("0", "3.00"), ("0.00", "0.01")])
def test_the_purse_with_money_counts_in_any_order(
    opened: Open, listed: tuple[str, ...], held: tuple[str, str]
) -> None:
    """Of two currencies the one that holds money is reckoned with, wherever it is listed."""
    with Sandbox(balance=held[0], other=held[1], listed=listed) as api:
        session = opened(api)

        balance = session.balance()

        assert balance.currency == session.currency == "USD"
        assert balance.effective == Decimal(held[1])


@pytest.mark.parametrize("total", ["-1.00", "NaN", "1e30", "", None, [], "Infinity"])
def test_an_absurd_figure_is_unknown_and_stops_nothing(opened: Open, total: object) -> None:
    """A balance that cannot be is unknown, and the next question is sent all the same."""
    with Sandbox(balance="1.00", decimals=8) as api:
        session = opened(api)
        session.balance()
        infos = [{"currency": "CNY", "total_balance": total}]
        body = {"is_available": True, "balance_infos": infos}
        api.script(Reply(body=body), path="/user/balance", forever=True)

        unknown = session.balance()
        answer = session.ask("Why?", think="off")
        api.unscript()

        assert unknown.effective is None
        assert answer.cost == api.billed
        assert session.balance().effective == api.balance
