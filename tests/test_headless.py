"""Kernels without a page: nbclient, papermill and the like, and kernels that are asked directly."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

import deepseek_magic
from deepseek_magic.home import ledger_path
from deepseek_magic.ledger import Ledger
from deepseek_magic.rerun import MARK
from deepseek_magic.sandbox import Reply, Sandbox
from harness.kernels import Kernels
from harness.notebooks import ANSI, notebook, text_of, write

pytestmark = pytest.mark.kernel

LOAD = "%load_ext deepseek_magic"
ASK = "%%deepseek -t off --out answer\nTell a tale."
AFTER = "print('reached', answer.cost)"
TALE = "Once upon a time there was a **notebook** that remembered everything."
ATTACK = (
    "<script>alert(1)</script> <img src=x onerror=alert(1)> ![p](http://x.example/p.png)\x1b[2J"
)
WIDGET = "application/vnd.jupyter.widget-view+json"
LIKE_A_KEY = "sk-0123456789abcdef0123456789abcdef"


def entries() -> list[dict[str, Any]]:
    with closing(Ledger(ledger_path())) as ledger:
        return ledger.entries()


def until(true: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def errors(made: Any) -> list[list[str]]:
    """Give the lines of each error that stands in a notebook."""
    return [
        ANSI.sub("", "\n".join(output.traceback)).splitlines()
        for cell in made.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]


def kinds(made: Any) -> set[str]:
    """Give the media types that stand in a notebook."""
    return {
        kind
        for cell in made.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    }


# -- a notebook that runs out of money ------------------------------------------------


def test_an_empty_account_stops_a_notebook(kernel: Kernels, account: Sandbox) -> None:
    """The cell fails in one line below a notice without widgets, and later cells do not run."""
    account.balance = Decimal(0)

    ran = kernel.run([LOAD, ASK, AFTER])

    assert "InsufficientBalance: The DeepSeek balance is empty" in str(ran.error)
    assert "Traceback" not in str(ran.error)
    notice, error = ran.notebook.cells[1].outputs
    assert set(notice.data) == {"text/html", "text/plain"}
    for shown in notice.data.values():
        assert "balance is empty" in shown
        assert "https://platform.deepseek.com/top_up" in shown
        assert "run this cell again" in shown
        assert "below" not in shown, "there are no buttons below"
    assert error.ename == "InsufficientBalance"
    assert [len(lines) for lines in errors(ran.notebook)] == [1]
    assert "widgets" not in ran.notebook.metadata
    assert ran.text(2) == ""
    assert [entry["state"] for entry in entries()] == ["refused"]


def test_the_same_notebook_passes_with_money(kernel: Kernels, account: Sandbox) -> None:
    """After a top-up the notebook runs to its end; the answer stands where the notice stood."""
    account.balance = Decimal(0)
    account.script(TALE)
    failed = kernel.run([LOAD, ASK, AFTER])

    account.top_up("1.00")
    ran = kernel.run(failed.notebook)

    assert ran.error is None
    (output,) = ran.notebook.cells[1].outputs
    assert set(output.data) == {"text/html", "text/plain"}
    assert output.data["text/plain"].startswith(TALE)
    assert "<strong>notebook</strong>" in output.data["text/html"]
    assert output.metadata["deepseek_magic"]["model"] == "deepseek-flash"
    assert Decimal(output.metadata["deepseek_magic"]["cost"]) == account.billed
    assert "reached" in ran.text(2)


COMMANDS = {
    "jupyter execute": [sys.executable, "-m", "jupyter", "execute", "--inplace", "in.ipynb"],
    "papermill": [sys.executable, "-m", "papermill", "in.ipynb", "in.ipynb"],
    "nbconvert": [
        *(sys.executable, "-m", "jupyter", "nbconvert", "--execute", "--to", "notebook"),
        *("--inplace", "in.ipynb"),
    ],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_batch_tools_see_a_failed_cell(
    command: list[str], account: Sandbox, tmp_path: Path
) -> None:
    """Without money the program ends with an error and our line; with money it succeeds."""
    path = write(tmp_path / "in.ipynb", notebook([LOAD, ASK, AFTER]))
    account.balance = Decimal(0)

    dry = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    account.top_up("1.00")
    paid = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert dry.returncode != 0
    assert "InsufficientBalance: The DeepSeek balance is empty" in ANSI.sub("", dry.stderr)
    assert paid.returncode == 0, paid.stderr
    made = nbformat.read(path, as_version=4)
    assert "reached" in text_of(made.cells[-1])


def test_a_cell_may_be_expected_to_fail(kernel: Kernels, account: Sandbox) -> None:
    """The tag `raises-exception` and `allow_errors` do for our cells what they do for any."""
    account.balance = Decimal(0)
    tagged = notebook([LOAD, "%%deepseek\nWhy?", "print('reached')"])
    tagged.cells[1].metadata["tags"] = ["raises-exception"]

    by_tag = kernel.run(tagged)
    allowed = kernel.run([LOAD, "%%deepseek\nWhy?", "print('reached')"], allow_errors=True)

    for ran in (by_tag, allowed):
        assert ran.error is None
        assert [len(lines) for lines in errors(ran.notebook)] == [1]
        assert "reached" in ran.text(2)


def test_code_can_handle_the_empty_account(kernel: Kernels, account: Sandbox) -> None:
    """With `--on-empty raise` the cell's own code goes on, and what it showed before stays."""
    account.script(Reply(TALE, reasoning="Hm."), "short", 402)
    source = (
        "from deepseek_magic import InsufficientBalance\n"
        "for question in ('one', 'two', 'three'):\n"
        "    try:\n"
        "        get_ipython().run_cell_magic('deepseek', '--on-empty raise', question)\n"
        "    except InsufficientBalance as error:\n"
        "        print('caught', error.balance.currency)"
    )

    ran = kernel.run([LOAD, source])

    assert ran.error is None
    text = ran.text(1)
    assert text.index(TALE) < text.index("short") < text.index("caught CNY")
    assert "top_up" not in text


# -- what other failures look like ----------------------------------------------------

FAILURES: tuple[tuple[Reply | int, str, str], ...] = (
    (503, "ServerFailure", ""),
    (429, "TooManyRequests", ""),
    (Reply(TALE, after="request", then="reset"), "BrokenAnswer", ""),
    (Reply(TALE, after=6, then="close"), "BrokenAnswer", "Once upon a time"),
    (Reply(TALE, after=6, then="garbage"), "BrokenAnswer", "Once upon a time"),
    (Reply(TALE, after=6, then="error"), "InsufficientBalance", "Once upon a time"),
    (Reply(TALE, finish_reason="content_filter"), "UnusableAnswer", "everything"),
    (Reply(""), "UnusableAnswer", "CNY left"),  # nothing to keep, but it was billed
)


def test_every_failure_is_one_line_in_a_notebook(kernel: Kernels, account: Sandbox) -> None:
    """Each failed cell ends in one line, above it what had arrived of the answer, as HTML too."""
    account.script(*(reply for reply, _, _ in FAILURES))
    cells = ["%%deepseek -t off\nTell a tale."] * len(FAILURES)

    once = "%config DeepSeekMagics.retries = 0"
    ran = kernel.run([LOAD, once, "%xmode Verbose", *cells], allow_errors=True)

    assert len(account.requests) == len(FAILURES)
    for cell, (_, kind, kept) in zip(ran.notebook.cells[3:], FAILURES, strict=True):
        *shown, error = cell.outputs
        assert (error.output_type, error.ename) == ("error", kind)
        (line,) = ANSI.sub("", "\n".join(error.traceback)).splitlines()
        assert line.startswith(f"{kind}: ")
        assert bool(shown) is (kept != "")
        assert all(kept in part for output in shown[:1] for part in output.data.values())


def test_login_needs_somebody_to_type(kernel: Kernels, account: Sandbox) -> None:
    """Where nobody can type, `%deepseek login` is one line that says what to set instead."""
    ran = kernel.run([LOAD, "%deepseek login"])

    ((line,),) = errors(ran.notebook)
    assert "DEEPSEEK_API_KEY" in line
    assert len(account.traffic) == 0


# -- what stands in a saved notebook --------------------------------------------------

MANAGING = (
    ("%deepseek balance", "CNY left"),
    ("%deepseek models", "deepseek-v4-pro"),
    ("%deepseek prices", "off-peak"),
    ("%deepseek usage", "deepseek-flash"),
    ("%deepseek config", "max_tokens"),
)


def test_the_account_is_told_as_html_and_text(kernel: Kernels, account: Sandbox) -> None:
    """Each subcommand leaves one output that can be read without any widget."""
    cells = [source for source, _ in MANAGING]

    ran = kernel.run([LOAD, ASK, *cells])

    assert ran.error is None
    for cell, (_, part) in zip(ran.notebook.cells[2:], MANAGING, strict=True):
        (output,) = cell.outputs
        assert set(output.data) == {"text/html", "text/plain"}
        assert part in output.data["text/html"]
        assert part in output.data["text/plain"]
        assert "<" not in output.data["text/plain"]
    assert "widgets" not in ran.notebook.metadata


def test_what_a_model_writes_is_harmless_in_a_notebook(kernel: Kernels, account: Sandbox) -> None:
    """No markup of an answer reaches the saved file, whether streamed, bound or thought."""
    account.script(
        Reply(pieces=(ATTACK,), reasoning=ATTACK),
        Reply(pieces=(ATTACK * 300,), speed=20_000),
        Reply(pieces=(ATTACK, "rest"), after=1, then="close"),
        Reply(status=400, body={"error": {"message": ATTACK}}),
    )
    asked = ["%%deepseek --out answer\nWhy?", "answer"]

    ran = kernel.run([LOAD, *asked, *["%%deepseek\nWhy?"] * 3], allow_errors=True)

    assert len(account.requests) == 4
    assert kinds(ran.notebook) == {"text/html", "text/plain"}
    for index in range(1, 6):
        assert not re.search(r"<(script|img|iframe)", ran.html(index))
        for output in ran.notebook.cells[index].outputs:
            assert "\x1b[2J" not in str(output.get("data", "")) + str(output.get("traceback", ""))
    assert "&lt;script&gt;" in ran.html(1)
    assert "&lt;script&gt;" in ran.html(2)


def test_the_key_is_in_no_notebook(kernel: Kernels, account: Sandbox, tmp_path: Path) -> None:
    """Neither outputs, logs, tracebacks, history nor the ledger's bytes hold the key."""
    account.script(
        TALE,
        Reply(status=401, body={"error": {"message": f"{account.api_key} is not known"}}),
        Reply(TALE, after=3, then="reset"),
    )
    wrapped = (
        "from deepseek_magic import Session\n"
        "with Session() as session:\n"
        "    try:\n"
        "        session.ask('Why?')\n"
        "    except Exception as error:\n"
        "        raise RuntimeError('wrapped') from error"
    )

    ran = kernel.run(
        [
            *("import logging\nlogging.basicConfig(level=logging.DEBUG)", "%xmode Verbose"),
            *(LOAD, "%%deepseek\nWhy?", "%%deepseek\nWhy?", wrapped, "%deepseek config"),
            *("%config DeepSeekMagics", "%deepseek balance", f"%%deepseek\n{LIKE_A_KEY}", "%hist"),
            "get_ipython().magics_manager.registry['DeepSeekMagics'].workspace.session.client",
        ],
        allow_errors=True,
    )

    saved = write(tmp_path / "saved.ipynb", ran.notebook).read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(account.requests) == 3
    assert "DEBUG" in saved
    assert "RuntimeError" in saved
    assert account.api_key not in saved
    assert any(path.name == "ledger.sqlite" for path in files)
    assert not [path for path in files if account.api_key.encode() in path.read_bytes()]
    assert LIKE_A_KEY.encode() not in ledger_path().read_bytes()


# -- a kernel that is asked directly --------------------------------------------------


@dataclass
class Talk:
    """Runs cells in one kernel and keeps what it publishes."""

    client: BlockingKernelClient
    messages: list[dict[str, Any]] = field(default_factory=list)

    def run(self, source: str, *, attended: bool = False) -> dict[str, Any]:
        """Run a cell to its end and give the reply; *attended* as by a page."""
        self.messages.clear()
        reply: dict[str, Any] = self.client.execute_interactive(
            source, timeout=60, allow_stdin=attended, output_hook=self.messages.append
        )
        content: dict[str, Any] = reply["content"]
        return content

    def start(self, source: str) -> str:
        """Send a cell and do not wait; give the message's id."""
        self.messages.clear()
        return str(self.client.execute(source, allow_stdin=False))

    def wait_for(self, text: str) -> None:
        """Read on until *text* was published."""
        until(lambda: text in self._read().shown)

    def finish(self, message: str) -> dict[str, Any]:
        """Give the reply to *message*, and read all that was published until then."""
        reply = self.client.get_shell_msg(timeout=60)
        assert reply["parent_header"]["msg_id"] == message
        until(lambda: self._read()._is_idle(message))
        content: dict[str, Any] = reply["content"]
        return content

    def _read(self) -> Self:
        while self.client.iopub_channel.msg_ready():
            self.messages.append(self.client.get_iopub_msg(timeout=10))
        return self

    def _is_idle(self, message: str) -> bool:
        return any(
            one["content"].get("execution_state") == "idle"
            and one["parent_header"].get("msg_id") == message
            for one in self.messages
        )

    @property
    def shown(self) -> str:
        """All text that was published, errors too."""
        parts = []
        for message in self.messages:
            content = message["content"]
            parts += [content.get("data", {}).get("text/html", ""), content.get("text", "")]
            parts += content.get("traceback", [])
        return ANSI.sub("", "\n".join(map(str, parts)))

    @property
    def widgets(self) -> int:
        """How many widgets were shown."""
        return sum(WIDGET in one["content"].get("data", {}) for one in self.messages)

    def value(self, expression: str) -> str:
        """Give the repr of an expression in the kernel."""
        reply = self.client.execute_interactive(
            "", silent=True, user_expressions={"value": expression}, timeout=60
        )
        found = reply["content"]["user_expressions"]["value"]
        return str(found["data"]["text/plain"])


@pytest.fixture
def talk(kernel: Kernels, account: Sandbox) -> Talk:
    """Give a kernel with the extension in it."""
    made = Talk(kernel.start())
    assert made.run(LOAD)["status"] == "ok"
    return made


STALLED = Reply(TALE, after=6, then="stall", speed=8)


def test_an_interrupt_keeps_what_had_arrived(talk: Talk, account: Sandbox) -> None:
    """Stop ends the cell in one line; the part that came stands there and is in the ledger."""
    account.script(STALLED)
    message = talk.start("%%deepseek -t off\nTell a tale.")
    talk.wait_for("Once upon a time")

    interrupt = talk.client.session.msg("interrupt_request", content={})
    talk.client.control_channel.send(interrupt)
    reply = talk.finish(message)

    assert (reply["status"], reply["ename"]) == ("error", "Interrupted")
    assert len(reply["traceback"]) == 1
    assert "Once upon a time" in talk.shown
    assert "interrupted · deepseek-flash" in talk.shown
    (entry,) = entries()
    assert (entry["state"], entry["cost"]) == ("interrupted", None)
    assert entry["answer"].startswith("Once upon a time")
    account.wait_idle()
    assert account.requests[-1].client_gone
    assert talk.run("%%deepseek\nWhy?")["status"] == "ok"


def test_a_killed_kernel_leaves_its_question_in_the_ledger(talk: Talk, account: Sandbox) -> None:
    """What was under way when the kernel died is in the ledger as sent."""
    account.script(STALLED)
    pid = int(talk.value("__import__('os').getpid()"))
    talk.start("%%deepseek -t off\nTell a tale.")
    talk.wait_for("Once upon a time")

    os.kill(pid, signal.SIGKILL)

    (entry,) = entries()
    assert (entry["state"], entry["cost"], entry["ended"]) == ("sent", None, None)


def test_a_server_that_dies_is_one_line(talk: Talk, account: Sandbox) -> None:
    """When the API goes away in the middle of an answer the part that came is kept."""
    account.script(STALLED)
    message = talk.start("%%deepseek -t off\nTell a tale.")
    talk.wait_for("Once upon a time")

    account.close()
    reply = talk.finish(message)

    assert (reply["status"], reply["ename"]) == ("error", "BrokenAnswer")
    assert len(reply["traceback"]) == 1
    assert "Once upon a time" in talk.shown
    assert entries()[-1]["state"] == "partial"


def test_an_attended_cell_has_controls_until_unloading(talk: Talk, account: Sandbox) -> None:
    """With somebody in front of it a notice has controls and the balance lives; both can go."""
    account.balance = Decimal(0)

    dry = talk.run("%%deepseek\nWhy?", attended=True)
    notice = talk.widgets, talk.shown
    talk.run("%deepseek balance\n%deepseek balance", attended=True)
    balances = talk.widgets
    talk.run("%unload_ext deepseek_magic")

    assert dry["ename"] == "InsufficientBalance"
    assert notice[0] == 1
    assert "“Re-run cell” below" in notice[1]
    assert balances == 2
    left = "__import__('ipywidgets').widgets.widget._instances"
    assert talk.value(f"[type(one).__name__ for one in {left}.values()]") == "[]"
    threads = "[t.name for t in __import__('threading').enumerate() if 'deepseek' in t.name]"
    assert talk.value(threads) == "[]"


def test_a_cell_that_runs_again_in_its_place(talk: Talk, account: Sandbox) -> None:
    """The notice and its controls go at the moment at which the next output comes."""
    account.balance = Decimal(0)
    source = "for text in 'ab':\n    get_ipython().run_cell_magic('deepseek', '', text)"
    talk.run(source, attended=True)
    account.top_up(1)

    content = {"code": source, "silent": False, "allow_stdin": False}
    again = talk.client.session.msg("execute_request", content, metadata={MARK: True})
    talk.messages.clear()
    talk.client.shell_channel.send(again)
    reply = talk.finish(again["header"]["msg_id"])

    assert reply["status"] == "ok"
    kinds = [message["msg_type"] for message in talk.messages]
    clearing = kinds.index("clear_output")
    assert kinds.count("clear_output") == 1, "the second answer leaves the first alone"
    assert talk.messages[clearing]["content"] == {"wait": False}
    assert clearing < kinds.index("display_data")
    assert "left" in talk.shown


def test_a_front_end_is_helped(talk: Talk) -> None:
    """Completion and the tool tip of a real kernel know the magic."""
    source = "%%deepseek --on-empty "

    completed = talk.client.complete(source, reply=True, timeout=30)["content"]
    told = talk.client.inspect("%%deepseek", reply=True, timeout=30)["content"]
    paged = talk.run("%%deepseek?")["payload"][0]["data"]["text/plain"]

    assert completed["matches"] == ["notice", "raise", "wait"]
    assert (completed["cursor_start"], completed["cursor_end"]) == (len(source), len(source))
    for help_text in (told["data"]["text/plain"], paged):
        assert "--on-empty" in help_text
        assert "%deepseek balance" in help_text


def test_an_upgrade_in_a_running_kernel(kernel: Kernels, account: Sandbox, tmp_path: Path) -> None:
    """With `%autoreload 2` a changed file of ours breaks nothing, and unloading still cleans up."""
    here = Path(deepseek_magic.__file__).parent
    copy = tmp_path / "deepseek_magic_copy" / "deepseek_magic"
    shutil.copytree(here, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    talk = Talk(
        kernel.start({"PYTHONPATH": f"{copy.parent}{os.pathsep}{os.environ['PYTHONPATH']}"})
    )
    matchers = "[f.__name__ for f in get_ipython().Completer.custom_matchers]"
    talk.run("%load_ext autoreload\n%autoreload 2")
    before = talk.value(matchers)
    talk.run(LOAD)
    first = talk.run("%%deepseek --out answer\nWhy?")

    for path in copy.glob("*.py"):
        path.write_text(f"{path.read_text()}\nCHANGED = True\n")
        os.utime(path, (time.time() + 10, time.time() + 10))
    second = talk.run("%%deepseek --out answer\nWhy?")
    shown = talk.run("answer\n")
    unloaded = talk.run("%unload_ext deepseek_magic")

    assert [one["status"] for one in (first, second, shown, unloaded)] == ["ok"] * 4
    assert "Traceback" not in talk.shown
    assert len(account.requests) == 2
    assert talk.value(matchers) == before
    assert talk.value("get_ipython().find_cell_magic('deepseek')") == "None"
    transformers = "[str(f) for f in get_ipython().input_transformers_cleanup]"
    assert "help_alone" not in talk.value(transformers)
    assert talk.value("__import__('sys').modules['deepseek_magic.magics'].CHANGED") == "True"
