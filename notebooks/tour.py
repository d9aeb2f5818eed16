"""Open the tour: `python3 notebooks/tour.py`, or with `--headless` read it in the terminal.

The name of another notebook of this folder opens that one, for example
`python3 notebooks/tour.py when_things_fail`.

Makes `.venv` at the first start. The notebook that opens is a copy in
`notebooks/scratch`, which git ignores, so that running cells never changes the
checkout; an earlier copy is kept under another name.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import ROOT, check_python, prepare

HERE = ROOT / "notebooks"
SCRATCH = ROOT / "notebooks" / "scratch"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def main() -> int:
    """Get everything ready and start JupyterLab, or the reading."""
    check_python()
    options = _parser().parse_args()
    python = prepare(".venv", "lab")
    if options.headless:
        notebook = HERE / f"{options.notebook}.ipynb"
        return _run([str(python), str(Path(__file__).resolve()), "--read", str(notebook)], {})
    copy = _fresh_copy(options.notebook)
    print(f"Opening {copy.relative_to(ROOT)}, a copy for you to play with. Stop with Ctrl-C.")
    return _run(_lab_command(python, copy, options.port), _environment(SCRATCH / "home"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Open the tour of deepseek_magic, or another of its notebooks."
    )
    parser.add_argument(
        "notebook",
        nargs="?",
        default="tour",
        choices=sorted(path.stem for path in HERE.glob("*.ipynb")),
        help="which one to open",
    )
    parser.add_argument(
        "--headless", action="store_true", help="run the tour here and print what a reader sees"
    )
    parser.add_argument(
        "--port", type=int, default=8888, help="where to look for a free port first"
    )
    return parser


def _fresh_copy(name: str) -> Path:
    copy = SCRATCH / f"{name}.ipynb"
    SCRATCH.mkdir(exist_ok=True)
    if copy.exists():
        when = time.strftime("%Y-%m-%d-%H%M%S", time.localtime(copy.stat().st_mtime))
        copy.replace(SCRATCH / f"{name}-{when}.ipynb")
    shutil.copyfile(HERE / f"{name}.ipynb", copy)
    for other in HERE.glob("*.ipynb"):  # each names the next one
        if not (SCRATCH / other.name).exists():
            shutil.copyfile(other, SCRATCH / other.name)
    return copy


def _lab_command(python: Path, notebook: Path, port: int) -> list[str]:
    command = [str(python), "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--ServerApp.root_dir={notebook.parent}", "--ServerApp.log_level=WARN"]
    command += [f"--LabApp.default_url=/lab/tree/{notebook.name}", "--LabApp.log_level=WARN"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    if not _has_display():
        print("There is no display here; open the address below in a browser.")
        command.append("--no-browser")
    return command


def _has_display() -> bool:
    if sys.platform in {"darwin", "win32"}:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _environment(home: Path) -> dict[str, str]:
    """Keep what the tour spends, which is play money, out of the user's own ledger."""
    return {"DEEPSEEK_MAGIC_HOME": os.environ.get("DEEPSEEK_MAGIC_HOME", str(home))}


def _run(command: list[str], extra: dict[str, str]) -> int:
    environment = {**os.environ, **extra}
    if os.name != "nt":  # so that Ctrl-C and a kill reach the program itself
        sys.stdout.flush()
        os.execve(command[0], command, environment)  # noqa: S606  no shell is wanted
    return subprocess.run(command, env=environment, check=False).returncode


def read(path: Path) -> int:
    """Run the notebook at *path* and print its text, cells and outputs."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook: Any = nbformat.read(path, as_version=4)
    status = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["DEEPSEEK_MAGIC_HOME"] = folder
        client = NotebookClient(
            notebook,
            timeout=300,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],  # warnings are not part of the tour
        )
        try:
            client.execute()
        except CellExecutionError:
            status = 1
    for cell in notebook.cells:
        print(_shown(cell), flush=True)
    if status:
        print("The notebook stopped at the error above, which it does not expect.", file=sys.stderr)
    return status


def _shown(cell: Any) -> str:
    if cell.cell_type != "code":
        return f"{cell.source}\n"
    lines = [f"    {line}".rstrip() for line in cell.source.splitlines()]
    outputs = [_text(output).rstrip("\n") for output in cell.outputs]
    return "\n".join(
        [f"In [{cell.execution_count or ' '}]:", *lines, "", *filter(None, outputs), ""]
    )


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        shown = "\n".join(output.traceback)
        return shown if sys.stdout.isatty() else COLOURS.sub("", shown)
    return str(output.data.get("text/plain", ""))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:  # in the environment's own Python
        raise SystemExit(read(Path(sys.argv[2])))
    raise SystemExit(main())
