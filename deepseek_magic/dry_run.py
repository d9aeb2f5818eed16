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
    el,
    in_characters,
    in_pictures,
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
from .words import later, listed, sentences, t, tn

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
                (t("Check"), verdict.text if verdict.text != verdict.badge else ""),
                *_what(request, guess, bound),
                *_reckoned(guess, bound),
                *_by_currency(known),
                (t("Price"), _price_to_set(guess.model, preview.currency, known)),
                *_hours(preview.band, preview.changes, at),
                (t("Then"), _then(preview, bound)),
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
            verdict=_Verdict(t("no key is set"), "", _GREY),
            rows=[
                *_what(request, known[0], None),
                *_reckoned(known[0], None),
                *_by_currency(known),
                (t("Price"), _price_to_set(request.model, None, known)),
                *_hours(band(at), changes, at),
                (t("Balance"), t("No key is set, so the balance is not known: %deepseek login")),
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
    of_day: bool


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
    return _Bound(tokens, min(known), of_day)


def _what(request: Request, guess: Estimate, bound: _Bound | None) -> Iterator[tuple[str, str]]:
    yield (
        t("Model"),
        t(", ").join([one_line(request.model, 100), _thinking(request)]),
    )
    yield t("Settings"), listed(list(_settings(request, guess, bound)))
    yield t("Pictures"), _pictures(request)


def _thinking(request: Request) -> str:
    if not request.thinks:
        return t("no thinking")
    if request.think:
        return t("thinking {level}", level=request.think)
    return t("thinking as the API sets it")


def _pictures(request: Request) -> str:
    """Tell what each picture is; a row without words is left out."""
    shown = [one_line(image.summary, 100) for image in request.images[:_IMAGES]]
    more = len(request.images) - len(shown)
    return "; ".join([*shown, t("and {n} more", n=more)] if more else shown)


def _settings(request: Request, guess: Estimate, bound: _Bound | None) -> Iterator[str]:
    if bound is not None:
        yield t(
            "max_tokens {n:,} (set by the day's limit)"
            if bound.of_day
            else "max_tokens {n:,} (set by the budget)",
            n=bound.tokens,
        )
    elif request.max_tokens is not None and guess.longest < LONGEST:
        yield f"max_tokens {guess.longest:,}"
    else:
        yield t("no max_tokens")
    for name in ("temperature", "top_p"):
        if (value := getattr(request, name)) is not None:
            yield f"{name} {value:g}"
    if request.json:
        yield "JSON"
    if request.stop:
        stops = [one_line(repr(stop), 40) for stop in request.stop[:_STOPS]]
        more = len(request.stop) - len(stops)
        at = t(" or ").join(stops)
        yield (
            t("stop at {stops} and {n} more", stops=at, n=more)
            if more
            else t("stop at {stops}", stops=at)
        )


def _reckoned(guess: Estimate, bound: _Bound | None) -> Iterator[tuple[str, str]]:
    tokens = guess.tokens_in
    how = t("counted, with what the API adds") if tokens.exact else t("estimated")
    yield (
        t("Tokens in"),
        t(", ").join([_about(tokens.low, tokens.likely, tokens.high), how]),
    )
    yield t("Tokens out"), _tokens_out(guess, bound)
    yield (
        t("Reckoned"),
        guess.reason
        if bound is None
        else t(
            "{reason}; the day's limit ends it at {n:,}"
            if bound.of_day
            else "{reason}; the budget ends it at {n:,}",
            reason=guess.reason,
            n=bound.tokens,
        ),
    )


def _tokens_out(guess: Estimate, bound: _Bound | None) -> str:
    longest = guess.longest if bound is None else bound.tokens
    if guess.tokens_out is None or guess.likely_out is None:
        return t("unknown, at most {n:,}", n=longest)
    low, high = (min(number, longest) for number in guess.tokens_out)
    likely = _about(low, min(guess.likely_out, longest), high)
    return t("{likely}, at most {n:,}", likely=likely, n=longest)


def _about(low: int, likely: int, high: int) -> str:
    if low == high:
        return f"{likely:,}"
    return t("about {likely:,} ({low:,} to {high:,})", likely=likely, low=low, high=high)


# What it would cost


def _headline(
    known: Sequence[Estimate], preview: Preview | None, bound: _Bound | None
) -> tuple[str, str]:
    """Give the cost, in each currency that may be the account's, and what else is to be said."""
    costs = [cost for guess in known if (cost := _cost(guess, bound)) is not None]
    if not costs:
        return _no_cost(known, preview)
    lead = t("Would cost {costs}", costs=t(" or ").join(cost for cost, _ in costs))
    if any(guess.cost is not None and guess.cost.likely is None for guess in known):
        return lead, t(": no answer of this kind is known yet.")
    return lead, t("{rest}.", rest=costs[0][1] if len(costs) == 1 else "")


def _no_cost(known: Sequence[Estimate], preview: Preview | None) -> tuple[str, str]:
    if not known:
        return t("Cost unknown"), t(": the account's currency could not be read.")
    model = one_line(known[0].model, 60)
    if preview and preview.currency:
        text = t(
            ": the price of {model!r} in {currency} is not known.",
            model=model,
            currency=one_line(preview.currency, 20),
        )
    else:
        text = t(": the price of {model!r} is not known.", model=model)
    return t("Unpriced"), text


def _cost(guess: Estimate, bound: _Bound | None) -> tuple[str, str] | None:
    """Write a cost, and its range; rounded outwards, so that the bill lies inside."""
    usual, worst = guess.cost, guess.worst
    if usual is None or worst is None:
        return None
    most = worst if bound is None else min(worst, bound.most)
    low, high = at_least(usual.low, None), money(min(usual.high, most), None, rounding=ROUND_UP)
    if usual.likely is None:
        dearest = money(most, guess.currency, rounding=ROUND_UP)
        return t("between {low} and {high}", low=low, high=dearest), ""
    likely = t("about {likely}", likely=money(usual.likely, guess.currency))
    bound_to = money(most, None, rounding=ROUND_UP)
    if low == high:
        return likely, t(", at most {most}", most=bound_to)
    return likely, t(" ({low} to {high}), at most {most}", low=low, high=high, most=bound_to)


def _by_currency(known: Sequence[Estimate]) -> Iterator[tuple[str, str]]:
    """Tell the whole range of each currency, where there are several."""
    for guess in known if len(known) > 1 else ():
        if (cost := _cost(guess, None)) is not None:
            currency = one_line(guess.currency or t("unknown"), 20)
            yield t("In {currency}", currency=currency), "".join(cost)


def _price_to_set(model: str, currency: str | None, known: Sequence[Estimate]) -> str:
    if not known or any(guess.price is not None for guess in known):
        return ""
    names = f"{one_line(model, 60)} {one_line(currency or 'CNY', 20)}"
    return t("not known; set it: %deepseek prices --set {names} HIT MISS OUT", names=names)


# When


def _hours(hours: Band, changes: datetime, at: datetime) -> Iterator[tuple[str, str]]:
    until = f"{clock_time(changes, at)}{_in_beijing(changes)}"
    yield t("Hours"), t("{hours} until {time}", hours=t(hours), time=until)


def _in_beijing(moment: datetime) -> str:
    """Give the time in Beijing beside that of the reader, the day where it is another."""
    here, there = moment.astimezone(), moment.astimezone(BEIJING)
    if here.utcoffset() == there.utcoffset():
        return t(", Beijing time")
    clock = f"{there:%H:%M}"
    if here.date() == there.date():
        return t(" ({time} in Beijing)", time=clock)
    return t(" ({day} {time} in Beijing)", day=t(_DAYS[there.weekday()]), time=clock)


_DAYS = (
    *(later("Mon"), later("Tue"), later("Wed"), later("Thu"), later("Fri")),
    *(later("Sat"), later("Sun")),
)


def _then(preview: Preview, bound: _Bound | None) -> str:
    """Tell what the same costs in the hours that follow."""
    name = "off-peak" if preview.band == "peak" else "peak"
    mine, its = preview.estimate.price, preview.other.price
    if mine is not None and its is not None and _figures(mine) == _figures(its):
        return t("{hours}, at the same price", hours=t(name))
    cost = _cost(preview.other, bound)
    if cost is None:
        return ""
    said = t("{hours}: {cost}", hours=t(name), cost="".join(cost))
    if not _reaches(preview):
        return said
    return t(
        "{said}; the most above is reckoned with it, as a long answer may reach these hours",
        said=said,
    )


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
        return _Verdict(t("would not be sent"), one_line(str(refusal)), _RED)
    text = t("would be sent")
    if refusal is not None:
        why = one_line(str(refusal))
        text = t("would be sent, as --anyway passes over this: {why}", why=why)
    if empty:
        both = t("{said}. {more}", said=text.rstrip(".。"), more=empty)
        return _Verdict(t("would probably be refused"), both, _RED)
    return _Verdict(t("would be sent"), text, _GREEN)


def _empty(balance: Balance | None) -> str:
    """Say why DeepSeek will probably refuse; "" where nothing is known to stand against it."""
    if balance is not None and balance.effective == 0:
        return t("DeepSeek will probably refuse it, for the account is empty; that costs nothing.")
    if balance is not None and balance.available is False:
        return t(
            "DeepSeek will probably refuse it, for the account is not available for requests; "
            "that costs nothing."
        )
    return ""


def _money_rows(preview: Preview, at: datetime) -> Iterator[tuple[str, str]]:
    yield t("Balance"), _balance(preview, at)
    if preview.budget is not None:
        left = _left(preview.budget, preview.currency)
        yield t("Budget"), t("{money} left", money=left)
    if preview.day_limit is None:
        return
    whole = money(preview.day_limit, preview.currency)
    if preview.day_left is None:
        yield t("Today"), t("of {money} an unknown part is left", money=whole)
    else:
        left = _left(preview.day_left, None)
        yield t("Today"), t("{left} of {all} left", left=left, all=whole)


def _left(value: Decimal, currency: str | None) -> str:
    return at_least(max(value, Decimal(0)), currency)


def _balance(preview: Preview, at: datetime) -> str:
    balance = preview.balance
    if balance is None or balance.effective is None:
        return t("unknown")
    left = t("{money} left", money=at_least(balance.effective, balance.currency))
    if balance.read_at:
        left = t("{left}, read at {time}", left=left, time=clock_time(balance.read_at, at))
    return left + (_covers(preview.covers) if balance.effective else "")


def _covers(number: int | None) -> str:
    """Say for how many questions it is enough, with two digits, and never too many."""
    if number is None:
        return ""
    if number == 0:
        return t("; not enough for one question like this")
    unit = 10 ** max(len(str(number)) - 2, 0)
    return tn(
        number // unit * unit,
        "; covers {n:,} question like this",
        "; covers about {n:,} questions like this",
    )


def _notes(request: Request, remarks: Sequence[str]) -> Iterator[tuple[str, str]]:
    for remark in dict.fromkeys((*ignored_settings(request), *remarks)):
        yield t("Note"), remark


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
    words = t(
        "[… {characters} in between not shown here; they would be sent …]",
        characters=in_characters(len(text) - len(head) - len(tail)),
    )
    return _visible(head).rstrip("\n"), words, _visible(tail)


def _size(message: Message) -> str:
    lines = len(message.content.splitlines())
    parts = [in_characters(len(message.content))]
    if lines > 1:
        parts.append(t("{n:,} lines", n=lines))
    if message.images:
        parts.append(in_pictures(len(message.images)))
    return listed(parts)


def _chosen(messages: Sequence[Message]) -> tuple[Sequence[Message], str, Sequence[Message]]:
    """Give the first messages, what is said of those between, and the last."""
    between = messages[FIRST:-LAST] if len(messages) > FIRST + LAST else ()
    if not between:
        return messages, "", ()
    words = tn(
        len(between),
        "[… {n:,} message in between, with {characters}, not shown here; they would be sent …]",
        "[… {n:,} messages in between, with {characters}, not shown here; they would be sent …]",
        characters=in_characters(sum(len(message.content) for message in between)),
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


NOTHING_SENT = later("Nothing was sent.")


def _html(sheet: _Sheet) -> Markup:
    first, between, last = _chosen(sheet.messages)
    return outer(
        f"{BOX};border-left-color:{sheet.verdict.colour}",
        el(
            "div",
            "line-height:1.6",
            el("span", "font-size:1.15em;font-weight:600", sheet.lead),
            f"{sentences(sheet.rest, t(NOTHING_SENT))} ",
            el("span", f"{BADGE};background:{sheet.verdict.colour}", sheet.verdict.badge),
        ),
        pairs((name, with_code(value)) for name, value in sheet.rows),
        cheaper(sheet.steps),
        el("div", "margin:.5em 0 .1em", t("What would be sent:")),
        *(_folded(message) for message in first),
        *([el("div", f"{_LEFT_OUT};margin:.2em 0", between)] if between else ()),
        *(_folded(message) for message in last),
    )


def _text(sheet: _Sheet) -> str:
    first, between, last = _chosen(sheet.messages)
    head = f"{sheet.lead}{sentences(sheet.rest, t(NOTHING_SENT))}"
    return "\n".join(
        [
            t("{head} ({state})", head=head, state=sheet.verdict.badge),
            aligned(sheet.rows),
            *cheaper_lines(sheet.steps),
            t("What would be sent:"),
            *(_plain(message) for message in first),
            *([between] if between else ()),
            *(_plain(message) for message in last),
        ]
    )
