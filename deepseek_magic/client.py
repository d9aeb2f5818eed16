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
from urllib.parse import urlsplit

from .errors import (
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
from .wire import Answer, Balance, Key, Piece, Request

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

# Exception classes of httpx, httpx2 and openai that say that no whole request went out. After any
# other the request may have been billed.
NOT_SENT = frozenset({
    "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol",
    "InvalidURL", "LocalProtocolError", "WriteError", "WriteTimeout", "RequestNotRead",
    "CookieConflict", "OpenAIError", "SubjectTokenProviderError",
})  # fmt: skip
UNREADABLE = frozenset({"JSONDecodeError", "UnicodeDecodeError", "DecodingError", "RecursionError"})
OF_MONEY = re.compile(
    r"insufficient[ _-]*balance|remaining balance|top[ -]?up your (balance|account)", re.IGNORECASE
)
HTML = re.compile(r"\s*<(!doctype|html|head|body)\b", re.IGNORECASE)


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
        self.host = _host(self.base_url) or self.base_url
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
            return self._refusal(response.status_code, self._scrub(_body(response)), headers)
        cause = error.__cause__ if type(error).__name__.startswith("API") else None
        name = type(cause or error).__name__
        reason = _one_line(self._scrub(str(cause or error)) or name)
        if name in NOT_SENT or not paid:
            return self._unreached(name, reason)
        return self._broken(name, reason)

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
        raise self._no_answer(events.rest.decode("utf-8", "replace"))

    def _whole(self, text: str) -> Piece:
        """Read an answer that a relay has sent as one JSON object."""
        data = _parsed(text)
        if isinstance(data, Mapping) and data.get("choices") and not data.get("error"):
            return Piece.read(data)
        raise self._no_answer(text)

    def _no_answer(self, text: str) -> DeepSeekError:
        """Tell what came with status 200 and is neither a stream nor an answer."""
        if (error := _error_of(text)) is not None:
            return self._in_stream(error, begun=False)
        if not text.strip():
            return BrokenAnswer(
                f"{self.host} closed the connection without an answer. It may have been billed all "
                "the same. Run the cell again to ask anew."
            )
        what = self._said(text) if HTML.match(text) else "something that is no answer"
        return BrokenAnswer(
            f"{self.host} sent {what} instead of an answer. Perhaps a proxy stands between; it may "
            "have been billed. Look at the address in DEEPSEEK_BASE_URL."
        )

    def _piece(self, event: str, *, begun: bool) -> Piece:
        chunk = json.loads(event)
        if not isinstance(chunk, dict):
            raise json.JSONDecodeError("not an object", "", 0)
        if chunk.get("error"):
            raise self._in_stream(chunk["error"], begun=begun)
        return Piece.read(chunk)

    # -- what the API's refusals mean --------------------------------------------

    def _in_stream(self, error: Any, *, begun: bool) -> DeepSeekError:
        """Read an error that came with status 200, where it counts like its status."""
        message = self._said(error)
        kind = f"{error.get('type')} {error.get('code')}" if isinstance(error, Mapping) else ""
        if OF_MONEY.search(f"{kind} {message}"):
            return self._empty(message, begun=begun)
        if begun:
            return BrokenAnswer(
                f"{self.host} stopped the answer: {message}. What arrived is kept; it may have "
                "been billed. Run the cell again to ask anew."
            )
        status = {"authentication_error": 401, "rate_limit": 429, "invalid_request": 400}
        code = next((code for name, code in status.items() if name in kind), 500)
        refused, advice = _advice(code, None, None)
        return refused(f"{self.host} refused the request: {message}. Nothing was billed. {advice}")

    def _empty(
        self, reason: str, *, begun: bool = False, nearly: bool = False, trace: str | None = None
    ) -> DeepSeekError:
        """Make the error for an account without money, before or *begun* during an answer."""
        found = InsufficientBalance(
            f"The DeepSeek balance is empty{', or nearly so' if nearly else ''} ({reason}). "
            + (
                "What arrived is kept; it may have been billed. "
                if begun
                else "Nothing was billed. "
            )
            + "Top up, then run the cell again.",
            trace_id=trace,
        )
        found.may_be_billed = begun
        return found

    def _refusal(self, status: int, text: str, headers: Mapping[str, str]) -> DeepSeekError:
        message = self._said(_error_of(text) or text)
        trace = headers.get("x-ds-trace-id")
        if status == 402 or (status == 429 and OF_MONEY.search(text)):
            return self._empty(f"{status}, {message}", nearly=status == 429, trace=trace)
        wait = _seconds(headers.get("retry-after"))
        kind, advice = _advice(status, wait, headers.get("location"))
        return kind(
            f"{self.host} refused the request ({status}): {message}. Nothing was billed. {advice}",
            status=status,
            retry_after=wait,
            trace_id=trace,
        )

    def _unreached(self, name: str, reason: str) -> DeepSeekError:
        if "CERTIFICATE" in reason.upper():
            advice = (
                "The certificate is not trusted: is a proxy between? Its certificate belongs into "
                "the system's store, or into the file that SSL_CERT_FILE names."
            )
        elif re.search(
            r"name or service|nodename|getaddrinfo|name resolution", reason, re.IGNORECASE
        ):
            advice = "The name was not found: is the network up, and DEEPSEEK_BASE_URL right?"
        else:
            advice = "Run the cell again when the network is up. https://status.deepseek.com"
        return ConnectionFailed(
            f"{self.host} was not reached ({name}: {reason}). Nothing was billed. {advice}"
        )

    def _broken(self, name: str, reason: str) -> DeepSeekError:
        if "Timeout" in name:
            what = f"{self.host} was silent for too long, so the wait was given up"
        elif name in UNREADABLE:
            what = f"{self.host} sent something that cannot be read ({reason[:80]})"
        else:
            what = f"The connection to {self.host} broke off ({name}: {reason})"
        return BrokenAnswer(
            f"{what}. What arrived is kept; it may have been billed. "
            "Run the cell again to ask anew."
        )

    def _said(self, error: Any) -> str:
        """Give the words of an error body in one line without a full stop or the key."""
        if isinstance(error, Mapping):
            error = error.get("message") or error.get("type") or ""
        text = self._scrub(error if isinstance(error, str) else json.dumps(error))
        line = _a_page(text) if HTML.match(text) else _one_line(text)
        return line.rstrip(".") or "no reason given"

    def _scrub(self, text: str) -> str:
        """Take the key out of what a server, or a relay, wrote about it."""
        return text.replace(self.key.reveal(), "…")

    def _showable(self, error: Exception) -> Exception | None:
        """Give *error* as a cause to show, unless it repeats the key."""
        return error if self.key.reveal() not in f"{error} {error.__cause__}" else None


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # half an IPv6 address
        return None


def _patience(idle: float) -> openai.Timeout:
    import openai

    return openai.Timeout(idle, connect=CONNECT_SECONDS)


def verdict(request: Request, answer: Answer) -> DeepSeekError | None:
    """Tell why a stream that ended in order is no usable answer; None when it is one."""
    if found := _cut_short(answer.finish_reason):
        return found
    if not answer.text.strip():
        return UnusableAnswer(
            f"All {request.max_tokens or 'the'} tokens went into thinking, and none were left "
            "for the answer. It was billed. Raise the limit or think less: "
            "%%deepseek --max-tokens 8000, or %%deepseek --think off"
            if answer.finish_reason == "length"
            else "The answer is empty. It was billed. Run the cell again, or put the question in "
            "other words."
        )
    return _json_verdict(answer) if request.json else None


def _cut_short(finish_reason: str | None) -> DeepSeekError | None:
    """Tell what stopped the answer (api-docs.deepseek.com/api/create-chat-completion)."""
    match finish_reason:
        case None:
            return BrokenAnswer(
                "The answer ended without a reason why. What arrived is kept and may be "
                "incomplete; it may have been billed. Run the cell again to ask anew."
            )
        case "insufficient_system_resource":
            return BrokenAnswer(
                "The API stopped the answer for lack of resources. What arrived is kept; it may "
                "have been billed. Run the cell again in a while."
            )
        case "content_filter":
            return UnusableAnswer(
                "The API's content filter stopped the answer. What arrived is kept and was billed. "
                "Put the question in other words."
            )
    return None


def _json_verdict(answer: Answer) -> DeepSeekError | None:
    try:
        answer.json()
    except ValueError as error:
        cut = (
            " because it was cut at --max-tokens; raise it"
            if answer.finish_reason == "length"
            else ""
        )
        return UnusableAnswer(
            f"The answer is not JSON ({error}){cut}. It was billed, and its text is kept above."
        )
    return None


def _advice(
    status: int, wait: float | None, location: str | None
) -> tuple[type[RequestRefused], str]:
    """Give the class of a refusal and the next step."""
    pause = f"in {wait:g} s" if wait else "in a while"
    match status:
        case 401 | 403:
            return WrongKey, "Set another key: %deepseek login"
        case 429:
            return TooManyRequests, f"Run the cell again {pause}."
        case 404:
            return BadRequest, "Look at the address in DEEPSEEK_BASE_URL."
        case _ if 300 <= status < 400:
            host = _host(location or "") or "another address"
            return (
                RequestRefused,
                f"It points to {host}; neither the key nor the question went there.",
            )
        case _ if status >= 500 or status == 408:
            return ServerFailure, f"Run the cell again {pause}. https://status.deepseek.com"
        case _:
            return BadRequest, "Change the request; the models: %deepseek models"


def _body(response: Any) -> str:
    try:
        return str(response.text)
    except RuntimeError:  # closed before its body was read
        return ""


def _parsed(text: str) -> Any:
    """Read JSON; None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _error_of(text: str) -> Any:
    """Give the `error` member of a JSON body, else None."""
    data = _parsed(text)
    return data.get("error") if isinstance(data, Mapping) else None


def _a_page(text: str) -> str:
    title = re.search(r"<title[^>]*>([^<]{1,100})", text, re.IGNORECASE)
    return f'an HTML page ("{_one_line(title[1])}")' if title else "an HTML page"


def _one_line(text: str, length: int = 240) -> str:
    """Fold white space, drop control characters, and shorten."""
    folded = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return folded if len(folded) <= length else folded[: length - 1] + "…"


def _seconds(retry_after: str | None) -> float | None:
    try:
        wait = float(retry_after or "")
    except ValueError:
        return None
    return wait if 0 <= wait < float("inf") else None
