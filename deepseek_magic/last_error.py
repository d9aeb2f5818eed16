"""A cell that failed, as a question: its text, a bounded traceback, no keys.

What variables hold is not in it, but for what the error's own message quotes.
"""

from __future__ import annotations

import linecache
import platform
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DeepSeekError
from .preflight import without_keys

if TYPE_CHECKING:
    from .wire import Key

SOURCE = 8000
"""Characters of the cell that are sent."""
MESSAGE = 2000
"""Characters of an error's own message that are sent."""
CALLS = 16
"""Calls of one traceback that are sent."""
CHAIN = 3
"""Errors that are sent of those that led to one another."""

_CELL = re.compile(r"<ipython-input-|[\\/]ipykernel_\d+[\\/]")
_SHELL = re.compile(r"[\\/](IPython[\\/]core|ipykernel)[\\/]")
_INSTALLED = re.compile(r".*[\\/](?:site|dist)-packages[\\/](.*)", re.DOTALL)
_ASKED = (
    "This cell of a Jupyter notebook failed. Say in a sentence or two why. Then give the whole "
    "corrected cell as one block of code."
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that failed: its text, its error as text, and what it ran on."""

    source: str
    error: str
    versions: tuple[str, ...]


def failure_of(source: str, error: BaseException) -> Failure | None:
    """Take down how a cell with this *source* failed; nothing of the *error* is kept alive.

    An interrupt is no failure, and an error of ours tells itself what to do.
    """
    if isinstance(error, DeepSeekError) or not isinstance(error, Exception):
        return None
    chain = list(_chain(error))
    told = [_told(one) for one in chain[-CHAIN:]]
    files = {frame.filename for one in chain for frame in traceback.extract_tb(one.__traceback__)}
    return Failure(source, "\nwhich led to:\n".join(told), tuple(_versions(files)))


def source_of(error: BaseException) -> str:
    """Give the text of the cell that *error* comes from, as far as Python knows it; else ""."""
    for frame in traceback.extract_tb(error.__traceback__):
        if _CELL.search(frame.filename):
            return "".join(linecache.getlines(frame.filename))
    return ""


def question_of(failure: Failure, own: Key | None = None) -> str:
    """Ask why a cell failed and how it is corrected; keys are taken out, the *own* one too."""
    source = _fenced(_shortened(failure.source.strip(), SOURCE), "python")
    text = (
        f"{_ASKED}\n\nThe cell:\n{source}\n\n"
        f"Its error:\n{_fenced(failure.error)}\n\nIt ran on {', '.join(failure.versions)}."
    )
    return without_keys(text, own)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give the errors that led to *error*, and itself, oldest first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    seen = [error]
    while before is not None and before not in seen:
        seen.append(before)
        before = before.__cause__ or (None if before.__suppress_context__ else before.__context__)
    yield from reversed(seen)


def _told(error: BaseException) -> str:
    calls = [_call(frame) for frame in traceback.extract_tb(error.__traceback__) if _counts(frame)]
    only = "".join(traceback.TracebackException.from_exception(error).format_exception_only())
    return "\n".join([*_middle_left_out(calls), _shortened(only.strip(), MESSAGE)])


def _counts(frame: traceback.FrameSummary) -> bool:
    return not _SHELL.search(frame.filename)


def _call(frame: traceback.FrameSummary) -> str:
    name = "" if frame.name.startswith("<") else f" in {frame.name}"
    line = f": {frame.line}" if frame.line else ""
    return f"{_place(frame.filename)}, line {frame.lineno}{name}{line}"


def _place(filename: str) -> str:
    """Name a file without the folders of this machine."""
    if _CELL.search(filename):
        return "a cell"
    installed = _INSTALLED.fullmatch(filename)
    return installed[1] if installed else Path(filename).name


def _middle_left_out(calls: Sequence[str]) -> list[str]:
    if len(calls) <= CALLS:
        return list(calls)
    first = CALLS // 3
    left_out = f"… {len(calls) - CALLS:,} calls left out …"
    return [*calls[:first], left_out, *calls[first - CALLS :]]


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    first = 3 * most // 4
    return f"{text[:first]}\n… {len(text) - most:,} characters left out …\n{text[first - most :]}"


def _fenced(text: str, language: str = "") -> str:
    """Put *text* between fences longer than any in it."""
    longest = max(map(len, re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _versions(files: Iterable[str]) -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for name in sorted({Path(installed[1]).parts[0] for installed in _installed(files)}):
        version = getattr(sys.modules.get(name.removesuffix(".py")), "__version__", None)
        if isinstance(version, str) and len(version) <= 30:
            yield f"{name} {version}"


def _installed(files: Iterable[str]) -> Iterator[re.Match[str]]:
    for file in files:
        if _counts(traceback.FrameSummary(file, 0, "")) and (found := _INSTALLED.fullmatch(file)):
            yield found
