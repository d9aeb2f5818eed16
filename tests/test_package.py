from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import deepseek_magic

PACKAGE = Path(deepseek_magic.__file__).parent
ROOT = PACKAGE.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_whole_package(wheel: Path) -> None:
    """What is installed has every module, the prices, the pages and the mark for types."""
    wanted = {f"deepseek_magic/{path.name}" for path in PACKAGE.iterdir() if path.is_file()}

    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert names == wanted
    assert {"deepseek_magic/py.typed", "deepseek_magic/prices.json"} <= names


def test_the_wheel_bears_the_version(wheel: Path) -> None:
    """The version is written once, in the package."""
    assert wheel.name.startswith(f"deepseek_magic-{deepseek_magic.__version__}-")
