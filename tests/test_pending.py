"""Cells that wait for money: listed, run again, let go, also by the next kernel."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deepseek_magic.rerun import MARK
from deepseek_magic.sandbox import Sandbox
from harness.kernels import Kernels
from harness.pages import Page, start
from harness.terminal import Terminal

Run = Callable[[str], str]

CALL = """\
import openai, os
client = openai.OpenAI(
    api_key=os.environ["DEEPSEEK_API_KEY"], base_url=os.environ["DEEPSEEK_BASE_URL"]
)
question = [{"role": "user", "content": "Why?"}]
"""
ORDINARY = 'print(client.chat.completions.create(model="deepseek-flash", messages=question).model)'


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give an empty account, which whatever looks at the environment uses."""
    with Sandbox(balance="0.00", currency="CNY") as api:
        monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
        monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
        yield api


@pytest.fixture
def run(account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a cell and gives what it showed."""
    shell.run_line_magic("xmode", "Minimal")

    def run_cell(source: str) -> str:
        capsys.readouterr()
        shell.run_cell(source)
        shown = capsys.readouterr()
        return shown.out + shown.err

    return run_cell


def paid(api: Sandbox) -> list[str]:
    """Give the questions that were paid for."""
    return [
        request.body["messages"][-1]["content"]
        for request in api.requests
        if request.body is not None and request.cost
    ]


def asked(api: Sandbox) -> int:
    """Count the questions that were sent, paid for or not."""
    return sum(request.method == "POST" for request in api.requests)


def test_a_cell_waits_until_it_has_succeeded(run: Run, account: Sandbox) -> None:
    """An empty balance puts the cell on the list; its own success takes it off."""
    assert "No cell waits for money." in run("%deepseek pending")
    run("%%deepseek -t off\nWhy?\nAnd how?")
    listed = run("%deepseek pending")
    account.top_up("10.00")
    run("%%deepseek -t off\nWhy?\nAnd how?")

    assert "Why?" in listed
    assert "%deepseek rerun 1" in listed
    assert "No cell waits for money." in run("%deepseek pending")
    assert paid(account) == ["Why?\nAnd how?"]


def test_rerun_asks_what_waits(run: Run, account: Sandbox) -> None:
    """Each question that waits is asked once, in its order, with the options of its own line."""
    for word in ("one", "two", "three"):
        run(f"%%deepseek -t off --max-tokens 3 -o {word}\n{word}?")
    account.top_up("10.00")

    shown = run("%deepseek rerun")

    assert paid(account) == ["one?", "two?", "three?"]
    assert [shown.index(f"— {word}?") for word in ("one", "two", "three")] == sorted(
        shown.index(f"— {word}?") for word in ("one", "two", "three")
    )
    assert run("print(one.finish_reason, two.finish_reason)") == "length length\n"
    assert "No cell waits for money." in run("%deepseek rerun")
    assert len(paid(account)) == 3


def test_the_first_that_finds_no_money_stops_the_rest(run: Run, account: Sandbox) -> None:
    """While the account is empty one question is tried, and all go on waiting."""
    for word in ("one", "two", "three"):
        run(f"%%deepseek\n{word}?")
    before = asked(account)

    shown = run("%deepseek rerun all")

    assert shown.rstrip().rpartition("\n")[2].startswith("InsufficientBalance: ")
    assert asked(account) == before + 1
    assert [word in run("%deepseek pending") for word in ("one?", "two?", "three?")] == [True] * 3


def test_one_is_chosen_by_its_number(run: Run, account: Sandbox) -> None:
    """`rerun 2` asks the second, `pending forget 1` lets the first go."""
    for word in ("one", "two", "three"):
        run(f"%%deepseek\n{word}?")
    account.top_up("10.00")

    run("%deepseek rerun 2")
    assert paid(account) == ["two?"]
    assert "1 cell let go" in run("%deepseek pending forget 1")
    listed = run("%deepseek pending")
    assert ("one?" in listed, "three?" in listed) == (False, True)
    assert "1 cell let go" in run("%deepseek pending forget all")
    assert paid(account) == ["two?"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rerun 7", "No cell '7' waits for money; there is 1."),
        ("rerun first", "No cell 'first' waits for money; there is 1."),
        ("pending forget 0", "No cell '0' waits for money; there is 1."),
        ("pending forget", "or forget N, or forget all"),
        ("pending now", "or forget N, or forget all"),
        ("wait ever", "takes a number of minutes or nothing"),
        ("guard maybe", "takes on or off"),
    ],
)
def test_a_wrong_word_is_one_line(run: Run, account: Sandbox, line: str, said: str) -> None:
    """What cannot be chosen is named, nothing is sent, and nothing is let go."""
    run("%%deepseek\nWhy?")
    before = asked(account)

    shown = run(f"%deepseek {line}")

    assert shown.startswith("InvalidOption: ")
    assert said in shown
    assert shown.count("\n") == 1
    assert asked(account) == before
    assert "Why?" in run("%deepseek pending")


def test_an_ordinary_cell_runs_by_its_number_only(run: Run, account: Sandbox) -> None:
    """A cell of the user's own code has effects of its own, so `rerun all` leaves it alone."""
    run(CALL)
    run(ORDINARY)
    run("%%deepseek\nWhy?")
    account.top_up("10.00")

    assert "run again" in run("%deepseek pending")
    run("%deepseek rerun all")
    assert len(paid(account)) == 1
    assert "1 cell of your own code can be run again by number" in run("%deepseek rerun")
    assert "deepseek-flash" in run("%deepseek rerun 1")
    assert len(paid(account)) == 2
    assert "No cell waits for money." in run("%deepseek pending")


def test_an_ordinary_cell_that_fails_again_waits_on(run: Run, account: Sandbox) -> None:
    """Its own traceback and the notice stand there, one line ends the command, and it waits."""
    run(CALL)
    run(ORDINARY)

    shown = run("%deepseek rerun 1")

    assert "APIStatusError" in shown
    assert shown.rstrip().endswith(
        "DeepSeekError: The cell failed again; its own error stands above."
    )
    assert "client.chat" in run("%deepseek pending")


def test_code_that_holds_a_key_is_not_kept(run: Run, account: Sandbox) -> None:
    """An ordinary cell with the key in it waits without its text, and says why it cannot be run."""
    run("import openai, os")
    run(
        f"c = openai.OpenAI(api_key={account.api_key!r}, base_url={account.base_url!r})\n"
        "said = [{'role': 'user', 'content': 'Why?'}]\n"
        "c.chat.completions.create(model='deepseek-flash', messages=said)"
    )

    assert account.api_key not in run("%deepseek pending")
    assert "can only be run by hand" in run("%deepseek rerun 1")


def test_an_error_that_was_caught_leaves_the_question_waiting(run: Run) -> None:
    """A cell that goes on after the refusal has not answered its question."""
    run(
        "try:\n    get_ipython().run_cell_magic('deepseek', '', 'Why?')\n"
        "except Exception:\n    print('went on')"
    )

    assert "Why?" in run("%deepseek pending")


def test_raise_leaves_nothing_waiting(run: Run) -> None:
    """With `--on-empty raise` the cell's own code looks after it."""
    run("%%deepseek --on-empty raise\nWhy?")

    assert "No cell waits for money." in run("%deepseek pending")


def test_the_next_kernel_knows_what_waits(kernel: Kernels, account: Sandbox) -> None:
    """After a restart the list has the cell with its text, and `rerun` asks it, once."""
    load = "%load_ext deepseek_magic"
    first = kernel.run([load, "%%deepseek -t off -o words\nWhy?"], allow_errors=True)
    account.top_up("10.00")
    second = kernel.run([load, "%deepseek pending", "%deepseek rerun", "print(words.model)"])
    third = kernel.run([load, "%deepseek pending"])

    assert "InsufficientBalance" in first.text(1)
    assert second.error is None
    assert "Why?" in second.text(1)
    assert "CNY left" in second.text(2)
    assert second.text(3).strip() == "deepseek-flash"
    assert "No cell waits for money." in third.text(1)
    assert paid(account) == ["Why?"]


def test_a_cell_of_another_notebook_stays_there(
    kernel: Kernels, account: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed with its notebook; here it is not asked, since its names live there."""
    load = "%load_ext deepseek_magic"
    cell = [load, "%%deepseek\nWhy?"]
    kernel.run(cell, env={"JPY_SESSION_NAME": "work/there.ipynb"}, allow_errors=True)
    account.top_up("10.00")
    lines = [load, "%deepseek pending", "%deepseek rerun", "%deepseek rerun 1"]
    here = kernel.run(lines, env={"JPY_SESSION_NAME": "work/here.ipynb"}, allow_errors=True)

    assert "there.ipynb" in here.text(1)
    assert "No cell waits for money." in here.text(2)
    assert "Open it there" in here.text(3)
    assert paid(account) == []


# Answers that are kept


def test_kept_answers_are_shown_again(run: Run, account: Sandbox) -> None:
    """The list has the newest first; one of it is shown whole, with what it cost, for nothing."""
    assert "holds no answers" in run("%deepseek answers")
    account.top_up("10.00")
    account.script("First words.", "Second words.")
    run("%%deepseek -t off\nOne?")
    run("%%deepseek -t off -m pro\nTwo?")
    before = asked(account)

    listed = run("%deepseek answers").splitlines()
    again = run("%deepseek answers 2")

    assert ("Two?" in listed[1], "One?" in listed[2]) == (True, True)
    assert "First words." in again
    assert "nothing was sent now" in again
    assert "is none of these" in run("%deepseek answers 3")
    assert asked(account) == before


def test_answers_without_texts(kernel: Kernels, account: Sandbox) -> None:
    """A ledger that keeps figures alone has no answers to show."""
    account.top_up("10.00")
    ran = kernel.run(
        [
            "%load_ext deepseek_magic",
            "%config DeepSeekMagics.keep = 'figures'",
            "%%deepseek\nWhy?",
            "%deepseek answers",
        ]
    )

    assert "holds no answers" in ran.text(3)


# Waiting in the cell


def test_on_empty_wait_goes_on_by_itself(kernel: Kernels, account: Sandbox) -> None:
    """A cell of an unattended run waits, says so, goes on after the top-up, and is paid once."""
    topped_up = threading.Event()

    def top_up() -> None:
        while not any(request.status == 402 for request in account.requests):
            time.sleep(0.05)
        account.top_up("10.00")
        topped_up.set()

    threading.Thread(target=top_up, daemon=True).start()
    ran = kernel.run(
        ["%load_ext deepseek_magic", "%%deepseek --on-empty wait -o words\nWhy?", "words.model"]
    )

    assert topped_up.is_set()
    assert ran.error is None
    assert "for a top-up." in ran.text(1)
    assert "CNY left" in ran.text(1)
    assert "InsufficientBalance" not in ran.text(1)
    assert paid(account) == ["Why?"]


def test_on_empty_wait_has_a_bound(kernel: Kernels, account: Sandbox) -> None:
    """After the bound of the trait the cell ends as it would without waiting, and says so."""
    ran = kernel.run(
        [
            "%load_ext deepseek_magic",
            "%config DeepSeekMagics.wait_hours = 0.0003",
            "%config DeepSeekMagics.on_empty = 'wait'",
            "%%deepseek\nWhy?",
            "print('later cells')",
        ]
    )

    assert ran.error is not None
    assert "No money has come in" in ran.text(3)
    assert "Top up" in ran.text(3)
    assert ran.text(4) == ""


def test_waiting_at_the_prompt(terminal: Callable[..., Terminal], account: Sandbox) -> None:
    """`%deepseek wait` says what it sees, ends with the money, and can be interrupted."""
    ipython = terminal()
    ipython.run("%load_ext deepseek_magic")
    ipython.run("%%deepseek\nWhy?")
    ipython.start("%deepseek wait")
    ipython.wait_for("next look in")
    ipython.interrupt()
    stopped = ipython.finish()
    ipython.start("%deepseek wait")
    ipython.wait_for("next look in")
    account.top_up("10.00")
    ended = ipython.finish()

    assert "Interrupted: the wait for a top-up was stopped. Nothing was sent." in stopped
    assert "Traceback" not in stopped
    assert "10.00 CNY on the account. 1 cell waiting for it: %deepseek rerun" in ended
    assert "CNY left" in ipython.run("%deepseek rerun")
    assert "\x1b" not in ended


def test_waiting_has_a_bound_at_the_prompt(run: Run) -> None:
    """A number of minutes bounds it, and the end is the usual error."""
    shown = run("%deepseek wait 0.001")

    assert shown.rstrip().rpartition("\n")[2].startswith("InsufficientBalance: No money has come")


def test_where_money_is_nothing_is_waited_for(run: Run, account: Sandbox) -> None:
    """The amount is told at once."""
    account.top_up("3.00")

    assert run("%deepseek wait") == "3.00 CNY on the account.\n"


def test_the_balance_tells_how_many_wait(run: Run, account: Sandbox) -> None:
    """The display of the balance has their number."""
    run("%%deepseek\nWhy?")
    run("%%deepseek\nHow?")

    assert "2 cells" in run("%deepseek balance")


# Beside a page


@pytest.fixture
def page(account: Sandbox, tmp_path: Path) -> Iterator[Page]:
    """Give a page without a browser, whose kernel asks the empty account."""
    manager = start(tmp_path)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    made = Page(client)
    made.cell("import ipywidgets\n%load_ext deepseek_magic")
    yield made
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


HERE: dict[str, Any] = {"cellId": "c1"}
NOTICES = "get_ipython().magics_manager.registry['DeepSeekMagics'].workspace.notices"


BUTTONS = f"{NOTICES}._standing['c1'][0].box.children[0].children"


def press(page: Page, label: str) -> None:
    """Press the button of the notice in the cell that bears *label*."""
    page.click(page.value(f"[b for b in {BUTTONS} if b.description == {label!r}][0].comm.comm_id"))


def test_a_run_by_hand_makes_a_re_run_void(page: Page, account: Sandbox) -> None:
    """A re-run that comes after its cell was run by hand buys nothing, and touches nothing."""
    asking = "%%deepseek -t off\nWhy?"
    first = page.cell(asking, HERE)
    token = page.value(f"{NOTICES}._standing['c1'][0].token")
    account.top_up("10.00")
    page.cell(asking, HERE)

    late = page.cell(asking, {**HERE, MARK: token}, msg_id=first)
    plain = page.cell("hits = globals().get('hits', 0) + 1", {**HERE, MARK: token})

    assert paid(account) == ["Why?"]
    assert page.errors(late) == ["InsufficientBalance"], "that of the first run alone"
    assert page.value("globals().get('hits')") == "None"
    assert not [m for m in page.of(plain) if m["msg_type"] == "clear_output"]


def test_its_own_re_run_is_not_void(page: Page, account: Sandbox) -> None:
    """The run that a notice asks for is the one that it waits for."""
    first = page.cell("%%deepseek -t off\nWhy?", HERE)
    account.top_up("10.00")

    press(page, "Re-run cell")
    page.until(lambda: page.ended(first, 2))

    assert paid(account) == ["Why?"]


def test_a_cell_of_more_than_one_question_never_runs_by_itself(
    page: Page, account: Sandbox
) -> None:
    """Its other code has effects: there is no button that waits, and `rerun` asks elsewhere."""
    page.cell(
        "ran = globals().get('ran', 0) + 1\n"
        "get_ipython().run_cell_magic('deepseek', '-t off', 'Why?')",
        HERE,
    )
    labels = page.value(f"[b.description for b in {BUTTONS}]")
    account.top_up("10.00")
    page.cell("%deepseek rerun", {"cellId": "c2"})

    assert "Re-run cell" in labels
    assert "Re-run when topped up" not in labels
    assert paid(account) == ["Why?"]
    assert page.value("ran") == "1"


def test_two_pages_buy_once(page: Page, account: Sandbox) -> None:
    """What waits in one page and is asked in another is taken down in the first."""
    page.cell("%%deepseek -t off\nWhy?", HERE)
    press(page, "Re-run when topped up")
    account.top_up("10.00")

    page.cell("%deepseek rerun", {"cellId": "c2"}, session="the other page")
    page.cell("import time\ntime.sleep(6)")

    assert paid(account) == ["Why?"]


def test_one_error_has_one_notice(page: Page) -> None:
    """An error that passes through an inner run is told once; raised in another cell, once more."""
    page.cell(CALL)
    page.cell(f"def go():\n    {ORDINARY}")
    twice = page.cell("get_ipython().run_cell('go()').raise_error()", {"cellId": "c3"})
    page.cell("try:\n    go()\nexcept Exception as error:\n    saved = error")
    again = page.cell("raise saved", {"cellId": "c4"})

    def notices(request: str) -> int:
        shown = [m["content"].get("data", {}) for m in page.of(request)]
        return sum("out of money" in data.get("text/plain", "") for data in shown)

    assert (notices(twice), notices(again)) == (1, 1)


def test_an_ordinary_cell_that_fails_again_waits_once(page: Page) -> None:
    """However often it is tried from the list, it is one entry."""
    page.cell(CALL)
    page.cell(ORDINARY, HERE)
    for _ in range(3):
        page.cell("%deepseek rerun 1", {"cellId": "c2"})

    assert page.value(f"len({NOTICES}.pending.rows())") == "1"


def test_an_unread_answer_outlives_a_busy_ledger(page: Page, account: Sandbox) -> None:
    """A ledger that could not be read once is asked again, and nothing is bought twice."""
    asking = "%%deepseek -t off\nWhy?"
    page.cell(asking, HERE)
    account.top_up("10.00")
    page.listens = False
    page.cell(asking, {**HERE, MARK: "a page that has gone"})
    page.cell("import time\ntime.sleep(1)")
    page.until(lambda: "None" not in page.value(f"[r.answered for r in {NOTICES}.pending.rows()]"))
    path = page.value(f"{NOTICES}._account.session.ledger.path")
    time.sleep(4)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        page.cell("%%deepseek -t off\nAnother?")
    edited = page.cell("%%deepseek -t off\nSomething else?", HERE)
    page.cell(asking, HERE)

    assert paid(account) == ["Why?", "Another?", "Something else?"]
    assert not page.errors(edited)
