"""Real kernels without a page: whole notebooks under nbclient, or one request at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from harness.notebooks import html_of, notebook, text_of


@dataclass(frozen=True, slots=True)
class Ran:
    """A notebook after its run, and the error that ended it, if any."""

    notebook: nbformat.NotebookNode
    error: CellExecutionError | None

    def text(self, index: int) -> str:
        """Give what the code cell *index* shows as text."""
        return text_of(self.notebook.cells[index])

    def html(self, index: int) -> str:
        """Give the HTML of the code cell *index*."""
        return html_of(self.notebook.cells[index])


class Kernels:
    """Starts kernels in *folder* with this process's environment; `close` ends those left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()

    def run(
        self,
        sources: Sequence[str] | nbformat.NotebookNode,
        *,
        env: Mapping[str, str] | None = None,
        cell_seconds: int = 60,
        allow_errors: bool = False,
    ) -> Ran:
        """Run *sources* (or a notebook) from first to last, as nbclient and papermill do."""
        made = sources if isinstance(sources, nbformat.NotebookNode) else notebook(sources)
        client = NotebookClient(
            made,
            timeout=cell_seconds,
            allow_errors=allow_errors,
            resources={"metadata": {"path": str(self._folder)}},
        )
        try:
            client.execute(env={**os.environ, **(env or {})})
        except CellExecutionError as error:
            return Ran(made, error)
        return Ran(made, None)

    def start(self, env: Mapping[str, str] | None = None) -> BlockingKernelClient:
        """Start a kernel and give a client that is ready; the kernel ends with the test."""
        manager = KernelManager()
        manager.start_kernel(cwd=str(self._folder), env={**os.environ, **(env or {})})
        self._open.callback(manager.shutdown_kernel, now=True)
        client: Any = manager.blocking_client()
        client.start_channels()
        self._open.callback(client.stop_channels)
        client.wait_for_ready(timeout=60)
        assert isinstance(client, BlockingKernelClient)
        return client

    def close(self) -> None:
        """End the kernels that `start` has started."""
        self._open.close()
