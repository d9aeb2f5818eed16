"""The README's tables are made from the code: `DEEPSEEK_MAGIC_README=1` writes them anew."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek_magic import errors, options
from deepseek_magic.commands import SUBCOMMANDS
from deepseek_magic.magics import DeepSeekMagics

README = Path(__file__).parents[1] / "README.md"


def table(*rows: tuple[str, ...]) -> str:
    """Write *rows*, the first of them the heads, as a table of Markdown."""
    heads, *rest = ([re.sub(r"(?<!\\)\|", r"\|", cell) for cell in row] for row in rows)
    lines = [heads, ["---"] * len(heads), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def coded(text: str) -> str:
    """Set what is typed as code: options, magics, braces, names with a dot or an underline."""
    typed = r"(?<![\w`])(--[a-z][a-z-]*(?: [A-Z]+)?|%%?deepseek(?: -h)?|\{\{.*?\}\}|\\[nt])(?!\w)"
    return re.sub(typed, r"`\1`", text)


def option_rows() -> Iterator[tuple[str, ...]]:
    yield "option", "what it does"
    for one in options._OPTIONS:
        *short, name = one.names
        yield (
            ", ".join(f"`{word}`" for word in (*short, f"{name} {one.takes}".rstrip())),
            coded(one.help),
        )


def subcommand_rows() -> Iterator[tuple[str, ...]]:
    yield "line", "what it does"
    for name, what in SUBCOMMANDS.items():
        yield f"`%deepseek {name}`", coded(what)


def setting_rows() -> Iterator[tuple[str, ...]]:
    yield "setting", "at first", "what it does"
    for name, trait in sorted(DeepSeekMagics.class_own_traits(config=True).items()):
        yield f"`{name}`", f"`{trait.default()!r}`", coded(str(trait.help))


def error_rows() -> Iterator[tuple[str, ...]]:
    yield "error", "is a", "when"
    for kind in vars(errors).values():
        ours = isinstance(kind, type) and kind.__module__ == errors.__name__
        if ours and issubclass(kind, errors.DeepSeekError | errors.Interrupted):
            said = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
            yield f"`{kind.__name__}`", f"`{kind.__bases__[0].__name__}`", said


TABLES = {
    "options": option_rows,
    "subcommands": subcommand_rows,
    "settings": setting_rows,
    "errors": error_rows,
}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_those_of_the_code(name: str) -> None:
    """What the README says of options, subcommands, settings and errors is what the code says."""
    text = README.read_text("utf-8")
    made = table(*TABLES[name]())
    between = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- end of {name} -->)", re.DOTALL)

    told = between.sub(lambda found: f"{found[1]}{made}{found[2]}", text)
    if os.environ.get("DEEPSEEK_MAGIC_README"):
        README.write_text(told, "utf-8")

    assert between.search(text), f"README.md has no place for the {name}"
    assert told == README.read_text("utf-8"), "DEEPSEEK_MAGIC_README=1 pytest tests/test_readme.py"
