"""What a 20,000-token answer at 100 tokens a second sends to the page.

`python tests/benchmarks/bytes_to_page.py`. The messages are those that the view
publishes, serialised as the kernel does; the clock is advanced by hand, and
beside it stands the plain way: the whole answer redrawn ten times a second.
"""

from __future__ import annotations

import time
from typing import Any

from jupyter_client.session import Session as Wire

from deepseek_magic import markdown
from deepseek_magic.view import NotebookView
from deepseek_magic.wire import Answer, Piece

TOKENS, RATE, TOKEN = 20_000, 100, 6.1
PROSE = "The quarterly figures **rise** in `north` and fall in *south*, see table 3. " * 5
LIST = "".join(f"{n}. point number {n} is about the regions and what they sell\n" for n in range(9))
TABLE = "| region | revenue |\n| --- | ---: |\n" + "| north | 1840 |\n" * 8
CODE = "```python\n" + "total = sum(row['revenue'] for row in rows)\n" * 12 + "```\n"
MIXED = f"## A heading\n\n{PROSE}\n\n{LIST}\n\n{TABLE}\n\n{PROSE}\n\n{CODE}\n\n{PROSE}\n\n"
KINDS = {
    "mixed blocks": MIXED,
    "one long code block": "```python\n" + "total = sum(row['revenue'] for row in rows)\n" * 4000,
    "one long list": LIST * 400,
    "one paragraph": PROSE * 400,
}


class Counter:
    """Stands where the kernel's publisher stands and counts what would be sent."""

    def __init__(self) -> None:
        self.wire = Wire(key=b"0" * 32)
        self.messages = self.bytes = 0

    def publish(
        self, data: Any, metadata: Any = None, transient: Any = None, *, update: bool = False
    ) -> None:
        """Count one message."""
        kind = "update_display_data" if update else "display_data"
        content = {"data": data, "metadata": metadata or {}, "transient": transient or {}}
        self._count(self.wire.msg(kind, content=content))

    def clear_output(self, *, wait: bool) -> None:
        """Count one message."""
        self._count(self.wire.msg("clear_output", content={"wait": wait}))

    def _count(self, message: Any) -> None:
        self.messages += 1
        self.bytes += sum(map(len, self.wire.serialize(message)))


class Shell:
    """As much of a shell as a view looks at."""

    def __init__(self) -> None:
        self.display_pub = Counter()


def ours(text: str) -> tuple[Counter, float]:
    """Show *text* as the cell does; give what was sent and the seconds of work."""
    shell, now = Shell(), 0.0
    began = time.process_time()
    view = NotebookView(shell, thinking=True, clock=lambda: now)  # type: ignore[arg-type]
    answer = Answer(model="deepseek-flash")
    for number in range(TOKENS):
        answer = answer.plus(Piece(text[round(number * TOKEN) : round((number + 1) * TOKEN)]))
        now = (number + 1) / RATE
        view.show(answer)
    view.end(answer, "quiet line", {})
    return shell.display_pub, time.process_time() - began


def whole_redraws(text: str) -> int:
    """Give the bytes of redrawing everything ten times a second."""
    steps = TOKENS // (RATE // 10)
    step = len(text) // steps
    samples = range(1, steps, 20)
    sent = sum(len(markdown.to_html(text[: n * step])) + n * step + 700 for n in samples)
    return sent * 20


def main() -> None:
    """Print a line for each kind of text."""
    for name, part in KINDS.items():
        text = (part * (1 + int(TOKENS * TOKEN) // len(part)))[: int(TOKENS * TOKEN)]
        counter, work = ours(text)
        plain = whole_redraws(text)
        print(
            f"{name:20} {len(text) / 1000:4.0f} kB text: {counter.bytes / 1e6:5.2f} MB in "
            f"{counter.messages:5} messages, {work:4.1f} s of work; "
            f"whole redraws {plain / 1e6:6.1f} MB, {plain / counter.bytes:4.0f} times as much"
        )


if __name__ == "__main__":
    main()
