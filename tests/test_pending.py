"""Cells that wait for money: listed, run again, let go, also by the next kernel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deepseek_magic.sandbox import Sandbox
from harness.kernels import Kernels
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
