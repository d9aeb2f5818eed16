"""The JSON in the text of an answer, also where a fence or a sentence stands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_FENCED = re.compile(r"```(?:json)?[ \t]*\r?\n(.*?)\r?\n?```", re.DOTALL | re.IGNORECASE)
_OPENS = re.compile(r"[{\[]")
_BRACKET = re.compile(r"[{}\[\]]")
_DECODER = json.JSONDecoder()


def json_in(text: str) -> str:
    """Give the JSON that *text* is, or that alone stands in it; *text* where that is not clear.

    One object or list is taken out of a fence and from between sentences that have no
    bracket, or else out of the only fence. What is cut off is not searched for parts.
    """
    text = text.strip().removeprefix("\ufeff").strip()
    return next((part for part in _parts(text) if _is_json(part)), text)


def _parts(text: str) -> Iterator[str]:
    yield text
    if fenced := _FENCED.fullmatch(text):
        yield fenced[1].strip()
    if (part := _between_words(text)) is not None:
        yield part
    blocks = _FENCED.findall(text)
    if len(blocks) == 1:
        yield blocks[0].strip()


def _between_words(text: str) -> str | None:
    """Give the object or list that begins at the first bracket and ends at the last."""
    if not (begins := _OPENS.search(text)):
        return None
    try:
        _, end = _DECODER.raw_decode(text, begins.start())
    except (ValueError, RecursionError):
        return None
    is_note = begins[0] == "[" and not _is_own_line(text, begins.start(), end)
    return None if is_note or _BRACKET.search(text, end) else text[begins.start() : end]


def _is_own_line(text: str, start: int, end: int) -> bool:
    """Tell whether a list ends its line: one that does not may be a remark such as [1]."""
    before, after = text[:start].rpartition("\n")[2], text[end:].partition("\n")[0]
    return not after.strip() and (not before.strip() or before.rstrip().endswith(":"))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
