"""The ledger: one SQLite file that holds what was asked, answered and spent.

Every statement runs on one thread of its own, so a slow disk never holds up a
query, and writes that came meanwhile are committed together. The journal is
SQLite's ordinary one, because WAL does not work on network home folders.
A ledger that cannot be written says so in `problem`, keeps what it could not
write, tries again with the next entry, and never stops a query. One record that
SQLite does not take is left out, and holds up no other.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import schema
from .entries import (
    MOST,
    Asked,
    Keep,
    Outcome,
    Past,
    Pending,
    Reserved,
    Spending,
    State,
    Today,
    about,
    amount_of,
    asking,
    ending,
    entry_of,
    moment,
    money,
    past_of,
    pending_cell,
    place_of,
    priced,
    reading_row,
    spending_of,
    stamp,
    total_of,
    usage_of,
    whole,
)
from .processes import has_ended, this_process
from .store import (
    BUSY_SECONDS,
    READ_SECONDS,
    SETTLE_SECONDS,
    File,
    Statement,
    Values,
    bulk,
    finished,
    storable,
)

if TYPE_CHECKING:
    from .wire import CostRange

__all__ = [
    "Asked",
    "Keep",
    "Ledger",
    "Outcome",
    "Past",
    "Pending",
    "Reserved",
    "Spending",
    "State",
    "Today",
]

T = TypeVar("T")

FORGOTTEN = timedelta(hours=24)
"""A call that nobody can tell anything of any more has ended after this time."""

ENOUGH = 3
"""So many answers of a kind say more than all answers of a wider kind."""


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
        self._owners: dict[int, str] = {}
        self._told: set[tuple[str, str]] = set()

    @property
    def _file(self) -> File:
        """Give what this process writes with: threads and connections end at a fork.

        The parent's is not closed in the child, where SQLite could undo what the
        parent is writing; it is kept, untouched.
        """
        process = os.getpid()
        found = self._files.get(process)
        return found or self._files.setdefault(
            process, File(self.path, self._busy_seconds, schema.STEPS)
        )

    @property
    def _owner(self) -> str:
        process = os.getpid()
        return self._owners.get(process) or self._owners.setdefault(process, this_process())

    @property
    def problem(self) -> str | None:
        """Why the file could not be used, as one line with the next step; None when all is well."""
        return self._file.problem

    def new_entry(self) -> int:
        """Name an entry before it is noted, so that it can be withdrawn at any moment."""
        return next(self._file.names)

    def ask(self, asked: Asked, *, entry: int | None = None) -> int:
        """Note that a call goes out; return at once with the name of its *entry*."""
        name = self.new_entry() if entry is None else entry
        self._write(lambda: asking(name, asked, self.keep, self._owner))
        return name

    def note(
        self, calls: Iterable[tuple[int, Asked]], outcomes: Iterable[tuple[int, Outcome]]
    ) -> Future[None]:
        """Note how calls ended and that others go out, by their entries, in one transaction."""
        owner = self._owner

        def statements() -> list[Statement]:
            ended = [ending(entry, outcome, self.keep) for entry, outcome in outcomes]
            asked = [asking(entry, one, self.keep, owner) for entry, one in calls]
            return [*bulk(ended), *bulk(asked)]

        return self._quietly(lambda: self._file.write_all(statements()), finished)

    def reserve_all(
        self, calls: Sequence[tuple[int, Asked]], limit: Decimal
    ) -> Future[list[Reserved] | None]:
        """Do for each of *calls* what `reserve` does, in one transaction; returns at once."""
        owner = self._owner

        def work(db: sqlite3.Connection) -> list[Reserved]:
            return [self._reserved(db, entry, asked, limit, owner) for entry, asked in calls]

        nothing: Future[list[Reserved] | None] = Future()
        nothing.set_result(None)
        return self._quietly(lambda: self._file.tidy(work), lambda: nothing)

    def withdraw(self, entry: int) -> None:
        """Take back the note of a call that did not go out; there may be none."""
        self._write(lambda: ("DELETE FROM entries WHERE id = :id", {"id": entry}))

    def reserve(
        self,
        asked: Asked,
        limit: Decimal,
        *,
        entry: int | None = None,
        wait: float = SETTLE_SECONDS,
    ) -> Reserved:
        """Note that a call goes out if its day, with all that is under way, stays within *limit*.

        All kernels that use the file are counted. What is reserved is free again
        when the call has ended. It is on disk when this returns.
        """
        owner, name = self._owner, self.new_entry() if entry is None else entry

        def work(db: sqlite3.Connection) -> Reserved:
            return self._reserved(db, name, asked, limit, owner)

        def undo(late: Future[Reserved | None]) -> None:
            found = None if late.exception() else late.result()
            if found is not None and found.entry is not None:
                self.withdraw(found.entry)

        return self._quietly(
            lambda: self._file.settle(work, wait, undo) or Reserved(None), lambda: Reserved(None)
        )

    def _reserved(
        self, db: sqlite3.Connection, entry: int, asked: Asked, limit: Decimal, owner: str
    ) -> Reserved:
        statement, values = asking(entry, asked, self.keep, owner)
        most, units = whole(limit, ROUND_FLOOR), values.get("reserved")
        # A file that was given up does not tell what the others spend.
        if self._file.is_lost or most is None or units is None or "currency" not in values:
            return Reserved(None)
        key = {name: values[name] for name in ("account", "day", "currency")}
        spent, _, under_way, _ = db.execute(schema.TODAY, key).fetchone()
        if spent + under_way + units > most:
            return Reserved(None, money(spent), money(under_way))
        db.execute(statement, values)
        return Reserved(entry, money(spent), money(under_way))

    def end(self, entry: int, outcome: Outcome) -> Future[None]:
        """Note how the call of *entry* ended; the future is done when that is on disk."""
        return self._write(lambda: ending(entry, outcome, self.keep))

    def reading(self, account: str, at: datetime, rows: list[dict[str, Any]]) -> None:
        """Keep a reading of the balance, a row for each currency."""
        for row in rows:
            self._write(lambda row=row: reading_row(account, at, row))  # type: ignore[misc]  # bound here

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
            rows = self._file.read(schema.LAST_READING, (account, account, latest), wait)
            return (moment(rows[0]["at"]), [dict(row) for row in rows]) if rows else None

        return self._quietly(newest, lambda: None)

    def readings(self, account: str, since: datetime) -> list[tuple[datetime, dict[str, Decimal]]]:
        """Give the readings of *account* after *since*, oldest first, by currency."""

        def all_of_them() -> list[tuple[datetime, dict[str, Decimal]]]:
            rows = self._file.read(schema.READINGS, (account, stamp(since)), None)
            read = ((row["at"], row["currency"], total_of(row["total"])) for row in rows)
            found: dict[int, dict[str, Decimal]] = {}
            for at, currency, total in read:
                if total is not None:
                    found.setdefault(at, {})[currency] = total
            return [(moment(at), totals) for at, totals in found.items()]

        return self._quietly(all_of_them, list)

    # -- what was spent ----------------------------------------------------------------

    def spent(
        self,
        account: str,
        since: datetime,
        *,
        until: datetime | None = None,
        wait: float | None = READ_SECONDS,
    ) -> dict[str, Decimal]:
        """Add up what calls cost that ended after *since*, and not after *until*, by currency.

        Of a range its likely figure counts, else its low one. A file that is not free
        within *wait* seconds gives nothing.
        """
        last = None if until is None else stamp(until)

        def sums() -> dict[str, Decimal]:
            rows = self._file.read(schema.SPENT, (account, stamp(since), last), wait)
            return {row[0]: amount_of(row[1]) for row in rows}

        return self._quietly(sums, dict)

    def sum_from(
        self, account: str, currency: str, day: date, *, wait: float | None = READ_SECONDS
    ) -> Decimal | None:
        """Add up what was likely spent in *currency* from the local *day* on, however many calls.

        None where the file is not free within *wait* seconds.
        """

        def total() -> Decimal | None:
            rows = self._file.read(schema.SUM_FROM, (account, currency, day.isoformat()), wait)
            return amount_of(rows[0][0]) if rows else None

        return self._quietly(total, lambda: None)

    def spending(self, account: str, since: datetime) -> list[Spending]:
        """Give what each call cost that ended after *since*, oldest first.

        Those under way come last. What a call of unknown price cost has no bound.
        """

        def all_of_them() -> list[Spending]:
            key = {"account": account, "since": stamp(since)}
            rows = self._file.read(schema.SPENDING, key, None)
            return [spending_of(row) for row in rows]

        return self._quietly(all_of_them, list)

    def today(
        self, account: str, day: str, currency: str, *, wait: float | None = READ_SECONDS
    ) -> Today | None:
        """Give what the calls cost that were asked on *day*, a local date as YYYY-MM-DD.

        None where the file cannot tell within *wait* seconds, or was given up.
        """

        def sums() -> Today | None:
            key = {"account": account, "day": day, "currency": currency}
            rows = self._file.read(schema.TODAY, key, wait)
            if not rows or self._file.is_lost:
                return None
            spent, likely, under_way, unpriced = rows[0]
            return Today(amount_of(spent), amount_of(likely), amount_of(under_way), unpriced)

        return self._quietly(sums, lambda: None)

    def days(self, account: str, currency: str, since: date) -> dict[date, Decimal]:
        """Add up what was likely spent in *currency*, by local day from *since* on."""

        def sums() -> dict[date, Decimal]:
            rows = self._file.read(schema.DAYS, (account, currency, since.isoformat()), None)
            return {date.fromisoformat(row[0]): amount_of(row[1]) for row in rows}

        return self._quietly(sums, dict)

    def usage(
        self,
        account: str,
        by: Iterable[str] = ("day", "model", "notebook"),
        since: date | None = None,
    ) -> list[dict[str, Any]]:
        """Add up calls, tokens and costs by any of day, model, notebook and cell, and by currency.

        Refused calls, which cost nothing, are left out. *cost* adds up what is known
        to the digit; all that is known lies between *cost_low* and *cost_high*, in
        which the *ranged* calls are; *unpriced* ones are in neither. Days are local,
        from *since* on.
        """
        names = tuple(name for name in schema.BY if name in set(by))

        def sums() -> list[dict[str, Any]]:
            first = "" if since is None else since.isoformat()
            rows = self._file.read(schema.usage(names), (account, first), None)
            return [usage_of(dict(row), names) for row in rows]

        return self._quietly(sums, list)

    def past(
        self,
        account: str,
        model: str,
        think: str | None,
        *,
        json: bool,
        tokens_in: int,
        wait: float | None = READ_SECONDS,
    ) -> Past | None:
        """Tell how long *account*'s newest answers to questions of this kind and length were.

        Where there are too few, those of any length count, then all of this *model*
        and *think*; None without any, or where the file is not free within *wait* seconds.
        """
        like = (account, model, think, json)
        of_model = {"account": account, "model": model, "think": think}
        kinds: tuple[tuple[str, str, Values], ...] = (
            ("answers of this kind and length", schema.OF_A_KIND, (*like, *about(tokens_in))),
            ("answers of this kind", schema.OF_A_KIND, (*like, 0, MOST)),
            ("answers of this model", schema.OF_A_MODEL, of_model),
        )

        def lengths() -> Past | None:
            found: Past | None = None
            for kind, statement, values in kinds:
                rows = self._file.read(statement, values, wait)
                found = past_of(sorted(row[0] for row in rows), kind) or found
                if found is not None and found.number >= ENOUGH:
                    break
            return found

        return self._quietly(lengths, lambda: None)

    # -- what is put right later -------------------------------------------------------

    def sweep(self, at: datetime | None = None) -> Future[None]:
        """Bound the cost of calls whose process is gone; returns at once.

        Where nobody can tell whether it is, a call counts as lost after a day. *at*
        is now, if it is not given.
        """
        now = at or datetime.now(UTC)
        return self._quietly(lambda: self._file.tidy(lambda db: self._swept(db, now)), finished)

    def _swept(self, db: sqlite3.Connection, now: datetime) -> None:
        rows = db.execute(schema.LEFT_OPEN).fetchall()
        gone = {owner: self._is_gone(owner) for owner in {row["owner"] for row in rows}}
        forgotten = stamp(now - FORGOTTEN)
        for row in rows:
            ended = gone[row["owner"]]
            if ended or (ended is None and row["sent"] < forgotten):
                db.execute(schema.SWEEP, {"id": row["id"], "ended": stamp(now)})

    def _is_gone(self, owner: str | None) -> bool | None:
        if owner == self._owner:
            return False
        return None if owner is None else has_ended(owner)

    def reprice(
        self,
        account: str,
        price_of: Callable[[dict[str, Any]], Decimal | CostRange | None],
        currency: str | None = None,
    ) -> int:
        """Price the calls whose tokens are known and whose cost is not; give their number.

        *price_of* gets the columns of an entry that its price hangs on. *currency* is
        that of entries which name none; without it they are left as they are.
        """

        def prices() -> int:
            rows = [dict(row) for row in self._file.read(schema.UNPRICED, (account,), None)]
            found = [
                self._quietly(lambda row=row: priced(row, price_of, currency), lambda: None)  # type: ignore[misc]  # bound here
                for row in rows
            ]
            known = [values for values in found if values is not None]
            for values in known:
                self._write(lambda values=values: (schema.PRICE, values))  # type: ignore[misc]  # bound here
            return len(known)

        return self._quietly(prices, lambda: 0)

    def told(self, account: str, what: str, *, wait: float = SETTLE_SECONDS) -> bool:
        """Tell whether *what* is new to the user of *account*, and remember that it was told."""
        if (account, what) in self._told:
            return False
        self._told.add((account, what))

        def work(db: sqlite3.Connection) -> bool:
            return db.execute(schema.TOLD, (storable(account), storable(what))).rowcount == 1

        new = self._quietly(lambda: self._file.settle(work, wait), lambda: None)
        return new is None or new

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
        row = {**place_of(account, notebook, cell, text), "asks": asks, "answered": None}
        return self._pend(row, at, keep_text=keep_text)

    def _pend(self, row: dict[str, Any], at: datetime, *, keep_text: bool = True) -> Future[None]:
        values = {**row, "id": next(self._file.names), "since": stamp(at)}
        if not keep_text or (self.keep != "all" and self.path != ":memory:"):
            values["text"] = None
        return self._write(lambda: (schema.PEND, values))

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
        values = {**place_of(account, notebook, cell, text), "asks": asks}
        return self._write(lambda: ("DELETE FROM pending" + schema.THE_CELL, values))

    def answered(
        self, account: str, at: datetime, *, cell: str | None, text: str, notebook: str | None
    ) -> Future[None]:
        """Note that the answer to a cell is here, and that no page has shown it yet.

        Where no texts are kept, the answer could not be shown later, and nothing is noted.
        """
        if self.keep != "all" and self.path != ":memory:":
            return finished()
        self.settle(account, cell=cell, text=text, notebook=notebook)
        row = {**place_of(account, notebook, cell, text), "asks": True, "answered": stamp(at)}
        return self._pend({**row, "place": row["unread"]}, at)

    def forget(self, entries: Iterable[int]) -> None:
        """Let cells wait no more, by their `Pending.id`."""
        for entry in entries:
            self._write(lambda entry=entry: ("DELETE FROM pending WHERE id = :id", {"id": entry}))  # type: ignore[misc]  # bound here

    def waits(self, account: str, *, wait: float | None = READ_SECONDS) -> bool | None:
        """Tell whether any cell of *account* waits; None where that cannot be read in time."""

        def one() -> bool | None:
            rows = self._file.read(schema.WAITS, (account,), wait)
            return bool(rows[0][0]) if rows else None

        return self._quietly(one, lambda: None)

    def pending(self, account: str, *, wait: float | None = READ_SECONDS) -> list[Pending]:
        """Give the cells of *account* that wait for money, the longest waiting first.

        A file that is not free within *wait* seconds gives none.
        """

        def all_of_them() -> list[Pending]:
            rows = self._file.read(schema.WAITING, (account,), wait)
            return [pending_cell(dict(row)) for row in rows]

        return self._quietly(all_of_them, list)

    def kept(self, account: str, request: str, since: datetime) -> dict[str, Any] | None:
        """Give the newest whole answer to the very same *request* that ended after *since*."""

        def newest() -> dict[str, Any] | None:
            rows = self._file.read(schema.KEPT, (account, stamp(since), request), None)
            return entry_of(dict(rows[0])) if rows else None

        return self._quietly(newest, lambda: None)

    def which_have_answers(
        self,
        account: str,
        questions: Sequence[str],
        longest: int | None = None,
        since: datetime | None = None,
    ) -> set[str]:
        """Tell which of *questions* have an answer since then, of at most *longest* tokens."""

        def known() -> set[str]:
            earliest = 0 if since is None else stamp(since)
            values = (account, json.dumps(questions), longest, longest, earliest)
            return {row[0] for row in self._file.read(schema.ANSWERED, values, None)}

        return self._quietly(known, set)

    def longest_cut(self, account: str, questions: Sequence[str]) -> int:
        """Give the tokens of the longest answer to one of *questions* that was cut; 0 for none."""

        def longest() -> int:
            rows = self._file.read(schema.CUT, (account, json.dumps(questions)), None)
            return (rows[0][0] if rows else None) or 0

        return self._quietly(longest, lambda: 0)

    def answers_to(
        self, account: str, questions: Sequence[str], longest: int | None = None
    ) -> dict[str, dict[str, Any]]:
        """Give the newest whole answer to each of *questions* that has one, by its name."""

        def newest() -> dict[str, dict[str, Any]]:
            values = (account, json.dumps(questions), longest, longest, 0)
            rows = self._file.read(schema.ANSWERED_WITH, values, None)
            return {row["question"]: entry_of(dict(row)) for row in rows}

        return self._quietly(newest, dict)

    def version(self) -> int | None:
        """Give a number that changes whenever another kernel writes; None where nobody can tell."""
        return self._quietly(self._file.version, lambda: None)

    def answers(self, account: str, limit: int = 20) -> list[dict[str, Any]]:
        """Give the newest entries of *account* that hold an answer, whole or in part."""

        def newest() -> list[dict[str, Any]]:
            rows = self._file.read(schema.ANSWERS, (account, limit), None)
            return [entry_of(dict(row)) for row in rows]

        return self._quietly(newest, list)

    def newest(
        self, account: str, notebook: str | None, since: datetime, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Give the newest calls of *notebook* whose questions are kept: under way, then ended."""

        def rows() -> list[dict[str, Any]]:
            place = (account, notebook)
            under_way = self._file.read(schema.UNDER_WAY, (*place, limit), None)
            ended = self._file.read(schema.NEWEST, (*place, stamp(since), limit), None)
            return [entry_of(dict(row)) for row in (*under_way, *ended)]

        return self._quietly(rows, list)

    # -- conversations -------------------------------------------------------------

    def take_turn(self, row: dict[str, Any], at: datetime) -> Future[None]:
        """Note that a question of a conversation is asked: a new place stands at its end.

        *row* has its account, notebook, chat, place, cell, and what is asked.
        """
        values = {name: storable(value) for name, value in row.items()}
        return self._write(lambda: (schema.TAKE_TURN, {**values, "at": stamp(at)}))

    def keep_turn(self, row: dict[str, Any], at: datetime) -> Future[None]:
        """Put a question and its whole answer into the place that was taken for it."""
        values = {name: storable(value) for name, value in row.items()}
        return self._write(lambda: (schema.KEEP_TURN, {**values, "at": stamp(at)}))

    def move_turn(self, row: dict[str, Any]) -> Future[None]:
        """Remove the turns of a cell from all conversations of its notebook but one."""
        values = {name: storable(value) for name, value in row.items()}
        return self._write(lambda: (schema.MOVE_TURN, values))

    def turns(self, account: str, notebook: str) -> list[dict[str, Any]] | None:
        """Give the places of a notebook's conversations in their order; None if they are not known.

        Those that have no whole answer yet have no question.
        """

        def all_of_them() -> list[dict[str, Any]] | None:
            rows = self._file.read(schema.TURNS, (account, notebook), None)
            found = [dict(row) for row in rows if row["id"] is not None]
            return found if rows else None

        return self._quietly(all_of_them, lambda: None)

    def forget_turns(self, row: dict[str, Any]) -> Future[None]:
        """Remove a conversation."""
        values = {name: storable(value) for name, value in row.items()}
        return self._write(lambda: (schema.FORGET_TURNS, values))

    def forget_texts(self, account: str, notebook: str | None, chat: str) -> Future[None]:
        """Remove what was asked and answered in a conversation; its figures stay."""
        values = {"account": account, "of": storable(notebook), "tag": storable(chat)}
        return self._write(lambda: (schema.FORGET_TEXTS, values))

    def spent_in_chat(
        self, account: str, notebook: str | None, chat: str, since: int
    ) -> tuple[dict[str, Decimal], int]:
        """Add up what the calls of a conversation cost *since*, by currency.

        The number is that of calls whose cost is not known.
        """

        def sums() -> tuple[dict[str, Decimal], int]:
            rows = self._file.read(schema.SPENT_IN_CHAT, (account, notebook, chat, since), None)
            spent = {row[0]: amount_of(row[1]) for row in rows if row[0] and row[1] is not None}
            return spent, sum(row[2] for row in rows)

        return self._quietly(sums, lambda: ({}, 0))

    def entries(self) -> list[dict[str, Any]]:
        """Give every entry, oldest first, costs as `Decimal` and times as aware UTC."""

        def all_of_them() -> list[dict[str, Any]]:
            rows = self._file.read("SELECT * FROM entries ORDER BY sent, id", (), None)
            return [entry_of(dict(row)) for row in rows]

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
            if isinstance(error.__context__, KeyboardInterrupt):  # amid a lock of Python's own
                raise error.__context__ from None
            self._file.leave_out(error)
            return otherwise()
