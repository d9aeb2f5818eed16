"""The tree of errors, and what the user sees of one."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest

from deepseek_magic import errors, words
from deepseek_magic.errors import BrokenAnswer, DeepSeekError, OutOfMoney

CLASSES: list[type[DeepSeekError]] = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, DeepSeekError)
]


def drawn() -> dict[str, tuple[int, str]]:
    """Read the tree at the head of the module: each name's depth, and the rest of its line."""
    found = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"([│├└─ ]*)([A-Z]\w+)(.*)", line):
            found[match[2]] = (len(match[1]) // 4, match[3])
    return {name: drawing for name, drawing in found.items() if hasattr(errors, name)}


def test_the_tree_is_as_drawn() -> None:
    """The drawing at the head of the module has every error, at its depth."""
    depths = {name: depth for name, (depth, _) in drawn().items()}

    assert depths == {kind.__name__: kind.__mro__.index(DeepSeekError) for kind in CLASSES}


def test_who_may_be_billed_is_as_drawn() -> None:
    """The drawing and the classes agree on which error may have cost money."""
    says = re.compile("may have been billed|(?<!nothing )was billed")
    billed = {name for name, (_, line) in drawn().items() if says.search(line)}

    assert billed == {kind.__name__ for kind in CLASSES if kind.may_be_billed}


@pytest.mark.parametrize("kind", CLASSES)
def test_one_line_instead_of_a_traceback(kind: Any) -> None:
    """Every error shows itself as its name and its words, and carries what it was given."""
    error = kind("It did not work.", trace_id="t-1")

    assert error._render_traceback_() == [f"{kind.__name__}: It did not work."]
    assert (str(error), error.trace_id, error.answer) == ("It did not work.", "t-1", None)


def test_facts_of_money() -> None:
    """Errors of money have a balance and a partial result, unknown until somebody sets them."""
    error = OutOfMoney("Empty.", partial=[1])

    assert (error.balance, error.partial) == (None, [1])
    assert not error.may_be_billed
    assert BrokenAnswer("Cut.").may_be_billed


@pytest.mark.parametrize(
    ("language", "told", "line", "what"),
    [
        ("en", ("It said: a. b.", "No.", "Try."), "It said: a. b. No. Try.", "It said: a. b."),
        ("en", ("It broke. Nothing was sent. Try.",), None, "It broke."),
        ("en", ("It broke", ""), "It broke", "It broke."),
        ("zh", ("它说：a. b。c。", "未发送。"), "它说：a. b。c。未发送。", "它说：a. b。c。"),
        ("zh", ("出错了。未发送。请重试。",), None, "出错了。"),
        ("zh", ("It broke. Nothing was sent.",), None, "It broke。"),
    ],
)
def test_what_happened_is_told_by_itself(
    monkeypatch: pytest.MonkeyPatch, language: str, told: tuple[str, ...], line: str, what: str
) -> None:
    """The first of an error's sentences is what happened, with all that is quoted in it."""
    monkeypatch.setenv(words.VARIABLE, language)

    error = DeepSeekError(*told)

    assert (str(error), error.what) == (line or told[0], what)
    assert words.sentences(*error.told) == str(error)


def test_sentences_stay_apart_in_another_process() -> None:
    """An error that a worker sends back still knows what it is made of."""
    error = pickle.loads(pickle.dumps(OutOfMoney("It said: a. b.", "Nothing was sent.")))  # noqa: S301

    assert error.told == ("It said: a. b.", "Nothing was sent.")
