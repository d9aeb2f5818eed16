"""HTTP/1.1 to one address, thousands of requests at once.

The bytes are parsed by httptools, the rest is as little as can be: what a request
costs here decides how many can be under way. Beside each other, with 2,000 under
way and answers of 2 s: see `tests/benchmarks/rows.py`.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from .words import t

if TYPE_CHECKING:
    import httptools

CONNECT_SECONDS = 10.0
OPENING = 100
"""So many connections are opened at the same time: a server's queue of new ones is not long."""
LOOK_SECONDS = 0.5
"""How often it is looked who has been silent for too long."""
NEXT_SECONDS = 2.0
"""After so many seconds of silence the next address of a host is tried."""
RESOLVED_SECONDS = 60.0
BODY_BYTES = 8 * 2**20
HEAD_BYTES = 65_536
BLANKS = b" \t\r\n"


class NotSent(Exception):
    """No whole request went out; *name* is the kind of failure."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


class Lost(Exception):
    """A request went out, and no whole response came; *arrived* tells whether any of its body."""

    def __init__(self, name: str, reason: str, *, arrived: bool = False) -> None:
        super().__init__(reason)
        self.name = name
        self.arrived = arrived


class CalledOff(Exception):
    """The request was not sent, as it was no longer wanted when its turn came."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response; the names of *headers* are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        import httptools

        self._loop = loop
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Response] | None = None
        self._tunnels = False
        self._transport: Any = None
        self._is_astray = self._is_headed = False
        self._begin()
        self.heard = loop.time()
        """When the last bytes came."""
        self.spoke = self.heard
        """When the last bytes came that say something, and do not only keep the line alive."""

    def _begin(self) -> None:
        self._is_headed = False
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._size = 0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, data: bytes) -> asyncio.Future[Response]:
        """Send a request; the future gives its response."""
        self.heard = self.spoke = self._loop.time()
        self._waiter = self._loop.create_future()
        self._transport.write(data)
        return self._waiter

    async def tunnel(self, data: bytes) -> int:
        """Ask a proxy for a tunnel; give the status of its response, which has no body."""
        import httptools

        self._tunnels = True
        response = await self.send(data)
        self._tunnels = False
        self._parser = httptools.HttpResponseParser(self)
        return response.status

    def end(self, error: Exception | None = None) -> None:
        """Close the connection; who waits gets *error*."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done() and error is not None:
            waiter.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    def lost(self, name: str, reason: str) -> Lost:
        return Lost(name, reason, arrived=bool(self._body.strip(BLANKS)))

    # -- what asyncio calls -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        if self._waiter is None:  # nobody asked
            self.end()
            return
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001  # what the parser does not take is no HTTP
            self.end(self.lost("RemoteProtocolError", t("no HTTP: {error}", error=error)))
        if self._is_astray:
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is None:
            return
        if exc is None and self._is_headed and self._ends_with_the_connection():
            self._complete()
            return
        reason = str(exc) if exc else "peer closed connection without a whole response"
        self.end(self.lost("ReadError" if exc else "RemoteProtocolError", reason))

    def _ends_with_the_connection(self) -> bool:
        return not {"content-length", "transfer-encoding"} & self._headers.keys()

    # -- what the parser calls ----------------------------------------------------

    def on_message_begin(self) -> None:
        # Of a second response to one request nothing may reach the next.
        self._is_astray = self._waiter is None
        self._begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > HEAD_BYTES:
            raise ValueError(t("headers without an end"))
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._is_headed = True
        if self._tunnels:
            self._complete(keeps=True)

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > BODY_BYTES:
            raise ValueError(t("more than {size} MiB", size=BODY_BYTES >> 20))
        if data.strip(BLANKS):
            self.spoke = self.heard

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._complete()

    def _complete(self, *, keeps: bool = False) -> None:
        waiter, self._waiter = self._waiter, None
        keeps = keeps or self._parser.should_keep_alive()
        if waiter is not None and not waiter.done():
            status = self._parser.get_status_code()
            waiter.set_result(Response(status, self._headers, bytes(self._body)))
        if not keeps:
            self._transport.close()


class Connections:
    """Connections to the host of *base_url*, opened as they are needed and used again.

    *headers* go with every request. A response may be silent for *idle* seconds;
    bytes that only keep it alive count for *alive* seconds. To be used in one event loop.
    With *trust_env* a proxy that the environment names is used.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        idle: float,
        alive: float,
        trust_env: bool = True,
    ) -> None:
        self._url = urlsplit(base_url)
        self._proxy = _proxy_for(self._url) if trust_env else None
        plain = self._proxy if self._url.scheme == "http" else None
        self._head = _lines({**headers, **_proxy_headers(plain)})
        self._idle, self._alive = idle, alive
        self._free: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._addresses: tuple[float, list[str]] = (0.0, [])
        self._opening: asyncio.Semaphore | None = None
        self._ssl: ssl.SSLContext | None = None
        self._looks: asyncio.TimerHandle | None = None
        self._problem: str | None = None

    async def post(
        self, path: str, body: bytes, wanted: Callable[[], bool] | None = None
    ) -> Response:
        """Send *body* to *path* under the base URL; give the whole response.

        `NotSent` and `Lost` tell what went wrong. Cancelling closes the connection.
        *wanted* is asked once there is one, just before the request goes out: where it
        says no, nothing is sent, and `CalledOff` is raised.
        """
        connection = await self._connection()
        if wanted is not None and not wanted():
            self._free.append(connection)
            raise CalledOff
        self._busy.add(connection)
        self._look_on()
        try:
            response = await connection.send(
                b"".join((self._line(path), b"%d\r\n\r\n" % len(body), body))
            )
        except BaseException:
            connection.end()
            raise
        finally:
            self._busy.discard(connection)
        if connection.is_open:
            self._free.append(connection)
        return response

    def close(self) -> None:
        """Close all connections; what is under way is `Lost`."""
        for connection in (*self._free, *self._busy):
            connection.end(connection.lost("ReadError", t("the connection was closed")))
        self._free.clear()
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None

    def _line(self, path: str) -> bytes:
        target = f"{self._url.path.rstrip('/')}{path}"
        if self._proxy is not None and self._url.scheme == "http":
            target = f"http://{self._url.netloc}{target}"
        return b"POST %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: " % (
            target.encode(),
            self._url.netloc.rpartition("@")[2].encode(
                "idna" if not self._url.netloc.isascii() else "ascii"
            ),
            self._head,
        )

    # -- silence ------------------------------------------------------------------

    def _look_on(self) -> None:
        if self._looks is None:
            self._looks = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looks = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._busy):
            if now - connection.heard > self._idle:
                connection.end(connection.lost("ReadTimeout", f"silent for {self._idle:g} s"))
            elif now - connection.spoke > self._alive:
                connection.end(connection.lost("Lingering", "nothing but signs of life"))
        if self._busy:
            self._look_on()

    # -- opening ------------------------------------------------------------------

    async def _connection(self) -> _Connection:
        while self._free:
            connection = self._free.pop()
            if connection.is_open:
                return connection
        if self._opening is None:
            self._opening = asyncio.Semaphore(OPENING)
        async with self._opening:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await self._open()
            except TimeoutError:
                late = t("not within {seconds:g} s", seconds=CONNECT_SECONDS)
                raise NotSent("ConnectTimeout", late) from None
            except (OSError, ssl.SSLError) as error:
                raise NotSent("ConnectError", str(error)) from None

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        there = self._proxy or self._url
        if self._proxy is not None and self._proxy.scheme != "http":
            why = t("rows go through http:// proxies, and not {kind}://", kind=self._proxy.scheme)
            raise NotSent("ProxyError", why)
        secure = self._url.scheme == "https"
        context = self._context() if secure else None
        failed: OSError | None = None
        addresses = await self._resolved(there)
        for address in addresses:
            connection = _Connection(loop)
            made = partial(_same, connection)
            direct = context is not None and self._proxy is None
            is_last = address == addresses[-1]
            try:
                async with asyncio.timeout(None if is_last else NEXT_SECONDS):
                    transport, _ = await loop.create_connection(
                        made,
                        address,
                        _port(there),
                        ssl=context if direct else None,
                        server_hostname=self._url.hostname if direct else None,
                    )
                break
            except ssl.SSLError:
                raise
            except OSError as error:  # a time-out is one
                failed = error
        else:
            raise failed or OSError(t("the name has no address"))
        # Where one address is silent, the others need not find it out again.
        known = self._addresses[1]
        if known and known[0] != address and address in known:
            known.remove(address)
            known.insert(0, address)
        if self._proxy is not None and context is not None:
            await self._tunnel(transport, connection, context)
        return connection

    async def _tunnel(
        self, transport: asyncio.Transport, connection: _Connection, context: ssl.SSLContext
    ) -> None:
        host = f"{self._url.hostname}:{_port(self._url)}"
        head = _lines(_proxy_headers(self._proxy))
        try:
            status = await connection.tunnel(
                b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (host.encode(), host.encode(), head)
            )
        except Lost as lost:
            raise NotSent("ProxyError", str(lost)) from None
        if status != 200:
            connection.end()
            raise NotSent("ProxyError", t("it answered {status}", status=status))
        loop = asyncio.get_running_loop()
        secured = await loop.start_tls(
            transport, connection, context, server_hostname=self._url.hostname
        )
        connection.connection_made(secured)  # type: ignore[arg-type]

    async def _resolved(self, there: SplitResult) -> list[str]:
        """Give the addresses of a host; asked once a minute, not for each connection."""
        loop = asyncio.get_running_loop()
        until, known = self._addresses
        if known and loop.time() < until:
            return list(known)
        found = await loop.getaddrinfo(there.hostname, _port(there), type=1)  # SOCK_STREAM
        known = list(dict.fromkeys(str(row[4][0]) for row in found))
        self._addresses = (loop.time() + RESOLVED_SECONDS, known)
        return list(known)

    def _context(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = ssl.create_default_context()
        return self._ssl


def _same(connection: _Connection) -> _Connection:
    return connection


def _lines(headers: Mapping[str, str]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items())


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _proxy_for(url: SplitResult) -> SplitResult | None:
    """Find the proxy that the environment names for *url*."""
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(url.hostname or ""):
        return None
    named = getproxies()
    text = named.get(url.scheme) or named.get("all")
    if not text:
        return None
    return urlsplit(text if "://" in text else f"http://{text}")


def _proxy_headers(proxy: SplitResult | None) -> dict[str, str]:
    if proxy is None or proxy.username is None:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
