"""What the checks before a question take, warm: estimate, balance, limits, reservation.

    python tests/benchmarks/checks.py [--runs 300] [--entries 2000]

Side by side in one run, on a ledger on disk with answers in it: noting a question
without any check, as it was before there were checks; with the checks; with a
budget besides; and with a limit for the day, whose reservation waits for the disk.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from deepseek_magic.clearance import Terms
from deepseek_magic.ledger import Asked, Outcome
from deepseek_magic.limits import Cap
from deepseek_magic.sandbox import Sandbox
from deepseek_magic.session import Session
from deepseek_magic.wire import Request, question

PROMPTS = {"a short question": "Why is the sky blue? ", "10,000 characters": "Why? " * 2000}


def fill(session: Session, entries: int) -> None:
    """Let the ledger hold answers of the kind that is asked for."""
    now = datetime.now(UTC) - timedelta(hours=1)
    for number in range(entries):
        entry = session.ledger.ask(noted(session, question("Why?"), now))
        done = Outcome(
            state="done",
            at=now,
            prompt_tokens=20,
            completion_tokens=100 + number % 900,
            currency="CNY",
            cost=Decimal("0.001"),
        )
        session.ledger.end(entry, done)
    session.ledger.entries()


def noted(session: Session, request: Request, at: datetime) -> Asked:
    return Asked(at=at, account=session.account, model=request.model, request="?")


def measure(session: Session, prompt: str, runs: int) -> dict[str, float]:
    """Give the milliseconds of each way, the median of *runs*, taken by turns."""
    request = replace(question(prompt), max_tokens=1000)
    clearance = session.clearance

    def checked(terms: Terms) -> Callable[[], object]:
        return lambda: (
            clearance.admit(request, terms, lambda sent, at: noted(session, sent, at)).call.entry
        )

    def limited() -> object:
        session.day_limit = Decimal(10_000)
        try:
            return checked(Terms())()
        finally:
            session.day_limit = None

    ways: dict[str, Callable[[], object]] = {
        "without checks": lambda: session.ledger.ask(noted(session, request, datetime.now(UTC))),
        "with the checks": checked(Terms()),
        "and a budget": checked(Terms(Cap(Decimal(10_000)))),
        "and a limit for the day": limited,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(-10, runs):
        for name, way in ways.items():
            time.sleep(0.001)  # the ledger writes the record before
            session.ledger.waits(session.account)
            began = time.perf_counter()
            entry = way()
            spent = 1000 * (time.perf_counter() - began)
            if run >= 0:
                taken[name].append(spent)
            session.ledger.end(int(str(entry)), Outcome(state="refused", at=datetime.now(UTC)))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--entries", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Sandbox(balance="1000") as api:
        session = Session(
            api_key=api.api_key, base_url=api.base_url, ledger=Path(folder) / "ledger.sqlite"
        )
        session.balance()
        fill(session, arguments.entries)
        gc.disable()
        for name, prompt in PROMPTS.items():
            print(f"{name}; milliseconds, median of {arguments.runs}:")
            found = measure(session, prompt, arguments.runs)
            bare = found["without checks"]
            for way, spent in found.items():
                print(f"  {way:26}{spent:8.3f}   {spent - bare:+8.3f}")
        session.close()


if __name__ == "__main__":
    main()
