"""Facts to HTML and text, side by side: answers, the notice, the balance."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_UP, Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING

from . import chart, markdown
from .elements import (
    BADGE,
    BOX,
    LIST,
    MINUTE,
    QUIET,
    Markup,
    Shown,
    aligned,
    at_least,
    cheaper,
    cheaper_lines,
    clock_time,
    companion,
    count,
    counted,
    duration,
    el,
    joined,
    link,
    moment,
    money,
    one_line,
    outer,
    pairs,
    week_time,
    while_alive,
)
from .markdown import to_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date, datetime, timedelta

    from .top_up import Look
    from .wire import Answer, Balance, BalanceInfo, CostRange, State, Usage


@dataclass(frozen=True, slots=True)
class Notice:
    """Why a cell was not paid for.

    *what* is one sentence. *likely_cost* is the usual range of such a question,
    and *kept* says what had arrived of an answer; None where nothing is known, or
    had. *unsent* tells that a check has refused before anything was sent, and
    *steps* are cheaper ways to ask, one sentence each. *own_limit* tells a cap of
    the user's own, where a top-up would not help; *unknown* is what to do where too
    little is known to keep to it, and *today* what was spent of the day's. *buttons*
    says that there are some below, *waits* that one of them waits for a top-up, and
    *ordinary* that the cell is code of the user's own, whose cost nobody knows.
    *goes_on* tells that the cell itself waits and then goes on. *rows* are those that
    have their answer, and all, of a question for every row; *again* tells that one
    more run of it would go on although the limit has ended this one. *problem* says
    why the ledger may not list the cell.
    """

    what: str
    at: datetime
    balance: Balance | None
    likely_cost: CostRange | None
    currency: str | None
    kept: str | None
    top_up_url: str
    steps: tuple[str, ...] = ()
    today: str = ""
    unsent: bool = False
    own_limit: bool = False
    unknown: str = ""
    buttons: bool = False
    ordinary: bool = False
    waits: bool = False
    goes_on: bool = False
    rows: tuple[int, int] | None = None
    again: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class BalanceFacts:
    """What the balance display tells.

    *spent_session* and *spent_today* map a currency to an amount; *days* map a day to
    what was spent on it, in the account's currency; *lasts* is how long the money
    lasts at the present rate; *changes* is when the hours change, and *band* what
    they are until then; *waiting* names the cells that wait for money, and *notes*
    what the readings tell beyond the ledger. *problem* says why the last reading
    failed.
    """

    balance: Balance | None
    state: State
    spent_session: Mapping[str, Decimal]
    now: datetime
    top_up_url: str
    sandbox: bool = False
    problem: str | None = None
    spent_today: Mapping[str, Decimal] = field(default_factory=dict)
    days: Mapping[date, Decimal] = field(default_factory=dict)
    lasts: timedelta | None = None
    band: str = ""
    changes: datetime | None = None
    waiting: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


_SMALL_GAP = "margin:.3em 0"
# Widgets set a line height of their own, by far too large for a text of several lines.
_STATUS = (
    "line-height:1.4;margin:.2em 0 .4em;max-width:60em;overflow-wrap:anywhere;white-space:normal;"
    "font-variant-numeric:tabular-nums"
)
_LINK = "color:#fff;background:#0969da;border-radius:4px;padding:.2em .8em;text-decoration:none"
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


def _top_up(address: str) -> Markup:
    """Make a link to the top-up page."""
    return link("Top up", address, _LINK)


# The quiet line


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
    return _ENDINGS.get(reason, f"ended with {one_line(reason, 60)!r}")


def _tokens(usage: Usage) -> list[str]:
    cached = usage.prompt_cache_hit_tokens
    thought = usage.reasoning_tokens
    return [
        f"{count(usage.prompt_tokens)} in" + (f" ({cached:,} cached)" if cached else ""),
        f"{count(usage.completion_tokens)} out" + (f" ({thought:,} thinking)" if thought else ""),
    ]


def _price_paid(answer: Answer, band: str | None) -> str:
    if answer.cost is not None:
        return money(answer.cost, answer.currency) + (f" {band}" if band else "")
    span, currency = answer.cost_range, answer.currency
    if span is None:
        return "cost unknown" if answer.usage is None else "unpriced"
    if answer.usage is not None:
        return f"{chart.span(span.low, span.high, currency)}, as the hours changed meanwhile"
    likely = f"about {money(span.likely, currency)}, " if span.likely else ""
    return f"may be billed: {likely}{money(span.high, currency, rounding=ROUND_UP)} at most"


def _in_all(answer: Answer) -> str:
    """Tell what an answer that has gone on has cost in all its parts."""
    span, currency = answer.cost_range, answer.currency
    if answer.cost is not None:
        return f"{money(answer.cost, currency)} in all"
    if span is None:
        return "cost in all unknown"
    high = money(span.high, currency, rounding=ROUND_UP)
    if span.likely is None:
        return f"in all at least {money(span.low, currency)}, {high} at most"
    return f"in all about {money(span.likely, currency)}, {high} at most"


def quiet_line(
    answer: Answer,
    left: Decimal | None,
    *,
    place: str | None = None,
    band: str | None = None,
    ending: str | None = None,
) -> str:
    """Tell model, tokens, cost, time and what is *left*, in one line.

    *left* is in the answer's currency and is left out when it is None. *place*
    names an account that is not the real one, *band* the hours of the price, and
    *ending* why this is no whole answer. Of an answer that has gone on it tells the
    figures of the rest, and what all cost.
    """
    if answer.asked is not None:
        at = f"asked {answer.asked.astimezone():%Y-%m-%d %H:%M}"
        model = one_line(answer.model or "unknown model", 60)
        return f"{model} · {at} · from the ledger, nothing was sent now"
    last = answer.rest or answer
    parts = [
        ending,
        one_line(answer.model or "unknown model", 60),
        None if ending and answer.finish_reason is None else _ending(answer),
        *(_tokens(last.usage) if last.usage else ()),
        _price_paid(last, band) + (" for the rest" if answer.rest else ""),
        _in_all(answer) if answer.rest else None,
        None if last.seconds is None else duration(last.seconds),
        None if left is None else f"{at_least(left, answer.currency)} left",
        place,
        answer.note,
    ]
    return " · ".join(part for part in parts if part)


# Answers


def answer_shown(answer: Answer, line: str, *, thinking: bool, dead: str = "") -> Shown:
    """Show a whole answer: its reasoning folded, its Markdown, and *line* below it.

    With *dead* widgets follow, and it is said once they are dead.
    """
    folded = reasoning_html(answer.reasoning, answer.usage) if thinking else ""
    text = to_terminal(answer.text)
    return Shown(
        html=folded + markdown.to_html(answer.text) + line_html(line, dead),
        text="\n\n".join(part for part in (text.rstrip("\n"), to_terminal(line)) if part),
    )


def text_shown(text: str) -> Shown:
    """Show the text of an answer and nothing else."""
    return Shown(html=markdown.to_html(text), text=to_terminal(text))


def line_html(line: str, dead: str = "") -> str:
    """Make the quiet line under an answer; nothing for an empty one."""
    style = f"{QUIET};margin:.5em 0 0"
    if dead:
        return companion(style, line, dead=dead)
    return outer(style, line) if line else ""


def reasoning_html(reasoning: str, usage: Usage | None = None) -> str:
    """Fold the *reasoning* away; nothing where there is none."""
    if not reasoning:
        return ""
    tokens = usage.reasoning_tokens if usage else None
    summary = f"Thought for {counted(tokens, 'token')}" if tokens else "Reasoning"
    return el(
        "details",
        "margin:0 0 .6em",
        el("summary", f"{QUIET};cursor:pointer", summary),
        el(
            "div",
            "opacity:.8;border-left:3px solid rgba(128,128,128,.4);margin:.4em 0;padding-left:.8em",
            Markup(markdown.to_html(reasoning)),
        ),
    )


def waiting_shown(note: str = "") -> Shown:
    """Show that nothing has come back yet; *note* says what is waited for instead of an answer."""
    line = one_line(note) or "Waiting for DeepSeek…"
    return Shown(html=outer(QUIET, line), text=line)


_TAIL = 120


def thinking_shown(reasoning: str, seconds: float) -> Shown:
    """Show that the model is still thinking, and its last words."""
    if not reasoning:
        return waiting_shown()
    head = f"Thinking… {seconds:.0f} s"
    tail = one_line(reasoning[-600:], 600)
    tail = tail if len(tail) <= _TAIL else "…" + tail[1 - _TAIL :]
    return Shown(
        html=outer(QUIET, head, el("div", "opacity:.75;font-style:italic", tail)), text=head
    )


# The notice


def notice_shown(notice: Notice) -> Shown:
    """Show why the money is gone and what to do, so that it can be read without any widget."""
    rows = _notice_rows(notice)
    content = (
        el("div", "font-weight:600", notice.what),
        pairs(rows),
        cheaper(notice.steps),
        _way(notice),
    )
    style = f"{BOX};border-left-color:{_COLOURS['empty']}"
    place = f"Top up at {one_line(notice.top_up_url)}"
    if notice.own_limit:
        place = one_line(notice.unknown) or (BUDGET if notice.again else "Raise the limit")
    then = GOES_ON if notice.goes_on else "run this cell again."
    against = " Or send it all the same: add --anyway." if notice.unsent else ""
    return Shown(
        html=companion(style, *content, dead=GONE) if notice.buttons else outer(style, *content),
        text="\n".join(
            [
                one_line(notice.what),
                aligned(rows),
                *cheaper_lines(notice.steps),
                f"{place}{': ' if place == BUDGET else ', then '}{then}{against}",
            ]
        ),
    )


BUDGET = "Each run has its budget anew, and pays for the missing rows alone"

GONE = (
    "The buttons that stood below are gone: they last no longer than their kernel. "
    "Instead of them: %load_ext deepseek_magic, then %deepseek rerun"
)


def top_up_shown(address: str) -> Shown:
    """Show where to top up, above a wait for it."""
    words = "then this goes on. Interrupting it ends the waiting."
    return Shown(
        html=outer(_SMALL_GAP, _top_up(address), f" {words}"),
        text=f"Top up at {one_line(address)}, {words}",
    )


GOES_ON = "this cell goes on by itself. Interrupting it ends the waiting."


def _way(notice: Notice) -> Markup:
    """Say what to do; of the buttons only while there are any."""
    goes_on = notice.own_limit and notice.again and not notice.unknown
    limit = f"{BUDGET}:" if goes_on else f"{notice.unknown or 'Raise the limit'}, then"
    first = limit if notice.own_limit else joined([_top_up(notice.top_up_url), " then"])
    before = " “Re-run cell” runs it as it was sent; with a new --budget, run it by hand."
    effects = " (the whole cell runs again, with all its effects)" if notice.ordinary else ""
    click = f"click “Re-run cell” below{effects}, or "
    waits = " “Re-run when topped up” waits for the money and then does it by itself."
    against = " “Send anyway” asks no check this one time."
    if notice.goes_on:
        return el("div", "margin:.7em 0 .2em", first, f" {GOES_ON}")
    return el(
        "div",
        "margin:.7em 0 .2em",
        first,
        " ",
        *([while_alive(click)] if notice.buttons else ()),
        "run this cell again.",
        *([while_alive(waits)] if notice.buttons and notice.waits else ()),
        *([while_alive(before)] if notice.buttons and notice.own_limit and not goes_on else ()),
        *([while_alive(against)] if notice.buttons and notice.unsent else ()),
        *([" Or add --anyway to send it all the same."] if notice.unsent else ()),
    )


def _notice_rows(notice: Notice) -> list[tuple[str, str]]:
    cost, kept = notice.likely_cost, notice.kept
    likely = "not known yet" if cost is None else usual_cost(cost, notice.currency)
    if notice.rows is not None and cost is not None and cost.low == cost.high:
        likely = f"about {money(cost.high, notice.currency)} for the rows that are left"
    return [
        ("When", moment(notice.at)),
        *(
            _balance_rows(notice.balance, "Balance")
            if notice.balance or not notice.ordinary
            else ()
        ),
        ("Note", "" if notice.own_limit or notice.unsent else _contradiction(notice.balance)),
        ("Today", notice.today),
        ("Rows", _rows(notice.rows)),
        ("Likely cost", "" if notice.ordinary else likely),
        ("Kept", kept or ""),
        ("Billed", _billed(notice)),
        ("Ledger", notice.problem),
    ]


def _rows(rows: tuple[int, int] | None) -> str:
    if rows is None:
        return ""
    done, whole = rows
    are = "is" if whole - done == 1 else "are"
    kept = ", which is kept" if done else ""
    return f"{done:,} of {whole:,} have their answer{kept}; {whole - done:,} {are} left"


def _billed(notice: Notice) -> str:
    if notice.kept or notice.ordinary or notice.rows is not None:
        return ""
    return "nothing: it was not sent" if notice.unsent else "nothing for this question"


def usual_cost(cost: CostRange, currency: str | None) -> str:
    """Write what a question usually costs: likely so much, and between which bounds."""
    if cost.likely is None:
        return f"not known yet; at least {money(cost.low, currency)}"
    return f"about {money(cost.likely, currency)} ({chart.span(cost.low, cost.high, currency)})"


def _contradiction(balance: Balance | None) -> str:
    """Explain a refusal although the last reading shows money."""
    if balance is None:
        return ""
    if (split := _other_money(balance)) is not None:
        return split
    if not balance.effective:
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
    total = at_least(info.total, info.currency)
    if info.granted is None and info.topped_up is None:
        return total
    granted, topped_up = at_least(info.granted, None), at_least(info.topped_up, None)
    return f"{total} (granted {granted}, topped up {topped_up})"


# Waiting for a top-up


def look_line(look: Look) -> str:
    """Tell in one line what a *look* found, since when it is waited, and when it is looked next."""
    return " · ".join(
        [
            f"Waiting for a top-up since {clock_time(look.since, look.at)}",
            _found(look),
            f"next look in {_soon(look.pause)}",
            f"until {clock_time(look.until, look.at)}",
        ]
    )


def off_peak_line(
    begins: datetime,
    now: datetime,
    cost: CostRange | None,
    then: CostRange | None,
    currency: str | None,
) -> str:
    """Tell in one line until when the cheaper hours are waited for, and what that saves."""
    wait = duration((begins - now).total_seconds())
    line = f"Waiting for off-peak hours: from {clock_time(begins, now)} (in {wait})"
    mine, its = (usual.likely if usual else None for usual in (cost, then))
    if mine is None or its is None or its >= mine:
        return f"{line}. Until then nothing is sent; interrupting it ends the waiting."
    less = f"about {money(its, currency)} instead of {money(mine, currency)}"
    return f"{line}, then {less}. Interrupting it ends the waiting."


def _found(look: Look) -> str:
    at = f"at {look.at.astimezone():%H:%M:%S}"
    if look.balance is None:
        why = f": {one_line(look.problem, 200).rstrip('.。')}" if look.problem else ""
        return f"the balance could not be read {at}{why}"
    left = at_least(look.balance.effective, look.balance.currency)
    if look.balance.effective and look.balance.available is False:
        return f"{left}, not available for requests, {at}"
    return f"{'balance unknown' if left == 'unknown' else left} {at}"


def _soon(seconds: float) -> str:
    whole = max(round(seconds), 1)
    return f"{whole} s" if whole < MINUTE else duration(whole)


def waited(look: Look | None) -> str:
    """Say that waiting has ended without a top-up, and how to go on."""
    time = f" for {_in_hours((look.until - look.since).total_seconds())}" if look else ""
    return (
        f"Waited{time}, and no money came. The waiting has ended and nothing was sent. "
        "Top up, then re-run the cell, or wait again."
    )


def _in_hours(seconds: float) -> str:
    hours = round(seconds / 3600)
    return counted(hours, "hour") if hours >= 2 else duration(seconds)


def checked(balance: Balance, *, waits: bool = False) -> str:
    """Say what a look at the *balance* found, on the user's request; *waits*: the cell does so."""
    left = at_least(balance.effective, balance.currency)
    if balance.effective is None:
        return "DeepSeek gave no figure. Try again in a minute."
    if not balance.effective:
        return f"Still empty: {left}. A top-up can take a minute to arrive."
    if balance.available is False:
        return f"{left}, but DeepSeek says it is not available for requests yet."
    return f"{left} now. {'The cell runs by itself.' if waits else 'Re-run the cell.'}"


def not_arrived(balance: Balance | None) -> tuple[str, ...]:
    """Say what it usually is when a top-up does not arrive, the likeliest by the reading first."""
    return (
        *_by_reading(balance),
        "The payment may still be pending, or it may have failed.",
        "The money may have gone to another account than the one whose key is used here.",
        "DeepSeek's figure can lag by some minutes.",
    )


def _by_reading(balance: Balance | None) -> Iterator[str]:
    if balance is None:
        yield "The balance could not be read, so the money may be there already."
        return
    if (split := _other_money(balance)) is not None:
        yield split
    if balance.available is False and balance.effective:
        yield "There is money, but DeepSeek answers “available: false”: it is not released yet."
    elif balance.effective:
        left = at_least(balance.effective, balance.currency)
        yield f"DeepSeek shows {left} and still refused: that may be too little, or spent already."
    elif balance.spent_since:
        spent = money(balance.spent_since, balance.currency)
        yield f"The last figure is used up: {spent} was spent and is not settled yet."


def _other_money(balance: Balance) -> str | None:
    """Tell of money in one currency beside an empty other one."""
    full = [info for info in balance.infos.values() if info.total]
    empty = [info.currency for info in balance.infos.values() if info.total == 0]
    if not full or not empty:
        return None
    there = " and ".join(at_least(info.total, info.currency) for info in full)
    none = " and ".join(money(Decimal(0), currency) for currency in empty)
    return f"The money is in the other currency: {there}, but {none}. Top up the empty one."


def status_html(line: str, reasons: Sequence[str] = (), address: str = "") -> str:
    """Make the status below the buttons: *line*, then *reasons*, then a link to the billing page.

    All of it is escaped.
    """
    if not reasons:
        return outer(_STATUS, line) if line else ""
    page = link("The billing page", address, "color:inherit;text-decoration:underline")
    look = el("li", "", page, " tells whether the payment went through.")
    return outer(
        _STATUS,
        line,
        el("div", "margin-top:.4em", "If you have topped up, this is what it usually is:"),
        el("ul", LIST, *(el("li", "", reason) for reason in reasons), look),
    )


# The balance


def balance_shown(facts: BalanceFacts) -> Shown:
    """Show the balance, how old it is, what was spent, and the state in word and colour."""
    balance = facts.balance
    left = at_least(balance.effective, balance.currency) if balance else "unknown"
    rows, line = _fact_rows(facts), _line_of_days(facts)
    head = f"{left} left" if left != "unknown" else "Balance unknown"
    badge = el("span", f"{BADGE};background:{_COLOURS[facts.state]}", facts.state)
    place = el("span", f"{BADGE};background:#0550ae", "sandbox") if facts.sandbox else Markup()
    return Shown(
        html=outer(
            f"{BOX};border-left-color:{_COLOURS[facts.state]}",
            el("span", "font-size:1.3em;font-weight:600;margin-right:.5em", head),
            badge,
            " ",
            place,
            pairs(rows),
            Markup(line.html),
            el("div", "margin:.6em 0 .1em", _top_up(facts.top_up_url)),
        ),
        text="\n".join(
            [
                f"{head} ({facts.state}{', sandbox' if facts.sandbox else ''})",
                aligned([*rows, ("Days", line.text), ("Top up", facts.top_up_url)]),
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
        ("Lasts", "" if facts.lasts is None else f"{_rough(facts.lasts)} at this rate"),
        ("Hours", _hours(facts)),
        ("Waiting", ", ".join(facts.waiting)),
        *(("Note", note) for note in facts.notes),
    ]


def _age(balance: Balance | None, now: datetime) -> str:
    if balance is None or balance.read_at is None:
        return "not yet"
    # The moment stays true while the display stands; an age would not.
    seconds = (now - balance.read_at).total_seconds()
    age = f" ({duration(seconds)} old when shown)" if seconds >= MINUTE else ""
    return moment(balance.read_at) + age


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
    days = counted(time.days, "day") if time.days > 1 else duration(time.total_seconds())
    return f"about {days}"


def _hours(facts: BalanceFacts) -> str:
    """Tell the hours with the moment of their end, which stays true while the display stands."""
    if facts.changes is None:
        return ""
    other = "off-peak" if facts.band == "peak" else "peak"
    return f"{facts.band} until {week_time(facts.changes, facts.now)}, then {other}"


def _line_of_days(facts: BalanceFacts) -> Shown:
    if facts.balance is None or facts.balance.currency is None:
        return Shown("", "")
    return chart.line(facts.days, facts.balance.currency, facts.now.astimezone().date())
