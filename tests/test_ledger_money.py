"""What the ledger knows of money: ranges, reservations, sums, and what is put right later."""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.synchronize
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek_magic import schema
from deepseek_magic.ledger import Asked, Ledger, Outcome, Past, Spending, State
from deepseek_magic.processes import has_ended, this_process
from deepseek_magic.store import Values
from deepseek_magic.wire import CostRange

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = AT + timedelta(seconds=3)
DAY = AT.astimezone().date().isoformat()
OURS = "account-1"
FLASH = "deepseek-flash"
ZERO, ONE = Decimal(0), Decimal(1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def opened() -> Iterator[Callable[..., Ledger]]:
    """Give a function that opens ledgers, which are closed at the end."""
    made: list[Ledger] = []

    def open_one(*args: Any, **more: Any) -> Ledger:
        made.append(Ledger(*args, **more))
        return made[-1]

    yield open_one
    for one in made:
        one.close()


def asked(reserved: str | None = None, **more: Any) -> Asked:
    known = None if reserved is None else Decimal(reserved)
    return dataclasses.replace(Asked(AT, OURS, FLASH, currency="CNY", reserved=known), **more)


def done(cost: str | None = None, span: tuple[str, str] | None = None, **more: Any) -> Outcome:
    known = None if cost is None else Decimal(cost)
    bounds = None if span is None else CostRange(*map(Decimal, span))
    outcome = Outcome("done", LATER, currency="CNY", cost=known, cost_range=bounds)
    return dataclasses.replace(outcome, **more)


def record(ledger: Ledger, outcome: Outcome, **more: Any) -> int:
    """Write one whole call, and wait until it is on disk."""
    entry = ledger.ask(asked(**more))
    ledger.end(entry, outcome).result(30)
    return entry


def bounds(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in ("cost", "low", "likely", "high"))


def spent_and_under_way(ledger: Ledger) -> tuple[Decimal, ...]:
    today = ledger.today(OURS, DAY, "CNY", wait=None)
    assert today is not None
    return today.spent, today.under_way


def at_hand(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


# Ranges


def test_a_range_is_kept(opened: Callable[..., Ledger], path: Path) -> None:
    """A cost that is not known to the digit comes back with its bounds."""
    first = opened(path)
    span = CostRange(Decimal("0.1"), Decimal("0.9"), Decimal("0.4"))
    record(first, done(cost_range=span, saved=Decimal("0.02")), json=True, reserved="1.5")
    first.close()

    (entry,) = opened(path).entries()

    assert bounds(entry) == (None, Decimal("0.1"), Decimal("0.4"), Decimal("0.9"))
    assert (entry["saved"], entry["reserved"]) == (Decimal("0.02"), Decimal("1.5"))
    assert (entry["json"], entry["day"], entry["currency"]) == (True, DAY, "CNY")


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (done(span=("1", "3")), done("2"), (Decimal(2), None, None, None)),
        (done("2"), done(span=("1", "3")), (None, ONE, None, Decimal(3))),
        (done("2"), done(), (Decimal(2), None, None, None)),
        (done(span=("1", "3")), done(), (None, ONE, None, Decimal(3))),
        (done("2", ("1", "3")), done(), (Decimal(2), None, None, None)),
    ],
    ids=["a cost after a range", "a range after a cost", "a cost", "a range", "both at once"],
)
def test_the_cost_that_comes_later_counts(
    opened: Callable[..., Ledger], first: Outcome, second: Outcome, left: tuple[Any, ...]
) -> None:
    """A cost takes the place of a range and a range that of a cost; nothing erases neither."""
    ledger = opened()
    entry = record(ledger, first)

    ledger.end(entry, second).result(30)

    assert bounds(ledger.entries()[0]) == left


def test_bounds_are_rounded_outwards(opened: Callable[..., Ledger]) -> None:
    """What the file cannot hold to the last digit lies within the bounds it holds."""
    ledger = opened()
    tiny = "0.0000000000004"

    record(ledger, done(span=("1" + tiny[1:], "2" + tiny[1:])))
    entry = ledger.ask(asked(reserved=tiny))

    first, second = ledger.entries()
    assert (first["low"], first["high"]) == (ONE, Decimal("2.000000000001"))
    assert second["reserved"] == Decimal("1e-12")
    assert entry == second["id"]


@pytest.mark.parametrize("high", ["NaN", "Infinity", "1e15"])
def test_half_a_range_is_none(opened: Callable[..., Ledger], high: str) -> None:
    """A range whose end the file cannot hold is not known at all."""
    ledger = opened()

    record(ledger, done(span=("1", high)))

    assert bounds(ledger.entries()[0]) == (None, None, None, None)
    assert ledger.problem is None


@pytest.mark.parametrize("state", ["done", "unusable", "partial", "interrupted"])
def test_what_was_reserved_is_a_bound(opened: Callable[..., Ledger], state: State) -> None:
    """A call that may be billed, and says nothing of its cost, costs no more than was reserved."""
    ledger = opened()

    record(ledger, done(state=state), reserved="0.7")

    assert bounds(ledger.entries()[0]) == (None, ZERO, None, Decimal("0.7"))
    assert spent_and_under_way(ledger) == (Decimal("0.7"), ZERO)


def test_a_bound_in_another_currency_is_none(opened: Callable[..., Ledger]) -> None:
    """What was reserved in one currency says nothing of a cost in another."""
    ledger = opened()

    record(ledger, done(currency="USD"), reserved="0.7")

    assert bounds(ledger.entries()[0]) == (None, None, None, None)


def test_no_texts_of_what_is_new(opened: Callable[..., Ledger], path: Path) -> None:
    """With "figures" the new columns are kept, and no text with them."""
    ledger = opened(path, keep="figures")

    record(ledger, done("1", answer="SECRET"), reserved="2", request="SECRET")
    ledger.close()

    assert b"SECRET" not in path.read_bytes()
    (entry,) = opened(path).entries()
    assert (entry["reserved"], entry["cost"]) == (2, 1)


# Reservations


def test_a_reservation_within_the_limit(opened: Callable[..., Ledger], path: Path) -> None:
    """What fits is on disk when `reserve` returns, and counts until the call has ended."""
    ledger = opened(path)
    record(ledger, done("0.25"))

    found = ledger.reserve(asked("0.75"), ONE)

    assert (found.spent, found.under_way) == (Decimal("0.25"), ZERO)
    with closing(at_hand(path)) as db:
        rows = db.execute("SELECT id, state, reserved FROM entries ORDER BY id").fetchall()
    assert rows[-1] == (found.entry, "sent", 750_000_000_000)
    assert spent_and_under_way(ledger) == (Decimal("0.25"), Decimal("0.75"))
    assert found.entry is not None
    ledger.end(found.entry, done("0.5")).result(30)
    assert spent_and_under_way(ledger) == (Decimal("0.75"), ZERO)


def test_a_reservation_past_the_limit(opened: Callable[..., Ledger]) -> None:
    """What does not fit is no entry, and the figures say why."""
    ledger = opened()
    record(ledger, done("0.25"))
    record(ledger, done(span=("0", "0.25")))
    ledger.reserve(asked("0.25"), ONE)

    found = ledger.reserve(asked("0.250000000001"), ONE)

    assert (found.entry, found.spent, found.under_way) == (None, Decimal("0.5"), Decimal("0.25"))
    assert len(ledger.entries()) == 3
    assert ledger.reserve(asked("0.25"), ONE).entry is not None


@pytest.mark.parametrize("state", ["refused", "failed"])
def test_what_was_not_billed_is_free(opened: Callable[..., Ledger], state: State) -> None:
    """A call that the API refused, or that never reached it, leaves the limit as it was."""
    ledger = opened()
    found = ledger.reserve(asked("1"), ONE)

    ledger.end(found.entry or 0, Outcome(state, LATER)).result(30)

    assert spent_and_under_way(ledger) == (ZERO, ZERO)
    assert ledger.usage(OURS) == []


@pytest.mark.parametrize(
    "other",
    [
        {"account": "another"},
        {"currency": "USD"},
        {"at": AT - timedelta(days=1)},
        {"at": AT + timedelta(days=1)},
    ],
    ids=str,
)
def test_limits_of_others(opened: Callable[..., Ledger], other: dict[str, Any]) -> None:
    """Another account, currency or day has a limit of its own."""
    ledger = opened()
    record(ledger, done("1", currency=other.get("currency", "CNY")), **other)
    ledger.reserve(asked("1", **other), Decimal(9))

    found = ledger.reserve(asked("1"), ONE)

    assert (found.spent, found.under_way) == (ZERO, ZERO)
    assert found.entry is not None


@pytest.mark.parametrize(
    "more",
    [
        {"reserved": None},
        {"reserved": Decimal("1e15")},
        {"reserved": Decimal("NaN")},
        {"reserved": Decimal("Infinity")},
        {"currency": None},
        {"limit": Decimal("NaN")},
        {"model": None},
    ],
    ids=str,
)
def test_what_is_not_known_is_not_zero(opened: Callable[..., Ledger], more: dict[str, Any]) -> None:
    """A call whose worst case or limit is not known is not let through as one for nothing."""
    ledger = opened()
    limit = more.pop("limit", Decimal(10))

    found = ledger.reserve(dataclasses.replace(asked("1"), **more), limit)

    assert (found.entry, found.spent, found.under_way) == (None, None, None)
    assert ledger.entries() == []


@pytest.mark.parametrize("limit", ["1e15", "1e30"])
def test_a_vast_limit(opened: Callable[..., Ledger], limit: str) -> None:
    """A limit beyond what the file can hold is a limit all the same."""
    assert opened().reserve(asked("1"), Decimal(limit)).entry is not None


def test_a_limit_is_rounded_down(opened: Callable[..., Ledger]) -> None:
    """A limit with more digits than the file holds is not passed by the last one."""
    found = opened().reserve(asked("1.000000000001"), Decimal("1.0000000000009"))

    assert found.entry is None


def test_a_locked_file_reserves_nothing(opened: Callable[..., Ledger], path: Path) -> None:
    """While another program holds the file nothing is reserved, then or later."""
    ledger = opened(path)
    record(ledger, done("0.25"))
    with closing(at_hand(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = ledger.reserve(asked("0.5"), ONE, wait=0.05)
        other.execute("ROLLBACK")

    assert (found.entry, found.spent, found.under_way) == (None, None, None)
    assert ledger.today(OURS, DAY, "CNY", wait=None) is not None
    assert len(ledger.entries()) == 1
    assert ledger.reserve(asked("0.5"), ONE).entry is not None


def test_a_locked_file_tells_nothing_of_today(opened: Callable[..., Ledger], path: Path) -> None:
    """What cannot be read is not known; it is not zero."""
    ledger = opened(path)
    record(ledger, done("0.25"))
    with closing(at_hand(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert ledger.today(OURS, DAY, "CNY", wait=0.05) is None


def held(ledger: Ledger, hold: Callable[[], object]) -> None:
    """Let *hold* be called in the midst of each commit of a new entry."""
    ledger._file.tidy(lambda _: None).result(30)
    db = ledger._file._connection(1e12)

    def call() -> None:
        hold()

    db.create_function("hold", 0, call)
    db.execute("CREATE TEMP TRIGGER held AFTER INSERT ON entries BEGIN SELECT hold(); END")


def test_a_commit_that_hangs_is_undone(opened: Callable[..., Ledger], path: Path) -> None:
    """A reservation that is begun and not on disk in time is taken back once it is."""
    ledger, free = opened(path), threading.Event()
    record(ledger, done("0.25"))
    held(ledger, lambda: free.wait(30))

    found = ledger.reserve(asked("0.5"), ONE, wait=0.05)
    free.set()

    assert (found.entry, found.spent) == (None, None)
    ledger._file.tidy(lambda _: None).result(30)
    assert spent_and_under_way(ledger) == (Decimal("0.25"), ZERO)
    assert len(ledger.entries()) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a signal to a thread")
def test_an_interrupted_reservation_is_undone(opened: Callable[..., Ledger], path: Path) -> None:
    """An interrupt while a reservation is made leaves nothing reserved."""
    ledger = opened(path)
    record(ledger, done("0.25"))
    main = threading.get_ident()
    held(ledger, lambda: signal.pthread_kill(main, signal.SIGINT))

    with pytest.raises(KeyboardInterrupt):
        ledger.reserve(asked("0.5"), ONE, wait=30)

    ledger._file.tidy(lambda _: None).result(30)
    assert spent_and_under_way(ledger)[1] == 0
    assert len(ledger.entries()) == 1


def test_a_closed_ledger_reserves_nothing(opened: Callable[..., Ledger], path: Path) -> None:
    """After `close` nothing is reserved, and nothing of today is known."""
    ledger = opened(path)
    record(ledger, done("0.25"))
    ledger.close()

    assert ledger.reserve(asked("0.5"), ONE).entry is None
    assert ledger.today(OURS, DAY, "CNY") is None
    assert len(opened(path).entries()) == 1


def test_a_file_that_was_given_up(opened: Callable[..., Ledger], path: Path) -> None:
    """Where a damaged file hides what the day has cost, nothing is known of it, nor reserved."""
    path.write_bytes(b"these are not the bytes of a database" * 100)
    ledger = opened(path)
    record(ledger, done("0.25"))

    assert ledger.today(OURS, DAY, "CNY") is None
    assert ledger.reserve(asked("0.5"), ONE).entry is None
    assert ledger.spent(OURS, AT, wait=None) == {"CNY": Decimal("0.25")}


def test_a_ledger_in_memory_has_limits(opened: Callable[..., Ledger], path: Path) -> None:
    """With "nothing" kept, the session's own spending counts."""
    ledger = opened(path, keep="nothing")
    record(ledger, done("0.5"))

    assert ledger.reserve(asked("0.5"), ONE).entry is not None
    assert ledger.reserve(asked("0.1"), ONE).entry is None


# No limit is passed


def new(folder: Path) -> Path:
    """Give the path of a file that no example before has used."""
    return Path(tempfile.mkdtemp(dir=folder)) / "ledger.sqlite"


def use(ledger: Ledger, seed: int, limit: Decimal, watch: Callable[[], None], rounds: int) -> None:
    """Reserve, and end in all ways that calls end; never pay more than was reserved."""
    dice = random.Random(seed)
    for _ in range(rounds):
        most = Decimal(dice.randrange(1, 400)) / 1000
        found = ledger.reserve(asked(str(most)), limit, wait=60)
        watch()
        if found.entry is None:
            assert found.spent is not None, ledger.problem
            assert found.under_way is not None
            assert found.spent + found.under_way + most > limit
            continue
        paid = most * dice.randrange(101) / 100
        ending = dice.choice(
            (
                done(str(paid)),
                done(span=("0", str(paid)), state="partial"),
                done(state="interrupted"),
                Outcome("refused", LATER),
                Outcome("failed", LATER),
            )
        )
        ledger.end(found.entry, ending)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), threads=st.integers(2, 16), cents=st.integers(1, 500))
def test_threads_never_pass_a_limit(tmp_path: Path, seed: int, threads: int, cents: int) -> None:
    """However many ask at once, what is spent and under way is within the limit all the time."""
    limit = Decimal(cents) / 100
    ledger = Ledger(new(tmp_path))
    start = threading.Barrier(threads)

    def watch() -> None:
        assert sum(spent_and_under_way(ledger)) <= limit

    def work(number: int) -> None:
        start.wait()
        use(ledger, seed + number, limit, watch, rounds=8)

    with ThreadPoolExecutor(threads) as workers:
        ends = [workers.submit(work, number) for number in range(threads)]

    spent, under_way = spent_and_under_way(ledger)
    ledger.close()
    for end in ends:
        end.result()
    assert spent <= limit
    assert under_way == 0


LIMIT = Decimal(5)


def spend(path: str, seed: int, ready: multiprocessing.synchronize.Barrier, rounds: int) -> None:
    """Use a ledger with four threads, beside other processes."""
    ledger = Ledger(path, busy_seconds=60)
    ledger.entries()
    ready.wait()
    with ThreadPoolExecutor(4) as threads:
        work = [
            threads.submit(use, ledger, seed * 9 + n, LIMIT, lambda: None, rounds) for n in range(4)
        ]
    for one in work:
        one.result()
    ledger.close()


def spend_for_ever(path: str, ready: multiprocessing.synchronize.Barrier) -> None:
    """Reserve something that is never ended, and go on until this process is killed."""
    ledger = Ledger(path, busy_seconds=60)
    assert ledger.reserve(asked("0.5"), LIMIT, wait=60).entry is not None
    spend(path, 7, ready, 10**9)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_processes_never_pass_a_limit(opened: Callable[..., Ledger], path: Path) -> None:
    """Nor do several kernels, one of which is killed; what it reserved is a range after a sweep."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(4)
    ours = opened(path, busy_seconds=60)
    living = [context.Process(target=spend, args=(str(path), seed, ready, 15)) for seed in range(2)]
    killed = context.Process(target=spend_for_ever, args=(str(path), ready), daemon=True)
    for process in (*living, killed):
        process.start()

    ready.wait(60)
    seen = [sum(spent_and_under_way(ours)) for _ in range(30)]
    os.kill(killed.pid or 0, signal.SIGKILL)
    for process in (*living, killed):
        process.join()
    left, under_way = spent_and_under_way(ours)
    ours.sweep().result(30)

    assert [process.exitcode for process in living] == [0, 0]
    assert max(*seen, left + under_way) <= LIMIT
    assert under_way >= Decimal("0.5")
    assert spent_and_under_way(ours) == (left + under_way, ZERO)


# What is left by others


def own(path: Path, owner: str | None) -> None:
    """Say by hand whose the entries are."""
    with closing(at_hand(path)) as db:
        db.execute("UPDATE entries SET owner = ?", (owner,))


def gone() -> str:
    """Give the name of a process that has ended."""
    command = [
        sys.executable,
        "-c",
        "from deepseek_magic.processes import this_process as t; print(t())",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def reused(name: str) -> str:
    """Give the name of a process whose number another has now."""
    host, pid, began = name.rsplit(" ", 2)
    return f"{host} {pid} {float(began) - 100:.2f}"


HOURS_AGO = datetime.now(UTC) - timedelta(hours=23)
DAYS_AGO = datetime.now(UTC) - timedelta(hours=25)


@pytest.mark.parametrize(
    ("owner", "sent", "state"),
    [
        (gone, HOURS_AGO, "interrupted"),
        (lambda: reused(this_process()), HOURS_AGO, "interrupted"),
        (this_process, DAYS_AGO, "sent"),
        (lambda: "elsewhere 1 1.00", HOURS_AGO, "sent"),
        (lambda: "elsewhere 1 1.00", DAYS_AGO, "interrupted"),
        (lambda: this_process().rsplit(" ", 1)[0] + " ", HOURS_AGO, "sent"),
        (lambda: "nonsense", HOURS_AGO, "sent"),
        (lambda: "nonsense", DAYS_AGO, "interrupted"),
        (lambda: None, HOURS_AGO, "sent"),
        (lambda: None, DAYS_AGO, "interrupted"),
    ],
    ids=[
        "ended",
        "ended, and its number reused",
        "our own",
        "another machine",
        "another machine, a day ago",
        "no start known",
        "nonsense",
        "nonsense, a day ago",
        "unknown",
        "unknown, a day ago",
    ],
)
def test_calls_of_a_process_that_is_gone(
    opened: Callable[..., Ledger],
    path: Path,
    owner: Callable[[], str | None],
    sent: datetime,
    state: str,
) -> None:
    """A call is swept when its process has ended, or a day after where nobody can tell."""
    ledger = opened(path)
    ledger.ask(asked("0.5", at=sent))
    ledger.entries()
    own(path, owner())

    ledger.sweep().result(30)

    (entry,) = ledger.entries()
    assert entry["state"] == state
    if state == "interrupted":
        assert bounds(entry) == (None, 0, None, Decimal("0.5"))
        assert entry["ended"] >= sent
    assert ledger.problem is None


def test_a_call_without_a_bound_is_swept(opened: Callable[..., Ledger], path: Path) -> None:
    """A call of which nobody knows what it may cost is unpriced when it is swept."""
    ledger = opened(path)
    ledger.ask(asked(None))
    ledger.entries()
    own(path, gone())

    ledger.sweep(LATER).result(30)

    assert bounds(ledger.entries()[0]) == (None, None, None, None)
    today = ledger.today(OURS, DAY, "CNY")
    assert today is not None
    assert (today.spent, today.unpriced) == (ZERO, 1)


def test_an_end_after_a_sweep(opened: Callable[..., Ledger], path: Path) -> None:
    """A call that was swept by mistake is put right when it ends."""
    ledger = opened(path)
    entry = ledger.ask(asked("0.5"))
    ledger.entries()
    own(path, gone())
    ledger.sweep(LATER).result(30)

    ledger.end(entry, done("0.1")).result(30)

    assert bounds(ledger.entries()[0]) == (Decimal("0.1"), None, None, None)
    assert spent_and_under_way(ledger) == (Decimal("0.1"), ZERO)


def test_what_has_ended_is_not_swept(opened: Callable[..., Ledger], path: Path) -> None:
    """A call that has ended stays as it is, whoever asked it."""
    ledger = opened(path)
    record(ledger, done("0.1"))
    own(path, gone())
    before = ledger.entries()

    ledger.sweep(LATER).result(30)

    assert ledger.entries() == before


def test_a_locked_file_is_not_swept(opened: Callable[..., Ledger], path: Path) -> None:
    """A sweep of a file that others hold raises nothing, and nothing is swept."""
    ledger = opened(path, busy_seconds=0.05)
    ledger.ask(asked("0.5"))
    ledger.entries()
    own(path, gone())
    with closing(at_hand(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        ledger.sweep().result(30)
        other.execute("ROLLBACK")

    assert [entry["state"] for entry in ledger.entries()] == ["sent"]
    ledger.close()
    ledger.sweep().result(30)


FORKED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from test_ledger_money import Ledger, asked
ledger = Ledger(sys.argv[1])
ledger.ask(asked("1"))
ledger.entries()
if (child := os.fork()) == 0:
    ledger.ask(asked("2"))
    ledger.entries()
    ledger.close()
    os._exit(0)
os.waitpid(child, 0)
ledger.sweep().result(30)
print([(entry["state"], entry["high"] == 2) for entry in ledger.entries()], ledger.problem)
ledger.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_another(path: Path) -> None:
    """What a child asked and did not end is swept by its parent, whose own call stays."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(path), str(Path(__file__).parent)]

    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ran.stdout == "[('sent', False), ('interrupted', True)] None\n", ran.stderr


def test_processes_by_name() -> None:
    """Our own process runs, one that was waited for does not, and of others nothing is known."""
    assert has_ended(this_process()) is False
    assert has_ended(gone()) is True
    assert has_ended("elsewhere 1 1.00") is None
    assert has_ended("") is None


@pytest.mark.skipif(os.name != "posix", reason="needs a process that is not waited for")
def test_a_process_that_nobody_has_waited_for() -> None:
    """A process that has ended is gone, also while its parent has not asked how."""
    code = "from deepseek_magic.processes import this_process as t; print(t(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        assert child.stdout.read() == ""
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

        assert has_ended(name) is True


# Sums


def test_today(opened: Callable[..., Ledger]) -> None:
    """A day has what it cost at most, what it likely cost, what is under way, and the unpriced."""
    ledger = opened()
    record(ledger, done("1"))
    record(ledger, done(cost_range=CostRange(ONE, Decimal(5), Decimal(2))))
    record(ledger, done(cost_range=CostRange(ONE, Decimal(5))))
    record(ledger, done())
    record(ledger, done(currency=None), currency=None)
    record(ledger, done(currency="USD"), currency="USD")
    record(ledger, Outcome("refused", LATER))
    ledger.ask(asked("7"))
    ledger.ask(asked(None))

    today = ledger.today(OURS, DAY, "CNY")

    assert today is not None
    assert (today.spent, today.likely, today.under_way) == (Decimal(11), Decimal(4), Decimal(7))
    assert today.unpriced == 2


def test_usage_has_bounds(opened: Callable[..., Ledger]) -> None:
    """What is known to the digit, between bounds, and not at all is told apart."""
    ledger = opened()
    record(ledger, done("1", saved=Decimal("0.25"), prompt_tokens=3), notebook="a")
    record(ledger, done(span=("0.5", "2"), reasoning_tokens=0), notebook="a")
    record(ledger, done(), notebook="a")
    record(ledger, done(), notebook="b")
    record(ledger, done(span=("0.5", "2")), notebook="c")

    a, b, c = ledger.usage(OURS, ["notebook"])

    assert (a["queries"], a["ranged"], a["unpriced"]) == (3, 1, 1)
    assert (a["cost"], a["cost_low"], a["cost_high"]) == (1, Decimal("1.5"), 3)
    assert (a["saved"], a["prompt_tokens"], a["reasoning_tokens"]) == (Decimal("0.25"), 3, 0)
    assert a["completion_tokens"] is None
    assert (b["queries"], b["unpriced"], b["cost"]) == (1, 1, None)
    assert (b["cost_low"], b["cost_high"], b["saved"], b["prompt_tokens"]) == (None,) * 4
    assert (c["cost"], c["cost_low"], c["cost_high"]) == (None, Decimal("0.5"), 2)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        (["day"], [(DAY,)]),
        (["model"], [("deepseek-flash",), ("deepseek-v4-pro",)]),
        (["notebook"], [(None,), ("a.ipynb",)]),
        (["cell"], [(None,), ("c1",), ("c2",)]),
        (("notebook", "day"), [(None, DAY), ("a.ipynb", DAY)]),
        ([], [()]),
        (
            ("cell", "notebook", "model"),
            [
                (None, None, "deepseek-flash"),
                ("c1", "a.ipynb", "deepseek-v4-pro"),
                ("c2", "a.ipynb", "deepseek-v4-pro"),
            ],
        ),
    ],
    ids=str,
)
def test_usage_by(
    opened: Callable[..., Ledger], by: Sequence[str], groups: list[tuple[Any, ...]]
) -> None:
    """Usage is added up by any of day, model, notebook and cell, where an unknown one is None."""
    ledger = opened()
    for more in ({}, *({"cell": cell, "notebook": "a.ipynb"} for cell in ("c1", "c2"))):
        model = "deepseek-v4-pro" if more else FLASH
        record(ledger, done("0.5", model=model), **more)

    rows = ledger.usage(OURS, by)

    found = [tuple(row[name] for name in by) for row in rows]
    assert sorted(found, key=str) == sorted(groups, key=str)
    assert sum(row["cost"] for row in rows) == Decimal("1.5")
    assert {row["currency"] for row in rows} == {"CNY"}


def test_usage_by_currency(opened: Callable[..., Ledger]) -> None:
    """Amounts of two currencies are never added to each other, nor to those of none."""
    ledger = opened()
    for currency in ("CNY", "USD", None):
        record(ledger, done("1", currency=currency), currency=currency)

    rows = ledger.usage(OURS, ["day"])

    assert [(row["currency"], row["cost"]) for row in rows] == [(None, 1), ("CNY", 1), ("USD", 1)]


def test_usage_since(opened: Callable[..., Ledger]) -> None:
    """Usage since a day leaves out what was asked before; a call counts on the day it was asked."""
    ledger = opened()
    night = datetime(2026, 11, 20, 23, 59, 59).astimezone()
    for at in (night, night + timedelta(seconds=2)):
        record(ledger, done("1", at=at + timedelta(hours=1)), at=at)

    assert [row["day"] for row in ledger.usage(OURS)] == ["2026-11-20", "2026-11-21"]
    (row,) = ledger.usage(OURS, since=date(2026, 11, 21))
    assert (row["day"], row["cost"]) == ("2026-11-21", 1)


def test_days(opened: Callable[..., Ledger]) -> None:
    """Days have what was likely spent on them in a currency; those without any are left out."""
    ledger = opened()
    for days in range(4):
        record(ledger, done("1"), at=AT - timedelta(days=days))
    record(ledger, done(cost_range=CostRange(ONE, Decimal(9), Decimal(2))))
    record(ledger, done("7", currency="USD"), currency="USD")
    record(ledger, done(), at=AT - timedelta(days=9))
    today = AT.astimezone().date()

    found = ledger.days(OURS, "CNY", today - timedelta(days=2))

    assert found == {today: 3, today - timedelta(days=1): 1, today - timedelta(days=2): 1}


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("ask", "end", "end", "end", "erase", "rename", "reprice")),
        st.integers(0, 5),
        st.sampled_from(("sent", "done", "partial", "refused", "failed")),
        st.one_of(st.none(), st.integers(0, 9)),
        st.one_of(st.none(), st.tuples(st.integers(0, 4), st.integers(5, 9))),
        st.one_of(st.none(), st.integers(0, 9)),
        st.sampled_from((None, "a", "b")),
        st.sampled_from((None, "CNY", "USD")),
    ),
    max_size=30,
)


def recount(path: Path, table: str) -> list[tuple[Any, ...]]:
    """Add the entries up anew."""
    keys, part = schema.TABLES[table], schema.PARTS
    values = [schema.KEYS[key] for key in keys] + [f"SUM({part[name]})" for name in part]
    rows = f"SELECT {', '.join(values)} FROM entries WHERE {schema.BILLED} GROUP BY"  # noqa: S608  # names of ours
    numbers = ", ".join(str(number + 1) for number in range(len(keys)))
    with closing(at_hand(path)) as db:
        return db.execute(f"{rows.format(row='entries')} {numbers} ORDER BY {numbers}").fetchall()


def kept_sums(path: Path, table: str) -> list[tuple[Any, ...]]:
    numbers = ", ".join(str(number + 1) for number in range(len(schema.TABLES[table])))
    with closing(at_hand(path)) as db:
        return db.execute(f"SELECT * FROM {table} ORDER BY {numbers}").fetchall()  # noqa: S608  # the same


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=CHANGES)
def test_sums_are_those_of_the_entries(tmp_path: Path, changes: list[tuple[Any, ...]]) -> None:
    """Whatever happens to entries, the sums that are kept are the sums of the entries."""
    path = new(tmp_path)
    ledger = Ledger(path)
    entries = [ledger.ask(asked("3"))]
    for what, number, state, cost, span, tokens, name, currency in changes:
        entry = entries[number % len(entries)]
        if what == "ask":
            entries.append(ledger.ask(asked("3", notebook=name, cell=name, currency=currency)))
        elif what == "end":
            known = None if cost is None else Decimal(cost)
            bound = None if span is None else CostRange(Decimal(span[0]), Decimal(span[1]))
            outcome = Outcome(state, LATER, currency=currency, cost=known, cost_range=bound)
            ledger.end(
                entry, dataclasses.replace(outcome, prompt_tokens=tokens, completion_tokens=tokens)
            )
        elif what == "erase":
            ledger._file.write("DELETE FROM entries WHERE id = :id", {"id": entry})
        elif what == "rename":
            values = {"id": entry, "name": name, "model": str(name)}
            ledger._file.write(
                "UPDATE entries SET cell = :name, day = :name, model = :model WHERE id = :id",
                values,
            )
        else:
            ledger.reprice(OURS, lambda _: ONE, "CNY")
    ledger.close()

    for table in schema.TABLES:
        assert kept_sums(path, table) == recount(path, table)


# What was spent since


def test_spent_counts_ranges(opened: Callable[..., Ledger]) -> None:
    """Of a range its likely figure is spent, else its low one; the unpriced are left out."""
    ledger = opened()
    record(ledger, done("1"))
    record(ledger, done(cost_range=CostRange(ONE, Decimal(90), Decimal(20))))
    record(ledger, done(span=("300", "900")))
    record(ledger, done("4000", at=LATER + timedelta(hours=1)))
    record(ledger, done())
    ledger.ask(asked("50000"))

    assert ledger.spent(OURS, AT, until=LATER, wait=None) == {"CNY": Decimal(321)}
    assert ledger.spent(OURS, AT, wait=None) == {"CNY": Decimal(4321)}


def test_spending(opened: Callable[..., Ledger]) -> None:
    """Each call that may be billed has its bounds, oldest first, and those under way come last."""
    ledger = opened()
    hour = timedelta(hours=1)
    ledger.ask(asked("7"))
    record(ledger, done("1", at=AT + 2 * hour))
    record(ledger, done(span=("0.5", "2"), at=AT + hour))
    record(ledger, done(at=AT + 3 * hour, state="partial"))
    record(ledger, done("9", at=AT))
    record(ledger, Outcome("refused", AT + hour))
    record(ledger, done("1"), account="another")

    assert ledger.spending(OURS, AT) == [
        Spending(AT + hour, "CNY", Decimal("0.5"), Decimal(2), AT),
        Spending(AT + 2 * hour, "CNY", ONE, ONE, AT),
        Spending(AT + 3 * hour, "CNY", ZERO, None, AT),
        Spending(None, "CNY", ZERO, Decimal(7), AT),
    ]


def test_readings_since(opened: Callable[..., Ledger]) -> None:
    """Readings come oldest first with all currencies; an amount that is none is left out."""
    ledger = opened()

    def read(at: datetime, account: str = OURS, **totals: str | None) -> None:
        rows = [
            {"available": 1, "currency": name, "total": total, "granted": None, "topped_up": None}
            for name, total in totals.items()
        ]
        ledger.reading(account, at, rows)

    read(AT, CNY="9")
    read(AT + timedelta(hours=2), CNY="1.10", USD="-2")
    read(AT + timedelta(hours=1), CNY="much", USD="3", EUR=None, GBP="NaN")
    read(AT + timedelta(hours=3), CNY=None)
    read(AT + timedelta(hours=1), "another", CNY="5")

    assert ledger.readings(OURS, AT) == [
        (AT + timedelta(hours=1), {"USD": Decimal(3)}),
        (AT + timedelta(hours=2), {"CNY": Decimal("1.10"), "USD": Decimal(-2)}),
    ]


# What answers of a kind took


def answered(ledger: Ledger, out: Sequence[int], size: int = 100, **more: Any) -> None:
    for tokens in out:
        entry = ledger.ask(asked(**more))
        ledger.end(entry, done(prompt_tokens=size, completion_tokens=tokens))
    ledger.entries()


def past(ledger: Ledger, size: int = 100, **more: Any) -> Past | None:
    like = {"model": FLASH, "think": None, "json": False, **more}
    like = {"account": OURS, "tokens_in": size, "wait": None, **like}
    return ledger.past(**like)


def test_answers_of_this_kind_and_length(opened: Callable[..., Ledger]) -> None:
    """A tenth of the answers took less than the low figure, a half less than the likely one."""
    ledger = opened()
    answered(ledger, range(1, 12))
    answered(ledger, [1000] * 5, size=401)
    answered(ledger, [1000] * 5, size=24)
    answered(ledger, [1000] * 5, json=True)
    answered(ledger, [1000] * 5, think="off")
    answered(ledger, [1000] * 5, model="deepseek-v4-pro")

    assert past(ledger) == Past(11, 2, 6, 10, "answers of this kind and length")


@pytest.mark.parametrize("size", [25, 400])
def test_questions_of_about_the_length(opened: Callable[..., Ledger], size: int) -> None:
    """A question up to four times as long or as short is of the same length."""
    ledger = opened()
    answered(ledger, [1, 2, 3], size=size)

    assert past(ledger) == Past(3, 1, 2, 3, "answers of this kind and length")


@pytest.mark.parametrize("tokens", [0, -1, 2**70])
def test_odd_lengths(opened: Callable[..., Ledger], tokens: int) -> None:
    """A length that no question has stops nothing."""
    ledger = opened()
    answered(ledger, [1, 2, 3])

    assert past(ledger, tokens) == Past(3, 1, 2, 3, "answers of this kind")


def test_too_few_of_the_length(opened: Callable[..., Ledger]) -> None:
    """With fewer than three of the length, those of any length count, then all of the model."""
    ledger = opened()
    assert past(ledger) is None

    answered(ledger, [7])
    assert past(ledger) == Past(1, 7, 7, 7, "answers of this model")
    answered(ledger, [8], json=True)
    assert past(ledger) == Past(2, 7, 7, 8, "answers of this model")
    answered(ledger, [9, 10], size=9000)
    assert past(ledger) == Past(3, 7, 9, 10, "answers of this kind")
    assert past(ledger, json=True) == Past(4, 7, 8, 10, "answers of this model")
    answered(ledger, [11, 12])
    assert past(ledger) == Past(3, 7, 11, 12, "answers of this kind and length")
    assert past(ledger, think="off") is None


def test_only_whole_answers_of_late(opened: Callable[..., Ledger], path: Path) -> None:
    """The newest fifty whole answers count, whichever kernel asked for them."""
    for tokens in (400, 4, 40):
        ledger = opened(path)
        answered(ledger, [tokens] * 50)
        record(ledger, done(state="partial", prompt_tokens=100, completion_tokens=9))
        record(ledger, done(prompt_tokens=100))
        ledger.close()

    assert past(opened(path)) == Past(50, 40, 40, 40, "answers of this kind and length")


def test_the_past_of_a_locked_file(opened: Callable[..., Ledger], path: Path) -> None:
    """Where others hold the file nothing is known of the past."""
    ledger = opened(path, busy_seconds=0.1)
    answered(ledger, [1, 2, 3])
    with closing(at_hand(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert ledger.past(OURS, FLASH, None, json=False, tokens_in=100, wait=0.05) is None


# What becomes known later


def unpriced(ledger: Ledger, **more: Any) -> None:
    record(ledger, done(prompt_tokens=3, completion_tokens=4, **more))


def test_a_price_that_comes_later(opened: Callable[..., Ledger]) -> None:
    """Calls with tokens and no cost are priced by what they were; all others stay."""
    ledger = opened()
    unpriced(ledger)
    unpriced(ledger, model="deepseek-v4-pro")
    unpriced(ledger, cost=Decimal(5))
    record(ledger, done(prompt_tokens=3))
    record(ledger, Outcome("refused", LATER, prompt_tokens=3, completion_tokens=4))
    record(ledger, done(prompt_tokens=3, completion_tokens=4), account="another")
    seen: list[dict[str, Any]] = []

    def price(row: dict[str, Any]) -> Decimal | CostRange | None:
        seen.append(row)
        return Decimal(row["completion_tokens"]) if row["model"] == FLASH else None

    assert ledger.reprice(OURS, price) == 1

    assert [entry["cost"] for entry in ledger.entries()] == [4, None, 5, None, None, None]
    assert (seen[0]["sent"], seen[0]["ended"], seen[0]["currency"]) == (AT, LATER, "CNY")
    assert ledger.usage(OURS, ["model"])[0]["cost"] == 9
    assert ledger.reprice(OURS, lambda _: CostRange(ONE, Decimal(2))) == 1
    assert ledger.usage(OURS, ["model"])[1]["cost_high"] == 2


def test_one_price_that_fails_stops_no_other(opened: Callable[..., Ledger]) -> None:
    """A call whose price cannot be reckoned is left as it is, alone."""
    ledger = opened()
    unpriced(ledger, prompt_cache_hit_tokens=1)
    unpriced(ledger)

    assert ledger.reprice(OURS, lambda row: Decimal(row["prompt_cache_hit_tokens"])) == 1

    assert [entry["cost"] for entry in ledger.entries()] == [1, None]


def test_a_price_needs_a_currency(opened: Callable[..., Ledger]) -> None:
    """A call that names no currency is priced in the one that is given, and not without."""
    ledger = opened()
    entry = ledger.ask(asked(currency=None))
    outcome = done(currency=None, prompt_tokens=3, completion_tokens=4)
    ledger.end(entry, outcome).result(30)

    assert ledger.reprice(OURS, lambda _: ONE) == 0
    assert ledger.reprice(OURS, lambda row: ONE if row["currency"] == "USD" else None, "USD") == 1

    (row,) = ledger.usage(OURS, ["model"])
    assert (row["currency"], row["cost"]) == ("USD", 1)


def test_what_was_told_is_remembered(opened: Callable[..., Ledger], path: Path) -> None:
    """What was told once is not told again, by any kernel, to the same account."""
    one, other = opened(path), opened(path)

    assert one.told(OURS, "prices CNY 2026-11") is True
    assert one.told(OURS, "prices CNY 2026-11") is False
    assert other.told(OURS, "prices CNY 2026-11") is False
    assert other.told(OURS, "prices CNY 2026-12") is True
    assert other.told("another", "prices CNY 2026-11") is True


def test_what_was_told_without_a_file(opened: Callable[..., Ledger], path: Path) -> None:
    """A ledger that cannot be written tells once as well."""
    ledger = opened(path)
    ledger.close()

    assert ledger.told(OURS, "half \ud83d") is True
    assert ledger.told(OURS, "half \ud83d") is False


# Files of old


def old_file(path: Path) -> None:
    """Make a ledger as it was before there were ranges, and three calls in it."""
    with closing(at_hand(path)) as db:
        db.execute("CREATE TABLE steps (name TEXT PRIMARY KEY, at INTEGER)")
        for step in schema.STEPS[:2]:
            step(db)
            db.execute("INSERT INTO steps VALUES (?, 0)", (step.__name__,))
        ask_of_old(db, 1, "done", 500_000_000_000)
        ask_of_old(db, 2, "done", None)
        ask_of_old(db, 3, "sent", None)
        ask_of_old(db, 4, "refused", None)


def ask_of_old(db: sqlite3.Connection, entry: int, state: str, cost: int | None) -> None:
    sent = round(AT.timestamp() * 1e6)
    db.execute(
        "INSERT INTO entries (id, sent, ended, account, state, model, notebook, currency,"
        " prompt_tokens, completion_tokens, cost) VALUES (?, ?, ?, ?, ?, ?, 'a.ipynb', 'CNY',"
        " 3, 4, ?)",
        (entry, sent, None if state == "sent" else sent + 1, OURS, state, FLASH, cost),
    )


def test_a_file_of_old(opened: Callable[..., Ledger], path: Path) -> None:
    """A ledger from before has its sums and its past, and its unpriced calls can be priced."""
    old_file(path)
    ledger = opened(path)

    (row,) = ledger.usage(OURS)

    assert (row["day"], row["notebook"], row["cost"]) == (DAY, "a.ipynb", Decimal("0.5"))
    assert (row["queries"], row["unpriced"], row["prompt_tokens"]) == (2, 1, 6)
    assert past(ledger, 3) == Past(2, 4, 4, 4, "answers of this model")
    assert ledger.reprice(OURS, lambda _: ONE) == 1
    assert ledger.usage(OURS)[0]["cost"] == Decimal("1.5")
    ledger.sweep(AT + timedelta(hours=23)).result(30)
    assert ledger.usage(OURS)[0]["queries"] == 2
    ledger.sweep(AT + timedelta(hours=25)).result(30)
    assert ledger.usage(OURS)[0]["queries"] == 3
    assert ledger.entries()[0]["json"] is None
    assert ledger.problem is None
    ledger.close()
    for table in schema.TABLES:
        assert kept_sums(path, table) == recount(path, table)


def test_beside_a_kernel_of_old(opened: Callable[..., Ledger], path: Path) -> None:
    """What a kernel with an older version writes to the same file is added up too."""
    old_file(path)
    with closing(at_hand(path)) as older:
        older.execute("SELECT * FROM entries").fetchall()
        ledger = opened(path)
        ledger.entries()

        ask_of_old(older, 5, "sent", None)
        older.execute("UPDATE entries SET state = 'done', cost = 10, ended = sent WHERE id = 5")

    (row,) = ledger.usage(OURS, ["day"])
    assert (row["day"], row["queries"], row["cost"]) == (DAY, 3, Decimal("0.500000000010"))
    ledger.close()
    for table in schema.TABLES:
        assert kept_sums(path, table) == recount(path, table)


def test_odd_values_of_old(opened: Callable[..., Ledger], path: Path) -> None:
    """A file that was edited by hand is brought up to date, whatever its figures are."""
    old_file(path)
    with closing(at_hand(path)) as db:
        for cost in (2**63 - 1, 2**63 - 1, "much", 0.5, b"0"):
            ask_of_old(db, 10 + db.total_changes, "done", cost)  # type: ignore[arg-type]  # odd
        db.execute("UPDATE entries SET sent = 9223372036854775807 WHERE id = 1")

    ledger = opened(path)

    assert len(ledger.usage(OURS)) == 2
    assert ledger._file.is_lost is False


# Fast also with a million entries


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (schema.OF_A_KIND, (OURS, FLASH, None, False, 1, 9)),
        (schema.OF_A_MODEL, {"account": OURS, "model": FLASH, "think": None}),
        (schema.SPENT, (OURS, 0, None)),
        (schema.SPENDING, {"account": OURS, "since": 0}),
        (schema.TODAY, {"account": OURS, "day": DAY, "currency": "CNY"}),
        (schema.LEFT_OPEN, ()),
    ],
    ids=["of a kind", "of a model", "spent", "spending", "today", "left open"],
)
def test_texts_are_not_read(statement: str, values: Values) -> None:
    """Figures are read from indexes alone, so that long answers cost nothing."""
    with closing(sqlite3.connect(":memory:")) as db:
        for step in schema.STEPS:
            step(db)
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]

    reads = [step for step in steps if " entries" in step]
    assert reads
    assert [step for step in reads if "COVERING INDEX" not in step] == []


@pytest.mark.parametrize("statement", [schema.READINGS, schema.UNPRICED, schema.ANSWERS])
def test_indexes_are_used(statement: str) -> None:
    """What is looked for is found without a search through the whole table."""
    with closing(sqlite3.connect(":memory:")) as db:
        for step in schema.STEPS:
            step(db)
        values = (OURS, 0)[: statement.count("?")]
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]

    assert [step for step in steps if step.startswith("SCAN")] == []


def test_no_more_than_the_newest_are_looked_at(opened: Callable[..., Ledger]) -> None:
    """A length that no question of late has is not sought in all that was ever asked."""
    ledger = opened()
    answered(ledger, [1, 2, 3], size=10_000)
    answered(ledger, [9] * 500, size=100)

    found = past(ledger, 10_000)

    assert found == Past(50, 9, 9, 9, "answers of this kind")


def test_the_past_of_another_account(opened: Callable[..., Ledger]) -> None:
    """What another account's answers took, such as a simulated one's, says nothing of this one."""
    ledger = opened()
    answered(ledger, [5, 5, 5], account="another")

    assert past(ledger) is None
    assert past(ledger, account="another") is not None
