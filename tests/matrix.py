"""Run the tests on other versions: `python3 tests/matrix.py [ROW …] [--browser]`.

Each row is a Python with versions of IPython, ipykernel and openai, in an environment
of its own, made at the first start. Together the rows have every pair of versions that
a user may have. Other arguments go to pytest. Without names all rows run, each to its
end; the exit code is that of the first that failed, or 1 where a Python is not there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "notebooks")]

from environment import check_python, prepare  # noqa: E402  found by the line above

IPYTHON = {"8": "ipython>=8.20,<9", "9": "ipython>=9"}
IPYKERNEL = {"6": "ipykernel>=6.29,<7", "7": "ipykernel>=7.1"}
OPENAI = {"2.54": "openai==2.54.*", "3": "openai>=3"}


@dataclass(frozen=True, slots=True)
class Row:
    """One Python, and what is installed for it."""

    python: str
    ipython: str
    ipykernel: str
    openai: str

    @property
    def name(self) -> str:
        """What the row is called on the command line."""
        versions = (self.python, self.ipython, self.ipykernel, self.openai)
        return "-".join(version.replace(".", "") for version in versions)

    @property
    def pins(self) -> tuple[str, ...]:
        """What pip keeps to."""
        return IPYTHON[self.ipython], IPYKERNEL[self.ipykernel], OPENAI[self.openai]


ROWS = (
    Row("3.11", "8", "6", "2.54"),
    Row("3.11", "9", "7", "3"),
    Row("3.12", "8", "7", "3"),
    Row("3.12", "9", "6", "2.54"),
    Row("3.13", "8", "6", "3"),
    Row("3.13", "9", "7", "2.54"),
)


def main() -> int:
    """Run the rows that were asked for, and say at the end how each has fared."""
    check_python()
    options, extra = _parser().parse_known_args()
    names = {row.name for row in ROWS}
    wanted = names & set(options.words) or names
    extra += [word for word in options.words if word not in names]
    marks = [] if options.browser else ["-m", "not browser"]
    rows = [row for row in ROWS if row.name in wanted]
    ended = {row.name: _run(row, [*marks, *extra]) for row in rows}
    for name, code in ended.items():
        print(f"{name:<16} {'passed' if code == 0 else f'failed with exit code {code}'}")
    return next((code for code in ended.values() if code), 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Run the tests on other versions. Other arguments go to pytest.",
        allow_abbrev=False,
    )
    names = [row.name for row in ROWS]
    parser.add_argument("words", nargs="*", metavar="ROW", help=f"one of {', '.join(names)}")
    parser.add_argument("--browser", action="store_true", help="run those in the browser, too")
    return parser


def _run(row: Row, arguments: list[str]) -> int:
    print(f"$ {row.name}: Python {row.python} with {', '.join(row.pins)}", flush=True)
    base = _python(row.python)
    if base is None:
        print(f"There is no python{row.python} on PATH; this row was not run.", flush=True)
        return 1
    python = prepare(f".venv-test-{row.name}", "test", base, row.pins)
    workers = ["-n", str(min((os.cpu_count() or 1) + 1, 4)), "--dist", "loadgroup"]
    command = [str(python), "-m", "pytest", *workers, *arguments]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode


def _python(version: str) -> str | None:
    """Find the interpreter of *version*: this one, or one on PATH that starts."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        return None
    # A version manager puts names on PATH of versions that it does not start.
    shown = "import sys; print(sys.executable)"
    answer = subprocess.run([found, "-c", shown], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


if __name__ == "__main__":
    raise SystemExit(main())
