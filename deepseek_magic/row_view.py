"""The live output of a question for every row: a bar, and then what came of it in its place."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from . import progress, render
from .progress import Bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from IPython.core.interactiveshell import InteractiveShell

    from .elements import Shown
    from .jobs import Progress

SELDOM = 2.0
"""Seconds between two lines where nobody sits in front of the cell."""


class RowView(Protocol):
    """Something that shows how far the rows are."""

    def show(self, now: Progress) -> None:
        """Show how far it is; it may be called often."""

    def end(self, shown: Shown, stamp: Mapping[str, Any]) -> None:
        """Show for good what came of it; *stamp* goes with it into the notebook."""

    def drop(self) -> None:
        """Take away what is there, as nothing came of it."""


def row_view(shell: InteractiveShell, *, attended: bool, alone: bool) -> RowView:
    """Make what suits *shell*; *attended* tells that somebody sits in front of the cell."""
    if getattr(shell, "kernel", None) is None:
        return TerminalRows()
    return NotebookRows(shell, attended=attended, alone=alone)


class TerminalRows:
    """A bar of text, which goes when the rows are done."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def show(self, now: Progress) -> None:
        """Draw the bar."""
        if self._bar is None:
            self._bar = Bar(stays=False, show=lambda _: None)
        self._bar(now)

    def end(self, shown: Shown, stamp: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Print what came of it."""
        self.drop()
        print(shown.text, flush=True)

    def drop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class NotebookRows:
    """A bar that gives its place to what came of the rows, so that no dead widget is saved.

    Where it is not *attended*, and where there are no widgets, it is a line of text.
    What a cell has shown can be taken back only all at once, so where it is not
    *alone*, what has to go is left empty.
    """

    def __init__(self, shell: InteractiveShell, *, attended: bool, alone: bool) -> None:
        self._publisher = shell.display_pub
        self._attended = attended
        self._alone = alone
        self._place = {"display_id": uuid.uuid4().hex}
        self._is_there = False
        self._bar: Bar | None = None
        self._next = 0.0

    def show(self, now: Progress) -> None:
        """Draw the bar, or write the line."""
        if self._bar is None and self._attended:
            self._attended = False  # one try
            bar = Bar(stays=False, show=self._display)
            self._bar = bar if bar.is_widget else None
        if self._bar is not None:
            self._bar(now)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + SELDOM
            line = progress.line(now)
            self._publish({"text/html": render.line_html(line), "text/plain": line})

    def _display(self, widget: Any) -> None:
        found = widget._repr_mimebundle_()  # IPython's name for it
        self._publish(found[0] if isinstance(found, tuple) else found)

    def _publish(self, data: dict[str, Any], stamp: Mapping[str, Any] | None = None) -> None:
        metadata = {} if stamp is None else {"deepseek_magic": dict(stamp)}
        self._publisher.publish(
            data=data, metadata=metadata, transient=self._place, update=self._is_there
        )
        self._is_there = True

    def end(self, shown: Shown, stamp: Mapping[str, Any]) -> None:
        """Put what came of it into the place of the bar."""
        self._publish({"text/html": shown.html, "text/plain": shown.text}, stamp)
        self._close()

    def drop(self) -> None:
        """Let the next output stand where the bar stood."""
        if self._is_there and self._alone:
            self._publisher.clear_output(wait=True)
        elif self._is_there:
            self._publish({"text/html": "", "text/plain": ""})
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
