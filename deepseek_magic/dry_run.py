"""What a question would cost and what would be sent, shown instead of sending it.

shown(preview, at)                       with the account's balance and limits
without_account(request, estimates, at)  where no key is set: in each currency
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from itertools import chain
from typing import TYPE_CHECKING

from .elements import (
    BADGE,
    BOX,
    QUIET,
    Markup,
    Shown,
    aligned,
    at_least,
    cheaper,
    cheaper_lines,
    clock_time,
    counted,
    el,
    money,
    one_line,
    outer,
    pairs,
    with_code,
)
from .estimate import LONGEST
from .markdown import to_terminal
from .preflight import remarks as ignored_settings
from .prices import BEIJING, band, next_change

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from .estimate import Estimate
    from .limits import Preview
    from .prices import Band, Price
    from .wire import Balance, Message, Request

HEAD, TAIL = 2000, 1000
"""Characters of a long message that are shown of its beginning and of its end."""
HEAD_LINES, TAIL_LINES = 30, 12
"""How many lines that may be."""
FIRST, LAST = 2, 18
"""How many messages of a long conversation are shown of its beginning and of its end."""
_STOPS = 4
_IMAGES = 12

# White letters are readable on each of these, whatever the page behind them.
_GREEN, _RED, _GREY = "#1a7f37", "#cf222e", "#57606a"
_TEXT = (
    "white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow:auto;margin:.3em 0 .6em;"
    "padding:.4em .7em;border-left:3px solid rgba(128,128,128,.4);background:transparent;"
    "color:inherit;font-size:.9em;line-height:1.4"
)
_LEFT_OUT = "opacity:.7;font-style:italic"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What would become of the question: in short on a badge, and in a sentence."""

    badge: str
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Everything a dry run tells, in words.

    *lead* is the cost, *rest* what else the headline says of it.
    """

    lead: str
    rest: str
    verdict: _Verdict
    rows: Sequence[tuple[str, str]]
    steps: Sequence[str]
    messages: Sequence[Message]


def shown(
    preview: Preview,
    at: datetime,
    *,
    remarks: Sequence[str] = (),
    estimates: Mapping[str, Estimate] | None = None,
    anyway: bool = False,
) -> Shown:
    """Show all that is known of a question that was not sent at the moment *at*.

    *remarks* stand beside those on settings that the API ignores. *estimates*, by
    currency, tell the cost while the account's own currency is not known. With
    *anyway* the checks are told and do not count.
    """
    bound = None if anyway or preview.refusal else _bound(preview)
    request = preview.request
    known = [preview.estimate] if preview.currency else list((estimates or {}).values())
    guess = known[0] if known else preview.estimate
    lead, rest = _headline(known, preview, bound)
    verdict = _verdict(preview, anyway=anyway)
    return _written(
        _Sheet(
            lead=lead,
            rest=rest,
            verdict=verdict,
            rows=[
                ("Check", verdict.text if verdict.text != verdict.badge else ""),
                *_what(request, guess, bound),
                *_reckoned(guess, bound),
                *_by_currency(known),
                ("Price", _price_to_set(guess.model, preview.currency, known)),
                *_hours(preview.band, preview.changes, at),
                ("Then", _then(preview, bound)),
                *_money_rows(preview, at),
                *_notes(request, remarks),
            ],
            steps=preview.steps,
            messages=request.messages,
        )
    )


def without_account(
    request: Request,
    estimates: Mapping[str, Estimate],
    at: datetime,
    *,
    remarks: Sequence[str] = (),
) -> Shown:
    """Show what *request* would cost in each currency, where no key tells the account.

    *estimates*, at least one, are those of the moment *at*.
    """
    known = list(estimates.values())
    lead, rest = _headline(known, None, None)
    changes, _ = next_change(at)
    return _written(
        _Sheet(
            lead=lead,
            rest=rest,
            verdict=_Verdict("no key is set", "", _GREY),
            rows=[
                *_what(request, known[0], None),
                *_reckoned(known[0], None),
                *_by_currency(known),
                ("Price", _price_to_set(request.model, None, known)),
                *_hours(band(at), changes, at),
                ("Balance", "No key is set, so the balance is not known: %deepseek login"),
                *_notes(request, remarks),
            ],
            steps=(),
            messages=request.messages,
        )
    )


# What would be sent


@dataclass(frozen=True, slots=True)
class _Bound:
    """The `max_tokens` that a limit sets, what the question then costs at most, and which limit."""

    tokens: int
    most: Decimal
    name: str


def _bound(preview: Preview) -> _Bound | None:
    """Tell how a limit shortens the answer; None where none does.

    The estimate is of the request as it was asked, so its longest answer tells
    the user's own `max_tokens`.
    """
    tokens, budget, day = preview.request.max_tokens, preview.budget, preview.day_left
    known = [left for left in (budget, day) if left is not None]
    if tokens is None or tokens >= preview.estimate.longest or not known:
        return None
    of_day = budget is None or (day is not None and day < budget)
    return _Bound(tokens, min(known), "the day's limit" if of_day else "the budget")


def _what(request: Request, guess: Estimate, bound: _Bound | None) -> Iterator[tuple[str, str]]:
    yield "Model", f"{one_line(request.model, 100)}, {_thinking(request)}"
    yield "Settings", ", ".join(_settings(request, guess, bound))
    yield "Pictures", _pictures(request)


def _thinking(request: Request) -> str:
    if not request.thinks:
        return "no thinking"
    return f"thinking {request.think}" if request.think else "thinking as the API sets it"


def _pictures(request: Request) -> str:
    """Tell what each picture is; a row without words is left out."""
    shown = [one_line(image.summary, 100) for image in request.images[:_IMAGES]]
    more = len(request.images) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _settings(request: Request, guess: Estimate, bound: _Bound | None) -> Iterator[str]:
    if bound is not None:
        yield f"max_tokens {bound.tokens:,} (set by {bound.name})"
    elif request.max_tokens is not None and guess.longest < LONGEST:
        yield f"max_tokens {guess.longest:,}"
    else:
        yield "no max_tokens"
    for name in ("temperature", "top_p"):
        if (value := getattr(request, name)) is not None:
            yield f"{name} {value:g}"
    if request.json:
        yield "JSON"
    if request.stop:
        stops = [one_line(repr(stop), 40) for stop in request.stop[:_STOPS]]
        more = len(request.stop) - len(stops)
        yield f"stop at {' or '.join(stops)}" + (f" and {more} more" if more else "")


def _reckoned(guess: Estimate, bound: _Bound | None) -> Iterator[tuple[str, str]]:
    tokens = guess.tokens_in
    how = "counted, with what the API adds" if tokens.exact else "estimated"
    yield "Tokens in", f"{_about(tokens.low, tokens.likely, tokens.high)}, {how}"
    yield "Tokens out", _tokens_out(guess, bound)
    ends = "" if bound is None else f"; {bound.name} ends it at {bound.tokens:,}"
    yield "Reckoned", guess.reason + ends


def _tokens_out(guess: Estimate, bound: _Bound | None) -> str:
    longest = guess.longest if bound is None else bound.tokens
    if guess.tokens_out is None or guess.likely_out is None:
        return f"unknown, at most {longest:,}"
    low, high = (min(number, longest) for number in guess.tokens_out)
    return f"{_about(low, min(guess.likely_out, longest), high)}, at most {longest:,}"


def _about(low: int, likely: int, high: int) -> str:
    return f"{likely:,}" if low == high else f"about {likely:,} ({low:,} to {high:,})"


# What it would cost


def _headline(
    known: Sequence[Estimate], preview: Preview | None, bound: _Bound | None
) -> tuple[str, str]:
    """Give the cost, in each currency that may be the account's, and what else is to be said."""
    costs = [cost for guess in known if (cost := _cost(guess, bound)) is not None]
    if not costs:
        return _no_cost(known, preview)
    lead = " or ".join(cost for cost, _ in costs)
    rest = costs[0][1] if len(costs) == 1 else ""
    if any(guess.cost is not None and guess.cost.likely is None for guess in known):
        rest = ": no answer of this kind is known yet"
    return f"Would cost {lead}", f"{rest}."


def _no_cost(known: Sequence[Estimate], preview: Preview | None) -> tuple[str, str]:
    if not known:
        return "Cost unknown", ": the account's currency could not be read."
    currency = f" in {one_line(preview.currency, 20)}" if preview and preview.currency else ""
    return "Unpriced", f": the price of {one_line(known[0].model, 60)!r}{currency} is not known."


def _cost(guess: Estimate, bound: _Bound | None) -> tuple[str, str] | None:
    """Write a cost, and its range; rounded outwards, so that the bill lies inside."""
    usual, worst = guess.cost, guess.worst
    if usual is None or worst is None:
        return None
    most = worst if bound is None else min(worst, bound.most)
    low, high = at_least(usual.low, None), money(min(usual.high, most), None, rounding=ROUND_UP)
    if usual.likely is None:
        return f"between {low} and {money(most, guess.currency, rounding=ROUND_UP)}", ""
    span = f" ({low} to {high})" if low != high else ""
    likely = money(usual.likely, guess.currency)
    return f"about {likely}", f"{span}, at most {money(most, None, rounding=ROUND_UP)}"


def _by_currency(known: Sequence[Estimate]) -> Iterator[tuple[str, str]]:
    """Tell the whole range of each currency, where there are several."""
    for guess in known if len(known) > 1 else ():
        if (cost := _cost(guess, None)) is not None:
            yield f"In {one_line(guess.currency or 'unknown', 20)}", "".join(cost)


def _price_to_set(model: str, currency: str | None, known: Sequence[Estimate]) -> str:
    if not known or any(guess.price is not None for guess in known):
        return ""
    names = f"{one_line(model, 60)} {one_line(currency or 'CNY', 20)}"
    return f"not known; set it: %deepseek prices --set {names} HIT MISS OUT"


# When


def _hours(hours: Band, changes: datetime, at: datetime) -> Iterator[tuple[str, str]]:
    yield "Hours", f"{hours} until {clock_time(changes, at)}{_in_beijing(changes)}"


def _in_beijing(moment: datetime) -> str:
    """Give the time in Beijing beside that of the reader, the day where it is another."""
    here, there = moment.astimezone(), moment.astimezone(BEIJING)
    if here.utcoffset() == there.utcoffset():
        return ", Beijing time"
    day = "" if here.date() == there.date() else f"{there:%a} "
    return f" ({day}{there:%H:%M} in Beijing)"


def _then(preview: Preview, bound: _Bound | None) -> str:
    """Tell what the same costs in the hours that follow."""
    name = "off-peak" if preview.band == "peak" else "peak"
    mine, its = preview.estimate.price, preview.other.price
    if mine is not None and its is not None and _figures(mine) == _figures(its):
        return f"{name}, at the same price"
    cost = _cost(preview.other, bound)
    if cost is None:
        return ""
    soon = "; the most above is reckoned with it, as a long answer may reach these hours"
    return f"{name}: {''.join(cost)}{soon if _reaches(preview) else ''}"


def _reaches(preview: Preview) -> bool:
    """Tell whether the worst case is reckoned at the price of the hours that follow."""
    mine, its = preview.estimate, preview.other
    dearer = mine.price is not None and its.price is not None and its.price.out > mine.price.out
    return dearer and mine.worst == its.worst


def _figures(price: Price) -> tuple[Decimal, Decimal, Decimal]:
    return price.hit, price.miss, price.out


# The account


def _verdict(preview: Preview, *, anyway: bool) -> _Verdict:
    refusal, empty = preview.refusal, _empty(preview.balance)
    if refusal is not None and not anyway:
        return _Verdict("would not be sent", one_line(str(refusal)), _RED)
    text = "would be sent"
    if refusal is not None:
        text = f"would be sent, as --anyway passes over this: {one_line(str(refusal))}"
    if empty:
        return _Verdict("would probably be refused", f"{text.rstrip('.。')}. {empty}", _RED)
    return _Verdict("would be sent", text, _GREEN)


def _empty(balance: Balance | None) -> str:
    """Say why DeepSeek will probably refuse; "" where nothing is known to stand against it."""
    if balance is not None and balance.effective == 0:
        return "DeepSeek will probably refuse it, for the account is empty; that costs nothing."
    if balance is not None and balance.available is False:
        return (
            "DeepSeek will probably refuse it, for the account is not available for requests; "
            "that costs nothing."
        )
    return ""


def _money_rows(preview: Preview, at: datetime) -> Iterator[tuple[str, str]]:
    yield "Balance", _balance(preview, at)
    if preview.budget is not None:
        yield "Budget", f"{_left(preview.budget, preview.currency)} left"
    if preview.day_limit is None:
        return
    whole = money(preview.day_limit, preview.currency)
    if preview.day_left is None:
        yield "Today", f"of {whole} an unknown part is left"
    else:
        yield "Today", f"{_left(preview.day_left, None)} of {whole} left"


def _left(value: Decimal, currency: str | None) -> str:
    return at_least(max(value, Decimal(0)), currency)


def _balance(preview: Preview, at: datetime) -> str:
    balance = preview.balance
    if balance is None or balance.effective is None:
        return "unknown"
    read = f", read at {clock_time(balance.read_at, at)}" if balance.read_at else ""
    left = f"{at_least(balance.effective, balance.currency)} left{read}"
    return left + (_covers(preview.covers) if balance.effective else "")


def _covers(number: int | None) -> str:
    """Say for how many questions it is enough, with two digits, and never too many."""
    if number is None:
        return ""
    if number == 0:
        return "; not enough for one question like this"
    unit = 10 ** max(len(str(number)) - 2, 0)
    about = "about " if number > 1 else ""
    return f"; covers {about}{counted(number // unit * unit, 'question')} like this"


def _notes(request: Request, remarks: Sequence[str]) -> Iterator[tuple[str, str]]:
    for remark in dict.fromkeys((*ignored_settings(request), *remarks)):
        yield "Note", remark


# Messages

_ZERO_WIDTH = "\u200b-\u200f\u2060-\u2064\ufeff"
_UNSEEN = re.compile(
    # Joiners shape letters of many scripts, and selectors shape emoji: one after a letter is meant.
    rf"(?<![^\x00-\xa0{_ZERO_WIDTH}\ufe00-\ufe0f])[\u200c\u200d\ufe00-\ufe0f](?!\u20e3)"
    r"|[\x80-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    r"\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def _visible(text: str) -> str:
    """Write characters that no page shows, or that turn its writing, as their numbers."""
    marked = _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
    return to_terminal(marked)


def _cut(text: str) -> tuple[str, str, str]:
    """Give the beginning of a text, what is said of its middle, and its end."""
    if len(text) <= HEAD + TAIL and len(text.splitlines()) <= HEAD_LINES + TAIL_LINES:
        return _visible(text), "", ""
    head = "".join(text[:HEAD].splitlines(keepends=True)[:HEAD_LINES])
    tail = "".join(text[-TAIL:].splitlines(keepends=True)[-TAIL_LINES:])
    left_out = counted(len(text) - len(head) - len(tail), "character")
    words = f"[… {left_out} in between not shown here; they would be sent …]"
    return _visible(head).rstrip("\n"), words, _visible(tail)


def _size(message: Message) -> str:
    lines = len(message.content.splitlines())
    parts = [counted(len(message.content), "character")]
    if lines > 1:
        parts.append(counted(lines, "line"))
    if message.images:
        parts.append(counted(len(message.images), "picture"))
    return ", ".join(parts)


def _chosen(messages: Sequence[Message]) -> tuple[Sequence[Message], str, Sequence[Message]]:
    """Give the first messages, what is said of those between, and the last."""
    between = messages[FIRST:-LAST] if len(messages) > FIRST + LAST else ()
    if not between:
        return messages, "", ()
    characters = counted(sum(len(message.content) for message in between), "character")
    words = (
        f"[… {counted(len(between), 'message')} in between, with {characters}, not shown here; "
        "they would be sent …]"
    )
    return messages[:FIRST], words, messages[-LAST:]


def _folded(message: Message) -> Markup:
    begin, words, end = _cut(message.content)
    middle = [el("div", f"{_LEFT_OUT};margin:.4em 0", words)] if words else []
    return el(
        "details",
        "margin:.2em 0",
        el(
            "summary",
            "cursor:pointer",
            el("b", "", one_line(message.role, 40)),
            el("span", QUIET, f" · {_size(message)}"),
        ),
        el("pre", _TEXT, begin, *middle, end),
    )


def _plain(message: Message) -> str:
    parts = (part for part in _cut(message.content) if part)
    lines = chain.from_iterable(part.split("\n") for part in parts)
    return "\n".join(
        [f"{one_line(message.role, 40)} ({_size(message)}):", *(f"    {line}" for line in lines)]
    )


# Putting it together


def _written(sheet: _Sheet) -> Shown:
    return Shown(html=_html(sheet), text=_text(sheet))


NOTHING_SENT = "Nothing was sent."


def _html(sheet: _Sheet) -> Markup:
    first, between, last = _chosen(sheet.messages)
    return outer(
        f"{BOX};border-left-color:{sheet.verdict.colour}",
        el(
            "div",
            "line-height:1.6",
            el("span", "font-size:1.15em;font-weight:600", sheet.lead),
            f"{sheet.rest} ",
            f"{NOTHING_SENT} ",
            el("span", f"{BADGE};background:{sheet.verdict.colour}", sheet.verdict.badge),
        ),
        pairs((name, with_code(value)) for name, value in sheet.rows),
        cheaper(sheet.steps),
        el("div", "margin:.5em 0 .1em", "What would be sent:"),
        *(_folded(message) for message in first),
        *([el("div", f"{_LEFT_OUT};margin:.2em 0", between)] if between else ()),
        *(_folded(message) for message in last),
    )


def _text(sheet: _Sheet) -> str:
    first, between, last = _chosen(sheet.messages)
    return "\n".join(
        [
            f"{sheet.lead}{sheet.rest} {NOTHING_SENT} ({sheet.verdict.badge})",
            aligned(sheet.rows),
            *cheaper_lines(sheet.steps),
            "What would be sent:",
            *(_plain(message) for message in first),
            *([between] if between else ()),
            *(_plain(message) for message in last),
        ]
    )
