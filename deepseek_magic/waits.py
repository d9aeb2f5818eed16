"""What a cell does while it cannot go on: it waits for cheaper hours, or for money.

Or it says why it does not wait, in a notice, and fails.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from . import prices, render
from .continuation import can_go_on
from .elements import Shown, duration, money
from .errors import InsufficientBalance, Interrupted, OutOfMoney, OverLimit
from .notices import only_asks
from .rows import answered
from .wire import CostRange
from .words import t

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from .account import Account
    from .chats import NextTurn
    from .limits import Cap
    from .notices import Notices, Patience
    from .pending import Place
    from .rerun import Cell
    from .session import Session
    from .unfinished import Unfinished
    from .wire import Answer, Request

NOTHING = Shown("", "")

OnEmpty = Literal["notice", "wait", "raise"]


@dataclass(slots=True)
class Asking:
    """What one cell asks, through all its tries; *ends* bounds how long it waits.

    *request* is the question, None where there is one for each row of some data. *begun*
    is the unfinished answer that goes on, and *turn* the place in a conversation.
    """

    request: Request | None
    cell: Cell | None
    place: Place
    on_empty: OnEmpty
    cap: Cap | None = None
    anyway: bool = False
    waited: bool = False
    ends: float | None = None
    begun: Unfinished | None = None
    turn: NextTurn | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether an answer goes on in another cell than the one that its question stands in."""
        return self.begun is not None and self.begun.place != self.place

    @property
    def attended(self) -> bool:
        """Whether somebody sits in front of the cell."""
        return self.cell is not None and self.cell.attended


class Waits:
    """Waiting in the cells of *shell*, for the account of the moment."""

    def __init__(
        self,
        shell: InteractiveShell,
        settings: Patience,
        account: Account,
        notices: Notices,
        clock: Callable[[], datetime],
    ) -> None:
        self._shell = shell
        self._settings = settings
        self._account = account
        self._notices = notices
        self._clock = clock

    @property
    def _session(self) -> Session:
        return self._account.session

    # -- cheaper hours ------------------------------------------------------------

    def off_peak(self, asking: Asking) -> None:
        """Block until the cheaper hours, and say until when and why."""
        session, request = self._session, asking.request
        began = self._clock()
        begins = prices.off_peak_from(began)
        if begins <= began:
            return
        if asking.attended:
            self._notices.pending.add(asking.place, asks=True)
        asking.waited = True
        costs: tuple[CostRange | None, CostRange | None] = None, None
        if request is not None:
            costs = session.estimate(request).cost, session.estimate(request, at=begins).cost
        say = self.line(each=False)

        def tell(begins: datetime) -> None:
            say(render.off_peak_line(begins, self._clock(), *costs, session.currency))

        try:
            session.wait_off_peak(told=tell)
        except KeyboardInterrupt:
            raise Interrupted(
                t(
                    "the wait for off-peak hours was stopped. Nothing was sent. To ask now: run "
                    "the cell without --off-peak"
                )
            ) from None
        finally:
            waited = duration((self._clock() - began).total_seconds())
            say(t("Waited {waited} for off-peak hours.", waited=waited), last=True)

    # -- money --------------------------------------------------------------------

    def for_money(self, error: OutOfMoney, asking: Asking) -> None:
        """Return when money has come; else show what the cell wants shown, and raise."""
        waits = asking.on_empty == "wait" and isinstance(error, InsufficientBalance)
        if asking.attended and asking.on_empty != "raise":
            self._notices.pending.add(asking.place, asks=True)
        if waits:
            no_money = self._waited(error, asking)
            if no_money is None:
                return
            no_money.partial, no_money.progress = error.partial, error.progress
            error = no_money
        if not asking.attended and asking.on_empty != "raise":
            self._notices.pending.add(asking.place, asks=True)
        self._notices.told(error, asking.cell)
        if asking.on_empty != "raise":
            self._notices.show(self._notice_of(error, asking), asking.cell)
        raise error

    def _waited(self, error: OutOfMoney, asking: Asking) -> InsufficientBalance | None:
        """Wait for a top-up; give the error if none came in time.

        A job without a page is not on the list meanwhile: somebody could ask its
        question from there, and it would ask once more.
        """
        if asking.ends is None:  # one bound for all tries
            asking.ends = time.monotonic() + 3600 * self._settings.wait_hours
        try:
            notice = replace(self._notice_of(error, asking), goes_on=True, buttons=False)
            seconds = max(asking.ends - time.monotonic(), 0.0)
            self._wait_in_cell(seconds, render.notice_shown(notice))
        except InsufficientBalance as no_money:
            return no_money
        except Interrupted as stopped:
            stopped.partial, stopped.progress = error.partial, error.progress
            self._notices.pending.add(asking.place, asks=True)
            raise
        return None

    def _wait_in_cell(self, seconds: float, notice: Shown) -> None:
        """Block the cell until money has come, with the *notice* standing while it waits."""
        began = datetime.now(UTC)
        say = self.line(notice)
        try:
            self._session.wait(seconds, told=lambda look: say(render.look_line(look)))
        except KeyboardInterrupt:
            raise Interrupted(
                t("the wait for a top-up was stopped. Nothing was sent. To go on: %deepseek rerun")
            ) from None
        finally:
            waited = duration((datetime.now(UTC) - began).total_seconds())
            say(t("Waited {waited} for a top-up.", waited=waited), last=True)

    def line(self, head: Shown = NOTHING, *, each: bool = True) -> Callable[..., None]:
        """Give what shows a line that changes, below *head* until the last one.

        A terminal gets a line each time, or without *each* the first and the last.
        """
        shown: list[str] = []
        place = {"display_id": uuid.uuid4().hex}
        in_terminal = getattr(self._shell, "kernel", None) is None

        def say(line: str, *, last: bool = False) -> None:
            first = not shown
            shown.append(line)
            if in_terminal:
                if first or last or each:
                    print(_lines(head.text if first else "", line), flush=True)
                return
            html, text = render.line_html(line), line
            if not last:
                html, text = head.html + html, _lines(head.text, line)
            data = {"text/html": html, "text/plain": text}
            self._shell.display_pub.publish(data, transient=place, update=not first)

        return say

    # -- the notice ---------------------------------------------------------------

    def _notice_of(self, error: OutOfMoney, asking: Asking) -> render.Notice:
        cell = asking.cell
        own_limit = isinstance(error, OverLimit)
        host = error.host if isinstance(error, InsufficientBalance) else None
        return render.Notice(
            what=error.what,
            at=self._clock(),
            balance=error.balance,
            likely_cost=self._likely_cost(error, asking),
            steps=error.steps if error.progress is None else _for_each(error.steps),
            today=self._today() if own_limit else "",
            unsent=error.unsent,
            currency=self._session.currency,
            kept=_kept(error.answer, in_place=asking.begun is not None and asking.attended),
            rows=_rows(error),
            again=own_limit and self._has_budget_anew(error, asking),
            top_up_url=f"https://{host}/" if host else self._account.top_up_url,
            own_limit=own_limit,
            unknown=self._unknown(error),
            buttons=asking.attended,
            waits=cell is not None and asking.attended and not own_limit and only_asks(cell),
            problem=self._session.ledger.problem or "",
        )

    def _likely_cost(self, error: OutOfMoney, asking: Asking) -> CostRange | None:
        """Give the usual cost of what is still to be paid for."""
        if asking.request is not None:
            return (error.estimate or self._session.estimate(asking.request)).cost
        rows = error.progress
        if rows is None or rows.expected is None or rows.cost is None:
            return None
        rest = max(rows.expected - rows.cost, Decimal(0))
        return CostRange(rest, rest, rest) if rest else None

    def _has_budget_anew(self, error: OutOfMoney, asking: Asking) -> bool:
        """Tell whether another run would go on where the budget of this one has ended."""
        if asking.cap is None or error.progress is None or not error.progress.asked:
            return False
        day_left = self._session.clearance.day_left()
        return day_left is None or asking.cap.left <= day_left

    def _unknown(self, error: OutOfMoney) -> str:
        """Say what to do where too little is known to keep to a limit; "" where it can be kept."""
        if self._session.currency is None:
            return t("Wait until the balance can be read")
        unpriced = error.estimate is not None and error.estimate.worst is None
        return t("Set the price (%deepseek prices --set)") if unpriced else ""

    def _today(self) -> str:
        """Tell what was spent of the day's limit; "" where there is none, or nobody knows."""
        session, limit, currency = self._session, self._session.day_limit, self._session.currency
        if limit is None or currency is None:
            return ""
        day = self._clock().astimezone().date().isoformat()
        today = session.ledger.today(session.account, day, currency)
        if today is None:
            return ""
        spent, most = money(today.spent, currency), money(limit, currency)
        if not today.under_way:
            return t("{spent} spent, of {limit}", spent=spent, limit=most)
        under_way = money(today.under_way, currency)
        return t(
            "{spent} spent, {under_way} under way, of {limit}",
            spent=spent,
            under_way=under_way,
            limit=most,
        )


def _rows(error: OutOfMoney) -> tuple[int, int] | None:
    """Count the rows of a job that have their answer, and all."""
    now, frame = error.progress, error.partial
    if now is None or now.rows is None:
        return None
    done = max(now.done - now.failed, 0) if frame is None else answered(frame)
    return done, now.rows


def _for_each(steps: tuple[str, ...]) -> tuple[str, ...]:
    """Say of cheaper ways to ask that their figures are those of one row."""
    return tuple(t("For each row: {step}", step=f"{step[:1].lower()}{step[1:]}") for step in steps)


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def _kept(answer: Answer | None, *, in_place: bool) -> str | None:
    """Tell what is there of *answer*; with *in_place* the button of the notice goes on with it."""
    if answer is None:
        return None
    size = len(answer.text) + len(answer.reasoning)
    if not can_go_on(answer):
        return t("{size:,} characters of the answer are kept above.", size=size)
    if in_place:
        return t(
            "{size:,} characters of the answer are kept above; with money it goes on by “Re-run "
            "cell”, or by: %deepseek continue",
            size=size,
        )
    return t(
        "{size:,} characters of the answer are kept above; with money it goes on: "
        "%deepseek continue",
        size=size,
    )
