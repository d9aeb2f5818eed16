"""What there is for each row, and how far all of them are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from .errors import DeepSeekError, InsufficientBalance, OutOfMoney
from .jobs import Progress
from .wire import EXACT, Answer
from .words import later, t, tn

if TYPE_CHECKING:
    from .survey import Survey


@dataclass(slots=True)
class Results:
    """What there is for each row; *values* are answers as the caller wants them.

    A cost is what was paid now: 0 where nothing was, None where nobody knows.
    """

    values: list[Any]
    costs: list[Decimal | None]
    errors: list[str | None]


class Tally:
    """The results of the rows of *found*, and their sums. One thread writes, others may read."""

    def __init__(self, found: Survey) -> None:
        rows = len(found.names)
        self.results = Results([None] * rows, [Decimal(0)] * rows, [None] * rows)
        self.answers = 0
        """Answers that have come and are on disk."""
        self.lengths = 0
        """Answers whose tokens are known."""
        self.longest = 0
        """The tokens of the longest of them."""
        self.under_way = 0
        self.note = ""
        self._found = found
        self._is_done = [False] * rows
        self._kept = self._failed = self._repeated = 0
        self._cost: Decimal | None = Decimal(0)
        self._began = time.monotonic()

    @property
    def left(self) -> int:
        """The number of questions that are still to be sent, or under way."""
        return max(self._found.to_ask - self.answers - self._failed, 0)

    def kept(self, row: int, value: Any) -> None:
        """Take an answer that was paid for earlier."""
        self._kept += 1
        self._settle(row, value, Decimal(0), None)

    def answered(self, row: int, value: Any, answer: Answer) -> None:
        """Take an answer that has come."""
        self.answers += 1
        self._measure(answer)
        self._settle(row, value, answer.cost, None)

    def failed(self, row: int, error: str, answer: Answer | None = None) -> None:
        """Take the error of a row; *answer* is what was billed for it, None where nothing was."""
        self._failed += 1
        if answer is not None:
            self._measure(answer)
        self._settle(row, None, Decimal(0) if answer is None else answer.cost, error)

    def sent_back(self, row: int, answer: Answer) -> None:
        """Take what was billed for a row whose answer is to be put right: it may stay at that."""
        self.results.costs[row] = answer.cost

    def _measure(self, answer: Answer) -> None:
        if answer.usage is not None and answer.usage.completion_tokens is not None:
            self.lengths += 1
            self.longest = max(self.longest, answer.usage.completion_tokens)

    def spend(self, answer: Answer, *, free: bool) -> None:
        """Add up what a call has cost; of a range its likely figure counts."""
        span = answer.cost_range
        paid = answer.cost if span is None else (span.likely or span.low)
        if paid is None and not free:
            self._cost = None
        elif paid is not None and self._cost is not None:
            self._cost = EXACT.add(self._cost, paid)

    def _settle(self, row: int, value: Any, cost: Decimal | None, error: str | None) -> None:
        if not self._is_done[row] and (name := self._found.names[row]) is not None:
            self._repeated += self._found.copies.get(name, 0)
        self._is_done[row] = True
        self.results.values[row] = value
        self.results.costs[row] = cost
        self.results.errors[row] = error

    # -- how far it is ------------------------------------------------------------

    def progress(self, at_once: int, currency: str | None) -> Progress:
        """Tell how far it is, when *at_once* may be under way."""
        seconds = time.monotonic() - self._began
        blank, repeated = len(self._found.errors), self._repeated
        rate = self.answers / seconds if self.answers and seconds > 0 else None
        return Progress(
            rows=len(self._is_done),
            done=self.answers + self._kept + self._failed + repeated + blank,
            asked=self.answers,
            kept=self._kept,
            repeated=repeated,
            failed=self._failed + blank,
            under_way=self.under_way,
            at_once=at_once,
            cost=self._cost,
            expected=self._expected() if currency else None,
            currency=currency,
            seconds=seconds,
            rate=rate,
            left=self.left / rate if rate else None,
            note=self.note,
        )

    def _expected(self) -> Decimal | None:
        if self._cost is None or not self.answers:
            return None
        each = EXACT.divide(self._cost, Decimal(self.answers))
        return EXACT.add(self._cost, EXACT.multiply(each, Decimal(self.left)))

    def counted(self) -> str:
        """Say how many rows have an answer."""
        first, errors = self._found.first, self.results.errors
        has = {name: self._is_done[row] and errors[row] is None for name, row in first.items()}
        answered = sum(name is not None and has[name] for name in self._found.names)
        rows = len(self._found.names)
        return answered_of(answered, rows)

    def share(self, error: DeepSeekError | None, *, stopped: bool) -> None:
        """Give equal rows the answer of the first, and rows that were not asked the reason."""
        results, found, why = self.results, self._found, _why(error, stopped=stopped)
        for row, name in enumerate(found.names):
            if name is None:
                self._settle(row, None, Decimal(0), found.errors[row])
                continue
            first = found.first[name]
            if not self._is_done[first]:
                results.errors[row] = why
            elif row != first:
                results.values[row] = results.values[first]
                results.errors[row] = results.errors[first]


def _why(error: DeepSeekError | None, *, stopped: bool) -> str:
    """Say why a row was not asked."""
    match error:
        case InsufficientBalance():
            reason = t("the balance was empty")
        case OutOfMoney():
            reason = t("the limit was reached")
        case None:
            reason = t("it was stopped") if stopped else t("it was not reached")
        case _:
            reason = t("the rows before it ended in {error}", error=type(error).__name__)
    return not_asked(reason)


def not_asked(reason: str) -> str:
    """Give the error of a row that was not asked for that *reason*."""
    return t("Not asked, as {reason}. Run again for this row.", reason=reason)


NOT_ASKED = later("Not asked")
"""How the error of such a row begins."""


def was_not_asked(error: object) -> bool:
    """Tell whether *error* is that of a row which was not asked."""
    return str(error or "").startswith((NOT_ASKED, t(NOT_ASKED)))


def answered_of(answered: int, rows: int) -> str:
    """Say how many of all *rows* have an answer, and how many are left."""
    return tn(
        rows - answered,
        "{answered:,} of {rows:,} rows have their answer, {n:,} is left.",
        "{answered:,} of {rows:,} rows have their answer, {n:,} are left.",
        answered=answered,
        rows=rows,
    )
