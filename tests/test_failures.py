"""What a reader is told of each failure: what happened, whether it was billed, what to do next.

Each line comes out of a real session in front of a real server.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from deepseek_magic.errors import (
    BadRequest,
    BrokenAnswer,
    ConnectionFailed,
    DeepSeekError,
    InsufficientBalance,
    RequestRefused,
    ServerFailure,
    TooManyRequests,
    UnusableAnswer,
    WrongKey,
)
from deepseek_magic.failures import ASK_ANEW, GO_ON, beside, broken, refusal, with_way_on
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session
from deepseek_magic.wire import Balance, BalanceInfo
from deepseek_magic.words import VARIABLE, t

KEY = "sk-5ec3e75ec3e75ec3e75ec3e75ec3e70"
TALE = "Once upon a time there was a notebook that remembered everything."
LIMITED = (
    "Too many requests. Your current concurrency is 26, which exceeds your concurrency limit of 25 "
    "based on your remaining balance. Please top up your balance to restore your concurrency."
)
PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in to the network</title></head></html>"
NAMES = (
    "The supported API model names are deepseek-flash, deepseek-v4-pro, but you passed {name}",
    "Model Not Exist",
)


@dataclass(frozen=True)
class Case:
    """What the server does and what is asked of it, and what the line has to tell."""

    name: str
    server: Reply | bytes
    kind: type[DeepSeekError]
    says: tuple[str, ...]
    billed: Literal["no", "maybe", "yes"] = "no"
    retried: bool = False
    at: str = ""
    """The host that it happens at, where it is not the simulated account."""
    asks: Mapping[str, Any] = field(default_factory=dict)


def wrong(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


def response(body: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n"
    return (head + body).encode()


DEEPSEEKS_402 = '{"error": {"message": "Insufficient Balance", "type": "unknown_error"}}'
OPENROUTERS_402 = (
    '{"error": {"message": "Insufficient credits. Add more using '
    'https://relay.example/credits", "code": 402}}'
)

MODELS = [
    Case(
        f"model {name} ({n})",
        Reply(status=400, body=wrong(text.format(name=name))),
        BadRequest,
        (f"has no model '{name}'", "deepseek-flash, deepseek-v4-pro", *says),
        asks={"model": name},
    )
    for n, text in enumerate(NAMES)
    for name, says in {
        "deepseek-v4.1-flash": ("%%deepseek -m flash",),
        "deepseek-v4-prro": ("%%deepseek -m pro",),
        "gpt-9": ("%%deepseek -m flash",),
        "deepseek-chat": ("retired on 2026-07-24", "%%deepseek -m flash --think off"),
        "deepseek-reasoner": ("retired on 2026-07-24", "%%deepseek -m flash"),
    }.items()
]

REFUSED = [
    Case(
        "400 risk",
        Reply(status=400, body=wrong("Content Exists Risk")),
        BadRequest,
        ("Content Exists Risk", "in other words"),
    ),
    Case(
        "400 tokens",
        Reply(status=400, body=wrong("Invalid max_tokens value, the valid range is [1, 393216]")),
        BadRequest,
        ("Invalid max_tokens", "Change what it names"),
    ),
    Case(
        "400 too long",
        Reply(
            status=400,
            body=wrong(
                "This model's maximum context length is 1048576 tokens. However, you requested "
                "1048577 tokens (1048576 in the messages, 1 in the completion)."
            ),
        ),
        BadRequest,
        ("maximum context length is 1048576", "requested 1048577", "Shorten the text"),
    ),
    Case(
        "422 too long",
        Reply(status=422, body=wrong("The input is too long: messages[0]")),
        BadRequest,
        ("(422)", "Shorten the text"),
    ),
    Case("413", Reply(status=413), BadRequest, ("(413)", "Shorten the text")),
    Case("401", Reply(status=401), WrongKey, ("(401)", "%deepseek login")),
    Case(
        "403",
        Reply(status=403, body=wrong("Country not supported")),
        WrongKey,
        ("Country not supported", "not let in there", "%deepseek login"),
    ),
    Case("402", Reply(status=402), InsufficientBalance, ("DeepSeek balance is empty", "Top up")),
    Case(
        "429",
        Reply(status=429),
        TooManyRequests,
        ("(429)", "not for want of money", "in a while"),
        retried=True,
    ),
    Case(
        "429 with a wait",
        Reply(status=429, headers={"Retry-After": "7"}),
        TooManyRequests,
        ("Run the cell again in 7 s",),
        retried=True,
    ),
    Case(
        "429 with a long wait",
        Reply(status=429, headers={"Retry-After": "5400"}),
        TooManyRequests,
        ("Run the cell again in 90 minutes",),
        retried=True,
    ),
    Case(
        "429 not to be retried",
        Reply(status=429, headers={"x-should-retry": "false"}),
        TooManyRequests,
        ("(429)",),
    ),
    Case(
        "429 of a nearly empty account",
        Reply(status=429, body=wrong(LIMITED, "rate_limit_error")),
        InsufficientBalance,
        ("empty, or nearly so", "limit of 25", "let the requests that are under way end"),
    ),
    Case(
        "500 of the API",
        Reply(status=500, body=wrong("Internal", "server_error")),
        ServerFailure,
        ("(500): Internal", "in a while", "https://status.deepseek.com"),
        retried=True,
    ),
    Case(
        "500 page",
        Reply(status=500),
        ServerFailure,
        ("an HTML page", "https://status.deepseek.com"),
        billed="maybe",
    ),
    Case(
        "502",
        Reply(status=502, body=wrong("upstream")),
        ServerFailure,
        ("(502)", "Run the cell again"),
        billed="maybe",
    ),
    Case(
        "503",
        Reply(status=503),
        ServerFailure,
        ("Service is too busy", "in a while", "https://status.deepseek.com"),
        retried=True,
    ),
    Case("408", Reply(status=408), ServerFailure, ("(408)",), retried=True),
    Case(
        "408 page",
        Reply(status=408, body=PAGE),
        ServerFailure,
        ("(408)", "an HTML page"),
        billed="maybe",
    ),
    Case(
        "redirect",
        Reply(status=302, headers={"location": "http://relay.example/sign-in"}),
        RequestRefused,
        ("points to relay.example", "neither the key nor the question", "DEEPSEEK_BASE_URL"),
    ),
    Case("404", Reply(status=404), BadRequest, ("(404)", "DEEPSEEK_BASE_URL")),
    Case(
        "404 page",
        Reply(status=404, body=PAGE),
        RequestRefused,
        ('an HTML page ("Sign in to the network")', "proxy", "HTTPS_PROXY"),
    ),
    Case(
        "403 page",
        Reply(status=403, body=PAGE),
        RequestRefused,
        ("an HTML page", "does not come from the API", "HTTPS_PROXY"),
    ),
    Case(
        "407",
        Reply(status=407, body=PAGE),
        RequestRefused,
        ("a name and a password", "HTTPS_PROXY"),
    ),
]

ELSEWHERE = [
    Case(
        "402 of another company",
        response(OPENROUTERS_402, "402 Payment Required"),
        InsufficientBalance,
        (
            "The account at relay.example is empty (402, Insufficient credits; Add more",
            "Money at DeepSeek does not help",
            "top up at relay.example",
        ),
        at="relay.example",
    ),
    Case(
        "402 of another company, empty",
        response("", "402 Payment Required"),
        InsufficientBalance,
        ("The account at relay.example is empty", "top up at relay.example"),
        at="relay.example",
    ),
    Case(
        "402 of another company, in an answer",
        response('data: {"error": {"message": "no credits", "code": 402}}\n\n'),
        InsufficientBalance,
        ("The account at relay.example is empty", "top up at relay.example"),
        at="relay.example",
    ),
    Case(
        "quota of another company",
        response('{"error": {"message": "Quota", "code": "insufficient_quota"}}', "429 Too Many"),
        InsufficientBalance,
        ("The account at relay.example is empty", "top up at relay.example"),
        at="relay.example",
    ),
    Case(
        "402 through a relay",
        response(DEEPSEEKS_402, "402 Payment Required"),
        InsufficientBalance,
        ("The DeepSeek balance is empty (402, Insufficient Balance)", "Top up, then"),
        at="relay.example",
    ),
    Case(
        "model of another company",
        response('{"error": {"message": "The model `flash-9` does not exist"}}', "404 No"),
        BadRequest,
        ("relay.example has no model 'flash-9'", "%deepseek models"),
        at="relay.example",
        asks={"model": "flash-9"},
    ),
    Case(
        "500 of a relay",
        response('{"error": {"message": "upstream gone"}}', "500 No"),
        ServerFailure,
        ("upstream gone", "Run the cell again"),
        billed="maybe",
        at="relay.example",
    ),
    Case(
        "500 of a relay, as an event",
        response('data: {"error": {"detail": "upstream lost"}}\n\n'),
        ServerFailure,
        ("relay.example refused the request: upstream lost", "Run the cell again"),
        billed="maybe",
        at="relay.example",
    ),
]

BROKEN = [
    Case(
        "page",
        Reply(body=PAGE),
        BrokenAnswer,
        ('an HTML page ("Sign in to the network")', "proxy", "HTTPS_PROXY"),
        billed="maybe",
    ),
    Case(
        "nothing",
        Reply(TALE, after="request", then="close"),
        BrokenAnswer,
        ("broke off", "No word of it had arrived", "Run the cell again"),
        billed="maybe",
    ),
    Case(
        "silence",
        Reply(TALE, after="request", then="stall"),
        BrokenAnswer,
        ("silent for 0.3 s", "No word", "DeepSeekMagics.timeout"),
        billed="maybe",
    ),
    Case(
        "silence within",
        Reply(TALE, after=5, then="stall"),
        BrokenAnswer,
        ("silent for 0.3 s", "What arrived is kept", "DeepSeekMagics.timeout"),
        billed="maybe",
    ),
    Case(
        "cut",
        Reply(TALE, after=5, then="reset"),
        BrokenAnswer,
        ("broke off", "What arrived is kept", "Run the cell again"),
        billed="maybe",
    ),
    Case(
        "garbled",
        Reply(TALE, after=5, then="garbage"),
        BrokenAnswer,
        ("cannot be read", "What arrived is kept"),
        billed="maybe",
    ),
    Case(
        "no end mark",
        Reply(TALE, then="no-done"),
        BrokenAnswer,
        ("without its end mark", "may be incomplete", "What arrived is kept"),
        billed="maybe",
    ),
    Case(
        "no reason to end",
        Reply(TALE, then="no-finish"),
        BrokenAnswer,
        ("without a reason why", "may be incomplete", "What arrived is kept"),
        billed="maybe",
    ),
    Case(
        "no money within",
        Reply(TALE, after=5, then="error"),
        InsufficientBalance,
        ("DeepSeek balance is empty", "What arrived is kept", "Top up"),
        billed="maybe",
    ),
    Case(
        "stopped",
        Reply(TALE, after=5, then="error", body=wrong("engine failure", "server_error")),
        BrokenAnswer,
        ("stopped the answer: engine failure", "Run the cell again"),
        billed="maybe",
    ),
    Case(
        "resources",
        Reply(TALE, finish_reason="insufficient_system_resource"),
        BrokenAnswer,
        ("for lack of resources", "What arrived is kept", "again in a while"),
        billed="maybe",
    ),
    Case(
        "filter",
        Reply(TALE, finish_reason="content_filter"),
        UnusableAnswer,
        ("content filter", "What arrived is kept", "in other words"),
        billed="yes",
    ),
    Case(
        "filter without a word",
        Reply("", finish_reason="content_filter"),
        UnusableAnswer,
        ("content filter stopped the answer. It was billed", "in other words"),
        billed="yes",
    ),
    Case("empty", Reply(""), UnusableAnswer, ("The answer is empty.", "again"), billed="yes"),
    Case(
        "reasoning alone",
        Reply("", reasoning="Let me think."),
        UnusableAnswer,
        ("empty but for its reasoning", "Run the cell again"),
        billed="yes",
        asks={"think": "low"},
    ),
    Case(
        "length in thinking",
        Reply(TALE, reasoning="Let me think about that for a good while."),
        UnusableAnswer,
        ("All 5 tokens went into thinking", "--max-tokens 8000", "--think off"),
        billed="yes",
        asks={"think": "low", "max_tokens": 5},
    ),
    Case(
        "length in blanks",
        Reply(" " * 40, finish_reason="length"),
        UnusableAnswer,
        ("are blanks", "Say in the question"),
        billed="yes",
    ),
    Case(
        "no JSON",
        Reply("Sure! Here"),
        UnusableAnswer,
        ("not JSON", "kept above", "Run the cell again"),
        billed="yes",
        asks={"json": True, "repair": False},
    ),
]

BILLED = {
    "no": "Nothing was billed",
    "maybe": "may have been billed",
    "yes": "was billed",
}


class Saying(ThreadingHTTPServer):
    """Answers every question with *reply*, byte for byte, and knows of no balance."""

    daemon_threads = True

    def __init__(self, reply: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.reply = reply
        self.asked = 0

    @property
    def url(self) -> str:
        """Give the address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answering(BaseHTTPRequestHandler):
    server: Saying

    def do_GET(self) -> None:
        """Know nothing."""
        self.wfile.write(response("{}", "404 Not Found"))

    def do_POST(self) -> None:
        """Say what is to be said."""
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.asked += 1
        self.wfile.write(self.server.reply)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  # named by the base
        """Say nothing on standard error."""


@contextmanager
def serving(server: Saying) -> Iterator[Saying]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def line_of(error: DeepSeekError) -> str:
    """Hold an error to one line of readable length, and give it."""
    line = str(error)
    assert line.isprintable()
    assert len(line) <= 400
    assert error._render_traceback_() == [f"{type(error).__name__}: {line}"]
    return line


def failing(session: Session, **settings: Any) -> DeepSeekError:
    with pytest.raises(DeepSeekError) as caught:
        session.ask("Tell me a tale.", **settings)
    return caught.value


@pytest.fixture
def met(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Case], tuple[DeepSeekError, dict[str, Any]]]]:
    """Give a function that lives through a case: it gives the error and the ledger's entry."""
    with ExitStack() as opened:

        def live_through(case: Case) -> tuple[DeepSeekError, dict[str, Any]]:
            url = api.base_url
            if isinstance(case.server, Reply):
                api.change(keep_alive=None)
                api.script(case.server, forever=True)
            else:
                server = opened.enter_context(serving(Saying(case.server)))
                url = f"http://{case.at}" if case.at else server.url
                if case.at:
                    monkeypatch.setenv("HTTP_PROXY", server.url)
            session = Session(
                api_key=api.api_key, base_url=url, ledger=":memory:", timeout=0.3, retries=0
            )
            opened.callback(session.close)
            error = failing(session, **{"think": "off", **case.asks})
            return error, session.ledger.entries()[-1]

        yield live_through


CASES = [*MODELS, *REFUSED, *ELSEWHERE, *BROKEN]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_is_told(
    met: Callable[[Case], tuple[DeepSeekError, dict[str, Any]]], case: Case
) -> None:
    """Each failure says in one line what happened, whether it was billed, and what to do."""
    error, entry = met(case)

    line = line_of(error)
    assert type(error) is case.kind
    for words in case.says:
        assert words in line
    assert BILLED[case.billed] in line
    assert error.may_be_billed is (case.billed != "no")
    assert error.may_be_retried is case.retried
    if case.billed == "no":
        assert entry["state"] == "refused"
        assert entry["cost"] is None


def test_no_two_look_alike(
    met: Callable[[Case], tuple[DeepSeekError, dict[str, Any]]],
) -> None:
    """What is not the same failure is not told in the same words."""
    lines = [str(met(case)[0]) for case in (*REFUSED, *ELSEWHERE)]

    assert len(set(lines)) == len(lines) - 1, "the 402 of DeepSeek itself and through a relay"


# -- whose money ----------------------------------------------------------------------


@pytest.mark.parametrize("case", ELSEWHERE[:5], ids=[case.name for case in ELSEWHERE[:5]])
def test_whose_account_is_empty(
    met: Callable[[Case], tuple[DeepSeekError, dict[str, Any]]], case: Case
) -> None:
    """The error names the company whose account is empty, unless it is DeepSeek."""
    error, _ = met(case)

    assert isinstance(error, InsufficientBalance)
    assert error.host == (None if "through" in case.name else "relay.example")


def test_amounts_in_a_rough_context() -> None:
    """A large balance is told also where the user counts with four digits."""
    with localcontext(prec=4):
        assert "1234567.89 CNY" in beside(EMPTY_LINE, holding("1234567.891"))


@pytest.mark.parametrize("host", ["api.deepseek.com", "127.0.0.1", "localhost"])
def test_deepseek_s_own_account(host: str) -> None:
    """A 402 from DeepSeek, or from this machine, is for want of money at DeepSeek."""
    error = refusal(host, 402, "", {}, paid=True)

    assert isinstance(error, InsufficientBalance)
    assert error.host is None
    assert "The DeepSeek balance is empty" in line_of(error)


def test_a_relay_hands_on_the_trace() -> None:
    """What carries DeepSeek's name for the exchange is DeepSeek's, whatever its words."""
    error = refusal("relay.example", 402, "no", {"x-ds-trace-id": "t-1"}, paid=True)

    assert isinstance(error, InsufficientBalance)
    assert (error.host, error.trace_id) == (None, "t-1")


def holding(amount: str | None, *, available: bool | None = True) -> Balance:
    total = None if amount is None else Decimal(amount)
    return Balance(available, {"CNY": BalanceInfo("CNY", total)}, datetime.now(UTC))


EMPTY_LINE = str(refusal("api.deepseek.com", 402, "", {}, paid=True))


@pytest.mark.parametrize(
    ("balance", "says"),
    [
        (holding("4.509"), ("The balance showed 4.50 CNY at ", "lags by minutes", "Top up, then")),
        (holding("4.50", available=None), ("The balance showed 4.50 CNY at ", "lags by minutes")),
        (
            holding("4.50", available=False),
            ("showed 4.50 CNY", "not available", "https://platform.deepseek.com/top_up"),
        ),
    ],
)
def test_a_balance_that_shows_money(balance: Balance, says: tuple[str, ...]) -> None:
    """A refusal for want of money while the balance shows some says both, and what that means."""
    line = beside(EMPTY_LINE, balance)

    assert line.isprintable()
    for words in ("The DeepSeek balance is empty", "Nothing was billed", *says):
        assert words in line


def test_refused_although_there_is_money(api: Sandbox) -> None:
    """A session that is refused while its balance shows money says both in its one line."""
    api.script(Reply(status=402))
    with Session(api_key=api.api_key, base_url=api.base_url, ledger=":memory:") as session:
        session.balance()

        error = failing(session)

    assert "The balance showed 5.00 CNY at " in line_of(error)
    assert "lags by minutes" in line_of(error)


def test_money_that_is_not_available(api: Sandbox) -> None:
    """Money that the API does not let be spent is told apart from none, with where to look."""
    api.change(available=False)
    with Session(api_key=api.api_key, base_url=api.base_url, ledger=":memory:") as session:
        session.balance()

        error = failing(session)

    assert type(error) is InsufficientBalance
    assert "showed 5.00 CNY at " in line_of(error)
    assert "not available" in line_of(error)
    assert "https://platform.deepseek.com/top_up" in line_of(error)


def test_a_balance_that_shows_money_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step gives way to what the figure means in this language, too."""
    monkeypatch.setenv(VARIABLE, "zh")
    line = str(refusal("api.deepseek.com", 402, "", {}, paid=True))

    lags = beside(line, holding("4.509"))
    held = beside(line, holding("4.50", available=False))

    assert "充值" in line
    assert "余额显示为 4.50 CNY（" in lags
    assert "几分钟延迟" in lags
    assert "不可用" in held
    assert "请先充值" not in held


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", ["ReadTimeout", "RemoteProtocolError"])
def test_the_way_on_is_told_once(monkeypatch: pytest.MonkeyPatch, language: str, name: str) -> None:
    """It stands before the advice to ask anew, and not twice where it is added twice."""
    monkeypatch.setenv(VARIABLE, language)
    told = broken("api.deepseek.com", name, "").told

    once = with_way_on(told)

    assert once.index(t(GO_ON)) == once.index(t(ASK_ANEW)) - 1
    assert with_way_on(once) == once
    assert [line for line in once if line != t(GO_ON)] == list(told)


@pytest.mark.parametrize(
    "balance", [None, holding("0"), holding("0.009"), holding(None), Balance()]
)
def test_a_balance_that_shows_none(balance: Balance | None) -> None:
    """Where the balance shows no money, or is not known, there is nothing to add."""
    assert beside(EMPTY_LINE, balance) == EMPTY_LINE


# -- how long to wait -----------------------------------------------------------------

NOW = datetime(2026, 11, 20, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("named", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("9" * 400, None),
        ("99999999", 86400.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(hours=1), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=300), usegmt=True), 86400.0),
        ("Fri, 20 Nov 2026 02:01:00 -0000", 60.0),
        ("Fri, 99 Nov 2026 02:01:00 GMT", None),
    ],
)
def test_retry_after(named: str, seconds: float | None) -> None:
    """The wait is read as seconds or as a date, is never negative, and no longer than a day."""
    headers = {"retry-after": named, "date": format_datetime(NOW, usegmt=True)}

    error = refusal("api.deepseek.com", 429, "", headers, paid=True)

    assert isinstance(error, RequestRefused)
    assert error.retry_after == seconds
    line_of(error)


def test_retry_after_by_this_clock() -> None:
    """A date counts from now where the server does not tell its own time."""
    until = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)

    error = refusal("api.deepseek.com", 503, "", {"retry-after": until}, paid=True)

    assert isinstance(error, RequestRefused)
    assert 3000 < (error.retry_after or 0) <= 3600


@pytest.mark.parametrize("case", [c for c in REFUSED if c.retried and "wait" not in c.name])
def test_asked_again(api: Sandbox, case: Case) -> None:
    """What is worth asking again is asked again, and answered, and paid for once."""
    assert isinstance(case.server, Reply)
    reply = Reply(
        status=case.server.status,
        body=case.server.body,
        headers={**case.server.headers, "Retry-After": "0"},
    )
    api.script(reply, TALE)
    with Session(api_key=api.api_key, base_url=api.base_url, ledger=":memory:", retries=1) as one:
        answer = one.ask("Tell me a tale.", think="off")

    assert answer.text == TALE
    assert answer.cost == api.billed
    assert [request.status for request in api.requests] == [reply.status, 200]


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if not c.retried and isinstance(c.server, Reply)],
    ids=lambda case: case.name,
)
def test_asked_once(api: Sandbox, case: Case) -> None:
    """What may have been billed, or cannot be helped by asking again, is asked once."""
    assert isinstance(case.server, Reply)
    api.change(keep_alive=None)
    api.script(case.server, forever=True)
    with Session(
        api_key=api.api_key, base_url=api.base_url, ledger=":memory:", timeout=0.2, retries=3
    ) as session:
        failing(session, **{"think": "off", **case.asks})

    assert len(api.requests) == 1


# -- connections ----------------------------------------------------------------------


def unreached(url: str, **settings: Any) -> DeepSeekError:
    with Session(
        api_key=KEY, base_url=url, ledger=":memory:", timeout=0.3, retries=0, **settings
    ) as session:
        error = failing(session)
        assert session.ledger.entries()[-1]["state"] == "failed"
    assert type(error) is ConnectionFailed
    assert "Nothing was billed" in line_of(error)
    return error


def test_nobody_listens() -> None:
    """A port where nobody listens says so; it is worth another try."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    error = unreached(f"http://127.0.0.1:{port}")

    assert "Nothing listens there" in str(error)
    assert error.may_be_retried


def test_a_name_that_does_not_exist() -> None:
    """A name that is not found says so; the network may come back."""
    try:
        socket.getaddrinfo("nowhere.localhost", 80)
    except socket.gaierror:
        pass
    else:
        pytest.skip("this machine knows every name under localhost")

    error = unreached("http://nowhere.localhost")

    assert "The name was not found" in str(error)
    assert error.may_be_retried


def test_nobody_takes_the_connection() -> None:
    """A server that takes no connection is given up after a time; nothing went there."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as others:
        address = listener.getsockname()
        for _ in range(8):  # the queue of those who wait is full then
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(address)

        error = unreached(f"http://127.0.0.1:{address[1]}")

    assert "Nobody took the connection" in str(error)
    assert error.may_be_retried


def test_no_tls_where_it_is_expected(api: Sandbox) -> None:
    """An address with https:// where plain HTTP is spoken says so, and is not tried again."""
    error = unreached(api.base_url.replace("http:", "https:"))

    assert "with http:// in front" in str(error)
    assert not error.may_be_retried


@pytest.fixture
def certified(tmp_path: Path) -> ssl.SSLContext:
    """Give a server's secrets with a certificate that nobody has signed."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_a_certificate_that_is_not_trusted(certified: ssl.SSLContext) -> None:
    """A certificate that nobody has signed is told, with where to put one, and not tried again."""
    server = Saying(response("{}"))
    server.socket = certified.wrap_socket(server.socket, server_side=True)
    with serving(server):
        error = unreached(server.url.replace("http:", "https:"))

    assert "SSL_CERT_FILE" in str(error)
    assert not error.may_be_retried
    assert server.asked == 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:8765", "https:// (or http://) in front"),
        ("ftp://127.0.0.1", "https:// (or http://) in front"),
    ],
)
def test_a_wrong_address(url: str, says: str) -> None:
    """An address that is none says what is missing, and is not tried again."""
    error = unreached(url)

    assert says in str(error)
    assert not error.may_be_retried
