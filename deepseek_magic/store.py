"""A SQLite file as one process uses it: a thread, a connection on it, and what waits for it.

Whatever goes wrong with the file is told in `problem` and raised to nobody. What
could not be written waits for the next write; a row that SQLite does not take
is left out; a damaged file is given up for one in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .words import t

T = TypeVar("T")

Statement = tuple[str, Mapping[str, Any]]
Values = Sequence[Any] | Mapping[str, Any]
"""What is bound to a statement: by place, or by name."""
Step = Callable[[sqlite3.Connection], None]

LOG = logging.getLogger("deepseek_magic")

BUSY_SECONDS = 5.0

READ_SECONDS = 0.5
"""How long a query waits for a figure, at most, while another process holds the file."""

SETTLE_SECONDS = 2.0
"""How long something that has to be on disk before a query waits for it, at most."""

PASSING = {
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
"""These say nothing against a record, which is written when the file can be written again."""

NOT_OURS = ("no such table", "no such column", "has no column")


def storable(value: Any) -> Any:
    """Give what SQLite takes in the place of *value*, so that no entry is held up."""
    if type(value) is str and value.isascii():
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else None
    if not isinstance(value, str):
        if value is None or isinstance(value, float | bytes):
            return value
        value = str(value)
    return value.encode("utf-8", "replace").decode()  # halves of characters are refused


_VALUE = re.compile(r":(\w+)")


def bulk(statements: Iterable[Statement]) -> list[Statement]:
    """Put *statements* that differ in their values only into one, which runs much quicker.

    Each inserts or updates one row of a table, the latter by its `id`. Their order
    is lost. SQLite then works through all rows without asking for Python's lock.
    """
    alike: dict[str, list[Mapping[str, Any]]] = {}
    alone: list[Statement] = []
    for statement, values in statements:
        # SQLite ends a text of JSON at a NUL.
        if any(type(value) is str and "\0" in value for value in values.values()):
            alone.append((statement, values))
        else:
            alike.setdefault(statement, []).append(values)
    return [*alone, *(_in_one(statement, rows) for statement, rows in alike.items())]


def _in_one(statement: str, rows: list[Mapping[str, Any]]) -> Statement:
    places = {name: number for number, name in enumerate(rows[0])}

    def place(found: re.Match[str]) -> str:
        return f"json_extract(rows.value, '$[{places[found[1]]}]')"

    told = _VALUE.sub(place, statement)
    if statement.startswith("INSERT"):
        told = re.sub(r" VALUES \((.*)\)$", r" SELECT \1 FROM json_each(:rows) AS rows", told)
    else:
        table = statement.split()[1]
        head, _, tail = told.rpartition(" WHERE id = ")
        told = f"{head} FROM json_each(:rows) AS rows WHERE {table}.id = {tail}"
    values = json.dumps([list(row.values()) for row in rows], ensure_ascii=False)
    return told, {"rows": values}


def finished() -> Future[None]:
    """Give a future that is done."""
    done: Future[None] = Future()
    done.set_result(None)
    return done


@dataclass(slots=True)
class _Job:
    """Something that reads and writes in one transaction, and what comes of it.

    The transaction may be tried twice; a job that was given up before it began is
    left out both times.
    """

    work: Callable[[sqlite3.Connection], Any]
    future: Future[Any] = field(default_factory=Future)
    wanted: bool | None = None
    result: Any = None
    error: Exception | None = None

    def run(self, db: sqlite3.Connection) -> None:
        if self.wanted is None:
            self.wanted = self.future.set_running_or_notify_cancel()
        if not self.wanted:
            return
        db.execute("SAVEPOINT job")
        try:
            self.result, self.error = self.work(db), None
        except Exception as error:
            if _is_passing(error) or _is_damage(error):
                raise
            db.execute("ROLLBACK TO job")
            self.error = error
        db.execute("RELEASE job")

    def tell(self, *, done: bool) -> None:
        """Tell who waits for it, when the transaction is *done*, or has failed."""
        if self.wanted is None:
            self.wanted = self.future.set_running_or_notify_cancel()
        if not self.wanted:
            return
        if done and self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result if done else None)


class File:
    """The file at *path*, whose tables *steps* have made, each run once and in order."""

    def __init__(self, path: str, busy_seconds: float, steps: Sequence[Step]) -> None:
        self.path = path
        self._steps = steps
        self.problem: str | None = None
        # Later sessions get higher names; the last bits keep two of one microsecond apart.
        self.names = itertools.count(time.time_ns() // 1000 << 12 | secrets.randbits(12))
        self._lasting: str | None = None  # what is wrong until the kernel ends
        self._in_memory = path == ":memory:"
        self._busy_seconds = busy_seconds
        self._waiting: list[Statement] = []
        self._jobs: list[_Job] = []
        self._db: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._at_work = False
        self._own: int | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deepseek_magic ledger")

    def write(self, statement: str, values: Mapping[str, Any]) -> Future[None]:
        """Write soon, together with all else that waits."""
        self._waiting.append((statement, values))
        deadline = self._deadline(None)
        try:
            written = self._thread.submit(self._commit, deadline)
        except RuntimeError:  # closed while an answer was still under way
            self._finish(deadline)
            return finished()
        return finished() if self._is_own_thread() else written

    def write_all(self, statements: Sequence[Statement]) -> Future[None]:
        """Write all of them soon, in one transaction."""
        if not statements:
            return finished()
        *others, (statement, values) = statements
        self._waiting.extend(others)
        return self.write(statement, values)

    def read(self, statement: str, values: Values, wait: float | None) -> list[sqlite3.Row]:
        """Read what was written until now; nothing after *wait* seconds, or once closed."""
        bound: Values = (
            {name: storable(value) for name, value in values.items()}
            if isinstance(values, Mapping)
            else tuple(storable(value) for value in values)
        )

        def fetch(db: sqlite3.Connection) -> list[sqlite3.Row]:
            return db.execute(statement, bound).fetchall()

        if self._is_own_thread():
            return self._guarded(fetch, [], self._deadline(wait))
        try:
            found = self._thread.submit(self._on_thread, fetch, self._deadline(wait))
        except RuntimeError:  # closed
            return []
        try:
            return found.result(wait)
        except TimeoutError:
            found.cancel()
            return []

    def version(self, wait: float | None = None) -> int | None:
        """Give a number that changes when another connection writes; None where it is not told."""
        rows = self.read("PRAGMA data_version", (), wait)
        return rows[0][0] if rows else None

    def settle(
        self,
        work: Callable[[sqlite3.Connection], T],
        wait: float,
        undo: Callable[[Future[T | None]], None] | None = None,
    ) -> T | None:
        """Do *work* in a transaction, after all that was written before, and wait for the disk.

        None after *wait* seconds, or where the file cannot be used: then nothing of
        it was done. Where it is too late to stop it, *undo* gets what came of it.
        """
        if self._is_own_thread():
            return None
        job = _Job(work)
        try:
            if not self._begin(job, wait):
                return None
            found: T | None = job.future.result(wait)
        except BaseException as stopped:
            if not job.future.cancel() and job.error is None and undo is not None:
                job.future.add_done_callback(undo)
            if isinstance(stopped, TimeoutError):
                return None
            raise
        return found

    def tidy(self, work: Callable[[sqlite3.Connection], T]) -> Future[T | None]:
        """Do *work* in a transaction of its own time, after all that was written before.

        The future gives what came of it; None where the file cannot be used.
        """
        job = _Job(work)
        if not self._begin(job, None) or self._is_own_thread():
            nothing: Future[T | None] = Future()
            nothing.set_result(None)
            return nothing
        return job.future

    def _begin(self, job: _Job, wait: float | None) -> bool:
        self._jobs.append(job)
        try:
            self._thread.submit(self._commit, self._deadline(wait))
        except RuntimeError:  # closed
            job.future.cancel()
            return False
        return True

    @property
    def is_lost(self) -> bool:
        """Whether the file was given up, and with it what other processes write to it."""
        return self._in_memory and self.path != ":memory:"

    def leave_out(self, error: Exception) -> None:
        """Tell of what is not written or read, and never will be."""
        LOG.warning("left out of the ledger: %s: %s", type(error).__name__, error)
        if not self._lasting:
            self._lasting = t(
                "A record could not be written to the ledger {path}, or not be read from it "
                "({error}), and was left out; all others are there. If this comes again, "
                "report it with this line.",
                path=self.path,
                error=error,
            )
        self.problem = self._lasting

    def close(self) -> None:
        """Write what waits and close."""
        deadline = self._deadline(None)
        with contextlib.suppress(RuntimeError):  # the thread has ended already
            self._thread.submit(self._finish, deadline)
        self._thread.shutdown(wait=not self._is_own_thread())
        self._finish(deadline)  # what came while the thread ended

    def _deadline(self, wait: float | None) -> float:
        """Say until when a lock is waited for; from now on, so that waits do not add up."""
        return time.monotonic() + (self._busy_seconds if wait is None else wait)

    def _is_own_thread(self) -> bool:
        # Garbage that is collected on the ledger's thread may end an answer there.
        return threading.get_ident() == self._own

    # All below holds the lock; but for what comes after `close`, on the ledger's own thread.

    def _on_thread(
        self, fetch: Callable[[sqlite3.Connection], list[sqlite3.Row]], deadline: float
    ) -> list[sqlite3.Row]:
        self._own = threading.get_ident()
        return self._guarded(fetch, [], deadline)

    def _commit(self, deadline: float) -> None:
        self._own = threading.get_ident()
        self._commit_all(deadline)

    def _commit_all(self, deadline: float) -> None:
        with self._lock:
            # What is noted in the midst of a commit is for the next one.
            if self._at_work or not (self._waiting or self._jobs):
                return
            jobs, done = self._jobs[:], False
            del self._jobs[: len(jobs)]
            try:
                done = self._guarded(lambda db: self._commit_waiting(db, jobs), False, deadline)
            finally:
                for job in jobs:
                    job.tell(done=done)

    def _commit_waiting(self, db: sqlite3.Connection, jobs: Sequence[_Job]) -> bool:
        batch, refused = self._waiting[:], list[Exception]()
        db.execute("BEGIN IMMEDIATE")
        with db:
            for statement, values in batch:
                try:
                    db.execute(statement, values)
                except Exception as error:
                    if _is_passing(error) or _is_damage(error):
                        raise
                    refused.append(error)
            for job in jobs:
                job.run(db)
        del self._waiting[: len(batch)]
        for reason in refused:
            self.leave_out(reason)
        return True

    def _finish(self, deadline: float) -> None:
        with self._lock:
            if self._at_work:
                return
            if self._in_memory:
                self._waiting.clear()
            self._commit_all(deadline)
            self._own = None
            self._shut()

    def _shut(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _guarded(self, work: Callable[[sqlite3.Connection], T], otherwise: T, deadline: float) -> T:
        with self._lock:
            within, self._at_work = self._at_work, True
            try:
                if within and self._db is None:  # garbage is collected while the file is opened
                    return otherwise
                result = self._tried(work, deadline, within=within)
            except Exception as error:  # noqa: BLE001  no query fails for its record
                self.problem = t(
                    "The ledger {path} could not be used ({error}). Nothing was lost yet: "
                    "{n} record(s) wait in memory until it works again.",
                    path=self.path,
                    error=error,
                    n=len(self._waiting),
                )
                return otherwise
            finally:
                self._at_work = within
            if not self._waiting or self._in_memory:  # a disk that is full can still be read
                self.problem = self._lasting
            return result

    def _tried(
        self, work: Callable[[sqlite3.Connection], T], deadline: float, *, within: bool
    ) -> T:
        try:
            return work(self._connection(deadline))
        except sqlite3.DatabaseError as error:
            if self._in_memory or within:
                raise
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_DBMOVED:
                self._shut()  # the user deleted the file, or moved it away: a new one is made
                return work(self._connection(deadline))
            if not _is_damage(error):
                raise
            return work(self._fall_back(error))

    def _connection(self, deadline: float) -> sqlite3.Connection:
        seconds = max(deadline - time.monotonic(), 0.0)
        if self._db is not None:
            self._db.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
            return self._db
        try:
            self._db = _open(":memory:" if self._in_memory else self.path, seconds, self._steps)
        except Exception as error:
            if _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise
            return self._fall_back(error)
        return self._db

    def _fall_back(self, error: Exception) -> sqlite3.Connection:
        """Go on in memory, for good."""
        self._shut()
        self._in_memory = True
        self._lasting = t(
            "The ledger {path} cannot be used ({error}); this session's figures are "
            "kept in memory only. Move the file away, or set DEEPSEEK_MAGIC_HOME to a "
            "folder you can write to, and restart the kernel.",
            path=self.path,
            error=error,
        )
        self._db = _open(":memory:", 0, self._steps)
        return self._db


def _code(error: Exception) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)  # an error of Python's has none
    return None if code is None else code & 0xFF


def _is_passing(error: Exception) -> bool:
    return isinstance(error, OSError | MemoryError) or _code(error) in PASSING


def _is_damage(error: Exception) -> bool:
    if _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return True
    return isinstance(error, sqlite3.Error) and any(text in str(error) for text in NOT_OURS)


def _open(path: str, busy_seconds: float, steps: Sequence[Step]) -> sqlite3.Connection:
    if path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    # What comes after `close` is written by the thread it comes from, under a lock.
    db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    try:
        _migrate(db, steps)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, steps: Sequence[Step]) -> None:
    db.execute("BEGIN IMMEDIATE")
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS steps (name TEXT PRIMARY KEY, at INTEGER)")
        known = {row[0] for row in db.execute("SELECT name FROM steps")}
        for step in steps:
            if step.__name__ not in known:
                step(db)
                db.execute(
                    "INSERT INTO steps VALUES (?, ?)", (step.__name__, time.time_ns() // 1000)
                )
