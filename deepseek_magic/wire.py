"""What goes to the API and what comes back: frozen values, no behaviour but their own.

The fields carry the API's names. Money is `Decimal`, time is aware UTC, and
None means "not known", never zero.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)
from types import MappingProxyType
from typing import Any, Literal, NoReturn, Self, get_args

from .code_blocks import first_code
from .json_text import json_in
from .words import later, t

Role = Literal["system", "user", "assistant"]
Think = Literal["off", "low", "high", "max"]
State = Literal["fine", "low", "empty", "unavailable", "unknown"]

THINK_LEVELS: tuple[Think, ...] = get_args(Think)
SHORT_NAMES: Mapping[str, str] = MappingProxyType(
    {"flash": "deepseek-flash", "pro": "deepseek-v4-pro"}
)
"""The current models, by the short names that options accept."""

ASK_FOR_JSON = 'Answer with one JSON object, such as {"answer": "…"}, and nothing else.'

EXACT = Context(
    prec=50, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow]
)
"""For sums of money; the notebook's own context may round."""

NAME_CHARACTERS = 200
"""How much of a model's name or of a reason to stop is kept."""


class Key:
    """An API key that does not show itself: its text is only in `reveal()`.

    It cannot be changed or pickled, and a copy of it is itself.
    """

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_text", text)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(t("A key cannot be changed; make another: Key(…)"))

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(t("A key cannot be changed; make another: Key(…)"))

    def __repr__(self) -> str:
        return "Key('…')"

    def __eq__(self, other: object) -> bool:
        return other._text == self._text if isinstance(other, Key) else NotImplemented

    def __hash__(self) -> int:
        return hash((Key, self._text))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(t("A key is not pickled, as its text would stand in a file or a message"))

    def __reduce_ex__(self, _: object) -> NoReturn:
        self.__reduce__()

    def reveal(self) -> str:
        """Give the key itself, for the header of a request and nothing else."""
        return self._text


@dataclass(frozen=True, slots=True)
class Image:
    """A picture as it is sent: of what kind it is, its bytes, and its size in pixels."""

    mime: str
    data: bytes = field(repr=False)
    width: int
    height: int

    @property
    def url(self) -> str:
        """The address that holds the picture itself."""
        from base64 import b64encode

        return f"data:{self.mime};base64,{b64encode(self.data).decode()}"

    @property
    def size(self) -> tuple[int, int] | None:
        """Its width and height."""
        return self.width, self.height

    @property
    def summary(self) -> str:
        """What it is, in a few words."""
        size, unit = _bytes(len(self.data))
        return t("{picture}, {size}", picture=self._form, size=f"{size} {t(unit)}")

    @property
    def _form(self) -> str:
        return f"{self.width}×{self.height} {self.mime.removeprefix('image/').upper()}"

    @property
    def told(self) -> str:
        """What stands for it in records, and tells it from any other picture, in English."""
        from hashlib import sha256

        size = " ".join(_bytes(len(self.data)))
        return f"[picture {self._form}, {size}, sha256 {sha256(self.data).hexdigest()}]"


@dataclass(frozen=True, slots=True)
class ImageLink:
    """A picture on the web, which DeepSeek fetches by its address."""

    url: str

    @property
    def size(self) -> tuple[int, int] | None:
        """Nothing: what is there is not known before it is fetched."""
        return None

    @property
    def summary(self) -> str:
        """Where it is."""
        return t("at {url}", url=self.url)

    @property
    def told(self) -> str:
        """What stands for it in records."""
        return f"[picture at {self.url}]"


def _bytes(number: int) -> tuple[str, str]:
    if number < 1000:
        return str(number), later("bytes")
    return (f"{number / 1e3:.0f}", "kB") if number < 999_500 else (f"{number / 1e6:.1f}", "MB")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; pictures go with a user's turn only."""

    role: Role
    content: str
    images: tuple[Image | ImageLink, ...] = ()
    reasoning: str = ""
    """What was thought before it."""
    prefix: bool = False
    """Whether it is the beginning of an answer, which is to go on from there."""

    @property
    def words(self) -> str:
        """All the text that the model is given with it."""
        return self.reasoning + self.content

    def body(self, *, brief: bool = False) -> dict[str, Any]:
        """Give the API's form of it; with *brief*, words stand for what a picture holds."""
        body: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.images:
            addresses = (image.told if brief else image.url for image in self.images)
            pictures = [{"type": "image_url", "image_url": {"url": one}} for one in addresses]
            body["content"] = [{"type": "text", "text": self.content}, *pictures]
        if self.reasoning:
            body["reasoning_content"] = self.reasoning
        if self.prefix:
            body["prefix"] = True
        return body


@dataclass(frozen=True, slots=True)
class Request:
    """All that shapes an answer. None leaves a setting to the API's default.

    *limited* tells that `max_tokens` is no wish of the user's, but what a budget or
    the day's limit has room for.
    """

    messages: tuple[Message, ...]
    model: str = SHORT_NAMES["flash"]
    think: Think | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    json: bool = False
    limited: bool = False

    @property
    def thinks(self) -> bool:
        """Whether the model will think first; it does unless told not to."""
        return self.think != "off"

    @property
    def images(self) -> tuple[Image | ImageLink, ...]:
        """The pictures that go along, with whichever message."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def goes_on(self) -> bool:
        """Whether its last message is the beginning of the answer."""
        return bool(self.messages) and self.messages[-1].prefix

    def body(self, *, brief: bool = False) -> dict[str, Any]:
        """Give the JSON body of `POST /chat/completions`, streamed.

        With *brief* it is the text for records, in which words stand for pictures.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message.body(brief=brief) for message in self.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.think is not None:
            body["thinking"] = {"type": "enabled" if self.thinks else "disabled"}
        if self.think is not None and self.thinks:
            body["reasoning_effort"] = self.think
        if self.stop:
            body["stop"] = list(self.stop)
        if self.json:
            body["response_format"] = {"type": "json_object"}
        for name in ("temperature", "top_p", "max_tokens"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        return body


def question(
    prompt: str,
    *,
    model: str = "flash",
    think: Think | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    stop: str | tuple[str, ...] | list[str] | None = None,
    json: bool = False,
    images: tuple[Image | ImageLink, ...] = (),
) -> Request:
    """Put a prompt and its settings together into a request.

    *model* is a name of the API's or `flash` or `pro`; *stop* is one string or
    up to sixteen; *images* go with the prompt. With *json*, a text that does not
    speak of JSON is told to: the API would else emit blanks up to the token limit,
    and bill them (api-docs.deepseek.com/guides/json_mode).
    """
    if json and "json" not in f"{system} {prompt}".lower():
        system = f"{system}\n\n{ASK_FOR_JSON}" if system else ASK_FOR_JSON
    system_turn = (Message("system", system),) if system else ()
    return Request(
        messages=(*system_turn, Message("user", prompt, images)),
        model=SHORT_NAMES.get(model, model),
        think=think,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        json=json,
    )


def _count(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    return value if type(value) is int and 0 <= value < 10**9 else None


def _text(value: object) -> str:
    """Read a text; halves of characters, which no file or page can hold, are replaced."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _content(value: object) -> str:
    """Read a text that some relays send as a list of parts."""
    if isinstance(value, list):
        return "".join(_text(_mapping(part).get("text")) for part in value)
    return _text(value)


def _name(value: object) -> str | None:
    return _text(value)[:NAME_CHARACTERS] or None


def _first(choices: object) -> Mapping[str, Any]:
    """Give the choice of index 0: one answer was asked for, and further ones are left out."""
    rows = map(_mapping, choices if isinstance(choices, list) else ())
    return next((row for row in rows if row.get("index") in (0, None)), {})


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more answers, under the API's names.

    `completion_tokens` includes `reasoning_tokens`. A count that the API did
    not give is None, and so is its sum with any other.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    prompt_cache_miss_tokens: int | None = None
    reasoning_tokens: int | None = None

    @classmethod
    def read(cls, data: object) -> Usage | None:
        """Read the `usage` object of a response; None when there is none."""
        if not isinstance(data, Mapping):
            return None
        prompt, completion = _count(data, "prompt_tokens"), _count(data, "completion_tokens")
        hit, miss = (
            _count(data, "prompt_cache_hit_tokens"),
            _count(data, "prompt_cache_miss_tokens"),
        )
        if hit is None:
            hit = _count(_mapping(data.get("prompt_tokens_details")), "cached_tokens")
        if prompt is None and hit is not None and miss is not None:
            prompt = hit + miss
        if prompt is not None and hit is not None and miss is None and hit <= prompt:
            miss = prompt - hit
        if prompt is not None and miss is not None and hit is None and miss <= prompt:
            hit = prompt - miss
        if hit is not None and miss is not None and hit + miss != prompt:
            hit = miss = None  # they contradict each other, so the cost is not known
        details = _mapping(data.get("completion_tokens_details"))
        return cls(prompt, completion, hit, miss, _count(details, "reasoning_tokens"))

    def __add__(self, other: Usage) -> Usage:
        def total(name: str) -> int | None:
            mine, theirs = getattr(self, name), getattr(other, name)
            return None if mine is None or theirs is None else mine + theirs

        return Usage(*(total(name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a streamed answer."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None

    @classmethod
    def read(cls, chunk: Mapping[str, Any]) -> Piece:
        """Read one chunk; usage may be on any, and `choices` may be empty."""
        choice = _first(chunk.get("choices"))
        # A relay that does not stream sends `message` where a stream has `delta`.
        delta = _mapping(choice.get("delta") or choice.get("message"))
        return cls(
            content=_content(delta.get("content")),
            reasoning=_content(delta.get("reasoning_content")),
            finish_reason=_name(choice.get("finish_reason")),
            usage=Usage.read(chunk.get("usage")),
            model=_name(chunk.get("model")),
        )


@dataclass(frozen=True, slots=True)
class CostRange:
    """What something costs where that is not known to the digit.

    It is neither under *low* nor over *high*; *likely* is None where nothing is.
    """

    low: Decimal
    high: Decimal
    likely: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole or so far. `str(answer)` is its text.

    *cost* is in *currency*, at list price; None when the price or the tokens
    are not known. *cost_range* then says between which bounds it lies, where that
    is known. *seconds* count from the sending of the request. *note* says what is
    waited for before the question is sent again, or, of a whole answer, what its
    reader has to know of its cost; else "". *asked* is when an answer was asked that
    comes from the ledger and cost nothing now; None of one that was asked just now.
    *parsed* is what the text says, where JSON was asked for: an instance of the schema's
    model, else the JSON; *schema* is what reads it. *request* is the question that it
    answers, which is what it takes to go on with it. Where it has gone on, *rest* is
    what the last call alone brought and cost. *turn* is its place in a conversation.
    """

    text: str = ""
    reasoning: str = ""
    model: str | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    cost: Decimal | None = None
    cost_range: CostRange | None = None
    currency: str | None = None
    seconds: float | None = None
    note: str = ""
    asked: datetime | None = None
    parsed: Any = field(default=None, repr=False, compare=False)
    schema: Any = field(default=None, repr=False, compare=False)
    request: Request | None = field(default=None, repr=False, compare=False)
    rest: Answer | None = field(default=None, repr=False, compare=False)
    turn: Any = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        start = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        return f"Answer({start!r}, {self.model}, {self.finish_reason or 'unfinished'})"

    def plus(self, piece: Piece) -> Answer:
        """Give the answer with one more *piece* at its end; usage without a count says nothing."""
        return replace(
            self,
            text=self.text + piece.content,
            reasoning=self.reasoning + piece.reasoning,
            model=piece.model or self.model,
            usage=self.usage if piece.usage in (None, Usage()) else piece.usage,
            finish_reason=piece.finish_reason or self.finish_reason,
        )

    @property
    def code(self) -> str | None:
        """The first block of code in the text, as the text of a cell; None without one."""
        block = first_code(self.text)
        return None if block is None else block.as_cell()

    def json(self) -> Any:
        """Parse the text as JSON; a `ValueError` says where it is not.

        A fence around it, or a sentence beside it, is borne. JSON that is nested some
        thousand deep raises `RecursionError`.
        """
        return json.loads(json_in(self.text))

    def frame(self) -> Any:
        """Put what a schema has read into a frame: a row for each model, a column for each field.

        It is one of pandas, or of Polars where that alone is installed; a list without both.
        """
        if self.schema is None:
            raise ValueError(t("No schema was asked for; ask with one: ask(…, schema=list[Model])"))
        return self.schema.frame(self.parsed)


def amount(value: object) -> Decimal | None:
    """Read an amount of money as the API writes it, a decimal string.

    Not a number, negative or absurdly large (over 10**12) is None.
    """
    if not isinstance(value, str | int | Decimal) or isinstance(value, bool):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() and 0 <= number <= 10**12 else None


@dataclass(frozen=True, slots=True)
class BalanceInfo:
    """The money of one currency: *total* is *granted* plus *topped_up*."""

    currency: str
    total: Decimal | None
    granted: Decimal | None = None
    topped_up: Decimal | None = None


def _info(row: Mapping[str, Any]) -> BalanceInfo | None:
    """Read the row of one currency; None when it names none."""
    currency = row.get("currency")
    if not (isinstance(currency, str) and re.fullmatch("[A-Z]{3}", currency)):
        return None
    parts = ("total", "granted", "topped_up")
    return BalanceInfo(currency, *(amount(row.get(f"{part}_balance")) for part in parts))


@dataclass(frozen=True, slots=True)
class Balance:
    """A reading of `GET /user/balance`, and what has been spent since.

    *infos* maps a currency to its amounts. The figure of the API lags by
    minutes, so `effective` is the one to reckon with.
    """

    available: bool | None = None
    infos: Mapping[str, BalanceInfo] = field(default_factory=dict)
    read_at: datetime | None = None
    spent_since: Decimal = Decimal(0)
    """Spent and not yet in the figure, in the account's currency."""
    prefers: str | None = None
    """The currency that the account is known to be billed in."""

    @classmethod
    def read(cls, data: object, at: datetime) -> Balance:
        """Read the body of the endpoint; what cannot be read is None or left out.

        Two rows of one currency that differ leave its amounts unknown.
        """
        body = _mapping(data)
        rows = body.get("balance_infos")
        infos: dict[str, BalanceInfo] = {}
        for row in rows if isinstance(rows, list) else []:
            if (info := _info(_mapping(row))) is not None:
                name = info.currency
                infos[name] = info if infos.get(name, info) == info else BalanceInfo(name, None)
        available = body.get("is_available")
        return cls(available if isinstance(available, bool) else None, infos, at)

    @property
    def currency(self) -> str | None:
        """The account's currency: the one it is billed in, else the one that holds most money."""
        if self.prefers in self.infos:
            return self.prefers
        return max(self.infos, key=lambda name: self.infos[name].total or 0, default=None)

    @property
    def effective(self) -> Decimal | None:
        """What is left to spend, in `currency`: the reading less what was spent since."""
        total = self.infos[self.currency].total if self.currency else None
        with localcontext(EXACT):
            return None if total is None else max(total - self.spent_since, Decimal(0))

    def state(self, warn_below: Mapping[str, Decimal]) -> State:
        """Tell the state in one word; *warn_below* maps a currency to the low mark."""
        if self.effective is None or self.currency is None:
            return "unavailable" if self.available is False else "unknown"
        if self.effective <= 0:
            return "empty"
        if self.available is False:
            return "unavailable"
        return "low" if self.effective < warn_below.get(self.currency, 0) else "fine"
