"""The cells that wait for money, and answers that came while no page showed them.

The ledger holds both, so that they outlive the kernel. Where it may not keep
texts, an unread answer is kept in memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from .preflight import like_a_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .ledger import Pending
    from .session import Session
    from .wire import Answer, Request


LONGEST = timedelta(hours=1)
"""An answer came no longer than that before it was noted as unread."""


@dataclass(frozen=True, slots=True)
class Place:
    """What names a cell in the ledger: the front end's id, where there is one, and its text."""

    cell: str | None
    text: str
    notebook: str | None

    @property
    def names(self) -> dict[str, Any]:
        """Give it as the ledger's functions take it."""
        return {"cell": self.cell, "text": self.text, "notebook": self.notebook}

    def is_of(self, row: Pending) -> bool:
        """Tell whether *row* is this very cell, with these very words."""
        if self.notebook != row.notebook or row.text not in (None, self.text):
            return False
        return self.cell == row.cell if self.cell and row.cell else row.text is not None


@dataclass(slots=True)
class _Unread:
    """An answer whose page is being asked for, or has not answered.

    *page* is the connection of the page that wanted it.
    """

    answer: Answer
    page: str
    asked_for: bool = True


class PendingCells:
    """Those of the account of *session*; the notebook's own stand first."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._unread: dict[tuple[str, str], _Unread] = {}
        self._any: bool | None = None
        """Whether a cell waits, as it was read for the newest question; None is not known."""

    def rows(self) -> list[Pending]:
        """Give the cells that wait, those of this notebook first, the longest waiting first."""
        session = self._session
        rows = session.ledger.pending(session.account)
        return sorted(rows, key=lambda row: row.notebook != session.notebook)

    def here(self) -> list[Pending]:
        """Give the cells of this notebook that wait."""
        return [row for row in self.rows() if row.notebook == self._session.notebook]

    def add(self, place: Place, *, asks: bool) -> None:
        """Note that a cell was not paid for; *asks* tells a `%%deepseek` cell.

        The code of an ordinary cell may hold a key; then its text is not kept.
        """
        self._any = True
        self._session.ledger.pend(
            self._session.account,
            datetime.now(UTC),
            asks=asks,
            keep_text=not like_a_key(place.text, self._session.client.key),
            **place.names,
        )

    def done(self, place: Place, *, asks: bool = True) -> None:
        """Note that a cell has succeeded; one that does not ask settles no question of its own."""
        if self._any is not False:  # most cells have nothing to settle
            self._session.ledger.settle(self._session.account, asks=asks, **place.names)

    def forget(self, rows: Iterable[Pending]) -> None:
        """Let cells wait no more."""
        self._session.ledger.forget(row.id for row in rows)

    # -- answers without a reader ---------------------------------------------------

    def arrived(self, place: Place, request: Request, answer: Answer, page: str) -> None:
        """Keep *answer* until it is sure that the *page* has shown it."""
        self._any = True
        self._unread[_name(place, request)] = _Unread(answer, page)
        at = datetime.now(UTC)
        self._session.ledger.answered(self._session.account, at, **place.names)

    def shown(self, place: Place, request: Request) -> None:
        """Note that a page has shown the answer."""
        self._unread.pop(_name(place, request), None)
        self.done(place)

    def unseen(self, place: Place, request: Request) -> None:
        """Note that no page has shown the answer."""
        if (kept := self._unread.get(_name(place, request))) is not None:
            kept.asked_for = False

    def unread(self, place: Place, request: Request, page: str) -> Answer | None:
        """Give the answer to *request* in *place* that was paid for and that no page has shown.

        While the page that wanted it is being asked, *page* decides: the same one
        shows it, another one cannot.
        """
        if (kept := self._unread.get(_name(place, request))) is not None:
            return None if kept.asked_for and kept.page == page else kept.answer
        self._any = self._session.ledger.waits(self._session.account)
        if not self._any:
            return None
        rows = self._session.ledger.pending(self._session.account)
        since = [row.answered for row in rows if row.answered is not None and place.is_of(row)]
        return self._session.kept(request, min(since) - LONGEST) if since else None


def _name(place: Place, request: Request) -> tuple[str, str]:
    return place.cell or place.text, json.dumps(request.body(brief=True), sort_keys=True)
