"""The HTTP side of the simulated account: what comes in, what goes out, and what goes wrong.

Everything here runs in one event loop, one task for a request.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from . import sandbox_refusal as refusal
from .sandbox_account import Account, balance_body
from .sandbox_chat import Chat
from .sandbox_page import HEADERS, language_of, page, paid_amount
from .sandbox_script import Exchange, Log, Reply, Rules, Scripts
from .sandbox_stream import Wire, encoded
from .sandbox_tokens import ContextCache

if TYPE_CHECKING:
    from aiohttp import web

CHAT = "/chat/completions"
BALANCE = "/user/balance"
MODELS = "/models"
TOP_UP = "/top_up"
_METHODS: Mapping[str, str] = MappingProxyType({CHAT: "POST", BALANCE: "GET", MODELS: "GET"})
_PREFIXES = ("/v1", "/beta")
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost"})


class Service:
    """The account behind its HTTP address."""

    def __init__(self, account: Account, keys: set[str], rules: Rules, keep: int | None) -> None:
        self.account = account
        self.keys = keys
        self.former_keys: set[str] = set()
        self.rules = rules
        self.log = Log(keep)
        self.scripts = Scripts()
        self.token = secrets.token_urlsafe(16)
        self.cache = ContextCache()
        self.under_way: Counter[str] = Counter()
        self.closing = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request."""
        task = asyncio.current_task()
        if task is None or self.closing:
            raise asyncio.CancelledError
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if request.path == TOP_UP:
                return await _top_up_page(self, request)
            return await self._serve_api(request, await request.content.read())
        except ConnectionError:
            # aiohttp would take it for a fault of the handler and log a traceback.
            raise asyncio.CancelledError from None

    async def stop(self) -> None:
        """End every request that is under way."""
        self.closing = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve_api(self, request: web.BaseRequest, raw: bytes) -> web.StreamResponse:
        call = _Call(self, request, raw)
        try:
            return await call.answer()
        except (asyncio.CancelledError, ConnectionError):
            self.log.note(call.number, finished=False, client_gone=not self.closing)
            raise
        finally:
            self.log.end(call.number)

    def refused_key(self, header: str | None) -> dict[str, Any] | None:
        """Give the 401 for an Authorization header; None when its key is good."""
        scheme, _, key = (header or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            return refusal.refused_header(refusal.WRONG_HEADER)
        if key in self.former_keys:
            return refusal.refused_header(refusal.NO_SUCH_USER)
        return None if key in self.keys else refusal.wrong_key(key)

    def refused_for_concurrency(self, model: str, currency: str) -> dict[str, Any] | None:
        """Give the 429 for one more request; None when there is room for it."""
        at_once, limit = self.under_way[model] + 1, self.rules.concurrency.get(model, inf)
        per_unit = self.rules.concurrency_per_unit
        if per_unit is not None:
            allowed = max(int(self.account.total(currency) * per_unit), 1)
            current = self.under_way.total() + 1
            if current > allowed:
                return refusal.over_balance_concurrency(current, allowed)
        return refusal.over_concurrency(at_once, int(limit)) if at_once > limit else None


class _Call:
    """One request to the API, and its record."""

    def __init__(self, service: Service, request: web.BaseRequest, raw: bytes) -> None:
        self.service = service
        self.request = request
        self.size = len(raw)
        self.trace_id = secrets.token_hex(16)
        self.body, self.unreadable = _parsed(raw)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.number = service.log.begin(
            Exchange(
                method=request.method,
                path=request.path,
                body=self.body if isinstance(self.body, dict) else None,
                at=service.account.now(),
                trace_id=self.trace_id,
                headers=MappingProxyType(headers),
            )
        )

    async def answer(self) -> web.StreamResponse:
        """Find what the path and the key allow, and do it."""
        service, method = self.service, self.request.method
        prefix = next((p for p in _PREFIXES if self.request.path.startswith(f"{p}/")), "")
        path = self.request.path.removeprefix(prefix)
        if _METHODS.get(path) != method:
            nothing = refusal.error_body(f"Not Found: {method} {self.request.path}")
            return self.respond(404, nothing)
        if refused := service.refused_key(self.request.headers.get("authorization")):
            return self.respond(401, refused)
        if path == CHAT:
            return await self._chat(beta=prefix == "/beta")
        if reply := service.scripts.take(path):
            return await self._scripted(reply)
        return self.respond(200, self._balance() if path == BALANCE else self._models())

    def _balance(self) -> dict[str, Any]:
        account, rules = self.service.account, self.service.rules
        return balance_body(
            account,
            listed=account.names() if rules.listed is None else rules.listed,
            lag=rules.lag,
            decimals=rules.decimals,
            available=rules.available,
        )

    def _models(self) -> dict[str, Any]:
        listed = self.service.rules.models
        rows = refusal.model_rows() if listed is None else listed
        return {"object": "list", "data": [dict(row) for row in rows]}

    async def _chat(self, *, beta: bool) -> web.StreamResponse:
        wrong = self.unreadable or refusal.fault(self.body, self.size, beta=beta)
        if wrong or not isinstance(self.body, dict):
            return self.respond(400, refusal.error_body(wrong or ""))
        model = refusal.model_of(self.body)
        currency = self.service.account.payer()
        if currency is None or self.service.rules.available is False:
            return self.respond(402, refusal.documented(402))
        if refused := self.service.refused_for_concurrency(model, currency):
            return self.respond(429, refused)
        reply = self.service.scripts.take(CHAT) or Reply()
        if not reply.is_answer:
            return await self._scripted(reply)
        return await self._answered({**self.body, "model": model}, reply, currency)

    async def _answered(
        self, body: dict[str, Any], reply: Reply, currency: str
    ) -> web.StreamResponse:
        service, model = self.service, body["model"]
        chat = Chat(
            body,
            reply=reply,
            rules=service.rules,
            account=service.account,
            cache=service.cache,
            currency=currency,
            trace_id=self.trace_id,
            note=partial(service.log.note, self.number),
            release=lambda: service.under_way.subtract([model]),
        )
        if wrong := refusal.too_long(chat.prompt_tokens(), body.get("max_tokens") or 0):
            return self.respond(400, refusal.error_body(wrong))
        service.under_way[model] += 1
        kind = "text/event-stream; charset=utf-8" if chat.streams else "application/json"
        return await chat.answer(self.wire(kind, reply.split))

    async def _scripted(self, reply: Reply) -> web.StreamResponse:
        """Send what is no answer: any status, any body, or nothing."""
        await asyncio.sleep(reply.latency or 0)
        if reply.then in {"close", "reset"}:
            return self.wire("text/plain").cut(reset=reply.then == "reset")
        if reply.then in {"stall", "keep-alive"}:
            await asyncio.Event().wait()
        body = reply.body
        if body is None and reply.then == "garbage":
            body = '{"is_available": tr'
        if body is None:
            body = refusal.documented(reply.status)
        return self.respond(reply.status, body, reply.content_type, reply.headers)

    def respond(
        self,
        status: int,
        body: Mapping[str, Any] | str | bytes,
        content_type: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> web.StreamResponse:
        """Build a whole response, and record that it is one."""
        from aiohttp import web

        kind, data = encoded(body)
        self.service.log.note(self.number, status=status, finished=True)
        own = {"x-ds-trace-id": self.trace_id, "content-type": content_type or kind}
        given = {name.lower(): value for name, value in headers.items()}
        return web.Response(status=status, body=data, headers={**own, **given})

    def wire(self, content_type: str, split: int | None = None) -> Wire:
        """Begin a response that is written bit by bit."""
        headers = {"x-ds-trace-id": self.trace_id, "content-type": content_type}
        return Wire(self.request, headers, split)


def _parsed(raw: bytes) -> tuple[object, str | None]:
    """Read the body of a request: the value, and what is wrong with it as JSON."""
    try:
        return (json.loads(raw) if raw else None), None
    except (ValueError, RecursionError) as error:
        return None, f"Failed to parse the request body as JSON: {error}"


async def _top_up_page(service: Service, request: web.BaseRequest) -> web.StreamResponse:
    """Show the page, or take a payment from it.

    The token keeps other pages of the browser from paying; the host name keeps
    out a name elsewhere that has been made to point to this machine.
    """
    from aiohttp import web

    if request.url.host not in _LOOPBACK_NAMES:
        return web.Response(status=403, text="This page is only for the machine that it runs on.\n")
    posted = request.method == "POST"
    raw = (
        (await request.content.read()).decode(errors="replace") if posted else request.query_string
    )
    form = {name: values[-1] for name, values in parse_qs(raw).items()}
    if request.method not in {"GET", "POST"}:
        return web.Response(status=405, text="GET or POST, please.\n")
    if not hmac.compare_digest(form.get("token", "").encode(), service.token.encode()):
        text = "The token is missing or old. Open the address that the sandbox gives: top_up_url.\n"
        return web.Response(status=403, text=text)
    amount = paid_amount(form.get("amount", form.get("paid", "")))
    if posted and amount:
        service.account.top_up(service.account.currency, amount)
        paid = urlencode({"token": service.token, "paid": str(amount)})
        # A page of its own, so that loading it again does not pay again.
        return web.Response(status=303, headers={**HEADERS, "location": f"{TOP_UP}?{paid}"})
    return _written_page(service, request, paid=amount, failed=posted)


def _written_page(
    service: Service, request: web.BaseRequest, *, paid: Decimal | None, failed: bool
) -> web.Response:
    from aiohttp import web

    account = service.account
    text = page(
        balances={name: account.total(name) for name in account.names()},
        currency=account.currency,
        token=service.token,
        language=language_of(request.headers.get("accept-language", "")),
        paid=paid,
        failed=failed,
    )
    status = 400 if failed else 200
    return web.Response(status=status, text=text, content_type="text/html", headers=HEADERS)
