"""The API over the network; every failure of the libraries below becomes one of ours.

Chat goes through `openai`, balance and models through `httpx`. No request is
sent again by itself, no redirect is followed, and a proxy that the
environment names is not used for an address on this machine.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from . import failures
from .errors import ConnectionFailed, DeepSeekError, NoKey, one_line
from .failures import LOOPBACK, host_of
from .wire import Answer, Balance, Key, Piece, Request
from .words import t

if TYPE_CHECKING:
    import httpx
    import openai

DEEPSEEK = "https://api.deepseek.com"
CONNECT_SECONDS = 10.0
READ_SECONDS = 10.0
WHOLE_SECONDS = 20.0
"""How long the body of a balance or of a list of models may take from its first byte."""
REFUSAL_SECONDS = 1.0
"""How long the body of a refusal is waited for, from one byte to the next and in all."""
ALIVE_SECONDS = 1200.0
"""How long nothing but keep-alives is borne; the API itself gives up after ten minutes."""
END_SECONDS = 0.2
"""How long the end of a body is waited for once the answer in it is whole."""
NO_EVENT_BYTES = 65_536
REFUSAL_BYTES = 65_536
DATA_BYTES = 2**20
ANSWER_BYTES = 8 * 2**20
EVENT_BYTES = 16 * 2**20
BEFORE_A_BODY = b"\xef\xbb\xbf \t\r\n"
"""Bytes that say nothing at the head of a body: a byte order mark, and blanks to keep it alive."""
SCRUBBED_CHARACTERS = 8
"""A shorter key is a word such as "test" for a relay of one's own, and no secret."""
HEADERS = frozenset({
    "host", "accept", "accept-encoding", "connection", "content-type", "content-length",
    "transfer-encoding", "user-agent",
    "x-stainless-raw-response",  # by which the library tells itself how to read the response
})  # fmt: skip
"""The headers that a question goes out with, besides the key."""


class Events:
    """Take the data of server-sent events out of bytes, however they were cut.

    Comments (`: keep-alive`), blank lines and fields other than `data` are
    passed over (html.spec.whatwg.org/multipage/server-sent-events.html). What
    is passed over and is no comment stands in `rest`, as far as 64 KiB.
    An event or a line of more than 16 MiB raises `ValueError`.
    """

    def __init__(self) -> None:
        self.rest = b""
        self._return = b""  # a carriage return at the end, which may be half a line end
        self._open: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0

    def read(self, chunks: Iterable[bytes]) -> Iterator[str]:
        """Give every event of *chunks*, and an end mark whose blank line is missing."""
        for more in chunks:
            yield from self.feed(more)
        self._line(b"".join(self._open))
        if b"\n".join(self._data).strip() == b"[DONE]":
            yield "[DONE]"

    def feed(self, more: bytes) -> Iterator[str]:
        """Give the events that *more* completes; bytes that are not UTF-8 raise."""
        more = self._return + more
        self._return = b"\r" if more.endswith(b"\r") else b""
        first, *others = re.split(rb"\r\n|\n|\r", more.removesuffix(b"\r"))
        self._more(first)
        for other in others:
            line, self._open = b"".join(self._open), []
            if line:
                self._line(line)
            elif self._data:
                event, self._data, self._size = b"\n".join(self._data), [], 0
                if event:
                    yield event.decode()
            self._more(other)

    def _more(self, part: bytes) -> None:
        self._open.append(part)
        self._size += len(part)
        if self._size > EVENT_BYTES:
            raise ValueError(t("an event of more than {size} MiB", size=EVENT_BYTES >> 20))

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            return
        self._size -= len(line)
        if line and not line.startswith(b":") and len(self.rest) < NO_EVENT_BYTES:
            self.rest += line[:NO_EVENT_BYTES] + b"\n"


@dataclass(frozen=True, slots=True)
class Model:
    """A model as `GET /models` lists it; None where the entry does not say."""

    id: str
    name: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    input_modalities: tuple[str, ...] | None = None

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Model:
        """Read one entry of the list."""
        window, output = entry.get("context_window"), entry.get("max_output_tokens")
        kinds = entry.get("input_modalities")
        return cls(
            id=str(entry.get("id")),
            name=entry.get("name"),
            context_window=window if isinstance(window, int) else None,
            max_output_tokens=output if isinstance(output, int) else None,
            input_modalities=tuple(map(str, kinds)) if isinstance(kinds, list) else None,
        )


@dataclass(slots=True)
class _Heard:
    """What has come of an answer: the API's name for the exchange, whether any word, and when."""

    trace: str | None = None
    words: bool = False
    last: float = field(default_factory=time.monotonic)
    """When the last event came."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an error is told with: the model, the silence that is borne, whether a word came."""

    model: str | None = None
    idle: float | None = None
    words: bool = False


class _Refused(Exception):  # an exception, to get past the library's own reading of it
    """A response whose status is no success, with as much of its body as came in a moment."""

    def __init__(self, response: Any) -> None:
        super().__init__(response.status_code)
        self.status_code: int = response.status_code
        self.headers = response.headers
        body = bytearray()
        with suppress(Exception):  # the status tells what happened, however its body ends
            # An answer may be silent for minutes; the body of a refusal is not waited for so long.
            response.request.extensions["timeout"]["read"] = REFUSAL_SECONDS
        with suppress(Exception):
            for chunk in _bounded(response.iter_bytes(), REFUSAL_BYTES, REFUSAL_SECONDS):
                body += chunk
        self.text = body[:REFUSAL_BYTES].decode("utf-8", "replace")


class Client:
    """One account at one address."""

    def __init__(self, key: Key, base_url: str = DEEPSEEK) -> None:
        if not re.fullmatch(r"[!#-\[\]-~]+", key.reveal()):
            raise NoKey(
                t(
                    "The key is empty, or holds a space, a line break or another character that no "
                    "key has."
                ),
                t("Nothing was sent."),
                t("Type it in again: %deepseek login"),
            )
        self.key = key
        self.base_url = base_url.strip().rstrip("/")
        self.host = host_of(self.base_url) or self.base_url
        """The host that requests go to."""
        self._openai: openai.OpenAI | None = None
        self._httpx: httpx.Client | None = None
        self._lock = threading.Lock()

    def stream(
        self, request: Request, *, idle: float = 300.0, alive: float = ALIVE_SECONDS
    ) -> Generator[Piece]:
        """Send *request* and give what arrives, piece by piece, until the end is certain.

        *idle* is how many seconds the API may be silent, its keep-alives counting
        as signs of life for up to *alive* seconds. A stream that ends without its end mark raises
        `BrokenAnswer`. Closing the generator closes the connection.
        """
        heard = _Heard()
        try:
            yield from self._asked(request, idle, alive, heard)
        except DeepSeekError as error:
            found = error
        except Exception as error:  # noqa: BLE001  # whatever it is becomes one of ours
            asked = _Asked(request.model, idle, heard.words)
            found = self.translate(error, paid=True, asked=asked)
        else:
            return
        if request.goes_on:
            found = failures.no_prefix(self.host, found)
        # Raised here, it has no exception of the libraries, and so no key, as its context.
        found.trace_id = found.trace_id or heard.trace
        raise found

    def _asked(
        self, request: Request, idle: float, alive: float, heard: _Heard
    ) -> Generator[Piece]:
        """Send *request* and give the pieces; *heard* keeps what they tell of the exchange."""
        body, chat = request.body(), self._chat()
        if request.goes_on:
            chat = chat.with_options(base_url=f"{self._root}{failures.BETA}")
        with chat.chat.completions.with_streaming_response.create(
            model=body.pop("model"),
            messages=body.pop("messages"),
            stream=True,
            extra_body=body,
            timeout=_patience(idle),
        ) as response:
            heard.trace = self._scrub(response.headers.get("x-ds-trace-id") or "") or None
            chunks = self._living(response.iter_bytes(), alive, heard)
            yield from self._pieces(response, chunks, heard)

    @property
    def _root(self) -> str:
        """The address without the part that names a form of the API."""
        return re.sub(r"/(v1|beta|anthropic)$", "", self.base_url)

    def warm(self) -> None:
        """Load what reading the balance takes, so that the reading itself is quick."""
        with suppress(Exception):  # the reading will tell
            self._reader()

    def balance(self) -> Balance:
        """Read `GET /user/balance`, which lies at the root of the host."""
        return Balance.read(self._get("/user/balance"), datetime.now(UTC))

    def models(self) -> list[Model]:
        """Read `GET /models`."""
        data = self._get("/models")
        rows = data.get("data") if isinstance(data, Mapping) else None
        listed = rows if isinstance(rows, list) else []
        return [Model.read(row) for row in listed if isinstance(row, Mapping)]

    def close(self) -> None:
        """Close the connections; doing it twice is harmless."""
        for client in (self._openai, self._httpx):
            if client is not None:
                client.close()
        self._openai = self._httpx = None

    def translate(
        self, error: Exception, *, paid: bool, asked: _Asked | None = None
    ) -> DeepSeekError:
        """Turn an exception of the libraries below into one of ours.

        *paid* tells that an answer to the request would have cost something.
        """
        asked = asked or _Asked()
        if isinstance(error, DeepSeekError):
            return error
        cause = error.__cause__ if type(error).__name__.startswith("API") else None
        refused = cause or error
        if getattr(getattr(error, "response", None), "status_code", 0) >= 300:
            refused = _Refused(error.response)  # type: ignore[attr-defined]
        if isinstance(refused, _Refused):
            status, model = refused.status_code, asked.model
            return self._refused(status, refused.text, refused.headers, model, paid=paid)
        name = type(cause or error).__name__
        reason = one_line(self._scrub(str(cause or error))).rstrip(".") or name
        if name in failures.NOT_SENT or not paid:
            return failures.unreached(self.host, name, reason)
        return failures.broken(self.host, name, reason, arrived=asked.words, idle=asked.idle)

    def _refused(
        self,
        status: int,
        text: str,
        headers: Mapping[str, str],
        model: str | None,
        *,
        paid: bool = True,
    ) -> DeepSeekError:
        freed = {name.lower(): self._scrub(value) for name, value in headers.items()}
        text = self._freed_text(text)
        return failures.refusal(self.host, status, text, freed, paid=paid, model=model)

    # -- how the libraries below are used ---------------------------------------

    def _chat(self) -> openai.OpenAI:
        with self._lock:
            if self._openai is not None:
                return self._openai
            try:
                made = self._openai = self._new_chat()
            except Exception as error:  # noqa: BLE001  # the same
                found = self.translate(error, paid=False)
            else:
                return made
            raise found

    def _new_chat(self) -> openai.OpenAI:
        # openai 3 looks for httpx among the loaded modules, and fails where the thread that reads
        # the balance is just loading it.
        import httpx  # noqa: F401
        import openai

        def only_ours(request: Any) -> None:
            # The library adds what OPENAI_CUSTOM_HEADERS, OPENAI_ORG_ID and the like hold.
            for name in {*request.headers} - HEADERS:
                del request.headers[name]
            self._sign(request)

        return openai.OpenAI(
            api_key="set-on-each-request",
            base_url=self.base_url,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,
                trust_env=self.host not in LOOPBACK,
                event_hooks={"request": [only_ours], "response": [_only_success]},
            ),
        )

    def _sign(self, request: Any) -> None:
        request.headers["Authorization"] = f"Bearer {self.key.reveal()}"

    def _reader(self) -> httpx.Client:
        with self._lock:
            if self._httpx is None:
                import httpx

                self._httpx = httpx.Client(
                    timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
                    trust_env=self.host not in LOOPBACK,
                    event_hooks={"request": [self._sign], "response": [_only_success]},
                )
            return self._httpx

    def _get(self, path: str) -> Any:
        try:
            with self._reader().stream("GET", self._root + path) as response:
                body = b"".join(_bounded(response.iter_bytes(), DATA_BYTES, WHOLE_SECONDS))
        except Exception as error:  # noqa: BLE001  # the same
            found = self.translate(error, paid=False)
        else:
            # Money is read from its digits; a float would change them.
            with suppress(ValueError, RecursionError):
                return self._freed(json.loads(body, parse_float=str))
            found = ConnectionFailed(
                t(
                    "{host} answered {path} with something that is not JSON.",
                    host=self.host,
                    path=path,
                ),
                t("Nothing was billed."),
                t("Look at the address in DEEPSEEK_BASE_URL."),
            )
        raise found

    # -- what the API's answers are ------------------------------------------------

    def _living(self, chunks: Iterable[bytes], alive: float, heard: _Heard) -> Generator[bytes]:
        """Give *chunks* as long as there is an event among them every *alive* seconds."""
        for chunk in chunks:
            if time.monotonic() - heard.last > alive:
                raise failures.lingering(self.host, alive, arrived=heard.words)
            yield chunk

    def _pieces(self, response: Any, chunks: Iterable[bytes], heard: _Heard) -> Generator[Piece]:
        """Read the *chunks* of a response up to its end mark."""
        start = next((more for chunk in chunks if (more := chunk.lstrip(BEFORE_A_BODY))), b"")
        chunks = chain([start], chunks)
        if start[:1] in (b"{", b"<"):  # whatever the header says of it
            whole = b"".join(_bounded(chunks, ANSWER_BYTES))
            yield self._whole(whole.decode("utf-8", "replace"))
            return
        events, begun = Events(), False
        for event in events.read(chunks):
            if event.strip() == "[DONE]":
                _to_the_end(response, chunks)
                return
            piece = self._piece(event, begun=begun, arrived=heard.words)
            begun = True
            heard.words = heard.words or bool(piece.content or piece.reasoning)
            yield piece
            heard.last = time.monotonic()  # the reader's own time does not count
        if begun:
            raise failures.unended(self.host, arrived=heard.words)
        rest = self._freed_text(events.rest.decode("utf-8", "replace"))
        raise failures.no_answer(self.host, rest)

    def read(
        self, request: Request, status: int, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Read a whole response to *request*, however it was sent; what is no answer raises.

        The names of *headers* are in lower case.
        """
        trace = self._scrub(headers.get("x-ds-trace-id") or "") or None
        answer = Answer(model=request.model)
        if status >= 300:
            raise self._refused(status, body.decode("utf-8", "replace"), headers, request.model)
        try:
            for piece in self._all_of(body.lstrip(BEFORE_A_BODY)):
                answer = answer.plus(piece)
        except DeepSeekError as error:
            found = error
        except Exception as error:  # noqa: BLE001  # whatever it is becomes one of ours
            found = self.translate(error, paid=True, asked=_Asked(request.model))
        else:
            return answer
        found.trace_id = found.trace_id or trace
        raise found

    def _all_of(self, body: bytes) -> Iterator[Piece]:
        """Give the pieces of a whole body: one, but where a relay streams all the same."""
        if not body.startswith((b"data:", b":", b"event:")):
            yield self._whole(body.decode("utf-8", "replace"))
            return
        begun = False
        for event in Events().read([body]):
            if event.strip() == "[DONE]":
                return
            yield self._piece(event, begun=begun, arrived=begun)
            begun = True
        raise failures.unended(self.host, arrived=begun)

    def not_sent(self, name: str, reason: str) -> DeepSeekError:
        """Tell why no whole request went out: the *name* of the failure, and its *reason*."""
        return failures.unreached(
            self.host, name, one_line(self._scrub(reason)).rstrip(".") or name
        )

    def lost(self, name: str, reason: str, *, arrived: bool, idle: float) -> DeepSeekError:
        """Tell why no whole response came, though a request went out."""
        reason = one_line(self._scrub(reason)).rstrip(".") or name
        if name == "Lingering":
            return failures.lingering(self.host, ALIVE_SECONDS, arrived=arrived)
        return failures.broken(self.host, name, reason, arrived=arrived, idle=idle)

    def _whole(self, text: str) -> Piece:
        """Read an answer that came as one JSON object."""
        data = failures.parsed(text)
        if isinstance(data, Mapping) and data.get("choices") and not data.get("error"):
            return self._freed_piece(Piece.read(data))
        raise failures.no_answer(self.host, self._freed_text(text))

    def _piece(self, event: str, *, begun: bool, arrived: bool) -> Piece:
        chunk = json.loads(event)
        if not isinstance(chunk, dict):
            raise json.JSONDecodeError(t("not an object"), "", 0)
        if error := chunk.get("error"):
            freed = self._freed(error)
            raise failures.in_stream(self.host, freed, begun=begun, arrived=arrived)
        return self._freed_piece(Piece.read(chunk))

    # -- the key, which a server or a relay may repeat ---------------------------------

    def _scrub(self, text: str) -> str:
        """Take the key out of *text*."""
        key = self.key.reveal()
        return text.replace(key, "…") if len(key) >= SCRUBBED_CHARACTERS else text

    def _freed(self, data: Any) -> Any:
        """Take the key out of every text of parsed JSON."""
        return json.loads(self._scrub(json.dumps(data)))

    def _freed_text(self, text: str) -> str:
        """Take the key out of *text*, also where JSON spells it with escapes."""
        try:
            return json.dumps(self._freed(json.loads(text)))
        except RecursionError:  # nested too deep to be looked through
            return ""
        except ValueError:
            return self._scrub(text)

    def _freed_piece(self, piece: Piece) -> Piece:
        texts = (piece.content, piece.reasoning, piece.model, piece.finish_reason)
        if not any(self.key.reveal() in text for text in texts if text):
            return piece
        content, reasoning, model, finish = (self._scrub(text or "") for text in texts)
        return replace(
            piece,
            content=content,
            reasoning=reasoning,
            model=model or None,
            finish_reason=finish or None,
        )


def _patience(idle: float) -> openai.Timeout:
    import openai

    return openai.Timeout(idle, connect=min(idle, CONNECT_SECONDS))


def _only_success(response: Any) -> None:
    if response.status_code >= 300:
        raise _Refused(response)


def _bounded(chunks: Iterable[bytes], most: int, seconds: float = float("inf")) -> Iterator[bytes]:
    """Give *chunks*; more than *most* bytes raise `ValueError`, more *seconds* `TimeoutError`."""
    until, size = time.monotonic() + seconds, 0
    for chunk in chunks:
        size += len(chunk)
        yield chunk
        if size > most:
            raise ValueError(t("more than {size} MiB", size=most >> 20))
        if time.monotonic() > until:
            raise TimeoutError(t("not at its end after {seconds:g} s", seconds=seconds))


def _to_the_end(response: Any, chunks: Iterable[bytes]) -> None:
    """Read what follows an end mark, so that the connection can be used again.

    The next question then needs no new handshake. A body that does not end in
    a moment, which can only be told by reading on, is left: its connection is
    shut down from a timer, at which the reading ends.
    """
    below = response.http_response
    stream = below.extensions.get("network_stream")
    connection = stream.get_extra_info("socket") if stream else None
    if connection is None or below.headers.get("connection", "").lower() == "close":
        return

    def give_up() -> None:
        # Once closed, the connection may be another question's.
        if not below.is_closed:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(END_SECONDS, give_up)
    timer.daemon = True
    with suppress(Exception):  # the answer is whole, whatever the connection does
        timer.start()
        for _ in chunks:
            pass
    timer.cancel()
