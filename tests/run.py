"""Run every check: `python3 tests/run.py [--only lint|types|tests] [pytest arguments]`.

Makes `.venv-test` at the first start and gets a Chromium where there is none.
All groups run; the exit code is that of the first that failed. `--coverage` measures besides.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "notebooks"), str(ROOT / "tests")]

from environment import check_python, prepare  # noqa: E402  found by the line above
from harness import chromium  # noqa: E402


def main() -> int:
    """Run the groups that were asked for, the tests last."""
    check_python()
    options, extra = _parser().parse_known_args()
    python = prepare(".venv-test", "test")
    groups = {
        "lint": [
            [str(python), "-m", "ruff", "check", "."],
            [str(python), "-m", "ruff", "format", "--check", "."],
        ],
        "types": [[str(python), "-m", "mypy"]],
        "tests": [_pytest(python, options, extra)],
    }
    failures: list[int] = []
    for name in [options.only] if options.only else groups:
        if name == "tests" and chromium.find() is None:
            chromium.install(python)
        if name == "tests" and failures:
            print("Failed so far, see above; the tests follow.", flush=True)
        failures += [code for code in map(_run, groups[name]) if code]
    return failures[0] if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Run ruff, mypy and pytest. Other arguments go to pytest.", allow_abbrev=False
    )
    parser.add_argument("--only", choices=["lint", "types", "tests"], help="one group of the three")
    parser.add_argument(
        "--workers",
        type=int,
        default=min((os.cpu_count() or 1) + 1, 4),  # they wait much of their time
        help="processes to share the tests (default: %(default)s)",
    )
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="also tell which lines no test runs, and fail below a share; takes a third longer",
    )
    return parser


def _pytest(python: Path, options: argparse.Namespace, extra: list[str]) -> list[str]:
    # The examples of properties are the same on every machine; plain pytest tries new ones.
    command = [str(python), "-m", "pytest", "--hypothesis-profile=ci"]
    if options.workers > 1:
        command += ["-n", str(options.workers), "--dist", "loadgroup"]
    if options.coverage:
        # Some of the tests cannot cover all of the package.
        command += ["--cov", *(["--cov-fail-under=0"] if extra else [])]
    return [*command, *extra]


def _run(command: list[str]) -> int:
    print(f"$ {' '.join(command[1:])}", flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False
    ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
