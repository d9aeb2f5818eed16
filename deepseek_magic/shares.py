"""What the partitions of one job share: requests at once, money, and questions under way.

Nothing here knows of Dask: who asks is a `Part`, and what comes of it is told to whoever
carries the messages. One thread calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext

from .limits import Cap
from .wire import EXACT

BLOCK = 16
"""A part is lent money for so many questions at a time, as long as there is plenty."""
PART_OF_LEFT = 4
"""What is lent at a time is at most this part of what is left, shared by all who ask."""
REFUSED_SECONDS = 0.25
"""So long nobody asks again who was lent nothing, and has questions under way."""
NOTHING = Decimal(0)


@dataclass(slots=True, eq=False)
class Part:
    """One try at one partition, by the *worker* on which it runs.

    *want* is how many questions it has, *slots* how many it may have under way: none
    while it waits. *claims* are the questions it asks, *later* those that it leaves to
    others and reads when they have ended. *starved* is whether the money did not do for
    it; then it has one more turn, *alone*.
    """

    number: int
    name: str
    worker: str
    want: int = 1
    slots: int = 0
    waits: bool = False
    claims: frozenset[str] = frozenset()
    later: frozenset[str] = frozenset()
    starved: bool = False
    alone: bool = False
    lent: list[tuple[object, Decimal]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Turn:
    """What a part that waited gets: *slots* requests at once; none where the money does not do."""

    slots: int
    left: Decimal | None


class Shares:
    """At most *at_once* requests, and what is left in all *caps*, for *parts* partitions."""

    def __init__(self, at_once: int, caps: Sequence[Cap], parts: int) -> None:
        self.at_once = at_once
        self.unfinished = parts
        self.threads = 1
        """How many partitions may run at the same time."""
        self._caps = caps
        self._parts: dict[int, Part] = {}
        self._blocks = 0

    @property
    def left(self) -> Decimal | None:
        """What is neither spent nor lent; None where there is no limit."""
        return min((cap.left for cap in self._caps), default=None)

    @property
    def slots(self) -> int:
        """How many requests may be under way now, all parts together."""
        return sum(part.slots for part in self._parts.values())

    def is_current(self, part: Part) -> bool:
        """Tell whether no later try at the same partition has begun."""
        return self._parts.get(part.number) is part

    def begin(self, part: Part, questions: Iterable[str]) -> None:
        """Let *part* claim those of its *questions* that no other asks at the moment."""
        if (before := self._parts.get(part.number)) is not None:
            self.lose(before)
        wanted = frozenset(questions)
        part.later = wanted & self._claimed(part)
        part.claims = wanted - part.later
        self._parts[part.number] = part

    def _claimed(self, but: Part) -> frozenset[str]:
        others = (part.claims for part in self._parts.values() if part is not but)
        return frozenset().union(*others)

    def wait(self, part: Part, want: int, *, starved: bool) -> None:
        """Note that *part* waits for its turn; *starved*, that what is left was too little."""
        part.want, part.waits, part.starved = max(want, 1), True, starved
        part.alone = part.alone and starved

    def turns(self) -> list[tuple[Part, Turn]]:
        """Give those who need wait no longer what they get."""
        found = []
        for part in self._parts.values():
            if part.waits and (turn := self._turn(part)) is not None:
                part.waits, part.slots = False, turn.slots
                part.claims = part.claims or part.later
                found.append((part, turn))
        return found

    def _turn(self, part: Part) -> Turn | None:
        running = [one for one in self._parts.values() if one.slots]
        if any(one.alone for one in running):
            return None
        if not part.claims and part.later & self._claimed(part):
            return None
        if part.starved:
            if running:
                return None  # what they were lent and do not spend comes back
            if part.alone:
                return Turn(0, self.left)
            part.alone = True
        together = max(min(self.threads, self.unfinished), 1)
        fair = self.at_once if part.alone else -(-self.at_once // together)
        slots = min(part.want, fair, self.at_once - self.slots)
        return Turn(slots, self.left) if slots > 0 else None

    def lend(self, part: Part, needed: Decimal) -> Decimal:
        """Lend *part* so much that a question of *needed* can go out, or nothing."""
        left = self.left
        if left is None or needed > left or not self.is_current(part):
            return NOTHING
        with localcontext(EXACT):
            fair = left / (PART_OF_LEFT * max(self.threads, 1))
            amount = min(max(needed, min(BLOCK * needed, fair)), left)
        self._blocks += 1
        name = (part.name, self._blocks)
        for cap in self._caps:
            if not cap.hold(name, amount):
                self._release(name, NOTHING)
                return NOTHING
        part.lent.append((name, amount))
        return amount

    def leave(self, part: Part, spent: Decimal, *, done: bool) -> None:
        """Take back what *part* was lent and has not *spent*; *done* ends its claims."""
        for name, amount in part.lent:
            paid = min(amount, spent)
            spent -= paid
            self._release(name, paid)
        part.lent, part.slots, part.waits = [], 0, False
        if spent > 0:  # it was to go out anyway
            self._blocks += 1
            for cap in self._caps:
                cap.hold((part.name, self._blocks), spent, beyond=True)
        if done:
            part.claims = frozenset()

    def lose(self, part: Part) -> None:
        """Take note that *part* has died: what it was lent counts as spent."""
        with localcontext(EXACT):
            lent = sum((amount for _, amount in part.lent), NOTHING)
        self.leave(part, lent, done=True)
        if self.is_current(part):
            del self._parts[part.number]

    def end(self, part: Part) -> None:
        """Take note that a partition is done, whatever came of it."""
        self.leave(part, NOTHING, done=True)
        if self.is_current(part):
            del self._parts[part.number]
            self.unfinished -= 1

    def lost(self, workers: Iterable[str]) -> list[Part]:
        """Give the parts whose worker is none of *workers* any more."""
        there = frozenset(workers)
        return [part for part in self._parts.values() if part.worker not in there]

    def waiting(self) -> list[Part]:
        """Give the parts that wait for their turn."""
        return [part for part in self._parts.values() if part.waits]

    def _release(self, name: object, paid: Decimal) -> None:
        for cap in self._caps:
            cap.release(name, paid)


class Lent(Cap):
    """A cap of borrowed money: where it does not do, *more* is asked for, of what is left for all.

    *more* gets what is needed, and gives what is lent and what is left then.
    """

    def __init__(self, left: Decimal, more: Callable[[Decimal], tuple[Decimal, Decimal]]) -> None:
        super().__init__(NOTHING)
        self._beyond = left
        self._more = more
        self._not_before = float("-inf")

    @property
    def left(self) -> Decimal:
        """What is neither spent nor reserved, with what is left for all as last heard."""
        with localcontext(EXACT):
            return super().left + self._beyond

    @property
    def spent(self) -> Decimal:
        """What is spent or reserved."""
        with self._lock:
            return self._taken

    def hold(self, name: object, amount: Decimal, *, beyond: bool = False) -> bool:
        """Reserve *amount*, if there is so much or so much is lent."""
        if super().hold(name, amount):
            return True
        if not beyond and (not self._held or time.monotonic() >= self._not_before):
            with localcontext(EXACT):
                lent, self._beyond = self._more(amount - super().left)
                self.amount += lent
            if not lent:
                self._not_before = time.monotonic() + REFUSED_SECONDS
        return super().hold(name, amount, beyond=beyond)
