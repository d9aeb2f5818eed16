"""Every text on screen has its Chinese, and the language is the reader's."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import pytest

import deepseek_magic
from deepseek_magic import words
from deepseek_magic.commands import SUBCOMMANDS, manual
from deepseek_magic.magics import DeepSeekMagics
from deepseek_magic.sandbox import Sandbox
from deepseek_magic.words import catalog, later, listed, sentences, set_language, t, tn, wrapped
from harness.kernels import Kernels
from harness.notebooks import ANSI

RunCell = Callable[[str], tuple[BaseException | None, str]]
PACKAGE = Path(deepseek_magic.__file__).parent
NOT_SHOWN = json.loads(Path(__file__).with_name("not_shown.json").read_text(encoding="utf-8"))
"""Per module, texts that look like words and that no user reads."""

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

TRANSLATED = TELLS | {"tn": (2,)}
"""Of those, the texts that Chinese has: it does not tell one from many."""

QUIET = {"compile", "search", "match", "fullmatch", "sub", "findall", "split", "TypeVar", "cast"}
"""Functions whose texts are patterns or types."""

LOGS = {"debug", "info", "warning", "error", "exception", "log"}
LIKE_WORDS = re.compile(r"[A-Za-z]{2,}[,;:.]? [A-Za-z{(]|^[A-Z][a-z]+(…|\.)?$")
SQL = re.compile(
    r"\b(SELECT|INSERT|UPDATE|CREATE|DELETE|FROM|WHERE|VALUES|PRAGMA|BEGIN|ORDER BY)\b"
)
CSS = re.compile(r"(^|;)[a-z-]+:(?! )")
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
            for place in TRANSLATED.get(node.func.id, ()):
                if place < len(node.args):  # else they are `later`'s
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
        if shown and LIKE_WORDS.search(text) and not (SQL.search(text) or CSS.search(text)):
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
    return set(NOT_SHOWN.get(module, ()))


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


def columns(line: str) -> int:
    return sum(2 if east_asian_width(sign) in "WF" else 1 for sign in line)


def test_lines_of_chinese_are_broken_by_their_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line begins with no sign that ends something, and words and options stay whole."""
    text = "向模型提问：flash（deepseek-flash）、pro，或 API 认得的其他名称。--max-tokens 有效。"
    monkeypatch.setenv(words.VARIABLE, "zh")

    for most in range(20, 60):
        lines = wrapped(text, most)

        assert max(map(columns, lines)) <= most
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert not any(line[0] in "，。：、）" for line in lines)
        assert not any(line[-1] in "（“" for line in lines)
        assert any("--max-tokens" in line for line in lines)


# The setting


def speak(shell: Any, name: str) -> None:
    shell.run_cell(f"%config DeepSeekMagics.language = {name!r}")


def test_a_notebook_is_set_to_a_language(shell: Any, run_cell: RunCell) -> None:
    """It holds at once for errors, help and settings, and "auto" is as it was before."""
    speak(shell, "zh")
    error, told = run_cell("%%deepseek --modle pro\nWhy?")
    settings = run_cell("%config DeepSeekMagics")[1]

    assert str(error).startswith("没有选项 --modle。你是不是想写 --model？未发送任何内容。")
    assert told.strip() == f"InvalidOption: {error}"
    assert "界面文字用英文（en）或中文（zh）" in settings
    assert max(map(columns, settings.splitlines())) <= 80
    speak(shell, "auto")
    assert "There is no option --modle" in str(run_cell("%%deepseek --modle pro\nWhy?")[0])
    assert "Shows texts in English" in run_cell("%config DeepSeekMagics")[1]


@pytest.mark.parametrize("name", ["fr", "", "中文", 3, None, ["zh"]])
def test_no_other_language_is_set(
    shell: Any, run_cell: RunCell, caplog: pytest.LogCaptureFixture, name: object
) -> None:
    """One line says which there are, and the one of before stays."""
    speak(shell, "zh")
    error, _ = run_cell(f"%config DeepSeekMagics.language = {name!r}")

    assert error is None
    (told,) = caplog.messages
    assert told.startswith("语言是 “auto”、“en” 或 “zh”")
    assert words.language() == "zh"


@pytest.mark.parametrize("before", [None, "en", "zh"])
def test_unloading_gives_the_language_back(
    bare_shell: Any, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """What was set before the extension was loaded is set again."""
    monkeypatch.delenv(words.VARIABLE)
    if before is not None:
        monkeypatch.setenv(words.VARIABLE, before)
    for name in ("zh", "en"):
        bare_shell.extension_manager.load_extension("deepseek_magic")
        speak(bare_shell, name)
        loaded = words.language()
        bare_shell.extension_manager.unload_extension("deepseek_magic")

        assert loaded == name
        assert words.chosen() == before


def test_the_language_is_in_the_configuration(bare_shell: Any) -> None:
    """A line in ipython_config.py holds from the start."""
    bare_shell.config.DeepSeekMagics.language = "zh"
    bare_shell.extension_manager.load_extension("deepseek_magic")
    try:
        assert words.language() == "zh"
        assert HAN.search(vars(DeepSeekMagics)["deepseek"].__doc__)
    finally:
        bare_shell.extension_manager.unload_extension("deepseek_magic")
    assert words.language() == "en"


def test_all_help_is_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option, subcommand and setting tells what it does, on lines that fit."""
    monkeypatch.setenv(words.VARIABLE, "zh")
    options, subcommands = manual().split("\n管理：\n")

    assert max(map(columns, options.splitlines())) <= 80
    entries = re.findall(r"^  (?:-\w, )?--\S+.*\n      (.*)", options, re.MULTILINE)
    assert len(entries) > 20
    assert all(HAN.search(one) for one in [*entries, *subcommands.strip().splitlines()])
    for trait in DeepSeekMagics.class_own_traits(config=True).values():
        assert HAN.search(DeepSeekMagics.class_get_trait_help(trait))


CELLS = {
    "config": "%config DeepSeekMagics.language = 'zh'",
    "sandbox": "%deepseek sandbox on 1 CNY",
    "answer": "%%deepseek -t off\nTell a tale.",
    "error": "%%deepseek -t of\nWhy?",
    "subcommand": "%deepseek balanse",
    "help": "%deepseek -h",
    "page": "%%deepseek?",
    "english": "import deepseek_magic; deepseek_magic.set_language('en')",
    "again": "%deepseek balanse",
}


@pytest.mark.kernel
def test_a_kernel_speaks_chinese(kernel: Kernels, account: Sandbox) -> None:
    """What a notebook shows is in Chinese from the cell on that says so."""
    client = kernel.start()
    shown: dict[str, str] = {}
    for name, source in {"load": "%load_ext deepseek_magic", **CELLS}.items():
        found: list[str] = []

        def hear(message: Any, found: list[str] = found) -> None:
            content = message["content"]
            found.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
            found.extend(content.get("traceback", []))

        reply = client.execute_interactive(source, output_hook=hear, timeout=60)
        pages = [one["data"]["text/plain"] for one in reply["content"].get("payload", [])]
        shown[name] = ANSI.sub("", "\n".join([*found, *pages]))

    assert "沙盒已开启：模拟账户" in shown["sandbox"]
    assert " · 沙盒" in shown["answer"]
    assert shown["error"].strip() == (
        "InvalidOption: -t 的值只能是 off、low、high 或 max，而“of”不是。你是不是想写 off？"
        "未发送任何内容。全部选项：%%deepseek -h"
    )
    assert "没有子命令“balanse”。你是不是想写 %deepseek balance？" in shown["subcommand"]
    for name in ("help", "page"):
        assert "向 DeepSeek 提问，回答显示在单元格下方。" in shown[name]
        assert "显示剩余金额" in shown[name]
    assert "There is no subcommand 'balanse'" in shown["again"]
