"""The bar of a question for every row, as tqdm draws it."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest

from deepseek_magic.jobs import Progress
from deepseek_magic.progress import bar, cost_so_far, line, words

HALF = Progress(
    rows=200,
    done=100,
    asked=80,
    kept=20,
    under_way=64,
    cost=Decimal("0.0042"),
    expected=Decimal("0.021"),
    currency="CNY",
    rate=11.4,
    left=8.8,
)


def test_the_words_beside_the_bar() -> None:
    """Speed, time left, cost so far and expected, and what is under way are told."""
    said = words(HALF)

    assert said == "11 rows/s, 8.8 s left, 0.0042 of about 0.021 CNY, 64 under way"


def test_a_note_is_told() -> None:
    """What holds the rows up stands beside the bar."""
    said = words(Progress(rows=2, note="DeepSeek is overloaded. 3 at once now."))

    assert said == "DeepSeek is overloaded. 3 at once now."


@pytest.mark.parametrize(
    ("cost", "expected", "currency", "said"),
    [
        (None, None, "CNY", None),
        (Decimal("0.5"), None, None, None),
        (Decimal("0.5"), None, "CNY", "0.50 CNY"),
        (Decimal("0.5"), Decimal("0.5"), "CNY", "0.50 CNY"),
        (Decimal("0.5"), Decimal("2.5"), "CNY", "0.50 of about 2.50 CNY"),
    ],
)
def test_the_cost_so_far(
    cost: Decimal | None, expected: Decimal | None, currency: str | None, said: str | None
) -> None:
    """A cost that is not known is left out, and what is expected is told while more is to come."""
    assert cost_so_far(Progress(cost=cost, expected=expected, currency=currency)) == said


def test_the_line() -> None:
    """The line counts the rows, and says nothing before there is something to say."""
    assert line(None) == ""
    assert line(HALF).startswith("100/200 rows, 11 rows/s")
    assert line(Progress(done=7)) == "7 rows"


def test_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    """With `progress=False` nothing is written and nothing is to be called."""
    with bar(progress=False) as told:
        pass

    assert told is None
    assert capfd.readouterr() == ("", "")


def test_a_function_of_the_users_own() -> None:
    """A callable is given as it is."""
    seen: list[Progress] = []

    with bar(seen.append) as told:
        assert told is not None
        told(HALF)

    assert seen == [HALF]


SCRIPT = """
from decimal import Decimal
from deepseek_magic.jobs import Progress
from deepseek_magic.progress import bar
with bar(True) as told:
    for done in range(1, 1001):
        told(Progress(rows=1000, done=done, cost=Decimal(done), currency="CNY"))
"""


def test_a_script_gets_few_lines_and_the_last_word() -> None:
    """In a log no bar is written a thousand times, and its last word is the end."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=True
    )

    looks = [part for part in ran.stderr.replace("\n", "\r").split("\r") if part.strip()]

    assert ran.stdout == ""
    assert len(looks) < 10
    assert looks[-1].startswith("100%")
    assert looks[-1].rstrip().endswith("1000/1000 rows, 1,000.00 CNY")


NO_WIDGETS = """
import sys
sys.modules["ipywidgets"] = None
from ipykernel.kernelapp import IPKernelApp
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
InteractiveShell.instance(config=Config(IPKernelApp={}))
"""


def test_without_widgets_it_is_text() -> None:
    """Where a kernel has no ipywidgets the bar is one of text, without a warning."""
    ran = subprocess.run(
        [sys.executable, "-c", NO_WIDGETS + SCRIPT], capture_output=True, text=True, check=True
    )

    assert "1000/1000 rows" in ran.stderr
    assert "Warning" not in ran.stderr
