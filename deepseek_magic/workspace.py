"""What lives in one notebook: its account, and what stands in its cells.

Everything here takes plain values; the words of a cell's line are the
magics' business.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from contextlib import closing
from dataclasses import asdict, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from . import continuation, failures, limits, preflight, prices, render
from .account import Account, Keeping
from .chats import HISTORY_TOKENS
from .elements import at_least, clock_time, duration
from .errors import (
    BadRequest,
    DeepSeekError,
    InsufficientBalance,
    Interrupted,
    InvalidOption,
    NoKey,
    OutOfMoney,
    UnusableAnswer,
)
from .notices import Notices, Patience, only_asks
from .pending import Place
from .records import answer_of
from .repair import MAY_COME
from .rerun import current_cell, page_shows
from .session import FRESH_SECONDS, now
from .unfinished import DEAD, ELSEWHERE, Unfinished, UnfinishedAnswers
from .view import view_for
from .waits import Asking, Waits
from .wire import Answer
from .words import later, sentences, t, tn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from IPython.core.interactiveshell import InteractiveShell

    from .estimate import Estimate
    from .ledger import Pending
    from .rerun import Cell
    from .row_cells import Rows
    from .schemas import Schema
    from .session import Session
    from .view import View
    from .waits import OnEmpty
    from .wire import Balance, Request

WAY_ON = later("to go on: %deepseek continue")
INCOMPLETE = later("incomplete")
INTERRUPTED = later("interrupted")
CURRENCIES = ("CNY", "USD")
"""What accounts are kept in (api-docs.deepseek.com/api/get-user-balance)."""


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
        self.unfinished = UnfinishedAnswers(shell, self.notices)
        self.waits = Waits(shell, settings, self.account, self.notices, clock)
        self._problem_told: str | None = None
        self._closing = threading.Event()
        self._clock = clock
        self._asked_in = Counter[tuple[str, str]]()
        """How many questions of conversations were asked in the run of a cell."""

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
        schema: Schema | None = None,
        repair: bool = True,
        cache: bool = False,
        fresh: bool = False,
        begun: Unfinished | None = None,
        chat: str | None = None,
        chat_tokens: int = HISTORY_TOKENS,
    ) -> Answer:
        """Send *request* and show the answer in the cell that is running.

        Every error is raised again after what had arrived has been shown for
        good. When the money is gone, *on_empty* says whether a notice is shown
        first, or a top-up waited for. *text* is the whole cell as it stands; *row*
        is the pending cell, where it is not the one that is running. *budget*, for all
        tries together, and *anyway* are those of `Session.stream`; with *off_peak* the
        cell waits for the cheaper hours. *schema* and *repair* are those of
        `Session.stream` too. An answer that was paid for while no page showed it is shown,
        and not bought again, unless *fresh*; with *cache* one of any earlier time. With
        *begun*, the answer goes on from there. *chat* names the conversation that it
        belongs to, whose turns go along up to *chat_tokens*.
        """
        key, anew = self.session.client.key, begun is None
        if refusal := preflight.refusal(request, key, answers_too=anew):
            raise refusal
        asking = self._asking(request, text, on_empty, budget, row, anyway=anyway)
        asking.begun = begun
        request = self._in_chat(request, chat, asking, chat_tokens)
        cell, place = asking.cell, asking.place
        page = cell.session if cell else ""
        if begun is not None:
            self._take(begun, asking)
        elif not fresh:
            answer = self.notices.pending.unread(place, request, page)
            if (answer := self.unfinished.meanwhile(request, cell) or answer) is not None:
                return self._show_unread(answer, asking, request)
        while True:
            if off_peak and not (cache and self.session.cached(request)):
                self.waits.off_peak(asking)
            try:
                answer = self._show(
                    self._view(cell), asking, request, schema, repair=repair, cache=cache
                )
                break
            except OutOfMoney as error:
                empty = error
            self.waits.for_money(empty, asking)
            if begun is not None:
                self._view(cell).drop()  # what there is will stand in the whole
        if begun is not None and not continuation.can_go_on(answer):
            self.unfinished.mended(begun, answer, cell)
        self._succeeded(answer, asking, request)
        return answer

    def _take(self, begun: Unfinished, asking: Asking) -> None:
        """Let *begun* go on in the cell that is running, unless another kernel does so."""
        if self.session.is_under_way(begun.answer):
            self._taken(begun, asking)
        asking.request = begun.rest
        self.unfinished.begins(begun, asking.cell)

    def _taken(self, begun: Unfinished, asking: Asking) -> NoReturn:
        """Leave *begun* as it stands in its cell: another kernel goes on with it."""
        if not asking.is_elsewhere:
            line = render.quiet_line(begun.answer, None, ending=t(INCOMPLETE))
            stamp = _stamp(begun.answer, INCOMPLETE, None)
            self._view(asking.cell).end(begun.answer, line, stamp)
        self.unfinished.done(begun)
        raise InvalidOption(t(ELSEWHERE))

    def _in_chat(
        self, request: Request, chat: str | None, asking: Asking, chat_tokens: int
    ) -> Request:
        """Give *request* the history of *chat*, and its place there: that of its cell."""
        if chat is None or asking.begun is not None:
            return request
        cell, place = asking.cell, asking.place.cell
        alone = place is not None and (cell is None or _is_all(cell) or cell.id != place)
        asking.turn = self.session.talks.next_turn(
            request,
            chat,
            cell=place if alone else self._nth_place(asking),
            bound=chat_tokens,
            moves=alone,
        )
        asking.request = asking.turn.request
        return asking.turn.request

    def _nth_place(self, asking: Asking) -> str | None:
        """Give a place to one of several questions of a cell: that of its number.

        A job's cells have no ids; there it is the number among cells with the same words,
        so that the job has the same conversation each time. None is a new one at the end.
        """
        cell, place = asking.cell, asking.place.cell
        if cell is None or (place is None and cell.attended):
            return None
        run = "" if place is None else str(cell.parent["header"].get("date"))
        name = place or hashlib.sha256(asking.place.text.encode("utf-8", "replace")).hexdigest()
        self._asked_in[run, name] += 1
        number = self._asked_in[run, name]
        return name if number == 1 else f"{name}#{number}"

    def begun(self, row: Pending | None = None) -> Unfinished | None:
        """Give the unfinished answer that the run of now, or *row*, goes on with; None if none."""
        return self.unfinished.of_run(current_cell(self.shell), row)

    def newest_unfinished(self) -> Unfinished:
        """Give the answer that broke off or was cut last, by this kernel or an earlier one."""
        return self.unfinished.newest(None if self.unfinished.any else self.session.broken())

    def _asking(
        self,
        request: Request | None,
        text: str,
        on_empty: OnEmpty,
        budget: object,
        row: Pending | None,
        *,
        anyway: bool,
    ) -> Asking:
        """Take what the cell that is running asks, under the settings of this moment."""
        self._set_up(self.session)
        cell = current_cell(self.shell)
        place = Place(cell.id if cell else None, text, self.session.notebook)
        if row is not None:
            place = Place(row.cell, text, row.notebook)
        anyway = anyway or (cell is not None and cell.anyway)
        return Asking(request, cell, place, on_empty, _cap(budget), anyway)

    def ask_rows(
        self,
        rows: Rows,
        *,
        text: str,
        bind: Callable[[Any], object],
        on_empty: OnEmpty = "notice",
        budget: object = None,
        anyway: bool = False,
        off_peak: bool = False,
        row: Pending | None = None,
    ) -> None:
        """Ask about every row and show what came of it in the cell that is running.

        *bind* is given the frame, also the one so far before an error is raised. The
        others are those of `ask`; a *budget* is for all rows together.
        """
        from .row_cells import RowCell

        asking = self._asking(None, text, on_empty, budget, row, anyway=anyway)
        job = RowCell(
            self.shell, self.session, self.waits, self.notices, asking, alone=_is_all(asking.cell)
        )
        if off_peak:
            self.waits.off_peak(asking)
        job.run(rows, bind, self._after_line)
        self.notices.pending.done(asking.place)

    def preview_rows(
        self, rows: Rows, *, budget: object = None, anyway: bool = False, off_peak: bool = False
    ) -> None:
        """Show what *rows* would cost and how far the money goes; send nothing of it."""
        from .rows import forecast_shown

        session, at = self.session, self._clock()
        self._set_up(session)
        remarks = list(self._would_wait(at)) if off_peak else []
        forecast = session.forecast(rows.data, rows.template, budget=_cap(budget), **rows.asked())
        if forecast.balance is None and (problem := session.balance_problem):
            remarks.append(problem)
        if forecast.first is not None:
            remarks += preflight.remarks(forecast.first)
            remarks += [t(MAY_COME)] if forecast.first.json and rows.repair else []
        self.notices.publish(forecast_shown(forecast, at, remarks=remarks, anyway=anyway))

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
        cache: bool = False,
        repair: bool = False,
        chat: str | None = None,
        chat_tokens: int = HISTORY_TOKENS,
    ) -> None:
        """Show what *request* would cost and what the checks would say; send nothing of it."""
        from . import dry_run

        session, at, turn = self.session, self._clock(), None
        self._set_up(session)
        remarks = list(self._would_wait(at)) if off_peak else []
        remarks += [t(MAY_COME)] if request.json and repair else []
        try:
            if chat is not None:
                cell = current_cell(self.shell)
                turn = session.talks.next_turn(
                    request, chat, cell=cell.id if cell else None, bound=chat_tokens
                )
                request = turn.request
                remarks += turn.notes
            if cache and (known := session.cached(request)) is not None and known.asked:
                when = f"{known.asked.astimezone():%Y-%m-%d %H:%M}"
                remarks.append(
                    t("It was answered at {time}: --cache shows that, for nothing.", time=when)
                )
            in_chat = {} if turn is None else {"chat": turn}
            preview = session.preview(request, budget=_cap(budget), **in_chat)
        except NoKey:
            if chat is not None:
                remarks.append(t("Without a key its conversation is not known, nor counted here."))
            estimates = self._estimates(request)
            shown = dry_run.without_account(request, estimates, at, remarks=remarks)
        else:
            if preview.balance is None and (problem := session.balance_problem):
                remarks.append(problem)
            if off_peak:
                others = (way for way in preview.steps if "--off-peak" not in way)
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
            yield t(
                "It would wait until {time} (in {wait}), for the off-peak price.",
                time=when,
                wait=wait,
            )
        else:
            yield t("It would not wait: the hours are off-peak now.")

    def _view(self, cell: Cell | None) -> View:
        return view_for(self.shell, thinking=self.settings.thinking, alone=_is_all(cell))

    def _succeeded(self, answer: Answer, asking: Asking, request: Request) -> None:
        """Let the cell wait no more.

        After a re-run, or a long wait, that is once it is sure that a page shows the answer.
        """
        cell, pending = asking.cell, self.notices.pending
        if asking.begun is not None and asking.is_elsewhere:
            pending.done(asking.place)
            if asking.begun.place is not None:
                pending.done(asking.begun.place)
            return
        waited = asking.waited or asking.ends is not None
        if cell is None or not (cell.replayed or (waited and cell.attended)):
            pending.done(asking.place)
            return
        pending.arrived(asking.place, request, answer, cell.session)

        def look() -> None:
            if page_shows(self.shell, cell, stop=self._closing):
                pending.shown(asking.place, request)
            else:
                pending.unseen(asking.place, request)

        threading.Thread(target=look, name="deepseek_magic page", daemon=True).start()

    def _show_unread(self, answer: Answer, asking: Asking, request: Request) -> Answer:
        remark = t(
            "this answer came while no page showed it. It was paid for then; nothing was sent "
            "now. Run the cell once more to ask anew."
        )
        line = f"{render.quiet_line(answer, None)} · {remark}"
        self._view(asking.cell).end(answer, line, _stamp(answer, "done", None))
        self.notices.pending.shown(asking.place, request)
        return answer

    def place_code(self, answer: Answer) -> None:
        """Put the first code of *answer* into a new cell below, or say why not; never run it."""
        cell = current_cell(self.shell)
        if answer.code is None:
            print(t("There is no block of code in the answer; no cell was added."))
        elif cell is not None and (cell.replayed or not cell.attended):
            print(t("The code stands in the answer above; this run can add no cell to the page."))
        else:
            self.shell.set_next_input(answer.code)

    def show_kept(self, row: Mapping[str, Any]) -> None:
        """Show the answer of an entry of the ledger once more."""
        answer = answer_of(row)
        asked = f"{row['sent'].astimezone():%Y-%m-%d %H:%M}"
        remark = t("asked {time}; nothing was sent now", time=asked)
        line = f"{render.quiet_line(answer, None)} · {remark}"
        ending = "done" if row["state"] == "done" else str(row["state"])
        stamp = {**_stamp(answer, ending, None), "again": True}
        self._view(current_cell(self.shell)).end(answer, line, stamp)

    def _show(
        self,
        view: View,
        asking: Asking,
        request: Request,
        schema: Schema | None,
        *,
        repair: bool,
        cache: bool,
    ) -> Answer:
        before = asking.begun.answer if asking.begun else None
        answer = before or Answer(model=request.model)
        self.session.take_last()
        try:
            asked = self._asked(request, asking, schema, repair=repair, cache=cache)
            with closing(asked) as answers:
                for answer in answers:  # the last one is shown for good
                    view.show(answer)
        except KeyboardInterrupt:
            if _is_unsent(answer, before):
                self._end_early(view, asking, before, INTERRUPTED)
                raise Interrupted(
                    t(
                        "the question was not asked again. Nothing was billed. Run the cell again "
                        "to ask anew."
                    )
                ) from None
            answer = self.session.take_last() or answer
            self._end(view, asking, answer, INTERRUPTED)
            raise Interrupted(_stopped(answer)) from None
        except DeepSeekError as error:
            self._end_early(view, asking, error.answer or before, _ending(error), error)
            raise
        self._end(view, asking, answer, None)
        return answer

    def _asked(
        self,
        request: Request,
        asking: Asking,
        schema: Schema | None,
        *,
        repair: bool,
        cache: bool,
    ) -> Generator[Answer]:
        """Send what *asking* asks: the question, or the rest of its answer."""
        terms: dict[str, Any] = {
            "cell": asking.place.cell,
            "budget": asking.cap,
            "anyway": asking.anyway,
            "schema": schema,
            "repair": repair,
        }
        if asking.turn is not None:
            terms["chat"] = asking.turn
        if asking.begun is not None:
            bound = asking.begun.max_tokens
            return self.session.resume_stream(asking.begun.answer, max_tokens=bound, **terms)
        return self.session.stream(request, cache=cache, **terms)

    def _end_early(
        self,
        view: View,
        asking: Asking,
        answer: Answer | None,
        ending: str,
        error: DeepSeekError | None = None,
    ) -> None:
        if answer is None:
            view.drop()
        else:
            self._end(view, asking, answer, ending, error)

    def _end(
        self,
        view: View,
        asking: Asking,
        answer: Answer,
        ending: str | None,
        error: DeepSeekError | None = None,
    ) -> None:
        """Show *answer* for good and, where it can go on, the button below it."""
        elsewhere = asking.is_elsewhere
        one, cell = self._kept(asking, answer, error), asking.cell
        # A notice has buttons of its own; what the API does not take would be refused once more.
        hopeless = isinstance(error, OutOfMoney | BadRequest)
        button = one is not None and not hopeless and asking.attended
        button = button and cell is not None and only_asks(cell)
        band, request = prices.band(self._clock()), asking.request
        line = render.quiet_line(
            answer,
            self._left(answered=ending is None),
            place=t("sandbox") if self.account.sandbox else None,
            band=band,
            ending=t(ending) if ending else None,
        )
        way = [t(WAY_ON)] if one is not None and ending is None else []
        remarks = preflight.remarks(request) if request is not None else []
        parts = [line, *way, *remarks, *self._warnings()]
        stamp = _stamp(answer, ending or "done", band, alone=elsewhere)
        view.end(answer, " · ".join(parts), stamp, dead=t(DEAD) if button else "")
        if button and one is not None and cell is not None:
            self.unfinished.offer(one, cell)

    def _kept(
        self, asking: Asking, answer: Answer, error: DeepSeekError | None
    ) -> Unfinished | None:
        """Keep *answer* if it can go on, and give it; else note that its question is settled."""
        if continuation.can_go_on(answer):
            line = asking.place.text.partition("\n")[0].removeprefix("%%deepseek").strip()
            wanted = asking.begun is not None and isinstance(error, OutOfMoney)
            one = self.unfinished.keep(answer, asking.place, asking.begun, line=line, wanted=wanted)
            asking.begun = one if asking.begun is not None else None
            return one
        if asking.begun is not None:
            self.unfinished.done(asking.begun)
        self.unfinished.settle(asking.place)
        return None

    def _warnings(self) -> list[str]:
        """Give what is to be said once, in the line below an answer."""
        problem = self.session.ledger.problem
        is_new = bool(problem) and problem != self._problem_told
        self._problem_told = problem
        return [*self.session.alerts(), *([problem] if problem and is_new else ())]

    def _after_line(self, *, answered: bool) -> list[str]:
        """Give what follows the figures of a job in its line."""
        session, left = self.session, self._left(answered=answered)
        return [
            *([] if left is None else [t("{left} left", left=at_least(left, session.currency))]),
            *([t("sandbox")] if self.account.sandbox else []),
            *self._warnings(),
        ]

    def _left(self, *, answered: bool) -> Decimal | None:
        """Give what is left; an empty figure above an answer is of before a top-up."""
        known = self.session.last_balance
        if answered and known is not None and (self.session.was_refused or not known.effective):
            self.session.purse.wait(FRESH_SECONDS)  # it is being read
            known = self.session.last_balance
            return (known.effective or None) if known else None
        return known.effective if known else None

    def wait(self, seconds: float) -> Balance:
        """Block until there is money, and say so while it waits."""
        say = self.waits.line(render.top_up_shown(self.account.top_up_url))
        try:
            return self.session.wait(seconds, told=lambda look: say(render.look_line(look)))
        except KeyboardInterrupt:
            raise Interrupted(t("the wait for a top-up was stopped. Nothing was sent.")) from None
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
        self.unfinished.forget_all()

    def close(self) -> None:
        """Close the widgets, the sandbox and the session."""
        self._closing.set()
        self.account.close()


def _waiting_words(number: int) -> tuple[str, ...]:
    if not number:
        return ()
    return (tn(number, "{n:,} cell (%deepseek pending)", "{n:,} cells (%deepseek pending)"),)


def _cap(budget: object) -> limits.Cap | None:
    """Read a budget, once for all tries of a question."""
    found = limits.read_amount("budget", budget)
    return None if found is None else limits.Cap(found)


def _is_all(cell: Cell | None) -> bool:
    """Tell whether the cell is one `%%deepseek`, and no code that asks and shows more."""
    code = "" if cell is None else cell.parent["content"].get("code")
    text = str(code).strip()
    return (
        text.startswith("%%deepseek") or re.match(r"%deepseek\s+continue\b.*\Z", text) is not None
    )


def _ending(error: DeepSeekError) -> str:
    """Say in two words why what stands above the line is no whole answer."""
    match error:
        case OutOfMoney():
            return later("out of money")
        case UnusableAnswer():
            return later("not usable")
        case _:
            return INCOMPLETE


def _is_unsent(answer: Answer, before: Answer | None) -> bool:
    """Tell an answer that waits to be asked for, and of which nothing was sent yet.

    What has taken time was sent, such as one whose repair is asked for; but an answer that
    goes on took its time before.
    """
    if not answer.note or answer.finish_reason is not None:
        return False
    if before is None:
        return answer.seconds is None
    return (answer.text, answer.reasoning) == (before.text, before.reasoning)


def _stopped(answer: Answer) -> str:
    """Say that an answer was stopped, and what can be done."""
    told: tuple[str, ...] = (
        t("the answer was stopped."),
        t("What had arrived is kept above; the API may bill it."),
        t(failures.ASK_ANEW),
    )
    return sentences(*failures.with_way_on(told) if continuation.can_go_on(answer) else told)


def _stamp(answer: Answer, ending: str, band: str | None, *, alone: bool = False) -> dict[str, Any]:
    """Give what the output's metadata says of an answer; an unknown cost is null.

    With *alone*, the figures are those of the rest: its beginning stands in another output.
    """
    if alone and answer.rest is not None:
        answer = answer.rest
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
        **({} if answer.asked is None else {"again": True}),  # it counts where it was asked
    }
