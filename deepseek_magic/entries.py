"""What the ledger is told and what it tells, and how the file holds it.

Moments are microseconds since 1970, UTC; amounts are whole multiples of 10 ** -12.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Literal

from . import schema
from .store import Statement, storable
from .wire import EXACT, CostRange

Keep = Literal["all", "figures", "nothing"]
State = Literal["sent", "done", "unusable", "partial", "interrupted", "refused", "failed"]

PLACES = 12
"""Costs are whole multiples of 10 ** -12 in the file, so that SQLite adds them exactly."""

ALIKE = 4
"""Questions are of a length when neither is longer than the other by more than this factor."""

MOST = 2**62


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a call when it is sent.

    *reserved* is the most that it can cost, in *currency*; None where nobody knows.
    *question* names all that shapes its answer, so that the answer can be found by it;
    *chat* is the conversation that it belongs to.
    """

    at: datetime
    account: str
    model: str
    think: str | None = None
    notebook: str | None = None
    cell: str | None = None
    request: str | None = None
    json: bool = False
    currency: str | None = None
    reserved: Decimal | None = None
    question: str | None = None
    chat: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. A count, a cost or a text that is not known is None.

    A *cost* that is known takes the place of an earlier range, and the other way
    round. Where a call may be billed and neither is given, what was reserved for
    it is the bound. *saved* is what the cache spared.
    """

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
    cost_range: CostRange | None = None
    saved: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """What came of a reservation.

    *spent* and *under_way* are what the day had before it. Without an *entry*
    nothing is reserved: the limit would have been passed or, where the figures are
    None too, the ledger could not tell in time, or not tell what the call may cost.
    """

    entry: int | None
    spent: Decimal | None = None
    under_way: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Today:
    """What a day cost: at most, as far as is known; and likely. *unpriced* calls are in neither.

    *under_way* is what is reserved for calls that have not ended.
    """

    spent: Decimal
    likely: Decimal
    under_way: Decimal
    unpriced: int


@dataclass(frozen=True, slots=True)
class Past:
    """How many tokens earlier answers took: a tenth took less than *low*, a tenth more than *high*.

    *kind* says in words which answers these are.
    """

    number: int
    low: int
    likely: int
    high: int
    kind: str


@dataclass(frozen=True, slots=True)
class Spending:
    """What a call cost that was sent at *sent* and ended *at*, None while it is under way.

    It cost at least *low* and at most *high*, None where nobody knows.
    """

    at: datetime | None
    currency: str | None
    low: Decimal
    high: Decimal | None
    sent: datetime


@dataclass(frozen=True, slots=True)
class Pending:
    """A cell that was not paid for, as it waits in the ledger.

    *text* is the whole cell as it was sent, None where the ledger keeps no
    texts; *asks* tells a `%%deepseek` cell from an ordinary one. *answered* is
    when an answer arrived that no page has shown; it is offered, not bought again.
    """

    id: int
    since: datetime
    notebook: str | None
    cell: str | None
    text: str | None
    asks: bool
    answered: datetime | None = None


def stamp(at: datetime) -> int:
    """Give a moment as the file holds it."""
    return round(at.timestamp() * 1_000_000)


def moment(stamped: int) -> datetime:
    """Read a moment as the file holds it."""
    return datetime.fromtimestamp(stamped / 1_000_000, UTC)


def money(units: int | None) -> Decimal | None:
    """Read an amount as the file holds it."""
    return None if units is None else Decimal(units).scaleb(-PLACES, EXACT)


def whole(amount: Decimal, rounding: str = ROUND_HALF_EVEN) -> int | None:
    """Give an amount in the file's unit; None for one that is no amount."""
    if not amount.is_finite():
        return None
    return int(amount.scaleb(PLACES, EXACT).to_integral_value(rounding, EXACT))


def _units(amount: Decimal, rounding: str = ROUND_HALF_EVEN) -> int | None:
    """Give an amount as the file holds it; None for one that it cannot hold."""
    found: int | None = storable(whole(amount, rounding))
    return found


def _at_most(amount: Decimal | None) -> int | None:
    return None if amount is None else _units(amount, ROUND_CEILING)


def _values(record: Asked | Outcome) -> dict[str, Any]:
    """Give the columns that are known; an update leaves the others as they are."""
    values = {
        name: value for name in record.__slots__ if (value := getattr(record, name)) is not None
    }
    values["sent" if isinstance(record, Asked) else "ended"] = stamp(values.pop("at"))
    if isinstance(record, Asked):
        values["reserved"] = _at_most(record.reserved)
    else:
        values.pop("cost_range", None)
        values["saved"] = None if record.saved is None else _units(record.saved)
        values |= _amounts(record.cost, record.cost_range)
    return {
        name: kept
        for name, value in values.items()
        if value is not None and (kept := storable(value)) is not None
    }


def _amounts(cost: Decimal | None, span: CostRange | None) -> dict[str, int | None]:
    """Give a cost as the file holds it: exact, as a whole range, or not known."""
    values: dict[str, int | None] = dict.fromkeys(("cost", "low", "likely", "high"))
    if cost is not None and (units := _units(cost)) is not None:
        return {**values, "cost": units}
    if span is None:
        return values
    low, high = _units(span.low, ROUND_FLOOR), _at_most(span.high)
    if low is None or high is None:
        return values
    likely = None if span.likely is None else _units(span.likely)
    return {**values, "low": low, "likely": likely, "high": high}


def asking(entry: int, asked: Asked, keep: Keep, owner: str) -> Statement:
    """Give the statement that notes a call; its day is that of this machine."""
    day = asked.at.astimezone().date().isoformat()
    values = {**_values(asked), "id": entry, "state": "sent", "day": day, "owner": owner}
    if keep != "all":  # a name tells the text to whoever can guess it
        values.pop("request", None)
        values.pop("question", None)
    columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    return f"INSERT INTO entries ({columns}) VALUES ({marks})", values


def ending(entry: int, outcome: Outcome, keep: Keep) -> Statement:
    """Give the statement that notes how a call ended."""
    values = _values(outcome)
    if keep != "all":
        for name in ("answer", "reasoning", "error"):
            values.pop(name, None)
    assignments = [
        f"{name} = {schema.UNLESS_FORGOTTEN.format(name)}"
        if name in ("answer", "reasoning")
        else f"{name} = :{name}"
        for name in values
    ]
    if "cost" in values or "high" in values:
        assignments += [
            f"{name} = NULL" for name in ("cost", "low", "likely", "high") if name not in values
        ]
    elif outcome.state not in schema.FREE:
        assignments += schema.BOUNDED
        values.setdefault("currency", None)
    return f"UPDATE entries SET {', '.join(assignments)} WHERE id = :id", {**values, "id": entry}


def reading_row(account: str, at: datetime, row: Mapping[str, Any]) -> Statement:
    """Give the statement that keeps one currency of a reading."""
    values = {name: storable(value) for name, value in row.items()}
    return schema.READING, {**values, "account": storable(account), "at": stamp(at)}


def place_of(account: str, notebook: str | None, cell: str | None, text: str) -> dict[str, Any]:
    """Give what names a cell: the front end's id where there is one, else a hash of its text.

    An answer that was not shown has a place beside it, since its cell may ask
    something else meanwhile.
    """
    by_text = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    values = {
        "account": account,
        "notebook": notebook or "",
        "cell": cell,
        "place": cell or by_text,
        "unread": f"{cell or ''}#{by_text}",
        "by_text": by_text,
        "text": text,
    }
    return {name: storable(value) for name, value in values.items()}


def pending_cell(row: Mapping[str, Any]) -> Pending:
    """Read a cell that waits."""
    return Pending(
        id=row["id"],
        since=moment(row["since"]),
        notebook=row["notebook"] or None,
        cell=row["cell"],
        text=row["text"],
        asks=bool(row["asks"]),
        answered=None if row["answered"] is None else moment(row["answered"]),
    )


def amount_of(units: Any) -> Decimal:
    """Read an amount that is known."""
    return Decimal(units).scaleb(-PLACES, EXACT)


def total_of(text: Any) -> Decimal | None:
    """Read an amount of a reading; None for what is none."""
    try:
        amount = Decimal(text)
    except (InvalidOperation, TypeError, ValueError):
        return None
    return amount if amount.is_finite() else None


def spending_of(row: sqlite3.Row) -> Spending:
    """Read what one call cost."""
    ended, currency, low, high, sent = row
    least = amount_of(low)
    return Spending(
        at=None if ended is None else moment(ended),
        currency=currency,
        low=least,
        high=least if high == low else money(high),
        sent=moment(sent),
    )


def usage_of(row: dict[str, Any], by: tuple[str, ...]) -> dict[str, Any]:
    """Give a row of the sums as callers read it, where what is not known is None."""
    queries, exact, ranged = row["queries"], row["exact"], row["ranged"]
    cost = amount_of(row["cost"])
    known = exact + ranged > 0
    return {
        **{name: row[name] for name in (*by, "currency")},
        "queries": queries,
        "cost": cost if exact else None,
        "cost_low": EXACT.add(cost, amount_of(row["low"])) if known else None,
        "cost_high": EXACT.add(cost, amount_of(row["high"])) if known else None,
        "ranged": ranged,
        "unpriced": queries - exact - ranged,
        "saved": money(row["saved"]),
        **{name: row[name] for name in schema.COUNTS},
    }


def about(tokens: int) -> tuple[int, int]:
    """Give the bounds within which a question is about as long as one of *tokens*."""
    return -(-tokens // ALIKE), min(tokens * ALIKE, MOST)


def past_of(lengths: list[int], kind: str) -> Past | None:
    """Sum up the sorted *lengths* of answers."""
    if not lengths:
        return None
    last = len(lengths) - 1
    return Past(
        number=len(lengths),
        low=lengths[last // 10],
        likely=lengths[last // 2],
        high=lengths[-(-last * 9 // 10)],
        kind=kind,
    )


def priced(
    row: dict[str, Any],
    price_of: Callable[[dict[str, Any]], Decimal | CostRange | None],
    currency: str | None,
) -> dict[str, Any] | None:
    """Give the columns of an entry that has a price now; None for one that has none."""
    named = row["currency"] or currency
    if named is None:
        return None
    known = {**row, "currency": named, "sent": moment(row["sent"]), "ended": moment(row["ended"])}
    found = price_of(known)
    amounts = _amounts(None, found) if isinstance(found, CostRange) else _amounts(found, None)
    if amounts["cost"] is None and amounts["high"] is None:
        return None
    return {**amounts, "id": row["id"], "currency": storable(named)}


def entry_of(row: dict[str, Any]) -> dict[str, Any]:
    """Give a row of the file as callers read it: costs as `Decimal`, times as aware UTC."""
    return {
        **row,
        **{name: money(row[name]) for name in schema.AMOUNTS},
        "json": None if row["json"] is None else bool(row["json"]),
        "sent": moment(row["sent"]),
        "ended": None if row["ended"] is None else moment(row["ended"]),
    }
