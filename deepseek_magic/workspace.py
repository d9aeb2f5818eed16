"""What lives in one notebook: its account, and what stands in its cells.

Everything here takes plain values; the words of a cell's line are the
magics' business.
"""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Protocol

from . import limits, preflight, prices, render
from .account import Account, Keeping
from .elements import Shown, clock_time, counted, duration, money
from .errors import (
    DeepSeekError,
    InsufficientBalance,
    NoKey,
    OutOfMoney,
    OverLimit,
    UnusableAnswer,
)
from .notices import Notices, Patience, only_asks
from .pending import Place
from .records import answer_of
from .rerun import current_cell, page_shows
from .session import FRESH_SECONDS, now
from .view import view_for
from .wire import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from IPython.core.interactiveshell import InteractiveShell

    from .estimate import Estimate
    from .ledger import Pending
    from .rerun import Cell
    from .session import Session
    from .view import View
    from .wire import Balance, Request

CURRENCIES = ("CNY", "USD")
"""What accounts are kept in (api-docs.deepseek.com/api/get-user-balance)."""

NOTHING = Shown("", "")

OnEmpty = Literal["notice", "wait", "raise"]


class Settings(Keeping, Patience, Protocol):
    """What a workspace reads of the notebook's settings, each time it needs it."""

    @property
    def thinking(self) -> bool:
        """Whether the reasoning is shown."""

    @property
    def timeout(self) -> float:
        """Seconds without a sign of life."""

    @property
    def warn_below(self) -> Mapping[str, Any]:
        """The low mark of each currency."""

    @property
    def retries(self) -> int:
        """How often a question is asked again that was turned away unbilled."""

    @property
    def day_limit(self) -> str | None:
        """What all notebooks together may spend on a day."""

    @property
    def prices(self) -> Mapping[str, Mapping[str, object]]:
        """The user's own prices."""


class Interrupted(KeyboardInterrupt):
    """A query that the user stopped; shown as one line, like any other end of a cell."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


@dataclass(slots=True)
class _Asking:
    """One question of one cell, through all its tries; *ends* bounds how long it waits."""

    request: Request
    cell: Cell | None
    place: Place
    on_empty: OnEmpty
    cap: limits.Cap | None = None
    anyway: bool = False
    waited: bool = False
    ends: float | None = None


class Workspace:
    """The account of *shell* and the widgets in its cells; `close` leaves nothing behind.

    *clock* gives the time, aware, which decides the price.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        settings: Settings,
        succeeded: set[str],
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.shell = shell
        self.settings = settings
        self.account = Account(shell, settings, self._leave, clock)
        self.notices = Notices(shell, settings, self.account, succeeded)
        self._problem_told: str | None = None
        self._closing = threading.Event()
        self._clock = clock

    @property
    def session(self) -> Session:
        """The session that questions go through."""
        return self.account.session

    # -- asking -------------------------------------------------------------------

    def ask(
        self,
        request: Request,
        *,
        text: str,
        on_empty: OnEmpty = "notice",
        budget: object = None,
        anyway: bool = False,
        off_peak: bool = False,
        row: Pending | None = None,
    ) -> Answer:
        """Send *request* and show the answer in the cell that is running.

        Every error is raised again after what had arrived has been shown for
        good. When the money is gone, *on_empty* says whether a notice is shown
        first, or a top-up waited for. *text* is the whole cell as it stands; *row*
        is the pending cell, where it is not the one that is running. *budget*, for all
        tries together, and *anyway* are those of `Session.stream`; with *off_peak* the
        cell waits for the cheaper hours. An answer that was paid for while no page
        showed it is shown, and not bought again.
        """
        if refusal := preflight.refusal(request, self.session.client.key):
            raise refusal
        self._set_up(self.session)
        cell = current_cell(self.shell)
        place = Place(cell.id if cell else None, text, self.session.notebook)
        if row is not None:
            place = Place(row.cell, text, row.notebook)
        anyway = anyway or (cell is not None and cell.anyway)
        asking = _Asking(request, cell, place, on_empty, _cap(budget), anyway)
        page = cell.session if cell else ""
        if (answer := self.notices.pending.unread(place, request, page)) is not None:
            return self._show_unread(answer, asking)
        while True:
            if off_peak:
                self._wait_off_peak(asking)
            try:
                answer = self._show(self._view(cell), asking)
                break
            except OutOfMoney as error:
                empty = error
            self._out_of_money(empty, asking)
        self._succeeded(answer, asking)
        return answer

    def _set_up(self, session: Session) -> None:
        """Let the notebook's settings of this moment hold for what is asked next."""
        settings = self.settings
        session.timeout, session.retries = settings.timeout, settings.retries
        session.day_limit = settings.day_limit
        if session.own_prices != settings.prices:
            session.own_prices = dict(settings.prices)
        session.warn_below = self._low_marks()

    def _low_marks(self) -> dict[str, Decimal]:
        marks = self.settings.warn_below
        return {currency: Decimal(str(mark)) for currency, mark in marks.items()}

    def preview(
        self,
        request: Request,
        *,
        budget: object = None,
        anyway: bool = False,
        off_peak: bool = False,
    ) -> None:
        """Show what *request* would cost and what the checks would say; send nothing of it."""
        from . import dry_run

        session, at = self.session, self._clock()
        self._set_up(session)
        remarks = list(self._would_wait(at)) if off_peak else []
        try:
            preview = session.preview(request, budget=_cap(budget))
        except NoKey:
            estimates = self._estimates(request)
            shown = dry_run.without_account(request, estimates, at, remarks=remarks)
        else:
            if preview.balance is None and (problem := session.balance_problem):
                remarks.append(problem)
            if off_peak:
                others = (way for way in preview.steps if not way.endswith("--off-peak"))
                preview = replace(preview, steps=tuple(others))
            shown = dry_run.shown(
                preview,
                at,
                remarks=remarks,
                estimates=None if preview.currency else self._estimates(request),
                anyway=anyway,
            )
        self.notices.publish(shown)

    def _estimates(self, request: Request) -> dict[str, Estimate]:
        return {name: self.session.estimate(request, currency=name) for name in CURRENCIES}

    def _would_wait(self, at: datetime) -> Iterator[str]:
        begins = prices.off_peak_from(at)
        if begins > at:
            when, wait = clock_time(begins, at), duration((begins - at).total_seconds())
            yield f"It would wait until {when} (in {wait}), for the off-peak price."
        else:
            yield "It would not wait: the hours are off-peak now."

    def _wait_off_peak(self, asking: _Asking) -> None:
        """Block until the cheaper hours, and say until when and why."""
        session, cell, request = self.session, asking.cell, asking.request
        began = self._clock()
        begins = prices.off_peak_from(began)
        if begins <= began:
            return
        if cell is not None and cell.attended:
            self.notices.pending.add(asking.place, asks=True)
        asking.waited = True
        costs = session.estimate(request).cost, session.estimate(request, at=begins).cost
        say = self._line(each=False)

        def tell(begins: datetime) -> None:
            say(render.off_peak_line(begins, self._clock(), *costs, session.currency))

        try:
            session.wait_off_peak(told=tell)
        except KeyboardInterrupt:
            raise Interrupted(
                "the wait for off-peak hours was stopped. Nothing was sent. To ask now: run the "
                "cell without --off-peak"
            ) from None
        finally:
            waited = (self._clock() - began).total_seconds()
            say(f"Waited {duration(waited)} for off-peak hours.", last=True)

    def _out_of_money(self, error: OutOfMoney, asking: _Asking) -> None:
        """Return when money has come; else show what the cell wants shown, and raise."""
        waits = asking.on_empty == "wait" and isinstance(error, InsufficientBalance)
        attended = asking.cell is not None and asking.cell.attended
        if attended and asking.on_empty != "raise":
            self.notices.pending.add(asking.place, asks=True)
        if waits:
            no_money = self._waited(error, asking)
            if no_money is None:
                return
            error = no_money
        if not attended and asking.on_empty != "raise":
            self.notices.pending.add(asking.place, asks=True)
        self.notices.told(error, asking.cell)
        if asking.on_empty != "raise":
            self.notices.show(self._notice_of(error, asking), asking.cell)
        raise error

    def _waited(self, error: OutOfMoney, asking: _Asking) -> InsufficientBalance | None:
        """Wait for a top-up; give the error if none came in time.

        A job without a page is not on the list meanwhile: somebody could ask its
        question from there, and it would ask once more.
        """
        if asking.ends is None:  # one bound for all tries
            asking.ends = time.monotonic() + 3600 * self.settings.wait_hours
        try:
            notice = replace(self._notice_of(error, asking), goes_on=True, buttons=False)
            seconds = max(asking.ends - time.monotonic(), 0.0)
            self._wait_in_cell(seconds, render.notice_shown(notice))
        except InsufficientBalance as no_money:
            return no_money
        except KeyboardInterrupt:
            self.notices.pending.add(asking.place, asks=True)
            raise
        return None

    def _wait_in_cell(self, seconds: float, notice: Shown) -> None:
        """Block the cell until money has come, with the *notice* standing while it waits."""
        began = datetime.now(UTC)
        say = self._line(notice)
        try:
            self.session.wait(seconds, told=lambda look: say(render.look_line(look)))
        except KeyboardInterrupt:
            raise Interrupted(
                "the wait for a top-up was stopped. Nothing was sent. To go on: %deepseek rerun"
            ) from None
        finally:
            waited = (datetime.now(UTC) - began).total_seconds()
            say(f"Waited {duration(waited)} for a top-up.", last=True)

    def _line(self, head: Shown = NOTHING, *, each: bool = True) -> Callable[..., None]:
        """Give what shows a line that changes, below *head* until the last one.

        A terminal gets a line each time, or without *each* the first and the last.
        """
        shown: list[str] = []
        place = {"display_id": uuid.uuid4().hex}
        in_terminal = getattr(self.shell, "kernel", None) is None

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
            self.shell.display_pub.publish(data, transient=place, update=not first)

        return say

    def _view(self, cell: Cell | None) -> View:
        return view_for(self.shell, thinking=self.settings.thinking, alone=_is_all(cell))

    def _succeeded(self, answer: Answer, asking: _Asking) -> None:
        """Let the cell wait no more.

        After a re-run, or a long wait, that is once it is sure that a page shows the answer.
        """
        cell, pending = asking.cell, self.notices.pending
        waited = asking.waited or asking.ends is not None
        if cell is None or not (cell.replayed or (waited and cell.attended)):
            pending.done(asking.place)
            return
        pending.arrived(asking.place, asking.request, answer, cell.session)

        def look() -> None:
            if page_shows(self.shell, cell, stop=self._closing):
                pending.shown(asking.place, asking.request)
            else:
                pending.unseen(asking.place, asking.request)

        threading.Thread(target=look, name="deepseek_magic page", daemon=True).start()

    def _show_unread(self, answer: Answer, asking: _Asking) -> Answer:
        line = (
            f"{render.quiet_line(answer, None)} · this answer came while no page showed it. It was "
            "paid for then; nothing was sent now. Run the cell once more to ask anew."
        )
        self._view(asking.cell).end(answer, line, _stamp(answer, "done", None))
        self.notices.pending.shown(asking.place, asking.request)
        return answer

    def show_kept(self, row: Mapping[str, Any]) -> None:
        """Show the answer of an entry of the ledger once more."""
        answer = answer_of(row)
        asked = f"{row['sent'].astimezone():%Y-%m-%d %H:%M}"
        line = f"{render.quiet_line(answer, None)} · asked {asked}; nothing was sent now"
        ending = "done" if row["state"] == "done" else str(row["state"])
        stamp = {**_stamp(answer, ending, None), "again": True}  # it counts where it was asked
        self._view(current_cell(self.shell)).end(answer, line, stamp)

    def _show(self, view: View, asking: _Asking) -> Answer:
        request = asking.request
        answer = Answer(model=request.model)
        self.session.take_last()
        try:
            asked = self.session.stream(
                request, cell=asking.place.cell, budget=asking.cap, anyway=asking.anyway
            )
            with closing(asked) as answers:
                for answer in answers:  # the last one is shown for good
                    view.show(answer)
        except KeyboardInterrupt:
            if answer.note and answer.finish_reason is None:
                view.drop()
                raise Interrupted(
                    "the question was not asked again. Nothing was billed. Run the cell again to "
                    "ask anew."
                ) from None
            self._end(view, request, self.session.take_last() or answer, "interrupted")
            raise Interrupted(
                "the answer was stopped. What had arrived is kept above; the API may bill it. "
                "Run the cell again to ask anew."
            ) from None
        except DeepSeekError as error:
            ending = _ending(error)
            if error.answer is None:
                view.drop()
            else:
                self._end(view, request, error.answer, ending)
            raise
        self._end(view, request, answer, None)
        return answer

    def _end(self, view: View, request: Request, answer: Answer, ending: str | None) -> None:
        band = prices.band(self._clock())
        line = render.quiet_line(
            answer,
            self._left(answered=ending is None),
            place="sandbox" if self.account.sandbox else None,
            band=band,
            ending=ending,
        )
        parts = [line, *preflight.remarks(request), *self.session.alerts()]
        if (problem := self.session.ledger.problem) and problem != self._problem_told:
            parts.append(problem)
        self._problem_told = problem
        view.end(answer, " · ".join(parts), _stamp(answer, ending or "done", band))

    def _left(self, *, answered: bool) -> Decimal | None:
        """Give what is left; an empty figure above an answer is of before a top-up."""
        known = self.session.last_balance
        if answered and known is not None and (self.session.was_refused or not known.effective):
            self.session.purse.wait(FRESH_SECONDS)  # it is being read
            known = self.session.last_balance
            return (known.effective or None) if known else None
        return known.effective if known else None

    def _notice_of(self, error: OutOfMoney, asking: _Asking) -> render.Notice:
        cell = asking.cell
        attended = cell is not None and cell.attended
        own_limit = isinstance(error, OverLimit)
        host = error.host if isinstance(error, InsufficientBalance) else None
        return render.Notice(
            what=str(error).split(". ")[0] + ".",
            at=self._clock(),
            balance=error.balance,
            likely_cost=(error.estimate or self.session.estimate(asking.request)).cost,
            steps=error.steps,
            today=self._today() if own_limit else "",
            unsent=error.unsent,
            currency=self.session.currency,
            kept=_kept(error.answer),
            top_up_url=f"https://{host}/" if host else self.account.top_up_url,
            own_limit=own_limit,
            unknown=self._unknown(error),
            buttons=attended,
            waits=cell is not None and attended and not own_limit and only_asks(cell),
            problem=self.session.ledger.problem or "",
        )

    def _unknown(self, error: OutOfMoney) -> str:
        """Say what to do where too little is known to keep to a limit; "" where it can be kept."""
        if self.session.currency is None:
            return "Wait until the balance can be read"
        unpriced = error.estimate is not None and error.estimate.worst is None
        return "Set the price (%deepseek prices --set)" if unpriced else ""

    def _today(self) -> str:
        """Tell what was spent of the day's limit; "" where there is none, or nobody knows."""
        session, limit, currency = self.session, self.session.day_limit, self.session.currency
        if limit is None or currency is None:
            return ""
        day = self._clock().astimezone().date().isoformat()
        today = session.ledger.today(session.account, day, currency)
        if today is None:
            return ""
        under_way = f", {money(today.under_way, currency)} under way" if today.under_way else ""
        return f"{money(today.spent, currency)} spent{under_way}, of {money(limit, currency)}"

    def wait(self, seconds: float) -> Balance:
        """Block until there is money, and say so while it waits."""
        say = self._line(render.top_up_shown(self.account.top_up_url))
        try:
            return self.session.wait(seconds, told=lambda look: say(render.look_line(look)))
        except KeyboardInterrupt:
            raise Interrupted("the wait for a top-up was stopped. Nothing was sent.") from None
        except InsufficientBalance as no_money:
            # The line says all there is to say.
            self.notices.told(no_money, current_cell(self.shell))
            raise

    # -- money --------------------------------------------------------------------

    def show_balance(self) -> None:
        """Read the balance and show it: alive where a page is, as text elsewhere."""
        session = self.session
        try:
            session.balance()
        except DeepSeekError:
            if session.last_balance is None:
                raise
        cell = current_cell(self.shell)
        if cell is None or not cell.attended:
            self.notices.publish(render.balance_shown(self._facts()))
            return
        from .widgets import BalanceWidget

        self.notices.stand(cell, BalanceWidget(self.shell, cell, session, self._facts))

    def _facts(self) -> render.BalanceFacts:
        session, now = self.session, self._clock()
        balance, unread = session.last_balance, session.balance_problem
        left, currency = (balance.effective, balance.currency) if balance else (None, None)
        known = unread is None and balance is not None
        today, days = now.astimezone().date(), dict[date, Decimal]()
        if currency is not None:
            days = session.ledger.days(session.account, currency, today - timedelta(days=30))
        return render.BalanceFacts(
            balance=balance,
            state=balance.state(self._low_marks()) if known and balance else "unknown",
            spent_session=dict(session.spent),
            spent_today={currency: days[today]} if currency and today in days else {},
            days=days,
            lasts=session.books.lasts(left, days) if left else None,
            band=prices.band(now),
            changes=prices.next_change(now)[0],
            notes=tuple(session.findings()),
            now=now,
            top_up_url=self.account.top_up_url,
            sandbox=self.account.sandbox is not None,
            problem=unread or session.ledger.problem,
            waiting=_waiting_words(len(self.notices.pending.rows())),
        )

    def _leave(self) -> None:
        self.notices.forget_all()

    def close(self) -> None:
        """Close the widgets, the sandbox and the session."""
        self._closing.set()
        self.account.close()


def _waiting_words(number: int) -> tuple[str, ...]:
    if not number:
        return ()
    return (f"{counted(number, 'cell')} (%deepseek pending)",)


def _cap(budget: object) -> limits.Cap | None:
    """Read a budget, once for all tries of a question."""
    found = limits.read_amount("budget", budget)
    return None if found is None else limits.Cap(found)


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def _is_all(cell: Cell | None) -> bool:
    """Tell whether the cell is one `%%deepseek`, and no code that asks and shows more."""
    code = "" if cell is None else cell.parent["content"].get("code")
    return str(code).lstrip().startswith("%%deepseek")


def _ending(error: DeepSeekError) -> str:
    """Say in two words why what stands above the line is no whole answer."""
    match error:
        case OutOfMoney():
            return "out of money"
        case UnusableAnswer():
            return "not usable"
        case _:
            return "incomplete"


def _kept(answer: Answer | None) -> str | None:
    if answer is None:
        return None
    return f"{len(answer.text) + len(answer.reasoning):,} characters of the answer are kept above."


def _stamp(answer: Answer, ending: str, band: str | None) -> dict[str, Any]:
    """Give what the output's metadata says of an answer; an unknown cost is null."""
    span = answer.cost_range
    counts = {} if answer.usage is None else asdict(answer.usage)
    return {
        "model": answer.model,
        "cost": None if answer.cost is None else str(answer.cost),
        "cost_range": None if span is None else [str(span.low), str(span.high)],
        "currency": answer.currency,
        "band": band,
        "tokens": {name: number for name, number in counts.items() if number is not None} or None,
        "finish_reason": answer.finish_reason,
        "ending": ending,
    }
