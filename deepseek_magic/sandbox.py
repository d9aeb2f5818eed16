"""A simulated DeepSeek account on a loopback port: a real server, no real money, no model.

    with Sandbox(balance="0.05", currency="CNY") as api:
        client = openai.OpenAI(api_key=api.api_key, base_url=api.base_url)
        ...                                # until the money is gone: a 402
        api.top_up("10.00")                # or in the browser, at api.top_up_url
        api.requests[-1].cost              # what was asked, and what it cost

What the next requests get can be said beforehand:

    api.script("An answer in these words.", 503, Reply(after=20, then="reset"))

Other processes reach the same account after

    python -m deepseek_magic.sandbox --port 8765 --balance 0.05
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import logging
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Self

from .sandbox_account import CURRENCIES, Account, Clock, currency_name, money
from .sandbox_http import BALANCE, CHAT, MODELS, TOP_UP, Service
from .sandbox_script import Exchange, Exchanges, Fault, Reply, Rules

__all__ = ["Exchange", "Exchanges", "Fault", "Reply", "Sandbox"]

_HOST = "127.0.0.1"
_BACKLOG = 4096
_TURNS = 5
SCRIPTABLE = (CHAT, BALANCE, MODELS)


class Sandbox:
    """A simulated DeepSeek account with a server of its own.

    *balance* is what it holds in *currency*, *granted* the part of that which
    was given and is spent first, *other* what it holds in the other currency.
    *listed* are the currencies that the balance endpoint names, in that order.

    *latency* is the seconds before the first token, *speed* the tokens in a
    second (None: at once), *keep_alive* the seconds between signs of life while
    nothing comes (None: no signs). *lag* is the seconds after which a charge
    shows in the balance endpoint; a 402 does not wait for that. The endpoint
    rounds down to *decimals*. *available* overrides its `is_available`; with
    False every answer is refused as unpaid.

    Peak prices apply by the moment at which a request starts, or ends, as
    *billed_at* says. An answer that is cut or left is charged for its input and
    for the tokens generated until then; a refusal is not charged. The last
    answer may cost more than is left: the balance then stops at 0.

    *concurrency* is the number of requests at once by model;
    *concurrency_per_unit* adds a limit of so many for each unit of money left.
    *cache* False makes every input token a miss. *usage_chunk* `"separate"` is
    the older form of a stream, with usage in a chunk of its own. *models*
    replaces the rows of `GET /models`. *keep_requests* bounds what
    `requests` and `traffic` remember.

    *clock* gives the time, aware; see `set_clock`. *host* is there to be
    refused: the sandbox listens on 127.0.0.1 and nowhere else.
    """

    __slots__ = ("__weakref__", "_address", "_loop", "_service", "_stop", "_thread", "api_key")

    def __init__(
        self,
        balance: Decimal | str | int = "5.00",
        currency: str = "CNY",
        *,
        granted: Decimal | str | int = 0,
        other: Decimal | str | int | None = None,
        key: str | None = None,
        host: str = _HOST,
        port: int = 0,
        clock: Clock | datetime | None = None,
        keep_requests: int | None = None,
        listed: Sequence[str] | None = None,
        lag: float = 0.0,
        decimals: int = 2,
        available: bool | None = None,
        latency: float = 0.0,
        speed: float | None = None,
        keep_alive: float | None = 10.0,
        billed_at: Literal["start", "end"] = "start",
        cache: bool = True,
        usage_chunk: Literal["last", "separate"] = "last",
        concurrency: Mapping[str, int] | None = None,
        concurrency_per_unit: Decimal | str | int | None = None,
        models: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if host != _HOST:
            message = (
                f"The sandbox does not listen on {host!r}: anyone who reaches it can spend and top "
                f"up. Nothing was started. Leave host out; it listens on {_HOST}."
            )
            raise ValueError(message)
        account = Account(currency_name(currency), _purses(currency, balance, granted, other))
        account.set_clock(clock)
        self.api_key = key or f"sk-{secrets.token_hex(16)}"
        self._service = Service(account, {self.api_key}, Rules(), keep_requests)
        self._address = (host, port)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.change(
            latency=latency,
            speed=speed,
            keep_alive=keep_alive,
            lag=lag,
            decimals=decimals,
            available=available,
            listed=listed,
            billed_at=billed_at,
            cache=cache,
            usage_chunk=usage_chunk,
            concurrency=concurrency or {},
            concurrency_per_unit=concurrency_per_unit,
            models=models,
        )

    def __repr__(self) -> str:
        where = self.base_url if self.running else "not running"
        account = self._service.account
        return f"<Sandbox {where}, {account.total(account.currency)} {account.currency}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Begin to listen; once it runs, another call does nothing.

        A sandbox that was closed comes back on the same port, with the same
        money.
        """
        if self.running:
            return self
        ready: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(
            target=_run,
            args=(self._service, self._address, ready),
            name="deepseek-sandbox",
            daemon=True,
        )
        self._thread.start()
        try:
            port, self._loop, self._stop = ready.result()
        except BaseException:
            self._thread.join()
            raise
        self._address = (_HOST, port)
        atexit.register(self.close)
        return self

    def close(self) -> None:
        """End all requests and stop listening; what was recorded stays readable."""
        if not self.running or self._loop is None or self._stop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop = self._stop = None
        atexit.unregister(self.close)

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def port(self) -> int:
        """The port; it stays known after `close`."""
        if not self._address[1]:
            message = (
                "The sandbox has no address yet. Start it: api.start(), or with Sandbox() as api:"
            )
            raise RuntimeError(message)
        return self._address[1]

    @property
    def base_url(self) -> str:
        """The address for a client."""
        return f"http://{_HOST}:{self.port}"

    @property
    def top_up_url(self) -> str:
        """The address of the page for topping up in a browser."""
        return f"{self.base_url}{TOP_UP}?token={self._service.token}"

    @property
    def currency(self) -> str:
        """The account's own currency."""
        return self._service.account.currency

    @property
    def balance(self) -> Decimal:
        """What is left in the account's currency, exactly; set it to change it at once."""
        return self.balance_in(self.currency)

    @balance.setter
    def balance(self, amount: Decimal | str | int) -> None:
        self._service.account.set_total(self.currency, money(amount, "balance"))

    def balance_in(self, currency: str) -> Decimal:
        """Give what is left in *currency*, exactly."""
        return self._service.account.total(currency_name(currency))

    def top_up(self, amount: Decimal | str | int, currency: str | None = None) -> Decimal:
        """Add money, in the account's currency unless told otherwise; gives what there is then."""
        name = currency_name(currency or self.currency)
        self._service.account.top_up(name, money(amount, "amount"))
        return self.balance_in(name)

    @property
    def billed(self) -> Decimal:
        """The sum of all charges in the account's currency, exactly."""
        return self.billed_in(self.currency)

    def billed_in(self, currency: str) -> Decimal:
        """Give the sum of all charges in *currency*, exactly."""
        return self._service.account.billed(currency_name(currency))

    @property
    def requests(self) -> Exchanges:
        """Every request for an answer so far, refused ones included."""
        return Exchanges(self._service.log, CHAT)

    @property
    def traffic(self) -> Exchanges:
        """Every request to the API so far: for answers, the balance, the models, or anything else.

        Visits to the top-up page are not among them.
        """
        return Exchanges(self._service.log)

    def wait_idle(self, timeout: float = 10.0) -> bool:
        """Wait until no request is under way; False when *timeout* seconds were not enough.

        A client that leaves early is noticed a moment later: wait before
        reading what it was charged.
        """
        return self._service.log.wait(timeout)

    def script(self, *replies: Reply | str | int, path: str = CHAT, forever: bool = False) -> int:
        """Set what the next requests to *path* get, one each, in this order.

        Those that were set before and are still to come are the first; their number
        is given back.

        Text is an answer, a number a status with its documented body. With
        *forever* the last one stays until `unscript`. A chat request takes a
        reply only when it would have been answered: a wrong key or an empty
        account is refused first.
        """
        if path not in SCRIPTABLE or not replies:
            message = f"Nothing is set for {path!r}. Give replies, for one of {SCRIPTABLE}."
            raise ValueError(message)
        return self._service.scripts.add(path, [_reply(one) for one in replies], forever=forever)

    def unscript(self) -> None:
        """Forget all replies that are set; requests are answered as usual again."""
        self._service.scripts.clear()

    def change(self, **rules: Any) -> None:
        """Change how the account behaves from the next request on: latency, speed, lag, ….

        The names are those of `Sandbox`, from *listed* to *models*.
        """
        if "concurrency" in rules:
            rules["concurrency"] = {**self._service.rules.concurrency, **rules["concurrency"]}
        if (per_unit := rules.get("concurrency_per_unit")) is not None:
            rules["concurrency_per_unit"] = money(per_unit, "concurrency_per_unit")
        if (listed := rules.get("listed")) is not None:
            rules["listed"] = tuple(currency_name(name) for name in listed)
        self._service.rules = replace(self._service.rules, **rules)

    def set_clock(self, clock: Clock | datetime | None) -> None:
        """Stop the time at an aware datetime, or take it from *clock*; None is real time."""
        self._service.account.set_clock(clock)

    def add_key(self, key: str | None = None) -> str:
        """Give the account one more key; *key*, or a new one."""
        new = key or f"sk-{secrets.token_hex(16)}"
        self._service.keys.add(new)
        self._service.former_keys.discard(new)
        return new

    def remove_key(self, key: str) -> None:
        """Make *key* one that no longer opens the account."""
        self._service.keys.discard(key)
        self._service.former_keys.add(key)


def _purses(
    currency: str,
    balance: Decimal | str | int,
    granted: Decimal | str | int,
    other: Decimal | str | int | None,
) -> dict[str, tuple[Decimal, Decimal]]:
    """Lay out the money of an account: granted and topped up, by currency."""
    total, given = money(balance, "balance"), money(granted, "granted")
    if given > total:
        message = f"granted is {given}, which is more than the whole balance of {total}."
        raise ValueError(message)
    purses = {currency: (given, total - given)}
    if other is not None:
        second = next(name for name in CURRENCIES if name != currency)
        purses[second] = (Decimal(0), money(other, "other"))
    return purses


def _reply(given: Reply | str | int) -> Reply:
    if isinstance(given, Reply):
        return given
    return Reply(text=given) if isinstance(given, str) else Reply(status=given)


def _run(
    service: Service,
    address: tuple[str, int],
    ready: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]],
) -> None:
    """Serve until told to stop; the body of the thread."""
    try:
        asyncio.run(_serve(service, address, ready))
    except BaseException as error:
        if ready.done():
            raise
        ready.set_exception(error)


def _is_ours(record: logging.LogRecord) -> bool:
    """Keep requests that are no HTTP out of the log: the client's fault, and answered with 400."""
    from aiohttp.http_exceptions import HttpProcessingError

    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _serve(
    service: Service,
    address: tuple[str, int],
    ready: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]],
) -> None:
    from aiohttp import web

    service.closing = False
    stop = asyncio.Event()
    log = logging.getLogger("deepseek_magic.sandbox")
    log.addFilter(_is_ours)
    server = web.Server(service.serve, handler_cancellation=True, access_log=None, logger=log)
    runner = web.ServerRunner(server, shutdown_timeout=1.0)
    await runner.setup()
    loop = asyncio.get_running_loop()
    with socket.create_server(address, backlog=_BACKLOG) as listener:
        try:
            await web.SockSite(runner, listener, backlog=_BACKLOG).start()
            ready.set_result((listener.getsockname()[1], loop, stop))
            await stop.wait()
            # Python 3.11 forgets a connection that it lets in while the server closes.
            loop.remove_reader(listener)
            await _turns()
            await service.stop()
        finally:
            await runner.cleanup()
            await _turns()  # closing a connection takes the loop a turn


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deepseek_magic.sandbox",
        description="Serve a simulated DeepSeek account on this machine: no real money, no model.",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="listen here; a free port when left out")
    add("--host", default=_HOST, help="only 127.0.0.1 is accepted")
    add("--balance", default="5.00", metavar="AMOUNT", help="money in the account (5.00)")
    add("--currency", default="CNY", choices=CURRENCIES, help="its currency (CNY)")
    add("--granted", default="0", metavar="AMOUNT", help="part of it that is a gift, spent first")
    add("--speed", type=float, metavar="TOKENS", help="tokens in a second; at once when left out")
    add("--latency", type=float, default=0.0, metavar="SECONDS", help="time to the first token")
    add("--lag", type=float, default=0.0, metavar="SECONDS", help="time until a charge shows")
    add("--key", help="the account's API key; a new one when left out")
    return parser.parse_args(argv)


def _announcement(api: Sandbox) -> str:
    return f"""A simulated DeepSeek account is running: no real money, no model.

  address  {api.base_url}
  key      {api.api_key}
  balance  {api.balance} {api.currency}
  top up   {api.top_up_url}

To use it in another process:

export DEEPSEEK_API_KEY={api.api_key}
export DEEPSEEK_BASE_URL={api.base_url}

Ctrl-C ends it."""


def _allow_many_connections() -> None:
    """Lift the limit on open files as far as the system lets us: each request needs one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one account until Ctrl-C or SIGTERM."""
    given = _arguments(argv)
    _allow_many_connections()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        api = Sandbox(**vars(given)).start()
    except (OSError, ValueError) as error:
        print(f"The sandbox did not start: {error}", file=sys.stderr)
        return 2
    with api:
        print(_announcement(api), flush=True)
        # A wait without an end cannot be interrupted on Windows.
        while not ended.wait(1.0):
            pass
    print("The sandbox has ended.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
