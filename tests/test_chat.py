"""A conversation goes on: the turns before a question are sent along, and it becomes one."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.completer import provisionalcompleter

from deepseek_magic import schema
from deepseek_magic.chats import KEPT, NOT_SENT, first_sent
from deepseek_magic.errors import (
    BrokenAnswer,
    DeepSeekError,
    InsufficientBalance,
    InvalidOption,
    KeyInText,
    OverLimit,
)
from deepseek_magic.ledger import Ledger
from deepseek_magic.options import parse
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session
from deepseek_magic.wire import Answer, Image
from harness.kernels import Kernels
from harness.notebooks import notebook
from harness.pages import Page, start

Open = Callable[..., Session]
Run = Callable[[str], tuple[BaseException | None, str]]

HERE = "/home/ada/plots.ipynb"
LONG = "A long answer that breaks off in the middle."
BREAKS = Reply(LONG, after=12, then="end")


@pytest.fixture
def talk(open_session: Open, api: Sandbox) -> Session:
    """Give a session of a notebook, its ledger on disk."""
    return open_session(api, notebook=HERE)


def sent(api: Sandbox, number: int = -1) -> list[str]:
    """Give the texts of a request's messages in order."""
    return [message["content"] for message in (api.requests[number].body or {})["messages"]]


def told(session: Session, name: str = "") -> list[tuple[str, str]]:
    return [(turn.question.content, turn.answer) for turn in session.chat(name)]


def ask(session: Session, api: Sandbox, prompt: str, reply: Any, **more: Any) -> Answer:
    api.script(reply)
    return session.ask(prompt, **{"think": "off", "chat": "", **more})


# -- what is sent -----------------------------------------------------------------------


def test_the_turns_before_go_along(talk: Session, api: Sandbox) -> None:
    """The request has the system message, then questions and answers in turn, then the question."""
    ask(talk, api, "One?", "1.")
    ask(talk, api, "Two?", "2.")

    ask(talk, api, "Three?", "3.", system="Be brief.")

    body = api.requests[-1].body or {}
    assert [(one["role"], one["content"]) for one in body["messages"]] == [
        ("system", "Be brief."),
        *(("user", "One?"), ("assistant", "1."), ("user", "Two?"), ("assistant", "2.")),
        ("user", "Three?"),
    ]
    assert told(talk) == [("One?", "1."), ("Two?", "2."), ("Three?", "3.")]


def test_what_was_thought_is_not_sent_again(talk: Session, api: Sandbox) -> None:
    """The API wants reasoning back with tools only, and there are none."""
    ask(talk, api, "One?", Reply("1.", reasoning="Let me see."), think="high")

    ask(talk, api, "Two?", "2.", think="high")

    messages = (api.requests[-1].body or {})["messages"]
    assert messages[1] == {"role": "assistant", "content": "1."}


def test_each_conversation_is_its_own(open_session: Open, api: Sandbox) -> None:
    """Another name, another notebook and another account have turns of their own."""
    first = open_session(api, notebook=HERE)
    ask(first, api, "One?", "1.")
    ask(first, api, "Named?", "2.", chat="plot")
    with Sandbox(balance="5.00") as other:
        ask(open_session(api, notebook="/b.ipynb"), api, "There?", "3.")
        ask(open_session(other, notebook=HERE), other, "Who?", "4.")
        elsewhere = sent(other)

    assert (sent(api, 1), sent(api, 2), elsewhere) == (["Named?"], ["There?"], ["Who?"])
    assert told(first, "plot") == [("Named?", "2.")]
    assert [chat.name for chat in first.chats()] == ["plot", ""]


def test_it_goes_on_after_a_restart(open_session: Open, api: Sandbox) -> None:
    """A later session of the notebook finds the turns in the ledger."""
    first = open_session(api, notebook=HERE)
    ask(first, api, "One?", "1.", cell="a")
    first.close()

    ask(open_session(api, notebook=HERE), api, "Two?", "2.", cell="b")

    assert sent(api) == ["One?", "1.", "Two?"]


def test_a_cell_that_runs_again_replaces_its_turn(talk: Session, api: Sandbox) -> None:
    """It is sent with the turns before it alone, and those after it stay."""
    for cell in "abc":
        ask(talk, api, f"{cell}?", f"{cell}.", cell=cell)

    ask(talk, api, "B?", "B.", cell="b")
    again = sent(api)
    ask(talk, api, "d?", "d.", cell="d")

    assert again == ["a?", "a.", "B?"]
    assert sent(api) == ["a?", "a.", "B?", "B.", "c?", "c.", "d?"]


def test_without_a_cell_it_is_added(talk: Session, api: Sandbox) -> None:
    """The very same question, asked in no cell, is one more turn each time."""
    for _ in range(3):
        ask(talk, api, "Again?", "Yes.")

    assert sent(api) == ["Again?", "Yes.", "Again?", "Yes.", "Again?"]


def test_a_growing_answer_is_kept_by_its_last(talk: Session, api: Sandbox) -> None:
    """Who stops reading once the answer is whole has the turn all the same."""
    api.script("1.")
    for answer in talk.stream("One?", think="off", chat=""):
        if answer.cost is not None:
            break

    assert told(talk) == [("One?", "1.")]


# -- whole turns only -------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        BREAKS,
        Reply("Long", after=2, then="stall"),
        Reply(status=402),
        Reply(status=400),
        Reply(text=""),
        Reply("No.", finish_reason="content_filter"),
        Reply("No.", finish_reason="length"),
        Reply("No.", finish_reason="insufficient_system_resource"),
    ],
    ids=str,
)
def test_a_failure_leaves_it_as_it_was(open_session: Open, api: Sandbox, reply: Reply) -> None:
    """Neither a new turn comes of it, nor does the cell's old one go."""
    api.change(keep_alive=None)
    talk = open_session(api, notebook=HERE, timeout=0.3, retries=0)
    ask(talk, api, "a?", "a.", cell="a")
    ask(talk, api, "b?", "b.", cell="b")

    for cell in ("b", "new"):
        api.script(reply)
        with suppress(DeepSeekError):
            talk.ask("Else?", think="off", chat="", cell=cell)

    assert told(talk) == [("a?", "a."), ("b?", "b.")]
    assert sent(api) == ["a?", "a.", "b?", "b.", "Else?"]


def test_a_question_that_was_left_early(talk: Session, api: Sandbox) -> None:
    """An answer that nobody read to its end is none."""
    ask(talk, api, "a?", "a.", cell="a")
    api.script(Reply(tokens=500, speed=100))
    stream = talk.stream("Else?", think="off", chat="", cell="a")
    next(one for one in stream if one.text)
    stream.close()

    assert told(talk) == [("a?", "a.")]


def test_a_refused_question(talk: Session, api: Sandbox) -> None:
    """What is not sent, for a limit or a key in it, is no turn."""
    ask(talk, api, "a?", "a.", cell="a")

    with pytest.raises(OverLimit):
        talk.ask("b?", chat="", cell="a", budget="0.0000001")
    with pytest.raises(KeyInText):
        talk.ask("sk-" + "a1b2" * 8, chat="", cell="a")

    assert told(talk) == [("a?", "a.")]
    assert len(api.requests) == 1


def test_the_money_comes_later(talk: Session, api: Sandbox) -> None:
    """A cell that was not paid for has its place, and one turn once it is."""
    api.balance, left = Decimal(0), api.balance
    with pytest.raises(InsufficientBalance):
        talk.ask("a?", think="off", chat="", cell="a")
    api.balance = left
    talk.balance()
    ask(talk, api, "b?", "b.", cell="b")

    ask(talk, api, "a?", "a.", cell="a")

    assert sent(api) == ["a?"]
    assert told(talk) == [("a?", "a."), ("b?", "b.")]


RUNS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["whole", "whole", "cut", "broken", "no"])),
    max_size=9,
)
REPLIES = {
    "cut": Reply("Cut", finish_reason="length"),
    "broken": Reply("Broken off", after=3, then="end"),
    "no": Reply(status=400),
}


@given(runs=RUNS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_order_of_runs(runs: list[tuple[str, str]]) -> None:
    """The history is that of the whole turns before a cell, in the order of first questions."""
    places: list[str] = []
    turns: dict[str, list[str]] = {}
    with (
        Sandbox(balance="5.00") as api,
        Session(
            api_key=api.api_key, base_url=api.base_url, ledger=":memory:", notebook=HERE, retries=0
        ) as talk,
    ):
        for number, (cell, outcome) in enumerate(runs):
            places += [cell] if cell not in places else []
            before = [one for name in places[: places.index(cell)] for one in turns.get(name, [])]
            api.script(REPLIES.get(outcome, f"{number}."))
            with suppress(DeepSeekError):
                talk.ask(f"{number}?", think="off", chat="", cell=cell)
            turns |= {cell: [f"{number}?", f"{number}."]} if outcome == "whole" else {}

            assert sent(api) == [*before, f"{number}?"]

        kept = [text for pair in told(talk) for text in pair]
        assert kept == [text for name in places for text in turns.get(name, [])]


# -- answers that go on -----------------------------------------------------------------


@pytest.mark.parametrize("reply", [BREAKS, replace(BREAKS, after=None, then=None)])
def test_an_answer_that_has_gone_on_becomes_the_turn(
    talk: Session, api: Sandbox, reply: Reply
) -> None:
    """Broken or cut, it is the turn of its cell once it is whole, and not before."""
    ask(talk, api, "a?", "a.", cell="a")
    ask(talk, api, "b?", "b.", cell="b")
    api.script(reply, LONG)
    begun: Answer | DeepSeekError
    try:
        begun = talk.ask("A?", think="off", chat="", cell="a", max_tokens=5)
    except BrokenAnswer as error:
        begun = error
    before = told(talk)
    if isinstance(begun, Answer):
        assert "no turn of the conversation until it is whole" in begun.note

    talk.resume(begun, max_tokens=500)

    assert before == [("a?", "a."), ("b?", "b.")]
    assert told(talk) == [("A?", LONG), ("b?", "b.")]


def test_it_goes_on_in_its_place_after_a_restart(open_session: Open, api: Sandbox) -> None:
    """The ledger knows which turn an answer belongs to that another kernel left broken."""
    first = open_session(api, notebook=HERE)
    ask(first, api, "a?", "a.", cell="a", chat="plot")
    with pytest.raises(BrokenAnswer):
        ask(first, api, "b?", BREAKS, cell="b", chat="plot")
    ask(first, api, "c?", "c.", cell="c", chat="plot")
    first.close()
    api.script(LONG)

    second = open_session(api, notebook=HERE)
    second.resume()

    assert sent(api)[:3] == ["a?", "a.", "b?"]
    assert told(second, "plot") == [("a?", "a."), ("b?", LONG), ("c?", "c.")]


def test_a_broken_repair_goes_on_in_its_place(open_session: Open, api: Sandbox) -> None:
    """The turn is the question and the whole JSON, whoever brought its end."""
    first = open_session(api, notebook=HERE)
    whole = '{"n": 1, "words": "one and two and three"}'
    api.script("no JSON", Reply(whole, after=10, then="end"))
    with pytest.raises(DeepSeekError):
        first.ask("Give JSON.", think="off", json=True, chat="", cell="a")
    first.close()
    api.script(whole)

    second = open_session(api, notebook=HERE)
    second.resume()

    assert told(second) == [("Give JSON.", whole)]


def test_structured_answers(talk: Session, api: Sandbox) -> None:
    """The turn of a repaired answer is the question and the JSON, without the exchange."""
    api.script("no JSON", '{"n": 1}')
    first = talk.ask("Give JSON.", think="off", json=True, chat="", cell="a")

    ask(talk, api, "And in words?", "One.", cell="b")

    assert first.parsed == {"n": 1}
    assert sent(api) == ["Give JSON.", '{"n": 1}', "And in words?"]


# -- what is kept -----------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["figures", "nothing"])
def test_where_no_texts_are_kept(open_session: Open, api: Sandbox, path: Path, keep: str) -> None:
    """It goes on in the session's memory, which is said once, and no text reaches the disk."""
    first = open_session(api, notebook=HERE, keep=keep)
    notes = [ask(first, api, f"Question {n}?", f"Reply {n}.").note for n in range(2)]
    along = sent(api)
    first.close()
    ask(open_session(api, notebook=HERE, keep=keep), api, "Later?", "Yes.")

    assert "ends with the kernel" in notes[0]
    assert notes[1] == ""
    assert along == ["Question 0?", "Reply 0.", "Question 1?"]
    assert sent(api) == ["Later?"]
    written = path.read_bytes() if path.exists() else b""
    assert b"Question 0" not in written
    assert b"Reply 0" not in written


def test_without_a_notebook(open_session: Open, api: Sandbox) -> None:
    """Scripts share a conversation by its name; one without a name is the session's own."""
    first, second = open_session(api), open_session(api)
    note = ask(first, api, "One?", "1.").note
    ask(second, api, "Two?", "2.")
    apart = sent(api)
    ask(first, api, "Three?", "3.", chat="shared")
    ask(second, api, "Four?", "4.", chat="shared")

    assert "one with a name goes on" in note
    assert apart == ["Two?"]
    assert sent(api) == ["Three?", "3.", "Four?"]
    assert [chat.turns for chat in first.chats() if not chat.name] == [1]


def test_forgetting(talk: Session, api: Sandbox, path: Path) -> None:
    """Turns and texts of a conversation go, of others they stay, and so does what all cost."""
    talk.balance()
    ask(talk, api, "Secret?", "Hidden.", cell="a", chat="one")
    ask(talk, api, "Open?", "Seen.", cell="b", chat="two")
    talk.ledger.entries()
    spent = talk.spent

    gone = talk.forget_chat("one")

    rows = talk.ledger.entries()
    assert gone == 1
    assert [chat.name for chat in talk.chats()] == ["two"]
    assert [row["answer"] for row in rows] == [None, "Seen."]
    assert rows[0]["request"] is None
    assert rows[0]["cost"] is not None
    assert talk.spent == spent
    with closing(sqlite3.connect(path)) as db:
        assert "Secret" not in "\n".join(db.iterdump())


def test_a_late_answer_brings_nothing_back(talk: Session, api: Sandbox) -> None:
    """A conversation that was forgotten while a question was under way stays forgotten."""
    ask(talk, api, "a?", "a.")
    api.script(Reply("Late.", speed=50))
    stream = talk.stream("b?", think="off", chat="")
    next(stream)
    talk.forget_chat()
    *_, late = stream

    assert "Late." in late.text
    assert talk.chats() == []
    assert [row["answer"] for row in talk.ledger.entries()] == [None, None]
    assert talk.spent == {"CNY": api.billed}


def test_in_figures(talk: Session, api: Sandbox) -> None:
    """A conversation has the cost of all its questions, those that failed or went too."""
    talk.balance()
    ask(talk, api, "a?", "a.", cell="a", chat="plot")
    ask(talk, api, "A?", "A.", cell="a", chat="plot")
    with pytest.raises(DeepSeekError):
        ask(talk, api, "b?", Reply(text=""), cell="b", chat="plot")
    inside = sum((request.cost or Decimal(0) for request in api.requests), Decimal(0))
    ask(talk, api, "c?", "c.", chat="")

    own, plot = talk.chats()

    assert (own.name, own.turns) == ("", 1)
    assert (plot.name, plot.turns, plot.spent, plot.unpriced) == ("plot", 1, {"CNY": inside}, 0)
    assert 0 < plot.tokens < 50
    assert plot.used <= own.used


def test_one_without_a_whole_answer(talk: Session, api: Sandbox) -> None:
    """A conversation whose only question failed is there, without turns, and can be forgotten."""
    with pytest.raises(DeepSeekError):
        ask(talk, api, "a?", Reply(text=""), cell="a", chat="plot")

    assert talk.chat("plot") == []
    assert talk.forget_chat("plot") == 0
    with pytest.raises(InvalidOption, match="There is no conversation"):
        talk.chat("plot")


def test_names(talk: Session, api: Sandbox) -> None:
    """What is no name is refused; a slip is told, with the name that may be meant."""
    ask(talk, api, "a?", "a.", chat="analysis")

    for wrong in ("a\nb", "x" * 81, 3):
        with pytest.raises(InvalidOption, match="no name of a conversation"):
            talk.ask("b?", chat=wrong)
    with pytest.raises(InvalidOption, match="Did you mean analysis"):
        talk.chat("analisys")
    with pytest.raises(InvalidOption, match="There is no conversation"):
        talk.forget_chat("x")
    with pytest.raises(InvalidOption, match="chat_tokens"):
        talk.ask("b?", chat="", chat_tokens=0)
    slip = ask(talk, api, "b?", "b.", chat="analisys")

    assert 'did you mean "analysis"' in slip.note
    assert talk.chat() == []
    assert len(api.requests) == 2


# -- how much goes along ----------------------------------------------------------------


def test_a_long_conversation_is_bounded(talk: Session, api: Sandbox) -> None:
    """The oldest turns are left out in whole pairs, and the note says how many and the way."""
    words = "many words about nothing " * 20
    for n in range(4):
        ask(talk, api, f"{n}? {words}", f"{n}. {words}")

    answer = ask(talk, api, "Last?", "Yes.", chat_tokens=600)

    roles = [message["role"] for message in (api.requests[-1].body or {})["messages"]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    assert 1 < len(roles) < 9
    left = 4 - len(roles) // 2
    assert answer.note.startswith(f"{left} older turns were left out, as chat_tokens is 600")
    assert "DeepSeekMagics.chat_tokens = 1200" in answer.note
    assert "%deepseek chat forget" in answer.note
    assert len(talk.chat()) == 5


@given(
    sizes=st.lists(st.integers(1, 60), max_size=60),
    bound=st.integers(1, 200),
)
def test_what_is_sent_keeps_its_beginning(sizes: list[int], bound: int) -> None:
    """The newest turns go along, within the bound; they are cut in steps, for the cache."""
    starts = [first_sent(sizes[:n], bound) for n in range(len(sizes) + 1)]

    for n, begin in enumerate(starts):
        assert sum(sizes[begin:n]) <= bound
        full = begin > 0 and begin != starts[n - 1]
        assert not full or sum(sizes[begin:n]) <= bound * KEPT or begin >= n - 1
    assert starts == sorted(starts)
    assert sum(sizes) > bound or starts[-1] == 0


def test_a_turn_too_long_for_the_bound(talk: Session, api: Sandbox) -> None:
    """Where not even the newest turn fits, the question goes alone, and that is said."""
    ask(talk, api, "words " * 200, "1.")

    answer = ask(talk, api, "Two?", "2.", chat_tokens=50)

    assert sent(api) == ["Two?"]
    assert answer.note.startswith("1 older turn was left out")


def test_the_history_is_reckoned_with(talk: Session, api: Sandbox) -> None:
    """Estimate, preview, caps and the question itself see the whole request; nothing is sent."""
    talk.balance()
    ask(talk, api, "words " * 500, "words " * 500, cell="a")
    bare = talk.estimate("b?", max_tokens=5)
    whole = talk.estimate("b?", max_tokens=5, chat="", cell="b")
    first = talk.estimate("a?", max_tokens=5, chat="", cell="a")
    preview = talk.preview("b?", max_tokens=5, chat="")
    assert bare.worst is not None
    assert whole.worst is not None

    with pytest.raises(OverLimit):
        talk.ask("b?", max_tokens=5, chat="", budget=bare.worst)

    assert whole.tokens_in.likely > 900 + bare.tokens_in.likely
    assert first.tokens_in == talk.estimate("a?", max_tokens=5).tokens_in
    assert len(preview.request.messages) == 3
    assert whole.worst > bare.worst
    assert len(api.requests) == 1
    assert len(talk.chat()) == 1


def test_the_answer_of_a_cache(talk: Session, api: Sandbox) -> None:
    """The same question with the same history costs nothing, and is the turn of its cell."""
    ask(talk, api, "a?", "a.", cell="a")
    ask(talk, api, "b?", "b.", cell="b")

    again = talk.ask("b?", think="off", chat="", cell="b", cache=True)
    moved = talk.ask("a?", think="off", chat="other", cell="x", cache=True)
    other = ask(talk, api, "b?", "B.", cell="c", cache=True)

    assert again.asked is not None
    assert moved.asked is not None
    assert other.asked is None
    assert len(api.requests) == 3
    assert told(talk) == [("a?", "a."), ("b?", "b."), ("b?", "B.")]
    assert told(talk, "other") == [("a?", "a.")]


# -- pictures ---------------------------------------------------------------------------


def dot(shade: int = 0) -> bytes:
    """Give a small PNG."""
    from io import BytesIO

    from PIL import Image as Pillow

    file = BytesIO()
    Pillow.new("L", (40, 30), shade).save(file, "PNG")
    return file.getvalue()


def pictures(api: Sandbox) -> list[int]:
    """Count the pictures of each of the user's messages."""
    messages = (api.requests[-1].body or {})["messages"]
    users = [one["content"] for one in messages if one["role"] == "user"]
    return [0 if isinstance(one, str) else len(one) - 1 for one in users]


def test_pictures_go_along_while_the_session_lasts(open_session: Open, api: Sandbox) -> None:
    """After a restart words stand for them, but for one on the web, and a line says so."""
    first = open_session(api, notebook=HERE)
    ask(first, api, "See?", "A dot.", cell="a", images=[dot(), "https://example.org/a.png"])
    ask(first, api, "Sure?", "Yes.", cell="b")
    with_both = pictures(api)
    first.close()

    second = open_session(api, notebook=HERE)
    answer = ask(second, api, "Really?", "Yes.", cell="c")

    first_text = (api.requests[-1].body or {})["messages"][0]["content"][0]["text"]
    assert with_both == [2, 0]
    assert pictures(api) == [1, 0, 0]
    assert first_text == f"See?\n\n{NOT_SENT}"
    assert "pictures last as long as the kernel" in answer.note


def test_a_model_that_reads_no_pictures(talk: Session, api: Sandbox) -> None:
    """It goes on without them."""
    ask(talk, api, "See?", "A dot.", images=[dot()])

    answer = ask(talk, api, "Sure?", "Yes.", model="pro")

    assert sent(api)[0] == f"See?\n\n{NOT_SENT}"
    assert "deepseek-v4-pro reads none" in answer.note


def test_a_picture_of_an_earlier_run(open_session: Open, api: Sandbox) -> None:
    """A picture that another kernel has replaced is not taken for the one in its place."""
    first, second = open_session(api, notebook=HERE), open_session(api, notebook=HERE)
    ask(first, api, "See?", "Black.", cell="a", images=[dot(0)])
    ask(second, api, "See?", "White.", cell="a", images=[dot(255)])

    answer = ask(first, api, "Sure?", "Yes.", cell="b")

    assert pictures(api) == [0, 0]
    assert "was not sent along" in answer.note
    assert first.chat()[0].answer == "White."
    assert not any(isinstance(one, Image) for one in first.chat()[0].question.images)


# -- several at once --------------------------------------------------------------------


def test_threads_and_kernels_at_once(open_session: Open, api: Sandbox) -> None:
    """Each request has whole turns, each turn is there once, question and answer together."""
    api.change(latency=0.02)
    sessions = [open_session(api, notebook=HERE) for _ in range(2)]

    def use(session: Session, name: str) -> None:
        for n in range(4):
            session.ask(f"{name}{n}?", think="off", chat="", cell=f"{name}{n % 3}")

    threads = [
        threading.Thread(target=use, args=(sessions[n % 2], name)) for n, name in enumerate("pqrs")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    turns = told(sessions[0])
    assert len(api.requests) == 16
    assert len(turns) == 12
    assert all(question in answer for question, answer in turns)
    for number in range(16):
        *history, _ = sent(api, number)
        pairs = list(zip(history[::2], history[1::2], strict=True))
        assert all(question in answer for question, answer in pairs)
        assert len({question for question, _ in pairs}) == len(pairs)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the ledger as another program does that writes for long."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield
        db.execute("ROLLBACK")


def test_what_cannot_be_forgotten_yet_is_told(api: Sandbox, path: Path) -> None:
    """A conversation in a ledger that others write to is not called gone, and goes later."""
    with Session(api_key=api.api_key, base_url=api.base_url, ledger=path, notebook=HERE) as talk:
        talk.ledger = Ledger(path, busy_seconds=0.1)
        ask(talk, api, "a?", "a.", chat="plot")
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            with pytest.raises(DeepSeekError, match=r"still in it\. It is removed when"):
                talk.forget_chat("plot")
            db.execute("ROLLBACK")
        ask(talk, api, "b?", "b.", chat="other")

        assert [chat.name for chat in talk.chats()] == ["other"]


def test_a_ledger_that_cannot_be_read(api: Sandbox, path: Path) -> None:
    """A question is not sent without its history: one line says why, and the next one goes."""
    with Session(api_key=api.api_key, base_url=api.base_url, ledger=path, notebook=HERE) as talk:
        talk.ledger = Ledger(path, busy_seconds=0.1)
        ask(talk, api, "a?", "a.")
        with held(path), pytest.raises(DeepSeekError, match="could not be read from the ledger"):
            talk.ask("b?", chat="")

        ask(talk, api, "c?", "c.")

    assert len(api.requests) == 2
    assert sent(api) == ["a?", "a.", "c?"]


def test_a_ledger_of_before(open_session: Open, api: Sandbox, path: Path) -> None:
    """One that knows no conversations gets them, and keeps what it has."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE steps (name TEXT PRIMARY KEY, at INTEGER)")
        for step in schema.STEPS[:4]:
            step(db)
            db.execute("INSERT INTO steps VALUES (?, 0)", (step.__name__,))
        db.execute(
            "INSERT INTO entries (id, sent, ended, account, state, model, answer, day)"
            " VALUES (1, 1, 2, 'me', 'done', 'deepseek-flash', 'Old.', '2026-01-01')"
        )
    talk = open_session(api, notebook=HERE)

    ask(talk, api, "a?", "a.", cell="a")
    ask(talk, api, "b?", "b.", cell="b")

    assert sent(api) == ["a?", "a.", "b?"]
    assert [(row["answer"], row["chat"]) for row in talk.ledger.entries()] == [
        *(("Old.", None), ("a.", ""), ("b.", ""))
    ]
    assert talk.ledger.problem is None


def test_an_answer_with_something_like_a_key(talk: Session, api: Sandbox) -> None:
    """The model's own words do not end a conversation, unless they are the very key."""
    ask(talk, api, "How?", "Set sk-" + "a1b2" * 8, cell="a")
    ask(talk, api, "Then?", "Run it.", cell="b")
    ask(talk, api, "So?", f"It is {api.api_key}", cell="c")

    with pytest.raises(KeyInText):
        talk.ask("And?", chat="", cell="d")

    assert len(api.requests) == 3


# -- cells ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "chat"),
    [
        ("-c", ""),
        ("--chat", ""),
        ("-c plot", "plot"),
        ("--chat=plot", "plot"),
        ("--chat 'my plot' -t off", "my plot"),
        ("-c -t off", ""),
        ("-t off -c", ""),
        ("-t off", None),
    ],
)
def test_the_option(line: str, chat: str | None) -> None:
    """The name may be left out, wherever the option stands."""
    assert parse(line).chat == chat


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-c --each rows", "--chat does not go with --each"),
        ("-c a -c b", "is given twice"),
        (f"-c {'x' * 81}", "at most 80 characters"),
        ("-c two words", "holds options only"),
    ],
)
def test_options_that_are_refused(line: str, said: str) -> None:
    """One line says why."""
    with pytest.raises(InvalidOption, match=said):
        parse(line)


def test_in_a_terminal(run_cell: Run, api: Sandbox, shell: Any) -> None:
    """Cells go on with their conversation; the commands list it, show it and forget it."""
    api.script("1.", "2.")
    run_cell("%%deepseek -t off -c plot\nOne?")
    shown = run_cell("%%deepseek -t off -c plot -o answer\nTwo?")[1]

    listed = run_cell("%deepseek chat")[1]
    turns = run_cell("%deepseek chat show plot")[1]
    dry = run_cell("%%deepseek --dry-run -c plot\nThree?")[1]
    wrong = run_cell("%deepseek chat show plott")[0]
    slip = run_cell("%deepseek chat forgett")[0]
    gone = run_cell("%deepseek chat forget plot")[1]

    assert "2." in shown
    assert sent(api) == ["One?", "1.", "Two?"]
    assert "plot" in listed
    assert "Cost so far" in listed
    assert turns.index("> One?") < turns.index("1.") < turns.index("> Two?") < turns.index("2.")
    assert dry.index("One?") < dry.index("Three?")
    assert "Did you mean plot?" in str(wrong)
    assert "Did you mean forget?" in str(slip)
    assert "Forgotten: 2 turns of plot" in gone
    assert "no conversation yet" in run_cell("%deepseek chat")[1]
    assert "nothing to forget" in run_cell("%deepseek chat forget --all")[1]
    assert len(api.requests) == 2


def test_an_answer_goes_on_from_another_cell(run_cell: Run, api: Sandbox, shell: Any) -> None:
    """`%deepseek continue` brings the turn of the cell that asked, not one of its own."""
    api.script("1.", BREAKS, LONG, "3.")
    run_cell("%%deepseek -t off -c plot\nOne?")
    run_cell("%%deepseek -t off -c plot\nTwo?")
    run_cell("%deepseek continue")

    run_cell("%%deepseek -t off -c plot\nThree?")

    assert sent(api) == ["One?", "1.", "Two?", LONG, "Three?"]


def test_what_looks_like_a_key_does_not_end_it(run_cell: Run, api: Sandbox) -> None:
    """A conversation with such an answer goes on, is reckoned, and is continued."""
    api.script("Set sk-" + "a1b2" * 8, BREAKS, LONG)
    run_cell("%%deepseek -t off -c plot\nHow?")
    dry = run_cell("%%deepseek --dry-run -c plot\nThen?")[0]
    run_cell("%%deepseek -t off -c plot\nThen?")
    again = run_cell("%deepseek continue --dry-run")[0]
    whole = run_cell("%deepseek continue")[0]

    assert (dry, again, whole) == (None, None, None)
    assert len(api.requests) == 3


def test_help_with_an_error_in_a_conversation(run_cell: Run, api: Sandbox) -> None:
    """`%deepseek fix` takes the option like any question."""
    api.script("1.", "It divides by nothing.")
    run_cell("%%deepseek -t off -c plot\nOne?")
    run_cell("1 / 0")

    run_cell("%deepseek fix -t off -c plot")

    first, second, question = sent(api)
    assert (first, second) == ("One?", "1.")
    assert "ZeroDivisionError" in question


def test_the_line_below_an_answer(run_cell: Run, api: Sandbox) -> None:
    """It says how many turns were left out, by the setting of the notebook."""
    run_cell("%load_ext deepseek_magic")
    api.script("1.", "2.")
    run_cell("%%deepseek -t off -c plot\n" + "words " * 100)
    run_cell("%config DeepSeekMagics.chat_tokens = 20")

    shown = run_cell("%%deepseek -t off -c plot\nTwo?")[1]
    dry = run_cell("%%deepseek --dry-run -c plot\nThree?")[1]

    assert "1 older turn was left out, as chat_tokens is 20" in shown
    assert "1 older turn was left out" in " ".join(dry.split())


def test_what_the_model_writes_is_not_trusted(run_cell: Run, api: Sandbox, shell: Any) -> None:
    """Names, questions and answers are escaped where they are shown."""
    from deepseek_magic import chat_view

    api.script("<script>alert(1)</script>\x1b[31m")
    run_cell("%%deepseek -t off -c '<b>x</b>'\n<img src=x onerror=alert(1)>")
    session = shell.magics_manager.registry["DeepSeekMagics"].workspace.session
    turns, now = session.chat("<b>x</b>"), session.now()

    views = [
        chat_view.turns_shown("<b>x</b>", turns, now),
        chat_view.chats_shown(session.chats(), now),
    ]

    for view in views:
        assert not any(tag in view.html for tag in ("<script", "<img", "<b>"))
        assert "\x1b" not in view.html + view.text


def test_a_turn_is_shown_as_in_its_cell(run_cell: Run, api: Sandbox, shell: Any) -> None:
    """An answer stands in no element of ours, which the page's style and its math would miss."""
    from deepseek_magic import chat_view

    api.script("Area: $a^2$.\n\n```\ncode\n```\n", "And more.")
    run_cell("%%deepseek -t off -c 计划\nOne?")
    run_cell("%%deepseek -t off -c 计划\nTwo?")
    session = shell.magics_manager.registry["DeepSeekMagics"].workspace.session

    page = chat_view.turns_shown("计划", session.chat("计划"), session.now()).html

    for words in (r"\(a^2\)", "<pre", "And more."):
        before = page[: page.index(words)]
        assert before.count("<div") == before.count("</div>") > 1
    assert "chat show 计划" in chat_view.chats_shown(session.chats(), session.now()).text


def test_a_dry_run_without_a_key(
    run_cell: Run, api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that no history is counted, since no account is known."""
    monkeypatch.delenv("DEEPSEEK_API_KEY")

    shown = run_cell("%%deepseek --dry-run -c plot\nThree?")[1]

    assert "its conversation is not known" in shown


def test_names_are_completed(run_cell: Run, api: Sandbox, shell: Any) -> None:
    """Tab offers the conversations after the option and after the commands."""
    api.script("1.", "2.")
    run_cell("%%deepseek -t off -c plot\nOne?")
    run_cell("%%deepseek -t off -c 'two words'\nTwo?")

    def offered(line: str) -> list[str]:
        with provisionalcompleter():
            return [one.text for one in shell.Completer.completions(line, len(line))]

    names = {"plot", "'two words'"}
    assert names <= set(offered("%%deepseek -c "))
    assert "plot" in offered("%%deepseek --chat p")
    assert offered("%%deepseek --chat=p") in (["plot"], ["--chat=plot"])
    assert names <= set(offered("%deepseek chat forget "))
    assert {"show", "forget"} <= set(offered("%deepseek chat "))
    assert "--code" in offered("%%deepseek -c --co")


# -- real kernels -----------------------------------------------------------------------


@contextmanager
def page_of_a_kernel(folder: Path) -> Iterator[Page]:
    folder.mkdir()
    manager = start(folder)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    made = Page(client)
    made.cell("%load_ext deepseek_magic")
    yield made
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def run_in(page: Page, cell: str, question: str, *, line: str = "-t off -c") -> None:
    page.cell(f"%%deepseek {line}\n{question}", {"cellId": cell})


SPACE = "get_ipython().magics_manager.registry['DeepSeekMagics'].workspace"
BUTTON = f"{SPACE}.notices._standing['g'][0]._button.comm.comm_id"


@pytest.mark.kernel
def test_cells_of_a_notebook(
    account: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell run again has one turn, also after a restart, an empty balance and its button."""
    monkeypatch.setenv("JPY_SESSION_NAME", HERE)
    account.script("a.", "b.", "A.")
    with page_of_a_kernel(tmp_path / "first") as page:
        for cell, question in (("a", "a?"), ("b", "b?"), ("a", "A?")):
            run_in(page, cell, question)
    again = sent(account)
    with page_of_a_kernel(tmp_path / "second") as page:
        account.balance, left = Decimal(0), account.balance
        page.cell("%deepseek balance")
        run_in(page, "c", "c?")
        account.balance = left
        account.script("c.", "B.", "d.", "e.", "f.")
        number = len(account.requests)
        page.cell("%deepseek rerun")
        settled(page, account, number + 1)
        run_in(page, "b", "B?", line="-t off -c other")
        moved = sent(account)
        code = (
            "for q in ('d?', 'e?'):\n    get_ipython().run_cell_magic('deepseek', '-t off -c', q)"
        )
        page.cell(code, {"cellId": "d"})
        page.cell(code.replace("'e?'", ""), {"cellId": "f"})
        ordinary = sent(account)
        account.script("F.", BREAKS, LONG, "h.")
        run_in(page, "f", "F?")
        run_in(page, "g", "g?")
        page.click(page.value(BUTTON))
        settled(page, account, len(account.requests) + 1)
        run_in(page, "h", "h?")

    assert again == ["A?"]
    assert moved == ["B?"]
    assert ordinary == ["A?", "A.", "c?", "c.", "d?", "d.", "e?", "e.", "d?"]
    assert sent(account)[8:] == ["F?", "F.", "g?", LONG, "h?"]


def settled(page: Page, account: Sandbox, number: int) -> None:
    """Wait until the account had so many requests, and the kernel has looked after the answer."""
    deadline = time.monotonic() + 30
    while len(account.requests) < number or not account.wait_idle():
        assert time.monotonic() < deadline
        page.value("1")
        time.sleep(0.05)
    page.value("1")


@pytest.mark.kernel
def test_a_notebook_that_runs_twice(kernel: Kernels, account: Sandbox) -> None:
    """Run by nbclient, day by day, a notebook asks the same of the same conversation."""
    made = notebook(
        ["%load_ext deepseek_magic", "%%deepseek -t off -c\nOne?", "%%deepseek -t off -c\nTwo?"]
    )
    account.script("1.", "2.", "1.", "2.")

    runs = [kernel.run(made, env={"JPY_SESSION_NAME": HERE}) for _ in range(2)]

    assert [ran.error for ran in runs] == [None, None]
    assert sent(account, 1) == sent(account, 3) == ["One?", "1.", "Two?"]
