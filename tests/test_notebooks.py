"""The notebooks of the course, run to their end; those with tests of their own are elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from harness.kernels import Kernels
from harness.notebooks import text_of

pytestmark = pytest.mark.kernel

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
COUNTS = """import json
print(json.dumps({
    "paid": [r.body["messages"][-1]["content"] for r in api.requests[sent:] if r.cost],
    "refused": sum(r.status == 402 for r in api.requests),
    "billed": str(api.billed),
    "cost": str(sum(float(frame.cost.sum()) for frame in (labelled, facts, so_far, summaries))),
    "answers": int(summaries.answer.notna().sum()),
}))"""


def made(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def failed(notebook: Any) -> list[str]:
    """Name the cells that ended in an error."""
    return [
        cell.id
        for cell in notebook.cells
        if any(output.output_type == "error" for output in cell.get("outputs", ()))
    ]


def shown(notebook: Any) -> dict[str, str]:
    """Give what each cell of code shows, by its name."""
    return {cell.id: text_of(cell) for cell in notebook.cells if cell.cell_type == "code"}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.ipynb")))
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    """What is in the checkout is a valid notebook that has not been run."""
    notebook = made(name)

    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_each_row_is_paid_for_once(kernel: Kernels) -> None:
    """`rows` fails where it says so, finishes after the top-up, and costs what was billed."""
    notebook = made("rows")
    notebook.cells.append(nbformat.v4.new_code_cell(COUNTS, id="counting"))

    ran = kernel.run(notebook)

    assert ran.error is None
    cells, told = {cell.id: cell for cell in ran.notebook.cells}, shown(ran.notebook)
    assert failed(ran.notebook) == ["dry"]
    assert "Nothing was sent" in told["forecast"]
    assert "24 asked, 24 equal to others" in told["label"]
    assert "The DeepSeek balance is empty" in told["dry"]
    assert "from the ledger" in told["finish"]
    assert any("image/png" in output.get("data", {}) for output in cells["plot"].outputs)
    counts = json.loads(told["counting"])
    assert counts["answers"] == 48
    assert len(counts["paid"]) == len(set(counts["paid"])) == 48
    assert 0 < counts["refused"] <= 4
    assert float(counts["cost"]) == pytest.approx(float(counts["billed"]))


def test_money_is_known_before_it_is_spent(kernel: Kernels) -> None:
    """In `money` a range gets narrow, a limit holds, and nothing is paid for twice."""
    notebook = made("money")
    counting = "print(len(api.requests), api.billed)"
    notebook.cells.append(nbformat.v4.new_code_cell(counting, id="counting"))

    ran = kernel.run(notebook)

    assert ran.error is None
    told = shown(ran.notebook)
    assert failed(ran.notebook) == ["budget"]
    assert "no answer of this kind is known yet" in told["bounded"]
    assert "3 answers of this kind and length" in told["known"]
    assert "OverLimit" in told["budget"]
    assert "from the ledger, nothing was sent now" in told["again"]
    questions, billed = told["counting"].split()
    assert questions == "4"
    assert float(re.findall(r"Together ([\d.]+) CNY", told["usage"])[0]) == pytest.approx(
        float(billed), rel=0.05
    )


def test_data_is_explored_at_a_known_cost(kernel: Kernels) -> None:
    """`exploring` sends tables and a figure, gets a frame, goes on, and pays for nothing twice."""
    notebook = made("exploring")
    counting = "print(sum(r.cost is not None for r in api.requests), api.billed)"
    notebook.cells.append(nbformat.v4.new_code_cell(counting, id="counting"))

    ran = kernel.run(notebook)

    assert ran.error is None
    told = shown(ran.notebook)
    assert failed(ran.notebook) == ["failing"]
    assert "float64, 1 missing" in told["sent"]
    assert "With it came a picture" in told["picture"]
    assert "plot" in told["words"]
    assert "from the sandbox" in told["frame"]
    assert "'source': 'sandbox, not a model'" in told["noted"]
    assert "And what should we ask its people?" in told["second"]
    assert re.search(r"shops +2", told["chats"])
    assert "cut at max_tokens" in told["cut"]
    assert "for the rest" in told["rest"]
    assert "in all" in told["rest"]
    assert "sales['returns'] / sales['orders']" in told["code"]
    assert "This cell of a Jupyter notebook failed" in told["fix"]
    assert "from the ledger, nothing was sent now" in told["cached"]
    questions, billed = told["counting"].split()
    assert questions == "11"
    assert "合计" in told["chinese"]
    assert float(re.findall(r"Together ([\d.]+) CNY", told["usage"])[0]) == pytest.approx(
        float(billed), rel=0.05
    )
