"""The tour: it runs to its end where nobody clicks, and shows what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from harness.kernels import Kernels
from harness.notebooks import ANSI, text_of

pytestmark = pytest.mark.kernel

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
TOUR = NOTEBOOKS / "tour.ipynb"


def tour() -> Any:
    return nbformat.read(TOUR, as_version=4)


def code_cells(made: Any) -> list[Any]:
    return [cell for cell in made.cells if cell.cell_type == "code"]


def failed(cell: Any) -> bool:
    return any(output.output_type == "error" for output in cell.outputs)


def test_the_tour_is_kept_without_outputs() -> None:
    """What is in the checkout is a valid notebook that has not been run."""
    made = tour()

    nbformat.validate(made)
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(made))


def test_the_tour_runs_to_its_end(kernel: Kernels) -> None:
    """Each cell shows its own; one runs dry, fails in one line, and passes after the top-up."""
    ran = kernel.run(tour())

    assert ran.error is None
    cells = code_cells(ran.notebook)
    dry = next(n for n, cell in enumerate(cells) if "raises-exception" in str(cell.metadata))
    assert [n for n, cell in enumerate(cells) if failed(cell)] == [dry]
    notice, error = cells[dry].outputs
    assert "The DeepSeek balance is empty" in notice.data["text/plain"]
    assert "http://127.0.0.1:" in notice.data["text/plain"]
    assert len(error.traceback) == 1
    again = next(n for n, cell in enumerate(cells) if n > dry and "top-up" in cell.source) + 1
    assert cells[again].source == cells[dry].source
    assert "left · sandbox" in text_of(cells[again])
    shown = {cell.id: text_of(cell) for cell in cells}
    for cell, part in {
        "tour-05": "CNY left (low, sandbox)",
        "tour-07": "deepseek-flash ·",
        "tour-10": "deepseek-v4-pro ·",
        "tour-12": "tokens, 0.0",  # twice as much in peak hours
        "tour-19": "Together 0.0",
        "tour-21": "Per million tokens.",
        "tour-23": "The DeepSeek balance is empty",
    }.items():
        assert part in shown[cell]


def test_the_tour_passes_jupyter_execute(tmp_path: Path) -> None:
    """`jupyter execute` runs it as it stands, and ends without an error."""
    path = tmp_path / "tour.ipynb"
    path.write_bytes(TOUR.read_bytes())

    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    last = text_of(code_cells(nbformat.read(path, as_version=4))[-1])
    assert "The DeepSeek balance is empty" in last


def test_the_tour_can_be_read_in_a_terminal(tmp_path: Path) -> None:
    """`--headless` prints every cell with what it shows, and leaves the checkout as it was."""
    before = TOUR.read_bytes()

    done = subprocess.run(
        [sys.executable, str(NOTEBOOKS / "tour.py"), "--read", str(TOUR)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# A tour of deepseek_magic")
    assert "InsufficientBalance: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not ANSI.search(done.stdout)
    assert "<div" not in done.stdout
    for cell in tour().cells:
        assert cell.source.splitlines()[0] in done.stdout
    assert TOUR.read_bytes() == before


def test_a_tour_that_breaks_is_said(tmp_path: Path) -> None:
    """A cell that fails where it should not ends the reading with an error, after its output."""
    made = tour()
    made.cells[5].source = "1 / 0"
    path = tmp_path / "broken.ipynb"
    nbformat.write(made, path)

    done = subprocess.run(
        [sys.executable, str(NOTEBOOKS / "tour.py"), "--read", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
    assert "which it does not expect" in done.stderr
