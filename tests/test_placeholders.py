from __future__ import annotations

import re
import sys
import warnings
from contextlib import suppress
from datetime import datetime
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from deepseek_magic.describe import describe
from deepseek_magic.errors import InvalidOption
from deepseek_magic.placeholders import expand
from deepseek_magic.wire import Answer


class Failing(Exception):
    """Cannot say what it is about."""

    def __str__(self) -> str:
        raise ValueError


def fail(error: BaseException) -> None:
    raise error


async def later() -> int:
    return 1


NAMES: dict[str, Any] = {
    "x": 3,
    "name": "Ann",
    "data": {"a": {"b": 1}},
    "answer": Answer(text="word " * 5000),
    "nested": "{{x}}",
    "frame": pd.DataFrame({"a": [1, 2]}),
    "fail": fail,
    "Failing": Failing,
    "later": later,
    "sys": sys,
}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("no braces", "no braces"),
        ("{{x}}", "3"),
        ("a {{ x }} b {{\nname\n}} c", "a 3 b Ann c"),
        ("{{x}}{{x}}", "33"),
        ("{x} {'a': {'b': 1}} \\frac{a}{b}", "{x} {'a': {'b': 1}} \\frac{a}{b}"),
        ("x }} y", "x }} y"),
        ('{{ {"a": {"b": 1}} }}', '{"a": {"b": 1}}'),
        ('{{ {"a": {"b": 1}}}}', '{"a": {"b": 1}}'),
        ("{{{1: 2}[1]}}", "2"),
        ("{{ '}}' + '{{' }}", "}}{{"),
        ("{{ '''}}''' }} }}", "}} }}"),
        ("{{ f'{x}{{}}' }}", "3{}"),
        ("{{x # don't }} here }}", "3 here }}"),
        ("{{ {1: {2: 3}}[1] # it's }}", "{2: 3}"),
        ("{{ [x\n for i in range(2)] }}", "[3, 3]"),
        ("{{ sum(i * x for i in range(3)) }}", "9"),
        ("{{ (lambda: x)() }}", "3"),
        ("{{ (y := 4) }}{{ y }}", "44"),
        ("{{nested}}", "{{x}}"),
        ("{{data['a']}}", '{"b": 1}'),
        ("{{max(x, 5)}}", "5"),
        ("{{None}}", "None"),
        (
            "{{frame}}",
            "pandas DataFrame, 2 rows × 1 column\n- a: int64\nRows as CSV:\na\n1\n2",
        ),
    ],
)
def test_expressions_become_their_values(text: str, expanded: str) -> None:
    """Each expression ends at the first }} at which it parses, and is filled in once."""
    assert expand(text, NAMES) == expanded


def test_an_answer_is_given_whole() -> None:
    """An earlier answer is put in as its text, whatever the bound."""
    assert expand("{{answer}}", NAMES, bound=20) == NAMES["answer"].text


def test_the_bound_is_that_of_each_value() -> None:
    """A long value is told within the bound, with a word about the rest."""
    told = expand("{{list(range(10000))}} {{x}}", {"x": 1}, bound=50)

    assert re.search(r"… [\d,]+ more\] 1$", told)
    assert len(told) < 200


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{x", '"{{x" has no }} that closes it'),
        ("{{x}", '"{{x}" has no }} that closes it'),
        ("{{ }}", "{{}} is empty"),
        ("{{\\bf x}}", "{{\\bf x}} is not a Python expression (unexpected character"),
        ("{{x = 3}}", "{{x = 3}} is not a Python expression (invalid syntax"),
        ("{{1 + 1:.2q}}", "{{1 + 1:.2q}} ends in :.2q, which is no format such as :.2f"),
        ("{{for}} and {{x}}", "{{for}} is not a Python expression"),
        ("{{await later()}}", "is not a Python expression ('await' outside function)"),
        ("{{\0}}", "is not a Python expression"),
        ("{{" + "(" * 5000 + "}}", "is not a Python expression"),
        ("{{fram}}", "{{fram}} fails: there is no name fram (did you mean frame?)"),
        ("{{lenn(name)}}", "there is no name lenn (did you mean len?)"),
        ("{{zzzzzz}}", "there is no name zzzzzz. Nothing"),
        ("{{data['z']}}", "{{data['z']}} fails: KeyError: 'z'"),
        ("{{1/0}}", "{{1/0}} fails: ZeroDivisionError: division by zero"),
        ("{{fail(Failing())}}", "fails: Failing."),
        ("{{fail(ValueError('a\\nb' * 999))}}", "fails: ValueError: a b"),
        ("{{fail(NameError('no'))}}", "fails: NameError: no"),
        ("{{sys.exit(3)}}", "fails: SystemExit: 3"),
        ("{{later()}}", "{{later()}} has to be awaited"),
        ("{{'" + "y" * 500 + "' + 1}}", "{{'" + "y" * 38 + "…}} fails: TypeError"),
    ],
)
def test_a_wrong_expression_is_one_clear_line(text: str, says: str) -> None:
    """The expression, the reason, what was not done and the way around are in one line."""
    with pytest.raises(InvalidOption) as caught:
        expand(f"before {text}", NAMES)

    message = str(caught.value)
    assert says in message
    assert message.endswith("Nothing was sent. To send braces as they stand: %%deepseek --raw")
    assert message.isprintable()
    assert len(message) < 350


def test_the_cause_of_a_failure_is_kept() -> None:
    """Who wants the whole traceback finds it behind the line."""
    with pytest.raises(InvalidOption) as caught:
        expand("{{1/0}}", {})

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_nothing_is_evaluated_when_one_does_not_parse() -> None:
    """The expressions are all read before the first is evaluated."""
    done: list[int] = []

    with pytest.raises(InvalidOption):
        expand("{{done.append(1)}} {{1 +}}", {"done": done})

    assert done == []


def test_an_expression_met_twice_is_evaluated_twice() -> None:
    """Equal expressions are not taken for equal values."""
    assert expand("{{next(n)}} {{next(n)}}", {"n": iter([1, 2])}) == "1 2"


def test_the_namespace_is_left_as_it_is() -> None:
    """Neither builtins nor names bound in an expression reach the notebook."""
    namespace: dict[str, object] = {"x": 1}

    expand("{{(y := x)}} {{[x for x in range(3)]}}", namespace)

    assert namespace == {"x": 1}


def test_interrupting_an_expression_interrupts_the_cell() -> None:
    """A `KeyboardInterrupt` is not an error of the expression."""
    with pytest.raises(KeyboardInterrupt):
        expand("{{fail(KeyboardInterrupt())}}", NAMES)


def test_reading_an_expression_warns_about_nothing() -> None:
    """Python's warnings about the form of a text stay away from a prompt."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expanded = expand(r"{{'\d'}} {{1 if 1 is 1 else 2}}", {})

    assert expanded == r"\d 1"
    assert caught == []


def test_the_warnings_of_an_expression_are_shown() -> None:
    """What the user's own code warns of is not hidden."""
    with pytest.warns(UserWarning, match="careful"):
        expand("{{warnings.warn('careful')}}", {"warnings": warnings})


def test_a_failing_write_of_a_value_is_told() -> None:
    """A container that fails while it is read is an error of its expression."""

    class Broken(dict[str, int]):
        def items(self) -> Any:
            """Fail, as a connection can."""
            raise OSError("gone")

    with pytest.raises(InvalidOption, match="fails: OSError: gone"):
        expand("{{broken}}", {"broken": Broken(a=1)})


@given(st.text().filter(lambda text: "{{" not in text))
def test_a_text_without_double_braces_is_left_alone(text: str) -> None:
    """Without {{ there is nothing to fill in."""
    assert expand(text, NAMES) == text


# Pieces that make Python's brackets, strings and comments meet the braces of a placeholder.
PIECES = [
    "x",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    " ",
    "'}}'",
    '"{"',
    "'''}'''",
    "f'{x}'",
    "# c'",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example("{x:{x}}")
@example("'}}',x# c'")
@example("]# c''}}'{")
@settings(max_examples=500, deadline=None)
def test_the_end_is_where_trying_each_one_finds_it(source: str) -> None:
    """However brackets, quotes and comments mix, the first }} at which it parses is the end."""
    text = f"{{{{[0, {source}][0]}}}} rest }}}}"

    try:
        found: str | None = expand(text, {"x": 1})
    except InvalidOption as error:
        found = None if "is not a Python expression" in str(error) else "fails"

    assert found == by_trying(text)


def by_trying(text: str) -> str | None:
    """Fill in the one expression of *text* by the plain rule."""
    for found in re.finditer("(?=}})", text):
        with warnings.catch_warnings(), suppress(SyntaxError):
            warnings.simplefilter("ignore")
            code = compile(text[2 : found.start()].strip(), "", "eval")
            assume("{{" not in text[found.start() :])  # where another one begins
            try:
                value = eval(code, {"x": 1})  # noqa: S307  # made of the pieces above
            except Exception:  # noqa: BLE001  # such as 1[0]: it parses, and that is the end
                return "fails"
            return describe(value, bound=1000) + text[found.start() + 2 :]
    return None


def test_a_long_literal_full_of_braces_is_found_whole() -> None:
    """An expression may hold any number of }} of its own."""
    literal = {f"k{i}": {"a": {"b": i}} for i in range(3000)}

    told = expand(f"{{{{ len({str(literal).replace('}, ', '},')}) }}}}", {})

    assert told == "3000"


@pytest.mark.parametrize(
    "text",
    [
        "{{x}} " * 150_000,
        "{{\\bf x}} " * 100_000,
        "{{" * 500_000,
        "{{ (" + "x, " * 300_000,
        "{{ ( " + "{x}} " * 200_000,
        '{{ """' * 150_000,
        "{{" * 250_000 + "}}" * 250_000,
    ],
    ids=["filled", "latex", "open", "unclosed", "inner", "quotes", "nested"],
)
@pytest.mark.timeout(60)
def test_a_cell_of_a_megabyte_is_answered(text: str) -> None:
    """A very long cell is filled in or refused without trying everything with everything."""
    try:
        assert "{{" not in expand(text, {"x": 1})
    except InvalidOption as error:
        assert len(str(error)) < 350  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{price:.2f}}", "1234.50"),
        ("{{ price :,.0f}} and {{price}}", "1,234 and 1234.5"),
        ("{{at:%H:%M}}", "06:05"),
        ("{{names['a:b']:>5}}", "   in"),
        ("{{(lambda x: x)(price):.1e}}", "1.2e+03"),
        ('{{ {"a": {"b": 1}} }}', '{"a": {"b": 1}}'),
    ],
)
def test_a_format_after_an_expression(text: str, told: str) -> None:
    """A value can be written as in an f-string; a colon that is Python's own stays so."""
    names = {"price": 1234.5, "at": datetime(2026, 11, 22, 6, 5), "names": {"a:b": "in"}}  # noqa: DTZ001

    assert expand(text, names) == told


def test_a_format_that_does_not_fit() -> None:
    """It is one line that names the expression, and nothing is sent."""
    with pytest.raises(InvalidOption, match=r"word:\.2f\}\} fails: ValueError.*Nothing was"):
        expand("{{word:.2f}}", {"word": "text"})
