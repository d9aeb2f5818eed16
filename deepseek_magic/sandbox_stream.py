"""The bytes of one simulated response: chunks, events, and the connection under them."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web

_BLOCK = 16_384
_NO_LINGER = struct.pack("ii", 1, 0)


def json_text(value: object) -> str:
    """Write *value* as the API does: compact, Unicode as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encoded(body: Mapping[str, Any] | str | bytes) -> tuple[str, bytes]:
    """Give the content type and the bytes of a body."""
    if isinstance(body, bytes):
        return "application/octet-stream", body
    if isinstance(body, str):
        return ("text/html" if body.lstrip().startswith("<") else "text/plain"), body.encode()
    return "application/json", json_text(dict(body)).encode()


def completion(
    head: Mapping[str, Any],
    *,
    text: str,
    reasoning: str | None,
    finish_reason: str | None,
    usage: Mapping[str, Any] | None,
) -> bytes:
    """Write a whole answer; without *reasoning* or *usage* their fields are missing."""
    message = {"role": "assistant", "content": text}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    whole = {**head, "object": "chat.completion", "choices": [choice]}
    return json_text(whole if usage is None else {**whole, "usage": dict(usage)}).encode()


@dataclass(frozen=True, slots=True)
class Events:
    """Writes the events of one streamed answer.

    *head* is what all chunks have in common. *asked* is whether usage was asked
    for: then every chunk names it. *separate* is the older form, in which it
    comes in a chunk of its own, and only when asked for.
    """

    head: Mapping[str, Any]
    thinks: bool
    asked: bool
    separate: bool
    newline: str = "\n"
    padding: str = ""

    def event(self, data: bytes) -> bytes:
        """Frame *data* as one event."""
        return b"data: %b%b" % (data, (self.newline * 2 + self.padding).encode())

    def _framed(self, data: str) -> str:
        return f"data: {data}{self.newline * 2}{self.padding}"

    def _chunk(self, choices: list[dict[str, Any]], usage: object) -> str:
        chunk = {**self.head, "object": "chat.completion.chunk", "choices": choices}
        if self.asked or usage is not None:
            chunk["usage"] = usage
        return self._framed(json_text(chunk))

    def _delta(self, delta: dict[str, Any], finish: str | None = None, usage: object = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._chunk([choice], usage)

    def first(self) -> bytes:
        """Write the chunk that opens an answer and has no text yet."""
        opened: dict[str, Any] = {"role": "assistant", "content": ""}
        if self.thinks:
            opened |= {"content": None, "reasoning_content": ""}
        return self._delta(opened).encode()

    def tokens(self, parts: Iterable[tuple[str, bool]]) -> bytes:
        """Write one chunk for each token; the flag tells reasoning from text."""
        # One chunk is built in full, and only its text is put in for the others.
        mark = "\x00"
        quoted = json.dumps(mark)
        said: dict[str, Any] = {"content": mark}
        if self.thinks:
            said["reasoning_content"] = None
        forms = {
            False: self._delta(said).split(quoted),
            True: self._delta({"content": None, "reasoning_content": mark}).split(quoted),
        }
        dumps = json.encoder.encode_basestring
        written = (forms[thought][0] + dumps(part) + forms[thought][1] for part, thought in parts)
        return "".join(written).encode()

    def last(self, finish_reason: str, usage: Mapping[str, Any] | None) -> bytes:
        """Write the end of the answer, with *usage* in the chunk where it belongs."""
        ended: dict[str, Any] = {"content": ""}
        if self.thinks:
            ended["reasoning_content"] = None
        if not self.separate:
            return self._delta(ended, finish_reason, usage).encode()
        end = self._delta(ended, finish_reason)
        return (end + self._chunk([], usage) if self.asked and usage else end).encode()

    def broken(self, *, utf8: bool) -> bytes:
        """Write an event that is not JSON, or else not UTF-8."""
        return self.event(b'{"id": "broken", "choices": [{"delta"' if utf8 else b"\xff\xfe\xc3")

    def done(self) -> bytes:
        """Write the mark that ends every stream."""
        return self.event(b"[DONE]")


class Wire:
    """One response, kept back until somebody waits, so that a fast answer is one write."""

    def __init__(
        self, request: web.BaseRequest, headers: Mapping[str, str], split: int | None
    ) -> None:
        from aiohttp import web

        self._request = request
        self._split = split
        self._kept = bytearray()
        self.response = web.StreamResponse(headers=headers)

    async def send(self, data: bytes) -> None:
        """Add *data* to the response."""
        self._kept += data
        if len(self._kept) >= _BLOCK:
            await self.flush()

    async def flush(self) -> None:
        """Write the headers and what is kept back."""
        if not self.response.prepared:
            await self.response.prepare(self._request)
        data = bytes(self._kept)
        self._kept.clear()
        if not data:
            # The headers alone: nothing would push them out before the next write.
            await self.response.write(b"")
        for start in range(0, len(data), self._split or max(len(data), 1)):
            await self.response.write(data[start : start + (self._split or len(data))])
            await asyncio.sleep(0)

    async def end(self) -> web.StreamResponse:
        """Write the rest and the proper end."""
        if self._split:
            await self.flush()
        elif not self.response.prepared:
            await self.response.prepare(self._request)
        await self.response.write_eof(bytes(self._kept))
        return self.response

    def cut(self, *, reset: bool) -> web.StreamResponse:
        """End the connection without the end of the response."""
        transport = self._request.transport
        if transport is None:
            return self.response
        if reset:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()
        else:
            transport.close()
        return self.response
