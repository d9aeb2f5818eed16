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
from .words import later, sentences, t

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
TOP_UP = later("Top up, then run the cell again.")
FEWER_AT_ONCE = later(
    "Top up, or let the requests that are under way end; then run the cell again."
)
PROXY_BETWEEN = later(
    "It does not come from the API: does a proxy or a sign-in page stand between? Look at "
    "HTTPS_PROXY and DEEPSEEK_BASE_URL."
)
A_PAGE = later("an HTML page")
OF_TLS = r"\[SSL|_SSL_?|\bTLS\b|certificate"
UNREACHED: Mapping[str, str] = MappingProxyType(
    {
        "expired|not yet valid": later(
            "The certificate is out of date: is this machine's clock right?"
        ),
        "certificate": later(
            "The certificate is not trusted: is a proxy between? Its certificate belongs into the "
            "system's store, or into the file that SSL_CERT_FILE names."
        ),
        OF_TLS: later(
            "No secure connection came about: is DEEPSEEK_BASE_URL right, or is it an address with "
            "http:// in front?"
        ),
        "^UnsupportedProtocol": later(
            "Write the address in DEEPSEEK_BASE_URL with https:// (or http://) in front."
        ),
        "^ProxyError": later("A proxy turned it away: look at HTTPS_PROXY."),
        "name or service|nodename|getaddrinfo|name resolution": later(
            "The name was not found: is the network up, and DEEPSEEK_BASE_URL right?"
        ),
        "refused": later(
            "Nothing listens there: is DEEPSEEK_BASE_URL right, and the server running?"
        ),
        "^ConnectTimeout": later(
            "Nobody took the connection: is the network up? Where only a proxy leads out, "
            "HTTPS_PROXY names it."
        ),
    }
)
"""What is in the words of a connection that failed, and the next step; the first that fits."""
NEXT: Mapping[int, tuple[type[RequestRefused], str]] = MappingProxyType(
    {
        401: (WrongKey, later("Set another key: %deepseek login (in Python: Session(api_key=…))")),
        403: (WrongKey, later("The key is not let in there. Set another: %deepseek login")),
        404: (BadRequest, later("Look at the address in DEEPSEEK_BASE_URL.")),
        405: (BadRequest, later("Look at the address in DEEPSEEK_BASE_URL.")),
        407: (
            RequestRefused,
            later("A proxy wants a name and a password: look at HTTPS_PROXY."),
        ),
    }
)
ASK_ANEW = later("Run the cell again to ask anew.")
GO_ON = later("To go on at the price of the rest: %deepseek continue (in Python: Session.resume).")
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
        what = t("{host} stopped the answer: {message}.", host=host, message=message)
        return BrokenAnswer(what, _kept(arrived), t(ASK_ANEW))
    kinds = {"authentication_error": 401, "rate_limit": 429, "invalid_request": 400}
    code = status or next((code for name, code in kinds.items() if name in kind), 500)
    refused, advice = _advice(_Refusal(host, code, message))
    # A relay cannot know what its source has billed.
    unknown = code >= 500 and code != 503 and not _is_deepseek(host)
    what = t("{host} refused the request: {message}.", host=host, message=message)
    found = refused(what, _billed(unknown), advice)
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
    # No more than one sentence of a reason that may have many.
    said_so = message.split(". ")
    reason = next(filter(OF_MONEY.search, said_so), "; ".join(said_so))
    found = InsufficientBalance(
        _is_empty(f"{status}, {reason}" if status else reason, nearly=nearly, other=other),
        _kept(arrived) if begun else t("Nothing was billed."),
        _money_step(nearly=nearly, other=other),
        trace_id=trace,
    )
    found.may_be_billed = begun
    found.host = other
    if nearly and (named := CONCURRENCY.search(message)):
        found.at_once = int(named[1])
    return found


def _is_empty(reason: str, *, nearly: bool, other: str | None) -> str:
    if other:
        return t("The account at {host} is empty ({reason}).", host=other, reason=reason)
    if nearly:
        return t("The DeepSeek balance is empty, or nearly so ({reason}).", reason=reason)
    return t("The DeepSeek balance is empty ({reason}).", reason=reason)


def _money_step(*, nearly: bool, other: str | None) -> str:
    if other:
        return t(
            "Money at DeepSeek does not help here: top up at {host}, then run the cell again.",
            host=other,
        )
    return t(FEWER_AT_ONCE) if nearly else t(TOP_UP)


def beside(line: str, balance: Balance | None) -> str:
    """Fit the *line* of an error for want of money to a *balance* that shows money all the same."""
    left = balance.effective if balance else None
    if balance is None or left is None or left < CENT:
        return line
    amount = f"{left.quantize(CENT, ROUND_DOWN, EXACT)} {balance.currency}"
    seen = amount
    if balance.read_at:
        time = f"{balance.read_at.astimezone():%H:%M:%S}"
        seen = t("{amount} at {time}", amount=amount, time=time)
    if balance.available is False:
        words = t(
            "The balance showed {seen}, but DeepSeek marks it as not available: a payment may "
            "still be in check, or the account be held. Look there, then run the cell again: "
            "https://platform.deepseek.com/top_up",
            seen=seen,
        )
    else:
        lags = t(
            "The balance showed {seen}, but its figure lags by minutes and that may be spent.",
            seen=seen,
        )
        words = sentences(lags, t(TOP_UP))
    return line.replace(t(TOP_UP), words)


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
        t(
            "{host} refused the request ({status}): {message}.",
            host=host,
            status=status,
            message=message,
        ),
        _billed(unknown),
        advice,
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
        t("{host} was not reached ({name}: {reason}).", host=host, name=name, reason=reason),
        t("Nothing was billed."),
        _advice_unreached(name, reason),
    )
    found.may_be_retried = name in PASSING and not re.search(OF_TLS, reason, re.IGNORECASE)
    return found


def _advice_unreached(name: str, reason: str) -> str:
    """Give the next step, by what the exception says."""
    text = f"{name}: {reason}"
    found = (step for mark, step in UNREACHED.items() if re.search(mark, text, re.IGNORECASE))
    otherwise = later("Run the cell again when the network is up. https://status.deepseek.com")
    return t(next(found, otherwise))


def broken(
    host: str, name: str, reason: str, *, arrived: bool = True, idle: float | None = None
) -> DeepSeekError:
    """Tell what broke off an answer, or the wait for it; *idle* is how long silence is borne."""
    told = _silent(host, idle) if "Timeout" in name else _broke_off(host, name, reason)
    patience = t(
        "More patience: %config DeepSeekMagics.timeout = 600 (in Python: Session(timeout=600))"
    )
    return BrokenAnswer(told, _kept(arrived), t(ASK_ANEW), patience if "Timeout" in name else "")


def _silent(host: str, idle: float | None) -> str:
    if not idle:
        return t("{host} was silent for too long, so the wait was given up.", host=host)
    return t(
        "{host} was silent for {seconds:g} s, so the wait was given up.", host=host, seconds=idle
    )


def _broke_off(host: str, name: str, reason: str) -> str:
    if name in UNREADABLE:
        return t(
            "{host} sent something that cannot be read ({reason}).", host=host, reason=reason[:80]
        )
    if name in {"RemoteProtocolError", "ReadError"} and reason.startswith(CUT):
        return t("The connection to {host} broke off.", host=host)
    return t(
        "The connection to {host} broke off ({name}: {reason}).",
        host=host,
        name=name,
        reason=reason,
    )


def lingering(host: str, seconds: float, *, arrived: bool) -> DeepSeekError:
    """Tell that nothing but keep-alives came for so long."""
    return BrokenAnswer(
        t(
            "{host} sent nothing but signs of life for {span}, so the wait was given up.",
            host=host,
            span=_span(seconds),
        ),
        _kept(arrived),
        t(ASK_ANEW),
    )


def unended(host: str, *, arrived: bool) -> DeepSeekError:
    """Tell that an answer came to its end without the mark that ends every answer."""
    return BrokenAnswer(
        t("{host} ended the answer without its end mark, so it may be incomplete.", host=host),
        _kept(arrived),
        t(ASK_ANEW),
    )


def no_answer(host: str, text: str) -> DeepSeekError:
    """Tell what came with status 200 and is neither a stream nor an answer."""
    if (error := _error_of(text)) is not None:
        return in_stream(host, error, begun=False)
    all_the_same = t("It may have been billed all the same.")
    if not text.strip():
        closed = t("{host} closed the connection without an answer.", host=host)
        return BrokenAnswer(closed, all_the_same, t(ASK_ANEW))
    what = said(text) if HTML.match(text) else t("something that is no answer")
    return BrokenAnswer(
        t("{host} sent {what} instead of an answer.", host=host, what=what),
        all_the_same,
        t(PROXY_BETWEEN),
    )


def no_prefix(host: str, error: DeepSeekError) -> DeepSeekError:
    """Tell that an address cannot go on with an answer, where *error* says so."""
    status = error.status if isinstance(error, RequestRefused) else None
    no_model = isinstance(error, BadRequest) and error.names_no_model
    if status not in {404, 405} or no_model:
        return error
    return BadRequest(
        t(
            "{host} knows no prefix completion ({status} at {path}), so the answer cannot go on "
            "there.",
            host=host,
            status=status,
            path=BETA,
        ),
        t("Nothing was billed."),
        t(ASK_ANEW),
        status=status,
        trace_id=error.trace_id,
    )


def with_way_on(told: tuple[str, ...]) -> tuple[str, ...]:
    """Say among the sentences that are *told* of an answer, once, that it can go on."""
    if t(GO_ON) in told:
        return told
    place = told.index(t(ASK_ANEW)) if t(ASK_ANEW) in told else len(told)
    if place == len(told) and place and told[-1][-1:] not in ".。!?":  # code to paste stays last
        place -= 1
    return (*told[:place], t(GO_ON), *told[place:])


def _billed(unknown: bool) -> str:
    return t("It may have been billed.") if unknown else t("Nothing was billed.")


def _kept(arrived: bool) -> str:
    if arrived:
        return t("What arrived is kept; it may have been billed.")
    return t("No word of it had arrived; it may have been billed all the same.")


def verdict(request: Request, answer: Answer) -> DeepSeekError | None:
    """Tell why a stream that ended in order is no usable answer; None when it is one."""
    if found := _cut_short(answer):
        return found
    if not answer.text.strip():
        empty = UnusableAnswer(*_without_text(request, answer))
        empty.problems = ("It is empty",)
        return empty
    return _json_verdict(answer) if request.json else None


def row_verdict(request: Request, answer: Answer) -> DeepSeekError | None:
    """Tell why an answer cannot stand for a row; one that was cut cannot, though it has words."""
    if found := verdict(request, answer):
        return found
    if answer.finish_reason != "length":
        return None
    what = t("The answer was cut at its limit.")
    if request.limited and request.max_tokens:
        what = t(_ROOM, n=request.max_tokens)
    elif request.max_tokens:
        what = t("The answer was cut at its limit of {n:,} tokens.", n=request.max_tokens)
    step = t(
        "Raise the budget or the day's limit, and run again for this row."
        if request.limited
        else "Raise --max-tokens, and run again for this row."
    )
    return UnusableAnswer(what, t("It was billed."), step)


_ROOM = later("The answer was cut at {n:,} tokens, as the limit had no room for more.")


def _without_text(request: Request, answer: Answer) -> tuple[str, str, str]:
    """Say what an answer without words is, that it was billed, and what to do."""
    thought, limit = bool(answer.reasoning.strip()), request.max_tokens
    if answer.finish_reason != "length":
        what = t(
            "The answer is empty but for its reasoning." if thought else "The answer is empty."
        )
        step = t("Run the cell again, or put the question in other words.")
    elif thought:
        what = (
            t("All {n:,} tokens went into thinking, and none were left for the answer.", n=limit)
            if limit
            else t("All the tokens went into thinking, and none were left for the answer.")
        )
        step = t(
            "The budget or the day's limit had no room for more: raise it, or think less: "
            '%%deepseek --think off (in Python: think="off")'
            if request.limited
            else "Raise the limit or think less: %%deepseek --max-tokens 8000, or %%deepseek "
            '--think off (in Python: max_tokens=8000, or think="off")'
        )
    else:
        what = (
            t("All {n:,} tokens of the answer are blanks.", n=limit)
            if limit
            else t("All the tokens of the answer are blanks.")
        )
        step = t("Say in the question what the answer should look like, then run the cell again.")
    return what, t("It was billed."), step


def _cut_short(answer: Answer) -> DeepSeekError | None:
    """Tell what stopped the answer (api-docs.deepseek.com/api/create-chat-completion)."""
    arrived = bool(answer.text or answer.reasoning)
    match answer.finish_reason:
        case None:
            return BrokenAnswer(
                t("The answer ended without a reason why, so it may be incomplete."),
                _kept(arrived),
                t(ASK_ANEW),
            )
        case "insufficient_system_resource":
            return BrokenAnswer(
                t("The API stopped the answer for lack of resources."),
                _kept(arrived),
                t("Run the cell again in a while. https://status.deepseek.com"),
            )
        case "content_filter":
            return UnusableAnswer(
                t("The API's content filter stopped the answer."),
                t("What arrived is kept and was billed." if arrived else "It was billed."),
                t("Put the question in other words."),
            )
    return None


def _json_verdict(answer: Answer) -> DeepSeekError | None:
    try:
        answer.json()
    except (ValueError, RecursionError) as error:
        cut = answer.finish_reason == "length"
        found = UnusableAnswer(
            t(
                "The answer is not JSON ({error}) because it was cut at --max-tokens; raise it."
                if cut
                else "The answer is not JSON ({error}).",
                error=error,
            ),
            t("It was billed, and its text is kept above."),
            t("Run the cell again, or say in the question what the JSON should look like."),
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
    status = refused.status
    again = t("Run the cell again in a while.")
    if refused.wait:
        again = t("Run the cell again in {span}.", span=_span(refused.wait))
    if status in {400, 401, 403, 404, 405} and refused.message.startswith(t(A_PAGE)):
        return RequestRefused, t(PROXY_BETWEEN)
    if status in NEXT:
        kind, step = NEXT[status]
        return kind, t(step)
    if status == 429:
        return TooManyRequests, sentences(t("It is not for want of money."), again)
    if 300 <= status < 400:
        host = host_of(refused.location or "") or t("another address")
        away = t("It points to {host}; neither the key nor the question went there.", host=host)
        return RequestRefused, sentences(away, t("Look at the address in DEEPSEEK_BASE_URL."))
    if status >= 500 or status == 408:
        page = "https://status.deepseek.com" if _is_deepseek(refused.host) else ""
        return ServerFailure, sentences(again, page)
    return BadRequest, _change(refused)


def _change(refused: _Refusal) -> str:
    """Say what to change in a request that cannot be answered as it is."""
    if refused.status == 413 or TOO_LONG.search(refused.message):
        return t("Shorten the text, or --max-tokens, and run the cell again.")
    if re.search(r"content exists risk", refused.message, re.IGNORECASE):
        return t("Put the question in other words.")
    return t("Change what it names, and run the cell again; all options: %%deepseek?")


def _unknown_model(host: str, status: int, message: str, model: str) -> DeepSeekError | None:
    """Read the refusal of a model that does not exist; None when it is another refusal."""
    if status not in {400, 404, 422} or not NO_MODEL.search(message):
        return None
    listed = re.search(r"model names are (.{1,200}?),? but you", message)
    known = tuple(SHORT_NAMES.values()) if _is_deepseek(host) else ()
    names = tuple(listed[1].split(", ")) if listed else known
    what = t(
        "{host} has no model {model!r}; there are {names}."
        if names
        else "{host} has no model {model!r} ({status}, {message}).",
        host=host,
        model=one_line(model, 60),
        names=", ".join(names),
        status=status,
        message=message,
    )
    found = BadRequest(what, t("Nothing was billed."), _other_model(model, names), status=status)
    found.names_no_model = True
    return found


def _other_model(model: str, names: tuple[str, ...]) -> str:
    """Say what to write in the place of a *model* that there is not among *names*."""
    short = {name: short for short, name in SHORT_NAMES.items()}
    near = nearest(model, [*names, *(short[name] for name in names if name in short)])
    if model in RETIRED:
        return t(
            "It was retired on 2026-07-24; its place is taken by: %%deepseek {options}",
            options=RETIRED[model],
        )
    if near:
        return t(_NEAREST, name=short.get(near, near))
    if names:
        return t(_CHOOSE, name=short.get(names[0], names[0]))
    return t("Those there are: %deepseek models (in Python: Session.models())")


_NEAREST = later('Nearest to it: %%deepseek -m {name} (in Python: model="{name}")')
_CHOOSE = later('Choose one: %%deepseek -m {name} (in Python: model="{name}")')


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
    return line.rstrip(".。") or t("no reason given")


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
    if not title:
        return t(A_PAGE)
    return t('an HTML page ("{title}")', title=one_line(title[1]))


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
        return t("{n:.0f} s", n=max(seconds, 1.0))
    if seconds < 7200:
        return t("{n:.0f} minutes", n=seconds / 60)
    return t("{n:.0f} hours", n=seconds / 3600)
