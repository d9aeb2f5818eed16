"""What a worker of Dask does with one partition: it asks about its rows, on terms that all share.

It talks to the process that has called `map` through queues of Dask: one leads there,
one back, of this try alone. Nothing is decided here that concerns the others.
"""

from __future__ import annotations

import pickle
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from . import frames, schemas, templates
from .batch import Asking, ask_rows
from .clearance import Terms
from .errors import DeepSeekError, InvalidOption, KeyInText, NoKey, OverLimit
from .shares import NOTHING, Lent
from .survey import Questions, Survey, survey
from .tally import not_asked, was_not_asked
from .wire import Key
from .words import Language, language, set_language, t

if TYPE_CHECKING:
    from .jobs import Progress

PATIENCE = 60.0
"""After so many seconds without a word from the process that has called, a try gives up."""
LOOK = 5.0
TOLD = 0.5
"""Seconds between two reports of how far a partition is."""
SAMPLE = 100
"""So many of the first rows tell what all will cost."""
DESK = "_deepseek_magic"
"""The attribute of a worker under which keys and stops lie, by job; in memory alone."""


END = b""
"""What ends a queue."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all partitions of one *job* have in common; it stands in Dask's graph, without a key.

    *make* makes a session, given `ledger`, `day_limit` and maybe `api_key`. *ledger* is
    the path of the ledger, None where there is no file; *mark* stands in it. *language* is
    that of whoever reads the errors of the rows.
    """

    job: str
    make: Callable[..., Any]
    account: str
    asking: Asking
    anyway: bool
    ledger: str | None
    mark: str
    day_limit: Decimal | None
    language: Language


@dataclass(slots=True)
class Held:
    """What a worker holds for a job: the *key*, and how often it was told to *stop*."""

    key: Key | None = None
    stop: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a partition: its *rows*, *columns* for them, and what has ended it early."""

    rows: Any
    columns: dict[str, list[Any]]
    error: BaseException | None


class Stopped(Exception):
    """The process that has called wants no more of this try; the text says why."""


def desk(worker: Any, job: str) -> Held:
    """Give what *worker* holds for *job*."""
    jobs = vars(worker).setdefault(DESK, {})
    held: Held = jobs.setdefault(job, Held())
    return held


class Inbox:
    """What comes through a queue of Dask.

    A thread waits for it, as Dask's scheduler writes an error into its log for each
    `get` that has met its timeout.
    """

    def __init__(self, name: str, client: Any) -> None:
        self._queue = import_module("distributed").Queue(name, client=client)
        self._here: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._read, name="deepseek_magic inbox", daemon=True).start()

    def _read(self) -> None:
        with suppress(Exception):  # the cluster is gone
            while told := self._queue.get():
                self._here.put(told)
        self._here.put(END)

    def get(self, seconds: float | None) -> dict[str, Any] | None:
        """Give the next message; None after *seconds* without one, and after `end`."""
        with suppress(Empty):
            if told := self._here.get(timeout=seconds):
                message: dict[str, Any] = pickle.loads(told)  # noqa: S301  # of the same job
                return message
        return None

    def end(self) -> None:
        """Let nothing follow what is in it now."""
        with suppress(Exception):  # the cluster is gone
            self._queue.put(END)

    def close(self) -> None:
        """Let go of the queue."""
        with suppress(Exception):
            self._queue.close()


class Link:
    """The way from a try at partition *number* to the process that has called, and back."""

    def __init__(self, plan: Plan, number: int) -> None:
        distributed = import_module("distributed")
        self.name = f"{plan.job}-{number}-{secrets.token_hex(4)}"
        self.number = number
        self._worker = distributed.get_worker()
        self._task = self._worker.get_current_task()
        self._out = distributed.Queue(plan.job, client=distributed.get_client())
        self._back = Inbox(self.name, distributed.get_client())
        self.held = desk(self._worker, plan.job)

    def tell(self, what: str, **facts: Any) -> None:
        """Send a message."""
        told = {"what": what, "name": self.name, "number": self.number, **facts}
        self._out.put(pickle.dumps({**told, "worker": self._worker.address}))

    def ask(self, what: str, **facts: Any) -> dict[str, Any]:
        """Send a message and wait for what comes back."""
        self.tell(what, **facts)
        heard = time.monotonic()
        while time.monotonic() - heard < PATIENCE and self.is_wanted:
            if (reply := self._back.get(LOOK)) is None:
                continue
            if "stopped" in reply:
                raise Stopped(reply["stopped"])
            if not reply.get("wait"):
                return reply
            heard = time.monotonic()
        raise Stopped(t("the process that has called `map` is gone"))

    def close(self) -> None:
        """Let go of the queues."""
        self._back.end()
        self._back.close()
        with suppress(Exception):  # the cluster is gone
            self._out.close()

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for what comes of this try."""
        task = self._worker.state.tasks.get(self._task)
        return task is not None and task.state not in {"cancelled", "resumed", "released"}

    def told(self, number: int) -> Callable[[Progress], None]:
        """Give what reports the progress of turn *number*, and ends it when it is to stop."""
        last, stops = float("-inf"), 0

        def report(now: Progress) -> None:
            nonlocal last, stops
            if time.monotonic() - last >= TOLD or not now.under_way:
                last = time.monotonic()
                self.tell("progress", turn=number, progress=now)
            if self.held.stop > stops or (not self.is_wanted and not stops):
                stops += 1
                raise KeyboardInterrupt

        return report


def ask_partition(data: Any, number: int, plan: Plan) -> Result:
    """Ask about the rows of one partition, when and as far as the others leave room."""
    if language() != plan.language:
        set_language(plan.language)
    with closing(Link(plan, number)) as link:
        try:
            session, is_shared = _session(plan, link)
        except Stopped as stopped:
            return Rows(data, plan.asking).result(str(stopped), None)
        with closing(session):
            return _Try(data, plan, link, session, is_shared=is_shared).run()


def _session(plan: Plan, link: Link) -> tuple[Any, bool]:
    """Make a session in the name of the one that `map` was called on; tell if it shares its file.

    The key is this worker's own, where that is of the same account, else the one sent.
    """
    path = plan.ledger if plan.ledger is not None and Path(plan.ledger).exists() else None
    made = _with_key(plan, link, path)
    if path is None:
        return made, False
    ledger = made.ledger
    if not ledger.told(plan.account, plan.mark) and ledger.problem is None:
        return made, True
    made.close()  # a file of the same name on another machine
    return _with_key(plan, link, None), False


def _with_key(plan: Plan, link: Link, path: str | None) -> Any:
    # What is left of the day is lent where the ledger cannot tell what others spend.
    settings = {"ledger": path or ":memory:", "day_limit": plan.day_limit if path else None}
    if link.held.key is None:
        made = plan.make(**settings)
        with suppress(NoKey):
            if made.account == plan.account:
                return made
        made.close()
        link.ask("key")
    return plan.make(api_key=link.held.key, **settings)


class Rows:
    """The rows of a partition, and what there is for each."""

    def __init__(self, data: Any, asking: Asking) -> None:
        self.data = frames.read(data)
        self.all = data
        self._asking = asking
        count = self.data.count() or 0
        self.names = new_columns(asking)
        self.values: dict[str, list[Any]] = {name: [None] * count for name in self.names}
        self.values["cost"] = [NOTHING] * count
        self.left = set(range(count))

    def take(self, places: Sequence[int], frame: Any) -> None:
        """Take the answers in *frame* for the rows at *places*."""
        for name in self.names:
            for place, value in zip(places, frame[name].tolist(), strict=True):
                self.values[name][place] = as_put_in(value)
        self.left -= {place for place in places if not was_not_asked(self.values["error"][place])}

    def result(self, why: str, error: BaseException | None) -> Result:
        """Give what there is; rows that nobody has asked about say *why*."""
        for place in self.left:
            if not was_not_asked(self.values["error"][place]):
                self.values["error"][place] = not_asked(why)
        return Result(self.data.frame({}), self.values, error)


def as_put_in(value: Any) -> Any:
    """Give a value of a frame as it was put in."""
    if value is None or type(value).__name__ == "NAType":
        return None
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124  # NaN


def new_columns(asking: Asking) -> tuple[str, ...]:
    """Name the columns that the result has beside those of the data."""
    if asking.schema is None:
        return (asking.column, "cost", "error")
    return (*schemas.schema_of(asking.schema).columns(asking.column), "cost", "error")


@dataclass(slots=True)
class _Try:
    """One try at a partition."""

    data: Any
    plan: Plan
    link: Link
    session: Any
    is_shared: bool
    rows: Rows = field(init=False)
    turn: int = 0
    error: BaseException | None = None
    handed: set[int] = field(default_factory=set)

    def run(self) -> Result:
        """Ask what no other partition asks at the moment, then read or ask the rest."""
        self.rows = Rows(self.data, self.plan.asking)
        try:
            found = self._survey()
            later = self._begin(found)
            now = [place for place in sorted(self.rows.left) if found.names[place] not in later]
            self._ask(now, fresh=self.plan.asking.fresh)
            if later and self.error is None:
                rest = set(range(len(found.names))) - set(now)
                self._ask(sorted(rest), fresh=False, later=True)
        except Stopped as stopped:
            return self.rows.result(str(stopped), self.error)
        except DeepSeekError as error:
            self.error = error
            self.link.tell("left", spent=NOTHING, done=True, error=_bare(error))
        return self.rows.result(t("its partition could not be asked"), _bare(self.error))

    def _survey(self) -> Survey:
        asking = self.plan.asking
        schema = None if asking.schema is None else schemas.schema_of(asking.schema)
        filled = templates.read(asking.template, self.rows.data.columns, names=asking.names)
        read = Questions(
            self.rows.data, filled, asking.settings, schema, asking.json, asking.repair
        )
        try:
            return survey(self.session, read, fresh=asking.fresh)
        except (KeyInText, InvalidOption) as error:
            first = t("In partition {n}: {what}", n=self.link.number, what=error.told[0])
            error.retell(first, *error.told[1:])
            raise

    def _begin(self, found: Survey) -> frozenset[str]:
        """Claim the questions; give those that another partition asks at the moment."""
        longest = found.sample[0].max_tokens if found.sample else None
        reply = self.link.ask(
            "begin",
            rows=len(found.names),
            names=[name for name in found.first if name not in found.kept],
            lacks=not (self.is_shared and self.session.ledger.keep == "all"),
            fresh=self.plan.asking.fresh,
            longest=longest,
        )
        self.session.answered.update(reply["answers"])
        return frozenset(reply["later"])

    def _ask(self, places: list[int], *, fresh: bool, later: bool = False) -> None:
        """Ask about the rows at *places*, again where there was no money and some comes back."""
        starved = False
        while places:
            reply = self.link.ask("join", want=len(places), starved=starved, later=later)
            if not reply["slots"]:
                return  # what there is does not do for another row
            self.error = None
            self.session.answered.update(reply["answers"])
            self._turn(places, reply["slots"], reply["left"], fresh=fresh)
            places = [place for place in places if place in self.rows.left]
            starved = isinstance(self.error, OverLimit)
            if not starved:
                return

    def _turn(self, places: list[int], slots: int, left: Decimal | None, *, fresh: bool) -> None:
        self.turn += 1
        cap = None if left is None else Lent(left, self._more)
        asking = replace(
            self.plan.asking, data=self.rows.all.iloc[places], concurrency=slots, fresh=fresh
        )
        terms, told = Terms(cap, self.plan.anyway), self.link.told(self.turn)
        frame = None
        try:
            frame = ask_rows(self.session, asking, terms, progress=told, confirm=None)
        except (DeepSeekError, KeyboardInterrupt) as error:
            self.error, frame = error, getattr(error, "partial", None)
        finally:
            self._leave(NOTHING if cap is None else cap.spent)
        if frame is not None:
            self.rows.take(places, frame)

    def _more(self, needed: Decimal) -> tuple[Decimal, Decimal]:
        try:
            reply = self.link.ask("more", needed=needed)
        except Stopped:
            return NOTHING, NOTHING
        return reply["lent"], reply["left"]

    def _leave(self, spent: Decimal) -> None:
        """Hand over what was not spent, and what no file holds that all can read."""
        records, ledger = list[dict[str, Any]](), self.session.ledger
        if not self.is_shared:
            records = [row for row in ledger.entries() if row["id"] not in self.handed]
            self.handed |= {row["id"] for row in records}
        error = self.error
        starved = isinstance(error, OverLimit)
        self.link.tell(
            "left",
            spent=spent,
            done=not starved,
            error=None if starved else _bare(error),
            records=records,
            answered={} if ledger.keep == "all" else dict(self.session.answered),
            costs=dict(self.session.spent),
        )


def _bare(error: BaseException | None) -> BaseException | None:
    """Give an error without the rows: these go another way."""
    if error is not None and hasattr(error, "partial"):
        error.partial = None
    if isinstance(error, DeepSeekError):
        error.__cause__ = error.__context__ = None
    return error


# What the process that has called lets a worker do, beside the tasks.


class Sealed:
    """A key on its way to a worker: it shows itself nowhere, and arrives as a key."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def __repr__(self) -> str:
        return repr(self._key)

    def __reduce__(self) -> tuple[type[Key], tuple[str]]:
        return Key, (self._key.reveal(),)


def give(job: str, key: Key, dask_worker: Any) -> None:
    """Leave *key* with a worker, for as long as *job* runs."""
    desk(dask_worker, job).key = key


def stop(job: str, times: int, dask_worker: Any) -> None:
    """Let what a worker does for *job* stop; twice drops what is under way."""
    desk(dask_worker, job).stop = times


def forget(job: str, dask_worker: Any) -> None:
    """Let a worker forget what it holds for *job*."""
    vars(dask_worker).get(DESK, {}).pop(job, None)
