"""The way of one query: what is given out, what is written down, and what it cost."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deepseek_magic.errors import (
    BadRequest,
    BrokenAnswer,
    ConnectionFailed,
    DeepSeekError,
    InsufficientBalance,
    InvalidOption,
    KeyInText,
    NoKey,
    ServerFailure,
    TooManyRequests,
    UnusableAnswer,
    WrongKey,
)
from deepseek_magic.estimate import estimate
from deepseek_magic.home import find_key, ledger_path
from deepseek_magic.ledger import Ledger
from deepseek_magic.records import Call, Ended
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session
from deepseek_magic.wire import Answer, Usage, question

PEAK = datetime(2026, 11, 20, 2, tzinfo=UTC)
"""10 o'clock on a Friday in Beijing."""
CALM = PEAK + timedelta(days=1)
TALE = "Once upon a time there was a notebook that remembered everything."


def entry_of(session: Session) -> dict[str, Any]:
    return session.ledger.entries()[-1]


def entries(path: Path) -> list[dict[str, Any]]:
    with closing(Ledger(path)) as ledger:
        return ledger.entries()


def until(true: Callable[[], object]) -> None:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


# -- an answer ------------------------------------------------------------------------


def test_an_answer(session: Session, api: Sandbox) -> None:
    """An answer has its text, its tokens, its price and what it took, and is in the ledger."""
    api.script(Reply(TALE, reasoning="Let me think."))

    answer = session.ask("Tell me a tale.", cell="c1")

    charged = api.requests[-1]
    assert (str(answer), answer.reasoning) == (TALE, "Let me think.")
    assert (answer.model, answer.finish_reason) == ("deepseek-flash", "stop")
    assert (answer.cost, answer.currency) == (charged.cost, "CNY")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == (charged.usage or {})["completion_tokens"]
    assert (answer.seconds or 0) > 0
    entry = entry_of(session)
    assert (entry["state"], entry["cost"], entry["answer"]) == ("done", charged.cost, TALE)
    assert (entry["cell"], entry["reasoning"]) == ("c1", "Let me think.")
    assert json.loads(entry["request"])["messages"][0]["content"] == "Tell me a tale."


def test_an_answer_grows(session: Session, api: Sandbox) -> None:
    """`stream` gives ever longer answers, and the last has its cost and is that of `ask`."""
    api.script(TALE, TALE)

    answers = list(session.stream("Tell me a tale.", think="off"))

    texts = [answer.text for answer in answers]
    assert len(texts) > 5
    assert all(later.startswith(text) for text, later in pairwise(texts))
    assert {answer.cost for answer in answers[:-1]} == {None}
    assert answers[-1].cost == api.billed
    assert session.ask("Tell me a tale.", think="off").text == texts[-1]


def test_settings_reach_the_api(session: Session, api: Sandbox) -> None:
    """What is set in Python is what the API gets."""
    session.ask(
        "Why?",
        model="pro",
        think="off",
        system="Be brief.",
        temperature=0.5,
        top_p=0.9,
        max_tokens=100,
        stop="END",
    )

    body = api.requests[-1].body or {}
    assert (body["model"], body["thinking"]) == ("deepseek-v4-pro", {"type": "disabled"})
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.9, 100)
    assert (body["stop"], body["messages"][0]["content"]) == (["END"], "Be brief.")


def test_a_request_can_be_asked(session: Session, api: Sandbox) -> None:
    """A ready request is asked as it is."""
    assert session.ask(question("Why?", max_tokens=7, think="off")).usage is not None
    assert (api.requests[-1].body or {})["max_tokens"] == 7


def test_an_unknown_setting_is_an_error(session: Session, api: Sandbox) -> None:
    """A setting that does not exist is not passed over in silence."""
    with pytest.raises(TypeError, match="temprature"):
        session.ask("Why?", temprature=1)
    assert len(api.requests) == 0


@pytest.mark.parametrize(
    ("prompt", "settings", "expected"),
    [
        ("my key is sk-0123456789abcdef0123456789abcdef", {}, KeyInText),
        ("fine", {"system": "sk-0123456789abcdef0123456789abcdef"}, KeyInText),
        ("fine", {"temperature": 3}, InvalidOption),
        ("  ", {}, InvalidOption),
    ],
)
def test_refused_before_sending(
    session: Session,
    api: Sandbox,
    prompt: str,
    settings: dict[str, Any],
    expected: type[DeepSeekError],
) -> None:
    """What may not be sent is refused by `stream` when it is called, and leaves no entry."""
    with pytest.raises(expected, match="Nothing was sent"):
        session.stream(prompt, **settings)

    assert len(api.traffic) == 0
    assert session.ledger.entries() == []


# -- every failure --------------------------------------------------------------------

START = TALE[:8]
FAILURES: list[tuple[Reply, type[DeepSeekError], str, bool]] = [
    # the reply, its error, the entry's state, whether the start of the answer is kept
    (Reply(status=400), BadRequest, "refused", False),
    (Reply(status=401), WrongKey, "refused", False),
    (Reply(status=402), InsufficientBalance, "refused", False),
    (Reply(status=404), BadRequest, "refused", False),
    (Reply(status=429), TooManyRequests, "refused", False),
    (Reply(status=500), ServerFailure, "partial", False),
    (Reply(status=503), ServerFailure, "refused", False),
    (Reply(body="<html><title>Sign in</title></html>"), BrokenAnswer, "partial", False),
    (Reply(TALE, after="request", then="close"), BrokenAnswer, "partial", False),
    (Reply(TALE, after="request", then="reset"), BrokenAnswer, "partial", False),
    (Reply(TALE, after="request", then="stall"), BrokenAnswer, "partial", False),
    (Reply(TALE, after=0, then="error"), InsufficientBalance, "refused", False),
    (Reply(TALE, after=0, then="close"), BrokenAnswer, "partial", False),
    (Reply(TALE, after=5, then="close"), BrokenAnswer, "partial", True),
    (Reply(TALE, after=5, then="reset"), BrokenAnswer, "partial", True),
    (Reply(TALE, after=5, then="stall"), BrokenAnswer, "partial", True),
    (Reply(TALE, after=5, then="end"), BrokenAnswer, "partial", True),
    (Reply(TALE, after=5, then="error"), InsufficientBalance, "partial", True),
    (
        Reply(TALE, after=5, then="error", body={"error": "engine failure"}),
        BrokenAnswer,
        "partial",
        True,
    ),
    (Reply(TALE, after=5, then="garbage"), BrokenAnswer, "partial", True),
    (Reply(TALE, after=5, then="bytes"), BrokenAnswer, "partial", True),
    (Reply(TALE, after="last", then="close"), BrokenAnswer, "partial", True),
    (Reply(TALE, after="last", then="reset"), BrokenAnswer, "partial", True),
    (Reply(TALE, after="last", then="end"), BrokenAnswer, "partial", True),
    (Reply(TALE, after="last", then="stall"), BrokenAnswer, "partial", True),
    (Reply(TALE, then="no-finish"), BrokenAnswer, "partial", True),
    (
        Reply(TALE, finish_reason="insufficient_system_resource"),
        BrokenAnswer,
        "partial",
        True,
    ),
    (Reply(TALE, then="no-done"), BrokenAnswer, "partial", True),
    (Reply(TALE, finish_reason="content_filter"), UnusableAnswer, "unusable", True),
    (Reply(""), UnusableAnswer, "unusable", False),
    (Reply(" \n \n"), UnusableAnswer, "unusable", False),
]


@pytest.mark.parametrize(
    ("reply", "expected", "state", "kept"),
    FAILURES,
    ids=[
        f"{r.status}-{r.finish_reason}-{r.then}-{r.after}-{n}" for n, (r, *_) in enumerate(FAILURES)
    ],
)
def test_every_failure(
    open_session: Callable[..., Session],
    api: Sandbox,
    reply: Reply,
    expected: type[DeepSeekError],
    state: str,
    *,
    kept: bool,
) -> None:
    """A failure is one line, keeps what came, is in the ledger as it was, and is not sent again."""
    api.change(keep_alive=None)
    api.script(reply, forever=True)
    session = open_session(api, timeout=0.3, retries=0)

    with pytest.raises(DeepSeekError) as caught:
        session.ask("Tell me a tale.", think="off")

    error, entry = caught.value, entry_of(session)
    assert type(error) is expected
    assert "\n" not in str(error)
    assert 40 <= len(str(error)) <= 400
    assert re.search("billed", str(error))
    assert error._render_traceback_() == [f"{expected.__name__}: {error}"]
    assert (error.answer is not None and error.answer.text.startswith(START)) is kept
    assert entry["state"] == state
    assert (entry["answer"] or "").startswith(START) is kept
    # The ledger has the line from before the balance was read.
    assert entry["error"].partition("Top up")[0] in str(error)
    assert len(api.requests) == 1
    assert api.wait_idle()
    if entry["cost"] is not None:
        assert entry["cost"] == api.billed
    if api.billed:
        assert error.may_be_billed
    if state == "refused":
        assert api.billed == 0


@pytest.mark.parametrize("then", ["no-done", None])
def test_usage_that_came_is_priced(session: Session, api: Sandbox, then: Any) -> None:
    """An answer that is broken or unusable still has its cost when the API named its tokens."""
    api.script(Reply(TALE, then=then, finish_reason="stop" if then else "content_filter"))

    with pytest.raises(DeepSeekError) as caught:
        session.ask("Tell me a tale.")

    assert caught.value.answer is not None
    assert caught.value.answer.cost == api.billed == entry_of(session)["cost"]
    assert session.spent == {"CNY": api.billed}


def test_no_usage_is_no_zero(session: Session, api: Sandbox) -> None:
    """An answer whose tokens the API did not name is whole, and its cost lies in a range."""
    api.script(Reply(TALE, then="no-usage"))

    answer = session.ask("Tell me a tale.")

    assert (answer.text, answer.usage, answer.cost) == (TALE, None, None)
    assert (entry_of(session)["state"], entry_of(session)["cost"]) == ("done", None)
    assert session.usage()[["ranged", "unpriced"]].to_numpy().tolist() == [[1, 0]]
    assert answer.cost_range is not None
    assert answer.cost_range.low <= api.billed <= answer.cost_range.high
    assert session.spent == {"CNY": answer.cost_range.likely}


def test_all_tokens_went_into_thinking(session: Session, api: Sandbox) -> None:
    """An answer that was used up by thinking says so, with what to raise, and its cost is known."""
    with pytest.raises(UnusableAnswer, match=r"All 5 tokens went into thinking.*--max-tokens"):
        session.ask("Tell me a tale.", max_tokens=5)

    assert (entry_of(session)["state"], entry_of(session)["cost"]) == ("unusable", api.billed)
    assert entry_of(session)["reasoning"]


def test_an_answer_cut_by_its_limit(session: Session) -> None:
    """An answer that ends at the limit with some text is an answer, and says why it ended."""
    answer = session.ask("Tell me a tale.", think="off", max_tokens=5)

    assert answer.finish_reason == "length"
    assert answer.text


@pytest.mark.parametrize(
    ("reply", "words"),
    [(Reply("Sure! {"), "not JSON"), (Reply('{"a": ', finish_reason="length"), "--max-tokens")],
)
def test_json_that_is_none(session: Session, api: Sandbox, reply: Reply, words: str) -> None:
    """An answer that should be JSON and is not is kept, was billed, and says what is wrong."""
    api.script(reply)

    with pytest.raises(UnusableAnswer, match=words) as caught:
        session.ask("Give me JSON.", json=True, think="off", repair=False)

    assert str(caught.value.answer) == reply.text
    assert entry_of(session)["cost"] == api.billed > 0


def test_json(session: Session, api: Sandbox) -> None:
    """An answer in JSON is an answer."""
    api.script('{"a": [1, 2]}')

    assert session.ask("Give me JSON.", json=True).json() == {"a": [1, 2]}


def test_want_of_money_knows_the_balance(open_session: Callable[..., Session]) -> None:
    """The error for an empty account carries the last known balance, and asks for none."""
    with Sandbox(balance="0.00") as api:
        session = open_session(api)
        session.balance()

        with pytest.raises(InsufficientBalance) as caught:
            session.ask("Why?")

        assert caught.value.balance is not None
        assert caught.value.balance.effective == 0


def test_after_a_top_up_it_works(open_session: Callable[..., Session]) -> None:
    """The same session answers as soon as there is money."""
    with Sandbox(balance="0.00") as api:
        session = open_session(api)
        with pytest.raises(InsufficientBalance):
            session.ask("Why?")

        api.top_up("10.00")

        assert session.ask("Why?").cost == api.billed
        assert [entry["state"] for entry in session.ledger.entries()] == ["refused", "done"]


def test_not_reached(open_session: Callable[..., Session], api: Sandbox) -> None:
    """An API that is not there costs nothing, and the entry says that the call failed."""
    session = open_session(api, retries=0)
    api.close()

    with pytest.raises(ConnectionFailed, match="Nothing was billed"):
        session.ask("Why?")

    assert entry_of(session)["state"] == "failed"


# -- stopping -------------------------------------------------------------------------


def test_leaving_the_loop(session: Session, api: Sandbox) -> None:
    """Leaving the loop closes the connection and records what came."""
    api.change(speed=50)
    api.script(TALE)

    with closing(session.stream("Tell me a tale.", think="off")) as answers:
        for answer in answers:
            if len(answer.text) > 5:
                break

    assert api.wait_idle()
    assert api.requests[-1].client_gone
    entry = entry_of(session)
    assert (entry["state"], entry["answer"], entry["cost"]) == ("interrupted", answer.text, None)


def test_an_error_of_the_reader(session: Session, api: Sandbox) -> None:
    """An exception where the answer is shown ends the query as an interrupt does."""
    api.change(speed=50)

    def show() -> None:
        with closing(session.stream("Tell me a tale.", think="off")) as answers:
            for _ in answers:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        show()

    assert api.wait_idle()
    assert entry_of(session)["state"] == "interrupted"


CHILD = """
import os, sys
from deepseek_magic import Session
session = Session(base_url=sys.argv[1], ledger=sys.argv[2])
kept = ""
try:
    for answer in session.stream("Tell me a tale.", think="off"):
        kept = answer.text
        print("more", flush=True)
except KeyboardInterrupt:
    print("interrupted:" + kept, flush=True)
session.close()
"""


@pytest.fixture
def child(api: Sandbox, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Give a process that asks, and prints a line for each piece that comes."""
    env = {**os.environ, "DEEPSEEK_API_KEY": api.api_key}
    command = [sys.executable, "-c", CHILD, api.base_url, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        yield process
        process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_ctrl_c_in_an_answer(api: Sandbox, path: Path, child: subprocess.Popen[str]) -> None:
    """Ctrl-C in the middle keeps what came, closes the connection, and is in the ledger."""
    api.change(speed=20)
    api.script(TALE)

    shown = lines(child)
    while next(shown) != "more\n" or not api.requests:
        pass
    next(shown)
    child.send_signal(signal.SIGINT)
    said = [line for line in shown if line != "more\n"]

    assert child.wait(30) == 0
    assert api.wait_idle()
    assert api.requests[-1].client_gone
    (entry,) = entries(path)
    assert entry["state"] == "interrupted"
    assert said == [f"interrupted:{entry['answer'] or ''}\n"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_ctrl_c_in_silence(api: Sandbox, path: Path, child: subprocess.Popen[str]) -> None:
    """Ctrl-C while nothing comes ends the wait at once."""
    api.script(Reply(TALE, after="request", then="stall"))

    until(lambda: api.requests)
    child.send_signal(signal.SIGINT)

    assert list(lines(child)) == ["interrupted:\n"]
    assert api.wait_idle()
    assert api.requests[-1].client_gone
    assert [entry["state"] for entry in entries(path)] == ["interrupted"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_in_an_answer(
    open_session: Callable[..., Session], api: Sandbox, path: Path, child: subprocess.Popen[str]
) -> None:
    """After `kill -9` the ledger shows that a call went out whose end is not known."""
    api.change(speed=20)
    api.script(TALE)

    next(lines(child))
    child.kill()
    child.wait()

    assert api.wait_idle()
    api.change(speed=None)
    session = open_session(api)
    assert [entry["state"] for entry in session.ledger.entries()] == ["sent"]
    assert session.ask("And now?").text
    assert session.ledger.problem is None


def test_the_api_is_gone_in_an_answer(session: Session, api: Sandbox) -> None:
    """A server that dies in the middle leaves a broken answer with what came."""
    api.change(speed=50)
    api.script(TALE)

    answers = session.stream("Tell me a tale.", think="off")
    next(answers)
    api.close()

    with pytest.raises(BrokenAnswer) as caught:
        list(answers)

    assert "may have been billed" in str(caught.value)
    assert entry_of(session)["state"] == "partial"


# -- money ----------------------------------------------------------------------------


@pytest.mark.parametrize("at", [PEAK, CALM])
@pytest.mark.parametrize("currency", ["CNY", "USD"])
def test_bill_and_account_agree(
    open_session: Callable[..., Session], currency: str, at: datetime
) -> None:
    """The ledger's sum is what the account was charged, to the last digit."""
    with Sandbox(balance="50", currency=currency, clock=at) as api:
        session = open_session(api, clock=lambda: at)
        for model in ("flash", "pro", "deepseek-v4-flash"):
            for n in range(4):  # of which some find their start in the cache
                session.ask("The same long start of a question. " * 40 + str(n), model=model)

        written = session.ledger.entries()
        assert sum(entry["cost"] for entry in written) == api.billed
        assert session.spent == {currency: api.billed}
        assert {entry["currency"] for entry in written} == {currency}
        assert {entry["band"] for entry in written} == {"peak" if at == PEAK else "off-peak"}
        assert any(entry["prompt_cache_hit_tokens"] for entry in written)
        assert session.usage()["cost"].sum() == api.billed


def ended(model: str, asked: str) -> Ended:
    """Make a call of *asked* that ended in an answer of *model*."""
    request = question("Why?", model=asked)
    call = Call(1, request, estimate(request, None, None), PEAK)
    answer = Answer(model=model, usage=Usage(1, 1, 0, 1))
    return Ended(call, answer, "done", PEAK)


def test_a_model_without_a_price() -> None:
    """An answer of a model that is not in the price list is unpriced, not free."""
    unknown, _ = ended("deepseek-v9", "v9").priced("CNY", ())
    known, _ = ended("deepseek-flash", "v9").priced("CNY", ())

    assert (unknown.cost, unknown.cost_range, unknown.currency) == (None, None, "CNY")
    assert (known.cost, known.currency) == (Decimal("0.00001"), "CNY")


def test_a_model_that_a_relay_renames(session: Session, api: Sandbox) -> None:
    """An answer under another name is priced as the model that was asked."""
    session.balance()
    api.script(Reply(body=events(model="vendor/Flash-1017"), content_type="text/event-stream"))

    answer = session.ask("Why?", model="flash")

    assert answer.model == "vendor/Flash-1017"
    assert answer.cost is not None


def events(model: str) -> str:
    """Give a small stream as *model* would send it."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    usage |= {"prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 1}
    choice = {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}
    chunk = {"model": model, "choices": [choice], "usage": usage}
    return f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"


def test_a_closed_session_sends_nothing(session: Session, api: Sandbox) -> None:
    """After closing, a question is refused in one line instead of going out unrecorded."""
    session.ask("Why?")
    session.close()

    with pytest.raises(DeepSeekError, match="session is closed"):
        session.ask("And now?")

    assert len(api.requests) == 1


def test_closing_in_the_middle_of_an_answer(
    open_session: Callable[..., Session], api: Sandbox, tmp_path: Path
) -> None:
    """An answer that is under way when its session is closed is recorded all the same."""
    path = tmp_path / "ledger.sqlite"
    session = open_session(api, ledger=path)
    answers = session.stream("Why is the sky blue?", think="off")
    part = next(answer for answer in answers if answer.text)

    session.close()
    answers.close()

    with open_session(api, ledger=path) as later:
        (entry,) = later.ledger.entries()
    assert part.text
    assert entry["state"] == "interrupted"
    assert entry["answer"].startswith(part.text)


def test_usage_as_a_frame(open_session: Callable[..., Session], api: Sandbox) -> None:
    """Usage is a DataFrame by day, model and notebook, whose sums are those of the account."""
    for notebook in ("a.ipynb", "b.ipynb"):
        session = open_session(api, notebook=notebook)
        session.ask("Why?")
        session.ask("Why?", model="pro")

    frame = session.usage()

    assert list(frame.columns[:7]) == [
        *("day", "model", "notebook", "currency", "queries", "cost", "unpriced"),
    ]
    assert list(frame["notebook"]) == ["a.ipynb", "b.ipynb"] * 2
    assert frame["queries"].sum() == 4
    assert frame["cost"].sum() == api.billed
    counted = sum((request.usage or {})["completion_tokens"] for request in api.requests)
    assert frame["completion_tokens"].sum() == counted


def test_usage_of_nothing(session: Session) -> None:
    """Without any query usage is an empty frame with its columns."""
    frame = session.usage()

    assert len(frame) == 0
    assert "cost" in frame.columns


def test_effective_follows_without_asking(session: Session, api: Sandbox) -> None:
    """What is left is known after each query even when the balance can no longer be read."""
    session.balance()
    api.script(500, path="/user/balance", forever=True)

    session.ask("Why?")
    session.ask("Why?", model="pro")

    assert session.last_balance is not None
    assert session.last_balance.effective == Decimal("5.00") - api.billed
    until(lambda: session.balance_problem)


def test_a_new_reading_starts_anew(session: Session, api: Sandbox) -> None:
    """A reading that has the spending in it is not reduced by it once more."""
    api.change(decimals=6)
    session.balance()
    session.ask("Why?")

    reading = session.balance()

    assert reading.effective == api.balance.quantize(Decimal("0.000001"))
    assert session.last_balance is not None
    assert session.last_balance.effective == reading.effective


def test_another_kernel_s_spending_counts(
    open_session: Callable[..., Session], api: Sandbox
) -> None:
    """What another kernel has spent on this account since the reading is not there any more."""
    one, other = open_session(api), open_session(api)
    one.balance()
    api.script(500, path="/user/balance", forever=True)

    other.ask("Why?")

    assert one.last_balance is not None
    assert one.last_balance.effective == Decimal("5.00") - api.billed


def test_currency_from_the_ledger(open_session: Callable[..., Session]) -> None:
    """A later session prices its first answer in the currency that an earlier one has learned."""
    with Sandbox(currency="USD") as api:
        open_session(api).balance()
        api.script(500, path="/user/balance", forever=True)

        answer = open_session(api).ask("Why?")

        assert (answer.currency, answer.cost) == ("USD", api.billed)


def test_a_given_currency_stays(open_session: Callable[..., Session], api: Sandbox) -> None:
    """A currency that the user names is not replaced by what the API says."""
    session = open_session(api, currency="USD")

    session.balance()

    assert session.currency == "USD"


def test_the_first_answer_is_priced(session: Session, api: Sandbox) -> None:
    """The currency is learned while the first answer comes, so that it has its cost."""
    assert session.ask("Why?").cost == api.billed
    assert "/user/balance" in [one.path for one in api.traffic]


def test_no_balance_no_price(session: Session, api: Sandbox) -> None:
    """Where the balance cannot be read answers come all the same, unpriced."""
    api.script(404, path="/user/balance", forever=True)

    answer = session.ask("Why?")

    assert answer.text
    assert (answer.cost, answer.currency) == (None, None)
    assert session.last_balance is None


def test_a_silent_balance_holds_nothing_up(session: Session, api: Sandbox) -> None:
    """Where the balance never answers, answers come all the same, the later ones at once."""
    api.script(Reply(then="stall"), path="/user/balance", forever=True)

    answers = [session.ask("Why?") for _ in range(4)]

    assert all(answers)
    assert [answer.cost for answer in answers] == [None] * 4


def test_the_currency_moves_to_where_the_money_is(open_session: Callable[..., Session]) -> None:
    """When one currency is used up and the other pays, answers are priced in that one."""
    with Sandbox(balance="0.000001", currency="CNY", other="3.00") as api:
        session = open_session(api)
        session.balance()
        session.ask("Why?")
        session.balance()

        answer = session.ask("Why?")

        assert answer.currency == "USD"
        assert answer.cost == api.billed_in("USD")


def test_the_currency_stays_while_it_holds_money(open_session: Callable[..., Session]) -> None:
    """The other currency becoming the larger figure does not change what is billed."""
    with Sandbox(balance="5.00", currency="CNY", other="3.00") as api:
        session = open_session(api)
        session.balance()
        api.balance = Decimal("2.00")
        session.balance()

        assert session.currency == "CNY"
        assert session.ask("Why?").cost == api.billed


def test_a_reading_that_fails_keeps_the_last(session: Session, api: Sandbox) -> None:
    """A reading that fails says why, and the last amount stays known with its age."""
    first = session.balance()
    api.script(500, path="/user/balance")

    with pytest.raises(ServerFailure):
        session.balance()

    assert session.balance_problem
    assert session.last_balance == first
    session.balance()
    assert session.balance_problem is None


def test_listeners_are_told(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """Who listens is told of readings and queries; one that fails costs nobody an answer."""
    told: list[str] = []

    def broken() -> None:
        raise RuntimeError("broken on purpose")

    session.listeners += [broken, lambda: told.append("heard")]

    assert session.ask("Why?").text

    assert told
    assert "broken on purpose" in caplog.text


def test_likely_cost(session: Session, api: Sandbox) -> None:
    """What a question will probably cost is known once answers of its kind have come."""
    request = question("Why?", think="off")
    first = session.estimate(request)
    session.ask(request)

    then = session.estimate(request).cost

    assert first.cost is None
    assert then is not None
    assert then.likely is not None
    assert api.billed / 2 < then.likely < api.billed * 2


# -- the ledger in the way ------------------------------------------------------------


def test_a_ledger_that_cannot_be_used(
    open_session: Callable[..., Session], api: Sandbox, tmp_path: Path
) -> None:
    """A ledger that cannot be written stops no query; the figures of the session add up."""
    session = open_session(api, ledger=tmp_path)

    answer = session.ask("Why?")

    assert answer.cost == api.billed
    assert session.ledger.problem is not None
    assert session.usage()["cost"].sum() == api.billed


@pytest.mark.parametrize("keep", ["figures", "nothing"])
def test_texts_stay_out(
    open_session: Callable[..., Session], api: Sandbox, path: Path, keep: str
) -> None:
    """With less kept no word of question, answer or error is on the disk."""
    session = open_session(api, keep=keep)
    api.script(Reply(TALE, reasoning="Hm, tusks?"), Reply(TALE, after=9, then="close"))
    session.ask("A question about elephants")
    with pytest.raises(BrokenAnswer):
        session.ask("A question about elephants")
    assert session.usage()["queries"].sum() == 2
    session.close()

    written = path.read_bytes() if path.exists() else b""

    assert path.exists() is (keep == "figures")
    for word in (b"elephants", b"tusks", b"remembered", b"broke off"):
        assert word not in written


def test_where_the_ledger_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The ledger is in the user's data folder unless DEEPSEEK_MAGIC_HOME says otherwise."""
    monkeypatch.setenv("DEEPSEEK_MAGIC_HOME", str(tmp_path / "here"))
    assert ledger_path() == tmp_path / "here" / "ledger.sqlite"

    monkeypatch.delenv("DEEPSEEK_MAGIC_HOME")
    assert "deepseek_magic" in ledger_path().parts


# -- the key --------------------------------------------------------------------------


def test_the_key_is_nowhere(
    open_session: Callable[..., Session],
    api: Sandbox,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The key is in no repr, error, traceback, log and no byte of the ledger."""
    caplog.set_level(logging.DEBUG)
    session = open_session(api)
    shown = [repr(session), repr(vars(session)), repr(session.client), session.account]
    api.script(TALE, 401, 402, 500, Reply(TALE, after=3, then="reset"), Reply(then="garbage"))

    session.ask("Why?")
    for _ in range(5):
        with pytest.raises(DeepSeekError) as caught:
            session.ask("Why?")
        shown += [repr(caught.value), "".join(traceback.format_exception(caught.value))]
    shown += [repr(session.balance()), repr(session.ledger.entries()), caplog.text]
    session.close()

    assert api.api_key not in "".join(shown)
    assert api.api_key.encode() not in path.read_bytes()
    assert api.api_key[3:20].encode() not in path.read_bytes()


def test_the_key_of_the_environment(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key and the address come from the environment, blanks around the key cut off."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", f" {api.api_key}\n")
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)

    with Session(ledger=":memory:") as session:
        assert session.ask("Why?").text


def test_a_pasted_key(open_session: Callable[..., Session], api: Sandbox) -> None:
    """A line end that was pasted with the key does no harm."""
    assert open_session(api, api_key=f"{api.api_key}\n").ask("Why?").text


def test_no_key(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key nothing is sent, and the error says how to set one."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")

    with Session(base_url=api.base_url, ledger=":memory:") as session:
        assert find_key() is None
        with pytest.raises(NoKey, match="%deepseek login"):
            session.ask("Why?")

    assert len(api.traffic) == 0


def test_accounts_have_names_of_their_own(
    open_session: Callable[..., Session], api: Sandbox
) -> None:
    """The figures of two keys are kept apart, and those of one key are found again."""
    first, again = open_session(api), open_session(api)
    other = open_session(api, api_key=api.add_key())
    first.ask("Why?")

    assert first.account == again.account != other.account
    assert len(again.usage()) == 1
    assert len(other.usage()) == 0


# -- many at once ---------------------------------------------------------------------


def test_fifty_threads(open_session: Callable[..., Session], api: Sandbox) -> None:
    """Fifty threads that ask at once through one session lose no answer and no cent."""
    session = open_session(api)
    start = threading.Barrier(50)
    answers: list[Answer] = []

    def work() -> None:
        start.wait()
        answers.append(session.ask("Why?", think="off"))

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    written = session.ledger.entries()
    assert len(answers) == len(written) == len(api.requests) == 50
    assert {entry["state"] for entry in written} == {"done"}
    assert sum(entry["cost"] or 0 for entry in written) == api.billed
    assert session.spent == {"CNY": api.billed}


SLOW_DISK = """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("httpx."):
            time.sleep(0.03)
sys.meta_path.insert(0, Slow())
from deepseek_magic import Session
with Session(base_url=sys.argv[1], ledger=":memory:") as session:
    print(session.ask("Why?").finish_reason)
"""


def test_the_first_question_on_a_slow_disk(api: Sandbox) -> None:
    """The first answer comes although the libraries load slowly and on two threads."""
    env = {**os.environ, "DEEPSEEK_API_KEY": api.api_key}
    command = [sys.executable, "-c", SLOW_DISK, api.base_url]

    ran = subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    assert (ran.stderr, ran.stdout) == ("", "stop\n")


def test_closing(open_session: Callable[..., Session], api: Sandbox, path: Path) -> None:
    """Closing twice is harmless, ends every thread, and leaves all that was asked in the file."""
    session = open_session(api)
    session.ask("Why?")

    session.close()
    session.close()

    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("deepseek_magic")]
    assert len(entries(path)) == 1


def test_closed_in_the_middle(open_session: Callable[..., Session], api: Sandbox) -> None:
    """A session that is closed under a running answer fails in one clear line."""
    api.change(speed=50)
    session = open_session(api)
    answers = session.stream("Tell me a tale.", think="off")
    next(answers)

    session.close()

    with pytest.raises(DeepSeekError) as caught:
        list(answers)
    assert "\n" not in str(caught.value)
