"""Facts to HTML and text, side by side: answers, the notice, the balance, tables.

The HTML carries its styles inline and says everything in words, so that it is
readable on light and dark pages, in saved notebooks, and where styles are stripped.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from . import markdown
from .markdown import to_terminal
from .prices import PEAK_HOURS, band

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date, datetime, timedelta

    from .client import Model
    from .prices import Price
    from .wire import Answer, Balance, BalanceInfo, State, Usage


@dataclass(frozen=True, slots=True)
class Shown:
    """One output, as HTML and as the text that stands for it elsewhere."""

    html: str
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Why a cell was not paid for.

    *what* is one sentence. *kept* says what had arrived of an answer, None when
    nothing had. *steps* are cheaper ways to ask, one sentence each. *own_limit*
    tells a cap of the user's own, where a top-up would not help, and *buttons*
    that there are some below.
    """

    what: str
    at: datetime
    balance: Balance | None
    likely_cost: Decimal | None
    currency: str | None
    kept: str | None
    top_up_url: str
    steps: tuple[str, ...] = ()
    own_limit: bool = False
    buttons: bool = False


@dataclass(frozen=True, slots=True)
class BalanceFacts:
    """What the balance display tells.

    *spent_session* and *spent_today* map a currency to an amount; *days* are the
    spendings of the last days in the account's currency, oldest first; *lasts* is
    how long the money lasts at the present rate; *waiting* names the cells that
    wait for money. *problem* says why the last reading failed.
    """

    balance: Balance | None
    state: State
    spent_session: Mapping[str, Decimal]
    now: datetime
    top_up_url: str
    sandbox: bool = False
    problem: str | None = None
    spent_today: Mapping[str, Decimal] = field(default_factory=dict)
    days: tuple[Decimal, ...] = ()
    lasts: timedelta | None = None
    waiting: tuple[str, ...] = ()


# Words


def money(value: Decimal | None, currency: str | None) -> str:
    """Write an amount with as many digits as it takes to see it: "0.0012 CNY".

    A positive amount never reads 0.00; None is "unknown".
    """
    if value is None:
        return "unknown"
    size = abs(value)
    if size >= 1 or not size:
        places = 2
    elif size >= Decimal("0.01"):
        places = 3
    else:
        places = 1 - size.adjusted()
    rounded = value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    whole, _, digits = f"{rounded:,.{places}f}".partition(".")
    number = f"{whole}.{digits.rstrip('0').ljust(2, '0')}"
    return f"{number} {_one_line(currency, 20)}" if currency else number


_MINUTE = 60
_UNITS = ((86400, "d", 3600, "h"), (3600, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s"))


def duration(seconds: float) -> str:
    """Write a length of time in its two largest units: "3.2 s", "4 min 10 s", "2 h 5 min"."""
    if (exact := round(max(seconds, 0), 1)) < 10:
        return f"{exact:.1f} s"
    whole = round(seconds)
    for size, name, below, small in _UNITS:
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def _moment(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _counts(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _one_line(text: str, limit: int = 500) -> str:
    """Bring a foreign *text* onto one line of bounded length."""
    line = " ".join(to_terminal(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


_ENDINGS = MappingProxyType(
    {
        "content_filter": "stopped by the content filter",
        "insufficient_system_resource": "broken off: DeepSeek was short of resources",
        "tool_calls": "stopped to call a tool",
    }
)


def _ending(answer: Answer) -> str | None:
    """Say in plain words why *answer* ended, where it is not simply done."""
    reason = answer.finish_reason
    if reason == "stop":
        return None
    if reason is None:
        return "unfinished"
    if reason == "length":
        return "cut at max_tokens" + ("" if answer.text else " before the answer began")
    return _ENDINGS.get(reason, f"ended with {_one_line(reason, 60)!r}")


def _tokens(usage: Usage) -> list[str]:
    cached = usage.prompt_cache_hit_tokens
    thought = usage.reasoning_tokens
    return [
        f"{_count(usage.prompt_tokens)} in" + (f" ({cached:,} cached)" if cached else ""),
        f"{_count(usage.completion_tokens)} out" + (f" ({thought:,} thinking)" if thought else ""),
    ]


def _price_paid(answer: Answer, band: str | None) -> str:
    if answer.cost is not None:
        return money(answer.cost, answer.currency) + (f" {band}" if band else "")
    return "cost unknown" if answer.usage is None else "unpriced"


def quiet_line(
    answer: Answer, left: Decimal | None, *, place: str | None = None, band: str | None = None
) -> str:
    """Tell model, tokens, cost, time and what is *left*, in one line.

    *left* is in the answer's currency and is left out when it is None. *place*
    names an account that is not the real one, *band* the hours of the price.
    """
    parts = [
        _one_line(answer.model or "unknown model", 60),
        _ending(answer),
        *(_tokens(answer.usage) if answer.usage else ()),
        _price_paid(answer, band),
        None if answer.seconds is None else duration(answer.seconds),
        None if left is None else f"{money(left, answer.currency)} left",
        place,
    ]
    return " · ".join(part for part in parts if part)


# Elements


class _Markup(str):
    """HTML that was made by this module, or by `markdown`, and is not escaped again."""

    __slots__ = ()


_QUIET = "opacity:.7;font-size:.9em"
_SMALL_GAP = "margin:.3em 0"
_BOX = (
    "border:1px solid rgba(128,128,128,.5);border-left-width:4px;border-radius:4px;"
    "padding:.6em .9em;margin:.4em 0;max-width:46em;overflow-wrap:anywhere"
)
_BADGE = "color:#fff;border-radius:.7em;padding:.1em .6em;font-weight:600;font-size:.9em"
_LINK = "color:#fff;background:#0969da;border-radius:4px;padding:.2em .8em;text-decoration:none"
# Widgets set a line height of their own, by far too large for a table.
_CELL = (
    "padding:.15em .9em .15em 0;border:0;vertical-align:top;background:transparent;line-height:1.4"
)
_LEFT, _RIGHT = f"{_CELL};text-align:left", f"{_CELL};text-align:right"
_SHORT = 32
_NEW_TAB = MappingProxyType({"target": "_blank", "rel": "noopener noreferrer"})
# White letters are readable on each of these, whatever the page behind them.
_COLOURS: Mapping[State, str] = MappingProxyType(
    {
        "fine": "#1a7f37",
        "low": "#9a6700",
        "empty": "#cf222e",
        "unavailable": "#8250df",
        "unknown": "#57606a",
    }
)


def _el(tag: str, style: str, *content: str, **attributes: str) -> _Markup:
    """Make an element; all that is not markup already is escaped."""
    values = {**({"style": style} if style else {}), **attributes}
    names = "".join(
        f' {name}="{html.escape(to_terminal(value))}"' for name, value in values.items()
    )
    return _Markup(f"<{tag}{names}>{_joined(content)}</{tag}>")


def _joined(content: Iterable[str]) -> _Markup:
    """Put pieces together, escaping those that are not markup."""
    pieces = (
        piece if isinstance(piece, _Markup) else html.escape(to_terminal(piece))
        for piece in content
    )
    return _Markup("".join(pieces))


def _outer(style: str, *content: str) -> _Markup:
    """Make the outermost element; nothing in it is typeset as math."""
    return _el("div", style, *content, **{"class": "tex2jax_ignore mathjax_ignore"})


def _top_up(address: str) -> _Markup:
    """Make a link to the top-up page; an address not of the web is only shown."""
    if re.match(r"https?://[^/\\?#\s]", address, re.IGNORECASE):
        return _el("a", _LINK, "Top up", href=address, **_NEW_TAB)
    return _joined(["Top up: ", address])


def _rows(rows: Iterable[tuple[str, str]]) -> _Markup:
    """Make a table of names and values."""
    body = [
        _el("tr", "background:transparent", *_pair(name, value)) for name, value in rows if value
    ]
    return _el("table", "border:0;border-collapse:collapse;margin:.4em 0", _el("tbody", "", *body))


def _pair(name: str, value: str) -> tuple[_Markup, _Markup]:
    return (
        _el("td", f"{_LEFT};opacity:.7;white-space:nowrap", name),
        _el("td", f"{_LEFT};text-align:left", value),
    )


def _aligned(rows: Iterable[tuple[str, str]]) -> str:
    """Write names and values as lines of text."""
    kept = [(_one_line(name, 30), value) for name, value in rows if value]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(f"{name:<{width}}  {_one_line(value)}" for name, value in kept)


# Answers


def answer_shown(answer: Answer, line: str, *, thinking: bool) -> Shown:
    """Show a whole answer: its reasoning folded, its Markdown, and *line* below it."""
    folded = reasoning_html(answer.reasoning, answer.usage) if thinking else ""
    text = to_terminal(answer.text)
    return Shown(
        html=folded + markdown.to_html(answer.text) + line_html(line),
        text="\n\n".join(part for part in (text.rstrip("\n"), to_terminal(line)) if part),
    )


def text_shown(text: str) -> Shown:
    """Show the text of an answer and nothing else."""
    return Shown(html=markdown.to_html(text), text=to_terminal(text))


def line_html(line: str) -> str:
    """Make the quiet line under an answer; nothing for an empty one."""
    return _outer(f"{_QUIET};margin:.5em 0 0", line) if line else ""


def reasoning_html(reasoning: str, usage: Usage | None = None) -> str:
    """Fold the *reasoning* away; nothing where there is none."""
    if not reasoning:
        return ""
    tokens = usage.reasoning_tokens if usage else None
    summary = f"Thought for {_counts(tokens, 'token')}" if tokens else "Reasoning"
    return _el(
        "details",
        "margin:0 0 .6em",
        _el("summary", f"{_QUIET};cursor:pointer", summary),
        _el(
            "div",
            "opacity:.8;border-left:3px solid rgba(128,128,128,.4);margin:.4em 0;padding-left:.8em",
            _Markup(markdown.to_html(reasoning)),
        ),
    )


def waiting_shown() -> Shown:
    """Show that a question was sent and nothing has come back."""
    return Shown(html=_outer(_QUIET, "Waiting for DeepSeek…"), text="Waiting for DeepSeek…")


_TAIL = 120


def thinking_shown(reasoning: str, seconds: float) -> Shown:
    """Show that the model is still thinking, and its last words."""
    if not reasoning:
        return waiting_shown()
    head = f"Thinking… {seconds:.0f} s"
    tail = _one_line(reasoning[-600:], 600)
    tail = tail if len(tail) <= _TAIL else "…" + tail[1 - _TAIL :]
    return Shown(
        html=_outer(_QUIET, head, _el("div", "opacity:.75;font-style:italic", tail)), text=head
    )


# The notice


def notice_shown(notice: Notice) -> Shown:
    """Show why the money is gone and what to do, so that it can be read without any widget."""
    rows = _notice_rows(notice)
    click = "click “Re-run cell” below, or " if notice.buttons else ""
    then = f"then {click}run this cell again."
    way = "Raise the limit," if notice.own_limit else _top_up(notice.top_up_url)
    place = "Raise the limit" if notice.own_limit else f"Top up at {_one_line(notice.top_up_url)}"
    return Shown(
        html=_outer(
            f"{_BOX};border-left-color:{_COLOURS['empty']}",
            _el("div", "font-weight:600", notice.what),
            _rows(rows),
            *(_el("div", _SMALL_GAP, step) for step in notice.steps),
            _el("div", "margin:.7em 0 .2em", way, " ", then),
        ),
        text="\n".join(
            [
                _one_line(notice.what),
                _aligned(rows),
                *(f"- {_one_line(step)}" for step in notice.steps),
                f"{place}, then run this cell again.",
            ]
        ),
    )


def _notice_rows(notice: Notice) -> list[tuple[str, str]]:
    cost, kept = notice.likely_cost, notice.kept
    likely = "not known yet" if cost is None else f"about {money(cost, notice.currency)}"
    return [
        ("When", _moment(notice.at)),
        *_balance_rows(notice.balance, "Balance"),
        ("Note", "" if notice.own_limit else _contradiction(notice.balance)),
        ("Likely cost", likely),
        ("Kept", kept or ""),
        ("Billed", "" if kept else "nothing for this question"),
    ]


def _contradiction(balance: Balance | None) -> str:
    """Explain a refusal although the last reading shows money."""
    if balance is None or not balance.effective:
        return ""
    if balance.available is False:
        return "There is money, but DeepSeek says it is not available for requests."
    return "There is money, but not enough for this, or spent already: the figure lags by minutes."


def _balance_rows(balance: Balance | None, name: str) -> list[tuple[str, str]]:
    """Tell the amounts of every currency, the account's own first."""
    if balance is None or not balance.infos:
        return [(name, "unknown")]
    infos = sorted(balance.infos.values(), key=lambda info: info.currency != balance.currency)
    names = [name] if len(infos) == 1 else [f"{name} {info.currency}" for info in infos]
    return [(label, _amounts(info)) for label, info in zip(names, infos, strict=True)]


def _amounts(info: BalanceInfo) -> str:
    total = money(info.total, info.currency)
    if info.granted is None and info.topped_up is None:
        return total
    granted, topped_up = money(info.granted, None), money(info.topped_up, None)
    return f"{total} (granted {granted}, topped up {topped_up})"


# The balance


def balance_shown(facts: BalanceFacts) -> Shown:
    """Show the balance, how old it is, what was spent, and the state in word and colour."""
    balance = facts.balance
    left = money(balance.effective, balance.currency) if balance else "unknown"
    rows = _fact_rows(facts)
    head = f"{left} left" if left != "unknown" else "Balance unknown"
    badge = _el("span", f"{_BADGE};background:{_COLOURS[facts.state]}", facts.state)
    place = _el("span", f"{_BADGE};background:#0550ae", "sandbox") if facts.sandbox else _Markup()
    return Shown(
        html=_outer(
            f"{_BOX};border-left-color:{_COLOURS[facts.state]}",
            _el("span", "font-size:1.3em;font-weight:600;margin-right:.5em", head),
            badge,
            " ",
            place,
            _rows(rows),
            _drawn(facts.days),
            _el("div", "margin:.6em 0 .1em", _top_up(facts.top_up_url)),
        ),
        text="\n".join(
            [
                f"{head} ({facts.state}{', sandbox' if facts.sandbox else ''})",
                _aligned([*rows, ("Top up", facts.top_up_url)]),
            ]
        ),
    )


def _fact_rows(facts: BalanceFacts) -> list[tuple[str, str]]:
    balance, currency = facts.balance, facts.balance.currency if facts.balance else None
    return [
        *(_balance_rows(balance, "Account") if balance else ()),
        ("Read", _age(balance, facts.now)),
        ("Problem", facts.problem or ""),
        ("Since then", _unsettled(balance)),
        ("This session", _spent(facts.spent_session) or f"{money(Decimal(0), currency)} spent"),
        ("Today", _spent(facts.spent_today)),
        ("Lasts", "" if facts.lasts is None else f"about {_rough(facts.lasts)} at this rate"),
        ("Waiting", ", ".join(facts.waiting)),
    ]


def _age(balance: Balance | None, now: datetime) -> str:
    if balance is None or balance.read_at is None:
        return "not yet"
    # The moment stays true while the display stands; an age would not.
    seconds = (now - balance.read_at).total_seconds()
    age = f" ({duration(seconds)} old when shown)" if seconds >= _MINUTE else ""
    return _moment(balance.read_at) + age


def _unsettled(balance: Balance | None) -> str:
    if balance is None or not balance.spent_since:
        return ""
    return f"{money(balance.spent_since, balance.currency)} spent and not settled"


def _spent(amounts: Mapping[str, Decimal]) -> str:
    sums = [money(value, currency) for currency, value in sorted(amounts.items()) if value]
    return f"{' and '.join(sums)} spent" if sums else ""


def _rough(time: timedelta) -> str:
    if time.days > 365:
        return "more than a year"
    return _counts(time.days, "day") if time.days > 1 else duration(time.total_seconds())


def _drawn(days: Sequence[Decimal]) -> _Markup:
    """Draw the spending of the last days as a small line; nothing for less than two days."""
    if len(days) < 2:
        return _Markup()
    top = float(max(days)) or 1.0
    step = 156 / (len(days) - 1)
    points = " ".join(
        f"{2 + number * step:.1f},{26 - 24 * float(spent) / top:.1f}"
        for number, spent in enumerate(days)
    )
    line = _Markup(
        '<svg width="160" height="28" viewBox="0 0 160 28" role="img" aria-label="spent per day">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
    )
    label = _el(
        "span", _QUIET, f" the last {len(days)} days, at most {money(max(days), None)} a day"
    )
    return _el("div", "", line, label)


# Tables


def table_shown(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Iterable[int] = (),
    note: str = "",
) -> Shown:
    """Show a small table; the columns *right* are set to the right, *note* stands below."""
    numbers = frozenset(right)
    sides = [_RIGHT if column in numbers else _LEFT for column in range(len(heads))]
    return Shown(
        html=_outer(
            "overflow-x:auto",
            _el(
                "table",
                "border:0;border-collapse:collapse;margin:.4em 0",
                _el("thead", "", _table_row("th", heads, sides)),
                _el("tbody", "", *(_table_row("td", row, sides) for row in rows)),
            ),
            *([_el("div", _QUIET, note)] if note else ()),
        ),
        text=_plain_table([heads, *rows], numbers) + (f"\n\n{_one_line(note)}" if note else ""),
    )


def _table_row(tag: str, cells: Sequence[str], sides: Sequence[str]) -> _Markup:
    line = ";border-bottom:1px solid rgba(128,128,128,.5)" if tag == "th" else ""
    return _el(
        "tr",
        "background:transparent",
        *(
            _el(tag, f"{side}{_whole(cell)}{line}", cell)
            for side, cell in zip(sides, cells, strict=True)
        ),
    )


def _whole(cell: str) -> str:
    """Keep a date or a name on one line; where there is no room, the table scrolls."""
    return ";white-space:nowrap" if len(cell) <= _SHORT else ""


def _plain_table(rows: Sequence[Sequence[str]], right: frozenset[int]) -> str:
    lines = [[*(_one_line(cell, 60) for cell in row[:-1]), _one_line(row[-1])] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
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
            _count(model.context_window),
            _count(model.max_output_tokens),
            "unknown" if model.input_modalities is None else ", ".join(model.input_modalities),
        )
        for model in models
    ]
    heads = ("Model", "Name", "Context", "Longest answer", "Reads")
    note = "Lengths are in tokens. Ask one with: %%deepseek -m NAME"
    return table_shown(heads, rows, right=(2, 3), note=note)


def prices_shown(rows: Sequence[Price], now: datetime, checked: date, source: str) -> Shown:
    """Show what a million tokens cost, which hours it is *now*, and how old the list is."""
    hours = band(now)
    cells = [
        (
            row.model,
            f"{row.band}, now" if row.band == hours else row.band,
            *(money(price, row.currency) for price in (row.hit, row.miss, row.out)),
            f"{row.since:%Y-%m-%d}",
        )
        for row in rows
    ]
    heads = ("Model", "Hours", "Input, cached", "Input", "Output", "Since")
    age = _counts(max((now.date() - checked).days, 0), "day")
    spans = " and ".join(f"{start:%H:%M}-{end:%H:%M}" for start, end in PEAK_HOURS)
    note = (
        f"Per million tokens. Peak hours: Monday to Friday {spans} Beijing time, except Chinese "
        f"public holidays. Checked {checked:%Y-%m-%d} ({age} ago) against {source}"
    )
    return table_shown(heads, cells, right=(2, 3, 4), note=note)


def settings_shown(name: str, rows: Sequence[tuple[str, str, str]]) -> Shown:
    """Show the settings of the magics class *name*: each with its value and its help."""
    note = f"Change one for this notebook with: %config {name}.NAME = VALUE"
    return table_shown(("Setting", "Value", "What it does"), rows, note=note)


def usage_shown(rows: Sequence[Mapping[str, Any]]) -> Shown:
    """Show calls, tokens and costs by day, model and notebook, each day's cost as a bar."""
    if not rows:
        said = "Nothing has been asked from this account yet."
        return Shown(html=_outer(_QUIET, said), text=said)
    most: dict[str | None, Decimal] = defaultdict(Decimal)
    for row in rows:
        most[row["currency"]] = max(most[row["currency"]], row["cost"] or Decimal(0))
    heads = ("Day", "Model", "Notebook", "Questions", "In", "Cached", "Out", "Cost", "")
    cells = [_usage_cells(row, most[row["currency"]]) for row in rows]
    return table_shown(heads, cells, right=(3, 4, 5, 6, 7), note=_usage_note(rows))


def _usage_cells(row: Mapping[str, Any], most: Decimal) -> tuple[str, ...]:
    cost, unpriced = row["cost"], row["unpriced"] or 0
    if unpriced and cost is not None:
        paid = f"{money(cost, row['currency'])} + {unpriced:,} unpriced"
    else:
        paid = "unpriced" if unpriced else money(cost or Decimal(0), row["currency"])
    bar = "█" * int((12 * cost / most).to_integral_value(ROUND_HALF_UP)) if cost and most else ""
    return (
        str(row["day"]),
        row["model"] or "",
        PurePath(row["notebook"] or "").name,
        _count(row["queries"]),
        _count(row["prompt_tokens"]),
        _count(row["prompt_cache_hit_tokens"]),
        _count(row["completion_tokens"]),
        paid,
        bar or ("▏" if cost else ""),
    )


def _usage_note(rows: Sequence[Mapping[str, Any]]) -> str:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        if row["cost"]:
            sums[row["currency"] or "in an unknown currency"] += row["cost"]
    unpriced = sum(row["unpriced"] or 0 for row in rows)
    parts = [money(value, currency) for currency, value in sorted(sums.items())]
    total = " and ".join(parts) or "nothing"
    return f"Together {total}" + (
        f", and {_counts(unpriced, 'question')} unpriced." if unpriced else "."
    )
