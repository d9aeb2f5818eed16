"""The live output of one cell: a growing answer, shown while it arrives.

What has been shown once is not sent again with every piece. A long answer is
laid out as a few displays: those above hold finished blocks, the last one
holds the block that is still growing, and only that one is redrawn. When the
answer ends they become one display, which is what the notebook keeps.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from . import markdown, render
from .words import t

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from IPython.core.interactiveshell import InteractiveShell

    from .wire import Answer

WHOLE = 4000
"""Up to this many characters an answer is one display, redrawn as a whole."""
OPEN = 3000
"""A block that grows beyond this is cut at a line, so that redrawing it stays cheap."""
REDRAW = 0.1
"""Seconds between two redraws of a short block."""
BYTES_PER_SECOND = 8000
"""How much redrawing may send; a longer block is redrawn less often."""
LATEST = 0.35
"""Seconds after which a block is redrawn, however long: the page adds up to a tenth."""


class View(Protocol):
    """Something that shows an answer while it grows."""

    def show(self, answer: Answer) -> None:
        """Show *answer* so far; it may be called for every piece."""

    def end(self, answer: Answer, line: str, stamp: Mapping[str, Any], *, dead: str = "") -> None:
        """Show *answer* for good, with the quiet *line* below and *stamp* as its metadata.

        Where widgets follow, *dead* says what to do once they are dead.
        """

    def drop(self) -> None:
        """Show nothing: no part of an answer came, and what follows says why."""


def view_for(shell: InteractiveShell, *, thinking: bool, alone: bool = True) -> View:
    """Give the view that fits the front end; *alone* tells that the cell shows nothing else."""
    if getattr(shell, "kernel", None) is None:
        return TerminalView()
    return NotebookView(shell, thinking=thinking, alone=alone)


class TerminalView:
    """Print the text as it comes; nothing in it can steer the terminal."""

    def __init__(self) -> None:
        self._printed = 0
        self._thought = False
        self._text = self._earlier = ""

    def show(self, answer: Answer) -> None:
        """Print what is new."""
        if answer.note and answer.finish_reason is None:
            gap = "\n\n" if self._printed else ""
            print(f"{gap}{markdown.to_terminal(answer.note)}", flush=True)
            if not answer.text:  # what comes then is another answer
                self._earlier, self._text = self._text or self._earlier, ""
                self._printed, self._thought = 0, False
        if answer.reasoning and not answer.text and not self._thought:
            self._thought = True
            print(t("Thinking…"), flush=True)
        self._print(answer.text.removesuffix("\r"))  # perhaps half a line end

    def end(
        self,
        answer: Answer,
        line: str,
        stamp: Mapping[str, Any],  # noqa: ARG002
        *,
        dead: str = "",  # noqa: ARG002
    ) -> None:
        """Print the rest and the quiet line; not once more what no other answer followed."""
        if self._printed or answer.text != self._earlier:
            self._print(answer.text)
        print(f"\n\n{line}" if self._printed else line, flush=True)

    def drop(self) -> None:
        """Nothing was printed yet that would have to go."""

    def _print(self, text: str) -> None:
        print(markdown.to_terminal(text[self._printed :]), end="", flush=True)
        self._printed, self._text = len(text), text


class NotebookView:
    """Redraw what grows, leave alone what is finished.

    What a cell has shown can be taken back only all at once. So where it is not
    *alone*, a display that is no longer needed stays and is empty.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        *,
        thinking: bool,
        alone: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = shell.display_pub
        self._thinking = thinking
        self._alone = alone
        self._clock = clock
        self._began = clock()
        self._next = 0.0
        self._displays: list[str] = []
        self._fresh = False
        self._open_from = 0
        self._carried = ""
        self._finished: list[str] | None = None
        self._finished_size = 0
        self._open_display()
        self._draw(render.waiting_shown().html)

    def show(self, answer: Answer) -> None:
        """Redraw if it is time; a longer block waits longer for its turn."""
        now = self._clock()
        if answer.note and answer.finish_reason is None:
            self._start_over()
            self._draw(render.waiting_shown(answer.note).html)
            return
        if now < self._next:
            return
        if answer.text:
            sent = self._show_text(answer)
        else:
            seconds = now - self._began
            sent = self._draw(render.thinking_shown(answer.reasoning, seconds).html)
        self._next = now + min(max(REDRAW, sent / BYTES_PER_SECOND), LATEST)

    def end(self, answer: Answer, line: str, stamp: Mapping[str, Any], *, dead: str = "") -> None:
        """Put the whole answer into one display, the one that is saved."""
        shown = render.answer_shown(answer, line, thinking=self._thinking, dead=dead)
        data = {"text/html": shown.html, "text/plain": shown.text}
        metadata = {"deepseek_magic": dict(stamp)}
        whole, *rest = self._displays
        if rest and self._alone:
            self._publisher.clear_output(wait=True)
            self._publisher.publish(data=data, metadata=metadata)
        else:
            self._publish(data, whole, metadata, update=True)
            self._empty(rest)

    def drop(self) -> None:
        """Let the next output, a notice or an error, stand where the waiting stood."""
        if self._alone:
            self._publisher.clear_output(wait=True)
        else:
            self._empty(self._displays)

    def _start_over(self) -> None:
        """Make room for another answer in the place of the one that was shown so far."""
        first, *rest = self._displays
        if rest and self._alone:
            self._publisher.clear_output(wait=True)
            self._displays = []
            self._open_display()
        elif rest:
            self._empty(rest)
            self._displays, self._fresh = [first], False
        self._open_from, self._carried, self._next = 0, "", 0.0
        self._finished, self._finished_size = None, 0

    def _empty(self, displays: Iterable[str]) -> None:
        for display in displays:
            self._publish({"text/html": "", "text/plain": ""}, display, {}, update=True)

    def _show_text(self, answer: Answer) -> int:
        if (
            len(self._displays) == 1
            and self._open_from == 0
            and answer.reasoning
            and self._thinking
        ):
            self._draw(render.reasoning_html(answer.reasoning))
            self._open_display()
        if self._open_from == 0:
            self._carried = render.opening(answer)
        above = self._lay_aside(answer.text) if len(answer.text) > WHOLE else None
        sent = self._draw(markdown.to_html(self._carried + answer.text[self._open_from :]))
        if above is not None:
            # Last, so that nothing is gone for a moment: the page would scroll back.
            self._draw(*above)
        return sent

    def _lay_aside(self, text: str) -> tuple[str, str] | None:
        """Move what is finished of the open display to the one above it.

        When the open one becomes a finished one, give what it is to be cut down to
        and its name; the text after that goes into a new one below.
        """
        rest = text[self._open_from :]
        cut, carried = max(0, markdown.settled(self._carried + rest) - len(self._carried)), ""
        if not cut and len(rest) > OPEN:
            cut = (rest.rfind("\n", 0, OPEN) + 1) or (rest.rfind(" ", 0, OPEN) + 1) or OPEN
            carried = markdown.carried(self._carried + rest[:cut])
        if not cut:
            return None
        html, above = markdown.to_html(self._carried + rest[:cut]), None
        room = max(WHOLE // 2, self._open_from // 10)
        if self._finished is not None and self._finished_size + cut <= room:
            self._finished.append(html)
            self._finished_size += cut
            self._draw("".join(self._finished), self._displays[-2])
        else:
            self._finished, self._finished_size = [html], cut
            if self._fresh:
                self._draw(html)
            else:
                above = html, self._displays[-1]
            self._open_display()
        self._open_from += cut
        self._carried = carried
        return above

    def _open_display(self) -> None:
        self._displays.append(uuid.uuid4().hex)
        self._fresh = True

    def _draw(self, html: str, display: str | None = None) -> int:
        """Show *html* in the open display, or in another; return how much was sent."""
        target = display or self._displays[-1]
        fresh = self._fresh and target == self._displays[-1]
        self._publish({"text/html": html, "text/plain": "…"}, target, {}, update=not fresh)
        if fresh:
            self._fresh = False
        return len(html)

    def _publish(
        self, data: dict[str, str], display: str, metadata: dict[str, Any], *, update: bool
    ) -> None:
        self._publisher.publish(
            data=data, metadata=metadata, transient={"display_id": display}, update=update
        )
