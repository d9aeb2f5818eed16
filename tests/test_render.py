"""Facts become HTML and text that say the same and can be read anywhere."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic.client import Model
from deepseek_magic.elements import (
    Shown,
    above_widgets,
    aligned,
    clock_time,
    columns,
    duration,
    money,
    week_time,
    with_code,
)
from deepseek_magic.ledger import Pending
from deepseek_magic.prices import Price
from deepseek_magic.render import (
    BalanceFacts,
    Notice,
    answer_shown,
    balance_shown,
    checked,
    look_line,
    not_arrived,
    notice_shown,
    off_peak_line,
    quiet_line,
    status_html,
    text_shown,
    thinking_shown,
    waited,
    waiting_shown,
)
from deepseek_magic.tables import (
    models_shown,
    pending_shown,
    prices_shown,
    settings_shown,
)
from deepseek_magic.top_up import Look
from deepseek_magic.wire import (
    Answer,
    Balance,
    BalanceInfo,
    CostRange,
    Message,
    Request,
    State,
    Usage,
)
from deepseek_magic.words import VARIABLE

NOW = datetime(2026, 11, 22, 6, 53, 10, tzinfo=UTC)
TODAY = NOW.astimezone().date()
TOP_UP = "https://platform.deepseek.com/top_up"
EVIL = '<script>alert(\'x\')</script>" onload="x" \x1b[31m $x$ \\(y\\)'
VOID = ("br", "hr", "link")


class Page(HTMLParser):
    """The text, tags and links of some HTML, which must be closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.tags: list[str] = []
        self.links: list[dict[str, str | None]] = []
        self.attributes: set[str] = set()
        self.styles: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what a tag brings."""
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.styles += [value or "" for name, value in attrs if name == "style"]
        if tag == "a":
            self.links.append(dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check the order of the tags."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep the text, pieces apart."""
        self.text += f" {data}"

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())


def balance(total: str = "4.93", *, available: bool | None = True, spent: str = "0") -> Balance:
    """Give a balance in CNY that was read twelve seconds before NOW."""
    info = BalanceInfo("CNY", Decimal(total), Decimal(0), Decimal(total))
    return Balance(available, {"CNY": info}, NOW - timedelta(seconds=12), Decimal(spent))


def answer(**changes: Any) -> Answer:
    """Give an ordinary answer with some *changes*."""
    usual: dict[str, Any] = {
        "text": "It is *blue*.",
        "model": "deepseek-flash",
        "usage": Usage(1204, 356, 1024, 180, 120),
        "finish_reason": "stop",
        "cost": Decimal("0.00161"),
        "currency": "CNY",
        "seconds": 3.21,
    }
    return Answer(**{**usual, **changes})


def notice(**changes: Any) -> Notice:
    """Give the notice of an empty account with some *changes*."""
    usual: dict[str, Any] = {
        "what": "The account is empty; the question was not answered.",
        "at": NOW,
        "balance": balance("0.00", available=False),
        "likely_cost": CostRange(Decimal("0.0113"), Decimal("0.031"), Decimal("0.0123")),
        "currency": "CNY",
        "kept": None,
        "top_up_url": TOP_UP,
    }
    return Notice(**{**usual, **changes})


def facts(**changes: Any) -> BalanceFacts:
    """Give ordinary facts about a balance with some *changes*."""
    usual: dict[str, Any] = {
        "balance": balance(),
        "state": "fine",
        "spent_session": {},
        "now": NOW,
        "top_up_url": TOP_UP,
    }
    return BalanceFacts(**{**usual, **changes})


def two(cny: str, usd: str, **changes: Any) -> Balance:
    """Give a balance in two currencies."""
    infos = {
        "CNY": BalanceInfo("CNY", Decimal(cny), Decimal(0), Decimal(cny)),
        "USD": BalanceInfo("USD", Decimal(usd), Decimal(0), Decimal(usd)),
    }
    return Balance(**{"available": True, "infos": infos, "read_at": NOW, **changes})


def look(**changes: Any) -> Look:
    """Give a look that found an empty account, 50 minutes after the first, with some *changes*."""
    usual: dict[str, Any] = {
        "at": NOW,
        "balance": balance("0.00", available=False),
        "problem": None,
        "pause": 12.3,
        "since": NOW - timedelta(minutes=50),
        "until": NOW + timedelta(hours=23, minutes=10),
    }
    return Look(**{**usual, **changes})


def pending(**changes: Any) -> Pending:
    """Give a question that has waited for an hour, with some *changes*."""
    usual: dict[str, Any] = {
        "id": 71,
        "since": NOW - timedelta(hours=1),
        "notebook": "/work/a.ipynb",
        "cell": "c1",
        "text": "%%deepseek -t off\nWhy is the sky blue?\n",
        "asks": True,
    }
    return Pending(**{**usual, **changes})


def test_every_foreign_text_is_escaped() -> None:
    """Whatever comes from the API, the notebook or the user, no tag and no control is made."""
    evil = {EVIL: BalanceInfo(EVIL, Decimal(1), Decimal(1))}
    account = Balance(None, evil, NOW)
    price = Price(EVIL, EVIL, "peak", NOW, Decimal(1), Decimal(1), Decimal(1))
    hostile = answer(text=EVIL, reasoning=EVIL, model=EVIL, finish_reason=EVIL, currency=EVIL)

    pages = [
        answer_shown(hostile, quiet_line(hostile, Decimal(1), place=EVIL), thinking=True),
        text_shown(Answer(text=EVIL)),
        thinking_shown(EVIL, 1),
        notice_shown(notice(what=EVIL, balance=account, currency=EVIL, kept=EVIL, steps=(EVIL,))),
        notice_shown(notice(top_up_url=f"https://a.b/{EVIL}")),
        notice_shown(notice(top_up_url=EVIL)),
        balance_shown(facts(balance=account, problem=EVIL, waiting=(EVIL,), top_up_url=EVIL)),
        balance_shown(facts(spent_session={EVIL: Decimal(1)}, spent_today={EVIL: Decimal(1)})),
        models_shown([Model(id=EVIL, name=EVIL, input_modalities=(EVIL,))]),
        prices_shown([price], NOW, date(2026, 11, 15), EVIL),
        settings_shown(EVIL, [(EVIL, EVIL, EVIL)]),
        waiting_shown(EVIL),
        pending_shown([pending(text=EVIL, notebook=EVIL)], NOW, here=None),
        above_widgets(settings_shown(EVIL, []), EVIL, EVIL),
        Shown(status_html(look_line(look(balance=None, problem=EVIL)), (EVIL,), EVIL), ""),
        Shown(status_html("a", not_arrived(account), f"https://a.b/{EVIL}"), ""),
    ]

    for shown in pages:
        page = Page(shown.html)
        assert "script" not in page.tags
        assert not any(name.startswith("on") for name in page.attributes)
        assert "alert(" in page.text + str(page.links)
        assert "\x1b" not in shown.html + shown.text


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text())
def test_any_answer_is_shown(text: str, reasoning: str) -> None:
    """Any text of a model gives well-formed HTML that can be sent as UTF-8."""
    shown = answer_shown(Answer(text=text, reasoning=reasoning), "line", thinking=True)

    Page(shown.html)
    (shown.html + shown.text).encode()


@pytest.mark.parametrize(
    ("value", "currency", "shown"),
    [
        (None, "CNY", "unknown"),
        ("0", "CNY", "0.00 CNY"),
        ("0.00", None, "0.00"),
        ("0.00123", "CNY", "0.0012 CNY"),
        ("0.001", "USD", "0.001 USD"),
        ("0.00996", "CNY", "0.01 CNY"),
        ("0.000000034", "CNY", "0.000000034 CNY"),
        ("0.01", "CNY", "0.01 CNY"),
        ("0.0567", "CNY", "0.057 CNY"),
        ("0.5", "CNY", "0.50 CNY"),
        ("0.9996", "CNY", "1.00 CNY"),
        ("1", "CNY", "1.00 CNY"),
        ("4.926", "CNY", "4.93 CNY"),
        ("1234567.891", "CNY", "1,234,567.89 CNY"),
        ("1E+3", "CNY", "1,000.00 CNY"),
        ("-0.05", "CNY", "-0.05 CNY"),
    ],
)
def test_money(value: str | None, currency: str | None, shown: str) -> None:
    """An amount has the digits that matter; unknown is said."""
    assert money(None if value is None else Decimal(value), currency) == shown


@settings(max_examples=300, deadline=None)
@given(st.decimals(min_value=Decimal("1e-18"), max_value=Decimal(10**12), allow_nan=False))
def test_money_is_never_shown_as_nothing(value: Decimal) -> None:
    """A positive amount reads as a positive amount, within five per cent of itself."""
    shown = Decimal(money(value, "CNY").removesuffix(" CNY").replace(",", ""))

    assert shown > 0
    assert abs(shown - value) <= value / 20


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (3.21, "3.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (250, "4 min 10 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (3 * 86400 + 7200, "3 d 2 h"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    """A length of time is told in its two largest units."""
    assert duration(seconds) == shown


def test_the_quiet_line() -> None:
    """Model, tokens, cost, seconds, balance and place stand in one line."""
    assert quiet_line(answer(), Decimal("4.93"), place="sandbox", band="off-peak") == (
        "deepseek-flash · 1,204 in (1,024 cached) · 356 out (120 thinking)"
        " · 0.0016 CNY off-peak · 3.2 s · 4.93 CNY left · sandbox"
    )


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"usage": None, "cost": None}, "cost unknown"),
        ({"cost": None}, "unpriced"),
        ({"cost": Decimal(0)}, "0.00 CNY"),
        (
            {"cost": None, "cost_range": CostRange(Decimal("0.00123"), Decimal("0.00241"))},
            " · 0.0012 to 0.0025 CNY, as the hours changed meanwhile · ",
        ),
        (
            {
                "usage": None,
                "cost": None,
                "cost_range": CostRange(Decimal("0.0001"), Decimal("0.0201"), Decimal("0.0004")),
            },
            " · may be billed: about 0.0004 CNY, 0.021 CNY at most · ",
        ),
        (
            {"usage": None, "cost": None, "cost_range": CostRange(Decimal(0), Decimal("0.02"))},
            " · may be billed: 0.02 CNY at most · ",
        ),
        ({"note": "an earlier try may have been billed too"}, "s · an earlier try may have been"),
        ({"usage": Usage(None, 7)}, "unknown in · 7 out"),
        ({"usage": Usage(5, 7, 0, 5, 0)}, "5 in · 7 out · "),
        ({"finish_reason": "length"}, "cut at max_tokens · "),
        ({"finish_reason": "length", "text": ""}, "cut at max_tokens before the answer began"),
        ({"finish_reason": "content_filter"}, "stopped by the content filter"),
        ({"finish_reason": "insufficient_system_resource"}, "short of resources"),
        ({"finish_reason": None}, "unfinished"),
        ({"finish_reason": "new_reason\n"}, "ended with 'new_reason'"),
        ({"model": None}, "unknown model"),
    ],
)
def test_the_quiet_line_says_what_is_unusual(changes: dict[str, Any], part: str) -> None:
    """What is not known, and why an answer ended early, is said in words."""
    assert part in quiet_line(answer(**changes), None)


def test_the_quiet_line_leaves_out_what_nobody_knows() -> None:
    """Without a balance and a time the line is shorter, and "stop" goes without saying."""
    line = quiet_line(answer(seconds=None), None)

    assert line.endswith("0.0016 CNY")
    assert "stop" not in line


def test_an_answer() -> None:
    """The Markdown is rendered, the raw text is the text, the line stands below both."""
    shown = answer_shown(answer(text="It is *blue*.\n"), "the line", thinking=True)

    assert "<em>blue</em>" in shown.html
    assert Page(shown.html).words.endswith("the line")
    assert "details" not in Page(shown.html).tags
    assert shown.text == "It is *blue*.\n\nthe line"


def test_the_reasoning_is_folded_above() -> None:
    """The reasoning stands above the answer, closed, with its size; or not at all."""
    thoughtful = answer(reasoning="Light *scatters*.")

    with_it = Page(answer_shown(thoughtful, "line", thinking=True).html)
    without = Page(answer_shown(thoughtful, "line", thinking=False).html)

    assert with_it.words.startswith("Thought for 120 tokens Light scatters . It is blue")
    assert "open" not in with_it.attributes
    assert "scatters" not in without.text


def test_an_answer_before_its_line() -> None:
    """Without a line nothing empty is shown for it."""
    shown = answer_shown(Answer(text="a"), "", thinking=True)

    assert shown == text_shown(Answer(text="a"))


def test_json_keeps_its_lines() -> None:
    """JSON that was asked for is a block of code, as it stands; other text is Markdown."""
    asked = Request((Message("user", "?"),), "deepseek-flash", json=True)
    text = '{\n  "a_b": "*x*",\n  "c": "_y_"\n}'

    block = Page(answer_shown(Answer(text=text, request=asked), "line", thinking=True).html)
    words = Page(answer_shown(Answer(text="I *cannot*.", request=asked), "", thinking=True).html)

    assert text in block.text
    assert "pre" in block.tags
    assert "em" in words.tags


def test_reasoning_without_a_count() -> None:
    """Where the API did not count the thinking, no number is made up."""
    page = Page(answer_shown(Answer(reasoning="a"), "", thinking=True).html)

    assert page.words.startswith("Reasoning a")


def test_thinking() -> None:
    """While the model thinks, its seconds and its last words are shown."""
    shown = thinking_shown("first " + "word\n" * 200 + "the end", 12.3)

    assert Page(shown.html).words.startswith("Thinking… 12 s …")
    assert Page(shown.html).words.endswith("the end")
    assert len(Page(shown.html).words) < 150
    assert shown.text == "Thinking… 12 s"
    assert thinking_shown("", 1) == waiting_shown()


def test_what_is_waited_for() -> None:
    """While nothing has come back, it is said what is waited for, on one line."""
    assert waiting_shown().text == "Waiting for DeepSeek…"
    assert waiting_shown("Asked again\nin 2 s (503).").text == "Asked again in 2 s (503)."
    assert Page(waiting_shown("Asked again in 2 s (503).").html).words.endswith("2 s (503).")


def test_the_notice() -> None:
    """The notice says what happened, when, what there is, what it would cost and what to do."""
    shown = notice_shown(notice(steps=("With -t off it costs less.",), buttons=True))
    page = Page(shown.html)

    assert page.links == [
        {"href": TOP_UP, "target": "_blank", "rel": "noopener noreferrer"}
        | {"style": page.links[0]["style"]}
    ]
    for words in (page.words, " ".join(shown.text.split())):
        assert "The account is empty" in words
        assert f"When {NOW.astimezone():%Y-%m-%d %H:%M:%S}" in words
        assert "Balance 0.00 CNY (granted 0.00, topped up 0.00)" in words
        assert "Likely cost about 0.012 CNY" in words
        assert "Billed nothing for this question" in words
        assert "With -t off it costs less." in words
        assert "run this cell again" in words
    assert "Re-run cell" not in page.words + shown.text
    assert TOP_UP in shown.text


def test_what_was_spent_since_the_reading_counts() -> None:
    """The balance of a notice is what is left, as in the line below an answer."""
    told = notice_shown(notice(balance=balance("0.0500", spent="0.0018"))).text

    assert re.search(r"Balance +0\.048 CNY; when it was read, 0\.05", told)


def test_what_would_be_cheaper_can_be_pasted() -> None:
    """Each cheaper way stands in a line of its own, and its flag as code."""
    shown = notice_shown(notice(steps=("It costs less: --think off", "So too: -m flash")))

    assert Page(shown.html).words.count("Cheaper:") == 1
    assert re.findall(r"<code[^>]*>([^<]*)</code>", shown.html) == ["--think off", "-m flash"]
    assert "Cheaper:\n- It costs less: --think off\n- So too: -m flash\n" in shown.text
    assert "Cheaper" not in notice_shown(notice()).html + notice_shown(notice()).text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unsent": True}, "“Send anyway” asks no check this one time."),
        (
            {"own_limit": True},
            "“Re-run cell” runs it as it was sent; with a new --budget, run it by hand.",
        ),
    ],
)
def test_the_notice_of_a_check_tells_what_its_buttons_do(
    changes: dict[str, Any], said: str
) -> None:
    """What a click sends, and what it does not, is said while there are buttons."""
    assert said in notice_shown(notice(buttons=True, **changes)).html
    assert said not in notice_shown(notice(**changes)).html


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({"buttons": True}, "click “Re-run cell” below, or", "when topped up"),
        ({"buttons": True, "waits": True}, "“Re-run when topped up” waits for", "effects"),
        ({"buttons": True, "ordinary": True}, "with all its effects), or", "when topped up"),
        ({"buttons": False, "waits": True}, "", "Re-run"),
    ],
)
def test_the_notice_speaks_of_living_buttons_only(
    changes: dict[str, Any], said: str, unsaid: str
) -> None:
    """What buttons do is left to the style sheet, which knows whether they live."""
    shown = notice_shown(notice(**changes))
    page = Page(shown.html)

    assert said in shown.html
    assert unsaid not in shown.html
    for words in (page.words, " ".join(shown.text.split())):
        assert words.endswith("then run this cell again.")
        assert "button" not in words
        assert "Re-run" not in words
    assert ("data-dead" in page.attributes) == changes["buttons"]


def test_the_notice_of_an_ordinary_cell() -> None:
    """Of code of the user's own nobody knows what it cost."""
    shown = notice_shown(notice(ordinary=True, likely_cost=None))

    for words in (Page(shown.html).words, " ".join(shown.text.split())):
        assert "Balance 0.00 CNY" in words
        assert "Likely cost" not in words
        assert "Billed" not in words


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({"balance": None}, "Balance unknown", "0.00"),
        ({"balance": Balance(True, {}, NOW)}, "Balance unknown", "0.00"),
        ({"likely_cost": None}, "Likely cost not known yet", "about"),
        ({"kept": "213 tokens are kept above"}, "Kept 213 tokens are kept above", "Billed"),
        ({"balance": balance("3", available=False)}, "not available for requests", "lags"),
        ({"balance": balance("3")}, "the figure lags by minutes", "not available"),
        ({"balance": two("0", "12", prefers="CNY")}, "12.00 USD, but 0.00 CNY. Top up", "lags"),
        ({"balance": balance("3"), "own_limit": True}, "Raise the limit", "Top up"),
        ({"own_limit": True, "today": "2.00 CNY spent"}, "Today 2.00 CNY spent", "lags"),
        ({"balance": balance("3"), "unsent": True}, "Billed nothing: it was not sent", "lags"),
        ({"unsent": True}, "add --anyway", "for this question"),
    ],
)
def test_the_notice_tells_the_cases_apart(changes: dict[str, Any], said: str, unsaid: str) -> None:
    """Unknown is not zero, money that is refused is explained, a cap asks for no top-up."""
    shown = notice_shown(notice(**changes))

    for words in (Page(shown.html).words, " ".join(shown.text.split())):
        assert said in words
        assert unsaid not in words


def test_two_currencies_stand_apart() -> None:
    """Each currency has a line of its own, the one with money first."""
    infos = {
        "USD": BalanceInfo("USD", Decimal(0), Decimal(0), Decimal(0)),
        "CNY": BalanceInfo("CNY", Decimal(5), Decimal(2), Decimal(3)),
    }

    shown = balance_shown(facts(balance=Balance(True, infos, NOW)))

    assert "Account CNY   5.00 CNY (granted 2.00, topped up 3.00)" in shown.text
    assert shown.text.index("Account CNY") < shown.text.index("Account USD")


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "//e.example", "file:///x", "", "https:/x"]
)
def test_only_a_web_page_is_a_link(address: str) -> None:
    """A top-up address that is not of the web is shown and cannot be clicked."""
    for shown in (
        notice_shown(notice(top_up_url=address)),
        balance_shown(facts(top_up_url=address)),
    ):
        assert Page(shown.html).links == []
        assert address in Page(shown.html).text


def test_the_balance() -> None:
    """Amount, age, what is not settled, what was spent and what waits are told, twice."""
    shown = balance_shown(
        facts(
            balance=balance(spent="0.0016"),
            spent_session={"CNY": Decimal("0.0123"), "USD": Decimal("0.1")},
            spent_today={"CNY": Decimal("0.2")},
            lasts=timedelta(days=9, hours=3),
            waiting=("[3]", "[7]"),
            sandbox=True,
            problem="no route",
        )
    )

    for words in (Page(shown.html).words, " ".join(shown.text.split())):
        assert words.startswith("4.92 CNY left"), "what is left is never told as more than it is"
        assert "sandbox" in words
        assert f"Read {NOW - timedelta(seconds=12):%Y-%m-%d}" in words
        assert "old when shown" not in words
        assert "Since then 0.0016 CNY spent and not settled" in words
        assert "This session 0.012 CNY and 0.10 USD spent" in words
        assert "Today 0.20 CNY spent" in words
        assert "Lasts about 9 days at this rate" in words
        assert "Waiting [3], [7]" in words
        assert "Problem no route" in words


def test_an_unread_balance_is_unknown() -> None:
    """Before the first reading nothing looks like zero."""
    shown = balance_shown(facts(balance=None, state="unknown"))

    assert shown.text.startswith("Balance unknown (unknown)")
    assert "Read          not yet" in shown.text


def luminance(colour: str) -> float:
    """Give the relative luminance of #rrggbb as WCAG 2 defines it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("state", get_args(State))
def test_the_state_is_told_by_word_and_colour(state: State) -> None:
    """Each state has its word and a colour on which white letters are readable."""
    pages = {s: Page(balance_shown(facts(state=s)).html) for s in get_args(State)}
    badges = {
        s: next(style for style in page.styles if "color:#fff" in style)
        for s, page in pages.items()
    }

    found = re.search(r"background:(#\w{6})", badges[state])

    assert found
    assert state in pages[state].words
    assert 1.05 / (luminance(found[1]) + 0.05) >= 4.5
    assert len(set(badges.values())) == len(badges)


def test_the_days_are_drawn() -> None:
    """The balance has a line of what the last days took, and none where nothing was spent."""
    days = {TODAY: Decimal("1.2"), TODAY - timedelta(days=1): Decimal("0.4")}

    shown = balance_shown(facts(days=days))

    assert "polyline" in shown.html
    assert "the last 14 days, at most 1.20 CNY a day" in Page(shown.html).words
    assert "▁" in shown.text
    assert "svg" not in balance_shown(facts(days={})).html


def test_the_hours_stay_true() -> None:
    """The balance names the moment at which the hours change, and what they become."""
    shown = balance_shown(facts(band="off-peak", changes=NOW + timedelta(days=2)))

    when = f"{(NOW + timedelta(days=2)).astimezone():%A %H:%M}"
    for words in (Page(shown.html).words, " ".join(shown.text.split())):
        assert f"Hours off-peak until {when}, then peak" in words


@pytest.mark.parametrize(
    ("lasts", "told"),
    [
        (timedelta(minutes=50), "about 50 min at this rate"),
        (timedelta(days=12, hours=7), "about 12 days at this rate"),
        (timedelta(days=4000), "more than a year at this rate"),
    ],
)
def test_how_long_the_money_lasts(lasts: timedelta, told: str) -> None:
    """What was spent today, and how long the rest lasts, stand with the balance."""
    shown = balance_shown(facts(spent_today={"CNY": Decimal("0.4")}, lasts=lasts))

    for words in (Page(shown.html).words, " ".join(shown.text.split())):
        assert "Today 0.40 CNY spent" in words
        assert f"Lasts {told}" in words
    assert "Lasts" not in balance_shown(facts()).text


@pytest.mark.parametrize(
    ("cost", "then", "told"),
    [
        ("0.0012", "0.0006", "(in 1 h 20 min), then about 0.0006 CNY instead of 0.0012 CNY. Inter"),
        ("0.0012", "0.0012", "(in 1 h 20 min). Until then nothing is sent; inter"),
        (None, None, "(in 1 h 20 min). Until then nothing is sent; inter"),
    ],
)
def test_the_line_of_a_wait_for_off_peak(cost: str | None, then: str | None, told: str) -> None:
    """It tells from when, in how long, and what that saves where anything is known of it."""

    def usual(likely: str | None) -> CostRange | None:
        return None if likely is None else CostRange(Decimal(0), Decimal(1), Decimal(likely))

    begins = NOW + timedelta(minutes=80)
    line = off_peak_line(begins, NOW, usual(cost), usual(then), "CNY")

    assert line.startswith(f"Waiting for off-peak hours: from {begins.astimezone():%H:%M} {told}")


def test_what_the_readings_tell() -> None:
    """A finding stands with the balance, in words."""
    shown = balance_shown(facts(notes=("Prices may have changed.",)))

    assert "Note Prices may have changed." in Page(shown.html).words
    assert "Prices may have changed." in shown.text


@pytest.mark.parametrize(
    "shown",
    [
        notice_shown(notice()),
        balance_shown(facts(days={TODAY: Decimal(2)})),
        thinking_shown("a", 1),
    ],
)
def test_styles_are_inline(shown: Shown) -> None:
    """No style sheet, script, id or foreign class is needed, and nothing is fetched."""
    page = Page(shown.html)

    assert not {"style", "script", "link", "img", "iframe"} & set(page.tags)
    assert "id" not in page.attributes
    assert not re.search(r"url\(|@import|position:", shown.html)
    assert set(re.findall(r'class="([^"]*)"', shown.html)) <= {"tex2jax_ignore mathjax_ignore"}


def local(at: datetime, form: str) -> str:
    """Write a moment as the reader's clock shows it."""
    return f"{at.astimezone():{form}}"


def test_the_line_of_a_look() -> None:
    """One line tells since when, the figure and its time, the next look, and until when."""
    at = look().at

    assert look_line(look()) == (
        f"Waiting for a top-up since {local(look().since, '%H:%M')} · "
        f"0.00 CNY at {local(at, '%H:%M:%S')} · next look in 12 s · "
        f"until tomorrow {local(look().until, '%H:%M')}"
    )


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            {"balance": None, "problem": "The API was\nnot reached."},
            "The API was not reached · next",
        ),
        ({"balance": None}, "the balance could not be read at "),
        ({"balance": Balance(True, {}, NOW)}, "balance unknown at "),
        ({"balance": balance("3", available=False)}, "3.00 CNY, not available for requests, at "),
        ({"pause": 0.2}, "next look in 1 s"),
        ({"pause": 300}, "next look in 5 min"),
        ({"since": NOW - timedelta(days=1)}, "since yesterday "),
        (
            {"since": NOW - timedelta(days=3)},
            f"since {local(NOW - timedelta(days=3), '%Y-%m-%d')} ",
        ),
    ],
)
def test_the_line_tells_the_looks_apart(changes: dict[str, Any], part: str) -> None:
    """What could not be read is said with its reason, and another day by its name."""
    assert part in look_line(look(**changes))


@pytest.mark.parametrize(
    ("reading", "first"),
    [
        (balance("0.00", available=False), "The payment may still be pending"),
        (None, "The balance could not be read, so the money may be there already."),
        (two("0", "12"), "The money is in the other currency: 12.00 USD, but 0.00 CNY."),
        (two("0", "12", prefers="CNY"), "The money is in the other currency: 12.00 USD"),
        (two("0", "0"), "The payment may still be pending"),
        (balance("3", available=False), "There is money, but DeepSeek answers “available: false”"),
        (balance("3"), "DeepSeek shows 3.00 CNY and still refused"),
        (balance("3", spent="3"), "The last figure is used up: 3.00 CNY was spent"),
        (Balance(None, {}, NOW), "The payment may still be pending"),
    ],
)
def test_why_a_top_up_has_not_arrived(reading: Balance | None, first: str) -> None:
    """What the reading shows comes first, then what it usually is."""
    reasons = not_arrived(reading)

    assert reasons[0].startswith(first)
    assert any("may have failed" in reason for reason in reasons)
    assert any("another account" in reason for reason in reasons)
    assert any("lag by some minutes" in reason for reason in reasons)
    assert all(len(reason) < 110 for reason in reasons)


@pytest.mark.parametrize(
    ("reading", "waits", "said"),
    [
        (balance("0"), False, "Still empty: 0.00 CNY. A top-up can take a minute to arrive."),
        (balance("3", available=False), False, "3.00 CNY, but DeepSeek says it is not available"),
        (balance("3"), False, "3.00 CNY now. Re-run the cell."),
        (balance("3"), True, "3.00 CNY now. The cell runs by itself."),
        (Balance(True, {}, NOW), False, "DeepSeek gave no figure. Try again in a minute."),
    ],
)
def test_what_a_check_found(reading: Balance, waits: bool, said: str) -> None:
    """A look by click tells the figure and what to do; no figure is not an empty account."""
    assert checked(reading, waits=waits).startswith(said)


def test_the_end_of_the_waiting() -> None:
    """It is said how long it was waited, that nothing was sent, and how to go on."""
    assert waited(look()).startswith("Waited for 24 hours, and no money came.")
    assert waited(None).startswith("Waited, and no money came.")
    assert "nothing was sent. Top up, then re-run the cell" in waited(None)


def test_the_status_is_one_line_until_it_is_explained() -> None:
    """The reasons stand below the line, the last of them with a link; without any there is none."""
    line = Page(status_html("a & b", (), TOP_UP))
    explained = Page(status_html("a & b", ("one", "two"), TOP_UP))

    assert (line.words, line.links) == ("a & b", [])
    assert explained.words.startswith("a & b If you have topped up")
    assert explained.tags.count("li") == 3
    assert [link["href"] for link in explained.links] == [TOP_UP]
    assert Page(status_html("a", ("one",), "javascript:x")).links == []
    assert status_html("", (), TOP_UP) == ""


def test_the_cells_that_wait() -> None:
    """The list tells since when, the beginning, and what a re-run does."""
    rows = [
        pending(),
        pending(text="import openai\n\nclient = openai.OpenAI()\n", asks=False),
        pending(answered=NOW),
        pending(text=None),
    ]

    shown = pending_shown(rows, NOW, here="/work/a.ipynb")
    since = local(NOW - timedelta(hours=1), "%m-%d %H:%M")

    for words in (Page(shown.html).words, " ".join(shown.text.split())):
        assert "Notebook" not in words
        assert f"1 {since} Why is the sky blue? ask again" in words
        assert "2 " + since + " import openai ⏎ client = openai.OpenAI() run again" in words
        assert f"show the answer that arrived at {local(NOW, '%H:%M')}, already paid for" in words
        assert "(its text was not kept) nothing; run it in its notebook" in words
        assert (
            f"As of {local(NOW, '%Y-%m-%d %H:%M')}. Run one again with: %deepseek rerun 1" in words
        )
        assert "%deepseek rerun all" in words


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "this one"),
        ({"notebook": "/work/b.ipynb"}, "b.ipynb"),
        ({"notebook": None}, "unknown"),
    ],
)
def test_the_cells_of_other_notebooks(changes: dict[str, Any], said: str) -> None:
    """Where other notebooks wait too, each row names its own."""
    rows = [pending(**changes), pending(notebook="/work/c.ipynb")]

    shown = pending_shown(rows, NOW, here="/work/a.ipynb")

    assert "Notebook" in shown.text
    assert said in shown.text.splitlines()[1]
    assert "c.ipynb" in shown.text.splitlines()[2]


@pytest.mark.parametrize("text", ["", "\n", "%%deepseek", "%%deepseek\n\n", "x" * 10**6])
def test_any_text_of_a_cell_has_a_beginning(text: str) -> None:
    """However short or long the text of a cell, its row is one line."""
    shown = pending_shown([pending(text=text)], NOW, here="/work/a.ipynb")

    assert len(shown.text.splitlines()[1]) < 140


def test_no_cell_waits() -> None:
    """An empty list is one sentence."""
    assert pending_shown([], NOW, here=None).text == "No cell waits for money."


# -- in Chinese ------------------------------------------------------------------------------


@pytest.fixture
def in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reader read Chinese."""
    monkeypatch.setenv(VARIABLE, "zh")


@pytest.mark.usefixtures("in_chinese")
def test_times_and_amounts_in_chinese() -> None:
    """Units, days and what is not known have their words, in the order of the language."""
    noon = datetime(2026, 11, 23, 12).astimezone()

    assert [duration(seconds) for seconds in (3.2, 42, 250, 7500)] == [
        "3.2 秒",
        "42 秒",
        "4 分 10 秒",
        "2 小时 5 分",
    ]
    assert money(None, "CNY") == "未知"
    assert clock_time(noon, noon - timedelta(days=1)) == "明天 12:00"
    assert week_time(noon, noon - timedelta(days=3)) == "星期一 12:00"


@pytest.mark.usefixtures("in_chinese")
def test_columns_of_text_keep_their_place_in_chinese() -> None:
    """A Chinese character takes two columns of a terminal, and what follows stands in line."""
    lines = aligned([("余额", "A"), ("输入 token", "A"), ("时段", "A")]).splitlines()
    table = pending_shown([pending(), pending(text=None)], NOW, here=None).text.splitlines()[:3]

    assert len({columns(line[: line.index("A")]) for line in lines}) == 1
    assert columns(table[0][: table[0].index("重新")]) == columns(
        table[1][: table[1].index("重新")]
    )


@pytest.mark.usefixtures("in_chinese")
def test_code_after_a_wide_colon_can_be_pasted() -> None:
    """What stands after the colon at the end of a Chinese sentence is set off too."""
    assert ">-m flash</code>" in with_code("换用另一个模型，费用更低：-m flash")
    assert "code" not in with_code("费用：1.00 CNY")


@pytest.mark.usefixtures("in_chinese")
@pytest.mark.parametrize(
    "changes",
    [
        {"buttons": True, "waits": True},
        {"buttons": True, "ordinary": True},
        {"own_limit": True, "buttons": True, "unsent": True},
        {"own_limit": True, "again": True, "rows": (3, 10)},
        {"goes_on": True, "rows": (9, 10)},
        {"balance": None, "likely_cost": None},
    ],
)
def test_a_notice_is_all_in_chinese(changes: dict[str, Any]) -> None:
    """But for names, codes and what it was given, no word of a notice is in English."""
    shown = notice_shown(notice(what="账户已无余额。", **changes))
    attributes = re.findall(r'data-(?:alive|dead)="([^"]*)"', shown.html)

    for said in (Page(shown.html).words, shown.text, *attributes):
        own = re.sub(r"https?://\S+|%\w+(?: \w+)*|--[a-z]+|CNY", "", said)
        assert not re.search("[A-Za-z]", own), said
