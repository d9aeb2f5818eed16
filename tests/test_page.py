"""The loop in a real page: JupyterLab 4 and Notebook 7, by clicks."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_magic.sandbox import Reply

if TYPE_CHECKING:
    from deepseek_magic.sandbox import Sandbox
    from harness.browser import NotebookPage
    from harness.lab import Lab

pytestmark = pytest.mark.browser

LOAD = "%load_ext deepseek_magic"
QUESTION = "%%deepseek --think off\nWhy is the sky blue?"
LINE = "InsufficientBalance: The DeepSeek balance is empty (402, Insufficient Balance)."
WIDGET = "application/vnd.jupyter.widget-view+json"

Variables = Callable[..., dict[str, str]]


def variables(of_this_test: Variables, api: Sandbox) -> dict[str, str]:
    """Give the kernel the simulated account of this test."""
    return of_this_test(DEEPSEEK_API_KEY=api.api_key, DEEPSEEK_BASE_URL=api.base_url)


@pytest.fixture
def opened(
    page: NotebookPage, lab: Lab, api: Sandbox, of_this_test: Variables
) -> Callable[..., NotebookPage]:
    """Give a function that opens a notebook of *sources* whose kernel asks the account."""

    def open_one(*sources: str, ui: Any = "lab", **settings: Any) -> NotebookPage:
        name = lab.write("loop.ipynb", [LOAD, *sources], variables(of_this_test, api))
        page.open(name, ui, **settings)
        page.run_cell(0)
        return page

    return open_one


@pytest.mark.parametrize("ui", ["lab", "notebook"])
def test_run_dry_top_up_and_run_again(
    opened: Callable[..., NotebookPage], api: Sandbox, ui: str
) -> None:
    """One click after a top-up puts the answer where the notice stood, and pays once."""
    api.balance = Decimal(0)
    page = opened(QUESTION, "print('a later cell')", ui=ui)

    page.run_all()
    notice = page.text(1)
    stopped = page.text(2)
    page.click(1, "Check balance")
    page.wait_text(1, "Still empty")
    api.top_up("10.00")
    page.click(1, "Check balance")
    page.wait_text(1, "10.00 CNY now")
    again = page.button(1, "Re-run cell")
    again.dblclick()
    answer = page.wait_text(1, "CNY left")
    saved = page.save().cells[1]

    assert "Balance\t0.00 CNY" in notice
    assert "Billed\tnothing for this question" in notice
    assert LINE in notice
    assert stopped == ""
    assert "sandbox" in answer
    assert LINE not in answer
    assert "Re-run cell" not in answer
    assert [request.status for request in api.requests] == [402, 200]
    assert [output.output_type for output in saved.outputs] == ["display_data"]
    assert set(saved.outputs[0].data) == {"text/html", "text/plain"}
    assert Decimal(saved.outputs[0].metadata["deepseek_magic"]["cost"]) == api.billed
    assert "\u200b" not in str(saved.outputs)


def test_the_top_up_link(opened: Callable[..., NotebookPage]) -> None:
    """With an account of its own the notice leads to DeepSeek, with the sandbox to its page."""
    page = opened(QUESTION, "%deepseek sandbox on 0", QUESTION)

    page.run_cell(2)
    page.run_cell(3)
    href = page.button(3, "Top up").get_attribute("href")
    with page.page.context.expect_page() as popped:
        page.click(3, "Top up")
    till = popped.value
    till.get_by_role("button", name="10 CNY").click()
    till.get_by_text("Topped up 10.00 CNY").wait_for()
    page.click(3, "Re-run cell")
    page.wait_text(3, "CNY left")

    assert (href or "").startswith("http://127.0.0.1:")
    assert "/top_up?token=" in (href or "")


def test_a_second_refusal_gives_one_fresh_notice(
    opened: Callable[..., NotebookPage], api: Sandbox
) -> None:
    """A click while the account is still empty leaves one notice, whose buttons work."""
    api.balance = Decimal(0)
    page = opened(QUESTION)
    page.run_cell(1)

    page.click(1, "Re-run cell")
    page._until(lambda: len(api.requests) == 2, "the second request", 20)
    page.wait_no_text(1, "Running again")
    page.wait_text(1, "Check balance")
    count = page.text(1).count("Billed\tnothing")
    api.top_up("1.00")
    page.click(1, "Re-run cell")
    page.wait_text(1, "CNY left")

    assert count == 1
    assert [request.status for request in api.requests] == [402, 402, 200]


def test_a_page_that_was_loaded_anew_buys_nothing(
    opened: Callable[..., NotebookPage], api: Sandbox
) -> None:
    """After a reload the page could not show the answer: a click says so and sends nothing."""
    api.balance = Decimal(0)
    page = opened(QUESTION)
    page.run_cell(1)
    page.save()
    page.reload()
    api.top_up("1.00")

    page.click(1, "Re-run cell")
    page.wait_text(1, "Run the cell again by hand")
    sent = len(api.requests)
    page.run_cell(1)
    page.wait_text(1, "CNY left")

    assert sent == 1
    assert "Re-run cell" not in page.text(1)
    assert [request.status for request in api.requests] == [402, 200]


@pytest.mark.parametrize("rerun", [False, True], ids=["by hand", "in a re-run"])
def test_stop(opened: Callable[..., NotebookPage], api: Sandbox, rerun: bool) -> None:
    """Stopping keeps what had arrived, ends the cell in one line, and closes the connection."""
    page = opened(QUESTION, "print(6 * 7)")
    if rerun:
        api.balance = Decimal(0)
        page.run_cell(1)
        api.top_up("5.00")
    words = " ".join(f"word{n}" for n in range(2000))
    api.change(speed=100)
    api.script(Reply(words))

    if rerun:
        page.click(1, "Re-run cell")
    else:
        page.run_cell(1, wait=False)
    page.wait_text(1, "word20")
    page.interrupt()
    page.wait_text(1, "Interrupted: the answer was stopped")
    page.wait_idle()  # what a kernel gets while a cell fails, it drops
    text = page.text(1)
    page.run_cell(2)

    assert "word20" in text
    assert "word1999" not in text
    assert "interrupted · deepseek-flash" in text
    assert "Traceback" not in text
    assert "42" in page.text(2)
    assert api.wait_idle()
    assert api.requests[-1].client_gone


def test_a_long_answer_is_whole(opened: Callable[..., NotebookPage], api: Sandbox) -> None:
    """A long answer streams block by block; nothing is lost or doubled, and it is one output."""
    blocks = [
        f"## Part {n}\n\nSome **words** on part {n}.\n\n- one\n- two\n\n```python\nx = {n}\n```\n"
        for n in range(60)
    ]
    api.change(speed=600)
    api.script(Reply("\n".join(blocks), reasoning="Let me think about sixty parts. " * 20))
    page = opened("%%deepseek --think low\nWrite sixty parts.")

    page.run_cell(1, wait=False)
    seen = []
    while "CNY left" not in page.text(1):
        seen.append(page.text(1).count("Some words"))
        page.page.wait_for_timeout(100)
    text, saved = page.text(1), page.save().cells[1]

    assert [f"x = {n}" in text for n in range(60)] == [True] * 60
    assert text.count("Some words") == 60
    assert seen == sorted(seen)
    assert any(0 < count < 60 for count in seen), "it came all at once"
    assert len(saved.outputs) == 1
    assert "Thought for" in text
    assert "sixty parts. Let me" not in text
    page.output(1).locator("summary").click()
    assert "sixty parts. Let me" in page.text(1)


def test_the_balance_follows(opened: Callable[..., NotebookPage], api: Sandbox) -> None:
    """The balance follows a query by itself, says when it cannot be read, and has a keyboard."""
    page = opened("%deepseek balance", QUESTION)
    page.run_cell(1)
    before = page.text(1)
    api.balance = Decimal("3.21")

    page.run_cell(2)
    page.wait_text(1, "low")
    followed = page.text(1)
    api.script(500, path="/user/balance", forever=True)
    page.button(1, "Refresh").focus()
    page.page.keyboard.press("Enter")
    page.wait_text(1, "unknown")
    failed = page.text(1)
    api.unscript()
    page.page.keyboard.press("Space")
    page.wait_no_text(1, "unknown")

    assert "5.00 CNY left" in before
    assert "granted 0.00, topped up 5.00" in before
    assert before.count("5.00 CNY left") == 1
    assert "3.2" in followed
    assert "3.2" in failed


def test_a_restarted_kernel_leaves_something_to_read(
    opened: Callable[..., NotebookPage], api: Sandbox
) -> None:
    """Where widgets are dead, notice and balance are still there as text."""
    page = opened("%deepseek balance", QUESTION)
    page.run_cell(1)
    api.balance = Decimal(0)
    page.run_cell(2)
    page.save()

    page.restart()
    page.reload()

    assert "5.00 CNY left" in page.text(1)
    assert "The DeepSeek balance is empty" in page.text(2)


HOSTILE = """\
<script>window.ran = 1</script><img src=x onerror="window.ran = 2">
<svg onload="window.ran = 3"></svg><iframe srcdoc="<script>parent.ran = 4</script>"></iframe>

[a](javascript:window.ran=5) [b](data:text/html,<script>top.ran=6</script>) [c](command:run)
<javascript:window.ran=7> ![i](http://192.0.2.1/leak.png) ![j](//192.0.2.1/leak.png "t")
<a href="#" data-commandlinker-command="notebook:run-all-cells">run</a>

<style>body { background: url(http://192.0.2.1/leak.css) }</style>

```mermaid
graph TD; A["<img src=x onerror='window.ran=8'>"]
```

$$\\href{javascript:window.ran=9}{x}$$ \\(\\style{background:url(http://192.0.2.1/x)}{y}\\)

| <img src=x onerror=window.ran=10> | <b onmouseover=window.ran=11>b</b> |
| --- | --- |
| \u202egnp.exe | `<script>window.ran=12</script>` |

The end of it.
"""


def test_a_hostile_answer_runs_and_fetches_nothing(
    opened: Callable[..., NotebookPage], api: Sandbox
) -> None:
    """Nothing of an answer runs or leaves, split over pieces or whole, nor after a reload."""
    api.change(speed=300)
    api.script(
        Reply(reasoning=HOSTILE, pieces=tuple(HOSTILE)),
        Reply(status=400, body={"error": {"message": HOSTILE, "type": HOSTILE}}),
        Reply(HOSTILE),
    )
    page = opened("%%deepseek -t low\nFirst?", "%%deepseek -t off\nSecond?", "answer")

    page.run_cell(1, wait=False)
    page.wait_text(1, "CNY left")
    page.run_cell(2)
    alive = "() => [...document.querySelectorAll('.jp-OutputArea .jp-RenderedHTML *')].filter(e => "
    alive += "/^(SCRIPT|IFRAME|IMG|STYLE|OBJECT|FORM)$/i.test(e.tagName) || "
    alive += "[...e.attributes].some(a => /^on|commandlinker/i.test(a.name) || "
    alive += "/^\\s*(javascript|data|command):/i.test(a.value))).map(e => e.outerHTML)"
    shown = page.page.evaluate(alive)
    page.page.mouse.move(400, 400)
    page.save()
    page.reload()
    page.page.wait_for_timeout(500)

    assert "The end of it." in page.text(1)
    assert shown == []
    assert page.page.evaluate(alive) == []
    assert page.page.evaluate("() => window.ran") is None
    assert page.outside == set()
