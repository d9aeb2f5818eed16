"""What a user reads, in English or in Simplified Chinese.

The English text stands where it is used and is the key of the other language's.
Which one is shown is the process's, as its locale is, and not of one session: it is
read from the environment each time, so that it can change while a notebook is open.
"""

from __future__ import annotations

import json
import locale
import os
import re
import textwrap
import unicodedata
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

Language = Literal["en", "zh"]

CATALOGS = {"zh": Path(__file__).parent / "zh_CN.json"}
"""Where the texts of the other language are."""

VARIABLE = "DEEPSEEK_MAGIC_LANGUAGE"
LOCALE = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
"""The first of these that is set tells the language, in this order, as in other programs."""


def t(text: str, /, **values: object) -> str:
    """Give *text* in the user's language, its `{names}` filled in from *values*.

    Without values nothing is filled in, and braces are plain text. A *text* that is
    not in the catalog, such as one that comes from elsewhere, stays as it is.
    """
    said = text if language() == "en" else catalog("zh").get(text, text)
    return said.format(**values) if values else said


def tn(number: int, one: str, many: str, /, **values: object) -> str:
    """Give *one* or *many* as the *number* of things wants it, which is `{n}` in both.

    Chinese has a text for *many* alone.
    """
    return t(one if number == 1 and language() == "en" else many, n=number, **values)


def later(text: str, /) -> str:
    """Give *text* as it is: a constant that is shown, in the user's language, by `t` later."""
    return text


def sentences(*parts: str) -> str:
    """Put sentences after one another, as the language does; empty ones are left out."""
    return (" " if language() == "en" else "").join(filter(None, parts))


def listed(parts: list[str] | tuple[str, ...]) -> str:
    """Write things one after another: "a, b, c"."""
    return (", " if language() == "en" else "、").join(parts)


# Signs that end something do not begin a line, and those that begin something do not end one.
_PIECE = re.compile(r"[（“《]*(?:[!-~…]+|[^\s（“《])[，。：；？！、）”》…]*")


def wrapped(text: str, columns: int) -> list[str]:
    """Break *text* into lines of so many *columns*; a character of Chinese takes two."""
    if language() == "en":
        return textwrap.wrap(text, columns, break_on_hyphens=False)
    lines = [""]
    for piece in re.finditer(rf"(\s*)({_PIECE.pattern})", text):
        if _columns(lines[-1] + piece[0]) <= columns:
            lines[-1] += piece[0]
        else:
            lines.append(piece[2])
    return lines


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WFA" else 1 for c in text)


def language() -> Language:
    """Give the language of this process: what was set, else the locale's, else English."""
    return _read(chosen() or next(filter(None, map(os.environ.get, LOCALE)), None))


def set_language(name: str) -> None:
    """Show *name*, "en" or "zh", from now on in this process and those it starts.

    "auto" goes by the locale. Another name is a `ValueError`.
    """
    put_back(None if known(name) == "auto" else name)


def known(name: object) -> str:
    """Give *name* if it is "auto" or a language; anything else is a `ValueError`."""
    if not isinstance(name, str) or name not in {"auto", *get_args(Language)}:
        raise ValueError(t('The language is "auto", "en" or "zh", and not "{name}".', name=name))
    return name


def chosen() -> str | None:
    """Give the language that was set in this process or before it; None is the locale's."""
    return os.environ.get(VARIABLE)


def put_back(before: str | None) -> None:
    """Set what `chosen` gave *before*."""
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before


@cache
def _read(name: str | None) -> Language:
    if name is None:  # as on Windows, where the locale is no variable
        name = locale.getlocale()[0] or ""
    first = name.split(":")[0].lower()
    return "zh" if first.startswith(("zh", "chinese")) else "en"


@cache
def catalog(name: Language) -> Mapping[str, str]:
    """Read the texts of the language *name*, by their English ones."""
    found: dict[str, str] = json.loads(CATALOGS[name].read_text(encoding="utf-8"))
    return found
