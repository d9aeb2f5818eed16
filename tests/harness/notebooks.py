"""Notebook files for tests: made from a list of sources, read by cell."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


def notebook(sources: Sequence[str], kernel: str = "python3") -> nbformat.NotebookNode:
    """Make a notebook with a code cell for each of *sources*.

    A source that starts with `# md` and a line end becomes a Markdown cell of the rest.
    """
    cells = []
    for source in sources:
        head, _, rest = source.partition("\n")
        if head == "# md":
            cells.append(nbformat.v4.new_markdown_cell(rest))
        else:
            cells.append(nbformat.v4.new_code_cell(source))
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    assert isinstance(made, nbformat.NotebookNode)
    return made


def kernelspec(variables: Mapping[str, str]) -> dict[str, Any]:
    """Describe a kernel of this very Python with *variables* in its environment."""
    return {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python of this test",
        "language": "python",
        "env": dict(variables),
    }


def text_of(cell: Any) -> str:
    """Give all that a saved code *cell* shows as text, without colours."""
    shown = []
    for output in cell.outputs:
        if output.output_type == "stream":
            shown.append(output.text)
        elif output.output_type == "error":
            shown.append("\n".join(output.traceback))
        else:
            shown.append(output.data.get("text/plain", ""))
    return ANSI.sub("", "\n".join(shown))


def html_of(cell: Any) -> str:
    """Give the HTML outputs of a saved code *cell*, one after the other."""
    return "\n".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)


def write(path: Path, made: nbformat.NotebookNode) -> Path:
    """Write a notebook to *path*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)
    return path
