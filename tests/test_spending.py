"""What was spent is told as a table, a picture and text that say the same."""

from __future__ import annotations

import re
from datetime import date, timedelta
from decimal import Decimal, localcontext
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from deepseek_magic.chart import line, picture, span
from deepseek_magic.elements import Shown
from deepseek_magic.spending import notebook_shown, nothing_shown, paid, usage_shown
from deepseek_magic.stamps import Stamps
from test_render import EVIL, Page

TODAY = date(2026, 11, 22)
FIGURES = {
    "prompt_tokens": 1234567,
    "prompt_cache_hit_tokens": 1000,
    "prompt_cache_miss_tokens": 1233567,
    "completion_tokens": 4000,
    "reasoning_tokens": 300,
}


def row(
    cost: str | None = "0.123", low: str = "0", high: str = "0", **changes: Any
) -> dict[str, Any]:
    """Give one row of the ledger's usage: what is exact, and a range from *low* to *high*."""
    known = cost is not None or high != "0"
    exact = Decimal(cost or 0)
    return {
        "day": str(TODAY),
        "model": "deepseek-flash",
        "notebook": "/work/a.ipynb",
        "cell": None,
        "currency": "CNY",
        "queries": 12,
        "cost": None if cost is None else exact,
        "cost_low": exact + Decimal(low) if known else None,
        "cost_high": exact + Decimal(high) if known else None,
        "ranged": 1 if high != "0" else 0,
        "unpriced": 0,
        "saved": Decimal("0.05"),
        **FIGURES,
        **changes,
    }


def unpriced(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Give a row of questions whose cost is not known at all."""
    return row(None, currency=None, unpriced=number, saved=None, **changes)


def back(days: int) -> str:
    return str(TODAY - timedelta(days=days))


def columns(shown: Shown) -> list[str]:
    return re.split(r"  +", shown.text.splitlines()[0])


def rects(shown: Shown) -> list[ET.Element]:
    """Give the boxes of the pictures, which are well-formed."""
    drawn = re.findall(r"<svg.*?</svg>", shown.html)
    return [box for one in drawn for box in ET.fromstring(one)]  # noqa: S314  # our own


# -- words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        ("0.0123", "0.0123", "0.012 CNY"),
        ("0", "0.05", "0.00 to 0.05 CNY"),
        ("0.0129", "0.0121", "0.012 to 0.013 CNY"),
        ("1.239", "4.561", "1.23 to 4.57 CNY"),
    ],
)
def test_a_range_is_rounded_outwards(low: str, high: str, said: str) -> None:
    """What is paid lies within the figures that are shown, also after rounding."""
    assert span(Decimal(low), Decimal(high), "CNY") == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (row(), "0.123 CNY"),
        (row("0"), "0.00 CNY"),
        (row(None), "0.00 CNY"),
        (row(low="0.01", high="0.05"), "0.133 to 0.173 CNY"),
        (row(None, high="0.05"), "0.00 to 0.05 CNY"),
        (row(unpriced=2), "0.123 CNY + 2 unpriced"),
        (row(None, high="0.05", unpriced=1), "0.00 to 0.05 CNY + 1 unpriced"),
        (unpriced(2), "unpriced"),
    ],
)
def test_what_was_paid(given: dict[str, Any], said: str) -> None:
    """A cost is exact, or two bounds; what has none is unpriced and never zero."""
    assert paid(given) == said


# -- the table ------------------------------------------------------------------------


def test_the_usage() -> None:
    """Each row has its questions, its cost and its tokens, and the sum stands below."""
    shown = usage_shown([row(day=back(1)), row("0.0615", queries=1)])

    lines = shown.text.splitlines()
    assert re.split(r"  +", lines[2]) == [
        *("2026-11-22", "deepseek-flash", "a.ipynb", "1", "0.062 CNY"),
        *("1,234,567", "1,000", "4,000", "300", "0.05 CNY"),
    ]
    assert lines[-1] == "Together 0.185 CNY. The cache saved 0.10 CNY."
    for word in (*columns(shown), "0.062 CNY", "Together 0.185 CNY. The cache saved 0.10 CNY."):
        assert word in Page(shown.html).words


def test_columns_without_anything_are_left_out() -> None:
    """A column in which nothing stands takes no room on a narrow page."""
    bare = row(prompt_cache_hit_tokens=0, reasoning_tokens=None, saved=Decimal(0), notebook=None)

    assert columns(usage_shown([bare])) == ["Day", "Model", "Asked", "Cost", "In", "Out"]
    assert columns(usage_shown([bare, row()])) == [
        *("Day", "Model", "Notebook", "Asked", "Cost", "In", "Cached", "Out", "Thinking"),
        "Cache saved",
    ]


def test_a_column_that_was_asked_for_stays() -> None:
    """Where no notebook is known, the sums by notebook say so."""
    shown = usage_shown([row(notebook=None)], ("notebook",))

    assert columns(shown)[:2] == ["Notebook", "Asked"]
    assert shown.text.splitlines()[1].startswith("unknown")


def test_usage_is_added_up_by_what_is_asked_for() -> None:
    """The first columns are those that the user named, in that order."""
    shown = usage_shown([row(cell="0123456789abcdef"), row(cell="fedc")], ("cell", "model"))

    assert columns(shown)[:3] == ["Cell", "Model", "Asked"]
    assert re.split(r"  +", shown.text.splitlines()[1])[0] == "01234567"


def test_what_has_no_day_begins_with_the_dearest() -> None:
    """Models, notebooks and cells come in the order of what they cost at most."""
    rows = [row("0.1", model="a"), unpriced(model="b"), row("0.05", high="3", model="c")]

    lines = usage_shown(rows, ("model",)).text.splitlines()

    assert [one.split()[0] for one in lines[1:4]] == ["c", "a", "b"]


def test_notebooks_of_one_name_are_told_apart() -> None:
    """A notebook is told by its file's name, and by its folder where two have the same."""
    paths = ("/x/one.ipynb", "/x/two.ipynb", "/y/two.ipynb", None)

    lines = usage_shown([row(notebook=path) for path in paths], ("notebook",)).text.splitlines()

    assert [one.split()[0] for one in lines[1:4]] == ["one.ipynb", "x/two.ipynb", "y/two.ipynb"]
    assert lines[4].split()[:2] == ["unknown", "12"]


def test_a_long_table_is_cut() -> None:
    """Of more rows than anybody reads the last are shown, and the sum is that of all."""
    rows = [row("1", day=back(day), saved=None) for day in range(250)]

    text = usage_shown(rows, ("day",)).text

    assert f"\n{back(0)}  " in text
    assert f"\n{back(99)}  " in text
    assert back(100) not in text
    assert "The last 100 of 250 rows" in text
    assert text.endswith("Together 250.00 CNY.")


def test_the_sum_tells_ranges_apart() -> None:
    """What is exact, what lies between bounds and what is not known are three things."""
    rows = [
        row(low="0.01", high="0.05", saved=None),
        row("1", currency="USD", saved=Decimal(2)),
        unpriced(3),
    ]

    assert usage_shown(rows).text.splitlines()[-1] == (
        "Together 0.123 CNY and 1.00 USD, and 0.01 to 0.05 CNY for 1 question whose exact bill is "
        "not known. The cache saved 2.00 USD. 3 questions are unpriced: the price of the model, or "
        "the tokens, are not known. Give a price with: %deepseek prices --set MODEL CURRENCY HIT "
        "MISS OUT"
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("0", saved=None)], "Together 0.00 CNY."),
        ([row(None, high="0.05", saved=None)], "Together 0.00 to 0.05 CNY for 1 question whose"),
        ([unpriced()], "Together nothing that is known. 1 question is unpriced"),
        ([row("1", currency=None, saved=None)], "Together 1.00 of unknown currency."),
    ],
)
def test_a_sum_without_figures(rows: list[dict[str, Any]], said: str) -> None:
    """Free, known in bounds only, and unknown are said as what they are."""
    assert usage_shown(rows).text.splitlines()[-1].startswith(said)


def test_the_notebooks_own_rounding_changes_no_sum() -> None:
    """A notebook that reckons with eight digits sees the whole sum all the same."""
    rows = [row(cost, saved=None) for cost in ("123456.78", "0.004", "0.004")]

    with localcontext(prec=8):
        assert usage_shown(rows).text.endswith("Together 123,456.79 CNY.")
        assert "deepseek-flash 123,456.79 CNY" in picture(rows, TODAY).text


def test_no_usage_is_said() -> None:
    """An empty ledger is a sentence and not an empty table."""
    assert usage_shown([]).text == "Nothing has been asked from this account yet."
    assert nothing_shown(1).text.endswith("in the last 1 day.")


# -- the picture ----------------------------------------------------------------------


def test_the_picture_as_text() -> None:
    """Each day is a column of blocks, a day without questions a gap, and the ends are named."""
    rows = [row("4", day=back(6)), row("1", day=back(2)), row("3"), row("5", day=back(40))]

    assert picture(rows, TODAY).text.splitlines() == [
        "Spent per day, at most 4.00 CNY",
        "█",
        "█           ▆",
        "█           █",
        "█       ▂   █",
        "█       █   █",
        "─────────────",
        "2026-11-16 to 2026-11-22",
        "deepseek-flash 8.00 CNY",
    ]


def test_a_range_is_drawn_lighter() -> None:
    """What may come on top of a day's cost stands on it, in a lighter tone, and is explained."""
    shown = picture([row("1", low="1", high="3")], TODAY)

    solid, lighter = rects(shown)
    assert solid.get("fill", "").startswith("#")
    assert (lighter.get("fill"), lighter.get("fill-opacity")) == ("currentColor", ".12")
    assert float(solid.get("height", "")) == float(lighter.get("height", "")) == 30
    assert (float(solid.get("y", "")), float(lighter.get("y", ""))) == (30, 0)
    assert [text.strip() for text in shown.text.splitlines()[1:6]] == ["░", "░", "▄", "█", "█"]
    assert shown.text.endswith("deepseek-flash 2.00 CNY, up to 2.00 CNY more, not known exactly")
    assert "up to 2.00 CNY more, not known exactly" in Page(shown.html).words


def test_the_dearest_models_have_tones_of_their_own() -> None:
    """At most four tones are used: the fourth is for all models that are left."""
    rows = [row(str(cost), model=f"model-{cost}") for cost in range(1, 7)]

    shown = picture(rows, TODAY)

    boxes = rects(shown)
    assert len({box.get("fill") for box in boxes}) == len(boxes) == 4
    assert sum(float(box.get("height", "")) for box in boxes) == pytest.approx(60, abs=0.1)
    assert shown.text.endswith(
        "model-6 6.00 CNY, model-5 5.00 CNY, model-4 4.00 CNY, 3 other models 6.00 CNY"
    )


def test_the_tones_are_seen_on_light_and_dark_pages() -> None:
    """Each tone has a contrast of three or more on a white, a dark and a black page."""
    rows = [row(str(cost), model=f"model-{cost}") for cost in range(1, 5)]

    for fill in {box.get("fill", "") for box in rects(picture(rows, TODAY))}:
        for page in ("#ffffff", "#1e1e1e", "#000000"):
            pair = sorted([luminance(fill), luminance(page)])
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3


def luminance(colour: str) -> float:
    """Give the relative luminance of a colour (w3.org/TR/WCAG21)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_each_currency_has_a_picture() -> None:
    """Amounts of two currencies are not set on one scale."""
    shown = picture([row("1", currency="USD"), row("7")], TODAY)

    assert re.findall("at most (.*)", shown.text) == ["7.00 CNY", "1.00 USD"]
    assert shown.html.count("<svg") == 2


def test_the_picture_says_its_main_fact() -> None:
    """Who cannot see it is told the sum and the dearest day."""
    shown = picture([row("1", day=back(3)), row("0.5", high="1")], TODAY)

    assert 'role="img"' in shown.html
    assert (
        'aria-label="Spent from 2026-11-16 to 2026-11-22: 1.50 to 2.50 CNY, most of it on '
        '2026-11-22: 1.50 CNY"'
    ) in shown.html


@pytest.mark.parametrize(
    ("first", "last", "ends"),
    [
        (0, None, "2026-11-16 to 2026-11-22"),
        (9, None, "2026-11-13 to 2026-11-22"),
        (29, None, "2026-10-24 to 2026-11-22"),
        (9, 3, "2026-11-20 to 2026-11-22"),
        (2, 7, "2026-11-16 to 2026-11-22"),
        (-2, None, "2026-11-16 to 2026-11-22"),
    ],
)
def test_the_days_of_the_picture(first: int, last: int | None, ends: str) -> None:
    """The picture begins with the first spending, shows a week at least and a month at most."""
    rows = [row(day=back(first)), row(), row(day=back(30))]

    assert ends in picture(rows, TODAY, last).text


@pytest.mark.parametrize(
    "rows",
    [[], [unpriced()], [row("0")], [row(day=back(30))], [row(day=None)], [row(day=EVIL)]],
)
def test_nothing_is_no_picture(rows: list[dict[str, Any]]) -> None:
    """Where nothing was spent in these days nothing is drawn, and the table stands alone."""
    assert picture(rows, TODAY) == Shown("", "")
    assert usage_shown([row()], chart=picture(rows, TODAY)) == usage_shown([row()])
    assert picture([row()], TODAY, 1) == Shown("", "")


def test_the_least_spending_is_seen() -> None:
    """A day on which next to nothing was spent is not drawn as one without spending."""
    shown = picture([row("1000"), row("0.0001", day=back(1))], TODAY)

    assert min(float(box.get("height", "")) for box in rects(shown)) >= 1
    assert shown.text.splitlines()[5] == "          ▁ █"


# -- the small line -------------------------------------------------------------------


def test_the_small_line() -> None:
    """Two weeks are a line in a page and blocks in a text, the newest day last."""
    shown = line({TODAY: Decimal(8), TODAY - timedelta(days=13): Decimal(4)}, "CNY", TODAY)

    assert shown.text == "▅▁▁▁▁▁▁▁▁▁▁▁▁█ the last 14 days, at most 8.00 CNY a day"
    assert "the last 14 days, at most 8.00 CNY a day" in Page(shown.html).words
    points = re.findall(r'points="([^"]*)"', shown.html)[0].split()
    assert (points[0], points[1], points[-1]) == ("2.0,14.0", "14.0,26.0", "158.0,2.0")


def test_nothing_spent_is_no_line() -> None:
    """Where nothing was spent in these days nothing is drawn."""
    assert line({}, "CNY", TODAY) == Shown("", "")
    assert line({TODAY - timedelta(days=14): Decimal(4)}, "CNY", TODAY) == Shown("", "")


# -- a saved notebook -----------------------------------------------------------------


def test_a_saved_notebook_says_what_it_counts() -> None:
    """The sums are of the answers that the file shows, and it is said that these are not all."""
    shown = notebook_shown(Stamps((), 2), [row(unpriced=1, saved=None)], "a.ipynb")

    assert columns(shown)[:3] == ["Model", "Answers", "Cost"]
    assert shown.text.splitlines()[-1] == (
        "Together 0.123 CNY. 1 answer has no known cost. 2 outputs have figures that cannot be "
        "read, and are left out. Counted are the answers that a.ipynb shows, and not all that was "
        "ever asked; the ledger has that: %deepseek usage"
    )


def test_a_notebook_without_answers_is_said() -> None:
    """A notebook without stamps is a sentence."""
    assert notebook_shown(Stamps(), [], "a.ipynb").text == (
        "a.ipynb shows no answer that says what it cost."
    )
    assert "1 output has figures that cannot be read" in notebook_shown(Stamps((), 1), [], "a").text


# -- both -----------------------------------------------------------------------------


def hostile() -> list[Shown]:
    names = {"model": EVIL, "notebook": EVIL, "cell": EVIL, "currency": EVIL}
    bad = row(**names)
    return [
        usage_shown([{**bad, "day": EVIL}, row(**names)], ("day", "model", "notebook", "cell")),
        picture([bad], TODAY),
        line({TODAY: Decimal(1)}, EVIL, TODAY),
        notebook_shown(Stamps((), 1), [bad], EVIL),
    ]


@pytest.mark.parametrize("shown", hostile())
def test_every_foreign_text_is_escaped(shown: Shown) -> None:
    """Whatever a ledger or a notebook holds, no tag and no control is made of it."""
    page = Page(shown.html)

    assert "script" not in page.tags
    assert not any(name.startswith("on") for name in page.attributes)
    assert "<script>" in page.text
    assert "\x1b" not in shown.html + shown.text


@pytest.mark.parametrize(
    "shown",
    [
        usage_shown([row()], chart=picture([row(high="1"), row(model="b")], TODAY)),
        line({TODAY: Decimal(1)}, "CNY", TODAY),
    ],
)
def test_styles_are_inline(shown: Shown) -> None:
    """No style sheet, script, id or class of another is needed, and nothing is fetched."""
    page = Page(shown.html)

    assert not {"style", "script", "link", "img", "iframe", "image", "use"} & set(page.tags)
    assert "id" not in page.attributes
    assert not re.search(r"url\(|@import|position:|href", shown.html)


def test_the_words_stand_outside_the_picture() -> None:
    """Where a page strips the drawing, no word is lost and none stands about without its place."""
    shown = picture([row()], TODAY)

    drawn = re.findall(r"<svg.*?</svg>", shown.html)

    assert all(not "".join(ET.fromstring(one).itertext()) for one in drawn)  # noqa: S314
    for words in ("Spent per day, at most 0.123 CNY", "2026-11-16 2026-11-22", "deepseek-flash"):
        assert words in Page(shown.html).words
