"""The magics in a shell of this process: what is sent, shown, bound and left behind."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from traitlets import TraitError

from deepseek_magic.commands import SUBCOMMANDS
from deepseek_magic.errors import DeepSeekError, InsufficientBalance
from deepseek_magic.home import ledger_path
from deepseek_magic.ledger import Ledger
from deepseek_magic.magics import DeepSeekMagics, find
from deepseek_magic.sandbox import Reply, Sandbox
from deepseek_magic.session import Session
from deepseek_magic.wire import ASK_FOR_JSON, Answer

TALE = "Once upon a time there was a **notebook** that remembered everything."
WARM = "%lsmagic\n%config"
"""Has IPython load those magics of its own that it loads late."""
LIKE_A_KEY = "sk-0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Ran:
    """One cell that was run: what it showed, and how it ended."""

    text: str
    error: BaseException | None
    value: Any

    @property
    def last(self) -> str:
        """The last line that was shown."""
        return self.text.rstrip("\n").rpartition("\n")[2]

    def failed_in_one_line(self, kind: str) -> bool:
        """Tell whether the cell ended in one line of *kind*, without a traceback."""
        told = [line for line in self.text.splitlines() if line.startswith(f"{kind}: ")]
        return told == [self.last] and "Traceback" not in self.text and "---" not in self.text


Run = Callable[[str], Ran]


def runner(shell: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(source: str) -> Ran:
        capsys.readouterr()
        result = shell.run_cell(source)
        shown = capsys.readouterr()
        error = result.error_in_exec or result.error_before_exec
        return Ran(shown.out + shown.err, error, result.result)

    return run


@pytest.fixture
def run(account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a cell where the extension is loaded."""
    return runner(shell, capsys)


def magics(shell: Any) -> DeepSeekMagics:
    found = find(shell)
    assert found is not None
    return found


def entries() -> list[dict[str, Any]]:
    with closing(Ledger(ledger_path())) as ledger:
        return ledger.entries()


def prompt_of(api: Sandbox) -> str:
    body = api.requests[-1].body
    assert body is not None
    return str(body["messages"][-1]["content"])


# -- loading and unloading ------------------------------------------------------------


def traces(shell: Any) -> dict[str, object]:
    """Give all that an extension can leave in a shell and in its process."""
    home = os.environ["DEEPSEEK_MAGIC_HOME"]
    formatters = shell.display_formatter.formatters
    return {
        "line magics": set(shell.magics_manager.magics["line"]),
        "cell magics": set(shell.magics_manager.magics["cell"]),
        "registry": set(shell.magics_manager.registry),
        "events": {name: list(found) for name, found in shell.events.callbacks.items()},
        "configurables": [type(one) for one in shell.configurables],
        "matchers": list(shell.Completer.custom_matchers),
        "transformers": list(shell.input_transformers_cleanup),
        "formatters": {name: set(one.type_printers) for name, one in formatters.items()},
        "exceptions": (shell.custom_exceptions, getattr(shell, "CustomTB", None)),
        "threads": {thread for thread in threading.enumerate() if "deepseek" in thread.name},
        "files": [path for path in open_files() if path.startswith(home)],
    }


def counts(shell: Any) -> dict[str, int]:
    """Count what the extension registers, whichever objects these are now."""
    return {
        **{name: len(found) for name, found in shell.events.callbacks.items()},
        "magics": sum(map(len, shell.magics_manager.magics.values())),
        "configurables": len(shell.configurables),
        "matchers": len(shell.Completer.custom_matchers),
        "transformers": len(shell.input_transformers_cleanup),
    }


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    found = []
    for file in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            found.append(str(file.readlink()))
    return found


def use_all(run: Run) -> None:
    """Do what leaves the most behind."""
    for source in (
        "%%deepseek --out kept\nWhy?",
        "%deepseek balance",
        "%deepseek usage",
        "%deepseek sandbox on",
        "%%deepseek\nAnd now?",
    ):
        assert run(source).error is None


def test_unloading_leaves_no_trace(
    account: Sandbox, bare_shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """After `%unload_ext` neither the shell nor the process shows that the extension was there."""
    run = runner(bare_shell, capsys)
    run(WARM)
    before = traces(bare_shell)
    run("%load_ext deepseek_magic")
    use_all(run)

    run("%unload_ext deepseek_magic")

    assert traces(bare_shell) == before
    assert isinstance(run("%deepseek balance").error, type(run("%no_such").error))


def test_unloading_frees_the_magics(
    account: Sandbox, bare_shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing holds the unloaded magics, so that neither key nor session stays in memory."""
    run = runner(bare_shell, capsys)
    run("%load_ext deepseek_magic")
    use_all(run)
    loaded = weakref.ref(magics(bare_shell))

    run("%unload_ext deepseek_magic")
    gc.collect()

    assert loaded() is None


def test_loading_twice_is_harmless(shell: Any, run: Run, account: Sandbox) -> None:
    """A second `%load_ext` keeps the magics, the settings and the one hook that there are."""
    run(WARM)
    first, before = magics(shell), traces(shell)
    run("%config DeepSeekMagics.model = 'pro'")

    told = run("%load_ext deepseek_magic")
    shell.extension_manager.loaded.discard("deepseek_magic")
    run("%load_ext deepseek_magic")

    assert told.error is None
    assert magics(shell) is first
    assert traces(shell) == before
    assert first.model == "pro"


@pytest.mark.parametrize(
    "again", ["%reload_ext deepseek_magic", "%unload_ext deepseek_magic\n%load_ext deepseek_magic"]
)
def test_it_can_be_loaded_anew(shell: Any, run: Run, account: Sandbox, again: str) -> None:
    """After `%reload_ext`, or unloading and loading, there is one of each and a cell is asked."""
    run(WARM)
    use_all(run)
    first, before = magics(shell), counts(shell)

    told = run(again)

    assert told.error is None
    assert counts(shell) == before
    assert magics(shell) is not first
    assert run("%%deepseek\nWhy?").error is None
    assert len(account.requests) == 2


def test_what_the_user_has_set_up_stays(
    account: Sandbox, bare_shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hooks of the user's own keep working while the extension is loaded and after."""
    run = runner(bare_shell, capsys)
    seen: list[str] = []
    bare_shell.set_custom_exc((KeyError,), lambda *_, **__: seen.append("custom"))
    for event in ("pre_run_cell", "post_run_cell"):
        bare_shell.events.register(event, lambda *_, event=event: seen.append(event))
    run(WARM)
    before = traces(bare_shell)
    cell = ["pre_run_cell", "custom", "post_run_cell"]

    run("%load_ext deepseek_magic")
    seen.clear()
    run("{}['nothing']")
    while_loaded = [*seen]
    run("%unload_ext deepseek_magic")
    seen.clear()
    run("{}['nothing']")

    assert while_loaded == seen == cell
    assert traces(bare_shell) == before


def test_settings_of_a_profile_hold(
    account: Sandbox, bare_shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a profile's file says of `DeepSeekMagics` is set when the extension loads."""
    bare_shell.config.DeepSeekMagics.model = "pro"
    bare_shell.config.DeepSeekMagics.think = "off"
    run = runner(bare_shell, capsys)
    run("%load_ext deepseek_magic")

    run("%%deepseek\nWhy?")
    run("%unload_ext deepseek_magic")

    body = account.requests[-1].body or {}
    assert (body["model"], body["thinking"]) == ("deepseek-v4-pro", {"type": "disabled"})


# -- what is sent ---------------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "model": "deepseek-flash",
    "messages": [{"role": "user", "content": "Why?"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


def with_system(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": text}, *PLAIN["messages"]]}


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to shape a request: its name and value, its flag, what changes in the body."""

    name: str
    value: Any
    flag: str
    changes: dict[str, Any]


def thinking(level: str) -> dict[str, Any]:
    return {"thinking": {"type": "enabled"}, "reasoning_effort": level}


SETTINGS = (
    Setting("model", "pro", "-m pro", {"model": "deepseek-v4-pro"}),
    Setting("model", "deepseek-flash", "--model=deepseek-flash", {}),
    Setting("think", "off", "-t off", {"thinking": {"type": "disabled"}}),
    Setting("think", "low", "--think low", thinking("low")),
    Setting("think", "max", "--think=max", thinking("max")),
    Setting("system", "Be brief.", "-s 'Be brief.'", with_system("Be brief.")),
    Setting("temperature", 0.0, "--temperature 0", {"temperature": 0}),
    Setting("top_p", 0.5, "--top-p 0.5", {"top_p": 0.5}),
    Setting("max_tokens", 500, "--max-tokens 500", {"max_tokens": 500}),
)
ONLY_FLAGS = (
    Setting("stop", ("a b", "\n"), r"--stop 'a b' --stop \n", {"stop": ["a b", "\n"]}),
    Setting(
        *("json", True, "--json"),
        {"response_format": {"type": "json_object"}, **with_system(ASK_FOR_JSON)},
    ),
)
BY_WAY = [(way, one) for way in ("flag", "trait", "argument") for one in SETTINGS]
BY_WAY += [(way, one) for way in ("flag", "argument") for one in ONLY_FLAGS]
Ask = Callable[[str, Setting], object]


@pytest.fixture
def ask(run: Run, account: Sandbox) -> Ask:
    """Give a function that asks "Why?" with one setting, said in one of three ways.

    It returns the body that arrived.
    """

    def ask_one(way: str, setting: Setting) -> object:
        if way == "argument":
            with Session(ledger=":memory:") as session:
                session.ask("Why?", **{setting.name: setting.value})
        elif way == "trait":
            assert run(f"%config DeepSeekMagics.{setting.name} = {setting.value!r}").text == ""
            assert run("%%deepseek\nWhy?").error is None
        else:
            assert run(f"%%deepseek {setting.flag}\nWhy?").error is None
        return account.requests[-1].body

    return ask_one


@pytest.mark.parametrize(
    ("way", "setting"), BY_WAY, ids=[f"{way}: {one.flag}" for way, one in BY_WAY]
)
def test_a_setting_is_sent_however_it_is_said(ask: Ask, way: str, setting: Setting) -> None:
    """A flag, a trait and an argument of `Session.ask` give the same request, and no other."""
    body = ask(way, setting)

    assert body == {**PLAIN, **setting.changes}


def test_nothing_is_expanded_in_options(shell: Any, run: Run, account: Sandbox) -> None:
    """Neither IPython's `$name` and `{name}` nor `{{name}}` mean anything on a cell's line."""
    shell.user_ns["name"] = "NAME"
    text = "$name {name} {{name}}"

    run(f"%%deepseek -s '{text}' --stop '{text}'\nWhy?")

    body = account.requests[-1].body
    assert body == {**PLAIN, **with_system(text), "stop": [text]}


@pytest.mark.parametrize(
    "setting",
    [
        Setting("model", "pro", "-m flash", {"model": "deepseek-flash"}),
        Setting("think", "max", "-t off", {"thinking": {"type": "disabled"}}),
        Setting("system", "Rhyme.", "-s ''", {"messages": PLAIN["messages"]}),
        Setting("temperature", 1.0, "--temperature 0", {"temperature": 0}),
        Setting("top_p", 0.2, "--top-p 1", {"top_p": 1}),
        Setting("max_tokens", 10_000, "--max-tokens 20000", {"max_tokens": 20_000}),
    ],
    ids=lambda setting: setting.flag,
)
def test_a_flag_beats_the_trait(run: Run, account: Sandbox, setting: Setting) -> None:
    """What a cell says counts for that cell, and the notebook's setting for the next."""
    run(f"%config DeepSeekMagics.{setting.name} = {setting.value!r}")

    run("%%deepseek\nWhy?")
    run(f"%%deepseek {setting.flag}\nWhy?")
    run("%%deepseek\nWhy?")

    first, flagged, last = (request.body or {} for request in account.requests)
    assert flagged == {**flagged, **setting.changes}
    assert first == last
    assert first != {**first, **setting.changes}


@pytest.mark.parametrize(
    ("setting", "names"),
    [("temperature = 3.0", "temperature"), ("top_p = 0.0", "top_p"), ("max_tokens = 0", "max")],
)
def test_a_setting_out_of_range_is_not_sent(
    run: Run, account: Sandbox, setting: str, names: str
) -> None:
    """A trait that the API would refuse fails the cell in one line, before anything is sent."""
    run(f"%config DeepSeekMagics.{setting}")

    ran = run("%%deepseek\nWhy?")

    assert ran.failed_in_one_line("InvalidOption")
    assert names in ran.last.lower()
    assert len(account.requests) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("think", "mx"), ("on_empty", "never"), ("keep", "some"), ("timeout", 0.0)),
        *(("data_tokens", 0), ("max_tokens", "many"), ("warn_below", {"CNY": "five"})),
    ],
)
def test_a_setting_takes_no_wrong_value(
    shell: Any, run: Run, account: Sandbox, name: str, value: Any
) -> None:
    """A trait that cannot have a value names it and stays as it was."""
    before = getattr(magics(shell), name)

    with pytest.raises(TraitError, match=name):
        setattr(magics(shell), name, value)

    assert getattr(magics(shell), name) == before
    assert run("%deepseek balance").error is None


# -- {{ }} ----------------------------------------------------------------------------


def test_expressions_are_filled_in(run: Run, account: Sandbox) -> None:
    """Expressions become their values; single braces, dollars and percent signs stay."""
    run("who, prices = 'the reader', {'tea': 3}")

    ran = run("%%deepseek\nTell {{who.upper()}}: {{prices['tea'] + 1}} {who} $who %who {'a': 1}")

    assert ran.error is None
    assert prompt_of(account) == "Tell THE READER: 4 {who} $who %who {'a': 1}"


def test_raw_text_goes_as_it_stands(run: Run, account: Sandbox) -> None:
    """With `--raw` nothing is evaluated, whether it could be or not."""
    ran = run("%%deepseek --raw\n{{1 + 1}} and {{nothing.like.that}} and {{")

    assert ran.error is None
    assert prompt_of(account) == "{{1 + 1}} and {{nothing.like.that}} and {{"


@pytest.mark.parametrize("text", ["{{nothing}}", "{{1 / 0}}", "{{not python}}", "{{open"])
def test_a_wrong_expression_sends_nothing(run: Run, account: Sandbox, text: str) -> None:
    """An expression that fails is one line that names `--raw`, and nothing is sent."""
    ran = run(f"%%deepseek\nLook: {text}")

    assert ran.failed_in_one_line("InvalidOption")
    assert "--raw" in ran.last
    assert len(account.traffic) == 0


def test_a_frame_is_described_within_bounds(run: Run, account: Sandbox) -> None:
    """A DataFrame becomes shape, types and some rows, no longer than `data_tokens` says."""
    run("import pandas as pd")
    run("df = pd.DataFrame({f'column {n}': range(5000) for n in range(40)})")

    run("%%deepseek\n{{df}}")
    usual = prompt_of(account)
    run("%config DeepSeekMagics.data_tokens = 200")
    run("%%deepseek\n{{df}}")
    short = prompt_of(account)

    assert "5000 rows" in usual.replace(",", "").replace(" × ", " rows ")
    assert "int64" in usual
    assert len(short) < 1500 < len(usual) < 8000


def test_an_answer_can_be_asked_about(run: Run, account: Sandbox) -> None:
    """An answer that a cell has bound stands whole in the next question."""
    account.script(TALE)
    run("%%deepseek --out tale\nTell a tale.")

    run("%%deepseek\nShorter: {{tale}}")

    assert prompt_of(account) == f"Shorter: {TALE}"


# -- what is bound and shown ----------------------------------------------------------


def test_out_binds_the_answer(shell: Any, run: Run, account: Sandbox) -> None:
    """`--out` gives the whole answer with its cost; a failed cell leaves the name as it was."""
    run("%config DeepSeekMagics.retries = 0")
    account.script(Reply(TALE, reasoning="Let me think."), 503)
    run("%%deepseek --out tale\nTell a tale.")
    tale = shell.user_ns["tale"]

    run("%%deepseek --out tale\nTell another.")

    assert isinstance(tale, Answer)
    assert (tale.text, tale.reasoning) == (TALE, "Let me think.")
    assert tale.cost == account.billed
    assert shell.user_ns["tale"] is tale


def test_json_is_bound_parsed(shell: Any, run: Run, account: Sandbox) -> None:
    """`--json --out` binds the parsed value."""
    account.script('{"names": ["Ada", "Grace"]}')

    run("%%deepseek --json --out found\nGive names as JSON.")

    assert shell.user_ns["found"] == {"names": ["Ada", "Grace"]}


def test_what_is_no_json_is_kept_and_not_bound(shell: Any, run: Run, account: Sandbox) -> None:
    """An answer that is not JSON fails the cell in one line; its text is kept, nothing is bound."""
    account.script("Here are the names: Ada.")

    ran = run("%%deepseek --json --no-repair --out found\nGive names as JSON.")

    assert ran.failed_in_one_line("UnusableAnswer")
    assert "Here are the names: Ada." in ran.text
    assert isinstance(ran.error, DeepSeekError)
    assert ran.error.answer is not None
    assert ran.error.answer.text == "Here are the names: Ada."
    assert "found" not in shell.user_ns
    assert (entries()[-1]["state"], entries()[-1]["cost"]) == ("unusable", account.billed)


def test_an_answer_shows_itself(shell: Any, run: Run, account: Sandbox) -> None:
    """An answer's text is what `str`, `print` and a cell's last line show, as safe HTML too."""
    attack = "**bold** <script>alert(1)</script> ![p](https://example.org/p.png) \x1b[2J\x07"
    account.script(Reply(pieces=(attack,)))
    run("%%deepseek --out answer\nTell a tale.")
    answer = shell.user_ns["answer"]

    bundle, _ = shell.display_formatter.format(answer)
    shown = run("answer")

    assert set(bundle) == {"text/plain", "text/html"}
    assert "<strong>bold</strong>" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]
    assert "<img" not in bundle["text/html"]
    assert "\x1b" not in bundle["text/plain"] + bundle["text/html"] + shown.text
    assert "**bold**" in bundle["text/plain"]
    assert "**bold**" in shown.text
    assert run("print(answer)").text == f"{attack}\n"
    assert run("print(repr(answer))").text.startswith("Answer('**bold**")


def test_the_quiet_line_tells_the_cost(run: Run, account: Sandbox) -> None:
    """Under an answer stand its model, tokens, cost and what is left, with advice if any."""
    account.script(TALE)

    ran = run("%%deepseek --temperature 1\nWhy?")

    assert TALE in ran.text
    for part in ("deepseek-flash", " in", " out", "CNY", "left", "temperature has no effect"):
        assert part in ran.last


def test_nothing_is_published_as_markdown(run: Run) -> None:
    """Nothing of ours names `text/markdown`, which a front end trusts."""
    package = Path(str(DeepSeekMagics.__init__.__code__.co_filename)).parent

    named = [path.name for path in package.glob("*.py") if '"text/markdown"' in path.read_text()]

    assert named == []


# -- help, wrong words, completion ----------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        *("%deepseek", "%deepseek -h", "%deepseek --help", "%deepseek help"),
        *(
            "%%deepseek -h",
            "%%deepseek --help\n\n",
            "%%deepseek -h\nWhy?",
            "%%deepseek -m pro -h\n?",
        ),
        *("%%deepseek?", "%deepseek?", "?%%deepseek"),
    ],
)
def test_help_tells_everything(run: Run, account: Sandbox, source: str) -> None:
    """However help is asked for, every option and every subcommand is in it; nothing is sent."""
    ran = run(source)

    assert ran.error is None
    for name in ("--model", "--on-empty", "--raw", *(f"%deepseek {name}" for name in SUBCOMMANDS)):
        assert name in ran.text
    assert len(account.traffic) == 0


def test_other_cells_are_left_alone(run: Run, account: Sandbox) -> None:
    """An empty cell magic, and a text that speaks of `-h`, are what they were."""
    assert isinstance(run("%%deepseek").error, UsageError)
    assert run("%%deepseek --raw\n%%deepseek -h").error is None
    assert prompt_of(account) == "%%deepseek -h"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("%deepseek balnce", "Did you mean %deepseek balance?"),
        ("%deepseek why is the sky blue", "%%deepseek"),
        ("%deepseek balance now", "leave out 'now'"),
        ("%deepseek usage --all", "takes --by, --days and --notebook, and '--all' is none"),
        ("%deepseek usage all", "'all' is none of them"),
        ("%deepseek usage --day 3", "Did you mean --days?"),
        ("%deepseek usage --by", "--by needs a value, for example: %deepseek usage --by day,model"),
        ("%deepseek usage --by=", "--by needs a value"),
        ("%deepseek usage --by day --by model", "--by stands there twice"),
        ("%deepseek usage --by day,modle", "Did you mean model?"),
        ("%deepseek usage --days 0", "from 1 to 3,660"),
        ("%deepseek usage --days -1", "from 1 to 3,660"),
        (f"%deepseek usage --days {'9' * 5000}", "from 1 to 3,660"),
        ("%deepseek usage --days 1.5", "from 1 to 3,660"),
        ("%deepseek usage --notebook no.ipynb", "There is no file no.ipynb"),
        ("%deepseek usage --notebook a b.ipynb", "put it in quotes"),
        ("%deepseek usage --notebook a.ipynb --days 3", "goes with no other flag"),
        ("%deepseek prices now", "%deepseek prices --set my-model CNY 0.02 1 4"),
        ("%deepseek prices --set m CNY 1 2", "%deepseek prices --set my-model CNY 0.02 1 4"),
        ("%deepseek prices --set m CNY 1 2 much", "much"),
        ("%deepseek prices --set m CNY 1 2 -3", "-3"),
        ("%deepseek prices --set m yuan 1 2 3", "yuan"),
        ("%deepseek prices --unset m", "No price of your own is set for 'm'"),
        ("%deepseek 'balance", "cannot read its line"),
        ("%deepseek sandbox", "%deepseek sandbox on 0.05 CNY"),
        ("%deepseek sandbox on much", "is not an amount"),
        ("%deepseek sandbox on -1", "is not an amount"),
        ("%deepseek sandbox on 1e30", "is not an amount"),
        ("%deepseek sandbox on 1 EUR", "CNY or USD"),
        ("%deepseek sandbox top-up 5", "%deepseek sandbox on"),
        ("%%deepseek --modle pro\nWhy?", "Did you mean --model?"),
        ("%%deepseek -t mx\nWhy?", "Did you mean max?"),
        ("%%deepseek why\nWhy?", "why"),
        ("%%deepseek\n   ", "there is no question"),
    ],
)
def test_a_wrong_line_fails_in_one_line(run: Run, account: Sandbox, source: str, says: str) -> None:
    """A wrong word fails the cell with one line that says what is right; nothing is sent."""
    ran = run(source)

    assert ran.failed_in_one_line("InvalidOption")
    assert says.lower() in ran.last.lower()
    assert len(account.traffic) == 0


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("%%deepseek --mo", ["--model"]),
        ("%%deepseek -m ", ["deepseek-flash", "deepseek-v4-pro", "flash", "pro"]),
        ("%%deepseek --think=m", ["max"]),
        ("%%deepseek -m pro --on-empty ", ["notice", "raise", "wait"]),
        ("%deepseek ", sorted(SUBCOMMANDS)),
        ("x = 1\n%deepseek us", ["usage"]),
        ("%deepseek sandbox ", ["fail", "off", "on", "top-up"]),
        ("%deepseek sandbox t", ["top-up"]),
        ("%deepseek login ", ["--save"]),
        ("%deepseek usage --", ["--by", "--days", "--notebook"]),
        ("%deepseek usage --d", ["--days"]),
        ("%deepseek prices ", ["--set", "--unset"]),
        ("%%deepseek -t off\nAbout {{sal", ["sales"]),
    ],
)
def test_tab_completes(shell: Any, run: Run, text: str, offered: list[str]) -> None:
    """A front end that asks what can stand at the cursor gets that and nothing else."""
    run("sales = [1]")

    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))

    assert sorted(one.text for one in found) == offered
    assert all(one.text.startswith(text[one.start : one.end]) for one in found)


# -- errors ---------------------------------------------------------------------------

Failure = tuple[Reply | int, str, str, str]
"""What the API does, the error, what of the answer is shown, the ledger's state."""
FAILURES: tuple[Failure, ...] = (
    (400, "BadRequest", "", "refused"),
    (401, "WrongKey", "", "refused"),
    (402, "InsufficientBalance", "", "refused"),
    (404, "BadRequest", "", "refused"),
    (422, "BadRequest", "", "refused"),
    (429, "TooManyRequests", "", "refused"),
    (500, "ServerFailure", "", "partial"),
    (503, "ServerFailure", "", "refused"),
    (Reply(TALE, after="request", then="reset"), "BrokenAnswer", "", "partial"),
    (Reply(TALE, after=6, then="close"), "BrokenAnswer", "Once upon a time", "partial"),
    (Reply(TALE, after=6, then="reset"), "BrokenAnswer", "Once upon a time", "partial"),
    (Reply(TALE, after=6, then="stall"), "BrokenAnswer", "Once upon a time", "partial"),
    (Reply(TALE, after=6, then="garbage"), "BrokenAnswer", "Once upon a time", "partial"),
    (Reply(TALE, after=6, then="error"), "InsufficientBalance", "Once upon a time", "partial"),
    (Reply(TALE, after=6, then="end"), "BrokenAnswer", "Once upon a time", "partial"),
    (Reply(TALE, then="no-done"), "BrokenAnswer", "remembered everything", "partial"),
    (Reply(TALE, then="no-finish"), "BrokenAnswer", "remembered everything", "partial"),
    (Reply(TALE, finish_reason="content_filter"), "UnusableAnswer", "everything", "unusable"),
    (
        Reply(TALE, finish_reason="insufficient_system_resource"),
        *("BrokenAnswer", "everything", "partial"),
    ),
    (Reply(""), "UnusableAnswer", "", "unusable"),
    (Reply(body="<html><title>Proxy</title>"), "BrokenAnswer", "", "partial"),
)


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_is_one_line(run: Run, account: Sandbox, failure: Failure) -> None:
    """A failed query fails the cell in one line, keeps what had arrived and is in the ledger."""
    run("%config DeepSeekMagics.retries = 0")
    reply, kind, kept, state = failure
    account.script(reply)
    run("%config DeepSeekMagics.timeout = 0.5")

    ran = run("%%deepseek -t off\nTell a tale.")

    assert ran.failed_in_one_line(kind)
    assert kept in ran.text
    assert entries()[-1]["state"] == state
    assert len(account.requests) == 1
    assert run("%%deepseek -t off\nTell a tale.").error is None


def test_an_unreachable_api_is_one_line(run: Run, account: Sandbox) -> None:
    """A server that is gone is one line, and nothing was billed."""
    account.close()

    ran = run("%%deepseek\nWhy?")

    assert ran.failed_in_one_line("ConnectionFailed")
    assert "Nothing was billed" in ran.last
    assert entries()[-1]["state"] == "failed"


def test_an_error_stays_one_line_in_any_mode(run: Run, account: Sandbox) -> None:
    """`%xmode Verbose` makes no traceback of it, and shows no key where a user wraps the error."""
    run("%config DeepSeekMagics.retries = 0")
    account.script(503, Reply(TALE, after=3, then="reset"))
    run("%xmode Verbose")

    plain = run("%%deepseek\nWhy?")
    run("from deepseek_magic import Session\nsession = Session()")
    wrapped = run(
        "try:\n"
        "    session.ask('Why?')\n"
        "except Exception as error:\n"
        "    raise RuntimeError('wrapped') from error"
    )
    run("session.close()")

    assert plain.failed_in_one_line("ServerFailure")
    assert "RuntimeError: wrapped" in wrapped.text
    assert account.api_key not in wrapped.text


def test_an_empty_account_shows_a_notice(run: Run, account: Sandbox) -> None:
    """The notice says what happened, what is left and what to do, and the cell fails."""
    account.balance = Decimal(0)

    ran = run("%%deepseek -t off\nWhy?")

    assert ran.failed_in_one_line("InsufficientBalance")
    notice = ran.text.removesuffix(ran.last + "\n")
    for part in ("balance is empty", "0.00 CNY", "https://platform.deepseek.com/top_up"):
        assert part in notice
    assert entries()[-1]["state"] == "refused"


@pytest.mark.parametrize("way", ["flag", "trait"])
def test_raise_shows_no_notice(shell: Any, run: Run, account: Sandbox, way: str) -> None:
    """With `--on-empty raise` code of the user's own catches the error, and nothing is shown."""
    account.balance = Decimal(0)
    flag = "--on-empty raise" if way == "flag" else ""
    if way == "trait":
        run("%config DeepSeekMagics.on_empty = 'raise'")

    ran = run(
        "from deepseek_magic import InsufficientBalance\n"
        "try:\n"
        f"    get_ipython().run_cell_magic('deepseek', '{flag}', 'Why?')\n"
        "except InsufficientBalance as error:\n"
        "    caught = error"
    )

    assert (ran.text, ran.error) == ("", None)
    assert isinstance(shell.user_ns["caught"], InsufficientBalance)


def test_a_flag_brings_the_notice_back(run: Run, account: Sandbox) -> None:
    """`--on-empty notice` beats the trait."""
    account.balance = Decimal(0)
    run("%config DeepSeekMagics.on_empty = 'raise'")

    assert "platform.deepseek.com/top_up" not in run("%%deepseek\nWhy?").text
    assert "platform.deepseek.com/top_up" in run("%%deepseek --on-empty notice\nWhy?").text


# -- keys -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        f"%%deepseek\nIs {LIKE_A_KEY} a good key?",
        f"%%deepseek -s {LIKE_A_KEY}\nWhy?",
        f"%%deepseek --stop {LIKE_A_KEY}\nWhy?",
        f"%%deepseek -m {LIKE_A_KEY}\nWhy?",
        "%%deepseek\nIs {{secret}} a good key?",
        "%%deepseek\n{{[{'key': secret}]}}",
        f"%%deepseek --raw\n{LIKE_A_KEY}",
    ],
)
def test_a_key_in_a_cell_is_refused(shell: Any, run: Run, account: Sandbox, source: str) -> None:
    """Text with something like a key in it goes nowhere, and the error does not repeat it."""
    shell.user_ns["secret"] = LIKE_A_KEY

    ran = run(source)

    assert ran.failed_in_one_line("KeyInText")
    assert LIKE_A_KEY not in ran.text
    assert len(account.requests) == 0
    assert entries() == []


def test_a_key_in_a_setting_is_refused(run: Run, account: Sandbox) -> None:
    """So is a setting of the notebook with one in it."""
    run(f"%config DeepSeekMagics.system = '{LIKE_A_KEY}'")

    ran = run("%%deepseek\nWhy?")

    assert ran.failed_in_one_line("KeyInText")
    assert len(account.requests) == 0


def test_the_key_is_shown_nowhere(
    shell: Any, run: Run, account: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither outputs, settings, history, logs nor the ledger's bytes hold the key."""
    run("%config DeepSeekMagics.retries = 0")
    echo = Reply(status=400, body={"error": {"message": f"What is {account.api_key}?"}})
    account.script(TALE, echo, 503)
    caplog.set_level(logging.DEBUG)

    shown = [
        run(source).text
        for source in (
            *("%%deepseek --out tale\nWhy?", "%%deepseek\nWhy?", "%%deepseek\nWhy?"),
            *("%deepseek balance", "%deepseek usage", "%deepseek config", "%config DeepSeekMagics"),
            *("%deepseek models", "%deepseek prices", "repr(vars(tale.__class__))", "%whos"),
            "get_ipython().magics_manager.registry['DeepSeekMagics'].workspace.session",
        )
    ]
    run("%unload_ext deepseek_magic")

    history = "\n".join(row[2] for row in shell.history_manager.get_range())
    files = [path for path in ledger_path().parent.rglob("*") if path.is_file()]
    assert files
    assert len(account.requests) == 3
    assert account.api_key not in "\n".join([*shown, caplog.text, history])
    assert all(account.api_key.encode() not in path.read_bytes() for path in files)


def test_a_key_on_the_line_of_login_is_refused(run: Run, account: Sandbox) -> None:
    """A key typed after `%deepseek login` is in the notebook: the error says to replace it."""
    ran = run(f"%deepseek login {LIKE_A_KEY}")

    assert ran.failed_in_one_line("InvalidOption")
    assert LIKE_A_KEY not in ran.last
    assert "platform.deepseek.com/api_keys" in ran.last
    assert len(account.traffic) == 0


# -- the account ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("%deepseek balance", ("5.00 CNY left", "topped up", "platform.deepseek.com/top_up")),
        ("%deepseek models", ("deepseek-flash", "deepseek-v4-pro", "1,048,576")),
        ("%deepseek prices", ("off-peak", "deepseek-v4-pro", "CNY", "USD", "Checked")),
        ("%deepseek usage", ("Nothing has been asked",)),
        ("%deepseek config", ("max_tokens", "data_tokens", "%config DeepSeekMagics.")),
    ],
)
def test_the_account_is_told_as_text(run: Run, source: str, parts: tuple[str, ...]) -> None:
    """Each subcommand tells its facts as plain text where there is no page."""
    ran = run(source)

    assert ran.error is None
    for part in parts:
        assert part in ran.text
    assert "<" not in ran.text


def test_usage_adds_up_what_was_asked(run: Run, account: Sandbox) -> None:
    """`%deepseek usage` tells the questions that were answered and what they came to."""
    run("%config DeepSeekMagics.retries = 0")
    for model in ("flash", "flash", "pro"):
        run(f"%%deepseek -t off -m {model}\nWhy?")
    account.script(503)
    run("%%deepseek\nWhy?")

    lines = run("%deepseek usage").text.splitlines()

    rows = [line.split() for line in lines if "CNY  " in line]
    flash, pro = sorted(rows, key=lambda row: row[1])
    assert (flash[1], pro[1]) == ("deepseek-flash", "deepseek-v4-pro")
    assert (flash[2], pro[2]) == ("2", "1")
    assert lines[-1].startswith("Together 0.0")


def test_usage_by_what_is_asked_for(run: Run, account: Sandbox) -> None:
    """`--by` names the columns, however they are written, and `--days` how far back it goes."""
    for model in ("flash", "flash", "pro"):
        run(f"%%deepseek -t off -m {model}\nWhy?")

    by_model = run("%deepseek usage --by model").text
    ways = [
        run(f"%deepseek usage {flags}").text
        for flags in (
            "--by=model,day",
            "--by model, day --days 1",
            "--days=30 --by model day model",
        )
    ]

    head, *rows = by_model[by_model.index("Model ") :].splitlines()
    assert head.split()[:3] == ["Model", "Asked", "Cost"]
    assert {row.split()[0]: row.split()[1] for row in rows[:2]} == {
        "deepseek-flash": "2",
        "deepseek-v4-pro": "1",
    }
    assert "Model            Day         Asked" in ways[0]
    assert ways[1].splitlines()[-1] == ways[0].splitlines()[-1]
    assert "Spent per day" in by_model
    assert "Spent per day" not in ways[1]
    assert "Model            Day         Asked" in ways[2]


def test_usage_of_a_saved_notebook_needs_no_account(
    shell: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`--notebook FILE` adds up what the file shows, without a key and without a ledger."""
    stamp = {"model": "deepseek-flash", "cost": "0.0123", "currency": "CNY"}
    output = {"output_type": "display_data", "metadata": {"deepseek_magic": stamp}}
    path = tmp_path / "my notebook.ipynb"
    path.write_text(json.dumps({"cells": [{"outputs": [output, output]}]}))

    ran = runner(shell, capsys)(f"%deepseek usage --notebook '{path}'")

    assert ran.error is None
    assert ran.text.splitlines()[1].split() == [
        *("deepseek-flash", "2", "0.025", "CNY", "unknown", "unknown")
    ]
    assert "Together 0.025 CNY. Counted are the answers that my notebook.ipynb shows" in ran.last
    assert not ledger_path().exists()


class Relay(BaseHTTPRequestHandler):
    """A company with a model of its own, whose price nobody here knows."""

    def do_GET(self) -> None:
        """Tell the balance."""
        row = {"currency": "CNY", "total_balance": "5.00"}
        self.send("application/json", json.dumps({"is_available": True, "balance_infos": [row]}))

    def do_POST(self) -> None:
        """Answer any question in a word."""
        self.rfile.read(int(self.headers["Content-Length"]))
        usage = {"prompt_tokens": 30, "prompt_cache_hit_tokens": 20, "completion_tokens": 1}
        choice = {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}
        chunk = {"model": "my-model", "choices": [choice], "usage": usage}
        self.send("text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")

    def send(self, kind: str, body: str) -> None:
        """Send one response."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give a company of its own model to whatever looks at the environment."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Relay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DEEPSEEK_API_KEY", "a-key-of-this-test")
        monkeypatch.setenv("DEEPSEEK_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def test_a_price_of_the_users_own(
    relay: None, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`prices --set` prices what was unpriced and what comes, and says how to keep it."""
    run = runner(shell, capsys)
    run("%%deepseek -t off -m my-model\nWhy?")
    unpriced = run("%deepseek usage --by model")

    told = run("%deepseek prices --set my-model cny 0.02 1 4")
    shown = run("%deepseek prices").text
    run("%%deepseek -t off -m my-model -o after\nWhy not?")
    usage = run("%deepseek usage --by model")

    assert "1 question is unpriced" in unpriced.last
    assert "1 question that was unpriced has a cost now." in told.text
    assert told.last == "c.DeepSeekMagics.prices = {'my-model': {'CNY': '0.02 1 4'}}"
    assert re.search(r"my-model +all hours +0\.02 CNY +1\.00 CNY +4\.00 CNY +set by you", shown)
    assert shell.user_ns["after"].cost == Decimal("0.0000144")
    assert "unpriced" not in usage.text
    assert "Together 0.000029 CNY." in usage.last


def test_an_own_price_beats_the_list_until_it_is_unset(run: Run, account: Sandbox) -> None:
    """A price of the user's own stands instead of the list's; unset, the list's holds again."""
    run("%deepseek prices --set flash CNY 1 9 9 9 99 99")
    own = run("%deepseek prices").text
    gone = run("%deepseek prices --unset flash")
    listed = run("%deepseek prices").text

    rows = [line for line in own.splitlines() if re.match("deepseek-flash .* CNY", line)]
    assert [row.endswith("set by you") for row in rows] == [True, True]
    assert "99.00 CNY" in own
    assert gone.last == "c.DeepSeekMagics.prices = {}"
    assert "set by you" not in listed
    assert len(account.traffic) == 0


def test_prices_tell_when_the_hours_change(run: Run) -> None:
    """The hours that hold now are named, and when they change by the reader's clock."""
    text = " ".join(run("%deepseek prices").text.split())

    assert re.search(
        r"(Off-peak hours now; peak|Peak hours now; off-peak) from .*\d\d:\d\d by your clock", text
    )


def test_prices_need_no_key(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Prices are shown and set without an account."""
    run = runner(shell, capsys)

    assert run("%deepseek prices --set my-model CNY 1 2 3").error is None
    assert "set by you" in run("%deepseek prices").text


def test_a_low_mark_is_the_users(run: Run) -> None:
    """The balance is called low under what `warn_below` says for its currency."""
    run("%config DeepSeekMagics.warn_below = {'CNY': '4.99'}")
    fine = run("%deepseek balance").text
    run("%config DeepSeekMagics.warn_below = {'CNY': 5.01}")
    low = run("%deepseek balance").text

    assert "(fine)" in fine
    assert "(low)" in low


def test_a_balance_that_cannot_be_read_keeps_its_last_figure(run: Run, account: Sandbox) -> None:
    """The last amount stays, as unknown and with the reason; without any the cell fails."""
    account.script(503, path="/user/balance")
    before = run("%deepseek balance")
    run("%deepseek balance")
    account.script(503, path="/user/balance")
    after = run("%deepseek balance")

    assert before.failed_in_one_line("ServerFailure")
    assert after.error is None
    assert "5.00 CNY left (unknown)" in after.text
    assert "503" in after.text


def test_the_sandbox_keeps_to_itself(run: Run, account: Sandbox) -> None:
    """Questions in the sandbox reach neither the own account nor the own ledger."""
    on = run("%deepseek sandbox on 0.04 usd")
    asked = run("%%deepseek -t off\nWhy?")
    usage = run("%deepseek usage")
    topped_up = run("%deepseek sandbox top-up 10")
    balance = run("%deepseek balance")
    in_sandbox = len(account.traffic)
    off = run("%deepseek sandbox off")
    own = run("%deepseek usage")

    assert "0.04 USD" in on.text
    assert "http://127.0.0.1:" in on.text
    assert asked.last.endswith("sandbox")
    assert "deepseek-flash" in usage.text
    assert "10.0" in topped_up.text
    assert "sandbox" in balance.text
    assert in_sandbox == 0
    assert entries() == []
    assert "your own account" in off.text
    assert "Nothing has been asked" in own.text
    assert run("%%deepseek\nWhy?").error is None
    assert len(account.requests) == 1
    assert "off already" in run("%deepseek sandbox off").text


def test_the_sandbox_runs_dry(run: Run, account: Sandbox) -> None:
    """In a sandbox without money the notice names the sandbox's own page for a top-up."""
    run("%deepseek sandbox on 0")

    dry = run("%%deepseek\nWhy?")
    run("%deepseek sandbox top-up 1")
    again = run("%%deepseek\nWhy?")

    assert dry.failed_in_one_line("InsufficientBalance")
    assert "http://127.0.0.1:" in dry.text
    assert "platform.deepseek.com" not in dry.text
    assert again.error is None


def test_a_new_sandbox_replaces_the_old(shell: Any, run: Run, account: Sandbox) -> None:
    """Switching on twice leaves one server, and off still leads back to the own account."""
    run("%%deepseek\nWhy?")
    run("%deepseek sandbox on")
    first = magics(shell).workspace.account.sandbox
    run("%deepseek sandbox on 7")
    second = magics(shell).workspace.account.sandbox
    balance = run("%deepseek balance").text
    run("%deepseek sandbox off")
    run("%%deepseek\nWhy?")

    assert first is not None
    assert second is not None
    assert (first.running, second.running) == (False, False)
    assert "7.00 CNY" in balance
    assert len(account.requests) == 2


def test_the_sandbox_needs_no_key(
    shell: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key a question is one line that names the ways on; the sandbox is one of them."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    run = runner(shell, capsys)

    without = run("%%deepseek\nWhy?")
    run("%deepseek sandbox on")
    inside = run("%%deepseek\nWhy?")

    assert without.failed_in_one_line("NoKey")
    assert "%deepseek login" in without.last
    assert "%deepseek sandbox on" in without.last
    assert inside.error is None


# -- what the ledger keeps ------------------------------------------------------------


def test_keep_counts_at_once(run: Run, account: Sandbox) -> None:
    """`keep` decides from the next question on which texts and figures are on disk."""
    account.script("first answer", "second answer", "third answer")

    run("%%deepseek -t off\nfirst question")
    run("%config DeepSeekMagics.keep = 'figures'")
    run("%%deepseek -t off\nsecond question")
    run("%config DeepSeekMagics.keep = 'nothing'")
    third = run("%%deepseek -t off\nthird question")

    first, second = entries()
    assert "first question" in first["request"]
    assert first["answer"] == "first answer"
    assert (second["request"], second["answer"]) == (None, None)
    assert second["cost"] == account.requests[1].cost
    assert third.error is None
    on_disk = ledger_path().read_bytes()
    assert all(text not in on_disk for text in (b"second question", b"third", b"second answer"))


def test_keep_can_change_while_the_sandbox_is_on(run: Run, account: Sandbox) -> None:
    """The sandbox goes on, and the own account has the new setting when it comes back."""
    run("%%deepseek\nfirst question")
    run("%deepseek sandbox on")
    run("%config DeepSeekMagics.keep = 'figures'")

    inside = run("%%deepseek\nWhy?")
    run("%deepseek sandbox off")
    run("%%deepseek\nsecond question")

    assert inside.last.endswith("sandbox")
    assert [bool(entry["request"]) for entry in entries()] == [True, False]


def test_a_damaged_ledger_is_told_once(
    shell: Any,
    api: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A ledger that cannot be used is a clear word under the answer, once; the answer is there."""
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database " * 200)
    monkeypatch.setenv("DEEPSEEK_MAGIC_HOME", str(tmp_path))
    monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)

    shell.run_cell_magic("deepseek", "-t off", "Why?")
    first = capsys.readouterr().out
    shell.run_cell_magic("deepseek", "-t off", "Why?")
    second = capsys.readouterr().out

    assert "sandbox" in first
    assert "ledger.sqlite cannot be used" in " ".join(first.split())
    assert "DEEPSEEK_MAGIC_HOME" in first
    assert "cannot be used" not in second
