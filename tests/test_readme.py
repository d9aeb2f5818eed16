"""The READMEs' tables are made from the code: `DEEPSEEK_MAGIC_README=1` writes them anew."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek_magic import errors, options, words
from deepseek_magic.commands import SUBCOMMANDS
from deepseek_magic.magics import DeepSeekMagics
from deepseek_magic.words import Language, t

ROOT = Path(__file__).parents[1]
READMES: dict[Language, Path] = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}
HEADS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "options": ("option", "what it does"),
        "subcommands": ("line", "what it does"),
        "settings": ("setting", "at first", "what it does"),
        "errors": ("error", "is a", "when"),
    },
    "zh": {
        "options": ("选项", "作用"),
        "subcommands": ("命令", "作用"),
        "settings": ("设置", "初始值", "作用"),
        "errors": ("错误", "属于", "何时出现"),
    },
}
ERRORS = Path(__file__).with_name("errors_zh.json")
"""What each error's docstring says, in Chinese, by the English."""


def table(*rows: tuple[str, ...]) -> str:
    """Write *rows*, the first of them the heads, as a table of Markdown."""
    heads, *rest = ([re.sub(r"(?<!\\)\|", r"\|", cell) for cell in row] for row in rows)
    lines = [heads, ["---"] * len(heads), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def coded(text: str) -> str:
    """Set what is typed as code: options, magics, braces, names with a dot or an underline."""
    typed = r"(?<![\w`])(--[a-z][a-z-]*(?: [A-Z]+)?|%%?deepseek(?: -h)?|\{\{.*?\}\}|\\[nt])(?!\w)"
    return re.sub(typed, r"`\1`", text, flags=re.ASCII)


def option_rows() -> Iterator[tuple[str, ...]]:
    for one in options._OPTIONS:
        *short, name = one.names
        yield (
            ", ".join(f"`{word}`" for word in (*short, f"{name} {one.takes}".rstrip())),
            coded(t(one.help)),
        )


def subcommand_rows() -> Iterator[tuple[str, ...]]:
    for name, what in SUBCOMMANDS.items():
        yield f"`%deepseek {name}`", coded(t(what))


def setting_rows() -> Iterator[tuple[str, ...]]:
    for name, trait in sorted(DeepSeekMagics.class_own_traits(config=True).items()):
        yield f"`{name}`", f"`{trait.default()!r}`", coded(t(str(trait.help)))


def error_rows() -> Iterator[tuple[str, ...]]:
    chinese = json.loads(ERRORS.read_text("utf-8")) if words.language() == "zh" else {}
    for kind in vars(errors).values():
        ours = isinstance(kind, type) and kind.__module__ == errors.__name__
        if ours and issubclass(kind, errors.DeepSeekError | errors.Interrupted):
            said = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
            said = chinese[said] if chinese else said
            yield f"`{kind.__name__}`", f"`{kind.__bases__[0].__name__}`", said


TABLES = {
    "options": option_rows,
    "subcommands": subcommand_rows,
    "settings": setting_rows,
    "errors": error_rows,
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("language", READMES)
def test_the_tables_are_those_of_the_code(
    monkeypatch: pytest.MonkeyPatch, language: Language, name: str
) -> None:
    """What a README says of options, subcommands, settings and errors is what the code says."""
    monkeypatch.setenv(words.VARIABLE, language)
    readme = READMES[language]
    text = readme.read_text("utf-8")
    made = table(HEADS[language][name], *TABLES[name]())
    between = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- end of {name} -->)", re.DOTALL)

    told = between.sub(lambda found: f"{found[1]}{made}{found[2]}", text)
    if os.environ.get("DEEPSEEK_MAGIC_README"):
        readme.write_text(told, "utf-8")

    assert between.search(text), f"{readme.name} has no place for the {name}"
    assert told == readme.read_text("utf-8"), "DEEPSEEK_MAGIC_README=1 pytest tests/test_readme.py"


def test_both_have_the_same_commands() -> None:
    """Every block of code is the same in both languages, but for its comments."""
    english, chinese = (
        re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) for text in both()
    )

    assert [(kind, without_comments(code)) for kind, code in english] == [
        (kind, without_comments(code)) for kind, code in chinese
    ]


def test_both_have_the_same_names() -> None:
    """Commands, options, names and addresses within the text are the same in both languages."""
    english, chinese = (sorted(set(re.findall(r"`[^`\n]+`", prose(text)))) for text in both())

    assert english == chinese


def test_both_have_the_same_form() -> None:
    """Headings, lists, tables and pictures follow each other alike in both languages."""
    forms = r"^(#+ |- |\| |!\[(?=.*\]\((.*)\))|> |```|<!-- .* -->)"
    english, chinese = (re.findall(forms, text, re.MULTILINE) for text in both())

    assert english == chinese


@pytest.mark.parametrize("readme", READMES.values())
def test_its_links_lead_somewhere(readme: Path) -> None:
    """A link to a file, a picture or a heading finds it; each README has one to the other."""
    text = readme.read_text("utf-8")
    links = re.findall(r"\]\(([^):]+)\)", text)
    headings = {anchor(found) for found in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    lost = [
        link
        for link in links
        if not (link[1:] in headings if link[0] == "#" else (ROOT / link).is_file())
    ]

    assert not lost
    assert {path.name for path in READMES.values()} - {readme.name} <= set(links)


def both() -> Iterator[str]:
    return (path.read_text("utf-8") for path in READMES.values())


def without_comments(code: str) -> str:
    return re.sub(r"  # .*$", "", code, flags=re.MULTILINE)


def prose(text: str) -> str:
    """Take the blocks of code and the tables out."""
    return re.sub(r"^```.*?^```$|^\|.*?$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """Name a heading as GitHub does."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
