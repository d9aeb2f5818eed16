"""An answer that broke off or was cut goes on: only the rest is written and paid for."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_magic.continuation import rest_of
from deepseek_magic.errors import (
    BadRequest,
    BrokenAnswer,
    DeepSeekError,
    InsufficientBalance,
    InvalidOption,
    OverLimit,
    UnusableAnswer,
)
from deepseek_magic.ledger import Asked, Outcome
from deepseek_magic.records import as_sent
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session
from deepseek_magic.wire import Answer
from harness.browser import NotebookPage, page_of
from harness.kernels import Kernels
from harness.pages import Page, start

if TYPE_CHECKING:
    from harness.lab import Lab

TALE = " ".join(f"word{n}" for n in range(60))
JSON = json.dumps({"tale": TALE, "end": True})

Open = Callable[..., Session]
Run = Callable[[str], str]


def bodies(api: Sandbox) -> list[dict[str, Any]]:
    return [request.body or {} for request in api.requests]


def broken(session: Session, api: Sandbox, **reply: Any) -> BrokenAnswer:
    """Ask for the tale and get a part of it."""
    api.script(Reply(**{"text": TALE, "after": 20, "then": "end", **reply}))
    with pytest.raises(BrokenAnswer) as caught:
        session.ask("Tell a tale.", think="off")
    return caught.value


# -- plain Python ---------------------------------------------------------------------


def test_the_rest_is_asked_for_with_what_there_is(session: Session, api: Sandbox) -> None:
    """The request is the question with the beginning of its answer, at the beta address."""
    error = broken(session, api)
    api.script(TALE)

    whole = session.resume(error)

    first, second = bodies(api)
    so_far = str(error.answer)
    begun = {"role": "assistant", "content": so_far, "prefix": True}
    assert api.requests[-1].path == "/beta/chat/completions"
    assert second == {**first, "messages": [*first["messages"], begun]}
    assert (whole.text, whole.finish_reason) == (TALE, "stop")
    assert whole.rest is not None
    assert whole.rest.text == TALE.removeprefix(so_far)


@pytest.mark.parametrize("suffix", ["", "/v1", "/beta", "/"])
def test_the_address_is_built_from_the_host(open_session: Open, api: Sandbox, suffix: str) -> None:
    """Whichever form of the address is set, the rest is asked for at `/beta`."""
    session = open_session(api, base_url=api.base_url + suffix)
    error = broken(session, api)
    api.script(TALE)

    whole = session.resume(error)

    assert whole.text == TALE
    assert api.requests[-1].path == "/beta/chat/completions"


@pytest.mark.parametrize(
    "reply",
    [
        {"then": "close"},
        {"then": "end"},
        {"then": "stall"},
        {"then": "garbage"},
        {"then": "error", "body": {"error": {"message": "Server gone", "code": "500"}}},
        {"then": "no-finish", "after": None},
        {"after": None, "then": None, "finish_reason": "insufficient_system_resource"},
    ],
    ids=lambda reply: str(reply["then"]),
)
def test_every_break_can_go_on(open_session: Open, api: Sandbox, reply: dict[str, Any]) -> None:
    """Cut, silent, garbled, stopped by the server or ended without a reason: the rest follows."""
    api.change(keep_alive=None)
    session = open_session(api, timeout=0.3)
    text = TALE[:60] if reply.get("after", 1) is None else TALE
    error = broken(session, api, **{"text": text, **reply})
    api.script(TALE)

    whole = session.resume(error)

    assert "%deepseek continue" in str(error)
    assert "Session.resume" in str(error)
    assert whole.text == TALE
    assert len(api.requests) == 2


def test_what_the_parts_cost_adds_up(session: Session, api: Sandbox) -> None:
    """Of an answer cut twice at its limit, tokens and cost are those of all three calls."""
    session.balance()
    api.script(TALE, TALE, TALE)

    first = session.ask("Tell a tale.", think="off", max_tokens=30)
    second = session.resume(first)
    third = session.resume(second, max_tokens=1000)

    parts = [request.usage or {} for request in api.requests]
    assert [first.finish_reason, second.finish_reason, third.finish_reason] == [
        *("length", "length", "stop")
    ]
    assert third.text == TALE
    assert third.cost == api.billed
    assert third.usage is not None
    assert third.usage.prompt_tokens == sum(part["prompt_tokens"] for part in parts)
    assert third.usage.completion_tokens == sum(part["completion_tokens"] for part in parts)
    assert third.rest is not None
    assert third.rest.cost == api.requests[-1].cost
    assert bodies(api)[1]["max_tokens"] == 30


def test_what_is_not_known_of_a_part_is_not_known_of_the_whole(
    session: Session, api: Sandbox
) -> None:
    """A broken part has no usage, so the whole has none, and a range in which its cost lies."""
    session.balance()
    error = broken(session, api)
    api.script(TALE)

    whole = session.resume(error)

    assert api.wait_idle()
    assert (whole.usage, whole.cost) == (None, None)
    assert whole.cost_range is not None
    assert whole.cost_range.low <= api.billed <= whole.cost_range.high


def test_a_second_break_goes_on_too(session: Session, api: Sandbox) -> None:
    """The error of a broken rest carries all that has arrived, and can go on in its turn."""
    first = broken(session, api)
    api.script(Reply(TALE, after=20, then="reset"), TALE)

    with pytest.raises(BrokenAnswer) as second:
        session.resume(first)
    whole = session.resume(second.value)

    assert first.answer is not None
    assert second.value.answer is not None
    assert second.value.answer.text.startswith(first.answer.text)
    assert whole.text == TALE
    assert [len(body["messages"]) for body in bodies(api)] == [1, 2, 2]


def test_the_answer_grows_from_what_there_is(session: Session, api: Sandbox) -> None:
    """The first of the growing answers is what there is already, the last one is the whole."""
    error = broken(session, api)
    api.script(TALE)

    seen = [answer.text for answer in session.resume_stream(error)]

    assert error.answer is not None
    assert seen[0] == error.answer.text
    assert all(later.startswith(text) for text, later in pairwise(seen))
    assert seen[-1] == TALE


def test_what_was_left_early_goes_on(session: Session, api: Sandbox) -> None:
    """An answer that somebody stopped reading goes on from the last piece that was read."""
    api.change(speed=500)
    api.script(TALE, Reply(TALE, speed=1e9))
    stream = session.stream("Tell a tale.", think="off")
    answer = next(one for one in stream if "word5" in one.text)
    stream.close()
    kept = session.broken()

    whole = session.resume(answer)

    assert kept is not None
    assert kept.text == answer.text
    assert whole.text == TALE


def test_thinking_is_given_with_it(session: Session, api: Sandbox) -> None:
    """What had been thought is sent too, is counted as input, and stays above the whole answer."""
    thought = "Let me think about it. " * 5
    api.script(Reply(TALE, reasoning=thought, after=50, then="end"), TALE)
    with pytest.raises(BrokenAnswer) as caught:
        session.ask("Tell a tale.", think="low")

    whole = session.resume(caught.value)

    begun = bodies(api)[-1]["messages"][-1]
    counted = (api.requests[-1].usage or {})["prompt_tokens"]
    assert TALE.startswith(begun["content"])
    assert begun["reasoning_content"] == thought
    assert counted > (len(begun["content"]) + len(thought)) // 4
    assert (whole.text, whole.reasoning) == (TALE, thought)


def test_only_thought(session: Session, api: Sandbox) -> None:
    """Where no word of the answer had arrived, it is asked for with the thinking so far."""
    api.script(Reply(TALE, reasoning="Let me think about it. " * 9), TALE)
    with pytest.raises(UnusableAnswer) as caught:
        session.ask("Tell a tale.", think="low", max_tokens=20)

    whole = session.resume(caught.value, max_tokens=500)

    begun = bodies(api)[-1]["messages"][-1]
    assert "%deepseek continue" in str(caught.value)
    assert (begun["content"], begun["prefix"]) == ("", True)
    assert begun["reasoning_content"].startswith("Let me think")
    assert whole.text == TALE


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(TALE), "has come to its end (stop)"),
        (Reply(TALE, finish_reason="content_filter"), "has come to its end (content_filter)"),
        (Reply(TALE, after=0, then="end"), "there is nothing to go on from"),
        (Reply("     ", finish_reason="length"), "nothing but blanks"),
    ],
    ids=["whole", "filtered", "nothing", "blanks"],
)
def test_what_cannot_go_on(session: Session, api: Sandbox, reply: Reply, said: str) -> None:
    """An answer at its end, or of which nothing is there, is refused, and nothing is sent."""
    api.script(reply)
    given: Answer | DeepSeekError
    try:
        given = session.ask("Tell a tale.", think="off")
    except DeepSeekError as error:
        given = error

    with pytest.raises(InvalidOption) as caught:
        session.resume(given)

    assert "continue" not in str(given)
    assert said in str(caught.value) or "Neither an answer" in str(caught.value)
    assert "Nothing was sent. Ask anew." in str(caught.value)
    assert len(api.requests) == 1


def test_json_is_read_as_one_text(session: Session, api: Sandbox) -> None:
    """Two halves that are no JSON make one that is."""
    api.script(JSON, JSON)
    with pytest.raises(UnusableAnswer) as caught:
        session.ask("Give JSON.", think="off", json=True, max_tokens=20)

    whole = session.resume(caught.value, max_tokens=1000)

    assert "%deepseek continue" in str(caught.value)
    assert whole.json() == {"tale": TALE, "end": True}


# -- with what else answers can do --------------------------------------------------------


def test_a_whole_that_is_no_json_is_put_right(session: Session, api: Sandbox) -> None:
    """What has gone on is read as one text and sent back once, with the question itself."""
    wrong = f"Tale: {TALE}"
    api.script(wrong, wrong, JSON)
    with pytest.raises(UnusableAnswer) as caught:
        session.ask("Give JSON.", think="off", json=True, max_tokens=100)

    whole = session.resume(caught.value, max_tokens=1000)

    asked, _, again = bodies(api)
    question, answered, told = again["messages"][-3:]
    assert whole.parsed == {"tale": TALE, "end": True}
    assert question == asked["messages"][-1]
    assert answered == {"role": "assistant", "content": wrong}
    assert told["content"].startswith("This answer cannot be used")
    assert whole.cost == api.billed


def test_a_schema_goes_on_with_its_answer(session: Session, api: Sandbox) -> None:
    """The error knows by which schema the whole is read; without repair nothing more is sent."""
    api.script(
        Reply('{"n": "one, two and three"}', after=2, then="end"), '{"n": "one, two and three"}'
    )
    with pytest.raises(BrokenAnswer) as caught:
        session.ask("Give n.", think="off", schema=dict[str, int])

    with pytest.raises(UnusableAnswer):
        session.resume(caught.value, repair=False)

    assert len(api.requests) == 2


def test_a_repair_that_broke_off_goes_on(session: Session, api: Sandbox) -> None:
    """The repair goes on from where it ended, is read, and is not repaired in its turn."""
    api.script("no JSON", Reply(JSON, after=20, then="end"), JSON)
    with pytest.raises(UnusableAnswer) as caught:
        session.ask("Give JSON.", think="off", json=True)

    whole = session.resume(caught.value)

    assert str(caught.value).count("%deepseek continue") == 1
    assert whole.parsed == {"tale": TALE, "end": True}
    assert len(api.requests) == 3


@pytest.mark.parametrize("keep", ["all", "costs"])
def test_no_part_is_taken_for_an_answer(open_session: Open, api: Sandbox, keep: str) -> None:
    """Neither a part nor an answer that has gone on comes from the ledger: it is asked anew."""
    session = open_session(api, keep=keep)
    api.script(Reply(TALE, after=20, then="end"), TALE, TALE)
    with pytest.raises(BrokenAnswer) as caught:
        session.ask("Tell a tale.", think="off", cache=True)
    whole = session.resume(caught.value)
    rest = rest_of(caught.value.answer or Answer())

    again = session.ask("Tell a tale.", think="off", cache=True)
    third = session.ask("Tell a tale.", think="off", cache=True)

    assert session.cached(rest) is None
    assert (whole.text, again.text, third.text) == (TALE, TALE, TALE)
    assert again.asked is None
    assert third.asked is not None
    assert len(api.requests) == 3


def test_pictures_at_hand_go_along(open_session: Open, api: Sandbox) -> None:
    """The kernel that asked sends the picture again; the ledger has none, and says to ask anew."""
    from PIL import Image

    session = open_session(api)
    api.script(TALE, TALE)
    cut = session.ask("Tell.", think="off", images=Image.new("RGB", (9, 9)), max_tokens=30)
    kept = open_session(api)

    with pytest.raises(InvalidOption, match="pictures, which the ledger does not keep"):
        kept.resume()
    whole = session.resume(cut, max_tokens=1000)

    first, second = bodies(api)
    assert whole.text == TALE
    assert second["messages"][0] == first["messages"][0]
    assert kept.is_under_way(cut)
    assert len(api.requests) == 2


def test_a_picture_on_the_web_is_known_to_the_ledger(open_session: Open, api: Sandbox) -> None:
    """Its address is all there is of it, so its answer goes on after a restart."""
    api.script(TALE, TALE)
    address = "https://example.org/a.png"
    open_session(api).ask("Tell.", think="off", images=address, max_tokens=30)

    whole = open_session(api).resume(max_tokens=1000)

    first, second = bodies(api)
    assert whole.text == TALE
    assert second["messages"][0] == first["messages"][0]


# -- money ----------------------------------------------------------------------------


def test_each_part_is_a_call_of_its_own(open_session: Open, api: Sandbox) -> None:
    """The ledger has a call for each part with its own cost, and the last has the whole text."""
    session = open_session(api)
    session.balance()
    api.script(TALE, TALE)
    session.resume(session.ask("Tell a tale.", think="off", max_tokens=30), max_tokens=1000)

    first, second = session.ledger.entries()

    assert [first["cost"], second["cost"]] == [request.cost for request in api.requests]
    assert [first["finish_reason"], second["finish_reason"]] == ["length", "stop"]
    assert second["answer"] == TALE
    assert sum(session.spent.values()) == api.billed


def test_what_there_is_counts_as_input(session: Session, api: Sandbox) -> None:
    """Limits are held against the question with the beginning of its answer."""
    session.balance()
    api.script("word " * 4000)
    answer = session.ask("Tell a tale.", think="off", max_tokens=4000)
    sent = len(api.requests)

    with pytest.raises(OverLimit) as caught:
        session.resume(answer, budget="0.001", max_tokens=1)

    assert len(api.requests) == sent
    assert caught.value.answer == answer


def test_no_money(session: Session, api: Sandbox) -> None:
    """A 402 keeps what there is with its cost as it was, and with money it goes on."""
    session.balance()
    api.script(TALE, TALE)
    answer = session.ask("Tell a tale.", think="off", max_tokens=30)
    left, api.balance = api.balance, Decimal(0)

    with pytest.raises(InsufficientBalance) as caught:
        session.resume(answer)
    api.balance = left
    whole = session.resume(caught.value, max_tokens=1000)

    assert caught.value.answer is not None
    assert (caught.value.answer.text, caught.value.answer.cost) == (answer.text, answer.cost)
    assert whole.text == TALE
    assert whole.cost == api.billed


def test_a_key_of_the_users_is_refused_and_the_models_words_are_not(
    session: Session, api: Sandbox
) -> None:
    """What looks like a key in the model's own text goes on; the session's key never does."""
    example = "sk-" + "a1b2c3d4" * 4
    api.script(f"Set it so: {example} and then {TALE}", f"Set it so: {example} and then {TALE}")
    answer = session.ask("How?", think="off", max_tokens=30)
    with_key = Answer(text=f"It is {api.api_key}", request=answer.request)

    whole = session.resume(answer, max_tokens=500)
    with pytest.raises(DeepSeekError, match="something like a key"):
        session.resume(with_key)

    assert example in answer.text
    assert whole.text.endswith("word59")
    assert len(api.requests) == 2


# -- a relay ----------------------------------------------------------------------------


class _NoBeta(BaseHTTPRequestHandler):
    """A relay: it cuts an answer off, and has nothing at `/beta`."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        beta = self.path.startswith("/beta")
        self.send_response(404 if beta else 200)
        self.send_header("content-type", "application/json" if beta else "text/event-stream")
        self.end_headers()
        piece = {"choices": [{"index": 0, "delta": {"content": "Once upon"}}]}
        answer = f"data: {json.dumps(piece)}\n\n"
        self.wfile.write(b'{"error": "no such route"}' if beta else answer.encode())

    def log_message(self, *_: object) -> None: ...


@contextmanager
def relay() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NoBeta)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def test_a_relay_without_it() -> None:
    """An address that has nothing at `/beta` says so in one line, and keeps what there is."""
    with relay() as url, Session(api_key="relay-key", base_url=url, ledger=":memory:") as session:
        with pytest.raises(BrokenAnswer) as first:
            session.ask("Tell a tale.")
        with pytest.raises(BadRequest) as second:
            session.resume(first.value)

    assert "knows no prefix completion (404 at /beta)" in str(second.value)
    assert "Nothing was billed. Run the cell again to ask anew." in str(second.value)
    assert str(second.value.answer) == "Once upon"


# -- from the ledger ----------------------------------------------------------------------


def test_the_ledger_knows_what_broke_off(open_session: Open, api: Sandbox) -> None:
    """Another session of the notebook goes on with the newest, and knows what all parts cost."""
    before = open_session(api)
    before.balance()
    api.script(TALE, TALE, TALE)
    cut = before.ask("Tell a tale.", think="off", max_tokens=30, stop="END", system="Be brief.")
    before.resume(cut)
    before.close()

    after = open_session(api)
    found = after.broken()
    whole = after.resume(max_tokens=1000)

    assert found is not None
    assert found.request == cut.request
    assert whole.text == TALE
    assert whole.cost == api.billed
    assert after.broken() is None


def test_what_was_asked_anew_goes_on_no_more(open_session: Open, api: Sandbox) -> None:
    """An answer that was asked for again, and came, is not gone on with."""
    session = open_session(api)
    broken(session, api)
    api.script(TALE)
    session.ask("Tell a tale.", think="off")

    with pytest.raises(InvalidOption, match="nothing to go on with"):
        session.resume()

    assert len(api.requests) == 2


def test_another_kernel_goes_on_with_it_already(open_session: Open, api: Sandbox) -> None:
    """While one session is at it, another does not go on with the same answer."""
    one, other = open_session(api), open_session(api)
    error = broken(one, api)
    api.script(Reply(TALE, speed=50))
    growing = one.resume_stream(error)
    while len(next(growing).text) <= len(str(error.answer)):
        pass

    with pytest.raises(InvalidOption, match="nothing to go on with"):
        other.resume()
    growing.close()

    assert len(api.requests) == 2


def test_a_kernel_that_died_meanwhile(open_session: Open, api: Sandbox) -> None:
    """A rest whose kernel was killed is lost, and what it went on from goes on again."""
    session = open_session(api)
    session.balance()
    api.script(TALE)
    cut = session.ask("Tell a tale.", think="off", max_tokens=30)
    killed = Asked(
        at=datetime.now(UTC),
        account=session.account,
        model="deepseek-flash",
        request=as_sent(rest_of(cut)),
        reserved=Decimal("0.02"),
        currency="CNY",
    )
    session.ledger.end(session.ledger.ask(killed), Outcome("partial", datetime.now(UTC)))

    found = session.broken()

    assert found is not None
    assert (found.text, found.cost) == (cut.text, None)
    assert found.cost_range is not None
    assert found.cost_range.high == (cut.cost or 0) + Decimal("0.02")


def test_texts_that_are_not_kept(open_session: Open, api: Sandbox) -> None:
    """Where the ledger keeps figures only, an error still knows all it takes."""
    session = open_session(api, keep="figures")
    error = broken(session, api)
    api.script(TALE)

    assert session.broken() is None
    assert session.resume(error).text == TALE


def test_rows_are_no_answers_to_go_on_with(open_session: Open, api: Sandbox) -> None:
    """Rows that were cut at their limit are asked again by their table, and not one by one."""
    session = open_session(api)

    session.map(["one", "two"], "Tell of {{text}}.", think="off", max_tokens=5, progress=False)

    assert session.broken() is None


# -- cells ------------------------------------------------------------------------------


def test_the_newest_of_questions_without_a_cell(session: Session, api: Sandbox) -> None:
    """In plain Python too, the last answer that was cut goes on, and not one from before it."""
    session.ask("Why?", think="off")
    api.script(Reply("", reasoning="I think " * 30))
    with pytest.raises(UnusableAnswer) as caught:
        session.ask("How?", max_tokens=20)

    whole = session.resume(max_tokens=500)

    assert "How?" in str(bodies(api)[-1]["messages"])
    assert whole.text
    assert str(caught.value).index("Session.resume") < str(caught.value).index("--max-tokens")


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give an account that whatever looks at the environment uses."""
    with Sandbox(balance="5.00", currency="CNY", decimals=6) as api:
        monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
        monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
        yield api


@pytest.fixture
def run(account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a cell and gives what it showed."""
    shell.run_line_magic("xmode", "Minimal")

    def run_cell(source: str) -> str:
        capsys.readouterr()
        shell.run_cell(source)
        shown = capsys.readouterr()
        return shown.out + shown.err

    return run_cell


def test_a_cell_of_its_own(run: Run, account: Sandbox, shell: Any) -> None:
    """`%deepseek continue` shows the whole, binds it as the first cell said, and pays the rest."""
    account.script(Reply(TALE, after=20, then="end"), TALE)
    first = run("%%deepseek -t off -o tale\nTell a tale.")

    second = run("%deepseek continue -o again")

    assert "%deepseek continue" in first
    assert TALE in second
    assert "for the rest · in all about" in second
    assert shell.user_ns["tale"] is shell.user_ns["again"]
    assert shell.user_ns["tale"].text == TALE
    assert "nothing to go on with" in run("%deepseek continue")
    assert len(account.requests) == 2


def test_the_rest_has_a_bound_of_its_own(run: Run, account: Sandbox, shell: Any) -> None:
    """`--max-tokens` of the rest is not that which has cut the beginning."""
    run("%%deepseek -t off --max-tokens 10\nWhy?")
    bad = run("%deepseek continue --max-tokens many")
    preview = run("%deepseek continue --max-tokens 400 --dry-run")
    huge = run(f"%deepseek continue --max-tokens {'9' * 5000}")
    run("%deepseek continue --max-tokens=400 -o whole")

    assert "is none of these" in bad
    assert "whole number from 1 to 393216" in bad
    assert "is none of these" in huge
    assert "max_tokens 400" in preview
    assert bodies(account)[-1]["max_tokens"] == 400
    assert shell.user_ns["whole"].finish_reason == "stop"


def test_a_cut_answer_names_the_way(run: Run, account: Sandbox, shell: Any) -> None:
    """The line under an answer that ended at --max-tokens says how it goes on."""
    account.script(TALE, TALE)

    shown = run("%%deepseek -t off --max-tokens 30 -o tale\nTell a tale.")
    dry = run("%deepseek continue --dry-run")
    wrong = [run(f"%deepseek continue {words}") for words in ("now", "-o", "-o 1st", "--out")]

    assert "cut at max_tokens" in shown
    assert "to go on: %deepseek continue" in shown
    assert "assistant" in dry
    assert ["takes nothing more, or -o NAME" in shown for shown in wrong] == [True] * 4
    assert len(account.requests) == 1
    assert shell.user_ns["tale"].finish_reason == "length"


def test_a_schema_of_the_first_cell(run: Run, account: Sandbox, shell: Any) -> None:
    """A cut JSON is read as its own cell said, once it is whole."""
    account.script(JSON, JSON)
    run("from pydantic import BaseModel\nclass Tale(BaseModel):\n    tale: str\n    end: bool\n")
    run("%%deepseek -t off --schema Tale --max-tokens 60 -o tale\nTell one.")
    run("%deepseek continue")
    while "tale" not in shell.user_ns and len(account.requests) < 9:
        account.script(JSON)
        run("%deepseek continue")

    assert shell.user_ns["tale"].tale == TALE


def test_code_of_the_whole(run: Run, account: Sandbox, shell: Any) -> None:
    """`--code` places what the whole answer holds, also of `%deepseek fix`."""
    code = "\n".join(f"x{n} = {n}" for n in range(40))
    reply = f"Here:\n\n```python\n{code}\n```\n"
    account.script(Reply(reply, after=20, then="end"), reply)
    run("1 / 0")
    run("%deepseek fix -t off --code")

    run("%deepseek continue")

    assert shell.rl_next_input.strip() == code


def test_no_money_in_a_cell(run: Run, account: Sandbox, shell: Any) -> None:
    """The notice stands under what there is; %deepseek rerun pays for the rest alone."""
    account.script(TALE, TALE)
    run("%%deepseek -t off --max-tokens 30 -o tale\nTell a tale.")
    left, account.balance = account.balance, Decimal(0)

    shown = run("%deepseek continue")
    account.balance = left
    listed = run("%deepseek pending")
    run("%deepseek rerun")

    assert "word0" in shown
    assert "The DeepSeek balance is empty" in shown
    assert "characters of the answer are kept above" in shown
    assert "%deepseek continue" in listed
    assert [len(body["messages"]) for body in bodies(account)] == [1, 2, 2]
    assert "No cell waits for money." in run("%deepseek pending")
    assert len(shell.user_ns["tale"].text) > len(shell.user_ns["tale"].rest.text)


def test_another_kernel_was_quicker(run: Run, account: Sandbox, shell: Any) -> None:
    """What another kernel of the notebook has gone on with is not paid for once more."""
    account.script(Reply(TALE, after=20, then="end"), TALE)
    run("%%deepseek -t off\nTell a tale.")
    here = shell.magics_manager.registry["DeepSeekMagics"].workspace.session
    with Session(notebook=here.notebook) as other:
        other.resume()

    shown = run("%deepseek continue")

    assert "its rest was asked for elsewhere. Nothing was sent" in shown
    assert len(account.requests) == 2


def test_the_account_changes(run: Run, account: Sandbox) -> None:
    """What broke off on one account does not go on on another."""
    account.script(Reply(TALE, after=20, then="end"))
    run("%%deepseek -t off\nTell a tale.")

    run("%deepseek sandbox on 5")
    shown = run("%deepseek continue")

    assert "nothing to go on with" in shown


@pytest.mark.kernel
def test_after_a_restart(kernel: Kernels, account: Sandbox) -> None:
    """A notebook without a page goes on with what an earlier kernel left."""
    load = "%load_ext deepseek_magic"
    account.script(Reply(TALE, after=20, then="end"), TALE)
    first = kernel.run([load, "%%deepseek -t off\nTell a tale."])

    second = kernel.run([load, "%deepseek continue -o tale", "print(tale.text)"])

    assert first.error is not None
    assert "To go on at the price of the rest: %deepseek continue" in first.text(1)
    assert second.error is None
    assert TALE in second.text(1)
    assert second.text(2).strip() == TALE
    told = second.notebook.cells[1].outputs[0].metadata["deepseek_magic"]
    assert Decimal(told["cost"]) == account.requests[-1].cost, "the beginning stands elsewhere"
    assert "widget" not in str(second.notebook)


# -- a page -----------------------------------------------------------------------------

HERE: dict[str, Any] = {"cellId": "c1"}
SPACE = "get_ipython().magics_manager.registry['DeepSeekMagics'].workspace"
STANDING = f"{SPACE}.notices._standing.get('c1', [])"
ASKING = "%%deepseek -t off -o tale\nTell a tale."


@pytest.fixture
def page(account: Sandbox, tmp_path: Path) -> Iterator[Page]:
    """Give a page without a browser, whose kernel asks the account."""
    manager = start(tmp_path)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    made = Page(client)
    made.cell("%load_ext deepseek_magic")
    yield made
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def button(page: Page) -> str:
    """Give the comm of the button below the broken answer."""
    return page.value(f"{STANDING}[0]._button.comm.comm_id")


def wait_for(page: Page, expression: str) -> None:
    """Ask the kernel until *expression* holds there."""
    deadline = time.monotonic() + 30
    while page.value(expression) != "True":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stamps(page: Page, request: str) -> list[dict[str, Any]]:
    found = [m["content"].get("metadata", {}) for m in page.of(request)]
    return [one["deepseek_magic"] for one in found if "deepseek_magic" in one]


@pytest.mark.kernel
def test_the_button(page: Page, account: Sandbox) -> None:
    """Clicks of two pages, and twice broken: one request each, in the same cell, to its end."""
    account.script(*[Reply(TALE, after=20, then="end")] * 2, TALE)
    cell = page.cell(ASKING, HERE)
    first = button(page)
    page.click(first)
    page.click(first)
    page.until(lambda: page.ended(cell, 2))
    second = button(page)
    page.click(second)
    page.until(lambda: page.ended(cell, 3))
    page.click(second)
    page.cell("import time; time.sleep(0.5)")

    whole = stamps(page, cell)[-1]

    assert len(account.requests) == 3
    assert [len(body["messages"]) for body in bodies(account)] == [1, 2, 2]
    assert page.errors(cell) == ["BrokenAnswer", "BrokenAnswer"]
    assert page.inputs(cell) == [ASKING] * 3
    assert whole["ending"] == "done"
    assert whole["cost_range"] is not None
    assert page.value("tale.text") == TALE
    assert page.value(STANDING) == "[]"


CUT = Reply(TALE, after=20, then="end")


@pytest.mark.kernel
def test_beside_the_button(page: Page, account: Sandbox) -> None:
    """Whoever goes on first does it: a command, a run by hand, a notice; others send nothing."""
    after_a_command(page, account)
    after_a_run_by_hand(page, account)
    after_an_empty_balance(page, account)
    after_a_notice(page, account)
    after_another_try(page, account)


def messages(account: Sandbox, page: Page) -> list[int]:
    """Give how many messages each new request had, once nothing is on its way any more."""
    page.cell("import time; time.sleep(0.5)")
    found = [len(body["messages"]) for body in bodies(account)]
    account.requests.clear()
    account.unscript()
    return found


def after_a_command(page: Page, account: Sandbox) -> None:
    account.script(CUT, TALE)
    page.cell(ASKING, HERE)
    comm = button(page)

    page.cell("%deepseek continue", {"cellId": "c2"})
    page.click(comm)

    assert messages(account, page) == [1, 2]
    assert "It went on in another cell" in page.value(f"{STANDING}[0]._said.value")


def after_a_run_by_hand(page: Page, account: Sandbox) -> None:
    account.script(CUT, TALE)
    page.cell(ASKING, HERE)

    page.queue("import time; time.sleep(1)")
    page.click(button_of(page))
    by_hand = page.cell(ASKING, HERE)

    assert messages(account, page) == [1, 1]
    assert page.errors(by_hand) == []


def after_an_empty_balance(page: Page, account: Sandbox) -> None:
    account.script(CUT, TALE)
    cell = page.cell(ASKING, HERE)

    account.balance = Decimal(0)
    page.click(button(page))
    page.until(lambda: page.ended(cell, 2))
    account.top_up("5.00")
    page.click(page.value(f"{STANDING}[0]._again.comm.comm_id"))
    page.until(lambda: page.ended(cell, 3))

    assert page.errors(cell) == ["BrokenAnswer", "InsufficientBalance"]
    assert messages(account, page) == [1, 2, 2]
    assert page.value("tale.text") == TALE


def after_a_notice(page: Page, account: Sandbox) -> None:
    account.script(TALE, TALE)
    page.cell(ASKING.replace("-t", "--max-tokens 30 -t"), HERE)
    account.balance = Decimal(0)
    page.click(button(page))
    wait_for(page, f"[hasattr(one, '_again') for one in {STANDING}] == [True]")
    account.top_up("5.00")
    again = page.value(f"{STANDING}[0]._again.comm.comm_id")

    page.cell("%deepseek continue", {"cellId": "c2"})
    page.click(again)

    assert messages(account, page) == [1, 2, 2]
    assert "It went on in another cell" in page.value(f"{STANDING}[0]._said.value")
    assert "Tell a tale." not in page.text(page.cell("%deepseek pending"))


def after_another_try(page: Page, account: Sandbox) -> None:
    account.script(CUT, CUT, TALE)
    page.cell(ASKING, HERE)
    page.cell("%deepseek continue", {"cellId": "c3"})
    comm = button_of(page)

    page.cell(ASKING, HERE)
    page.click(comm)

    assert messages(account, page) == [1, 2, 1]
    said = page.value(f"{SPACE}.notices._standing['c3'][0]._said.value")
    assert "Its question was asked anew" in said


def button_of(page: Page) -> str:
    """Give the newest button from the messages, without asking the busy kernel."""
    opened = [m for m in page.messages if m["msg_type"] == "comm_open"]
    states = [(m["content"]["comm_id"], m["content"]["data"]["state"]) for m in opened]
    found = [comm for comm, state in states if state.get("description") == "Continue"]
    return str(found[-1])


@pytest.mark.kernel
def test_run_by_hand_meanwhile(page: Page, account: Sandbox) -> None:
    """A run that was sent while the answer went on shows it for nothing; the next asks anew."""
    account.script(Reply(TALE, after=20, then="end"), Reply(TALE, speed=100), "Another tale.")
    cell = page.cell(ASKING, HERE)
    page.click(button(page))
    page.until(lambda: any("word15" in str(m["content"]) for m in page.of(cell)))

    by_hand = page.cell(ASKING, HERE)
    sent, tale = len(account.requests), page.value("tale.text")
    page.cell(ASKING, HERE)

    assert (sent, tale) == (2, TALE)
    assert page.errors(by_hand) == []
    assert "nothing was sent now" in str(page.of(by_hand))
    assert page.value("tale.text") == "Another tale."
    assert len(account.requests) == 3


@pytest.mark.kernel
def test_stopped_and_gone(page: Page, account: Sandbox) -> None:
    """A rest that is stopped goes on in its turn; where no page shows it, nothing is sent."""
    account.script(Reply(TALE, after=20, then="end"), Reply(TALE, speed=20), TALE)
    cell = page.cell(ASKING, HERE)
    page.click(button(page))
    page.until(lambda: len(page.inputs(cell)) == 2)
    page.until(lambda: any("word15" in str(m["content"]) for m in page.of(cell)))
    interrupt(page)
    page.until(lambda: page.ended(cell, 2))
    page.listens = False
    page.click(button(page))
    wait_for(page, f"'no longer knows' in {STANDING}[0]._said.value")
    unreached = len(account.requests)
    page.listens = True
    page.click(button(page))
    page.until(lambda: page.ended(cell, 3))

    assert page.errors(cell) == ["BrokenAnswer", "Interrupted"]
    assert unreached == 2
    assert len(account.requests) == 3
    assert len(bodies(account)[2]["messages"][-1]["content"]) > 60
    assert page.value("tale.text") == TALE


def interrupt(page: Page) -> None:
    page.client.control_channel.send(page.client.session.msg("interrupt_request", content={}))


# -- a browser --------------------------------------------------------------------------


@pytest.mark.browser
def test_in_jupyterlab(
    page_in_lab: Callable[..., NotebookPage], account: Sandbox, tmp_path: Path
) -> None:
    """One click, and the broken answer is whole: one output, as any other, that is saved so."""
    text = "## A tale\n\n- one **bold** word\n- " + TALE + "\n\n| a | b |\n| - | - |\n| 1 | 2 |\n"
    account.script(Reply(text, after=30, then="end"), Reply(text, speed=60))
    page = page_in_lab(ASKING)

    page.run_cell(1)
    page.wait_text(1, "Continue")
    page.screenshot_cell(1, tmp_path / "broken.png")
    broken = page.text(1)
    page.button(1, "Continue").dblclick()
    page.wait_text(1, "word30")
    page.screenshot_cell(1, tmp_path / "going-on.png")
    whole = page.wait_text(1, "for the rest")
    page.screenshot_cell(1, tmp_path / "whole.png")
    saved = page.save().cells[1]

    assert "To go on at the price of the rest: %deepseek continue" in broken
    assert "Continue" not in whole
    assert "BrokenAnswer" not in whole
    assert whole.count("word59") == 1
    assert page.output(1).locator("table").count() == 1
    assert len(account.requests) == 2
    assert [output.output_type for output in saved.outputs] == ["display_data"]
    assert set(saved.outputs[0].data) == {"text/html", "text/plain"}


@pytest.fixture
def page_in_lab(
    page_of_lab: NotebookPage, lab: Lab, of_this_test: Callable[..., dict[str, str]]
) -> Callable[..., NotebookPage]:
    """Give a function that opens a notebook of *sources* in JupyterLab."""

    def open_one(*sources: str, **settings: Any) -> NotebookPage:
        names = ("DEEPSEEK_API_KEY", "DEEPSEEK_BASE_URL")
        env = of_this_test(**{name: os.environ[name] for name in names})
        name = lab.write("tale.ipynb", ["%load_ext deepseek_magic", *sources], env)
        page_of_lab.open(name, **settings)
        page_of_lab.run_cell(0)
        return page_of_lab

    return open_one


@pytest.fixture
def page_of_lab(lab: Lab, tmp_path: Path) -> Iterator[NotebookPage]:
    """Give an empty page of a browser; the name `page` is that of the one without."""
    with page_of(lab, tmp_path) as handled:
        yield handled
