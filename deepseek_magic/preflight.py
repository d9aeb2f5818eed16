"""May this be sent? Small checks from facts to a refusal or none.

Each check takes a request and gives the reason not to send it, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from numbers import Real
from typing import Any

from . import images
from .errors import (
    DeepSeekError,
    InvalidOption,
    KeyInText,
    UnknownSetting,
    nearest,
    one_line,
)
from .wire import SHORT_NAMES, THINK_LEVELS, Image, ImageLink, Key, Message, Request, question
from .words import later, t

MAX_TOKENS = 393_216
"""The API's own bound on thinking and answer together (api-docs.deepseek.com/api/list-models)."""

MOST_IMAGES = 600
"""Pictures in a request (api-docs.deepseek.com/guides/vision)."""

IMAGE_BYTES = 34 * 2**20
"""All pictures of a request: the API takes 48 MiB, and in base64 they are longer by a third."""

BLIND = frozenset({SHORT_NAMES["pro"], "deepseek-chat", "deepseek-reasoner"})
"""Models that are known to read no pictures (api-docs.deepseek.com/api/list-models)."""

LIKE_A_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-(?:proj|ant|or|svcacct|admin)-[A-Za-z0-9_-]{20,}"
    r"|sk-(?:[A-Za-z0-9]{1,12}-){0,3}[A-Za-z0-9]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{40,}"
    r"|hf_[A-Za-z0-9]{30,}"
    r"|AKIA[0-9A-Z]{16}"
    r"|AIza[A-Za-z0-9_-]{35}"
    r"|xox[abprs]-[A-Za-z0-9-]{20,}"
    r")|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)

KEY_REMOVED = "[key removed]"


def request_of(prompt: object, **settings: Any) -> Request:
    """Put a prompt and its settings together into a request, as `wire.question` does.

    Numbers of any library are taken. What is no text or no number where one
    belongs raises `InvalidOption`, a setting that does not exist `UnknownSetting`.
    """
    if (name := next((name for name in settings if name not in READERS), None)) is not None:
        raise _unknown_setting(name)
    given = {name: value for name, value in settings.items() if value is not None}
    read = {name: READERS[name](name, value) for name, value in given.items()}
    return question(_text("prompt", prompt), **read)


def _unknown_setting(name: str) -> UnknownSetting:
    shown, near = one_line(name, 60), nearest(name, (*READERS, *BESIDE))
    what = t("There is no setting `{name}` here.", name=shown)
    hint = t("Did you mean {near}?", near=f"`{near}`") if near and near != name else ""
    settings = t("Settings are {names}.", names=", ".join(READERS))
    return UnknownSetting(what, t("Nothing was sent."), hint or settings)


def _unfit(name: str, value: object, wanted: str) -> InvalidOption:
    shown = one_line(repr(value), 60)
    what = t("`{name}` cannot be {shown}; it {wanted}.", name=name, shown=shown, wanted=t(wanted))
    return InvalidOption(what, t("Nothing was sent."))


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise _unfit(name, value, later("is a text"))


def _named(name: str, value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise _unfit(name, value, later("is a name"))


def _number(name: str, value: object) -> float:
    if isinstance(value, Real | Decimal) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise _unfit(name, value, later("is a number"))


def _whole(name: str, value: object) -> int:
    if (number := _number(name, value)).is_integer():
        return int(number)
    raise _unfit(name, value, later("is a whole number"))


def _stops(name: str, value: object) -> tuple[str, ...]:
    rows = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if all(isinstance(row, str) and row for row in rows):
        return rows
    raise _unfit(name, value, later("is one text or several, none of them empty"))


def _yes_or_no(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _unfit(name, value, later("is True or False"))


READERS: dict[str, Callable[[str, object], Any]] = {
    "model": _named,
    "think": _text,
    "system": _text,
    "temperature": _number,
    "top_p": _number,
    "max_tokens": _whole,
    "stop": _stops,
    "json": _yes_or_no,
    "images": lambda _, value: images.read(value),
}
"""The settings of `wire.question`, and what reads each."""

BESIDE = (
    *("anyway", "budget", "cache", "cell", "chat", "chat_tokens", "off_peak", "repair", "schema"),
    *("column", "concurrency", "confirm", "data_tokens", "fresh", "limit", "names", "progress"),
)
"""What else a question, or one for every row, may be asked with."""


def like_a_key(text: str, own: Key | None = None) -> bool:
    """Tell whether *text* holds something like a key, or the session's *own*."""
    return LIKE_A_KEY.search(text) is not None or _holds(text, own)


def _holds(text: str, own: Key | None) -> bool:
    secret = own.reveal() if own else ""
    return len(secret) >= 8 and secret in text


def without_keys(text: str, own: Key | None = None) -> str:
    """Give *text* with "[key removed]" for whatever `like_a_key` would find in it."""
    secret = own.reveal() if own else ""
    if len(secret) >= 8:
        text = text.replace(secret, KEY_REMOVED)
    return LIKE_A_KEY.sub(KEY_REMOVED, text)


def _texts(request: Request) -> Iterator[str]:
    yield from (message.words for message in request.messages)
    yield from (image.url for image in request.images if isinstance(image, ImageLink))
    yield from request.stop
    yield request.model


def key_refusal(
    request: Request, own: Key | None, *, answers_too: bool = True
) -> DeepSeekError | None:
    """Refuse a text that would carry a key to the API, the ledger and the notebook.

    What the model itself has written is no secret to the API, whatever it looks like,
    unless it holds the very key of the session: so for the beginning of an answer and,
    without *answers_too*, for the answers of a conversation.
    """
    theirs = [one for one in asked(request) if answers_too or one.role != "assistant"]
    found = any(like_a_key(text, own) for text in _texts(replace(request, messages=(*theirs,))))
    found = found or any(_holds(message.words, own) for message in request.messages)
    return key_found() if found else None


def asked(request: Request) -> tuple[Message, ...]:
    """Give the messages of *request* without the beginning of an answer that is to go on."""
    return request.messages[:-1] if request.goes_on else request.messages


def key_found() -> DeepSeekError:
    """Make the error for a text with a key in it; it does not quote the text."""
    return KeyInText(
        t("The text holds something like a key."),
        t("Nothing was sent."),
        t(
            "Take it out and, since it stood in a notebook, replace it at the place that gave it "
            "out. DeepSeek's own key is set with: %deepseek login"
        ),
    )


def _out_of_range(request: Request) -> str | None:
    """Name the value that the API would refuse.

    The bounds: api-docs.deepseek.com/api/create-chat-completion.
    """
    if request.think is not None and request.think not in THINK_LEVELS:
        levels = ", ".join(THINK_LEVELS)
        return t(
            "`think` cannot be {value!r}; it takes {levels}", value=request.think, levels=levels
        )
    if request.temperature is not None and not 0 <= request.temperature <= 2:
        return t(
            "`temperature` cannot be {value:g}; it goes from 0 to 2", value=request.temperature
        )
    if request.top_p is not None and not 0 < request.top_p <= 1:
        return t("`top_p` cannot be {value:g}; it goes from above 0 to 1", value=request.top_p)
    if request.max_tokens is not None and not 1 <= request.max_tokens <= MAX_TOKENS:
        return t(
            "`max_tokens` cannot be {value:,}; it goes from 1 to {most:,}",
            value=request.max_tokens,
            most=MAX_TOKENS,
        )
    if len(request.stop) > 16:
        return t("There are {n} stop strings; the API takes up to 16", n=len(request.stop))
    return None


def _no_question(request: Request) -> str | None:
    messages = asked(request)
    if not messages or not messages[-1].content.strip():
        return t("There is no question; write it in the lines below %%deepseek")
    return None


def _half_a_character(request: Request) -> str | None:
    return half_a_character("".join(_texts(request)))


def half_a_character(text: str) -> str | None:
    """Say so where *text* holds what no file or message can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return t(
            "The text holds half a character, which cannot be sent ({reason})", reason=error.reason
        )
    return None


def _images_that_cannot_go(request: Request) -> str | None:
    pictures = request.images
    if not pictures:
        return None
    if request.model in BLIND:
        return t(
            '{model} reads no pictures; Flash does: -m flash (model="flash" in Python)',
            model=request.model,
        )
    if len(pictures) > MOST_IMAGES:
        return t(
            "There are {n:,} pictures; the API takes up to {most}",
            n=len(pictures),
            most=MOST_IMAGES,
        )
    size = sum(len(image.data) for image in pictures if isinstance(image, Image))
    if size > IMAGE_BYTES:
        return t(
            "The pictures have {size:,.0f} MB together; one request takes {most:.0f} MB. Make them "
            "smaller, or send fewer at a time",
            size=size / 1e6,
            most=IMAGE_BYTES / 1e6,
        )
    return None


CHECKS: tuple[Callable[[Request], str | None], ...] = (
    _no_question,
    _out_of_range,
    _half_a_character,
    _images_that_cannot_go,
)


def refusal(
    request: Request, own: Key | None = None, *, answers_too: bool = True
) -> DeepSeekError | None:
    """Give the first reason not to send *request*; None when it may go.

    Without *answers_too*, answers of the model's in it may hold something like a key.
    """
    for check in CHECKS:
        if reason := check(request):
            return InvalidOption(t("{reason}.", reason=reason), t("Nothing was sent."))
    return key_refusal(request, own, answers_too=answers_too)


def remarks(request: Request) -> list[str]:
    """Name the settings that the API will ignore in the chosen mode.

    The rules: api-docs.deepseek.com/guides/thinking_mode.
    """
    said = []
    if request.temperature is not None and request.thinks:
        said.append(
            t("temperature has no effect while the model thinks; --think off makes it count")
        )
    if request.top_p is not None:
        if request.model == "deepseek-v4-pro" and request.thinks:
            said.append(t("top_p has no effect on this model while it thinks"))
        elif request.model == "deepseek-flash" and not request.thinks:
            said.append(t("top_p has no effect on this model unless it thinks"))
        elif request.model == "deepseek-flash" and request.top_p < 0.95:
            said.append(t("top_p counts as 0.95, the least that this model takes while it thinks"))
    return said
