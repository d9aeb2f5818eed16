"""Code in answers: the block that becomes a cell, and the cell that failed as a question."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_magic.code_blocks import code_blocks, first_code
from deepseek_magic.errors import InvalidOption, NoKey
from deepseek_magic.last_error import CALLS, MESSAGE, SOURCE, failure_of, question_of
from deepseek_magic.preflight import KEY_REMOVED
from deepseek_magic.sandbox import Reply
from deepseek_magic.wire import Answer, Key

Run = Callable[[str], tuple[BaseException | None, str]]

if TYPE_CHECKING:
    from deepseek_magic.sandbox import Sandbox
    from harness.kernels import Kernels

LIKE_A_KEY = "sk-0123456789abcdef0123456789abcdef"
CODED = "So:\n\n```python\nprint('a' + 'bcd')\n```\n\nand then\n\n```python\nprint('no')\n```\n"


# Blocks


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("~~~py\nx = '```'\n~~~", "x = '```'"),
        ("````python\n```\n````", "```"),
        ("1. First\n\n   ```python\n   if x:\n       y()\n   ```\n", "if x:\n    y()"),
        ("- ```python\n  x = 1\n  ```\n", "x = 1"),
        ("> ```python\n> x = 1\n>\n> y = 2\n> ```\n", "x = 1\n\ny = 2"),
        ("```python\nx = 1", "x = 1"),
        ("```{python}\r\nx = 1\r\n```\r\n", "x = 1"),
        ("```bash\nls\n```", "%%bash\nls"),
        ("```sh\n%%sh\nls\n```", "%%sh\nls"),
        ("```sql\nselect 1\n```", "select 1"),
        ("```python\n\n```\n```python\nx = 1\n```", "x = 1"),
        ("```python\nif a:\n\n    b()\n```", "if a:\n\n    b()"),
        ("no `code` here", None),
        ("``` one line ```", None),
        ("", None),
    ],
)
def test_the_first_block_as_a_cell(text: str, cell: str | None) -> None:
    """The first block that holds something is the cell's text, wherever it stands."""
    block = first_code(text)

    assert (None if block is None else block.as_cell()) == cell
    assert Answer(text=text).code == cell


def test_blocks_in_their_order() -> None:
    """Every block is there, with the language that it names."""
    blocks = list(code_blocks("```Python title\na\n```\ntext\n```\nb\n```\n~~~sql\nc\n~~~"))

    assert [(one.language, one.source) for one in blocks] == [
        ("python", "a"),
        ("", "b"),
        ("sql", "c"),
    ]


def test_nothing_in_code_is_hidden() -> None:
    """Characters that hide code or turn its direction are seen as what they are."""
    block = first_code("```python\nadmin = 'x\u202e' # \u2066\x1b[2K\u200b\n\tok = '漢字 é'\n```")

    assert block is not None
    assert block.source == "admin = 'x\\u202e' # \\u2066\\u001b[2K\\u200b\n\tok = '漢字 é'"


# A new cell


def prompt_of(api: Sandbox) -> str:
    body = api.requests[-1].body
    assert body is not None
    return str(body["messages"][-1]["content"])


@pytest.mark.kernel
def test_code_goes_into_a_new_cell(kernel: Kernels, account: Sandbox) -> None:
    """A page is told to add the first block below; nothing of it runs."""
    client = kernel.start()
    client.execute_interactive("%load_ext deepseek_magic", timeout=60)
    account.script(Reply(CODED), Reply("No code."))
    shown = list[str]()

    def ask(source: str) -> list[Any]:
        shown.clear()
        reply = client.execute_interactive(
            source, timeout=60, output_hook=lambda message: shown.append(str(message["content"]))
        )
        payload: list[Any] = reply["content"]["payload"]
        return payload

    added = ask("%%deepseek --code -t off\nHow?")
    without = ask("%%deepseek --code -t off\nHow?")

    assert added == [{"source": "set_next_input", "text": "print('a' + 'bcd')", "replace": False}]
    assert without == []
    assert "no block of code in the answer" in "".join(shown)
    assert "abcd\n" not in "".join(shown)


@pytest.mark.kernel
def test_where_no_page_is_the_answer_holds_the_code(kernel: Kernels, account: Sandbox) -> None:
    """Where nobody sits in front, a line says where the code is, and the cell ends well."""
    client = kernel.start()
    client.execute_interactive("%load_ext deepseek_magic", timeout=60)
    account.script(Reply(CODED))
    shown = list[str]()

    reply = client.execute_interactive(
        "%%deepseek --code -t off\nHow?",
        timeout=60,
        allow_stdin=False,
        output_hook=lambda message: shown.append(str(message["content"])),
    )

    assert reply["content"]["status"] == "ok"
    assert reply["content"]["payload"] == []
    assert "The code stands in the answer above" in "".join(shown)


@pytest.mark.parametrize("other", ["--json", "--schema Label", "--each rows"])
def test_code_needs_a_text(run_cell: Run, account: Sandbox, other: str) -> None:
    """An answer that is no text has no code in it; one line says so before anything is sent."""
    error, _ = run_cell(f"%%deepseek --code {other}\nHow?")

    assert isinstance(error, InvalidOption)
    assert f"--code does not go with {other.split(maxsplit=1)[0]}" in str(error)
    assert not account.requests


# The last error


def test_fix_asks_about_the_cell_that_failed(run_cell: Run, account: Sandbox) -> None:
    """The question has the cell, its error where it came up, and no folder of this machine."""
    run_cell("def half(x):\n    return x / 0\nvalue = half(3)")
    run_cell("1 + 1")

    error, _ = run_cell("%deepseek fix -t off -m pro")

    asked, body = prompt_of(account), account.requests[-1].body
    assert error is None
    assert body is not None
    assert body["model"] == "deepseek-v4-pro"
    assert "```python\ndef half(x):\n    return x / 0\nvalue = half(3)\n```" in asked
    assert "a cell, line 3: value = half(3)\na cell, line 2 in half: return x / 0" in asked
    assert "ZeroDivisionError: division by zero" in asked
    assert "site-packages" not in asked
    assert "interactiveshell" not in asked


def test_fix_knows_errors_of_libraries_and_of_syntax(run_cell: Run, account: Sandbox) -> None:
    """Calls of a library are named within it, with its version; a syntax error has its place."""
    run_cell("import pandas as pd\npd.DataFrame({'a': [1]})['b']")
    run_cell("%deepseek fix -t off")
    of_pandas = prompt_of(account)
    run_cell("x = = 3")
    run_cell("%deepseek fix -t off")
    of_syntax = prompt_of(account)

    pandas = sys.modules["pandas"]
    assert "KeyError: 'b'" in of_pandas
    assert "pandas/core/frame.py, line " in of_pandas
    assert f"pandas {pandas.__version__}" in of_pandas
    assert str(Path(str(pandas.__file__)).parents[1]) not in of_pandas
    assert "x = = 3" in of_syntax
    assert "SyntaxError: invalid syntax" in of_syntax


def test_fix_sends_no_key(run_cell: Run, account: Sandbox) -> None:
    """Keys in the cell and in the error's message are taken out, the account's own too."""
    run_cell(f"raise ValueError('{LIKE_A_KEY} and {account.api_key}')")

    error, _ = run_cell("%deepseek fix -t off")

    assert error is None
    assert LIKE_A_KEY not in prompt_of(account)
    assert account.api_key not in prompt_of(account)
    assert prompt_of(account).count(KEY_REMOVED) >= 4


def test_fix_without_a_failure_sends_nothing(
    run_cell: Run, account: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing has failed one line says so; an error of ours is no such failure."""
    monkeypatch.delattr(sys, "last_value", raising=False)
    run_cell("%%deepseek --max-tokens 0\nWhy?")

    error, _ = run_cell("%deepseek fix")

    assert isinstance(error, InvalidOption)
    assert "No cell of code has failed" in str(error)
    assert not account.requests


def test_fix_knows_what_failed_before_it_was_loaded(
    bare_shell: Any, account: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error from before the extension was loaded is asked about with its cell."""
    bare_shell.run_cell("numbers = []\nnumbers[3]")
    bare_shell.extension_manager.load_extension("deepseek_magic")

    result = bare_shell.run_cell("%deepseek fix -t off")
    bare_shell.extension_manager.unload_extension("deepseek_magic")
    capsys.readouterr()

    assert result.error_in_exec is None
    assert "numbers = []\nnumbers[3]" in prompt_of(account)
    assert "IndexError: list index out of range" in prompt_of(account)


def test_fix_needs_a_key(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a key it says what to do."""
    shell.run_cell("1 / 0")
    result = shell.run_cell("%deepseek fix")
    capsys.readouterr()

    assert isinstance(result.error_in_exec, NoKey)


def test_a_long_failure_is_bounded() -> None:
    """A deep traceback, a long message and a long cell are sent in part, and say so."""

    def deep(n: int) -> None:
        if n == 0:
            raise ValueError("m" * 100_000)
        deep(n - 1)

    with pytest.raises(ValueError, match="m") as caught:
        deep(100)
    failure = failure_of("y = 1\n" * 10_000, caught.value)

    assert failure is not None
    asked = question_of(failure)
    assert len(asked) < SOURCE + MESSAGE + 200 * CALLS
    assert " calls left out …" in asked
    assert asked.count(" characters left out …") == 2


def test_errors_that_led_to_one_another() -> None:
    """The cause of an error comes first; a chain that bites its tail ends."""
    first, last = KeyError("first"), ValueError("last")
    last.__cause__ = first
    first.__context__ = last

    failure = failure_of("x", last)

    assert failure is not None
    assert failure.error == "KeyError: 'first'\nwhich led to:\nValueError: last"


def test_fences_in_a_cell_stay_in_it() -> None:
    """A cell that holds fences is fenced by longer ones."""
    failure = failure_of("text = '''\n```python\n'''", ValueError("````"))

    assert failure is not None
    asked = question_of(failure, Key("a-key-of-its-own"))
    assert "````python\ntext = '''\n```python\n'''\n````" in asked
    assert "`````\nValueError: ````\n`````" in asked


def test_a_message_that_fails_is_told() -> None:
    """An error whose text cannot be made is asked about all the same."""

    class Spoilt(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    failure = failure_of("x", Spoilt())

    assert failure is not None
    assert "Spoilt" in failure.error
