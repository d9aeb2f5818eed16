"""How near `Session.map` comes to the ideal rate, beside other clients; and its memory.

    python tests/benchmarks/rows.py [--seconds 2] [--rounds 5] [--at-once 64 500 2000]
    python tests/benchmarks/rows.py --memory

All ask one small server in another process that answers after so many seconds, so
that the ideal is the number under way divided by them. Every client asks as many
rows as make *rounds* full rounds. The openai client is left out where it would take
minutes; `--all` has it run. The server is no simulated account: it only answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORDS = "A text that is about as long as a short review of something. " * 4
USAGE = {
    "prompt_tokens": 90,
    "completion_tokens": 12,
    "total_tokens": 102,
    "prompt_cache_hit_tokens": 0,
    "prompt_cache_miss_tokens": 90,
}
ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "deepseek-flash",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "praise, and a few words why"},
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
BALANCE = {
    "is_available": True,
    "balance_infos": [
        {
            "currency": "CNY",
            "total_balance": "100000.00",
            "granted_balance": "0.00",
            "topped_up_balance": "100000.00",
        }
    ],
}

# The server


def whole(body: object) -> bytes:
    """Give a response with *body*."""
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(data),
        data,
    )


class Answers(asyncio.Protocol):
    """Answer every POST after *seconds*, and every GET at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.answer, self.balance = whole(ANSWER), whole(BALANCE)
        self.heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Read a request, if it is whole."""
        self.heard += data
        head, found, body = self.heard.partition(b"\r\n\r\n")
        if not found:
            return
        size = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(size or 0):
            return
        self.heard = b""
        if head.startswith(b"GET"):
            self.transport.write(self.balance)
        else:
            asyncio.get_running_loop().call_later(self.seconds, self.send)

    def send(self) -> None:
        """Answer, if somebody still listens."""
        if not self.transport.is_closing():
            self.transport.write(self.answer)


async def serve(seconds: float) -> None:
    """Listen on a free port of this machine, and say which."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answers(seconds), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def server(seconds: float) -> Iterator[str]:
    """Run the server in a process of its own; give its address."""
    command = [sys.executable, __file__, "--serve", "--seconds", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline().strip() if process.stdout else ""
        yield f"http://127.0.0.1:{port}"
        process.terminate()


# The clients


def body(row: int) -> dict[str, Any]:
    """Give the body of one question."""
    prompt = f"Praise or complaint? One word.\n{row}: {WORDS}"
    return {
        "model": "deepseek-flash",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 50,
        "stream": False,
    }


async def by_workers(ask: Callable[[int], Awaitable[object]], rows: int, at_once: int) -> None:
    """Ask for all *rows*, so many at once."""
    left = iter(range(rows))

    async def work() -> None:
        for row in left:
            await ask(row)

    await asyncio.gather(*(work() for _ in range(at_once)))


async def bare_aiohttp(url: str, rows: int, at_once: int) -> None:
    """Ask with aiohttp alone."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(row: int) -> None:
            async with session.post(f"{url}/chat/completions", json=body(row)) as response:
                await response.json()

        await by_workers(ask, rows, at_once)


async def with_openai(url: str, rows: int, at_once: int, *, aiohttp: bool = False) -> None:
    """Ask with the openai client, as it comes or over its aiohttp transport."""
    import openai

    http = openai.DefaultAioHttpClient() if aiohttp else None
    async with openai.AsyncOpenAI(
        api_key="sk-none", base_url=url, max_retries=0, timeout=600, http_client=http
    ) as client:
        await by_workers(lambda row: client.chat.completions.create(**body(row)), rows, at_once)


async def over_aiohttp(url: str, rows: int, at_once: int) -> None:
    """Ask with the openai client over its aiohttp transport."""
    await with_openai(url, rows, at_once, aiohttp=True)


def mapped(url: str, rows: int, at_once: int) -> None:
    """Ask with `Session.map`, with a ledger on disk."""
    import pandas as pd

    from deepseek_magic.session import Session

    data = pd.DataFrame({"text": [f"{row}: {WORDS}" for row in range(rows)]})
    with (
        tempfile.TemporaryDirectory() as folder,
        Session(api_key="sk-none", base_url=url, ledger=Path(folder) / "ledger.sqlite") as session,
    ):
        session.balance()
        before = _megabytes()
        began = time.perf_counter()
        frame = session.map(
            data,
            "Praise or complaint? One word.\n{{text}}",
            think="off",
            max_tokens=50,
            concurrency=at_once,
            progress=False,
        )
        seconds = time.perf_counter() - began
        answered = int(frame["answer"].notna().sum())
    print(json.dumps([seconds, answered, _megabytes() - before]))


CLIENTS: dict[str, Callable[[str, int, int], Awaitable[None]]] = {
    "AsyncOpenAI": with_openai,
    "AsyncOpenAI, aiohttp transport": over_aiohttp,
    "aiohttp alone": bare_aiohttp,
}
OURS = "Session.map"


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_client(name: str, url: str, rows: int, at_once: int) -> None:
    """Measure one client, in this process."""
    if name == OURS:
        mapped(url, rows, at_once)
        return
    before, began = _megabytes(), time.perf_counter()
    asyncio.run(CLIENTS[name](url, rows, at_once))  # type: ignore[arg-type]  # a coroutine it is
    print(json.dumps([time.perf_counter() - began, rows, _megabytes() - before]))


def measured(name: str, url: str, rows: int, at_once: int) -> tuple[float, int, float]:
    """Measure one client in a process of its own: seconds, answers, megabytes."""
    command = [sys.executable, __file__, "--client", name, url, str(rows), str(at_once)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} did not come to its end:\n{done.stderr[-2000:]}")
    seconds, answers, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, answers, memory


# The tables


def rates(seconds: float, rounds: int, numbers: list[int], *, everything: bool) -> None:
    """Print how near each client comes to the ideal rate."""
    print(f"answers of {seconds:g} s, {rounds} rounds; share of the ideal rate\n")
    names = [*CLIENTS, OURS]
    print(f"{'':32}" + "".join(f"{number:>10,}" for number in numbers))
    with server(seconds) as url:
        for name in names:
            cells = []
            for number in numbers:
                if number > 500 and name == "AsyncOpenAI" and not everything:
                    cells.append(f"{'-':>10}")
                    continue
                took, answers, _ = measured(name, url, number * rounds, number)
                cells.append(f"{answers * seconds / number / took:>10.0%}")
            print(f"{name:32}" + "".join(cells), flush=True)


def memory() -> None:
    """Print what rows take beyond their data."""
    print("memory of Session.map beyond the data, 500 under way, answers of 0.05 s\n")
    with server(0.05) as url:
        for rows in (1_000, 10_000, 100_000):
            took, answers, megabytes = measured(OURS, url, rows, 500)
            print(f"{rows:>9,} rows {megabytes:7.0f} MB {answers / took:9,.0f} rows/s", flush=True)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=2.0, help="until an answer comes")
    parser.add_argument("--rounds", type=int, default=5, help="rows for each one under way")
    parser.add_argument("--at-once", type=int, nargs="+", default=[64, 500, 2000])
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--all", action="store_true", help="the openai client at 2,000 too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.seconds))
    elif options.client:
        name, url, rows, at_once = options.client
        run_client(name, url, int(rows), int(at_once))
    elif options.memory:
        memory()
    else:
        rates(options.seconds, options.rounds, options.at_once, everything=options.all)


if __name__ == "__main__":
    main()
