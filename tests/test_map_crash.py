"""A job that is killed at any moment goes on, pays for the missing rows, and the ledger knows.

`KILLS=20 pytest tests/test_map_crash.py` kills more often than a usual run does.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from deepseek_magic.sandbox import Sandbox
from deepseek_magic.session import Session

KILLS = int(os.environ.get("KILLS", "4"))
ROWS = 80 * KILLS
AT_ONCE = 12
JOB = """
import sys
from deepseek_magic.session import Session

url, key, ledger, rows, at_once = sys.argv[1:]
with Session(api_key=key, base_url=url, ledger=ledger) as session:
    session.map([f"item-{n:05}" for n in range(int(rows))], "Label this: tell of {{text}}",
                model="flash", think="off", concurrency=int(at_once), progress=False)
"""


def start(api: Sandbox, path: Path) -> subprocess.Popen[str]:
    given = (api.base_url, api.api_key, str(path), str(ROWS), str(AT_ONCE))
    return subprocess.Popen(
        [sys.executable, "-c", JOB, *given],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=subprocess.PIPE,
        text=True,
    )


def paid(api: Sandbox) -> Counter[str]:
    """Count how often each question was charged for."""
    return Counter(
        row.body["messages"][-1]["content"] for row in api.requests if row.body and row.cost
    )


def until(true: Callable[[], object]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_again_and_again(
    api: Sandbox, path: Path, open_session: Callable[..., Session]
) -> None:
    """Of what was paid only that under way at a kill is missing, and nothing else is paid twice."""
    rng = random.Random(20261123)
    api.change(latency=0.01)

    for kill in range(KILLS):
        before, job = len(api.requests), start(api, path)
        goal = before + rng.randrange(1, 80)
        until(lambda goal=goal, job=job: len(api.requests) >= goal or job.poll() is not None)  # type: ignore[misc]  # bound here
        time.sleep(rng.random() * 0.02)
        job.kill()
        _, told = job.communicate()
        assert not told
        assert api.wait_idle()
        with open_session(api) as after:
            entries = after.ledger.entries()
            done = sum(entry["state"] == "done" for entry in entries)
        assert len(api.requests) <= len(entries), "a call went out that is not in the ledger"
        assert len(paid(api)) - done <= AT_ONCE
        assert paid(api).total() - len(paid(api)) <= AT_ONCE * (kill + 1)

    with open_session(api) as last:
        frame = last.map(
            [f"item-{n:05}" for n in range(ROWS)],
            "Label this: tell of {{text}}",
            model="flash",
            think="off",
            progress=False,
        )
        used = last.usage()

    twice = paid(api).total() - len(paid(api))
    print(f"{KILLS} kills, {ROWS} rows, {twice} paid twice, at most {AT_ONCE} under way")
    assert frame["error"].isna().all()
    assert len(paid(api)) == ROWS
    assert twice <= AT_ONCE * KILLS
    assert Decimal(used["cost_low"].sum()) <= api.billed <= Decimal(used["cost_high"].sum())
    assert not used["unpriced"].sum()
