"""The `{{expressions}}` of a cell as text.

An expression ends at the first `}}` at which it is Python; single braces are
plain text, so JSON, LaTeX and code need no care.
"""

from __future__ import annotations

import builtins
import re
import warnings
from collections.abc import Awaitable
from contextlib import suppress
from inspect import iscoroutine
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from .describe import describe
from .errors import InvalidOption, nearest, one_line
from .wire import Answer
from .words import later, t

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import CodeType


class Placeholder(NamedTuple):
    """One `{{expression}}`, from *start* to *end* of its text."""

    start: int
    end: int
    source: str
    code: CodeType
    spec: str


NEXT = later("To send braces as they stand: %%deepseek --raw")
"""How each error here ends."""

_TRIES = 25
_LENGTH = 20_000
SPEC = re.compile(
    r"(?=.)(.?[<>=^])?[-+ ]?#?0?\d{0,4}[,_]?(\.\d{1,3})?[bcdeEfFgGnosxX%]?"
    r"|[^{}\"'\n]{0,40}%[A-Za-z][^{}\"'\n]{0,40}"  # a date
)
_LEXEME = re.compile(
    r'("""|\'\'\')(?:\\.|(?!\1).)*\1'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*'"
    r"|[([{)\]}\"']",
    re.DOTALL,
)


def expand(text: str, namespace: Mapping[str, object], *, bound: int = 1000) -> str:
    """Put the value of each `{{expression}}` of *text* in its place, all of them or none.

    *bound* is about how many tokens one value may take; strings and answers
    are given whole. *namespace* stays as it is, but for what an expression does.
    """
    if "{{" not in text:
        return text
    placeholders = _placeholders(text)
    names = dict(namespace)  # `eval` adds `__builtins__` to what it is given
    parts, after = list[str](), 0
    for found in placeholders:
        parts += text[after : found.start], told(found, names, bound)
        after = found.end
    return "".join((*parts, text[after:]))


def _placeholders(text: str) -> list[Placeholder]:
    found, start = list[Placeholder](), text.find("{{")
    known: dict[str, tuple[CodeType, str]] = {}
    with warnings.catch_warnings():
        # Such as "invalid escape sequence", which is about a text that may be no Python at all.
        warnings.simplefilter("ignore")
        while start >= 0:
            end, source, code, spec = compiled(text, start + 2, known)
            known[source] = code, spec
            found.append(Placeholder(start, end + 2, source, code, spec))
            start = text.find("{{", end + 2)
    return found


def compiled(
    text: str, start: int, known: dict[str, tuple[CodeType, str]]
) -> tuple[int, str, CodeType, str]:
    """Find the first `}}` at which the text from *start* is an expression.

    After it may stand a format, as in an f-string: `{{price:.2f}}`.

    There is one at most: after an expression, the `}}` closes what nothing
    opened. So it does not matter in which order the candidates are tried, and
    counting brackets finds the end of a long one at once.
    """
    first: tuple[str, Exception] | None = None
    for end in chain(_first_ends(text, start), _balanced_end(text, start)):
        source = text[start:end].strip()
        try:
            return end, source, *(known.get(source) or (_code(source), ""))
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            first = first or (source, error)
        if (formatted := _formatted(source)) is not None:
            return end, source, *formatted
    if first is not None and (unfit := _unfit_format(first[0])) is not None:
        raise unfit
    raise _not_python(text[start : start + 200], *(first or (None, None)))


def _code(source: str) -> CodeType:
    return compile(source, "{{ }}", "eval", 0, True)


def _formatted(source: str) -> tuple[CodeType, str] | None:
    """Read an expression with a format after it; None where *source* is none."""
    for colon in islice(re.finditer(":", source[:_LENGTH]), _TRIES):
        spec = source[colon.end() :]
        if not SPEC.fullmatch(spec):
            continue
        with suppress(SyntaxError, ValueError, MemoryError, RecursionError):
            return _code(source[: colon.start()].strip()), spec
    return None


def _unfit_format(source: str) -> InvalidOption | None:
    """Tell that what stands after an expression is no format; None where it is another mistake."""
    before, colon, spec = source[:_LENGTH].rpartition(":")
    if not colon or not re.fullmatch(r"[^\s\[\](){}'\"]{1,20}", spec):
        return None
    with suppress(SyntaxError, ValueError, MemoryError, RecursionError):
        _code(before.strip())
        what = t(
            "{expression} ends in {spec}, which is no format such as :.2f or :,.0f.",
            expression=braced(source),
            spec=one_line(f":{spec}", 40),
        )
        return _failure(what)
    return None


def _first_ends(text: str, start: int) -> Iterator[int]:
    ends = (found.start() for found in re.compile(r"(?=}})").finditer(text, start))
    for position, end in enumerate(islice(ends, _TRIES)):
        if position and end - start > _LENGTH:
            return
        yield end


def _balanced_end(text: str, start: int) -> Iterator[int]:
    depth = 0
    for lexeme in _LEXEME.finditer(text, start):
        mark = lexeme[0]
        if mark in {"(", "[", "{"}:
            depth += 1
        elif mark in {")", "]", "}"}:
            depth -= 1
        if mark in {'"', "'"}:  # never closed
            return
        if depth < 0:
            if text.startswith("}}", lexeme.start()):
                yield lexeme.start()
            return


def braced(source: str) -> str:
    """Write an expression as it stands in a prompt, the beginning of a long one."""
    return f"{{{{{one_line(source, 40)}}}}}"


def _failure(what: str, reason: str = "") -> InvalidOption:
    found = InvalidOption(what, t("Nothing was sent."), t(NEXT))
    found.reason = reason
    return found


def _fails(source: str, reason: str) -> InvalidOption:
    what = t("{expression} fails: {reason}.", expression=braced(source), reason=reason)
    return _failure(what, reason)


def _not_python(rest: str, source: str | None, error: Exception | None) -> InvalidOption:
    if source is None:
        begun = "{{" + one_line(rest, 40)
        return _failure(t('"{text}" has no {brackets} that closes it.', text=begun, brackets="}}"))
    if not source:
        what = t("{expression} is empty; it takes a Python expression.", expression=braced(source))
        return _failure(what)
    reason = error.msg if isinstance(error, SyntaxError) else error
    return _failure(
        t(
            "{expression} is not a Python expression ({reason}).",
            expression=braced(source),
            reason=one_line(str(reason), 80),
        )
    )


def text_of(value: object, bound: int) -> str:
    """Give what stands for *value* in a prompt."""
    return value.text if isinstance(value, Answer) else describe(value, bound=bound)


def told(
    placeholder: Placeholder, names: dict[Any, object], bound: int, *, none: str | None = None
) -> str:
    """Evaluate a placeholder in *names*, and give its value as text; for None, *none* if given."""
    source = placeholder.source
    try:
        value = eval(placeholder.code, names)  # noqa: S307  # the user's own code, as in any cell
        if value is None and none is not None:
            return none
        if not isinstance(value, Awaitable):
            if placeholder.spec:
                return format(value, placeholder.spec)
            return text_of(value, bound)
    except NameError as error:
        if error.name is None or error.name in names or hasattr(builtins, error.name):
            raise _fails(source, _reason(error)) from error
        near = nearest(error.name, [n for n in names if isinstance(n, str) and n[:1] != "_"])
        if near is None and f"{error.name}(" in source:
            near = nearest(error.name, [n for n in dir(builtins) if n[:1] != "_"])
        name, near = one_line(error.name, 40), one_line(near or "", 40)
        raise _fails(
            source,
            t("there is no name {name} (did you mean {near}?)", name=name, near=near)
            if near
            else t("there is no name {name}", name=name),
        ) from error
    except (Exception, SystemExit) as error:
        raise _fails(source, _reason(error)) from error
    if iscoroutine(value):
        value.close()
    raise _failure(
        t(
            "{expression} has to be awaited; await it in a cell above and put the result here.",
            expression=braced(source),
        )
    )


def _reason(error: BaseException) -> str:
    try:
        text = one_line(str(error), 100)
    except Exception:  # noqa: BLE001  # an error's own code may fail in any way
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
