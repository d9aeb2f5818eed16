"""Whatever breaks, wherever, however it was asked: one clear line, nothing lost, no wrong bill.

The matrix is every failure that the simulated account knows, at every point of
an answer, in every way to ask. Below it the machine itself fails: the server,
the clock, the disk, the kernel.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import pytest
from jupyter_client.manager import KernelManager

from deepseek_magic import errors
from deepseek_magic.errors import (
    BrokenAnswer,
    ConnectionFailed,
    DeepSeekError,
    InsufficientBalance,
    ServerFailure,
    TooManyRequests,
)
from deepseek_magic.home import ledger_path
from deepseek_magic.ledger import Ledger
from deepseek_magic.sandbox import Fault, Reply, Sandbox
from deepseek_magic.sandbox_tokens import pieces
from deepseek_magic.session import Session
from deepseek_magic.wire import Answer
from harness.environment import environment as environment_of
from harness.pages import Page

Place = Literal["request", "headers", "reasoning", "answer", "last", "whole"]
Kept = Literal["nothing", "reasoning", "answer"]

KEY = "sk-5ec3e75ec3e75ec3e75ec3e75ec3e70"
QUESTION = "Tell me a tale."
THOUGHT = "Let me think about notebooks, and what they may remember."
TALE = "Once upon a time there was a notebook that remembered everything."
IDLE = 0.4
"""Seconds of silence after which an answer is given up here."""

AFTER: dict[Place, int | Literal["request", "last"] | None] = {
    "request": "request",
    "headers": 0,
    "reasoning": 4,
    "answer": len(pieces(THOUGHT)) + 5,
    "last": "last",
    "whole": None,
}
KEPT: dict[Place, Kept] = {
    "request": "nothing",
    "headers": "nothing",
    "reasoning": "reasoning",
    "answer": "answer",
    "last": "answer",
    "whole": "answer",
}
BEGUN: tuple[Place, ...] = ("headers", "reasoning", "answer")
WHERE: dict[Fault, tuple[Place, ...]] = {
    "close": ("request", *BEGUN, "last"),
    "reset": ("request", *BEGUN, "last"),
    "stall": ("request", *BEGUN, "last"),
    "keep-alive": (*BEGUN, "last"),
    "error": (*BEGUN, "last"),
    "end": (*BEGUN, "last"),
    "garbage": (*BEGUN, "whole"),
    "bytes": (*BEGUN, "whole"),
    "no-done": ("whole",),
    "no-finish": ("whole",),
    "no-usage": ("whole",),
}
"""The points of an answer at which each failure of the simulated account makes sense."""


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix: what the account does, and what has to come of it."""

    name: str
    reply: Reply
    kind: type[BaseException] | None
    """None: it is an answer all the same."""
    state: str
    kept: Kept

    @property
    def endless(self) -> bool:
        """Whether it goes on until the user stops it."""
        return self.kind is KeyboardInterrupt


def outcome(then: Fault, place: Place) -> tuple[type[BaseException] | None, str]:
    """Say in which error, and in which state of its entry, a question ends."""
    if then == "no-usage":
        return None, "done"
    # Keep-alives are signs of life: only the user can tell that it is enough. In the last event,
    # which they and an error complete, they cannot be read.
    if then == "keep-alive" and place != "last":
        return KeyboardInterrupt, "interrupted"
    if then == "error" and place != "last":
        return InsufficientBalance, "refused" if place == "headers" else "partial"
    return BrokenAnswer, "partial"


CELLS = [
    Cell(
        f"{then} {place}",
        Reply(TALE, reasoning=THOUGHT, after=AFTER[place], then=then),
        *outcome(then, place),
        KEPT[place],
    )
    for then, places in WHERE.items()
    for place in places
] + [
    Cell("402", Reply(status=402), InsufficientBalance, "refused", "nothing"),
    Cell("429", Reply(status=429), TooManyRequests, "refused", "nothing"),
    Cell("500", Reply(status=500), ServerFailure, "partial", "nothing"),
    Cell("503", Reply(status=503), ServerFailure, "refused", "nothing"),
]


def test_the_matrix_is_whole() -> None:
    """Every failure that the simulated account knows has its row."""
    assert set(WHERE) == set(get_args(Fault))


LINE = re.compile(
    rf"(?m)^(?:Interrupted|{'|'.join(name for name in vars(errors) if name[0].isupper())}): "
)
"""The head of an error's one line."""


@dataclass(frozen=True)
class End:
    """How a question ended: the error's class and line, the answer it kept, what was shown."""

    kind: str | None
    line: str
    answer: Answer | None
    shown: str
    may_be_billed: bool | None = None
    """None where only a page was there to tell."""
    html: str | None = None
    """What a page shows, None where there is none."""


@contextmanager
def stopped(api: Sandbox, *, endless: bool) -> Iterator[None]:
    """Stop the main thread as Ctrl-C does, once the answer does nothing but stay alive."""
    left = threading.Event()

    def stop() -> None:
        # A moment after the question has come, the start of the answer has arrived as well.
        while not left.wait(0.3):
            if api.requests:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    thread = threading.Thread(target=stop)
    if endless:
        thread.start()
    try:
        yield
    finally:
        left.set()
        if endless:
            thread.join()


# -- the ways to ask ------------------------------------------------------------------


Way = Callable[[Cell], tuple[End, dict[str, Any]]]
"""Asks the question in one way, and gives how it ended and its entry in the ledger."""


@pytest.fixture
def account(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Give the simulated account to whatever looks at the environment."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
    api.change(keep_alive=0.05)
    return api


def entries() -> list[dict[str, Any]]:
    with closing(Ledger(ledger_path())) as ledger:
        return ledger.entries()


def failed(error: BaseException, shown: str = "") -> End:
    if not isinstance(error, DeepSeekError):
        return End(type(error).__name__, str(error), None, shown)
    return End(type(error).__name__, str(error), error.answer, shown, error.may_be_billed)


@pytest.fixture
def by_ask(account: Sandbox) -> Iterator[Way]:
    """`Session.ask`, plain Python."""
    session = Session(timeout=IDLE, retries=0)

    def ask(cell: Cell) -> tuple[End, dict[str, Any]]:
        try:
            with stopped(account, endless=cell.endless):
                answer = session.ask(QUESTION, think="low")
        except (DeepSeekError, KeyboardInterrupt) as error:
            return failed(error), session.ledger.entries()[-1]
        return End(None, "", answer, answer.text), session.ledger.entries()[-1]

    yield ask
    session.close()


@pytest.fixture
def by_magic(account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str]) -> Way:
    """`%%deepseek` in a shell."""

    def ask(cell: Cell) -> tuple[End, dict[str, Any]]:
        shell.run_cell(f"%config DeepSeekMagics.timeout = {IDLE}")
        shell.run_cell("%config DeepSeekMagics.retries = 0")
        capsys.readouterr()
        with stopped(account, endless=cell.endless):
            result = shell.run_cell(f"%%deepseek -t low -o answer\n{QUESTION}")
        told = capsys.readouterr()
        shown, error = told.out + told.err, result.error_in_exec
        if error is None:
            return End(None, "", shell.user_ns["answer"], shown), entries()[-1]
        return failed(error, shown), entries()[-1]

    return ask


@dataclass(frozen=True)
class Served:
    """A page, the kernel behind it, the account that it asks, and its ledger."""

    account: Sandbox
    manager: KernelManager
    page: Page
    ledger: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Give one page for all cells of the matrix, as starting a kernel takes seconds."""
    folder = tmp_path_factory.mktemp("kernel")
    record = folder / "refused-hosts"
    with Sandbox(balance="5.00", keep_alive=0.05) as account:
        keys = {"DEEPSEEK_API_KEY": account.api_key, "DEEPSEEK_BASE_URL": account.base_url}
        manager = KernelManager(connection_file=str(folder / "kernel.json"))
        manager.start_kernel(cwd=str(folder), env={**environment_of(folder, record), **keys})
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        page = Page(client)
        page.cell(
            "%load_ext deepseek_magic\n"
            f"%config DeepSeekMagics.timeout = {IDLE}\n"
            "%config DeepSeekMagics.retries = 0"
        )
        yield Served(account, manager, page, folder / "deepseek_magic" / "ledger.sqlite")
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    assert not record.exists(), f"a cell tried to leave this machine:\n{record.read_text()}"


BUTTON = """
import ipywidgets, warnings
with warnings.catch_warnings(action="ignore"):
    found = [w for w in ipywidgets.Widget.widgets.values() if getattr(w, "description", "") == {!r}]
print(found[-1].comm.comm_id if found else "")
"""


def pressed(served: Served, button: str, cell: Cell) -> tuple[End, dict[str, Any]]:
    """Let a cell find no money, top up, press *button*, and let it meet the failure then."""
    account, page = served.account, served.page
    account.balance = Decimal(0)
    # Each its own words: an answer is kept for a while for the same question once more.
    asked = page.cell(f"%%deepseek -t low\n{QUESTION} ({button}: {cell.name})")
    assert page.errors(asked) == ["InsufficientBalance"]
    found = page.cell(BUTTON.format(button))
    account.requests.clear()
    account.script(cell.reply)
    account.top_up("5.00")
    began = len(page.messages)
    page.click(page.text(found).strip())
    if cell.endless:
        page.until(lambda: page.states(asked).count("busy") == 2)
        while not account.requests:
            time.sleep(0.02)
        time.sleep(0.3)  # a moment after the question has come, the start of the answer has too
        served.manager.interrupt_kernel()
    page.until(lambda: page.ended(asked, 2))
    told = [m for m in page.messages[began:] if m["parent_header"].get("msg_id") == asked]
    with closing(Ledger(served.ledger)) as ledger:
        return read_off(told), ledger.entries()[-1]


def read_off(messages: list[dict[str, Any]]) -> End:
    """Read what stands in a cell at last, as a page shows it."""
    shown: list[tuple[str | None, dict[str, str]]] = []
    clearing, kind, line = False, None, ""
    for message in messages:
        content, now = message["content"], message["msg_type"]
        if now == "clear_output":
            shown, clearing = (shown, True) if content["wait"] else ([], False)
            continue
        if now not in {"stream", "display_data", "update_display_data", "error"}:
            continue
        name, data = content.get("transient", {}).get("display_id"), content.get("data", {})
        if now == "update_display_data":
            shown = [(other, data if other == name else old) for other, old in shown]
            continue
        if now == "error":
            kind, line = content["ename"], content["evalue"]
            data = {"text/plain": "\n".join(content["traceback"])}
        shown = [] if clearing else shown
        shown.append((name, data or {"text/plain": content["text"]}))
        clearing = False
    forms = ("text/plain", "text/html")
    text, html = ("\n".join(data.get(form, "") for _, data in shown) for form in forms)
    return End(kind, line, None, text, html=html)


@pytest.fixture
def by_rerun(served: Served) -> Way:
    """*Re-run cell* in the notice of a page."""
    return lambda cell: pressed(served, "Re-run cell", cell)


@pytest.fixture
def by_waiting(served: Served) -> Iterator[Way]:
    """*Re-run when topped up* in the notice of a page."""
    yield lambda cell: pressed(served, "Re-run when topped up", cell)
    page = served.page
    if waits := page.text(page.cell(BUTTON.format("Cancel waiting"))).strip():
        page.click(waits)  # a fresh notice for want of money goes on waiting, and holds up the rest


IN_SHELL = ("by_ask", "by_magic")
IN_PAGE = ("by_rerun", "by_waiting")


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
@pytest.mark.parametrize("way", IN_SHELL)
def test_every_failure_everywhere(
    request: pytest.FixtureRequest, account: Sandbox, way: str, cell: Cell
) -> None:
    """One clear line, the partial answer kept, the ledger right, the bill known or open."""
    ask: Way = request.getfixturevalue(way)
    account.script(cell.reply)

    end, entry = ask(cell)

    check(cell, end, entry, account)


@pytest.mark.kernel
@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
@pytest.mark.parametrize("way", IN_PAGE)
def test_every_failure_after_a_top_up(
    request: pytest.FixtureRequest, served: Served, way: str, cell: Cell
) -> None:
    """What is run again in its place, by a click or by itself, breaks just as well as at first."""
    ask: Way = request.getfixturevalue(way)

    end, entry = ask(cell)

    check(cell, end, entry, served.account)


def check(cell: Cell, end: End, entry: dict[str, Any], account: Sandbox) -> None:
    assert account.wait_idle()
    check_words(cell, end)
    check_kept(cell, end, entry)
    check_bill(cell, end, entry, account)


def check_words(cell: Cell, end: End) -> None:
    """Hold what was told to one clear line."""
    if cell.kind is None:
        assert (end.kind, end.line) == (None, "")
        return
    assert end.kind in {cell.kind.__name__, "Interrupted"}
    assert end.line.isprintable()
    if end.shown:
        assert end.shown.count(f"{end.kind}: {end.line}") == 1
        assert "Traceback" not in end.shown
        assert len(re.findall(LINE, end.shown)) == 1
    if not cell.endless:
        assert 40 <= len(end.line) <= 400
        assert "billed" in end.line


def check_kept(cell: Cell, end: End, entry: dict[str, Any]) -> None:
    """Hold what is kept to what had arrived: in the error, in the ledger, on the page."""
    thought, text = entry["reasoning"] or "", entry["answer"] or ""
    assert TALE.startswith(text)
    assert THOUGHT.startswith(thought)
    assert (bool(thought), bool(text)) == {
        "nothing": (False, False),
        "reasoning": (True, False),
        "answer": (True, True),
    }[cell.kept]
    if cell.kept == "answer":
        assert thought == THOUGHT
    if end.answer is not None:
        assert (end.answer.reasoning, end.answer.text) == (thought, text)
    elif end.may_be_billed is not None:
        assert cell.kept == "nothing"
    if end.shown:
        assert text in end.shown
    assert end.html is None or thought in end.html


def check_bill(cell: Cell, end: End, entry: dict[str, Any], account: Sandbox) -> None:
    """Hold the ledger to the account's own bill."""
    (asked,) = account.requests
    assert entry["state"] == cell.state
    if entry["cost"] is not None:
        assert (entry["cost"], entry["currency"]) == (asked.cost, asked.currency)
        assert entry["completion_tokens"] == (asked.usage or {})["completion_tokens"]
    elif asked.cost is not None and cell.kind is not None:
        assert end.may_be_billed is not False
        assert re.search(r"may (have been billed|bill it)", end.line) or not end.line
    if cell.state == "refused":
        assert (asked.cost, entry["cost"]) == (None, None)
        assert end.may_be_billed is not True
        assert "Nothing was billed" in end.line
    if end.answer is not None:
        assert end.answer.cost == entry["cost"]


# -- the server -----------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def server() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Give a function that starts the account as a process of its own, always at one port."""
    command = [sys.executable, "-m", "deepseek_magic.sandbox", "--speed", "30", "--key", KEY]
    command += ["--port", str(free_port())]
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        while "address" not in process.stdout.readline():
            assert process.poll() is None
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    assert isinstance(process.args, list)
    return f"http://127.0.0.1:{process.args[-1]}"


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_the_server_is_killed(server: Callable[[], subprocess.Popen[str]]) -> None:
    """A server that dies in an answer costs that answer, and the next question is answered."""
    first = server()
    session = Session(api_key=KEY, base_url=address(first), ledger=":memory:", retries=0)
    with session:
        session.ask(QUESTION, think="off", max_tokens=2)
        answers = session.stream(QUESTION, think="off")
        while not (answer := next(answers)).text:
            pass
        killed(first)
        with pytest.raises(BrokenAnswer, match="What arrived is kept") as broken:
            list(answers)
        with pytest.raises(ConnectionFailed, match="Nothing was billed"):
            session.ask(QUESTION, think="off")

        server()
        last = session.ask(QUESTION, think="off", max_tokens=2)

        assert last.text
        assert broken.value.answer is not None
        assert broken.value.answer.text.startswith(answer.text)
        states = [entry["state"] for entry in session.ledger.entries()]
        assert states == ["done", "partial", "failed", "done"]


def test_the_server_comes_back(server: Callable[[], subprocess.Popen[str]]) -> None:
    """A connection that died unnoticed between two questions costs neither of them."""
    first = server()
    session = Session(api_key=KEY, base_url=address(first), ledger=":memory:", retries=0)
    with session:
        session.ask(QUESTION, think="off", max_tokens=2)
        killed(first)
        server()

        assert session.ask(QUESTION, think="off", max_tokens=2).text


def test_the_server_comes_back_while_it_is_asked_again(api: Sandbox) -> None:
    """A question that nobody took is asked again until the server is there, and paid for once."""
    with Session(api_key=api.api_key, base_url=api.base_url, ledger=":memory:") as session:
        api.close()
        notes = []
        for answer in session.stream(QUESTION, think="off"):
            if answer.note:
                notes.append(answer.note)
                api.start()

        assert answer.text
        assert answer.cost == api.billed
        assert len(notes) == 1
        assert [entry["state"] for entry in session.ledger.entries()] == ["failed", "done"]


# -- the clock ------------------------------------------------------------------------


@pytest.fixture
def clock() -> list[datetime]:
    """Give the time that sessions see; its last value counts."""
    return [datetime(2026, 11, 20, 2, tzinfo=UTC)]


@pytest.fixture
def timed(api: Sandbox, clock: list[datetime]) -> Iterator[Callable[[], Session]]:
    """Give a function that opens a session which looks at that clock."""
    made: list[Session] = []
    api.change(decimals=6)

    def open_one() -> Session:
        made.append(
            Session(
                api_key=api.api_key,
                base_url=api.base_url,
                retries=0,
                clock=lambda: clock[-1],
            )
        )
        return made[-1]

    yield open_one
    for session in made:
        session.close()


BACK = [timedelta(minutes=5), timedelta(hours=3), timedelta(days=400)]
"""By less than a minute the figure may be the older one, for as long as that."""


@pytest.mark.parametrize("back", BACK, ids=str)
def test_the_clock_is_set_back(
    timed: Callable[[], Session], api: Sandbox, clock: list[datetime], back: timedelta
) -> None:
    """Questions after the clock was set back are answered, priced and found in the ledger."""
    session = timed()
    session.ask(QUESTION, think="off")
    clock.append(clock[-1] - back)

    answer = session.ask(QUESTION, think="off")

    entries = session.ledger.entries()
    assert [entry["state"] for entry in entries] == ["done", "done"]
    assert entries[-1]["answer"] == answer.text
    assert session.usage()["queries"].sum() == 2
    known = [cost for entry in entries if (cost := entry["cost"]) is not None]
    assert all(cost > 0 for cost in known)
    assert session.spent.get("CNY") == sum(known)


@pytest.mark.parametrize("back", BACK, ids=str)
def test_the_balance_when_the_clock_is_set_back(
    timed: Callable[[], Session], api: Sandbox, clock: list[datetime], back: timedelta
) -> None:
    """A reading after the clock was set back counts, in this kernel and in the next."""
    session = timed()
    session.balance()
    clock.append(clock[-1] - back)
    api.balance = Decimal(2)

    read = session.balance()

    assert read.effective == 2
    assert session.last_balance is not None
    assert session.last_balance.effective == 2
    api.top_up("5.00")
    assert session.balance().effective == 7
    assert session.last_balance.effective == 7


@pytest.mark.parametrize("back", BACK, ids=str)
def test_a_later_kernel_when_the_clock_is_set_back(
    timed: Callable[[], Session], api: Sandbox, clock: list[datetime], back: timedelta
) -> None:
    """A reading of yesterday, noted as tomorrow's, does not hide today's from a new kernel."""
    first = timed()
    first.balance()
    first.close()
    clock.append(clock[-1] - back)
    api.balance = Decimal(2)
    session = timed()

    session.balance()

    assert session.last_balance is not None
    assert session.last_balance.effective == 2
    answer = session.ask(QUESTION, think="off")
    session.balance()
    assert session.last_balance.effective is not None
    # A reading on its way while the question was billed may count it twice for a while.
    missing = api.balance - session.last_balance.effective
    assert 0 <= missing <= (answer.cost or 0)  # 400 days ago there was no price


def test_want_of_money_when_the_clock_is_set_back(
    timed: Callable[[], Session], api: Sandbox, clock: list[datetime]
) -> None:
    """A top-up after the clock was set back is noticed, and the question answered."""
    session = timed()
    api.balance = Decimal(0)
    session.balance()
    clock.append(clock[-1] - timedelta(hours=3))
    with pytest.raises(InsufficientBalance):
        session.ask(QUESTION, think="off")
    api.top_up("5.00")

    balance = session.wait(0.0)

    assert balance.effective == 5
    assert session.ask(QUESTION, think="off").text


# -- the ledger -----------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file as another kernel does that writes and hangs."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize("reply", [Reply(TALE), Reply(status=402)], ids=["answered", "refused"])
def test_a_cell_beside_a_locked_ledger(
    account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str], reply: Reply
) -> None:
    """While another kernel holds the ledger a cell ends as ever, and is written down later."""
    shell.run_cell("%%deepseek -t off\nFirst?")
    account.script(reply)
    capsys.readouterr()

    with locked(ledger_path()):
        result = shell.run_cell(f"%%deepseek -t off\n{QUESTION}")
    told = "".join(capsys.readouterr())

    assert "Traceback" not in told
    assert "TimeoutError" not in told
    assert told.count("The ledger ") <= 1, "a lock that goes soon is no problem yet"
    if reply.status == 200:
        assert result.error_in_exec is None
        assert TALE in told
    else:
        assert told.count("InsufficientBalance: ") == 1
    assert shell.run_cell("%%deepseek -t off\nLast?").success
    written = entries()
    assert [entry["state"] for entry in written] == [
        "done",
        "done" if reply.status == 200 else "refused",
        "done",
    ]
    assert sum((entry["cost"] or Decimal(0)) for entry in written) == account.billed


IN_A_CHILD = """
import os, resource, sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
import httpx, openai, deepseek_magic.workspace

config = Config()
config.HistoryManager.hist_file = ":memory:"
config.InteractiveShell.colors = "nocolor"
shell = InteractiveShell.instance(config=config)
shell.run_cell("%load_ext deepseek_magic")
folder = Path(os.environ["DEEPSEEK_MAGIC_HOME"])
# Once, while all is well: another user may not read what Python loads late.
assert shell.run_cell("%%deepseek -t off\\nBefore?").success
shell.run_cell("%unload_ext deepseek_magic")
shell.run_cell("%load_ext deepseek_magic")
{harm}
for _ in range(2):
    assert shell.run_cell("%%deepseek -t off\\nTell me a tale.").success
assert shell.run_cell("%deepseek usage").success
"""
AS_ANOTHER = """
if os.geteuid() == 0:
    os.setuid(65534)  # to the superuser nothing is read-only
"""
HARMS = {
    "full": "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))",
    "read-only folder": f"folder.rename(folder.with_name('old'))\nfolder.mkdir(0o555){AS_ANOTHER}",
    "read-only file": (
        f"folder.joinpath('ledger.sqlite').chmod(0o444)\nfolder.chmod(0o555){AS_ANOTHER}"
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="needs limits and permissions as POSIX has them")
@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_cell_whose_ledger_cannot_be_written(account: Sandbox, harm: str) -> None:
    """A full disk or a read-only folder costs no answer, and is told, with what is missing."""
    account.script(*[TALE] * 3)

    # A folder that others may enter, as the child may be another user.
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        ran = subprocess.run(
            [sys.executable, "-c", IN_A_CHILD.replace("{harm}", harm)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={
                # What measures coverage cannot write there either.
                **{n: v for n, v in os.environ.items() if not n.startswith("COVERAGE")},
                "DEEPSEEK_MAGIC_HOME": f"{folder}/deepseek_magic",
            },
        )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count(TALE) >= 2
    assert 1 <= ran.stdout.count("The ledger ") <= 2, "once an answer at most"
    assert re.search(r"cannot be used|could not be used", ran.stdout)
    assert re.search(r"in memory", ran.stdout)
    assert "Traceback" not in ran.stdout + ran.stderr


# -- the kernel -----------------------------------------------------------------------


@dataclass(frozen=True)
class Alone:
    """A kernel without a page, which a test can kill."""

    manager: KernelManager
    client: Any

    def send(self, code: str) -> None:
        """Run *code* without waiting for it."""
        self.client.execute(code)

    def kill(self) -> None:
        """End it as the system does that is out of memory."""
        self.manager.signal_kernel(signal.SIGKILL)
        until(lambda: not self.manager.is_alive())


@pytest.fixture
def alone(tmp_path: Path, account: Sandbox) -> Iterator[Alone]:
    manager = KernelManager(connection_file=str(tmp_path / "kernel.json"))
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield Alone(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def until(true: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.kernel
@pytest.mark.parametrize("place", ["request", "headers", "reasoning", "answer", "last"])
def test_a_kernel_is_killed(account: Sandbox, alone: Alone, place: Place) -> None:
    """After `kill -9` the call is in the ledger as sent, and then as one of unknown cost."""
    account.change(keep_alive=None)
    account.script(Reply(TALE, reasoning=THOUGHT, after=AFTER[place], then="stall"))
    alone.send("%load_ext deepseek_magic")
    alone.send(f"%%deepseek -t low\n{QUESTION}")
    until(lambda: account.requests and ledger_path().exists() and entries())

    alone.kill()

    assert account.wait_idle()
    assert sound(ledger_path())
    (entry,) = entries()
    assert (entry["state"], entry["cost"], entry["answer"]) == ("sent", None, None)
    assert QUESTION in entry["request"]
    with Session() as session:
        (row,) = session.usage().to_dict("records")
        assert (row["queries"], row["ranged"] + row["unpriced"]) == (1, 1), "never nothing"
        assert entries()[0]["state"] == "interrupted", "nothing stays reserved for it"
        assert session.ask("And now?", think="off").cost == account.requests[-1].cost
        assert session.ledger.problem is None


@pytest.mark.kernel
def test_a_kernel_is_killed_while_it_waits(account: Sandbox, alone: Alone) -> None:
    """After `kill -9` in a wait for money the cell is known to the next kernel, and unpaid."""
    account.balance = Decimal(0)
    cell = f"%%deepseek -t off --on-empty wait\n{QUESTION}"
    alone.send("%load_ext deepseek_magic")
    alone.send(cell)
    until(lambda: account.requests and ledger_path().exists() and pending_texts())

    alone.kill()
    account.top_up("5.00")

    assert sound(ledger_path())
    assert [text.strip() for text in pending_texts()] == [cell]
    assert [entry["state"] for entry in entries()] == ["refused"]
    assert len(account.requests) == 1


def pending_texts() -> list[str]:
    with closing(sqlite3.connect(ledger_path())) as file:
        return [text for (text,) in file.execute("SELECT text FROM pending ORDER BY id")]


def sound(path: Path) -> bool:
    """Tell whether SQLite finds nothing wrong in the file."""
    with closing(sqlite3.connect(path)) as file:
        return bool(file.execute("PRAGMA integrity_check").fetchall() == [("ok",)])
