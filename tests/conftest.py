"""What every test gets: folders of its own, no key, and no host but this machine."""

from __future__ import annotations

import atexit
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import chromium
from harness.child.sitecustomize import refuse_outside_hosts
from harness.environment import LEFT_OUT, variables

if TYPE_CHECKING:
    from deepseek_magic.sandbox import Sandbox
    from deepseek_magic.session import Session
    from harness.browser import NotebookPage
    from harness.kernels import Kernels
    from harness.lab import Lab
    from harness.terminal import Terminal

SHOWN = ("ipython", "ipykernel", "ipywidgets", "openai", "jupyterlab", "notebook")

refuse_outside_hosts()
# A run that a script began in the background ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Print the versions that matter."""
    versions = [f"{name} {_version(name)}" for name in SHOWN]
    return ", ".join([f"python {platform.python_version()}", *versions, _chromium_version()])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _chromium_version() -> str:
    if (path := chromium.find()) is None:
        return "chromium as Playwright has it"
    shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return shown.stdout.strip().partition(" built on")[0].lower() or f"{path} without a version"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in the browser together: a process has a server of its own for them.

    What drives programs that are not ours has one more try, and the summary names it: a busy
    machine delays a page or a kernel at any point. Tests of the package alone have none.
    """
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if any(item.get_closest_marker(name) for name in ("browser", "kernel", "terminal")):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a ledger of this test's own."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def open_session(path: Path) -> Iterator[Callable[..., Session]]:
    """Give a function that opens a session on an account, its ledger on disk."""
    from deepseek_magic.session import Session

    made: list[Session] = []

    def open_one(api: Sandbox, **settings: Any) -> Session:
        settings = {"api_key": api.api_key, "base_url": api.base_url, "ledger": path, **settings}
        made.append(Session(**settings))
        return made[-1]

    yield open_one
    for one in made:
        one.close()


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[Path]:
    """Fail the test when it, or a program it started, tried to reach another host.

    A test that provokes a refusal empties the file.
    """
    record = tmp_path / "refused-hosts"
    record.touch()
    yield record
    if text := record.read_text():
        pytest.fail(f"The test tried to leave this machine:\n{text}", pytrace=False)


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, refused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test folders of its own and an environment without keys and proxies."""
    for name in LEFT_OUT:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables(tmp_path, refused).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def api() -> Iterator[Sandbox]:
    """Give a simulated account with 5 CNY."""
    from deepseek_magic.sandbox import Sandbox

    with Sandbox(balance="5.00", currency="CNY") as account:
        yield account


@pytest.fixture
def account(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Give the simulated account to whatever looks at the environment."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
    return api


@pytest.fixture
def session(api: Sandbox) -> Iterator[Session]:
    """Give a session on the simulated account, its ledger in memory."""
    from deepseek_magic.session import Session

    made = Session(api_key=api.api_key, base_url=api.base_url, ledger=":memory:")
    yield made
    made.close()


@pytest.fixture
def bare_shell() -> Iterator[Any]:
    """Give a fresh IPython shell in this process, without the extension."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor"
    made = InteractiveShell.instance(config=config)
    try:
        with made.builtin_trap, made.display_trap:
            yield made
    finally:
        atexit.unregister(made.atexit_operations)
        # It collects garbage, which takes long among all that the tests have imported.
        display: Any = made.displayhook
        display.flush = lambda: None
        made.atexit_operations()
        made.restore_sys_module_state()
        InteractiveShell.clear_instance()


@pytest.fixture
def shell(bare_shell: Any) -> Iterator[Any]:
    """Give a fresh IPython shell with the extension, which is unloaded at the end."""
    told = bare_shell.extension_manager.load_extension("deepseek_magic")
    assert told is None, f"the extension did not load: {told}"
    yield bare_shell
    bare_shell.extension_manager.unload_extension("deepseek_magic")


@pytest.fixture
def run_cell(
    account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[BaseException | None, str]]:
    """Give a function that runs a cell on the simulated account: its error, and what it shows."""

    def run_one(source: str) -> tuple[BaseException | None, str]:
        capsys.readouterr()
        result = shell.run_cell(source)
        return result.error_in_exec or result.error_before_exec, "".join(capsys.readouterr())

    return run_one


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernels]:
    """Give what runs cells in real kernels without a page."""
    from harness.kernels import Kernels

    kernels = Kernels(tmp_path)
    yield kernels
    kernels.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Give a function that starts IPython in a terminal: `terminal(env={…}, simple=True)`."""
    from harness.terminal import Terminal

    opened: list[Terminal] = []

    def start(env: Mapping[str, str] | None = None, *, simple: bool = True) -> Terminal:
        opened.append(Terminal(tmp_path, env, simple=simple))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give one JupyterLab server for all tests; `page` looks after its kernels."""
    from harness.lab import serving

    folder = tmp_path_factory.mktemp("lab")
    record = folder / "refused-hosts"
    with serving(folder, record) as running:
        yield running
    assert not record.exists(), f"JupyterLab tried to leave this machine:\n{record.read_text()}"


@pytest.fixture
def page(lab: Lab, tmp_path: Path) -> Iterator[NotebookPage]:
    """Give a browser page for notebooks; one that asks other hosts for anything fails the test."""
    from harness.browser import page_of

    with page_of(lab, tmp_path) as handled:
        yield handled
    surprising = handled.outside - handled.expected
    assert not surprising, f"the page asked other hosts: {surprising}"


@pytest.fixture
def of_this_test(tmp_path: Path, refused: Path) -> Callable[..., dict[str, str]]:
    """Give the environment for a kernel of `lab.write`, with more variables by name."""
    from harness.lab import kernel_variables

    def put_together(**more: str) -> dict[str, str]:
        return kernel_variables(tmp_path, refused, **more)

    return put_together
