"""What a reader sees while answers come and cells run again: growth, waiting, keys, records."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_magic.sandbox import Reply

if TYPE_CHECKING:
    from deepseek_magic.sandbox import Sandbox
    from harness.browser import NotebookPage
    from harness.lab import Lab

pytestmark = pytest.mark.browser

LOAD = "%load_ext deepseek_magic"
Open = Callable[..., "NotebookPage"]


@pytest.fixture
def opened(
    page: NotebookPage, lab: Lab, api: Sandbox, of_this_test: Callable[..., dict[str, str]]
) -> Open:
    """Give a function that opens a notebook of *sources* whose kernel asks the account."""

    def open_one(*sources: str, ui: Any = "lab") -> NotebookPage:
        account = of_this_test(DEEPSEEK_API_KEY=api.api_key, DEEPSEEK_BASE_URL=api.base_url)
        page.open(lab.write("way.ipynb", [LOAD, *sources], account), ui)
        page.run_cell(0)
        return page

    return open_one


PART = """\
## Part {n}

Some **words** about part {n}, with $x_{n}^2$ in them and `code`.

| name | value |
| --- | ---: |
| row {n} | {n} |

```python
value = {n}
```

1. first of {n}
2. second of {n}

"""
LONG = "".join(PART.format(n=n) for n in range(45))
# For a blink a part that moves may be there twice, but none may be missing: what
# makes a page lower for a moment makes it scroll back for good.
SAMPLE = """(index) => {
    const area = document.querySelectorAll('.jp-Notebook .jp-Cell')[index];
    const taken = window.taken = [];
    const take = () => {
        const shown = area.querySelector('.jp-Cell-outputArea');
        const text = shown ? shown.innerText : '';
        const parts = text.match(/words about part [0-9]+/g) || [];
        const height = shown ? shown.offsetHeight : 0;
        taken.push([new Set(parts).size, parts.length, height]);
        window.sampling = requestAnimationFrame(take);
    };
    take();
}"""


def test_a_long_answer_only_grows(opened: Open, api: Sandbox) -> None:
    """From frame to frame an answer never shows less than before, nor at its end."""
    page = opened("%%deepseek --think low\nWrite forty-five parts.")
    api.change(speed=400)
    api.script(Reply(LONG, reasoning="Many parts. " * 30))

    page.page.evaluate(SAMPLE, 1)
    page.run_cell(1, wait=False)
    page.wait_text(1, "CNY left", 60)
    page.page.wait_for_timeout(500)
    taken = page.page.evaluate("() => { cancelAnimationFrame(window.sampling); return taken }")
    text = page.text(1)
    html = page.html(1)

    shown = [different for different, _, _ in taken]
    doubled = sum(different != count for different, count, _ in taken)
    heights = [height for different, count, height in taken if different == count > 0]
    assert shown == sorted(shown)
    assert shown[-1] == 45
    assert doubled < len(taken) / 20
    assert min(b - a for a, b in pairwise(heights)) > -100
    assert [text.count(f"first of {n}\n") for n in range(45)] == [1] * 45
    assert [text.count(f"value = {n}\n") for n in range(45)] == [1] * 45
    assert html.count("<table") == 45
    assert html.count("<mjx-container") == 45


def test_a_click_while_another_cell_runs(opened: Open, api: Sandbox) -> None:
    """A click waits for the cell that runs, two waiting cells run in their order, each once."""
    first, second = "%%deepseek --think off\nThe first?", "%%deepseek --think off\nThe second?"
    page = opened(first, second, "import time; time.sleep(4); print('slept')")
    api.balance = Decimal(0)
    page.run_cell(1)
    page.run_cell(2)
    api.top_up("1.00")
    page.run_cell(3, wait=False)

    page.click(1, "Re-run cell")
    page.page.wait_for_timeout(300)
    page.click(2, "Re-run cell")
    page.page.wait_for_timeout(1500)
    sent_meanwhile = len(api.requests)
    page.wait_text(1, "CNY left")
    page.wait_text(2, "CNY left")

    assert "slept" in page.text(3)
    assert sent_meanwhile == 2
    asked = [request.body["messages"][-1]["content"] for request in api.requests if request.body]
    assert asked == ["The first?", "The second?"] * 2


def test_a_cell_of_python_around_the_question(opened: Open, api: Sandbox) -> None:
    """A cell that prints and asks keeps what it printed, and is run again as a whole."""
    page = opened(
        "print('before')\n"
        "get_ipython().run_cell_magic('deepseek', '--think off', 'Why?')\n"
        "print('after')"
    )
    api.balance = Decimal(0)
    page.run_cell(1)
    notice = page.text(1)
    api.top_up("1.00")

    page.click(1, "Re-run cell")
    page.wait_text(1, "after")
    text = page.text(1)
    saved = page.save().cells[1]

    assert notice.index("before") < notice.index("balance is empty")
    assert "after" not in notice
    assert [text.count(word) for word in ("before", "CNY left", "after")] == [1, 1, 1]
    assert "balance is empty" not in text
    shown = [output for output in saved.outputs if output.get("data", {"a": 1})]
    assert [output.output_type for output in shown] == ["stream", "display_data", "stream"]


def test_the_notice_by_keyboard(opened: Open, api: Sandbox) -> None:
    """Tab goes from the link through the buttons, which have names and are pressed by keys."""
    page = opened("%%deepseek --think off\nWhy?")
    api.balance = Decimal(0)
    page.run_cell(1)
    focused = "() => document.activeElement.innerText"

    page.button(1, "Top up").focus()
    page.page.keyboard.press("Tab")
    first = page.page.evaluate(focused)
    page.page.keyboard.press("Tab")
    second = page.page.evaluate(focused)
    page.page.keyboard.press("Tab")
    third = page.page.evaluate(focused)
    page.page.keyboard.press("Space")
    page.wait_text(1, "Still empty")
    kept = page.page.evaluate(focused)
    api.top_up("1.00")
    page.page.keyboard.press("Shift+Tab")
    page.page.keyboard.press("Shift+Tab")
    page.page.keyboard.press("Enter")
    page.wait_text(1, "CNY left")

    assert (first, second) == ("Re-run cell", "Re-run when topped up")
    assert (third, kept) == ("Check balance", "Check balance")
    assert [request.status for request in api.requests] == [402, 200]


def test_stopping_leaves_a_record(opened: Open, api: Sandbox, tmp_path: Path) -> None:
    """In Notebook 7 too, a stopped answer is recorded as interrupted, its cost unknown."""
    page = opened("%%deepseek --think off\nWhy?", "%deepseek usage", ui="notebook")
    api.change(speed=60)
    api.script(Reply(" ".join(f"word{n}" for n in range(900))))

    page.run_cell(1, wait=False)
    page.wait_text(1, "word12")
    page.interrupt()
    page.wait_text(1, "Interrupted: the answer was stopped")
    page.wait_idle()  # what a kernel gets while a cell fails, it drops
    page.run_cell(2)

    [(state, cost, answer)] = entries(tmp_path)
    assert (state, cost) == ("interrupted", None)
    assert "word12" in answer
    assert "exact bill is not known" in page.text(2)
    assert "may be billed: about" in page.text(1), page.text(1)[-400:]


def entries(folder: Path) -> list[tuple[Any, ...]]:
    """Read the ledger's own file."""
    with sqlite3.connect(folder / "deepseek_magic" / "ledger.sqlite") as ledger:
        found = ledger.execute("SELECT state, cost, answer FROM entries").fetchall()
    ledger.close()
    return found
