"""The bar that shows how far a question for every row is; `tqdm` draws it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from html import escape
from typing import TYPE_CHECKING, Any

from .elements import duration, money
from .words import t

if TYPE_CHECKING:
    from .jobs import Progress

Told = Callable[["Progress"], object]

SOON = 0.3
"""Seconds between two looks of a bar that is drawn in place."""
SELDOM = 10.0
"""The same where each look is one more line, as in the log of a script."""
FORM = "{percentage:3.0f}%|{bar}| {rows}{postfix}"


class Bar:
    """A bar of tqdm's, told how far it is; the last word is drawn when it is closed.

    *stays* says whether it is left standing in a terminal or a log. Where it is a
    widget, *show* is given that as soon as there is something to be seen.
    """

    def __init__(self, *, stays: bool, show: Callable[[Any], object]) -> None:
        kind = _tqdm()
        self.is_widget = "notebook" in _bases(kind)
        more = {"total": 1, "display": False} if self.is_widget else {"total": None}
        form = FORM.replace("{rows}", t("{done} rows", done="{n_fmt}/{total_fmt}"))
        self._drawn = kind(leave=stays, bar_format=form, dynamic_ncols=True, **more)
        in_place = self.is_widget or _is_terminal(self._drawn)
        self._pause = SOON if in_place else SELDOM
        self._next = time.monotonic() + (0.0 if in_place else SELDOM)
        self._show = show
        self.latest: Progress | None = None

    def __call__(self, now: Progress) -> None:
        """Draw how far it is, if it is time."""
        is_first, self.latest = self.latest is None, now
        if is_first and self.is_widget:
            self._draw(now)
            self._show(self._drawn.container)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._pause
            self._draw(now)

    def _draw(self, now: Progress) -> None:
        self._drawn.total, self._drawn.n = now.rows, now.done
        if self.is_widget:
            self._draw_widget(now)
            return
        self._drawn.set_postfix_str(words(now), refresh=False)
        self._drawn.refresh()

    def _draw_widget(self, now: Progress) -> None:
        """Draw it with blanks at which a narrow page may break the line; tqdm's never break."""
        part, whole, text = self._drawn.container.children
        whole.max, whole.value = now.rows or 1, now.done
        part.value = f"{now.done / now.rows:.0%}" if now.rows else ""
        text.value = f'<span style="line-height:1.4;white-space:normal">{escape(line(now))}</span>'

    def close(self) -> None:
        """Draw the last word, and let go of the bar."""
        if self.latest is not None:
            self._draw(self.latest)
        self._drawn.close()
        if self.is_widget:
            with suppress(Exception):  # the page may be gone
                self._drawn.container.close()


@contextmanager
def bar(progress: bool | Told) -> Iterator[Told | None]:
    """Give what is to be called with how far it is: a bar for True, None for False.

    In a notebook the widget gives way, at the end, to a line that can be saved.
    """
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    places: list[Any] = []
    drawn = Bar(stays=True, show=lambda widget: places.append(_displayed(widget)))
    try:
        yield drawn
    finally:
        for place in places:
            place.update(_Line(line(drawn.latest)))
        drawn.close()


def words(now: Progress) -> str:
    """Say what a bar does not draw: speed, time left, cost, what is under way."""
    parts = [
        None if now.rate is None else t("{n} rows/s", n=speed(now.rate)),
        t("{time} left", time=duration(now.left)) if now.left else None,
        cost_so_far(now),
        t("{n:,} under way", n=now.under_way) if now.under_way else None,
        now.note or None,
    ]
    return t(", ").join(part for part in parts if part)


def cost_so_far(now: Progress) -> str | None:
    """Tell the cost until now and, while there is more to come, of the whole."""
    if now.cost is None or now.currency is None:
        return None
    if now.expected is None or now.expected <= now.cost:
        return money(now.cost, now.currency)
    return t(
        "{cost} of about {expected}",
        cost=money(now.cost, None),
        expected=money(now.expected, now.currency),
    )


def line(now: Progress | None) -> str:
    """Say in one line how far it is."""
    if now is None:
        return ""
    done = f"{now.done:,}" if now.rows is None else f"{now.done:,}/{now.rows:,}"
    return t(", ").join(part for part in (t("{done} rows", done=done), words(now)) if part)


def speed(rate: float) -> str:
    """Write a rate with two digits."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"  # two digits


def _tqdm() -> Any:
    """Give tqdm's own choice for this place, without its warning where there are no widgets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm


def _bases(kind: type) -> set[str]:
    return {base.__module__.rpartition(".")[2] for base in kind.__mro__}


def _is_terminal(drawn: Any) -> bool:
    try:
        return bool(drawn.fp.isatty())
    except (AttributeError, ValueError, OSError):
        return False


def _displayed(widget: Any) -> Any:
    """Display *widget* where something else can take its place, as tqdm itself displays."""
    from tqdm import notebook

    return notebook.display(widget, display_id=True)


class _Line:
    """A text that a notebook shows without quotation marks."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text
