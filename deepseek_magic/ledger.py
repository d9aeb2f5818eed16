"""The ledger: one SQLite file that holds what was asked, answered and spent.

Every statement runs on one thread of its own, so a slow disk never holds up a
query, and writes that came meanwhile are committed together. The journal is
SQLite's ordinary one, because WAL does not work on network home folders.
A ledger that cannot be written says so in `problem`, keeps what it could not
write, tries again with the next entry, and never stops a query.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar

Keep = Literal["all", "figures", "nothing"]
State = Literal["sent", "done", "unusable", "partial", "interrupted", "refused", "failed"]

T = TypeVar("T")

UNIT = Decimal(10) ** -12
"""Costs are whole multiples of this in the file, so that SQLite adds them exactly."""

BUSY_SECONDS = 5.0


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


STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (m001_entries_and_readings,)
"""Each runs once, in order, and is remembered by its name. Append only."""

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
    " AND at = (SELECT MAX(at) FROM readings WHERE account = ?)"
)
TYPICAL_OUT = (
    "SELECT AVG(completion_tokens) FROM (SELECT completion_tokens FROM entries WHERE model = ?"
    " AND think IS ? AND state = 'done' ORDER BY id DESC LIMIT 50)"
)


def stamp(at: datetime) -> int:
    """Give a moment as the file holds it."""
    return round(at.timestamp() * 1_000_000)


def moment(stamped: int) -> datetime:
    """Read a moment as the file holds it."""
    return datetime.fromtimestamp(stamped / 1_000_000, UTC)


def money(units: int | None) -> Decimal | None:
    """Read an amount as the file holds it."""
    return None if units is None else units * UNIT


def _values(record: Asked | Outcome) -> dict[str, Any]:
    """Give the columns that are known; an update leaves the others as they are."""
    values = {name: getattr(record, name) for name in record.__slots__}
    if values.get("cost") is not None:
        units = round(values["cost"] / UNIT)
        values["cost"] = units if units < 2**63 else None  # which is all that SQLite can hold
    values["sent" if isinstance(record, Asked) else "ended"] = stamp(values.pop("at"))
    return {name: _storable(value) for name, value in values.items() if value is not None}


def _storable(value: Any) -> Any:
    """Replace halves of characters, which SQLite refuses, so that no entry is held up."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


class Ledger:
    """A ledger at *path*, or in memory with ":memory:".

    *keep* says what may be written down: "all", "figures" (no text of any
    question or answer), or "nothing" (what is needed while the session runs is
    kept in memory). *busy_seconds* is how long another kernel's write is waited
    for.
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
        self.problem: str | None = None
        """Why the file could not be used, as one line with the next step; None when all is well."""
        self._busy_seconds = busy_seconds
        # Later sessions get higher names; the last bits keep two of one microsecond apart.
        self._names = itertools.count(time.time_ns() // 1000 << 12 | secrets.randbits(12))
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._db: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deepseek_magic ledger")

    def ask(self, asked: Asked) -> int:
        """Note that a call goes out; return at once with the name of its entry."""
        entry = next(self._names)
        values = {**_values(asked), "id": entry, "state": "sent"}
        if self.keep != "all":
            values.pop("request", None)
        columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        self._write(f"INSERT INTO entries ({columns}) VALUES ({marks})", values)
        return entry

    def end(self, entry: int, outcome: Outcome) -> Future[None]:
        """Note how the call of *entry* ended; the future is done when that is on disk."""
        values = _values(outcome)
        if self.keep != "all":
            for name in ("answer", "reasoning", "error"):
                values.pop(name, None)
        assignments = ", ".join(f"{name} = :{name}" for name in values)
        return self._write(
            f"UPDATE entries SET {assignments} WHERE id = :id", {**values, "id": entry}
        )

    def reading(self, account: str, at: datetime, rows: list[dict[str, Any]]) -> None:
        """Keep a reading of the balance, a row for each currency."""
        for row in rows:
            self._write(
                "INSERT INTO readings VALUES (:account, :at, :available, :currency, :total,"
                " :granted, :topped_up)",
                {**row, "account": account, "at": stamp(at)},
            )

    def last_reading(self, account: str) -> tuple[datetime, list[dict[str, Any]]] | None:
        """Give the newest reading of *account* by any kernel; None when there is none."""
        rows = self._read(LAST_READING, (account, account))
        return (moment(rows[0]["at"]), [dict(row) for row in rows]) if rows else None

    def spent(self, account: str, since: datetime) -> dict[str, Decimal]:
        """Add up the known costs of calls that ended after *since*, by currency."""
        rows = self._read(SPENT, (account, stamp(since)))
        return {row[0]: row[1] * UNIT for row in rows}

    def typical_out(self, model: str, think: str | None) -> int | None:
        """Give the usual length of answers of this kind, in tokens; None without any."""
        ((mean,),) = self._read(TYPICAL_OUT, (model, think)) or [(None,)]
        return None if mean is None else round(mean)

    def usage(self, account: str) -> list[dict[str, Any]]:
        """Add up calls, tokens and costs by local day, model, notebook and currency.

        Refused calls, which cost nothing, are left out; *unpriced* counts those
        whose cost is not known and not in the sum.
        """
        rows = (dict(row) for row in self._read(USAGE, (account,)))
        return [{**row, "cost": money(row["cost"])} for row in rows]

    def entries(self) -> list[dict[str, Any]]:
        """Give every entry, oldest first, costs as `Decimal` and times as aware UTC."""
        rows = (dict(row) for row in self._read("SELECT * FROM entries ORDER BY sent, id", ()))
        return [
            {
                **row,
                "cost": money(row["cost"]),
                "sent": moment(row["sent"]),
                "ended": None if row["ended"] is None else moment(row["ended"]),
            }
            for row in rows
        ]

    def close(self) -> None:
        """Write what waits and close the file; doing it twice is harmless."""
        with contextlib.suppress(RuntimeError):  # the thread has ended already
            self._thread.submit(self._shut)
        self._thread.shutdown()

    # All below runs on the ledger's own thread, but for the first lines of _write and _read.

    def _write(self, statement: str, values: Mapping[str, Any]) -> Future[None]:
        self._waiting.append((statement, values))
        try:
            return self._thread.submit(self._commit)
        except RuntimeError:  # closed while an answer was still under way
            done: Future[None] = Future()
            done.set_result(None)
            return done

    def _read(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        def fetch(db: sqlite3.Connection) -> list[Any]:
            return db.execute(statement, values).fetchall()

        return self._thread.submit(self._guarded, fetch, []).result()

    def _commit(self) -> None:
        if self._waiting:
            self._guarded(self._commit_waiting, None)

    def _commit_waiting(self, db: sqlite3.Connection) -> None:
        batch = self._waiting[:]
        db.execute("BEGIN IMMEDIATE")
        with db:
            for statement, values in batch:
                db.execute(statement, values)
        del self._waiting[: len(batch)]

    def _guarded(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        try:
            result = work(self._connection())
        except (sqlite3.Error, OSError) as error:
            self.problem = (
                f"The ledger {self.path} could not be used ({error}). Nothing was lost yet: "
                f"{len(self._waiting)} record(s) wait in memory until it works again."
            )
            return otherwise
        if self._db is not None and self.path != ":memory:" and not self._fallen_back:
            self.problem = None
        return result

    _fallen_back = False

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self._db = self._open(self.path)
            except (sqlite3.DatabaseError, OSError) as error:
                if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                    raise
                self._fallen_back = True
                self.problem = (
                    f"The ledger {self.path} cannot be used ({error}); this session's figures are "
                    "kept in memory only. Move the file away, or set DEEPSEEK_MAGIC_HOME to a "
                    "folder you can write to, and restart the kernel."
                )
                self._db = self._open(":memory:")
        return self._db

    def _open(self, path: str) -> sqlite3.Connection:
        if path != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        db = sqlite3.connect(path, timeout=self._busy_seconds, isolation_level=None)
        db.row_factory = sqlite3.Row
        try:
            _migrate(db)
        except BaseException:
            db.close()
            raise
        return db

    def _shut(self) -> None:
        self._commit()
        if self._db is not None:
            self._db.close()
            self._db = None


def _migrate(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS steps (name TEXT PRIMARY KEY, at INTEGER)")
        known = {row[0] for row in db.execute("SELECT name FROM steps")}
        for step in STEPS:
            if step.__name__ not in known:
                step(db)
                db.execute(
                    "INSERT INTO steps VALUES (?, ?)", (step.__name__, time.time_ns() // 1000)
                )
