"""`rows.ipynb`: labels, a schema, an account that runs dry halfway, and each row paid for once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from harness.kernels import Kernels
from harness.notebooks import text_of

pytestmark = pytest.mark.kernel

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "rows.ipynb"
COUNTS = """import json
print(json.dumps({
    "paid": [r.body["messages"][-1]["content"] for r in api.requests[sent:] if r.cost],
    "refused": sum(r.status == 402 for r in api.requests),
    "billed": str(api.billed),
    "cost": str(sum(float(frame.cost.sum()) for frame in (labelled, facts, so_far, summaries))),
    "answers": int(summaries.answer.notna().sum()),
}))"""


def made() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_kept_without_outputs() -> None:
    """What is in the checkout is a valid notebook that has not been run."""
    notebook = made()

    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_each_row_is_paid_for_once(kernel: Kernels) -> None:
    """It fails where it says so, finishes after the top-up, and the costs are what was billed."""
    notebook = made()
    notebook.cells.append(nbformat.v4.new_code_cell(COUNTS, id="counting"))

    ran = kernel.run(notebook)

    assert ran.error is None
    cells = {cell.id: cell for cell in ran.notebook.cells}
    failed = [
        name
        for name, cell in cells.items()
        if any(output.output_type == "error" for output in cell.get("outputs", ()))
    ]
    assert failed == ["dry"]
    shown = {name: text_of(cell) for name, cell in cells.items() if cell.cell_type == "code"}
    assert "Nothing was sent" in shown["forecast"]
    assert "24 asked, 24 equal to others" in shown["label"]
    assert "The DeepSeek balance is empty" in shown["dry"]
    assert "from the ledger" in shown["finish"]
    assert any("image/png" in output.get("data", {}) for output in cells["plot"].outputs)
    told = json.loads(shown["counting"])
    assert told["answers"] == 48
    assert len(told["paid"]) == len(set(told["paid"])) == 48
    assert 0 < told["refused"] <= 4
    assert float(told["cost"]) == pytest.approx(float(told["billed"]))
