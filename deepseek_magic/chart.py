"""Spending by the day, drawn: as a picture of its models, as a small line, and as text.

All words stand outside of the drawing, so that none is lost or left over where a
page strips it.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_DOWN, ROUND_UP, Decimal, localcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .elements import QUIET, Markup, Shown, el, money, one_line, outer
from .wire import EXACT
from .words import listed, t

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_DAYS = 30
"""The picture shows so many days at most."""
LINE_DAYS = 14
"""The small line shows so many."""

_LEAST_DAYS = 7
_NONE = Decimal(0)


def span(low: Decimal, high: Decimal, currency: str | None) -> str:
    """Write an amount that lies between *low* and *high*, rounded outwards."""
    if low == high:
        return money(low, currency)
    return t(
        "{low} to {high}",
        low=money(low, None, rounding=ROUND_DOWN),
        high=money(high, currency, rounding=ROUND_UP),
    )


# Each has a contrast of 3 or more on white and on black pages, and differs from the others also
# for eyes that do not tell red from green.
_TONES = ("#0b7bc1", "#d55e00", "#0f9d74", "#808080")
_HEIGHT = 60
_SLOT = 10
_GAP = 2
_LEAST = Decimal("1.5")
_TEXT_HEIGHT = 5
_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class _Days:
    """The spending of some days in one currency.

    *parts* maps a name to what its questions cost at least, day by day, the
    largest first; *more* is what may come on top, day by day.
    """

    currency: str | None
    days: tuple[date, ...]
    parts: Mapping[str, tuple[Decimal, ...]]
    more: tuple[Decimal, ...]

    @property
    def least(self) -> tuple[Decimal, ...]:
        """What each day cost at least."""
        return tuple(sum(day, _NONE) for day in zip(*self.parts.values(), strict=True))

    @property
    def most(self) -> tuple[Decimal, ...]:
        """What each day cost at most."""
        return tuple(low + more for low, more in zip(self.least, self.more, strict=True))


def picture(rows: Sequence[Mapping[str, Any]], today: date, last: int | None = None) -> Shown:
    """Draw the spending of the *last* days, from *rows* by day and model; one picture a currency.

    A day alone is not drawn.
    """
    with localcontext(EXACT):
        drawn = [
            _drawn(days) for days in _by_currency(rows, today, min(last or MOST_DAYS, MOST_DAYS))
        ]
    return Shown(
        html=outer("", *(Markup(one.html) for one in drawn)) if drawn else "",
        text="\n\n".join(one.text for one in drawn),
    )


def _by_currency(rows: Sequence[Mapping[str, Any]], today: date, last: int) -> list[_Days]:
    spent: dict[str | None, list[tuple[date, Mapping[str, Any]]]] = defaultdict(list)
    first = today - timedelta(days=last - 1)
    for row in rows:
        with suppress(ValueError):  # a ledger that was edited by hand
            day = min(date.fromisoformat(str(row["day"])), today)
            if row["cost_high"] and day >= first and last > 1:
                spent[row["currency"]].append((day, row))
    week = max(first, today - timedelta(days=_LEAST_DAYS - 1))
    return [
        _days(currency, found, min(week, *(day for day, _ in found)), today)
        for currency, found in sorted(spent.items(), key=lambda one: str(one[0]))
    ]


def _days(
    currency: str | None,
    found: Sequence[tuple[date, Mapping[str, Any]]],
    first: date,
    today: date,
) -> _Days:
    days = tuple(first + timedelta(days=number) for number in range((today - first).days + 1))
    place = {day: number for number, day in enumerate(days)}
    names = _named(found)
    parts = {name: [_NONE] * len(days) for name in dict.fromkeys(names.values())}
    more = [_NONE] * len(days)
    for day, row in found:
        parts[names[row["model"]]][place[day]] += row["cost_low"]
        more[place[day]] += row["cost_high"] - row["cost_low"]
    return _Days(currency, days, {name: tuple(part) for name, part in parts.items()}, tuple(more))


def _named(found: Sequence[tuple[date, Mapping[str, Any]]]) -> dict[str | None, str]:
    """Name the models, the dearest first; where there are too many, the rest share a name."""
    sums: dict[str | None, Decimal] = defaultdict(Decimal)
    for _, row in found:
        sums[row["model"]] += row["cost_high"]
    models = sorted(sums, key=lambda model: sums[model], reverse=True)
    own = models if len(models) <= len(_TONES) else models[: len(_TONES) - 1]
    return {
        model: one_line(model or t("unknown model"), 40)
        if model in own
        else t("{n} other models", n=len(models) - len(own))
        for model in models
    }


def _drawn(spent: _Days) -> Shown:
    top = max(spent.most)
    head = t("Spent per day, at most {money}", money=money(top, spent.currency))
    legend = _legend(spent)
    width = f"max-width:{min(max(2.4 * len(spent.days), 17), 36):.4g}em"
    line = "border-bottom:1px solid rgba(128,128,128,.7)"
    return Shown(
        html=el(
            "div",
            f"{width};margin:.4em 0 .8em;line-height:1.4",
            el("div", QUIET, head),
            el("div", f"{line};border-top:1px dotted rgba(128,128,128,.7)", _bars(spent, top)),
            _ends(spent.days),
            el("div", "margin-top:.2em", *_explained(legend)),
        ),
        text="\n".join(
            [
                head,
                *_text_bars(spent, top),
                "─" * (2 * len(spent.days) - 1),
                t("{first} to {last}", first=spent.days[0], last=spent.days[-1]),
                listed([words for _, words in legend]),
            ]
        ),
    )


def _legend(spent: _Days) -> list[tuple[str | None, str]]:
    """Tell in words what each tone stands for; None is the range."""
    sums = {name: sum(part, _NONE) for name, part in spent.parts.items()}
    said: list[tuple[str | None, str]] = [
        (tone, f"{name} {money(sums[name], spent.currency)}")
        for name, tone in zip(spent.parts, _TONES, strict=False)
        if sums[name]
    ]
    if more := sum(spent.more, _NONE):
        most = money(more, spent.currency, rounding=ROUND_UP)
        words = t("up to {money} more, not known exactly", money=most)
        said.append((None, words))
    return said


def _explained(legend: Sequence[tuple[str | None, str]]) -> list[Markup]:
    box = "display:inline-block;width:.7em;height:.7em;margin-right:.4em;box-sizing:border-box"
    return [
        el(
            "span",
            "display:inline-block;margin-right:1.2em",
            el("span", f"{box};{f'background:{tone}' if tone else 'border:1px solid;opacity:.6'}"),
            el("span", QUIET, words),
        )
        for tone, words in legend
    ]


def _ends(days: Sequence[date]) -> Markup:
    # Floats, and not a flex box: that is not kept where styles are filtered.
    return el(
        "div",
        f"{QUIET};overflow:hidden",
        el("span", "float:left", str(days[0])),
        " ",
        el("span", "float:right", str(days[-1])),
    )


def _bars(spent: _Days, top: Decimal) -> Markup:
    """Draw the bars: text stands around them, since a page may be wide or narrow."""
    total = sum(spent.least, _NONE)
    dearest = max(spent.days, key=lambda day: spent.most[spent.days.index(day)])
    label = t(
        "Spent from {first} to {last}: {sum}, most of it on {dearest}: {most}",
        first=spent.days[0],
        last=spent.days[-1],
        sum=span(total, total + sum(spent.more, _NONE), spent.currency),
        dearest=dearest,
        most=money(top, spent.currency),
    )
    return el(
        "svg",
        "display:block;width:100%;height:6em",
        *(bar for number in range(len(spent.days)) for bar in _bar(spent, number, top)),
        viewBox=f"0 0 {_SLOT * len(spent.days)} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        **{"aria-label": label},
    )


def _bar(spent: _Days, number: int, top: Decimal) -> list[Markup]:
    """Draw one day from the bottom up: its models, then what may come on top of them."""
    below, bars = _NONE, []
    pieces = [
        (part[number], {"fill": tone})
        for part, tone in zip(spent.parts.values(), _TONES, strict=False)
    ]
    for amount, look in [*pieces, (spent.more[number], _RANGE)]:
        if amount:
            height = max(_HEIGHT * amount / top, _LEAST)
            below = min(below + height, Decimal(_HEIGHT))
            bars.append(_box(number, below, height, look))
    return bars


_RANGE = MappingProxyType(
    {
        "fill": "currentColor",
        "fill-opacity": ".12",
        "stroke": "currentColor",
        "stroke-opacity": ".6",
        "vector-effect": "non-scaling-stroke",
    }
)


def _box(number: int, upper: Decimal, height: Decimal, look: Mapping[str, str]) -> Markup:
    return el(
        "rect",
        "",
        x=f"{_SLOT * number + _GAP / 2:g}",
        y=f"{_HEIGHT - upper:.2f}",
        width=f"{_SLOT - _GAP}",
        height=f"{height:.2f}",
        **look,
    )


def _text_bars(spent: _Days, top: Decimal) -> list[str]:
    """Draw the days as columns of blocks, the part that is not known exactly in a lighter one."""
    full = 8 * _TEXT_HEIGHT
    columns = [
        _column(_eighths(low, top, full), _eighths(high, top, full))
        for low, high in zip(spent.least, spent.most, strict=True)
    ]
    lines = [" ".join(column[level] for column in columns) for level in range(_TEXT_HEIGHT)]
    return [line.rstrip() for line in reversed(lines)]


def _eighths(amount: Decimal, top: Decimal, full: int) -> int:
    return max(round(full * amount / top), 1) if amount else 0


def _column(low: int, high: int) -> list[str]:
    solid = [_EIGHTHS[min(max(low - 8 * level, 0), 8)] for level in range(_TEXT_HEIGHT)]
    return [
        "░" if block == " " and high > max(low, 8 * level) else block
        for level, block in enumerate(solid)
    ]


# The small line


def line(days: Mapping[date, Decimal], currency: str | None, today: date) -> Shown:
    """Draw the spending of the last two weeks as a small line; nothing where nothing was spent."""
    spent = [days.get(today - timedelta(days=back), _NONE) for back in range(LINE_DAYS)][::-1]
    top = max(spent)
    if top <= 0:
        return Shown("", "")
    most = money(top, currency)
    words = t("the last {n} days, at most {money} a day", n=LINE_DAYS, money=most)
    with localcontext(EXACT):
        blocks = "".join(_EIGHTHS[1 + _eighths(amount, top, 7)] for amount in spent)
        drawn = _line(spent, top, words)
    return Shown(
        html=el("div", "", drawn, el("span", QUIET, f" {words}")), text=f"{blocks} {words}"
    )


def _line(spent: Sequence[Decimal], top: Decimal, words: str) -> Markup:
    step = Decimal(156) / (len(spent) - 1)
    points = " ".join(
        f"{2 + number * step:.1f},{26 - 24 * amount / top:.1f}"
        for number, amount in enumerate(spent)
    )
    drawn = el(
        "polyline",
        "",
        points=points,
        fill="none",
        stroke="currentColor",
        **{"stroke-width": "1.5", "stroke-linejoin": "round"},
    )
    return el(
        "svg",
        "vertical-align:middle",
        drawn,
        width="160",
        height="28",
        viewBox="0 0 160 28",
        role="img",
        **{"aria-label": t("Spent per day: {words}", words=words)},
    )
