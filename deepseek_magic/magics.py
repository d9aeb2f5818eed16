"""`%%deepseek` asks, `%deepseek` manages: the edge to IPython.

The settings are traits of the magics class; what a subcommand does is in the
method of its name. Sessions, notices and widgets are the workspace's.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from traitlets import Bool, Dict, Enum, Float, Integer, TraitError, Unicode, observe, validate

from .errors import DeepSeekError, InvalidOption, nearest, one_line
from .wire import THINK_LEVELS, Answer, Key, Request, amount, question

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import ExecutionInfo, InteractiveShell

    from .options import Options
    from .workspace import Workspace

SUBCOMMANDS = {
    "balance": "show what is left; it follows every query",
    "usage": "add up queries, tokens and cost by day, model and notebook",
    "models": "list the models that the API offers now",
    "prices": "show the prices of this hour, their date and source",
    "login": "type the key in, hidden (--save keeps it in the system's keyring)",
    "sandbox": "on [AMOUNT CURRENCY], top-up AMOUNT, off: a simulated account to try things out",
    "config": "show the settings of this notebook and how to change them",
}
NEXT_WORDS = {"sandbox": ("on", "top-up", "off"), "login": ("--save",)}
"""What can follow a subcommand."""


def manual() -> str:
    """Give the whole help: options of the cell magic, subcommands of the line magic."""
    from .options import help_text

    width = max(map(len, SUBCOMMANDS))
    lines = [f"  %deepseek {name:<{width}}  {what}" for name, what in SUBCOMMANDS.items()]
    return f"{help_text().rstrip()}\n\nmanage:\n" + "\n".join(lines) + "\n"


@magics_class
class DeepSeekMagics(Magics):
    """Settings for this notebook; a flag on a cell is stronger."""

    model = Unicode("flash", help="Asks this model when a cell names none.").tag(config=True)
    think = Enum(
        THINK_LEVELS, None, allow_none=True, help="Thinks this much; the API's default when None."
    ).tag(config=True)
    system = Unicode(
        None, allow_none=True, help="Sends this system message with every question."
    ).tag(config=True)
    max_tokens = Integer(
        None, allow_none=True, help="Ends answers, thinking included, after so many tokens."
    ).tag(config=True)
    temperature = Float(None, allow_none=True, help="Sets the temperature, 0 to 2.").tag(
        config=True
    )
    top_p = Float(None, allow_none=True, help="Sets top_p, above 0 to 1.").tag(config=True)
    thinking = Bool(True, help="Shows the model's reasoning, folded, above the answer.").tag(
        config=True
    )
    on_empty = Enum(
        ("notice", "raise"),
        "notice",
        help="Shows a notice when the money is gone, or only raises InsufficientBalance.",
    ).tag(config=True)
    data_tokens = Integer(
        1000, min=1, help="Bounds what one {{value}} adds to a prompt, in tokens."
    ).tag(config=True)
    timeout = Float(
        300.0, min=0.1, help="Gives an answer up after so many seconds without a sign of life."
    ).tag(config=True)
    warn_below = Dict(
        {"CNY": "5", "USD": "1"}, help="Calls the balance low under these amounts, by currency."
    ).tag(config=True)
    keep = Enum(
        ("all", "figures", "nothing"),
        "all",
        help="Keeps questions and answers in the ledger, only their figures, or nothing.",
    ).tag(config=True)

    def __init__(self, shell: InteractiveShell, **settings: Any) -> None:
        super().__init__(shell, **settings)
        self._workspace: Workspace | None = None

    @property
    def workspace(self) -> Workspace:
        """What lives in this notebook; made on first use, since loading has to be quick."""
        if self._workspace is None:
            from .workspace import Workspace

            shell: Any = self.shell
            self._workspace = Workspace(shell, self)
        return self._workspace

    @validate("warn_below")
    def _amounts_only(self, proposal: Any) -> Any:
        for currency, mark in proposal["value"].items():
            if amount(str(mark)) is None:
                raise TraitError(
                    f"warn_below takes an amount for each currency, such as {{'CNY': '5'}}, "
                    f"and {mark!r} for {currency!r} is none."
                )
        return proposal["value"]

    @observe("keep")
    def _keep_otherwise(self, _: object) -> None:
        if self._workspace is not None:
            self._workspace.renew()

    def before_cell(self, info: ExecutionInfo) -> None:
        """Take away the widget that stands in a cell which runs again (`pre_run_cell`)."""
        if self._workspace is not None:
            self._workspace.clear_cell(info)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._workspace is not None:
            self._workspace.close()

    # -- the cell magic -----------------------------------------------------------

    @no_var_expand
    @line_cell_magic
    def deepseek(self, line: str, cell: str | None = None) -> None:
        """Ask DeepSeek, or manage the account; `getdoc` below tells the rest."""
        if cell is None:
            self.manage(line)
        else:
            self.ask(line, cell)

    def ask(self, line: str, text: str) -> None:
        """Ask the question of a cell and bind the answer where the line says so."""
        from . import options as opts
        from . import preflight

        if preflight.like_a_key(f"{line}\n{text}"):
            raise preflight.key_found()
        options = opts.parse(line)
        if options.help:
            print(manual())
            return
        on_empty = _first(options.on_empty, self.on_empty)
        answer = self.workspace.ask(self.request(options, text), notice=on_empty == "notice")
        if options.out is not None:
            self.workspace.shell.user_ns[options.out] = answer.json() if options.json else answer

    def request(self, options: Options, text: str) -> Request:
        """Make the request of a cell: its own options first, then the notebook's settings."""
        from .placeholders import expand

        names = self.workspace.shell.user_ns
        prompt = text if options.raw else expand(text, names, bound=self.data_tokens)
        return question(
            prompt.strip("\n"),
            model=_first(options.model, self.model),
            think=_first(options.think, self.think),
            system=_first(options.system, self.system),
            temperature=_first(options.temperature, self.temperature),
            top_p=_first(options.top_p, self.top_p),
            max_tokens=_first(options.max_tokens, self.max_tokens),
            stop=options.stop,
            json=options.json,
        )

    # -- the line magic -----------------------------------------------------------

    def manage(self, line: str) -> None:
        """Run a subcommand; without one, tell all there is."""
        words = _words(line)
        if not words or words[0] in {"-h", "--help", "help"}:
            print(manual())
            return
        name, *rest = words
        if name not in SUBCOMMANDS:
            near = nearest(name, SUBCOMMANDS)
            hint = f"Did you mean %deepseek {near}? " if near else ""
            raise InvalidOption(
                f"There is no subcommand {one_line(name, 40)!r}. {hint}All: %deepseek -h. "
                "To ask a question, start the cell with %%deepseek and write it in the lines below."
            )
        run: Callable[..., None] = getattr(self, f"do_{name}")
        run(*rest)

    def do_balance(self, *rest: str) -> None:
        """Show the balance."""
        _no_more("balance", rest)
        self.workspace.show_balance()

    def do_usage(self, *rest: str) -> None:
        """Add up what was spent."""
        _no_more("usage", rest)
        from . import render

        session = self.workspace.session
        self.workspace.publish(render.usage_shown(session.ledger.usage(session.account)))

    def do_models(self, *rest: str) -> None:
        """List the models that the API offers now."""
        from . import render

        _no_more("models", rest)
        self.workspace.publish(render.models_shown(self.workspace.session.models()))

    def do_prices(self, *rest: str) -> None:
        """Show the prices of this hour."""
        from datetime import UTC, datetime

        from . import prices, render

        _no_more("prices", rest)
        now = datetime.now(UTC)
        known = prices.price_list()
        self.workspace.publish(
            render.prices_shown(prices.prices_of_day(now), now, known.checked, known.source)
        )

    def do_login(self, *rest: str) -> None:
        """Take a key, typed in hidden."""
        from .render import money

        save = list(rest) == ["--save"]
        if rest and not save:
            raise InvalidOption(
                "%deepseek login asks for the key, hidden; nothing but --save may follow. If that "
                "was a key, it is in this notebook and its history now: replace it at "
                "https://platform.deepseek.com/api_keys"
            )
        key = Key(_typed_key())
        balance = self.workspace.sign_in(key)
        if save:
            _keep_key(key)
        left = money(balance.effective, balance.currency)
        print(f"Signed in: {left} left." + (" The key is in the keyring." if save else ""))

    def do_sandbox(self, *rest: str) -> None:
        """Switch to a simulated account, top it up, or switch back."""
        match rest:
            case ("on",):
                self._sandbox_on("0.05", "CNY")
            case ("on", balance):
                self._sandbox_on(balance, "CNY")
            case ("on", balance, currency):
                self._sandbox_on(balance, currency.upper())
            case ("top-up", more):
                self._sandbox_top_up(more)
            case ("off",):
                self._sandbox_off()
            case _:
                raise InvalidOption(
                    "%deepseek sandbox takes on [AMOUNT [CNY or USD]], top-up AMOUNT, or off, "
                    "for example: %deepseek sandbox on 0.05 CNY"
                )

    def _sandbox_on(self, balance: str, currency: str) -> None:
        from .render import money

        if currency not in {"CNY", "USD"}:
            raise InvalidOption(
                f"The sandbox keeps money in CNY or USD, not {one_line(currency, 40)!r}."
            )
        given = _amount(balance)
        sandbox = self.workspace.sandbox_on(given, currency)
        print(
            f"Sandbox on: a simulated account with {money(given, currency)}. No real money "
            "moves, nothing leaves this machine.\nTop it up at "
            f"{sandbox.top_up_url} or with: %deepseek sandbox top-up 10"
        )

    def _sandbox_top_up(self, more: str) -> None:
        from .render import money

        if self.workspace.sandbox is None:
            raise InvalidOption("The sandbox is off. Switch it on first: %deepseek sandbox on")
        self.workspace.sandbox.top_up(_amount(more))
        balance = self.workspace.session.balance()
        left = money(balance.effective, balance.currency)
        print(f"Topped up. {left} in the sandbox now.")

    def _sandbox_off(self) -> None:
        was_on = self.workspace.sandbox is not None
        self.workspace.sandbox_off()
        print(
            "Sandbox off. The next question goes to your own account."
            if was_on
            else "The sandbox is off already."
        )

    def do_config(self, *rest: str) -> None:
        """Show the settings."""
        from . import render

        _no_more("config", rest)
        rows = [
            (name, repr(getattr(self, name)), trait.help)
            for name, trait in sorted(self.traits(config=True).items())
        ]
        self.workspace.publish(render.settings_shown(type(self).__name__, rows))


# IPython asks so for the text of `%%deepseek?`, which is put together only then.
vars(DeepSeekMagics)["deepseek"].getdoc = manual


@context_matcher()
def complete(context: CompletionContext) -> SimpleMatcherResult:
    """Complete options, model names and subcommands after `%%deepseek` and `%deepseek`."""
    from . import options as opts

    line = context.line_with_cursor[: context.cursor_position].lstrip()
    token = context.token
    if line.startswith("%%deepseek "):
        found = opts.complete(line.removeprefix("%%deepseek "), token)
    elif line.startswith("%deepseek "):
        found = _next_words(line.removeprefix("%deepseek "))
    else:
        found = []
    return {"completions": [SimpleCompletion(text) for text in found], "suppress": bool(found)}


def _next_words(line: str) -> list[str]:
    *before, begun = line.split(" ")
    match [word for word in before if word]:
        case []:
            known = tuple(SUBCOMMANDS)
        case [name]:
            known = NEXT_WORDS.get(name, ())
        case _:
            known = ()
    return [word for word in known if word.startswith(begun)]


def help_alone(lines: list[str]) -> list[str]:
    """Turn a cell of nothing but `%%deepseek -h` into the line magic.

    IPython refuses a cell magic with an empty body before it is asked.
    """
    if "".join(lines).split() in (["%%deepseek", "-h"], ["%%deepseek", "--help"]):
        return ["%deepseek -h\n"]
    return lines


def load(shell: InteractiveShell) -> None:
    """Register the magics, their completion and their hook; loading twice is harmless."""
    if find(shell) is not None:
        return
    magics = DeepSeekMagics(shell)
    shell.register_magics(magics)
    shell.events.register("pre_run_cell", magics.before_cell)
    shell.Completer.custom_matchers.append(complete)
    shell.input_transformers_cleanup.insert(0, help_alone)
    html, text = _answer_formats(shell)
    html.for_type(Answer, _answer_html)
    text.for_type(Answer, _answer_text)


def unload(shell: InteractiveShell) -> None:
    """Take back all that `load` did, as if it had never been."""
    magics = find(shell)
    if magics is None:
        return
    magics.close()
    shell.events.unregister("pre_run_cell", magics.before_cell)
    if complete in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(complete)
    if help_alone in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(help_alone)
    for formatter in _answer_formats(shell):
        formatter.pop(Answer, None)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("deepseek", None)
    shell.magics_manager.registry.pop(type(magics).__name__, None)
    configurables: list[Any] = shell.configurables
    if magics in configurables:
        configurables.remove(magics)


def find(shell: InteractiveShell) -> DeepSeekMagics | None:
    """Give the magics that are loaded in *shell*, None when they are not."""
    # By name: after `%autoreload` the class is another one, the magics are the same.
    found: DeepSeekMagics | None = shell.magics_manager.registry.get(DeepSeekMagics.__name__)
    return found


def _answer_html(answer: Answer) -> str:
    from .render import text_shown

    return text_shown(answer.text).html


def _answer_text(answer: Answer, printer: Any, _: bool) -> None:
    from .render import text_shown

    printer.text(text_shown(answer.text).text)


def _answer_formats(shell: Any) -> tuple[Any, Any]:
    formatters = shell.display_formatter.formatters
    return formatters["text/html"], formatters["text/plain"]


def _first(given: Any, default: Any) -> Any:
    """Give what the cell says, else what the notebook is set to."""
    return default if given is None else given


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidOption(
            f"%deepseek cannot read its line ({error}). All: %deepseek -h"
        ) from None


def _no_more(name: str, rest: tuple[str, ...]) -> None:
    if rest:
        raise InvalidOption(
            f"%deepseek {name} takes nothing more; leave out {one_line(rest[0], 40)!r}."
        )


def _amount(text: str) -> Decimal:
    found = amount(text)
    if found is None:
        raise InvalidOption(f"{one_line(text, 40)!r} is not an amount; write for example 0.05")
    return found


def _typed_key() -> str:
    from getpass import getpass

    try:
        text = getpass("DeepSeek key (hidden): ").strip()
    except Exception as error:
        raise InvalidOption(
            "There is nobody to type the key in. Set DEEPSEEK_API_KEY before Jupyter starts."
        ) from error
    if not text:
        raise InvalidOption("No key was typed in; nothing has changed. Again: %deepseek login")
    return text


def _keep_key(key: Key) -> None:
    try:
        import keyring

        keyring.set_password("deepseek_magic", "api_key", key.reveal())
    except Exception as error:  # noqa: BLE001  # no package, no backend, or a locked one
        raise DeepSeekError(
            "Signed in, but the key was not kept, since no keyring can be used "
            f"({type(error).__name__}). It holds for this kernel. For a keyring: "
            "pip install keyring"
        ) from None
