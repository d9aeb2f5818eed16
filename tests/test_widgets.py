"""The buttons below a notice, and below the list of cells that wait, in a real kernel."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_magic.sandbox import Reply
from harness.pages import Page, start

if TYPE_CHECKING:
    from jupyter_client.manager import KernelManager

    from deepseek_magic.sandbox import Sandbox

pytestmark = pytest.mark.kernel

SETUP = """
import html, re, threading, time, warnings, ipywidgets
from datetime import UTC, datetime
from deepseek_magic.errors import NoKey, OutOfMoney
from deepseek_magic.ledger import Pending
from deepseek_magic.rerun import current_cell
from deepseek_magic.session import Session
from deepseek_magic.waiting import Waiting
from deepseek_magic.widgets import NoticeControls, PendingControls

shell = get_ipython()
session = Session(**account, ledger=":memory:")
hours = 1.0
waiting = Waiting(session, lambda: 3600 * hours)
standing, settings, waits = [], dict(), True

def ask():
    # The body of a cell: without money it ends below a notice.
    cell = current_cell(shell)
    while standing:
        standing.pop().close()
    try:
        print(session.ask("Why?", model="flash", think="off"))
    except OutOfMoney:
        queue = waiting if waits else None
        resume = waiting.resumes(cell.place)
        standing.append(NoticeControls(shell, cell, session, queue, resume=resume, **settings))
        raise

def row(number, text="%%deepseek\\nWhy?", asks=True, answered=None):
    return Pending(number, datetime.now(UTC), None, None, text, asks, answered)

ran, forgotten, told = [], [], None

def run(rows):
    ran.append([row.id for row in rows])
    if isinstance(told, Exception):
        raise told
    return told

def forget(rows):
    forgotten.extend(row.id for row in rows)

def listed(*rows):
    controls = PendingControls(shell, current_cell(shell), rows, run=run, forget=forget)
    standing.append(controls)

def buttons(box):
    for child in box.children:
        if isinstance(child, ipywidgets.Button):
            yield child
        elif hasattr(child, "children"):
            yield from buttons(child)

def find(label):
    found = (b for b in buttons(standing[-1].box) if b.description == label and not b.disabled)
    return next(found, None)

def state():
    if not standing:
        return [], ""
    words = html.unescape(re.sub("<[^>]+>", " ", standing[-1].box.children[-1].value))
    labels = [b.description for b in buttons(standing[-1].box) if not b.disabled]
    return labels, " ".join(words.split())

def widgets():
    with warnings.catch_warnings(action="ignore"):
        return len(ipywidgets.Widget.widgets)

def threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("deepseek_magic waiting")]
"""


class Notebook:
    """A page that shows one notebook, and what stands in it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def state(self) -> tuple[list[str], str]:
        """Give the labels of the buttons that can be clicked, and the line below them."""
        labels, said = ast.literal_eval(self.page.value("state()"))
        return labels, said

    def click(self, label: str) -> None:
        """Click the first button that bears *label*."""
        self.page.click(self.page.value(f"find({label!r}).comm.comm_id"))

    def until(self, said: str) -> tuple[list[str], str]:
        """Wait until *said* stands below the buttons; give all that there is then."""
        self._wait(lambda: said in self.state()[1], said)
        return self.state()

    def until_true(self, expression: str) -> None:
        """Wait until *expression* holds in the kernel."""
        self._wait(lambda: self.page.value(f"bool({expression})") == "True", expression)

    def pause(self) -> None:
        """Let so much time pass that a next click is one of its own."""
        time.sleep(0.7)

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not done():
            assert time.monotonic() < deadline, f"no {what!r}, but {self.state()}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """Give one kernel for all tests."""
    folder: Path = tmp_path_factory.mktemp("ipython")
    manager = start(folder)
    yield manager
    manager.shutdown_kernel()
    manager.cleanup_resources()


@pytest.fixture
def book(kernel: Any, api: Sandbox) -> Iterator[Notebook]:
    """Give a notebook whose account is empty."""
    api.balance = Decimal(0)
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    page = Page(client)
    page.cell(f"account = dict(api_key={api.api_key!r}, base_url={api.base_url!r})")
    page.cell(SETUP)
    yield Notebook(page)
    page.cell("waiting.close()\nwhile standing: standing.pop().close()\nsession.close()")
    page.cell("ipywidgets.Widget.close_all()")
    client.stop_channels()


def paid(api: Sandbox) -> list[int | None]:
    """Give the status of each question."""
    return [request.status for request in api.requests]


def test_waiting_is_begun_and_cancelled_by_one_button(book: Notebook) -> None:
    """The button that waits turns into the one that cancels, and back."""
    book.page.cell("ask()")
    before = book.state()

    book.click("Re-run when topped up")
    during = book.until("next look in")
    waiting = book.page.value("len(waiting)")
    book.pause()
    book.click("Cancel waiting")
    after = book.until("No longer waiting. Nothing was sent.")

    assert before == (["Re-run cell", "Re-run when topped up", "Check balance"], "")
    assert during[0] == ["Re-run cell", "Cancel waiting", "Check balance"]
    assert during[1].startswith("Waiting for a top-up since ")
    assert "0.00 CNY at " in during[1]
    assert waiting == "1"
    assert after[0] == before[0]
    assert book.page.value("len(waiting)") == "0"


def test_a_double_click_begins_to_wait_once(book: Notebook) -> None:
    """The second half of a double click does not cancel what the first began."""
    book.page.cell("ask()")
    comm = book.page.value("find('Re-run when topped up').comm.comm_id")

    book.page.click(comm)
    book.page.click(comm)
    book.until("next look in")

    assert "Cancel waiting" in book.state()[0]
    assert book.page.value("len(waiting)") == "1"


def test_it_runs_when_the_money_has_come(book: Notebook, api: Sandbox) -> None:
    """After a top-up the cell runs once in its own place, and nothing of the notice is left."""
    cell = book.page.cell("ask()")
    book.click("Re-run when topped up")
    book.until("next look in")

    api.top_up("5.00")
    book.page.until(lambda: book.page.ended(cell, 2))
    book.until_true("not threads()")

    assert paid(api) == [402, 200]
    assert len(book.page.inputs(cell)) == 2
    assert book.page.value("(standing, len(waiting), widgets())") == "([], 0, 0)"


def test_an_account_that_is_empty_again_goes_on_waiting(book: Notebook, api: Sandbox) -> None:
    """A cell that the waiting ran, and that found no money once more, waits on without a click."""
    cell = book.page.cell("ask()")
    api.script(402)
    book.click("Re-run when topped up")
    book.until("next look in")

    api.top_up("1.00")
    book.page.until(lambda: book.page.ended(cell, 2))
    fresh = book.state()
    api.top_up("1.00")
    book.page.until(lambda: book.page.ended(cell, 3))

    assert "Cancel waiting" in fresh[0]
    assert fresh[1].startswith("Waiting for a top-up")
    assert paid(api) == [402, 402, 200]


def test_a_run_by_click_ends_the_waiting(book: Notebook, api: Sandbox) -> None:
    """A click on "Re-run cell" runs the cell now, and the waiting is over."""
    cell = book.page.cell("ask()")
    book.click("Re-run when topped up")
    book.until("next look in")

    book.click("Re-run cell")
    book.page.until(lambda: book.page.ended(cell, 2))

    assert paid(api) == [402, 402]
    assert book.state()[0] == ["Re-run cell", "Re-run when topped up", "Check balance"]
    assert book.page.value("len(waiting)") == "0"


def test_nothing_is_sent_where_no_page_shows_the_cell(book: Notebook, api: Sandbox) -> None:
    """With money and without a page the cell does not run, says so, and goes on waiting."""
    book.page.cell("ask()")
    book.click("Re-run when topped up")
    book.until("next look in")
    book.page.listens = False

    api.top_up("5.00")
    labels, said = book.until("was loaded anew")

    assert "Nothing was sent. Run the cell by hand" in said
    assert "Cancel waiting" in labels
    assert paid(api) == [402]
    assert book.page.value("len(waiting)") == "1"


def test_a_click_that_reaches_no_page(book: Notebook, api: Sandbox) -> None:
    """A click on "Re-run cell" in a page that was loaded anew says what to do."""
    book.page.cell("ask()")
    book.page.listens = False

    book.click("Re-run cell")
    labels, said = book.until("This page no longer knows the cell")

    assert said.endswith("Nothing was sent. Run the cell again by hand.")
    assert "Re-run cell" in labels
    assert paid(api) == [402]


def test_the_waiting_comes_to_an_end(book: Notebook) -> None:
    """When its time is up the notice says how long it has waited, and how to go on."""
    book.page.cell("ask()")
    book.page.cell("hours = 2 / 3600")

    book.click("Re-run when topped up")
    labels, said = book.until("no money came")

    assert said.startswith("Waited for 2.0 s, and no money came. The waiting has ended")
    assert said.endswith("Top up, then re-run the cell, or wait again.")
    assert labels == ["Re-run cell", "Re-run when topped up", "Check balance"]


def test_what_it_usually_is_comes_later(book: Notebook) -> None:
    """A look that finds nothing is explained after a while, and not before."""
    book.page.cell("ask()")
    book.click("Check balance")
    at_first = book.until("Still empty")
    book.page.cell("settings = dict(explain_after=0, billing_url='https://x.example/bill')\nask()")

    book.click("Check balance")
    later = book.until("payment may still be pending")
    link = book.page.value("standing[-1].box.children[-1].value")

    assert at_first[1] == "Still empty: 0.00 CNY. A top-up can take a minute to arrive."
    assert later[1].startswith(at_first[1])
    assert "The billing page tells" in later[1]
    assert 'href="https://x.example/bill"' in link


def test_the_waiting_explains_too(book: Notebook) -> None:
    """What it usually is stands below the last look, and the waiting goes on."""
    book.page.cell("settings = dict(explain_after=0)\nask()")

    book.click("Re-run when topped up")
    labels, said = book.until("payment may still be pending")

    assert said.startswith("Waiting for a top-up since ")
    assert "Cancel waiting" in labels


def test_a_balance_that_cannot_be_read(book: Notebook, api: Sandbox) -> None:
    """Why the balance could not be read is said as text, whatever is in it."""
    book.page.cell("ask()")
    body = {"error": {"message": "<b onclick=x>no</b>", "type": "x"}}
    api.script(Reply(status=500, body=body), path="/user/balance", forever=True)

    book.click("Check balance")
    book.until("The balance could not be read")

    assert "<b " not in book.page.value("standing[-1].box.children[-1].value")


def test_a_check_that_finds_the_money_hurries_the_waiting(book: Notebook, api: Sandbox) -> None:
    """Check balance, while the cell waits, lets it run at once when there is money."""
    cell = book.page.cell("ask()")
    book.click("Re-run when topped up")
    book.until("next look in")
    book.page.cell("time.sleep(6)")  # the next looks are further apart
    api.top_up("5.00")

    book.click("Check balance")
    book.page.until(lambda: book.page.ended(cell, 2))

    assert paid(api) == [402, 200]


def test_a_cell_that_must_not_run_by_itself(book: Notebook) -> None:
    """Where nothing waits there is no button that waits."""
    book.page.cell("waits = False\nask()")

    assert book.state()[0] == ["Re-run cell", "Check balance"]


def test_the_buttons_speak_chinese(book: Notebook) -> None:
    """The names of the buttons, and what they say, are in the language of the notebook."""
    book.page.cell("import os; os.environ['DEEPSEEK_MAGIC_LANGUAGE'] = 'zh'")
    try:
        book.page.cell("ask()")
        labels, _ = book.state()
        book.click("充值后自动运行")
        waiting, _ = book.state()
        book.pause()
        book.click("取消等待")
        _, said = book.until("已停止等待。")
    finally:
        book.page.cell("os.environ['DEEPSEEK_MAGIC_LANGUAGE'] = 'en'")

    assert labels == ["重新运行单元格", "充值后自动运行", "查询余额"]
    assert waiting == ["重新运行单元格", "取消等待", "查询余额"]
    assert said == "已停止等待。未发送任何内容。"


def test_closing_leaves_nothing(book: Notebook) -> None:
    """With the notice go its widgets and its place among those that wait."""
    book.page.cell("ask()")
    book.click("Re-run when topped up")
    book.until("next look in")

    book.page.cell("gone = standing.pop(); gone.close(); gone.close()")
    book.until_true("not threads()")

    assert book.page.value("(len(waiting), widgets())") == "(0, 0)"


def test_the_buttons_of_the_list(book: Notebook) -> None:
    """Each cell can be run again or forgotten; one without a text can only be forgotten."""
    book.page.cell("listed(row(1), row(2, 'x = 1', False), row(3, None), row(4, '%%deepseek\\nx'))")
    labels, _ = book.state()

    book.click("Re-run")
    book.until_true("ran")
    book.click("Forget")
    book.until_true("forgotten")

    each = ["Re-run", "Forget"]
    assert labels == [*each, *each, "Forget", *each, "Re-run all questions"]
    assert book.page.value("(ran, forgotten)") == "([[1]], [2])"


def test_all_questions_at_once(book: Notebook) -> None:
    """The button for all runs the questions in their order and no code of the user's own."""
    book.page.cell("listed(row(1), row(2, 'x = 1', False), row(3), row(4))")

    book.click("Forget")
    book.until_true("forgotten")
    book.click("Re-run all questions")
    book.until_true("ran")

    assert book.page.value("(ran, forgotten)") == "([[3, 4]], [1])"


def test_two_clicks_in_the_list_run_once(book: Notebook) -> None:
    """A second click on a cell that is being run, or on all, does not run it again."""
    book.page.cell("listed(row(1), row(2))")
    again, everything = (
        book.page.value(f"find({label!r}).comm.comm_id") for label in ("Re-run", "Re-run all")
    )

    for comm in (again, again, everything, everything):
        book.page.click(comm)
    book.until_true("len(ran) == 2")

    assert book.page.value("ran") == "[[1], [2]]"


@pytest.mark.parametrize("told", ["'no <page>'", "NoKey('no <page>')"])
def test_a_run_that_did_not_begin(book: Notebook, told: str) -> None:
    """Why nothing ran is said, and the cell can be run again."""
    book.page.cell(f"told = {told}\nlisted(row(1))")

    book.click("Re-run")
    labels, _ = book.until("no <page>")

    assert labels == ["Re-run", "Forget"]


def test_an_answer_that_nobody_saw(book: Notebook) -> None:
    """An answer that is there already is shown, and not asked for again."""
    book.page.cell("listed(row(1, answered=datetime.now(UTC)))")

    assert book.state()[0] == ["Show answer", "Forget"]
