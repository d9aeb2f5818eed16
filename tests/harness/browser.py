"""A notebook in a real page, handled as its reader would."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import nbformat
from playwright.sync_api import Error, Locator, Page, sync_playwright

from harness import chromium
from harness.lab import Lab

OPEN_MS = 60_000
CELL_SECONDS = 30.0
IDLE_IN_A_ROW = 8
PRESS_AGAIN_SECONDS = 3.0
OURS = {"127.0.0.1", "localhost", ""}
THEMES = {False: "JupyterLab Light", True: "JupyterLab Dark"}
PATHS = {"lab": "lab/tree/{name}?reset", "notebook": "notebooks/{name}"}


class NotebookPage:
    """One notebook in one page. Cells are counted from 0, Markdown ones too.

    `outside` holds what the page asked of other hosts. It was refused, and fails
    the test unless it is in `expected` too.
    """

    def __init__(self, page: Page, lab: Lab) -> None:
        self.page = page
        self.lab = lab
        self.name = ""
        self.outside: set[str] = set()
        self.expected: set[str] = set()
        self.console: list[str] = []
        page.context.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))
        page.on("console", lambda message: self.console.append(message.text))
        page.on("pageerror", lambda error: self.console.append(f"page error: {error}"))

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.hostname not in OURS:
            self.outside.add(url)

    # Opening and keeping

    def open(
        self,
        name: str,
        ui: Literal["lab", "notebook"] = "lab",
        *,
        dark: bool = False,
        width: int = 1280,
        height: int = 900,
    ) -> None:
        """Open the notebook *name* and wait until its kernel has nothing to do."""
        self.name = name
        self.lab.set("apputils-extension/themes", theme=THEMES[dark])
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.goto(self.lab.url + PATHS[ui].format(name=name), timeout=OPEN_MS)
        self._wait_ready()

    def reload(self) -> None:
        """Load the page anew; the kernel goes on."""
        self.page.reload(timeout=OPEN_MS)
        self._wait_ready()

    def _wait_ready(self) -> None:
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=OPEN_MS)
        wanted = len(self.lab.read(self.name).cells)
        self._until(lambda: self.cells.count() >= wanted, "all cells in the page", 30)
        self.wait_idle()

    def wait_idle(self, timeout: float = 60) -> None:
        """Wait until the kernel has been idle several times in a row.

        A single "idle" while a page opens is too early: keys get lost.
        """
        idle = self.page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        seen, end = 0, time.monotonic() + timeout
        while seen < IDLE_IN_A_ROW:
            if time.monotonic() > end:
                raise TimeoutError(f"The kernel was not idle after {timeout} s.")
            seen = seen + 1 if idle.count() else 0
            self.page.wait_for_timeout(100)

    def save(self) -> nbformat.NotebookNode:
        """Save with the page's own command and read the file."""
        self.command("docmanager:save")
        return self.lab.read(self.name)

    # Running

    def run_cell(self, index: int, *, wait: bool = True, timeout: float = CELL_SECONDS) -> None:
        """Press Ctrl+Enter in the cell; *wait* for its end."""
        before = self.prompt(index)
        self._press_run(index)
        end = time.monotonic() + PRESS_AGAIN_SECONDS
        while self.prompt(index) == before:
            if time.monotonic() > end:
                self._press_run(index)
                end = time.monotonic() + CELL_SECONDS
            self.page.wait_for_timeout(50)
        if wait:
            self.wait_done(index, timeout)

    def _press_run(self, index: int) -> None:
        self.cells.nth(index).locator(".cm-content").first.click(position={"x": 4, "y": 4})
        self.page.keyboard.press("Control+Enter")

    def wait_done(self, index: int, timeout: float = CELL_SECONDS) -> None:
        """Wait until the cell's prompt has a number. A replay does not move the prompt."""
        done = re.compile(r"\[\d+\]")
        self._until(lambda: done.search(self.prompt(index)), f"the end of cell {index}", timeout)

    def run_all(self, timeout: float = 60) -> None:
        """Choose "Run All Cells" and wait until the kernel is idle again."""
        self.command("notebook:run-all-cells")
        self.wait_idle(timeout)

    def interrupt(self) -> None:
        """Press Stop."""
        self.command("notebook:interrupt-kernel")

    def restart(self) -> None:
        """Choose "Restart Kernel", agree, and wait until it is ready."""
        self.page.evaluate(
            "() => { window.jupyterapp.commands.execute('notebook:restart-kernel') }"
        )
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.wait_idle()

    def command(self, name: str) -> None:
        """Run a menu command by its *name*, such as `notebook:run-all-cells`, to its end."""
        self.page.evaluate("name => window.jupyterapp.commands.execute(name).then(() => {})", name)

    def write(self, index: int, source: str) -> None:
        """Replace the text of the cell by typing."""
        self.cells.nth(index).locator(".cm-content").first.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(source)

    # Reading

    @property
    def cells(self) -> Locator:
        """All cells of the notebook."""
        return self.page.locator(".jp-Notebook .jp-Cell")

    def prompt(self, index: int) -> str:
        """Give the prompt of a cell: `[ ]:`, `[*]:` or `[3]:`."""
        found = self.cells.nth(index).locator(".jp-InputPrompt")
        return (found.first.text_content() or "").strip()

    def output(self, index: int) -> Locator:
        """Give the output area of a cell, to look for parts of it."""
        return self.cells.nth(index).locator(".jp-Cell-outputArea")

    def text(self, index: int) -> str:
        """Give what a cell shows below its source, as seen."""
        return "\n".join(self.output(index).all_inner_texts())

    def html(self, index: int) -> str:
        """Give the HTML that a cell shows."""
        return "\n".join(part.inner_html() for part in self.output(index).all())

    def wait_text(self, index: int, text: str, timeout: float = CELL_SECONDS) -> str:
        """Wait until a cell shows *text*; give all that it shows then."""
        self._until(lambda: text in self.text(index), f"{text!r} in cell {index}", timeout)
        return self.text(index)

    def wait_no_text(self, index: int, text: str, timeout: float = CELL_SECONDS) -> str:
        """Wait until a cell shows *text* no longer; give all that it shows then."""
        self._until(lambda: text not in self.text(index), f"no {text!r} in cell {index}", timeout)
        return self.text(index)

    def button(self, index: int, label: str) -> Locator:
        """Give the button (or link) of a cell's output that bears *label*."""
        area = self.output(index)
        named = area.get_by_role("button", name=label, exact=True)
        return named.or_(area.get_by_role("link", name=label, exact=True)).first

    def click(self, index: int, label: str) -> None:
        """Click the button (or link) of a cell's output that bears *label*."""
        self.button(index, label).click()

    def is_dark(self) -> bool:
        """Tell whether the page is drawn in its dark theme."""
        return self.page.locator("body").get_attribute("data-jp-theme-light") == "false"

    # Pictures

    def screenshot(self, path: Path) -> Path:
        """Take a picture of the page as it is in sight."""
        self.page.screenshot(path=path)
        return path

    def screenshot_cell(self, index: int, path: Path) -> Path:
        """Take a picture of one cell with all its output."""
        self.cells.nth(index).screenshot(path=path)
        return path

    def _until(self, condition: Callable[[], object], what: str, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"Waited {timeout} s for {what}. The page shows:\n{self._all()}")
            self.page.wait_for_timeout(50)

    def _all(self) -> str:
        shown = [f"{self.prompt(i)} {self.text(i)}" for i in range(self.cells.count())]
        return "\n".join([*shown, "Console:", *self.console[-5:]])


@contextmanager
def page_of(lab: Lab, pictures: Path) -> Iterator[NotebookPage]:
    """Start a browser with an empty page; a picture is kept in *pictures* when the test fails."""
    with sync_playwright() as web:
        browser = web.chromium.launch(executable_path=chromium.find(), args=list(chromium.FLAGS))
        handled = NotebookPage(browser.new_context().new_page(), lab)
        try:
            yield handled
        finally:
            _keep_picture(handled, pictures)
            browser.close()
            lab.end_sessions()


def _keep_picture(handled: NotebookPage, pictures: Path) -> None:
    with suppress(Error):  # the page is gone, which the test itself has told
        handled.screenshot(pictures / "page-at-the-end.png")
