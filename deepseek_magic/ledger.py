"""The ledger: one SQLite file that holds what was asked, answered and spent.

Every statement runs on one thread of its own, so a slow disk never holds up a
query, and writes that came meanwhile are committed together. The journal is
SQLite's ordinary one, because WAL does not work on network home folders.
A ledger that cannot be written says so in `problem`, keeps what it could not
write, tries again with the next entry, and never stops a query. One record that
SQLite does not take is left out, and holds up no other.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar

from .store import BUSY_SECONDS, READ_SECONDS, File, Statement, Step, finished, storable
from .wire import EXACT

Keep = Literal["all", "figures", "nothing"]
State = Literal["sent", "done", "unusable", "partial", "interrupted", "refused", "failed"]

T = TypeVar("T")

PLACES = 12
"""Costs are whole multiples of 10 ** -12 in the file, so that SQLite adds them exactly."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a call when it is sent."""

    at: datetime
    account: str
    model: str
    think: str | None = None
    notebook: str | None = None
    cell: str | None = None
    request: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. A count, a cost or a text that is not known is None."""

    state: State
    at: datetime
    model: str | None = None
    prompt_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    prompt_cache_miss_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    price: str | None = None
    band: str | None = None
    currency: str | None = None
    cost: Decimal | None = None
    seconds: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    trace_id: str | None = None
    answer: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A cell that was not paid for, as it waits in the ledger.

    *text* is the whole cell as it was sent, None where the ledger keeps no
    texts; *asks* tells a `%%deepseek` cell from an ordinary one. *answered* is
    when an answer arrived that no page has shown; it is offered, not bought again.
    """

    id: int
    since: datetime
    notebook: str | None
    cell: str | None
    text: str | None
    asks: bool
    answered: datetime | None = None


def m001_entries_and_readings(db: sqlite3.Connection) -> None:
    """Create the first tables; times are microseconds since 1970, UTC."""
    db.execute(
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, sent INTEGER NOT NULL, ended INTEGER,"
        " account TEXT NOT NULL, state TEXT NOT NULL, model TEXT NOT NULL, think TEXT,"
        " notebook TEXT, cell TEXT, request TEXT, prompt_tokens INTEGER,"
        " prompt_cache_hit_tokens INTEGER, prompt_cache_miss_tokens INTEGER,"
        " completion_tokens INTEGER, reasoning_tokens INTEGER, price TEXT, band TEXT,"
        " currency TEXT, cost INTEGER, seconds REAL, finish_reason TEXT, error TEXT,"
        " trace_id TEXT, answer TEXT, reasoning TEXT)"
    )
    db.execute("CREATE INDEX entries_ended ON entries (account, ended)")
    db.execute(
        "CREATE TABLE readings (account TEXT NOT NULL, at INTEGER NOT NULL,"
        " available INTEGER, currency TEXT, total TEXT, granted TEXT, topped_up TEXT)"
    )
    db.execute("CREATE INDEX readings_at ON readings (account, at)")


def m002_pending_cells(db: sqlite3.Connection) -> None:
    """Create the table of cells that wait for money; a place holds one at a time."""
    db.execute(
        "CREATE TABLE pending (id INTEGER PRIMARY KEY, since INTEGER NOT NULL,"
        " account TEXT NOT NULL, notebook TEXT NOT NULL, place TEXT NOT NULL, cell TEXT,"
        " text TEXT, asks INTEGER NOT NULL, answered INTEGER)"
    )
    db.execute("CREATE UNIQUE INDEX pending_place ON pending (account, notebook, place)")


STEPS: tuple[Step, ...] = (m001_entries_and_readings, m002_pending_cells)
"""Each runs once, in order, and is remembered by its name. Append only."""

READING = (
    "INSERT INTO readings VALUES (:account, :at, :available, :currency, :total, :granted,"
    " :topped_up)"
)
SPENT = (
    "SELECT currency, SUM(cost) FROM entries WHERE account = ? AND ended > ?"
    " AND cost IS NOT NULL GROUP BY currency"
)
USAGE = (
    "SELECT date(sent / 1000000, 'unixepoch', 'localtime') AS day, model, notebook, currency,"
    " COUNT(*) AS queries, SUM(cost) AS cost, SUM(cost IS NULL)"
    " AS unpriced, SUM(prompt_tokens) AS prompt_tokens,"
    " SUM(prompt_cache_hit_tokens) AS prompt_cache_hit_tokens,"
    " SUM(prompt_cache_miss_tokens) AS prompt_cache_miss_tokens,"
    " SUM(completion_tokens) AS completion_tokens, SUM(reasoning_tokens) AS reasoning_tokens"
    " FROM entries WHERE account = ? AND state NOT IN ('refused', 'failed')"
    " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
)
LAST_READING = (
    "SELECT available, currency, total, granted, topped_up, at FROM readings WHERE account = ?"
    " AND at = (SELECT MAX(at) FROM readings WHERE account = ?"
    " AND at <= IFNULL(?, at))"
)
TYPICAL_OUT = (
    "SELECT AVG(completion_tokens) FROM (SELECT completion_tokens FROM entries WHERE model = ?"
    " AND think IS ? AND state = 'done' ORDER BY id DESC LIMIT 50)"
)
PEND = (
    "INSERT INTO pending (id, since, account, notebook, place, cell, text, asks, answered)"
    " VALUES (:id, :since, :account, :notebook, :place, :cell, :text, :asks, :answered)"
    " ON CONFLICT (account, notebook, place) DO UPDATE"
    " SET text = excluded.text, asks = excluded.asks, answered = excluded.answered"
)
# A cell with an id of its own is never meant by the words of another.
THE_CELL = (
    " WHERE account = :account AND notebook = :notebook AND (place IN (:place, :unread)"
    " OR (cell IS NULL OR :cell IS NULL) AND (place = :by_text OR text = :text AND asks))"
    " AND (:asks OR NOT asks)"
)
ANSWERS = (
    "SELECT * FROM entries WHERE account = ? AND answer IS NOT NULL"
    " ORDER BY sent DESC, id DESC LIMIT ?"
)
WAITS = "SELECT EXISTS (SELECT 1 FROM pending WHERE account = ?)"
WAITING = "SELECT * FROM pending WHERE account = ? ORDER BY since, id"
KEPT = (
    "SELECT * FROM entries WHERE account = ? AND ended >= ? AND request = ? AND state = 'done'"
    " AND answer IS NOT NULL ORDER BY ended DESC LIMIT 1"
)


def stamp(at: datetime) -> int:
    """Give a moment as the file holds it."""
    return round(at.timestamp() * 1_000_000)


def moment(stamped: int) -> datetime:
    """Read a moment as the file holds it."""
    return datetime.fromtimestamp(stamped / 1_000_000, UTC)


def money(units: int | None) -> Decimal | None:
    """Read an amount as the file holds it."""
    return None if units is None else Decimal(units).scaleb(-PLACES, EXACT)


def _units(cost: Decimal) -> int | None:
    """Give an amount as the file holds it; None for one that is no amount."""
    if not cost.is_finite():
        return None
    return int(cost.scaleb(PLACES, EXACT).to_integral_value(context=EXACT))


def _values(record: Asked | Outcome) -> dict[str, Any]:
    """Give the columns that are known; an update leaves the others as they are."""
    values = {name: getattr(record, name) for name in record.__slots__}
    if values.get("cost") is not None:
        values["cost"] = _units(values["cost"])
    values["sent" if isinstance(record, Asked) else "ended"] = stamp(values.pop("at"))
    kept = ((name, storable(value)) for name, value in values.items() if value is not None)
    return {name: value for name, value in kept if value is not None}


def _asking(entry: int, asked: Asked, keep: Keep) -> Statement:
    values = {**_values(asked), "id": entry, "state": "sent"}
    if keep != "all":
        values.pop("request", None)
    columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    return f"INSERT INTO entries ({columns}) VALUES ({marks})", values


def _ending(entry: int, outcome: Outcome, keep: Keep) -> Statement:
    values = _values(outcome)
    if keep != "all":
        for name in ("answer", "reasoning", "error"):
            values.pop(name, None)
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    return f"UPDATE entries SET {assignments} WHERE id = :id", {**values, "id": entry}


def _reading(account: str, at: datetime, row: Mapping[str, Any]) -> Statement:
    values = {name: storable(value) for name, value in row.items()}
    return READING, {**values, "account": storable(account), "at": stamp(at)}


def _place(account: str, notebook: str | None, cell: str | None, text: str) -> dict[str, Any]:
    """Give what names a cell: the front end's id where there is one, else a hash of its text.

    An answer that was not shown has a place beside it, since its cell may ask
    something else meanwhile.
    """
    by_text = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    values = {
        "account": account,
        "notebook": notebook or "",
        "cell": cell,
        "place": cell or by_text,
        "unread": f"{cell or ''}#{by_text}",
        "by_text": by_text,
        "text": text,
    }
    return {name: storable(value) for name, value in values.items()}


class Ledger:
    """A ledger at *path*, or in memory with ":memory:".

    *keep* says what may be written down: "all", "figures" (no text of any
    question or answer), or "nothing" (what is needed while the session runs is
    kept in memory). *busy_seconds* is how long another kernel's write is waited
    for. Nothing that goes wrong with the file is raised: a read gives what it
    gives when nothing is known, and `problem` says why.
    """

    def __init__(
        self,
        path: str | Path = ":memory:",
        *,
        keep: Keep = "all",
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self.path = ":memory:" if keep == "nothing" else str(path)
        self.keep = keep
        self._busy_seconds = busy_seconds
        self._files: dict[int, File] = {}

    @property
    def _file(self) -> File:
        """Give what this process writes with: threads and connections end at a fork.

        The parent's is not closed in the child, where SQLite could undo what the
        parent is writing; it is kept, untouched.
        """
        process = os.getpid()
        found = self._files.get(process)
        return found or self._files.setdefault(process, File(self.path, self._busy_seconds, STEPS))

    @property
    def problem(self) -> str | None:
        """Why the file could not be used, as one line with the next step; None when all is well."""
        return self._file.problem

    def ask(self, asked: Asked) -> int:
        """Note that a call goes out; return at once with the name of its entry."""
        entry = next(self._file.names)
        self._write(lambda: _asking(entry, asked, self.keep))
        return entry

    def end(self, entry: int, outcome: Outcome) -> Future[None]:
        """Note how the call of *entry* ended; the future is done when that is on disk."""
        return self._write(lambda: _ending(entry, outcome, self.keep))

    def reading(self, account: str, at: datetime, rows: list[dict[str, Any]]) -> None:
        """Keep a reading of the balance, a row for each currency."""
        for row in rows:
            self._write(lambda row=row: _reading(account, at, row))  # type: ignore[misc]  # bound here

    def last_reading(
        self,
        account: str,
        *,
        until: datetime | None = None,
        wait: float | None = READ_SECONDS,
    ) -> tuple[datetime, list[dict[str, Any]]] | None:
        """Give the newest reading of *account* by any kernel; None when there is none.

        One from after *until* is of a clock that was wrong, and does not count. A
        file that is not free within *wait* seconds gives None too.
        """
        latest = None if until is None else stamp(until)

        def newest() -> tuple[datetime, list[dict[str, Any]]] | None:
            rows = self._file.read(LAST_READING, (account, account, latest), wait)
            return (moment(rows[0]["at"]), [dict(row) for row in rows]) if rows else None

        return self._quietly(newest, lambda: None)

    def spent(
        self, account: str, since: datetime, *, wait: float | None = READ_SECONDS
    ) -> dict[str, Decimal]:
        """Add up the known costs of calls that ended after *since*, by currency.

        A file that is not free within *wait* seconds gives nothing.
        """

        def sums() -> dict[str, Decimal]:
            rows = self._file.read(SPENT, (account, stamp(since)), wait)
            return {row[0]: Decimal(row[1]).scaleb(-PLACES, EXACT) for row in rows}

        return self._quietly(sums, dict)

    def typical_out(
        self, model: str, think: str | None, *, wait: float | None = READ_SECONDS
    ) -> int | None:
        """Give the usual length of answers of this kind, in tokens; None without any.

        A file that is not free within *wait* seconds gives None too.
        """

        def length() -> int | None:
            rows = self._file.read(TYPICAL_OUT, (model, think), wait)
            mean = rows[0][0] if rows else None
            return None if mean is None else round(mean)

        return self._quietly(length, lambda: None)

    def usage(self, account: str) -> list[dict[str, Any]]:
        """Add up calls, tokens and costs by local day, model, notebook and currency.

        Refused calls, which cost nothing, are left out; *unpriced* counts those
        whose cost is not known and not in the sum.
        """

        def sums() -> list[dict[str, Any]]:
            rows = (dict(row) for row in self._file.read(USAGE, (account,), None))
            return [{**row, "cost": money(row["cost"])} for row in rows]

        return self._quietly(sums, list)

    # -- cells that wait for money -------------------------------------------------

    def pend(
        self,
        account: str,
        at: datetime,
        *,
        cell: str | None,
        text: str,
        notebook: str | None,
        asks: bool,
        keep_text: bool = True,
    ) -> Future[None]:
        """Note that a cell was not paid for; one that waits already keeps its time.

        Its text stays out where *keep_text* or the ledger's own `keep` says so.
        """
        row = {**_place(account, notebook, cell, text), "asks": asks, "answered": None}
        return self._pend(row, at, keep_text=keep_text)

    def _pend(self, row: dict[str, Any], at: datetime, *, keep_text: bool = True) -> Future[None]:
        values = {**row, "id": next(self._file.names), "since": stamp(at)}
        if not keep_text or (self.keep != "all" and self.path != ":memory:"):
            values["text"] = None
        return self._write(lambda: (PEND, values))

    def settle(
        self,
        account: str,
        *,
        cell: str | None,
        text: str,
        notebook: str | None,
        asks: bool = True,
    ) -> Future[None]:
        """Note that a cell has succeeded: it waits no more.

        One that does not ask, an ordinary cell, settles no question.
        """
        values = {**_place(account, notebook, cell, text), "asks": asks}
        return self._write(lambda: ("DELETE FROM pending" + THE_CELL, values))

    def answered(
        self, account: str, at: datetime, *, cell: str | None, text: str, notebook: str | None
    ) -> Future[None]:
        """Note that the answer to a cell is here, and that no page has shown it yet.

        Where no texts are kept, the answer could not be shown later, and nothing is noted.
        """
        if self.keep != "all" and self.path != ":memory:":
            return finished()
        self.settle(account, cell=cell, text=text, notebook=notebook)
        row = {**_place(account, notebook, cell, text), "asks": True, "answered": stamp(at)}
        return self._pend({**row, "place": row["unread"]}, at)

    def forget(self, entries: Iterable[int]) -> None:
        """Let cells wait no more, by their `Pending.id`."""
        for entry in entries:
            self._write(lambda entry=entry: ("DELETE FROM pending WHERE id = :id", {"id": entry}))  # type: ignore[misc]  # bound here

    def waits(self, account: str, *, wait: float | None = READ_SECONDS) -> bool | None:
        """Tell whether any cell of *account* waits; None where that cannot be read in time."""

        def one() -> bool | None:
            rows = self._file.read(WAITS, (account,), wait)
            return bool(rows[0][0]) if rows else None

        return self._quietly(one, lambda: None)

    def pending(self, account: str, *, wait: float | None = READ_SECONDS) -> list[Pending]:
        """Give the cells of *account* that wait for money, the longest waiting first.

        A file that is not free within *wait* seconds gives none.
        """

        def all_of_them() -> list[Pending]:
            rows = self._file.read(WAITING, (account,), wait)
            return [_pending(dict(row)) for row in rows]

        return self._quietly(all_of_them, list)

    def kept(self, account: str, request: str, since: datetime) -> dict[str, Any] | None:
        """Give the newest whole answer to the very same *request* that ended after *since*."""

        def newest() -> dict[str, Any] | None:
            rows = self._file.read(KEPT, (account, stamp(since), request), None)
            return _entry(dict(rows[0])) if rows else None

        return self._quietly(newest, lambda: None)

    def answers(self, account: str, limit: int = 20) -> list[dict[str, Any]]:
        """Give the newest entries of *account* that hold an answer, whole or in part."""

        def newest() -> list[dict[str, Any]]:
            rows = self._file.read(ANSWERS, (account, limit), None)
            return [_entry(dict(row)) for row in rows]

        return self._quietly(newest, list)

    def entries(self) -> list[dict[str, Any]]:
        """Give every entry, oldest first, costs as `Decimal` and times as aware UTC."""

        def all_of_them() -> list[dict[str, Any]]:
            rows = self._file.read("SELECT * FROM entries ORDER BY sent, id", (), None)
            return [_entry(dict(row)) for row in rows]

        return self._quietly(all_of_them, list)

    def close(self) -> None:
        """Write what waits and close the file; doing it twice is harmless.

        The end of an answer that is noted later is written all the same.
        """
        self._file.close()

    def _write(self, statement: Callable[[], Statement]) -> Future[None]:
        return self._quietly(lambda: self._file.write(*statement()), finished)

    def _quietly(self, work: Callable[[], T], otherwise: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as error:  # noqa: BLE001  an answer that was paid for is worth more
            self._file.leave_out(error)
            return otherwise()


def _pending(row: Mapping[str, Any]) -> Pending:
    return Pending(
        id=row["id"],
        since=moment(row["since"]),
        notebook=row["notebook"] or None,
        cell=row["cell"],
        text=row["text"],
        asks=bool(row["asks"]),
        answered=None if row["answered"] is None else moment(row["answered"]),
    )


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    ended = None if row["ended"] is None else moment(row["ended"])
    return {**row, "cost": money(row["cost"]), "sent": moment(row["sent"]), "ended": ended}
