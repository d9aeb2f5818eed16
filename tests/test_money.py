"""What a question may cost: known before it is sent, and held while many are under way."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from deepseek_magic.errors import InsufficientBalance, InvalidOption, OverLimit
from deepseek_magic.limits import Cap
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session

CALM = datetime(2026, 11, 21, 2, tzinfo=UTC)
"""10 o'clock on a Saturday in Beijing: off-peak."""
PEAK = CALM - timedelta(days=1)
WORDS = "A tale of a notebook that remembers. "


@pytest.fixture
def open_session(open_session: Callable[..., Session]) -> Callable[..., Session]:
    """Give a function that opens a session on an account, its clock in off-peak hours."""

    def open_one(api: Sandbox, **settings: Any) -> Session:
        return open_session(api, **{"clock": lambda: CALM, **settings})

    return open_one


@pytest.fixture
def account() -> Iterator[Sandbox]:
    """Give an account whose clock stands still, in off-peak hours."""
    with Sandbox(balance="5.00", clock=CALM) as api:
        yield api


def practised(session: Session, api: Sandbox, times: int = 4, tokens: int = 100) -> None:
    """Let the ledger know how long answers are."""
    api.script(*[WORDS * (tokens // 10)] * times)
    for _ in range(times):
        session.ask("Tell me a tale.", think="off")


def chats(api: Sandbox) -> int:
    return len(api.requests)


# -- the estimate ------------------------------------------------------------------------


def test_nothing_is_known_yet(open_session: Callable[..., Session], account: Sandbox) -> None:
    """Without earlier answers the cost is a range up to the worst case, and no likely figure."""
    session = open_session(account)
    session.balance()

    guess = session.estimate("Why is the sky blue?", think="off", max_tokens=1000)

    assert guess.cost is not None
    assert guess.cost.likely is None
    assert guess.worst is not None
    assert guess.cost.low < guess.cost.high <= guess.worst
    assert guess.worst >= Decimal(4000) / 1_000_000
    assert chats(account) == 0


def test_an_estimate_holds(open_session: Callable[..., Session], account: Sandbox) -> None:
    """What a question of a known kind costs lies in its range, and under its worst case."""
    session = open_session(account)
    practised(session, account)
    account.script(WORDS * 10)

    guess = session.estimate("Tell me a tale.", think="off")
    answer = session.ask("Tell me a tale.", think="off")

    assert guess.cost is not None
    assert answer.cost is not None
    assert guess.cost.low <= answer.cost <= guess.cost.high <= (guess.worst or 0)
    assert "4 answers" in guess.reason


def test_hours_decide(open_session: Callable[..., Session], account: Sandbox) -> None:
    """The same question is dearer in peak hours."""
    session = open_session(account)
    practised(session, account)

    calm, peak = (session.estimate("Tell me a tale.", think="off", at=at) for at in (CALM, PEAK))

    assert calm.cost is not None
    assert peak.cost is not None
    assert peak.cost.likely == 2 * (calm.cost.likely or 0)


def test_the_worst_case_sees_the_hours_change(
    open_session: Callable[..., Session], account: Sandbox
) -> None:
    """Shortly before peak hours the worst case is that of peak hours; a limit holds there too."""
    before = PEAK.replace(hour=0, minute=59)
    session = open_session(account)
    session.balance()

    guess = session.estimate("Why?", think="off", max_tokens=1000, at=before)
    in_peak = session.estimate("Why?", think="off", max_tokens=1000, at=PEAK)

    assert guess.worst == in_peak.worst
    assert guess.cost is not None
    assert in_peak.cost is not None
    assert guess.cost.low < in_peak.cost.low


# -- a budget ----------------------------------------------------------------------------


def test_a_budget_that_does_not_do(open_session: Callable[..., Session], account: Sandbox) -> None:
    """A worst case over the budget is refused with its figures, and nothing is sent."""
    session = open_session(account)

    with pytest.raises(OverLimit, match=r"may cost 0.0043 CNY.*0.001 CNY left") as refused:
        session.ask("Why is the sky blue?", think="off", max_tokens=1000, budget="0.001")

    assert "Nothing was sent" in str(refused.value)
    assert refused.value.unsent
    assert chats(account) == 0
    assert session.ledger.entries() == []


def test_a_budget_bounds_the_answer(open_session: Callable[..., Session], account: Sandbox) -> None:
    """Without `max_tokens` the budget sets one, so that the answer cannot cost more."""
    session = open_session(account)
    account.script(WORDS * 1000)

    answer = session.ask("Tell me a tale.", think="off", budget="0.002")

    assert answer.finish_reason == "length"
    assert answer.cost is not None
    assert Decimal("0.0015") < answer.cost <= Decimal("0.002")
    assert account.billed == answer.cost


def test_a_budget_that_is_less_than_usual(
    open_session: Callable[..., Session], account: Sandbox
) -> None:
    """A budget that would cut a usual answer refuses; who wants it all the same says so."""
    session = open_session(account)
    practised(session, account, tokens=400)
    sent = chats(account)
    account.script(WORDS * 40)

    with pytest.raises(OverLimit, match="usually costs about"):
        session.ask("Tell me a tale.", think="off", budget="0.0005")
    answer = session.ask("Tell me a tale.", think="off", budget="0.0005", anyway=True)

    assert chats(account) == sent + 1
    assert (answer.cost or 0) > Decimal("0.0005")


@pytest.mark.parametrize("budget", ["-1", "a lot", float("nan"), True, [], "1e400"])
def test_a_budget_that_is_none(
    open_session: Callable[..., Session], account: Sandbox, budget: object
) -> None:
    """What is no amount is refused in one line, before anything is sent."""
    session = open_session(account)

    with pytest.raises(InvalidOption, match="`budget` cannot be") as refused:
        session.ask("Why?", budget=budget)

    assert "\n" not in str(refused.value)
    assert chats(account) == 0


@pytest.mark.parametrize("budget", ["0.5", 0.5, Decimal("0.5"), 1])
def test_a_budget_in_any_form(
    open_session: Callable[..., Session], account: Sandbox, budget: object
) -> None:
    """An amount is taken as text or as any number."""
    session = open_session(account)

    assert session.ask("Why?", think="off", budget=budget).cost is not None


def test_a_budget_without_a_price(open_session: Callable[..., Session], account: Sandbox) -> None:
    """A limit on what cannot be priced is not kept by luck: the price is asked for."""
    session = open_session(account)

    with pytest.raises(OverLimit, match="price of 'deepseek-v9' in CNY is not known"):
        session.ask("Why?", model="deepseek-v9", budget="1")

    assert chats(account) == 0


def test_a_shared_cap_under_many_questions(
    open_session: Callable[..., Session],
) -> None:
    """Forty questions at once share one cap: it is never passed, and nothing stays reserved."""
    with Sandbox(balance="5.00", clock=CALM, latency=0.02) as api:
        session = open_session(api)
        session.balance()
        cap = Cap(Decimal("0.004"))
        seen: list[Decimal] = []

        def one(number: int) -> bool:
            api.script(WORDS * 2)
            try:
                session.ask(f"Tale {number}", think="off", max_tokens=60, budget=cap)
            except OverLimit:
                return False
            finally:
                seen.append(api.billed)
            return True

        with ThreadPoolExecutor(20) as pool:
            answered = sum(pool.map(one, range(40)))

        assert 5 < answered < 40
        assert max(seen) <= Decimal("0.004")
        assert cap.left == Decimal("0.004") - api.billed


# -- the day's limit ---------------------------------------------------------------------


def test_a_day_has_a_limit(open_session: Callable[..., Session], account: Sandbox) -> None:
    """The day's limit counts what every kernel has spent today, and begins anew on the next."""
    first, second = (open_session(account, day_limit="0.002") for _ in range(2))
    account.script(*[WORDS * 10] * 3)
    first.ask("Tell me a tale.", think="off", max_tokens=300)
    second.ask("Tell me a tale.", think="off", max_tokens=300)

    with pytest.raises(OverLimit, match=r"of 0.002 CNY is left for today"):
        first.ask("Tell me a tale.", think="off", max_tokens=300)
    tomorrow = open_session(account, day_limit="0.002", clock=lambda: CALM + timedelta(days=1))
    tomorrow.ask("Tell me a tale.", think="off", max_tokens=300)

    assert chats(account) == 3


def test_a_days_limit_under_many_questions(
    open_session: Callable[..., Session],
) -> None:
    """Questions of two kernels at once never pass the day's limit together."""
    limit = Decimal("0.006")
    with Sandbox(balance="5.00", clock=CALM, latency=0.02) as api:
        sessions = [open_session(api, day_limit=limit) for _ in range(2)]

        def one(number: int) -> bool:
            api.script(WORDS * 2)
            try:
                sessions[number % 2].ask(f"Tale {number}", think="off", max_tokens=60)
            except OverLimit:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            answered = sum(pool.map(one, range(60)))

        assert 10 < answered < 60
        assert api.billed <= limit
        today = sessions[0].ledger.today(sessions[0].account, "2026-11-21", "CNY")
        assert today is not None
        assert (today.spent, today.under_way) == (api.billed, Decimal(0))


def test_a_refused_question_reserves_nothing(
    open_session: Callable[..., Session], account: Sandbox
) -> None:
    """A question that the API refuses, or that breaks before it was sent, gives all of it back."""
    session = open_session(account, day_limit="0.01", retries=0)
    cap = Cap(Decimal("0.01"))
    account.script(503, 429, 400, 402)

    for _ in range(4):
        with pytest.raises(Exception, match=r"."):
            session.ask("Why?", think="off", max_tokens=100, budget=cap)

    assert cap.left == cap.amount
    today = session.ledger.today(session.account, "2026-11-21", "CNY")
    assert today is not None
    assert (today.spent, today.under_way) == (Decimal(0), Decimal(0))


def test_a_broken_answer_counts_in_full(
    open_session: Callable[..., Session], account: Sandbox
) -> None:
    """What may have been billed counts against the limits until it is known: no cap is passed."""
    session = open_session(account)
    cap = Cap(Decimal("0.01"))
    account.script(Reply(WORDS * 20, after=5, then="reset"))

    with pytest.raises(Exception, match=r"."):
        session.ask("Tell me a tale.", think="off", max_tokens=1000, budget=cap)

    (entry,) = session.ledger.entries()
    assert entry["state"] == "partial"
    assert entry["cost"] is None
    assert entry["low"] <= account.billed <= entry["high"]
    assert cap.left == cap.amount - entry["high"]


# -- the balance -------------------------------------------------------------------------


@pytest.mark.flaky(reruns=2)  # an account that is not read within a second refuses nothing
def test_a_balance_that_does_not_do(open_session: Callable[..., Session]) -> None:
    """A question that the balance will not cover is not sent, and the cheaper ways are named."""
    with Sandbox(balance="0.024", clock=PEAK, decimals=6) as api:
        session = open_session(api, clock=lambda: PEAK)
        api.script(*[Reply(WORDS * 60, reasoning="Let me see.")] * 4)
        for _ in range(4):
            session.ask("Tell me a tale.")
        sent = chats(api)
        session.balance()

        with pytest.raises(InsufficientBalance, match=r"costs about .* is left") as refused:
            session.ask("Tell me a tale.")

        error = refused.value
        assert error.unsent
        assert "Nothing was sent" in str(error)
        assert error.balance is not None
        assert any("--think off" in step for step in error.steps)
        assert any("--off-peak" in step for step in error.steps)
        assert chats(api) == sent
        assert session.ask("Tell me a tale.", anyway=True).cost


def test_an_empty_balance_is_the_apis_to_tell(
    open_session: Callable[..., Session],
) -> None:
    """A figure of 0 stops nothing by itself: it may be old, and a refusal by the API is free."""
    with Sandbox(balance="0") as api:
        session = open_session(api)
        session.balance()
        with pytest.raises(InsufficientBalance) as refused:
            session.ask("Why?")
        api.top_up("1")

        answer = session.ask("Why?")

        assert not refused.value.unsent
        assert answer.text


def test_no_reading_holds_up_a_question(
    open_session: Callable[..., Session], account: Sandbox
) -> None:
    """With a fresh reading far from any limit a question is the first thing that is sent."""
    session = open_session(account)
    session.balance()
    before = len(account.traffic)

    session.ask("Why?", think="off", max_tokens=100)

    assert account.traffic[before].path.endswith("/chat/completions")


# -- what is not known -------------------------------------------------------------------


def test_hours_that_change_meanwhile(
    open_session: Callable[..., Session], account: Sandbox
) -> None:
    """An answer that saw the hours change has a range, since nobody says which moment counts."""
    clock = [PEAK.replace(hour=3, minute=59)]
    session = open_session(account, clock=lambda: clock[0], currency="CNY")
    answer = None

    for answer in session.stream("Why?", think="off"):  # noqa: B007
        clock[0] = PEAK.replace(hour=4)

    assert answer is not None
    assert answer.cost is None
    assert answer.cost_range is not None
    assert answer.cost_range.high == 2 * answer.cost_range.low
    assert answer.cost_range.low <= account.billed <= answer.cost_range.high


def test_an_earlier_try_is_told(open_session: Callable[..., Session], account: Sandbox) -> None:
    """A question whose answer broke off says, once it is answered, that it may be billed twice."""
    session = open_session(account)
    account.script(Reply(WORDS, after=3, then="reset"), WORDS, WORDS)
    with pytest.raises(Exception, match=r"."):
        session.ask("Tell me a tale.", think="off")

    second = session.ask("Tell me a tale.", think="off")
    third = session.ask("Tell me a tale.", think="off")

    assert "an earlier try" in second.note
    assert "may have been billed too, at most" in second.note
    assert third.note == ""


def test_own_prices(open_session: Callable[..., Session], account: Sandbox) -> None:
    """A price that the user sets counts, and prices what was asked before it was set."""
    session = open_session(account, prices={"deepseek-flash": {"CNY": "0 0 1000000"}})

    answer = session.ask("Why?", think="off")

    assert answer.usage is not None
    assert answer.cost == answer.usage.completion_tokens


# -- what is told ------------------------------------------------------------------------


def test_a_line_is_logged_before_a_question(
    open_session: Callable[..., Session], account: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The state of the money is logged before each question, without its words and the key."""
    session = open_session(account)
    session.balance()

    with caplog.at_level(logging.INFO, "deepseek_magic"):
        session.ask("The colour of the sky", think="off")

    (line,) = [r.getMessage() for r in caplog.records if "before a query" in r.getMessage()]
    assert "balance=5.00" in line
    assert "worst=" in line
    assert "sky" not in caplog.text
    assert account.api_key not in caplog.text


def test_off_peak_waits(open_session: Callable[..., Session], account: Sandbox) -> None:
    """A question that waits for off-peak hours is sent when they begin, and not before."""
    begins = PEAK.replace(hour=4)
    clock = [begins - timedelta(seconds=1)]
    session = open_session(account, clock=lambda: clock[0], currency="CNY")
    told: list[datetime] = []

    def goes_on() -> None:
        time.sleep(0.2)
        told.append(clock[0])
        assert chats(account) == 0
        clock[0] = begins

    threading.Thread(target=goes_on).start()
    answer = session.ask("Why?", think="off", off_peak=True)

    assert answer.text
    assert told


def test_usage_of_ranges(open_session: Callable[..., Session], account: Sandbox) -> None:
    """`usage` bounds the sum: what is known, and what may be."""
    session = open_session(account)
    account.script(WORDS, Reply(WORDS, after=3, then="reset"))
    session.ask("Why?", think="off", max_tokens=100)
    with pytest.raises(Exception, match=r"."):
        session.ask("Why not?", think="off", max_tokens=100)

    (row,) = session.usage("day").to_dict("records")

    assert row["ranged"] == 1
    assert row["unpriced"] == 0
    assert row["cost_low"] <= account.billed <= row["cost_high"]
    with closing(session):
        pass


# -- an old figure, and one that does not come ---------------------------------------------


def scarce(open_session: Callable[..., Session], api: Sandbox, **settings: Any) -> Session:
    """Open a session that knows long answers and a balance which pays for none of them."""
    session = open_session(api, **settings)
    practised(session, api, tokens=400)
    api.balance = Decimal("0.001")
    session.balance()
    return session


def test_a_top_up_is_seen_at_once(open_session: Callable[..., Session]) -> None:
    """A refusal rests on a reading of its own: money that came a moment ago is not overlooked."""
    with Sandbox(balance="5.00", clock=CALM, decimals=6) as api:
        session = scarce(open_session, api)
        with pytest.raises(InsufficientBalance, match="is left"):
            session.ask("Tell me a tale.", think="off")
        sent = chats(api)

        api.top_up("5")

        assert session.ask("Tell me a tale.", think="off").text
        assert chats(api) == sent + 1


@pytest.mark.parametrize("fault", [503, Reply(then="stall")])
def test_an_old_figure_refuses_nothing(
    open_session: Callable[..., Session], fault: Reply | int
) -> None:
    """While the balance cannot be read, an old figure stops no question: the API tells for nothing.

    An endpoint that is silent is waited for once, and by no further question.
    """
    clock = [CALM]
    with Sandbox(balance="5.00", clock=CALM, decimals=6) as api:
        session = scarce(open_session, api, clock=lambda: clock[0])
        api.script(fault, path="/user/balance", forever=True)
        api.balance = Decimal(5)
        clock[0] += timedelta(days=1)

        answers = [session.ask("Tell me a tale.", think="off") for _ in range(3)]

        assert all(answer.text for answer in answers)


def test_a_silent_endpoint_is_waited_for_once(open_session: Callable[..., Session]) -> None:
    """The wait for a reading that does not come is not repeated, until one has come again."""
    with Sandbox(balance="5.00", clock=CALM) as api:
        session = open_session(api)
        session.balance()
        api.script(Reply(then="stall"), path="/user/balance", forever=True)

        waits = [session.purse.reread(seconds) for seconds in (0.05, 3600.0)]

        assert waits == [False, False]


def test_money_of_another_currency(open_session: Callable[..., Session]) -> None:
    """Where another currency holds money too, the check leaves it to the API who pays."""
    with Sandbox(balance="5.00", other="3.00", clock=CALM, decimals=6) as api:
        session = scarce(open_session, api)

        assert session.ask("Tell me a tale.", think="off").text


# -- interrupts ----------------------------------------------------------------------------


PARTS = {"session", "clearance", "limits", "records", "ledger", "entries", "store", "purse"}


def interrupted(number: int, work: Callable[[], object]) -> bool:
    """Do *work*, interrupted as it calls the function of that *number* in the core."""
    left = number

    def look(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        left -= event == "call" and Path(frame.f_code.co_filename).stem in PARTS
        if left < 0:
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(look)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("day_limit", [None, "50"])
def test_an_interrupt_at_any_moment(
    open_session: Callable[..., Session], account: Sandbox, day_limit: str | None
) -> None:
    """Whenever a question is interrupted, what it reserved is settled, to the digit."""
    ticks = itertools.count()
    session = open_session(
        account,
        day_limit=day_limit,
        currency="CNY",
        retries=0,
        clock=lambda: CALM + timedelta(milliseconds=next(ticks)),
    )
    session.ask("Why?", think="off", max_tokens=10)
    cap, before = Cap(Decimal(50)), account.billed

    def ask() -> None:
        session.ask("Tell me a tale.", think="off", max_tokens=100, budget=cap)

    number = 0
    while interrupted(number, ask):
        number += 3

    ended = session.ledger.entries()[1:]
    assert number > 100
    assert {entry["state"] for entry in ended} == {"done", "interrupted"}
    bound = sum((e["high"] if e["cost"] is None else e["cost"] for e in ended), Decimal(0))
    assert cap.amount - cap.left == bound
    assert bound >= account.billed - before


# -- figures of a frame --------------------------------------------------------------------


def test_a_usage_that_does_not_tell_of_the_cache(
    open_session: Callable[..., Session], account: Sandbox
) -> None:
    """Without the tokens found in the cache the cost is a range, of the answer and on record."""
    counts = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    session = open_session(account, currency="CNY")
    cap = Cap(Decimal(1))
    account.script(Reply(WORDS, usage=counts))

    answer = session.ask("Why?", think="off", budget=cap)

    (entry,) = session.ledger.entries()
    assert answer.cost is None
    assert answer.cost_range is not None
    assert answer.cost_range.low <= account.billed <= answer.cost_range.high
    assert (entry["low"], entry["high"]) == (answer.cost_range.low, answer.cost_range.high)
    assert cap.amount - cap.left == answer.cost_range.high


def test_the_worst_case_of_odd_prices(
    open_session: Callable[..., Session], account: Sandbox
) -> None:
    """Whatever is dearer before or after a change of the hours, the worst case has both."""
    own = {"deepseek-flash": {"CNY": "1 100 3 0 1 4"}}
    session = open_session(account, prices=own, currency="CNY")
    before = PEAK.replace(hour=0, minute=59)
    words = "word " * 200

    guess = session.estimate(words, think="off", max_tokens=10, at=before)

    assert guess.worst is not None
    assert guess.worst >= Decimal(len(words) * 100 + 10 * 4) / 1_000_000


def test_an_empty_frame(open_session: Callable[..., Session], account: Sandbox) -> None:
    """A frame without rows has the columns and the types of one with rows."""
    session = open_session(account, currency="CNY")
    empty = session.usage()
    session.ask("Why?", think="off")

    full = session.usage()

    assert list(empty.columns) == list(full.columns)
    assert [str(empty[n].dtype) for n in ("queries", "ranged", "unpriced")] == ["int64"] * 3
    assert len(session.usage(days=10**12)) == len(full) == 1


@pytest.mark.parametrize("wrong", [{"by": None}, {"by": 5}, {"by": [[]]}, {"days": "7"}])
def test_a_frame_by_what_is_none(
    open_session: Callable[..., Session], account: Sandbox, wrong: dict[str, Any]
) -> None:
    """What usage cannot be added up by, or over, is refused in one line."""
    session = open_session(account, currency="CNY")

    with pytest.raises(InvalidOption) as refused:
        session.usage(**wrong)

    assert "\n" not in str(refused.value)
