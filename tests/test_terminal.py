"""IPython in a terminal: what a reader sees, and what the terminal is told."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from deepseek_magic.sandbox import Reply, Sandbox
from harness.terminal import Terminal

pytestmark = pytest.mark.terminal

LOAD = "%load_ext deepseek_magic"
TALE = "Once upon a time there was a **notebook** that remembered everything."


@pytest.fixture
def ipython(terminal: Callable[..., Terminal], account: Sandbox) -> Terminal:
    """Give IPython in a terminal with the extension in it."""
    started = terminal()
    assert started.run(LOAD).strip() == LOAD
    return started


def test_an_answer_is_printed_while_it_arrives(ipython: Terminal, account: Sandbox) -> None:
    """The text appears before the answer has ended; Ctrl-C keeps it and ends the cell in a line."""
    account.script(Reply(TALE, after=6, then="stall"), TALE)

    ipython.start("%%deepseek -t off\nTell a tale.")
    ipython.wait_for("Once upon a time")
    ipython.interrupt()
    stopped = ipython.finish()
    whole = ipython.run("%%deepseek -t off\nTell a tale.")

    assert "interrupted · deepseek-flash" in stopped
    assert "Interrupted: the answer was stopped." in stopped
    assert "Traceback" not in stopped
    assert TALE in whole
    assert whole.index("everything.") < whole.index("deepseek-flash ·")


@pytest.mark.parametrize("simple", [True, False], ids=["simple prompt", "real prompt"])
def test_an_answer_cannot_steer_the_terminal(
    terminal: Callable[..., Terminal], account: Sandbox, simple: bool
) -> None:
    """Control characters of a model, or of a server's error, do not reach the terminal."""
    attack = "A\x1b[2J\x1b]0;title\x07B\x9b31mC\x08\u202eD\rE"
    account.script(
        Reply(pieces=tuple(attack)), Reply(status=400, body={"error": {"message": attack}})
    )
    ipython = terminal(simple=simple)
    ipython.run(LOAD)

    ipython.run("%%deepseek -t off --out answer\nWhy?")
    answered = ipython.raw
    ipython.run("%%deepseek -t off\nWhy?")
    refused = ipython.raw
    ipython.run("answer")
    shown = ipython.raw

    for raw in (answered, refused, shown):
        after = raw[raw.index("A") :] if "A" in raw else raw
        assert not any(mark in after for mark in ("\x1b[2J", "\x1b]0;", "\x9b", "\u202e", "\x08D"))
    for part in ("title", "31mC"):
        assert part in answered
        assert part in shown


def test_the_account_in_a_terminal(ipython: Terminal, account: Sandbox) -> None:
    """Balance, usage, prices, settings and the notice are text; there is no HTML anywhere."""
    asked = ipython.run("%%deepseek -t off --out answer\nWhy?")
    shown = {
        name: ipython.run(f"%deepseek {name}") for name in ("balance", "usage", "prices", "config")
    }
    answer = ipython.run("answer")
    account.balance = Decimal(0)
    dry = ipython.run("%%deepseek -t off\nWhy?")
    after = ipython.run("1 + 1")

    assert "CNY left" in shown["balance"]
    assert "deepseek-flash" in shown["usage"]
    assert "off-peak" in shown["prices"]
    assert "data_tokens" in shown["config"]
    assert "Top up at https://platform.deepseek.com/top_up, then run this cell again." in dry
    assert dry.rstrip().splitlines()[-1].startswith("InsufficientBalance: ")
    assert "Traceback" not in dry
    assert "2" in after
    for text in (asked, answer, dry, *shown.values()):
        assert not any(mark in text for mark in ("<div", "<p>", "<table", "HTML object"))


def test_the_sandbox_in_a_terminal(ipython: Terminal, account: Sandbox) -> None:
    """A terminal can run dry in the sandbox, top up, go on, and come back."""
    on = ipython.run("%deepseek sandbox on 0")
    dry = ipython.run("%%deepseek -t off\nWhy?")
    topped_up = ipython.run("%deepseek sandbox top-up 10")
    asked = ipython.run("%%deepseek -t off\nWhy?")
    off = ipython.run("%deepseek sandbox off")

    assert "http://127.0.0.1:" in on
    assert "InsufficientBalance" in dry
    assert "10.00 CNY" in topped_up
    assert "left · sandbox" in asked
    assert "your own account" in off
    assert len(account.traffic) == 0


def test_a_key_is_typed_in_hidden(
    terminal: Callable[..., Terminal],
    account: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """`%deepseek login` shows no key; a wrong one is one line and the session before it stays."""
    second = account.add_key()
    wrong = "sk-000000000000000000000000000wrong"
    ipython = terminal()
    ipython.run(LOAD)
    ipython.run("%%deepseek\nWhy?")

    ipython.start("%deepseek login")
    ipython.wait_for("(hidden): ")
    ipython.answer(wrong)
    refused = ipython.finish()
    still = ipython.run("%%deepseek\nWhy?")
    ipython.start("%deepseek login")
    ipython.wait_for("(hidden): ")
    ipython.answer(second)
    signed_in = ipython.finish()
    asked = ipython.run("%%deepseek\nWhy?")
    ipython.start("%deepseek login")
    ipython.wait_for("(hidden): ")
    ipython.answer("")
    empty = ipython.finish()
    history = ipython.run("%hist")
    ipython.close()

    assert refused.strip().startswith("WrongKey: ")
    assert len(refused.strip().splitlines()) == 1
    assert "left" in still
    assert "Signed in: 4.99" in signed_in
    assert "left" in asked
    assert empty.strip().startswith("InvalidOption: No key was typed in")
    keys = [one.headers["authorization"].removeprefix("Bearer ") for one in account.requests]
    assert keys == [account.api_key, account.api_key, second]
    shown = [refused, still, signed_in, asked, empty, history]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "history.sqlite" for path in files)
    for key in (wrong, second, account.api_key):
        assert not [text for text in shown if key in text]
        assert not [path for path in files if key.encode() in path.read_bytes()]


def test_help_in_a_terminal(ipython: Terminal) -> None:
    """`%%deepseek -h` as it is typed, with nothing below, shows the help."""
    ipython.answer("%%deepseek -h")
    shown = ipython.finish()

    assert "--on-empty" in shown
    assert "%deepseek balance" in shown
