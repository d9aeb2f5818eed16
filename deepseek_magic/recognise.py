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

What each says, and what it wraps, is gathered by `evidence.py`, which runs no foreign
code but `__str__`, reads no stream and does a bounded amount of work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import InsufficientBalance
from .evidence import (
    HALF_OF_TEXT,
    SHORT,
    Evidence,
    cause_of,
    context_of,
    evidence,
    host_of,
    letters,
    wrapped,
)

CHARACTERS = 1_000_000
TELLING = 10_000
"""So many exceptions that may tell something are looked at."""
REPEATS = 20
"""So many steps down are looked for the failure whose words an exception repeats."""

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
    r"deepinfra|novita|groq|nebius|sambanova|cerebras|huggingface|volcengine|dashscope|aimlapi|"
    r"moonshot)|硅基流动|火山引擎|火山方舟|百炼|阿里云|腾讯云|华为云|百度|智谱|月之暗面",
    re.IGNORECASE,
)
PASSED_ON = re.compile(r"(?:^|\.)helicone\.ai$")
"""Hosts that hand on the caller's own key and carry the provider's name in their own."""
PROTOCOLS = frozenset({
    "", "openai", "openailike", "customopenai", "custom", "openaicompatible", "anthropic",
    "litellm", "litellmproxy", "unknown",
})  # fmt: skip
"""What a provider field says of the way a request is written, not of who answers it."""
DEEPSEEK_NAMES = frozenset({
    "deepseek", "deepseekai", "deepseekapi", "deepseekchat", "deepseekcom", "deepseekofficial",
})  # fmt: skip

PACKAGE = re.compile(r"(?:[a-z]+_|py)?deepseek(?:_?(?:api|client|sdk|python|ai|llm|chat))?")
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
    r"(?:(?:status|http(?:/[\d.]{1,3})?|code)['\"]?[\s:=(\[]{0,4}['\"]?402\b(?!\.\d)"
    r"(?!\s{1,3}(?:rows?|tokens?|items?|m?s|seconds|lines|files|characters|times)\b)|"
    r"(?:error|failed|failure|refused|responded|returned|replied|answered|response|with|got|"
    r"->|=>|→)['\"]?[\s:=(\[]{0,4}['\"]?402\b(?!\.\d)"
    r"(?!\s{1,3}(?!payment|error|insufficient|from|for|at|on|and|while|when|after|during)\w)|"
    r"\b402['\"]?[\s:,(\[-]{0,4}(?:payment required|client error|insufficient.?balance|error\b|"
    r"from\b|message=|\{)|^\s{0,4}\[402\]|\(402\)[\s.]{0,4}$|(?:错误码|状态码|返回|报错)\s?[:：]?\s?402|"
    r"402\s?余额)",
    re.IGNORECASE | re.MULTILINE,
)
MESSAGE = re.compile(
    r"(?:^|[-:=–—\"'>,\])：，。\d])\s{0,3}(?:insufficient[ _-]?balance)"
    r"(?=\s*(?:$|[\"'.!;,}\]<)(\\|]))|余额不足|based on your remaining balance",
    re.IGNORECASE | re.MULTILINE,
)
OPENAI_LINE = re.compile(
    r"Error code: 402 - Insufficient Balance(?=\s*(?:$|[\"'\\,;)\]}<(|]))", re.MULTILINE
)
DEEPSEEK_SPEAKS = re.compile(
    r"(?<![A-Za-z0-9_/.-])deepseek(?:(?:api)?(?:exception|error)\b|\.[\w.]{0,60}(?:exception|error)\b|"
    r"[ _-]?(?:api|error|request|call|server)\b|"
    r"(?=\s?\]|:\s|：| (?:responded|returned|answered|refused|failed|said|says)\b|"
    r"\s?(?:接口|调用|请求|返回|报错)| ?\(?402|\s?[账帐]?[户号]?余额))|"
    r"\bprovider['\"]?[\s:=]{1,3}['\"]?deepseek(?![\w/.-])",
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


def is_insufficient_balance(exc: object) -> bool:
    """Say whether *exc* is, or wraps, DeepSeek's refusal for want of money.

    It never raises, sends nothing, changes nothing and reads no stream.
    """
    try:
        return _decide(exc)
    except BaseException:  # noqa: BLE001  # a verdict on a failure must not be another failure
        return False


def _decide(exc: object) -> bool:
    room, left = CHARACTERS, TELLING
    for one in wrapped(exc):
        if issubclass(type(one), InsufficientBalance):
            return True
        found = evidence(one)
        if any(rule(found) for rule in BY_ITSELF):
            return True
        if any(rule(found) for rule in BY_WORDS):
            if found.hosts or not _words_from_elsewhere(one, found):
                return True
            room -= HALF_OF_TEXT
        left -= 1
        room -= sum(map(len, found.texts))
        if room < 0 or left < 0:
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
    if found.hosts or _of_another(found):
        return False
    if found.statuses and 402 not in found.statuses:
        return _names_deepseek(found) and any(map(_api_message, found.bodies))
    own = not any(
        '"type":' in body and _api_message(body) and not _api_body(body) for body in found.bodies
    )
    return any(_line_says_so(line, own) for text in found.texts for line in _statements(text))


BY_ITSELF = (_by_class, _at_host, _by_provider, _by_trace, _with_own_key)
BY_WORDS = (_by_body, _by_text)


def _words_from_elsewhere(exc: BaseException, words: Evidence) -> bool:
    """Say whether *exc*, which names no host, repeats the words of another company's failure."""
    for _ in range(REPEATS):
        cause = cause_of(exc)
        inner = cause if cause is not None else context_of(exc)
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
    cut = code is not None and "invalid_request_error".startswith(code)
    if not (cut or code in {None, "null", "none", "402"}):
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
    named = '"provider_name":' in body or '"providername":' in body
    return named or bool(_body_providers(body) - DEEPSEEK_NAMES - PROTOCOLS)


def _own_key(body: str) -> bool:
    return any(
        flag == "true" or source in {"byok", "user", "own"}
        for flag, source in OWN_KEY.findall(body)
    )


def _body_providers(body: str) -> set[str]:
    return {letters(name) for name in BODY_PROVIDER.findall(body)}


def _names_deepseek(found: Evidence) -> bool:
    lines = [line for text in found.texts for line in _statements(text)]
    return any(
        _first_host(line) == "deepseek.com" or DEEPSEEK_SPEAKS.search(line) for line in lines
    )


def _line_says_so(line: str, own: bool) -> bool:
    """Say whether *line* tells it all; *own* is False where a body is of another form than ours."""
    host = _first_host(line)
    if host not in {None, "deepseek.com"} or SELLER_NAMES.search(line):
        return False
    refused, said = STATUS_402.search(line), MESSAGE.search(line)
    if host or DEEPSEEK_SPEAKS.search(line):
        return bool(refused or said)
    return own and bool(OPENAI_LINE.search(line))


def _statements(text: str) -> Iterable[str]:
    return (text,) if len(text) <= SHORT else text.splitlines()


def _first_host(text: str) -> str | None:
    """Give the host of the first address in *text*, any of DeepSeek's as `deepseek.com`."""
    if (found := URL.search(text)) is None:
        return None
    address, host, bare = found.groups()
    name = host_of("https://" + address) if address else (host or bare).casefold()
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
