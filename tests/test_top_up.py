"""When money has come: what readings say after a refusal, and waiting for it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic.errors import DeepSeekError, InsufficientBalance, WrongKey
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session
from deepseek_magic.top_up import FIRST, LONGEST, SPREAD, Look, Watch, pauses
from deepseek_magic.wire import Balance, BalanceInfo


def reading(*, available: bool | None = True, **totals: str) -> Balance:
    infos = {name: BalanceInfo(name, Decimal(total)) for name, total in totals.items()}
    return Balance(available, infos)


def after_a_refusal(known: Balance | None = None) -> Watch:
    watch = Watch()
    watch.refused(known, 0.0)
    return watch


def test_without_a_refusal_money_is_enough() -> None:
    """Nobody was refused, so any amount that is available counts, and no other."""
    assert Watch().arrived(reading(CNY="0.01"), 0.0)
    assert not Watch().arrived(reading(CNY="0.00"), 0.0)
    assert not Watch().arrived(reading(CNY="1.00", available=False), 0.0)
    assert not Watch().arrived(None, 1e9)


def test_a_figure_has_to_rise() -> None:
    """After a refusal the figure of then, or a lower one, is no top-up."""
    watch = after_a_refusal(reading(CNY="0.30"))

    assert not watch.arrived(reading(CNY="0.30"), 3.0)
    assert not watch.arrived(reading(CNY="0.02"), 6.0)
    assert watch.arrived(reading(CNY="0.03"), 9.0)


def test_money_in_another_currency_counts() -> None:
    """A currency that was not there before is a top-up."""
    watch = after_a_refusal(reading(CNY="0.00"))

    assert watch.arrived(reading(CNY="0.00", USD="2.00"), 1.0)


def test_money_that_becomes_available_counts() -> None:
    """An amount that was there and could not be used is one that came, once it can be."""
    watch = after_a_refusal(reading(CNY="1.00", available=False))

    assert not watch.arrived(reading(CNY="1.00", available=False), 1.0)
    assert watch.arrived(reading(CNY="1.00"), 2.0)


@pytest.mark.parametrize("known", [None, reading(CNY="3.00")], ids=["unknown", "contradiction"])
def test_a_contradiction_gets_a_try_now_and_then(known: Balance | None) -> None:
    """A figure that contradicts the refusal lets a try through after 15 s, then after 30 s."""
    watch = after_a_refusal(known)

    assert not watch.arrived(reading(CNY="3.00"), 14.0)
    assert watch.arrived(reading(CNY="3.00"), 16.0)
    watch.refused(reading(CNY="3.00"), 16.0)
    assert not watch.arrived(reading(CNY="3.00"), 16.0 + 29)
    assert watch.arrived(reading(CNY="3.00"), 16.0 + 31)


def test_a_figure_that_cannot_be_read_gets_a_try_too() -> None:
    """A relay without a balance is no reason to wait for ever; an account that is empty is."""
    assert after_a_refusal().arrived(None, 61.0)
    assert not after_a_refusal().arrived(reading(CNY="0.00"), 1e6)


def test_an_answer_ends_the_doubt() -> None:
    """Once a question was answered, the next refusal begins anew."""
    watch = after_a_refusal(reading(CNY="3.00"))
    watch.refused(reading(CNY="3.00"), 60.0)
    watch.paid()

    assert watch.arrived(reading(CNY="0.01"), 61.0)
    assert watch.refusals == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_it_is_never_sent_at_an_empty_figure(figures: list[int]) -> None:
    """Whatever the figures do, nothing is sent at 0, and always at the first rise."""
    watch = after_a_refusal(reading(CNY="2"))
    lowest = 2
    for figure in figures:
        arrived = watch.arrived(reading(CNY=str(figure)), 1.0)
        assert arrived == (figure > lowest)
        if arrived:
            break
        lowest = min(lowest, figure)


def test_looks_become_rarer() -> None:
    """The first pause is some seconds; later ones grow up to five minutes, and none are alike."""
    found = list(itertools.islice(pauses(random.Random(1)), 40))

    assert (1 - SPREAD) * FIRST <= found[0] <= (1 + SPREAD) * FIRST
    assert LONGEST * (1 - SPREAD) <= found[-1] <= LONGEST * (1 + SPREAD)
    assert len({round(pause, 3) for pause in found[-10:]}) == 10
    assert sum(found[:8]) < 90


# Waiting, over the network


@pytest.fixture
def empty_api() -> Iterator[Sandbox]:
    with Sandbox(balance="0.00", currency="CNY") as account:
        yield account


@pytest.fixture
def poor(empty_api: Sandbox) -> Iterator[Session]:
    with Session(
        api_key=empty_api.api_key, base_url=empty_api.base_url, ledger=":memory:"
    ) as session:
        yield session


def waiting(session: Session, **settings: object) -> tuple[threading.Thread, list[object]]:
    """Wait on another thread; its end, a balance or an error, is put into the list."""
    ended: list[object] = []

    def wait() -> None:
        try:
            ended.append(session.wait(**settings))  # type: ignore[arg-type]
        except DeepSeekError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, ended


def test_wait_returns_when_money_has_come(poor: Session, empty_api: Sandbox) -> None:
    """Waiting ends with the new balance; before, each look is told with when the next one is."""
    looks: list[Look] = []
    seen = threading.Event()

    def told(look: Look) -> None:
        looks.append(look)
        seen.set()

    with pytest.raises(InsufficientBalance):
        poor.ask("Why?")
    thread, ended = waiting(poor, told=told)
    assert seen.wait(10)
    empty_api.top_up("10.00")
    thread.join(20)

    (balance,) = ended
    assert isinstance(balance, Balance)
    assert balance.effective == Decimal("10.00")
    assert looks[0].balance is not None
    assert looks[0].balance.effective == 0
    assert 1 < looks[0].pause < 6
    assert looks[0].since <= looks[0].at < looks[0].until
    assert poor.ask("Why?").text


def test_wait_returns_at_once_where_money_is(session: Session) -> None:
    """There is nothing to wait for."""
    assert session.wait(told=lambda _: pytest.fail("it waited")).effective == Decimal("5.00")


def test_wait_has_a_bound(poor: Session) -> None:
    """After the bound it ends in the usual error, which says that nothing was sent."""
    with pytest.raises(InsufficientBalance, match=r"No money has come.*Nothing was sent.*wait"):
        poor.wait(0.05)


def test_wait_can_be_stopped(poor: Session) -> None:
    """Setting the event ends the wait soon."""
    stop = threading.Event()
    thread, ended = waiting(poor, stop=stop)
    stop.set()
    thread.join(5)

    assert isinstance(ended[0], InsufficientBalance)


def test_wait_ends_for_a_wrong_key(empty_api: Sandbox) -> None:
    """A key that is not accepted is no matter of waiting."""
    with (
        Session(
            api_key="sk-other-00000000", base_url=empty_api.base_url, ledger=":memory:"
        ) as other,
        pytest.raises(WrongKey),
    ):
        other.wait()


def test_wait_outlasts_a_balance_that_cannot_be_read(poor: Session, empty_api: Sandbox) -> None:
    """A reading that fails is told, unknown and with its reason, and waiting goes on."""
    looks: list[Look] = []
    empty_api.script(Reply(status=500), path="/user/balance", forever=True)

    with pytest.raises(InsufficientBalance):
        poor.wait(2, told=looks.append)

    assert looks[0].balance is None
    assert looks[0].problem is not None
    assert "500" in looks[0].problem


# Asking again where nothing was billed


def test_an_overloaded_api_is_asked_again(session: Session, api: Sandbox) -> None:
    """After a 503 the same question is sent once more, said while it waits, and paid once."""
    api.script(Reply(status=503))
    answers = list(session.stream("Why?"))

    notes = [answer.note for answer in answers if answer.note]
    assert len(notes) == 1
    assert "503" in notes[0]
    assert notes[0].endswith("Asking again in 1 s (1 of 3).")
    assert answers[-1].text
    assert answers[-1].note == ""
    assert [request.status for request in api.requests if request.method == "POST"] == [503, 200]
    states = [(entry["state"], entry["cost"]) for entry in session.ledger.entries()]
    assert states == [("refused", None), ("done", api.billed)]


def test_the_pause_that_the_api_names_is_kept(session: Session, api: Sandbox) -> None:
    """Retry-After is obeyed; one of more than a minute is the user's to decide."""
    api.script(Reply(status=429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    assert session.ask("Why?").text
    assert time.monotonic() - began >= 1

    api.script(Reply(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(DeepSeekError, match="in 60 minutes"):
        session.ask("Why?")
    assert [request.status for request in api.requests if request.method == "POST"] == [
        429,
        200,
        429,
    ]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=402),
        Reply(status=401),
        Reply(status=400),
        Reply("An answer.", then="close"),
        Reply(status=502, body="<html><title>Bad gateway</title></html>"),
    ],
    ids=["402", "401", "400", "cut", "gateway"],
)
def test_what_may_have_been_billed_or_cannot_help_is_not_sent_again(
    session: Session, api: Sandbox, reply: Reply
) -> None:
    """One request, one refusal."""
    api.script(reply, forever=True)

    with pytest.raises(DeepSeekError):
        session.ask("Why?")

    assert len([request for request in api.requests if request.method == "POST"]) == 1


def test_it_gives_up(api: Sandbox) -> None:
    """After the last try the refusal is raised as it came."""
    api.script(Reply(status=503), forever=True)
    with (
        Session(
            api_key=api.api_key, base_url=api.base_url, ledger=":memory:", retries=1
        ) as session,
        pytest.raises(DeepSeekError, match="503"),
    ):
        session.ask("Why?")

    assert len([request for request in api.requests if request.method == "POST"]) == 2


# An answer that was paid for


def test_an_answer_is_found_again(
    api: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very same request finds its answer in the ledger, with its cost, from any session."""
    from deepseek_magic.preflight import request_of
    from deepseek_magic.session import now

    since, path = now(), tmp_path / "ledger.sqlite"
    first, same = (
        Session(api_key=api.api_key, base_url=api.base_url, ledger=path),
        request_of("Why?"),
    )
    with first:
        answer = first.ask("Why?")
        assert first.kept(same, now()) is None, "it came before that"
        assert first.kept(request_of("Why not?"), since) is None
        assert first.kept(request_of("Why?", think="off"), since) is None
    with Session(api_key=api.api_key, base_url=api.base_url, ledger=path) as second:
        found = second.kept(same, since)

    assert found is not None
    assert (found.text, found.usage, found.cost) == (answer.text, answer.usage, answer.cost)
    assert len([request for request in api.requests if request.method == "POST"]) == 1
