"""A real JupyterLab server, which serves Notebook 7 too."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import nbformat

from harness.environment import environment, variables
from harness.notebooks import kernelspec, notebook, write

START_SECONDS = 60
SERVER: dict[str, dict[str, Any]] = {
    "ServerApp": {
        "ip": "127.0.0.1",
        "port": 0,
        "open_browser": False,
        "allow_root": True,
        # No stranger reaches a loopback port of a test machine for these seconds.
        "disable_check_xsrf": True,
        "terminals_enabled": False,
        "jpserver_extensions": {"jupyter_lsp": False, "jupyterlab": True, "notebook": True},
    },
    "IdentityProvider": {"token": ""},
}
EXPOSED = {
    "jupyter_lab_config": {"LabApp": {"expose_app_in_browser": True}},
    "jupyter_notebook_config": {"JupyterNotebookApp": {"expose_app_in_browser": True}},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # All cells are in the page, whether in sight or not.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@dataclass(frozen=True, slots=True)
class Lab:
    """A running server: where it listens, and the folder whose notebooks it serves."""

    url: str
    root: Path
    folder: Path

    def write(
        self,
        name: str,
        sources: Sequence[str] | nbformat.NotebookNode,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Write the notebook *name*, whose kernel has *env*; give the name to open it by."""
        kernel = f"of-{Path(name).stem}"
        made = sources if isinstance(sources, nbformat.NotebookNode) else notebook(sources)
        made.metadata["kernelspec"] = notebook([], kernel).metadata.kernelspec
        _write_json(
            self.folder / "jupyter" / "data" / "kernels" / kernel / "kernel.json",
            kernelspec(env or {}),
        )
        write(self.root / name, made)
        return name

    def read(self, name: str) -> nbformat.NotebookNode:
        """Read the notebook *name* as it is on the disk."""
        made = nbformat.read(self.root / name, as_version=4)
        assert isinstance(made, nbformat.NotebookNode)
        return made

    def set(self, plugin: str, **settings: Any) -> None:
        """Set what a user would in the settings editor, for pages opened from now on."""
        _write_settings(self.folder, plugin, settings)

    def end_sessions(self) -> None:
        """Shut down every kernel, as closing the notebooks one by one would."""
        for session in self._ask("GET", "api/sessions"):
            self._ask("DELETE", f"api/sessions/{session['id']}")
        for kernel in self._ask("GET", "api/kernels"):
            self._ask("DELETE", f"api/kernels/{kernel['id']}")

    def _ask(self, method: str, path: str) -> Any:
        with urlopen(Request(self.url + path, method=method), timeout=30) as response:  # noqa: S310  http
            return json.loads(response.read() or b"null")


@contextmanager
def serving(folder: Path, record: Path) -> Iterator[Lab]:
    """Run a server with all its files in *folder*."""
    root = folder / "notebooks"
    root.mkdir(parents=True)
    config = folder / "jupyter" / "config"
    server = {**SERVER, "ServerApp": {**SERVER["ServerApp"], "root_dir": str(root)}}
    _write_json(config / "jupyter_server_config.json", server)
    for name, settings in EXPOSED.items():
        _write_json(config / f"{name}.json", settings)
    for plugin, settings in SETTINGS.items():
        _write_settings(folder, plugin, settings)
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser"],
            cwd=root,
            env=environment(folder, record),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = _wait(process, folder / "jupyter" / "runtime", log)
        yield (lab := Lab(url, root, folder))
        lab.end_sessions()
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        for file in runtime.glob("jpserver-*.json"):
            try:
                url = str(json.loads(file.read_text())["url"])
                urlopen(url + "api/status", timeout=5).close()  # noqa: S310  http
            except (OSError, ValueError):
                continue
            return url
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start. Its log:\n{log.read_text(errors='replace')}")


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _write_settings(folder: Path, plugin: str, settings: Mapping[str, Any]) -> None:
    path = folder / "jupyter" / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
    _write_json(path, settings)


def kernel_variables(folder: Path, record: Path, **more: str) -> dict[str, str]:
    """Give what the kernel of one test needs: folders of its own, loopback only, and *more*.

    Jupyter's own folders stay the server's: it and the kernel meet there.
    """
    ours = variables(folder, record)
    return {k: v for k, v in ours.items() if not k.startswith("JUPYTER")} | more
