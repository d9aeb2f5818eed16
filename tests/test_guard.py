"""Ordinary cells: a notice follows when their own client met DeepSeek's empty balance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from deepseek_magic.sandbox import Sandbox
from harness.kernels import Kernels, Ran
from harness.notebooks import ANSI

pytestmark = pytest.mark.kernel

LOAD = "%load_ext deepseek_magic"
WORDS = "out of money"
PASSING = re.compile(r"0x[0-9a-f]+|ipykernel_\d+")
SETUP = """
import asyncio, os, openai, httpx
KEY, URL = os.environ["DEEPSEEK_API_KEY"], os.environ["DEEPSEEK_BASE_URL"]
CALL = dict(model="deepseek-flash", messages=[{"role": "user", "content": "Why?"}])
with_key = lambda key: openai.OpenAI(api_key=key, base_url=URL, max_retries=0)
client = with_key(KEY)
later = openai.AsyncOpenAI(api_key=KEY, base_url=URL, max_retries=0)
ask = lambda **more: client.chat.completions.create(**CALL, **more)
post = lambda: httpx.post(
    f"{URL}/chat/completions", json=CALL, headers={"Authorization": f"Bearer {KEY}"}
)
"""
MET = {
    "openai": "print('asking')\nask()",
    "openai, streaming": "for piece in ask(stream=True): print(piece)",
    "openai, async": "await later.chat.completions.create(**CALL)",
    "openai, run to its end": "async def main():\n"
    "    async with openai.AsyncOpenAI(api_key=KEY, base_url=URL) as mine:\n"
    "        await mine.chat.completions.create(**CALL)\n"
    "import concurrent.futures\n"
    "concurrent.futures.ThreadPoolExecutor().submit(lambda: asyncio.run(main())).result()",
    "httpx": "post().raise_for_status()",
    "by hand": "r = post()\nraise Exception(f'API request failed: {r.status_code} - {r.text}')",
    "wrapped": "try: ask()\nexcept Exception as error: raise RuntimeError('no summary') from error",
    "hidden": "try: ask()\nexcept Exception: raise RuntimeError('no summary') from None",
    "a group": "async with asyncio.TaskGroup() as tasks:\n"
    "    tasks.create_task(later.chat.completions.create(**CALL))",
}
NOT_MET = {
    "another failure": "1 / 0",
    "the words": "raise RuntimeError('Insufficient Balance')",
    "a wrong key": "with_key('sk-' + 'wrong').chat.completions.create(**CALL)",
    "a bare number": "raise ValueError('402')",
    "another's": "r = httpx.Response(402, request=httpx.Request('POST', 'https://shop.example.com'))"
    "\nr.raise_for_status()",
    "no Python": "def def",
    "left": "raise SystemExit(402)",
}
HANDLED = {
    "handled": "try: ask()\nexcept openai.APIStatusError as error: print(error.status_code)",
    "kept": "try: ask()\nexcept openai.APIStatusError as error: kept = error",
    "failing later": "print(kept.status_code)\n{}['summary']",
}


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give an account without money to whatever looks at the environment."""
    with Sandbox(balance="0", currency="CNY") as account:
        monkeypatch.setenv("DEEPSEEK_API_KEY", account.api_key)
        monkeypatch.setenv("DEEPSEEK_BASE_URL", account.base_url)
        yield account


def shown(ran: Ran, first: int) -> list[list[Any]]:
    """Give the outputs of each cell from *first* on."""
    return [cell.outputs for cell in ran.notebook.cells[first:]]


def notices(outputs: list[Any]) -> list[str]:
    texts = [output.get("data", {}).get("text/plain", "") for output in outputs]
    return [text for text in texts if WORDS in text]


def after(setup: str, cells: Mapping[str, str], kernel: Kernels) -> dict[str, list[Any]]:
    """Run *cells* after *setup* and give the outputs of each by its name."""
    ran = kernel.run([setup, SETUP, *cells.values()], allow_errors=True)
    return dict(zip(cells, shown(ran, 2), strict=True))


def test_the_notice_follows_the_traceback(kernel: Kernels, empty: Sandbox) -> None:
    """Whatever client met it: the user's own traceback, unchanged, and below it one notice."""
    bare = after("pass", MET, kernel)
    guarded = after(LOAD, MET, kernel)

    for name, outputs in guarded.items():
        *own, notice = outputs
        assert [as_text(one) for one in own] == [as_text(one) for one in bare[name]], name
        assert own, name
        assert notices([notice]), name
        assert len(notices(outputs)) == 1, name


def as_text(output: Any) -> str:
    """Give an output as text, without what differs from kernel to kernel."""
    text = "\n".join(output.get("traceback", [])) or str(output.get("text", output.output_type))
    return PASSING.sub("…", ANSI.sub("", text))


def test_other_cells_are_left_alone(kernel: Kernels, empty: Sandbox) -> None:
    """No notice for other failures, for look-alikes, and where the cell handled it itself."""
    cells = NOT_MET | HANDLED

    outputs = after(LOAD, cells, kernel)

    assert not [name for name, shown in outputs.items() if notices(shown)]
    failed = [name for name, shown in outputs.items() if "error" in kinds(shown)]
    assert set(failed) == set(NOT_MET) | {"failing later"}


def kinds(outputs: list[Any]) -> list[str]:
    return [output.output_type for output in outputs]


@pytest.mark.parametrize(
    ("off", "on"),
    [
        ("%deepseek guard off", "%deepseek guard on"),
        ("%config DeepSeekMagics.guard = False", "%config DeepSeekMagics.guard = True"),
    ],
)
def test_the_guard_can_be_switched(off: str, on: str, kernel: Kernels, empty: Sandbox) -> None:
    """Switched off, by the magic or the trait, nothing follows; switched on, it does."""
    ran = kernel.run([LOAD, SETUP, off, "ask()", on, "ask()"], allow_errors=True)

    _, without, _, with_notice = shown(ran, 2)
    assert kinds(without) == ["error"]
    assert len(notices(with_notice)) == 1


def test_a_cell_of_ours_has_its_own_notice_alone(kernel: Kernels, empty: Sandbox) -> None:
    """A `%%deepseek` cell, or plain Python with a `Session`, gets one notice and not two."""
    by_session = (
        "from deepseek_magic import Session\n"
        "Session(api_key=KEY, base_url=URL, ledger=':memory:').ask('Why?')"
    )
    ran = kernel.run([LOAD, SETUP, "%%deepseek\nWhy?", by_session], allow_errors=True)

    cell, python = shown(ran, 2)
    static = [one for one in cell if "text/html" in one.get("data", {})]
    assert len(static) == 1
    assert not notices(cell)
    assert len(notices(python)) == 1


def test_nothing_is_looked_at_before_a_cell_fails(kernel: Kernels, empty: Sandbox) -> None:
    """Until a cell fails the guard costs no import, and one that fails otherwise only the look."""
    loaded = (
        "import sys\n"
        "print([name for name in ('deepseek_magic.recognise', 'deepseek_magic.notices', "
        "'ipywidgets', 'openai', 'httpx') if name in sys.modules])"
    )

    ran = kernel.run([LOAD, "1 + 1", loaded, "1 / 0", loaded], allow_errors=True)

    _, before, _, afterwards = shown(ran, 1)
    assert before[0].text == "[]\n"
    assert afterwards[0].text == "['deepseek_magic.recognise']\n"


def test_the_guard_asks_nothing(kernel: Kernels, empty: Sandbox) -> None:
    """The notice costs no request: what is known of the balance is shown, and nothing asked."""
    kernel.run([LOAD, SETUP, "ask()"], allow_errors=True)

    assert len(empty.requests) == 1


def test_with_somebody_there(kernel: Kernels, empty: Sandbox) -> None:
    """Below an ordinary cell stands "Re-run cell", and nothing that would run it by itself."""
    client = kernel.start()

    first = buttons(client, [LOAD, SETUP, "ask()"])
    again = buttons(client, ["ask()"])

    for described in (first, again):
        assert "Re-run cell" in described
        assert "Check balance" in described
        assert not [word for word in described if "when topped up" in word]


def buttons(client: BlockingKernelClient, sources: list[str]) -> list[str]:
    """Run *sources* as from a page, and give what stands on the buttons that appear."""
    described: list[str] = []

    def take(message: Mapping[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "comm_open":
            described.append(content["data"].get("state", {}).get("description", ""))

    hook: Callable[[Mapping[str, Any]], None] = take
    for source in sources:
        client.execute_interactive(source, allow_stdin=True, output_hook=hook, timeout=60)
    return list(filter(None, described))


def test_after_unloading(kernel: Kernels, empty: Sandbox) -> None:
    """Once the extension is unloaded, ordinary cells are left alone; loaded again, guarded."""
    unload, again = "%unload_ext deepseek_magic", "%reload_ext deepseek_magic"

    ran = kernel.run([LOAD, SETUP, unload, "ask()", again, again, "ask()"], allow_errors=True)

    _, without, _, _, with_notice = shown(ran, 2)
    assert kinds(without) == ["error"]
    assert len(notices(with_notice)) == 1
