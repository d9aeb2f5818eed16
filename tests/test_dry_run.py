"""A dry run tells what a question would cost and what would be sent, as HTML and as text."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic import limits, preflight, prices
from deepseek_magic.dry_run import (
    FIRST,
    HEAD,
    HEAD_LINES,
    LAST,
    TAIL,
    TAIL_LINES,
    shown,
    without_account,
)
from deepseek_magic.elements import Shown
from deepseek_magic.errors import InsufficientBalance
from deepseek_magic.estimate import Estimate, estimate
from deepseek_magic.ledger import Past
from deepseek_magic.limits import Facts, Preview
from deepseek_magic.wire import Balance, BalanceInfo, Message, Request, question
from test_render import EVIL, Page

CALM = datetime(2026, 11, 21, 2, tzinfo=UTC)  # a Saturday
PEAK = CALM - timedelta(days=1)
PAST = Past(number=24, low=500, likely=1000, high=2000, kind="answers of this kind and length")
NO_PRICE: dict[str, Any] = {"model": "v9"}


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the reader's clock be that of a known place."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def holding(amount: str, *, available: bool = True, at: datetime = CALM) -> Balance:
    return Balance(available, {"CNY": BalanceInfo("CNY", Decimal(amount))}, at)


def guess(
    request: Request, at: datetime, past: Past | None, currency: str | None = "CNY"
) -> Estimate:
    return estimate(request, prices.price(request.model, currency, at), past)


def _shorter(request: Request, past: Past | None) -> Past | None:
    """Let answers without thinking be shorter."""
    if past is None or request.thinks:
        return past
    return replace(past, low=past.low // 2, likely=past.likely // 2, high=past.high // 2)


def preview(
    *, at: datetime = CALM, past: Past | None = PAST, request: Request | None = None, **more: Any
) -> Preview:
    """Give what is known of a question that usually costs 0.004 CNY, with what else is said."""
    money = ("currency", "balance", "budget", "day_limit", "day_left")
    known: dict[str, Any] = {"currency": "CNY", **{n: more.pop(n) for n in money if n in more}}
    asked = request or question("Why is the sky blue?", **{"think": "off", **more})
    price = prices.price(asked.model, known["currency"], at)
    facts = Facts(
        request=asked,
        estimate=guess(asked, at, past, known["currency"]),
        at=at,
        dear=price,
        **known,
    )
    changes, _ = prices.next_change(at)
    return Preview(
        request=limits.bounded(facts),
        estimate=facts.estimate,
        band=prices.band(at),
        changes=changes,
        other=guess(asked, changes, past, facts.currency),
        balance=facts.balance,
        currency=facts.currency,
        covers=limits.covers(facts.balance, facts.estimate),
        budget=facts.budget,
        day_limit=facts.day_limit,
        day_left=facts.day_left,
        refusal=limits.refusal(facts),
        steps=limits.cheaper(facts, lambda other, when: guess(other, when, _shorter(other, past))),
    )


def both(request: Request, past: Past | None = PAST) -> dict[str, Estimate]:
    """Give the estimates in both currencies."""
    return {currency: guess(request, CALM, past, currency) for currency in ("CNY", "USD")}


def words(one: Shown) -> tuple[str, str]:
    """Give the words of both forms, with single spaces."""
    return re.sub(" ([.:,])", r"\1", Page(one.html).words), " ".join(one.text.split())


# -- what it tells ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (
            {"balance": holding("4.20")},
            [
                r"Would cost about 0\.004 CNY \(0\.002 to 0\.0081\), at most 1\.58\. ",
                r"Nothing was sent\.",
                r"would be sent",
                r"Model deepseek-flash, no thinking",
                r"Settings no max_tokens",
                r"Tokens in about \d+ \(\d+ to \d+\), (counted|estimated)",
                r"Tokens out about 1,000 \(500 to 2,000\), at most 393,216",
                r"Reckoned 24 answers of this kind and length mostly took 500 to 2,000 tokens",
                r"Hours off-peak until 2026-11-23 02:00 \(09:00 in Beijing\)",
                r"Then peak: about 0\.008",
                r"Balance 4\.20 CNY left, read at 03:00; covers about 1,000 questions like this",
            ],
        ),
        (
            {"past": None},
            [
                r"Would cost between 0\.0000\d+ and 1\.58 CNY: no answer of this kind is known yet",
                r"Tokens out unknown, at most 393,216",
                r"Balance unknown",
            ],
        ),
        (
            {"max_tokens": 2000},
            [r"at most 0\.00\d+\. Nothing", r"max_tokens 2,000 ", r"at most 2,000", r"ends it at"],
        ),
        (
            NO_PRICE,
            [
                r"Unpriced: the price of 'v9' in CNY is not known\. Nothing was sent\.",
                r"Price not known; set it: %deepseek prices --set v9 CNY HIT MISS OUT",
            ],
        ),
        (
            {"budget": Decimal("0.05")},
            [
                r"at most 0\.05\. ",
                r"max_tokens 12,\d\d\d \(set by the budget\)",
                r"\(500 to 2,000\), at most 12,\d\d\d",
                r"the budget ends it at 12,\d\d\d",
                r"Budget 0\.05 CNY left",
            ],
        ),
        (
            {"budget": Decimal("0.05"), "day_limit": Decimal(5), "day_left": Decimal("0.02")},
            [r"at most 0\.02\. ", r"set by the day's limit", r"Today 0\.02 of 5\.00 CNY left"],
        ),
        (
            {"budget": Decimal("0.001")},
            [
                r"would not be sent",
                r"Check This question usually costs about 0\.004 CNY, and its budget has 0\.001",
                r"Settings no max_tokens",
            ],
        ),
        (
            {"balance": holding("0.0123")},
            [r"0\.012 CNY left, read at 03:00; covers about 3 questions like this"],
        ),
        ({"balance": holding("0.005")}, [r"covers 1 question like this"]),
        ({"balance": holding("0.001")}, [r"would not be sent", r"not enough for one question"]),
        (
            {"balance": holding("0")},
            [
                r"would probably be refused",
                r"the account is empty; that costs nothing",
                r"0\.00 CNY left, read at 03:00 ",
            ],
        ),
        (
            {"balance": holding("3", available=False)},
            [r"would probably be refused", r"not available for requests"],
        ),
        ({"balance": Balance(None, {}, None)}, [r"Balance unknown", r"would be sent"]),
        (
            {"day_limit": Decimal(5), "day_left": Decimal(-1)},
            [r"Today 0\.00 of 5\.00 CNY left", r"would not be sent"],
        ),
        (
            {"at": PEAK, "model": "pro", "think": "high"},
            [
                r"deepseek-v4-pro, thinking high",
                r"Hours peak until 05:00 \(12:00 in Beijing\)",
                r"Then off-peak: about ",
                r"Cheaper: ",
                r"instead of \d.*: -m flash",
                r": --think off",
                r": --off-peak",
            ],
        ),
        (
            {
                "think": None,
                "temperature": 0.5,
                "top_p": 0.9,
                "json": True,
                "stop": ["a", "b", "c", "d", "e"],
            },
            [
                r"thinking as the API sets it",
                r"temperature 0\.5, top_p 0\.9, JSON, stop at 'a' or 'b' or 'c' or 'd' and 1 more",
                r"Note temperature has no effect while the model thinks",
            ],
        ),
    ],
    ids=lambda value: ", ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_is_told(known: dict[str, Any], told: list[str]) -> None:
    """The facts stand in the HTML and in the text, in the same words."""
    one = shown(preview(**known), known.get("at", CALM))

    for form in words(one):
        for pattern in told:
            assert re.search(pattern, form), pattern


def test_the_range_is_rounded_outwards() -> None:
    """What is shown as the least and the most holds for the exact figures too."""
    one = preview(max_tokens=1777, past=replace(PAST, low=333, likely=777, high=1333))
    found = re.search(r"\(([\d.]+) to ([\d.]+)\), at most ([\d.]+)\.", shown(one, CALM).text)

    assert found is not None
    low, high, most = map(Decimal, found.groups())
    usual, worst = one.estimate.cost, one.estimate.worst
    assert usual is not None
    assert worst is not None
    assert low <= usual.low < usual.high <= high <= most
    assert worst <= most < worst * Decimal("1.1")


def test_what_is_not_known_is_not_told() -> None:
    """Without limits, cheaper ways and remarks there are no rows of them."""
    for form in words(shown(preview(), CALM)):
        for word in ("Budget", "Today", "Cheaper", "Note", "Price", "0.00 CNY", "None"):
            assert word not in form


def test_the_same_price_at_all_hours() -> None:
    """Where the hours do not matter, it says so."""
    one = preview()

    told = shown(replace(one, other=one.estimate), CALM)

    assert "peak, at the same price" in told.text


def test_a_worst_case_of_the_hours_to_come() -> None:
    """The most is said to be that of the peak hours where they begin soon."""
    one = preview()
    soon = replace(one, estimate=replace(one.estimate, worst=one.other.worst))

    assert "a long answer may reach these hours" in shown(soon, CALM).text
    assert "a long answer may reach these hours" not in shown(one, CALM).text


def test_a_limit_bounds_the_other_hours_too() -> None:
    """No figure passes the limit that bounds the answer."""
    one = shown(preview(budget=Decimal("0.005"), past=replace(PAST, likely=600)), CALM)

    figures = [Decimal(n) for n in re.findall(r"(?:at most|to) (0\.\d+)", one.text)]
    assert figures
    assert max(figures) == Decimal("0.005")


def test_sent_anyway() -> None:
    """With --anyway the check is told, does not count, and nothing is shortened."""
    refused = preview(budget=Decimal("0.001"))

    for form in words(shown(refused, CALM, anyway=True)):
        assert "would be sent, as --anyway passes over this: This question usually" in form
        assert "would not be sent" not in form
        assert "set by" not in form


def test_a_remark_stands_once() -> None:
    """Remarks of the caller's stand beside those on the settings, and none twice."""
    one = preview(think=None, temperature=0.5)
    said = preflight.remarks(one.request)

    for form in words(shown(one, CALM, remarks=[*said, "Something else."])):
        assert form.count(said[0]) == 1
        assert "Note Something else." in form


def test_in_beijing_the_time_stands_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader in Beijing is told one time."""
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()

    assert "off-peak until 2026-11-23 09:00, Beijing time" in shown(preview(), CALM).text


def test_another_day_in_beijing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is another day in Beijing, the day is named."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()

    assert "2026-11-22 17:00 (Mon 09:00 in Beijing)" in shown(preview(), CALM).text


# -- without a currency, without a key ---------------------------------------------------------


def test_the_currency_is_not_known() -> None:
    """While the account's currency is not known, the cost stands in each that it may be."""
    one = preview(currency=None)

    for form in words(shown(one, CALM, estimates=both(one.request))):
        assert re.search(r"Would cost about 0\.004 CNY or about 0\.000\d+ USD\. Nothing", form)
        assert re.search(r"In CNY about 0\.004 CNY \(0\.002 to 0\.0081\), at most 1\.58", form)
        assert re.search(r"In USD about 0\.000", form)
        assert "Unpriced" not in form


def test_no_currency_and_no_estimates() -> None:
    """Where even that is missing, the cost is unknown, not zero."""
    assert shown(preview(currency=None), CALM).text.startswith(
        "Cost unknown: the account's currency could not be read. Nothing was sent."
    )


@pytest.mark.parametrize("past", [PAST, None], ids=["known", "unknown"])
def test_without_a_key(past: Past | None) -> None:
    """Without a key both currencies are shown, and how to set one."""
    request = question("Why?", think="off")

    one = without_account(request, both(request, past), CALM, remarks=["Mind this."])

    for form in words(one):
        assert re.search(r"Would cost (about|between) 0\.0.* CNY or .* USD", form)
        assert ("no answer of this kind is known yet. Nothing" in form) == (past is None)
        assert "No key is set, so the balance is not known: %deepseek login" in form
        assert "Hours off-peak until 2026-11-23 02:00" in form
        assert "Note Mind this." in form
        assert "user" in form
        assert "Check" not in form


def test_without_a_key_or_a_price() -> None:
    """An unknown model is unpriced, and can be priced."""
    request = question("Why?", **NO_PRICE)

    text = without_account(request, both(request), CALM).text

    assert text.startswith("Unpriced: the price of 'v9' is not known. Nothing was sent.")
    assert "%deepseek prices --set v9 CNY HIT MISS OUT" in text


# -- the messages ------------------------------------------------------------------------------


def asking(*contents: str) -> Preview:
    messages = tuple(Message("user", content) for content in contents)
    return preview(request=Request(messages, think="off"))


def test_every_message_stands_folded_with_its_role_and_length() -> None:
    """Each message is there as it would be sent, folded in the page."""
    one = shown(preview(request=question("Why?\nAnd how?", system="Be brief.", think="off")), CALM)

    assert Page(one.html).tags.count("details") == 2
    assert " open" not in one.html
    for form in words(one):
        assert re.search(r"system .*9 characters.* Be brief\.", form)
        assert re.search(r"user .*13 characters, 2 lines.* Why\? And how\?", form)
    assert "\n    Why?\n    And how?" in one.text


def test_a_long_message_is_cut_in_the_middle() -> None:
    """Of a long message both ends are shown, and how much is not."""
    text = "a" * HEAD + "b" * 1_000_000 + "c" * TAIL

    one = shown(asking(text), CALM)

    for form in words(one):
        assert "1,000,000 characters in between not shown here; they would be sent" in form
        assert "1,003,000 characters" in form
        assert "a" * HEAD in form
        assert "c" * TAIL in form
        assert "bb" not in form


def test_a_message_of_many_lines_is_cut_in_the_middle() -> None:
    """Many short lines fill no screen; the figure of what is not shown is exact."""
    lines = [f"line {n:04}\n" for n in range(200)]

    one = shown(asking("".join(lines)), CALM)

    left_out = len("".join(lines[HEAD_LINES:-TAIL_LINES]))
    for form in words(one):
        assert f"{left_out:,} characters in between not shown here" in form
        assert f"line {HEAD_LINES - 1:04}" in form
        assert f"line {HEAD_LINES:04}" not in form
        assert f"line {200 - TAIL_LINES:04}" in form
        assert f"line {199 - TAIL_LINES:04}" not in form


def test_a_message_that_just_fits_is_whole() -> None:
    """Nothing is left out of what is as long as is shown."""
    one = shown(asking("a" * (HEAD + TAIL)), CALM)

    assert "a" * (HEAD + TAIL) in one.text
    assert "not shown" not in one.text


def test_a_long_conversation_is_cut_in_the_middle() -> None:
    """Of many messages the first and the last are shown, and how many are not."""
    one = shown(asking(*(f"turn {n}" for n in range(FIRST + 50 + LAST))), CALM)

    assert Page(one.html).tags.count("details") == FIRST + LAST
    for form in words(one):
        assert "50 messages in between, with 342 characters, not shown here" in form
        assert "turn 1 " in form
        assert f"turn {FIRST} " not in form
        assert f"turn {FIRST + 50} " in form


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("a\u202eb\u2066c", "a⟨U+202E⟩b⟨U+2066⟩c"),
        ("a\u200bb\ufeff\xad", "a⟨U+200B⟩b⟨U+FEFF⟩⟨U+00AD⟩"),
        ("x\U000e0041\U000e0042", "x⟨U+E0041⟩⟨U+E0042⟩"),
        ("x\ufe00\u200d\u200c", "x⟨U+FE00⟩⟨U+200D⟩⟨U+200C⟩"),
        ("☀\ufe0f\ufe01", "☀\ufe0f⟨U+FE01⟩"),
        ("a\x1b[31m\x00\x9b", "a␛[31m␀⟨U+009B⟩"),
        ("half \ud800", "half ⟨U+D800⟩"),
        (
            "☀\ufe0f 1\ufe0f\u20e3 👩\u200d🚀 می\u200cخواهم",
            "☀\ufe0f 1\ufe0f\u20e3 👩\u200d🚀 می\u200cخواهم",
        ),
    ],
    ids=["direction", "blank", "tags", "joiners", "selectors", "controls", "half", "meant"],
)
def test_nothing_in_a_message_is_hidden(text: str, visible: str) -> None:
    """Characters that cannot be seen stand as their numbers; what shapes others is left."""
    one = shown(asking(text), CALM)

    assert visible in Page(one.html).text
    assert f"    {visible}" in one.text


# -- hostile texts, any page -------------------------------------------------------------------


def test_every_foreign_text_is_escaped() -> None:
    """Whatever the prompt, the model's name, the account or an error say, no tag is made."""
    evil = Balance(None, {EVIL: BalanceInfo(EVIL, Decimal(1))}, CALM)
    request = Request(
        (Message("user", EVIL), Message(EVIL, "x")),  # type: ignore[arg-type]  # a hostile role
        model=EVIL,
        stop=(EVIL,),
    )
    one = replace(
        preview(request=request, currency=EVIL, balance=evil),
        steps=(EVIL, f"Cheaper: --{EVIL}"),
        refusal=InsufficientBalance(EVIL),
    )
    estimates = {name: guess(request, CALM, PAST, name) for name in (EVIL, "x")}

    for told in (
        shown(one, CALM, remarks=[EVIL]),
        shown(one, CALM, anyway=True),
        without_account(request, estimates, CALM, remarks=[EVIL]),
    ):
        page = Page(told.html)
        assert "script" not in page.tags
        assert not any(name.startswith("on") for name in page.attributes)
        assert "alert(" in page.text
        assert "\x1b" not in told.html + told.text


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text())
def test_any_prompt_is_shown(prompt: str, system: str) -> None:
    """Any text gives well-formed HTML, and both forms can be sent as UTF-8."""
    one = shown(preview(request=question(prompt, system=system, think="off")), CALM)

    Page(one.html)
    (one.html + one.text).encode()


def test_a_page_of_any_colour() -> None:
    """No colour is set but white on a badge of its own; nothing is hidden and nothing is loaded."""
    one = shown(preview(at=PEAK, model="pro", budget=Decimal("0.0001")), PEAK)
    page = Page(one.html)

    colours = {
        colour for style in page.styles for colour in re.findall(r"(?<![-\w])color:([^;]+)", style)
    }
    assert colours <= {"#fff", "inherit"}
    for style in page.styles:
        assert ("color:#fff" in style) == ("background:#" in style)
        assert "display:none" not in style
    assert not page.links
    assert "src" not in page.attributes


def test_what_can_be_pasted_is_set_off() -> None:
    """The flags of cheaper ways, and commands, stand in <code>."""
    dear = shown(preview(at=PEAK, model="pro", think="high"), PEAK).html
    unpriced = shown(preview(**NO_PRICE), CALM).html
    found = [re.sub("<[^>]+>", "", one) for one in re.findall("<code.*?</code>", dear + unpriced)]

    assert found == [
        "-m flash",
        "--think off",
        "--off-peak",
        "%deepseek prices --set v9 CNY HIT MISS OUT",
    ]
