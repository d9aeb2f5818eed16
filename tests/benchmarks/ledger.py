"""A ledger with a million entries: `python tests/benchmarks/ledger.py [entries]`.

The entries of a year are put into a ledger of the first shape, by SQL, with texts as
long as those of a busy notebook. A kernel that opens it brings it up to date, which is
measured. What follows is asked of the real `Ledger`, as a session asks it.
"""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from deepseek_magic.ledger import Asked, Ledger, Outcome
from deepseek_magic.schema import STEPS

OURS = "account-1"
NOW = datetime.now(UTC)
MODELS = ("deepseek-flash", "deepseek-v4-pro")
WORDS = ("balance", "cell", "answer", "of", "the", "money", "waits", "again", "%%deepseek", "is")
ROW = 20_000


def text(dice: random.Random, mean: int) -> str:
    """Make a text; few are long, most are short."""
    return " ".join(dice.choices(WORDS, k=max(int(dice.expovariate(1 / mean) / 5), 1)))


def entries(number: int) -> Iterator[tuple[Any, ...]]:
    """Give the rows of a year: working days of single cells, and jobs of a thousand rows."""
    dice = random.Random(7)
    texts = [text(dice, 1500) for _ in range(500)]
    for n in range(number):
        at = NOW - timedelta(seconds=365 * 86_400 * (1 - n / number))
        job = n // 1000 % 3 > 0  # two of three entries are of a job
        place = n // 1000 if job else dice.randrange(400)
        model, think = MODELS[place % 5 == 0], (None, "off")[place % 2]
        state = dice.choices(("done", "partial", "refused"), (97, 2, 1))[0]
        hit, miss, out = dice.randrange(500), dice.randrange(2000), dice.randrange(1500)
        known = state == "done"
        cost = (hit * 20_000 + miss * 1_000_000 + out * 4_000_000) if known else None
        sent = round(at.timestamp() * 1e6)
        yield (
            *(n + 1, sent, sent + 3_000_000, OURS, state, model, think),
            *(f"/home/me/work/{place % 40}.ipynb", f"cell-{place}"),
            json.dumps({"model": model, "messages": [{"role": "user", "content": texts[n % 500]}]}),
            *((hit + miss, hit, miss, out, out // 2) if known else (None,) * 5),
            *("0.02/1/4", "off-peak", "CNY" if known else None, cost, 3.0, "stop", None, None),
            *(texts[-n % 500], texts[n * 7 % 500] if n % 3 else None),
        )


def build(path: Path, number: int) -> float:
    """Make a ledger of the first shape; give its size in MB."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE steps (name TEXT PRIMARY KEY, at INTEGER)")
        for step in STEPS[:2]:
            step(db)
            db.execute("INSERT INTO steps VALUES (?, 0)", (step.__name__,))
        marks = ",".join("?" * 25)
        db.executemany(f"INSERT INTO entries VALUES ({marks})", entries(number))  # noqa: S608  # marks
        db.commit()
    return path.stat().st_size / 1e6


def timed(what: str, work: Callable[[], object], rounds: int = 5) -> object:
    """Print the median and the longest time of *work* in milliseconds; give its last result."""
    times, result = [], None
    for _ in range(rounds):
        began = time.perf_counter()
        result = work()
        times.append((time.perf_counter() - began) * 1000)
    print(f"{what:<44} {statistics.median(times):9.2f} ms, at most {max(times):9.2f}")
    return result


def usages(ledger: Ledger) -> None:
    """Add up by each dimension, and by all."""
    month = (NOW - timedelta(days=30)).date()
    for by in (("day",), ("model",), ("notebook",), ("cell",), ("day", "model", "notebook")):
        timed(f"usage by {', '.join(by)}", lambda by=by: ledger.usage(OURS, by))  # type: ignore[misc]  # bound here
    every = ("day", "model", "notebook", "cell")
    rows = timed("usage by all four", lambda: ledger.usage(OURS, every), 3)
    print(f"{'':<44} {len(rows):9,} rows")  # type: ignore[arg-type]  # a list
    timed("usage by day and model of a month", lambda: ledger.usage(OURS, ("day", "model"), month))
    timed("days of a year", lambda: ledger.days(OURS, "CNY", (NOW - timedelta(days=365)).date()))


def figures(ledger: Ledger) -> None:
    """Ask what a session asks before and after a question."""
    day, hour = NOW.astimezone().date().isoformat(), NOW - timedelta(hours=1)
    like = {"json": False, "tokens_in": 1000}
    timed("today", lambda: ledger.today(OURS, day, "CNY"), 200)
    timed("past", lambda: ledger.past(OURS, MODELS[0], None, **like), 200)  # type: ignore[arg-type]  # as named
    timed("past, of a length that no question has", lambda: _odd(ledger), 200)
    timed("past, of a kind that no question has", lambda: _unknown(ledger), 200)
    timed("spent within an hour", lambda: ledger.spent(OURS, hour), 200)
    timed("spending of a month", lambda: ledger.spending(OURS, NOW - timedelta(days=30)), 3)
    timed("spending of all time", lambda: ledger.spending(OURS, NOW - timedelta(days=999)), 1)
    timed("spent in all", lambda: ledger.spent(OURS, NOW - timedelta(days=999), wait=None), 3)
    timed("reprice, with no price to be had", lambda: ledger.reprice(OURS, lambda _: None), 3)
    timed("the newest answers", lambda: ledger.answers(OURS), 20)
    timed("sweep", lambda: ledger.sweep().result(60), 20)


def _odd(ledger: Ledger) -> object:
    return ledger.past(OURS, MODELS[0], None, json=False, tokens_in=10**6)


def _unknown(ledger: Ledger) -> object:
    return ledger.past(OURS, "another", "max", json=True, tokens_in=10)


def writes(ledger: Ledger) -> None:
    """Reserve one after another, and record calls in a row."""
    asked = Asked(NOW, OURS, MODELS[0], None, "a.ipynb", "c1", WORDS[0] * 200)
    priced = replace(asked, currency="CNY", reserved=Decimal("0.000001"))
    done = Outcome("done", NOW, prompt_tokens=3, completion_tokens=4, answer=WORDS[0] * 300)
    paid = replace(done, currency="CNY", cost=Decimal("0.000016"))
    found: list[int | None] = []
    timed(
        "reserve", lambda: found.append(ledger.reserve(priced, Decimal("1e6"), wait=60).entry), 200
    )
    for entry in found:
        ledger.end(entry or 0, paid)
    began = time.perf_counter()
    for _ in range(ROW):
        last = ledger.end(ledger.ask(asked), paid)
    last.result(600)
    print(
        f"{'a record, of ' + f'{ROW:,} in a row':<44} "
        f"{(time.perf_counter() - began) / ROW * 1000:9.3f} ms"
    )


def main() -> None:
    """Build, bring up to date, ask."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        print(f"{number:,} entries, {build(path, number):,.0f} MB")
        ledger = Ledger(path)
        try:
            timed(
                "the first opening, which adds what is new",
                lambda: ledger.waits(OURS, wait=None),
                1,
            )
            print(f"{'the file then':<44} {path.stat().st_size / 1e6:9,.0f} MB")
            usages(ledger)
            figures(ledger)
            writes(ledger)
            print(f"problem: {ledger.problem}")
        finally:
            ledger.close()


if __name__ == "__main__":
    main()
