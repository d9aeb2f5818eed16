"""Cells that wait for money in a real page, by clicks."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_magic.sandbox import Reply

if TYPE_CHECKING:
    from deepseek_magic.sandbox import Sandbox
    from harness.browser import NotebookPage
    from harness.lab import Lab

pytestmark = pytest.mark.browser

LOAD = "%load_ext deepseek_magic"
LATER, CANCEL = "Re-run when topped up", "Cancel waiting"

Variables = Callable[..., dict[str, str]]
Opened = Callable[..., "NotebookPage"]


@pytest.fixture
def opened(page: NotebookPage, lab: Lab, api: Sandbox, of_this_test: Variables) -> Opened:
    """Give a function that opens a notebook of *sources*; its account is empty."""
    api.balance = Decimal(0)
    account = of_this_test(DEEPSEEK_API_KEY=api.api_key, DEEPSEEK_BASE_URL=api.base_url)

    def open_one(*sources: str, ui: Any = "lab", **settings: Any) -> NotebookPage:
        name = lab.write("waiting.ipynb", [LOAD, *sources], account)
        page.open(name, ui, **settings)
        page.run_cell(0)
        return page

    return open_one


def questions(api: Sandbox, status: int = 200) -> list[str]:
    """Give the questions that ended with *status*, in their order."""
    chats = [request for request in api.requests if request.method == "POST"]
    return [
        request.body["messages"][-1]["content"]
        for request in chats
        if request.body is not None and request.status == status
    ]


def ask(word: str) -> str:
    return f"%%deepseek --think off\n{word}"


@pytest.mark.parametrize("ui", ["lab", "notebook"])
def test_cells_that_wait_run_in_their_order(opened: Opened, api: Sandbox, ui: str) -> None:
    """After a top-up each runs once, in its own place, and never over a cell that is running."""
    busy = "import time\ntime.sleep(5)\nprint('slept until', time.time(), '.')"
    page = opened(ask("One?"), ask("Two?"), ask("Three?"), busy, ui=ui)
    for cell in (1, 2, 3):
        page.run_cell(cell)
    for cell in (2, 1, 3):
        page.click(cell, LATER)
        page.wait_text(cell, "Waiting for a top-up")

    page.run_cell(4, wait=False)
    api.top_up("10.00")
    slept = float(page.wait_text(4, "slept until", 30).split()[2])
    for cell in (1, 2, 3):
        page.wait_text(cell, "CNY left", 60)
    page.wait_idle()
    saved = page.save().cells

    assert questions(api) == ["Two?", "One?", "Three?"]
    paid = [request for request in api.requests if request.cost is not None]
    assert paid[0].at.timestamp() > slept, "a cell ran while another was running"
    for cell in (1, 2, 3):
        assert [output.output_type for output in saved[cell].outputs] == ["display_data"]
        assert CANCEL not in page.text(cell)
    assert "InsufficientBalance" not in "".join(page.text(cell) for cell in (1, 2, 3))


def test_waiting_ends_by_its_button_and_by_hand(opened: Opened, api: Sandbox) -> None:
    """Cancel, a click on Re-run cell, and running the cell by hand each end the waiting."""
    page = opened(ask("One?"), ask("Two?"), ask("Three?"))
    for cell in (1, 2, 3):
        page.run_cell(cell)
        page.click(cell, LATER)
        page.wait_text(cell, "next look in")

    page.page.wait_for_timeout(1000)  # sooner it would be the second half of a double click
    page.click(1, CANCEL)
    page.wait_text(1, "No longer waiting. Nothing was sent.")
    page.write(2, "print('something else')")
    page.run_cell(2)
    page.click(3, "Re-run cell")
    page._until(lambda: len(questions(api, 402)) == 4, "the second refusal", 20)
    page.wait_text(3, LATER)
    api.top_up("10.00")
    page.page.wait_for_timeout(9000)

    assert questions(api) == []
    assert "something else" in page.text(2)
    page.click(1, LATER)
    page.wait_text(1, "CNY left")
    assert questions(api) == ["One?"]


def test_the_first_that_finds_no_money_stops_the_rest(opened: Opened, api: Sandbox) -> None:
    """They keep waiting, the first one too, and all are answered after the next top-up."""
    page = opened(ask("One?"), ask("Two?"))
    for cell in (1, 2):
        page.run_cell(cell)
        page.click(cell, LATER)
        page.wait_text(cell, "next look in")

    api.script(Reply(status=402))
    api.top_up("1.00")
    page._until(lambda: len(questions(api, 402)) == 3, "the refusal of the re-run", 30)
    page.wait_text(1, CANCEL)
    page.wait_text(1, "next look in")
    still = page.text(2)
    api.top_up("1.00")
    for cell in (1, 2):
        page.wait_text(cell, "CNY left", 60)

    assert CANCEL in still
    assert questions(api, 402) == ["One?", "Two?", "One?"]
    assert questions(api) == ["One?", "Two?"]


def test_a_page_that_was_loaded_anew_buys_nothing(opened: Opened, api: Sandbox) -> None:
    """The waiting finds no page that shows its cell, says so, and the cell waits in the list."""
    page = opened(ask("One?"), "%deepseek pending")
    page.run_cell(1)
    page.click(1, LATER)
    page.wait_text(1, "next look in")
    page.save()
    page.reload()

    api.top_up("10.00")
    page.wait_text(1, "was loaded anew", 60)
    sent = questions(api)
    page.run_cell(2)
    page.click(2, "Re-run")
    page.wait_text(2, "CNY left")
    page.page.wait_for_timeout(4000)  # until it is sure that a page has shown it
    page.run_cell(2)

    assert sent == []
    assert questions(api) == ["One?"]
    assert "No cell waits for money." in page.wait_text(2, "No cell waits")


def test_an_answer_without_a_reader_is_not_bought_again(opened: Opened, api: Sandbox) -> None:
    """The page goes away in the middle of a re-run; the next run shows that answer for nothing."""
    words = " ".join(f"word{n}" for n in range(200))
    api.change(speed=40)
    page = opened(ask("One?"), "%deepseek pending")
    page.run_cell(1)
    page.save()
    api.script(Reply(words))
    api.top_up("10.00")

    page.click(1, "Re-run cell")
    page.wait_text(1, "word9")
    page.reload()
    page._until(lambda: api.requests[-1].finished, "the end of the answer", 30)
    page.wait_idle()
    page.page.wait_for_timeout(4000)  # until it is sure that no page has shown it
    page.run_cell(2)
    listed = page.text(2)
    page.run_cell(1)

    assert "already paid for" in listed
    assert "word199" in page.text(1)
    assert "nothing was sent now" in page.text(1)
    assert questions(api) == ["One?"]
    page.run_cell(1)
    page.wait_text(1, "CNY left")
    assert questions(api) == ["One?", "One?"]


def test_after_a_restart_the_list_has_buttons(opened: Opened, api: Sandbox) -> None:
    """What waited for money before a restart can be run from the list, one or all, or let go."""
    page = opened(ask("One?"), ask("Two?"), ask("Three?"), "%deepseek pending")
    for cell in (1, 2, 3):
        page.run_cell(cell)
    page.restart()
    page.run_cell(0)
    page.run_cell(4)
    listed = page.text(4)
    api.top_up("10.00")

    page.button(4, "Forget").click()
    page.wait_text(4, "Forgotten: 1.")
    page.click(4, "Re-run all")
    page._until(lambda: len(questions(api)) == 2, "both answers", 30)
    page.wait_idle()
    page.run_cell(4)

    assert all(word in listed for word in ("One?", "Two?", "Three?"))
    assert questions(api) == ["Two?", "Three?"]
    assert "No cell waits for money." in page.text(4)


def test_an_old_list_runs_only_what_it_shows(opened: Opened, api: Sandbox) -> None:
    """A row whose cell has succeeded meanwhile runs nothing, and the others keep their names."""
    page = opened(ask("One?"), ask("Two?"), ask("Three?"), "%deepseek pending")
    for cell in (1, 2, 3):
        page.run_cell(cell)
    page.run_cell(4)
    api.top_up("10.00")
    page.run_cell(1)
    again = page.output(4).get_by_role("button", name="Re-run", exact=True)

    again.nth(0).click()
    page.wait_text(4, "waits any more")
    again.nth(2).click()
    page.wait_text(3, "CNY left")

    assert questions(api) == ["One?", "Three?"]


def test_rerun_runs_cells_in_their_places(opened: Opened, api: Sandbox) -> None:
    """`%deepseek rerun` puts each answer where its notice stood."""
    page = opened(ask("One?"), ask("Two?"), "%deepseek rerun")
    page.run_cell(1)
    page.run_cell(2)
    api.top_up("10.00")

    page.run_cell(3)
    for cell in (1, 2):
        page.wait_text(cell, "CNY left", 60)

    assert "2 cells run again in their places" in page.text(3)
    assert questions(api) == ["One?", "Two?"]


CLIENT = """\
import openai, os
runs = []
client = openai.OpenAI(
    api_key=os.environ["DEEPSEEK_API_KEY"], base_url=os.environ["DEEPSEEK_BASE_URL"]
)"""
ORDINARY = """\
runs.append(1)
question = [{"role": "user", "content": "Why?"}]
said = client.chat.completions.create(model="deepseek-flash", messages=question)
print(len(runs), "runs", len(said.choices), "answer")"""


def test_an_ordinary_cell_has_the_notice_too(opened: Opened, api: Sandbox) -> None:
    """It stands below the user's own traceback, and one click runs the whole cell in its place."""
    page = opened(CLIENT, ORDINARY)
    page.run_cell(1)
    page.run_cell(2)
    failed = page.text(2)
    api.top_up("10.00")
    page.page.wait_for_timeout(5000)
    waited = questions(api)
    page.click(2, "Re-run cell")
    page.wait_text(2, "2 runs 1 answer")

    assert failed.index("APIStatusError") < failed.index("out of money")
    assert LATER not in failed
    assert waited == [], "an ordinary cell never runs by itself"
    assert "APIStatusError" not in page.text(2)
    assert questions(api) == ["Why?"]


def test_a_top_up_that_does_not_arrive_is_explained(opened: Opened) -> None:
    """After the time of the trait it is said what that usually is, with a link, and it waits on."""
    page = opened("%config DeepSeekMagics.explain_after = 4", ask("One?"))
    page.run_cell(1)
    page.run_cell(2)
    page.click(2, LATER)

    shown = page.wait_text(2, "another account", 30)

    assert CANCEL in shown
    assert "next look in" in shown
