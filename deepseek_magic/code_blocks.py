"""The code in a text of Markdown: its fenced blocks, as the text of a notebook's cell.

A block counts where it begins a line of its own, in a list or a quotation too.
Nothing here runs anything.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

_OPENS = re.compile(
    r"(?P<before>[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)(?P<mark>`{3,}|~{3,})(?P<info>.*)"
)
_CLOSES = re.compile(r"[ \t>]*(`{3,}|~{3,})[ \t]*")
_QUOTED = re.compile(r"^[ \t]*>[ \t]?", re.MULTILINE)
# Characters that make code look other than it is, and control characters but newline and tab.
_DECEIVING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)

MAGICS = MappingProxyType(
    {
        **dict.fromkeys(("bash", "sh", "shell", "zsh"), "%%bash"),
        **dict.fromkeys(("javascript", "js"), "%%javascript"),
        **{name: f"%%{name}" for name in ("html", "latex", "markdown", "perl", "ruby", "svg")},
    }
)
"""The cell magics of IPython that take other languages."""


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """One fenced block: the *language* it names, in lower case, "" without one, and its text."""

    language: str
    source: str

    def as_cell(self) -> str:
        """Give the text of a cell that holds the block.

        What is no Python gets the cell magic of its language, where IPython has one.
        """
        source = self.source.strip("\n")
        magic = MAGICS.get(self.language)
        starts = source.startswith("%%")
        return source if magic is None or starts else f"{magic}\n{source}"


def code_blocks(text: str) -> Iterator[CodeBlock]:
    r"""Give the fenced blocks of *text* that hold something, in their order.

    A block that is not closed reaches to the end. Control characters, and those
    that hide or turn text, stand as `\u…` so that they are seen.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    start: tuple[int, re.Match[str]] | None = None
    for number, line in enumerate(lines):
        if start is None:
            opens = _OPENS.fullmatch(line)
            if opens and not (opens["mark"][0] == "`" and "`" in opens["info"]):
                start = number, opens
        elif _is_end(line, start[1]["mark"]):
            yield from _block(start[1], lines[start[0] + 1 : number])
            start = None
    if start is not None:
        yield from _block(start[1], lines[start[0] + 1 :])


def _is_end(line: str, mark: str) -> bool:
    found = _CLOSES.fullmatch(line)
    return bool(found and found[1][0] == mark[0] and len(found[1]) >= len(mark))


def _block(opens: re.Match[str], lines: list[str]) -> Iterator[CodeBlock]:
    source = "\n".join(lines)
    if ">" in opens["before"]:
        source = _QUOTED.sub("", source)
    source = textwrap.dedent(source).strip("\n")
    if source.strip():
        language = (opens["info"].split() or [""])[0].strip("{}.").lower()
        yield CodeBlock(language, _DECEIVING.sub(_escaped, source))


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def first_code(text: str) -> CodeBlock | None:
    """Give the first block of *text*; None without one."""
    return next(code_blocks(text), None)
