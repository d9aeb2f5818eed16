"""What has buttons stays readable, and right, where the buttons are dead."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

if TYPE_CHECKING:
    from deepseek_magic.sandbox import Sandbox
    from harness.browser import NotebookPage
    from harness.lab import Lab

pytestmark = pytest.mark.browser

SOURCES = (
    "%load_ext deepseek_magic",
    "%deepseek balance",
    "%%deepseek --think off\nWhy is the sky blue?",
    "%deepseek pending",
)
BALANCE, NOTICE, PENDING = 1, 2, 3
WITH_BUTTONS = {BALANCE: "Refresh", NOTICE: "Re-run cell", PENDING: "Forget"}
WAYS_BACK = {BALANCE: "%deepseek balance", NOTICE: "%deepseek rerun", PENDING: "%deepseek pending"}
BROKEN = ("model not found", "Loading widget", "Error displaying")
SPOKEN = """cell => {
    const said = [];
    for (const part of cell.querySelectorAll('[data-alive], [data-dead]')) {
        const {content} = getComputedStyle(part, '::before');
        if (content !== 'none' && part.getClientRects().length > 0) said.push(content);
    }
    return said.join(' ');
}"""


def spoken(page: NotebookPage, index: int) -> str:
    """Give the words of a cell that come and go with its buttons."""
    return str(page.cells.nth(index).evaluate(SPOKEN))


@pytest.fixture
def opened(
    page: NotebookPage, lab: Lab, api: Sandbox, of_this_test: Callable[..., dict[str, str]]
) -> Callable[..., NotebookPage]:
    """Give a function that opens a notebook in which a balance, a notice and a list stand."""

    def open_one(ui: Any = "lab") -> NotebookPage:
        account = of_this_test(DEEPSEEK_API_KEY=api.api_key, DEEPSEEK_BASE_URL=api.base_url)
        page.open(lab.write("dead.ipynb", SOURCES, account), ui)
        page.run_cell(0)
        page.run_cell(BALANCE)
        api.balance = Decimal(0)
        page.run_cell(NOTICE)
        page.run_cell(PENDING)
        for index, button in WITH_BUTTONS.items():
            page.wait_text(index, button)
        return page

    return open_one


def assert_dead_and_readable(page: NotebookPage) -> None:
    """No widget is to be seen, and each output says what there is and what to do."""
    for index, button in WITH_BUTTONS.items():
        page.page.wait_for_function(
            f"cell => ({SPOKEN})(cell)", arg=page.cells.nth(index).element_handle()
        )
        text = page.text(index)
        assert button not in text
        assert not any(words in text for words in BROKEN)
        assert WAYS_BACK[index] in spoken(page, index)
        broken = page.output(index).locator(".jupyter-widgets-disconnected").all()
        assert not any(part.is_visible() for part in broken)
    assert page.text(BALANCE).count("5.00 CNY left") == 1
    assert "The DeepSeek balance is empty" in page.text(NOTICE)
    assert "run this cell again" in page.text(NOTICE)
    assert "Why is the sky blue?" in page.text(PENDING)


@pytest.mark.parametrize("ui", ["lab", "notebook"])
def test_a_restart(opened: Callable[..., NotebookPage], ui: str) -> None:
    """The words tell of the buttons while they live, and after a restart and a reload not."""
    page = opened(ui)
    alive = {index: spoken(page, index) for index in WITH_BUTTONS}
    page.save()

    page.restart()
    assert_dead_and_readable(page)
    page.reload()
    assert_dead_and_readable(page)
    page.run_cell(0)
    page.run_cell(NOTICE)
    page.wait_text(NOTICE, "Re-run cell")

    assert "click “Re-run cell” below" in alive[NOTICE]
    assert "Re-run when topped up" in alive[NOTICE]
    assert not any(way in alive[index] for index, way in WAYS_BACK.items())
    assert "click “Re-run cell” below" in spoken(page, NOTICE)
    assert WAYS_BACK[NOTICE] not in spoken(page, NOTICE)


def test_the_buttons_of_a_reloaded_page(opened: Callable[..., NotebookPage]) -> None:
    """While the kernel lives, a page that is loaded anew shows the buttons again."""
    page = opened()
    page.save()

    page.reload()

    for index, button in WITH_BUTTONS.items():
        page.wait_text(index, button)
        assert WAYS_BACK[index] not in spoken(page, index)
    assert page.text(BALANCE).count("CNY left") == 1


def test_another_ones_notebook(
    opened: Callable[..., NotebookPage], lab: Lab, of_this_test: Callable[..., dict[str, str]]
) -> None:
    """A notebook that is not trusted shows the notice as text, and nothing of the buttons."""
    page = opened()
    saved = page.save()
    page.page.goto("about:blank")
    lab.end_sessions()
    saved.cells.append(nbformat.v4.new_markdown_cell("not what its author had signed"))

    page.open(lab.write("received.ipynb", saved, of_this_test()))

    assert "The DeepSeek balance is empty" in page.text(NOTICE)
    assert "run this cell again" in page.text(NOTICE)
    for index, button in WITH_BUTTONS.items():
        assert button not in page.text(index)
        assert not any(words in page.text(index) for words in BROKEN)


def test_an_exported_notebook(opened: Callable[..., NotebookPage]) -> None:
    """As a web page or Markdown, a notice says what is true there, and no style is to be read."""
    from nbconvert import HTMLExporter, MarkdownExporter

    page = opened()
    saved = page.save()
    exporters: list[Any] = [HTMLExporter, MarkdownExporter]
    web, markdown = (made().from_notebook_node(saved)[0] for made in exporters)

    page.page.set_content(web, wait_until="domcontentloaded")
    shown = page.page.inner_text("body")
    page.expected.update(page.outside)  # its template loads MathJax and Mermaid

    assert "The DeepSeek balance is empty" in shown
    assert "run this cell again" in shown
    for words in (*WITH_BUTTONS.values(), *BROKEN, "deepseek-magic"):
        assert words not in shown
    assert "run this cell again" in markdown
    assert "<style" not in markdown.split("The DeepSeek balance is empty")[1]
