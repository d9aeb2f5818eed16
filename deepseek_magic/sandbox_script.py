"""What can be told to the simulated account, and what it tells: replies, requests, rules.

Everything here may be touched by several threads at once.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, overload

Fault = Literal[
    "close",
    "reset",
    "stall",
    "keep-alive",
    "garbage",
    "bytes",
    "error",
    "end",
    "no-done",
    "no-finish",
    "no-usage",
]
_BREAKS = frozenset({"close", "reset", "stall", "keep-alive", "error", "end"})
_PICTURE = re.compile(r"(data:image/[\w+.-]*;base64,\w{16})[\w+/=]+")
_WORDLESS = frozenset({"close", "reset", "stall"})


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request gets; every field left out is as the account itself would do it.

    An answer: *text* and *reasoning*, or *pieces* (the exact text of each
    event), or *tokens* and *reasoning_tokens* (so many, of the sandbox's own
    words); *finish_reason* as it is sent; *usage* in the API's form, which is
    then billed too. *latency* and *speed* as in `Sandbox`, `inf` is as fast as
    possible. *split* bytes go into each write, whatever they cut through.
    *newline* ends the lines of a stream, *padding* stands after each event.

    A response of another kind: *status*, *headers*, and *body* (an object is
    sent as JSON, text and bytes as they are) under *content_type*. Without a
    body a status from 300 has the documented one. Nothing of it is billed.

    A failure: *then* happens *after* so many tokens (all, when left out),
    `"request"` (before any byte of the response) or `"last"` (in the middle of
    the last event). Billed are the input and the tokens until then; nothing
    when it is `"request"`, or an error before the first token.

    - `close`, `reset`: the connection ends without the end of the answer.
    - `stall`, `keep-alive`: silence, or nothing but keep-alives, until the client leaves.
    - `garbage`, `bytes`: an event that is no JSON, or no UTF-8; the answer goes on.
    - `error`: *body* as an event, by default the one of an empty balance; then the end.
    - `end`: the response ends here, properly, without any last event.
    - `no-done`, `no-finish`, `no-usage`: the answer is whole but for this.
    """

    text: str | None = None
    reasoning: str | None = None
    pieces: tuple[str, ...] | None = None
    tokens: int | None = None
    reasoning_tokens: int | None = None
    finish_reason: str = "stop"
    usage: Mapping[str, Any] | None = None
    latency: float | None = None
    speed: float | None = None
    split: int | None = None
    newline: str = "\n"
    padding: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | str | bytes | None = None
    content_type: str | None = None
    after: int | Literal["request", "last"] | None = None
    then: Fault | None = None

    def __post_init__(self) -> None:
        wrong = None
        fitting = _WORDLESS if self.after == "request" else _BREAKS
        if isinstance(self.after, str) and not (self.then in fitting and self.is_answer):
            wrong = f"after={self.after!r} goes with an answer and one of then={sorted(fitting)}"
        elif isinstance(self.after, int) and self.after < 0:
            wrong = f"after is {self.after}, expected 0 or more"
        elif self.pieces is not None and (self.text, self.tokens) != (None, None):
            wrong = "pieces is the whole text already; leave text and tokens out"
        elif self.split is not None and self.split < 1:
            wrong = f"split is {self.split}, expected 1 byte or more"
        if wrong:
            message = f"{wrong}."
            raise ValueError(message)

    @property
    def breaks(self) -> bool:
        """Whether the answer ends early, in the way of `then`."""
        return self.then in _BREAKS

    @property
    def is_answer(self) -> bool:
        """Whether this is an answer, whole or broken, and not another kind of response."""
        return self.status == 200 and (self.body is None or self.then == "error")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what became of it.

    *status* is None until the response begins. *cost* is None where nothing was
    charged. *headers* have lower-case names and stay out of the repr, as do the bytes
    of pictures.
    """

    method: str
    path: str
    body: dict[str, Any] | None
    at: datetime
    trace_id: str
    headers: Mapping[str, str] = field(repr=False)
    status: int | None = None
    usage: Mapping[str, Any] | None = None
    cost: Decimal | None = None
    currency: str | None = None
    finished: bool = False
    client_gone: bool = False

    def __repr__(self) -> str:
        values = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
        return _PICTURE.sub(r"\1…", f"Exchange({', '.join(values)})")


class Log:
    """What has come in, and what has become of it."""

    def __init__(self, keep: int | None = None) -> None:
        self._keep = keep
        self._rows: dict[int, Exchange] = {}
        self._open: set[int] = set()
        self._last = 0
        self._changed = threading.Condition()

    def rows(self, path: str = "") -> list[Exchange]:
        """Give the requests whose path ends in *path*, oldest first."""
        with self._changed:
            return [row for row in self._rows.values() if row.path.endswith(path)]

    def clear(self, path: str = "") -> None:
        """Forget those requests; one that is under way does not come back."""
        with self._changed:
            rows = self._rows.items()
            self._rows = {n: row for n, row in rows if not row.path.endswith(path)}

    def begin(self, exchange: Exchange) -> int:
        """Add a request that is under way; its number names it from then on."""
        with self._changed:
            self._last += 1
            self._rows[self._last] = exchange
            self._open.add(self._last)
            if self._keep is not None and len(self._rows) > self._keep:
                del self._rows[next(iter(self._rows))]
            return self._last

    def note(self, number: int, **changes: Any) -> None:
        """Record what has become of request *number*."""
        with self._changed:
            if number in self._rows:
                self._rows[number] = replace(self._rows[number], **changes)

    def end(self, number: int) -> None:
        """Mark request *number* as over."""
        with self._changed:
            self._open.discard(number)
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait until no request is under way; False when *timeout* seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout)


class Exchanges(Sequence[Exchange]):
    """The requests to one path, or to all, oldest first; it grows as they come."""

    def __init__(self, log: Log, path: str = "") -> None:
        self._log = log
        self._path = path

    def __len__(self) -> int:
        return len(self._log.rows(self._path))

    @overload
    def __getitem__(self, index: int) -> Exchange: ...
    @overload
    def __getitem__(self, index: slice) -> list[Exchange]: ...
    def __getitem__(self, index: int | slice) -> Exchange | list[Exchange]:
        return self._log.rows(self._path)[index]

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._log.rows(self._path))

    def __repr__(self) -> str:
        return repr(list(self))

    def clear(self) -> None:
        """Forget them; one that is under way does not come back."""
        self._log.clear(self._path)


class Scripts:
    """Replies that are set for coming requests, by path."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Reply]] = {}
        self._standing: dict[str, Reply] = {}
        self._lock = threading.Lock()

    def add(self, path: str, replies: Sequence[Reply], *, forever: bool) -> int:
        """Queue *replies* for *path*, with *forever* the last one to stay; give how many wait."""
        with self._lock:
            queue = self._queues.setdefault(path, deque())
            waiting = len(queue)
            queue.extend(replies[:-1] if forever else replies)
            if forever:
                self._standing[path] = replies[-1]
            return waiting

    def clear(self) -> None:
        """Drop every reply that has not been used."""
        with self._lock:
            self._queues.clear()
            self._standing.clear()

    def take(self, path: str) -> Reply | None:
        """Give the reply for the next request to *path*, if one is set."""
        with self._lock:
            queue = self._queues.get(path)
            return queue.popleft() if queue else self._standing.get(path)


@dataclass(frozen=True, slots=True)
class Rules:
    """How the account behaves; `Sandbox` says what each rule means."""

    latency: float = 0.0
    speed: float | None = None
    keep_alive: float | None = 10.0
    lag: float = 0.0
    decimals: int = 2
    available: bool | None = None
    listed: tuple[str, ...] | None = None
    billed_at: Literal["start", "end"] = "start"
    cache: bool = True
    usage_chunk: Literal["last", "separate"] = "last"
    concurrency: Mapping[str, int] = field(
        default_factory=lambda: {"deepseek-flash": 2500, "deepseek-v4-pro": 500}
    )
    concurrency_per_unit: Decimal | None = None
    models: Sequence[Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("billed_at", ("start", "end")),
            ("usage_chunk", ("last", "separate")),
        ):
            if getattr(self, name) not in allowed:
                message = f"{name} is {getattr(self, name)!r}, expected one of {allowed}."
                raise ValueError(message)
        for name in ("latency", "lag", "decimals"):
            if not getattr(self, name) >= 0:
                message = f"{name} is {getattr(self, name)!r}, expected 0 or more."
                raise ValueError(message)
        for name in ("speed", "keep_alive"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                message = f"{name} is {getattr(self, name)!r}, expected more than 0."
                raise ValueError(message)
