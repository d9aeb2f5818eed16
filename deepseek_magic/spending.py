"""What was spent, as a table with its sums."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from decimal import Decimal, localcontext
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from .chart import span
from .elements import QUIET, Shown, count, in_days, money, one_line, outer
from .schema import BY
from .tables import table_shown
from .wire import EXACT
from .words import later, sentences, t, tn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .stamps import Stamps

DEFAULT_BY = BY[:3]
SET_A_PRICE = "%deepseek prices --set MODEL CURRENCY HIT MISS OUT"

_MOST_ROWS = 100
_CELL_ID = 8
_NONE = Decimal(0)


# Words


def paid(row: Mapping[str, Any]) -> str:
    """Write what the questions of a *row* cost: exactly, between bounds, or unpriced."""
    low, high, unpriced = row["cost_low"], row["cost_high"], row["unpriced"] or 0
    if high is None:
        return t("unpriced") if unpriced else money(_NONE, row["currency"])
    known = span(low, high, row["currency"])
    return t("{known} + {n:,} unpriced", known=known, n=unpriced) if unpriced else known


@dataclass(slots=True)
class _Total:
    """The sums of one currency; *ranged* counts the questions between *low* and *high*."""

    cost: Decimal = _NONE
    low: Decimal = _NONE
    high: Decimal = _NONE
    saved: Decimal = _NONE
    ranged: int = 0
    any: bool = False

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of this currency."""
        cost = row["cost"] or _NONE
        self.cost += cost
        if row["cost_high"] is not None:
            self.low += row["cost_low"] - cost
            self.high += row["cost_high"] - cost
        self.saved += row["saved"] or _NONE
        self.ranged += row["ranged"] or 0
        self.any = self.any or row["cost_high"] is not None


def _totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, _Total]:
    found: dict[str, _Total] = defaultdict(_Total)
    with localcontext(EXACT):
        for row in rows:
            found[row["currency"] or t("of unknown currency")].add(row)
    return {currency: total for currency, total in sorted(found.items()) if total.any}


_QUESTIONS = (
    later("{costs} for {n:,} question whose exact bill is not known"),
    later("{costs} for {n:,} questions whose exact bill is not known"),
)
_ANSWERS = (
    later("{costs} for {n:,} answer whose exact bill is not known"),
    later("{costs} for {n:,} answers whose exact bill is not known"),
)


def _note(rows: Sequence[Mapping[str, Any]], ranged: tuple[str, str] = _QUESTIONS) -> str:
    """Say what it comes to: per currency, the part that is a range, and what the cache saved."""
    totals = _totals(rows)
    sums = [money(total.cost, name) for name, total in totals.items() if total.cost]
    ranges = [
        tn(total.ranged, *ranged, costs=span(total.low, total.high, name))
        for name, total in totals.items()
        if total.ranged
    ]
    nothing = [money(_NONE, name) for name in totals][:1] or [t("nothing that is known")]
    together = t(" and ").join(sums or ([] if ranges else nothing))
    saved = t(" and ").join(money(one.saved, name) for name, one in totals.items() if one.saved)
    return sentences(
        t("Together {sums}.", sums=t(", and ").join(filter(None, [together, *ranges]))),
        t("The cache saved {money}.", money=saved) if saved else "",
    )


def _unpriced(rows: Sequence[Mapping[str, Any]]) -> str:
    number = sum(row["unpriced"] or 0 for row in rows)
    if not number:
        return ""
    return tn(
        number,
        "{n:,} question is unpriced: the price of the model, or the tokens, are not known. Give "
        "a price with: {code}",
        "{n:,} questions are unpriced: the price of the model, or the tokens, are not known. Give "
        "a price with: {code}",
        code=SET_A_PRICE,
    )


# The table


def usage_shown(
    rows: Sequence[Mapping[str, Any]],
    by: Sequence[str] = DEFAULT_BY,
    chart: Shown | None = None,
) -> Shown:
    """Show what was spent *by* day, model, notebook or cell, below the *chart* of the days."""
    if not rows:
        said = t("Nothing has been asked from this account yet.")
        return Shown(html=outer(QUIET, said), text=said)
    note = sentences(_note(rows), _unpriced(rows))
    return _below(chart, _table(rows, by, t("Asked"), note))


def nothing_shown(days: int) -> Shown:
    """Say that the last *days* have no question."""
    said = t("Nothing has been asked from this account in the last {days}.", days=in_days(days))
    return Shown(html=outer(QUIET, said), text=said)


def notebook_shown(found: Stamps, rows: Sequence[Mapping[str, Any]], name: str) -> Shown:
    """Show what the answers in the saved notebook *name* cost; *rows* add up what was *found*."""
    name = one_line(name, 60)
    unread = _unread(found.unreadable)
    if not rows:
        said = sentences(t("{file} shows no answer that says what it cost.", file=name), unread)
        return Shown(html=outer(QUIET, said), text=said)
    counted = t(
        "Counted are the answers that {file} shows, and not all that was ever asked; the ledger "
        "has that: %deepseek usage",
        file=name,
    )
    note = sentences(_note(rows, _ANSWERS), _unstamped(rows), unread, counted)
    return _table(rows, ("model",), t("Answers"), note)


def _unstamped(rows: Sequence[Mapping[str, Any]]) -> str:
    number = sum(row["unpriced"] for row in rows)
    if not number:
        return ""
    return tn(number, "{n:,} answer has no known cost.", "{n:,} answers have no known cost.")


def _unread(number: int) -> str:
    if not number:
        return ""
    return tn(
        number,
        "{n:,} output has figures that cannot be read, and is left out.",
        "{n:,} outputs have figures that cannot be read, and are left out.",
    )


def _below(above: Shown | None, shown: Shown) -> Shown:
    if above is None or not above.text:
        return shown
    return Shown(above.html + shown.html, f"{above.text}\n\n{shown.text}")


def _table(rows: Sequence[Mapping[str, Any]], by: Sequence[str], things: str, note: str) -> Shown:
    """Make the table, without the columns in which nothing stands."""
    shown = _newest(rows, by)
    columns = [*_names(shown, by), *_figures(shown, things)]
    kept = [(head, cells, right) for head, cells, right in columns if any(cells) or head == things]
    if len(shown) < len(rows):
        fewer = t(
            "The last {n:,} of {all:,} rows; fewer with --days 7, or --by {column}."
            if "day" in by
            else "The dearest {n:,} of {all:,} rows; fewer with --days 7, or --by {column}.",
            n=len(shown),
            all=len(rows),
            column="model" if by[0] == "day" else "day",
        )
        note = sentences(fewer, note)
    return table_shown(
        [head for head, _, _ in kept],
        list(zip(*(cells for _, cells, _ in kept), strict=True)),
        right=[number for number, (_, _, right) in enumerate(kept) if right],
        note=note,
    )


def _newest(rows: Sequence[Mapping[str, Any]], by: Sequence[str]) -> list[Mapping[str, Any]]:
    """Give the rows to show: the last days, or the dearest of what has no day."""
    if "day" in by:
        return sorted(rows, key=lambda row: str(row["day"]))[-_MOST_ROWS:]
    return sorted(rows, key=lambda row: row["cost_high"] or _NONE, reverse=True)[:_MOST_ROWS]


_Column = tuple[str, list[str], bool]


HEADS = (later("Day"), later("Model"), later("Notebook"), later("Cell"))
"""What the columns of `BY` are called on screen."""


def _names(rows: Sequence[Mapping[str, Any]], by: Sequence[str]) -> list[_Column]:
    words: dict[str, Callable[[Any], str]] = {
        "notebook": _short_names(row.get("notebook") for row in rows),
        "cell": lambda cell: str(cell or "")[:_CELL_ID],
    }
    columns = []
    for name in by:
        told = [words.get(name, _word)(row[name]) for row in rows]
        if any(told) or tuple(by) != DEFAULT_BY:  # what nobody asked for may be left out
            told = [one or t("unknown") for one in told]
        columns.append((t(name.capitalize()), told, False))
    return columns


def _word(value: object) -> str:
    return "" if value is None else one_line(str(value), 60)


def _short_names(paths: Iterable[str | None]) -> Callable[[str | None], str]:
    """Give what shortens a path to its last name, or to two where that names several files."""
    parts = {path: PurePath(path).parts for path in set(paths) if path}
    last = Counter(names[-1:] for names in parts.values())

    def short(path: str | None) -> str:
        names = parts.get(path or "", ())
        return "/".join(names[-1:] if last[names[-1:]] < 2 else names[-2:])

    return short


def _figures(rows: Sequence[Mapping[str, Any]], things: str) -> list[_Column]:
    return [
        (things, [count(row["queries"]) for row in rows], True),
        # Early, so that it is seen where a narrow page cuts the table.
        (t("Cost"), [paid(row) for row in rows], True),
        (t("In"), [count(row["prompt_tokens"]) for row in rows], True),
        (t("Cached"), _counts(rows, "prompt_cache_hit_tokens"), True),
        (t("Out"), [count(row["completion_tokens"]) for row in rows], True),
        (t("Thinking"), _counts(rows, "reasoning_tokens"), True),
        (t("Cache saved"), [_saved(row) for row in rows], True),
    ]


def _counts(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Write the counts of a column that is nothing but zeros, or not known, as nothing."""
    return [count(row[name]) if any(one[name] for one in rows) else "" for row in rows]


def _saved(row: Mapping[str, Any]) -> str:
    return money(row["saved"], row["currency"]) if row["saved"] else ""
