from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic import templates
from deepseek_magic.errors import InvalidOption
from deepseek_magic.wire import Answer

ROW: dict[str, Any] = {
    "text": " hi {{x}} ",
    "price": 3.14159,
    "Product name": "Cup",
    "none": None,
    "class": "k",
    "title": "T",
    "day": datetime(2024, 1, 2, tzinfo=UTC),
    "parts": [1, "b"],
    "answer": Answer(text="Yes."),
    "len": "a column",
}
NAMES: dict[str, Any] = {"x": 5, "price": "not this", "df": pd.DataFrame({"z": [1]})}


def fill(template: str, row: dict[str, Any] | None = None) -> str | None:
    return templates.read(template, list(ROW), names=NAMES).fill(row or ROW)


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{{text}}", " hi {{x}} "),
        ("a {{ price }}{{price}} b", "a 3.141593.14159 b"),
        ("{{ text.strip()[:2] }}: {{price:.2f}}", "hi: 3.14"),
        ("{{Product name}}, {{Product name:>5}}", "Cup,   Cup"),
        ("{{class}}", "k"),
        ("{{row['class'].upper()}}", "K"),
        ("{{len}}", "a column"),
        ("{{day:%Y}} {{parts}} {{answer}}", '2024 [1, "b"] Yes.'),
        ("{{x}} {{price}} {{df.shape}}", "5 3.14159 (1, 1)"),
        ("{{ {'a': {'b': price}}['a'] }}", '{"b": 3.14159}'),
        ("{{[c for c in title for _ in range(2)]}}", '["T", "T"]'),
        ("{{(lambda q: q + x)(price)}}", "8.14159"),
        ("{{(title := title.lower())}}{{title}}", "tT"),
        ("{'a': {text}} {{title}}", "{'a': {text}} T"),
        ("{{'{{'}} {{title}}", "{{ T"),
        ("{{none}}{{title}}{{none:.2f}}{{none.strip()}}{{(none)}}", "T"),
        ("{{none or 'unknown'}}", "unknown"),
        ("{{none}}", None),
        ("About: {{none}} {{none.strip()}} {{none:>5}} {{x}}", None),
    ],
)
def test_placeholders_stand_for_the_row(template: str, filled: str | None) -> None:
    """A column is the row's value; an expression sees columns before other names."""
    assert fill(template) == filled


@settings(max_examples=50, deadline=None)
@given(
    name=st.text(min_size=1, max_size=12).filter(
        lambda name: name.strip() and "}" not in name and "{" not in name
    ),
    value=st.text(max_size=30),
)
def test_any_column_can_be_named(name: str, value: str) -> None:
    """Whatever a column is called, `{{its name}}` stands for it, and values are not expanded."""
    template = templates.read(f"<{{{{{name}}}}}>", ["other", name])

    filled = template.fill({"other": "no", name: value})

    assert filled == (f"<{value}>" if value and not value.isspace() else None)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{txt}}", r"{{txt}} fails: there is no column or name txt (did you mean text?)"),
        ("{{Product nme}}", "(did you mean Product name?)"),
        ("{{text}} {{nothing()}}", "no column or name nothing"),
        ("{{[q for t in text]}}", "no column or name q"),
        ("no braces", "asks the same of every row"),
        ("{text}", "asks the same of every row"),
        ("{{x}} {{df}}", "asks the same of every row"),
        ("{{x.text}}", "asks the same of every row"),
        ("{{text} only", "has no }} that closes it"),
        ("{{text + }}", "is not a Python expression"),
        ("{{class.upper()}}", "in an expression, that column is row['class']"),
        ("{{}} {{text}}", "is empty"),
        ("{{text}} {{1 / 0}}", "ZeroDivisionError"),
    ],
)
def test_a_wrong_template_is_one_line(template: str, words: str) -> None:
    """What is wrong for every row is said when the template is read, before anything is sent."""
    with pytest.raises(InvalidOption) as raised:
        templates.read(template, list(ROW), names=NAMES)

    assert words in str(raised.value)
    assert "Nothing was sent." in str(raised.value)
    assert "--raw" not in str(raised.value), "it does not go with rows"
    assert "\n" not in str(raised.value)


def test_many_columns_make_no_long_error() -> None:
    """An error names some of the columns only."""
    with pytest.raises(InvalidOption) as raised:
        templates.read("{{zzz}}", [f"column {n} {'x' * 100}" for n in range(5000)])

    assert "and 4,990 more" in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{text.nope}}", "{{text.nope}} fails in this row: AttributeError"),
        ("{{price / 0}}", "ZeroDivisionError"),
        ("{{text:.2f}}", "{{text:.2f}} fails in this row: ValueError"),
        ("{{Product name:.2f}}", "{{Product name:.2f}} fails in this row: ValueError"),
    ],
)
def test_what_fails_in_one_row_is_said_of_the_row(template: str, words: str) -> None:
    """An expression that fails for a row names itself and the reason, and the row is not asked."""
    ready = templates.read(template, list(ROW), names=NAMES)

    with pytest.raises(InvalidOption) as raised:
        ready.fill(ROW)

    assert words in str(raised.value)
    assert "The row was not asked." in str(raised.value)
    assert "Nothing was sent" not in str(raised.value), "other rows may have been"


def test_what_is_the_same_for_all_rows_is_evaluated_once() -> None:
    """An expression without a column runs when the template is read, and never again."""
    calls = list[int]()

    def count() -> int:
        calls.append(1)
        return len(calls)

    template = templates.read("{{count()}} {{text}}", ["text"], names={"count": count})
    filled = [template.fill({"text": text}) for text in "ab"]

    assert filled == ["1 a", "1 b"]
    assert calls == [1]


def test_rows_do_not_see_each_other() -> None:
    """What an expression binds in one row is gone in the next, and in the user's names."""
    names: dict[str, Any] = {"seen": "the user's"}
    template = templates.read("{{(seen := text)}} {{seen}}", ["text"], names=names)

    filled = [template.fill({"text": text}) for text in "ab"]

    assert filled == ["a the user's", "b the user's"]
    assert names == {"seen": "the user's"}


def test_the_columns_in_use_are_known() -> None:
    """A template tells which columns it reads; through `row` it may be any."""
    columns = ["a", "b b", "c"]

    assert templates.read("{{c.strip()}} {{b b}}", columns).columns == ("b b", "c")
    assert templates.read("{{row['a']}}", columns).columns is None
    assert templates.read("{{row}}", ["row", "a"]).columns == ("row",)


def test_long_values_are_cut_at_the_bound() -> None:
    """A text is given whole, another value within the bound."""
    row = {"text": "word " * 5000, "list": list(range(5000))}

    whole = templates.read("{{text}}", list(row), bound=50).fill(row)
    cut = templates.read("{{list}}", list(row), bound=50).fill(row)

    assert whole == row["text"]
    assert cut is not None
    assert "more" in cut
    assert len(cut) < 500
