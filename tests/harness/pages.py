"""A page without a browser: a front end that talks to a kernel as JupyterLab does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import KernelManager

from deepseek_magic.rerun import INVISIBLE

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient

ROOT = Path(__file__).parents[2]


class Page:
    """A front end: it runs cells, keeps their outputs, and answers probes as a page does."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client
        self.messages: list[dict[str, Any]] = []
        self.probes: dict[str, str] = {}
        """The message ids that output widgets catch, by comm id."""
        self.listens = True
        """Whether it still knows its cells; a page that was loaded anew does not."""
        self.holds = False
        """Whether it keeps its answers for `answer`, as a page that hangs does."""
        self.caught: list[str] = []

    def send(
        self,
        kind: str,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        **header: Any,
    ) -> str:
        """Send a request on the shell channel and give its id."""
        message = self.client.session.msg(kind, content, metadata=metadata)
        message["header"].update(header)
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def queue(self, code: str, metadata: dict[str, Any] | None = None, **header: Any) -> str:
        """Send a cell without waiting for it, as JupyterLab does; its id is in the *metadata*."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        more = {"allow_stdin": True, "stop_on_error": True}
        return self.send("execute_request", {**content, **more}, metadata, **header)

    def cell(self, code: str, metadata: dict[str, Any] | None = None, **header: Any) -> str:
        """Run a cell to its end and give its request's id."""
        request = self.queue(code, metadata, **header)
        self.until(lambda: self.ended(request))
        return request

    def value(self, expression: str) -> str:
        """Give what an expression prints in the kernel."""
        return self.text(self.cell(f"print({expression})")).strip()

    def click(self, comm: str, **header: Any) -> None:
        """Press the button that has this comm id."""
        data = {"method": "custom", "content": {"event": "click"}}
        self.send("comm_msg", {"comm_id": comm, "data": data}, **header)

    def answer(self) -> None:
        """Send back what was caught."""
        output = {"output_type": "stream", "name": "stdout", "text": INVISIBLE}
        data = {"method": "update", "state": {"outputs": [output]}, "buffer_paths": []}
        for comm in self.caught:
            self.send("comm_msg", {"comm_id": comm, "data": data})
        self.caught.clear()

    def until(self, done: Callable[[], bool]) -> None:
        """Take messages until *done*; thirty seconds without one are a failure."""
        while not done():
            self._take(self.client.get_iopub_msg(timeout=30))

    def settle(self, request: str) -> None:
        """Take messages until the attempt to run *request* again has come to its end."""
        deadline = time.monotonic() + 30
        # Not `join()`: a kernel that waits there is busy, and a busy kernel is given time.
        while self.value("again.join(0)") == "False":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.until(lambda: self.idle(request))

    def of(self, request: str) -> list[dict[str, Any]]:
        """Give what was published for *request* and shown in its place."""
        return [m for m in self.messages if m["parent_header"].get("msg_id") == request]

    def inputs(self, request: str) -> list[str]:
        """Give the code of each run of *request*."""
        mine = self.of(request)
        return [m["content"]["code"] for m in mine if m["msg_type"] == "execute_input"]

    def states(self, request: str) -> list[str]:
        """Give when *request* was busy and idle, in their order."""
        mine = self.of(request)
        return [m["content"]["execution_state"] for m in mine if m["msg_type"] == "status"]

    def text(self, request: str) -> str:
        """Give what *request* has printed."""
        return "".join(m["content"]["text"] for m in self.of(request) if m["msg_type"] == "stream")

    def errors(self, request: str) -> list[str]:
        """Give the names of the errors that *request* ended in."""
        return [m["content"]["ename"] for m in self.of(request) if m["msg_type"] == "error"]

    def idle(self, request: str) -> bool:
        """Whether nothing of *request* is going on."""
        return self.states(request).count("busy") == self.states(request).count("idle")

    def ended(self, request: str, times: int = 1) -> bool:
        """Whether *request* has been run this often."""
        return self.states(request).count("idle") == times

    def _take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind in {"comm_open", "comm_msg"}:
            self._follow(content["comm_id"], content["data"].get("state", {}))
        elif kind == "comm_close":
            self.probes.pop(content["comm_id"], None)
        elif kind == "stream" and (comm := self._catcher(message)):
            self.caught.append(comm)
            if not self.holds:
                self.answer()
            return
        self.messages.append(message)

    def _follow(self, comm: str, state: dict[str, Any]) -> None:
        if state.get("msg_id"):
            self.probes[comm] = state["msg_id"]
        elif "msg_id" in state:
            self.probes.pop(comm, None)

    def _catcher(self, message: dict[str, Any]) -> str | None:
        request = message["parent_header"].get("msg_id")
        found = [comm for comm, caught in self.probes.items() if caught == request]
        return found[0] if found and self.listens else None


def start(home: Path) -> KernelManager:
    """Start a kernel whose files are in *home*; the caller ends it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    more = {"PYTHONPATH": os.pathsep.join(paths), "IPYTHONDIR": str(home)}
    manager = KernelManager(connection_file=str(home / "kernel.json"))
    manager.start_kernel(env={**os.environ, **more})
    return manager
