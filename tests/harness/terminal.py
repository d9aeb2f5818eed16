"""IPython in a terminal of its own, typed into."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pexpect

from harness.notebooks import ANSI

OPTIONS = ("--no-banner", "--no-confirm-exit", "--colors=nocolor")


class Terminal:
    """A running IPython. What it shows comes back without colours and with plain line ends.

    The *simple* prompt shows what is typed once; the real one redraws the line
    at every key, with control sequences that `raw` keeps.
    """

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, *, simple: bool) -> None:
        options = [*OPTIONS, "--simple-prompt"] if simple else [*OPTIONS]
        self.raw = ""
        self._simple = simple
        self._next = 1
        self._child = pexpect.spawn(
            sys.executable,
            ["-m", "IPython", *options],
            cwd=str(folder),
            encoding="utf-8",
            codec_errors="replace",
            timeout=60,
            dimensions=(50, 120),
            env={
                "TERM": "xterm-256color",
                **os.environ,
                # A terminal that never answers where its cursor is would be waited for.
                "PROMPT_TOOLKIT_NO_CPR": "1",
                **(env or {}),
            },
        )
        self._read_to_prompt()

    def run(self, cell: str, timeout: float = 60) -> str:
        """Type a *cell* of one or more lines; give what is shown up to the next prompt."""
        self._type(cell)
        return self._read_to_prompt(timeout)

    def start(self, cell: str) -> None:
        """Type a *cell* and do not wait for its end."""
        self._type(cell)

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Read on until *text* has been shown."""
        self._child.expect_exact(text, timeout=timeout)

    def finish(self, timeout: float = 60) -> str:
        """Give the rest of what is shown up to the next prompt."""
        return self._read_to_prompt(timeout)

    def answer(self, line: str) -> None:
        """Type one *line* to a program that asks for it."""
        self._child.sendline(line)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._child.sendintr()

    def close(self) -> None:
        """End IPython, whatever it is doing."""
        self._child.close(force=True)

    def _type(self, cell: str) -> None:
        if self._simple:
            *lines, last = [*cell.splitlines(), *[""] * _empty_lines(cell)]
            for line in lines:
                self._child.sendline(line)
                self._child.expect_exact("...: ")
            self._child.sendline(last)
        else:  # pasted, since typed line ends would be indented
            self._child.send(f"\x1b[200~{cell}\x1b[201~")
            self._child.send("\r" * (1 + _empty_lines(cell)))

    def _read_to_prompt(self, timeout: float = 60) -> str:
        self._child.expect(rf"In \[{self._next}\]: ?", timeout)
        self._next += 1
        self.raw = self._child.before
        return ANSI.sub("", self.raw).replace("\r\n", "\n")


def _empty_lines(cell: str) -> int:
    """Count the empty lines after which IPython takes a cell for finished."""
    if cell.startswith("%%"):
        return 2
    return 1 if cell.splitlines()[-1].startswith((" ", "\t")) else 0
