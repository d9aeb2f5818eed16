"""One simulated answer, from its first token to its bill, and all the ways in which it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from . import sandbox_refusal as refusal
from .sandbox_account import Account, cost
from .sandbox_answer import draft
from .sandbox_stream import Events, Wire, completion, encoded

if TYPE_CHECKING:
    from aiohttp import web

    from .sandbox_script import Reply, Rules
    from .sandbox_tokens import ContextCache

_FEW_TOKENS = 512
_TICK = 0.005
_SILENCE = 10.0
_COMMENT = b": keep-alive\n\n"
_EMPTY_LINE = b"\n"


class Chat:
    """An answer under way: it counts what is generated, and is settled once.

    *body* is a request that has passed every check, its model's name an
    official one. *note* records what becomes of it; *release* is called when it
    no longer counts as under way.
    """

    def __init__(
        self,
        body: dict[str, Any],
        *,
        reply: Reply,
        rules: Rules,
        account: Account,
        cache: ContextCache,
        currency: str,
        trace_id: str,
        note: Callable[..., None],
        release: Callable[[], None],
    ) -> None:
        self._body, self._reply, self._rules = body, reply, rules
        self._account, self._cache, self._currency = account, cache, currency
        self._trace_id, self._note, self._release = trace_id, note, release
        self._at = account.now()
        self.streams = bool(body.get("stream"))
        self._draft = draft(
            body,
            refusal.EFFORTS[body.get("reasoning_effort") or "high"],
            text=reply.text,
            reasoning=reply.reasoning,
            text_pieces=reply.pieces,
            tokens=reply.tokens,
            reasoning_tokens=reply.reasoning_tokens,
            finish_reason=reply.finish_reason,
        )
        hit, miss = cache.read(body)
        self._hit, self._miss = (hit, miss) if rules.cache else (0, hit + miss)
        whole = len(self._draft)
        self._stop = min(reply.after, whole) if isinstance(reply.after, int) else whole
        self._generated = 0
        self._settled = self._left = False

    async def answer(self, wire: Wire) -> web.StreamResponse:
        """Generate the answer and send it, or break it as the reply says."""
        try:
            if self._reply.after == "request":
                self._settle(billed=False)
                return await self._fail(wire)
            self._note(status=200)
            await self._wait(wire)
            return await (self._stream(wire) if self.streams else self._at_once(wire))
        finally:
            self._settle()
            self._leave()

    async def _wait(self, wire: Wire) -> None:
        """Let the latency pass, with keep-alives when it is long."""
        latency = self._rules.latency if self._reply.latency is None else self._reply.latency
        loop = asyncio.get_running_loop()
        start, step = loop.time(), self._rules.keep_alive or inf
        while (left := start + latency - loop.time()) > 0:
            await asyncio.sleep(min(left, step))
            if left > step:
                await self._keep_alive(wire)

    async def _keep_alive(self, wire: Wire) -> None:
        await wire.send(_COMMENT if self.streams else _EMPTY_LINE)
        await wire.flush()

    async def _generate(self, wire: Wire, stop: int, events: Events | None = None) -> None:
        """Bring forth the tokens up to *stop*, at the speed of the account."""
        speed = (self._rules.speed if self._reply.speed is None else self._reply.speed) or inf
        loop = asyncio.get_running_loop()
        start, first = loop.time(), self._generated
        while self._generated < stop:
            due = self._generated + _FEW_TOKENS
            if speed < inf:
                # By the clock and not by the count, so that a busy loop catches up.
                due = first + int((loop.time() - start) * speed) + 1
            due = min(due, stop)
            if events:
                await wire.send(events.tokens(self._draft.parts(self._generated, due)))
            self._generated = due
            if speed < inf and due < stop:
                await (wire.flush() if events else asyncio.sleep(0))
                await asyncio.sleep(max(1 / speed, _TICK))

    async def _stream(self, wire: Wire) -> web.StreamResponse:
        then, events = self._reply.then, self._events()
        if then != "error" or self._stop:
            await wire.send(events.first())
        await self._generate(wire, self._stop, events)
        if self._reply.breaks:
            if self._reply.after == "last":
                last = events.last(self._draft.finish_reason, self._usage())
                await wire.send(last[: len(last) // 2])
            return await self._fail(wire)
        if then in {"garbage", "bytes"}:
            await wire.send(events.broken(utf8=then == "garbage"))
        if then is not None:
            await self._generate(wire, len(self._draft), events)
        usage = self._settle(whole=True)
        if then != "no-finish":
            reported = None if then == "no-usage" else usage
            await wire.send(events.last(self._draft.finish_reason, reported))
        if then != "no-done":
            await wire.send(events.done())
        return await wire.end()

    async def _at_once(self, wire: Wire) -> web.StreamResponse:
        """Send the answer as one JSON object, or break that."""
        then, breaks = self._reply.then, self._reply.breaks
        flawed = then is not None and not breaks
        await self._generate(wire, len(self._draft) if flawed else self._stop)
        if breaks:
            if then in {"close", "reset", "end"}:
                data = self._completion(self._usage())
                await wire.send(data[: len(data) // 2])
            return await self._fail(wire)
        data = self._completion(self._settle(whole=True))
        broken = {"garbage": data[:-2], "bytes": data.replace(b'"assistant"', b'"\xff\xfe"')}
        await wire.send(broken.get(then or "", data))
        return await wire.end()

    async def _fail(self, wire: Wire) -> web.StreamResponse:
        """Let the answer end in the way of the reply."""
        then = self._reply.then
        self._settle(billed=then != "error" or self._generated > 0)
        if then == "error":
            body = refusal.documented(402) if self._reply.body is None else self._reply.body
            data = encoded(body)[1]
            await wire.send(self._events().event(data) if self.streams else data)
        if self._reply.after != "request" and then != "error":
            await wire.flush()
        while then in {"stall", "keep-alive"}:
            await asyncio.sleep(self._rules.keep_alive or _SILENCE)
            if then == "keep-alive":
                await self._keep_alive(wire)
        self._leave()
        if then in {"close", "reset"}:
            return wire.cut(reset=then == "reset")
        return await wire.end()

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._trace_id,
            "created": int(self._at.timestamp()),
            "model": self._body["model"],
            "system_fingerprint": "fp_sandbox",
        }

    def _events(self) -> Events:
        return Events(
            head=self._head(),
            thinks=self._draft.thinks,
            asked=bool((self._body.get("stream_options") or {}).get("include_usage")),
            separate=self._rules.usage_chunk == "separate",
            newline=self._reply.newline,
            padding=self._reply.padding,
        )

    def _completion(self, usage: Mapping[str, Any]) -> bytes:
        done = list(self._draft.parts(0, self._generated))
        thought = "".join(part for part, is_reasoning in done if is_reasoning)
        return completion(
            self._head(),
            text="".join(part for part, is_reasoning in done if not is_reasoning),
            reasoning=thought if self._draft.thinks else None,
            finish_reason=None if self._reply.then == "no-finish" else self._draft.finish_reason,
            usage=None if self._reply.then == "no-usage" else usage,
        )

    def prompt_tokens(self) -> int:
        """Count the input."""
        return self._hit + self._miss

    def _usage(self) -> dict[str, Any]:
        thought = min(self._generated, len(self._draft.reasoning))
        return {
            "prompt_tokens": self.prompt_tokens(),
            "completion_tokens": self._generated,
            "total_tokens": self.prompt_tokens() + self._generated,
            "prompt_tokens_details": {"cached_tokens": self._hit},
            "completion_tokens_details": {"reasoning_tokens": thought},
            "prompt_cache_hit_tokens": self._hit,
            "prompt_cache_miss_tokens": self._miss,
        }

    def _settle(self, *, whole: bool = False, billed: bool = True) -> dict[str, Any]:
        """Charge for what has been generated, once, and record it.

        It comes before the last bytes, so that whoever has read the answer to
        its end finds it charged and its place free.
        """
        given = self._reply.usage
        usage = dict(given) if whole and given is not None else self._usage()
        if self._settled:
            return usage
        self._settled = True
        if whole:
            self._leave()
            self._cache.write(self._body, "".join(self._draft.text))
        if billed:
            charged = self._charge(usage)
            shown = MappingProxyType(usage)
            self._note(usage=shown, cost=charged, currency=self._currency, finished=whole)
        return usage

    def _leave(self) -> None:
        """Make room for another request, once."""
        if not self._left:
            self._left = True
            self._release()

    def _charge(self, usage: Mapping[str, Any]) -> Decimal:
        hit = int(usage.get("prompt_cache_hit_tokens") or 0)
        rest = int(usage.get("prompt_tokens") or 0) - hit
        charged = cost(
            hit=hit,
            miss=int(usage.get("prompt_cache_miss_tokens", rest)),
            output=int(usage.get("completion_tokens") or 0),
            model=self._body["model"],
            currency=self._currency,
            at=self._at if self._rules.billed_at == "start" else self._account.now(),
        )
        self._account.charge(self._currency, charged)
        return charged
