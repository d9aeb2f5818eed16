"""A cell is run again in its own place, once, and only where a page listens."""

from __future__ import annotations

import queue
import time
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import KernelManager
from traitlets.config import Config

from deepseek_magic.rerun import INVISIBLE, Cell, Rerun, current_cell, page_shows
from harness.pages import Page, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


ROOT = Path(__file__).parents[1]

SETUP = """
import os, threading, time, warnings, ipywidgets
from deepseek_magic.rerun import Rerun, current_cell

shell = get_ipython()
runs, said, again, button = [], [], None, None

def notice():
    # What a cell leaves behind: a button that runs it again.
    global again, button
    cell = current_cell(shell)
    again = Rerun(
        shell,
        cell,
        silent=lambda: said.append("silent"),
        before=lambda: said.append("before"),
        wait=0.6,
    )
    button = ipywidgets.Button(description="Re-run cell")
    button.on_click(lambda _: again.start())

def run():
    # The body of a cell: the first run ends in a notice.
    cell = current_cell(shell)
    runs.append(cell.replayed)
    print("run", len(runs), flush=True)
    if not cell.replayed:
        notice()

def widgets():
    with warnings.catch_warnings(action="ignore"):
        return sorted(ipywidgets.Widget.widgets)

def threads():
    return sorted(t.name for t in threading.enumerate() if t.name == "deepseek-rerun")
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    manager = start(tmp_path_factory.mktemp("ipython"))
    yield manager
    manager.shutdown_kernel()
    manager.cleanup_resources()


@pytest.fixture
def page(kernel: KernelManager) -> Iterator[Page]:
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    page = Page(client)
    page.cell(SETUP)
    yield page
    page.cell("if again: again.close()")
    page.cell("ipywidgets.Widget.close_all()")
    client.stop_channels()


@pytest.fixture
def cell(page: Page) -> str:
    """A cell that has run once and left a button."""
    return page.cell("run()  # as it was sent")


@pytest.fixture
def button(page: Page, cell: str) -> str:
    return page.value("button.comm.comm_id")


def rerun(page: Page, cell: str, button: str) -> None:
    page.click(button)
    page.until(lambda: page.ended(cell, 2))


def request(metadata: dict[str, Any], content: dict[str, Any]) -> Cell:
    return Cell({"header": {}, "metadata": metadata, "content": content}, copy_context())


@pytest.mark.kernel
class TestClick:
    """A page listens."""

    def test_runs_the_cell_under_its_own_id(self, page: Page, cell: str, button: str) -> None:
        """A click runs the cell's text as it was sent, and its output is the cell's own."""
        rerun(page, cell, button)

        assert page.inputs(cell) == ["run()  # as it was sent"] * 2
        assert page.text(cell) == "run 1\nrun 2\n"
        assert page.states(cell) == ["busy", "idle"] * 2

    def test_marks_the_run(self, page: Page, cell: str, button: str) -> None:
        """A run of ours can be told from the user's."""
        rerun(page, cell, button)

        assert page.value("runs") == "[False, True]"

    def test_tells_before_the_run(self, page: Page, button: str, cell: str) -> None:
        """The notice is told once that the cell is about to run, and of no silence."""
        rerun(page, cell, button)

        assert page.value("said") == "['before']"

    def test_two_clicks_run_once(self, page: Page, cell: str, button: str) -> None:
        """A second click while the first is under way, or after the run, runs nothing."""
        page.click(button)
        page.click(button)
        page.until(lambda: page.ended(cell, 2))
        page.click(button)
        page.settle(cell)

        assert page.value("runs") == "[False, True]"
        assert page.value("said") == "['before']"
        assert page.value("again.start()") == "False"

    def test_clicks_of_many_threads_run_once(self, page: Page, cell: str) -> None:
        """Whoever wants the cell to run, a click or a thread, it runs once."""
        page.cell("for _ in range(8): threading.Thread(target=again.start).start()")
        page.until(lambda: page.ended(cell, 2))
        page.settle(cell)

        assert page.value("runs") == "[False, True]"

    def test_leaves_nothing(self, page: Page, cell: str, button: str) -> None:
        """After a run there is no thread, no widget and no invisible text of ours."""
        widgets = page.value("widgets()")

        rerun(page, cell, button)
        page.settle(cell)

        assert page.value("threads()") == "[]"
        assert page.value("widgets()") == widgets
        assert not page.probes
        assert INVISIBLE not in page.text(cell)

    def test_keeps_the_reply(self, page: Page, cell: str, button: str) -> None:
        """What the kernel said at the end of the run can be read from then on."""
        before = page.value("again.reply")

        rerun(page, cell, button)
        page.settle(cell)

        assert before == "None"
        assert page.value("again.reply['status']") == "ok"

    def test_keeps_the_reply_of_a_failure(self, page: Page) -> None:
        """The reply tells in which error a run has ended."""
        cell = page.cell("run()\n1 / 0")

        page.cell("again.start()")
        page.until(lambda: page.ended(cell, 2))
        page.settle(cell)

        assert page.value("again.reply['ename']") == "ZeroDivisionError"

    def test_runs_another_text_in_its_place(self, page: Page, cell: str) -> None:
        """A text that is given is run instead of the cell's own, and shown as the cell's."""
        page.cell("again = Rerun(shell, again.cell, silent=print, code='print(6 * 7)')")

        page.cell("again.start()")
        page.until(lambda: page.ended(cell, 2))

        assert page.inputs(cell) == ["run()  # as it was sent", "print(6 * 7)"]
        assert page.text(cell) == "run 1\n42\n"

    def test_has_no_keyboard(self, page: Page) -> None:
        """A question of the cell fails at once instead of waiting for ever."""
        cell = page.cell("run()\nif len(runs) == 2: input('name? ')")

        page.cell("again.start()")
        page.until(lambda: page.ended(cell, 2))

        assert page.errors(cell) == ["StdinNotImplementedError"]

    def test_fails_as_the_cell_fails(self, page: Page) -> None:
        """A cell that fails again shows its error in its own place."""
        cell = page.cell("run()\n1 / 0")

        page.cell("again.start()")
        page.until(lambda: page.ended(cell, 2))

        assert page.errors(cell) == ["ZeroDivisionError"] * 2

    def test_failure_does_not_stop_the_cells_behind(self, page: Page) -> None:
        """Cells that were queued during the run are not dropped when it fails."""
        cell = page.cell("run()\nif len(runs) == 2: time.sleep(1); 1 / 0")

        page.cell("again.start()")
        page.until(lambda: "run 2" in page.text(cell))
        behind = page.cell("print('here')")

        assert page.errors(cell) == ["ZeroDivisionError"]
        assert page.text(behind) == "here\n"

    def test_can_be_interrupted(self, page: Page, kernel: KernelManager) -> None:
        """The Stop button stops the run as it stops any cell."""
        cell = page.cell("run()\nif len(runs) == 2: time.sleep(60)")

        page.cell("again.start()")
        page.until(lambda: "run 2" in page.text(cell))
        kernel.interrupt_kernel()
        page.until(lambda: page.ended(cell, 2))

        assert page.errors(cell) == ["KeyboardInterrupt"]

    def test_second_notice_can_run_it_again(self, page: Page) -> None:
        """A run that ends in a fresh notice can be run again from there."""
        cell = page.cell("run(); notice()")

        page.cell("again.start()")
        page.until(lambda: page.ended(cell, 2))
        page.cell("again.start()")
        page.until(lambda: page.ended(cell, 3))

        assert page.value("runs") == "[False, True, True]"

    def test_subshell(self, page: Page, cell: str) -> None:
        """A click that the front end sends to another thread of the kernel does the same."""
        if "kernel subshells" not in page.value("shell.kernel.kernel_info"):
            pytest.skip("this kernel has no subshells")
        control = page.client.session.msg("create_subshell_request", {})
        page.client.control_channel.send(control)
        subshell = page.client.get_control_msg(timeout=10)["content"]["subshell_id"]

        page.queue("again.start()", subshell_id=subshell)
        page.until(lambda: page.ended(cell, 2))

        assert page.value("runs") == "[False, True]"
        assert page.value("said") == "['before']"


@pytest.mark.kernel
class TestBusyKernel:
    """Another cell is running."""

    BUSY = "again.start(); print('start', flush=True); time.sleep(2); print('end', flush=True)"

    def test_waits_for_its_turn(self, page: Page, cell: str) -> None:
        """The run starts after the running cell has ended, however long that takes."""
        busy = page.queue(self.BUSY)
        page.until(lambda: page.ended(cell, 2))

        order = [m for m in page.messages if m in page.of(busy) or m in page.of(cell)]
        lines = "".join(m["content"]["text"] for m in order if m["msg_type"] == "stream")
        assert lines == "run 1\nstart\nend\nrun 2\n"
        assert page.value("said") == "['before']"

    def test_waits_for_cells_that_await(self, page: Page, cell: str) -> None:
        """The run does not start in the middle of a cell that awaits."""
        awaits = self.BUSY.replace("time.sleep", "await __import__('asyncio').sleep")
        busy = page.queue(awaits)
        page.until(lambda: page.ended(cell, 2))

        order = [m for m in page.messages if m in page.of(busy) or m in page.of(cell)]
        lines = "".join(m["content"]["text"] for m in order if m["msg_type"] == "stream")
        assert lines == "run 1\nstart\nend\nrun 2\n"

    @pytest.mark.parametrize("sleep", ["time.sleep", "await __import__('asyncio').sleep"])
    def test_cancelled_meanwhile(self, page: Page, cell: str, sleep: str) -> None:
        """What was cancelled before its turn came is not run, answered or not."""
        busy = page.queue(self.BUSY.replace("time.sleep", sleep) + "; again.cancel()")
        page.until(lambda: page.ended(busy))
        page.settle(cell)

        assert page.value("runs") == "[False]"
        assert page.value("said") in {"[]", "['before']"}

    def test_turned_away(self, page: Page, cell: str) -> None:
        """A run that the kernel drops, since a cell before it failed, is asked for again."""
        page.cell(
            "kernel, turned_away = shell.kernel, []\n"
            "kernel._aborting = True\n"
            "reply = kernel._send_abort_reply\n"
            "def turn_away(*arguments):\n"
            "    turned_away.append(1)\n"
            "    kernel._aborting = False\n"
            "    del kernel._send_abort_reply\n"
            "    return reply(*arguments)\n"
            "kernel._send_abort_reply = turn_away\n"
            "again.start()"
        )
        page.until(lambda: len(page.inputs(cell)) == 2)
        page.settle(cell)

        assert page.value("turned_away") == "[1]"
        assert page.value("runs") == "[False, True]"


@pytest.mark.kernel
class TestSilence:
    """No page listens."""

    def test_nothing_runs(self, page: Page, cell: str, button: str) -> None:
        """Without an answer nothing runs, and the notice is told once."""
        page.listens = False

        page.click(button)
        page.click(button)
        page.settle(cell)

        assert page.value("runs") == "[False]"
        assert page.value("said") == "['silent']"

    def test_leaves_nothing(self, page: Page, cell: str, button: str) -> None:
        """After silence there is no thread of ours, and after a close no widget."""
        widgets = page.value("widgets()")
        page.listens = False
        page.click(button)
        page.settle(cell)

        page.cell("again.close()")

        assert page.value("threads()") == "[]"
        assert page.value("widgets()") == widgets
        assert not page.probes

    def test_another_click_asks_again(self, page: Page, cell: str, button: str) -> None:
        """After silence a click asks once more, and runs the cell if a page is there."""
        page.listens = False
        page.click(button)
        page.settle(cell)
        page.listens = True

        rerun(page, cell, button)

        assert page.value("said") == "['silent', 'before']"

    def test_late_answer(self, page: Page, cell: str, button: str) -> None:
        """An answer after the time is up runs nothing, holds back nothing and prints nothing."""
        page.holds = True
        page.click(button)
        page.settle(cell)
        probes, known = dict(page.probes), len(page.messages)

        page.answer()
        page.cell("pass")
        printed = [m["content"] for m in page.messages[known:] if m["msg_type"] == "stream"]

        assert page.value("runs") == "[False]"
        assert page.value("said") == "['silent']"
        assert not probes
        assert not printed

    def test_no_connection_file(self, page: Page, cell: str, button: str) -> None:
        """A kernel whose connection file is gone cannot be asked, and the notice is told."""
        page.cell("from ipykernel.connect import get_connection_file as where; file = where()")
        page.cell("os.rename(file, file + '.gone')")

        page.click(button)
        page.settle(cell)
        page.cell("os.rename(file + '.gone', file)")

        assert page.value("said") == "['silent']"
        assert page.value("runs") == "[False]"


@pytest.mark.kernel
class TestPageShows:
    """Whether a page still shows a cell, without running it."""

    ASK = (
        "from deepseek_magic.rerun import page_shows\n"
        "shows, stop = [], threading.Event()\n"
        "def ask():\n"
        "    shows.append(page_shows(shell, again.cell, wait=0.6, stop=stop))\n"
        "asking = threading.Thread(target=ask)\n"
        "asking.start()"
    )

    def told(self, page: Page) -> str:
        """Give what was told, once it was."""
        deadline = time.monotonic() + 30
        while page.value("asking.is_alive()") == "True":
            assert time.monotonic() < deadline
        return page.value("shows")

    @pytest.mark.parametrize("listens", [True, False])
    def test_tells(self, page: Page, cell: str, listens: bool) -> None:
        """It tells a page that listens from silence, and nothing runs either way."""
        page.listens = listens

        page.cell(self.ASK)

        assert self.told(page) == f"[{listens}]"
        assert page.inputs(cell) == ["run()  # as it was sent"]
        assert INVISIBLE not in page.text(cell) or not listens

    @pytest.mark.usefixtures("cell")
    def test_leaves_nothing(self, page: Page) -> None:
        """When a page has answered, no widget of ours is left."""
        widgets = page.value("widgets()")

        page.cell(self.ASK)
        self.told(page)

        assert page.value("widgets()") == widgets
        assert not page.probes

    def test_late_answer(self, page: Page, cell: str) -> None:
        """An answer after the time is up prints nothing, and then no widget is left."""
        widgets = page.value("widgets()")
        page.holds = True
        page.cell(self.ASK)
        shows, known = self.told(page), len(page.messages)

        page.answer()
        page.cell("pass")
        printed = [m["content"] for m in page.messages[known:] if m["msg_type"] == "stream"]

        assert page.inputs(cell) == ["run()  # as it was sent"]
        assert shows == "[False]"
        assert page.value("widgets()") == widgets
        assert not page.probes
        assert not printed

    @pytest.mark.usefixtures("cell")
    def test_stop(self, page: Page) -> None:
        """A stop ends the asking while the kernel is busy, and counts as silence."""
        page.listens = False

        page.cell(self.ASK.replace("wait=0.6", "wait=3600") + "\nstop.set()")

        assert self.told(page) == "[False]"


@pytest.mark.kernel
class TestCancel:
    """The cell is run by hand meanwhile, or the user thinks better of it."""

    def test_nothing_runs(self, page: Page, cell: str, button: str) -> None:
        """A cancelled run is not run when the page answers, and nothing is said."""
        page.holds = True
        page.click(button)
        page.until(lambda: bool(page.caught))

        page.cell("again.cancel()")
        page.answer()
        page.settle(cell)

        assert page.value("runs, said") == "[False] []"
        assert page.value("threads()") == "[]"

    def test_leaves_nothing(self, page: Page, button: str) -> None:
        """After a close there is no thread and no widget of ours, answered or not."""
        widgets = page.value("widgets()")
        page.holds = True
        page.click(button)
        page.until(lambda: bool(page.caught))

        page.cell("again.close()")

        assert page.value("threads()") == "[]"
        assert page.value("widgets()") == widgets
        assert not page.probes

    def test_can_be_started_again(self, page: Page, cell: str, button: str) -> None:
        """A click after a cancel is a new one."""
        page.holds = True
        page.click(button)
        page.until(lambda: bool(page.caught))
        page.cell("again.cancel()")
        page.caught.clear()
        page.holds = False

        rerun(page, cell, button)

        assert page.value("runs") == "[False, True]"

    def test_close_is_for_good(self, page: Page, cell: str, button: str) -> None:
        """Nothing runs after a close, whoever clicks."""
        page.cell("again.close()")
        page.click(button)
        page.settle(cell)

        assert page.value("runs, said, again.start()") == "[False] [] False"

    def test_closed_by_its_own_run(self, page: Page) -> None:
        """A run may close what started it, and the cell still ends as it would."""
        cell = page.cell("old = again\nrun()\nif old: old.close()\nprint('end')")

        page.cell("again.start()")
        page.until(lambda: page.ended(cell, 2))
        page.settle(cell)

        assert page.text(cell) == "run 1\nend\nrun 2\nend\n"
        assert page.value("again.reply['status']") == "ok"
        assert page.value("threads()") == "[]"

    def test_own_run_waits_for_nothing(self, page: Page) -> None:
        """What closes a run from within it does not wait for its end."""
        cell = page.cell("run()\nif len(runs) == 2: again.close(); print('alive', threads())")

        page.cell("again.start()")
        page.until(lambda: page.ended(cell, 2))

        assert page.text(cell) == "run 1\nrun 2\nalive ['deepseek-rerun']\n"

    def test_turned_away_after_a_close(self, page: Page, cell: str) -> None:
        """A run that the kernel drops is not asked for again after a close."""
        page.cell(
            "kernel = shell.kernel\n"
            "kernel._aborting = True\n"
            "reply = kernel._send_abort_reply\n"
            "def turn_away(*arguments):\n"
            "    again.close()\n"
            "    kernel._aborting = False\n"
            "    del kernel._send_abort_reply\n"
            "    again.cell.run(print, 'turned away')\n"
            "    return reply(*arguments)\n"
            "kernel._send_abort_reply = turn_away\n"
            "again.start()"
        )
        # Not by asking the kernel: the question would be turned away instead.
        page.until(lambda: "turned away" in page.text(cell))
        page.settle(cell)

        assert page.value("runs, said, again.reply") == "[False] ['before'] None"
        assert page.value("threads()") == "[]"


@pytest.mark.kernel
def test_kernel_ends_while_a_cell_waits_to_run(tmp_path: Path) -> None:
    """A kernel can be shut down while a page is being asked."""
    manager = start(tmp_path)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    page = Page(client)
    page.listens = False
    page.cell(SETUP)
    page.cell("run()")
    page.cell("again = Rerun(shell, again.cell, silent=print, wait=3600); again.start()")

    manager.request_shutdown()
    deadline = time.monotonic() + 30
    while manager.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = manager.is_alive()
    client.stop_channels()
    manager.shutdown_kernel(now=True)

    assert not alive


@pytest.mark.kernel
def test_click_is_no_cell(page: Page, cell: str, button: str) -> None:
    """What a click calls has no cell of its own."""
    page.cell("found = []; button.on_click(lambda _: found.append(current_cell(shell)))")

    page.click(button)
    page.until(lambda: page.ended(cell, 2))

    assert page.value("found") == "[None]"


@pytest.mark.kernel
def test_widgets_change_from_threads(page: Page) -> None:
    """A widget can be made and changed in any thread, as if from the cell."""
    page.cell(
        "cell, made = current_cell(shell), []\n"
        "def label(): made.append(ipywidgets.Label()); made[0].value = 'seen'\n"
        "thread = threading.Thread(target=cell.run, args=(label,))\n"
        "thread.start(); thread.join()"
    )

    page.cell("pass")

    sent = [m["content"]["data"] for m in page.messages if m["msg_type"] == "comm_msg"]
    assert [s["state"]["value"] for s in sent if "value" in s["state"]] == ["seen"]


@pytest.fixture
def terminal(tmp_path: Path) -> InteractiveShell:
    """A shell without a kernel."""
    make: Callable[..., InteractiveShell] = InteractiveShell
    return make(ipython_dir=str(tmp_path), config=Config(HistoryManager={"enabled": False}))


def test_no_cell_outside_a_kernel(terminal: InteractiveShell) -> None:
    """A shell without a kernel runs no cell that could be run again."""
    assert current_cell(terminal) is None


def test_no_kernel_is_silence(terminal: InteractiveShell) -> None:
    """Where there is no kernel to ask, the notice is told."""
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    cell = request({}, {})
    again = Rerun(terminal, cell, silent=lambda: said.put("silent"))

    again.start()
    again.join()

    assert said.get_nowait() == "silent"
    assert said.empty()


def test_runs_as_if_from_the_cell() -> None:
    """What is called through a cell sees what the cell saw, inside such a call too."""
    place = ContextVar("place", default="elsewhere")
    place.set("here")
    cell = request({}, {})
    place.set("there")

    assert cell.run(place.get) == "here"
    assert cell.run(cell.run, place.get) == "here"


def test_page_shows_nothing_without_a_kernel(terminal: InteractiveShell) -> None:
    """Where there is no kernel, no page shows a cell."""
    assert not page_shows(terminal, request({}, {}))


@pytest.mark.parametrize(
    ("metadata", "header", "expected"),
    [
        ({"cellId": "a1"}, {"msg_id": "m1", "session": "s1"}, ("a1", "s1")),
        ({}, {"msg_id": "m1", "session": "s1"}, ("m1", "s1")),
        ({}, {}, ("", "")),
    ],
)
def test_names_of_a_cell(
    metadata: dict[str, Any], header: dict[str, Any], expected: tuple[str, str]
) -> None:
    """A cell is named by its id, without one by its request, and knows its page's connection."""
    cell = Cell({"header": header, "metadata": metadata, "content": {}}, copy_context())

    assert (cell.place, cell.session) == expected


@pytest.mark.parametrize(
    ("metadata", "content", "expected"),
    [
        ({}, {}, (None, False, False)),
        ({"cellId": "a1"}, {"allow_stdin": True}, ("a1", False, True)),
        ({"cellId": 7}, {"allow_stdin": False}, (None, False, False)),
        ({"deepseek_replay": True}, {"allow_stdin": False}, (None, True, True)),
    ],
)
def test_facts_of_a_cell(
    metadata: dict[str, Any], content: dict[str, Any], expected: tuple[object, ...]
) -> None:
    """A cell tells its id, whether a person is there, and whether it is a run of ours."""
    cell = request(metadata, content)

    assert (cell.id, cell.replayed, cell.attended) == expected
