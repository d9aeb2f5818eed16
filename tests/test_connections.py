"""HTTP as it really comes: cut anywhere, late, broken, and through proxies."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from deepseek_magic.connections import BODY_BYTES, Connections, Lost, NotSent, Response

WHOLE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"a": 42}'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'4;x=y\r\n{"a"\r\n5\r\n: 42}\r\n0\r\nX-Trailer: 1\r\n\r\n'
)
PADDED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'2\r\n\n\n\r\n2\r\n\r\n\r\n9\r\n{"a": 42}\r\n0\r\n\r\n'
)
EARLY = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
FULL = {
    "length": WHOLE,
    "chunks": CHUNKED,
    "keep-alive lines": PADDED,
    "1xx before it": EARLY + WHOLE,
    "two 1xx and chunks": EARLY + EARLY + CHUNKED,
}
BROKEN = {
    "no HTTP": b"hello\r\n\r\n",
    "tls": b"\x15\x03\x03\x00\x02\x02\x28",
    "two lengths": WHOLE.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"),
    "a length that is none": WHOLE.replace(b": 9", b": nine"),
    "a chunk that is none": CHUNKED.replace(b"4;", b"xyz;"),
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X-Padding: 0123456789\r\n" * 20_000,
    "headers cut": b"HTTP/1.1 200 OK\r\nServer: x\r\nX-Half: ",
    "half a head": WHOLE[:30],
    "half a body": WHOLE[:-3],
    "half of the chunks": CHUNKED[:-20],
    "nothing": b"",
}


class Talk:
    """One connection, as the server sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""

    def request(self) -> bytes | None:
        """Give the next request, None when there is no other."""
        while b"\r\n\r\n" not in self._rest:
            if not self._more():
                return None
        head = self._rest.partition(b"\r\n\r\n")[0]
        size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        end = len(head) + 4 + (int(size[1]) if size else 0)
        while len(self._rest) < end:
            if not self._more():
                return None
        one, self._rest = self._rest[:end], self._rest[end:]
        return one

    def head(self) -> bytes:
        """Give what comes up to a blank line."""
        while b"\r\n\r\n" not in self._rest:
            if not self._more():
                break
        one, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return one

    def _more(self) -> bool:
        data = self.connection.recv(65536)
        self._rest += data
        return bool(data)

    def send(self, data: bytes) -> None:
        """Send *data*."""
        self.connection.sendall(data)

    def reset(self) -> None:
        """End the connection as a crash does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()


class Server:
    """Calls *serve* for each connection, on a thread, with its number."""

    def __init__(
        self,
        serve: Callable[[Talk, int], object],
        *,
        family: socket.AddressFamily = socket.AF_INET,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.serve = serve
        self.opened = 0
        self.requests: list[bytes] = []
        self._tls = tls
        self._socket = socket.socket(family)
        self._socket.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self._socket.listen(200)
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """Give the address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.opened += 1
                threading.Thread(
                    target=self._talk, args=(connection, self.opened), daemon=True
                ).start()

    def _talk(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                self.serve(Talk(connection), number)


def replies(*data: bytes, close: bool = False) -> Callable[[Talk, int], None]:
    """Make a server that answers each request of a connection with the next of *data*."""

    def serve(talk: Talk, _: int) -> None:
        for one in data * 1000:
            if talk.request() is None:
                return
            talk.send(one)
            if close:
                return

    return serve


def post(
    url: str, number: int = 1, *, at_once: bool = False, body: bytes = b"{}", **settings: Any
) -> list[Response | NotSent | Lost]:
    """Send *number* requests and give what each came to."""

    async def send(connections: Connections) -> Response | NotSent | Lost:
        try:
            return await connections.post("/chat", body)
        except (NotSent, Lost) as error:
            return error

    async def run() -> list[Response | NotSent | Lost]:
        settings_ = {"idle": 20.0, "alive": 20.0, **settings}
        headers = settings_.pop("headers", {"Authorization": "Bearer sk-test"})
        connections = Connections(url, headers, **settings_)
        try:
            if at_once:
                return list(await asyncio.gather(*(send(connections) for _ in range(number))))
            return [await send(connections) for _ in range(number)]
        finally:
            connections.close()

    return asyncio.run(run())


def answered(found: list[Response | NotSent | Lost]) -> list[tuple[int, bytes]]:
    for one in found:
        assert isinstance(one, Response), one
    return [(one.status, one.body.strip()) for one in found if isinstance(one, Response)]


# -- whole responses ---------------------------------------------------------------------


@pytest.mark.parametrize("response", FULL.values(), ids=FULL)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_cut_anywhere(response: bytes, size: int) -> None:
    """A response is the same, wherever its bytes are cut, and the connection serves again."""

    def serve(talk: Talk, _: int) -> None:
        talk.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while talk.request() is not None:
            for start in range(0, len(response), size):
                talk.send(response[start : start + size])

    with Server(serve) as server:
        found = post(server.url, 3)

    assert answered(found) == [(200, b'{"a": 42}')] * 3
    assert server.opened == 1


def test_what_is_sent() -> None:
    """A request has its path under the base address, the host, the headers and the body."""
    seen: list[bytes] = []

    def serve(talk: Talk, _: int) -> None:
        while (one := talk.request()) is not None:
            seen.append(one)
            talk.send(WHOLE)

    with Server(serve) as server:
        post(f"{server.url}/v1/", headers={"Authorization": "Bearer sk-test"}, body=b'{"q": 1}')

    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat HTTP/1.1"
    assert b"Host: 127.0.0.1:%d" % server.port in lines
    assert b"Authorization: Bearer sk-test" in lines
    assert body == b'{"q": 1}'


def test_the_end_of_the_connection_ends_a_body() -> None:
    """A body without a length ends with its connection."""
    bare = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"a": 42}'

    with Server(replies(bare, close=True)) as server:
        found = post(server.url, 2)

    assert answered(found) == [(200, b'{"a": 42}')] * 2
    assert server.opened == 2


@pytest.mark.parametrize(
    "response",
    [
        WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["close", "1.0"],
)
def test_a_connection_for_one_request(response: bytes) -> None:
    """A connection that the server will close is not used again."""
    with Server(replies(response, close=True)) as server:
        found = post(server.url, 3)

    assert answered(found) == [(200, b'{"a": 42}')] * 3
    assert server.opened == 3


def test_a_connection_that_the_server_has_closed() -> None:
    """A connection that was closed while it lay idle is not used, and no request is lost."""

    async def run(url: str) -> list[bytes]:
        connections = Connections(url, {}, idle=20, alive=20)
        found = []
        for _ in range(4):
            found.append((await connections.post("/", b"{}")).body)
            await asyncio.sleep(0.05)
        connections.close()
        return found

    with Server(replies(WHOLE, close=True)) as server:
        found = asyncio.run(run(server.url))

    assert found == [b'{"a": 42}'] * 4
    assert server.opened == 4


@pytest.mark.parametrize("status", [204, 302, 402, 404, 429, 500, 503])
def test_other_statuses(status: int) -> None:
    """Every status is given as it came, with its headers; nothing is followed."""
    body = b"" if status == 204 else b"sorry"
    response = (
        b"HTTP/1.1 %d Words of its own\r\nX-DS-Trace-Id: t1\r\nLocation: http://127.0.0.1:9/\r\n"
        b"Retry-After: 3\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    )

    with Server(replies(response)) as server:
        found = post(server.url, 2)

    assert answered(found) == [(status, body)] * 2
    first = found[0]
    assert isinstance(first, Response)
    assert first.headers["x-ds-trace-id"] == "t1"
    assert first.headers["retry-after"] == "3"


def test_a_large_request() -> None:
    """A request of several megabytes arrives whole."""
    sizes: list[int] = []

    def serve(talk: Talk, _: int) -> None:
        one = talk.request()
        sizes.append(len(one or b""))
        talk.send(WHOLE)

    with Server(serve) as server:
        found = post(server.url, body=b"x" * 5_000_000)

    assert answered(found) == [(200, b'{"a": 42}')]
    assert sizes[0] > 5_000_000


def test_many_at_once() -> None:
    """Each of many requests at once gets its own response, on a connection of its own."""

    def serve(talk: Talk, _: int) -> None:
        while (one := talk.request()) is not None:
            body = one.partition(b"\r\n\r\n")[2]
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async def run(url: str) -> list[bytes]:
        connections = Connections(url, {}, idle=20, alive=20)
        asked = [b"%d" % number for number in range(150)]
        found = await asyncio.gather(*(connections.post("/", one) for one in asked * 2))
        connections.close()
        return [response.body for response in found]

    with Server(serve) as server:
        found = asyncio.run(run(server.url))

    assert found == [b"%d" % number for number in range(150)] * 2


# -- what is no response -----------------------------------------------------------------


@pytest.mark.parametrize("response", BROKEN.values(), ids=BROKEN)
def test_broken_responses(response: bytes) -> None:
    """What is no whole response is lost, and the next request has a connection of its own."""

    def serve(talk: Talk, number: int) -> None:
        talk.request()
        talk.send(response if number == 1 else WHOLE)

    with Server(serve) as server:
        found = post(server.url, 2)

    assert isinstance(found[0], Lost)
    assert answered(found[1:]) == [(200, b'{"a": 42}')]


def test_a_reset() -> None:
    """A connection that is reset before a word of the response says that nothing arrived."""

    def serve(talk: Talk, _: int) -> None:
        talk.request()
        talk.reset()

    with Server(serve) as server:
        found = post(server.url)

    assert isinstance(found[0], Lost)
    assert not found[0].arrived


def test_a_part_has_arrived() -> None:
    """A body that was cut says that a part of it had arrived; blank lines are no part."""
    blank = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n\n\n\n"

    with Server(replies(blank + b'{"a"', close=True)) as server:
        part = post(server.url)[0]
    with Server(replies(blank, close=True)) as server:
        nothing = post(server.url)[0]

    assert isinstance(part, Lost)
    assert part.arrived
    assert isinstance(nothing, Lost)
    assert not nothing.arrived


def test_a_body_without_bounds() -> None:
    """A body that does not end is given up before it fills the memory."""

    def serve(talk: Talk, _: int) -> None:
        talk.request()
        talk.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(2 * BODY_BYTES // 65536):
            talk.send(b"x" * 65536)

    with Server(serve) as server:
        found = post(server.url)

    assert isinstance(found[0], Lost)


EVIL = WHOLE.replace(b"42", b"66")


@pytest.mark.parametrize("cut", [1, 20, len(EVIL) - 5, len(EVIL)])
def test_more_than_one_response(cut: int) -> None:
    """Bytes after a response never become the response to the next request."""

    def serve(talk: Talk, number: int) -> None:
        talk.request()
        talk.send(WHOLE + EVIL[:cut] if number == 1 else WHOLE)
        if talk.request() is not None:
            talk.send(EVIL[cut:] + WHOLE)

    with Server(serve) as server:
        found = post(server.url, 2)

    assert [one.body for one in found if isinstance(one, Response)] == [b'{"a": 42}'] * 2


# -- silence -----------------------------------------------------------------------------


def test_silence() -> None:
    """A server that says nothing for too long is given up."""

    def serve(talk: Talk, _: int) -> None:
        talk.request()
        talk.request()  # waits until the client leaves

    with Server(serve) as server:
        found = post(server.url, idle=0.2)

    assert isinstance(found[0], Lost)
    assert found[0].name == "ReadTimeout"


def test_signs_of_life() -> None:
    """Bytes that only keep the line alive are borne for longer, but not for ever."""
    stop = threading.Event()

    def serve(talk: Talk, _: int) -> None:
        talk.request()
        talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not stop.wait(0.05):
            talk.send(b"1\r\n\n\r\n")

    with Server(serve) as server:
        found = post(server.url, idle=0.4, alive=1.0)
    stop.set()

    assert isinstance(found[0], Lost)
    assert found[0].name == "Lingering"


def test_cancelled() -> None:
    """A request that is cancelled closes its connection, which the server sees."""
    gone = threading.Event()

    def serve(talk: Talk, _: int) -> None:
        talk.request()
        talk.request()
        gone.set()

    async def run(url: str) -> None:
        connections = Connections(url, {}, idle=20, alive=20)
        task = asyncio.create_task(connections.post("/", b"{}"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        connections.close()

    with Server(serve) as server:
        asyncio.run(run(server.url))
        assert gone.wait(10)


# -- no way there ------------------------------------------------------------------------


def test_nobody_listens() -> None:
    """A connection that is refused is not sent, which is not billed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    found = post(f"http://127.0.0.1:{port}")

    assert isinstance(found[0], NotSent)
    assert found[0].name == "ConnectError"


def test_a_server_without_tls() -> None:
    """An https address at which nobody speaks TLS is not sent."""

    def serve(talk: Talk, _: int) -> None:
        talk.connection.recv(1)
        talk.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with Server(serve) as server:
        found = post(f"https://127.0.0.1:{server.port}", trust_env=False)

    assert isinstance(found[0], NotSent)


def addresses(monkeypatch: pytest.MonkeyPatch, *there: str) -> None:
    """Let the name api.test have the addresses *there*, in this order."""
    known = socket.getaddrinfo

    def found(host: Any, port: Any, *args: Any, **settings: Any) -> list[Any]:
        if host != "api.test":
            return known(host, port, *args, **settings)
        return [row for one in there for row in known(one, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_an_address_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two addresses the one that takes connections is used."""
    with Server(replies(WHOLE)) as server:
        addresses(monkeypatch, "::1", "127.0.0.2", "127.0.0.1")

        found = post(f"http://api.test:{server.port}", 2, trust_env=False)

    assert answered(found) == [(200, b'{"a": 42}')] * 2


def test_an_address_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address from which nothing comes back, as where IPv6 leads nowhere, costs no row."""
    with Server(replies(WHOLE)) as server, socket.socket() as dead, contextlib.ExitStack() as held:
        try:
            dead.bind(("127.0.0.2", server.port))
        except OSError:
            pytest.skip("this system has one loopback address")
        dead.listen(0)
        for _ in range(4):  # its queue is full: what comes is dropped
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", server.port))
        addresses(monkeypatch, "127.0.0.2", "127.0.0.1")

        found = post(f"http://api.test:{server.port}", trust_env=False)

    assert answered(found) == [(200, b'{"a": 42}')]


def test_ipv6() -> None:
    """An address may be one of IPv6."""
    try:
        server = Server(replies(WHOLE), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with server:
        found = post(f"http://[::1]:{server.port}")

    assert answered(found) == [(200, b'{"a": 42}')]


# -- proxies -----------------------------------------------------------------------------


def test_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the environment names gets the whole address, and its own name and password."""
    seen: list[bytes] = []

    def serve(talk: Talk, _: int) -> None:
        while (one := talk.request()) is not None:
            seen.append(one)
            talk.send(WHOLE)

    with Server(serve) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "localhost")

        found = post("http://api.test/v1", 2)

    assert answered(found) == [(200, b'{"a": 42}')] * 2
    assert seen[0].startswith(b"POST http://api.test/v1/chat HTTP/1.1\r\nHost: api.test\r\n")
    login = b"Proxy-Authorization: Basic " + base64.b64encode(b"me:p@ss")
    assert login in seen[0].split(b"\r\n")


def test_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that the environment excepts, and a caller who wants none, get no proxy."""
    with Server(replies(WHOLE)) as server:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        excepted = post(server.url)
        monkeypatch.delenv("no_proxy")
        unwanted = post(server.url, trust_env=False)

    assert answered([*excepted, *unwanted]) == [(200, b'{"a": 42}')] * 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a certificate for api.test that this test trusts, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
            *("-subj", "/CN=api.test", "-addext", "subjectAltName=DNS:api.test"),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem", folder / "key.pem"


def tunnel(port: int, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Any:
    """Make a proxy that leads everybody to *port*."""

    def copy(there: socket.socket, here: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := there.recv(65536):
                here.sendall(data)
            here.shutdown(socket.SHUT_WR)

    def serve(talk: Talk, _: int) -> None:
        server.requests.append(talk.head())
        talk.send(answer)
        if b" 200 " in answer:
            with socket.create_connection(("127.0.0.1", port)) as target:
                back = threading.Thread(target=copy, args=(target, talk.connection), daemon=True)
                back.start()
                copy(talk.connection, target)
                back.join()

    server = Server(serve)
    return server


def test_https_through_a_proxy(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An https address is reached through a tunnel; the proxy sees its name and nothing else."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    with Server(replies(WHOLE), tls=tls) as server, tunnel(server.port) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
        found = post("https://api.test", 3)

    assert answered(found) == [(200, b'{"a": 42}')] * 3
    assert proxy.requests[0].startswith(b"CONNECT api.test:443 HTTP/1.1\r\n")
    assert base64.b64encode(b"me:secret") in proxy.requests[0]
    assert b"sk-test" not in b"".join(proxy.requests)
    assert server.opened == 1


def test_a_certificate_of_somebody_else(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that is not trusted, or is for another name, ends it before the key is sent."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)

    with Server(replies(WHOLE), tls=tls) as server, tunnel(server.port) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        untrusted = post("https://api.test")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        other = post("https://other.test")

    for one in (*untrusted, *other):
        assert isinstance(one, NotSent)
        assert "certificate" in str(one).lower()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"no HTTP\r\n\r\n",
        b"",
    ],
    ids=["407", "garbage", "nothing"],
)
def test_a_proxy_that_says_no(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """A proxy that gives no tunnel is named as the reason, and nothing was sent."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with tunnel(1, answer) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        found = post("https://api.test")

    assert isinstance(found[0], NotSent)
    assert found[0].name == "ProxyError"


def test_nothing_shows_the_key() -> None:
    """The connections' own text does not hold what is sent with each request."""
    connections = Connections(
        "http://127.0.0.1:9", {"Authorization": "Bearer sk-secret"}, idle=1, alive=1
    )

    assert "sk-secret" not in f"{connections!r} {connections}"
