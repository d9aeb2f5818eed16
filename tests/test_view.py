"""The live output of one cell: what a page and a terminal show while an answer grows."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic import markdown, render
from deepseek_magic.view import REDRAW, NotebookView, TerminalView
from deepseek_magic.wire import Answer, Message, Piece, Request, Usage

LINE = "deepseek-flash · 1 in · 2 out · 0.0001 CNY"
STAMP = {"model": "deepseek-flash", "cost": "0.0001"}
BLANK = {"text/html": "", "text/plain": ""}


@dataclass
class Page:
    """Takes what a kernel publishes and lays it out as a front end does."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    clearing: bool = False

    def publish(
        self,
        data: dict[str, str],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, str] | None = None,
        update: bool = False,
    ) -> None:
        """Show a new output, or change the one of the same display."""
        display = (transient or {}).get("display_id")
        message = {"data": data, "metadata": metadata or {}, "display": display}
        self.sent.append(message)
        if update:
            standing = [one for one in self.outputs if one["display"] == display]
            assert standing, "a display is changed that no longer stands"
            for one in standing:
                one.update(message)
            return
        if self.clearing:
            self.outputs, self.clearing = [], False
        self.outputs.append({**message})

    def clear_output(self, *, wait: bool) -> None:
        """Forget all that stands, with *wait* when the next output comes."""
        assert wait, "without waiting the page flickers"
        self.clearing = True

    @property
    def html(self) -> str:
        """All HTML that stands."""
        return "".join(one["data"]["text/html"] for one in self.outputs)


@dataclass
class Time:
    """A clock that is moved by hand."""

    now: float = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@dataclass
class Shell:
    """As much of a shell as a view looks at."""

    display_pub: Page = field(default_factory=Page)


def opened(*, thinking: bool = True, alone: bool = True) -> tuple[NotebookView, Page, Time]:
    page, clock = Page(), Time()
    shell: Any = Shell(page)
    view = NotebookView(shell, thinking=thinking, alone=alone, clock=clock)
    return view, page, clock


def grow(view: Any, clock: Time, pieces: list[Piece], seconds: float = 1.0) -> Answer:
    """Show an answer piece by piece, some time apart."""
    answer = Answer(model="deepseek-flash")
    for piece in pieces:
        answer = answer.plus(piece)
        clock.now += seconds
        view.show(answer)
    return answer


def cut(text: str, size: int) -> list[Piece]:
    return [Piece(text[start : start + size]) for start in range(0, len(text), size)]


def marks(text: str) -> list[str]:
    """Give the numbered words of a text, in order."""
    return re.findall(r"w\d+\b", text)


WORDS = [f"w{n}" for n in range(2000)]
PROSE = "\n\n".join(" ".join(WORDS[n : n + 40]) for n in range(0, 2000, 40))
FENCE = "```python\n" + "\n".join(f"print({word!r})  # <b>" for word in WORDS) + "\n```\n"
LIST = "\n".join(f"{n}. item {word}" for n, word in enumerate(WORDS, 1))
TABLE = "| a | b |\n| --- | --- |\n" + "\n".join(
    f"| {word} | {n} |" for n, word in enumerate(WORDS)
)
PARAGRAPH = " ".join(WORDS)
ONE_WORD = "x" * 9000 + " " + " ".join(WORDS[:50])
LONG = {
    "prose": PROSE,
    "fence": FENCE,
    "list": LIST,
    "table": TABLE,
    "paragraph": PARAGRAPH,
    "one word": ONE_WORD,
    "mixed": "\n\n".join([PROSE[:5000], FENCE, "# w1 heading", TABLE, LIST]),
}


# -- one answer -----------------------------------------------------------------------


def test_json_grows_as_a_block() -> None:
    """JSON keeps its lines while it comes, however long, and nothing in it is lost or doubled."""
    asked = Request((Message("user", "?"),), "deepseek-flash", json=True)
    text = "{\n" + ",\n".join(f'  "{word}": "*a_b*"' for word in WORDS) + "\n}"
    view, page, clock = opened()
    answer = Answer(model="deepseek-flash", request=asked)

    for piece in cut(text, 900):
        answer = answer.plus(piece)
        clock.now += 9
        view.show(answer)

    assert marks(re.sub(r"<[^>]*>", "", page.html)) == WORDS
    assert "<em>" not in page.html
    assert page.html.count("*a_b*") == len(WORDS)
    assert page.html.count("<pre") == len(page.outputs)


def test_a_short_answer_is_one_display() -> None:
    """An answer grows in one output, which in the end holds it whole with line and metadata."""
    view, page, clock = opened()

    answer = grow(view, clock, cut("Some **bold** words.", 4))
    growing = len(page.sent)
    view.end(answer, LINE, STAMP)

    (output,) = page.outputs
    shown = render.answer_shown(answer, LINE, thinking=True)
    assert output["data"] == {"text/html": shown.html, "text/plain": shown.text}
    assert output["metadata"] == {"deepseek_magic": STAMP}
    assert growing == 1 + 5


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", ["short", "prose", "fence"])
def test_another_answer_takes_the_place(name: str, *, alone: bool) -> None:
    """After a note that the answer is asked for anew, nothing of the earlier one stands."""
    view, page, clock = opened(alone=alone)
    earlier = grow(view, clock, [Piece(reasoning="Hm."), *cut(LONG.get(name, "w1 w2"), 397)])
    view.show(Answer(note="It does not fit. Asking once more.", seconds=1.0))
    noted = page.html

    answer = grow(view, clock, cut("A **new** answer, " + "n5 " * 3000, 397))
    growing = page.html
    view.end(answer, LINE, STAMP)

    standing = [one for one in page.outputs if one["data"]["text/html"]]
    assert marks(earlier.text)
    assert "Asking once more" in noted
    assert not marks(noted)
    assert not marks(growing)
    assert len(standing) == 1
    assert standing[0]["data"]["text/html"] == (
        render.answer_shown(answer, LINE, thinking=True).html
    )


def test_a_terminal_tells_answers_apart() -> None:
    """Each stands on lines of its own; what nothing followed is not printed twice."""
    wrong, right = Answer("w1 wrong"), Answer("w2 right")

    def printed(last: Answer) -> str:
        view, out = TerminalView(), io.StringIO()
        with contextlib.redirect_stdout(out):
            view.show(wrong)
            view.show(Answer(note="Asking once more."))
            if last is right:
                view.show(right)
            view.end(last, LINE, STAMP)
        return out.getvalue()

    assert printed(right) == f"w1 wrong\n\nAsking once more.\nw2 right\n\n{LINE}\n"
    assert printed(wrong) == f"w1 wrong\n\nAsking once more.\n{LINE}\n"


def test_something_stands_before_the_first_piece() -> None:
    """A cell says that it waits as soon as the question is on its way."""
    _, page, _ = opened()

    assert "Waiting for DeepSeek" in page.html


@pytest.mark.parametrize("name", LONG)
def test_a_long_answer_ends_as_one_display(name: str) -> None:
    """However long, an answer is one output in the end, the same as if it had come at once."""
    view, page, clock = opened()

    answer = grow(view, clock, cut(LONG[name], 397))
    displays = len({message["display"] for message in page.sent})
    view.end(answer, LINE, STAMP)

    (output,) = page.outputs
    assert output["data"]["text/html"] == render.answer_shown(answer, LINE, thinking=True).html
    assert output["data"]["text/plain"].startswith(LONG[name].rstrip())
    assert displays > 1


@pytest.mark.parametrize("name", LONG)
def test_nothing_is_missing_while_it_grows(name: str) -> None:
    """Whatever a block is cut through, all that has arrived stands there, once and in order."""
    view, page, clock = opened()
    answer = Answer()

    for piece in cut(LONG[name], 997):
        answer = answer.plus(piece)
        clock.now += 60
        view.show(answer)
        arrived, standing = marks(answer.text), marks(re.sub(r"<[^>]*>", " ", page.html))
        assert standing == arrived


@pytest.mark.parametrize("name", LONG)
def test_what_is_finished_is_not_sent_again(name: str) -> None:
    """Only the last two displays change; what stands above them was sent for good."""
    view, page, clock = opened()

    grow(view, clock, cut(LONG[name], 67), seconds=0.2)

    order: list[str] = []
    for message in page.sent:
        if message["display"] not in order:
            order.append(message["display"])
        assert message["display"] in order[-2:]


@pytest.mark.parametrize("name", LONG)
def test_a_long_answer_costs_the_page_little(name: str) -> None:
    """At 100 tokens a second a redraw waits for its turn, so the page is sent a bounded amount."""
    view, page, clock = opened()
    text = LONG[name]

    grow(view, clock, cut(text, 6), seconds=0.01)

    seconds = len(text) / 600
    sent = sum(len(message["data"]["text/html"]) for message in page.sent)
    assert sent < 16_000 * seconds + 5 * len(text) + 20_000
    assert len(page.sent) <= 3 * seconds / REDRAW + 10


def test_nothing_is_redrawn_before_its_time() -> None:
    """Pieces that come at once cause one redraw."""
    view, page, clock = opened()

    grow(view, clock, cut("Some words that come at once.", 2), seconds=0)

    assert len(page.sent) == 2


@pytest.mark.parametrize("thinking", [True, False])
def test_thoughts_are_folded_away(thinking: bool) -> None:
    """While the model thinks its last words show; then they are folded, or gone."""
    view, page, clock = opened(thinking=thinking)

    thought = grow(view, clock, [Piece(reasoning="Let me "), Piece(reasoning="think <b>.")])
    while_thinking = page.html
    answer = grow(view, clock, [Piece(reasoning=thought.reasoning), Piece("Done.")])
    while_answering = page.html
    whole = answer.plus(Piece(usage=Usage(1, 2, 0, 1, reasoning_tokens=12)))
    view.end(whole, LINE, STAMP)

    (output,) = page.outputs
    assert "Thinking… 2 s" in while_thinking
    assert "think &lt;b&gt;." in while_thinking
    assert ("<details" in while_answering) is thinking
    assert ("Thought for 12 tokens" in output["data"]["text/html"]) is thinking
    assert "think" not in output["data"]["text/plain"]


def test_an_answer_that_never_came_leaves_its_place() -> None:
    """After `drop` the next output, a notice, stands alone."""
    view, page, _ = opened()

    view.drop()
    page.publish({"text/html": "notice", "text/plain": "notice"})

    assert page.html == "notice"


# -- a cell that shows more than the answer -------------------------------------------


@pytest.mark.parametrize("text", ["Short.", LIST], ids=["short", "long"])
def test_other_outputs_of_the_cell_stay(text: str) -> None:
    """Where a cell's own code asks, what it showed before is still there in the end."""
    page, clock = Page(), Time()
    shell: Any = Shell(page)
    page.publish({"text/html": "<p>before</p>", "text/plain": "before"})
    view = NotebookView(shell, thinking=True, alone=False, clock=clock)

    answer = grow(view, clock, [Piece(reasoning="So."), *cut(text, 500)])
    view.end(answer, LINE, STAMP)

    before, whole, *rest = page.outputs
    assert before["data"]["text/html"] == "<p>before</p>"
    assert whole["data"]["text/html"] == render.answer_shown(answer, LINE, thinking=True).html
    assert whole["metadata"] == {"deepseek_magic": STAMP}
    assert all(one["data"] == BLANK for one in rest)


def test_other_outputs_of_the_cell_stay_without_an_answer() -> None:
    """So it is when no answer came."""
    page = Page()
    shell: Any = Shell(page)
    page.publish({"text/html": "<p>before</p>", "text/plain": "before"})
    view = NotebookView(shell, thinking=True, alone=False)

    view.drop()
    page.publish({"text/html": "<p>after</p>", "text/plain": "after"})

    assert page.html == "<p>before</p><p>after</p>"


# -- anything -------------------------------------------------------------------------

BLOCKS = st.sampled_from([
    *("A paragraph with *stars* and `code`.\n\n", "- item\n", "  - nested\n", "1. one\n"),
    *("```\n", "~~~ python\n", "    code\n", "| a | b |\n", "| --- | --- |\n", "| 1 | 2 |\n"),
    *("# Heading\n", "> quote\n", "$$\n", "x = y\n", "\n", "---\n", "<script>x</script>\n"),
    *("[1]: https://example.org\n", "see [1]\n", "\r\n", "\x1b[31mred\n", "ü😀\n", "word " * 150),
    *("line of text\n" * 80, "| 1 | 2 |\n" * 200, "- item\n" * 300, "x = 1\n" * 300),
])  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    text=st.lists(BLOCKS, max_size=25).map("".join),
    cuts=st.lists(st.integers(0, 20_000), max_size=40).map(sorted),
    seconds=st.floats(0, 30),
    reasoning=st.sampled_from(["", "Let me think. " * 40]),
)
def test_any_answer_ends_as_it_would_at_once(
    text: str, cuts: list[int], seconds: float, reasoning: str
) -> None:
    """Whatever comes in whatever pieces, one output stands in the end: the whole answer."""
    view, page, clock = opened()
    ends = pairwise([0, *(cut for cut in cuts if cut < len(text)), len(text)])
    pieces = [Piece(reasoning=reasoning), *(Piece(text[start:end]) for start, end in ends)]

    answer = grow(view, clock, pieces, seconds)
    view.end(answer, LINE, STAMP)

    (output,) = page.outputs
    shown = render.answer_shown(Answer(text, reasoning), LINE, thinking=True)
    assert output["data"] == {"text/html": shown.html, "text/plain": shown.text}
    assert all(set(message["data"]) == {"text/html", "text/plain"} for message in page.sent)
    assert not any("<script" in message["data"]["text/html"] for message in page.sent)


# -- a terminal -----------------------------------------------------------------------


def test_a_terminal_shows_each_piece_when_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """Text is printed as it arrives, and in the end the quiet line below it."""
    view, said = TerminalView(), []
    answer = Answer()

    for piece in [Piece(reasoning="Hm."), Piece(reasoning="So."), Piece("One "), Piece("two.")]:
        answer = answer.plus(piece)
        view.show(answer)
        said.append(capsys.readouterr().out)
    view.end(answer, LINE, STAMP)

    assert said == ["Thinking…\n", "", "One ", "two."]
    assert capsys.readouterr().out == f"\n\n{LINE}\n"


def test_a_terminal_without_an_answer_shows_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing came there is no empty space, and nothing has to be taken back."""
    view = TerminalView()

    view.drop()
    view.end(Answer(), LINE, STAMP)

    assert capsys.readouterr().out == f"{LINE}\n"


@settings(max_examples=60, deadline=None)
@given(text=st.text("ab \r\n\t\x1b\x07\x08\x9b\u202e[31mü", max_size=40), size=st.integers(1, 5))
def test_a_terminal_is_not_steered(text: str, size: int) -> None:
    """However an answer is cut, what is printed is its harmless form, line ends included."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        view = TerminalView()
        answer = grow(view, Time(), cut(text, size))
        view.end(answer, LINE, STAMP)

    shown = printed.getvalue()
    assert shown == (markdown.to_terminal(text) + "\n\n" if text else "") + f"{LINE}\n"
    assert not set(shown) & set("\r\x1b\x07\x08\x9b\u202e")
