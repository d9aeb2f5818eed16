from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.child.sitecustomize import OutsideHost

if TYPE_CHECKING:
    from harness.browser import NotebookPage
    from harness.kernels import Kernels
    from harness.lab import Lab
    from harness.terminal import Terminal

OUTSIDE = "192.0.2.1"  # kept for examples by RFC 5737; nobody has it
CONNECT = f"import socket; socket.create_connection(('{OUTSIDE}', 443))"


def test_an_outside_host_is_refused_here(refused: Path) -> None:
    """A test that connects to another machine gets an error at once, and a record of it."""
    with pytest.raises(OutsideHost, match=OUTSIDE):
        socket.create_connection((OUTSIDE, 443))

    assert OUTSIDE in refused.read_text()
    refused.write_text("")


def test_an_outside_host_is_refused_in_a_child(refused: Path) -> None:
    """So does a program that a test starts, even when the program swallows the error."""
    swallowing = f"try:\n {CONNECT}\nexcept Exception:\n pass"

    subprocess.run([sys.executable, "-c", swallowing], check=True)

    assert OUTSIDE in refused.read_text()
    refused.write_text("")


def test_loopback_is_let_through() -> None:
    """The simulated account, which listens on loopback, can be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        with socket.create_connection(("localhost", port)) as client:
            assert client.getpeername()[1] == port


def test_a_shell_is_fresh(bare_shell: Any) -> None:
    """A shell in this process runs cells and knows nothing of the tests before."""
    result = bare_shell.run_cell("sorted(name for name in globals() if name == 'left_over')")
    bare_shell.run_cell("left_over = 1")

    assert result.result == []


def test_a_shell_is_fresh_again(bare_shell: Any) -> None:
    """The same holds for the next test, which sees no name of the one before."""
    result = bare_shell.run_cell("'left_over' in globals()")

    assert result.result is False


@pytest.mark.kernel
def test_a_kernel_runs_cells(kernel: Kernels, refused: Path) -> None:
    """Cells run in a real kernel up to the first that fails, and none reaches another host."""
    ran = kernel.run(["print('from the kernel')", CONNECT, "print('not reached')"])

    assert "from the kernel" in ran.text(0)
    assert "OutsideHost" in str(ran.error)
    assert ran.text(2) == ""
    assert OUTSIDE in refused.read_text()
    refused.write_text("")


@pytest.mark.kernel
def test_a_kernel_answers_requests(kernel: Kernels) -> None:
    """A kernel can be asked one request at a time."""
    client = kernel.start()

    reply = client.execute_interactive("x = 1", timeout=30)

    assert reply["content"]["status"] == "ok"


@pytest.mark.terminal
@pytest.mark.parametrize("simple", [True, False], ids=["simple prompt", "real prompt"])
def test_a_terminal_is_typed_into(terminal: Callable[..., Terminal], simple: bool) -> None:
    """IPython in a terminal runs lines and cells, and shows what a reader sees."""
    ipython = terminal(simple=simple)

    line = ipython.run("6 * 7")
    cell = ipython.run("%%timeit -n1 -r1\nprint('from the ' + 'terminal')")

    assert "42" in line
    assert "from the terminal" in cell


@pytest.mark.browser
@pytest.mark.parametrize(("ui", "dark"), [("lab", False), ("notebook", True)])
def test_a_page_is_handled(
    page: NotebookPage,
    lab: Lab,
    of_this_test: Callable[..., dict[str, str]],
    ui: Any,
    dark: bool,
) -> None:
    """A notebook opens in either front end and theme, runs, survives a reload and is saved."""
    sources = ["# md\n# Title", "import os\nprint('from', os.environ['WHO'])", "1 / 0", "print(3)"]
    name = lab.write("handled.ipynb", sources, of_this_test(WHO="the page"))
    page.open(name, ui, dark=dark)

    page.run_all()
    saved = page.save()
    page.reload()

    assert page.is_dark() is dark
    assert page.prompt(3) == "[ ]:", "a failed cell stops those after it"
    assert "from the page" in page.text(1)
    assert "from the page" in saved.cells[1].outputs[0].text


@pytest.mark.browser
def test_a_page_that_asks_another_host_is_seen(page: NotebookPage, lab: Lab) -> None:
    """A picture from elsewhere is not fetched, and noted; buttons in a cell can be clicked."""
    html = f"<button onclick='this.innerText=\"clicked\"'>Go</button><img src='http://{OUTSIDE}/a'>"
    name = lab.write("asks.ipynb", [f"from IPython.display import HTML\nHTML({html!r})"])
    page.expected.add(f"http://{OUTSIDE}/a")
    page.open(name)

    page.run_cell(0)
    page.click(0, "Go")

    page.wait_text(0, "clicked")
    assert page.outside == page.expected
