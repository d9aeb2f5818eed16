"""What is written down about every call, and what happens when it cannot be."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_magic.entries import moment, money, stamp
from deepseek_magic.ledger import Asked, Ledger, Outcome
from deepseek_magic.schema import STEPS

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRET = "the words of the question"
OURS = "account-1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "ledger.sqlite"


@pytest.fixture
def opened() -> Iterator[Callable[..., Ledger]]:
    """Give a function that opens ledgers, which are closed at the end."""
    made: list[Ledger] = []

    def open_one(*args: object, **settings: object) -> Ledger:
        made.append(Ledger(*args, **settings))  # type: ignore[arg-type]  # as the test gives them
        return made[-1]

    yield open_one
    for one in made:
        one.close()


def asked(**more: str) -> Asked:
    return dataclasses.replace(Asked(AT, OURS, "deepseek-flash"), **more)  # type: ignore[arg-type]  # texts, all of them


def done(cost: str | None = "0.5", at: datetime = AT + timedelta(seconds=1)) -> Outcome:
    return Outcome(
        state="done",
        at=at,
        prompt_tokens=3,
        prompt_cache_hit_tokens=1,
        prompt_cache_miss_tokens=2,
        completion_tokens=4,
        reasoning_tokens=0,
        price="0.02/1/4",
        band="off-peak",
        currency="CNY",
        cost=None if cost is None else Decimal(cost),
        finish_reason="stop",
        answer=f"answer to {SECRET}",
        reasoning=f"thoughts about {SECRET}",
        error=f"trouble with {SECRET}",
    )


def record(ledger: Ledger, outcome: Outcome | None = None, **more: str) -> int:
    """Write one whole call, and wait until it is on disk."""
    entry = ledger.ask(asked(request=SECRET, **more))
    ledger.end(entry, outcome or done()).result(30)
    return entry


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def states(path: Path) -> list[str]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return [state for (state,) in db.execute("SELECT state FROM entries ORDER BY sent, id")]


def test_an_entry_has_all_that_is_known(opened: Callable[..., Ledger], path: Path) -> None:
    """A call's tokens, price, cost, state and texts are there when the file is opened anew."""
    first = opened(path)
    record(first, notebook="a.ipynb", cell="c1", think="off")
    first.close()

    (entry,) = opened(path).entries()

    assert entry["state"] == "done"
    assert entry["cost"] == Decimal("0.5")
    assert (entry["sent"], entry["ended"]) == (AT, AT + timedelta(seconds=1))
    assert (entry["notebook"], entry["cell"], entry["think"]) == ("a.ipynb", "c1", "off")
    assert (entry["price"], entry["band"], entry["currency"]) == ("0.02/1/4", "off-peak", "CNY")
    assert (entry["request"], entry["answer"]) == (SECRET, f"answer to {SECRET}")


def test_a_call_is_known_before_it_ends(opened: Callable[..., Ledger]) -> None:
    """A call that goes out is an entry in the state "sent", without an end and a cost."""
    ledger = opened()

    ledger.ask(asked())

    (entry,) = ledger.entries()
    assert (entry["state"], entry["ended"], entry["cost"]) == ("sent", None, None)


def test_what_is_not_known_of_the_end_stays(opened: Callable[..., Ledger]) -> None:
    """The end of a call does not erase what was known when it was sent."""
    ledger = opened()

    record(ledger, Outcome("failed", AT))

    (entry,) = ledger.entries()
    assert (entry["model"], entry["request"], entry["state"]) == (
        "deepseek-flash",
        SECRET,
        "failed",
    )


@given(st.decimals(0, 10**6, places=12))
def test_amounts_are_exact(cost: Decimal) -> None:
    """A cost comes back from the file as it went in."""
    ledger = Ledger()

    record(ledger, done(str(cost)))

    assert ledger.entries()[0]["cost"] == cost
    assert ledger.spent(OURS, AT, wait=None) == {"CNY": cost}
    ledger.close()


@given(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  the zone is beside it
def test_moments_are_exact(at: datetime) -> None:
    """A moment comes back from the file to the microsecond."""
    assert moment(stamp(at)) == at


def test_no_amount_is_no_zero() -> None:
    """An amount that is not known stays unknown."""
    assert money(None) is None
    assert money(0) == 0


def test_vast_numbers_hold_nothing_up(opened: Callable[..., Ledger], path: Path) -> None:
    """A cost that the file cannot hold is unknown, and entries after it are written."""
    ledger = opened(path)

    record(ledger, done("1e15"))
    record(ledger)

    assert [entry["cost"] for entry in ledger.entries()] == [None, Decimal("0.5")]
    assert ledger.problem is None


def test_half_characters_hold_nothing_up(opened: Callable[..., Ledger], path: Path) -> None:
    """A text that SQLite refuses is written with a replacement."""
    ledger = opened(path)

    record(ledger, cell="half \ud83d")

    assert ledger.entries()[0]["cell"] == "half ?"


def test_spent_since(opened: Callable[..., Ledger]) -> None:
    """Spent since a moment is what calls of this account cost that ended after it, by currency."""
    ledger = opened()
    for seconds, cost in ((1, "1"), (2, "2"), (3, "4"), (4, None)):
        record(ledger, done(cost, AT + timedelta(seconds=seconds)))
    record(ledger, done("8"), account="another")
    ledger.ask(asked())

    assert ledger.spent(OURS, AT + timedelta(seconds=1), wait=None) == {"CNY": Decimal(6)}
    assert ledger.spent(OURS, AT + timedelta(hours=1), wait=None) == {}


def test_usage_adds_up(opened: Callable[..., Ledger]) -> None:
    """Usage is added up by notebook and the like, with unpriced calls and without refused ones."""
    ledger = opened()
    record(ledger, notebook="a.ipynb")
    record(ledger, notebook="a.ipynb")
    record(ledger, done(None), notebook="a.ipynb")
    record(ledger, notebook="b.ipynb")
    record(ledger, Outcome("refused", AT), notebook="c.ipynb")

    first, second = ledger.usage(OURS)

    assert (first["notebook"], first["queries"], first["cost"]) == ("a.ipynb", 3, Decimal(1))
    assert (first["unpriced"], first["prompt_tokens"], first["completion_tokens"]) == (1, 9, 12)
    assert (second["notebook"], second["cost"], second["unpriced"]) == (
        "b.ipynb",
        Decimal("0.5"),
        0,
    )


def test_readings(opened: Callable[..., Ledger], path: Path) -> None:
    """The newest reading of this account is found by every kernel, with all its currencies."""
    rows = [
        {"available": True, "currency": name, "total": "1.10", "granted": None, "topped_up": "1"}
        for name in ("CNY", "USD")
    ]
    one, other = opened(path), opened(path)
    one.reading(OURS, AT + timedelta(seconds=5), rows)
    one.reading(OURS, AT, rows[:1])
    one.reading("another", AT + timedelta(days=1), rows)
    one.entries()  # what is read comes after what was written

    found = other.last_reading(OURS, wait=None)

    assert found is not None
    assert found[0] == AT + timedelta(seconds=5)
    assert [(row["currency"], row["total"], row["granted"]) for row in found[1]] == [
        ("CNY", "1.10", None),
        ("USD", "1.10", None),
    ]
    assert other.last_reading("nobody") is None


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_only_the_user_may_read(opened: Callable[..., Ledger], path: Path) -> None:
    """The file and its new folder are the user's alone, whatever the umask allows."""
    before = os.umask(0)
    try:
        record(opened(path))
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_ordinary_journal(opened: Callable[..., Ledger], path: Path) -> None:
    """The file does not use WAL, which network folders do not support."""
    record(opened(path))

    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_figures_without_texts(opened: Callable[..., Ledger], path: Path) -> None:
    """With "figures" no word of a question, an answer or an error is in the file's bytes."""
    ledger = opened(path, keep="figures")

    record(ledger)

    assert ledger.entries()[0]["cost"] == Decimal("0.5")
    ledger.close()
    assert SECRET.encode() not in bytes_in(path.parent)


def test_texts_are_kept_when_allowed(opened: Callable[..., Ledger], path: Path) -> None:
    """With "all" the words are in the file: the test above can see them."""
    ledger = opened(path, keep="all")

    record(ledger)
    ledger.close()

    assert SECRET.encode() in bytes_in(path.parent)


def test_nothing_is_kept(opened: Callable[..., Ledger], path: Path) -> None:
    """With "nothing" there is no file, and the session's own figures still add up."""
    ledger = opened(path, keep="nothing")

    record(ledger)

    assert ledger.spent(OURS, AT, wait=None) == {"CNY": Decimal("0.5")}
    assert not path.parent.exists()


def test_a_directory_in_the_way(opened: Callable[..., Ledger], tmp_path: Path) -> None:
    """A ledger that cannot be opened is one clear line with a next step, and figures go on."""
    ledger = opened(tmp_path)

    record(ledger)

    assert ledger.spent(OURS, AT, wait=None) == {"CNY": Decimal("0.5")}
    assert ledger.problem is not None
    assert str(tmp_path) in ledger.problem
    assert "DEEPSEEK_MAGIC_HOME" in ledger.problem
    assert "\n" not in ledger.problem


def test_a_file_in_place_of_the_folder(opened: Callable[..., Ledger], tmp_path: Path) -> None:
    """A folder that cannot be made is told in the same way."""
    (tmp_path / "file").write_text("no folder")
    ledger = opened(tmp_path / "file" / "ledger.sqlite")

    record(ledger)

    assert "memory only" in (ledger.problem or "")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_without_permission(opened: Callable[..., Ledger], tmp_path: Path) -> None:
    """A folder that may not be written is told in the same way."""
    tmp_path.chmod(0o500)
    ledger = opened(tmp_path / "ledger.sqlite")

    record(ledger)

    tmp_path.chmod(0o700)
    assert "memory only" in (ledger.problem or "")


def test_a_damaged_file(opened: Callable[..., Ledger], path: Path) -> None:
    """A file that is no database is left as it is; the session goes on in memory and says so."""
    path.parent.mkdir()
    path.write_bytes(b"these are not the bytes of a database" * 100)
    ledger = opened(path)

    record(ledger)

    assert len(ledger.entries()) == 1
    assert "not a database" in (ledger.problem or "")
    assert path.read_bytes().startswith(b"these are not")


def test_damage_inside(opened: Callable[..., Ledger], path: Path) -> None:
    """Damage that shows only later is told, and asking goes on."""
    record(opened(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    ledger = opened(path)

    record(ledger)

    assert "malformed" in (ledger.problem or "")


def test_locked_for_longer_than_the_patience(opened: Callable[..., Ledger], path: Path) -> None:
    """While another process holds the file nothing is lost; it is written when the file is free."""
    ledger = opened(path, busy_seconds=0.05)
    record(ledger)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")

    record(ledger)
    told = ledger.problem
    holder.execute("ROLLBACK")
    holder.close()
    record(ledger)

    assert "locked" in (told or "")
    assert "2 record(s) wait" in (told or "")
    assert ledger.problem is None
    assert states(path) == ["done"] * 3


def test_locked_from_the_start(opened: Callable[..., Ledger], path: Path) -> None:
    """A file that is locked when it is opened is not given up for good."""
    record(opened(path))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    ledger = opened(path, busy_seconds=0.05)

    record(ledger)
    holder.execute("ROLLBACK")
    holder.close()
    ledger.close()

    assert states(path) == ["done"] * 2


def test_a_reader_in_the_way_of_a_commit(opened: Callable[..., Ledger], path: Path) -> None:
    """A commit that fails because somebody reads is made good as soon as nobody does."""
    ledger = opened(path, busy_seconds=0.05)
    record(ledger)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM entries").fetchall()

    record(ledger)
    told = ledger.problem
    reader.execute("ROLLBACK")
    reader.close()
    record(ledger)

    assert told is not None
    assert ledger.problem is None
    assert states(path) == ["done"] * 3


def test_closing_writes_what_waits(opened: Callable[..., Ledger], path: Path) -> None:
    """What was noted before `close` is in the file, also when closed twice."""
    ledger = opened(path)
    for _ in range(200):
        ledger.ask(asked())

    ledger.close()
    ledger.close()

    assert states(path) == ["sent"] * 200


def test_many_threads(opened: Callable[..., Ledger], path: Path) -> None:
    """Calls from fifty threads at once each have an entry of their own."""
    ledger = opened(path)
    start = threading.Barrier(50)

    def work() -> None:
        start.wait()
        for _ in range(20):
            ledger.end(ledger.ask(asked()), done("0.001"))

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ledger.spent(OURS, AT, wait=None) == {"CNY": Decimal(1)}
    ledger.close()
    assert states(path) == ["done"] * 1000


def write_fifty(path: str, ready: multiprocessing.synchronize.Barrier) -> None:
    """Write to a ledger at the same time as another process."""
    ledger = Ledger(path, busy_seconds=60)
    ready.wait()
    for _ in range(50):
        record(ledger)
    assert ledger.problem is None, ledger.problem
    ledger.close()


def test_two_processes_at_once(path: Path) -> None:
    """Two kernels make and fill a new file together, and lose nothing."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    both = [context.Process(target=write_fifty, args=(str(path), ready)) for _ in range(2)]

    for process in both:
        process.start()
    for process in both:
        process.join()

    assert [process.exitcode for process in both] == [0, 0]
    assert states(path) == ["done"] * 100
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        steps = [name for (name,) in db.execute("SELECT name FROM steps")]
    assert steps == [step.__name__ for step in STEPS]


def test_a_new_file_is_laid_out_once(path: Path) -> None:
    """Kernels that open a new file at the same moment lay it out once, and all can use it."""
    for n in range(30):
        ledgers = [Ledger(path.with_name(f"{n}.sqlite"), busy_seconds=30) for _ in range(4)]
        start = threading.Barrier(4)

        def use(ledger: Ledger, start: threading.Barrier = start) -> None:
            start.wait()
            record(ledger)

        threads = [threading.Thread(target=use, args=(ledger,)) for ledger in ledgers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for ledger in ledgers:
            ledger.close()

        assert [ledger.problem for ledger in ledgers] == [None] * 4
        assert states(path.with_name(f"{n}.sqlite")) == ["done"] * 4


def test_steps_have_names_in_order() -> None:
    """The steps of the schema are numbered from one, in the order in which they run."""
    numbers = [int(step.__name__[1:4]) for step in STEPS]

    assert numbers == list(range(1, len(STEPS) + 1))


def test_a_newer_file_can_be_used(opened: Callable[..., Ledger], path: Path) -> None:
    """A file that a later version has added to is still read and written."""
    record(opened(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("INSERT INTO steps VALUES ('m999_later', 0)")
        db.execute("ALTER TABLE entries ADD COLUMN later TEXT")

    ledger = opened(path)
    record(ledger)

    assert len(ledger.entries()) == 2
    assert ledger.problem is None


class Odd:
    """A thing that cannot even be made text of."""

    def __str__(self) -> str:
        raise TypeError("no text")


WRONG: list[Any] = [Odd(), None, "much"]


def test_things_are_written_as_text(opened: Callable[..., Ledger], path: Path) -> None:
    """A path for a notebook is written as its text, and a number too large is unknown."""
    ledger = opened(path)

    record(
        ledger,
        dataclasses.replace(done(), prompt_tokens=2**70),
        notebook=Path("a.ipynb"),  # type: ignore[arg-type]  # which is what callers do
    )

    (entry,) = ledger.entries()
    assert (entry["notebook"], entry["prompt_tokens"], entry["state"]) == ("a.ipynb", None, "done")
    assert ledger.problem is None


def test_half_characters_of_a_reading(opened: Callable[..., Ledger], path: Path) -> None:
    """A currency that SQLite refuses is written with a replacement."""
    ledger = opened(path)

    ledger.reading(
        OURS,
        AT,
        [{"available": 1, "currency": "\ud83d", "total": 1, "granted": None, "topped_up": None}],
    )

    found = ledger.last_reading(OURS, wait=None)
    assert found is not None
    assert found[1][0]["currency"] == "?"
    assert ledger.last_reading("\ud83d", wait=None) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ledger: ledger.ask(asked(model=WRONG[0])),
        lambda ledger: ledger.ask(Asked(AT, OURS, WRONG[1])),
        lambda ledger: ledger.ask(Asked(WRONG[1], OURS, "deepseek-flash")),
        lambda ledger: ledger.end(1, Outcome("done", WRONG[1])).result(30),
        lambda ledger: ledger.end(1, Outcome("done", AT, cost=WRONG[2])).result(30),
        lambda ledger: ledger.reading(OURS, AT, [{"currency": "CNY"}]),
        lambda ledger: ledger.reading(OURS, AT, [{"currency": Odd()}]),
        lambda ledger: ledger.reading(OURS, AT, [None]),
        lambda ledger: ledger._write(
            lambda: ("INSERT INTO entries (id) VALUES (:id)", {"id": Path()})
        ),
    ],
)
def test_a_spoiled_record_holds_nothing_up(
    opened: Callable[..., Ledger],
    path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Ledger], object],
) -> None:
    """A record that cannot be written is left out alone, logged and told, and raises nothing."""
    ledger = opened(path)

    first = ledger.ask(asked())
    spoil(ledger)
    ledger.end(first, done()).result(30)
    record(ledger)

    assert states(path) == ["done"] * 2
    assert "left out" in (ledger.problem or "")
    assert "left out" in caplog.text


def test_a_name_twice_holds_nothing_up(opened: Callable[..., Ledger], path: Path) -> None:
    """Of two entries with one name the second is left out, and told."""
    ledger = opened(path)
    name = ledger.ask(asked())
    ledger._file.names = itertools.count(name)

    ledger.ask(asked())
    record(ledger)

    assert len(ledger.entries()) == 2
    assert "UNIQUE" in (ledger.problem or "")


@pytest.mark.parametrize(
    "cost", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("-Infinity")]
)
def test_no_amount_at_all(opened: Callable[..., Ledger], cost: Decimal) -> None:
    """A cost that is no number is unknown."""
    ledger = opened()

    record(ledger, dataclasses.replace(done(), cost=cost))

    assert ledger.entries()[0]["cost"] is None
    assert ledger.problem is None


def test_reads_never_raise(opened: Callable[..., Ledger], path: Path) -> None:
    """What cannot be read is empty: a question is answered all the same."""
    ledger = opened(path)
    record(ledger)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE entries SET sent = 9223372036854775807, cost = 'much'")
        db.execute("INSERT INTO readings (account, at) VALUES (?, 'never')", (OURS,))

    assert ledger.entries() == []
    assert ledger.last_reading(OURS, wait=None) is None
    assert ledger.spent(OURS, None) == {}  # type: ignore[arg-type]  # a caller's mistake
    assert ledger.past("a", Odd(), None, json=False, tokens_in=1) is None  # type: ignore[arg-type]  # the same
    assert "left out" in (ledger.problem or "")


def test_amounts_in_a_rough_context(opened: Callable[..., Ledger]) -> None:
    """Money is exact also where the user counts with four digits."""
    ledger = opened()
    cost = Decimal("123456.123456789012")

    with localcontext(prec=4):
        record(ledger, done(str(cost)))
        record(ledger, done("0.000000000001"))
        entries, spent, usage = (
            ledger.entries(),
            ledger.spent(OURS, AT, wait=None),
            ledger.usage(OURS),
        )

    assert [entry["cost"] for entry in entries] == [cost, Decimal("1e-12")]
    assert spent == {"CNY": Decimal("123456.123456789013")}
    assert usage[0]["cost"] == Decimal("123456.123456789013")


def test_the_end_after_closing(opened: Callable[..., Ledger], path: Path) -> None:
    """The end of an answer that was under way when the ledger was closed is in the file."""
    ledger = opened(path)
    entry = ledger.ask(asked())
    ledger.close()

    ledger.end(entry, done()).result(1)
    ledger.ask(asked())

    assert states(path) == ["done", "sent"]
    assert ledger._file._db is None


def test_ends_of_many_threads_after_closing(opened: Callable[..., Ledger], path: Path) -> None:
    """Answers that end while the ledger is being closed are all in the file, which is closed."""
    ledger = opened(path)
    entries = [ledger.ask(asked()) for _ in range(40)]
    start = threading.Barrier(41)

    def work(entry: int) -> None:
        start.wait()
        ledger.end(entry, done()).result(30)

    threads = [threading.Thread(target=work, args=(entry,)) for entry in entries]
    for thread in threads:
        thread.start()
    start.wait()
    ledger.close()
    for thread in threads:
        thread.join()

    assert states(path) == ["done"] * 40
    assert ledger._file._db is None


def test_reads_after_closing(opened: Callable[..., Ledger], path: Path) -> None:
    """A closed ledger gives what one gives that knows nothing."""
    ledger = opened(path)
    record(ledger)
    ledger.close()

    assert ledger.spent(OURS, AT) == {}
    assert ledger.last_reading(OURS) is None
    assert ledger.past("a", "deepseek-flash", None, json=False, tokens_in=1) is None
    assert ledger.days(OURS, "CNY", AT.date()) == {}
    assert ledger.spending(OURS, AT) == []
    assert ledger.readings(OURS, AT) == []
    assert ledger.usage(OURS) == ledger.entries() == []


def test_the_end_after_closing_in_memory(opened: Callable[..., Ledger]) -> None:
    """What ends after a ledger in memory was closed is gone with it."""
    ledger = opened()
    ledger.close()

    ledger.end(ledger.ask(asked()), done()).result(1)

    assert ledger.problem is None
    assert ledger._file._waiting == []


FORKED = """
import os, sys, threading
sys.path.insert(0, sys.argv[2])
from test_ledger import Ledger, OURS, AT, asked, done, record
ledger = Ledger(sys.argv[1])
record(ledger)
child = os.fork()
if child == 0:
    names = [record(ledger, notebook="child") for _ in range(3)]
    assert len(ledger.entries()) >= 4, ledger.problem
    assert ledger.spent(OURS, AT, wait=None)
    ledger.close()
    os._exit(0)
names = [record(ledger, notebook="parent") for _ in range(3)]
assert os.waitpid(child, 0)[1] == 0
found = [entry["notebook"] for entry in ledger.entries()]
print(sorted(map(str, found)), ledger.problem)
ledger.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork(path: Path) -> None:
    """A process that was forked off writes and reads as its parent does, beside it."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(path), str(Path(__file__).parent)]

    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ran.stderr == ""
    expected = ["None", *["child"] * 3, *["parent"] * 3]
    assert ran.stdout == f"{expected} None\n"


POOLED = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[2])
from test_ledger import Ledger, asked, done, record
ledger = Ledger(sys.argv[1], busy_seconds=60)
record(ledger)
def work(n):
    ledger.end(ledger.ask(asked()), done())  # on disk when the process ends
if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(n,)) for n in range(4)]
    for process in processes: process.start()
    for process in processes: process.join()
    print([process.exitcode for process in processes], len(ledger.entries()))
    ledger.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_work_shared_out(path: Path) -> None:
    """What the processes of `multiprocessing` ask is on disk when they end."""
    command = [sys.executable, "-W", "ignore", "-c", POOLED, str(path), str(Path(__file__).parent)]

    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ran.stdout == "[0, 0, 0, 0] 5\n", ran.stderr
    assert states(path) == ["done"] * 5


class Rubbish:
    """Ends an answer when it is thrown away."""

    def __init__(self, ledger: Ledger, entry: int, found: list[object]) -> None:
        self.ledger, self.entry, self.found = ledger, entry, found

    def __del__(self) -> None:
        self.ledger.end(self.entry, done()).result(30)
        self.found.append(self.ledger.entries())


class Throwing(dict[str, object]):
    """Values that throw rubbish away when SQLite takes them."""

    rubbish: list[Rubbish]

    def __getitem__(self, name: str) -> object:
        self.rubbish.clear()
        return super().__getitem__(name)


@pytest.mark.parametrize("place", ["a write", "a read", "idleness"])
def test_rubbish_on_the_thread(opened: Callable[..., Ledger], path: Path, place: str) -> None:
    """An answer that is thrown away on the ledger's own thread is recorded and hangs nothing."""
    ledger, found = opened(path), list[object]()
    rubbish = [Rubbish(ledger, ledger.ask(asked()), found)]
    assert len(ledger.entries()) == 1

    def fetch(_: sqlite3.Connection) -> list[sqlite3.Row]:
        rubbish.clear()
        return []

    if place == "a write":
        values = Throwing(account=OURS)
        values.rubbish = rubbish
        statement = "INSERT INTO readings (account, at) VALUES (:account, 0)"
        ledger._file.write(statement, values).result(30)
    elif place == "a read":
        ledger._file._thread.submit(ledger._file._on_thread, fetch, 1e12).result(30)
    else:
        ledger._file._thread.submit(rubbish.clear).result(30)

    assert [len(entries) for entries in found if isinstance(entries, list)] == [1]
    assert [entry["state"] for entry in ledger.entries()] == ["done"]
    assert ledger.problem is None


def test_closed_by_rubbish(opened: Callable[..., Ledger], path: Path) -> None:
    """A ledger that is closed on its own thread writes all and does not wait for itself."""
    ledger = opened(path)
    record(ledger)

    ledger._file._thread.submit(ledger.close).result(30)
    ledger.ask(asked())
    ledger.close()

    assert states(path) == ["done", "sent"]
    assert ledger._file._db is None


def test_reads_of_a_locked_file(opened: Callable[..., Ledger], path: Path) -> None:
    """While another process holds the file, a figure that is not to be had soon is empty."""
    record(opened(path))
    ledger = opened(path, busy_seconds=600)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")

    before = (ledger.last_reading(OURS), ledger.spent(OURS, AT), ledger.waits(OURS))
    record_later = ledger.end(ledger.ask(asked()), done())
    behind_a_write = ledger.spent(OURS, AT)
    holder.execute("ROLLBACK")
    holder.close()
    record_later.result(30)

    assert before == (None, {}, None)
    assert behind_a_write == {}
    assert ledger.spent(OURS, AT, wait=None) == {"CNY": Decimal(1)}


def test_waits_do_not_add_up(opened: Callable[..., Ledger], path: Path) -> None:
    """What was asked for while a lock was waited for does not wait as long once more."""
    record(opened(path))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    ledger = opened(path, busy_seconds=2)

    ends = [ledger.end(ledger.ask(asked()), done()) for _ in range(60)]
    for end in ends:
        end.result(60)  # 120 waits of two seconds, one after another, are 240
    holder.execute("ROLLBACK")
    holder.close()

    ledger.close()
    assert states(path) == ["done"] * 61


def test_damage_inside_does_not_end_the_figures(opened: Callable[..., Ledger], path: Path) -> None:
    """After damage that shows only later the session's figures go on in memory."""
    record(opened(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        ((page,),) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries'")
    whole = path.read_bytes()
    path.write_bytes(whole[: 4096 * (page - 1)] + b"\xff" * 4096 + whole[4096 * page :])
    ledger = opened(path)

    record(ledger)
    record(ledger)

    assert ledger.spent(OURS, AT, wait=None) == {"CNY": Decimal(1)}
    assert len(ledger.entries()) == 2
    assert "DEEPSEEK_MAGIC_HOME" in (ledger.problem or "")
    assert ledger._file._waiting == []


def test_a_file_of_another_shape(opened: Callable[..., Ledger], path: Path) -> None:
    """A file whose tables are gone is told like a damaged one, and figures go on."""
    ledger = opened(path)
    record(ledger)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TABLE entries")

    record(ledger)

    assert ledger.spent(OURS, AT, wait=None) == {"CNY": Decimal("0.5")}
    assert "no such table" in (ledger.problem or "")


def test_a_file_taken_away(opened: Callable[..., Ledger], path: Path) -> None:
    """A file that is deleted while it is in use is made anew."""
    ledger = opened(path)
    record(ledger)
    path.unlink()

    record(ledger)
    record(ledger)

    assert states(path) == ["done"] * 2
    assert ledger.problem is None


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_ledger import Ledger, asked, record
ledger = Ledger(sys.argv[1])
record(ledger)
ledger.ask(asked())
ledger.entries()
ledger._file.write("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
                   "INSERT INTO readings(account, at) SELECT 'x', x FROM n", {})
print("under way", flush=True)
signal.pause()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_while_writing(opened: Callable[..., Ledger], path: Path) -> None:
    """After `kill -9` in the middle of a write the file opens with all that was complete."""
    command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        process.send_signal(signal.SIGKILL)

    ledger = opened(path)

    assert [entry["state"] for entry in ledger.entries()] == ["done", "sent"]
    assert ledger.last_reading("x") is None
    assert ledger.problem is None


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_ledger import Ledger, done, record, asked, SECRET
import dataclasses
ledger = Ledger(sys.argv[1])
record(ledger)
resource.setrlimit(resource.RLIMIT_FSIZE, (32_768, resource.RLIM_INFINITY))
long = dataclasses.replace(done(), answer="x" * 100_000)
record(ledger, long)
print(ledger.problem)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
record(ledger)
print(ledger.problem)
print([entry["state"] for entry in ledger.entries()])
ledger.close()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk(path: Path) -> None:
    """When there is no room the query goes on; the record is written once there is."""
    command = [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)]

    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    full, after, found = ran.stdout.splitlines()
    assert "could not be used" in full
    assert after == "None"
    assert found == "['done', 'done', 'done']"


# Cells that wait for money


def pend(ledger: Ledger, text: str = SECRET, **more: Any) -> None:
    names = {"cell": None, "notebook": "a.ipynb", "asks": True, "at": AT, **more}
    ledger.pend(OURS, names.pop("at"), text=text, **names).result(30)


def test_a_cell_waits_for_money(opened: Callable[..., Ledger], path: Path) -> None:
    """Notebook, cell, text and time are there for another kernel, the longest waiting first."""
    first = opened(path)
    pend(first, "later", at=AT + timedelta(hours=1))
    pend(first, "%%deepseek\nWhy?", cell="c1")
    pend(first, "run()", cell="c2", notebook=None, asks=False, at=AT + timedelta(hours=2))
    first.close()

    rows = opened(path).pending(OURS)

    assert [
        (row.since, row.notebook, row.cell, row.text, row.asks, row.answered) for row in rows
    ] == [
        (AT, "a.ipynb", "c1", "%%deepseek\nWhy?", True, None),
        (AT + timedelta(hours=1), "a.ipynb", None, "later", True, None),
        (AT + timedelta(hours=2), None, "c2", "run()", False, None),
    ]
    assert opened(path).pending("another account") == []


def test_a_cell_waits_once(opened: Callable[..., Ledger]) -> None:
    """A cell that fails again is the same entry, with its first time and its newest text."""
    ledger = opened()
    pend(ledger, "old", cell="c1")
    pend(ledger, "new", cell="c1", at=AT + timedelta(hours=1))
    pend(ledger, "no id")
    pend(ledger, "no id")
    pend(ledger, "no id", notebook="b.ipynb")

    found = {(row.notebook, row.cell, row.text, row.since) for row in ledger.pending(OURS)}

    assert len(ledger.pending(OURS)) == 3
    assert ("a.ipynb", "c1", "new", AT) in found


@pytest.mark.parametrize(
    ("place", "settled"),
    [
        ({"cell": "c1", "text": "edited"}, True),
        ({"cell": None, "text": SECRET}, True),
        ({"cell": "c9", "text": SECRET}, False),
        ({"cell": "c9", "text": "another"}, False),
        ({"cell": "c1", "text": SECRET, "notebook": "b.ipynb"}, False),
        ({"cell": "c1", "text": SECRET, "account": "another account"}, False),
    ],
)
def test_what_has_succeeded_waits_no_more(
    opened: Callable[..., Ledger], place: dict[str, Any], *, settled: bool
) -> None:
    """The cell that succeeded is known by its id or by its text, in its own notebook."""
    ledger = opened()
    pend(ledger, cell="c1")

    names = {"account": OURS, "notebook": "a.ipynb", **place}
    ledger.settle(names.pop("account"), **names).result(30)

    assert (ledger.pending(OURS) == []) is settled


def test_an_answer_that_no_page_showed(opened: Callable[..., Ledger]) -> None:
    """It is noted with the words it answers, and stays whatever its cell asks meanwhile."""
    ledger = opened()
    pend(ledger, cell="c1")
    pend(ledger, "another", cell="c2")
    ledger.answered(OURS, AT, cell="c1", text=SECRET, notebook="a.ipynb").result(30)
    assert {row.cell: row.answered for row in ledger.pending(OURS)} == {"c1": AT, "c2": None}

    pend(ledger, "something else", cell="c1")
    ledger.settle(OURS, cell="c1", text="something else", notebook="a.ipynb").result(30)
    found = {row.text: row.answered for row in ledger.pending(OURS)}
    ledger.settle(OURS, cell="c1", text=SECRET, notebook="a.ipynb").result(30)

    assert found == {SECRET: AT, "another": None}
    assert [row.text for row in ledger.pending(OURS)] == ["another"]


def test_an_answer_to_a_cell_that_was_let_go(opened: Callable[..., Ledger]) -> None:
    """An answer that was not shown is noted where no entry waits any more."""
    ledger = opened()
    ledger.answered(OURS, AT, cell="c1", text=SECRET, notebook="a.ipynb").result(30)

    assert [(row.text, row.answered) for row in ledger.pending(OURS)] == [(SECRET, AT)]


def test_whether_any_waits(opened: Callable[..., Ledger], path: Path) -> None:
    """Yes, no, or not known while another program holds the file."""
    ledger = opened(path, busy_seconds=0.1)
    assert ledger.waits(OURS) is False
    pend(ledger)
    assert ledger.waits(OURS) is True
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert ledger.waits(OURS, wait=0.05) is None


def test_cells_are_let_go(opened: Callable[..., Ledger]) -> None:
    """Entries go by their id, and no others."""
    ledger = opened()
    for number in range(3):
        pend(ledger, f"cell {number}")
    gone, *left = ledger.pending(OURS)

    ledger.forget([gone.id])

    assert ledger.pending(OURS) == left


@pytest.mark.parametrize(
    "settings", [{"keep": "figures"}, {"keep": "nothing"}, {"keep_text": False}], ids=str
)
def test_texts_of_cells_stay_out(
    opened: Callable[..., Ledger], path: Path, settings: dict[str, Any]
) -> None:
    """Where texts are not kept, a cell has its id and a hash, and its text is on no disk."""
    ledger = opened(path, keep=settings.get("keep", "all"))
    pend(ledger, cell="c1", keep_text=settings.get("keep_text", True))
    pend(ledger, keep_text=settings.get("keep_text", True))

    assert len(ledger.pending(OURS)) == 2
    ledger.settle(OURS, cell=None, text=SECRET, notebook="a.ipynb").result(30)
    assert [row.cell for row in ledger.pending(OURS)] == ["c1"] or settings == {"keep": "nothing"}
    ledger.close()
    assert not path.exists() or SECRET.encode() not in bytes_in(path.parent)


def test_the_newest_whole_answer_to_a_request(opened: Callable[..., Ledger]) -> None:
    """An answer is found by the very same request, of this account, after a moment, and whole."""
    ledger = opened()
    record(ledger)
    record(ledger, dataclasses.replace(done(at=AT + timedelta(hours=1)), answer="newer"))
    record(ledger, dataclasses.replace(done(at=AT + timedelta(hours=2)), state="partial"))
    record(ledger, dataclasses.replace(done(at=AT + timedelta(hours=3)), answer=None))
    record(ledger, done(at=AT + timedelta(hours=4)), account="another account")

    found = ledger.kept(OURS, SECRET, AT)

    assert found is not None
    assert (found["answer"], found["cost"]) == ("newer", Decimal("0.5"))
    assert ledger.kept(OURS, SECRET, AT + timedelta(hours=1, seconds=1)) is None
    assert ledger.kept(OURS, "another request", AT) is None


def test_a_locked_file_has_no_pending_cells(opened: Callable[..., Ledger], path: Path) -> None:
    """A ledger that is not free gives none, and what is noted meanwhile is written later."""
    ledger = opened(path, busy_seconds=0.1)
    pend(ledger, "before")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert ledger.pending(OURS, wait=0.05) == []
        ledger.pend(OURS, AT, cell=None, text="meanwhile", notebook=None, asks=True)
        other.execute("COMMIT")
    pend(ledger, "after")

    assert {row.text for row in ledger.pending(OURS)} == {"before", "meanwhile", "after"}
