"""Every text on screen has its Chinese, and the language is the reader's."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

import deepseek_magic
from deepseek_magic import words
from deepseek_magic.commands import SUBCOMMANDS
from deepseek_magic.words import catalog, later, listed, sentences, set_language, t, tn

PACKAGE = Path(deepseek_magic.__file__).parent
NOT_SHOWN = Path(__file__).parent / "not_shown"
"""Per module, texts that look like words and that no user reads: one JSON string per line."""

API = ("sandbox", "sandbox_[!p]*")
"""What the simulated account says is the API's, which speaks English."""

NOT_OURS = (*API, "schema", "evidence", "tokens")
"""Files without a text for users: SQL, and patterns."""

MODULES = sorted(
    path.stem
    for path in PACKAGE.glob("*.py")
    if not any(fnmatch(path.stem, name) for name in NOT_OURS)
)
TELLS = {"t": (0,), "tn": (1, 2), "later": (0,)}
"""The functions that take texts, and where these stand."""

QUIET = {"compile", "search", "match", "fullmatch", "sub", "findall", "split", "TypeVar", "cast"}
"""Functions whose texts are patterns or types."""

LOGS = {"debug", "info", "warning", "error", "exception", "log"}
LIKE_WORDS = re.compile(r"[A-Za-z]{2,}[,;:.]? [A-Za-z{(]|^[A-Z][a-z]+(…|\.)?$")
SQL = re.compile(
    r"\b(SELECT|INSERT|UPDATE|CREATE|DELETE|FROM|WHERE|VALUES|PRAGMA|BEGIN|ORDER BY)\b"
)
HAN = re.compile(r"[\u4e00-\u9fff]")
LATIN = re.compile(r"[A-Za-z]")
CODE = re.compile(
    r"`[^`]+`|(?<![\w-])--[a-z][a-z-]+|https?://[^\s)）。，]+|%%deepseek|"
    rf"%deepseek(?: (?:{'|'.join(SUBCOMMANDS)})\b)?"
)
"""What is pasted or clicked, and so stays as it is."""


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def texts(module: str) -> Iterator[str]:
    """Give the texts of *module* that are told in the user's language."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            for place in TELLS.get(node.func.id, ()):
                yield from constants(node.args[place])


def constants(node: ast.expr) -> Iterator[str]:
    """Give the texts that *node* may be: itself, or the branches of a choice."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        pytest.fail(f"line {node.lineno}: an f-string has no entry in a catalog")


def untold(module: str) -> Iterator[tuple[int, str]]:
    """Give the texts of *module* that look like words and are told in English alone."""
    yield from _untold(tree(module), shown=True)


def _untold(node: ast.AST, *, shown: bool) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Constant | ast.JoinedStr):
        text = joined(node)
        if shown and LIKE_WORDS.search(text) and not SQL.search(text):
            yield node.lineno, text
    for name, child in parts(node):
        told = isinstance(node, ast.Call) and is_told(node, name)
        yield from _untold(child, shown=shown and not told)


def parts(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Give what *node* is made of, without docstrings, types, and texts that are part of one."""
    for name, value in ast.iter_fields(node):
        for n, child in enumerate(value if isinstance(value, list) else [value]):
            docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            of_text = isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)
            a_type = name in {"annotation", "returns"}
            if isinstance(child, ast.AST) and not (docstring or of_text or a_type):
                yield f"{name}{n}", child


def is_told(call: ast.Call, part: str) -> bool:
    name = name_of(call)
    tells = part in {f"args{n}" for n in TELLS.get(name, ())}
    return tells or (part.startswith("args") and name in QUIET | LOGS)


def joined(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
    )


def not_shown(module: str) -> set[str]:
    file = NOT_SHOWN / f"{module}.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {json.loads(line) for line in lines if line.strip()}


# The texts


@pytest.mark.parametrize("module", MODULES)
def test_no_text_is_told_in_english_alone(module: str) -> None:
    """A string that reads like words goes through `t`, or is on the list of those nobody reads."""
    found = {(line, text) for line, text in untold(module) if text not in not_shown(module)}

    assert not found, "\n" + "\n".join(
        f"{module}.py:{line}: {json.dumps(text, ensure_ascii=False)}"
        for line, text in sorted(found)
    )


@pytest.mark.parametrize("module", MODULES)
def test_the_list_of_what_nobody_reads_is_not_longer_than_that(module: str) -> None:
    """What is no longer in the file is no longer on its list."""
    assert not_shown(module) - {text for _, text in untold(module)} == set()


@pytest.mark.parametrize("module", MODULES)
def test_every_text_has_its_chinese(module: str) -> None:
    """It is in the catalog, with the same places to fill in and the same code to paste."""
    chinese = catalog("zh")
    wrong: list[str] = []
    for text in texts(module):
        said = chinese.get(text)
        if said is None:
            wrong.append(f"missing: {json.dumps(text)}")
        elif places(text) != places(said) or code(text) != code(said):
            wrong.append(f"differs: {json.dumps(text)}\n         {said}")
        elif LATIN.search(CODE.sub("", re.sub(r"\{[^}]*\}", "", text))) and not HAN.search(said):
            wrong.append(f"not Chinese: {json.dumps(text)} → {said}")

    assert not wrong, "\n" + "\n".join(wrong)


def test_the_catalog_holds_no_more() -> None:
    """A text that is told no more is not in the catalog any longer."""
    told = {text for module in [*MODULES, "words"] for text in texts(module)}

    assert catalog("zh").keys() - told == set()


def places(text: str) -> list[str]:
    """Give the names to be filled in; a text with braces that are none has no names."""
    try:
        return sorted(
            {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        )
    except ValueError:
        return []


def code(text: str) -> list[str]:
    return sorted(set(CODE.findall(text)))


# The language


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_SG"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_GB.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "DEEPSEEK_MAGIC_LANGUAGE": "en"}, "en"),
        ({"DEEPSEEK_MAGIC_LANGUAGE": "zh"}, "zh"),
    ],
)
def test_the_language_is_that_of_the_locale(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], language: str
) -> None:
    """The variables count in the order that other programs keep to, ours first."""
    for name in (words.VARIABLE, *words.LOCALE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert words.language() == language


def test_the_language_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds at once, and "auto" gives it back to the locale; another one is refused."""
    monkeypatch.setenv(words.VARIABLE, "en")
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    set_language("zh")
    chinese = words.language()
    set_language("en")
    english = words.language()
    set_language("auto")

    assert (chinese, english, words.language()) == ("zh", "en", "zh")
    with pytest.raises(ValueError, match="语言"):
        set_language("fr")


def test_texts_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers choose their noun in English; sentences and lists are put together as each does."""
    monkeypatch.setenv(words.VARIABLE, "en")

    assert t("no entry: {a}", a="x{b}") == "no entry: x{b}"
    assert t("braces {stay}") == later("braces {stay}") == "braces {stay}"
    assert [tn(n, "{n} row", "{n:,} rows") for n in (1, 2000)] == ["1 row", "2,000 rows"]
    assert sentences("A.", "", "B.") == "A. B."
    assert listed(["a", "b"]) == "a, b"
    monkeypatch.setenv(words.VARIABLE, "zh")
    assert sentences("甲。", "乙。") == "甲。乙。"
    assert listed(["a", "b"]) == "a、b"
