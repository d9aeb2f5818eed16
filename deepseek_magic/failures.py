"""What went wrong with a question, told in one line: pure functions from facts to errors.

A text that comes in here has been freed of the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .errors import (
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
    one_line,
)

if TYPE_CHECKING:
    from .wire import Answer, Request

# Exception classes of the libraries below that say that no whole request went out. After any
# other the request may have been billed.
NOT_SENT = frozenset({
    "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol",
    "InvalidURL", "LocalProtocolError", "WriteError", "WriteTimeout", "RequestNotRead",
    "CookieConflict", "OpenAIError", "SubjectTokenProviderError",
})  # fmt: skip
UNREADABLE = frozenset({
    "JSONDecodeError", "UnicodeDecodeError", "DecodingError", "RecursionError", "ValueError",
})  # fmt: skip
OF_MONEY = re.compile(
    r"insufficient[ _-]*balance|remaining balance|top[ -]?up your (balance|account)", re.IGNORECASE
)
HTML = re.compile(r"\s*<(!doctype|html|head|body)\b", re.IGNORECASE)


def in_stream(host: str, error: Any, *, begun: bool) -> DeepSeekError:
    """Read an error that came with status 200, where it counts like its status."""
    message = said(error)
    kind = f"{error.get('type')} {error.get('code')}" if isinstance(error, Mapping) else ""
    status = _status_in(error)
    if status == 402 or OF_MONEY.search(f"{kind} {message}"):
        return empty(message, begun=begun)
    if begun:
        return BrokenAnswer(
            f"{host} stopped the answer: {message}. What arrived is kept; it may have "
            "been billed. Run the cell again to ask anew."
        )
    kinds = {"authentication_error": 401, "rate_limit": 429, "invalid_request": 400}
    code = next((code for name, code in kinds.items() if name in kind), 500)
    refused, advice = _advice(status or code, None, None)
    return refused(f"{host} refused the request: {message}. Nothing was billed. {advice}")


def empty(
    reason: str, *, begun: bool = False, nearly: bool = False, trace: str | None = None
) -> DeepSeekError:
    """Make the error for an account without money, before or *begun* during an answer."""
    found = InsufficientBalance(
        f"The DeepSeek balance is empty{', or nearly so' if nearly else ''} ({reason}). "
        + ("What arrived is kept; it may have been billed. " if begun else "Nothing was billed. ")
        + "Top up, then run the cell again.",
        trace_id=trace,
    )
    found.may_be_billed = begun
    return found


def refusal(
    host: str, status: int, text: str, headers: Mapping[str, str], *, paid: bool
) -> DeepSeekError:
    """Read a response whose status is not 200; the names of *headers* are in lower case.

    *paid* tells that an answer to the request would have cost something.
    """
    own = _error_of(text)
    message = said(own or text)
    trace = headers.get("x-ds-trace-id")
    # JSON may spell a letter as an escape, so the message is searched as well.
    if status == 402 or (status == 429 and OF_MONEY.search(f"{text} {message}")):
        return empty(f"{status}, {message}", nearly=status == 429, trace=trace)
    wait = _seconds(headers.get("retry-after"))
    kind, advice = _advice(status, wait, headers.get("location"))
    # A gateway's page does not tell how far the request had come behind it.
    unknown = paid and status >= 500 and status != 503 and own is None
    billed = "It may have been billed." if unknown else "Nothing was billed."
    found = kind(
        f"{host} refused the request ({status}): {message}. {billed} {advice}",
        status=status,
        retry_after=wait,
        trace_id=trace,
    )
    found.may_be_billed = unknown
    return found


def unreached(host: str, name: str, reason: str) -> DeepSeekError:
    """Tell why no whole request went out: the exception's *name* and its *reason*."""
    if "CERTIFICATE" in reason.upper():
        advice = (
            "The certificate is not trusted: is a proxy between? Its certificate belongs into "
            "the system's store, or into the file that SSL_CERT_FILE names."
        )
    elif name == "UnsupportedProtocol":
        advice = "Write the address in DEEPSEEK_BASE_URL with https:// (or http://) in front."
    elif re.search(r"name or service|nodename|getaddrinfo|name resolution", reason, re.IGNORECASE):
        advice = "The name was not found: is the network up, and DEEPSEEK_BASE_URL right?"
    else:
        advice = "Run the cell again when the network is up. https://status.deepseek.com"
    return ConnectionFailed(
        f"{host} was not reached ({name}: {reason}). Nothing was billed. {advice}"
    )


def broken(host: str, name: str, reason: str) -> DeepSeekError:
    """Tell what broke off an answer, or the wait for it."""
    if "Timeout" in name:
        what = f"{host} was silent for too long, so the wait was given up"
    elif name in UNREADABLE:
        what = f"{host} sent something that cannot be read ({reason[:80]})"
    else:
        what = f"The connection to {host} broke off ({name}: {reason})"
    return BrokenAnswer(
        f"{what}. What arrived is kept; it may have been billed. Run the cell again to ask anew."
    )


def no_answer(host: str, text: str) -> DeepSeekError:
    """Tell what came with status 200 and is neither a stream nor an answer."""
    if (error := _error_of(text)) is not None:
        return in_stream(host, error, begun=False)
    if not text.strip():
        return BrokenAnswer(
            f"{host} closed the connection without an answer. It may have been billed all "
            "the same. Run the cell again to ask anew."
        )
    what = said(text) if HTML.match(text) else "something that is no answer"
    return BrokenAnswer(
        f"{host} sent {what} instead of an answer. Perhaps a proxy stands between; it may "
        "have been billed. Look at the address in DEEPSEEK_BASE_URL."
    )


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
    except (ValueError, RecursionError) as error:
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
            host = host_of(location or "") or "another address"
            return (
                RequestRefused,
                f"It points to {host}; neither the key nor the question went there.",
            )
        case _ if status >= 500 or status == 408:
            return ServerFailure, f"Run the cell again {pause}. https://status.deepseek.com"
        case _:
            return BadRequest, "Change the request; the models: %deepseek models"


def said(error: Any) -> str:
    """Give the words of an error body in one line, without a full stop."""
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("type") or ""
    text = error if isinstance(error, str) else json.dumps(error)
    line = _a_page(text) if HTML.match(text) else one_line(text)
    return line.rstrip(".") or "no reason given"


def host_of(url: str) -> str | None:
    """Give the host of an address; None when there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:  # half an IPv6 address
        return None


def parsed(text: str) -> Any:
    """Read JSON; None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _error_of(text: str) -> Any:
    """Give the `error` member of a JSON body, else None."""
    data = parsed(text)
    return data.get("error") if isinstance(data, Mapping) else None


def _status_in(error: Any) -> int | None:
    """Give the HTTP status that an error inside a stream names as its `code` or `status`."""
    named = [error.get("code"), error.get("status")] if isinstance(error, Mapping) else []
    codes = (str(name) for name in named)
    return next((int(code) for code in codes if re.fullmatch("[345][0-9]{2}", code)), None)


def _a_page(text: str) -> str:
    title = re.search(r"<title[^>]*>([^<]{1,100})", text, re.IGNORECASE)
    return f'an HTML page ("{one_line(title[1])}")' if title else "an HTML page"


def _seconds(retry_after: str | None) -> float | None:
    try:
        wait = float(retry_after or "")
    except ValueError:
        return None
    return wait if 0 <= wait < float("inf") else None
