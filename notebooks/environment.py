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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)


def prepare(name: str, extra: str) -> Path:
    """Make the environment *name* with the *extra* of this package; give its Python.

    It is left alone as long as neither what it needs nor Python has changed.
    """
    folder = ROOT / name
    stamp, wanted = folder / "made-for", _fingerprint(extra)
    python = _python_of(folder)
    if stamp.is_file() and stamp.read_text() == wanted and python.is_file():
        return python
    print(f"Making {name} and installing what is needed. This takes a minute or two.", flush=True)
    stamp.unlink(missing_ok=True)
    _make(folder)
    _install(folder, f"{ROOT}[{extra}]")
    stamp.write_text(wanted)
    return python


def _fingerprint(extra: str) -> str:
    import tomllib  # here, so that an older Python gets as far as check_python

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needs = [project["build-system"], project["project"], str(ROOT), extra, sys.version]
    return hashlib.sha256(json.dumps(needs).encode()).hexdigest()


def _python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _make(folder: Path) -> None:
    # Debian splits ensurepip off Python; pip itself can install into a folder without one.
    pip = ["--without-pip"] if _has_pip() else []
    _run([sys.executable, "-m", "venv", "--clear", *pip, str(folder)], "making it")


def _install(folder: Path, what: str) -> None:
    python = str(_python_of(folder))
    pip = [sys.executable, "-m", "pip", "--python", python] if _has_pip() else [python, "-m", "pip"]
    _run([*pip, "install", "--quiet", "--disable-pip-version-check", "-e", what], "installing")


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
