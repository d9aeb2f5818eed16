"""How long the first piece of an answer takes: the bare openai client, and `Session.stream`.

    python tests/benchmarks/first_piece.py [--runs 200]

Both ask the same simulated account in another process, turn about, warm, their
answers read to the end. The account's own time is in both figures.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import openai

from deepseek_magic.session import Session

PROMPT = "Why is the sky blue?"
MODEL = "deepseek-flash"


@contextmanager
def account() -> Iterator[tuple[str, str]]:
    """Give the address and the key of a simulated account in a process of its own."""
    command = [sys.executable, "-m", "deepseek_magic.sandbox", "--balance", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        shown = ""
        for line in process.stdout or ():
            shown += line
            if found := re.search(r"API_KEY=(\S+)\nexport DEEPSEEK_BASE_URL=(\S+)\n", shown):
                break
        else:
            raise RuntimeError(f"The simulated account did not start: {shown}")
        yield found[2], found[1]
        process.terminate()
        process.communicate()


def bare(client: openai.OpenAI) -> float:
    """Ask with the bare client; give the seconds to its first chunk."""
    began = time.perf_counter()
    with client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT}],
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        next(chunks)
        first = time.perf_counter() - began
        for _ in chunks:
            pass
    return first


def ours(session: Session) -> float:
    """Ask with a session; give the seconds to its first piece."""
    began = time.perf_counter()
    with closing(session.stream(PROMPT)) as answers:
        next(answers)
        first = time.perf_counter() - began
        for _ in answers:
            pass
    return first


def measure(
    runs: int, first: Callable[[], float], second: Callable[[], float]
) -> list[list[float]]:
    """Run both by turns, which one first alternating; give the milliseconds of each."""
    taken: list[list[float]] = [[], []]
    for run in range(-10, runs):  # the first ten warm up
        for which in (0, 1) if run % 2 else (1, 0):
            seconds = (first, second)[which]()
            if run >= 0:
                taken[which].append(seconds * 1000)
            time.sleep(0.02)  # as a reader would: the balance is read after each answer
    return taken


def main() -> None:
    """Measure and print a small table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=200)
    runs: int = parser.parse_args().runs
    with (
        account() as (url, key),
        tempfile.TemporaryDirectory() as folder,
        openai.OpenAI(api_key=key, base_url=url, max_retries=0) as client,
        Session(api_key=key, base_url=url, ledger=Path(folder) / "ledger.sqlite") as session,
    ):
        taken = measure(runs, lambda: bare(client), lambda: ours(session))
    print(f"time to the first piece, {runs} warm runs each, openai {openai.__version__}, in ms\n")
    print(f"{'':16}{'median':>8}{'quartiles':>16}")
    for name, figures in zip(("openai alone", "Session.stream"), taken, strict=True):
        low, _, high = statistics.quantiles(figures)
        print(f"{name:16}{statistics.median(figures):8.2f}{f'{low:.2f} .. {high:.2f}':>16}")
    difference = statistics.median(taken[1]) - statistics.median(taken[0])
    print(f"{'difference':16}{difference:8.2f}")


if __name__ == "__main__":
    main()
