"""A question for every row of a Dask frame: Dask runs the partitions, one cap holds for all.

    here, in `map`                     Dask's scheduler            each worker
    Shares: requests, money, claims    one queue leads here        ask_partition: a session
    the ledger                         one back, for each try      of its own, a part of the rows

What the partitions share is counted here alone, in the process that has called and that
waits anyway. A worker that dies holds no lock, and takes no state with it: its requests
are free again, its partition is begun anew by Dask, and what it was lent counts as
spent, as nobody can tell. An actor would die with its worker; a `distributed.Semaphore`
knows neither money nor the difference between slow and dead.

The key stands in no graph. A worker takes its own (DEEPSEEK_API_KEY), if that is of the
same account; else it asks, is sent it over Dask's connection (encrypted where the
cluster's is: tls://), keeps it in memory, and forgets it at the end.

Workers write to the session's ledger where they see the very same file. Where they do
not, or there is none, they keep their records in memory and hand them over whenever
a turn ends: then a worker that is killed loses the answers since, and these are paid
for again. What is left of the day's limit is then lent out like a budget.
"""

from __future__ import annotations

import logging
import pickle
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import frames, partition, preflight, templates
from .batch import Asking, ask_rows, forecast_of, known_rows
from .crowd import MOST, OTHERS
from .entries import Asked, Outcome
from .errors import (
    DeepSeekError,
    InsufficientBalance,
    Interrupted,
    InvalidOption,
    OutOfMoney,
    OverLimit,
    RequestRefused,
    one_line,
)
from .jobs import Forecast, Progress
from .limits import Cap
from .partition import Inbox, Plan, Result, Rows, Sealed, as_put_in, ask_partition
from .prices import price_list
from .progress import bar
from .records import answer_of
from .shares import Part, Shares
from .tally import answered_of, was_not_asked
from .wire import EXACT, Answer, CostRange
from .words import language, sentences, t

if TYPE_CHECKING:
    from .clearance import Terms
    from .survey import Asker

LOG = logging.getLogger("deepseek_magic")

HEARS = 0.1
"""Seconds in which a message is waited for, before other things are looked at."""
TOLD = 0.15
"""Seconds between two reports of how far it is."""
LOOK = 2.0
"""Seconds between two looks at which workers there are."""
BEAT = 10.0
"""Those who wait are told so often that somebody is there."""
DROPPED_SECONDS = 5.0
"""So long a second interrupt waits for what the workers have to hand over."""
CURRENCY_SECONDS = 3.0
NAMED = 8
"""Letters in the name of a job."""


def ask_partitions(
    asker: Asker,
    asking: Asking,
    terms: Terms,
    *,
    make: Callable[..., Any],
    progress: bool | Callable[[Progress], object],
    confirm: Callable[[Forecast], object] | None,
) -> Any:
    """Ask about every row of a Dask frame or series; give one frame of pandas.

    It has the rows in the order of the partitions, and is computed: what does not fit
    into memory goes in pieces, `for part in df.partitions: session.map(part, …)`. Where
    there is no `distributed.Client`, the partitions are asked one after the other in
    this process. With *limit*, the first rows are fetched and asked from here. *make*
    makes a session like *asker*, given `ledger`, `day_limit` and `api_key`.

    Each partition is looked through for keys before any of it is sent. Equal rows of all
    partitions are asked once, and bear the cost where they are asked, which need not be the
    first. When one partition ends for want of money, none begins any more, and the others
    end at a refusal of their own. With `fresh`, a partition that is begun anew after the
    death of its worker is asked anew as well.
    """
    if asking.limit is not None:
        rows = asking.data.head(asking.limit, npartitions=-1)  # type: ignore[attr-defined]  # Dask's
        near = replace(asking, data=rows)
        return ask_rows(asker, near, terms, progress=progress, confirm=confirm)
    asking = _checked(asking)
    if confirm is not None and (reckoned := forecast_partitions(asker, asking, terms)).is_doubtful:
        confirm(reckoned)
    client = _client()
    with bar(progress) as told:
        if client is None:
            job: _Here | _Cluster = _Here(asker, asking, terms)
        else:
            job = _Cluster(asker, asking, terms, make, client)
        return job.run(told)


def forecast_partitions(asker: Asker, asking: Asking, terms: Terms) -> Forecast:
    """Reckon from the first rows of a Dask frame what all of them would cost; counts the rows."""
    data: Any = asking.data
    first = data.head(partition.SAMPLE, npartitions=-1)
    found = forecast_of(asker, replace(asking, data=first, limit=None), terms)
    rows = len(data)
    share = Decimal(rows) / max(found.rows, 1)
    return _scaled(found, rows, share)


def _scaled(found: Forecast, rows: int, share: Decimal) -> Forecast:
    cost, to_ask = found.cost, int(found.to_ask * share)

    def reach(money: Decimal | None) -> int | None:
        likely = None if cost is None else cost.likely
        if money is None or not likely or not found.to_ask:
            return None
        return min(to_ask, int(EXACT.divide(money * found.to_ask, likely)))

    def more(one: Decimal | None) -> Decimal | None:
        return None if one is None else EXACT.multiply(one, share)

    return replace(
        found,
        rows=rows,
        repeated=int(found.repeated * share),
        kept=int(found.kept * share),
        blank=int(found.blank * share),
        to_ask=to_ask,
        tokens_in=int(found.tokens_in * share),
        cost=cost and CostRange(cost.low * share, cost.high * share, more(cost.likely)),
        worst=more(found.worst),
        covered=reach(found.balance.effective if found.balance else None),
        within=reach(found.limit),
    )


class _Used(dict[str, object]):
    """Names for expressions, and which of them were *used*."""

    def __init__(self, names: Mapping[str, object]) -> None:
        super().__init__(names)
        self.used: dict[str, object] = {}

    def __getitem__(self, name: str) -> object:
        found = self.used[name] = super().__getitem__(name)
        return found


def _checked(asking: Asking) -> Asking:
    """Refuse what no partition could be asked; give the rest, with no more names than are used."""
    most = asking.concurrency
    if most is not None and (type(most) is not int or most < 1):
        raise InvalidOption(
            t(
                "`{name}` cannot be {value!r}; it is a whole number from 1.",
                name="concurrency",
                value=most,
            ),
            t("Nothing was sent."),
        )
    read, names = frames.read(asking.data._meta), _Used(asking.names or {})  # type: ignore[attr-defined]  # noqa: SLF001  # a frame of pandas without rows
    frames.new_columns(read, partition.new_columns(asking))
    templates.read(asking.template, read.columns, names=names)
    preflight.request_of("json", **{**asking.settings, "json": False})
    return replace(asking, names=names.used)


def _client() -> Any:
    """Give the client of the cluster that Dask would use now; None without one."""
    if (distributed := sys.modules.get("distributed")) is None:
        return None
    found = getattr(import_module("dask.base").get_scheduler(), "__self__", None)
    if not isinstance(found, distributed.Client):
        return None
    if found.asynchronous:
        raise InvalidOption(
            t("The Dask client is an asynchronous one, and rows are asked from a plain call."),
            t("Nothing was sent."),
            t("Make another: Client(address)"),
        )
    return found


# Without a cluster


class _Here:
    """The partitions one after the other, in this process."""

    def __init__(self, asker: Asker, asking: Asking, terms: Terms) -> None:
        self._asker, self._asking, self._terms = asker, asking, terms
        self._data = cast("Any", asking.data)
        self._sum = _Sum(self._data.npartitions)

    def run(self, told: Callable[[Progress], object] | None) -> Any:
        """Ask; *told* is called with how far all of it is."""
        data = self._data
        results, error = list[Result](), None
        for number in range(data.npartitions):
            rows: Rows | None = None
            try:
                rows = Rows(data.partitions[number].compute(), self._asking)
                self._sum.rows[number] = len(rows.left)
                results.append(Result(rows.data.frame({}), rows.values, None))
                if error is None:
                    self._part(number, rows, told)
            except (DeepSeekError, KeyboardInterrupt) as ended:
                if error is not None:
                    raise  # interrupted once more, while the rest was read
                error = ended
            if error is not None and rows is not None:
                rows.result(_why(error), None)
        if error is not None:
            _add_known(self._asker, self._asking, results)
        return _together(results, error, self._sum.total(0, self._asker.currency))

    def _part(self, number: int, rows: Rows, told: Callable[[Progress], object] | None) -> None:
        def report(now: Progress) -> None:
            self._sum.turns["here", number] = now
            if told is not None:
                told(self._sum.total(now.at_once, now.currency))

        asking, places = replace(self._asking, data=rows.all), sorted(rows.left)
        try:
            frame = ask_rows(self._asker, asking, self._terms, progress=report, confirm=None)
        except (DeepSeekError, KeyboardInterrupt) as error:
            if (found := getattr(error, "partial", None)) is not None:
                rows.take(places, found)
            raise
        rows.take(places, frame)


# With one


class _Cluster:
    """The partitions on the workers of *client*; a thread here answers what they ask."""

    def __init__(
        self, asker: Asker, asking: Asking, terms: Terms, make: Callable[..., Any], client: Any
    ) -> None:
        self._asker, self._asking, self._client = asker, asking, client
        self._data = cast("Any", asking.data)
        self._name = f"deepseek_{secrets.token_hex(NAMED)}"
        self._inbox = Inbox(self._name, client)
        key = asker.client.key  # or the reason why there is none
        self._key = key
        if asker.currency is None:
            asker.purse.refresh()
            asker.purse.wait(CURRENCY_SECONDS)
        self._plan = _plan(self._name, asker, replace(asking, data=None), terms, make)
        most = asking.concurrency or _most(asking.settings)
        parts = self._data.npartitions
        self._shares = Shares(most, _caps(asker, terms, self._plan), parts)
        self._sum = _Sum(parts)
        self._parts: dict[str, Part] = {}
        self._ways: dict[str, Any] = {}
        self._lacking: set[str] = set()
        self._costs: dict[tuple[str, str], Decimal] = {}
        self._futures: list[Any] = []
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="deepseek_magic cluster")
        self._fetched: dict[int, Future[Result]] = {}
        self._results: dict[int, Result] = {}
        self._error: BaseException | None = None
        self._interrupts = self._stops = 0
        self._looked = self._beaten = float("-inf")

    def run(self, told: Callable[[Progress], object] | None) -> Any:
        """Ask; *told* is called now and then, on this thread."""
        ended: Future[list[Result]] = Future()
        thread = threading.Thread(
            target=self._work, args=(ended,), name="deepseek_magic cluster", daemon=True
        )
        thread.start()
        while True:
            try:
                with suppress(TimeoutError):
                    ended.exception(TOLD)
                    break
                if told is not None:
                    told(self._progress)
            except KeyboardInterrupt:
                self._interrupts += 1
        thread.join()
        if told is not None:
            told(self._progress)
        self._asker.tell()
        self._asker.refresh()
        error = self._error
        if isinstance(error, OutOfMoney):
            self._asker.with_facts(error, Answer())
        if error is None and self._interrupts:
            error = KeyboardInterrupt()
        results = ended.result()
        if error is not None:
            _add_known(self._asker, self._asking, results)
        return _together(results, error, self._progress)

    @property
    def _progress(self) -> Progress:
        return self._sum.total(self._shares.at_once, self._asker.currency)

    def _work(self, ended: Future[list[Result]]) -> None:
        try:
            with self._closing():
                self._submit()
                while not self._is_over():
                    self._look()
                    self._hear(HEARS)
                self._inbox.end()
                while self._hear(None):
                    pass
        except Exception as error:  # whatever it is, what has come is not lost
            LOG.exception("a cluster could not be asked any more")
            self._error = self._error or DeepSeekError(
                t("The Dask cluster could not be asked any more ({why}).", why=_reason(error)),
                t("What was answered is kept."),
            )
        finally:
            ended.set_result([self._results[number] for number in sorted(self._results)])

    @contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._inbox.end()
            self._fetcher.shutdown(wait=False)
            with suppress(Exception):  # the cluster may be gone
                self._client.cancel([one for one in self._futures if one is not None])
                self._client.run(partition.forget, self._name, on_error="ignore")
                self._inbox.close()
                for way in self._ways.values():
                    way.close()

    def _submit(self) -> None:
        ask = import_module("dask").delayed(
            partial(ask_partition, plan=self._plan), name="ask_partition", pure=False
        )
        parts = self._data.to_delayed()
        self._futures = self._client.compute(
            [
                ask(part, number, dask_key_name=f"ask_partition-{self._name}-{number}")
                for number, part in enumerate(parts)
            ]
        )

    def _is_over(self) -> bool:
        """Fetch what is done, at once: a result goes with its worker, and would be asked anew."""
        for number, future in enumerate(self._futures):
            if future is not None and future.done() and number not in self._fetched:
                self._fetched[number] = self._fetcher.submit(future.result)
        for number, fetched in self._fetched.items():
            if self._futures[number] is not None and fetched.done():
                self._futures[number] = None
                self._ended(number, fetched)
        return not any(self._futures)

    def _ended(self, number: int, fetched: Future[Result]) -> None:
        for part in [one for one in self._parts.values() if one.number == number]:
            self._shares.end(part)
        try:
            self._results[number] = result = fetched.result()
        except Exception as error:  # noqa: BLE001  # what reads the data may fail in any way
            self._stop(
                DeepSeekError(
                    t(
                        "Partition {number} of the Dask data could not be computed ({why}).",
                        number=number,
                        why=_reason(error),
                    ),
                    t("No further one is asked."),
                )
            )
        else:
            self._error = self._error or result.error
        self._grant()

    # -- stopping -----------------------------------------------------------------

    def _stop(self, error: BaseException) -> None:
        """Let no partition begin any more."""
        if self._error is None:
            self._error = error
            for part in self._shares.waiting():
                self._reply(part, stopped=_why(error))
                part.waits = False
            # Where all would be refused, those under way find that out by themselves.
            if not isinstance(error, OutOfMoney | RequestRefused | KeyboardInterrupt):
                self._stop_workers(1)

    def _stop_workers(self, times: int) -> None:
        with suppress(Exception):  # one that is gone needs no stopping
            self._client.run(partition.stop, self._name, times, on_error="ignore")

    def _look(self) -> None:
        """Look for interrupts, at which workers there are, and say that somebody is there."""
        now = time.monotonic()
        if self._interrupts > self._stops:
            self._stops = self._interrupts
            self._stop(KeyboardInterrupt())
            self._stop_workers(self._stops)
            if self._stops > 1:
                threading.Timer(DROPPED_SECONDS, self._cancel).start()
        if now - self._looked > LOOK:
            self._looked = now
            threads = self._client.nthreads()
            self._shares.threads = sum(threads.values())
            for part in self._shares.lost(threads):
                self._shares.lose(part)
                self._sum.lose(part.name)
                self._grant()
        if now - self._beaten > BEAT:
            self._beaten = now
            for part in self._shares.waiting():
                self._reply(part, wait=True)

    def _cancel(self) -> None:
        with suppress(Exception):
            self._client.cancel([one for one in self._futures if one is not None])

    # -- what workers ask ---------------------------------------------------------

    def _hear(self, seconds: float | None) -> bool:
        """Do what a worker asks for, if any does within *seconds*."""
        if (told := self._inbox.get(seconds)) is None:
            return False
        part = self._parts.get(told["name"])
        if part is None:
            part = Part(told["number"], told["name"], told["worker"])
            self._parts[part.name] = part
        getattr(self, f"_hear_{told['what']}")(part, told)
        return True

    def _hear_key(self, part: Part, _: dict[str, Any]) -> None:
        sealed = Sealed(self._key)
        with suppress(Exception):  # it is gone
            self._client.run(partition.give, self._name, sealed, workers=[part.worker])
        self._reply(part)

    def _hear_begin(self, part: Part, told: dict[str, Any]) -> None:
        for before in self._parts.values():
            if before.number == part.number and before is not part:
                self._sum.lose(before.name)
        self._sum.rows[part.number] = told["rows"]
        if told["lacks"]:
            self._lacking.add(part.name)
        known = {} if told["fresh"] else self._known(part, told["names"], told["longest"])
        self._shares.begin(part, [name for name in told["names"] if name not in known])
        self._reply(part, answers=known, later=part.later)

    def _hear_join(self, part: Part, told: dict[str, Any]) -> None:
        if self._error is not None or not self._shares.is_current(part):
            why = t("it was begun anew elsewhere") if self._error is None else _why(self._error)
            self._reply(part, stopped=why)
            return
        self._shares.wait(part, told["want"], starved=told["starved"])
        self._grant()

    def _grant(self) -> None:
        for part, turn in self._shares.turns():
            later = part.later if part.later == part.claims else ()
            answers = self._known(part, later)
            self._reply(part, slots=turn.slots, left=turn.left, answers=answers)

    def _hear_more(self, part: Part, told: dict[str, Any]) -> None:
        lent = Decimal(0) if self._error is not None else self._shares.lend(part, told["needed"])
        self._reply(part, lent=lent, left=self._shares.left or Decimal(0))

    def _hear_left(self, part: Part, told: dict[str, Any]) -> None:
        if self._shares.is_current(part):
            self._shares.leave(part, told["spent"], done=told["done"])
        self._keep(part, told)
        if told["error"] is not None:
            self._stop(told["error"])
        self._grant()

    def _hear_progress(self, part: Part, told: dict[str, Any]) -> None:
        self._sum.turns[part.name, told["turn"]] = told["progress"]

    def _reply(self, part: Part, **facts: Any) -> None:
        if part.name not in self._ways:
            self._ways[part.name] = import_module("distributed").Queue(
                part.name, client=self._client
            )
        self._ways[part.name].put(pickle.dumps(facts))

    # -- records ------------------------------------------------------------------

    def _known(
        self, part: Part, names: Iterable[str], longest: int | None = None
    ) -> dict[str, Answer]:
        """Give the answers to questions of which a worker's own ledger knows nothing."""
        wanted, asker = list(names), self._asker
        if not wanted or part.name not in self._lacking:
            return {}
        rows = asker.ledger.answers_to(asker.account, wanted, longest)
        found = {name: answer_of(row) for name, row in rows.items()}
        return {**found, **{n: asker.answered[n] for n in wanted if n in asker.answered}}

    def _keep(self, part: Part, told: dict[str, Any]) -> None:
        """Write down what a worker hands over."""
        asker, rows = self._asker, told.get("records", ())
        if rows:
            named = [(asker.ledger.new_entry(), row) for row in rows]
            asker.ledger.note([(entry, _asked(row)) for entry, row in named], ()).result()
            ends = [(entry, _outcome(row)) for entry, row in named if row["ended"] is not None]
            asker.ledger.note((), ends).result()
        if asker.ledger.keep != "all":
            asker.answered.update(told.get("answered", {}))
        for currency, cost in told.get("costs", {}).items():
            before = self._costs.get((part.name, currency), Decimal(0))
            self._costs[part.name, currency] = cost
            asker.add_up(Answer(cost=EXACT.subtract(cost, before), currency=currency))


def _plan(name: str, asker: Asker, asking: Asking, terms: Terms, make: Callable[..., Any]) -> Plan:
    ledger, mark = asker.ledger, f"rows asked on a cluster: {name}"
    path = None
    if ledger.path != ":memory:" and ledger.problem is None and ledger.told(asker.account, mark):
        path = str(Path(ledger.path).resolve())
    asking = replace(asking, concurrency=None, settings=dict(asking.settings))
    limit = None if terms.anyway else asker.clearance.day_limit
    return Plan(name, make, asker.account, asking, terms.anyway, path, mark, limit, language())


def _caps(asker: Asker, terms: Terms, plan: Plan) -> list[Cap]:
    """Give what all partitions together may spend."""
    caps = [] if terms.cap is None else [terms.cap]
    if plan.ledger is None and plan.day_limit is not None:
        left = asker.clearance.day_left()
        if left is None:
            raise OverLimit(
                t("There is a limit for the day, and nobody can tell what was spent today."),
                t("Nothing was sent."),
                t("Try again, or send it all the same: anyway=True"),
            )
        caps.append(Cap(max(left, Decimal(0))))
    return caps


def _most(settings: Mapping[str, Any]) -> int:
    model = preflight.request_of("x", **settings).model
    return MOST.get(price_list().aliases.get(model, model), OTHERS)


def _asked(row: Mapping[str, Any]) -> Asked:
    names = [name for name in Asked.__slots__ if name in row]
    return Asked(**{**{name: row[name] for name in names}, "at": row["sent"]})


def _outcome(row: Mapping[str, Any]) -> Outcome:
    names = [name for name in Outcome.__slots__ if name in row]
    span = None
    if row.get("low") is not None and row.get("high") is not None:
        span = CostRange(row["low"], row["high"], row.get("likely"))
    told = {name: row[name] for name in names}
    return Outcome(**{**told, "at": row["ended"], "cost_range": span})


# How far it is, and what comes of it


class _Sum:
    """The progress of all *parts* partitions: that of each turn, by the try and its number."""

    def __init__(self, parts: int) -> None:
        self.rows: dict[int, int] = {}
        self.turns: dict[tuple[str, int], Progress] = {}
        self._parts = parts
        self._began = time.monotonic()

    def lose(self, name: str) -> None:
        """Forget how far a try was that has died; what it cost stays."""
        for turn, now in list(self.turns.items()):
            if turn[0] == name:
                self.turns[turn] = Progress(cost=now.cost, currency=now.currency)

    def total(self, at_once: int, currency: str | None) -> Progress:
        """Give the sum."""
        turns, seconds = list(self.turns.values()), time.monotonic() - self._began
        counts = {
            name: sum(getattr(now, name) for now in turns)
            for name in ("done", "asked", "kept", "repeated", "failed", "under_way")
        }
        rows = sum(list(self.rows.values())) if len(self.rows) == self._parts else None
        costs = [now.cost for now in turns]
        known = [cost for cost in costs if cost is not None]
        cost = sum(known, Decimal(0)) if len(known) == len(costs) else None
        asked, rest = counts["asked"], None if rows is None else max(rows - counts["done"], 0)
        rate = asked / seconds if asked and seconds > 0 else None
        expected = None
        if cost is not None and rest is not None and asked:
            expected = EXACT.add(cost, EXACT.multiply(EXACT.divide(cost, Decimal(asked)), rest))
        return Progress(
            rows=rows,
            at_once=at_once,
            cost=cost,
            expected=expected if currency else None,
            currency=currency,
            seconds=seconds,
            rate=rate,
            left=rest / rate if rate and rest is not None else None,
            note=next((now.note for now in reversed(turns) if now.note), ""),
            **counts,
        )


def _add_known(asker: Asker, asking: Asking, found: list[Result]) -> None:
    """Give rows that their partition has not come to the answers they had earlier."""
    for one in () if asking.fresh else found:
        places = [place for place, said in enumerate(one.columns["error"]) if was_not_asked(said)]
        if not places:
            continue
        with suppress(DeepSeekError):  # what there is without them is told all the same
            known = known_rows(asker, replace(asking, data=one.rows.iloc[places]))
            has = [not was_not_asked(said) for said in known["error"].tolist()]
            for name, column in one.columns.items():
                for place, value, taken in zip(places, known[name].tolist(), has, strict=True):
                    column[place] = as_put_in(value) if taken else column[place]


def _together(found: list[Result], error: BaseException | None, progress: Progress) -> Any:
    """Put the partitions' frames together; raise *error* with them."""
    import pandas as pd

    frame = None
    if found:
        read = frames.read(pd.concat([one.rows for one in found]))
        names = found[0].columns
        frame = read.frame(
            {name: [v for one in found for v in one.columns[name]] for name in names}
        )
    if error is None:
        return frame
    ended = _told(frame, error)
    ended.partial, ended.progress = frame, progress
    raise ended from None


def _told(frame: Any, error: BaseException) -> DeepSeekError | Interrupted:
    rows = 0 if frame is None else len(frame)
    answered = 0 if frame is None else int(frame["error"].isna().sum())
    counted = answered_of(answered, rows)
    if not isinstance(error, DeepSeekError):
        again = t("Run again: only the missing ones are asked.")
        return Interrupted(sentences(t("the rows were stopped."), counted, again))
    error.retell(error.what, counted, _next_step(error))
    return error


def _next_step(error: DeepSeekError) -> str:
    match error:
        case InsufficientBalance():
            return t("Top up, then run it again: only the missing rows are asked.")
        case OutOfMoney():
            return t("Raise it, and run it again: only the missing rows are asked.")
        case _:
            return t("Run it again: only the missing rows are asked.")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(str(error), 160)}"


def _why(error: BaseException) -> str:
    """Say why a row was not asked."""
    match error:
        case InsufficientBalance():
            return t("the balance was empty")
        case OutOfMoney():
            return t("the limit was reached")
        case KeyboardInterrupt():
            return t("it was stopped")
        case _:
            return t("the rows before it ended in {error}", error=type(error).__name__)
