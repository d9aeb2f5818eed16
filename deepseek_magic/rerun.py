"""Running a cell again in its own place.

The kernel is sent the request that ran the cell once more, under the same
message id. To the kernel it is a cell like any other: it waits its turn, can
be interrupted and fails as it would. To the page it is still the output of the
cell that owns the id, as long as the page has not been loaded anew.

Whether a page still listens is asked first: a hidden output widget is told to
catch what belongs to the cell, and one invisible character is published there.
Only a page that still knows the cell catches it and sends it back. Without
that answer nothing runs, so nothing is bought that nobody sees.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import zmq
    from IPython.core.interactiveshell import InteractiveShell
    from jupyter_client.session import Session

T = TypeVar("T")

MARK = "deepseek_replay"
"""Where a request's metadata names the `Rerun` that sent it."""
ANYWAY = "deepseek_anyway"
"""Where a request's metadata allows this one run to be sent against a check."""
RESUMES = "deepseek_resumes"
"""Where a request's metadata names the unfinished answer that its run goes on with."""
INVISIBLE = "\u200b"
SETTLE = 0.15
"""Seconds between a page's answer and the run.

On ipykernel 7.0 to 7.3 another thread tells the end of the click. When that
comes after the start of the run, the page shows a running kernel as idle.
"""
STOPS = 100
"""Milliseconds that may pass until a stop is noticed."""
LOOKS = 6
"""How often in a row the kernel must be free before a page counts as silent."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a cell: the request that started it, and where its output goes."""

    parent: Mapping[str, Any]
    """The `execute_request`: its `header`, `content` and `metadata`."""
    context: contextvars.Context

    @property
    def id(self) -> str | None:
        """The cell's id in the front end; None when it gave none."""
        name = self.parent["metadata"].get("cellId")
        return name if isinstance(name, str) else None

    @property
    def place(self) -> str:
        """What names the cell in this kernel: its id, else the id of the run's request."""
        return self.id or str(self.parent["header"].get("msg_id", ""))

    @property
    def session(self) -> str:
        """The page's connection that sent it; a page that is loaded anew has another."""
        return str(self.parent["header"].get("session", ""))

    @property
    def token(self) -> str:
        """The `Rerun.token` that started this run; "" for one that was started by hand."""
        return str(self.parent["metadata"].get(MARK) or "")

    @property
    def replayed(self) -> bool:
        """Whether this run was started by a `Rerun`."""
        return bool(self.token)

    @property
    def anyway(self) -> bool:
        """Whether this very run was allowed, by a click, to be sent against a check."""
        return self.replayed and self.parent["metadata"].get(ANYWAY) is True

    @property
    def sent(self) -> datetime | None:
        """When the page sent it, by the page's clock; None where it does not say."""
        at = self.parent["header"].get("date")
        return at if isinstance(at, datetime) and at.tzinfo is not None else None

    @property
    def resumes(self) -> str:
        """The name of the unfinished answer that this run goes on with; "" where it asks anew."""
        return str(self.parent["metadata"].get(RESUMES) or "") if self.replayed else ""

    @property
    def attended(self) -> bool:
        """Whether somebody sits in front of it; `nbclient` and `papermill` say no."""
        return self.replayed or self.parent["content"].get("allow_stdin") is True

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call *function* as if from the cell, whichever thread this is.

        Widgets can be made and changed there. Do not print or display: on
        ipykernel 6 that lands in the cell that ran last.
        """
        return self.context.copy().run(function, *arguments)


def current_cell(shell: InteractiveShell) -> Cell | None:
    """Give the run of the cell that is going on, None when there is none.

    There is none in a terminal or a script, nor in what a click calls.
    """
    try:
        parent = shell.kernel.get_parent("shell")  # type: ignore[attr-defined]  # ipykernel's has one
        if parent["header"]["msg_type"] != "execute_request":
            return None
    except (AttributeError, LookupError, TypeError):  # no kernel, or not ipykernel
        return None
    request = {part: dict(parent.get(part) or {}) for part in ("header", "content", "metadata")}
    return Cell(request, contextvars.copy_context())


def newest_page(shell: InteractiveShell) -> str:
    """Give the connection of the page that asked the kernel for something last; "" if unknown.

    To be called outside `Cell.run`. A page that is loaded anew asks at once.
    """
    try:
        parent = shell.kernel.get_parent("shell")  # type: ignore[attr-defined]  # ipykernel's has one
        return str(parent["header"]["session"])
    except (AttributeError, LookupError, TypeError):
        return ""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of our own to the kernel's queue of requests."""

    session: Session
    socket: zmq.Socket[bytes]
    replies: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def send(self, request: Mapping[str, Any]) -> str:
        """Put *request* at the end of the queue and give its id."""
        self.session.send(self.socket, dict(request))
        return str(request["header"]["msg_id"])

    def knock(self) -> str:
        """Ask for next to nothing; a reply means that the kernel was free."""
        return self.send(self.session.msg("kernel_info_request"))

    def reply(self, request: str) -> Mapping[str, Any] | None:
        """Give the reply to *request*, None as long as there is none."""
        while (message := self.session.recv(self.socket)[1]) is not None:
            self.replies[message["parent_header"].get("msg_id", "")] = message["content"]
        return self.replies.pop(request, None)

    def wait(self, request: str, stop: threading.Event | None = None) -> Mapping[str, Any] | None:
        """Give the reply to *request* at once when it comes; None after a *stop*."""
        while (reply := self.reply(request)) is None:
            if stop is not None and stop.is_set():
                return None
            self.socket.poll(STOPS)
        return reply


@contextmanager
def _line() -> Iterator[_Line]:
    from ipykernel.connect import get_connection_file
    from jupyter_client.blocking.client import BlockingKernelClient

    client = BlockingKernelClient()
    try:
        client.load_connection_file(get_connection_file())
        yield _Line(client.session, client.connect_shell())
    finally:
        client.context.destroy(linger=2000)


def _again(
    cell: Cell, token: str, code: str | None, *, anyway: bool, resumes: str
) -> dict[str, Any]:
    """Make the request that runs *cell* once more: as it was sent, or *code* in its place.

    *resumes* names the unfinished answer that the run goes on with; "" leaves it as it was.

    What a click has allowed one run is not allowed the next. Nobody could answer its
    questions, since the reply would come to us; and if it fails, cells that were
    queued meanwhile are none of its business.
    """
    parent = cell.parent
    content = parent["content"] if code is None else {**parent["content"], "code": code}
    header = {**parent["header"], "date": datetime.now(UTC)}  # a kernel refuses an exact copy
    return {
        "header": header,
        "msg_id": header["msg_id"],
        "msg_type": header["msg_type"],
        "parent_header": {},
        "metadata": {
            **parent["metadata"],
            MARK: token,
            ANYWAY: anyway,
            **({RESUMES: resumes} if resumes else {}),
        },
        "content": {**content, "allow_stdin": False, "stop_on_error": False},
    }


def _probe() -> Any:
    from ipywidgets import Output

    return Output()


def _call(shell: InteractiveShell, cell: Cell, probe: Any, heard: Callable[[], None]) -> None:
    """Publish one invisible character as *cell*; *heard* is called when a page caught it."""
    probe.observe(lambda _: heard(), "outputs")
    probe.msg_id = cell.parent["header"]["msg_id"]
    kernel = shell.kernel  # type: ignore[attr-defined]  # a cell has a kernel
    content = {"name": "stdout", "text": INVISIBLE}
    kernel.session.send(kernel.iopub_socket, "stream", content, parent=dict(cell.parent))


def _hush(probe: Any) -> None:
    """Listen no more, and let the cell's output through again."""
    probe.unobserve_all("outputs")
    probe.msg_id = ""


def _remove(probe: Any) -> None:
    layout = probe.layout
    probe.close()
    layout.close()


def _remove_late(probe: Any) -> None:
    """Remove *probe* when a page that had been asleep answers it.

    Without it ipykernel would complain of that answer in the cell that ran last.
    """
    probe.observe(lambda _: _remove(probe), "outputs")


def _answered(line: _Line, wait: float, stop: threading.Event, heard: threading.Event) -> bool:
    """Wait for *heard* until the kernel has been free for *wait* seconds, or until *stop*."""
    free, knock = 0, line.knock()
    while free < LOOKS and not stop.is_set():
        if heard.wait(wait / LOOKS):
            return not stop.is_set()
        if line.reply(knock) is None:
            free = 0
        else:
            free, knock = free + 1, line.knock()
    return False


def page_shows(
    shell: InteractiveShell, cell: Cell, *, wait: float = 3.0, stop: threading.Event | None = None
) -> bool:
    """Tell whether a page still shows what *cell* publishes; it blocks until that is known.

    Not for the kernel's main thread, which has to take the page's answer. A page
    is silent as it is to a `Rerun`, and after *stop*.
    """
    heard = threading.Event()
    try:
        with _line() as line:
            # While the cell runs, the probe would catch what it prints.
            if line.wait(line.knock(), stop) is None:
                return False
            probe = cell.run(_probe)
            try:
                cell.run(_call, shell, cell, probe, heard.set)
                return _answered(line, wait, stop or threading.Event(), heard)
            finally:
                cell.run(_hush, probe)
                cell.run(_remove if heard.is_set() else _remove_late, probe)
    except Exception:
        log.debug("A page was not asked for a cell", exc_info=True)
        return False


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One click, until the cell has run or it is clear that it will not."""

    thread: threading.Thread
    stop: threading.Event
    heard: threading.Event

    def halt(self) -> None:
        """Ask the thread to end."""
        self.stop.set()
        self.heard.set()  # wakes who waits for it


class Turns:
    """Lets re-runs be sent in the order in which they were asked for."""

    def __init__(self) -> None:
        self._asked: list[Rerun] = []

    def take(self, rerun: Rerun) -> None:
        """Stand at the end of the line."""
        self._asked.append(rerun)

    def leave(self, rerun: Rerun) -> None:
        """Let the next one go; doing it twice is harmless."""
        if rerun in self._asked:
            self._asked.remove(rerun)

    def wait(self, rerun: Rerun, stop: threading.Event) -> None:
        """Wait until those that were asked for earlier have been sent or have ended."""
        while self._asked and self._asked[0] is not rerun and not stop.wait(0.02):
            pass


class Rerun:
    """Runs *cell* again in its own place, once.

    *before* is called when a page has answered, just before the run; *silent*
    when none has, or when there is no way to run the cell. Both are called in
    a thread of this object, as `Cell.run` does. A page is silent when the
    kernel has been free for *wait* seconds without an answer: as long as cells
    run, its answer may be queued behind them. *code* is run instead of the
    cell's own text, when it is given, and *resumes* names the unfinished answer that it
    goes on with. Those that share their *turns* are sent in
    the order of their starts.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        cell: Cell,
        *,
        silent: Callable[[], object],
        before: Callable[[], object] = lambda: None,
        wait: float = 3.0,
        code: str | None = None,
        resumes: str = "",
        turns: Turns | None = None,
    ) -> None:
        self.cell = cell
        self.token = uuid.uuid4().hex
        """What the run can be known by, once it has begun."""
        self.reply: Mapping[str, Any] | None = None
        """What the kernel said at the end of the run (an `execute_reply`); None until then."""
        self._shell = shell
        self._silent = silent
        self._before = before
        self._wait = wait
        self._code = code
        self._resumes = resumes
        self._turns = turns or Turns()
        self._lock = threading.Lock()
        self._attempt: _Attempt | None = None
        self._anyway = False
        self._sent = False
        self._closed = False
        # Kept after silence: ipykernel prints a complaint into the cell that ran
        # last when a page that had been asleep answers a widget that is gone.
        self._probe: Any = None

    def start(self, *, anyway: bool = False) -> bool:
        """Start the way to a run, from any thread; False when there is nothing to start.

        *anyway* lets this run be sent against a check. There is nothing to start when
        one is under way, has been sent, or after `close`. After silence or `cancel` it
        can be started once more.
        """
        with self._lock:
            under_way = self._attempt is not None and self._attempt.thread.is_alive()
            if under_way or self._sent or self._closed:
                return False
            self._anyway = anyway
            stop, heard = threading.Event(), threading.Event()
            thread = threading.Thread(
                target=self._go, args=(stop, heard), name="deepseek-rerun", daemon=True
            )
            self._attempt = _Attempt(thread, stop, heard)
            self._turns.take(self)
            thread.start()
            return True

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way; False when *timeout* seconds were not enough.

        Not for the kernel's main thread: while that waits, no cell runs.
        """
        attempt = self._attempt
        if attempt is None or attempt.thread is threading.current_thread():
            return True
        attempt.thread.join(timeout)
        return not attempt.thread.is_alive()

    def cancel(self) -> None:
        """Stop what is under way; a run that has been sent goes on, and is not waited for."""
        with self._lock:
            if self._attempt is not None:
                self._attempt.halt()
            sent = self._sent
        # The run itself may be what cancels: its end would be waited for in vain.
        if not sent:
            self.join(timeout=2)  # it takes milliseconds, unless a callback hangs

    def close(self) -> None:
        """Cancel for good, and leave no widget in the kernel."""
        with self._lock:
            self._closed = True
        self.cancel()
        self._remove_probe()

    def _remove_probe(self) -> None:
        with self._lock:
            probe, self._probe = self._probe, None
        if probe is not None:
            self.cell.run(_remove, probe)

    def _go(self, stop: threading.Event, heard: threading.Event) -> None:
        # Whatever breaks, what is left to say is the same; and the traceback of
        # a thread would be printed into a cell that has nothing to do with it.
        try:
            with _line() as line:
                if self._page_listens(line, stop, heard):
                    self._remove_probe()
                    self.cell.run(self._before)
                    self._send(line, stop)
        except Exception:
            log.debug("A cell was not run again", exc_info=True)
        finally:
            self._turns.leave(self)
        try:
            if not self._sent and not stop.is_set():
                self.cell.run(self._silent)
        except Exception:
            log.debug("It was not said that a cell did not run again", exc_info=True)

    def _page_listens(self, line: _Line, stop: threading.Event, heard: threading.Event) -> bool:
        if self._probe is None:
            self._probe = self.cell.run(_probe)
        try:
            self.cell.run(_call, self._shell, self.cell, self._probe, heard.set)
            return _answered(line, self._wait, stop, heard)
        finally:
            self.cell.run(_hush, self._probe)

    def _send(self, line: _Line, stop: threading.Event) -> None:
        """Run the cell once the kernel is free, and again if it was turned away unrun.

        A kernel turns away what is queued when the cell before it fails.
        """
        stop.wait(SETTLE)
        while line.wait(line.knock(), stop) is not None:
            self._turns.wait(self, stop)
            with self._lock:
                if stop.is_set():
                    return
                again = _again(
                    self.cell,
                    self.token,
                    self._code,
                    anyway=self._anyway,
                    resumes=self._resumes,
                )
                request = line.send(again)
                self._sent = True
            self._turns.leave(self)
            reply = line.wait(request)
            if reply is None or reply.get("status") != "aborted":
                self.reply = reply
                return
            with self._lock:
                self._sent = False
