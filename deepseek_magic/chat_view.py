"""Conversations on screen: a table of them, the turns of one, what was forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import markdown
from .elements import QUIET, Shown, money, one_line, outer
from .markdown import to_terminal
from .options import quoted
from .tables import table_shown
from .words import listed, t, tn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from .chats import Chat, Turn

NEWEST = 50
"""How many turns are shown of a long conversation."""

_QUESTION = (
    "white-space:pre-wrap;overflow-wrap:anywhere;margin:.8em 0 .4em;padding:.3em .7em;"
    "border-left:3px solid rgba(128,128,128,.5);max-height:24em;overflow:auto"
)


def chats_shown(chats: Sequence[Chat], now: datetime) -> Shown:
    """Show the conversations of a notebook in figures, the one used last first."""
    if not chats:
        return _said(t("This notebook has no conversation yet. Begin one with: %%deepseek --chat"))
    heads = (t("Conversation"), t("Turns"), t("Tokens"), t("Cost so far"), t("Last used"))
    rows = [
        (
            _name(chat.name),
            f"{chat.turns:,}",
            t("about {tokens:,}", tokens=chat.tokens),
            _spent(chat),
            _at(chat.used, now),
        )
        for chat in chats
    ]
    note = t(
        "Tokens are those of all turns; of a long conversation the newest are sent along. Its "
        "turns: %deepseek chat show{name}",
        name=_argument(chats[0].name),
    )
    return table_shown(heads, rows, right=(1, 2, 3), note=note)


def _said(words: str) -> Shown:
    return Shown(html=outer(QUIET, words), text=words)


def _name(name: str) -> str:
    return one_line(name, 60) if name else t("(no name)")


def _argument(name: str) -> str:
    return f" {quoted(name)}" if name else ""


def _spent(chat: Chat) -> str:
    """Tell what a conversation cost; of calls without a known cost their number."""
    known = [money(amount, currency) for currency, amount in sorted(chat.spent.items())]
    unpriced = [tn(chat.unpriced, "{n} unpriced", "{n:,} unpriced")] if chat.unpriced else []
    return listed([*known, *unpriced]) or t("unknown")


def _at(at: datetime, now: datetime) -> str:
    local = at.astimezone()
    same = local.date() == now.astimezone().date()
    return f"{local:%H:%M}" if same else f"{local:%Y-%m-%d %H:%M}"


def turns_shown(name: str, turns: Sequence[Turn], now: datetime) -> Shown:
    """Show the turns of a conversation: each question as it stands, each answer rendered."""
    if not turns:
        return _said(
            t(
                "The conversation has no whole answer yet. Ask in it: %%deepseek --chat{name}",
                name=_argument(name),
            )
        )
    head = [
        tn(
            len(turns),
            "Conversation {name}, {n} turn.",
            "Conversation {name}, {n:,} turns.",
            name=_name(name),
        )
    ]
    if (hidden := len(turns) - NEWEST) > 0:
        head.append(tn(hidden, "The first is not shown.", "The first {n:,} are not shown."))
    shown = [_turn_shown(turn, now) for turn in turns[-NEWEST:]]
    line = " ".join(head)
    return Shown(
        # Answers stand beside the rest, not within: so they look, and are typeset, as in a cell.
        html=outer(QUIET, line) + "".join(one.html for one in shown),
        text="\n\n".join([line, *(one.text for one in shown)]),
    )


def _turn_shown(turn: Turn, now: datetime) -> Shown:
    pictures = len(turn.question.images)
    parts = [
        _at(turn.at, now),
        one_line(turn.model or t("unknown"), 60),
        *([tn(pictures, "{n} picture", "{n:,} pictures")] if pictures else []),
    ]
    line, question = " · ".join(parts), turn.question.content
    return Shown(
        html=outer(_QUESTION, question)
        + markdown.to_html(turn.answer)
        + outer(f"{QUIET};margin:.2em 0 .6em", line),
        text="\n\n".join(
            [
                "\n".join(f"> {row}" for row in to_terminal(question).splitlines()),
                to_terminal(turn.answer).rstrip("\n"),
                line,
            ]
        ),
    )


def forgotten(gone: Sequence[tuple[str, int]]) -> str:
    """Say what was removed: conversations by their names, each with the number of its turns."""
    number = sum(turns for _, turns in gone)
    if not number:
        return t("There was nothing to forget.")
    return tn(
        number,
        "Forgotten: {n} turn of {names}, with the texts that the ledger kept of it. What it cost "
        "stays in %deepseek usage, and the notebook stays as it is.",
        "Forgotten: {n:,} turns of {names}, with the texts that the ledger kept of them. What they "
        "cost stays in %deepseek usage, and the notebook stays as it is.",
        names=listed([_name(name) for name, turns in gone if turns]),
    )
