"""A question for every row of a Dask frame, on a cluster of two processes."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deepseek_magic import (
    DeepSeekError,
    InsufficientBalance,
    OverLimit,
    Sandbox,
    Session,
    partition,
)
from deepseek_magic.errors import Interrupted, InvalidOption, KeyInText
from deepseek_magic.jobs import Forecast, Progress
from deepseek_magic.limits import Cap
from deepseek_magic.prices import band
from deepseek_magic.shares import Lent, Part, Shares
from harness.environment import LEFT_OUT

dask = pytest.importorskip("dask")
dd = pytest.importorskip("dask.dataframe")
distributed = pytest.importorskip("distributed")
cloudpickle = pytest.importorskip("cloudpickle")

Open = Callable[..., Session]
SETTINGS: dict[str, Any] = {"model": "flash", "think": "off", "max_tokens": 50, "progress": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Give the client of two workers, each a process of its own, without a key."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LEFT_OUT:
            patch.delenv(name, raising=False)
        made = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0"
        )
    with made, distributed.Client(made) as client:
        yield client


@pytest.fixture
def client(cluster: Any) -> Any:
    """Give that client, both workers there."""
    cluster.wait_for_workers(2, timeout=30)
    return cluster


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, path: Path) -> str:
    return str(path) if request.param == "file" else ":memory:"


def rows(number: int, distinct: int | None = None) -> pd.DataFrame:
    texts = [f"text {row % (distinct or number)}" for row in range(number)]
    return pd.DataFrame({"text": texts}, index=pd.Index([f"r{row:03}" for row in range(number)]))


def parts(frame: Any, number: int) -> Any:
    return dd.from_pandas(frame, npartitions=number, sort=False)


def at_this_hour(peak: str) -> Decimal:
    """Give what *peak* is in the prices of this hour."""
    return Decimal(peak) / (1 if band(datetime.now(UTC)) == "peak" else 2)


def refusals(api: Sandbox) -> int:
    return sum(one.status == 402 for one in api.requests)


@contextmanager
def watched(api: Sandbox) -> Iterator[list[int]]:
    """Look again and again at how many requests are under way."""
    seen, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            seen.append(len(api._service.log._open))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@contextmanager
def once_asked(api: Sandbox, number: int, then: Callable[[], object]) -> Iterator[None]:
    """Do *then* when *number* requests have come in."""

    def wait() -> None:
        ends = time.monotonic() + 30
        while len(api.requests) < number and time.monotonic() < ends:
            time.sleep(0.005)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()


# What comes back


def test_the_rows_come_back_in_their_order(
    client: Any, api: Sandbox, open_session: Open, ledger: str
) -> None:
    """A frame of pandas has the rows of all partitions in order; the bill is its cost."""
    session, frame = open_session(api, ledger=ledger), rows(30)

    found = session.map(parts(frame, 3), "Label: {{text}}", **SETTINGS)

    assert list(found.columns) == ["text", "answer", "cost", "error"]
    assert list(found.index) == list(frame.index)
    assert list(found["text"]) == list(frame["text"])
    assert found["answer"].notna().all()
    assert found["error"].isna().all()
    assert found["cost"].sum() == api.billed
    assert session.usage()["cost"].sum() == api.billed
    assert session.spent == {"CNY": api.billed}


def test_asked_again_it_costs_nothing(
    client: Any, api: Sandbox, open_session: Open, ledger: str
) -> None:
    """Rows answered earlier are not asked again, wherever their answers are kept."""
    session, data = open_session(api, ledger=ledger), parts(rows(20), 2)
    first = session.map(data, "Label: {{text}}", **SETTINGS)
    api.requests.clear()

    again = session.map(data, "Label: {{text}}", **SETTINGS)

    assert not api.requests
    assert list(again["answer"]) == list(first["answer"])
    assert again["cost"].sum() == 0


@pytest.mark.parametrize("keep", ["figures", "nothing"])
def test_asked_again_where_no_texts_are_kept(
    client: Any, api: Sandbox, open_session: Open, keep: str
) -> None:
    """The session remembers the answers of all workers where the ledger keeps no texts."""
    session, data = open_session(api, keep=keep), parts(rows(20), 2)
    session.map(data, "Label: {{text}}", **SETTINGS)
    api.requests.clear()

    again = session.map(data, "Label: {{text}}", **SETTINGS)

    assert not api.requests
    assert again["answer"].notna().all()


def test_equal_rows_of_all_partitions_are_asked_once(
    client: Any, open_session: Open, ledger: str
) -> None:
    """A question is sent once, though rows in each partition ask it at the same time."""
    with Sandbox(latency=0.05) as api:
        session = open_session(api, ledger=ledger)

        found = session.map(parts(rows(60, distinct=10), 3), "Label: {{text}}", **SETTINGS)

        assert len(api.requests) == 10
        assert found["answer"].notna().all()
        assert found["cost"].sum() == api.billed


def test_a_series_is_asked_about(client: Any, api: Sandbox, open_session: Open) -> None:
    """A Series of Dask is its values, under its name."""
    data = parts(rows(6)["text"], 2)

    found = open_session(api).map(data, "Label: {{text}}", **SETTINGS)

    assert list(found["text"]) == list(rows(6)["text"])
    assert found["answer"].notna().all()


def test_expressions_use_names_of_the_caller(client: Any, open_session: Open) -> None:
    """The names that a template uses go along, and no others: those may not be pickled."""
    with Sandbox() as api:
        names = {"kind": "a fruit", "lock": threading.Lock()}

        open_session(api).map(parts(rows(4), 2), "{{kind}}: {{text}}", names=names, **SETTINGS)

        asked = {one.body["messages"][-1]["content"] for one in api.requests if one.body}
        assert asked == {f"a fruit: text {row}" for row in range(4)}


def test_a_limit_asks_the_first_rows(client: Any, api: Sandbox, open_session: Open) -> None:
    """With `limit`, the first rows are asked about and come back, from several partitions."""
    found = open_session(api).map(parts(rows(9), 3), "Label: {{text}}", limit=5, **SETTINGS)

    assert list(found.index) == list(rows(9).index[:5])
    assert len(api.requests) == 5


def test_without_a_cluster_the_partitions_follow_each_other(
    client: Any, api: Sandbox, session: Session
) -> None:
    """Where Dask would use no cluster, this process asks about one partition after the other."""
    data, seen = parts(rows(12, distinct=6), 3), list[Progress]()

    with dask.config.set(scheduler="synchronous"):
        found = session.map(data, "Label: {{text}}", **{**SETTINGS, "progress": seen.append})

    assert list(found.index) == list(rows(12).index)
    assert len(api.requests) == 6
    assert (seen[-1].rows, seen[-1].done, seen[-1].asked) == (12, 12, 6)


def test_without_a_cluster_all_rows_are_in_what_is_left(client: Any, open_session: Open) -> None:
    """When the money ends, rows of later partitions are there too, and say why."""
    with Sandbox(balance="0.0003", currency="CNY") as api, dask.config.set(scheduler="synchronous"):
        session = open_session(api)

        with pytest.raises(InsufficientBalance, match=r"of 30 rows have their answer") as caught:
            session.map(parts(rows(30), 3), "Label: {{text}}", concurrency=2, **SETTINGS)

        partial = caught.value.partial
        assert list(partial.index) == list(rows(30).index)
        assert partial["cost"].sum() == api.billed
        assert partial["error"].iloc[-1].startswith("Not asked, as the balance was empty")


# What all of them share


def test_the_requests_at_once_are_counted_for_all(client: Any, open_session: Open) -> None:
    """Two workers together never have more requests under way than `concurrency`, and that many."""
    with Sandbox(latency=0.05) as api:
        session = open_session(api)

        with watched(api) as seen:
            session.map(parts(rows(70), 3), "Label: {{text}}", concurrency=7, **SETTINGS)

        assert max(seen) == 7


def test_a_budget_is_spent_and_not_passed(client: Any, open_session: Open, ledger: str) -> None:
    """All partitions together spend no more than the budget, and go as far as it does."""
    with Sandbox(latency=0.02) as api:
        session, data = open_session(api, ledger=ledger), parts(rows(100), 3)
        budget = at_this_hour("0.002")

        with pytest.raises(OverLimit, match=r"of 100 rows have their answer") as caught:
            session.map(data, "Label: {{text}}", budget=budget, concurrency=16, **SETTINGS)

        partial = caught.value.partial
        worst = session.estimate("Label: text 99", model="flash", think="off", max_tokens=50).worst
        assert worst is not None
        assert partial["cost"].sum() == api.billed
        assert budget - 2 * worst < api.billed <= budget
        assert not refusals(api)


def test_a_limit_for_the_day_holds_for_all(client: Any, open_session: Open, ledger: str) -> None:
    """All partitions together stay within what is left for the day."""
    with Sandbox(latency=0.02) as api:
        session = open_session(api, ledger=ledger, day_limit=at_this_hour("0.0025"))

        with pytest.raises(OverLimit) as caught:
            session.map(parts(rows(100), 3), "Label: {{text}}", concurrency=16, **SETTINGS)

        assert caught.value.partial["cost"].sum() == api.billed
        assert at_this_hour("0.0005") < api.billed <= at_this_hour("0.0025")


def test_money_that_ends_is_told_once_and_nothing_is_lost(
    client: Any, open_session: Open, ledger: str
) -> None:
    """The first refusal ends it for all; what was paid is there, and is not paid again."""
    with Sandbox(balance=at_this_hour("0.002"), currency="CNY", latency=0.04) as api:
        session, data = open_session(api, ledger=ledger), parts(rows(90), 3)

        with pytest.raises(InsufficientBalance, match=r"of 90 rows have their answer") as caught:
            session.map(data, "Label: {{text}}", concurrency=8, **SETTINGS)

        partial, billed = caught.value.partial, api.billed
        answered = int(partial["answer"].notna().sum())
        assert refusals(api) <= 8
        assert answered == len(api.requests) - refusals(api)
        assert partial["cost"].sum() == billed
        assert list(partial.index) == list(rows(90).index)
        assert caught.value.progress is not None
        assert caught.value.progress.done == answered

        api.top_up("5")
        api.requests.clear()
        found = session.map(data, "Label: {{text}}", concurrency=8, **SETTINGS)

        assert len(api.requests) == 90 - answered
        assert found["answer"].notna().all()
        assert found["cost"].sum() == api.billed - billed
        assert session.usage()["cost"].sum() == api.billed


def test_what_was_paid_earlier_is_in_what_there_is(
    client: Any, open_session: Open, ledger: str
) -> None:
    """Where the money is gone, rows answered earlier have their answers in every partition."""
    with Sandbox(latency=0.02) as api:
        session, data = open_session(api, ledger=ledger), rows(60)
        first = session.map(parts(data.iloc[::5], 2), "Label: {{text}}", **SETTINGS)
        api.balance = Decimal(0)
        session.balance()

        with pytest.raises(InsufficientBalance) as caught:
            session.map(parts(data, 4), "Label: {{text}}", **SETTINGS)

        partial = caught.value.partial
        assert first["answer"].notna().all()
        assert list(partial["answer"][::5]) == list(first["answer"])
        assert partial["answer"].notna().sum() == 12


def test_the_progress_is_the_sum_of_all(client: Any, open_session: Open) -> None:
    """`progress` is called in the caller's thread with how far all partitions are together."""
    with Sandbox(latency=0.1) as api:
        seen, threads = list[Progress](), set[int]()

        def told(now: Progress) -> None:
            seen.append(now)
            threads.add(threading.get_ident())

        settings = {**SETTINGS, "progress": told, "concurrency": 6}
        open_session(api).map(parts(rows(60, distinct=50), 3), "Label: {{text}}", **settings)

        last = seen[-1]
        assert threads == {threading.get_ident()}
        assert (last.rows, last.done, last.asked, last.failed) == (60, 60, 50, 0)
        assert last.cost == api.billed
        assert max(now.under_way for now in seen) <= 6
        assert any(0 < now.done < 60 for now in seen)


# What goes wrong


def test_a_worker_that_dies_costs_what_it_had_under_way(
    client: Any, open_session: Open, path: Path
) -> None:
    """Of a killed worker's rows, those on disk are not asked again, and the budget holds."""
    with Sandbox(latency=0.1) as api:
        session, data = open_session(api), parts(rows(120), 4)
        victim = next(iter(client.run(os.getpid).values()))

        with once_asked(api, 40, lambda: os.kill(victim, signal.SIGKILL)):
            found = session.map(data, "Label: {{text}}", concurrency=8, budget="0.5", **SETTINGS)

        asked = [one.body["messages"][-1]["content"] for one in api.requests if one.body]
        assert found["answer"].notna().all()
        assert list(found.index) == list(rows(120).index)
        assert set(asked) == {f"Label: text {row}" for row in range(120)}
        assert 120 <= len(asked) <= 120 + 4


def test_a_worker_that_dies_with_its_records_in_memory(client: Any, open_session: Open) -> None:
    """Without a file the answers since the last turn are lost with a worker; all rows come."""
    with Sandbox(latency=0.1) as api:
        session, data = open_session(api, ledger=":memory:"), parts(rows(60), 4)
        victim = next(iter(client.run(os.getpid).values()))

        with once_asked(api, 20, lambda: os.kill(victim, signal.SIGKILL)):
            found = session.map(data, "Label: {{text}}", concurrency=8, **SETTINGS)

        assert found["answer"].notna().all()
        assert list(found.index) == list(rows(60).index)
        assert len(api.requests) <= 60 + 15


def test_an_interrupt_keeps_what_has_come(client: Any, open_session: Open, ledger: str) -> None:
    """After an interrupt nothing is sent; what was under way arrives, is kept, and stays paid."""
    with Sandbox(latency=0.1) as api:
        session, data = open_session(api, ledger=ledger), parts(rows(120), 3)

        with (
            once_asked(api, 40, lambda: os.kill(os.getpid(), signal.SIGINT)),
            pytest.raises(Interrupted, match=r"of 120 rows have their answer") as caught,
        ):
            session.map(data, "Label: {{text}}", concurrency=8, **SETTINGS)

        asked, partial = len(api.requests), caught.value.partial
        assert asked < 120
        assert partial["answer"].notna().sum() == asked
        assert list(partial.index) == list(rows(120).index)
        assert caught.value.progress is not None

        session.map(data, "Label: {{text}}", concurrency=50, **SETTINGS)
        assert len(api.requests) == 120


def test_a_partition_that_cannot_be_read_ends_it(client: Any, open_session: Open) -> None:
    """What cannot be computed is named, and the rows of the other partitions are kept."""
    with Sandbox() as api:

        def broken(frame: pd.DataFrame) -> pd.DataFrame:
            if "text 11" in set(frame["text"]):
                raise ValueError("no such column in the file")
            return frame

        data = parts(rows(12), 3).map_partitions(broken, meta=rows(0))

        with pytest.raises(DeepSeekError, match=r"Partition 2 .* no such column") as caught:
            open_session(api).map(data, "Label: {{text}}", **SETTINGS)

        assert len(caught.value.partial) == 8


def test_a_key_in_a_row_is_not_sent(client: Any, api: Sandbox, open_session: Open) -> None:
    """A partition with something like a key in it is refused before any of it is sent."""
    frame = rows(20)
    frame.loc["r015", "text"] = f"my key is {api.api_key}"

    with pytest.raises(KeyInText, match=r"In partition 1: Row 5 .*holds something like a key"):
        open_session(api).map(parts(frame, 2), "Label: {{text}}", **SETTINGS)

    asked = {one.body["messages"][-1]["content"] for one in api.requests if one.body}
    assert not asked & {f"Label: text {row}" for row in range(10, 20)}


@pytest.mark.parametrize(
    ("template", "settings"),
    [
        ("Label: {{txt}}", {}),
        ("Label: {{text}}", {"column": "text"}),
        ("Label: {{text}}", {"concurrency": 0}),
        ("Label: {{text}}", {"temperature": "hot"}),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    client: Any, api: Sandbox, open_session: Open, template: str, settings: dict[str, Any]
) -> None:
    """A wrong template or option is refused here, with no partition computed."""
    with pytest.raises(InvalidOption):
        open_session(api).map(parts(rows(4), 2), template, **{**SETTINGS, **settings})

    assert not api.requests


def test_where_the_money_is_in_doubt_it_is_asked_first(client: Any, open_session: Open) -> None:
    """`confirm` gets a forecast for all rows, and what it raises stops it."""
    with Sandbox(balance="0.002", currency="CNY") as api:
        session, seen = open_session(api), list[Forecast]()
        session.map(rows(5), "Label: {{text}}", **SETTINGS)
        api.requests.clear()

        def confirm(found: Forecast) -> None:
            seen.append(found)
            raise InvalidOption("no")

        with pytest.raises(InvalidOption):
            session.map(parts(rows(400), 4), "Label: {{text}}", confirm=confirm, **SETTINGS)

        assert (seen[0].rows, seen[0].to_ask) == (400, 380)
        assert not api.requests


# The key


def _graph(dask_scheduler: Any) -> list[bytes]:
    """Give the tasks that the scheduler knows, as they go to the workers."""
    return [cloudpickle.dumps(task.run_spec) for task in dask_scheduler.tasks.values()]


def _set(value: str | None) -> None:
    if value is None:
        del os.environ["DEEPSEEK_API_KEY"]
    else:
        os.environ["DEEPSEEK_API_KEY"] = value


def _keys(dask_worker: Any) -> list[bool]:
    jobs = vars(dask_worker).get(partition.DESK, {})
    return [held.key is not None for held in jobs.values()]


def test_the_key_is_in_no_graph_and_no_log(client: Any, open_session: Open, tmp_path: Path) -> None:
    """Workers are sent the key beside the graph, and forget it at the end."""
    with Sandbox(latency=0.3) as api:
        found: dict[str, Any] = {}

        def look() -> None:
            found["graph"] = client.run_on_scheduler(_graph)
            found["keys"] = client.run(_keys)
            client.dump_cluster_state(str(tmp_path / "dump"), format="yaml")

        with once_asked(api, 2, look):
            open_session(api).map(parts(rows(8), 2), "Label: {{text}}", concurrency=2, **SETTINGS)

        logs = str(client.get_worker_logs()) + str(client.get_scheduler_logs())
        assert b"ask_partition" in b"".join(found["graph"])
        assert api.api_key.encode() not in b"".join(found["graph"])
        assert any(map(any, found["keys"].values()))
        assert api.api_key not in logs + (tmp_path / "dump.yaml").read_text()
        assert not any(map(any, client.run(_keys).values()))


def test_a_worker_uses_its_own_key(client: Any, open_session: Open) -> None:
    """Where a worker has the account's key in its environment, none is sent."""
    with Sandbox(latency=0.3) as api:
        client.run(_set, api.api_key)
        found: dict[str, Any] = {}

        with once_asked(api, 2, lambda: found.update(client.run(_keys))):
            open_session(api).map(parts(rows(4), 2), "Label: {{text}}", concurrency=2, **SETTINGS)

        client.run(_set, None)
        assert found
        assert not any(map(any, found.values()))


def test_a_failure_while_a_key_is_handed_over_does_not_show_it() -> None:
    """What carries the key shows itself as no more than a key, and arrives as one."""
    from deepseek_magic.wire import Key

    sealed = partition.Sealed(Key("sk-of-nobody"))

    assert "nobody" not in repr(sealed)
    assert pickle.loads(pickle.dumps(sealed)) == Key("sk-of-nobody")  # noqa: S301  # our own


# The shares


def _part(number: int, *questions: str, shares: Shares) -> Part:
    part = Part(number, f"try {number}", "tcp://somewhere")
    shares.begin(part, questions)
    shares.wait(part, 100, starved=False)
    return part


def test_a_lone_partition_gets_all_requests() -> None:
    """Requests are shared by as many as can run; the last partition has all of them."""
    shares = Shares(10, [], 3)
    shares.threads = 2
    first, second, third = (_part(number, shares=shares) for number in range(3))

    begun = [(part.number, turn.slots) for part, turn in shares.turns()]
    shares.end(first)
    shares.end(second)
    rest = [(part.number, turn.slots) for part, turn in shares.turns()]

    assert begun == [(0, 5), (1, 5)]
    assert rest == [(2, 10)]
    assert third.slots == 10


def test_what_a_lost_partition_was_lent_counts_as_spent() -> None:
    """Nobody knows what a worker that died has spent: no more than it was lent."""
    cap = Cap(Decimal(1))
    shares = Shares(10, [cap], 2)
    part = _part(0, "a", shares=shares)

    lent = shares.lend(part, Decimal("0.1"))
    shares.lose(part)

    assert lent >= Decimal("0.1")
    assert cap.left == 1 - lent


def test_of_what_was_lent_the_rest_comes_back() -> None:
    """A partition that ends gives back what it has not spent."""
    cap = Cap(Decimal(1))
    shares = Shares(10, [cap], 2)
    part = _part(0, "a", shares=shares)
    shares.lend(part, Decimal("0.1"))
    shares.lend(part, Decimal("0.1"))

    shares.leave(part, Decimal("0.15"), done=True)

    assert cap.left == Decimal("0.85")


def test_two_limits_lend_what_both_have() -> None:
    """With a budget and a day's limit, what one has not is lent of neither."""
    narrow, wide = Cap(Decimal("0.1")), Cap(Decimal(1))
    shares = Shares(10, [wide, narrow], 1)
    part = _part(0, "a", shares=shares)

    assert shares.lend(part, Decimal("0.2")) == 0
    assert shares.lend(part, Decimal("0.1")) == Decimal("0.1")
    assert (wide.left, narrow.left) == (Decimal("0.9"), Decimal(0))


def test_who_starves_has_one_more_turn_alone() -> None:
    """A partition for which the money does not do tries once more when none is lent to others."""
    shares = Shares(10, [Cap(Decimal(1))], 3)
    shares.threads = 2
    rich, poor = (_part(number, shares=shares) for number in range(2))
    shares.turns()
    shares.leave(poor, Decimal(0), done=False)

    shares.wait(poor, 8, starved=True)
    while_the_other_runs = shares.turns()
    shares.end(rich)
    after_it = shares.turns()
    _part(2, shares=shares)
    beside_it = shares.turns()
    shares.leave(poor, Decimal(0), done=False)
    shares.wait(poor, 8, starved=True)
    at_last = shares.turns()

    assert while_the_other_runs == []
    assert [turn.slots for _, turn in after_it] == [8]
    assert beside_it == []
    assert [(part.number, turn.slots) for part, turn in at_last] == [(1, 0), (2, 5)]


def test_what_another_asks_is_waited_for() -> None:
    """A question has one partition that asks it at a time; others have a turn after that."""
    shares = Shares(10, [], 2)
    shares.threads = 2
    first, second = _part(0, "a", "b", shares=shares), _part(1, "a", shares=shares)

    begun = [part.number for part, _ in shares.turns()]
    shares.leave(first, Decimal(0), done=True)
    later = [part.number for part, _ in shares.turns()]

    assert not first.later
    assert second.later == {"a"}
    assert (begun, later) == ([0], [1])


def test_borrowed_money_is_asked_for_when_it_is_short() -> None:
    """A cap of borrowed money holds what it was lent, and asks for more where it is short."""
    asked = list[Decimal]()

    def more(needed: Decimal) -> tuple[Decimal, Decimal]:
        asked.append(needed)
        return (Decimal(5), Decimal(1)) if len(asked) == 1 else (Decimal(0), Decimal(0))

    cap = Lent(Decimal(6), more)

    assert [cap.hold(name, Decimal(2)) for name in "abc"] == [True, True, False]
    assert asked == [2, 1]
    cap.release("a", Decimal(1))
    assert cap.hold("c", Decimal(2))
    assert cap.spent == 5
