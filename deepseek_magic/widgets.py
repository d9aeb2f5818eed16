"""The live parts below a cell: the notice's controls, and the balance.

Widgets are made here and nowhere else. Whatever reads the network does so on
a thread of its own and changes the widget through the cell's context.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

from . import render
from .errors import DeepSeekError
from .rerun import Rerun

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from .rerun import Cell
    from .session import Session

UNREACHED = (
    "This page no longer knows the cell (it was loaded anew, or the cell was moved by cut and "
    "paste). Nothing was sent. Run the cell again by hand."
)


def in_thread(function: Callable[[], None]) -> None:
    """Run *function* beside the cells, so that a click never waits for the network."""
    threading.Thread(target=function, name="deepseek_magic click", daemon=True).start()


def publish(shell: InteractiveShell, widget: Any) -> None:
    """Show *widget*; the bundle is made by hand because ipywidgets 7 does not make it."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    shell.display_pub.publish(
        data={"application/vnd.jupyter.widget-view+json": view, "text/plain": ""}
    )


def close_all(widget: Any) -> None:
    """Close *widget*, what it holds, and their layouts and styles."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    for part in ("layout", "style"):
        if getattr(widget, part, None) is not None:
            getattr(widget, part).close()
    widget.close()


class NoticeControls:
    """The buttons below a notice: run again, look at the balance. They go when the cell runs."""

    def __init__(self, shell: InteractiveShell, cell: Cell, session: Session) -> None:
        from ipywidgets import Button, HBox, Label, Layout

        self._cell = cell
        self._session = session
        self._rerun = Rerun(shell, cell, before=self._running, silent=self._silent)
        self._again = Button(
            description="Re-run cell",
            button_style="primary",
            tooltip="Run this cell again, in its place",
        )
        self._check = Button(description="Check balance", tooltip="Read the balance from DeepSeek")
        self._said = Label()
        self._again.on_click(self._click_again)
        self._check.on_click(self._click_check)
        self.box = HBox(
            [self._again, self._check, self._said],
            layout=Layout(flex_flow="row wrap", align_items="center"),
        )
        self._closed = False
        publish(shell, self.box)

    def close(self) -> None:
        """Take the buttons away, and with them a run that has not begun."""
        if not self._closed:
            self._closed = True
            self._rerun.close()
            close_all(self.box)

    def _click_again(self, _: object) -> None:
        if self._rerun.start():
            self._again.disabled = True
            self._said.value = "Looking for this page…"

    def _running(self) -> None:
        self._said.value = "Running again…"

    def _silent(self) -> None:
        if not self._closed:
            self._again.disabled = False
            self._said.value = UNREACHED

    def _click_check(self, _: object) -> None:
        # It stays enabled: a button that is disabled loses the keyboard.
        self._said.value = "Reading the balance…"
        in_thread(lambda: self._cell.run(self._read_balance))

    def _read_balance(self) -> None:
        try:
            balance = self._session.balance()
            left = render.money(balance.effective, balance.currency)
            if not balance.effective:
                said = f"Still empty: {left}. A top-up can take a minute to arrive."
            elif balance.available is False:
                said = f"{left}, but DeepSeek says it is not available for requests yet."
            else:
                said = f"{left} now. Re-run the cell."
        except DeepSeekError as error:
            said = f"The balance could not be read: {error}"
        if not self._closed:
            self._said.value = said


class BalanceWidget:
    """The balance, drawn anew after every query and every reading.

    Above it stands a snapshot as ordinary output, for where widgets are dead. As
    long as the widget lives, a style of its own keeps the snapshot out of sight.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        cell: Cell,
        session: Session,
        facts: Callable[[], render.BalanceFacts],
    ) -> None:
        from ipywidgets import HTML, Button, VBox

        self._cell = cell
        self._session = session
        self._facts = facts
        self._drawing = threading.Lock()
        self._body = HTML()
        self._refresh = Button(description="Refresh", tooltip="Read the balance from DeepSeek")
        self._refresh.on_click(self._click_refresh)
        self.box = VBox([self._body, self._refresh])
        self._snapshot = f"deepseek-magic-{uuid.uuid4().hex}"
        self._closed = False
        self._draw()
        shown = render.balance_shown(facts())
        snapshot = f'<div class="{self._snapshot}">{shown.html}</div>'
        shell.display_pub.publish(data={"text/html": snapshot, "text/plain": shown.text})
        publish(shell, self.box)
        session.listeners.append(self._follow)

    def close(self) -> None:
        """Stop following and go."""
        if not self._closed:
            self._closed = True
            if self._follow in self._session.listeners:
                self._session.listeners.remove(self._follow)
            close_all(self.box)

    def _follow(self) -> None:
        self._cell.run(self._draw)

    def _draw(self) -> None:
        with self._drawing:
            if not self._closed:
                hidden = f"<style>.{self._snapshot} {{ display: none }}</style>"
                self._body.value = hidden + render.balance_shown(self._facts()).html

    def _click_refresh(self, _: object) -> None:
        self._session.refresh()
