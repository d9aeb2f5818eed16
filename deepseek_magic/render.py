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
    duration,
    el,
    in_days,
    in_tokens,
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
from .words import language, later, listed, sentences, t, tn

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
    return link(t("Top up"), address, _LINK)


# The quiet line


_ENDINGS = MappingProxyType(
    {
        "content_filter": later("stopped by the content filter"),
        "insufficient_system_resource": later("broken off: DeepSeek was short of resources"),
        "tool_calls": later("stopped to call a tool"),
    }
)


def _ending(answer: Answer) -> str | None:
    """Say in plain words why *answer* ended, where it is not simply done."""
    reason = answer.finish_reason
    if reason == "stop":
        return None
    if reason is None:
        return t("unfinished")
    if reason == "length":
        own = answer.request is None or answer.request.max_tokens is not None
        if not answer.text:
            return t(
                "cut at max_tokens before the answer began"
                if own
                else "cut at the limit before the answer began"
            )
        return t("cut at max_tokens" if own else "cut at the limit")
    if reason in _ENDINGS:
        return t(_ENDINGS[reason])
    return t("ended with {reason!r}", reason=one_line(reason, 60))


def _tokens(usage: Usage) -> list[str]:
    cached = usage.prompt_cache_hit_tokens
    thought = usage.reasoning_tokens
    tokens_in, tokens_out = count(usage.prompt_tokens), count(usage.completion_tokens)
    return [
        t("{n} in ({cached:,} cached)", n=tokens_in, cached=cached)
        if cached
        else t("{n} in", n=tokens_in),
        t("{n} out ({thought:,} thinking)", n=tokens_out, thought=thought)
        if thought
        else t("{n} out", n=tokens_out),
    ]


def _price_paid(answer: Answer, band: str | None) -> str:
    if answer.cost is not None:
        return money(answer.cost, answer.currency) + (f" {t(band)}" if band else "")
    span, currency = answer.cost_range, answer.currency
    if span is None:
        return t("cost unknown") if answer.usage is None else t("unpriced")
    if answer.usage is not None:
        costs = chart.span(span.low, span.high, currency)
        return t("{costs}, as the hours changed meanwhile", costs=costs)
    most = money(span.high, currency, rounding=ROUND_UP)
    if not span.likely:
        return t("may be billed: {most} at most", most=most)
    likely = money(span.likely, currency)
    return t("may be billed: about {likely}, {most} at most", likely=likely, most=most)


def _in_all(answer: Answer) -> str:
    """Tell what an answer that has gone on has cost in all its parts."""
    span, currency = answer.cost_range, answer.currency
    if answer.cost is not None:
        return t("{cost} in all", cost=money(answer.cost, currency))
    if span is None:
        return t("cost in all unknown")
    most = money(span.high, currency, rounding=ROUND_UP)
    if span.likely is None:
        low = money(span.low, currency)
        return t("in all at least {low}, {most} at most", low=low, most=most)
    likely = money(span.likely, currency)
    return t("in all about {likely}, {most} at most", likely=likely, most=most)


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
        at = t("asked {time}", time=f"{answer.asked.astimezone():%Y-%m-%d %H:%M}")
        model = one_line(answer.model or t("unknown model"), 60)
        return f"{model} · {at} · {t('from the ledger, nothing was sent now')}"
    last = answer.rest or answer
    parts = [
        ending,
        one_line(answer.model or t("unknown model"), 60),
        None if ending and answer.finish_reason is None else _ending(answer),
        *(_tokens(last.usage) if last.usage else ()),
        t("{cost} for the rest", cost=_price_paid(last, band))
        if answer.rest
        else _price_paid(last, band),
        _in_all(answer) if answer.rest else None,
        None if last.seconds is None else duration(last.seconds),
        None if left is None else t("{money} left", money=at_least(left, answer.currency)),
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
        html=folded + markdown.to_html(opening(answer) + answer.text) + line_html(line, dead),
        text="\n\n".join(part for part in (text.rstrip("\n"), to_terminal(line)) if part),
    )


def text_shown(answer: Answer) -> Shown:
    """Show the text of an answer and nothing else."""
    html = markdown.to_html(opening(answer) + answer.text)
    return Shown(html=html, text=to_terminal(answer.text))


_FENCE = "`" * 16 + "json\n"


def opening(answer: Answer) -> str:
    """Give what begins a block of code where *answer* is the JSON it was asked for; else "".

    As Markdown its lines would run together, and its stars and underscores be lost.
    """
    asked = answer.request is not None and answer.request.json
    return _FENCE if asked and answer.text.lstrip()[:1] in {"{", "["} else ""


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
    summary = t("Reasoning")
    if tokens:
        summary = t("Thought for {tokens}", tokens=in_tokens(tokens))
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
    line = one_line(note) or t("Waiting for DeepSeek…")
    return Shown(html=outer(QUIET, line), text=line)


_TAIL = 120


def thinking_shown(reasoning: str, seconds: float) -> Shown:
    """Show that the model is still thinking, and its last words."""
    if not reasoning:
        return waiting_shown()
    head = t("Thinking… {seconds:.0f} s", seconds=seconds)
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
    against = t("Or send it all the same: add --anyway.") if notice.unsent else ""
    return Shown(
        html=companion(style, *content, dead=t(GONE)) if notice.buttons else outer(style, *content),
        text="\n".join(
            [
                one_line(notice.what),
                aligned(rows),
                *cheaper_lines(notice.steps),
                sentences(_step(notice), against),
            ]
        ),
    )


def _step(notice: Notice) -> str:
    """Say as text what to do."""
    then = t(GOES_ON) if notice.goes_on else t("run this cell again.")
    if not notice.own_limit:
        address = one_line(notice.top_up_url)
        return t("Top up at {address}, then {then}", address=address, then=then)
    if notice.unknown:
        return t("{first}, then {then}", first=one_line(notice.unknown), then=then)
    if notice.again:
        return t("{first}: {then}", first=t(BUDGET), then=then)
    return t("Raise the limit, then {then}", then=then)


BUDGET = later("Each run has its budget anew, and pays for the missing rows alone")

GONE = later(
    "The buttons that stood below are gone: they last no longer than their kernel. "
    "Instead of them: %load_ext deepseek_magic, then %deepseek rerun"
)


def top_up_shown(address: str) -> Shown:
    """Show where to top up, above a wait for it."""
    words = t("then this goes on. Interrupting it ends the waiting.")
    place = one_line(address)
    return Shown(
        html=outer(_SMALL_GAP, _top_up(address), f" {words}"),
        text=t("Top up at {address}, {then}", address=place, then=words),
    )


GOES_ON = later("this cell goes on by itself. Interrupting it ends the waiting.")


def _way(notice: Notice) -> Markup:
    """Say what to do; of the buttons only while there are any."""
    goes_on = notice.own_limit and notice.again and not notice.unknown
    first, gap = _first(notice, goes_on=goes_on), " " if language() == "en" else ""
    if notice.goes_on:
        return el("div", "margin:.7em 0 .2em", first, gap, t(GOES_ON))
    said = [(notice.waits, t(_WAITS)), (notice.own_limit and not goes_on, t(_BEFORE))]
    alive = [words for holds, words in [*said, (notice.unsent, t(_AGAINST))] if holds]
    return el(
        "div",
        "margin:.7em 0 .2em",
        first,
        gap,
        *([while_alive(t(_EFFECTS if notice.ordinary else _CLICK))] if notice.buttons else ()),
        t("run this cell again."),
        *((while_alive(gap + words) for words in alive) if notice.buttons else ()),
        *([gap + t("Or add --anyway to send it all the same.")] if notice.unsent else ()),
    )


_CLICK = later("click “Re-run cell” below, or ")
_EFFECTS = later("click “Re-run cell” below (the whole cell runs again, with all its effects), or ")
_WAITS = later("“Re-run when topped up” waits for the money and then does it by itself.")
_BEFORE = later("“Re-run cell” runs it as it was sent; with a new --budget, run it by hand.")
_AGAINST = later("“Send anyway” asks no check this one time.")


def _first(notice: Notice, *, goes_on: bool) -> str:
    """Say what comes before the cell is run again."""
    if not notice.own_limit:
        return joined([_top_up(notice.top_up_url), t(" then")])
    if goes_on:
        return t("{first}:", first=t(BUDGET))
    return t("{first}, then", first=notice.unknown or t("Raise the limit"))


def _notice_rows(notice: Notice) -> list[tuple[str, str]]:
    cost, kept = notice.likely_cost, notice.kept
    likely = t("not known yet") if cost is None else usual_cost(cost, notice.currency)
    if notice.rows is not None and cost is not None and cost.low == cost.high:
        left = money(cost.high, notice.currency)
        likely = t("about {money} for the rows that are left", money=left)
    return [
        (t("When"), moment(notice.at)),
        *(
            _balance_rows(notice.balance, t("Balance"))
            if notice.balance or not notice.ordinary
            else ()
        ),
        (t("Note"), "" if notice.own_limit or notice.unsent else _contradiction(notice.balance)),
        (t("Today"), notice.today),
        (t("Rows"), _rows(notice.rows)),
        (t("Likely cost"), "" if notice.ordinary else likely),
        (t("Kept"), kept or ""),
        (t("Billed"), _billed(notice)),
        (t("Ledger"), notice.problem),
    ]


def _rows(rows: tuple[int, int] | None) -> str:
    if rows is None:
        return ""
    done, whole = rows
    if done:
        have = t("{done:,} of {all:,} have their answer, which is kept", done=done, all=whole)
    else:
        have = t("{done:,} of {all:,} have their answer", done=done, all=whole)
    left = tn(whole - done, "{n:,} is left", "{n:,} are left")
    return t("{have}; {left}", have=have, left=left)


def _billed(notice: Notice) -> str:
    if notice.kept or notice.ordinary or notice.rows is not None:
        return ""
    return t("nothing: it was not sent") if notice.unsent else t("nothing for this question")


def usual_cost(cost: CostRange, currency: str | None) -> str:
    """Write what a question usually costs: likely so much, and between which bounds."""
    if cost.likely is None:
        return t("not known yet; at least {money}", money=money(cost.low, currency))
    costs = chart.span(cost.low, cost.high, currency)
    return t("about {likely} ({costs})", likely=money(cost.likely, currency), costs=costs)


def _contradiction(balance: Balance | None) -> str:
    """Explain a refusal although the last reading shows money."""
    if balance is None:
        return ""
    if (split := _other_money(balance)) is not None:
        return split
    if not balance.effective:
        return ""
    if balance.available is False:
        return t("There is money, but DeepSeek says it is not available for requests.")
    return t(
        "There is money, but not enough for this, or spent already: the figure lags by minutes."
    )


def _balance_rows(balance: Balance | None, name: str) -> list[tuple[str, str]]:
    """Tell the amounts of every currency, the account's own first."""
    if balance is None or not balance.infos:
        return [(name, t("unknown"))]
    infos = sorted(balance.infos.values(), key=lambda info: info.currency != balance.currency)
    names = [name] if len(infos) == 1 else [f"{name} {info.currency}" for info in infos]
    told = [_amounts(info) for info in infos]
    left, first = balance.effective, infos[0]
    if left is not None and first.currency == balance.currency and left != first.total:
        # What was spent since the reading is not in its figures.
        amount = at_least(left, first.currency)
        told[0] = t("{money}; when it was read, {amounts}", money=amount, amounts=told[0])
    return list(zip(names, told, strict=True))


def _amounts(info: BalanceInfo) -> str:
    total = at_least(info.total, info.currency)
    if info.granted is None and info.topped_up is None:
        return total
    granted, topped_up = at_least(info.granted, None), at_least(info.topped_up, None)
    return t(
        "{total} (granted {granted}, topped up {topped_up})",
        total=total,
        granted=granted,
        topped_up=topped_up,
    )


# Waiting for a top-up


def look_line(look: Look) -> str:
    """Tell in one line what a *look* found, since when it is waited, and when it is looked next."""
    return " · ".join(
        [
            t("Waiting for a top-up since {time}", time=clock_time(look.since, look.at)),
            _found(look),
            t("next look in {time}", time=_soon(look.pause)),
            t("until {time}", time=clock_time(look.until, look.at)),
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
    time = clock_time(begins, now)
    mine, its = (usual.likely if usual else None for usual in (cost, then))
    if mine is None or its is None or its >= mine:
        return t(
            "Waiting for off-peak hours: from {time} (in {wait}). Until then nothing is sent; "
            "interrupting it ends the waiting.",
            time=time,
            wait=wait,
        )
    return t(
        "Waiting for off-peak hours: from {time} (in {wait}), then about {less} instead of "
        "{more}. Interrupting it ends the waiting.",
        time=time,
        wait=wait,
        less=money(its, currency),
        more=money(mine, currency),
    )


def _found(look: Look) -> str:
    at = f"{look.at.astimezone():%H:%M:%S}"
    if look.balance is None:
        said = t("the balance could not be read at {time}", time=at)
        if not look.problem:
            return said
        return t("{what}: {why}", what=said, why=one_line(look.problem, 200).rstrip(".。"))
    left = at_least(look.balance.effective, look.balance.currency)
    if look.balance.effective and look.balance.available is False:
        return t("{money}, not available for requests, at {time}", money=left, time=at)
    if look.balance.effective is None:
        return t("balance unknown at {time}", time=at)
    return t("{money} at {time}", money=left, time=at)


def _soon(seconds: float) -> str:
    whole = max(round(seconds), 1)
    return t("{n} s", n=whole) if whole < MINUTE else duration(whole)


def waited(look: Look | None) -> str:
    """Say that waiting has ended without a top-up, and how to go on."""
    if look is None:
        said = t("Waited, and no money came.")
    else:
        time = _in_hours((look.until - look.since).total_seconds())
        said = t("Waited for {time}, and no money came.", time=time)
    return sentences(
        said,
        t("The waiting has ended and nothing was sent."),
        t("Top up, then re-run the cell, or wait again."),
    )


def _in_hours(seconds: float) -> str:
    hours = round(seconds / 3600)
    return t("{n:,} hours", n=hours) if hours >= 2 else duration(seconds)


def checked(balance: Balance, *, waits: bool = False) -> str:
    """Say what a look at the *balance* found, on the user's request; *waits*: the cell does so."""
    left = at_least(balance.effective, balance.currency)
    if balance.effective is None:
        return t("DeepSeek gave no figure. Try again in a minute.")
    if not balance.effective:
        return t("Still empty: {money}. A top-up can take a minute to arrive.", money=left)
    if balance.available is False:
        return t("{money}, but DeepSeek says it is not available for requests yet.", money=left)
    then = t("The cell runs by itself.") if waits else t("Re-run the cell.")
    return sentences(t("{money} now.", money=left), then)


def not_arrived(balance: Balance | None) -> tuple[str, ...]:
    """Say what it usually is when a top-up does not arrive, the likeliest by the reading first."""
    return (
        *_by_reading(balance),
        t("The payment may still be pending, or it may have failed."),
        t("The money may have gone to another account than the one whose key is used here."),
        t("DeepSeek's figure can lag by some minutes."),
    )


def _by_reading(balance: Balance | None) -> Iterator[str]:
    if balance is None:
        yield t("The balance could not be read, so the money may be there already.")
        return
    if (split := _other_money(balance)) is not None:
        yield split
    if balance.available is False and balance.effective:
        yield t("There is money, but DeepSeek answers “available: false”: it is not released yet.")
    elif balance.effective:
        left = at_least(balance.effective, balance.currency)
        yield t(
            "DeepSeek shows {money} and still refused: that may be too little, or spent already.",
            money=left,
        )
    elif balance.spent_since:
        spent = money(balance.spent_since, balance.currency)
        yield t(
            "The last figure is used up: {money} was spent and is not settled yet.", money=spent
        )


def _other_money(balance: Balance) -> str | None:
    """Tell of money in one currency beside an empty other one."""
    full = [info for info in balance.infos.values() if info.total]
    empty = [info.currency for info in balance.infos.values() if info.total == 0]
    if not full or not empty:
        return None
    return t(
        "The money is in the other currency: {there}, but {none}. Top up the empty one.",
        there=_sums([at_least(info.total, info.currency) for info in full]),
        none=_sums([money(Decimal(0), currency) for currency in empty]),
    )


def _sums(amounts: Sequence[str]) -> str:
    """Write amounts of several currencies after one another."""
    return t(" and ").join(amounts)


def status_html(line: str, reasons: Sequence[str] = (), address: str = "") -> str:
    """Make the status below the buttons: *line*, then *reasons*, then a link to the billing page.

    All of it is escaped.
    """
    if not reasons:
        return outer(_STATUS, line) if line else ""
    page = link(t("The billing page"), address, "color:inherit;text-decoration:underline")
    look = el("li", "", page, t(" tells whether the payment went through."))
    return outer(
        _STATUS,
        line,
        el("div", "margin-top:.4em", t("If you have topped up, this is what it usually is:")),
        el("ul", LIST, *(el("li", "", reason) for reason in reasons), look),
    )


# The balance


def balance_shown(facts: BalanceFacts) -> Shown:
    """Show the balance, how old it is, what was spent, and the state in word and colour."""
    balance = facts.balance
    left = None if balance is None else balance.effective
    rows, line = _fact_rows(facts), _line_of_days(facts)
    head = t("Balance unknown")
    if balance is not None and left is not None:
        head = t("{money} left", money=at_least(left, balance.currency))
    state, sandbox = t(_STATES[facts.state]), t("sandbox")
    states = [state, sandbox] if facts.sandbox else [state]
    badge = el("span", f"{BADGE};background:{_COLOURS[facts.state]}", state)
    place = el("span", f"{BADGE};background:#0550ae", sandbox) if facts.sandbox else Markup()
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
                t(
                    "{head} ({state})",
                    head=head,
                    state=listed(states),
                ),
                aligned([*rows, (t("Days"), line.text), (t("Top up"), facts.top_up_url)]),
            ]
        ),
    )


_STATES: Mapping[State, str] = MappingProxyType(
    {
        "fine": later("fine"),
        "low": later("low"),
        "empty": later("empty"),
        "unavailable": later("unavailable"),
        "unknown": later("unknown"),
    }
)


def _fact_rows(facts: BalanceFacts) -> list[tuple[str, str]]:
    balance, currency = facts.balance, facts.balance.currency if facts.balance else None
    return [
        *(_balance_rows(balance, t("Account")) if balance else ()),
        (t("Read"), _age(balance, facts.now)),
        (t("Problem"), facts.problem or ""),
        (t("Since then"), _unsettled(balance)),
        (t("This session"), _spent(facts.spent_session) or _spent_money(Decimal(0), currency)),
        (t("Today"), _spent(facts.spent_today)),
        (t("Lasts"), _rough(facts.lasts)),
        (t("Hours"), _hours(facts)),
        (t("Waiting"), listed(facts.waiting)),
        *((t("Note"), note) for note in facts.notes),
    ]


def _age(balance: Balance | None, now: datetime) -> str:
    if balance is None or balance.read_at is None:
        return t("not yet")
    # The moment stays true while the display stands; an age would not.
    seconds = (now - balance.read_at).total_seconds()
    at = moment(balance.read_at)
    if seconds < MINUTE:
        return at
    return t("{time} ({age} old when shown)", time=at, age=duration(seconds))


def _unsettled(balance: Balance | None) -> str:
    if balance is None or not balance.spent_since:
        return ""
    spent = money(balance.spent_since, balance.currency)
    return t("{money} spent and not settled", money=spent)


def _spent(amounts: Mapping[str, Decimal]) -> str:
    sums = [money(value, currency) for currency, value in sorted(amounts.items()) if value]
    return t("{money} spent", money=_sums(sums)) if sums else ""


def _spent_money(amount: Decimal, currency: str | None) -> str:
    return t("{money} spent", money=money(amount, currency))


def _rough(time: timedelta | None) -> str:
    if time is None:
        return ""
    if time.days > 365:
        return t("more than a year at this rate")
    days = in_days(time.days) if time.days > 1 else duration(time.total_seconds())
    return t("about {time} at this rate", time=days)


def _hours(facts: BalanceFacts) -> str:
    """Tell the hours with the moment of their end, which stays true while the display stands."""
    if facts.changes is None:
        return ""
    return t(
        "peak until {time}, then off-peak"
        if facts.band == "peak"
        else "off-peak until {time}, then peak",
        time=week_time(facts.changes, facts.now),
    )


def _line_of_days(facts: BalanceFacts) -> Shown:
    if facts.balance is None or facts.balance.currency is None:
        return Shown("", "")
    return chart.line(facts.days, facts.balance.currency, facts.now.astimezone().date())
