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
    duration,
    el,
    in_characters,
    in_rows,
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
from .tally import was_not_asked
from .wire import EXACT
from .words import listed, sentences, t, tn

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
    by_balance, rows, _ = found
    worst = forecast.cost is None or forecast.cost.likely is None  # no answer's length is known
    if by_balance:
        who = t("At worst the balance") if worst else t("The balance")
    else:
        who = t("At worst the limit") if worst else t("The limit")
    every = in_rows(forecast.rows)
    if not rows:
        return t("{who} covers none of {rows}.", who=who, rows=every)
    if not forecast.kept:
        return t("{who} covers about {n:,} of {rows}.", who=who, n=rows, rows=every)
    return t(
        "{who} covers about {n:,} of {rows}, {kept:,} of them already answered.",
        who=who,
        n=rows,
        rows=every,
        kept=forecast.kept,
    )


def _reach(forecast: Forecast) -> tuple[bool, int, bool] | None:
    """Give what ends the job before its last row: whether the balance, after how many, at once."""
    reaches = [
        (rows, not by_balance)
        for by_balance, rows in ((True, forecast.covered), (False, forecast.within))
        if rows is not None and rows < forecast.to_ask
    ]
    if not reaches:
        return None
    rows, by_limit = min(reaches)
    asked, kept = forecast.to_ask, forecast.kept
    # Equal rows are taken to be spread evenly; rows answered earlier cost nothing.
    share = Decimal(rows + kept) / Decimal(asked + kept)
    reached = int(EXACT.multiply(share, Decimal(forecast.rows - forecast.blank)))
    return not by_limit, _rounded(reached), not rows


def _rounded(number: int) -> int:
    """Round down to two digits."""
    unit = int(10 ** max(len(str(number)) - 2, 0))
    return number // unit * unit


def counts(forecast: Forecast) -> str:
    """Tell how many rows there are, and why some of them are not asked."""
    parts = [
        t("{n:,} answered earlier", n=forecast.kept) if forecast.kept else "",
        t("{n:,} equal to others", n=forecast.repeated) if forecast.repeated else "",
        t("{n:,} with nothing to ask about", n=forecast.blank) if forecast.blank else "",
        t("{n:,} to ask", n=forecast.to_ask),
    ]
    if forecast.to_ask == forecast.rows:
        return t("{n:,}, all to ask", n=forecast.rows)
    return t("{n:,}: {parts}", n=forecast.rows, parts=_listed(parts))


def forecast_shown(
    forecast: Forecast, at: datetime, *, remarks: Sequence[str] = (), anyway: bool = False
) -> Shown:
    """Show what a question for every row would cost, how far the money goes, and the first one."""
    lead, rest = _headline(forecast)
    badge, verdict, colour = _verdict(forecast, anyway=anyway)
    rows = [*_forecast_rows(forecast, at), *((t("Note"), remark) for remark in remarks)]
    rows.append((t("Verdict"), verdict))
    after = sentences(rest, t("Nothing was sent."))
    return Shown(
        html=outer(
            f"{BOX};border-left-color:{colour}",
            el(
                "div",
                "line-height:1.6",
                el("span", "font-size:1.15em;font-weight:600", lead),
                f"{after} ",
                el("span", f"{BADGE};background:{colour}", badge),
            ),
            pairs((name, with_code(value)) for name, value in rows),
            *_first_html(forecast.first),
        ),
        text="\n".join(
            [
                t("{head} ({state})", head=f"{lead}{after}", state=badge),
                aligned(rows),
                *_first_text(forecast.first),
            ]
        ),
    )


def _headline(forecast: Forecast) -> tuple[str, str]:
    if not forecast.to_ask:
        return t("Would cost nothing"), t(": no row has to be asked.")
    cost, currency = forecast.cost, forecast.currency
    if cost is None:
        return t("Cost unknown"), t(": no price is known for it.")
    most = forecast.worst
    if cost.likely is None:
        if most is None:
            low = at_least(cost.low, currency)
            return t("Would cost at least {low}", low=low), t("{rest}.", rest="")
        low, high = at_least(cost.low, None), money(most, currency, rounding=ROUND_UP)
        lead = t("Would cost between {low} and {high}", low=low, high=high)
        return lead, t(": nothing is known yet.")
    usual = cost.high if most is None else min(cost.high, most)
    low, top = at_least(cost.low, None), money(usual, None, rounding=ROUND_UP)
    span = t(" ({low} to {high})", low=low, high=top) if low != top else ""
    limit = "" if most is None else t(", at most {most}", most=money(most, None, rounding=ROUND_UP))
    lead = t("Would cost about {likely}", likely=money(cost.likely, currency))
    return lead, t("{rest}.", rest=f"{span}{limit}")


def _verdict(forecast: Forecast, *, anyway: bool) -> tuple[str, str, str]:
    if not forecast.to_ask:
        return t("nothing to send"), t("all that can be answered is in the ledger"), _GREEN
    line = reach_line(forecast)
    if line and anyway and (forecast.covered is None or forecast.covered >= forecast.to_ask):
        return t("would be sent"), t("all, as --anyway passes over this: {why}", why=line), _GREEN
    if line:
        found = _reach(forecast)
        if found is not None and found[2]:
            return t("would end at once"), line, _RED
        return t("would end early"), line, _AMBER
    asked = in_rows(forecast.to_ask)
    return t("would be sent"), t("{rows} would be asked", rows=asked), _GREEN


def _forecast_rows(forecast: Forecast, at: datetime) -> Iterator[tuple[str, str]]:
    yield t("Rows"), counts(forecast)
    if forecast.first is not None:
        yield t("Model"), _model(forecast.first)
        yield t("Tokens in"), t("about {n:,}", n=forecast.tokens_in)
    yield t("Reckoned"), forecast.reason
    balance = forecast.balance
    if balance is None or balance.effective is None:
        yield t("Balance"), t("unknown")
    else:
        left = t("{money} left", money=at_least(balance.effective, balance.currency))
        if balance.read_at:
            left = t("{left}, read at {time}", left=left, time=clock_time(balance.read_at, at))
        yield t("Balance"), f"{left}{_covers(forecast.covered, forecast.to_ask)}"
    if forecast.limit is not None:
        limit = at_least(max(forecast.limit, Decimal(0)), forecast.currency)
        left = t("{money} left", money=limit)
        yield t("Limit"), f"{left}{_covers(forecast.within, forecast.to_ask)}"


def _covers(rows: int | None, of: int) -> str:
    if rows is None or not of:
        return ""
    if rows >= of:
        return tn(of, "; covers it", "; covers all {n:,}")
    if not rows:
        return t("; not enough for one")
    return t("; covers about {n:,} of {all:,} to ask", n=_rounded(rows), all=of)


def _model(request: Request) -> str:
    name = one_line(request.model, 100)
    if not request.thinks:
        thinking = t("no thinking")
    elif request.think:
        thinking = t("thinking {level}", level=request.think)
    else:
        thinking = t("thinking as the API sets it")
    limit = f"max_tokens {request.max_tokens:,}" if request.max_tokens is not None else ""
    return _listed([name, thinking, limit, "JSON" if request.json else ""])


def _listed(parts: Sequence[str]) -> str:
    """Write after one another what there is of *parts*."""
    return t(", ").join(filter(None, parts))


def _first_html(first: Request | None) -> Iterator[Markup]:
    if first is None:
        return
    yield el("div", "margin:.5em 0 .1em", t("The first question:"))
    for message in first.messages:
        yield el(
            "details",
            "margin:.2em 0",
            el(
                "summary",
                "cursor:pointer",
                el("b", "", one_line(message.role, 40)),
                el("span", QUIET, f" · {in_characters(len(message.content))}"),
            ),
            el("pre", _TEXT, _cut(message.content)),
        )


def _first_text(first: Request | None) -> Iterator[str]:
    if first is None:
        return
    yield t("The first question:")
    for message in first.messages:
        yield f"{one_line(message.role, 40)}:"
        yield from (f"    {line}" for line in _cut(message.content).split("\n"))


def _cut(text: str) -> str:
    shown = to_terminal(text[:LONG])
    rest = len(text) - LONG
    if rest <= 0:
        return shown
    more = t("[… {characters} more, not shown here]", characters=in_characters(rest))
    return f"{shown}\n{more}"


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
        t(ended.ending) if ended.ending else "",
        _settled(now, _unanswered(ended)),
        _paid(now),
        duration(now.seconds) if now.asked or now.failed else "",
        t("{n} rows/s", n=speed(now.rate)) if now.rate and now.asked else "",
        *ended.after,
    ]
    return " · ".join(part for part in parts if part)


def _settled(now: Progress, left: int) -> str:
    parts = [
        t("{n:,} asked", n=now.asked) if now.asked or not now.kept else "",
        t("{n:,} from the ledger", n=now.kept) if now.kept else "",
        t("{n:,} equal to others", n=now.repeated) if now.repeated else "",
        t("{n:,} failed (column error)", n=now.failed) if now.failed else "",
        t("{n:,} left", n=left) if left else "",
    ]
    return t("{rows}: {parts}", rows=_rows(now), parts=_listed(parts))


def _rows(now: Progress) -> str:
    return t("rows") if now.rows is None else in_rows(now.rows)


def _unanswered(ended: Ended) -> int:
    now = ended.progress
    return 0 if now.rows is None else max(now.rows - now.done, 0)


def _paid(now: Progress) -> str:
    if now.cost is None:
        return t("cost unknown")
    if not now.cost and not now.asked:
        return t("nothing to pay")
    return money(now.cost, now.currency)


def answered(frame: Any) -> int:
    """Count the rows of *frame* that have no error."""
    return sum(not isinstance(error, str) for error in frame["error"])


def kinds_of_errors(frame: Any) -> list[str]:
    """Tell which errors the rows of *frame* have, the most frequent first: "2 × not JSON"."""
    found = Counter(
        _kind(error)
        for error in frame["error"]
        if isinstance(error, str) and not was_not_asked(error)
    )
    told = [f"{number:,} × {kind}" for kind, number in found.most_common(KINDS)]
    rest = sum(found.values()) - sum(number for _, number in found.most_common(KINDS))
    return [*told, *([t("{n:,} × other errors", n=rest)] if rest else ())]


def _kind(error: str) -> str:
    """Bring errors that tell the same of different rows together."""
    first = re.split(r"[.:] |[。：]", error, maxsplit=1)[0]
    return one_line(first.rstrip(".。"), 100)


def ended_shown(ended: Ended, advice: str = "") -> Shown:
    """Show the first rows of the frame and below them the line; *advice* is the last of it."""
    line = summary(ended)
    failed = kinds_of_errors(ended.frame) if ended.frame is not None else []
    words = t("Failed: {errors}.", errors=listed(failed)) if failed else ""
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
        return t("unknown") if name == "cost" else ""
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
        t("The first {n} of {all} rows", n=len(rows), all=count(len(frame)))
        if len(frame) > len(rows)
        else "",
        tn(hidden, "{n:,} column not shown", "{n:,} columns not shown") if hidden > 0 else "",
    ]
    return _listed(parts)
