"""What a program that a test starts finds in its environment."""

from __future__ import annotations

import os
from pathlib import Path

from harness.child import sitecustomize

CHILD = Path(sitecustomize.__file__).parent
LEFT_OUT = (
    *("DEEPSEEK_API_KEY", "DEEPSEEK_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "JUPYTER_TOKEN", "PYTHONSTARTUP"),
)


def private_folders(folder: Path) -> dict[str, str]:
    """Give the variables that keep every file of ours, IPython's and Jupyter's in *folder*."""
    return {
        "DEEPSEEK_MAGIC_HOME": str(folder / "deepseek_magic"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter" / "config"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter" / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "jupyter" / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "jupyter" / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "jupyter" / "workspaces"),
    }


def variables(folder: Path, record: Path) -> dict[str, str]:
    """Give what a test sets: folders of its own, and loopback only, refusals told in *record*."""
    path = [str(CHILD), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **private_folders(folder),
        "PYTHONPATH": os.pathsep.join(path) if str(CHILD) not in path[1:] else path[1],
        sitecustomize.RECORD: str(record),
        "DEEPSEEK_MAGIC_LANGUAGE": "en",
        # The debugger warns about frozen modules on the standard error of every kernel.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def environment(folder: Path, record: Path) -> dict[str, str]:
    """Give the whole environment of a program that outlives one test."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    return {**kept, **variables(folder, record)}
