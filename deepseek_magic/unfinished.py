"""The answers of one notebook that ended before their end, and the buttons below them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from . import continuation
from .errors import InvalidOption
from .words import later, t

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .ledger import Pending
    from .notices import Notices
    from .pending import Place
    from .rerun import Cell
    from .widgets import ContinueControls
    from .wire import Answer, Request

ELSEWHERE = later(
    "This answer does not go on from here any more: its rest was asked for elsewhere. Nothing was "
    "sent. It is kept: %deepseek answers"
)
NOTHING = later(
    "No answer of this notebook broke off or was cut of late, so there is nothing to go on with. "
    "Nothing was sent. Ask anew: run its cell again."
)
WENT_ON = later("It went on in another cell")
ANEW = later("Its question was asked anew")
DEAD = later(
    "The button that stood below is gone: it lasts no longer than its kernel. "
    "Instead of it: %load_ext deepseek_magic, then %deepseek continue"
)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An answer so far, by a *name*, and where its question was asked.

    *place* is None where an earlier kernel asked it. *line* has the options of its cell;
    None where nobody knows them any more. *wanted* tells that it was to go on, and that
    the money was missing. *max_tokens* bounds the rest; None is as the answer was.
    """

    name: str
    answer: Answer
    place: Place | None = None
    line: str | None = None
    wanted: bool = False
    max_tokens: int | None = None

    @property
    def question(self) -> Request:
        """What was asked."""
        return continuation.question_of(continuation.rest_of(self.answer))

    @property
    def rest(self) -> Request:
        """What is asked to go on."""
        return continuation.rest_of(self.answer, self.max_tokens)


@dataclass(frozen=True, slots=True)
class _Mended:
    """An answer that has gone on to its end in its cell, and from when to when it did."""

    question: Request
    answer: Answer
    began: datetime
    ended: datetime


class UnfinishedAnswers:
    """Those of the notebook in *shell*, the newest last."""

    def __init__(self, shell: InteractiveShell, notices: Notices) -> None:
        self._shell = shell
        self._notices = notices
        self._known: dict[str, Unfinished] = {}
        self._controls: dict[str, ContinueControls] = {}
        self._mended: dict[str, _Mended] = {}
        self._began = datetime.now(UTC)

    def of_run(self, cell: Cell | None, row: Pending | None) -> Unfinished | None:
        """Give what a run of *cell* goes on with, or of *row*, which waits for money."""
        if row is not None:
            waits = (one for one in self._known.values() if one.wanted and one.place)
            return next((one for one in waits if one.place and one.place.is_of(row)), None)
        if cell is None or not cell.resumes:
            return None
        if cell.resumes not in self._known:
            raise InvalidOption(t(ELSEWHERE))
        return self._known[cell.resumes]

    def newest(self, kept: Answer | None) -> Unfinished:
        """Give the newest one; *kept* is that of the ledger, where this kernel knows none."""
        if self._known:
            return next(reversed(self._known.values()))
        if kept is None:
            raise InvalidOption(t(NOTHING))
        return Unfinished(uuid.uuid4().hex, continuation.beginning(kept))

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._known)

    def keep(
        self,
        answer: Answer,
        place: Place,
        begun: Unfinished | None,
        *,
        line: str,
        wanted: bool = False,
    ) -> Unfinished:
        """Keep *answer*, which ended early in *place*; it went on from *begun*, if from any."""
        if begun is None:
            self.settle(place)
            one = Unfinished(uuid.uuid4().hex, answer, place, line, wanted)
        else:
            self._known.pop(begun.name, None)
            one = replace(begun, answer=answer, wanted=wanted)
        self._known[one.name] = one
        return one

    def offer(self, one: Unfinished, cell: Cell) -> None:
        """Put the button below the answer in *cell*."""
        from .widgets import ContinueControls

        controls = ContinueControls(self._shell, cell, one.name, turns=self._notices.turns)
        self._controls[one.name] = controls
        self._notices.stand(cell, controls)

    def begins(self, one: Unfinished, cell: Cell | None) -> None:
        """Let no button elsewhere go on with *one*, which goes on in *cell* now."""
        self._began = datetime.now(UTC)
        where = one.place.cell if one.place else None
        if where is not None and (cell is None or cell.place != where):
            self._notices.take_down(where, t(WENT_ON))
        self._retire(one, t(WENT_ON))

    def _retire(self, one: Unfinished, why: str) -> None:
        """Take the button of *one* away, where it stands: that of a cell which runs is gone."""
        controls = self._controls.pop(one.name, None)
        if controls is not None and not controls.closed:
            self._notices.void(controls.token)
            time = f"{datetime.now(UTC).astimezone():%H:%M}"
            controls.retire(t("{why}, at {time}.", why=why, time=time))

    def done(self, one: Unfinished) -> None:
        """Note that *one* has come to its end, or was asked anew."""
        self._known.pop(one.name, None)
        self._retire(one, t(ANEW))

    def mended(self, one: Unfinished, answer: Answer, cell: Cell | None) -> None:
        """Note that *one* has come to its end in *cell*, and that *answer* is the whole."""
        if cell is not None:
            now = datetime.now(UTC)
            self._mended[cell.place] = _Mended(one.question, answer, self._began, now)

    def meanwhile(self, request: Request, cell: Cell | None) -> Answer | None:
        """Give the answer to *request* if it went on while *cell* was sent by hand, once.

        The page shows what it has sent last in the cell, so it has not shown the answer.
        """
        one = self._mended.pop(cell.place, None) if cell is not None else None
        if one is None or cell is None or cell.replayed or cell.sent is None:
            return None
        meant = one.question == request and one.began <= cell.sent <= one.ended
        return one.answer if meant else None

    def settle(self, place: Place) -> None:
        """Note that the question in *place* was asked anew."""
        for one in list(self._known.values()):
            if one.place is not None and _same(one.place, place):
                self.done(one)

    def forget_all(self) -> None:
        """Forget all, with the account that they belong to."""
        self._known.clear()
        self._mended.clear()
        self._controls.clear()


def _same(one: Place, other: Place) -> bool:
    if one.cell is not None or other.cell is not None:
        return one.cell == other.cell
    return one.text == other.text
