"""What every output is made of: words for figures and times, and HTML that is escaped.

The HTML carries its styles inline and says everything in words, so that it is
readable on light and dark pages, in saved notebooks, and where styles are stripped.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING

from .markdown import to_terminal
from .wire import EXACT
from .words import later, t, tn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Shown:
    """One output, as HTML and as the text that stands for it elsewhere."""

    html: str
    text: str


# Words


def money(value: Decimal | None, currency: str | None, *, rounding: str = ROUND_HALF_UP) -> str:
    """Write an amount with as many digits as it takes to see it: "0.0012 CNY".

    A positive amount never reads 0.00; None is "unknown".
    """
    if value is None:
        return t("unknown")
    size = value.copy_abs()
    if size >= 1 or not size:
        places = 2
    elif size >= Decimal("0.01"):
        places = 3
    else:
        places = 1 - size.adjusted()
    # The notebook's own context may be too small for it.
    rounded = value.quantize(Decimal(1).scaleb(-places, EXACT), rounding, EXACT)
    whole, _, digits = f"{rounded:,.{places}f}".partition(".")
    number = f"{whole}.{digits.rstrip('0').ljust(2, '0')}"
    return f"{number} {one_line(currency, 20)}" if currency else number


def at_least(value: Decimal | None, currency: str | None) -> str:
    """Write what is left: as `money` does, but never more than there is."""
    return money(value, currency, rounding=ROUND_DOWN)


MINUTE = 60
_UNITS = (
    (86400, 3600, later("{n} d"), later("{n} d {rest} h")),
    (3600, MINUTE, later("{n} h"), later("{n} h {rest} min")),
    (MINUTE, 1, later("{n} min"), later("{n} min {rest} s")),
)


def duration(seconds: float) -> str:
    """Write a length of time in its two largest units: "3.2 s", "4 min 10 s", "2 h 5 min"."""
    if (exact := round(max(seconds, 0), 1)) < 10:
        return t("{n} s", n=f"{exact:.1f}")
    whole = round(seconds)
    for size, below, alone, both in _UNITS:
        if whole >= size:
            rest = whole % size // below
            return t(both if rest else alone, n=whole // size, rest=rest)
    return t("{n} s", n=whole)


def moment(at: datetime) -> str:
    """Write a moment to the second, as the reader's clock shows it."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def clock_time(at: datetime, now: datetime) -> str:
    """Write the reader's time of day, with the day where it is not that of *now*."""
    local, today = at.astimezone(), now.astimezone().date()
    names = {-1: t("yesterday {time}"), 0: "{time}", 1: t("tomorrow {time}")}
    form = names.get((local.date() - today).days, f"{local:%Y-%m-%d} {{time}}")
    return form.format(time=f"{local:%H:%M}")


def week_time(at: datetime, now: datetime) -> str:
    """Write the reader's time of day, with the day of the week where it is not that of *now*."""
    local, today = at.astimezone(), now.astimezone().date()
    clock = f"{local:%H:%M}"
    return clock if local.date() == today else f"{t(_DAYS[local.weekday()])} {clock}"


_DAYS = (
    *(later("Monday"), later("Tuesday"), later("Wednesday"), later("Thursday")),
    *(later("Friday"), later("Saturday"), later("Sunday")),
)


def count(number: int | None) -> str:
    """Write a number with its thousands apart; None is "unknown"."""
    return t("unknown") if number is None else f"{number:,}"


def in_tokens(number: int) -> str:
    """Write a number of tokens: "1 token", "2,000 tokens"."""
    return tn(number, "{n:,} token", "{n:,} tokens")


def in_characters(number: int) -> str:
    """Write a number of characters."""
    return tn(number, "{n:,} character", "{n:,} characters")


def in_pictures(number: int) -> str:
    """Write a number of pictures."""
    return tn(number, "{n:,} picture", "{n:,} pictures")


def in_days(number: int) -> str:
    """Write a number of days."""
    return tn(number, "{n:,} day", "{n:,} days")


def in_rows(number: int) -> str:
    """Write a number of rows."""
    return tn(number, "{n:,} row", "{n:,} rows")


def one_line(text: str, limit: int = 500) -> str:
    """Bring a foreign *text* onto one line of bounded length."""
    line = " ".join(to_terminal(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


# Elements


class Markup(str):
    """HTML that was made by `el`, or by `markdown`, and is not escaped again."""

    __slots__ = ()


QUIET = "opacity:.7;font-size:.9em"
BOX = (
    "border:1px solid rgba(128,128,128,.5);border-left-width:4px;border-radius:4px;"
    "padding:.6em .9em;margin:.4em 0;max-width:46em;overflow-wrap:anywhere"
)
BADGE = (
    "color:#fff;border-radius:.7em;padding:.1em .6em;font-weight:600;font-size:.9em;"
    "white-space:nowrap"
)
# Widgets set a line height of their own, by far too large for a table.
CELL = (
    "padding:.15em .9em .15em 0;border:0;vertical-align:top;background:transparent;line-height:1.4"
)
LEFT = f"{CELL};text-align:left"
_NEW_TAB = MappingProxyType({"target": "_blank", "rel": "noopener noreferrer"})


def el(tag: str, style: str, *content: str, **attributes: str) -> Markup:
    """Make an element; all that is not markup already is escaped."""
    values = {**({"style": style} if style else {}), **attributes}
    names = "".join(
        f' {name}="{html.escape(to_terminal(value))}"' for name, value in values.items()
    )
    return Markup(f"<{tag}{names}>{joined(content)}</{tag}>")


def joined(content: Iterable[str]) -> Markup:
    """Put pieces together, escaping those that are not markup."""
    pieces = (
        piece if isinstance(piece, Markup) else html.escape(to_terminal(piece)) for piece in content
    )
    return Markup("".join(pieces))


def outer(style: str, *content: str) -> Markup:
    """Make the outermost element; nothing in it is typeset as math."""
    return el("div", style, *content, **{"class": "tex2jax_ignore mathjax_ignore"})


def link(name: str, address: str, style: str) -> Markup:
    """Make a link; an address that is not of the web is only shown."""
    if re.match(r"https?://[^/\\?#\s]", address, re.IGNORECASE):
        return el("a", style, name, href=address, **_NEW_TAB)
    return joined([f"{name}: ", address])


def pairs(rows: Iterable[tuple[str, str]]) -> Markup:
    """Make a table of names and values."""
    body = [
        el("tr", "background:transparent", *_pair(name, value)) for name, value in rows if value
    ]
    return el("table", "border:0;border-collapse:collapse;margin:.4em 0", el("tbody", "", *body))


def _pair(name: str, value: str) -> tuple[Markup, Markup]:
    return (
        el("td", f"{LEFT};opacity:.7;white-space:nowrap", name),
        el("td", f"{LEFT};min-width:8em", value),
    )


_CODE = (
    "background:rgba(128,128,128,.18);color:inherit;border-radius:3px;padding:.05em .35em;"
    "user-select:all"
)
_TO_PASTE = re.compile(r"(?:: |：)([-%][^()（）]*)\Z")
_SHORT = 24
LIST = "margin:.2em 0;padding-left:1.4em;list-style:disc"


def with_code(text: str) -> str:
    """Set off what can be pasted at the end of a sentence."""
    found = _TO_PASTE.search(text)
    if found is None:
        return text
    # A short one is not torn apart at its hyphens; a long one has to fit into a narrow page.
    style = _CODE if len(found[1]) > _SHORT else f"{_CODE};white-space:nowrap"
    return joined([text[: found.start(1)], el("code", style, found[1])])


def cheaper(steps: Sequence[str]) -> Markup:
    """List cheaper ways to ask; nothing where there are none."""
    if not steps:
        return Markup()
    items = (el("li", "", with_code(step)) for step in steps)
    return el("div", "margin:.5em 0 .1em", t("Cheaper:"), el("ul", LIST, *items))


def cheaper_lines(steps: Sequence[str]) -> list[str]:
    """Write the same as lines of text."""
    return [*([t("Cheaper:")] if steps else ()), *(f"- {one_line(step)}" for step in steps)]


def aligned(rows: Iterable[tuple[str, str]]) -> str:
    """Write names and values as lines of text."""
    kept = [(one_line(name, 30), value) for name, value in rows if value]
    width = max((columns(name) for name, _ in kept), default=0)
    return "\n".join(f"{padded(name, width)}  {one_line(value)}" for name, value in kept)


def columns(text: str) -> int:
    """Tell how many columns a *text* takes where each letter has one, and a Chinese one two."""
    return sum(1 + (unicodedata.east_asian_width(char) in {"W", "F"}) for char in text)


def padded(text: str, width: int, *, left: bool = False) -> str:
    """Fill *text* up to *width* columns; with *left* from the left."""
    gap = " " * (width - columns(text))
    return gap + text if left else text + gap


# A static output, and the widgets below it

STATIC = "deepseek-magic-static"
"""The class of an output that has widgets in the next one, and stays when they are dead."""
LIVING = "deepseek-magic-living"
"""The class of the box of these widgets."""


def _sheet() -> str:
    """Make the style sheet which hides dead widgets and lets words follow their state.

    Widgets die with their kernel. In the page they then bear the class
    "disconnected"; in one that was loaded anew stands an error of the front end
    in their place, or "Loading widget..." for ever where there is no kernel.
    """
    child, output = ".jp-OutputArea-child", "> .jp-OutputArea-output"
    alive = f"{output} > .{LIVING}:not(.jupyter-widgets-disconnected)"
    dead = f"{output} > .{LIVING}.jupyter-widgets-disconnected, {output}.jupyter-widgets"
    ours = f"{child}:has({output} > .{STATIC})"
    above_alive, above_dead = (
        f"{child}:has({_next_to(child, state)}) {output} > .{STATIC}" for state in (alive, dead)
    )
    return "".join(
        [
            f"{ours} + {child}:has({dead}) {{display: none}}",
            f"{ours} + {child} {output}:not([data-mime-type]):not(:has(*)) {{display: none}}",
            f"{above_alive} [data-alive]::before {{content: attr(data-alive)}}",
            f"{above_dead} [data-dead]::before {{content: attr(data-dead)}}",
            f"{above_dead} {{display: block}}",
        ]
    )


def _next_to(child: str, state: str) -> str:
    return ", ".join(f"+ {child} {part}" for part in state.split(", "))


SHEET = f"data:text/css,{_sheet()}"
"""The style sheet, as the address of a <link>.

Not in a <style>: where a notebook is exported to Markdown, GitHub shows the text of that.
"""


def above_widgets(shown: Shown, dead: str, name: str = "") -> Shown:
    """Make *shown* ready to stand above widgets of ours; *dead* follows when they are dead.

    *name* is one more class of the element.
    """
    return Shown(companion("", Markup(shown.html), dead=dead, name=name), shown.text)


def companion(style: str, *content: str, dead: str, name: str = "") -> Markup:
    """Make a static output; the words *dead* follow it once the widgets below are dead.

    They are no text of the page, so that it is right wherever no style applies.
    """
    gone = el("div", f"{QUIET};margin-top:.3em", **{"data-dead": dead})
    return el(
        "div",
        style,
        *content,
        gone,
        Markup(f'<link rel="stylesheet" href="{html.escape(SHEET)}">'),
        **{"class": " ".join([STATIC, *name.split(), "tex2jax_ignore mathjax_ignore"])},
    )


def while_alive(words: str) -> Markup:
    """Make words that are shown only while the widgets below are alive."""
    return el("span", "", **{"data-alive": words})
