"""What went wrong with a question, told in one line: pure functions from facts to errors.

A text that comes in here has been freed of the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from email.utils import parsedate_to_datetime
from types import MappingProxyType
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
    nearest,
    one_line,
)
from .wire import EXACT, SHORT_NAMES

if TYPE_CHECKING:
    from .wire import Answer, Balance, Request

# Exception classes of the libraries below that say that no whole request went out. After any
# other the request may have been billed.
NOT_SENT = frozenset({
    "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol",
    "InvalidURL", "LocalProtocolError", "WriteError", "WriteTimeout", "RequestNotRead",
    "CookieConflict", "OpenAIError", "SubjectTokenProviderError",
})  # fmt: skip
# Of those, the ones that pass: the network was down, or the server did not take the request.
PASSING = frozenset({
    "ConnectError", "ConnectTimeout", "PoolTimeout", "WriteError", "WriteTimeout",
})  # fmt: skip
UNREADABLE = frozenset({
    "JSONDecodeError", "UnicodeDecodeError", "DecodingError", "RecursionError", "ValueError",
})  # fmt: skip
RETRIED = frozenset({408, 429, 500, 503, 529})
HAS_NO_MODEL = "has no model"
BETA = "/beta"
"""Where an answer goes on (api-docs.deepseek.com/guides/chat_prefix_completion)."""
CUT = ("peer closed connection", "server disconnected", "[Errno 104]", "Connection reset")
"""How the libraries say no more than that the connection ended."""
OF_MONEY = re.compile(
    r"insufficient[ _-]*(balance|quota)|remaining balance|top[ -]?up your (balance|account)",
    re.IGNORECASE,
)
DEEPSEEK_S = re.compile(r"^Insufficient Balance\b|based on your remaining balance")
"""DeepSeek's own words for an empty account, which relays hand on."""
CONCURRENCY = re.compile(r"concurrency limit of (\d{1,6})\b")
NO_MODEL = re.compile(
    r"supported API model names|\b(unknown|no such|invalid) model\b|"
    r"\bmodel\b.{0,120}\b(not[ _](exist|found)|does not exist)",
    re.IGNORECASE,
)
TOO_LONG = re.compile(
    r"maximum context length|context[ _](length|window)|too (long|large)", re.IGNORECASE
)
RETIRED: Mapping[str, str] = MappingProxyType(
    {"deepseek-chat": "-m flash --think off", "deepseek-reasoner": "-m flash"}
)
"""Models that are gone, and the options that come nearest (api-docs.deepseek.com/updates)."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
DAY_SECONDS = 86400.0
CENT = Decimal("0.01")
TOP_UP = "Top up, then run the cell again."
FEWER_AT_ONCE = "Top up, or let the requests that are under way end; then run the cell again."
PROXY_BETWEEN = (
    "It does not come from the API: does a proxy or a sign-in page stand between? Look at "
    "HTTPS_PROXY and DEEPSEEK_BASE_URL."
)
A_PAGE = "an HTML page"
OF_TLS = r"\[SSL|_SSL_?|\bTLS\b|certificate"
UNREACHED: Mapping[str, str] = MappingProxyType(
    {
        "expired|not yet valid": "The certificate is out of date: is this machine's clock right?",
        "certificate": (
            "The certificate is not trusted: is a proxy between? Its certificate belongs into the "
            "system's store, or into the file that SSL_CERT_FILE names."
        ),
        OF_TLS: (
            "No secure connection came about: is DEEPSEEK_BASE_URL right, or is it an address with "
            "http:// in front?"
        ),
        "^UnsupportedProtocol": (
            "Write the address in DEEPSEEK_BASE_URL with https:// (or http://) in front."
        ),
        "^ProxyError": "A proxy turned it away: look at HTTPS_PROXY.",
        "name or service|nodename|getaddrinfo|name resolution": (
            "The name was not found: is the network up, and DEEPSEEK_BASE_URL right?"
        ),
        "refused": "Nothing listens there: is DEEPSEEK_BASE_URL right, and the server running?",
        "^ConnectTimeout": (
            "Nobody took the connection: is the network up? Where only a proxy leads out, "
            "HTTPS_PROXY names it."
        ),
    }
)
"""What is in the words of a connection that failed, and the next step; the first that fits."""
NEXT: Mapping[int, tuple[type[RequestRefused], str]] = MappingProxyType(
    {
        401: (WrongKey, "Set another key: %deepseek login"),
        403: (WrongKey, "The key is not let in there. Set another: %deepseek login"),
        404: (BadRequest, "Look at the address in DEEPSEEK_BASE_URL."),
        405: (BadRequest, "Look at the address in DEEPSEEK_BASE_URL."),
        407: (RequestRefused, "A proxy wants a name and a password: look at HTTPS_PROXY."),
    }
)
ASK_ANEW = "Run the cell again to ask anew."
GO_ON = "To go on at the price of the rest: %deepseek continue (in Python: Session.resume)."
HTML = re.compile(r"\s*<(!doctype|html|head|body)\b", re.IGNORECASE)


def in_stream(host: str, error: Any, *, begun: bool, arrived: bool = False) -> DeepSeekError:
    """Read an error that came with status 200, where it counts like its status."""
    message = said(error)
    kind = f"{error.get('type')} {error.get('code')}" if isinstance(error, Mapping) else ""
    status = _status_in(error)
    if status == 402 or OF_MONEY.search(f"{kind} {message}"):
        other = _other_account(host, message, {})
        return empty(message, begun=begun, arrived=arrived, other=other)
    if begun:
        return BrokenAnswer(f"{host} stopped the answer: {message}. {_kept(arrived)} {ASK_ANEW}")
    kinds = {"authentication_error": 401, "rate_limit": 429, "invalid_request": 400}
    code = status or next((code for name, code in kinds.items() if name in kind), 500)
    refused, advice = _advice(_Refusal(host, code, message))
    # A relay cannot know what its source has billed.
    unknown = code >= 500 and code != 503 and not _is_deepseek(host)
    found = refused(f"{host} refused the request: {message}. {_billed(unknown)} {advice}")
    found.may_be_billed = unknown
    found.may_be_retried = code in {429, 503}
    return found


def empty(
    message: str,
    status: int | None = None,
    *,
    begun: bool = False,
    arrived: bool = False,
    other: str | None = None,
    trace: str | None = None,
) -> InsufficientBalance:
    """Make the error for an account without money, before or *begun* during an answer.

    *other* is the host whose account it is, when that is not DeepSeek.
    """
    nearly = other is None and (status == 429 or "remaining balance" in message)
    whose = f"The account at {other}" if other else "The DeepSeek balance"
    step = FEWER_AT_ONCE if nearly else TOP_UP
    if other:
        step = f"Money at DeepSeek does not help here: top up at {other}, then run the cell again."
    # The first sentence stands alone in a notice, so that it may not end inside the reason.
    sentences = message.split(". ")
    reason = next(filter(OF_MONEY.search, sentences), "; ".join(sentences))
    found = InsufficientBalance(
        f"{whose} is empty{', or nearly so' if nearly else ''} "
        f"({f'{status}, ' if status else ''}{reason}). "
        f"{_kept(arrived) if begun else 'Nothing was billed.'} {step}",
        trace_id=trace,
    )
    found.may_be_billed = begun
    found.host = other
    if nearly and (named := CONCURRENCY.search(message)):
        found.at_once = int(named[1])
    return found


def beside(line: str, balance: Balance | None) -> str:
    """Fit the *line* of an error for want of money to a *balance* that shows money all the same."""
    left = balance.effective if balance else None
    if balance is None or left is None or left < CENT:
        return line
    amount = f"{left.quantize(CENT, ROUND_DOWN, EXACT)} {balance.currency}"
    seen = f"{amount} at {balance.read_at.astimezone():%H:%M:%S}" if balance.read_at else amount
    words = (
        f"The balance showed {seen}, but DeepSeek marks it as not available: a payment may still "
        "be in check, or the account be held. Look there, then run the cell again: "
        "https://platform.deepseek.com/top_up"
        if balance.available is False
        else f"The balance showed {seen}, but its figure lags by minutes and that may be spent. "
        f"{TOP_UP}"
    )
    return line.replace(TOP_UP, words)


def refusal(
    host: str,
    status: int,
    text: str,
    headers: Mapping[str, str],
    *,
    paid: bool,
    model: str | None = None,
) -> DeepSeekError:
    """Read a response whose status is not 200; the names of *headers* are in lower case.

    *paid* tells that an answer to the request, to *model*, would have cost something.
    """
    own = _error_of(text)
    message = said(own or parsed(text) or text)
    trace = headers.get("x-ds-trace-id")
    # JSON may spell a letter as an escape, so the message is searched as well.
    if status == 402 or (status == 429 and OF_MONEY.search(f"{text} {message}")):
        other = _other_account(host, message, headers)
        return empty(message, status, other=other, trace=trace)
    if model and (found := _unknown_model(host, status, message, model)):
        found.trace_id = trace
        return found
    facts = _Refusal(host, status, message, _seconds(headers), headers.get("location"))
    kind, advice = _advice(facts)
    # Only the API itself can tell how far a request had come: a gateway has lost sight of it.
    told = own is not None and _is_own(host, headers) and status not in {502, 504}
    unknown = paid and (status >= 500 or status == 408) and status != 503 and not told
    refused = kind(
        f"{host} refused the request ({status}): {message}. {_billed(unknown)} {advice}",
        status=status,
        retry_after=facts.wait,
        trace_id=trace,
    )
    refused.may_be_billed = unknown
    if status == 429 and (named := CONCURRENCY.search(message)):
        refused.at_once = int(named[1])
    refused.may_be_retried = (
        status in RETRIED and not unknown and headers.get("x-should-retry", "").lower() != "false"
    )
    return refused


def unreached(host: str, name: str, reason: str) -> DeepSeekError:
    """Tell why no whole request went out: the exception's *name* and its *reason*."""
    found = ConnectionFailed(
        f"{host} was not reached ({name}: {reason}). Nothing was billed. "
        f"{_advice_unreached(name, reason)}"
    )
    found.may_be_retried = name in PASSING and not re.search(OF_TLS, reason, re.IGNORECASE)
    return found


def _advice_unreached(name: str, reason: str) -> str:
    """Give the next step, by what the exception says."""
    text = f"{name}: {reason}"
    found = (step for mark, step in UNREACHED.items() if re.search(mark, text, re.IGNORECASE))
    return next(found, "Run the cell again when the network is up. https://status.deepseek.com")


def broken(
    host: str, name: str, reason: str, *, arrived: bool = True, idle: float | None = None
) -> DeepSeekError:
    """Tell what broke off an answer, or the wait for it; *idle* is how long silence is borne."""
    advice = ASK_ANEW
    if "Timeout" in name:
        long = f"{idle:g} s" if idle else "too long"
        what = f"{host} was silent for {long}, so the wait was given up"
        advice += " More patience: %config DeepSeekMagics.timeout = 600"
    elif name in UNREADABLE:
        what = f"{host} sent something that cannot be read ({reason[:80]})"
    else:
        known = name in {"RemoteProtocolError", "ReadError"} and reason.startswith(CUT)
        why = "" if known else f" ({name}: {reason})"
        what = f"The connection to {host} broke off{why}"
    return BrokenAnswer(f"{what}. {_kept(arrived)} {advice}")


def lingering(host: str, seconds: float, *, arrived: bool) -> DeepSeekError:
    """Tell that nothing but keep-alives came for so long."""
    return BrokenAnswer(
        f"{host} sent nothing but signs of life for {_span(seconds)}, so the wait was given up. "
        f"{_kept(arrived)} {ASK_ANEW}"
    )


def unended(host: str, *, arrived: bool) -> DeepSeekError:
    """Tell that an answer came to its end without the mark that ends every answer."""
    return BrokenAnswer(
        f"{host} ended the answer without its end mark, so it may be incomplete. "
        f"{_kept(arrived)} {ASK_ANEW}"
    )


def no_answer(host: str, text: str) -> DeepSeekError:
    """Tell what came with status 200 and is neither a stream nor an answer."""
    if (error := _error_of(text)) is not None:
        return in_stream(host, error, begun=False)
    if not text.strip():
        return BrokenAnswer(
            f"{host} closed the connection without an answer. It may have been billed all "
            f"the same. {ASK_ANEW}"
        )
    what = said(text) if HTML.match(text) else "something that is no answer"
    return BrokenAnswer(
        f"{host} sent {what} instead of an answer. It may have been billed all the same. "
        f"{PROXY_BETWEEN}"
    )


def no_prefix(host: str, error: DeepSeekError) -> DeepSeekError:
    """Tell that an address cannot go on with an answer, where *error* says so."""
    status = error.status if isinstance(error, RequestRefused) else None
    if status not in {404, 405} or HAS_NO_MODEL in str(error):
        return error
    return BadRequest(
        f"{host} knows no prefix completion ({status} at {BETA}), so the answer cannot go on "
        f"there. Nothing was billed. {ASK_ANEW}",
        status=status,
        trace_id=error.trace_id,
    )


def with_way_on(line: str) -> str:
    """Say in the *line* of an error, once, that its answer can go on."""
    if GO_ON in line:
        return line
    if ASK_ANEW in line:
        return line.replace(ASK_ANEW, f"{GO_ON} {ASK_ANEW}")
    return f"{line} {GO_ON}"


def _billed(unknown: bool) -> str:
    return "It may have been billed." if unknown else "Nothing was billed."


def _kept(arrived: bool) -> str:
    if arrived:
        return "What arrived is kept; it may have been billed."
    return "No word of it had arrived; it may have been billed all the same."


def verdict(request: Request, answer: Answer) -> DeepSeekError | None:
    """Tell why a stream that ended in order is no usable answer; None when it is one."""
    if found := _cut_short(answer):
        return found
    if not answer.text.strip():
        empty = UnusableAnswer(_without_text(request, answer))
        empty.problems = ("It is empty",)
        return empty
    return _json_verdict(answer) if request.json else None


def row_verdict(request: Request, answer: Answer) -> DeepSeekError | None:
    """Tell why an answer cannot stand for a row; one that was cut cannot, though it has words."""
    if found := verdict(request, answer):
        return found
    if answer.finish_reason != "length":
        return None
    limit = f" of {request.max_tokens:,} tokens" if request.max_tokens else ""
    return UnusableAnswer(
        f"The answer was cut at its limit{limit}. It was billed. Raise --max-tokens, and run again "
        "for this row."
    )


def _without_text(request: Request, answer: Answer) -> str:
    if answer.finish_reason != "length":
        again = "Run the cell again, or put the question in other words."
        thought = " but for its reasoning" if answer.reasoning.strip() else ""
        return f"The answer is empty{thought}. It was billed. {again}"
    limit = f"{request.max_tokens:,}" if request.max_tokens else "the"
    if answer.reasoning.strip():
        return (
            f"All {limit} tokens went into thinking, and none were left for the answer. It was "
            "billed. Raise the limit or think less: %%deepseek --max-tokens 8000, or "
            "%%deepseek --think off"
        )
    return (
        f"All {limit} tokens of the answer are blanks. It was billed. Say in the question what "
        "the answer should look like, then run the cell again."
    )


def _cut_short(answer: Answer) -> DeepSeekError | None:
    """Tell what stopped the answer (api-docs.deepseek.com/api/create-chat-completion)."""
    arrived = bool(answer.text or answer.reasoning)
    match answer.finish_reason:
        case None:
            return BrokenAnswer(
                "The answer ended without a reason why, so it may be incomplete. "
                f"{_kept(arrived)} {ASK_ANEW}"
            )
        case "insufficient_system_resource":
            return BrokenAnswer(
                f"The API stopped the answer for lack of resources. {_kept(arrived)} Run the cell "
                "again in a while. https://status.deepseek.com"
            )
        case "content_filter":
            kept = "What arrived is kept and was billed." if arrived else "It was billed."
            return UnusableAnswer(
                f"The API's content filter stopped the answer. {kept} Put the question in other "
                "words."
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
        found = UnusableAnswer(
            f"The answer is not JSON ({error}){cut}. It was billed, and its text is kept above. "
            "Run the cell again, or say in the question what the JSON should look like."
        )
        found.problems = (f"It is not JSON: {error}",)
        return found
    return None


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What is known of a refusal; *wait* is in seconds, *location* is where a redirect points."""

    host: str
    status: int
    message: str
    wait: float | None = None
    location: str | None = None


def _advice(refused: _Refusal) -> tuple[type[RequestRefused], str]:
    """Give the class of a refusal and the next step."""
    status, pause = refused.status, f"in {_span(refused.wait)}" if refused.wait else "in a while"
    if status in {400, 401, 403, 404, 405} and refused.message.startswith(A_PAGE):
        return RequestRefused, PROXY_BETWEEN
    if status in NEXT:
        return NEXT[status]
    if status == 429:
        return TooManyRequests, f"It is not for want of money. Run the cell again {pause}."
    if 300 <= status < 400:
        host = host_of(refused.location or "") or "another address"
        away = f"It points to {host}; neither the key nor the question went there."
        return RequestRefused, f"{away} Look at the address in DEEPSEEK_BASE_URL."
    if status >= 500 or status == 408:
        page = " https://status.deepseek.com" if _is_deepseek(refused.host) else ""
        return ServerFailure, f"Run the cell again {pause}.{page}"
    return BadRequest, _change(refused)


def _change(refused: _Refusal) -> str:
    """Say what to change in a request that cannot be answered as it is."""
    if refused.status == 413 or TOO_LONG.search(refused.message):
        return "Shorten the text, or --max-tokens, and run the cell again."
    if re.search(r"content exists risk", refused.message, re.IGNORECASE):
        return "Put the question in other words."
    return "Change what it names, and run the cell again; all options: %%deepseek?"


def _unknown_model(host: str, status: int, message: str, model: str) -> DeepSeekError | None:
    """Read the refusal of a model that does not exist; None when it is another refusal."""
    if status not in {400, 404, 422} or not NO_MODEL.search(message):
        return None
    listed = re.search(r"model names are (.{1,200}?),? but you", message)
    known = tuple(SHORT_NAMES.values()) if _is_deepseek(host) else ()
    names = tuple(listed[1].split(", ")) if listed else known
    short = {name: short for short, name in SHORT_NAMES.items()}
    near = nearest(model, [*names, *(short[name] for name in names if name in short)])
    if model in RETIRED:
        advice = f"It was retired on 2026-07-24; its place is taken by: %%deepseek {RETIRED[model]}"
    elif near:
        advice = f"Nearest to it: %%deepseek -m {short.get(near, near)}"
    elif names:
        advice = f"Choose one: %%deepseek -m {short.get(names[0], names[0])}"
    else:
        advice = "Those there are: %deepseek models"
    there = f"; there are {', '.join(names)}" if names else f" ({status}, {message})"
    return BadRequest(
        f"{host} {HAS_NO_MODEL} {one_line(model, 60)!r}{there}. Nothing was billed. {advice}",
        status=status,
    )


def _is_deepseek(host: str) -> bool:
    """Tell DeepSeek's hosts, and this machine, from those of other companies."""
    return host in LOOPBACK or host == "deepseek.com" or host.endswith(".deepseek.com")


def _is_own(host: str, headers: Mapping[str, str]) -> bool:
    """Tell whether DeepSeek itself has said it, be it through a relay."""
    return "x-ds-trace-id" in headers or (_is_deepseek(host) and host not in LOOPBACK)


def _other_account(host: str, message: str, headers: Mapping[str, str]) -> str | None:
    """Name the host whose account is empty; None when it is DeepSeek's, as a relay hands it on."""
    if _is_deepseek(host) or _is_own(host, headers) or DEEPSEEK_S.search(message):
        return None
    return host


def said(error: Any) -> str:
    """Give the words of an error body in one line, without a full stop."""
    if isinstance(error, Mapping):
        names = ("message", "detail", "msg", "type")
        error = next((said_so for name in names if (said_so := error.get(name))), "")
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
    return f'{A_PAGE} ("{one_line(title[1])}")' if title else A_PAGE


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After, which is a number of seconds or a date; None when it is neither."""
    named = headers.get("retry-after", "")
    try:
        wait = float(named)
    except ValueError:
        until = _moment(named)
        # By the server's own clock, where it tells: the one here may be wrong.
        now = _moment(headers.get("date", "")) or datetime.now(UTC)
        wait = -1.0 if until is None else max((until - now).total_seconds(), 0.0)
    return min(wait, DAY_SECONDS) if wait >= 0 and wait != float("inf") else None


def _moment(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError, IndexError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
