"""A month of an account, simulated: what the ledger says is held against the server's bill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from deepseek_magic import reconcile
from deepseek_magic.errors import BrokenAnswer, InsufficientBalance
from deepseek_magic.prices import band
from deepseek_magic.sandbox import Exchange, Reply, Sandbox
from deepseek_magic.session import Session

BEIJING = timezone(timedelta(hours=8))
FIRST = date(2026, 9, 20)
DAYS = 31
CENT = Decimal("0.01")
HOURS = ("09:45", "10:20", "11:50", "12:10", "14:30", "17:59", "19:00")
QUIET = "22:30"
"""When all has settled."""

HALVED = {
    "flash": {"CNY": "0.01 0.5 2 0.02 1 4"},
    "pro": {"CNY": "0.075 2.25 6.75 0.15 4.5 13.5"},
}
"""Half of what the server takes: a table that the prices have left behind."""

HOLIDAYS = {date(2026, 9, 25), *(date(2026, 10, day) for day in range(1, 8))}
"""Mid-Autumn Festival and National Day, as far as they are on working days."""

UNSURE = {"interrupt", "break", "kill", "boundary"}
"""Events after which nobody can tell the cost to the digit."""

KILLED = """
    import sys, time
    from datetime import datetime
    from deepseek_magic.session import Session

    url, key, path, at = sys.argv[1:]
    session = Session(
        base_url=url, api_key=key, ledger=path, clock=lambda: datetime.fromisoformat(at)
    )
    for answer in session.stream("Count up.", think="off", max_tokens=4000):
        if answer.text:
            session.ledger.entries()  # after all that was to be written
            print("begun", flush=True)
            time.sleep(60)
"""


class Clock:
    """The time of the server and of every kernel; it goes on a little at every look."""

    def __init__(self) -> None:
        self.time = moment(FIRST, "00:00")

    def __call__(self) -> datetime:
        """Give the time, a millisecond later than the last."""
        self.time += timedelta(milliseconds=1)
        return self.time


def moment(day: date, hour: str) -> datetime:
    return datetime.combine(day, time.fromisoformat(hour), BEIJING).astimezone(UTC)


@dataclass
class Month:
    """One account, its user, and somebody else who has a key of it."""

    api: Sandbox
    ledger: Path
    clock: Clock
    chance: random.Random
    events: dict[int, list[str]] = field(default_factory=dict)
    session: Session | None = None
    others: list[datetime] = field(default_factory=list)
    prices_left: datetime | None = None

    def live(self) -> None:
        """Let all days pass."""
        for number in range(DAYS):
            self._day(FIRST + timedelta(days=number), self.events.get(number, []))

    def _day(self, day: date, events: list[str]) -> None:
        self.api.change(lag=self.chance.choice([0.0, 90.0, 900.0, 1795.0]))
        self._until(moment(day, "09:00"))
        self._restart()
        if "new prices" in events:
            self.prices_left = self.clock.time
        if self.prices_left is not None:
            self.kernel.own_prices = HALVED
        self._read()
        for hour in HOURS:
            if self.chance.random() < 0.75:
                self._until(moment(day, hour))
                self._ask()
        for event in events:
            self._until(self.clock.time + timedelta(minutes=3))
            self._meet(event, day)
        self._until(moment(day, QUIET))
        if self.api.balance < 60 and "dry" not in events:
            self.api.top_up(self.chance.choice([100, 150, 200]))
        self._read()

    def _meet(self, event: str, day: date) -> None:
        match event:
            case "interrupt":
                self._interrupt()
            case "break":
                self._break()
            case "kill":
                self._kill()
            case "boundary":
                self._cross(day)
            case "dry":
                self._run_dry()
            case "other":
                self._read()
                self._until(moment(day, "23:30"))
                self._let_another_ask()

    # -- what the user does -------------------------------------------------------

    @property
    def kernel(self) -> Session:
        """The kernel of today."""
        assert self.session is not None
        return self.session

    def _until(self, at: datetime) -> None:
        self.clock.time = max(self.clock.time, at)

    def _restart(self) -> None:
        if self.session is not None:
            self.session.close()
        self.session = Session(
            api_key=self.api.api_key,
            base_url=self.api.base_url,
            ledger=self.ledger,
            clock=self.clock,
            retries=0,
        )
        self.session.ledger.sweep(self.clock()).result(5)

    def _read(self) -> None:
        self.kernel.purse.wait(5)
        self.kernel.balance()
        self.check()

    def _ask(self, model: str | None = None) -> None:
        hit, miss = 64 * self.chance.randint(0, 2000), self.chance.randint(10, 90_000)
        out = self.chance.randint(1, 90_000)
        usage = {
            "prompt_tokens": hit + miss,
            "prompt_cache_hit_tokens": hit,
            "prompt_cache_miss_tokens": miss,
            "completion_tokens": out,
        }
        self.api.script(Reply(text="So it is.", usage=usage))
        model = model or self.chance.choice(["flash", "flash", "pro"])
        self.kernel.ask("Is it so?", model=model, think="off", anyway=True)
        self.check()

    def _interrupt(self) -> None:
        self.api.script(Reply(tokens=3000, after=self.chance.randint(5, 2500), then="stall"))
        with closing(self.kernel.stream("Go on.", think="off", max_tokens=4000)) as answers:
            for answer in answers:
                if answer.text:
                    break
        assert self.api.wait_idle()
        self.check()

    def _break(self) -> None:
        self.api.script(Reply(tokens=3000, after=self.chance.randint(5, 2500), then="reset"))
        with pytest.raises(BrokenAnswer):
            self.kernel.ask("Go on.", think="off", max_tokens=4000)
        self.check()

    def _kill(self) -> None:
        """Kill another kernel in the middle of an answer."""
        self.api.script(Reply(tokens=3000, after=1000, then="stall"))
        at = self.clock().isoformat()
        words = [self.api.base_url, self.api.api_key, str(self.ledger), at]
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), *words],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "begun\n"
            os.kill(child.pid, signal.SIGKILL)
        assert self.api.wait_idle()

    def _cross(self, day: date) -> None:
        """Ask at the last moment of the cheap hours, so that the answer ends in the dear ones."""
        working = next(
            at
            for n in range(1, 12)
            if band(at := moment(day + timedelta(days=n), "09:00")) == "peak"
        )
        assert working.astimezone(BEIJING).date() == day + timedelta(days=1), "the next day works"
        self._until(working - timedelta(milliseconds=2))
        self._ask("pro")

    def _run_dry(self) -> None:
        """Spend what there is, meet the refusal, and pay in."""
        self.api.balance = Decimal("0.05")
        self._until(self.clock.time + timedelta(minutes=40))
        self._read()
        with pytest.raises(InsufficientBalance):
            self._ask_on()
        self.check()
        self.api.unscript()
        self._until(self.clock.time + timedelta(minutes=5))
        self._read()
        self.api.top_up(200)

    def _ask_on(self) -> None:
        for _ in range(20):
            self._ask()

    def _let_another_ask(self) -> None:
        """Spend from another computer, whose ledger is not here."""
        usage = {"prompt_tokens": 9, "completion_tokens": 300_000}
        self.api.script(Reply(text="Yes.", usage=usage))
        key = self.api.add_key("sk-of-another-computer-0123456789")
        with Session(
            api_key=key, base_url=self.api.base_url, ledger=":memory:", clock=self.clock
        ) as other:
            other.ask("Is it so?", think="off")
        self.others.append(self.clock.time)

    # -- what must hold -----------------------------------------------------------

    def check(self) -> None:
        """No more is said to be left than is left, but for what nobody here can know yet."""
        self.kernel.purse.wait(5)
        known = self.kernel.last_balance
        assert known is not None
        assert known.effective is not None
        since = self.clock.time - timedelta(days=1)
        billed = sum((row.cost for row in self.bills() if row.at > since and row.cost), Decimal(0))
        recorded = self.kernel.ledger.spent(self.kernel.account, since).get("CNY", Decimal(0))
        unknown = max(billed - recorded, Decimal(0))
        assert known.effective <= self.api.balance + unknown + CENT

    def bills(self) -> list[Exchange]:
        """Give every request that the server took money for."""
        return [row for row in self.api.requests if row.cost is not None]

    def own_bills(self) -> dict[str, Decimal]:
        """Give the server's bill for the user's own questions, by local day.

        It is brought to the prices that the user knows.
        """
        days: dict[str, Decimal] = defaultdict(Decimal)
        for row in self.bills():
            if row.headers["authorization"].endswith(self.api.api_key):
                assert row.cost is not None
                is_new = self.prices_left is not None and row.at > self.prices_left
                days[str(row.at.astimezone().date())] += row.cost / (2 if is_new else 1)
        return days

    def found(self) -> list[reconcile.Finding]:
        """Compare all readings of the month with all that is recorded."""
        account, since = self.kernel.account, moment(FIRST, "00:00") - timedelta(days=1)
        readings = self.kernel.ledger.readings(account, since)
        totals = [(at, row["CNY"]) for at, row in readings]
        return reconcile.findings(totals, self.kernel.ledger.spending(account, since), "CNY")


@pytest.fixture
def month(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Month]:
    clock = Clock()
    with Sandbox(balance="100", clock=clock) as api:
        month = Month(api, tmp_path / "ledger.sqlite", clock, random.Random(request.param))
        yield month
        if month.session is not None:
            month.session.close()


@pytest.mark.parametrize("month", [1], indirect=True)
def test_a_month_without_trouble(month: Month) -> None:
    """Where every cost is known, ledger and bill agree to the last digit, and nothing is found."""
    month.live()

    rows = month.kernel.ledger.usage(month.kernel.account, by=("day",))
    assert {row["day"]: row["cost"] for row in rows} == month.own_bills()
    assert sum(row["cost"] for row in rows) == month.api.billed
    assert all(row["unpriced"] == row["ranged"] == 0 for row in rows)
    assert month.found() == []
    assert month.kernel.findings() == []
    bands = defaultdict(set)
    for entry in month.kernel.ledger.entries():
        free = entry["sent"].astimezone(BEIJING).date() in HOLIDAYS
        bands[free].add(entry["band"])
    assert bands == {False: {"peak", "off-peak"}, True: {"off-peak"}}


@pytest.mark.parametrize("month", [3], indirect=True)
def test_a_month_with_all_that_happens(month: Month) -> None:
    """The bill lies in the range of every day; the other spender and the new prices are told."""
    month.events = {
        1: ["interrupt", "kill"],
        2: ["break", "interrupt"],
        3: ["boundary"],
        6: ["other"],
        7: ["other"],
        9: ["interrupt"],
        10: ["dry"],
        13: ["kill", "break"],
        17: ["interrupt", "break"],
        18: ["boundary"],
        23: ["new prices"],
    }

    month.live()

    rows = month.kernel.ledger.usage(month.kernel.account, by=("day",))
    bills = month.own_bills()
    assert {row["day"] for row in rows} == set(bills)
    for row in rows:
        bill = bills[row["day"]]
        assert row["unpriced"] == 0
        assert row["cost_low"] <= bill <= row["cost_high"]
        assert row["ranged"] or row["cost"] == bill
    unsure = [event for one in month.events.values() for event in one if event in UNSURE]
    assert sum(row["ranged"] for row in rows) == len(unsure)

    other, prices = month.found()
    assert (other.kind, prices.kind) == ("other use", "prices")
    assert other.since - reconcile.LAG < month.others[0] < month.others[1] < other.until
    assert month.prices_left is not None
    assert month.prices_left < prices.since < month.prices_left + timedelta(hours=12)
    assert 1.95 < (prices.recorded + prices.amount) / prices.recorded < 2.05
    assert month.kernel.findings() == [other.text(), prices.text()]
