"""Facts as small tables: models, prices, settings, answers, the cells that wait."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from .elements import (
    CELL,
    LEFT,
    QUIET,
    Markup,
    Shown,
    above_widgets,
    clock_time,
    columns,
    count,
    el,
    in_days,
    in_pictures,
    money,
    one_line,
    outer,
    padded,
)
from .prices import PEAK_HOURS, band
from .words import later, listed, sentences, t

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import date, datetime
    from decimal import Decimal

    from .client import Model
    from .ledger import Pending
    from .prices import Band, Price

_RIGHT = f"{CELL};text-align:right"
_SHORT = 32


def table_shown(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Iterable[int] = (),
    note: str = "",
) -> Shown:
    """Show a small table; the columns *right* are set to the right, *note* stands below."""
    numbers = frozenset(right)
    sides = [_RIGHT if column in numbers else LEFT for column in range(len(heads))]
    return Shown(
        html=outer(
            "overflow-x:auto",
            el(
                "table",
                "border:0;border-collapse:collapse;margin:.4em 0",
                el("thead", "", _table_row("th", heads, sides)),
                el("tbody", "", *(_table_row("td", row, sides) for row in rows)),
            ),
            *([el("div", QUIET, note)] if note else ()),
        ),
        text=_plain_table([heads, *rows], numbers) + (f"\n\n{one_line(note)}" if note else ""),
    )


def _table_row(tag: str, cells: Sequence[str], sides: Sequence[str]) -> Markup:
    line = ";border-bottom:1px solid rgba(128,128,128,.5)" if tag == "th" else ""
    return el(
        "tr",
        "background:transparent",
        *(
            el(tag, f"{side}{_whole(cell)}{line}", cell)
            for side, cell in zip(sides, cells, strict=True)
        ),
    )


def _whole(cell: str) -> str:
    """Keep a date or a name on one line; where there is no room, the table scrolls."""
    return ";white-space:nowrap" if len(cell) <= _SHORT else ""


def _plain_table(rows: Sequence[Sequence[str]], right: frozenset[int]) -> str:
    lines = [[*(one_line(cell, 60) for cell in row[:-1]), one_line(row[-1])] for row in rows]
    widths = [max(map(columns, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            padded(cell, width, left=column in right)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def models_shown(models: Sequence[Model]) -> Shown:
    """Show the models that the API lists."""
    rows = [
        (
            model.id,
            model.name or "",
            count(model.context_window),
            count(model.max_output_tokens),
            t("unknown") if model.input_modalities is None else ", ".join(model.input_modalities),
        )
        for model in models
    ]
    heads = (t("Model"), t("Name"), t("Context"), t("Longest answer"), t("Reads"))
    note = t("Lengths are in tokens. Ask one with: %%deepseek -m NAME")
    return table_shown(heads, rows, right=(2, 3), note=note)


def prices_shown(
    rows: Sequence[Price],
    now: datetime,
    checked: date,
    source: str,
    *,
    own: Sequence[Price] = (),
    changes: tuple[datetime, Band] | None = None,
) -> Shown:
    """Show what a million tokens cost, which hours it is *now*, and how old the list is.

    *own* are prices that the user has set, which hold instead of the list's;
    *changes* tells when the hours change, and to which.
    """
    instead = {(row.model, row.currency) for row in own}
    kept = [row for row in rows if (row.model, row.currency) not in instead]
    hours = band(now)
    cells = [
        *(_price_cells(row, words, t("set by you")) for row, words in _with_hours(own, hours)),
        *(
            _price_cells(row, words, f"{row.since:%Y-%m-%d}")
            for row, words in _with_hours(kept, hours)
        ),
    ]
    heads = (t("Model"), t("Hours"), t("Input, cached"), t("Input"), t("Output"), t("Since"))
    note = sentences(
        t("Per million tokens."),
        _hours_now(hours, changes, now),
        t(
            "Peak hours: Monday to Friday {hours} Beijing time, except Chinese public holidays.",
            hours=_and([f"{start:%H:%M}-{end:%H:%M}" for start, end in PEAK_HOURS]),
        ),
        t(
            "Checked {day} ({age} ago) against {source}",
            day=f"{checked:%Y-%m-%d}",
            age=in_days(max((now.date() - checked).days, 0)),
            source=source,
        ),
    )
    return table_shown(heads, cells, right=(2, 3, 4), note=note)


def _hours_now(hours: Band, changes: tuple[datetime, Band] | None, now: datetime) -> str:
    if changes is None:
        return t("Peak hours now.") if hours == "peak" else t("Off-peak hours now.")
    return t(
        "Peak hours now; off-peak from {time} by your clock."
        if hours == "peak"
        else "Off-peak hours now; peak from {time} by your clock.",
        time=clock_time(changes[0], now),
    )


def _and(parts: Sequence[str]) -> str:
    """Write things after one another with an "and" between the last two of them."""
    *first, last = parts
    return t("{first} and {last}", first=listed(first), last=last) if first else last


def _with_hours(rows: Sequence[Price], now: Band) -> list[tuple[Price, str]]:
    """Give the rows with the words for their hours, those of one price at all hours once."""
    found: dict[tuple[str, str, str, tuple[Decimal, ...]], list[Price]] = defaultdict(list)
    for row in rows:
        found[row.model, row.currency, f"{row.since}", (row.hit, row.miss, row.out)].append(row)
    return [
        (same[0], t("all hours"))
        if len({row.band for row in same}) == 2
        else (same[0], t(_NOW[same[0].band] if same[0].band == now else same[0].band))
        for same in found.values()
    ]


_NOW = {"peak": later("peak, now"), "off-peak": later("off-peak, now")}


def _price_cells(row: Price, hours: str, since: str) -> tuple[str, ...]:
    figures = (money(price, row.currency) for price in (row.hit, row.miss, row.out))
    return (row.model, hours, *figures, since)


def settings_shown(name: str, rows: Sequence[tuple[str, str, str]]) -> Shown:
    """Show the settings of the magics class *name*: each with its value and its help."""
    note = t("Change one for this notebook with: %config {name}.NAME = VALUE", name=name)
    return table_shown((t("Setting"), t("Value"), t("What it does")), rows, note=note)


# Answers


def answers_shown(rows: Sequence[Mapping[str, Any]], now: datetime) -> Shown:
    """Show the newest answers that the ledger holds, numbered from 1."""
    if not rows:
        said = t("The ledger holds no answers of this account.")
        return Shown(html=outer(QUIET, said), text=said)
    cells = [
        (
            str(number),
            f"{row['sent'].astimezone():{_day_of(row['sent'], now)} %H:%M}",
            _asked(row["request"]),
            row["model"] or "",
            money(row["cost"], row["currency"]),
            _state(row),
        )
        for number, row in enumerate(rows, 1)
    ]
    heads = ("", t("When"), t("Question"), t("Model"), t("Cost"), t("State"))
    note = t("Show one again, for nothing, with: %deepseek answers 1")
    return table_shown(heads, cells, right=(0, 4), note=note)


_STATES = {
    "done": later("whole"),
    "partial": later("partial"),
    "interrupted": later("interrupted"),
    "sent": later("sent"),
}


def _state(row: Mapping[str, Any]) -> str:
    """Tell whether the answer is whole; one that max_tokens has cut is done, and is not."""
    if row["state"] == "done" and row["finish_reason"] == "length":
        return t("cut")
    return t(_STATES.get(row["state"], row["state"]))


def _asked(request: str | None) -> str:
    """Give the beginning of the question in a *request* as it was sent."""
    try:
        messages = json.loads(request or "")["messages"]
        said = next(one["content"] for one in reversed(messages) if not one.get("prefix"))
        text, *pictures = [said] if isinstance(said, str) else [said[0]["text"], *said[1:]]
    except (ValueError, LookupError, TypeError, StopIteration):
        return t("(its text was not kept)")
    shown = one_line(str(text), 60)
    if not pictures:
        return shown
    return t("{question} (with {pictures})", question=shown, pictures=in_pictures(len(pictures)))


# Cells that wait


def pending_shown(
    rows: Sequence[Pending],
    now: datetime,
    *,
    here: str | None,
    by_itself: Collection[int] = frozenset(),
) -> Shown:
    """Show the cells that wait for money, numbered from 1.

    *here* is this notebook's path; *by_itself* has the ids of those that run when
    money has come.
    """
    if not rows:
        said = t("No cell waits for money.")
        return Shown(html=outer(QUIET, said), text=said)
    elsewhere = any(row.notebook != here for row in rows)
    notebook = [t("Notebook")] if elsewhere else []
    heads = ("", t("Since"), *notebook, t("Cell"), t("On a re-run"))
    cells = [
        (
            str(number),
            f"{row.since.astimezone():{_day_of(row.since, now)} %H:%M}",
            *([_notebook_of(row, here)] if elsewhere else ()),
            excerpt(row),
            _by_itself(row) if row.id in by_itself else _on_rerun(row),
        )
        for number, row in enumerate(rows, 1)
    ]
    note = t(
        "As of {time}. Run one again with: %deepseek rerun 1, "
        "all questions with: %deepseek rerun all",
        time=f"{now.astimezone():%Y-%m-%d %H:%M}",
    )
    return above_widgets(table_shown(heads, cells, right=(0,), note=note), t(_PENDING_GONE))


_PENDING_GONE = later(
    "The buttons that stood below are gone: they last no longer than their kernel. "
    "Look again with: %deepseek pending"
)


def _by_itself(row: Pending) -> str:
    return t("{what}, by itself when topped up", what=_on_rerun(row))


def _day_of(at: datetime, now: datetime) -> str:
    return "%m-%d" if at.astimezone().year == now.astimezone().year else "%Y-%m-%d"


def _notebook_of(row: Pending, here: str | None) -> str:
    if row.notebook == here:
        return t("this one")
    return t("unknown") if row.notebook is None else PurePath(row.notebook).name


def excerpt(row: Pending, limit: int = 60) -> str:
    """Give the beginning of a cell's text on one line; of a question, its words first."""
    if row.text is None:
        return t("(its text was not kept)")
    head, *body = row.text[: 4 * limit].strip().splitlines() or [""]
    asked = [line for line in body if line.strip()]
    lines = asked if row.asks and asked else [head, *asked]
    return one_line(" ⏎ ".join(line.strip() for line in lines), limit)


def _on_rerun(row: Pending) -> str:
    if row.answered is not None:
        time = f"{row.answered.astimezone():%H:%M}"
        if row.answered.astimezone().date() != row.since.astimezone().date():
            time = f"{row.answered.astimezone():%Y-%m-%d %H:%M}"
        return t("show the answer that arrived at {time}, already paid for", time=time)
    if row.text is None:
        return t("nothing; run it in its notebook")
    return t("ask again") if row.asks else t("run again (your own code)")
