"""How far JupyterLab is behind a long answer: `python tests/benchmarks/page_lag.py`.

The simulated account sends a piece of about six characters for each token, at an
even pace. Every few words carry a number; the page is asked thirty times a second
for the highest that it shows, and that is compared with the moment at which the
account sent it. The bytes are those of the page's own connection to the kernel.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deepseek_magic.sandbox import Reply, Sandbox
from harness.browser import page_of
from harness.lab import kernel_variables, serving

LETTERS = 6.1
EVERY_MS = 33
WATCH = """(every) => {
    const seen = window.seenMarks = [];
    const blocked = window.blockedFor = [];
    let highest = -1;
    new PerformanceObserver(list => {
        for (const task of list.getEntries()) blocked.push(task.duration);
    }).observe({entryTypes: ['longtask']});
    setInterval(() => {
        const areas = document.querySelectorAll('.jp-Cell-outputArea');
        const text = [...areas].map(area => area.textContent).join(' ');
        const last = text.slice(-2000).match(/§\\d{6}/g);
        const mark = last ? parseInt(last[last.length - 1].slice(1), 10) : -1;
        if (mark > highest) {
            highest = mark;
            seen.push([mark, Date.now() / 1000]);
        }
    }, every);
}"""


def marked(words: int, numbers: Iterator[int]) -> str:
    """Give *words* words, each fourth of them a mark."""
    plain = ("figures", "rise **here**", "and fall", None)
    chosen = (plain[place % 4] for place in range(words))
    return " ".join(word or f"§{next(numbers):06}" for word in chosen)


def mixed(numbers: Iterator[int]) -> str:
    """Give one round of what answers are made of."""
    parts = [
        f"## Part {marked(4, numbers)}",
        marked(60, numbers),
        "\n".join(f"{n}. {marked(8, numbers)}" for n in range(1, 10)),
        "\n".join(["| region | revenue |\n| --- | ---: |", *_rows(numbers)]),
        "$$\\sum_i x_i^2 = y$$",
        f"{marked(80, numbers)} with $e^{{i\\pi}} = -1$.",
        f"```python\n{_code(14, numbers)}```",
    ]
    return "\n\n".join(parts) + "\n\n"


def _rows(numbers: Iterator[int]) -> list[str]:
    return [f"| {marked(4, numbers)} | 1840 |" for _ in range(8)]


def _code(lines: int, numbers: Iterator[int]) -> str:
    return "".join(f"    total = total + row  # {marked(4, numbers)}\n" for _ in range(lines))


def code_alone(numbers: Iterator[int]) -> str:
    """Give code without an end."""
    return "```python\n" + _code(4000, numbers)


def prose_alone(numbers: Iterator[int]) -> str:
    """Give one paragraph without an end."""
    return " ".join(marked(60, numbers) for _ in range(400))


KINDS = {"mixed": mixed, "code": code_alone, "prose": prose_alone}


def pieces(kind: str, tokens: int) -> tuple[str, ...]:
    """Give an answer of *tokens* pieces."""
    numbers, text = count(), ""
    while len(text) < tokens * LETTERS:
        text += KINDS[kind](numbers)
    ends = [round(n * LETTERS) for n in range(tokens + 1)]
    return tuple(text[a:b] for a, b in pairwise(ends))


def sent_at(answer: tuple[str, ...], began: float, speed: float) -> dict[int, float]:
    """Tell for each mark when its last letter was sent."""
    text, found = "".join(answer), {}
    ends = list(accumulate(map(len, answer)))
    piece, at = 0, text.find("§")
    while 0 <= at < len(text) - 7:
        while ends[piece] < at + 7:
            piece += 1
        found[int(text[at + 1 : at + 7])] = began + piece / speed
        at = text.find("§", at + 1)
    return found


class Connections:
    """Counts what comes in over the page's connections to kernels."""

    def __init__(self, page: Any) -> None:
        self.bytes = self.messages = 0
        watching = page.context.new_cdp_session(page)
        watching.on("Network.webSocketFrameReceived", self._count)
        watching.send("Network.enable")

    def _count(self, event: Any) -> None:
        data, text = event["response"]["payloadData"], event["response"]["opcode"] == 1
        self.bytes += len(data.encode()) if text else len(data) * 3 // 4
        self.messages += 1


def lags(seen: list[list[float]], sent: dict[int, float]) -> list[float]:
    """Give, for each change in the page, the age of the oldest mark that came with it.

    A mark that has been sent and is not there yet is waited for until the change
    that brings it: that wait is how far the page was behind.
    """
    found, before = [], -1
    for mark, at in seen:
        oldest = sent.get(before + 1)
        if oldest is not None:
            found.append(at - oldest)
        before = int(mark)
    return found


def measure(kind: str, tokens: int, speed: float, folder: Path) -> None:
    """Run one cell and print what it took."""
    answer = pieces(kind, tokens)
    record = folder / "refused-hosts"
    with (
        serving(folder, record) as lab,
        page_of(lab, folder) as page,
        Sandbox(balance="500") as api,
    ):
        environment = kernel_variables(
            folder, record, DEEPSEEK_API_KEY=api.api_key, DEEPSEEK_BASE_URL=api.base_url
        )
        cells = ["%load_ext deepseek_magic", "%%deepseek --think off\nWrite a long report."]
        page.open(lab.write("lag.ipynb", cells, environment))
        page.run_cell(0)
        api.script(Reply(pieces=answer, speed=speed))
        connections = Connections(page.page)
        page.page.evaluate(WATCH, EVERY_MS)
        began = time.monotonic()
        page.run_cell(1, wait=False)
        while api.wait_idle(0) or not api.requests:
            page.page.wait_for_timeout(20)
        while not api.wait_idle(0):
            page.page.wait_for_timeout(500)
        page.wait_text(1, "CNY left", 60)
        took = time.monotonic() - began
        sent = sent_at(answer, api.requests[0].at.timestamp(), speed)
        seen = page.page.evaluate("() => window.seenMarks")
        blocked = page.page.evaluate("() => window.blockedFor")
    report(
        kind,
        tokens,
        took=took,
        connections=connections,
        behind=lags(seen, sent),
        blocked=blocked,
    )


def report(
    kind: str,
    tokens: int,
    *,
    took: float,
    connections: Connections,
    behind: list[float],
    blocked: list[float],
) -> None:
    """Print one line."""
    ordered = sorted(behind)
    late = sum(lag > 0.5 for lag in behind)
    print(
        f"{kind:6} {tokens:,} tokens in {took:.0f} s: {connections.bytes / 1e6:.2f} MB in "
        f"{connections.messages:,} messages; behind by {statistics.median(ordered):.2f} s "
        f"(median), {ordered[int(len(ordered) * 0.99)]:.2f} s (99 %), {ordered[-1]:.2f} s (most), "
        f"more than 0.5 s in {late} of {len(behind)} changes; the page was busy for "
        f"{sum(blocked) / 1000:.1f} s in {len(blocked)} long tasks"
    )


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--speed", type=float, default=100.0, help="tokens a second")
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="mixed")
    given = parser.parse_args()
    for kind in KINDS if given.kind == "all" else [given.kind]:
        with tempfile.TemporaryDirectory() as folder:
            measure(kind, given.tokens, given.speed, Path(folder))


if __name__ == "__main__":
    main()
