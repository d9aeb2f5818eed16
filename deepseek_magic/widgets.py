"""The live parts below a cell: the notice's controls, the cells that wait, and the balance.

Widgets are made here and nowhere else. Whatever reads the network does so on
a thread of its own and changes the widget through the cell's context.
"""

from __future__ import annotations

import threading
import time
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from . import elements, render, tables
from .errors import DeepSeekError
from .rerun import Rerun, newest_page
from .top_up import TOP_UP
from .words import later, listed, t

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from IPython.core.interactiveshell import InteractiveShell

    from .ledger import Pending
    from .rerun import Cell, Turns
    from .session import Session
    from .top_up import Look
    from .waiting import Waiting

UNREACHED = later(
    "This page no longer knows the cell (it was loaded anew, or the cell was moved by cut and "
    "paste). Nothing was sent. Run the cell again by hand."
)
UNREACHED_REST = later(
    "This page no longer knows the cell (it was loaded anew, or the cell was moved by cut and "
    "paste). Nothing was sent. To go on in a cell of its own: %deepseek continue"
)
ONLY_THE_REST = later("Only the rest is written and paid for; what there is counts as its input.")
UNSEEN = later(
    "The money is there, but the page that waited is closed, asleep, or was loaded anew. Nothing "
    "was sent. Run the cell by hand; until then it is tried again from time to time."
)
LOADED_ANEW = later(
    "If this page was loaded anew meanwhile, it cannot take the answer: run the cell by hand."
)
ON_ITS_WAY = later("It is about to run already. Stop it like any cell, once it runs.")
FOLLOWS = later("This is how it stood then. Look again with: %deepseek balance")
STILL_EMPTY = "InsufficientBalance"
"""The error after which a cell that waits goes on waiting; a limit of its own is no such."""
EXPLAIN_AFTER = 180.0
"""Seconds from the first look that found nothing until it is said what that usually is."""
TWICE_SECONDS = 0.6
"""A second click within this time belongs to the first: a double click, or one of a busy kernel."""


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


def _button(label: str, tooltip: str, *, width: str = "auto", **more: Any) -> Any:
    """Make a button as wide as its words, when no *width* is given."""
    from ipywidgets import Button, Layout

    return Button(description=label, tooltip=tooltip, layout=Layout(width=width), **more)


def _row(*children: Any) -> Any:
    """Put widgets side by side, below each other where the page is narrow."""
    from ipywidgets import HBox, Layout

    return HBox(children, layout=Layout(flex_flow="row wrap", align_items="center"))


class NoticeControls:
    """The buttons below a notice: run again, wait for a top-up, look at the balance.

    They go when the cell runs. Without *waiting* nothing waits; with *resume*
    it waits from the start. With *unsent*, a check has refused the cell, and one more
    button sends it all the same. *explain_after* seconds after the first look that
    found nothing it is said what that usually is, with a link to *billing_url*.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        cell: Cell,
        session: Session,
        waiting: Waiting | None = None,
        *,
        resume: bool = False,
        unsent: bool = False,
        explain_after: float = EXPLAIN_AFTER,
        billing_url: str = TOP_UP,
        turns: Turns | None = None,
    ) -> None:
        from ipywidgets import HTML, Layout, VBox

        self.cell = cell
        self._shell = shell
        self._session = session
        self._waiting = waiting
        self._explain_after = explain_after
        self._billing_url = billing_url
        self._rerun = Rerun(shell, cell, before=self._running, silent=self._silent, turns=turns)
        self._again = _button(
            t("Re-run cell"), t("Run this cell again, in its place"), button_style="primary"
        )
        self._later = _button("", "", width="14em")  # for either of its names
        self._check = _button(t("Check balance"), t("Read the balance from DeepSeek"))
        self._said = HTML(layout=Layout(margin="0 2px", width="auto"))
        self._again.on_click(self._click_again)
        self._later.on_click(self._click_later)
        self._check.on_click(self._click_check)
        later = () if waiting is None else (self._later,)
        against = (self._make_anyway(),) if unsent else ()
        self._runners = (self._again, *against)
        self.box = VBox([_row(self._again, *later, *against, self._check), self._said])
        self.box.add_class(elements.LIVING)
        self._lock = threading.RLock()
        self._waits = False
        self._turned = float("-inf")
        self._empty_since: float | None = None
        self._look: Look | None = None
        self._closed = False
        self.retired = False
        """Whether the question was asked from elsewhere, and the buttons are gone."""
        self._name_later()
        if resume and waiting is not None:
            self._wait(waiting)
        publish(shell, self.box)

    def close(self) -> None:
        """Take the buttons away, and with them the waiting and a run that has not begun."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._waiting is not None:
            self._waiting.remove(self.cell.place, self)
        self._rerun.close()
        close_all(self.box)
        for button in (*self._runners, self._later, self._check):  # they may be in no box
            close_all(button)

    def retire(self, how: str) -> None:
        """Take the buttons away for good: the question is asked from elsewhere, as *how* says."""
        self._rerun.close()
        if self._waiting is not None:
            self._waiting.remove(self.cell.place, self)
        self._waits = False
        with self._lock:
            self.retired = True
            if not self._closed:
                self.box.children = (self._said,)
        at = f"{datetime.now().astimezone():%H:%M}"
        self._say(t("{how}, at {at}.", how=how, at=at))

    @property
    def token(self) -> str:
        """What a run that these buttons start is known by."""
        return self._rerun.token

    # -- what the buttons do ------------------------------------------------------

    def _click_again(self, _: object) -> None:
        self._run_by_click(anyway=False)

    def _click_anyway(self, _: object) -> None:
        self._run_by_click(anyway=True)

    def _run_by_click(self, *, anyway: bool) -> None:
        with self._lock:  # what is said of the run comes after this
            if self._rerun.start(anyway=anyway):
                self._enable_runs(enabled=False)
                self._wait_no_more(t("Looking for this page…"))

    def _make_anyway(self) -> Any:
        button = _button(
            t("Send anyway"),
            t("Run this cell again, in its place; no check is asked this one time"),
        )
        button.on_click(self._click_anyway)
        return button

    def _enable_runs(self, *, enabled: bool) -> None:
        for button in self._runners:
            button.disabled = not enabled

    def _click_later(self, _: object) -> None:
        now = time.monotonic()
        if self._waiting is None or now - self._turned < TWICE_SECONDS:
            return
        self._turned = now
        if self._waits:
            self._rerun.cancel()
            sent = not self._rerun.join(0)
            self._wait_no_more(t(ON_ITS_WAY) if sent else t("No longer waiting. Nothing was sent."))
        elif not self._closed:
            self._wait(self._waiting)

    def _click_check(self, _: object) -> None:
        # It stays enabled: a button that is disabled loses the keyboard.
        self._say(t("Reading the balance…"))
        in_thread(lambda: self.cell.run(self._read_balance))

    def _read_balance(self) -> None:
        try:
            balance = self._session.balance()
        except DeepSeekError as error:
            self._found(t("The balance could not be read: {error}", error=error), None)
            return
        line = render.checked(balance, waits=self._waits)
        if not balance.effective or balance.available is False:
            self._found(line, balance)
            return
        self._say(line)
        if self._waits and self._waiting is not None:
            self._waiting.nudge()

    # -- waiting ------------------------------------------------------------------

    def _wait(self, waiting: Waiting) -> None:
        self._waits = True
        self._name_later()
        self._say(t("Waiting for a top-up: looking at the balance…"))
        waiting.add(self.cell.place, self)

    def _wait_no_more(self, said: str) -> None:
        if self._waiting is not None and self._waits:
            self._waits = False
            self._waiting.remove(self.cell.place, self)
        self._name_later()
        self._say(said)

    def _name_later(self) -> None:
        with self._lock:
            if self._closed:
                return
            if self._waits:
                self._later.description = t("Cancel waiting")
                self._later.tooltip = t("Wait for a top-up no longer")
            else:
                self._later.description = t("Re-run when topped up")
                self._later.tooltip = t("Wait for a top-up, then run this cell again, in its place")

    def looked(self, look: Look) -> None:
        """Tell what a look at the account found (called by `Waiting`)."""
        # Not as if from the cell, where the newest request is always its own.
        elsewhere = newest_page(self._shell) not in {"", self.cell.session}
        self.cell.run(self._looked, look, f" · {t(LOADED_ANEW)}" if elsewhere else "")

    def _looked(self, look: Look, hint: str) -> None:
        self._look = look
        if self._waits:
            waits = (look.at - look.since).total_seconds()
            self._found(render.look_line(look) + hint, look.balance, waits)

    def run_again(self) -> Literal["ran", "empty", "silent"]:
        """Run the cell in its place and tell how it ended (called by `Waiting`)."""
        self._rerun.start()
        self._rerun.join()
        if (reply := self._rerun.reply) is None:
            return "silent"
        return "empty" if reply.get("ename") == STILL_EMPTY else "ran"

    def gave_up(self) -> None:
        """Say that the waiting has ended without a top-up (called by `Waiting`)."""
        self.cell.run(self._gave_up)

    def _gave_up(self) -> None:
        if self._waits:
            self._waits = False
            self._name_later()
            self._say(render.waited(self._look))

    # -- what is said -------------------------------------------------------------

    def _running(self) -> None:
        self._say(t("Running again…"))

    def _silent(self) -> None:
        with self._lock:
            if not self._closed:
                self._enable_runs(enabled=True)
                self._say(t(UNSEEN if self._waits else UNREACHED))

    def _found(self, line: str, balance: Any, waits: float = 0.0) -> None:
        """Say that there is no money yet, and after a while what that usually is."""
        now = time.monotonic()
        with self._lock:
            if self._empty_since is None:
                self._empty_since = now
            overdue = max(now - self._empty_since, waits) >= self._explain_after
        self._say(line, render.not_arrived(balance) if overdue else ())

    def _say(self, line: str, reasons: Sequence[str] = ()) -> None:
        with self._lock:
            if not self._closed:
                self._said.value = render.status_html(line, reasons, self._billing_url)


class ContinueControls:
    """The button below an answer that ended before its end: it goes on in its place.

    *name* is that of the unfinished answer. The button goes when the cell runs.
    """

    def __init__(
        self, shell: InteractiveShell, cell: Cell, name: str, *, turns: Turns | None = None
    ) -> None:
        from ipywidgets import HTML, Layout

        self.cell = cell
        self.name = name
        self._rerun = Rerun(
            shell, cell, before=self._running, silent=self._silent, resumes=name, turns=turns
        )
        self._button = _button(
            t("Continue"), t("Let the answer go on in its place"), button_style="primary"
        )
        self._button.on_click(self._click)
        self._said = HTML(layout=Layout(margin="0 2px", width="auto"))
        self.box = _row(self._button, self._said)
        self.box.add_class(elements.LIVING)
        self._lock = threading.RLock()
        self.closed = False
        """Whether it is gone, as its cell runs again."""
        self._say(t(ONLY_THE_REST))
        publish(shell, self.box)

    def close(self) -> None:
        """Take the button away, and with it a run that has not begun."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._rerun.close()
        close_all(self.box)
        close_all(self._button)  # it may be in no box

    def retire(self, said: str) -> None:
        """Take the button away for good, and say why: the answer goes on elsewhere."""
        self._rerun.close()
        with self._lock:
            if not self.closed:
                self.box.children = (self._said,)
        self._say(said)

    @property
    def token(self) -> str:
        """What a run that this button starts is known by."""
        return self._rerun.token

    def _click(self, _: object) -> None:
        with self._lock:  # what is said of the run comes after this
            if self._rerun.start():
                self._button.disabled = True
                self._say(t("Looking for this page…"))

    def _running(self) -> None:
        self._say(t("Going on…"))

    def _silent(self) -> None:
        with self._lock:
            if not self.closed:
                self._button.disabled = False
                self._say(t(UNREACHED_REST))

    def _say(self, line: str) -> None:
        with self._lock:
            if not self.closed:
                self._said.value = render.status_html(line)


class PendingControls:
    """The buttons below the table of cells that wait for money: re-run, forget.

    *run* and *forget* are called on a thread of their own. A text that *run* gives
    is shown and means that nothing ran, as a `DeepSeekError` does: the cells can
    be run again. Without one their buttons stay off.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        cell: Cell,
        rows: Sequence[Pending],
        *,
        run: Callable[[Sequence[Pending]], object],
        forget: Callable[[Sequence[Pending]], object],
    ) -> None:
        from ipywidgets import HTML, Layout, VBox

        self._cell = cell
        self._lock = threading.RLock()
        self._closed = False
        self._run = run
        self._forget = forget
        self._said = HTML(layout=Layout(margin="0 2px", width="auto"))
        self._left = dict(enumerate(rows, 1))
        self._buttons = {number: self._make(number, row) for number, row in self._left.items()}
        self._all = _button(
            t("Re-run all" if all(row.asks for row in rows) else "Re-run all questions"),
            t("Ask all these questions again, in their order"),
            button_style="primary",
        )
        self._all.on_click(lambda _: self._click_run(self._questions()))
        together = [_row(self._all)] if len(self._questions()) > 1 else []
        lines = [_row(HTML(f"{number}"), *made) for number, made in self._buttons.items()]
        self.box = VBox([*lines, *together, self._said])
        self.box.add_class(elements.LIVING)
        publish(shell, self.box)

    def close(self) -> None:
        """Take the buttons away."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        close_all(self.box)
        close_all(self._all)

    def _make(self, number: int, row: Pending) -> list[Any]:
        drop = _button(t("Forget"), t("Take this cell from the list; nothing is sent"))
        drop.on_click(lambda _: self._click_forget(number))
        if row.text is None:
            return [drop]
        label = t("Re-run" if row.answered is None else "Show answer")
        again = _button(label, tables.excerpt(row, 200))
        again.on_click(lambda _: self._click_run([number]))
        return [again, drop]

    def _questions(self) -> list[int]:
        return [n for n, row in self._left.items() if row.asks and row.text is not None]

    def _click_run(self, numbers: Sequence[int]) -> None:
        self._take(numbers, later("Running {numbers}…"), self._run)

    def _click_forget(self, number: int) -> None:
        self._take([number], later("Forgetting {numbers}…"), self._forget)

    def _take(
        self, numbers: Sequence[int], doing: str, action: Callable[[Sequence[Pending]], object]
    ) -> None:
        """Do *action* with what is left of *numbers*, once."""
        with self._lock:
            taken = {number: self._left.pop(number) for number in numbers if number in self._left}
        if not taken or self._closed:
            return
        self._enable(taken, enabled=False)
        self._say(t(doing, numbers=listed([*map(str, taken)])))
        in_thread(lambda: self._cell.run(self._do, taken, action))

    def _do(self, taken: dict[int, Pending], action: Callable[[Sequence[Pending]], object]) -> None:
        try:
            told = action(list(taken.values()))
        except DeepSeekError as error:
            told = str(error)
        if isinstance(told, str):
            with self._lock:
                self._left = dict(sorted((self._left | taken).items()))
            self._enable(taken, enabled=True)
            self._say(told)
        elif action is self._forget:
            self._say(t("Forgotten: {numbers}.", numbers=listed([*map(str, taken)])))

    def _enable(self, numbers: Iterable[int], *, enabled: bool) -> None:
        with self._lock:
            if not self._closed:
                for button in [b for number in numbers for b in self._buttons[number]]:
                    button.disabled = not enabled

    def _say(self, line: str) -> None:
        with self._lock:
            if not self._closed:
                self._said.value = render.status_html(line)


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
        self._refresh = Button(
            description=t("Refresh"), tooltip=t("Read the balance from DeepSeek")
        )
        self._refresh.on_click(self._click_refresh)
        self.box = VBox([self._body, self._refresh])
        self.box.add_class(elements.LIVING)
        self._snapshot = f"deepseek-magic-{uuid.uuid4().hex}"
        self._closed = False
        self._draw()
        shown = elements.above_widgets(render.balance_shown(facts()), t(FOLLOWS), self._snapshot)
        shell.display_pub.publish(data={"text/html": shown.html, "text/plain": shown.text})
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
