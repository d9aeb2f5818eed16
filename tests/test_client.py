"""What goes over the wire, and what every failure of the layers below becomes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from itertools import pairwise
from types import ModuleType
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic.client import Client, Events, Model
from deepseek_magic.errors import (
    BadRequest,
    BrokenAnswer,
    ConnectionFailed,
    DeepSeekError,
    InsufficientBalance,
    NoKey,
    RequestRefused,
    ServerFailure,
    TooManyRequests,
    UnusableAnswer,
    WrongKey,
)
from deepseek_magic.failures import NOT_SENT, verdict
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.wire import Answer, Key, Piece, question

SECRET = "sk-5ec3e75ec3e75ec3e75ec3e75ec3e70"
EMPTY = {
    "error": {
        "message": "Insufficient Balance",
        "type": "unknown_error",
        "param": None,
        "code": "invalid_request_error",
    }
}
LIMITED = (
    "Too many requests. Your current concurrency is 26, which exceeds your concurrency limit of 25 "
    "based on your remaining balance. Please top up your balance to restore your concurrency."
)


# -- a server that says exactly what a test wants -------------------------------------


class Raw:
    """Answers every connection with the next of *replies*, byte for byte, and keeps what it read.

    The connection is closed after the reply, unless *stay* is set: then it stays
    open and silent until the client leaves.
    """

    def __init__(self, *replies: bytes, stay: bool = False) -> None:
        self.replies = list(replies)
        self.seen: list[bytes] = []
        self.stay = stay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Give the address to ask at."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):  # the client may leave in the middle
                self.seen.append(_request(connection))
                connection.sendall(self.replies.pop(0) if self.replies else b"")
                while self.stay and connection.recv(1024):
                    pass


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


@contextmanager
def saying(*replies: bytes, stay: bool = False) -> Iterator[Raw]:
    server = Raw(*replies, stay=stay)
    try:
        yield server
    finally:
        server.close()


def response(body: bytes, kind: str = "text/event-stream", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


def event(**chunk: Any) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


def words(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"delta": {"content": text}, "finish_reason": finish}])


WHOLE = words("Hi", "stop") + b"data: [DONE]\n\n"


# -- what a test asks -----------------------------------------------------------------


def ask(
    client: Client, idle: float = 30.0, **settings: Any
) -> tuple[list[Piece], Exception | None]:
    """Give the pieces that came and the error that ended them."""
    pieces: list[Piece] = []
    try:
        with closing(client.stream(question("Why?", **settings), idle=idle)) as stream:
            for piece in stream:
                pieces.append(piece)  # noqa: PERF402  # what came before an error stays
    except DeepSeekError as error:
        return pieces, error
    finally:
        client.close()
    return pieces, None


@pytest.fixture
def client(api: Sandbox) -> Iterator[Client]:
    """Give a client of the simulated account."""
    made = Client(Key(api.api_key), api.base_url)
    yield made
    made.close()


def text(pieces: list[Piece]) -> str:
    return "".join(piece.content for piece in pieces)


def check_line(error: object, *secrets: str) -> str:
    """Hold an error to one line of readable length that shows no key, and give it."""
    assert isinstance(error, DeepSeekError)
    line = str(error)
    assert "\n" not in line
    assert line.isprintable()
    assert 40 <= len(line) <= 400
    assert re.search(r"billed|sent", line), "it tells whether money was spent"
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    for secret in (SECRET, *secrets):
        assert secret not in shown
    return line


# -- the decoder ----------------------------------------------------------------------

STREAMS = [
    (b"data: a\n\ndata: b\n\n", ["a", "b"]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
    (b"data: a\r\rdata: b\r\rdata: c\n\n", ["a", "b", "c"]),
    (b"data:a\n\n", ["a"]),
    (b"data:  a \n\n", [" a "]),
    (b"data: a\ndata: b\n\n", ["a\nb"]),
    (b"data: a\r\ndata: b\r\n\r\n", ["a\nb"]),
    (b": keep-alive\n\ndata: a\n\n: keep-alive\n\n\n\n", ["a"]),
    (b"\n\n\r\n\rdata: a\n\n", ["a"]),
    (b"data: a\n: between\n\n", ["a"]),
    (b"event: chunk\nid: 7\nretry: 9\ndata: a\n\n", ["a"]),
    (b"data:\n\ndata: a\n\n", ["a"]),
    (b"database: x\n\n", []),
    (
        'data: {"a": "line\u2028other\u2029\x0b\x0c\x85"}\n\n'.encode(),
        ['{"a": "line\u2028other\u2029\x0b\x0c\x85"}'],
    ),
    ("data: 因为🌍\n\n".encode(), ["因为🌍"]),
    (b"data: a\n\ndata: cut", ["a"]),
    (b"data: a\n\ndata: cut\n", ["a"]),
    (b"data: a\n\ndata: [DONE]\n\n", ["a", "[DONE]"]),
    (b"data: a\n\ndata: [DONE]\n", ["a", "[DONE]"]),
    (b"data: a\n\ndata: [DONE]", ["a", "[DONE]"]),
    (b"data: a\r\rdata: [DONE]\r\r", ["a", "[DONE]"]),
    (b"data: a\r\n\r\ndata: [DONE]\r", ["a", "[DONE]"]),
    (b"", []),
]


@pytest.mark.parametrize(("stream", "expected"), STREAMS)
def test_events_however_cut(stream: bytes, expected: list[str]) -> None:
    """A stream gives the same events whether it comes whole, in bytes, or cut in two anywhere."""
    cuts = [[stream], [bytes([byte]) for byte in stream]]
    cuts += [[stream[:at], stream[at:]] for at in range(len(stream))]

    for chunks in cuts:
        assert list(Events().read(chunks)) == expected, chunks


LINES = st.sampled_from(["data: x", "data:", "data: [DONE]", "data: ü🌍", ": hi", "", "id: 1", "y"])


@given(
    st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r"]))),
    st.lists(st.integers(0, 200)),
)
def test_any_cut_gives_the_same(lines: list[tuple[str, str]], cuts: list[int]) -> None:
    """No way of cutting the bytes changes the events or what stands beside them."""
    stream = "".join(line + end for line, end in lines).encode()
    bounds = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    whole, cut = Events(), Events()

    expected = list(whole.read([stream]))
    found = list(cut.read(stream[a:b] for a, b in pairwise(bounds)))

    assert found == expected
    assert cut.rest == whole.rest


def test_what_is_no_event_is_bounded() -> None:
    """A body that is no stream is kept for the error, but not without end."""
    events = Events()

    assert list(events.read([b"<p>\n"] * 100_000)) == []
    assert 65_536 <= len(events.rest) <= 2 * 65_536


def test_a_long_line_is_looked_at_once() -> None:
    """A line that arrives in very many parts is put together without starting over."""
    events = Events()
    parts = [b"data: "] + [b"x" * 100] * 100_000 + [b"\n\n"]

    (found,) = events.read(parts)

    assert len(found) == 10_000_000


def test_comments_without_end_are_no_event() -> None:
    """Keep-alives that no blank line follows can go on for as long as the API likes."""
    comments = [b": keep-alive" * 1000 + b"\n"] * 2000

    assert list(Events().read([*comments, b"data: a\n\n"])) == ["a"]


# -- the table of exceptions ----------------------------------------------------------

OF_STATUS = {
    "BadRequestError": (400, BadRequest),
    "AuthenticationError": (401, WrongKey),
    "OAuthError": (401, WrongKey),
    "PermissionDeniedError": (403, WrongKey),
    "NotFoundError": (404, BadRequest),
    "ConflictError": (409, BadRequest),
    "UnprocessableEntityError": (422, BadRequest),
    "RateLimitError": (429, TooManyRequests),
    "InternalServerError": (500, ServerFailure),
    "APIStatusError": (402, InsufficientBalance),
    "HTTPStatusError": (503, ServerFailure),
}
UNDER_WAY = {
    *("APIError", "APIConnectionError", "APITimeoutError", "APIResponseValidationError"),
    *("ReadError", "ReadTimeout", "RemoteProtocolError", "CloseError", "DecodingError"),
    *("TooManyRedirects", "ResponseNotRead", "StreamClosed", "StreamConsumed", "StreamError"),
    *("NetworkError", "ProtocolError", "TimeoutException", "TransportError", "RequestError"),
    *("HTTPError", "SSEError"),
}
"""These say nothing sure about the request, or that it was sent: it may have been billed."""
NEVER = {
    # Helpers of the library that are not used here: parsed completions, web hooks, web sockets.
    *("ContentFilterFinishReasonError", "LengthFinishReasonError", "InvalidWebhookSignatureError"),
    *("WebSocketConnectionClosedError", "WebSocketQueueFullError"),
}


def modules_below() -> list[ModuleType]:
    found = [openai, importlib.import_module("openai._exceptions"), httpx]
    with_it = importlib.util.find_spec("httpx2")
    return [*found, importlib.import_module("httpx2")] if with_it else found


CLASSES = {
    f"{module.__name__}.{name}": kind
    for module in modules_below()
    for name, kind in list(vars(module).items())  # looking loads more names
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
    if not name.startswith("_")
}


def instance(kind: type[Exception]) -> Exception:
    """Make an exception of a class that may want arguments of its own."""
    error = kind.__new__(kind)
    error.args = ("what the library said",)
    return error


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_every_class_below_is_known(kind: type[Exception]) -> None:
    """Each exception class of the libraries below has its place; a new one fails here."""
    client = Client(Key(SECRET))
    name = kind.__name__
    error = instance(kind)
    if name in OF_STATUS:
        status, expected = OF_STATUS[name]
        error.response = httpx.Response(status, json={"error": "so it is"})  # type: ignore[attr-defined]  # as these classes have it
    elif name in NOT_SENT:
        expected = ConnectionFailed
    else:
        assert name in UNDER_WAY | NEVER, (
            "a new class: say in this test and in NOT_SENT what it means"
        )
        expected = BrokenAnswer

    found = client.translate(error, paid=True)

    assert type(found) is expected
    check_line(found)


def test_the_table_names_what_exists() -> None:
    """The table in the client names classes of the libraries below, and no others."""
    assert {kind.__name__ for kind in CLASSES.values()} >= NOT_SENT


@pytest.mark.parametrize(
    "error",
    [RecursionError("deep"), KeyError("choices"), ValueError("x" * 5000), OSError(5, "I/O")],
)
def test_other_exceptions(error: Exception) -> None:
    """An exception that no library announces is a broken answer too, never passed on raw."""
    found = Client(Key(SECRET)).translate(error, paid=True)

    assert type(found) is BrokenAnswer
    assert found.may_be_billed
    check_line(found)


# -- refusals -------------------------------------------------------------------------


def wrong(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


PAGE = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>openresty</body></html>"
REFUSALS: list[tuple[Reply, type[DeepSeekError], str]] = [
    (Reply(status=400, body=wrong("Content Exists Risk")), BadRequest, "Content Exists Risk"),
    (
        Reply(
            status=400, body=wrong("The supported API model names are deepseek-flash, but you …")
        ),
        BadRequest,
        "%%deepseek -m flash",
    ),
    (Reply(status=400, body=wrong("This model's maximum context " * 50)), BadRequest, "maximum"),
    (Reply(status=401), WrongKey, "%deepseek login"),
    (Reply(status=403, body=wrong("Country not supported")), WrongKey, "Country"),
    (Reply(status=402), InsufficientBalance, "Insufficient Balance"),
    (Reply(status=402, body="Payment Required"), InsufficientBalance, "Payment Required"),
    (Reply(status=402, body=""), InsufficientBalance, "Top up"),
    (Reply(status=402, body=PAGE), InsufficientBalance, "an HTML page"),
    (Reply(status=402, body=b"\xff\xfe\x00"), InsufficientBalance, "Nothing was billed"),
    (Reply(status=402, headers={"x-should-retry": "true"}), InsufficientBalance, "Top up"),
    (Reply(status=404), BadRequest, "DEEPSEEK_BASE_URL"),
    (Reply(status=408), ServerFailure, "408"),
    (Reply(status=409), BadRequest, "409"),
    (Reply(status=422), BadRequest, "422"),
    (Reply(status=429), TooManyRequests, "in a while"),
    (Reply(status=429, headers={"retry-after": "7"}), TooManyRequests, "in 7 s"),
    (Reply(status=429, headers={"retry-after": "nan"}), TooManyRequests, "in a while"),
    (Reply(status=429, body=wrong("Rate limit reached for TPM")), TooManyRequests, "TPM"),
    (
        Reply(status=429, body=wrong(LIMITED, "rate_limit_error")),
        InsufficientBalance,
        "limit of 25",
    ),
    (
        Reply(status=429, body=wrong("A" * 300 + " top up your account")),
        InsufficientBalance,
        "nearly",
    ),
    (Reply(status=500), ServerFailure, "status.deepseek.com"),
    (Reply(status=500, headers={"x-should-retry": "true"}), ServerFailure, "500"),
    (Reply(status=502, body=PAGE), ServerFailure, "502 Bad Gateway"),
    (Reply(status=503), ServerFailure, "too busy"),
    (Reply(status=503, body='{"error": "tired"}'), ServerFailure, "tired"),
    (Reply(status=503, body={"error": {"message": {"a": ["\n"]}}}), ServerFailure, "503"),
    (Reply(status=503, body="[" * 100_000), ServerFailure, "503"),
    (Reply(status=504, body="a\nb\x1b[31m\u202ec\x00"), ServerFailure, "504"),
    (Reply(status=529, body='["a"]'), ServerFailure, "529"),
    (Reply(status=418), BadRequest, "418"),
]


@pytest.mark.parametrize(("reply", "expected", "said"), REFUSALS)
def test_refusals(
    api: Sandbox, client: Client, reply: Reply, expected: type[DeepSeekError], said: str
) -> None:
    """Each status and body becomes its error in one line, after one request and no other."""
    api.script(reply, forever=True)

    pieces, error = ask(client)

    assert type(error) is expected
    assert pieces == []
    line = check_line(error, api.api_key)
    assert said in line
    by_a_gateway = reply.status >= 500 and reply.status != 503
    assert ("may have been billed" if by_a_gateway else "Nothing was billed") in line
    assert error.may_be_billed is by_a_gateway
    assert error.trace_id == api.requests[-1].trace_id
    assert len(api.requests) == 1
    assert api.billed == 0


def test_a_failure_that_the_api_itself_tells_is_not_billed(api: Sandbox, client: Client) -> None:
    """A 500 in the API's own words costs nothing; only a gateway's page leaves that open."""
    api.script(Reply(status=500, body={"error": {"message": "Internal", "type": "server_error"}}))

    _, error = ask(client)

    assert type(error) is ServerFailure
    assert "Nothing was billed" in str(error)
    assert not error.may_be_billed


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_refusal_has_its_status(api: Sandbox, client: Client, status: int) -> None:
    """Code that handles a refusal finds its status, and the wait where one was named."""
    api.script(Reply(status=status, headers={"Retry-After": "3"}))

    _, error = ask(client)

    assert isinstance(error, RequestRefused)
    assert (error.status, error.retry_after) == (status, 3.0)


CUT = b'{"error": {"message": "Insufficient Balance", "type'
BODIES = [
    b"content-length: 500\r\n\r\n" + CUT,
    b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nnone",
    b"transfer-encoding: chunked\r\n\r\nno chunk",
    b"transfer-encoding: chunked\r\n\r\n33\r\n" + CUT,
    b"content-length: 9000000\r\n\r\n" + b"x" * 9_000_000,
]


@pytest.mark.parametrize("stay", [False, True])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("status", "expected"), [("402 No", InsufficientBalance), ("401 No", WrongKey)]
)
def test_refusals_whose_body_breaks(
    status: str, expected: type[DeepSeekError], body: bytes, stay: bool
) -> None:
    """The status of a refusal counts, whether its body is whole, broken, endless or never comes."""
    reply = f"HTTP/1.1 {status}\r\nx-ds-trace-id: t-1\r\n".encode() + body
    with saying(reply, reply, stay=stay) as server:
        client = Client(Key(SECRET), server.url)
        errors = [ask(client)[1], failure(client.balance)]
        client.close()

    for error in errors:
        assert type(error) is expected
        assert "Nothing was billed" in check_line(error)
        assert error.trace_id == "t-1"


def test_a_refusal_that_drips() -> None:
    """A refusal whose body comes byte by byte is told long before its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sent = []

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                _request(connection)
                connection.sendall(b"HTTP/1.1 402 No\r\ncontent-length: 1000\r\n\r\n")
                for _ in range(1000):
                    connection.sendall(b"x")
                    sent.append(1)
                    time.sleep(0.05)

        thread = threading.Thread(target=drip)
        thread.start()
        port = listener.getsockname()[1]
        _, error = ask(Client(Key(SECRET), f"http://127.0.0.1:{port}"))
        thread.join()

    assert type(error) is InsufficientBalance
    assert len(sent) < 500


def test_want_of_money_in_escapes(api: Sandbox, client: Client) -> None:
    """The 429 for want of money is known however JSON spells its letters."""
    api.script(Reply(status=429, body='{"error": {"message": "t\\u006fp up your acc\\u006funt"}}'))

    assert type(ask(client)[1]) is InsufficientBalance


def test_an_answer_nested_too_deep() -> None:
    """JSON that is nested too deep to be read is no usable answer, and no other error."""
    answer = Answer("[" * 100_000 + "]" * 100_000, finish_reason="stop")

    found = verdict(question("List.", json=True), answer)

    assert type(found) is UnusableAnswer


def test_an_empty_account() -> None:
    """The account's own 402 is `InsufficientBalance`, after a single request."""
    with Sandbox(balance="0") as api:
        _, error = ask(Client(Key(api.api_key), api.base_url))

        assert type(error) is InsufficientBalance
        assert len(api.requests) == 1


def test_the_account_s_429_of_money() -> None:
    """The 429 that shrinks with the balance is for want of money, and is not sent again."""
    with Sandbox(balance="0.01", concurrency_per_unit=1, speed=1) as api:
        first = Client(Key(api.api_key), api.base_url).stream(question("Why?"))
        next(first)

        _, error = ask(Client(Key(api.api_key), api.base_url))
        first.close()

        assert type(error) is InsufficientBalance
        assert "remaining balance" in check_line(error)
        assert len(api.requests) == 2


def test_a_wrong_key(api: Sandbox) -> None:
    """A key that the API does not know is refused, and not repeated in the error."""
    _, error = ask(Client(Key(SECRET), api.base_url))

    assert type(error) is WrongKey
    check_line(error)


@pytest.mark.parametrize("status", [401, 402, 429, 500])
@pytest.mark.parametrize("before", ["", "a" * 215])
def test_a_server_that_repeats_the_key(api: Sandbox, status: int, before: str) -> None:
    """A key that a server writes into its error is not shown, not even in part."""
    body = wrong(f"{before} the key {SECRET} is odd")
    api.add_key(SECRET)
    api.script(Reply(status=status, body=body, headers={"x-ds-trace-id": SECRET}))

    _, error = ask(Client(Key(SECRET), api.base_url))

    line = check_line(error)
    assert SECRET[:12] not in line


ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in SECRET)
"""The key as JSON may spell it."""


@pytest.mark.parametrize("spelt", [SECRET, ESCAPED])
@pytest.mark.parametrize(
    "reply",
    [
        response(b'{"error": {"message": "the key KEY is odd"}}', status="401 No"),
        response(b'{"error": {"message": "the key KEY is odd"}}', "application/json"),
        response(b'data: {"error": {"message": "the key KEY is odd"}}\n\n'),
        response(b'data: {"error": {"message": "the key KEY is odd"}\n\n'),
        response(
            b'data: {"choices": [{"delta": {"content": "KEY", "reasoning_content": "KEY"}}]}\n\n'
        ),
        response(b'data: {"model": "KEY", "choices": [{"finish_reason": "KEY"}]}\n\n'),
        response(b'{"model": "KEY", "choices": [{"message": {"content": "KEY"}}]}'),
    ],
)
def test_a_key_in_any_spelling(reply: bytes, spelt: str) -> None:
    """A key that a server repeats is not shown, neither in an answer nor anywhere in an error."""
    with saying(reply.replace(b"KEY", spelt.encode())) as server:
        pieces, error = ask(Client(Key(SECRET), server.url))

    assert SECRET not in repr(pieces)
    if error is not None:
        check_line(error)
        assert error.__cause__ is error.__context__ is None


def test_a_key_in_a_balance_or_a_list(api: Sandbox, client: Client) -> None:
    """A key is taken out of the list of models too, however it is spelt there."""
    spelt = "".join(f"\\u{ord(letter):04x}" for letter in api.api_key)
    api.script(
        Reply(body=f'{{"data": [{{"id": "a {spelt}", "name": "{spelt}"}}]}}'), path="/models"
    )

    assert client.models() == [Model("a …", "…")]


@pytest.mark.parametrize("key", ["e", "1", "test", "EMPTY"])
def test_a_key_that_is_a_word(key: str) -> None:
    """A short key, as relays of one's own take it, is no reason to change an answer."""
    chunk = words("1 test is EMPTY", "stop")
    with saying(response(chunk + b"data: [DONE]\n\n")) as server:
        pieces, error = ask(Client(Key(key), server.url))

    assert (text(pieces), error) == ("1 test is EMPTY", None)
    assert f"Bearer {key}".encode() in server.seen[0]


def test_the_key_is_not_kept_by_the_libraries(api: Sandbox, client: Client) -> None:
    """The clients of the libraries below do not hold the key; each request gets it."""
    client.balance()
    pieces = list(client.stream(question("Why?")))

    assert pieces
    assert client._openai is not None
    assert client._httpx is not None
    assert api.api_key not in f"{vars(client._openai)} {client._openai.auth_headers}"
    assert api.api_key not in f"{vars(client._httpx)} {client._httpx.headers.raw}"


# -- what comes with status 200 and is no answer --------------------------------------

NO_ANSWERS: list[tuple[bytes, type[DeepSeekError], str]] = [
    (response(PAGE.encode(), "text/html"), BrokenAnswer, "502 Bad Gateway"),
    (response(PAGE.encode()), BrokenAnswer, "502 Bad Gateway"),
    (response(b"OK", "text/plain"), BrokenAnswer, "no answer"),
    (response(b"", "text/html"), BrokenAnswer, "without an answer"),
    (response(b""), BrokenAnswer, "without an answer"),
    (response(b": keep-alive\n\n: keep-alive\n\n"), BrokenAnswer, "without an answer"),
    (response(b'{"status": "ok"}', "application/json"), BrokenAnswer, "no answer"),
    (response(b"data: [1]\n\n"), BrokenAnswer, "cannot be read"),
    (response(b"data: {\n\n"), BrokenAnswer, "cannot be read"),
    (response(b"data: \xff\xfe\n\n"), BrokenAnswer, "cannot be read"),
    (response(b"data: " + b"[" * 100_000 + b"\n\n"), BrokenAnswer, "cannot be read"),
    (response(json.dumps(EMPTY).encode(), "application/json"), InsufficientBalance, "Insufficient"),
    (response(json.dumps(EMPTY).encode()), InsufficientBalance, "Insufficient"),
    (response(json.dumps(EMPTY, indent=2).encode()), InsufficientBalance, "Insufficient"),
    (response(event(**EMPTY)), InsufficientBalance, "Insufficient"),
    (response(event(error="Insufficient Balance")), InsufficientBalance, "Insufficient"),
    (response(event(error={"code": "insufficient_balance"})), InsufficientBalance, "Top up"),
    (response(event(error=wrong(LIMITED)["error"])), InsufficientBalance, "limit of 25"),
    (response(event(error="out of order")), ServerFailure, "out of order"),
    (response(event(**wrong("no", "authentication_error"))), WrongKey, "login"),
    (response(event(**wrong("slow", "rate_limit_error"))), TooManyRequests, "slow"),
    (response(event(**wrong("no such model"))), BadRequest, "no such model"),
    (response(event(error=["odd", 1])), ServerFailure, "odd"),
    (response(event(error={"message": "no", "code": 402})), InsufficientBalance, "Top up"),
    (response(event(error={"message": "no", "code": "402"})), InsufficientBalance, "Top up"),
    (response(event(error={"message": "no", "status": 402})), InsufficientBalance, "Top up"),
    (response(event(error={"message": "no", "code": 401})), WrongKey, "login"),
    (response(event(error={"message": "slow", "code": 429})), TooManyRequests, "slow"),
    (response(event(error={"message": "odd", "code": 40_200})), ServerFailure, "odd"),
    (
        response(b'{"error": {"message": "Insufficient\\u0020Balance"}}', "application/json"),
        InsufficientBalance,
        "Top up",
    ),
    (response(b"data: " + b"9" * 5000 + b"\n\n"), BrokenAnswer, "cannot be read"),
    (response(b'{"a": "' + b"x" * 9_000_000), BrokenAnswer, "more than 8 MiB"),
    (response(b"data: " + b"x" * 17_000_000), BrokenAnswer, "more than 16 MiB"),
    (
        response(b"data: " + b"x" * 9_000_000 + b"\ndata: " + b"x" * 9_000_000),
        BrokenAnswer,
        "16 MiB",
    ),
    (b"", BrokenAnswer, "broke off"),
    (b"HTTP/1.1 200 OK\r\ncontent-le", BrokenAnswer, "broke off"),
    (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", BrokenAnswer, "broke off"),
]


@pytest.mark.parametrize(("reply", "expected", "said"), NO_ANSWERS)
def test_no_answers(reply: bytes, expected: type[DeepSeekError], said: str) -> None:
    """What is no answer becomes an error in one line, an error inside counting like its status."""
    with saying(reply, reply) as server:
        pieces, error = ask(Client(Key(SECRET), server.url))

    assert type(error) is expected
    assert said in check_line(error)
    assert pieces == []
    assert len(server.seen) == 1
    if isinstance(error, RequestRefused):
        assert error.status is None
    assert error.may_be_billed is (expected is BrokenAnswer)


BROKEN: list[tuple[bytes, type[DeepSeekError], str]] = [
    (b"", BrokenAnswer, "without its end mark"),
    (b"data: {", BrokenAnswer, "without its end mark"),
    (b"data: {\n\n" + WHOLE, BrokenAnswer, "cannot be read"),
    (b"data: \xff\n\n" + WHOLE, BrokenAnswer, "cannot be read"),
    (event(**EMPTY), InsufficientBalance, "may have been billed"),
    (event(error="insufficient_balance"), InsufficientBalance, "may have been billed"),
    (event(error="engine failure"), BrokenAnswer, "engine failure"),
    (event(error={"message": "no", "code": 402}), InsufficientBalance, "may have been billed"),
    (event(**wrong("slow", "rate_limit_error")), BrokenAnswer, "slow"),
]


@pytest.mark.parametrize(("rest", "expected", "said"), BROKEN)
def test_answers_that_break(rest: bytes, expected: type[DeepSeekError], said: str) -> None:
    """An answer that breaks off keeps what came, and says that it may have been billed."""
    with saying(response(words("Once upon ") + words("a time") + rest)) as server:
        pieces, error = ask(Client(Key(SECRET), server.url))

    assert text(pieces) == "Once upon a time"
    assert type(error) is expected
    line = check_line(error)
    assert said in line
    assert "may have been billed" in line
    assert error.may_be_billed


def test_a_gap_in_a_chunked_answer() -> None:
    """A connection that ends inside the transfer is broken, whatever came before."""
    head = response(b"").replace(b"connection: close", b"transfer-encoding: chunked")
    body = words("Once")
    with saying(head + f"{len(body):x}\r\n".encode() + body + b"\r\n") as server:
        pieces, error = ask(Client(Key(SECRET), server.url))

    assert text(pieces) == "Once"
    assert type(error) is BrokenAnswer
    assert "broke off" in check_line(error)


def test_after_the_end_mark_nothing_counts() -> None:
    """Once the end mark has come the answer is whole, whatever the connection does then."""
    with saying(response(WHOLE + b"data: {broken"), stay=True) as server:
        pieces, error = ask(Client(Key(SECRET), server.url))

    assert (text(pieces), error) == ("Hi", None)


def test_a_relay_that_does_not_stream() -> None:
    """An answer that a relay sends as one object is taken, since it was paid for."""
    whole = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    with saying(response(json.dumps(whole).encode(), "application/json")) as server:
        pieces, error = ask(Client(Key(SECRET), server.url))

    assert error is None
    assert pieces == [Piece("Hi", finish_reason="stop")]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "text/html"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n\n \n", b": hello\n\n"])
def test_a_stream_under_another_name(kind: str, before: bytes) -> None:
    """A stream is read as one whatever its header and its first bytes are."""
    with saying(response(before + WHOLE, kind)) as server:
        pieces, error = ask(Client(Key(SECRET), server.url))

    assert (text(pieces), error) == ("Hi", None)


@pytest.mark.parametrize("before", [b"", b"\n\n\n", b"\xef\xbb\xbf"])
def test_an_object_under_another_name(before: bytes) -> None:
    """An answer in one object is taken under the header of a stream, too."""
    whole = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    with saying(response(before + json.dumps(whole, indent=1).encode())) as server:
        pieces, error = ask(Client(Key(SECRET), server.url))

    assert (text(pieces), error) == ("Hi", None)


def test_a_trace_of_a_broken_answer(api: Sandbox, client: Client) -> None:
    """The error of a broken answer carries the API's own name for the exchange."""
    api.script(Reply(after=3, then="close"))

    _, error = ask(client)

    assert type(error) is BrokenAnswer
    assert error.trace_id == api.requests[-1].trace_id


# -- silence --------------------------------------------------------------------------


def test_silence_before_the_answer(api: Sandbox, client: Client) -> None:
    """An API that says nothing at all is left after the idle time; it may have billed."""
    api.script(Reply(after="request", then="stall"))

    pieces, error = ask(client, idle=0.2)

    assert pieces == []
    assert type(error) is BrokenAnswer
    assert "silent" in check_line(error)
    assert api.wait_idle()
    assert api.requests[-1].client_gone


def test_silence_within_the_answer(api: Sandbox, client: Client) -> None:
    """An answer that falls silent is left after the idle time, and what came is kept."""
    api.change(keep_alive=None)
    api.script(Reply("A long tale of the sea", after=4, then="stall"))

    pieces, error = ask(client, idle=0.2, think="off")

    assert text(pieces)
    assert type(error) is BrokenAnswer
    assert "silent" in check_line(error)
    assert api.wait_idle()
    assert api.requests[-1].client_gone


def test_keep_alives_are_signs_of_life(api: Sandbox, client: Client) -> None:
    """Keep-alives hold the wait for longer than the idle time."""
    api.change(keep_alive=0.05, latency=1.0)
    api.script("At last.")

    pieces, error = ask(client, idle=0.5)

    assert (text(pieces), error) == ("At last.", None)


@pytest.mark.parametrize("after", [0, 4])
def test_keep_alives_alone_are_no_answer(api: Sandbox, client: Client, after: int) -> None:
    """An API that goes on with nothing but keep-alives is left in the end; what came is kept."""
    api.change(keep_alive=0.05)
    api.script(Reply("A long tale of the sea", after=after, then="keep-alive"))

    pieces: list[Piece] = []
    with pytest.raises(BrokenAnswer, match="nothing but signs of life") as caught:
        pieces.extend(client.stream(question("Why?", think="off"), idle=30, alive=0.3))

    assert caught.value.may_be_billed
    assert ("What arrived is kept" in check_line(caught.value)) is (after > 0)
    assert api.wait_idle()
    assert api.requests[-1].client_gone


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("padding", ["", ": keep-alive\n\n", "\n\n"])
@pytest.mark.parametrize("usage_chunk", ["last", "separate"])
def test_forms_of_a_stream(
    api: Sandbox, client: Client, newline: str, padding: str, usage_chunk: str
) -> None:
    """Line ends, keep-alives, blank lines and cuts inside a character leave the answer alone."""
    api.change(usage_chunk=usage_chunk)
    api.script(Reply("因为天空🌍 \u2028 ok", newline=newline, padding=padding, split=3))

    pieces, error = ask(client, think="off")

    assert (text(pieces), error) == ("因为天空🌍 \u2028 ok", None)
    assert [piece.usage for piece in pieces if piece.usage] != []


# -- connections ----------------------------------------------------------------------


def test_nobody_listens() -> None:
    """A port where nobody listens is not reached, and nothing was billed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    _, error = ask(Client(Key(SECRET), f"http://127.0.0.1:{port}"))

    assert type(error) is ConnectionFailed
    assert "Nothing was billed" in check_line(error)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("[Errno -2] Name or service not known", "The name was not found"),
        ("[Errno 11001] getaddrinfo failed", "The name was not found"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate", "SSL_CERT_FILE"),
        ("[Errno 101] Network is unreachable", "when the network is up"),
    ],
)
def test_what_to_do_about_a_connection(words: str, said: str) -> None:
    """A connection that fails says what is likely wrong and what to do."""
    error = openai.APIConnectionError(request=openai.DefaultHttpxClient().build_request("GET", ""))
    error.__cause__ = httpx.ConnectError(words)

    found = Client(Key(SECRET)).translate(error, paid=True)

    assert type(found) is ConnectionFailed
    assert said in check_line(found)


@pytest.mark.parametrize(
    "url",
    ["localhost:8765", "ftp://127.0.0.1", "http://[::1", "http://127.0.0.1:99999", "http://", ""],
)
def test_addresses_that_are_none(url: str) -> None:
    """An address that is none is told before anything is sent, for chat and for the balance."""
    for error in (ask(Client(Key(SECRET), url))[1], failure(Client(Key(SECRET), url).balance)):
        assert type(error) is ConnectionFailed
        assert "Nothing was billed" in check_line(error)


@pytest.mark.parametrize("url", ["localhost:8765", "api.deepseek.com/v1", "", "ftp://x"])
def test_an_address_without_its_scheme(url: str) -> None:
    """An address without https:// says what is missing."""
    for error in (ask(Client(Key(SECRET), url))[1], failure(Client(Key(SECRET), url).balance)):
        assert "DEEPSEEK_BASE_URL with https://" in check_line(error)


def test_blanks_around_an_address(api: Sandbox) -> None:
    """Blanks that were copied along with an address do no harm."""
    client = Client(Key(api.api_key), f" {api.base_url}/\n")

    assert client.balance().effective == 5
    assert ask(client)[1] is None


def test_no_tls_where_it_is_expected(api: Sandbox) -> None:
    """A server without TLS behind an https address is not reached."""
    _, error = ask(Client(Key(api.api_key), api.base_url.replace("http:", "https:")))

    assert type(error) is ConnectionFailed
    check_line(error, api.api_key)


def failure(work: Callable[[], object]) -> DeepSeekError:
    with pytest.raises(DeepSeekError) as caught:
        work()
    return caught.value


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 T", "308 P"])
def test_redirects_are_not_followed(status: str) -> None:
    """A redirect is an error that names where it points; nothing goes there, the key least."""
    with saying() as elsewhere:
        moved = response(b"", status=f"{status}\r\nlocation: {elsewhere.url}/chat/completions")
        with saying(moved, moved) as server:
            client = Client(Key(SECRET), server.url)
            errors = [ask(client)[1], failure(client.balance)]
            client.close()

        assert [type(error) for error in errors] == [RequestRefused] * 2
        assert "points to 127.0.0.1" in check_line(errors[0])
        assert len(server.seen) == 2
        assert elsewhere.seen == []


def test_variables_of_openai_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment holds for OpenAI does not get to DeepSeek."""
    marks = {
        "OPENAI_API_KEY": "sk-of-openai-of-openai-of-openai",
        "OPENAI_ADMIN_KEY": "sk-admin-of-openai-of-openai",
        "OPENAI_ORG_ID": "org-of-openai",
        "OPENAI_PROJECT_ID": "proj-of-openai",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/of-openai",
        "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer of-openai\nX-Mark: of-openai",
    }
    for name, value in marks.items():
        monkeypatch.setenv(name, value)
    with saying(response(WHOLE), response(b"{}", "application/json")) as server:
        client = Client(Key(SECRET), server.url)
        pieces, error = ask(client)
        client.balance()
        client.close()

    assert (text(pieces), error) == ("Hi", None)
    assert [f"Bearer {SECRET}".encode() in seen for seen in server.seen] == [True, True]
    assert b"of-openai" not in b"".join(server.seen)


def test_headers_are_few() -> None:
    """Nothing about this machine goes out with a question but what the library's name says."""
    with saying(response(WHOLE)) as server:
        ask(Client(Key(SECRET), server.url))

    head = server.seen[0].partition(b"\r\n\r\n")[0].decode().lower()
    names = {line.partition(":")[0] for line in head.splitlines()[1:]}
    assert names <= {
        *("host", "accept", "accept-encoding", "connection", "content-length", "content-type"),
        *("user-agent", "authorization", "x-stainless-raw-response"),
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_for_this_machine(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A proxy of the environment is not asked for an address on this machine."""
    with saying() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        client = Client(Key(api.api_key), f"http://{host}:{api.port}")

        pieces, error = ask(client)
        client.balance()
        client.close()

    assert error is None
    assert text(pieces)
    assert proxy.seen == []


def test_a_proxy_for_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is used for every other address."""
    with saying(response(WHOLE)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)

        pieces, error = ask(Client(Key(SECRET), "http://relay.example"))

    assert (text(pieces), error) == ("Hi", None)
    assert proxy.seen[0].startswith(b"POST http://relay.example/chat/completions ")


@pytest.mark.parametrize(
    ("name", "value"), [("HTTPS_PROXY", "socks9://x"), ("SSL_CERT_FILE", "/no/such/file")]
)
def test_an_environment_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A proxy or certificate setting that is wrong is told before anything is sent."""
    monkeypatch.setenv(name, value)

    for error in (ask(Client(Key(SECRET)))[1], failure(Client(Key(SECRET)).balance)):
        assert type(error) is ConnectionFailed
        assert "Nothing was billed" in check_line(error)


@pytest.mark.parametrize("key", ["", "sk-a b", "sk-ab\n", "sk-ü", "sk-“quoted”", "\tsk-a"])
def test_keys_that_are_none(key: str) -> None:
    """A key with a character that none has is refused at once, and not repeated."""
    error = failure(lambda: Client(Key(key)))

    assert type(error) is NoKey
    assert len(key) < 3 or key not in str(error)


# -- balance and models ---------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/beta", "/beta/"])
def test_balance_lies_at_the_root(api: Sandbox, path: str) -> None:
    """The balance and the models are found from every form of the address, and chat works too."""
    client = Client(Key(api.api_key), api.base_url + path)

    balance = client.balance()
    names = [model.id for model in client.models()]
    _, error = ask(client)

    assert (balance.currency, balance.effective) == ("CNY", Decimal("5.00"))
    assert names == ["deepseek-flash", "deepseek-v4-pro"]
    assert error is None
    assert [request.path for request in api.traffic][:2] == ["/user/balance", "/models"]


def rows(*amounts: object) -> dict[str, Any]:
    return {
        "is_available": True,
        "balance_infos": [
            {"currency": name, "total_balance": amount}
            for name, amount in zip(("CNY", "USD"), amounts, strict=False)
        ],
    }


@pytest.mark.parametrize(
    ("body", "currency", "effective"),
    [
        (rows("110.00"), "CNY", "110.00"),
        (rows("0.00", "3.50"), "USD", "3.50"),
        (rows("3.50", "0.00"), "CNY", "3.50"),
        (rows("0.00", "0.00"), "CNY", "0.00"),
        (rows(), None, None),
        (rows("NaN"), "CNY", None),
        (rows("-3"), "CNY", None),
        (rows("1e400"), "CNY", None),
        (rows(None), "CNY", None),
        ('{"balance_infos": [{"currency": "CNY", "total_balance": 47.44}]}', "CNY", "47.44"),
        ('{"balance_infos": [{"currency": "CNY", "total_balance": NaN}]}', "CNY", None),
        ({"is_available": True}, None, None),
        ({"balance_infos": {"currency": "CNY"}}, None, None),
        ({"balance_infos": [None, "x", {"currency": 7}]}, None, None),
        ("[]", None, None),
        ("null", None, None),
    ],
)
def test_odd_balances(
    api: Sandbox,
    client: Client,
    body: dict[str, Any] | str,
    currency: str | None,
    effective: str | None,
) -> None:
    """What cannot be read in a balance is unknown, never zero, and no failure."""
    api.script(Reply(body=body), path="/user/balance")

    balance = client.balance()

    assert balance.currency == currency
    assert balance.effective == (None if effective is None else Decimal(effective))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(body=PAGE), ConnectionFailed),
        (Reply(body=""), ConnectionFailed),
        (Reply(body=b"\xff"), ConnectionFailed),
        (Reply(body="[" * 100_000), ConnectionFailed),
        (Reply(body="9" * 5000), ConnectionFailed),
        (Reply(body='{"data": "' + "x" * 2_000_000 + '"}'), ConnectionFailed),
        (Reply(then="garbage"), ConnectionFailed),
        (Reply(then="close"), ConnectionFailed),
        (Reply(then="reset"), ConnectionFailed),
        (Reply(status=401), WrongKey),
        (Reply(status=404), BadRequest),
        (Reply(status=429), TooManyRequests),
        (Reply(status=500), ServerFailure),
    ],
)
@pytest.mark.parametrize("path", ["/user/balance", "/models"])
def test_balances_and_models_that_fail(
    api: Sandbox, client: Client, path: str, reply: Reply, expected: type[DeepSeekError]
) -> None:
    """A balance or a list of models that cannot be had is one clear line, and costs nothing."""
    api.script(reply, path=path, forever=True)
    error = failure(client.balance if path == "/user/balance" else client.models)
    client.close()

    assert type(error) is expected
    assert "Nothing was billed" in check_line(error, api.api_key)
    assert len(api.traffic) == 1


def test_models_old_and_new(api: Sandbox, client: Client) -> None:
    """Entries with and without the newer fields are read; what is none is passed over."""
    api.change(models=[{"id": "old", "object": "model"}, {"id": "new", "context_window": 9}])

    found = client.models()

    assert found == [Model("old"), Model("new", context_window=9)]


@pytest.mark.parametrize(
    "body", ["[]", "{}", '{"data": 5}', '{"data": ["x", null]}', '{"data": {}}']
)
def test_odd_lists_of_models(api: Sandbox, client: Client, body: str) -> None:
    """A list of models that is none is empty and no failure."""
    api.script(Reply(body=body), path="/models")

    assert client.models() == []


# -- one connection for many questions ------------------------------------------------


def test_the_next_question_needs_no_new_connection() -> None:
    """An answer whose body ends leaves its connection to the next question."""
    answer = f"{len(WHOLE):x}\r\n".encode() + WHOLE + b"\r\n"
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for end in ([b"0\r\n\r\n"], [b"", b"0\r\n", b"\r\n"]):
                    asked.append(_request(connection))
                    connection.sendall(head + answer + end[0])
                    for more in end[1:]:
                        time.sleep(0.01)
                        connection.sendall(more)

        thread = threading.Thread(target=serve)
        thread.start()
        client = Client(Key(SECRET), f"http://127.0.0.1:{listener.getsockname()[1]}")
        found = [text(list(client.stream(question("Why?")))) for _ in range(2)]
        client.close()
        thread.join()

    assert found == ["Hi", "Hi"]
    assert len(asked) == 2


def test_an_end_that_does_not_come_is_not_waited_for() -> None:
    """A body without its end, or with more and more behind it, does not hold the answer up."""
    head = response(b"").replace(b"connection: close", b"transfer-encoding: chunked")
    answer = f"{len(WHOLE):x}\r\n".encode() + WHOLE + b"\r\n"
    with saying(*[head + answer] * 2, stay=True) as server:
        client = Client(Key(SECRET), server.url)
        found = [text(list(client.stream(question("Why?"), idle=100))) for _ in range(2)]
        client.close()

    assert found == ["Hi", "Hi"]
    assert len(server.seen) == 2


# -- many at once, and what is written in logs ----------------------------------------


def test_threads_share_one_client(api: Sandbox, client: Client) -> None:
    """Threads that ask at once through one client all get their answer."""
    found: list[str] = []

    def work() -> None:
        found.append("".join(piece.content for piece in client.stream(question("Why?"))))

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()

    assert len(found) == 20
    assert all(found)


def test_the_key_is_in_no_log(
    api: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even the libraries' own debug logs name the key."""
    caplog.set_level(logging.DEBUG)
    client.balance()
    ask(client)
    api.script(401)
    ask(client)

    assert len(caplog.records) > 10
    assert api.api_key not in caplog.text
    assert not any(api.api_key in str(vars(record)) for record in caplog.records)


def test_closing_twice(api: Sandbox, client: Client) -> None:
    """A client can be closed twice, and used again."""
    client.balance()

    client.close()
    client.close()

    assert client.balance().effective == 5
    client.close()


def test_leaving_closes_the_connection(api: Sandbox, client: Client) -> None:
    """A reader that stops leaves no request running at the API."""
    api.change(speed=20)
    with closing(client.stream(question("Tell me a long story."))) as pieces:
        next(pieces)

    assert api.wait_idle()
    assert api.requests[-1].client_gone
    client.close()
