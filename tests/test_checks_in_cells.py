"""What checks, limits and hours do to the cells of a notebook, in real kernels."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_magic.home import ledger_path
from deepseek_magic.ledger import Ledger
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session
from harness.kernels import Kernels, Ran
from harness.notebooks import ANSI, write
from harness.pages import Page, start

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient

    from deepseek_magic.ledger import Pending

LOAD = "%load_ext deepseek_magic"
WORDS = Reply(text="Because of **Rayleigh**. " * 8)
ASK = "%%deepseek -t off\nWhy?"
HERE: dict[str, Any] = {"cellId": "c1"}
MAGICS = "get_ipython().magics_manager.registry['DeepSeekMagics']"
NOTICES = f"{MAGICS}.workspace.notices"
BUTTONS = f"{NOTICES}._standing['c1'][0].box.children[0].children"
SAID = f"{NOTICES}._standing['c1'][0].box.children[-1].value"
NEW_CLOCK = f"""\
from datetime import datetime
from pathlib import Path
from deepseek_magic.workspace import Workspace
{MAGICS}._workspace = Workspace(
    get_ipython(), {MAGICS}, set(), lambda: datetime.fromisoformat(Path({{path!r}}).read_text())
)"""

OFF_PEAK = datetime(2026, 11, 23, 4, tzinfo=UTC)
"""The first off-peak moment after a peak, on a Monday in Beijing."""
PEAK = OFF_PEAK - timedelta(minutes=30)
SOON = OFF_PEAK - timedelta(seconds=0.3)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give an account whose answers are all alike to whatever looks at the environment."""
    with Sandbox(balance="5.00", currency="CNY", decimals=6) as api:
        api.script(WORDS, forever=True)
        monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
        monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
        yield api


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """Give the file that a notebook's clock shows."""
    return tmp_path / "clock"


@dataclass
class Book:
    """A page without a browser on its own kernel, and the account that the kernel asks."""

    page: Page
    account: Sandbox
    clock: Path
    process: int

    def set_time(self, at: datetime) -> None:
        """Set the clock of the account and of the notebook."""
        new = self.clock.with_suffix(".new")
        new.write_text(at.isoformat())
        new.rename(self.clock)
        self.account.set_clock(at)

    def begin(self, at: datetime = PEAK) -> None:
        """Load the extension on a clock that stands still until it is set."""
        self.set_time(at)
        self.page.cell(LOAD)
        self.page.cell(NEW_CLOCK.format(path=str(self.clock)))

    def learn(self) -> None:
        """Let the ledger know how long answers are."""
        for _ in range(3):
            self.page.cell(ASK)

    @property
    def asked(self) -> int:
        """How many questions were sent."""
        return len(self.account.requests)

    def labels(self) -> list[str]:
        """Give the labels of the buttons in the cell."""
        return self.page.value(f"*[b.description for b in {BUTTONS}], sep='|'").split("|")

    def button(self, label: str) -> str:
        """Give the comm id of a button in the cell."""
        return self.page.value(
            f"[b for b in {BUTTONS} if b.description == {label!r}][0].comm.comm_id"
        )

    def standing(self, request: str) -> list[dict[str, Any]]:
        """Give the displays that stand in the place of *request*, as they are now."""
        shown: dict[str, dict[str, Any]] = {}
        wait = False
        for message in self.page.of(request):
            kind, content = message["msg_type"], message["content"]
            if kind == "clear_output":
                wait = True
            elif kind in {"display_data", "update_display_data"}:
                if wait:
                    shown, wait = {}, False
                name = content.get("transient", {}).get("display_id") or str(len(shown))
                shown[name] = content
        return [one for one in shown.values() if any(one["data"].values())]

    def text(self, request: str) -> str:
        """Give what stands in the place of *request*, as text with single spaces."""
        plain = [one["data"].get("text/plain", "") for one in self.standing(request)]
        return " ".join(" ".join(plain).split())

    def error(self, request: str) -> str:
        """Give the traceback of the last error of *request*, without colours."""
        found = [m["content"] for m in self.page.of(request) if m["msg_type"] == "error"]
        return ANSI.sub("", "\n".join(found[-1]["traceback"]))

    def until(self, true: Callable[[], object]) -> None:
        """Wait for *true*, while the page answers what it is asked."""
        end = time.monotonic() + 20
        while not true():
            assert time.monotonic() < end, "it did not happen"
            self.page.cell("import time; time.sleep(0.05)")


@pytest.fixture
def bare(account: Sandbox, clock: Path, tmp_path: Path) -> Iterator[Book]:
    """Give a page whose kernel has not loaded the extension yet."""
    manager = start(tmp_path)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    pid = getattr(manager.provisioner, "pid", None)
    assert isinstance(pid, int)
    yield Book(Page(client), account, clock, pid)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.fixture
def book(bare: Book) -> Book:
    """Give a page in peak hours, whose account has been asked a few times."""
    bare.begin()
    bare.learn()
    return bare


def pending(api: Sandbox) -> list[Pending]:
    """Give the cells on the list, as another process reads it."""
    with Session(api_key=api.api_key, base_url=api.base_url) as session:
        return session.ledger.pending(session.account)


def waiting(api: Sandbox) -> list[str]:
    """Give the texts of the cells on the list."""
    return [(row.text or "").strip() for row in pending(api)]


def until(true: Callable[[], object]) -> None:
    """Wait for what is on its way to the disk."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def states() -> list[str]:
    with closing(Ledger(ledger_path())) as ledger:
        return [entry["state"] for entry in ledger.entries()]


def ask_before(account: Sandbox) -> None:
    """Let the ledger know how long answers are, before any notebook runs."""
    with Session(api_key=account.api_key, base_url=account.base_url) as session:
        for _ in range(3):
            session.ask("Why?", think="off")


# Send anyway


@dataclass(frozen=True)
class Check:
    """A check that refuses, what makes it do so, and what the user is told."""

    source: str
    before: Callable[[Book], object]
    error: str
    told: tuple[str, ...]
    buttons: tuple[str, ...]


def set_day_limit(book: Book) -> None:
    book.page.cell("%config DeepSeekMagics.day_limit = '0.0001'")


def nearly_spend_all(book: Book) -> None:
    book.account.balance = Decimal("0.000100")
    book.page.cell("%deepseek balance")


CHECKS = {
    "budget": Check(
        source="%%deepseek -t off --budget 0.00001\nWhy?",
        before=lambda _: None,
        error="OverLimit: This question usually costs about 0.00",
        told=("its budget has 0.00001 CNY left", "Raise the limit"),
        buttons=("Re-run cell", "Send anyway", "Check balance"),
    ),
    "day": Check(
        source=ASK,
        before=set_day_limit,
        error="OverLimit: This question usually costs about 0.00",
        told=("is left for today", "CNY spent, of 0.0001 CNY", "Raise the limit"),
        buttons=("Re-run cell", "Send anyway", "Check balance"),
    ),
    "balance": Check(
        source=ASK,
        before=nearly_spend_all,
        error="InsufficientBalance: This question costs about 0.00",
        told=("0.0001 CNY is left", "Balance 0.0001 CNY", "Top up"),
        buttons=("Re-run cell", "Re-run when topped up", "Send anyway", "Check balance"),
    ),
}


@pytest.mark.kernel
@pytest.mark.parametrize("name", CHECKS)
def test_a_refused_cell_can_be_sent_all_the_same(book: Book, name: str) -> None:
    """A notice tells why; one click sends once, the next run is checked; --anyway sends at once."""
    check = CHECKS[name]
    check.before(book)
    sent = book.asked

    cell = book.page.cell(check.source, HERE)
    refused = book.text(cell), book.labels(), book.asked
    comm = book.button("Send anyway")
    book.page.click(comm)
    book.page.click(comm)
    book.page.until(lambda: book.page.ended(cell, 2))
    answered = book.text(cell)
    book.until(lambda: not pending(book.account))
    paid = book.asked
    check.before(book)
    again = book.page.cell(check.source, HERE)
    once_more = book.button("Re-run cell")
    book.page.click(once_more)
    book.page.until(lambda: book.page.ended(again, 2))
    checked, fresh = book.asked, (book.labels(), book.button("Re-run cell"))
    until(lambda: waiting(book.account) == [check.source])
    option = book.page.cell(check.source.replace("-t off", "-t off --anyway"), HERE)
    book.until(lambda: not pending(book.account))

    notice, buttons, asked = refused
    assert asked == sent
    assert buttons == list(check.buttons)
    for part in (
        *check.told,
        "Billed nothing: it was not sent",
        "Likely cost about 0.00",
        "Cheaper: - Off-peak, from",
        "Or send it all the same: add --anyway.",
    ):
        assert part in notice
    assert paid == sent + 1
    assert answered.startswith("Because of **Rayleigh**.")
    assert "CNY peak" in answered
    assert "not sent" not in answered
    assert checked == paid, "the permission was for one run"
    assert [book.page.errors(run) for run in (cell, again)] == [
        [check.error.partition(":")[0]],
        [check.error.partition(":")[0]] * 2,
    ]
    assert book.error(again).startswith(check.error)
    assert "\n" not in book.error(again)
    assert fresh[0] == list(check.buttons)
    assert fresh[1] != once_more, "a fresh notice stands there"
    assert book.page.errors(option) == []
    assert book.text(option).startswith("Because of")
    assert book.asked == paid + 1


@pytest.mark.kernel
def test_an_empty_account_takes_the_permission_with_it(book: Book) -> None:
    """Where the API refuses what was sent anyway, the fresh notice's Re-run is checked again."""
    source = CHECKS["budget"].source
    cell = book.page.cell(source, HERE)
    book.account.balance = Decimal(0)
    sent = book.asked

    book.page.click(book.button("Send anyway"))
    book.page.until(lambda: book.page.ended(cell, 2))
    notice, buttons = book.text(cell), book.labels()
    book.account.top_up("5.00")
    book.page.click(book.button("Re-run cell"))
    book.page.until(lambda: book.page.ended(cell, 3))

    assert "Billed nothing for this question" in notice
    assert "--anyway" not in notice
    assert buttons == ["Re-run cell", "Re-run when topped up", "Check balance"]
    assert book.page.errors(cell) == ["OverLimit", "InsufficientBalance", "OverLimit"]
    assert book.asked == sent + 1
    assert book.labels() == ["Re-run cell", "Send anyway", "Check balance"]


@pytest.mark.kernel
def test_a_check_can_wait_for_a_top_up(book: Book) -> None:
    """Too little money is waited for without a question being sent, and then it is asked once."""
    nearly_spend_all(book)
    cell = book.page.cell(ASK, HERE)
    sent = book.asked

    book.page.click(book.button("Re-run when topped up"))
    book.until(lambda: "next look in" in book.page.value(SAID))
    waiting = book.asked, book.labels()
    book.account.top_up("5.00")
    book.until(lambda: book.page.states(cell).count("idle") > 1 and book.page.idle(cell))
    book.until(lambda: not pending(book.account))

    assert waiting == (
        sent,
        ["Re-run cell", "Cancel waiting", "Send anyway", "Check balance"],
    )
    assert book.asked == sent + 1
    assert "Because of" in book.text(cell)


@pytest.mark.parametrize(
    ("question", "broken", "told"),
    [
        (
            "%%deepseek -m my-model --budget 1\nWhy?",
            False,
            "Set the price (%deepseek prices --set)",
        ),
        ("%%deepseek --budget 1\nWhy?", True, "Wait until the balance can be read"),
    ],
    ids=["price", "currency"],
)
def test_a_higher_limit_is_not_asked_for_in_vain(  # noqa: PLR0917  # three are the case
    account: Sandbox,
    shell: Any,
    capsys: pytest.CaptureFixture[str],
    question: str,
    broken: bool,
    told: str,
) -> None:
    """Where a limit cannot be kept for want of a figure, the notice says what to do about that."""
    if broken:
        account.script(500, path="/user/balance", forever=True)
    capsys.readouterr()

    shell.run_cell(question)

    shown = capsys.readouterr().out
    assert f"{told}, then run this cell again. Or send it all the same: add --anyway." in shown
    assert "Raise" not in shown
    assert len(account.requests) == 0


def test_a_limit_of_one_cell_stops_no_other(
    account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`%deepseek rerun` asks what it may, and fails with the refusal when that is done."""
    ask_before(account)
    shell.run_cell(CHECKS["budget"].source)
    account.balance = Decimal(0)
    shell.run_cell("%%deepseek -t off\nWhere?")
    account.top_up("5.00")
    capsys.readouterr()

    result = shell.run_cell("%deepseek rerun")

    shown = capsys.readouterr().out
    assert shown.index("Raise the limit") < shown.index("Because of")
    assert type(result.error_in_exec).__name__ == "OverLimit"
    until(lambda: waiting(account) == [CHECKS["budget"].source])


@pytest.mark.kernel
def test_a_limit_of_one_cell_stops_no_other_in_its_place(book: Book) -> None:
    """So it is where the cells run again in their own places."""
    first = book.page.cell(CHECKS["budget"].source, HERE)
    book.account.balance = Decimal(0)
    second = book.page.cell("%%deepseek -t off\nWhere?", {"cellId": "c2"})
    book.account.top_up("5.00")
    sent = book.asked

    book.page.cell("%deepseek rerun")
    book.page.until(lambda: book.page.ended(second, 2))

    assert book.asked == sent + 1
    assert book.page.errors(first) == ["OverLimit", "OverLimit"]
    assert "Because of" in book.text(second)


# A dry run

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> \x1b[2J \u202e {{name}} --anyway"


@pytest.mark.kernel
def test_a_dry_run_changes_nothing(book: Book) -> None:
    """It is shown as HTML and text; nothing is sent, bound, noted or taken from the list."""
    book.page.cell(CHECKS["budget"].source, HERE)
    until(lambda: waiting(book.account) == [CHECKS["budget"].source])
    waited, noted, sent = pending(book.account), states(), book.asked
    book.page.cell("name = '{{not again}}'; kept = 1")

    cell = book.page.cell(f"%%deepseek --dry-run -t off -o kept\n{HOSTILE}", HERE)

    (shown,) = book.standing(cell)
    assert set(shown["data"]) == {"text/html", "text/plain"}
    assert "deepseek_magic" not in shown["metadata"]
    assert "<script>" not in shown["data"]["text/html"]
    assert "<img" not in shown["data"]["text/html"]
    assert "&lt;script&gt;" in shown["data"]["text/html"]
    assert not set("\x1b\u202e") & set("".join(shown["data"].values()))
    for form in shown["data"].values():
        assert "Nothing was sent." in form
        assert "{{not again}}" in form
    assert book.page.errors(cell) == []
    assert book.page.value("kept") == "1"
    assert book.page.value(f"{NOTICES}._standing.get('c1', [])") == "[]"
    assert (book.asked, states(), pending(book.account)) == (sent, noted, waited)


WRONG = {
    "%%deepseek --dry-run --budgt 1\nWhy?": "InvalidOption: ",
    "%%deepseek --dry-run --budget much\nWhy?": "InvalidOption: ",
    "%%deepseek --dry-run\n{{nobody}}": "InvalidOption: ",
    "%%deepseek --dry-run\nsk-0123456789abcdef0123456789abcdef": "KeyInText: ",
}
"""Dry runs of what the cell itself would refuse, and how they end."""


@pytest.mark.kernel
def test_a_dry_run_without_a_key(kernel: Kernels) -> None:
    """It shows the cost in both currencies and succeeds; a wrong one fails in one line."""
    right = "%%deepseek --dry-run --off-peak -o kept\nWhy?"

    ran = kernel.run([LOAD, right, "'kept' in globals()", *WRONG], allow_errors=True)

    for shown in (ran.text(1), ran.html(1)):
        assert "no key is set" in shown
        assert "In CNY" in shown
        assert "In USD" in shown
        assert "It would " in shown
    assert ran.text(2) == "False"
    for number, kind in enumerate(WRONG.values(), 3):
        (output,) = ran.notebook.cells[number].outputs
        told = ANSI.sub("", "\n".join(output.traceback))
        assert told.startswith(kind)
        assert "\n" not in told


# Off-peak


@pytest.mark.kernel
def test_a_cell_waits_for_the_cheaper_hours(bare: Book) -> None:
    """It is on the list while it waits, is sent when they begin at their price, and is gone."""
    bare.begin(SOON)
    cell = bare.page.queue("%%deepseek -t off --off-peak\nWhy?", HERE)
    bare.page.until(lambda: "Waiting for off-peak hours: from" in bare.text(cell))
    until(lambda: waiting(bare.account) == ["%%deepseek -t off --off-peak\nWhy?"])
    before = bare.asked

    bare.set_time(OFF_PEAK)
    bare.page.until(lambda: bare.page.ended(cell))
    bare.until(lambda: not pending(bare.account))

    assert (before, bare.asked) == (0, 1)
    assert bare.page.errors(cell) == []
    assert "Waiting" not in bare.text(cell)
    assert "CNY off-peak" in bare.text(cell)


@pytest.mark.kernel
def test_the_wait_for_cheaper_hours_can_be_stopped(bare: Book) -> None:
    """Interrupting it is one line and sends nothing; without the option the cell then runs."""
    bare.begin(PEAK)
    cell = bare.page.queue("%%deepseek -t off --off-peak\nWhy?", HERE)
    bare.page.until(lambda: "Waiting for off-peak hours: from" in bare.text(cell))

    os.kill(bare.process, signal.SIGINT)
    bare.page.until(lambda: bare.page.ended(cell))
    stopped = bare.error(cell), bare.text(cell), bare.asked
    now = bare.page.cell(ASK, HERE)

    assert stopped[0] == (
        "Interrupted: the wait for off-peak hours was stopped. Nothing was sent. To ask now: run "
        "the cell without --off-peak"
    )
    assert stopped[1].startswith("Waited ")
    assert stopped[2] == 0
    assert "CNY peak" in bare.text(now)
    assert bare.asked == 1
    until(lambda: not pending(bare.account))


@pytest.mark.kernel
def test_a_job_waits_for_the_cheaper_hours(kernel: Kernels, account: Sandbox, clock: Path) -> None:
    """Unattended it waits too, is on no list, and its saved output is the answer."""
    clock.write_text(SOON.isoformat())
    new = clock.with_suffix(".new")  # whole from the first look on
    new.write_text(OFF_PEAK.isoformat())
    move = f"import threading; move = Path({str(new)!r}).rename; "
    move += f"threading.Timer(0.2, move, [{str(clock)!r}]).start()"

    ran = kernel.run(
        [LOAD, NEW_CLOCK.format(path=str(clock)), move, "%%deepseek -t off --off-peak\nWhy?"]
    )

    assert ran.error is None
    assert "off-peak" in ran.text(3)
    assert "Because of" in ran.text(3)
    assert len(account.requests) == 1
    assert pending(account) == []


# Nobody there


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["day", "balance"])
def test_a_job_that_a_check_refuses_fails(kernel: Kernels, account: Sandbox, name: str) -> None:
    """The cell fails in one line below a notice without widgets; later cells do not run."""
    check = CHECKS[name]
    ask_before(account)
    settings = "%config DeepSeekMagics.day_limit = '0.0001'" if name == "day" else "pass"
    if name == "balance":
        account.balance = Decimal("0.000100")

    ran = kernel.run([LOAD, settings, "%deepseek balance", check.source, "print('reached')"])

    notice, failure = ran.notebook.cells[3].outputs
    told = ANSI.sub("", "\n".join(failure.traceback))
    assert told.startswith(check.error)
    assert "\n" not in told
    assert check.error in str(ran.error)
    assert "Traceback" not in str(ran.error)
    assert set(notice.data) == {"text/html", "text/plain"}
    for form in notice.data.values():
        assert "not sent" in form
        assert "Likely cost" in form
        assert "add --anyway" in form
        assert "below" not in form, "there are no buttons below"
    assert "widgets" not in ran.notebook.metadata
    assert ran.text(4) == ""
    assert len(account.requests) == 3
    assert waiting(account) == [check.source]


# What a saved notebook tells


def stamps(ran: Ran) -> list[dict[str, Any]]:
    outputs = [output for cell in ran.notebook.cells for output in cell.get("outputs", [])]
    found = [output.get("metadata", {}).get("deepseek_magic") for output in outputs]
    return [dict(one) for one in found if one is not None]


@pytest.mark.kernel
def test_a_saved_notebook_knows_its_cost(
    kernel: Kernels,
    account: Sandbox,
    shell: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each answer is stamped with cost, tokens, or a range; `usage --notebook` adds them up."""
    account.script(WORDS, WORDS, Reply(text="Because. " * 90, after=40, then="close"))
    ran = kernel.run(
        [LOAD, ASK, f"{ASK}?", "%%deepseek -t off --max-tokens 200\nWhy?"], allow_errors=True
    )
    write(tmp_path / "saved.ipynb", ran.notebook)

    capsys.readouterr()
    shell.run_cell(f"%deepseek usage --notebook {tmp_path / 'saved.ipynb'}")
    told = capsys.readouterr().out

    first, second, broken = stamps(ran)
    assert [Decimal(one["cost"]) for one in (first, second)] == [
        request.cost for request in account.requests[:2]
    ]
    assert [one["tokens"]["completion_tokens"] for one in (first, second)] == [60, 60]
    assert first["cost_range"] is second["cost_range"] is None
    assert (broken["cost"], broken["ending"]) == (None, "incomplete")
    low, high = map(Decimal, broken["cost_range"])
    last = account.requests[2].cost
    assert last is not None
    assert low <= last <= high < Decimal("0.01")
    assert re.search(r"deepseek-flash +3 +0\.\d+ to 0\.\d+ CNY +3 +120\n", told)
    assert "for 1 answer whose exact bill is not known" in told


# Limits of a day


def run(client: BlockingKernelClient, source: str) -> str:
    """Run a cell as a page does; give what it shows, and the errors, as text."""
    shown: list[str] = []

    def take(message: dict[str, Any]) -> None:
        content = message["content"]
        shown.append(content.get("data", {}).get("text/plain", "") + content.get("text", ""))
        shown.extend(content.get("traceback", ()))

    client.execute_interactive(source, timeout=60, allow_stdin=True, output_hook=take)
    return ANSI.sub("", "\n".join(shown))


@pytest.mark.kernel
def test_a_days_limit_holds_in_every_notebook(
    kernel: Kernels, account: Sandbox, clock: Path
) -> None:
    """Set in the middle of the day, it counts what all have spent; a bad value is one line."""
    clock.write_text(PEAK.isoformat())
    account.set_clock(PEAK)
    account.unscript()
    account.script(Reply(tokens=2000), forever=True)
    notebooks = kernel.start(), kernel.start()
    here, there = notebooks
    for one in notebooks:
        run(one, LOAD)
        run(one, NEW_CLOCK.format(path=str(clock)))
        run(one, ASK)
    limit = account.billed * Decimal("1.9")
    for one in notebooks:
        run(one, f"%config DeepSeekMagics.day_limit = '{limit}'")

    wrong = [
        run(here, f"%config DeepSeekMagics.day_limit = {value}")
        for value in ("'much'", "'-1'", "'nan'", "-0.5", "True", "['1']")
    ]
    after = [run(one, ASK) for one in (here, there, here, there)]
    raised = run(there, "%config DeepSeekMagics.day_limit = 0.5")
    at_last = run(there, ASK)

    for told in wrong:
        (line,) = told.strip().splitlines()
        assert "day_limit" in line
        assert "text, such as '5.00'" in line
    assert ["OverLimit" in told for told in after] == [False, True, True, True]
    assert "is left for today" in after[-1]
    assert raised.strip() == ""
    assert "OverLimit" not in at_last
    assert [request.status for request in account.requests] == [200] * 4


# Warnings


def test_a_low_balance_is_warned_of_once_a_fall(
    account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line warns when the balance passes below the mark, and again after it has risen."""

    def asked(number: int) -> list[bool]:
        told = []
        for _ in range(number):
            capsys.readouterr()
            shell.run_cell(ASK)
            told.append("is left, which is under 5 CNY. Top up" in capsys.readouterr().out)
            time.sleep(0.05)  # until the balance was read anew
        return told

    account.balance = Decimal("5.0003")
    first = asked(5)
    account.top_up("1.00")
    risen = asked(3)
    account.balance = Decimal("5.0003")
    again = asked(6)

    assert account.balance < 5
    assert first.count(True) == 1
    assert risen.count(True) == 0
    assert again.count(True) == 1


def test_what_was_low_already_is_no_news(
    account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An account that is under the mark from the beginning is not warned of."""
    account.balance = Decimal("4.00")
    capsys.readouterr()

    for _ in range(3):
        shell.run_cell(ASK)

    assert "which is under" not in capsys.readouterr().out
