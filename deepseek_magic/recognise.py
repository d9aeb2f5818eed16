"""Is this exception DeepSeek's empty balance? Answered from evidence, whatever client raised it.

Each exception is judged by itself, from its class, attributes, text and what is
at hand of its request and response. One of these is enough:

| rule | what speaks for DeepSeek | what speaks of money |
| --- | --- | --- |
| `_by_class` | a class of a DeepSeek package, or named after DeepSeek | whose name says so |
| `_at_host` | a host under deepseek.com | 402, or the API's message |
| `_by_provider` | a provider field, or a class, that says DeepSeek | 402, or the API's message |
| `_by_body` | the API's own body, from a host that sells no models itself | that body |
| `_by_trace` | the header x-ds-trace-id, from such a host | 402 |
| `_with_own_key` | a gateway's body: provider DeepSeek, the caller's own key | the API's message |
| `_by_text` | one line, where nothing names a host: address or name of DeepSeek | 402, message |

"The API's message" is "Insufficient Balance" (or 余额不足) standing as a message of its
own, or the limit "based on your remaining balance". The name of a model, or
deepseek somewhere in a path, a query or a longer host name, is no evidence. A
text that says where it came from only by wrapping another exception is
believed no further than that one.

The exceptions that one wraps are judged in the same way, and one is enough: its
`__cause__`, the members of a group, exceptions that it holds in its arguments
and attributes, what a future ended in, and its `__context__`, also under `raise … from None`.
A `__context__` does not count where the outer exception is of a built-in
class that says something of the code around (KeyError, NameError, TypeError,
FileNotFoundError, KeyboardInterrupt, …): that went wrong while an empty balance was
being handled, which is another failure. `raise KeyError(…) from error` counts.

Nothing is read that could be a one-time stream, a property or a request: only what
objects already hold. Of foreign code, `__str__` alone is run. The work is bounded
by counts of exceptions, values and characters.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import MemberDescriptorType, NoneType
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from .errors import InsufficientBalance

EXCEPTIONS = 10_000
CHARACTERS = 1_000_000
VALUES = 400
FIELDS = 64
ENTRIES = 40
BASES = 20
DEPTH = 6
HALF_OF_TEXT = 10_000
SHORT = 1_000
"""A text of this many characters at most is one statement; a longer one is read line by line."""

STATUS = frozenset({
    "status", "status_code", "statuscode", "http_status", "http_code", "http_status_code",
    "code", "error_code", "response_code",
})  # fmt: skip
ADDRESS = frozenset({
    "url", "real_url", "request_url", "base_url", "api_base", "endpoint", "uri", "host", "hostname",
})  # fmt: skip
PROVIDER = frozenset({"llm_provider", "provider", "provider_name", "custom_llm_provider"})
REQUEST = frozenset({"request", "request_info"})
RESPONSE = frozenset({"response", "resp", "http_response", "raw_response", "res"})
HEADERS = frozenset({"headers", "hdrs", "response_headers"})
BODY = frozenset({
    "body", "content", "text", "data", "json", "error", "errors", "message", "detail", "details",
    "reason", "raw", "http_body", "response_body", "response_text", "type", "param", "is_byok",
    "metadata",
})  # fmt: skip
KNOWN = STATUS | ADDRESS | PROVIDER | REQUEST | RESPONSE | HEADERS | BODY
SENT = frozenset({
    "messages", "prompt", "input", "inputs", "kwargs", "create_kwargs", "request_body", "payload",
    "params", "doc", "object", "history", "partial", "answer",
})  # fmt: skip
"""What the caller wrote; it may speak of anything, an empty balance included."""
TOLD_APART = ADDRESS | PROVIDER | REQUEST | RESPONSE | HEADERS | SENT
SHOWN_AS_TEXT = frozenset({"yarl", "httpx", "httpx2", "httpcore", "pydantic", "pydantic_core"})

AROUND = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, FileExistsError,
    FileNotFoundError, GeneratorExit, ImportError, IsADirectoryError, KeyboardInterrupt,
    LookupError, MemoryError, NameError, NotADirectoryError, NotImplementedError,
    PermissionError, RecursionError, ReferenceError, StopAsyncIteration, StopIteration,
    SyntaxError, SystemError, TypeError, UnicodeError, Warning,
)  # fmt: skip

# Hosts of companies that sell answers of their own account, DeepSeek's models among them.
SELLERS = re.compile(
    r"(?:^|\.)(?:openrouter\.ai|siliconflow\.(?:cn|com)|together\.(?:ai|xyz)|fireworks\.ai|"
    r"deepinfra\.com|novita\.ai|ppinfra\.com|ppio\.(?:cn|com)|groq\.com|nebius\.(?:ai|com)|"
    r"hyperbolic\.(?:xyz|ai)|replicate\.com|huggingface\.co|nvidia\.com|sambanova\.ai|"
    r"cerebras\.ai|chutes\.ai|parasail\.io|baseten\.co|kluster\.ai|friendli\.ai|featherless\.ai|aimlapi\.com|"
    r"poe\.com|302\.ai|gmi-serving\.com|atlascloud\.ai|requesty\.ai|vercel\.(?:sh|com)|"
    r"aliyuncs\.com|volces\.com|tencent(?:cloudapi)?\.com|baidubce\.com|myhuaweicloud\.com|"
    r"bigmodel\.cn|moonshot\.(?:cn|ai)|minimaxi?\.(?:chat|com|io)|stepfun\.com|openai\.com|"
    r"anthropic\.com|azure\.com|amazonaws\.com|googleapis\.com|mistral\.ai|cohere\.(?:ai|com)|"
    r"x\.ai|perplexity\.ai|ollama\.com|lambda\.ai|akashml?\.(?:com|network)|inference\.net)$"
)
SELLER_NAMES = re.compile(
    r"\b(?:open[-_ ]?router|silicon[-_ ]?flow|together[-_. ]?(?:ai|xyz)|fireworks[-_. ]?ai|"
    r"deepinfra|novita|groq|nebius|sambanova|cerebras|huggingface|volcengine|dashscope|aimlapi|moonshot)",
    re.IGNORECASE,
)
PASSED_ON = re.compile(r"(?:^|\.)helicone\.ai$")
"""Hosts that hand on the caller's own key and carry the provider's name in their own."""
PROTOCOLS = frozenset({
    "", "openai", "openailike", "customopenai", "custom", "openaicompatible", "anthropic",
    "litellm", "litellmproxy", "unknown",
})  # fmt: skip
"""What a provider field says of the way a request is written, not of who answers it."""
DEEPSEEK_NAMES = frozenset({"deepseek", "deepseekai", "deepseekapi", "deepseekchat"})

PACKAGE = re.compile(r"(?:[a-z]+_)?deepseek(?:_?(?:api|client|sdk|python|ai|llm|chat))?")
MONEY_CLASS = re.compile(
    r"insufficient_?(?:balance|funds?|credits?)|out_?of_?(?:balance|credits?|money)|"
    r"payment_?required",
    re.IGNORECASE,
)
URL = re.compile(
    r"https?://([^\s'\"<>]{1,500})|\bhost=['\"]([^'\"\s]{1,255})['\"]|"
    r"(?<![\w.@/=&?-])((?:[\w-]{1,63}\.){0,4}deepseek\.com)(?![\w.-]*\w)",
    re.IGNORECASE,
)
STATUS_402 = re.compile(
    r"(?:code|status|error|http(?:/[\d.]{1,3})?|failed|failure|refused|responded|returned|replied|"
    r"answered|response|with|got)['\"]?[\s:=(\[]{0,4}['\"]?402\b(?!\.\d)"
    r"(?!\s{1,3}(?!payment|error|insufficient|from|for|at|on|and|while|when|after|during)\w)|"
    r"\b402['\"]?[\s:,(\[-]{0,4}(?:payment required|client error|insufficient.?balance|error\b|"
    r"from\b|message=|\{)",
    re.IGNORECASE,
)
MESSAGE = re.compile(
    r"(?:^|[-:–—\"'>,\])：，。\d])\s{0,3}(?:insufficient[ _-]?balance)"
    r"(?=\s*(?:$|[\"'.!;,}\]<)(\\]))|余额不足|based on your remaining balance",
    re.IGNORECASE | re.MULTILINE,
)
OPENAI_LINE = re.compile(
    r"Error code: 402 - Insufficient Balance(?=\s*(?:$|[\"'\\,;)\]}]))", re.MULTILINE
)
DEEPSEEK_SPEAKS = re.compile(
    r"(?<![\w/.-])deepseek(?:(?:api)?(?:exception|error)\b|"
    r"[ _-]?(?:api|error|request|call|server)\b|"
    r"(?=\s?\]|:\s|：| (?:responded|returned|answered|refused|said|says)\b|"
    r" ?\(?402|\s?[账帐]?[户号]?余额))",
    re.IGNORECASE,
)
LAST_WORDS = re.compile(r"(?:^| - )insufficient balance[.!]?\s*\Z", re.IGNORECASE)
LIMITED = re.compile(r"concurrencylimitof\d+basedonyourremainingbalance")
OBJECT = re.compile(r"\{([^{}]{1,600}+)(?:\}|\Z)")
OBJECT_MESSAGE = re.compile(
    r'"message":"(?:deepseek(?:api)?error:)?'
    r'(?:insufficientbalance|余额不足|u4f59u989du4e0du8db3)[.!。]?"'
)
SAID_AS = re.compile(
    r'"(?:error|message|msg|error_?message|detail|reason|description)":"insufficientbalance[.!]?"'
)
OBJECT_KEY = re.compile(r'"(type|code)":"?([\w-]+)')
BODY_PROVIDER = re.compile(r'"provider(?:_?name)?":"([^"]{0,60})"')
OWN_KEY = re.compile(
    r'"[a-z_]*(?:byok|own_?key)":(true|false)|"(?:credential_?type|key_?source)":"(\w+)"'
)
UNQUOTED = str.maketrans({"'": '"', "\\": None, "“": '"', "”": '"'})


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


def is_insufficient_balance(exc: object) -> bool:
    """Say whether *exc* is, or wraps, DeepSeek's refusal for want of money.

    It never raises, sends nothing, changes nothing and reads no stream.
    """
    try:
        return _decide(exc)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  # a verdict on a failure must not be another failure
        return False


def _decide(exc: object) -> bool:
    room = CHARACTERS
    for one in _wrapped(exc):
        found = evidence(one)
        if any(rule(found) for rule in BY_ITSELF):
            return True
        if any(rule(found) for rule in BY_WORDS):
            if found.hosts or not _words_from_elsewhere(one, found):
                return True
            room -= HALF_OF_TEXT
        room -= sum(map(len, found.texts))
        if room < 0:
            break
    return False


# --- The rules ---------------------------------------------------------------------------------


def _by_class(found: Evidence) -> bool:
    return any(
        name == InsufficientBalance.__name__
        if _ours(module)
        else _of_deepseek(module, name) and MONEY_CLASS.search(name)
        for module, name in found.classes
    )


def _at_host(found: Evidence) -> bool:
    at = any(map(_is_deepseek, found.hosts))
    if not at and not found.hosts and 402 in found.statuses:
        at = any(_first_host(text) == "deepseek.com" for text in found.texts if len(text) <= SHORT)
    return at and (_refused(found) or _said(found))


def _by_provider(found: Evidence) -> bool:
    named = not found.providers.isdisjoint(DEEPSEEK_NAMES)
    named = named or any(_of_deepseek(module, name) for module, name in found.classes)
    if not named:
        named = any(_body_providers(body) == {"deepseek"} for body in found.bodies)
        return named and _said(found) and not _of_another(found)
    return (_refused(found) or _said(found)) and not _of_another(found)


def _by_trace(found: Evidence) -> bool:
    return found.traced and _refused(found) and not _of_another(found)


def _with_own_key(found: Evidence) -> bool:
    return any(
        _body_providers(body) & DEEPSEEK_NAMES and _own_key(body) and _api_message(body)
        for body in found.bodies
    )


def _by_body(found: Evidence) -> bool:
    return any(map(_api_body, found.bodies)) and not _of_another(found)


def _by_text(found: Evidence) -> bool:
    if found.hosts or _of_another(found) or (found.statuses and 402 not in found.statuses):
        return False
    if any(
        '"type":' in body and _api_message(body) and not _api_body(body) for body in found.bodies
    ):
        return False
    return any(_line_says_so(line) for text in found.texts for line in _statements(text))


BY_ITSELF = (_by_class, _at_host, _by_provider, _by_trace, _with_own_key)
BY_WORDS = (_by_body, _by_text)


def _words_from_elsewhere(exc: BaseException, words: Evidence) -> bool:
    """Say whether *exc*, which names no host, repeats the words of another company's failure."""
    for _ in range(BASES):
        cause = _cause(exc)
        inner = cause if cause is not None else _context(exc)
        if inner is None:
            return False
        exc, below = inner, evidence(inner)
        if below.hosts or _of_another(below):
            about_money = _refused(below) or _said(below)
            another = _of_another(below) or not (_by_body(words) or _names_deepseek(words))
            return another and (cause is not None or about_money)
    return False


# --- What a rule looks for ---------------------------------------------------------------------


def _refused(found: Evidence) -> bool:
    if found.statuses:
        return 402 in found.statuses
    return any(STATUS_402.search(text) for text in found.texts)


def _said(found: Evidence) -> bool:
    """Say whether the API's message stands there, and not in a request that is quoted."""
    if any(map(_api_message, found.bodies)):
        return True
    quoting = found.statuses & {400, 401, 403, 404, 413, 422}
    return any((LAST_WORDS if quoting else MESSAGE).search(text) for text in found.texts)


def _api_message(body: str) -> bool:
    return any(form.search(body) for form in (OBJECT_MESSAGE, SAID_AS, LIMITED))


def _api_body(body: str) -> bool:
    """Say whether the API's own error object stands somewhere in *body*, cut at its end or not."""
    if LIMITED.search(body):
        return True
    for part in OBJECT.findall(body) if "insufficientbalance" in body else ():
        keys = dict(OBJECT_KEY.findall(part))
        if OBJECT_MESSAGE.search(part) and _keys_fit(keys.get("type"), keys.get("code")):
            return True
    return False


def _keys_fit(kind: str | None, code: str | None) -> bool:
    if code not in {None, "null", "none", "402", "invalid_request_error"}:
        return False
    return kind == "unknown_error" or (kind is None and code == "invalid_request_error")


def _of_another(found: Evidence) -> bool:
    """Say whether something names another company, whose account it would be."""
    if any(map(_sells, found.hosts)) or any(map(_elsewhere, found.bodies)):
        return True
    if found.providers - DEEPSEEK_NAMES - PROTOCOLS:
        return True
    # A long text is a traceback, say, with the names of many files in it.
    short = [text for text in found.texts if len(text) <= SHORT]
    return not found.hosts and any(map(SELLER_NAMES.search, short))


def _elsewhere(body: str) -> bool:
    """Say whether *body* is a gateway's, with nothing in it of the caller's own key."""
    if _own_key(body) or '"provider' not in body:
        return False
    return '"provider_name":' in body or bool(_body_providers(body) - DEEPSEEK_NAMES - PROTOCOLS)


def _own_key(body: str) -> bool:
    return any(
        flag == "true" or source in {"byok", "user", "own"}
        for flag, source in OWN_KEY.findall(body)
    )


def _body_providers(body: str) -> set[str]:
    return {_letters(name) for name in BODY_PROVIDER.findall(body)}


def _names_deepseek(found: Evidence) -> bool:
    lines = [line for text in found.texts for line in _statements(text)]
    return any(
        _first_host(line) == "deepseek.com" or DEEPSEEK_SPEAKS.search(line) for line in lines
    )


def _line_says_so(line: str) -> bool:
    host = _first_host(line)
    if host not in {None, "deepseek.com"} or SELLER_NAMES.search(line):
        return False
    refused, said = STATUS_402.search(line), MESSAGE.search(line)
    if host or DEEPSEEK_SPEAKS.search(line):
        return bool(refused or said)
    return bool(OPENAI_LINE.search(line))


def _statements(text: str) -> Iterable[str]:
    return (text,) if len(text) <= SHORT else text.splitlines()


def _first_host(text: str) -> str | None:
    """Give the host of the first address in *text*, any of DeepSeek's as `deepseek.com`."""
    if (found := URL.search(text)) is None:
        return None
    address, host, bare = found.groups()
    name = _host("https://" + address) if address else (host or bare).casefold()
    return "deepseek.com" if _is_deepseek(name or "") else name


def _is_deepseek(host: str) -> bool:
    return host == "deepseek.com" or host.endswith(".deepseek.com")


def _sells(host: str) -> bool:
    """Say whether *host* sells models itself, or borrows DeepSeek's name."""
    if _is_deepseek(host) or PASSED_ON.search(host):
        return False
    private = "." not in host or host.endswith((".local", ".internal", ".lan", ".localhost"))
    return ("deepseek" in host and not private) or bool(SELLERS.search(host))


def _of_deepseek(module: str, name: str) -> bool:
    if _ours(module):
        return False
    package = any(PACKAGE.fullmatch(part) for part in module.casefold().split("."))
    return package or name.casefold().startswith("deepseek")


def _ours(module: str) -> bool:
    return module.partition(".")[0] == "deepseek_magic"


# --- From an exception to evidence -------------------------------------------------------------


def evidence(exc: BaseException) -> Evidence:
    """Gather what *exc* says of itself, from what it already holds."""
    facts: dict[str, list[Any]] = {
        kind: [] for kind in ("class", "status", "host", "provider", "trace", "text")
    }
    for kind, value in _all(_facts, exc):
        facts[kind].append(value)
    texts = tuple(dict.fromkeys(text for text in facts["text"] if text and not text.isspace()))
    return Evidence(
        classes=tuple(facts["class"]),
        statuses=frozenset(facts["status"]),
        hosts=frozenset(facts["host"]),
        providers=frozenset(facts["provider"]),
        texts=texts,
        bodies=tuple("".join(text.translate(UNQUOTED).casefold().split()) for text in texts),
        traced=any(facts["trace"]),
    )


def _facts(exc: BaseException) -> Iterator[tuple[str, Any]]:
    yield from (("class", name) for name in _all(_names, exc))
    fields = _all(_fields, exc)
    # litellm makes up a response, with an address that was never asked.
    invented = any(name == "llm_provider" for name, _ in fields)
    for name, value in fields:
        for kind, fact in _all(_fact, name, value):
            if not (invented and kind == "host"):
                yield kind, fact
    for texts in (_args_text, _own_text):
        yield from (("text", text) for text in _all(texts, exc))
    yield from (("text", text) for text in _all(_fields_text, fields))


def _names(exc: BaseException) -> Iterator[tuple[str, str]]:
    if _is(exc, InsufficientBalance):
        yield InsufficientBalance.__module__, InsufficientBalance.__name__
    for cls in _bases(type(exc)):
        if type(cls.__module__) is str and type(cls.__name__) is str:
            yield cls.__module__, cls.__name__


def _fact(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Give what the field *name* of an exception, a request or a response tells."""
    if name in STATUS and (status := _status(value)) is not None:
        yield "status", status
    elif name in ADDRESS and (host := _host(_address(value), bare=name.startswith("host"))):
        yield "host", host
    elif name in PROVIDER and (provider := _letters(_word(value))):
        yield "provider", provider
    elif name in HEADERS:
        yield "trace", _has_trace(value)
    elif name in REQUEST:
        yield from (fact for to, at in _members(value) if to in ADDRESS for fact in _fact(to, at))
    elif name in RESPONSE and depth < 2:
        yield from _response_facts(value, depth + 1)


def _response_facts(response: Any, depth: int) -> Iterator[tuple[str, Any]]:
    members = _all(_members, response)
    told = [fact for name, value in members for fact in _all(_fact, name, value, depth)]
    yield from told
    answered = any(kind == "status" and fact < 300 for kind, fact in told)
    for name, value in members:
        text = _flat(value, iter(range(VALUES))) if name in BODY else ""
        # A good answer may speak of anything; some relays send errors as good answers.
        if not answered or text.lstrip().startswith('{"error"'):
            yield "text", text


def _args_text(exc: BaseException) -> Iterator[str]:
    room = iter(range(VALUES))
    args = _builtin(exc, "args")
    yield ", ".join(filter(None, (_flat(one, room) for one in args[:ENTRIES])))


def _own_text(exc: BaseException) -> Iterator[str]:
    if any("__str__" in vars(cls) for cls in _bases(type(exc))):
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
    try:
        given.extend(read(*args))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001, S110  # one hostile attribute must not hide the others
        pass
    return given


def _is(value: object, *kinds: type) -> bool:
    """Do as `isinstance`, without asking *value*, which may lie or raise."""
    return issubclass(type(value), kinds)


def _is_exception(value: object) -> TypeGuard[BaseException]:
    return _is(value, BaseException)


def _builtin(exc: BaseException, name: str) -> Any:
    """Give what every exception has as *name*, whatever its class has put in the way."""
    return vars(BaseException)[name].__get__(exc)


def _bases(cls: type) -> list[type]:
    """Give *cls* and its bases, without the built-in ones."""
    return [base for base in type.mro(cls)[:BASES] if base.__module__ != "builtins"]


def _members(thing: Any) -> Iterable[tuple[str, Any]]:
    if _is(thing, dict):
        items = islice(dict.items(thing), FIELDS)
        return [(_name(name), value) for name, value in items if type(name) is str]
    return _fields(thing)


def _fields(thing: Any) -> Iterator[tuple[str, Any]]:
    """Give names and values that *thing* holds, without running code of its class.

    Names come in small letters without the underscores at their ends: what a
    property shows is mostly kept under the property's name with one.
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
        own = vars(cls)
        if _is(thing, tuple) and type(own.get("_fields")) is tuple:
            yield from zip(own["_fields"], tuple.__iter__(thing), strict=False)
        for name, value in islice(own.items(), VALUES):
            if type(value) is MemberDescriptorType:
                yield from ((_name(name), held) for held in _all(_slot, value, thing))
            elif _name(name) in KNOWN and _is(value, str, int, bytes, dict):
                yield _name(name), value


def _slot(slot: MemberDescriptorType, thing: Any) -> Iterator[Any]:
    yield slot.__get__(thing)


def _name(name: str) -> str:
    return name.strip("_").casefold()


def _flat(value: Any, room: Iterator[int], depth: int = 0) -> str:
    """Give *value* as text much like JSON; what has no place in *room* is left out."""
    if depth > DEPTH or next(room, None) is None or _is_exception(value):
        return ""
    if _is(value, str, bytes, bytearray):
        return f'"{_cut(value)}"' if depth else _cut(value)
    if _is(value, int, NoneType):
        return _plain(value)
    if _is(value, list, tuple):
        return "[" + ", ".join(_flat(one, room, depth + 1) for one in _entries(value)) + "]"
    parts = (
        f'"{name}": {_flat(held, room, depth + 1)}'
        for name, held in _pairs(value)
        if name not in SENT
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
    return islice(list.__iter__(value) if _is(value, list) else tuple.__iter__(value), VALUES)


def _cut(text: Any) -> str:
    """Give the beginning and the end of *text*, which may be of any length and kind."""
    if _is(text, str):
        head, tail = str.__getitem__(text, slice(HALF_OF_TEXT)), ""
        if str.__len__(text) > HALF_OF_TEXT:
            tail = str.__getitem__(text, slice(HALF_OF_TEXT, None))[-HALF_OF_TEXT:]
        return head + tail
    kind = bytes if _is(text, bytes) else bytearray
    if kind.__len__(text) > 2 * HALF_OF_TEXT:
        ends = (slice(HALF_OF_TEXT), slice(-HALF_OF_TEXT, None))
        return "".join(kind.__getitem__(text, end).decode(errors="replace") for end in ends)
    return kind.decode(text, errors="replace")


def _status(value: Any) -> int | None:
    if _is(value, int) and type(value) is not bool and int.bit_length(value) < 64:
        number = int.__index__(value)
    elif _is(value, str) and (
        found := re.match(r"\s*(\d{3})\b", str.__getitem__(value, slice(20)))
    ):
        number = int(found[1])
    else:
        return None
    return number if 100 <= number < 600 else None


def _word(value: Any) -> str:
    """Give *value*, a text or an enumeration's member, as text."""
    if _is(value, str):
        return _cut(value)
    return next((_word(held) for name, held in _all(_fields, value) if name == "value"), "")


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text[:60].casefold()))


def _address(value: Any) -> str:
    if _is(value, str, bytes):
        return _cut(value)
    shown = type(value).__module__.partition(".")[0] in SHOWN_AS_TEXT
    return _cut(str(value)) if shown else ""


def _host(address: str, *, bare: bool = False) -> str | None:
    if "\\" in address:
        return None
    if "://" not in address:
        if address.startswith("/") or not (bare or "." in address.partition("/")[0]):
            return None
        address = "//" + address
    try:
        host = urlsplit(address[:SHORT]).hostname
    except ValueError:
        return None
    return host.rstrip(".").casefold() if host else None


def _has_trace(headers: Any) -> bool:
    if type(headers).__module__.partition(".")[0] == "multidict":
        return "x-ds-trace-id" in headers
    return "x-ds-trace-id" in _flat(dict(_members(headers)), iter(range(VALUES))).casefold()


# --- From an exception to those that it wraps --------------------------------------------------


def _wrapped(exc: object) -> Iterator[BaseException]:
    """Give *exc* and all that it wraps, nearest first, each once."""
    waiting: deque[object] = deque([exc])
    seen: set[int] = set()
    while waiting and len(seen) < EXCEPTIONS:
        one = waiting.popleft()
        if _is_exception(one) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting.extend(_all(_inner, one))


def _inner(exc: BaseException) -> Iterator[object]:
    yield _cause(exc)
    yield _context(exc)
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
    elif _is(value, dict, list, tuple) and depth < 3:
        entries = dict.values(value) if _is(value, dict) else _entries(value)
        for one, _ in zip(entries, room, strict=False):
            yield from _held(one, room, depth + 1)
    elif not _is(value, str, bytes, int, float, NoneType):
        yield from (one for _, one in _all(_fields, value) if _is(one, BaseException))


def _cause(exc: BaseException) -> BaseException | None:
    cause: BaseException | None = _builtin(exc, "__cause__")
    return cause


def _context(exc: BaseException) -> BaseException | None:
    """Give what was being handled when *exc* was raised, unless *exc* speaks of the code around."""
    kind = type(exc)
    around = kind.__module__ == "builtins" and issubclass(kind, AROUND)
    if around or kind.__name__ == "CancelledError":
        return None
    context: BaseException | None = _builtin(exc, "__context__")
    return context
