"""The errors a cell can end in, each shown as one line.

DeepSeekError
├── InvalidOption        an option or a {{placeholder}} is wrong      nothing was sent
│   └── UnknownSetting         a setting that does not exist
├── KeyInText            the text holds something like a key          nothing was sent
├── NoKey                no key is set                                nothing was sent
├── OutOfMoney
│   ├── InsufficientBalance    the account is empty                   nothing was billed
│   └── OverLimit              a cap of the user's own                nothing was billed
├── RequestRefused       the API said no                              nothing was billed
│   ├── BadRequest             400, 404, 422: it cannot be answered as it is
│   ├── WrongKey               401, 403
│   ├── TooManyRequests        429
│   └── ServerFailure          500, 502, 503, 504 and the like
├── ConnectionFailed     the API was not reached                      nothing was billed
├── BrokenAnswer         the answer stopped before its end            may have been billed
└── UnusableAnswer       the answer is whole, but not what was asked  was billed
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from .words import language, sentences

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .jobs import Progress
    from .wire import Answer, Balance


class DeepSeekError(Exception):
    """A query that did not end in an answer.

    Its line is made of what is *told*: what happened first, then what was billed or not
    done, then the next step. *answer* holds what had arrived, None when nothing had.
    *trace_id* is the API's own name for the exchange (`x-ds-trace-id`), for its support.
    """

    partial: Any = None
    """What a question for every row had when it ended, as a DataFrame; else None."""

    progress: Progress | None = None
    """How far a question for every row had come; else None."""

    may_be_billed = False
    """Whether the API may have charged for the query all the same."""

    may_be_retried = False
    """Whether asking again soon can help, and nothing can have been billed."""

    def __init__(
        self, *told: str, answer: Answer | None = None, trace_id: str | None = None
    ) -> None:
        super().__init__()
        self.retell(*told)
        self.answer = answer
        self.trace_id = trace_id

    def retell(self, *told: str) -> None:
        """Say from now on what is *told*; a line that comes in one is cut after a sentence."""
        line, parts = sentences(*told), tuple(filter(None, told))
        self.args = (line,)
        self.told = parts if len(parts) > 1 else _cut(line)
        """What the line is made of, beginning with what happened."""

    @property
    def what(self) -> str:
        """What happened, as a sentence of its own."""
        stop = "." if language() == "en" else "。"
        return f"{self.told[0].rstrip('.。')}{stop}"

    def _render_traceback_(self) -> list[str]:
        """Show one line instead of a traceback (IPython asks for this by name)."""
        return [f"{type(self).__name__}: {self}"]


class InvalidOption(DeepSeekError):
    """An option, or an expression in the prompt, cannot be used. Nothing was sent."""

    reason = ""
    """Why an expression failed, without its text; empty where it was something else."""


class UnknownSetting(InvalidOption, TypeError):
    """A setting that does not exist: a `TypeError`, as for any function. Nothing was sent."""


class KeyInText(DeepSeekError):
    """The text holds something like a key. Nothing was sent."""


class NoKey(DeepSeekError):
    """There is no key to ask with. Nothing was sent."""


class OutOfMoney(DeepSeekError):
    """The query was not paid for. Nothing was billed."""

    def __init__(
        self,
        *told: str,
        balance: Balance | None = None,
        partial: Any = None,
        answer: Answer | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(*told, answer=answer, trace_id=trace_id)
        self.balance = balance
        """The last known balance; None when it has not been read."""
        self.partial = partial
        self.unsent = False
        """Whether a check has refused, before anything was sent."""
        self.estimate: Any = None
        """What the question was likely to cost; None when that was not reckoned."""
        self.steps: tuple[str, ...] = ()
        """Cheaper ways to ask, one sentence each."""


class InsufficientBalance(OutOfMoney):
    """The account's balance is empty, or too small for more requests at once."""

    host: str | None = None
    """Where to top up, when the account that is empty is one at a company other than DeepSeek."""

    at_once: int | None = None
    """How many requests at once the balance still allows, where the API has named a number."""


class OverLimit(OutOfMoney):
    """A cap of the user's own would be passed."""


class RequestRefused(DeepSeekError):
    """The API said no. Nothing was billed."""

    def __init__(
        self,
        *told: str,
        status: int | None = None,
        retry_after: float | None = None,
        answer: Answer | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(*told, answer=answer, trace_id=trace_id)
        self.status = status
        """The HTTP status; None when the refusal came inside a stream."""
        self.retry_after = retry_after
        """Seconds to wait, where the API named them."""
        self.at_once: int | None = None
        """How many requests at once are allowed, where the API has named a number."""


class BadRequest(RequestRefused):
    """The request cannot be answered as it is (400, 404, 422)."""

    names_no_model = False
    """Whether that is because there is no such model."""


class WrongKey(RequestRefused):
    """The API does not accept the key (401, 403)."""


class TooManyRequests(RequestRefused):
    """Too many requests at once, or too fast (429)."""


class ServerFailure(RequestRefused):
    """The API is overloaded or out of order (500 and above)."""


class ConnectionFailed(DeepSeekError):
    """The API was not reached. Nothing was billed."""


class BrokenAnswer(DeepSeekError):
    """The request was sent and the answer stopped before its end."""

    may_be_billed = True


class UnusableAnswer(DeepSeekError):
    """The answer is whole, but it is empty or not of the form that was asked for."""

    may_be_billed = True
    problems: tuple[str, ...] = ()
    """What is wrong with it, a line each, where the model may be asked to put it right."""


class Interrupted(KeyboardInterrupt):
    """A query that the user stopped; shown as one line, like any other end of a cell."""

    partial: Any = None
    """What a question for every row had when it was stopped, as a DataFrame; else None."""

    progress: Progress | None = None
    """How far a question for every row had come; else None."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def _cut(line: str) -> tuple[str, ...]:
    """Cut *line* after its first sentence."""
    chinese = language() == "zh"
    end = "。" if chinese and "。" in line else ". "
    first, found, rest = line.partition(end)
    # `sentences` puts a blank between the two in English alone.
    blank = found[1:] if chinese else ""
    return (first + found[:1], blank + rest) if rest else (line,)


def one_line(text: str, limit: int = 240) -> str:
    """Bring foreign *text* into an error's one line: folded, printable, not long."""
    line = " ".join(text[: 4 * limit].split())
    short = line if len(line) <= limit else line[: limit - 1] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in short)


def _bare(word: str) -> str:
    return word.lstrip("-–—").lower()


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Find which of the *known* words is meant: one that begins so, else one spelt like it."""
    names = {_bare(name): name for name in known}
    begun = [name for name in names if _bare(word) and name.startswith(_bare(word))]
    near = begun or difflib.get_close_matches(_bare(word), names, n=1, cutoff=0.6)
    return names[near[0]] if near else None
