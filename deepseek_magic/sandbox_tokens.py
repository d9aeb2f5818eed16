"""How the simulated account counts: tokens, and what its context cache holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from .sandbox_images import images_of, tokens_of

Parts = tuple[str, ...]

_TENTHS_PER_CHARACTER = 3  # 0.3 token per English character ...
_TENTHS_PER_IDEOGRAPH = 6  # ... and 0.6 per Chinese one
_IDEOGRAPH = re.compile(
    "[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)
_CACHED_UNITS = 50_000


def count(text: str) -> int:
    """Count the tokens of *text* by the documented rule of thumb."""
    if not text:
        return 0
    last = _tenths(text[-1])
    return (_tenths(text) - last) // 10 + 1


def _tenths(text: str) -> int:
    more = _TENTHS_PER_IDEOGRAPH - _TENTHS_PER_CHARACTER
    ideographs = 0 if text.isascii() else len(_IDEOGRAPH.findall(text))
    return _TENTHS_PER_CHARACTER * len(text) + more * ideographs


def pieces(text: str) -> Parts:
    """Cut *text* into its tokens: `count(text)` pieces that join to it."""
    if text.isascii():
        bounds = [-(-10 * n // _TENTHS_PER_CHARACTER) for n in range(count(text) + 1)]
        return tuple(text[start:end] for start, end in pairwise(bounds))
    cut: list[str] = []
    before = 0
    for character in text:
        if before // 10 == len(cut):
            cut.append(character)
        else:
            cut[-1] += character
        before += _tenths(character)
    return tuple(cut)


def text_of(content: object) -> str:
    """Give the text in the content of a message; images have none."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return str(content or "")


def _message_tokens(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    # What was thought before other answers is not read again.
    thought = message.get("reasoning_content") if message.get("prefix") else None
    return count(text_of(content)) + count(thought or "") + sum(map(tokens_of, images_of(content)))


class ContextCache:
    """Which beginnings of conversations are stored, as prefix units.

    A unit ends where the input or the output of a request ended, or where two
    requests parted. So the same input hits at its second request, and inputs
    that share only their first messages at the third. Units inside a message,
    which the API builds for long texts, are left out.
    """

    def __init__(self) -> None:
        self._units: dict[int, None] = {}
        self._met: dict[int, None] = {}

    def read(self, body: Mapping[str, Any]) -> tuple[int, int]:
        """Give the tokens of the input that hit and that miss, and store its end."""
        keys = _prefix_keys(body)
        sizes = [_message_tokens(message) for message in body["messages"]]
        stored = max((n for n, key in enumerate(keys, 1) if key in self._units), default=0)
        shared = max((n for n, key in enumerate(keys, 1) if key in self._met), default=0)
        if shared:
            _keep(self._units, keys[shared - 1])
        for key in keys:
            _keep(self._met, key)
        _keep(self._units, keys[-1])
        hit, total = sum(sizes[:stored]), max(sum(sizes), 1)
        return hit, total - hit

    def write(self, body: Mapping[str, Any], answer: str) -> None:
        """Store the end of the output of a request."""
        messages, begun = body["messages"], ""
        if messages[-1].get("prefix"):
            *messages, last = messages
            begun = text_of(last.get("content"))
        turn = {"role": "assistant", "content": begun + answer}
        _keep(self._units, _prefix_keys({**body, "messages": [*messages, turn]})[-1])


def _keep(units: dict[int, None], key: int) -> None:
    units.pop(key, None)
    units[key] = None
    if len(units) > _CACHED_UNITS:
        del units[next(iter(units))]


def _prefix_keys(body: Mapping[str, Any]) -> list[int]:
    keys = [hash((body["model"], body.get("user_id")))]
    for message in body["messages"]:
        content = message.get("content")
        text = content if isinstance(content, str) else json.dumps(content)
        keys.append(hash((keys[-1], message["role"], text)))
    return keys[1:]
