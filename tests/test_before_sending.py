"""What a cell says and does about its money before it sends: the options, and the settings."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from traitlets import TraitError

from deepseek_magic.magics import DeepSeekMagics, find
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.workspace import Workspace

PEAK = datetime(2026, 11, 23, 3, 59, tzinfo=UTC)
"""A minute before the off-peak hours of a Monday in Beijing."""
OFF_PEAK = timedelta(minutes=1)
WORDS = Reply(text="Because. " * 12)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.at = PEAK

    def __call__(self) -> datetime:
        """Give the time."""
        return self.at


class Cells:
    """Runs cells in a shell and gives what they show."""

    def __init__(self, shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
        self.shell = shell
        self._capsys = capsys

    @property
    def magics(self) -> DeepSeekMagics:
        """The magics of the shell."""
        found = find(self.shell)
        assert found is not None
        return found

    def __call__(self, source: str) -> str:
        """Run a cell; give its outputs, with single spaces."""
        self._capsys.readouterr()
        self.shell.run_cell(source)
        shown = self._capsys.readouterr()
        return " ".join((shown.out + shown.err).split())


@pytest.fixture
def clock() -> Clock:
    """Give the clock of the account and of the notebook."""
    return Clock()


@pytest.fixture
def account(clock: Clock) -> Iterator[Sandbox]:
    """Give an account with 5 CNY, whose answers are all alike."""
    with Sandbox(balance="5.00", currency="CNY", decimals=6, clock=clock) as api:
        api.script(*[WORDS] * 20)
        yield api


@pytest.fixture
def nobody(shell: Any, capsys: pytest.CaptureFixture[str]) -> Cells:
    """Give a notebook without a key."""
    return Cells(shell, capsys)


@pytest.fixture
def cells(account: Sandbox, clock: Clock, nobody: Cells, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """Give a notebook that asks the account, in peak hours."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", account.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", account.base_url)
    nobody.magics._workspace = Workspace(nobody.shell, nobody.magics, set(), clock)
    return nobody


def asked(api: Sandbox) -> int:
    """Count the questions that were sent."""
    return sum(request.method == "POST" for request in api.traffic)


def learn(cells: Cells) -> None:
    """Let the ledger know how long answers are."""
    for _ in range(3):
        cells("%%deepseek -t off\nWhy?")


# A dry run


def test_a_dry_run_sends_nothing(cells: Cells, account: Sandbox) -> None:
    """`--dry-run` tells what would be sent and what it costs; only the balance is read."""
    cells("name = 'you'")

    shown = cells("%%deepseek --dry-run -t off -s 'Be brief.' -o kept\nWhy {{name}}?")

    assert asked(account) == 0
    assert "kept" not in cells.shell.user_ns
    for part in (
        "Nothing was sent. (would be sent)",
        "Model deepseek-flash, no thinking",
        "Hours peak until 04:00",
        "Balance 5.00 CNY left",
        "system (9 characters): Be brief.",
        "user (8 characters): Why you?",
    ):
        assert part in shown


def test_a_dry_run_tells_what_stands_against_it(cells: Cells, account: Sandbox) -> None:
    """It shows what a check would say, and what would become of it with --anyway."""
    learn(cells)

    refused = cells("%%deepseek --dry-run -t off --budget 0.00001\nWhy?")
    allowed = cells("%%deepseek --dry-run -t off --budget 0.00001 --anyway\nWhy?")

    assert asked(account) == 3
    assert "(would not be sent)" in refused
    assert "its budget has 0.00001 CNY left" in refused
    assert "Budget 0.00001 CNY left" in refused
    assert "(would be sent)" in allowed
    assert "as --anyway passes over this: This question usually costs" in allowed


def test_a_dry_run_tells_what_would_be_waited_for(cells: Cells, clock: Clock) -> None:
    """With --off-peak it says until when the cell would wait, and does not wait itself."""
    waits = cells("%%deepseek --dry-run --off-peak\nWhy?")
    clock.at += OFF_PEAK
    goes = cells("%%deepseek --dry-run --off-peak\nWhy?")

    assert re.search(r"It would wait until \S+ \(in 1 min\), for the off-peak price", waits)
    assert "it costs less: --off-peak" not in waits
    assert "It would not wait: the hours are off-peak now." in goes


def test_a_dry_run_without_a_key(nobody: Cells) -> None:
    """Without a key there are prices in both currencies, and no error."""
    shown = nobody("%%deepseek --dry-run -t off --max-tokens 100 --budget 1\nWhy?")

    assert "(no key is set)" in shown
    assert "In CNY between 0.000" in shown
    assert "In USD between 0.0000" in shown
    assert "the balance is not known: %deepseek login" in shown


def test_a_dry_run_without_a_network(cells: Cells, account: Sandbox) -> None:
    """Where the balance cannot be read it is unknown, with the reason; the rest is told."""
    account.close()

    shown = cells("%%deepseek --dry-run -t off --max-tokens 100\nWhy?")

    assert "Balance unknown" in shown
    assert "In USD between" in shown
    assert re.search("Note .* was not reached", shown)
    assert "price of deepseek-flash is not known" not in shown


def test_a_dry_run_of_a_wrong_budget_is_one_line(cells: Cells) -> None:
    """What is no amount is refused as it would be by the cell itself."""
    shown = cells("%%deepseek --dry-run --budget much\nWhy?")

    assert shown.startswith("InvalidOption: --budget takes an amount")


# Limits


def test_a_budget_refuses(cells: Cells, account: Sandbox) -> None:
    """A cell that cannot keep its budget is not sent, and says so with its figures."""
    learn(cells)

    shown = cells("%%deepseek -t off --budget 0.00001\nWhy?")

    assert asked(account) == 3
    assert "its budget has 0.00001 CNY left. When" in shown
    assert "Billed nothing: it was not sent Cheaper: - Off-peak, from" in shown
    assert "Or send it all the same: add --anyway. OverLimit: This question usually" in shown


def test_anyway_is_sent(cells: Cells, account: Sandbox) -> None:
    """The same cell with --anyway is sent."""
    learn(cells)

    shown = cells("%%deepseek -t off --budget 0.00001 --anyway\nWhy?")

    assert asked(account) == 4
    assert "Because." in shown
    assert "OverLimit" not in shown


def test_a_flag_beats_the_budget_of_the_notebook(cells: Cells, account: Sandbox) -> None:
    """`DeepSeekMagics.budget` holds for each cell that says nothing else."""
    learn(cells)
    cells.magics.budget = "0.00001"

    refused = cells("%%deepseek -t off\nWhy?")
    sent = cells("%%deepseek -t off --budget 1\nWhy?")

    assert "OverLimit" in refused
    assert "Because." in sent
    assert asked(account) == 4


def test_a_days_limit_holds_at_once(cells: Cells, account: Sandbox) -> None:
    """`DeepSeekMagics.day_limit` counts for the session that runs, and the notice has its state."""
    learn(cells)
    cells.magics.day_limit = "0.0001"

    refused = cells("%%deepseek -t off\nWhy?")
    cells.magics.day_limit = None
    sent = cells("%%deepseek -t off\nWhy?")

    spent = re.search(r"Today (\S+) CNY spent, of 0.0001 CNY", refused)
    assert spent
    assert float(spent[1]) == pytest.approx(float(account.billed) * 3 / 4, rel=0.1)
    assert "raise it: %config DeepSeekMagics.day_limit = '0.01'" in refused
    assert "Because." in sent


def test_a_price_of_the_users_own_counts_at_once(cells: Cells) -> None:
    """`DeepSeekMagics.prices` prices the very next answer."""
    cells("%%deepseek -t off -o first\nWhy?")
    cells.magics.prices = {"flash": {"CNY": "0 0 4000"}}
    cells("%%deepseek -t off -o second\nWhy?")

    first, second = (cells.shell.user_ns[name] for name in ("first", "second"))
    assert second.cost > 100 * first.cost
    assert second.cost == second.usage.completion_tokens * Decimal("0.004")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("budget", "much", "budget takes an amount as text, such as '5.00', or None; 'much' is"),
        ("day_limit", "-1", "day_limit takes an amount as text"),
        ("day_limit", "nan", "day_limit takes an amount as text"),
        ("prices", {"my-model": {"CNY": "1 2"}}, "my-model"),
        ("prices", {"my-model": "1 2 3"}, "my-model"),
    ],
)
def test_a_wrong_setting_is_refused(nobody: Cells, name: str, value: Any, says: str) -> None:
    """A setting that could not be used says so when it is set, in one line, and is not taken."""
    before = getattr(nobody.magics, name)

    with pytest.raises(TraitError) as caught:
        setattr(nobody.magics, name, value)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert getattr(nobody.magics, name) == before


# Off-peak


def in_the_meantime(do: Callable[[], object], account: Sandbox) -> threading.Thread:
    """Do something while a cell waits, if nothing has been sent until then."""
    before = asked(account)

    def run() -> None:
        time.sleep(0.5)
        if asked(account) == before:
            do()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("way", ["flag", "setting"])
def test_off_peak_waits(cells: Cells, account: Sandbox, clock: Clock, way: str) -> None:
    """A cell waits for the cheaper hours, says until when, and goes on by itself."""
    clock.at = PEAK + OFF_PEAK - timedelta(seconds=1)
    cells.magics.off_peak = way == "setting"

    def goes_on() -> None:
        clock.at = PEAK + OFF_PEAK

    thread = in_the_meantime(goes_on, account)
    shown = cells(f"%%deepseek -t off {'--off-peak' if way == 'flag' else ''}\nWhy?")
    thread.join()

    assert asked(account) == 1
    assert clock.at == PEAK + OFF_PEAK
    assert re.match(r"Waiting for off-peak hours: from \S+ \(in 1\.0 s\)", shown)
    assert shown.count("Waiting") == 1
    assert "for off-peak hours. Because." in shown
    assert "CNY off-peak" in shown


def test_off_peak_hours_are_not_waited_for(cells: Cells, account: Sandbox, clock: Clock) -> None:
    """In the cheaper hours --off-peak sends at once."""
    clock.at = PEAK + OFF_PEAK

    shown = cells("%%deepseek -t off --off-peak\nWhy?")

    assert asked(account) == 1
    assert "Wait" not in shown


def test_the_wait_can_be_interrupted(cells: Cells, account: Sandbox) -> None:
    """Interrupting the wait sends nothing and is one line."""
    learn(cells)
    here = threading.get_ident()

    def stop() -> None:
        signal.pthread_kill(here, signal.SIGINT)  # it ends what the thread waits for

    thread = in_the_meantime(stop, account)
    shown = cells("%%deepseek -t off --off-peak\nWhy?")
    thread.join()

    assert asked(account) == 3
    assert re.search(r"from \S+ \(in 1 min\), then about \S+ CNY instead of \S+ CNY\.", shown)
    assert shown.endswith(
        "Interrupted: the wait for off-peak hours was stopped. Nothing was sent. To ask now: run "
        "the cell without --off-peak"
    )


# After the answer


def test_the_balance_tells_what_the_day_took(cells: Cells, account: Sandbox) -> None:
    """The balance tells what was spent today, how long it lasts, and when the hours change."""
    learn(cells)

    shown = cells("%deepseek balance")

    spent = re.search(r"Today (\S+) CNY spent", shown)
    assert spent
    assert Decimal(spent[1]) == pytest.approx(account.billed, rel=Decimal("0.05"))
    assert re.search(r"Lasts .* at this rate", shown)
    assert re.search(r"Hours peak until \S+, then off-peak", shown)


def test_a_warning_stands_once(cells: Cells, account: Sandbox) -> None:
    """When the balance passes below its mark one quiet line says so, and the others do not."""
    account.balance = Decimal("5.0005")

    lines = [cells("%%deepseek -t off\nWhy?") for _ in range(5)]

    assert account.balance < 5
    assert ["is left, which is under 5 CNY." in line for line in lines].count(True) == 1
