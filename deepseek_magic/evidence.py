"""What an exception says of itself, and which others it wraps, read without running its code.

Nothing is read that could be a one-time stream, a property or a request: only what
objects already hold. Of foreign code, `__str__` alone is run. The work is bounded
by counts of exceptions, values and characters.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from types import GetSetDescriptorType, MemberDescriptorType, NoneType
from typing import Any, TypeGuard
from urllib.parse import urlsplit

EXCEPTIONS = 200_000
VALUES = 400
FIELDS = 64
ENTRIES = 40
BASES = 20
DEPTH = 6
HALF_OF_TEXT = 10_000
SHORT = 1_000
"""A text of this many characters at most is one statement; a longer one is read line by line."""

# Names of fields, as `_name` writes them.
STATUS = frozenset({
    "status", "statuscode", "httpstatus", "httpcode", "httpstatuscode", "code", "errorcode",
    "responsecode",
})  # fmt: skip
ADDRESS = frozenset({
    "url", "realurl", "requesturl", "effectiveurl", "baseurl", "apibase", "endpoint", "uri",
    "host", "hostname",
})  # fmt: skip
PROVIDER = frozenset({
    "llmprovider", "provider", "providername", "providerid", "customllmprovider", "modelprovider",
    "vendor",
})  # fmt: skip
REQUEST = frozenset({"request", "requestinfo", "config"})
RESPONSE = frozenset({
    "response", "resp", "httpresponse", "rawresponse", "res", "responsemetadata",
})  # fmt: skip
HEADERS = frozenset({"headers", "hdrs", "responseheaders", "httpheaders"})
BODY = frozenset({
    "body", "content", "text", "data", "json", "error", "errors", "message", "detail", "details",
    "reason", "raw", "httpbody", "responsebody", "responsetext", "type", "param", "isbyok",
    "metadata", "buffer", "file", "fp",
})  # fmt: skip
KNOWN = STATUS | ADDRESS | PROVIDER | REQUEST | RESPONSE | HEADERS | BODY
SENT = frozenset({
    "messages", "prompt", "input", "inputs", "kwargs", "createkwargs", "requestbody", "payload",
    "params", "doc", "object", "history", "partial", "answer",
})  # fmt: skip
"""What the caller wrote; it may speak of anything, an empty balance included."""
TOLD_APART = ADDRESS | PROVIDER | REQUEST | RESPONSE | HEADERS | SENT
SHOWN_AS_TEXT = frozenset({"yarl", "httpx", "httpx2", "httpcore", "pydantic", "pydantic_core"})
TRACE = "x-ds-trace-id"
COLOURS = re.compile(r"\x1b\[[0-9;]{0,20}m")
NUMBER = re.compile(r"\s*(\d{3})\b")
TELLING = re.compile(r"402|alance|deepseek|余额", re.IGNORECASE)
UNQUOTED = str.maketrans({"'": '"', "\\": None, "“": '"', "”": '"'})

AROUND = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, FileExistsError,
    FileNotFoundError, GeneratorExit, ImportError, IsADirectoryError, KeyboardInterrupt,
    LookupError, MemoryError, NameError, NotADirectoryError, NotImplementedError,
    PermissionError, RecursionError, ReferenceError, StopAsyncIteration, StopIteration,
    SyntaxError, SystemError, TypeError, UnicodeError, Warning,
)  # fmt: skip
"""Built-in classes that say something of the code around, not of what was being handled."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one exception says of itself, without the exceptions it wraps."""

    classes: tuple[tuple[str, str], ...] = ()
    """Module and name of its class and of that one's bases."""
    statuses: frozenset[int] = frozenset()
    hosts: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    """Who answers, as fields of the exception have it: letters and digits of the names."""
    texts: tuple[str, ...] = ()
    bodies: tuple[str, ...] = ()
    """The texts once more, in small letters, with plain quotes and without spaces."""
    traced: bool = False
    """Whether the header is there that DeepSeek's answers carry."""


def evidence(exc: BaseException) -> Evidence:
    """Gather what *exc* says of itself, from what it already holds."""
    facts: dict[str, list[Any]] = {
        kind: [] for kind in ("class", "status", "host", "provider", "trace", "text")
    }
    for kind, value in _all(_facts, exc):
        facts[kind].append(value)
    written = (text for text in facts["text"] if text and not text.isspace())
    shown = (COLOURS.sub("", text).replace("&quot;", '"') for text in written)
    texts = tuple(dict.fromkeys(shown))
    bodies = tuple("".join(text.translate(UNQUOTED).casefold().split()) for text in texts)
    return Evidence(
        classes=tuple(facts["class"]),
        statuses=frozenset(facts["status"]),
        hosts=frozenset(facts["host"]),
        providers=frozenset(facts["provider"]),
        texts=texts,
        bodies=bodies,
        traced=any(facts["trace"]) or any(TRACE in body for body in bodies),
    )


def _facts(exc: BaseException) -> Iterator[tuple[str, Any]]:
    yield from (("class", name) for name in _all(_names, exc))
    fields = _all(_fields, exc)
    # litellm makes up a response, with an address that was never asked.
    invented = any(name == "llmprovider" for name, _ in fields)
    told = [(name, value) for name, value in fields if not _is_exception(value)]
    told += [("", one) for one in _builtin(exc, "args")[:ENTRIES] if not _is_exception(one)]
    for name, value in told:
        for kind, fact in _all(_fact, name, value):
            if not (invented and kind == "host"):
                yield kind, fact
    for texts in (_args_text, _own_text):
        yield from (("text", text) for text in _all(texts, exc))
    yield from (("text", text) for text in _all(_fields_text, fields))


def _names(exc: BaseException) -> Iterator[tuple[str, str]]:
    for cls in _bases(type(exc)):
        module, name = _module(cls), type.__getattribute__(cls, "__name__")
        if type(module) is str and type(name) is str:
            yield module, name


def _fact(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Give what the field *name* of an exception, a request or a response tells."""
    if name in STATUS and (status := _status(value)) is not None:
        yield "status", status
    elif name in ADDRESS and (host := _host(_address(value), bare=name.startswith("host"))):
        yield "host", host
    elif name in PROVIDER and (provider := letters(_word(value))):
        yield "provider", provider
    elif name in HEADERS:
        yield "trace", _has_trace(value)
    elif name in REQUEST:
        asked = [("url", value)] if _is(value, str) else _members(value)
        yield from (fact for to, at in asked if to in ADDRESS for fact in _fact(to, at))
    elif depth < 2 and (name in RESPONSE or (not depth and _like_a_response(name, value))):
        yield from _response_facts(value, depth + 1)


def _like_a_response(name: str, value: Any) -> bool:
    if name in KNOWN | SENT or _is(value, str, bytes, int, float, dict, list, tuple, NoneType):
        return False
    return any(held in STATUS and _status(at) is not None for held, at in _all(_fields, value))


def _response_facts(response: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if _is(response, str, bytes, bytearray, list, tuple):
        yield "text", _flat(response, iter(range(VALUES)))
    members = _all(_members, response)
    told = [fact for name, value in members for fact in _all(_fact, name, value, depth)]
    yield from told
    answered = any(kind == "status" and fact < 300 for kind, fact in told)
    for name, value in members:
        text = _flat(value, iter(range(VALUES))) if _of_the_body(name, value) else ""
        # A good answer may speak of anything; some relays send errors as good answers.
        if not answered or text.lstrip().startswith('{"error"'):
            yield "text", text


def _of_the_body(name: str, value: Any) -> bool:
    if name in BODY or name == "payload":
        return True
    return name not in TOLD_APART and _is(value, str, bytes, bytearray, dict, list)


def _args_text(exc: BaseException) -> Iterator[str]:
    room = iter(range(VALUES))
    args = _builtin(exc, "args")
    yield ", ".join(filter(None, (_flat(one, room) for one in args[:ENTRIES])))


def _own_text(exc: BaseException) -> Iterator[str]:
    if any("__str__" in type.__getattribute__(cls, "__dict__") for cls in _bases(type(exc))):
        yield _cut(str(exc))


def _fields_text(fields: list[tuple[str, Any]]) -> Iterator[str]:
    """Give the fields as one object, plain values first, as an error body has them."""
    shown = [(name, value) for name, value in fields if name not in TOLD_APART]
    shown.sort(key=lambda field: not _is(field[1], str, int, bytes))
    if shown:
        yield _flat(dict(shown), iter(range(VALUES)))


# --- Reading foreign objects -------------------------------------------------------------------


def _all(read: Callable[..., Iterable[Any]], *args: Any) -> list[Any]:
    """Give what *read* yields up to where it fails, if it does."""
    given: list[Any] = []
    with suppress(BaseException):  # one hostile attribute must not hide the others
        given.extend(read(*args))
    return given


def _is(value: object, *kinds: type) -> bool:
    """Do as `isinstance`, without asking *value*, which may lie or raise."""
    return issubclass(type(value), kinds)


def _is_exception(value: object) -> TypeGuard[BaseException]:
    return _is(value, BaseException)


def _builtin(exc: BaseException, name: str) -> Any:
    """Give what every exception has as *name*, whatever its class has put in the way."""
    return vars(BaseException)[name].__get__(exc)


def _module(cls: type) -> Any:
    return type.__getattribute__(cls, "__module__")


def _bases(cls: type) -> list[type]:
    """Give *cls* and its bases, without the built-in ones."""
    return [base for base in type.mro(cls)[:BASES] if _module(base) != "builtins"]


def _members(thing: Any) -> Iterable[tuple[str, Any]]:
    if _is(thing, dict):
        items = islice(dict.items(thing), FIELDS)
        return [(_name(name), value) for name, value in items if type(name) is str]
    return _fields(thing)


def _fields(thing: Any) -> Iterator[tuple[str, Any]]:
    """Give names and values that *thing* holds, without running code of its class.

    What a property shows is mostly kept under the property's name with an
    underscore, and `_name` takes that away.
    """
    seen = set()
    for name, value in [*_all(_instance_fields, thing), *_all(_class_fields, thing)]:
        if name not in seen:
            seen.add(name)
            yield name, value


def _instance_fields(thing: Any) -> Iterator[tuple[str, Any]]:
    held = object.__getattribute__(thing, "__dict__")
    yield from _members(held) if _is(held, dict) else ()


def _class_fields(thing: Any) -> Iterator[tuple[str, Any]]:
    for cls in _bases(type(thing)):
        own = type.__getattribute__(cls, "__dict__")
        if _is(thing, tuple) and type(own.get("_fields")) is tuple:
            yield from zip(own["_fields"], tuple.__iter__(thing), strict=False)
        for name, value in islice(own.items(), VALUES):
            # A task of asyncio is written in C and keeps its exception out of any dictionary.
            in_c = type(value) is GetSetDescriptorType and name == "_exception"
            if type(value) is MemberDescriptorType or in_c:
                yield from ((_name(name), held) for held in _all(_slot, value, thing))
            elif _name(name) in KNOWN and _is(value, str, int, bytes, dict):
                yield _name(name), value


def _slot(slot: MemberDescriptorType | GetSetDescriptorType, thing: Any) -> Iterator[Any]:
    yield slot.__get__(thing)


def _name(name: str) -> str:
    return name.replace("_", "").casefold()


def _flat(value: Any, room: Iterator[int], depth: int = 0) -> str:
    """Give *value* as text much like JSON; what has no place in *room* is left out."""
    if depth > DEPTH or next(room, None) is None or _is_exception(value):
        return ""
    if _is(value, str, bytes, bytearray, memoryview, BytesIO):
        return f'"{_cut(value)}"' if depth else _cut(value)
    if _is(value, int, NoneType):
        return _plain(value)
    if _is(value, list, tuple):
        return "[" + ", ".join(_flat(one, room, depth + 1) for one in _entries(value)) + "]"
    parts = (
        f'"{name}": {_flat(held, room, depth + 1)}'
        for name, held in _pairs(value)
        if _name(name) not in SENT
    )
    return "{" + ", ".join(parts) + "}" if _is(value, dict) or depth else ""


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if type(value) is bool:
        return str(value).casefold()
    # Longer numbers take long to write, and Python refuses the longest.
    return str(int.__index__(value)) if int.bit_length(value) < 64 else ""


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    if _is(value, dict):
        items = islice(dict.items(value), ENTRIES)
        yield from ((_cut(name), held) for name, held in items if _is(name, str, bytes))
    else:
        yield from (field for field in _all(_fields, value) if field[0] in BODY | STATUS | PROVIDER)


def _entries(value: Any) -> Iterable[Any]:
    kinds: tuple[type[Any], ...] = (list, tuple, set, frozenset, deque)
    kind = next(kind for kind in kinds if _is(value, kind))
    return islice(kind.__iter__(value), VALUES)


def _cut(text: Any) -> str:
    """Give the beginning and the end of *text*, which may be of any length and kind."""
    if _is(text, str):
        head, tail = str.__getitem__(text, slice(HALF_OF_TEXT)), ""
        if str.__len__(text) > HALF_OF_TEXT:
            tail = str.__getitem__(text, slice(HALF_OF_TEXT, None))[-HALF_OF_TEXT:]
        return head + tail
    # A file in memory has its place in it, which this leaves alone.
    with memoryview(BytesIO.getbuffer(text) if _is(text, BytesIO) else text) as held:
        if len(held) <= 2 * HALF_OF_TEXT:
            return held.tobytes().decode(errors="replace")
        ends = held[:HALF_OF_TEXT].tobytes(), held[-HALF_OF_TEXT:].tobytes()
    return "".join(end.decode(errors="replace") for end in ends)


def _status(value: Any) -> int | None:
    if _is(value, int) and type(value) is not bool and int.bit_length(value) < 64:
        number = int.__index__(value)
    elif _is(value, str) and (found := NUMBER.match(str.__getitem__(value, slice(20)))):
        number = int(found[1])
    else:
        return None
    return number if 100 <= number < 600 else None


def _word(value: Any) -> str:
    """Give *value*, a text or an enumeration's member, as text."""
    if _is(value, str):
        return _cut(value)
    return next((_word(held) for name, held in _all(_fields, value) if name == "value"), "")


def letters(text: str) -> str:
    """Give the letters and digits of a name, in small letters."""
    return "".join(filter(str.isalnum, text[:60].casefold()))


def _address(value: Any) -> str:
    if _is(value, str, bytes):
        return _cut(value)
    shown = str(_module(type(value))).partition(".")[0] in SHOWN_AS_TEXT
    return _cut(str(value)) if shown else ""


def host_of(address: str) -> str | None:
    """Give the host of *address*, which begins with its scheme."""
    if "\\" in address:
        return None
    try:
        host = urlsplit(address[:SHORT]).hostname
    except ValueError:
        return None
    return host.rstrip(".").casefold() if host else None


def _host(address: str, *, bare: bool = False) -> str | None:
    if "://" in address:
        return host_of(address)
    named = bare or "." in address.partition("/")[0]
    return host_of("//" + address) if named and not address.startswith("/") else None


def _has_trace(headers: Any) -> bool:
    if str(_module(type(headers))).partition(".")[0] == "multidict":
        return TRACE in headers
    names = dict(headers) if type(headers) is dict else dict(_members(headers))
    return TRACE in _flat(names, iter(range(VALUES))).casefold()


# --- From an exception to those that it wraps --------------------------------------------------


def wrapped(exc: object) -> Iterator[BaseException]:
    """Give *exc* and all that it wraps, nearest first, each once, save those that say nothing."""
    waiting: deque[object] = deque([exc])
    seen: set[int] = set()
    while waiting and len(seen) < EXCEPTIONS:
        one = waiting.popleft()
        if not _is_exception(one) or id(one) in seen:
            continue
        seen.add(id(one))
        if _silent(one):
            waiting.extend((cause_of(one), context_of(one)))
        else:
            yield one
            waiting.extend(_all(_inner, one))


def _silent(exc: BaseException) -> bool:
    """Say whether *exc* is a built-in one, with no word of money and nothing on it."""
    if _module(type(exc)) != "builtins" or _builtin(exc, "__dict__"):
        return False
    args = _builtin(exc, "args")
    return len(args) < 2 and all(
        type(one) is str and len(one) <= SHORT and not TELLING.search(one) for one in args
    )


def _inner(exc: BaseException) -> Iterator[object]:
    yield cause_of(exc)
    yield context_of(exc)
    if _is(exc, BaseExceptionGroup):
        members = vars(BaseExceptionGroup)["exceptions"].__get__(exc)
        yield from islice(members, EXCEPTIONS)
    room = iter(range(VALUES))
    yield from _held(_builtin(exc, "args"), room)
    for name, value in _all(_fields, exc):
        if name not in SENT:
            yield from _held(value, room)


def _held(value: Any, room: Iterator[int], depth: int = 0) -> Iterator[object]:
    """Give the exceptions that *value* is, or holds: a list of attempts, a future, …."""
    if _is_exception(value):
        yield value
    elif _is(value, dict, list, tuple, set, frozenset, deque):
        entries = dict.values(value) if _is(value, dict) else _entries(value)
        for one, _ in zip(entries if depth < 3 else (), room, strict=False):
            yield from _held(one, room, depth + 1)
    elif not _is(value, str, bytes, int, float, NoneType):
        yield from (one for _, one in _all(_fields, value) if _is(one, BaseException))


def cause_of(exc: BaseException) -> BaseException | None:
    """Give what *exc* was raised from."""
    cause: BaseException | None = _builtin(exc, "__cause__")
    return cause


def context_of(exc: BaseException) -> BaseException | None:
    """Give what was being handled when *exc* was raised, unless *exc* speaks of the code around."""
    kind = type(exc)
    around = _module(kind) == "builtins" and issubclass(kind, AROUND)
    if around or type.__getattribute__(kind, "__name__") == "CancelledError":
        return None
    context: BaseException | None = _builtin(exc, "__context__")
    return context
