"""What is known of a question for every row: before it is asked, while it is, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from .wire import Balance, CostRange, Request


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a question for every row would take, reckoned before anything is sent.

    Of *rows*, *repeated* are equal to an earlier one, *kept* were answered earlier
    and cost nothing, *blank* have nothing to ask about; *to_ask* are left. *first* is
    the first question to be sent, None where there is none. *cost* is the range of
    all that is to be asked, *worst* what nothing passes; None where no price is known.
    *covered* rows are paid for by the *balance*, *within* rows by the narrowest limit
    of the user's own, of which *limit* is left; None where that is not known, or there
    is no such limit. *reason* tells how it was reckoned.
    """

    rows: int
    repeated: int
    kept: int
    blank: int
    to_ask: int
    at: datetime
    first: Request | None = None
    tokens_in: int = 0
    cost: CostRange | None = None
    worst: Decimal | None = None
    currency: str | None = None
    balance: Balance | None = None
    covered: int | None = None
    limit: Decimal | None = None
    within: int | None = None
    reason: str = ""

    @property
    def is_doubtful(self) -> bool:
        """Whether the balance or a limit may end before the rows do."""
        reach = (rows for rows in (self.covered, self.within) if rows is not None)
        return any(rows < self.to_ask for rows in reach)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a question for every row has come.

    Of *rows* (None as long as nobody has counted them), *done* are settled: *asked*
    were answered now and are on disk, *kept* were answered earlier, *repeated* share
    the answer of an equal row, *failed* have an error. *under_way* wait for their
    answers, *at_once* may do so at the same time. *cost* is what this run has cost,
    of a range its likely figure; *expected* what the whole will; None where no price
    is known. *rate* is in rows a second, *left* in seconds. *note* is a sentence
    about what holds it up, or "".
    """

    rows: int | None = None
    done: int = 0
    asked: int = 0
    kept: int = 0
    repeated: int = 0
    failed: int = 0
    under_way: int = 0
    at_once: int = 0
    cost: Decimal | None = None
    expected: Decimal | None = None
    currency: str | None = None
    seconds: float = 0.0
    rate: float | None = None
    left: float | None = None
    note: str = ""
