"""What lives in one notebook: its session, its sandbox, and what stands in its cells.

Everything here takes plain values; the words of a cell's line are the
magics' business.
"""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol, cast

from . import preflight, prices, render
from .errors import DeepSeekError, OutOfMoney, OverLimit
from .rerun import current_cell
from .session import Session
from .view import view_for
from .wire import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from IPython.core.interactiveshell import ExecutionInfo, InteractiveShell

    from .ledger import Keep
    from .rerun import Cell
    from .sandbox import Sandbox
    from .view import View
    from .widgets import BalanceWidget, NoticeControls
    from .wire import Balance, Key, Request

TOP_UP = "https://platform.deepseek.com/top_up"


class Settings(Protocol):
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
    def keep(self) -> str:
        """What the ledger may keep."""


class Interrupted(KeyboardInterrupt):
    """A query that the user stopped; shown as one line, like any other end of a cell."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


class Workspace:
    """The session of *shell* and the widgets in its cells; `close` leaves nothing behind."""

    def __init__(self, shell: InteractiveShell, settings: Settings) -> None:
        self.shell = shell
        self.settings = settings
        self.sandbox: Sandbox | None = None
        self._key: Key | None = None
        self._session: Session | None = None
        self._own: Session | None = None
        self._problem_told: str | None = None
        self._standing: dict[str, list[NoticeControls | BalanceWidget]] = {}

    # -- asking -------------------------------------------------------------------

    def ask(self, request: Request, *, notice: bool) -> Answer:
        """Send *request* and show the answer in the cell that is running.

        Every error is raised again after what had arrived has been shown for
        good; with *notice*, the want of money is shown as a notice first.
        """
        if refusal := preflight.refusal(request, self.session.client.key):
            raise refusal
        self.session.timeout = self.settings.timeout
        cell = current_cell(self.shell)
        thinking, alone = self.settings.thinking, _is_all(cell)
        view = view_for(self.shell, thinking=thinking, alone=alone)
        try:
            return self._show(view, request, cell)
        except OutOfMoney as error:
            if notice:
                self._notice(error, request, cell)
            raise

    def _show(self, view: View, request: Request, cell: Cell | None) -> Answer:
        answer = Answer(model=request.model)
        try:
            place = cell.id if cell else None
            with closing(self.session.stream(request, cell=place)) as answers:
                for answer in answers:  # the last one is shown for good
                    view.show(answer)
        except KeyboardInterrupt:
            self._end(view, request, answer, "interrupted")
            raise Interrupted(
                "the answer was stopped. What had arrived is kept above; the API may bill it. "
                "Run the cell again to ask anew."
            ) from None
        except DeepSeekError as error:
            ending = "out of money" if isinstance(error, OutOfMoney) else "no answer"
            if error.answer is None:
                view.drop()
            else:
                self._end(view, request, error.answer, ending)
            raise
        self._end(view, request, answer, None)
        return answer

    def _end(self, view: View, request: Request, answer: Answer, ending: str | None) -> None:
        known = self.session.last_balance
        line = render.quiet_line(
            answer,
            known.effective if known else None,
            place="sandbox" if self.sandbox else None,
            band=prices.band(datetime.now(UTC)),
        )
        parts = [*([ending] if ending else []), line, *preflight.remarks(request)]
        if (problem := self.session.ledger.problem) and problem != self._problem_told:
            parts.append(problem)
        self._problem_told = problem
        view.end(answer, " · ".join(parts), _stamp(answer, ending or "done"))

    def _notice(self, error: OutOfMoney, request: Request, cell: Cell | None) -> None:
        attended = cell is not None and cell.attended
        notice = render.Notice(
            what=str(error).split(". ")[0] + ".",
            at=datetime.now(UTC),
            balance=error.balance,
            likely_cost=self.session.likely_cost(request),
            currency=self.session.currency,
            kept=_kept(error.answer),
            top_up_url=self.top_up_url,
            own_limit=isinstance(error, OverLimit),
            buttons=attended,
        )
        self.publish(render.notice_shown(notice))
        if cell is not None and attended:
            from .widgets import NoticeControls

            self._stand(cell, NoticeControls(self.shell, cell, self.session))

    def _stand(self, cell: Cell, widget: NoticeControls | BalanceWidget) -> None:
        place = cell.id or cell.parent["header"]["msg_id"]
        self._standing.setdefault(place, []).append(widget)

    def clear_cell(self, info: ExecutionInfo) -> None:
        """Take away what stands in a cell which runs again (`pre_run_cell`).

        A page clears a cell that is run by hand, but not one that `Rerun` runs.
        """
        for widget in self._standing.pop(getattr(info, "cell_id", None) or "", ()):
            widget.close()
        cell = current_cell(self.shell)
        if cell is not None and cell.replayed:
            self.shell.display_pub.clear_output()

    # -- money --------------------------------------------------------------------

    @property
    def top_up_url(self) -> str:
        """The page where the account is topped up."""
        return self.sandbox.top_up_url if self.sandbox else TOP_UP

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
            self.publish(render.balance_shown(self._facts()))
            return
        from .widgets import BalanceWidget

        self._stand(cell, BalanceWidget(self.shell, cell, session, self._facts))

    def _facts(self) -> render.BalanceFacts:
        session, marks = self.session, self.settings.warn_below
        balance, unread = session.last_balance, session.balance_problem
        midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        low = {currency: Decimal(str(mark)) for currency, mark in marks.items()}
        return render.BalanceFacts(
            balance=balance,
            state="unknown" if balance is None or unread else balance.state(low),
            spent_session=dict(session.spent),
            spent_today=session.ledger.spent(session.account, midnight),
            now=datetime.now(UTC),
            top_up_url=self.top_up_url,
            sandbox=self.sandbox is not None,
            problem=unread or session.ledger.problem,
        )

    # -- whose account ------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session that questions go through; made on first use."""
        if self._session is None:
            self._session = self._new_session(self._key)
        return self._session

    def sign_in(self, key: Key) -> Balance:
        """Use *key* from now on, if the API accepts it; give what the account holds."""
        session = self._new_session(key)
        try:
            balance = session.balance()
        except DeepSeekError:
            session.close()
            raise
        self.sandbox_off()
        self.renew()
        self._key, self._session = key, session
        return balance

    def renew(self) -> None:
        """Let the own session be made anew, with the settings of now, on its next use."""
        if self.sandbox is not None:
            self._own, stale = None, self._own
        else:
            self._forget_widgets()
            self._session, stale = None, self._session
        if stale is not None:
            stale.close()

    def sandbox_on(self, balance: Decimal, currency: str) -> Sandbox:
        """Switch to a simulated account; the own session waits until `sandbox_off`."""
        from .sandbox import Sandbox

        self.sandbox_off()
        self._own = self._session
        # Shown to the millionth, so that the cost of one question can be seen; the API rounds.
        self.sandbox = Sandbox(balance=balance, currency=currency, decimals=6)
        self.sandbox.start()
        self._session = Session(
            api_key=self.sandbox.api_key,
            base_url=self.sandbox.base_url,
            ledger=":memory:",
            notebook=_notebook(self.shell),
        )
        return self.sandbox

    def sandbox_off(self) -> None:
        """Go back to the own account; without a sandbox nothing happens."""
        if self.sandbox is None:
            return
        self._forget_widgets()
        self.session.close()
        self.sandbox.close()
        self.sandbox, self._session, self._own = None, self._own, None

    def _new_session(self, key: Key | None) -> Session:
        return Session(
            api_key=key,
            keep=cast("Keep", self.settings.keep),
            notebook=_notebook(self.shell),
        )

    # -- the cells ----------------------------------------------------------------

    def publish(self, shown: render.Shown) -> None:
        """Show a pair of HTML and text; in a terminal the text alone."""
        if getattr(self.shell, "kernel", None) is None:
            print(shown.text)
        else:
            self.shell.display_pub.publish(data={"text/html": shown.html, "text/plain": shown.text})

    def _forget_widgets(self) -> None:
        for widgets in self._standing.values():
            for widget in widgets:
                widget.close()
        self._standing.clear()

    def close(self) -> None:
        """Close the widgets, the sandbox and the session."""
        self.sandbox_off()
        self.renew()


def _notebook(shell: InteractiveShell) -> str | None:
    """Give the path of the notebook, as Jupyter's server or VS Code tell it."""
    path = os.environ.get("JPY_SESSION_NAME") or shell.user_ns.get("__vsc_ipynb_file__")
    return path if isinstance(path, str) else None


def _is_all(cell: Cell | None) -> bool:
    """Tell whether the cell is one `%%deepseek`, and no code that asks and shows more."""
    code = "" if cell is None else cell.parent["content"].get("code")
    return str(code).lstrip().startswith("%%deepseek")


def _kept(answer: Answer | None) -> str | None:
    if answer is None:
        return None
    return f"{len(answer.text) + len(answer.reasoning):,} characters of the answer are kept above."


def _stamp(answer: Answer, ending: str) -> dict[str, Any]:
    """Give what the output's metadata says of an answer; an unknown cost is null."""
    return {
        "model": answer.model,
        "cost": None if answer.cost is None else str(answer.cost),
        "currency": answer.currency,
        "finish_reason": answer.finish_reason,
        "ending": ending,
    }
