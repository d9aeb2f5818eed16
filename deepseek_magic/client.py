"""The API over the network; every failure of the libraries below becomes one of ours.

Chat goes through `openai`, balance and models through `httpx`. No request is
sent again by itself, no redirect is followed, and a proxy that the
environment names is not used for an address on this machine.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from . import failures
from .errors import BrokenAnswer, ConnectionFailed, DeepSeekError, NoKey, one_line
from .failures import host_of
from .wire import Balance, Key, Piece, Request

if TYPE_CHECKING:
    import httpx
    import openai

DEEPSEEK = "https://api.deepseek.com"
CONNECT_SECONDS = 10.0
READ_SECONDS = 15.0
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
NO_EVENT_BYTES = 65_536
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
    """

    def __init__(self) -> None:
        self.rest = b""
        self._open = b""
        self._data: list[bytes] = []

    def read(self, chunks: Iterable[bytes]) -> Iterator[str]:
        """Give every event of *chunks*, and an end mark whose blank line is missing."""
        for more in chunks:
            yield from self.feed(more)
        self._line(self._open.removesuffix(b"\r"))
        if b"\n".join(self._data).strip() == b"[DONE]":
            yield "[DONE]"

    def feed(self, more: bytes) -> Iterator[str]:
        """Give the events that *more* completes; bytes that are not UTF-8 raise."""
        *lines, self._open = re.split(rb"\r\n|\n|\r(?!\Z)", self._open + more)
        for line in lines:
            if line:
                self._line(line)
                continue
            event, self._data = b"\n".join(self._data), []
            if event:
                yield event.decode()

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif line and not line.startswith(b":") and len(self.rest) < NO_EVENT_BYTES:
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


class Client:
    """One account at one address."""

    def __init__(self, key: Key, base_url: str = DEEPSEEK) -> None:
        if not re.fullmatch("[!-~]+", key.reveal()):
            raise NoKey(
                "The key is empty, or holds a space, a line break or another character that no key "
                "has. Nothing was sent. Type it in again: %deepseek login"
            )
        self.key = key
        self.base_url = base_url.rstrip("/")
        self.host = host_of(self.base_url) or self.base_url
        """The host that requests go to."""
        self._openai: openai.OpenAI | None = None
        self._httpx: httpx.Client | None = None
        self._lock = threading.Lock()

    def stream(self, request: Request, *, idle: float = 300.0) -> Generator[Piece]:
        """Send *request* and give what arrives, piece by piece, until the end is certain.

        *idle* is how many seconds the API may be silent, its keep-alives counting
        as signs of life. A stream that ends without its end mark raises
        `BrokenAnswer`. Closing the generator closes the connection.
        """
        body, trace = request.body(), None
        chat = self._chat()
        try:
            with chat.chat.completions.with_streaming_response.create(
                model=body.pop("model"),
                messages=body.pop("messages"),
                stream=True,
                extra_body=body,
                timeout=_patience(idle),
            ) as response:
                trace = self._scrub(response.headers.get("x-ds-trace-id") or "") or None
                yield from self._pieces(response)
        except DeepSeekError as error:
            error.trace_id = error.trace_id or trace
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is becomes one of ours
            found = self.translate(error, paid=True)
            found.trace_id = found.trace_id or trace
            raise found from self._showable(error)

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

    def translate(self, error: Exception, *, paid: bool) -> DeepSeekError:
        """Turn an exception of the libraries below into one of ours.

        *paid* tells that an answer to the request would have cost something.
        """
        response = getattr(error, "response", None)
        if response is not None and response.status_code >= 300:
            headers = {name.lower(): self._scrub(text) for name, text in response.headers.items()}
            text = self._scrub(_body(response))
            return failures.refusal(self.host, response.status_code, text, headers, paid=paid)
        cause = error.__cause__ if type(error).__name__.startswith("API") else None
        name = type(cause or error).__name__
        reason = one_line(self._scrub(str(cause or error))) or name
        if name in failures.NOT_SENT or not paid:
            return failures.unreached(self.host, name, reason)
        return failures.broken(self.host, name, reason)

    # -- how the libraries below are used ---------------------------------------

    def _chat(self) -> openai.OpenAI:
        with self._lock:
            if self._openai is None:
                try:
                    self._openai = self._new_chat()
                except Exception as error:  # noqa: BLE001  # the same
                    raise self.translate(error, paid=False) from self._showable(error)
            return self._openai

    def _new_chat(self) -> openai.OpenAI:
        # openai 3 looks for httpx among the loaded modules, and fails where the thread that reads
        # the balance is just loading it.
        import httpx  # noqa: F401
        import openai

        def only_ours(request: Any) -> None:
            # The library adds what OPENAI_CUSTOM_HEADERS, OPENAI_ORG_ID and the like hold.
            for name in {*request.headers} - HEADERS:
                del request.headers[name]
            request.headers["Authorization"] = f"Bearer {self.key.reveal()}"

        return openai.OpenAI(
            api_key=self.key.reveal(),
            base_url=self.base_url,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,
                trust_env=self.host not in LOOPBACK,
                event_hooks={"request": [only_ours]},
            ),
        )

    def _reader(self) -> httpx.Client:
        with self._lock:
            if self._httpx is None:
                import httpx

                self._httpx = httpx.Client(
                    headers={"Authorization": f"Bearer {self.key.reveal()}"},
                    timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
                    trust_env=self.host not in LOOPBACK,
                )
            return self._httpx

    def _get(self, path: str) -> Any:
        root = re.sub(r"/(v1|beta|anthropic)$", "", self.base_url)
        try:
            response = self._reader().get(root + path)
            response.raise_for_status()
        except Exception as error:  # noqa: BLE001  # the same
            raise self.translate(error, paid=False) from self._showable(error)
        try:
            return response.json(parse_float=Decimal)
        except (ValueError, RecursionError) as error:
            raise ConnectionFailed(
                f"{self.host} answered {path} with something that is not JSON. Nothing was billed. "
                "Look at the address in DEEPSEEK_BASE_URL."
            ) from error

    # -- what the API's answers are ------------------------------------------------

    def _pieces(self, response: Any) -> Generator[Piece]:
        """Read a response up to its end mark."""
        kind = response.headers.get("content-type", "")
        if "html" in kind or "json" in kind:
            yield self._whole(response.read().decode("utf-8", "replace"))
            return
        events, begun = Events(), False
        for event in events.read(response.iter_bytes()):
            if event.strip() == "[DONE]":
                return
            piece = self._piece(event, begun=begun)
            begun = True
            yield piece
        if begun:
            raise BrokenAnswer(
                f"{self.host} ended the answer without its end mark. What arrived is kept and may "
                "be incomplete; it may have been billed. Run the cell again to ask anew."
            )
        raise failures.no_answer(self.host, self._scrub(events.rest.decode("utf-8", "replace")))

    def _whole(self, text: str) -> Piece:
        """Read an answer that a relay has sent as one JSON object."""
        text = self._scrub(text)
        data = failures.parsed(text)
        if isinstance(data, Mapping) and data.get("choices") and not data.get("error"):
            return Piece.read(data)
        raise failures.no_answer(self.host, text)

    def _piece(self, event: str, *, begun: bool) -> Piece:
        chunk = json.loads(self._scrub(event))
        if not isinstance(chunk, dict):
            raise json.JSONDecodeError("not an object", "", 0)
        if chunk.get("error"):
            raise failures.in_stream(self.host, chunk["error"], begun=begun)
        return Piece.read(chunk)

    def _scrub(self, text: str) -> str:
        """Take the key out of what a server, or a relay, wrote about it."""
        return text.replace(self.key.reveal(), "…")

    def _showable(self, error: Exception) -> Exception | None:
        """Give *error* as a cause to show, unless it repeats the key."""
        return error if self.key.reveal() not in f"{error} {error.__cause__}" else None


def _patience(idle: float) -> openai.Timeout:
    import openai

    return openai.Timeout(idle, connect=CONNECT_SECONDS)


def _body(response: Any) -> str:
    try:
        return str(response.text)
    except RuntimeError:  # closed before its body was read
        return ""
