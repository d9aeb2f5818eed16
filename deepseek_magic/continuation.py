"""An answer that ended before its end, and how it goes on.

The API is given the question with the beginning of its answer, and writes the rest
(api-docs.deepseek.com/guides/chat_prefix_completion). Pure functions from what
has arrived to what is asked next, and from the parts to the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import localcontext
from typing import Any

from .errors import InvalidOption
from .wire import EXACT, Answer, CostRange, ImageLink, Message, Request, Usage
from .words import later, sentences, t

MENDABLE = frozenset({None, "length", "insufficient_system_resource"})
"""Reasons to end after which there is more to come (api-docs.deepseek.com/api)."""

NOTHING_BILLED = frozenset({"refused", "failed"})
"""How a call ends that has brought nothing and cost nothing."""

ASK_ANEW = later("Nothing was sent. Ask anew.")


@dataclass(frozen=True, slots=True)
class LostImage(ImageLink):
    """A picture of which the ledger knows no more than what stands for it there."""

    @property
    def told(self) -> str:
        """What stands for it in records."""
        return self.url


def can_go_on(answer: Answer | None) -> bool:
    """Tell whether *answer* ended before its end, and can go on from there."""
    return answer is not None and _why_not(answer) is None


def _why_not(answer: Answer) -> str | None:
    """Say why *answer* cannot go on; None when it can."""
    if answer.request is None:
        return t("It is not known what this answer was asked, so it cannot go on.")
    if _lost(answer):
        return t("This answer had pictures, which the ledger does not keep, so it cannot go on.")
    if answer.finish_reason not in MENDABLE:
        return t(
            "This answer has come to its end ({reason}), so it does not go on.",
            reason=answer.finish_reason,
        )
    if answer.finish_reason == "length" and answer.text and not answer.text.strip():
        return t("This answer is nothing but blanks, so there is nothing to go on from.")
    if not (answer.text.strip() or answer.reasoning.strip()):
        return t("No word of this answer had arrived, so there is nothing to go on from.")
    return None


def _lost(answer: Answer) -> bool:
    images = () if answer.request is None else answer.request.images
    return any(isinstance(image, LostImage) for image in images)


def beginning(begun: Answer | BaseException) -> Answer:
    """Give what is to go on: an answer so far, or the one that an error carries."""
    found = getattr(begun, "answer", None) if isinstance(begun, BaseException) else begun
    if not isinstance(found, Answer):
        raise _refusal(
            t(
                "Neither an answer nor an error with one was given, so there is nothing to go on "
                "from."
            )
        )
    if (reason := _why_not(found)) is not None:
        raise _refusal(reason)
    return found


def _refusal(reason: str) -> InvalidOption:
    return InvalidOption(sentences(reason, t(ASK_ANEW)))


def rest_of(answer: Answer, max_tokens: int | None = None) -> Request:
    """Make the request that asks for what is missing of *answer*, of at most *max_tokens*."""
    asked = answer.request
    if asked is None:
        raise _refusal(t("It is not known what this answer was asked."))
    first = asked.messages[-1] if asked.goes_on else Message("assistant", "", prefix=True)
    so_far = replace(
        first,
        content=first.content + answer.text,
        reasoning=first.reasoning + answer.reasoning,
    )
    whole = replace(asked, messages=(*question_of(asked).messages, so_far))
    return whole if max_tokens is None else replace(whole, max_tokens=max_tokens)


def question_of(request: Request) -> Request:
    """Give the question itself, without the beginning of an answer."""
    return replace(request, messages=request.messages[:-1]) if request.goes_on else request


def with_room(question: Request, before: Answer | None) -> Request:
    """Give *question* with room for an answer as long as what was *before* and the rest."""
    if before is None or before.usage is None or question.max_tokens is None:
        return question
    return replace(question, max_tokens=question.max_tokens + (before.usage.completion_tokens or 0))


def joined(before: Answer, rest: Answer) -> Answer:
    """Put an answer together: what it was *before*, and the *rest* that a further call brought.

    What is not known of one part is not known of the sum.
    """
    with localcontext(EXACT):
        return replace(
            rest,
            text=before.text + rest.text,
            reasoning=before.reasoning + rest.reasoning,
            usage=_usage(before.usage, rest.usage),
            request=before.request,
            rest=rest,
            seconds=_sum(before.seconds, rest.seconds),
            **_cost(before, rest),
        )


def _sum(one: Any, other: Any) -> Any:
    return None if one is None or other is None else one + other


def _usage(one: Usage | None, other: Usage | None) -> Usage | None:
    return _sum(one, other)  # type: ignore[no-any-return]  # a sum of two is one


def _cost(before: Answer, rest: Answer) -> dict[str, Any]:
    if before.currency not in (None, rest.currency):
        return {"cost": None, "cost_range": None}
    if (cost := _sum(before.cost, rest.cost)) is not None:
        return {"cost": cost, "cost_range": None}
    first, second = _span(before), _span(rest)
    if first is None or second is None:
        return {"cost": None, "cost_range": None}
    span = CostRange(
        first.low + second.low, first.high + second.high, _sum(first.likely, second.likely)
    )
    return {"cost": None, "cost_range": span}


def _span(answer: Answer) -> CostRange | None:
    if answer.cost is not None:
        return CostRange(answer.cost, answer.cost, answer.cost)
    return answer.cost_range


# From the ledger


@dataclass(frozen=True, slots=True)
class Entry:
    """A call as the ledger holds it: its question, the text it went on from, and what came."""

    question: Request
    before: Message | None
    answer: Answer
    state: str
    cell: str | None
    sent: datetime
    ended: datetime | None

    def asks_like(self, other: Entry) -> bool:
        """Tell whether *other* has the same question, whatever the bound of its answer."""
        return _alike(self.question, other.question)

    @property
    def goes_on(self) -> bool:
        """Whether it can go on."""
        unusable = self.state == "unusable" and self.answer.finish_reason == "length"
        ended = self.state in {"partial", "interrupted", "done"} or unusable
        return ended and can_go_on(self.answer)

    @property
    def has_lost(self) -> bool:
        """Whether it could go on if its pictures were still there."""
        question = replace(
            self.question,
            messages=tuple(replace(message, images=()) for message in self.question.messages),
        )
        return (
            _lost(self.answer)
            and replace(self, answer=replace(self.answer, request=question)).goes_on
        )


def entry(row: Mapping[str, Any], answer: Answer) -> Entry | None:
    """Read the *row* of a call and its *answer*; None where its request cannot be sent again."""
    sent = read_request(row["request"])
    if sent is None:
        return None
    question = question_of(sent)
    before = sent.messages[-1] if sent.goes_on else None
    answer = replace(answer, request=question)
    if before is not None and not (answer.text or answer.reasoning):  # its process has ended
        answer = replace(answer, text=before.content, reasoning=before.reasoning)
    return Entry(question, before, answer, row["state"], row["cell"], row["sent"], row["ended"])


def broken_of(entries: Iterable[Entry]) -> Answer | None:
    """Give the newest answer that could go on and has not yet; *entries* are the newest first.

    One whose pictures are not known any more is given too: `beginning` says so.

    Of one question, and of one cell, the newest call counts; one that cost nothing
    changes nothing, and one that is under way will tell.
    """
    rows = [one for one in entries if one.state not in NOTHING_BILLED]
    settled: list[Entry] = []
    for number, one in enumerate(rows):
        if not any(_replaces(other, one) for other in settled):
            ended_early = one.goes_on or one.has_lost
            if ended_early and not (one.state == "unusable" and _is_a_row(one, rows)):
                return _whole(one, rows[number + 1 :])
            settled.append(one)
    return None


def is_under_way(entries: Iterable[Entry], answer: Answer) -> bool:
    """Tell whether a call goes on with *answer*, or has gone on and brought more of it.

    *entries* are the newest first; those from before the answer itself, which may have
    begun alike, do not count.
    """
    mine = Message("assistant", answer.text, reasoning=answer.reasoning)
    for one in entries:
        if one.state in NOTHING_BILLED or not _alike(one.question, answer.request):
            continue
        if one.state != "sent" and _is_beginning(one.answer, mine):
            return False
        if one.before is not None and _is_beginning(answer, one.before):
            return True
    return False


def _replaces(later: Entry, one: Entry) -> bool:
    return later.asks_like(one) or (one.cell is not None and later.cell == one.cell)


def _is_a_row(one: Entry, rows: Iterable[Entry]) -> bool:
    """Tell one of many questions of a cell, whose answers go into a table.

    Where no cell is known, they are questions that were under way at once.
    """
    others = (row for row in rows if row.cell == one.cell and not row.asks_like(one))
    return any(one.cell is not None or _at_once(one, other) for other in others)


def _at_once(one: Entry, other: Entry) -> bool:
    return (one.ended is None or other.sent < one.ended) and (
        other.ended is None or one.sent < other.ended
    )


def _whole(last: Entry, older: list[Entry]) -> Answer:
    """Add up the cost of all calls that an answer took; it is unknown where one is missing."""
    if last.before is None:
        return last.answer
    for number, one in enumerate(older):
        if one.asks_like(last) and _is_beginning(one.answer, last.before):
            before = _whole(one, older[number + 1 :])
            break
    else:
        before = Answer(request=last.question)
    rest = replace(
        last.answer,
        text=last.answer.text.removeprefix(last.before.content),
        reasoning=last.answer.reasoning.removeprefix(last.before.reasoning),
    )
    return replace(joined(before, rest), text=last.answer.text, reasoning=last.answer.reasoning)


def _alike(one: Request, other: Request | None) -> bool:
    """Tell whether two questions are the same, whatever the bound of their answers."""
    if other is None:
        return False
    return replace(one, max_tokens=other.max_tokens).body(brief=True) == other.body(brief=True)


def _is_beginning(answer: Answer, before: Message) -> bool:
    return answer.text == before.content and answer.reasoning == before.reasoning


def read_request(sent: str | None) -> Request | None:
    """Read a request as it was sent; None where it was not kept."""
    try:
        body = json.loads(sent or "")
        messages = tuple(_messages(body["messages"]))
        thinks = (body.get("thinking") or {}).get("type", "enabled") == "enabled"
        return Request(
            messages=messages,
            model=body["model"],
            think=body.get("reasoning_effort") if thinks else "off",
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
            max_tokens=body.get("max_tokens"),
            stop=tuple(body.get("stop") or ()),
            json=(body.get("response_format") or {}).get("type") == "json_object",
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _messages(rows: Iterable[Mapping[str, Any]]) -> Iterator[Message]:
    for row in rows:
        content = row["content"]
        parts: list[Any] = [{"text": content}] if isinstance(content, str) else content
        first, *images = parts
        if not isinstance(first["text"], str):
            raise TypeError("no text")
        yield Message(
            row["role"],
            first["text"],
            images=tuple(_image(image["image_url"]["url"]) for image in images),
            reasoning=row.get("reasoning_content") or "",
            prefix=row.get("prefix") is True,
        )


def _image(told: str) -> ImageLink:
    """Read what stands for a picture: of one on the web, that is all there is of it."""
    link = ImageLink(told.removeprefix("[picture at ").removesuffix("]"))
    return link if link.told == told else LostImage(told)
