"""Beside other extensions and the user's own hooks: nothing of theirs changes, ours still works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

from deepseek_magic.sandbox import Sandbox
from harness.kernels import Kernels
from harness.notebooks import ANSI, notebook, write
from test_guard import LOAD, SETUP, WORDS, as_text, notices

UNLOAD, RELOAD = "%unload_ext deepseek_magic", "%reload_ext deepseek_magic"
ONE_LINE = re.compile(r"InsufficientBalance: [^\n]+")
FAILING = "def half(x):\n    return x / 0\nhalf(3)"

HOOK = """
seen = []
def hook(self, kind, value, trace, tb_offset=None):
    seen.append(kind.__name__)
    print("their hook:", kind.__name__)
    self.showtraceback((kind, value, trace), tb_offset=tb_offset)
get_ipython().set_custom_exc((Exception,), hook)
"""
SHOWING = """
shell, before = get_ipython(), get_ipython().showtraceback
def showtraceback(*args, **more):
    print("shown by theirs")
    return before(*args, **more)
shell.showtraceback = showtraceback
"""
RICH = """
import rich.traceback, rich.pretty
rich.traceback.install(width=80)
rich.pretty.install()
"""
THREE = """
import ipytest
ipytest.autoconfig(addopts=["-q", "-p", "no:cacheprovider", "--color=no"])
%load_ext autoreload
%autoreload 2
%matplotlib inline
import os, sys, time
from pathlib import Path
sys.path.insert(0, ".")
Path("theirs.py").write_text("value = 1\\n")
import theirs
"""
EDIT = "Path('theirs.py').write_text('value = 22\\n'); os.utime('theirs.py', (1, time.time() + 5))"
THEIRS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "rich": (RICH, ("{'a': [1, 2]}", "None", "[x for x in range(30)]")),
    "a hook of the user's": (HOOK, ("{}['summary']", "print(seen)")),
    "a traceback of the user's": (SHOWING, ("{}['summary']", "%tb", "raise SystemExit(3)")),
    "ipytest, autoreload, matplotlib": (
        THREE,
        (
            "%%ipytest\ndef test_one(): assert True\ndef test_two(): assert 1 == 2",
            EDIT,
            "print(theirs.value)",
            "import matplotlib.pyplot as plt\nfigure = plt.plot([1, 2])",
            "plt.plot([2, 1])\n1 / 0",
        ),
    ),
}


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give an account without money to whatever looks at the environment."""
    with Sandbox(balance="0", currency="CNY") as account:
        monkeypatch.setenv("DEEPSEEK_API_KEY", account.api_key)
        monkeypatch.setenv("DEEPSEEK_BASE_URL", account.base_url)
        yield account


# --- Theirs ------------------------------------------------------------------------------------


@pytest.mark.kernel
@pytest.mark.parametrize("name", THEIRS)
def test_nothing_of_theirs_changes(name: str, kernel: Kernels, empty: Sandbox) -> None:
    """Loaded before or after ours, they show what they show alone, and ours adds its notice."""
    install, used = THEIRS[name]
    cells = [FAILING, *used, "ask()"]

    alone, _ = outputs(kernel, [install, "pass"], cells)
    first, ours_first = outputs(kernel, [install, LOAD], cells)
    last, ours_last = outputs(kernel, [LOAD, install], cells)

    for found, ours in ((first, ours_first), (last, ours_last)):
        assert [shown[: len(own)] for shown, own in zip(found, alone, strict=True)] == alone
        assert [len(shown) for shown in found[:-1]] == [len(own) for own in alone[:-1]]
        assert len(found[-1]) == len(alone[-1]) + 1
        assert WORDS in found[-1][-1]
        assert ONE_LINE.search(ours)
        assert "Traceback" not in ours, "also rich, which reads no exception's own words"


def outputs(kernel: Kernels, loading: list[str], cells: list[str]) -> tuple[list[list[str]], str]:
    """Give what each of *cells* shows, and at the end a cell of ours where it is loaded."""
    ran = kernel.run(
        [*loading, SETUP, *cells, "%%deepseek\nWhy?" if LOAD in loading else "pass"],
        allow_errors=True,
    )
    shown = [texts(cell) for cell in ran.notebook.cells[3:-1]]
    assert not notices(ran.notebook.cells[2].outputs)
    return shown, ran.text(-1)


def texts(cell: Any) -> list[str]:
    """Give what stands in *cell*, neighbouring streams as one."""
    found: list[str] = []
    before = ""
    for output in cell.outputs:
        if output.output_type == before == "stream":
            found[-1] += full_text(output)
        else:
            found.append(full_text(output))
        before = output.output_type
    return found


def full_text(output: Any) -> str:
    data = output.get("data", {})
    kinds = " ".join(sorted(data))
    # Nothing is put before a stream, which may come in any number of pieces.
    text = f"{kinds} {data['text/plain']} " if "text/plain" in data else kinds
    text += as_text(output)
    return re.sub(r"\bin \d+\.\d+s\b|t_[0-9a-f]{32}|Cell In\[\d+\]|/tmp/\S+", "…", text)


# --- jupyter-ai, in environments of their own --------------------------------------------------

AI = {
    "jupyter_ai_magics": "DEEPSEEK_MAGIC_JUPYTER_AI_2",
    "jupyter_ai_magic_commands": "DEEPSEEK_MAGIC_JUPYTER_AI_3",
}
"""The extensions of jupyter-ai 2 and 3, and the variables that name a Python which has one."""
RUN_THERE = """
import json, sys
from pathlib import Path
path, *sys.path[:0] = sys.argv[1:]
import nbformat
from harness.kernels import Kernels
ran = Kernels(Path(path).parent).run(nbformat.read(path, 4), allow_errors=True)
nbformat.write(ran.notebook, path)
"""
THEIR_PLACE = """
shell = get_ipython()
print(shell.custom_exceptions, shell.CustomTB.__func__.__name__, len(shell.user_ns.get("Err", {})))
"""


@pytest.mark.kernel
@pytest.mark.parametrize("package", AI)
def test_beside_jupyter_ai(package: str, empty: Sandbox, tmp_path: Path) -> None:
    """jupyter-ai keeps IPython's one place for a hook, and it and ours see the same failures.

    It takes long to install, so it is looked for where a variable of `AI` says: in a
    Python that has it, the libraries of ours, ipykernel and nbclient.
    """
    if not (python := os.environ.get(AI[package])):
        pytest.skip(f"{AI[package]} names no Python that has {package}")
    theirs = f"%load_ext {package}"
    used = (THEIR_PLACE, FAILING, THEIR_PLACE, "ask()", "1 + 1", THEIR_PLACE)

    alone = there(python, tmp_path, [theirs, "pass", SETUP, *used, "pass", THEIR_PLACE])
    first = there(python, tmp_path, [theirs, LOAD, SETUP, *used, UNLOAD, THEIR_PLACE])
    last = there(python, tmp_path, [LOAD, theirs, SETUP, *used, UNLOAD, THEIR_PLACE])
    ours = there(python, tmp_path, [theirs, LOAD, "%%deepseek\nWhy?"])

    assert "BaseException" in alone[3][0]
    for found in (first, last):
        assert found[3:6] == alone[3:6]
        assert found[6][: len(alone[6])] == alone[6]
        assert len([text for text in found[6] if WORDS in text]) == 1
        assert found[8:] == alone[8:]
    assert any(ONE_LINE.search(text) for text in ours[2])
    assert "in run_cell_magic" not in "".join(ours[2])


def there(python: str, folder: Path, sources: list[str]) -> list[list[str]]:
    """Run *sources* with another *python* and give what each cell shows."""
    path = write(folder / "beside.ipynb", notebook(sources))
    ours = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    paths = os.pathsep.join([ours[1], os.environ["PYTHONPATH"]])
    here = {"PYTHONPATH": paths, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    subprocess.run(
        [python, "-c", RUN_THERE, str(path), *ours], check=True, env={**os.environ, **here}
    )
    cells = nbformat.read(path, 4).cells
    return [texts(cell) for cell in cells]


# --- Nothing stays -----------------------------------------------------------------------------


def around(shell: Any) -> dict[str, Any]:
    """Give everything of *shell* that an extension could hang itself on."""
    plain = shell.display_formatter.formatters.values()
    return {
        "callbacks": {name: list(found) for name, found in shell.events.callbacks.items()},
        "cleanup": list(shell.input_transformers_cleanup),
        "post": list(shell.input_transformers_post),
        "ast": list(shell.ast_transformers),
        "matchers": list(shell.Completer.custom_matchers),
        "completers": {name: list(found) for name, found in vars(shell.Completer).items()
                       if name.endswith("matchers") and isinstance(found, list)},
        "hooks": {name: str(hook) for name, hook in shell.hooks.items()},
        "magics": {kind: sorted(found) for kind, found in shell.magics_manager.magics.items()},
        "registry": sorted(shell.magics_manager.registry),
        "configurables": list(map(id, shell.configurables)),
        "custom exceptions": shell.custom_exceptions,
        "showtraceback": shell.showtraceback,
        "excepthook": sys.excepthook,
        "formatters": [(dict(one.type_printers), dict(one.deferred_printers)) for one in plain],
        "names": sorted(shell.user_ns),
        "threads": sorted(one.name for one in threading.enumerate()),
    }  # fmt: skip


USES: Mapping[str, tuple[str, ...]] = {
    "nothing": (),
    "a failure": ("1 / 0",),
    "an ordinary cell": ("_ = None\n" + SETUP, "ask()"),
    "questions": ("%%deepseek\nWhy?", "%deepseek balance", "%deepseek pending"),
    "its own account": ("%deepseek sandbox on 0 CNY", "%%deepseek\nWhy?", "%deepseek sandbox off"),
}


@pytest.mark.parametrize("use", USES)
def test_unloading_leaves_nothing(use: str, bare_shell: Any, empty: Sandbox) -> None:
    """However it was used and however often it was loaded, the shell is then as it was before."""
    # IPython registers the magics of its own that load extensions on their first use.
    for source in (SETUP, "import openai, ipywidgets", "%unload_ext nothing"):
        bare_shell.run_cell(source, silent=True)
    before = around(bare_shell)

    for load in (LOAD, LOAD, RELOAD):
        bare_shell.run_cell(load)
        for source in USES[use]:
            bare_shell.run_cell(source)
        bare_shell.run_cell(RELOAD)
        bare_shell.run_cell(UNLOAD)

    after = around(bare_shell)
    after["names"] = [name for name in after["names"] if name in before["names"]]
    assert after == before


@pytest.mark.kernel
def test_a_kernel_is_left_as_it_was(kernel: Kernels, empty: Sandbox) -> None:
    """No thread, no widget and no comm stays behind in a kernel with a page either."""
    count = (
        "import threading, ipywidgets, comm\n"
        "print(sorted(one.name for one in threading.enumerate() "
        "if not one.name.startswith('asyncio_')), "
        "len(ipywidgets.widgets.widget._instances), len(comm.get_comm_manager().comms))"
    )
    client = kernel.start()
    told: list[list[str]] = []

    def run(source: str) -> str:
        said: list[str] = []

        def take(message: Mapping[str, Any]) -> None:
            content = message["content"]
            said.append(str(content.get("text") or content.get("evalue") or ""))

        client.execute_interactive(source, allow_stdin=True, output_hook=take, timeout=60)
        return ANSI.sub("", "".join(said))

    for _ in range(3):
        counts = [run(SETUP + count)]
        shown = [run(one) for one in (LOAD, "ask()", "%%deepseek\nWhy?", "%deepseek balance")]
        assert "Insufficient Balance" in shown[1]
        assert "Nothing was billed" in shown[2]
        run(RELOAD)
        run("ask()")
        run(UNLOAD)
        counts.append(run(count))
        told.append(counts)

    assert all(before == after for before, after in told[1:])
    assert told[0][1].split("]")[1] == told[0][0].split("]")[1]
