"""A virtual environment with this checkout in it, made once and used again.

Runs before anything is installed, so it needs Python and pip alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)


def prepare(name: str, extra: str, base: str = sys.executable, pins: Sequence[str] = ()) -> Path:
    """Make the environment *name* with the *extra* of this package; give its Python.

    It is of the Python *base*, and what is in it keeps to *pins*, such as "ipython<9".
    It is left alone as long as neither what it needs nor Python has changed.
    """
    folder = ROOT / name
    stamp, wanted = folder / "made-for", _fingerprint(extra, base, *pins)
    python = _python_of(folder)
    if stamp.is_file() and stamp.read_text() == wanted and python.is_file():
        return python
    print(f"Making {name} and installing what is needed. This takes a minute or two.", flush=True)
    stamp.unlink(missing_ok=True)
    _make(folder, base)
    _install(folder, "-e", f"{ROOT}[{extra}]", *pins)
    stamp.write_text(wanted)
    return python


def _fingerprint(*wanted: str) -> str:
    import tomllib  # here, so that an older Python gets as far as check_python

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needs = [project["build-system"], project["project"], str(ROOT), wanted, sys.version]
    return hashlib.sha256(json.dumps(needs).encode()).hexdigest()


def _python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _make(folder: Path, base: str) -> None:
    # Debian splits ensurepip off Python; pip itself can install into a folder without one.
    pip = ["--without-pip"] if _has_pip() else []
    _run([base, "-m", "venv", "--clear", *pip, str(folder)], "making it")


def _install(folder: Path, *what: str) -> None:
    python = str(_python_of(folder))
    pip = [sys.executable, "-m", "pip", "--python", python] if _has_pip() else [python, "-m", "pip"]
    _run([*pip, "install", "--quiet", "--disable-pip-version-check", *what], "installing")


def _run(command: list[str], what: str) -> None:
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(
            f"The environment is not ready: {what} failed, the reason stands above. "
            f"Once that is mended, start this command again. It was:\n  {' '.join(command)}"
        )


def check_python() -> None:
    """Stop with one line when this Python is too old."""
    if sys.version_info < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise SystemExit(
            f"Python {oldest} or newer is needed; this is {sys.version.split()[0]}. "
            f"Nothing was installed. Try: python{oldest} {' '.join(sys.argv)}"
        )
