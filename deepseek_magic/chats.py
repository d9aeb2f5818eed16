"""Conversations: which turns there are, and which of them go along with a question.

A turn is a question and its whole answer. It stands in the place of its cell, in the
order in which the cells were first asked, so that a cell that runs again replaces its own
turn and is sent with those before it. What was thought is not sent again: the API wants
it with tools only (api-docs.deepseek.com/guides/thinking_mode).
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from . import image_tokens
from .continuation import LostImage, question_of, read_request
from .entries import moment
from .errors import DeepSeekError, InvalidOption, nearest, one_line
from .ledger import Ledger
from .options import is_chat_name, quoted
from .preflight import BLIND, IMAGE_BYTES, MOST_IMAGES
from .records import as_sent
from .repair import asked_first
from .tokens import approximate
from .wire import Answer, Image, ImageLink, Message, Request
from .words import t, tn

if TYPE_CHECKING:
    from concurrent.futures import Future

HISTORY_TOKENS = 32_000
"""How long the turns are, together, that go along with a question."""

KEPT = 0.75
"""The share of it that is left when turns are left out.

What goes along then begins the same for a while, and so comes from DeepSeek's cache, at a
fraction of the price (api-docs.deepseek.com/guides/kv_cache).
"""

NOT_SENT = "[A picture stood here, which is not sent again.]"
"""What the model reads in the place of a picture of an earlier turn."""

DISK_SECONDS = 2.0
"""How long an answer waits, at most, for its turn to be on disk."""

LOG = logging.getLogger("deepseek_magic")

_FRAME = 8
"""Tokens beside the words of a turn: the roles of its two messages, and their ends."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A *question* and its whole *answer*, as they stand in the *place* of a cell."""

    question: Message
    answer: str
    at: datetime
    place: str
    model: str | None = None
    tokens: int = field(default=0, compare=False)
    """About how many it takes to send it along."""

    @property
    def messages(self) -> tuple[Message, Message]:
        """Give it as it is sent along."""
        return self.question, Message("assistant", self.answer)


@dataclass(frozen=True, slots=True)
class NextTurn:
    """A question with its history: *request* is what is sent, and *notes* tell of that.

    It becomes a turn of *chat* when its answer is whole. Its *cell*, where one is named,
    leaves other conversations then.
    """

    chat: str
    place: str
    request: Request
    notes: tuple[str, ...] = ()
    cell: str | None = None

    @property
    def question(self) -> Message:
        """Give the question itself."""
        return self.request.messages[-1]


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation in figures: how many *turns* it has, and about how many *tokens*.

    *spent* is what its questions cost so far, by currency, those that failed or were
    asked anew included; of *unpriced* ones that is not known. *used* is when it had its
    newest answer. The notebook's own has no *name*.
    """

    name: str
    turns: int
    tokens: int
    spent: Mapping[str, Decimal]
    unpriced: int
    used: datetime


# What goes along


def first_sent(sizes: Sequence[int], bound: int) -> int:
    """Give the number of the first turn that goes along, by the *sizes* of all in order.

    Together they have at most *bound*. It is the same for a while as turns are added:
    when there is no room, the oldest make some for several.
    """
    start = total = 0
    for end, size in enumerate(sizes):
        total += size
        full = total > bound
        while start <= end and (total > bound or (full and start < end and total > bound * KEPT)):
            total -= sizes[start]
            start += 1
    return start


def with_history(
    request: Request, turns: Sequence[Turn], bound: int, chat: str = ""
) -> tuple[Request, tuple[str, ...]]:
    """Put the newest *turns* before the question, up to *bound* tokens; say what is left out."""
    start = first_sent([turn.tokens for turn in turns], bound)
    sent, notes = _with_pictures(turns[start:], request)
    if start:
        notes = (_left_out(start, bound, chat), *notes)
    system = [one for one in request.messages[:1] if one.role == "system"]
    history = [message for turn in sent for message in turn.messages]
    rest = request.messages[len(system) :]
    return replace(request, messages=(*system, *history, *rest)), notes


def _with_pictures(turns: Sequence[Turn], request: Request) -> tuple[list[Turn], tuple[str, ...]]:
    """Leave out the pictures that cannot go along, the oldest first, and say so."""
    sent: list[Turn] = []
    number, size = len(request.images), _bytes(request.images)
    lost = left = 0
    for turn in reversed(turns):
        pictures = [one for one in turn.question.images if not isinstance(one, LostImage)]
        lost += len(turn.question.images) - len(pictures)
        fits = request.model not in BLIND and not left
        fits = fits and number + len(pictures) <= MOST_IMAGES
        fits = fits and size + _bytes(pictures) <= IMAGE_BYTES
        if not fits:
            left, pictures = left + len(pictures), []
        number, size = number + len(pictures), size + _bytes(pictures)
        sent.insert(0, _with_images(turn, tuple(pictures)))
    return sent, (*_gone(lost), *_not_sent(left, request.model))


def _bytes(images: Iterable[Image | ImageLink]) -> int:
    return sum(len(image.data) for image in images if isinstance(image, Image))


def _with_images(turn: Turn, images: tuple[Image | ImageLink, ...]) -> Turn:
    """Give *turn* with these of its pictures; words stand for the others."""
    missing = len(turn.question.images) - len(images)
    content = "\n\n".join([turn.question.content, *[NOT_SENT] * missing])
    return replace(turn, question=replace(turn.question, content=content, images=images))


# Words


def _left_out(number: int, bound: int, chat: str) -> str:
    return tn(
        number,
        "{n} older turn was left out, as chat_tokens is {bound:,}; for more: %config "
        "DeepSeekMagics.chat_tokens = {more}; to start anew: %deepseek chat forget{name}",
        "{n:,} older turns were left out, as chat_tokens is {bound:,}; for more: %config "
        "DeepSeekMagics.chat_tokens = {more}; to start anew: %deepseek chat forget{name}",
        bound=bound,
        more=2 * bound,
        name=f" {quoted(chat)}" if chat else "",
    )


def _gone(number: int) -> tuple[str, ...]:
    if not number:
        return ()
    said = tn(
        number,
        "{n} picture of an earlier turn was not sent along: pictures last as long as the kernel",
        "{n:,} pictures of earlier turns were not sent along: pictures last as long as the kernel",
    )
    return (said,)


def _not_sent(number: int, model: str) -> tuple[str, ...]:
    if not number:
        return ()
    if model in BLIND:
        said = tn(
            number,
            "{n} picture of an earlier turn was not sent along, as {model} reads none",
            "{n:,} pictures of earlier turns were not sent along, as {model} reads none",
            model=model,
        )
    else:
        said = tn(
            number,
            "{n} picture of an earlier turn was not sent along: one request has no room for it",
            "{n:,} pictures of earlier turns were not sent along: one request has no room for them",
        )
    return (said,)


def read_name(value: object) -> str:
    """Read the name of a conversation; "" is the notebook's own."""
    if isinstance(value, str) and is_chat_name(value.strip()):
        return value.strip()
    raise InvalidOption(
        t(
            "{value} is no name of a conversation: that is a text on one line, of at most 80 "
            "characters, or an empty one. Nothing was sent.",
            value=one_line(repr(value), 60),
        )
    )


def _read_bound(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise InvalidOption(
        t(
            "`chat_tokens` cannot be {value}; it is a whole number from 1 on. Nothing was sent.",
            value=one_line(repr(value), 60),
        )
    )


# Those of a notebook


class Chats:
    """The conversations of one notebook and one account.

    They are in the *ledger*. Where that keeps no texts, they are in memory; so is one
    without a name that no notebook is known for, since others of that kind are not its own.
    """

    def __init__(
        self, ledger: Ledger, account: str, notebook: str | None, clock: Callable[[], datetime]
    ) -> None:
        self._ledger = ledger
        self._account = account
        self._notebook = notebook
        self._clock = clock
        self._memory = Ledger()
        self._own = uuid.uuid4().hex
        self._images: dict[tuple[str, str], tuple[Image | ImageLink, ...]] = {}
        self._told = False

    # -- a question -----------------------------------------------------------------

    def next_turn(
        self,
        request: Request,
        name: object,
        *,
        cell: str | None = None,
        bound: object = HISTORY_TOKENS,
        moves: bool = False,
    ) -> NextTurn:
        """Give the question of *request* with the turns before it; nothing is noted yet.

        These are the turns before the *cell*'s own, where it has one, else all.
        """
        chat, most, place = read_name(name), _read_bound(bound), cell or uuid.uuid4().hex
        rows = self._rows(chat)
        own = [row for row in rows if row["chat"] == chat]
        end = next((row["position"] for row in own if row["place"] == place), None)
        before = self._turns(row for row in own if end is None or row["position"] < end)
        whole, notes = with_history(request, before, most, chat)
        hint = () if own else _new(chat, rows)
        return NextTurn(chat, place, whole, (*notes, *hint), cell if moves else None)

    def take(self, turn: NextTurn) -> None:
        """Note that *turn* is asked, which gives it its place."""
        own = {"place": turn.place, "cell": turn.cell, "asking": _named(turn.request)}
        self._store(turn.chat).take_turn({**self._key(turn.chat), **own}, self._clock())

    def keep(self, turn: NextTurn, answer: Answer) -> Answer:
        """Let *answer* stand in the place of *turn* if it is whole; give it with the notes."""
        if answer.finish_reason == "stop":
            self._images[turn.chat, turn.place] = turn.question.images
            told = {
                "place": turn.place,
                "question": as_sent(Request((turn.question,))),
                "answer": answer.text,
                "model": answer.model,
                "tokens": _tokens(turn.question, answer.text),
            }
            key = self._key(turn.chat)
            written = self._store(turn.chat).keep_turn({**key, **told}, self._clock())
            if turn.cell is not None:
                for store in self._stores():
                    store.move_turn({**key, "cell": turn.cell})
            _on_disk(written)
        cut = t("it is no turn of the conversation until it is whole")
        whole = answer.finish_reason == "stop"
        more = self._in_memory_only(turn.chat) if whole else (cut,)
        notes = (answer.note, *turn.notes, *more)
        return replace(answer, note=" · ".join(note for note in notes if note))

    def asked(self, request: Request) -> NextTurn | None:
        """Find the place of a question that has no whole answer yet, by what was sent.

        It is the newest one, where the very same was asked in several.
        """
        question = asked_first(question_of(request))
        named = _named(question)
        found = [row for row in self._all_rows() if row["asking"] == named]
        if not found:
            return None
        row = max(found, key=lambda one: (one["since"], one["id"]))
        return NextTurn(row["chat"], row["place"], question, cell=row["cell"])

    def tag(self, chat: str) -> str:
        """Give what names *chat* in the entries of the ledger."""
        return chat if self._notebook is not None or chat else self._own

    def _in_memory_only(self, chat: str) -> tuple[str, ...]:
        """Say once that a conversation ends with the kernel."""
        if self._told or self._store(chat) is self._ledger:
            return ()
        self._told = True
        if self._ledger.keep != "all":
            return (
                t(
                    "this conversation ends with the kernel: the ledger keeps no texts "
                    "(DeepSeekMagics.keep)"
                ),
            )
        return (
            t(
                "no notebook is known here, so this conversation ends with the session; one "
                "with a name goes on: -c NAME"
            ),
        )

    # -- what there is --------------------------------------------------------------

    def names(self) -> list[str]:
        """Give the names of those that have a turn."""
        rows = self._all_rows()
        return list(dict.fromkeys(row["chat"] for row in rows if row["question"] is not None))

    def chats(self) -> list[Chat]:
        """Give all that have a turn, the one that was used last first."""
        rows = self._all_rows()
        names = dict.fromkeys(row["chat"] for row in rows)
        found = (self._chat(name, [row for row in rows if row["chat"] == name]) for name in names)
        return sorted(filter(None, found), key=lambda chat: chat.used, reverse=True)

    def turns(self, name: object = "") -> list[Turn]:
        """Give the turns of a conversation in their order; a name that none has is refused."""
        chat = self._known(name)
        return self._turns(row for row in self._rows(chat) if row["chat"] == chat)

    def forget(self, name: object = "") -> int:
        """Remove a conversation, and the texts of its calls from the ledger; give its turns.

        What the calls cost stays.
        """
        chat = self._known(name)
        number = len(self.turns(chat))
        self._store(chat).forget_turns(self._key(chat))
        self._ledger.forget_texts(self._account, self._notebook, self.tag(chat)).result()
        for key in [key for key in self._images if key[0] == chat]:
            del self._images[key]
        if any(row["chat"] == chat for row in self._all_rows()):
            raise DeepSeekError(
                t("The ledger cannot be written now, so the conversation is still in it."),
                t("It is removed when that works again. Look: %deepseek chat"),
            )
        return number

    def close(self) -> None:
        """Forget what is in memory only."""
        self._memory.close()

    # -- the rows -------------------------------------------------------------------

    def _store(self, chat: str) -> Ledger:
        kept = self._ledger.keep == "all" and (self._notebook is not None or bool(chat))
        return self._ledger if kept else self._memory

    def _key(self, chat: str) -> dict[str, Any]:
        return {"account": self._account, "notebook": self._notebook or "", "chat": chat}

    def _rows(self, chat: str) -> list[dict[str, Any]]:
        """Give the places of all conversations that are kept where *chat* is."""
        return self._read(self._store(chat))

    def _all_rows(self) -> list[dict[str, Any]]:
        return [row for store in self._stores() for row in self._read(store)]

    def _stores(self) -> list[Ledger]:
        return [self._memory, *([self._ledger] if self._ledger.keep == "all" else [])]

    def _read(self, store: Ledger) -> list[dict[str, Any]]:
        rows = store.turns(self._account, self._notebook or "")
        if rows is None:
            raise DeepSeekError(
                t(
                    "The conversations could not be read from the ledger, which another program "
                    "holds. Nothing was sent. Run the cell again, or ask without --chat."
                )
            )
        return rows

    def _known(self, name: object) -> str:
        chat = read_name(name)
        names = list(dict.fromkeys(row["chat"] for row in self._all_rows()))
        if not chat or chat in names:
            return chat
        near = nearest(chat, [one for one in names if one])
        raise InvalidOption(
            t(
                "There is no conversation {name}.{hint} All: %deepseek chat (in Python: "
                "Session.chats())",
                name=f'"{one_line(chat, 60)}"',
                hint=t(" Did you mean {near}?", near=one_line(near, 60)) if near else "",
            )
        )

    def _turns(self, rows: Iterable[dict[str, Any]]) -> list[Turn]:
        return [turn for row in rows if (turn := self._turn(row)) is not None]

    def _turn(self, row: dict[str, Any]) -> Turn | None:
        sent = read_request(row["question"])
        if sent is None or row["answer"] is None:
            return None
        question, images = sent.messages[-1], self._images.get((row["chat"], row["place"]), ())
        if [one.told for one in images] == [one.told for one in question.images]:
            question = replace(question, images=images)
        return Turn(
            question,
            row["answer"],
            moment(row["ended"]),
            row["place"],
            row["model"],
            row["tokens"],
        )

    def _chat(self, name: str, rows: list[dict[str, Any]]) -> Chat | None:
        turns = self._turns(rows)
        if not turns:
            return None
        since = min(row["since"] for row in rows)
        spent, unpriced = self._ledger.spent_in_chat(
            self._account, self._notebook, self.tag(name), since
        )
        tokens, used = sum(turn.tokens for turn in turns), max(turn.at for turn in turns)
        return Chat(name, len(turns), tokens, spent, unpriced, used)


def _on_disk(written: Future[None]) -> None:
    """Wait a moment until other kernels see it too; an answer is given out all the same."""
    try:
        written.result(DISK_SECONDS)
    except Exception as failed:  # noqa: BLE001  # the ledger says what is wrong in `problem`
        LOG.info("the turn of a conversation is not on disk yet: %r", failed)


def _new(chat: str, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Say so where a new name is nearly that of another conversation."""
    names = {row["chat"] for row in rows if row["question"] is not None and row["chat"]}
    near = nearest(chat, sorted(names)) if chat else None
    if near is None:
        return ()
    said = t(
        'conversation "{chat}" is new; did you mean "{near}"?',
        chat=one_line(chat, 60),
        near=one_line(near, 60),
    )
    return (said,)


def _tokens(question: Message, answer: str) -> int:
    """Reckon what a turn takes; once, so that what is left out is the same each time."""
    pictures = image_tokens.count(question.images).likely
    words = approximate(question.content).likely + approximate(answer).likely
    return pictures + words + _FRAME


def _named(request: Request) -> str:
    """Name a question with its history, whatever the bound of its answer."""
    told = as_sent(replace(request, max_tokens=None))
    return hashlib.sha256(told.encode("utf-8", "replace")).hexdigest()
