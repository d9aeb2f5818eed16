"""Cells that wait for a top-up run in their order, once, and only when there is money."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest

from deepseek_magic.errors import InsufficientBalance
from deepseek_magic.rerun import INVISIBLE
from deepseek_magic.sandbox import Sandbox
from deepseek_magic.session import Session
from deepseek_magic.top_up import Look
from deepseek_magic.waiting import Waiting
from harness.pages import Page, start

Ending = Literal["ran", "empty", "silent"]

HOUR = 3600.0


class Notice:
    """What stands in a cell that has found no money, and can run it again."""

    def __init__(self, notebook: Notebook, place: str) -> None:
        self.place = place
        self.looks: list[Look] = []
        self.told_the_end = 0
        self.shown = True
        """Whether a page still shows the cell."""
        self._notebook = notebook

    def looked(self, look: Look) -> None:
        """Keep *look*."""
        self.looks.append(look)

    def run_again(self) -> Ending:
        """Run the cell, if a page shows it and this notice."""
        if not self.shown or self._notebook.notices.get(self.place) is not self:
            return "silent"
        return self._notebook.run(self.place)

    def gave_up(self) -> None:
        """Count."""
        self.told_the_end += 1


class Notebook:
    """Cells that ask one question each, run one at a time on a thread of their own."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.waiting = Waiting(session, lambda: self.seconds)
        self.seconds = HOUR
        self.notices: dict[str, Notice] = {}
        self.tried: list[str] = []
        self.answered: list[str] = []
        self.during: Callable[[], object] = lambda: None
        """Called in every run, on the thread of the cells."""
        self._kernel = ThreadPoolExecutor(1, "cells")

    def run(self, place: str) -> Ending:
        """Run the cell *place*, to its end."""
        return self._kernel.submit(self._run, place).result()

    def wait(self, place: str) -> Notice:
        """Put a notice into the cell *place* that waits for a top-up."""
        notice = self.notices[place] = Notice(self, place)
        self.waiting.add(place, notice)
        return notice

    def close(self) -> None:
        """Run nothing any more."""
        self.waiting.close()
        self._kernel.shutdown()

    def _run(self, place: str) -> Ending:
        if (old := self.notices.pop(place, None)) is not None:
            self.waiting.remove(place, old)
        self.tried.append(place)
        self.during()
        try:
            self.session.ask(place, model="flash", think="off", max_tokens=20)
        except InsufficientBalance:
            if self.waiting.resumes(place):
                self.wait(place)
            return "empty"
        self.answered.append(place)
        return "ran"


@pytest.fixture
def notebook(session: Session) -> Iterator[Notebook]:
    made = Notebook(session)
    yield made
    made.close()


@pytest.fixture
def empty(api: Sandbox, notebook: Notebook) -> Notebook:
    """A notebook whose account is empty."""
    api.balance = Decimal(0)
    return notebook


def until(true: Callable[[], object]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def until_there_are(number: int, things: Sized) -> None:
    until(lambda: len(things) >= number)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "deepseek_magic waiting"]


def paid(api: Sandbox) -> int:
    return sum(request.cost is not None for request in api.requests)


def top_up(api: Sandbox, notebook: Notebook, amount: str = "5.00") -> None:
    """Add money once the emptiness was seen, and look."""
    notebook.waiting.nudge()
    until(lambda: all(n.looks or not n.shown for n in list(notebook.notices.values())))
    api.top_up(amount)
    notebook.waiting.nudge()


# -- running ----------------------------------------------------------------------------


def test_run_in_their_order(api: Sandbox, empty: Notebook) -> None:
    """One top-up runs all cells that wait, in the order in which they began to."""
    for place in ("c", "a", "b"):
        assert empty.run(place) == "empty"
        empty.wait(place)

    top_up(api, empty)
    until(lambda: len(empty.answered) == 3)

    assert empty.answered == ["c", "a", "b"]
    assert paid(api) == 3


def test_nothing_is_sent_before(api: Sandbox, empty: Notebook) -> None:
    """While the account is empty, looks send no question."""
    notice = empty.wait("a")
    for looks in range(1, 4):
        until_there_are(looks, notice.looks)
        empty.waiting.nudge()

    assert not api.requests
    assert not empty.tried


def test_money_that_is_there_is_not_waited_for(notebook: Notebook) -> None:
    """A cell that begins to wait when the money has come runs at once."""
    notice = notebook.wait("a")

    until(lambda: notebook.answered == ["a"])

    assert not notice.looks


def test_first_without_money_stops_the_rest(api: Sandbox, empty: Notebook) -> None:
    """Where the money ends the round ends; the rest keep their order and run after the next."""
    for place in ("a", "b", "c"):
        empty.run(place)
        empty.wait(place)
    api.script("An answer.", 402)

    top_up(api, empty)
    until(lambda: "b" in empty.tried[3:] and empty.waiting.resumes("b") is False)
    round_one = empty.tried[3:]
    top_up(api, empty)
    until(lambda: len(empty.answered) == 3)

    assert round_one == ["a", "b"]
    assert empty.tried[3:] == ["a", "b", "b", "c"]
    assert empty.answered == ["a", "b", "c"]
    assert paid(api) == 3


def test_goes_on_waiting_at_its_place(api: Sandbox, empty: Notebook) -> None:
    """A fresh notice of a run that found no money takes the old one's place, time and bound."""
    first = empty.wait("a")
    empty.wait("b")
    api.script(402)
    top_up(api, empty)
    until(lambda: empty.notices.get("a") not in (None, first))
    second = empty.notices["a"]

    empty.waiting.nudge()
    until(lambda: second.looks)
    top_up(api, empty)
    until(lambda: len(empty.answered) == 2)

    assert empty.answered == ["a", "b"]
    assert second.looks[0].since == first.looks[0].since
    assert second.looks[0].until == first.looks[0].until


def test_added_just_after_its_run(api: Sandbox, empty: Notebook) -> None:
    """A cell that is told to wait just after a run without money gets its place back too."""

    class Leaving(Notice):
        def run_again(self) -> Ending:
            api.balance = Decimal(0)
            self._notebook.waiting.remove(self.place, self)
            return "empty"

    first = empty.notices["a"] = Leaving(empty, "a")
    empty.waiting.add("a", first)
    empty.wait("b")
    top_up(api, empty)
    until(lambda: len(empty.waiting) == 1 and not empty.waiting.resumes("a"))

    late = empty.wait("a")
    top_up(api, empty)
    until(lambda: len(empty.answered) == 2)

    assert empty.answered == ["a", "b"]
    assert not late.told_the_end


def test_hundred_top_ups(api: Sandbox, empty: Notebook) -> None:
    """A hundred waits and top-ups in a row run and pay a hundred times."""
    for number in range(100):
        api.balance = Decimal(0)
        assert empty.run(f"cell {number}") == "empty"
        empty.wait(f"cell {number}")
        top_up(api, empty)
        until_there_are(number + 1, empty.answered)

    assert empty.answered == [f"cell {number}" for number in range(100)]
    assert paid(api) == 100
    until(lambda: not threads())


def test_endless_refusal_is_no_race(notebook: Notebook) -> None:
    """A cell that finds no money though there is some is run again only after a pause."""
    ran: list[str] = []

    class Refused(Notice):
        def run_again(self) -> Ending:
            ran.append(self.place)
            return "empty"

    refused = Refused(notebook, "a")
    notebook.waiting.add("a", refused)
    for runs in range(1, 4):
        until_there_are(runs, ran)
        until(lambda: not notebook.waiting.resumes("a"))
        notebook.waiting.nudge()
    until_there_are(4, ran)
    time.sleep(0.3)

    assert len(ran) < 8
    assert len(notebook.waiting) == 1


# -- not running ------------------------------------------------------------------------


def test_cancelled_cells_never_run(api: Sandbox, empty: Notebook) -> None:
    """What waits no more does not run, and the others do."""
    cancelled = empty.wait("a")
    empty.wait("b")

    empty.waiting.remove("a", cancelled)
    until(lambda: empty.notices["b"].looks)
    api.top_up("5.00")
    empty.waiting.nudge()
    until(lambda: empty.answered == ["b"])

    assert empty.tried == ["b"]
    assert not cancelled.told_the_end


def test_only_the_waiter_itself_can_be_removed(api: Sandbox, empty: Notebook) -> None:
    """An old notice that is closed late does not end the waiting of its successor."""
    old = Notice(empty, "a")
    empty.wait("a")

    empty.waiting.remove("a", old)
    top_up(api, empty)

    until(lambda: empty.answered == ["a"])


def test_added_twice_runs_once(api: Sandbox, empty: Notebook) -> None:
    """A cell is in the queue once, whoever adds it, and its newest notice is told."""
    first = empty.wait("a")
    empty.wait("b")
    second = empty.wait("a")
    empty.waiting.add("a", second)

    length = len(empty.waiting)
    until(lambda: second.looks)
    told = len(first.looks)
    top_up(api, empty)
    until(lambda: len(empty.answered) == 2)
    until(lambda: not threads())

    assert length == 2
    assert empty.tried == ["a", "b"]
    assert len(first.looks) == told


def test_run_by_hand(api: Sandbox, empty: Notebook) -> None:
    """A cell that is run by hand meanwhile is not run by the top-up."""
    empty.wait("a")
    empty.wait("b")
    until(lambda: empty.notices["b"].looks)

    by_hand = empty.run("a")
    top_up(api, empty)
    until(lambda: empty.answered)
    until(lambda: not threads())

    assert by_hand == "empty"
    assert empty.tried == ["a", "b"]


def test_run_by_hand_while_its_page_is_asked(api: Sandbox, empty: Notebook) -> None:
    """A cell whose turn it is, but which the user was faster to run, is run once."""
    asked, ran = threading.Event(), threading.Event()

    class Slow(Notice):
        def run_again(self) -> Ending:
            asked.set()
            assert ran.wait(30)
            return super().run_again()

    slow = empty.notices["a"] = Slow(empty, "a")
    empty.waiting.add("a", slow)
    top_up(api, empty)
    assert asked.wait(30)

    by_hand = empty.run("a")
    ran.set()
    until(lambda: not threads())

    assert by_hand == "ran"
    assert empty.tried == ["a"]
    assert paid(api) == 1


def test_time_is_up(api: Sandbox, empty: Notebook) -> None:
    """A cell whose time has passed is told so and leaves; those with more time stay."""
    empty.seconds = 0.2
    short = empty.wait("short")
    empty.seconds = HOUR
    long = empty.wait("long")

    until(lambda: short.told_the_end)
    top_up(api, empty)
    until(lambda: empty.answered)
    until(lambda: not threads())

    assert empty.tried == ["long"]
    assert (short.told_the_end, long.told_the_end) == (1, 0)


def test_looks_are_told(empty: Notebook) -> None:
    """Every cell that waits is told of a look: what was found, since when and until when."""
    empty.seconds = 60
    short = empty.wait("short")
    until(lambda: short.looks)
    empty.seconds = HOUR
    long = empty.wait("long")
    until(lambda: long.looks)

    one, other = short.looks[-1], long.looks[-1]

    assert one.balance is not None
    assert one.balance.effective == 0
    assert one.until - one.since == timedelta(seconds=60)
    assert other.until - other.since == timedelta(hours=1)
    assert one.since < other.since
    assert 0 < one.pause < 5


# -- silence ----------------------------------------------------------------------------


def test_silent_cell_holds_up_no_others(api: Sandbox, empty: Notebook) -> None:
    """A cell that no page shows is not run and goes on waiting; the others run."""
    lost = empty.wait("a")
    lost.shown = False
    empty.wait("b")
    until(lambda: lost.looks)

    top_up(api, empty)
    until(lambda: empty.answered == ["b"])

    assert empty.tried == ["b"]
    assert len(empty.waiting) == 1


def test_silent_cell_is_tried_again(api: Sandbox, empty: Notebook) -> None:
    """A cell that no page showed is left alone for a while, and runs when a page is back."""
    asked = []

    class Hidden(Notice):
        def run_again(self) -> Ending:
            asked.append(self.place)
            return super().run_again()

    lost = empty.notices["a"] = Hidden(empty, "a")
    lost.shown = False
    empty.waiting.add("a", lost)
    until(lambda: lost.looks)
    api.top_up("5.00")
    empty.waiting.nudge()
    until(lambda: asked)
    empty.wait("b")
    until(lambda: empty.answered == ["b"])
    before = list(asked)

    lost.shown = True
    empty.waiting.nudge()
    until(lambda: len(empty.answered) == 2)

    assert before == ["a"]
    assert empty.answered == ["b", "a"]
    assert paid(api) == 2


def test_time_of_a_silent_cell_is_up(notebook: Notebook) -> None:
    """A cell that no page ever shows leaves when its time has passed."""
    notebook.seconds = 0.3
    lost = Notice(notebook, "a")
    lost.shown = False

    notebook.waiting.add("a", lost)
    until(lambda: lost.told_the_end)
    until(lambda: not threads())

    assert not notebook.tried
    assert len(notebook.waiting) == 0


# -- faults -----------------------------------------------------------------------------


def test_wrong_key_is_told(api: Sandbox, notebook: Notebook) -> None:
    """A key that is not accepted is told as a problem, and a nudge looks again."""
    api.remove_key(api.api_key)
    notice = notebook.wait("a")
    until(lambda: notice.looks)
    problem, pause = notice.looks[-1].problem, notice.looks[-1].pause

    api.add_key(api.api_key)
    notebook.waiting.nudge()
    until(lambda: notebook.answered == ["a"])

    assert problem is not None
    assert "key" in problem
    assert "WrongKey" not in problem
    assert pause == 300


def test_no_key_is_told(api: Sandbox) -> None:
    """Without a key the cells go on waiting, and are told why nothing is looked at."""
    with Session(base_url=api.base_url, ledger=":memory:") as session:
        notebook = Notebook(session)
        notice = notebook.wait("a")

        until(lambda: notice.looks)
        notebook.close()

    assert str(notice.looks[-1].problem).startswith("There is no key")


def test_account_that_cannot_be_reached(api: Sandbox, empty: Notebook) -> None:
    """While the API is away the cells go on waiting, and run when it is back with money."""
    notice = empty.wait("a")
    until(lambda: notice.looks)
    api.close()
    empty.waiting.nudge()
    until(lambda: notice.looks[-1].problem)

    api.start()
    top_up(api, empty)
    until(lambda: empty.answered == ["a"])

    assert notice.looks[-1].balance is None


def test_notices_that_break(
    api: Sandbox, empty: Notebook, caplog: pytest.LogCaptureFixture
) -> None:
    """A notice that fails holds up no other; what may have been paid for is not run again."""

    class Broken(Notice):
        def looked(self, look: Look) -> None:
            super().looked(look)
            raise RuntimeError("looked")

        def run_again(self) -> Ending:
            self._notebook.tried.append(self.place)
            raise RuntimeError("run")

        def gave_up(self) -> None:
            super().gave_up()
            raise RuntimeError("the end")

    broken = empty.notices["a"] = Broken(empty, "a")
    empty.waiting.add("a", broken)
    empty.wait("b")

    top_up(api, empty)
    until(lambda: empty.answered == ["b"])
    until(lambda: not threads())

    assert empty.tried == ["a", "b"]
    assert broken.told_the_end == 1
    assert {"looked", "run", "the end"} <= {r.getMessage().split("'")[1] for r in caplog.records}


# -- threads ----------------------------------------------------------------------------


def test_thread_only_while_something_waits(api: Sandbox, empty: Notebook) -> None:
    """There is one thread for all cells, none before the first and none after the last."""
    before = threads()
    notices = [empty.wait(place) for place in ("a", "b")]
    meanwhile = threads()

    for notice in notices:
        empty.waiting.remove(notice.place, notice)
    until(lambda: not threads())
    empty.notices.clear()
    empty.wait("c")
    top_up(api, empty)
    until(lambda: empty.answered == ["c"])
    until(lambda: not threads())

    assert (before, len(meanwhile)) == ([], 1)


def test_last_one_ends_the_pause(api: Sandbox, notebook: Notebook) -> None:
    """When the last cell waits no more, the thread ends at once, however long its pause."""
    api.remove_key(api.api_key)
    notice = notebook.wait("a")
    until(lambda: notice.looks)

    notebook.waiting.remove("a", notice)

    until(lambda: not threads())
    assert notice.looks[-1].pause > 60


def test_nothing_runs_after_close(api: Sandbox, empty: Notebook) -> None:
    """After a close no cell runs and none begins to wait, and the thread is gone."""
    notice = empty.wait("a")
    until(lambda: notice.looks)

    empty.waiting.close()
    after = threads()
    api.top_up("5.00")
    empty.waiting.nudge()
    empty.wait("b")

    assert (after, threads()) == ([], [])
    assert (empty.tried, len(empty.waiting)) == ([], 0)
    assert not notice.told_the_end


def test_closed_by_a_run(api: Sandbox, empty: Notebook) -> None:
    """A run may close the queue that it was started by: it ends, and no other cell runs."""
    empty.during = empty.waiting.close
    empty.wait("a")
    empty.wait("b")

    top_up(api, empty)
    until(lambda: empty.answered)
    until(lambda: not threads())

    assert empty.tried == ["a"]


def test_closed_during_a_run(api: Sandbox, empty: Notebook) -> None:
    """A close does not wait for a run, and the thread ends with it."""
    begun, closed = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        assert closed.wait(30)

    empty.during = run
    empty.wait("a")
    empty.wait("b")
    top_up(api, empty)
    assert begun.wait(30)

    empty.waiting.close()
    closed.set()
    until(lambda: not threads())

    assert (empty.tried, empty.answered) == (["a"], ["a"])


def test_added_while_another_runs(api: Sandbox, empty: Notebook) -> None:
    """A cell that begins to wait during a run has its turn after it, not beside it."""
    running: list[int] = []
    peak: list[int] = []

    class Counted(Notice):
        def run_again(self) -> Ending:
            running.append(1)
            peak.append(len(running))
            if self.place == "a":
                self._notebook.notices["b"] = b = Counted(self._notebook, "b")
                self._notebook.waiting.add("b", b)
                self._notebook.waiting.nudge()
            ending = super().run_again()
            running.pop()
            return ending

    a = empty.notices["a"] = Counted(empty, "a")
    empty.waiting.add("a", a)

    top_up(api, empty)
    until(lambda: len(empty.answered) == 2)

    assert empty.answered == ["a", "b"]
    assert peak == [1, 1]


def test_many_threads(api: Sandbox, empty: Notebook) -> None:
    """Cells that are added and cancelled from many threads run once each, or not at all."""
    cancelled = {f"{user}-{n}" for user in range(6) for n in range(0, 10, 3)}

    def use(user: int) -> None:
        for n in range(10):
            place = f"{user}-{n}"
            notice = empty.wait(place)
            if place in cancelled:
                empty.waiting.remove(place, notice)
                del empty.notices[place]

    users = [threading.Thread(target=use, args=(user,)) for user in range(6)]
    for user in users:
        user.start()
    for user in users:
        user.join()

    top_up(api, empty)
    until(lambda: not threads())

    wanted = {f"{user}-{n}" for user in range(6) for n in range(10)} - cancelled
    assert sorted(empty.tried) == sorted(wanted)
    assert paid(api) == len(wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork(empty: Notebook) -> None:
    """A process that is forked while cells wait runs none of them, and does not hang."""
    notice = empty.wait("a")
    until(lambda: notice.looks)
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with empty.waiting._lock:
            held.set()
            forked.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    with warnings.catch_warnings(action="ignore"):
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # else pytest's, which would not end it
        signal.alarm(10)
        try:
            empty.waiting.add("b", notice)
            empty.waiting.nudge()
            empty.waiting.remove("a", notice)
            empty.waiting.close()
        finally:
            os._exit(len(threads()))
    forked.set()
    holder.join()
    _, status = os.waitpid(child, 0)

    assert status == 0
    assert len(empty.waiting) == 1


# -- a real kernel ------------------------------------------------------------------------

SETUP = """
import threading, time
from deepseek_magic import InsufficientBalance, Sandbox, Session
from deepseek_magic.rerun import Rerun, current_cell
from deepseek_magic.waiting import Waiting

shell, log, standing = get_ipython(), [], {}
api = Sandbox(balance="0").start()
session = Session(api_key=api.api_key, base_url=api.base_url, ledger=":memory:")
waiting = Waiting(session, lambda: 3600)

class Notice:
    def __init__(self, cell):
        self.place = cell.place
        self.rerun = Rerun(shell, cell, silent=lambda: log.append("silent"), wait=0.6)
    def looked(self, look):
        log.append("looked")
    def gave_up(self):
        log.append("gave up")
    def run_again(self):
        self.rerun.start()
        self.rerun.join()
        reply = self.rerun.reply
        if reply is None:
            return "silent"
        return "empty" if reply.get("ename") == "InsufficientBalance" else "ran"
    def close(self):
        waiting.remove(self.place, self)
        self.rerun.close()

def ask(name):
    cell = current_cell(shell)
    if cell.place in standing:
        standing.pop(cell.place).close()
    print("begin", name, flush=True)
    try:
        session.ask(name, model="flash", think="off", max_tokens=20)
    except InsufficientBalance:
        standing[cell.place] = Notice(cell)
        if not cell.replayed or waiting.resumes(cell.place):
            waiting.add(cell.place, standing[cell.place])
        raise
    print("end", name, flush=True)
"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    manager = start(tmp_path)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    made = Page(client)
    made.cell(SETUP)
    yield made
    made.cell("waiting.close(); session.close(); api.close()")
    client.stop_channels()
    manager.shutdown_kernel()
    manager.cleanup_resources()


def said(page: Page, *requests: str) -> list[str]:
    """Give the lines that these cells have printed, in the order in which they came."""
    mine = [m for m in page.messages if m["parent_header"].get("msg_id") in requests]
    text = "".join(m["content"]["text"] for m in mine if m["msg_type"] == "stream")
    return text.replace(INVISIBLE, "").splitlines()


@pytest.mark.kernel
def test_kernel_runs_one_after_the_other(page: Page) -> None:
    """After a top-up the cells run in their places, after the running cell and each other."""
    one, two = page.cell("ask('one')"), page.cell("ask('two')")

    busy = page.queue(
        "print('busy', flush=True); api.top_up('5.00'); waiting.nudge(); time.sleep(1.5)\n"
        "print('free', flush=True)"
    )
    page.until(lambda: page.ended(one, 2) and page.ended(two, 2))

    assert page.errors(one) == page.errors(two) == ["InsufficientBalance"]
    assert said(page, one, two, busy)[2:] == [
        *("busy", "free"),
        *("begin one", "end one"),
        *("begin two", "end two"),
    ]
    assert page.value("[r.status for r in api.requests]") == "[402, 402, 200, 200]"


@pytest.mark.kernel
def test_kernel_goes_on_waiting_in_place(page: Page) -> None:
    """A cell that finds no money once more stands in front again, with a fresh notice."""
    one, two = page.cell("ask('one')"), page.cell("ask('two')")
    page.cell("api.script(402); api.top_up('5.00'); waiting.nudge()")
    page.until(lambda: page.ended(one, 2))

    waits = page.value("len(waiting)")
    page.cell("api.top_up('5.00'); waiting.nudge()")
    page.until(lambda: page.ended(one, 3) and page.ended(two, 2))

    assert waits == "2"
    assert said(page, one, two)[2:] == ["begin one", "begin one", "end one", "begin two", "end two"]
    assert page.value("[r.status for r in api.requests]") == "[402, 402, 402, 200, 200]"


@pytest.mark.kernel
def test_kernel_whose_page_is_gone(page: Page) -> None:
    """Nothing is bought while no page shows the cell; it is when a page is there again."""
    one = page.cell("ask('one')")
    page.listens = False
    page.cell("api.top_up('5.00'); waiting.nudge()")
    while page.value("'silent' in log") == "False":
        time.sleep(0.1)
    bought = page.value("api.billed")

    page.listens = True
    page.cell("waiting.nudge()")
    page.until(lambda: page.ended(one, 2))

    assert bought == "0"
    assert said(page, one) == ["begin one", "begin one", "end one"]


@pytest.mark.kernel
def test_kernel_is_left_by_a_close_in_a_run(page: Page) -> None:
    """A run that closes everything ends as it would, and then no thread of ours is left."""
    one = page.cell("ask('one'); waiting.close()")
    two = page.cell("ask('two')")

    page.cell("api.top_up('5.00'); waiting.nudge()")
    page.until(lambda: page.ended(one, 2))
    left = "[t.name for t in threading.enumerate() if t.name.startswith('deepseek')]"
    deadline = time.monotonic() + 30
    while "waiting" in page.value(left) or "rerun" in page.value(left):
        assert time.monotonic() < deadline

    assert said(page, one, two) == ["begin one", "begin two", "begin one", "end one"]
    assert page.value("len(waiting)") == "0"
