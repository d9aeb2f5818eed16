"""What a cell shows of a question for every row: the forecast before, the summary after."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from .elements import (
    BADGE,
    BOX,
    QUIET,
    Markup,
    Shown,
    aligned,
    at_least,
    clock_time,
    count,
    counted,
    duration,
    el,
    joined,
    money,
    one_line,
    outer,
    pairs,
    with_code,
)
from .markdown import to_terminal
from .progress import speed
from .tables import table_shown
from .wire import EXACT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from .jobs import Forecast, Progress
    from .wire import Request

HEAD_ROWS = 5
"""Rows of the frame that are shown."""
HEAD_COLUMNS = 4
"""Columns of the data that are shown beside the new ones."""
FIELDS = 8
"""New columns that are shown, beside cost and error."""
WIDE = 90
"""Characters of a value that are shown."""
LINE = 32
"""Characters of a value that may take more than one line."""
KINDS = 3
"""Kinds of errors that are told."""
LONG = 1500
"""Characters of the first question that are shown."""
NOT_ASKED = "Not asked"

_GREEN, _RED, _AMBER = "#1a7f37", "#cf222e", "#9a6700"
_TEXT = (
    "white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow:auto;margin:.3em 0 .6em;"
    "padding:.4em .7em;border-left:3px solid rgba(128,128,128,.4);background:transparent;"
    "color:inherit;font-size:.9em;line-height:1.4"
)


# Before


def reach_line(forecast: Forecast) -> str:
    """Tell how many of the rows the balance, or a limit, does for; "" where it does for all."""
    found = _reach(forecast)
    if found is None:
        return ""
    what, rows, _ = found
    free = f", {forecast.kept:,} of them already answered" if forecast.kept and rows else ""
    number = f"about {rows:,}" if rows else "none"
    if forecast.cost is None or forecast.cost.likely is None:  # no answer's length is known
        what = f"At worst {what[0].lower()}{what[1:]}"
    return f"{what} covers {number} of {counted(forecast.rows, 'row')}{free}."


def _reach(forecast: Forecast) -> tuple[str, int, bool] | None:
    """Give what ends the job before its last row, after about how many, and whether at once."""
    reaches = [
        (rows, name)
        for name, rows in (("The balance", forecast.covered), ("The limit", forecast.within))
        if rows is not None and rows < forecast.to_ask
    ]
    if not reaches:
        return None
    rows, name = min(reaches)
    asked, kept = forecast.to_ask, forecast.kept
    # Equal rows are taken to be spread evenly; rows answered earlier cost nothing.
    share = Decimal(rows + kept) / Decimal(asked + kept)
    reached = int(EXACT.multiply(share, Decimal(forecast.rows - forecast.blank)))
    return name, _rounded(reached), not rows


def _rounded(number: int) -> int:
    """Round down to two digits."""
    unit = int(10 ** max(len(str(number)) - 2, 0))
    return number // unit * unit


def counts(forecast: Forecast) -> str:
    """Tell how many rows there are, and why some of them are not asked."""
    parts = [
        f"{forecast.kept:,} answered earlier" if forecast.kept else None,
        f"{forecast.repeated:,} equal to others" if forecast.repeated else None,
        f"{forecast.blank:,} with nothing to ask about" if forecast.blank else None,
        f"{forecast.to_ask:,} to ask",
    ]
    if forecast.to_ask == forecast.rows:
        return f"{forecast.rows:,}, all to ask"
    return f"{forecast.rows:,}: {', '.join(part for part in parts if part)}"


def forecast_shown(
    forecast: Forecast, at: datetime, *, remarks: Sequence[str] = (), anyway: bool = False
) -> Shown:
    """Show what a question for every row would cost, how far the money goes, and the first one."""
    lead, rest = _headline(forecast)
    badge, verdict, colour = _verdict(forecast, anyway=anyway)
    rows = [*_forecast_rows(forecast, at), *(("Note", remark) for remark in remarks)]
    rows.append(("Verdict", verdict))
    said = "Nothing was sent."
    return Shown(
        html=outer(
            f"{BOX};border-left-color:{colour}",
            el(
                "div",
                "line-height:1.6",
                el("span", "font-size:1.15em;font-weight:600", lead),
                f"{rest} {said} ",
                el("span", f"{BADGE};background:{colour}", badge),
            ),
            pairs((name, with_code(value)) for name, value in rows),
            *_first_html(forecast.first),
        ),
        text="\n".join(
            [f"{lead}{rest} {said} ({badge})", aligned(rows), *_first_text(forecast.first)]
        ),
    )


def _headline(forecast: Forecast) -> tuple[str, str]:
    if not forecast.to_ask:
        return "Would cost nothing", ": no row has to be asked."
    cost, currency = forecast.cost, forecast.currency
    if cost is None:
        return "Cost unknown", ": no price is known for it."
    most = forecast.worst
    if cost.likely is None:
        if most is None:
            return f"Would cost at least {at_least(cost.low, currency)}", "."
        high = money(most, currency, rounding=ROUND_UP)
        return (
            f"Would cost between {at_least(cost.low, None)} and {high}",
            ": nothing is known yet.",
        )
    usual = cost.high if most is None else min(cost.high, most)
    low, top = at_least(cost.low, None), money(usual, None, rounding=ROUND_UP)
    span = f" ({low} to {top})" if low != top else ""
    limit = "" if most is None else f", at most {money(most, None, rounding=ROUND_UP)}"
    return f"Would cost about {money(cost.likely, currency)}", f"{span}{limit}."


def _verdict(forecast: Forecast, *, anyway: bool) -> tuple[str, str, str]:
    asked = counted(forecast.to_ask, "row")
    if not forecast.to_ask:
        return "nothing to send", "all that can be answered is in the ledger", _GREEN
    line = reach_line(forecast)
    if line and anyway and (forecast.covered is None or forecast.covered >= forecast.to_ask):
        return "would be sent", f"all, as --anyway passes over this: {line}", _GREEN
    if line:
        found = _reach(forecast)
        if found is not None and found[2]:
            return "would end at once", line, _RED
        return "would end early", line, _AMBER
    return "would be sent", f"{asked} would be asked", _GREEN


def _forecast_rows(forecast: Forecast, at: datetime) -> Iterator[tuple[str, str]]:
    yield "Rows", counts(forecast)
    if forecast.first is not None:
        yield "Model", _model(forecast.first)
        yield "Tokens in", f"about {forecast.tokens_in:,}"
    yield "Reckoned", forecast.reason
    balance = forecast.balance
    if balance is None or balance.effective is None:
        yield "Balance", "unknown"
    else:
        read = f", read at {clock_time(balance.read_at, at)}" if balance.read_at else ""
        left = at_least(balance.effective, balance.currency)
        yield "Balance", f"{left} left{read}{_covers(forecast.covered, forecast.to_ask)}"
    if forecast.limit is not None:
        left = at_least(max(forecast.limit, Decimal(0)), forecast.currency)
        yield "Limit", f"{left} left{_covers(forecast.within, forecast.to_ask)}"


def _covers(rows: int | None, of: int) -> str:
    if rows is None or not of:
        return ""
    if rows >= of:
        return f"; covers {'it' if of == 1 else f'all {of:,}'}"
    return f"; covers about {_rounded(rows):,} of {of:,} to ask" if rows else "; not enough for one"


def _model(request: Request) -> str:
    name = one_line(request.model, 100)
    if not request.thinks:
        thinking = "no thinking"
    else:
        thinking = f"thinking {request.think}" if request.think else "thinking as the API sets it"
    limit = f", max_tokens {request.max_tokens:,}" if request.max_tokens is not None else ""
    return f"{name}, {thinking}{limit}{', JSON' if request.json else ''}"


def _first_html(first: Request | None) -> Iterator[Markup]:
    if first is None:
        return
    yield el("div", "margin:.5em 0 .1em", "The first question:")
    for message in first.messages:
        yield el(
            "details",
            "margin:.2em 0",
            el(
                "summary",
                "cursor:pointer",
                el("b", "", one_line(message.role, 40)),
                el("span", QUIET, f" · {counted(len(message.content), 'character')}"),
            ),
            el("pre", _TEXT, _cut(message.content)),
        )


def _first_text(first: Request | None) -> Iterator[str]:
    if first is None:
        return
    yield "The first question:"
    for message in first.messages:
        yield f"{one_line(message.role, 40)}:"
        yield from (f"    {line}" for line in _cut(message.content).split("\n"))


def _cut(text: str) -> str:
    shown = to_terminal(text[:LONG])
    rest = len(text) - LONG
    return shown if rest <= 0 else f"{shown}\n[… {counted(rest, 'character')} more, not shown here]"


# After


@dataclass(frozen=True, slots=True)
class Ended:
    """How a question for every row ended; *frame* is None where there is none.

    *new* are the columns of the answers. *ending* says why it is not the whole, ""
    where it is. *after* follows the figures in the line.
    """

    progress: Progress
    frame: Any
    new: tuple[str, ...]
    ending: str = ""
    after: tuple[str, ...] = ()


def summary(ended: Ended) -> str:
    """Tell in one line what became of the rows, what they have cost and how long it took."""
    now = ended.progress
    parts = [
        ended.ending,
        _settled(now, _unanswered(ended)),
        _paid(now),
        duration(now.seconds) if now.asked or now.failed else "",
        f"{speed(now.rate)} rows/s" if now.rate and now.asked else "",
        *ended.after,
    ]
    return " · ".join(part for part in parts if part)


def _settled(now: Progress, left: int) -> str:
    parts = [
        f"{now.asked:,} asked" if now.asked or not now.kept else None,
        f"{now.kept:,} from the ledger" if now.kept else None,
        f"{now.repeated:,} equal to others" if now.repeated else None,
        f"{now.failed:,} failed (column error)" if now.failed else None,
        f"{left:,} left" if left else None,
    ]
    return f"{_rows(now)}: {', '.join(part for part in parts if part)}"


def _rows(now: Progress) -> str:
    return "rows" if now.rows is None else counted(now.rows, "row")


def _unanswered(ended: Ended) -> int:
    now = ended.progress
    return 0 if now.rows is None else max(now.rows - now.done, 0)


def _paid(now: Progress) -> str:
    if now.cost is None:
        return "cost unknown"
    if not now.cost and not now.asked:
        return "nothing to pay"
    return money(now.cost, now.currency)


def answered(frame: Any) -> int:
    """Count the rows of *frame* that have no error."""
    return sum(not isinstance(error, str) for error in frame["error"])


def kinds_of_errors(frame: Any) -> list[str]:
    """Tell which errors the rows of *frame* have, the most frequent first: "2 × not JSON"."""
    found = Counter(
        _kind(error)
        for error in frame["error"]
        if isinstance(error, str) and not error.startswith(NOT_ASKED)
    )
    told = [f"{number:,} × {kind}" for kind, number in found.most_common(KINDS)]
    rest = sum(found.values()) - sum(number for _, number in found.most_common(KINDS))
    return [*told, *([f"{rest:,} × other errors"] if rest else ())]


def _kind(error: str) -> str:
    """Bring errors that tell the same of different rows together."""
    first = re.split(r"[.:] |[。：]", error, maxsplit=1)[0]
    return one_line(first.rstrip("."), 100)


def ended_shown(ended: Ended, advice: str = "") -> Shown:
    """Show the first rows of the frame and below them the line; *advice* is the last of it."""
    line = summary(ended)
    failed = kinds_of_errors(ended.frame) if ended.frame is not None else []
    words = f"Failed: {', '.join(failed)}." if failed else ""
    below = [part for part in (line, words, advice) if part]
    quiet = [outer(f"{QUIET};margin:.5em 0 0", with_code(part)) for part in below]
    head = head_shown(ended.frame, ended.new) if ended.frame is not None else Shown("", "")
    return Shown(
        html=joined([Markup(head.html), *quiet]),
        text="\n\n".join(part for part in (head.text, "\n".join(map(to_terminal, below))) if part),
    )


def head_shown(frame: Any, new: Sequence[str]) -> Shown:
    """Show the first rows of *frame*: some of its columns, and the *new* ones."""
    names = [str(name) for name in frame.columns]
    old = [place for place, name in enumerate(names) if name not in {*new, "cost", "error"}]
    fields = [place for place, name in enumerate(names) if name in new]
    rows = _first_rows(frame)
    fails = any(isinstance(row[names.index("error")], str) for row in rows)
    places = [*old[:HEAD_COLUMNS], *fields[:FIELDS], names.index("cost")]
    places += [names.index("error")] if fails else []
    cells = [[_cell(names[place], row[place]) for place in places] for row in rows]
    table = partial(
        table_shown,
        [one_line(names[place], 40) for place in places],
        right=[n for n, place in enumerate(places) if _is_number(rows, place)],
        note=_note(frame, rows, len(names) - len(places) - (not fails)),
    )
    return Shown(
        html=table([[_wide(cell) for cell in row] for row in cells]).html, text=table(cells).text
    )


def _first_rows(frame: Any) -> list[tuple[Any, ...]]:
    head = frame.head(HEAD_ROWS)
    if hasattr(head, "itertuples"):
        return [tuple(row) for row in head.itertuples(index=False, name=None)]
    return [tuple(row) for row in head.rows()]


def _cell(name: str, value: Any) -> str:
    if _is_missing(value):
        return "unknown" if name == "cost" else ""
    if name == "cost" and isinstance(value, Decimal):
        return money(value, None)
    return one_line(str(value), WIDE)


def _wide(cell: str) -> str:
    """Keep a long value from becoming a column of single words on a narrow page."""
    return el("div", "min-width:14em", cell) if len(cell) > LINE else cell


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(value, float | Decimal) and value != value  # noqa: PLR0124  # NaN


def _is_number(rows: Sequence[Sequence[Any]], place: int) -> bool:
    values = [row[place] for row in rows if not _is_missing(row[place])]
    return bool(values) and all(
        isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values
    )


def _note(frame: Any, rows: Sequence[object], hidden: int) -> str:
    parts = [
        f"The first {len(rows)} of {count(len(frame))} rows" if len(frame) > len(rows) else "",
        f"{counted(hidden, 'column')} not shown" if hidden > 0 else "",
    ]
    return ", ".join(part for part in parts if part)
