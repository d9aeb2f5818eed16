"""`when_things_fail.ipynb`: each failure shows what its text promises, and is got out of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from deepseek_magic import errors
from harness.kernels import Kernels
from harness.notebooks import ANSI, text_of

if TYPE_CHECKING:
    from harness.browser import NotebookPage
    from harness.lab import Lab

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "when_things_fail.ipynb"
EXPECTED = "raises-exception"
OF_OTHERS = {"APIStatusError"}
OURS = {name for name in vars(errors) if isinstance(getattr(errors, name), type)}
UNGUARDED = "ordinary-unguarded"
COUNTS = (
    "import json\n"
    "print(json.dumps({'key': api.api_key, 'asked': [\n"
    "    (r.body['messages'][-1]['content'], r.status) for r in api.requests]}))"
)
"""Prints what the account was asked; the cell is added to a copy."""
AFTER_THE_LAST = "counts"


def made() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def with_counts() -> Any:
    """Give the notebook with one more cell, which prints what the account was asked."""
    counting = made()
    counting.cells.append(nbformat.v4.new_code_cell(COUNTS, id=AFTER_THE_LAST))
    return counting


def code_cells(notebook: Any) -> dict[str, Any]:
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def is_expected(cell: Any) -> bool:
    return EXPECTED in cell.metadata.get("tags", [])


def promised() -> Iterator[tuple[str, str]]:
    """Give the cells that fail, each with the error that the text above it named last."""
    named = ""
    for cell in made().cells:
        if cell.cell_type == "markdown":
            words = re.findall(r"`(\w+)`", cell.source)
            named = next((word for word in reversed(words) if word in OURS | OF_OTHERS), named)
        elif is_expected(cell):
            yield cell.id, named


def errors_of(cell: Any) -> list[Any]:
    return [output for output in cell.outputs if output.output_type == "error"]


def has_notice(cell: Any) -> bool:
    shown = (output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return any("Top up at http://127.0.0.1:" in text for text in shown)


def answered(asked: list[list[Any]]) -> Counter[str]:
    """Count by question the requests that were let through."""
    return Counter(question.strip() for question, status in asked if status == 200)


def test_it_is_kept_without_outputs() -> None:
    """What is in the checkout is a valid notebook that has not been run."""
    notebook = made()

    nbformat.validate(notebook)
    assert notebook.nbformat_minor == 5
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(notebook).values()
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_the_failures_that_can_be_chosen_are_named(shell: Any) -> None:
    """The text names just what `%deepseek sandbox fail` takes, and the cells use nothing else."""
    shell.run_line_magic("deepseek", "sandbox on")
    sources = [cell.source for cell in made().cells]
    paragraphs = [part for text in sources for part in text.split("\n\n")]
    (told,) = [part for part in paragraphs if "sandbox fail WHAT" in part]

    with pytest.raises(errors.InvalidOption) as refused:
        shell.run_line_magic("deepseek", "sandbox fail nothing")

    listed = re.search(r"one of (.+?), and", str(refused.value))
    assert listed is not None
    known = set(listed[1].split(", "))
    assert set(re.findall(r"`([\w-]+)`", told)) == known
    used = {
        word for text in sources for word in re.findall(r"(?m)^%deepseek sandbox fail (.+)", text)
    }
    assert used
    assert used <= known


@pytest.mark.kernel
def test_it_runs_to_its_end_where_nobody_clicks(kernel: Kernels) -> None:
    """Each failure is the one promised, each way out leads out, and nothing is bought twice."""
    ran = kernel.run(with_counts())

    assert ran.error is None
    told = json.loads(text_of(ran.notebook.cells.pop()))
    cells = code_cells(ran.notebook)
    check_failures(cells)
    check_ways_out({name: text_of(cell) for name, cell in cells.items()})
    check_bill(told["asked"])
    assert told["key"] not in nbformat.writes(ran.notebook)


def check_failures(cells: dict[str, Any]) -> None:
    """See that the marked cells fail with what is named above them, ours in one line."""
    failed = {name: errors_of(cell) for name, cell in cells.items() if errors_of(cell)}
    assert {name: [one.ename for one in found] for name, found in failed.items()} == {
        name: [error] for name, error in promised()
    }
    for (error,) in failed.values():
        if error.ename in OURS:
            assert len(error.traceback) == 1
            assert "\n" not in ANSI.sub("", error.traceback[0])
    of_money = {name for name, error in promised() if error in {"InsufficientBalance", *OF_OTHERS}}
    assert {name for name, cell in cells.items() if has_notice(cell)} == of_money - {UNGUARDED}


def check_ways_out(shown: dict[str, str]) -> None:
    """See that what waits is listed and asked again, and that what arrived is kept."""
    for cell, part in {
        "rerun": "10.00 CNY on the account. 1 cell waiting for it: %deepseek rerun",
        "pending": "A slogan for the best of them?",
        "wait": "for a top-up.",
        "guard-off": "Guard off",
        "in-code": "Money has come: 10",
        "busy": "left · sandbox",
        "out-of-order": "It may have been billed.",
        "no-model": "there are deepseek-flash, deepseek-v4-pro",
        "cut": "This answer comes",
        "silent": "silent for 2 s",
        "filtered": "content filter",
        "all-thinking": "All 5 tokens went into thinking",
        "usage": "3 questions whose exact bill is not known.",
    }.items():
        assert part in shown[cell]
    assert shown["rerun"].count("left · sandbox") == 1
    assert shown["rerun-all"].count("left · sandbox") == 2
    assert "may be billed: about" in shown["cut"]


def check_bill(requests: list[list[Any]]) -> None:
    """See that only what failed unbilled was asked again."""
    assert set(answered(requests).values()) == {1}
    statuses = Counter(status for _, status in requests)
    assert statuses == {402: 7, 200: 10, 503: 1, 500: 1, 401: 1, 400: 1}


@pytest.mark.kernel
def test_it_passes_jupyter_execute(tmp_path: Path) -> None:
    """`jupyter execute` runs it as it stands, and ends without an error."""
    path = tmp_path / NOTEBOOK.name
    path.write_bytes(NOTEBOOK.read_bytes())

    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Together" in text_of(list(code_cells(nbformat.read(path, as_version=4)).values())[-1])


@pytest.fixture
def opened(
    page: NotebookPage, lab: Lab, of_this_test: Callable[..., dict[str, str]]
) -> NotebookPage:
    """Give a page with a copy of the notebook and its counting cell."""
    page.open(lab.write(NOTEBOOK.name, with_counts(), of_this_test()))
    return page


def places() -> dict[str, int]:
    return {cell.id: number for number, cell in enumerate(with_counts().cells)}


def asked(page: NotebookPage) -> list[list[Any]]:
    """Run the counting cell and read what it prints."""
    page.run_cell(places()[AFTER_THE_LAST])
    found = json.loads(page.wait_text(places()[AFTER_THE_LAST], "}"))["asked"]
    assert isinstance(found, list)
    return found


@pytest.mark.browser
def test_a_reader_gets_out_by_clicks(opened: NotebookPage) -> None:
    """A click waits for the top-up, another runs an ordinary cell again, each in its place."""
    at = places()
    for cell in ("load", "sandbox", "empty"):
        opened.run_cell(at[cell])

    opened.click(at["empty"], "Re-run when topped up")
    waiting = opened.wait_text(at["empty"], "Waiting for a top-up since")
    opened.run_cell(at["top-up"])
    first = opened.wait_text(at["empty"], "left · sandbox")
    opened.run_cell(at["rerun"])
    for cell in ("empty-again", "names", "slogan", "pending", "top-up-again", "rerun-all"):
        opened.run_cell(at[cell])
    in_place = [opened.wait_text(at[cell], "left · sandbox") for cell in ("names", "slogan")]
    for cell in ("openai", "ordinary"):
        opened.run_cell(at[cell])
    guarded = opened.wait_text(at["ordinary"], "Re-run cell")
    opened.run_cell(at["guard-on"])
    opened.click(at["ordinary"], "Re-run cell")
    ordinary = opened.wait_no_text(at["ordinary"], "APIStatusError")

    assert "Cancel waiting" in waiting
    for text in (first, *in_place):
        assert "balance is empty" not in text
    assert "No cell waits for money." in opened.text(at["rerun"])
    assert "Re-run when topped up" not in guarded.partition("APIStatusError")[2]
    assert "**What does an ordinary cell do" in opened.wait_text(at["ordinary"], "**What")
    assert "Top up" not in ordinary
    assert answered(asked(opened)) == {
        "Write a plan for the next quarter in three points.": 1,
        "Three names for a shop that sells maps?": 1,
        "A slogan for the best of them?": 1,
        "What does an ordinary cell do without money?": 1,
    }


@pytest.mark.browser
def test_run_all_meets_every_failure(opened: NotebookPage) -> None:
    """*Run All* goes on after each failure, and what waits then runs in its place, once."""
    at = places()

    opened.run_all(120)
    for cell in ("empty", "names", "slogan"):
        opened.wait_text(at[cell], "left · sandbox")

    assert opened.prompt(at[AFTER_THE_LAST]).strip("[]:").isdecimal()
    for cell, error in promised():
        if cell not in {"empty", "names", "slogan"}:
            assert error in opened.text(at[cell]), cell
    assert set(answered(asked(opened)).values()) == {1}


def test_failures_come_in_the_order_in_which_they_are_set(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was set before and is still to come is told."""
    for line in ("sandbox on", "sandbox fail 503 2", "sandbox fail 400"):
        shell.run_line_magic("deepseek", line)

    told = capsys.readouterr().out

    assert "The next 2 requests get: 503\n" in told
    assert told.endswith("The next request gets: 400\n2 that were set before come first.\n")
