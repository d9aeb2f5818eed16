"""Many questions under way at once, each checked, priced and recorded as one is.

A loop on a thread of its own sends, and takes what comes back; whoever called waits
and is told how far it is. A call is on disk before it is sent, and its place is free
for another when its answer is on disk too: what a crash can lose is under way.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import preflight
from .allowance import Allowance
from .async_client import AsyncClient
from .clearance import Admitted
from .connections import CalledOff
from .elements import money
from .entries import Asked
from .errors import (
    BadRequest,
    DeepSeekError,
    InsufficientBalance,
    NoKey,
    OverLimit,
    RequestRefused,
    TooManyRequests,
    UnusableAnswer,
    WrongKey,
)
from .limits import day_untold
from .pace import Pace
from .prices import price_list
from .records import FREE, Ended, answer_of, as_sent, state_of
from .repair import after_one, both, is_put_off, problems_of, repair_of
from .survey import LOOKED_UP, Asker, Survey, mark_of
from .tally import Tally
from .wire import SHORT_NAMES, Answer, Request
from .words import later, sentences, t

if TYPE_CHECKING:
    from .clearance import Terms
    from .entries import Outcome
    from .jobs import Progress

LOG = logging.getLogger("deepseek_magic")

MOST = {SHORT_NAMES["flash"]: 2500, SHORT_NAMES["pro"]: 500}
"""Requests at once that an account may have (api-docs.deepseek.com/quick_start/rate_limit)."""
OTHERS = 64
"""The same for a model of which nothing is known."""
FILES_KEPT = 64
"""So many files are left to whoever else runs in this kernel."""
GROUP = 100
"""So many questions at most are noted and sent in one go."""
TICK = 0.01
"""Seconds in which answers gather, to be written together."""
IDLE = 0.25
TOLD = 0.15
"""Seconds between two reports of how far it is."""
GRACE = 10.0
"""Seconds that answers under way have to arrive, once the user has stopped it."""
FAILURES = 20
"""After so many failures, and no answer between them, the rest are not sent."""
FAULTS = 3
CUTS, CUTS_AT_FIRST = 8, 5
"""After so many refusals for lack of room in a row, each followed by a longer pause, it ends."""
OTHERS_SECONDS = 1.0
"""How often it is looked whether another kernel writes to the ledger."""
UNTOLD = 3
"""So often it is waited for the ledger to tell what is left of a day."""
TURNED_AWAY = 30
"""How often one row may be turned away for lack of room."""
WAIT_AT_MOST = 300.0
"""A pause that the API asks for and that is longer than these seconds ends the job."""
AGAIN = 0.25
"""Seconds until a row that was turned away is sent again; doubled each time."""
NOTHING = Decimal(0)
FOR_ALL = (InsufficientBalance, WrongKey, NoKey)
"""Refusals that every row would get."""
QUIET_SECONDS = 2.0
"""Seconds between two words to those who listen for what was spent."""
STOPPING = later(
    "Stopping: what is under way may arrive for a few seconds; interrupt once more to drop it."
)


@dataclass(slots=True, eq=False)
class _Row:
    """A question to be sent, or to be sent again, at the earliest when it is *due*.

    *wrong* is its answer, with its cost, that was no good and is being put right.
    """

    number: int
    request: Request
    name: str
    tries: int = 0
    answers_before: int = 0
    sent: float = 0.0
    due: float = 0.0
    wrong: Answer | None = None

    def bill(self, answer: Answer) -> Answer:
        """Give *answer* at the cost of the row."""
        if self.wrong is None:
            return answer
        return replace(both(self.wrong, answer), usage=answer.usage)

    def words(self, error: DeepSeekError) -> str:
        """Say what is wrong with the row."""
        if self.wrong is not None and isinstance(error, UnusableAnswer):
            return after_one(error)
        return str(error)


@dataclass(frozen=True, slots=True)
class _Done:
    """A call that has ended, to be written down.

    *value* is what its row gets, *again* whether the row is to be asked again.
    """

    row: _Row
    ended: Ended
    answer: Answer
    outcome: Outcome
    value: Any
    again: bool


class Job:
    """The rows of *found*, asked in the name of *asker*; no more than *terms* allow is spent.

    *at_once* is how many requests the user allows at once; *cell* names the place in
    the ledger. `run` may be called once.
    """

    def __init__(
        self,
        asker: Asker,
        found: Survey,
        terms: Terms,
        *,
        at_once: int | None = None,
        cell: str | None = None,
    ) -> None:
        self.tally = Tally(found)
        self._asker = asker
        self._found = found
        self._cell = cell
        self._wanted = at_once
        self._allowance = Allowance(asker, terms, found, self.tally) if found.sample else None
        self._error: DeepSeekError | None = None
        self._todo: Iterator[_Row] = iter(())
        self._walk: Iterator[_Row] | None = None
        self._settled = 0  # rows answered earlier that have their answer
        self._ready: deque[_Row] = deque()
        self._again: list[_Row] = []
        self._ended: list[_Done] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = self._faults = self._untold = 0
        self._has_others = False
        self._version: int | None = None
        self._others_at = float("-inf")
        self._pace = Pace(1, time.monotonic())
        self._told_at = time.monotonic()
        self._stops = 0
        self._is_mute = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    # -- the caller's side --------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.tally.progress(self._pace.at_once(time.monotonic()), self._asker.currency)

    def run(self, told: Callable[[Progress], object] | None = None) -> None:
        """Ask all rows that have to be asked; block until the last is on disk.

        *told* is called now and then on this thread. An interrupt lets those under
        way arrive, a second one drops them; both end in `KeyboardInterrupt`.
        """
        try:
            if self._found.to_ask and self._allowance is not None:
                self._allowance.check()
            self._run(told)
        except DeepSeekError as error:
            self._end(error)
            raise
        finally:
            if self._ends:
                self._settle_kept()
            self.tally.share(self._error, stopped=self._stops > 0)
            self._tell(told)
            self._asker.tell()
            self._asker.refresh()

    def settle(self) -> None:
        """Ask nothing, and give the rows that were answered earlier their answers."""
        self._settle_kept()
        self.tally.share(None, stopped=True)

    def _run(self, told: Callable[[Progress], object] | None) -> None:
        ended: Future[None] = Future()
        thread = threading.Thread(
            target=self._work, args=(ended,), name="deepseek_magic rows", daemon=True
        )
        thread.start()
        while thread.is_alive():
            try:
                with suppress(TimeoutError):
                    ended.exception(TOLD)
                    thread.join()
                    break
                self._tell(told)
            except KeyboardInterrupt:
                self._stop()
        if self._stops:
            raise KeyboardInterrupt
        ended.result()

    def _tell(self, told: Callable[[Progress], object] | None) -> None:
        """Tell how far it is; what goes wrong with that stops no rows."""
        try:
            if told is not None and not self._is_mute:
                told(self.progress)
        except Exception:
            LOG.exception("what is told of the rows could not be shown")
            self._is_mute = True

    def _stop(self) -> None:
        self._stops += 1
        self.tally.note = t(STOPPING)
        if self._loop is not None:
            with suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._stop_in_loop, self._loop)

    def _stop_in_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._stops > 1:
            self._drop()
        else:
            loop.call_later(GRACE, self._drop)
        self._wake.set()

    def _drop(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    # -- the loop -----------------------------------------------------------------

    def _work(self, ended: Future[None]) -> None:
        try:
            asyncio.run(self._go())
        except BaseException as error:  # noqa: BLE001  # whatever it is, the caller is told
            ended.set_exception(error)
            return
        if self._error is None:
            ended.set_result(None)
        else:
            ended.set_exception(self._error)

    async def _go(self) -> None:
        self._loop = asyncio.get_running_loop()
        known = self._asker.purse.known
        careful = known is not None and known.effective == 0
        self._pace = Pace(self._most(), time.monotonic(), careful=careful)
        self._todo = self._walk = self._rows()
        client = AsyncClient(self._asker.client, idle=self._asker.timeout)
        try:
            while await self._tick_on(client):
                pass
        finally:
            self._drop()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._exchange([])
            client.close()

    async def _tick_on(self, client: AsyncClient) -> bool:
        """Go on; after a fault only until what is under way has arrived."""
        try:
            return await self._tick(client)
        except DeepSeekError as error:  # the data has changed
            self._end(error)
        except Exception as fault:
            LOG.exception("a question for every row met a fault")
            self._faults += 1
            self._end(
                DeepSeekError(t("deepseek_magic met a fault of its own ({fault!r}).", fault=fault))
            )
        self._todo = iter(())
        return self._faults < FAULTS

    async def _tick(self, client: AsyncClient) -> bool:
        """Write down what has ended, send what may be sent; tell whether there is more."""
        rows = self._unanswered(self._next_rows())
        if not rows and not self._ended:
            if not self.tally.under_way and (self._ends or not (self._ready or self._again)):
                return False
            await self._rest()
            return True
        admitted = await self._exchange(rows)
        for going, row in admitted:
            self._send(client, going, row)
        if not admitted and not self._ended:
            await self._rest()
        if time.monotonic() - self._told_at > QUIET_SECONDS:
            self._told_at = time.monotonic()
            self._asker.tell()
        return True

    @property
    def _ends(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._stops > 0 or self._error is not None

    async def _rest(self) -> None:
        """Wait until something has arrived, or may be sent again."""
        now = time.monotonic()
        moments = (self._pace.more_at(now), *(row.due for row in self._again))
        soon = min((moment for moment in moments if moment > now), default=now + IDLE)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(soon - now, TICK), IDLE)):
                await self._wake.wait()
                await asyncio.sleep(TICK)
        self._wake.clear()

    def _most(self) -> int:
        """Give the number of requests at once: the account's or the user's, as files allow."""
        model = self._found.sample[0].model if self._found.sample else ""
        most = MOST.get(price_list().aliases.get(model, model), OTHERS)
        most = most if self._wanted is None else self._wanted
        files = _files_left()
        if files is not None and files < most:
            self.tally.note = t(
                "At most {n:,} at once: this kernel may open no more files. More: "
                "ulimit -n 4096, before Jupyter starts.",
                n=files,
            )
            most = files
        return most

    # -- which rows ---------------------------------------------------------------

    def _rows(self) -> Iterator[_Row]:
        """Give the rows that have to be asked; those answered earlier are settled on the way."""
        found, waiting = self._found, list[_Row]()
        for number, request in enumerate(found.questions.all()):
            name = found.names[number] if number < len(found.names) else None
            if not isinstance(request, Request) or name is None:
                continue
            if mark_of(request) != found.marks[number]:
                raise DeepSeekError(
                    t(
                        "The data has changed while it was read: row {n:,} is another one now.",
                        n=number,
                    ),
                    t("What was answered is kept."),
                    t("Run again when nothing writes to the data."),
                )
            if found.first[name] != number:
                continue
            row = _Row(number, request, name)
            if name not in found.kept:
                self._take_up(row)
                yield row
                continue
            waiting.append(row)
            if len(waiting) >= LOOKED_UP:
                yield from self._from_ledger(waiting)
                waiting = []
        yield from self._from_ledger(waiting)

    def _take_up(self, row: _Row) -> None:
        """Ask for the repair alone where the answer was paid for earlier and the repair was not."""
        wrong = self._asker.unrepaired.get(row.name)
        if wrong is None or self._found.is_fresh:
            return
        _, error = self._found.questions.verdict(row.request, wrong)
        if error is not None:
            self._is_sent_back(row, replace(wrong, cost=NOTHING, cost_range=None), error)

    def _from_ledger(self, rows: Sequence[_Row]) -> Iterator[_Row]:
        """Settle rows that were answered earlier; give those whose answer does not do any more."""
        if not rows:
            return
        asker, longest = self._asker, rows[0].request.max_tokens
        stored = asker.ledger.answers_to(asker.account, [row.name for row in rows], longest)
        for row in rows:
            entry = stored.get(row.name)
            answer = asker.answered.get(row.name) or (answer_of(entry) if entry else None)
            value, error = self._found.questions.verdict(row.request, answer or Answer())
            if answer is None or error is not None:
                self._found.kept.discard(row.name)
                yield row
            else:
                self._found.kept.add(row.name)
                self._settled += 1
                self.tally.kept(row.number, value)

    def _settle_kept(self) -> None:
        """Settle the rows answered earlier that a job which ends early has not come to."""
        if self._settled >= len(self._found.kept):
            return
        with suppress(DeepSeekError, KeyboardInterrupt):  # data that has changed, impatience
            for _ in self._walk or self._rows():
                pass

    def _unanswered(self, rows: list[_Row]) -> list[_Row]:
        """Leave out rows that another kernel has asked meanwhile, if one writes to the ledger."""
        now = time.monotonic()
        if not self._has_others and now > self._others_at:
            version = self._asker.ledger.version()
            self._has_others = self._version is not None and version != self._version
            self._version, self._others_at = version, now + OTHERS_SECONDS
        if not self._has_others or self._found.is_fresh:
            return rows
        return list(self._from_ledger(rows))

    def _next_rows(self) -> list[_Row]:
        """Take the rows that are to be sent now."""
        if self._ends:
            return []
        now = time.monotonic()
        # What has ended is written together with what goes out in its place.
        under_way = self.tally.under_way - len(self._ended)
        room = min(self._pace.room(now, under_way), GROUP)
        if self._allowance is not None and (pilots := self._allowance.pilots) is not None:
            room = min(room, max(pilots - under_way, 0))
        rows, later = list[_Row](), list[_Row]()
        for row in self._again:
            (rows if row.due <= now and len(rows) < room else later).append(row)
        self._again = later
        while self._ready and len(rows) < room:
            rows.append(self._ready.popleft())
        rows += islice(self._todo, room - len(rows))
        if not rows and not self._ready:
            # One is looked for, so that the end is known when it is there.
            self._ready.extend(islice(self._todo, 1))
        return rows

    # -- the ledger ---------------------------------------------------------------

    async def _exchange(self, rows: Sequence[_Row]) -> list[tuple[Admitted, _Row]]:
        """Note what has ended and what is to go out; give what may go out."""
        done, self._ended = self._ended, []
        going, refused = self._admitted(rows)
        ledger, outcomes = self._asker.ledger, [(d.ended.call.entry, d.outcome) for d in done]
        notes = [(one.call.entry, self._asked(one, row)) for one, row in going]
        limit = self._allowance.day_limit if self._allowance is not None else None
        if limit is None:
            await asyncio.wrap_future(ledger.note(notes, outcomes))
        else:
            ended = ledger.note([], outcomes)
            reserved = await asyncio.wrap_future(ledger.reserve_all(notes, limit))
            await asyncio.wrap_future(ended)
            self._untold = self._untold + 1 if reserved is None else 0
            has_room = {found.entry for found in reserved or ()}
            for one, row in going:
                if one.call.entry not in has_room:
                    one.settle(Answer(), billed=False)
                    refused.append(row)
            going = [(one, row) for one, row in going if one.call.entry in has_room]
        for one_done in done:
            self.tally.under_way -= 1
            self._written(one_done)
        self._ready.extendleft(reversed(refused))
        # What has ended only now had its money reserved when room was looked for.
        is_last = not (going or done or self._ended or self.tally.under_way)
        if refused and is_last:
            if not self._untold:
                self._end(self._over_limit())
            elif self._untold >= UNTOLD:
                self._end(day_untold())
        return going

    def _admitted(self, rows: Sequence[_Row]) -> tuple[list[tuple[Admitted, _Row]], list[_Row]]:
        """Reserve for each row what it may cost, up to the first that finds no room."""
        at, going = self._asker.now(), list[tuple[Admitted, _Row]]()
        if rows and self._allowance is not None:
            self._allowance.look()
        for row in rows:
            one = self._allowance.admit(row.request, at) if self._allowance else None
            if one is None:
                break
            going.append((one, row))
        return going, list(rows[len(going) :])

    def _over_limit(self) -> OverLimit:
        """Tell that nothing is under way, and that what is left does not do for another row."""
        if self._allowance is not None:
            self._allowance.look()
        left = self._allowance.left if self._allowance is not None else None
        currency = self._asker.currency
        if left is None:
            what = t("The limit is not enough for another row.")
        else:
            what = t(
                "The limit is not enough for another row ({money} is left).",
                money=money(max(left, NOTHING), currency),
            )
        cut = self._allowance.cut if self._allowance is not None else 0
        already = (
            t("An answer to these rows was cut at {n:,} tokens already.", n=cut) if cut else ""
        )
        step = t("Raise the limit, and run again: only the missing rows are asked.")
        error = OverLimit(what, already, step)
        error.unsent = True
        return error

    def _asked(self, going: Admitted, row: _Row) -> Asked:
        asker, request = self._asker, row.request
        return Asked(
            at=going.call.at,
            account=asker.account,
            model=request.model,
            think=request.think,
            json=request.json,
            notebook=asker.notebook,
            cell=self._cell,
            request=as_sent(request),
            currency=asker.currency,
            reserved=self._allowance.reserved(going) if self._allowance else None,
            question=row.name,
        )

    # -- one question -------------------------------------------------------------

    def _send(self, client: AsyncClient, going: Admitted, row: _Row) -> None:
        row.sent, row.tries = time.monotonic(), row.tries + 1
        if row.tries == 1:
            row.answers_before = self.tally.answers
        self.tally.under_way += 1
        task = asyncio.get_running_loop().create_task(self._ask(client, going, row))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, client: AsyncClient, going: Admitted, row: _Row) -> None:
        began, request = time.monotonic(), going.call.request
        answer, value = Answer(model=request.model), None
        error: DeepSeekError | None = None
        interrupted = went_out = False

        def wanted() -> bool:
            nonlocal went_out
            went_out = not self._ends
            return went_out

        try:
            answer = await client.answer(request, wanted)
            value, error = self._found.questions.verdict(request, answer)
        except DeepSeekError as refused:
            error = refused
        except (CalledOff, asyncio.CancelledError):
            if not went_out:
                self._called_off(going)
                return
            interrupted = True
        except Exception as fault:  # noqa: BLE001  # one row's fault ends no other
            error = DeepSeekError(
                t("This row met a fault of deepseek_magic: {fault!r}", fault=fault)
            )
        answer = replace(answer, seconds=time.monotonic() - began)
        state = "interrupted" if interrupted else state_of(error)
        call = going.call
        if answer.usage is None and self._allowance is not None:
            call = self._allowance.reckoned(going)
        ended = Ended(call, answer, state, self._asker.now(), error)
        priced, outcome = ended.outcome(self._asker.currency, self._asker.clearance.own)
        going.settle(priced, billed=state not in FREE)
        again = error is not None and (
            self._is_sent_back(row, priced, error) or self._is_refused(row, error)
        )
        self._ended.append(_Done(row, ended, priced, outcome, value, again))
        self._wake.set()

    def _called_off(self, going: Admitted) -> None:
        """Forget a call that was noted and did not go out: its row was not asked."""
        self._asker.ledger.withdraw(going.call.entry)
        going.settle(Answer(), billed=False)
        self.tally.under_way -= 1
        self._wake.set()

    def _written(self, done: _Done) -> None:
        """Take note that a call's end is on disk."""
        answer, state, error = done.answer, done.ended.state, done.ended.error
        self._asker.add_up(answer)
        self.tally.spend(answer, free=state in FREE)
        row = done.row
        if not done.again and not is_put_off(error):
            self._asker.unrepaired.pop(row.name, None)
        if state == "done":
            self._pace.answered(time.monotonic())
            self._failures = 0
            if not self._stops:
                self.tally.note = ""
            if self._asker.ledger.keep != "all":
                self._asker.answered[row.name] = answer
            self.tally.answered(row.number, done.value, row.bill(answer))
        elif error is None:
            words = t("Stopped while it was under way; it may be billed. Run again for this row.")
            self.tally.failed(row.number, words, row.bill(answer))
        elif done.again:
            self._again.append(row)
            if row.wrong is not None:
                self._asker.unrepaired.setdefault(row.name, row.wrong)
                self.tally.sent_back(row.number, row.wrong)
        elif error.may_be_billed or (not isinstance(error, FOR_ALL) and error is not self._error):
            billed = row.wrong if state in FREE else row.bill(answer)
            self.tally.failed(row.number, row.words(error), billed)

    def _is_sent_back(self, row: _Row, answer: Answer, error: DeepSeekError) -> bool:
        """Tell whether *answer* is to be put right, which it is once; the row then asks for that.

        Where nothing more is to be sent, the row stays without an answer.
        """
        questions = self._found.questions
        if row.wrong is not None or not (row.request.json and questions.repair):
            return False
        if not (problems := problems_of(error, answer)):
            return False
        request = repair_of(row.request, answer, problems)
        if preflight.refusal(request, self._asker.client.key):
            return False
        row.request, row.wrong, row.tries, row.due = request, answer, 0, 0.0
        return True

    def _is_refused(self, row: _Row, error: DeepSeekError) -> bool:
        """Tell whether a row is to be asked again; end the job where the *error* is not its own.

        At once, before the refusal is on disk: no request is to follow it.
        """
        if self._is_asked_again(row, error):
            return True
        if isinstance(error, FOR_ALL):
            self._end(error)
        elif error.may_be_retried and self.tally.answers == row.answers_before:
            self._end(error)  # nothing was answered all the while
        elif not isinstance(error, UnusableAnswer) and self._is_one_too_many(error):
            self._end(error)
        return False

    def _is_one_too_many(self, error: DeepSeekError) -> bool:
        """Count failures without an answer between them; questions may be at fault, but not all."""
        self._failures += 1
        if isinstance(error, BadRequest) and self.tally.answers:
            return False
        return self._failures >= FAILURES

    def _is_asked_again(self, row: _Row, error: DeepSeekError) -> bool:
        """Tell whether a row was turned away unbilled and may be taken a little later."""
        named = getattr(error, "at_once", None)
        wait = error.retry_after if isinstance(error, RequestRefused) else None
        for_room = isinstance(error, TooManyRequests) or named is not None
        if error.may_be_billed or not (error.may_be_retried or named is not None):
            return False
        out_of_money = isinstance(error, InsufficientBalance)
        if out_of_money and self.tally.under_way <= 1:
            return False  # not even one at once
        now = time.monotonic()
        self._pace.refused(now, row.sent, self.tally.under_way, named=named, wait=wait)
        tries = TURNED_AWAY if for_room else self._asker.retries
        if self._pace.cuts > (CUTS if self.tally.answers else CUTS_AT_FIRST):
            self._end(error)
            return False
        if row.tries > tries or (wait or 0.0) > WAIT_AT_MOST:
            return False
        at_once = self._pace.at_once(now)
        self.tally.note = sentences(error.what, t("{n:,} at once now.", n=at_once))
        row.due = max(now + AGAIN * 2.0 ** min(row.tries - 1, 8), self._pace.resumes_at)
        return True

    def _end(self, error: DeepSeekError) -> None:
        """Let nothing more go out; what is under way arrives."""
        if self._error is None:
            self._error = error


def _files_left() -> int | None:
    """Tell how many more files this process may open; None where there is no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    import psutil

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        used = int(psutil.Process().num_fds())
    except psutil.Error:
        used = FILES_KEPT
    return max(int(soft) - used - FILES_KEPT, 1)
