"""What stands in the cells of one notebook for want of money, and how it goes away.

The notice and its controls, the cells that wait, the table of those in the
ledger. Whose account it is and what a question looks like is not known here.
"""

from __future__ import annotations

import logging
import re
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from . import render, tables
from .elements import Shown
from .errors import DeepSeekError, OverLimit
from .pending import PendingCells, Place
from .rerun import Rerun, Turns, current_cell
from .words import later, t

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell

    from .account import Account
    from .ledger import Pending
    from .rerun import Cell
    from .waiting import Waiting
    from .widgets import NoticeControls
    from .wire import Balance

LOG = logging.getLogger("deepseek_magic")

ONE_QUESTION = re.compile(r"\s*(%%[^\n]*\n\s*)*%%deepseek\b|\s*%deepseek\s+continue\b[^\n]*\s*\Z")
GONE = later(
    "Nothing of that waits any more, so nothing was sent. The list of now: %deepseek pending"
)
JUST_NOW = timedelta(seconds=5)


class Closable(Protocol):
    """Something that stands in a cell until it runs again."""

    def close(self) -> None:
        """Take it away."""


class Patience(Protocol):
    """What is read of the notebook's settings here."""

    @property
    def wait_hours(self) -> float:
        """How long a top-up is waited for, at most."""

    @property
    def explain_after(self) -> float:
        """Seconds after which it is explained why a top-up may not be there."""


class Notices:
    """The notices in the cells of *shell*, about the account of the moment.

    *succeeded* holds the ids of the cells that ran well before anything here
    was needed.
    """

    def __init__(
        self, shell: InteractiveShell, settings: Patience, account: Account, succeeded: set[str]
    ) -> None:
        self._told: tuple[BaseException, str] | None = None
        self._row: Pending | None = None
        self._shell = shell
        self._settings = settings
        self._account = account
        self._succeeded = succeeded
        self._standing: dict[str, list[Closable]] = {}
        self._void: set[str] = set()
        self.turns = Turns()
        """The order in which cells of this notebook run again."""
        self._pending: PendingCells | None = None
        self._waiting: Waiting | None = None

    # -- what stands in a cell ------------------------------------------------------

    def publish(self, shown: Shown) -> None:
        """Show a pair of HTML and text; in a terminal the text alone."""
        if getattr(self._shell, "kernel", None) is None:
            print(shown.text)
        else:
            self._shell.display_pub.publish(
                data={"text/html": shown.html, "text/plain": shown.text}
            )

    def show(self, notice: render.Notice, cell: Cell | None) -> None:
        """Show *notice*, with its controls where somebody can press them."""
        if cell is None or not notice.buttons:
            self.publish(render.notice_shown(notice))
            return
        from .widgets import NoticeControls

        waiting = self._queue() if notice.waits else None
        self.publish(render.notice_shown(notice))
        controls = NoticeControls(
            self._shell,
            cell,
            self._account.session,
            waiting,
            resume=waiting is not None and waiting.resumes(cell.place),
            unsent=notice.unsent,
            explain_after=self._settings.explain_after,
            billing_url=notice.top_up_url,
            turns=self.turns,
        )
        self.stand(cell, controls)

    def guard(self, result: ExecutionResult, error: BaseException) -> None:
        """Show the notice below the traceback of an ordinary cell that ended in *error*."""
        cell = current_cell(self._shell)
        if self._told is not None and self._told == (error, _run_of(cell)):
            return
        self.told(error, cell)
        attended = cell is not None and cell.attended
        known = self._known()
        notice = render.Notice(
            what=t(
                "DeepSeek refused this cell's request: its account is out of money ({error}).",
                error=type(error).__name__,
            ),
            at=datetime.now(UTC),
            balance=known,
            likely_cost=None,
            currency=known.currency if known else None,
            kept=None,
            top_up_url=self._account.top_up_url,
            buttons=attended,
            ordinary=True,
        )
        self.show(notice, cell)
        self._ordinary(result, cell, failed=True)

    def told(self, error: BaseException, cell: Cell | None) -> None:
        """Note that *error* needs no further notice in this run of *cell*."""
        self._told = error, _run_of(cell)

    @contextmanager
    def instead_of(self, row: Pending) -> Iterator[None]:
        """Take the code that is run for that of *row*, wherever it runs."""
        self._row = row
        try:
            yield
        finally:
            self._row = None

    def ran(self, result: ExecutionResult) -> None:
        """Note that a cell has succeeded (`post_run_cell`)."""
        cell = current_cell(self._shell)
        if self._pending is not None and not self.is_void(cell):
            self._ordinary(result, cell, failed=False)

    def _ordinary(self, result: ExecutionResult, cell: Cell | None, *, failed: bool) -> None:
        try:
            text = str(getattr(result.info, "raw_cell", ""))
            place = Place(cell.id if cell else None, text, self._account.session.notebook)
            if self._row is not None:
                place = Place(self._row.cell, self._row.text or text, self._row.notebook)
            if failed:
                self.pending.add(place, asks=False)
            else:
                self.pending.done(place, asks=False)
        except DeepSeekError as error:  # without a key there is no account to note it for
            LOG.debug("a cell was not noted: %s", error)

    def _known(self) -> Balance | None:
        """Give the balance if it was read just now; an older one would contradict the refusal."""
        try:
            known = self._account.session.last_balance
        except DeepSeekError:
            return None
        read_at = known.read_at if known else None
        return known if read_at and datetime.now(UTC) - read_at < JUST_NOW else None

    def stand(self, cell: Cell, widget: Closable) -> None:
        """Let *widget* stand in *cell* until the cell runs again."""
        self._standing.setdefault(cell.place, []).append(widget)

    def clear(self, info: ExecutionInfo) -> None:
        """Take away what stands in a cell which runs again (`pre_run_cell`).

        A page clears a cell that is run by hand, but not one that `Rerun` runs.
        """
        cell = current_cell(self._shell)
        if self.is_void(cell):
            return
        for place in {getattr(info, "cell_id", None), cell.place if cell else None}:
            for widget in self._standing.pop(place or "", ()):
                self._close(widget, cell)
        if cell is not None and cell.replayed:
            self._shell.display_pub.clear_output()

    def take_down(self, place: str | None, how: str) -> None:
        """Let nothing run in a cell whose question is asked elsewhere, and say there *how*."""
        from .widgets import NoticeControls

        for widget in self._standing.get(place or "", ()):
            if isinstance(widget, NoticeControls):
                self._void.add(widget.token)
                widget.retire(how)

    def void(self, token: str) -> None:
        """Let a run that bears *token* do nothing, should it be on its way."""
        self._void.add(token)

    def is_void(self, cell: Cell | None) -> bool:
        """Tell whether this run was asked for by what is gone: its cell was run by hand meanwhile.

        Its answer would be bought a second time, and no page would show it.
        """
        return bool(self._void) and cell is not None and cell.token in self._void

    def turned_away(self) -> bool:
        """Tell whether the run of now is void."""
        return bool(self._void) and self.is_void(current_cell(self._shell))

    def _close(self, widget: Closable, cell: Cell | None = None) -> None:
        """Close *widget*; a run that it has asked for is void, unless it is this one of *cell*."""
        token = getattr(widget, "token", None)
        if token is not None and (cell is None or cell.token != token):
            self._void.add(token)
        widget.close()

    # -- cells that wait ------------------------------------------------------------

    @property
    def pending(self) -> PendingCells:
        """The cells of this account that wait for money."""
        if self._pending is None:
            self._pending = PendingCells(self._account.session)
            ran = [row for row in self._pending.here() if row.cell in self._succeeded]
            self._pending.forget(ran)
        return self._pending

    def _queue(self) -> Waiting:
        if self._waiting is None:
            from .waiting import Waiting

            self._waiting = Waiting(self._account.session, lambda: 3600 * self._settings.wait_hours)
        return self._waiting

    def show_pending(self) -> None:
        """Show the cells that wait, with buttons where somebody can press them."""
        pending, notebook = self.pending, self._account.session.notebook
        rows, cell = pending.rows(), current_cell(self._shell)
        waiting = self._waiting or ()
        shown = tables.pending_shown(
            rows,
            datetime.now(UTC),
            here=notebook,
            by_itself={row.id for row in rows if row.cell in waiting},
        )
        self.publish(shown)
        if problem := self._account.session.ledger.problem:
            self.publish(Shown(render.line_html(problem), problem))
        if not rows or cell is None or not cell.attended:
            return
        from .widgets import UNREACHED, PendingControls

        def run(chosen: Sequence[Pending]) -> str | None:
            waiting = {row.id for row in pending.rows()}
            names = [f"#{row.id}" for row in chosen if row.id in waiting]
            if not names:
                return t(GONE)
            again = Rerun(
                self._shell, cell, silent=lambda: None, code=f"%deepseek rerun {' '.join(names)}"
            )
            self.stand(cell, again)
            again.start()
            again.join()
            return UNREACHED if again.reply is None else None

        self.stand(cell, PendingControls(self._shell, cell, rows, run=run, forget=pending.forget))

    def rerun(
        self, rows: Sequence[Pending], run_here: Callable[[Pending], object]
    ) -> tuple[Sequence[Pending], Sequence[Pending]]:
        """Run cells that wait: in their places where this page shows them, the others here.

        Those in their places follow, one after the other, when this cell has
        ended; the first that meets an empty balance stops the rest. They are given
        back, and those that cannot be run, for their text was not kept. A cell that a
        limit refuses stops no other; its error is raised when all have had their turn.
        """
        here = current_cell(self._shell)
        places = {row.id: self._controls(row, here) for row in rows}
        others = [row for row in rows if places[row.id] is None]
        over: OverLimit | None = None
        for row in others:
            if row.text is not None:
                self.take_down(row.cell, t("Asked again by %deepseek rerun"))
                try:
                    run_here(row)
                except OverLimit as error:
                    over = over or error
        follow = [controls for row in rows if (controls := places[row.id]) is not None]
        if follow:
            threading.Thread(
                target=_in_turn, args=(follow,), name="deepseek_magic rerun", daemon=True
            ).start()
        if over is not None:
            raise over
        in_place = [row for row in rows if places[row.id] is not None]
        return in_place, [row for row in others if row.text is None]

    def _controls(self, row: Pending, here: Cell | None) -> NoticeControls | None:
        """Give the controls of the notice that stands in the cell of *row*, on this page."""
        from .widgets import NoticeControls

        if here is None or row.answered is not None:
            return None
        standing = self._standing.get(row.cell or "", ())
        found = [widget for widget in standing if isinstance(widget, NoticeControls)]
        fit = (one for one in found if one.cell.session == here.session and not one.retired)
        return next((one for one in fit if only_asks(one.cell) or not row.asks), None)

    def forget_all(self) -> None:
        """Close all that belongs to the session of now."""
        if self._waiting is not None:
            self._waiting.close()
        for widgets in self._standing.values():
            for widget in widgets:
                self._close(widget)
        self._standing.clear()
        self._waiting = self._pending = None


def _in_turn(follow: Sequence[NoticeControls]) -> None:
    """Run cells one after the other, up to the first that meets an empty balance."""
    for controls in follow:
        if controls.run_again() == "empty":
            return


def _run_of(cell: Cell | None) -> str:
    """Name this one run of *cell*; "" where cells have no requests, as in a terminal."""
    return "" if cell is None else str(cell.parent["header"].get("msg_id", ""))


def only_asks(cell: Cell) -> bool:
    """Tell whether the cell is one question, and no code that has effects of its own.

    Other cell magics, such as `%%time`, may stand above `%%deepseek`.
    """
    return ONE_QUESTION.match(str(cell.parent["content"].get("code"))) is not None
