"""The cells of one notebook that wait for a top-up, in their order.

One thread looks at the account for all of them, and only while one waits. When
money has come it lets them run, one after the other; the first that finds the
account empty again ends the round, and the rest keep their places.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Literal, Protocol

from .errors import InsufficientBalance, NoKey, WrongKey, one_line
from .top_up import LONGEST, Look, pauses

if TYPE_CHECKING:
    from .session import Session

LOG = logging.getLogger("deepseek_magic")

Ending = Literal["ran", "empty", "silent"]

SILENCE = 60.0
"""Seconds until a cell that no page showed is tried again; doubled each time."""
SILENCE_AT_MOST = 600.0
JUST_ENDED = 5.0
"""For so many seconds after its end a run that found the account empty keeps its place."""
CLOSE_SECONDS = 1.0


class Waiter(Protocol):
    """A cell that waits; what it is told comes on the thread that looks."""

    def looked(self, look: Look) -> None:
        """Take note of a *look* that found nothing."""

    def run_again(self) -> Ending:
        """Run the cell and tell, when it has ended, how.

        "empty" means that the money was missing once more, "silent" that no page
        shows the cell and that it was not run.
        """

    def gave_up(self) -> None:
        """Take note that the time is up and that the cell waits no more."""


@dataclass(slots=True, eq=False)
class _Place:
    """A cell's place in the queue; times are those of a clock that only goes forward."""

    name: str
    waiter: Waiter
    number: int
    since: datetime
    until: datetime
    ends: float
    silences: int = 0
    rests_until: float = 0.0
    empty_at: float | None = None


class Waiting:
    """The queue of cells that wait for money in *session*'s account.

    A cell waits for as long as *seconds* says when it is added. Every method may
    be called from any thread, also inside a run that this object has begun, and
    none waits for a run. `close` begins no run any more; one that a waiter is
    about to send is the waiter's to cancel, so close the waiters too.
    """

    def __init__(self, session: Session, seconds: Callable[[], float]) -> None:
        self._session = session
        self._seconds = seconds
        self._places: list[_Place] = []
        self._ran: _Place | None = None
        """The place that is being run, or was last."""
        self._runs = False
        self._numbers = count()
        self._pauses = pauses()
        self._rests_until = 0.0
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, place: object) -> bool:
        return any(one.name == place for one in tuple(self._places))

    def add(self, place: str, waiter: Waiter) -> None:
        """Let *waiter* wait for the cell *place*: at the end of the queue, and look at once.

        A cell that waits already keeps its place and its time, and so does one
        that is being run, or was just now without finding money.
        """
        seconds = self._seconds()
        if self._elsewhere():
            return
        with self._lock:
            if self._closed:
                return
            known = self._known(place)
            if known is None:
                known = self._new(place, waiter, seconds)
                self._hurry()
            known.waiter, known.silences, known.rests_until = waiter, 0, 0.0
            if known not in self._places:
                self._places.append(known)
            self._begin()

    def remove(self, place: str, waiter: Waiter) -> None:
        """Let *waiter* wait no more; a run of it that has begun goes on.

        When that run finds the account empty again, `add` gives the cell its
        place back.
        """
        if self._elsewhere():
            return
        with self._lock:
            kept = [p for p in self._places if p.name != place or p.waiter is not waiter]
            self._places = kept
            if not kept:
                self._wake.set()

    def resumes(self, place: str) -> bool:
        """Tell whether the cell *place* is being run: a fresh notice there goes on waiting."""
        ran = self._ran
        return self._runs and ran is not None and ran.name == place

    def nudge(self) -> None:
        """Look at once, and try again what no page showed."""
        if self._elsewhere():
            return
        with self._lock:
            for place in self._places:
                place.rests_until = 0.0
            self._hurry()

    def close(self) -> None:
        """Run nothing any more; the thread ends, after a run that it is in.

        Such a run is not waited for, since it may be what closes.
        """
        if self._elsewhere():
            return
        with self._lock:
            self._closed = True
            self._places = []
            self._wake.set()
            thread = None if self._runs else self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)  # it may be reading the balance

    # -- the queue ----------------------------------------------------------------

    def _elsewhere(self) -> bool:
        """Tell whether this is a fork: it has no thread that looks, and its lock may be held."""
        return os.getpid() != self._process

    def _known(self, name: str) -> _Place | None:
        waiting = (place for place in self._places if place.name == name)
        ran = self._ran if self._ran is not None and self._ran.name == name else None
        if ran is not None and not self._runs:
            just = ran.empty_at is not None and time.monotonic() - ran.empty_at < JUST_ENDED
            ran = ran if just else None
        return next(waiting, ran)

    def _new(self, name: str, waiter: Waiter, seconds: float) -> _Place:
        since = datetime.now(UTC)
        until = since + timedelta(seconds=seconds)
        return _Place(name, waiter, next(self._numbers), since, until, time.monotonic() + seconds)

    def _hurry(self) -> None:
        self._rests_until = 0.0
        self._wake.set()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._go, name="deepseek_magic waiting", daemon=True
            )
            self._thread.start()

    # -- the thread that looks ------------------------------------------------------

    def _go(self) -> None:
        while self._goes_on():
            try:
                self._expire()
                if self._is_time():
                    self._look()
            except Exception as error:  # noqa: BLE001  # whatever breaks, the cells go on waiting
                LOG.warning("the waiting for a top-up met a fault: %r", error)
                self._trouble(one_line(f"{type(error).__name__}: {error}"))

    def _goes_on(self) -> bool:
        with self._lock:
            if self._places:
                return True
            self._thread = None  # `add` begins another from here on
            return False

    def _expire(self) -> None:
        with self._lock:
            now = time.monotonic()
            late = [place for place in self._places if place.ends <= now]
            self._places = [place for place in self._places if place.ends > now]
        for place in late:
            _tell(place.waiter.gave_up)

    def _is_time(self) -> bool:
        """Tell whether to look now; if it is too early, wait until it may not be."""
        with self._lock:
            self._wake.clear()  # what changes from here on sets it again
            if not self._places:
                return False
            now = time.monotonic()
            begins = max(self._rests_until, min(place.rests_until for place in self._places))
            ends = min(place.ends for place in self._places)
        if begins <= now:
            return True
        self._wake.wait(max(min(begins, ends) - now, 0.0))
        return False

    def _look(self) -> None:
        with self._lock:
            if not self._places:
                return
            seconds = min(place.ends for place in self._places) - time.monotonic()
        try:
            self._session.wait(max(seconds, 0.0), told=self._told, stop=self._wake)
        except InsufficientBalance:  # woken, or somebody's time is up
            return
        except (NoKey, WrongKey) as error:
            self._trouble(str(error))
            return
        self._round()

    def _told(self, look: Look) -> None:
        with self._lock:
            waiting = [
                (p.waiter, replace(look, since=p.since, until=p.until)) for p in self._places
            ]
        for waiter, seen in waiting:
            _tell(waiter.looked, seen)

    def _trouble(self, problem: str) -> None:
        """Tell of a *problem* that time alone will hardly mend, and look again much later."""
        now = datetime.now(UTC)
        with self._lock:
            if not self._wake.is_set():
                self._rests_until = time.monotonic() + LONGEST
        self._told(Look(now, None, problem, LONGEST, now, now))

    # -- running ------------------------------------------------------------------

    def _round(self) -> None:
        """Run the cells in their order, each once at most, until one finds no money."""
        tried: set[_Place] = set()
        while (place := self._next(tried)) is not None:
            tried.add(place)
            waiter = place.waiter
            try:
                ending = waiter.run_again()
            except Exception as error:  # noqa: BLE001  # it may have been paid for: not twice
                LOG.warning("a cell that waited was not run to its end: %r", error)
                ending = "ran"
                _tell(waiter.gave_up)
            if not self._ended(place, waiter, ending):
                return

    def _next(self, tried: set[_Place]) -> _Place | None:
        with self._lock:
            now = time.monotonic()
            ready = [p for p in self._places if p not in tried and p.rests_until <= now]
            if not ready:
                return None
            # Those that no page showed come last: asking for a page takes seconds.
            self._ran = min(ready, key=lambda place: (place.silences > 0, place.number))
            self._ran.empty_at = None
            self._runs = True
            return self._ran

    def _ended(self, place: _Place, waiter: Waiter, ending: Ending) -> bool:
        """Note the end of a run, and tell whether the round goes on."""
        with self._lock:
            self._runs = False
            waits = place in self._places
            if ending == "empty" or (waits and place.waiter is not waiter):
                place.empty_at = time.monotonic()
                self._rests_until = place.empty_at + next(self._pauses)
                return False
            if ending == "ran":
                self._pauses = pauses()
                self._places = [one for one in self._places if one is not place]
            else:
                place.rests_until = time.monotonic() + min(
                    SILENCE * 2**place.silences, SILENCE_AT_MOST
                )
                place.silences += 1
            return True


def _tell(function: Callable[..., None], *arguments: Look) -> None:
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001  # a notice that fails holds up no other cell
        LOG.warning("a notice was not told of the waiting: %r", error)
