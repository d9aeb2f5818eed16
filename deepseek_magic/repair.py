"""JSON that was asked for and is none: sent back once, to be put right.

repair_of(request, answer, problems)   what is asked then
together(first, second)                the answer of both, with the cost of both
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from . import failures
from .errors import (
    BadRequest,
    ConnectionFailed,
    DeepSeekError,
    InsufficientBalance,
    OutOfMoney,
    RequestRefused,
    UnusableAnswer,
    one_line,
)
from .wire import EXACT, Answer, CostRange, Message, Request, Usage
from .words import language, later, sentences, t

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .schemas import Schema

MADE = later("one repair was made, its cost is counted")
MAY_COME = later(
    "An answer that is not the JSON asked for is sent back once, to be put right. That costs "
    "something more, which is not in these figures; limits hold for both. Without it: --no-repair"
)
_BILLED: Mapping[str, str] = MappingProxyType(
    {
        later("It was billed."): later("Both answers were billed."),
        later("It was billed, and its text is kept above."): later(
            "Both answers were billed, and its text is kept above."
        ),
    }
)
"""What is said of the cost of one answer, and of two."""
UNUSABLE = "This answer cannot be used:\n"
EMPTY = "Answer with the JSON itself; an empty answer is none."
PROBLEM = 200
"""Characters of one line that says what is wrong."""


# What is asked


def with_form(request: Request, schema: Schema | None) -> Request:
    """Give *request* with the form of its answer in the system message."""
    if schema is None:
        return request
    told, first = schema.instructions(), request.messages[:1]
    if first and first[0].role == "system":
        before, rest = first[0].content, request.messages[1:]
        system = replace(first[0], content=before if told in before else f"{before}\n\n{told}")
    else:
        system, rest = Message("system", told), request.messages
    return replace(request, messages=(system, *rest), json=True)


def repair_of(request: Request, answer: Answer, problems: Sequence[str]) -> Request:
    """Ask for the JSON of *answer* once more, without its *problems*."""
    if not answer.text.strip():
        *before, last = request.messages
        again = f"{last.content}\n\n{EMPTY}"
        return replace(request, messages=(*before, replace(last, content=again)))
    lines = "\n".join(f"- {one_line(problem, PROBLEM)}" for problem in problems)
    return replace(
        request,
        messages=(
            *request.messages,
            Message("assistant", answer.text),
            Message(
                "user",
                f"{UNUSABLE}{lines}\n"
                "Answer with the corrected JSON object as a whole, and nothing else.",
            ),
        ),
    )


def is_repair(request: Request) -> bool:
    """Tell whether *request* asks for an answer to be put right: that is done once."""
    *before, last = request.messages
    if last.content.endswith(EMPTY):
        return True
    follows = bool(before) and before[-1].role == "assistant"
    return follows and last.content.startswith(UNUSABLE)


def asked_first(request: Request) -> Request:
    """Give the question whose answer *request* asks to be put right; else *request* itself."""
    if not is_repair(request):
        return request
    *before, last = request.messages
    if last.content.endswith(EMPTY):
        before = [*before, replace(last, content=last.content.removesuffix(f"\n\n{EMPTY}"))]
    else:
        before = before[:-1]
    return replace(request, messages=tuple(before))


# What came


class Reading:
    """How the answers of one question are read, by its *schema* if it has one.

    `paid` is the last of them that may have been billed, with its cost; None before one was.
    `name` is that of the question which a repair answers; "" before one is asked for.
    `turn` is the place of the question in a conversation, None where it is in none.
    """

    def __init__(self, schema: Schema | None = None, turn: Any = None) -> None:
        self.schema = schema
        self.turn = turn
        self.paid: Answer | None = None
        self.name = ""

    def read(self, request: Request, answer: Answer) -> tuple[Answer, DeepSeekError | None]:
        """Give the whole *answer* with what it says, or why it cannot be used."""
        schema = self.schema
        # A schema tells more of what is wrong.
        form = request if schema is None else replace(request, json=False)
        if (error := failures.verdict(form, answer)) is not None:
            return answer, error
        if schema is None:
            return (replace(answer, parsed=answer.json()) if request.json else answer), None
        try:
            return replace(answer, parsed=schema.object(answer.text), schema=schema), None
        except UnusableAnswer as unfit:
            return answer, unfit


def problems_of(error: DeepSeekError | None, answer: Answer) -> tuple[str, ...]:
    """Say what is to be put right; nothing where the answer was cut, or stopped."""
    if not isinstance(error, UnusableAnswer) or answer.finish_reason == "length":
        return ()
    return error.problems


def is_put_off(why: DeepSeekError | None) -> bool:
    """Tell whether a repair that ended in *why* may be asked for later, as it is.

    So it is where nothing of it was billed, and the fault was not in it.
    """
    kinds = OutOfMoney | RequestRefused | ConnectionFailed
    return isinstance(why, kinds) and not (isinstance(why, BadRequest) or why.may_be_billed)


def together(first: Answer, second: Answer) -> Answer:
    """Give *second*, the repair so far, with the tokens, the cost and the time of both.

    What one of them does not know is not known of both.
    """
    cost, span = _sum(first, second)
    seconds = None if first.seconds is None else first.seconds + (second.seconds or 0.0)
    notes = (second.note, t(MADE)) if second.finish_reason else (second.note,)
    return replace(
        second,
        usage=_usage(first.usage, second.usage),
        cost=cost,
        cost_range=span,
        currency=second.currency or first.currency,
        seconds=seconds,
        note=t("; ").join(filter(None, notes)),
    )


def both(first: Answer, second: Answer | None) -> Answer:
    """Give what there is when a repair has ended early, *second* None where it cost nothing."""
    if second is None:
        return first
    found = together(first, second)
    if second.text.strip():
        return found
    return replace(
        found,
        text=first.text,
        reasoning=first.reasoning,
        finish_reason=first.finish_reason,
        request=first.request,
    )


def _usage(first: Usage | None, second: Usage | None) -> Usage | None:
    return None if first is None or second is None else first + second


def _sum(first: Answer, second: Answer) -> tuple[Any, CostRange | None]:
    """Add up two costs, which may be ranges; nothing where one is not known."""
    if first.cost is not None and second.cost is not None:
        return EXACT.add(first.cost, second.cost), None
    one, other = _span(first), _span(second)
    if one is None or other is None:
        return None, None
    likely = None
    if one.likely is not None and other.likely is not None:
        likely = EXACT.add(one.likely, other.likely)
    return None, CostRange(EXACT.add(one.low, other.low), EXACT.add(one.high, other.high), likely)


def _span(answer: Answer) -> CostRange | None:
    if answer.cost is not None:
        return CostRange(answer.cost, answer.cost, answer.cost)
    return answer.cost_range


# Words


def asked_again(first: Answer, wrong: UnusableAnswer) -> Answer:
    """Say that the repair is asked for now; the tokens and the cost are the first answer's."""
    note = sentences(_what(wrong), t("Asking once more, for it to be put right."))
    return replace(first, text="", reasoning="", finish_reason=None, note=note)


def unrepaired(wrong: UnusableAnswer, why: DeepSeekError, answer: Answer) -> DeepSeekError:
    """Make the error of a question whose repair did not do; *answer* is what there is of both.

    Where the repair was not paid for, the want of money is told: more of it helps.
    """
    if isinstance(why, UnusableAnswer):
        why.retell(*_after_one(why))
    elif isinstance(why, InsufficientBalance):
        unsent = t("It was billed; its repair was not sent.")
        said_twice = {t("Nothing was billed."), t("Nothing was sent.")}
        rest = (line for line in why.told[1:] if line not in said_twice)
        why.retell(why.what, _what(wrong), unsent, *rest)
    else:
        reason = one_line(why.what.rstrip(".。"), PROBLEM)
        wrong.retell(*wrong.told, t("No repair came: {reason}.", reason=reason))
        why = wrong
    why.answer = answer
    return why


def after_one(error: UnusableAnswer) -> str:
    """Say that an answer cannot be used although it was sent back once."""
    return sentences(*_after_one(error))


def _after_one(error: UnusableAnswer) -> tuple[str, ...]:
    first, billed, *rest = (*error.told, "")
    if language() == "en":
        first = f"{first[:1].lower()}{first[1:]}"
    for of_one, of_both in _BILLED.items():
        if billed.startswith(t(of_one)):
            billed = billed.replace(t(of_one), t(of_both), 1)
    return t("After one repair {what}", what=first), billed, *rest


def _what(wrong: UnusableAnswer) -> str:
    """Say what is wrong, without what to do."""
    return t("{what}.", what=one_line(wrong.what.rstrip(".。"), PROBLEM))
