"""Answers that are in the ledger: shown again for nothing, where the user wants that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_magic.errors import DeepSeekError, InsufficientBalance, InvalidOption, KeyInText
from deepseek_magic.sandbox import Reply

Run = Callable[[str], tuple[BaseException | None, str]]

if TYPE_CHECKING:
    from deepseek_magic.sandbox import Sandbox
    from deepseek_magic.session import Session

Open = Callable[..., "Session"]
PLAIN: dict[str, Any] = {"think": "off"}


def test_the_same_question_is_paid_once(api: Sandbox, open_session: Open) -> None:
    """With `cache` the second asking costs nothing, sends nothing and says when it was asked."""
    first = open_session(api).ask("Why?", cache=True, **PLAIN)
    later = open_session(api)
    billed = api.billed

    again = later.ask("Why?", cache=True, **PLAIN)

    assert len(api.requests) == 1
    assert (first.asked, again.text, again.cost) == (None, first.text, Decimal(0))
    assert again.asked is not None
    assert again.usage == first.usage
    assert api.billed == billed
    assert later.usage()["cost"].sum() == billed
    assert not later.spent


def test_without_it_each_asking_is_new(api: Sandbox, open_session: Open) -> None:
    """Nothing is taken from the ledger unless that is asked for."""
    session = open_session(api)
    session.ask("Why?", cache=True, **PLAIN)

    again = session.ask("Why?", **PLAIN)

    assert again.asked is None
    assert len(api.requests) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"model": "pro"},
        {"think": "low"},
        {"system": "Be brief."},
        {"temperature": 0.5},
        {"stop": "."},
        {"json": True},
        {"max_tokens": 1},
    ],
    ids=str,
)
def test_what_shapes_an_answer_makes_another_question(
    api: Sandbox, open_session: Open, other: dict[str, Any]
) -> None:
    """Another setting, or a bound that the answer was longer than, asks anew."""
    session = open_session(api)
    session.ask("Why?", cache=True, **PLAIN)
    api.script(Reply("{}", finish_reason="stop"))

    session.ask("Why?", cache=True, **{**PLAIN, **other})

    assert len(api.requests) == 2


def test_a_bound_that_it_keeps_to_does_not_matter(api: Sandbox, open_session: Open) -> None:
    """An answer that ended by itself within a bound is the answer without one, too."""
    session = open_session(api)
    session.ask("Why?", cache=True, max_tokens=5000, **PLAIN)

    assert session.ask("Why?", cache=True, **PLAIN).asked is not None


@pytest.mark.parametrize(
    "spoilt",
    [
        Reply(""),
        Reply("Half an ans", finish_reason="length"),
        Reply("No", finish_reason="content_filter"),
        Reply("One two three", after=1, then="close"),
        Reply(status=400),
        Reply(status=402),
    ],
    ids=["empty", "cut", "filtered", "broken", "refused", "no money"],
)
@pytest.mark.parametrize("keep", ["all", "figures"])
def test_a_failure_is_never_kept(
    api: Sandbox, open_session: Open, spoilt: Reply, keep: str
) -> None:
    """What was no whole answer is asked anew."""
    session = open_session(api, keep=keep)
    api.script(spoilt)
    with suppress(DeepSeekError):  # one that was cut is given as it is
        session.ask("Why?", cache=True, **PLAIN)

    again = session.ask("Why?", cache=True, **PLAIN)

    assert again.asked is None
    assert len(api.requests) == 2


@pytest.mark.parametrize("keep", ["figures", "nothing"])
def test_where_texts_are_not_kept(api: Sandbox, open_session: Open, keep: str) -> None:
    """A ledger without texts gives none back; the session that has asked still knows it."""
    session = open_session(api, keep=keep)
    first = session.ask("Why?", cache=True, **PLAIN)

    again = session.ask("Why?", cache=True, **PLAIN)
    other = open_session(api, keep=keep).ask("Why?", cache=True, **PLAIN)

    assert (again.text, again.cost) == (first.text, Decimal(0))
    assert again.asked is not None
    assert other.asked is None
    assert len(api.requests) == 2


def test_it_costs_nothing_where_there_is_no_money(api: Sandbox, open_session: Open) -> None:
    """An empty account and a limit that is spent still give what was paid for."""
    session = open_session(api)
    session.ask("Why?", cache=True, **PLAIN)
    api.balance = Decimal(0)
    session.balance()

    again = session.ask("Why?", cache=True, budget="0.000001", **PLAIN)

    assert again.asked is not None
    with pytest.raises(InsufficientBalance):
        session.ask("Why not?", cache=True, **PLAIN)


def test_a_repaired_answer_is_that_of_its_question(api: Sandbox, open_session: Open) -> None:
    """An answer that was sent back once is found by the question that was asked."""
    session = open_session(api)
    api.script("no JSON", '{"n": 1}')
    session.ask("Give n as JSON.", json=True, cache=True, **PLAIN)

    again = open_session(api).ask("Give n as JSON.", json=True, cache=True, **PLAIN)

    assert (again.parsed, again.cost) == ({"n": 1}, Decimal(0))
    assert len(api.requests) == 2


def test_a_kept_answer_is_read_by_the_schema(api: Sandbox, open_session: Open) -> None:
    """What comes from the ledger has its value as one that came just now."""
    session = open_session(api)
    api.script('{"n": 1}')
    session.ask("Give n as JSON.", schema=dict[str, int], cache=True, **PLAIN)

    again = session.ask("Give n as JSON.", schema=dict[str, int], cache=True, **PLAIN)

    assert again.parsed == {"n": 1}
    assert len(api.requests) == 1


def test_another_account_has_answers_of_its_own(api: Sandbox, open_session: Open) -> None:
    """An answer belongs to the account that has paid for it."""
    open_session(api).ask("Why?", cache=True, **PLAIN)
    key = api.add_key()

    again = open_session(api, api_key=key).ask("Why?", cache=True, **PLAIN)

    assert again.asked is None


def test_a_key_in_the_text_is_refused_first(api: Sandbox, open_session: Open) -> None:
    """Looking for an answer comes after the checks of the text."""
    with pytest.raises(KeyInText):
        open_session(api).ask("sk-0123456789abcdef0123456789abcdef", cache=True)


def test_rows_and_questions_know_each_other(api: Sandbox, open_session: Open) -> None:
    """A row that was asked is the answer to the same question, and the other way round."""
    session = open_session(api)
    session.map([{"text": "one"}], "Tell of {{text}}", progress=False, **PLAIN)

    assert session.ask("Tell of one", cache=True, **PLAIN).asked is not None
    session.ask("Tell of two", **PLAIN)
    frame = session.map([{"text": "two"}], "Tell of {{text}}", progress=False, **PLAIN)
    assert frame["cost"].tolist() == [0]
    assert len(api.requests) == 2


# In a notebook


@pytest.mark.parametrize("by", ["%%deepseek --cache -t off -o out", "trait"])
def test_a_cell_shows_it_again(run_cell: Run, shell: Any, api: Sandbox, by: str) -> None:
    """A flag or the notebook's setting; the line below says that nothing was sent."""
    run_cell("%config DeepSeekMagics.cache = True" if by == "trait" else "")
    line = "%%deepseek -t off -o out" if by == "trait" else by
    run_cell(f"{line}\nWhy?")
    first = shell.user_ns.pop("out")

    error, shown = run_cell(f"{line}\nWhy?")

    assert error is None
    assert first.text in shown
    assert "from the ledger, nothing was sent now" in shown
    assert shell.user_ns["out"].text == first.text
    assert len(api.requests) == 1


def test_fresh_beats_the_setting(run_cell: Run, api: Sandbox) -> None:
    """A cell may ask anew where the notebook is set to show what it knows."""
    run_cell("%config DeepSeekMagics.cache = True")
    run_cell("%%deepseek -t off\nWhy?")

    run_cell("%%deepseek -t off --fresh\nWhy?")

    assert len(api.requests) == 2


def test_a_dry_run_tells_of_it(run_cell: Run, api: Sandbox) -> None:
    """A dry run says that the answer is there."""
    run_cell("%%deepseek -t off\nWhy?")

    _, shown = run_cell("%%deepseek -t off --cache --dry-run\nWhy?")
    _, other = run_cell("%%deepseek -t off --cache --dry-run\nWhy not?")

    assert "--cache shows that, for nothing" in " ".join(shown.split())
    assert "--cache" not in other
    assert len(api.requests) == 1


@pytest.mark.parametrize("line", ["--fresh --cache", "--each rows --cache"])
def test_options_that_say_otherwise(run_cell: Run, api: Sandbox, line: str) -> None:
    """Options that contradict each other are one line, and nothing is sent."""
    error, _ = run_cell(f"%%deepseek {line}\nWhy?")

    assert isinstance(error, InvalidOption)
    assert not api.requests


def test_usage_counts_it_once(run_cell: Run) -> None:
    """Showing an answer again is no call: usage counts it where it was asked."""
    run_cell("%%deepseek -t off\nWhy?")
    _, before = run_cell("%deepseek usage")
    run_cell("%%deepseek -t off --cache\nWhy?")

    _, after = run_cell("%deepseek usage")

    assert after == before
