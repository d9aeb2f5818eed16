"""`%%deepseek` asks, `%deepseek` manages: the edge to IPython.

The settings are traits of the magics class. What a subcommand does is told in
`commands`; sessions, notices and widgets are the workspace's.
"""

from __future__ import annotations

import logging
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from traitlets import Bool, Dict, Enum, Float, Integer, TraitError, Unicode, observe, validate

from .errors import one_line
from .wire import THINK_LEVELS, Answer, Request, amount, question
from .words import chosen, known, language, later, put_back, set_language, t, wrapped

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell

    from .last_error import Failure
    from .ledger import Pending
    from .options import Options
    from .schemas import Schema
    from .unfinished import Unfinished
    from .wire import Image, ImageLink
    from .workspace import Workspace

LOG = logging.getLogger("deepseek_magic")


class _Amount(Unicode[Any, Any]):
    """An amount of money as text; a number is taken as it is written."""

    def info(self) -> str:
        """Say what it takes."""
        return t("an amount as text, such as '5.00'")

    def validate(self, obj: Any, value: Any) -> str:  # noqa: ARG002  # as traitlets calls it
        """Give *value* as text, if it is an amount."""
        text = str(value) if isinstance(value, Real) and not isinstance(value, bool) else value
        if not isinstance(text, str) or amount(text) is None:
            raise TraitError(
                t(
                    "{name} takes an amount as text, such as '5.00', or None; {value} is none.",
                    name=self.name,
                    value=one_line(repr(value), 60),
                )
            )
        return text


class LanguageEnum(Enum[Any]):
    """The language of what is shown; what is none is told in one line."""

    def validate(self, obj: Any, value: Any) -> str:  # noqa: ARG002  # as traitlets calls it
        """Give *value*, if it is a language."""
        try:
            return known(value)
        except ValueError as error:
            raise TraitError(str(error)) from None


@magics_class
class DeepSeekMagics(Magics):
    """Settings for this notebook; a flag on a cell is stronger."""

    model = Unicode("flash", help=later("Asks this model when a cell names none.")).tag(config=True)
    language = LanguageEnum(
        ("auto", "en", "zh"),
        "auto",
        help=later(
            "Shows texts in English (en) or Chinese (zh); auto: as DEEPSEEK_MAGIC_LANGUAGE says, "
            "or else the locale."
        ),
    ).tag(config=True)
    think = Enum(
        THINK_LEVELS,
        None,
        allow_none=True,
        help=later("Thinks this much; the API's default when None."),
    ).tag(config=True)
    system = Unicode(
        None, allow_none=True, help=later("Sends this system message with every question.")
    ).tag(config=True)
    max_tokens = Integer(
        None, allow_none=True, help=later("Ends answers, thinking included, after so many tokens.")
    ).tag(config=True)
    temperature = Float(None, allow_none=True, help=later("Sets the temperature, 0 to 2.")).tag(
        config=True
    )
    top_p = Float(None, allow_none=True, help=later("Sets top_p, above 0 to 1.")).tag(config=True)
    thinking = Bool(True, help=later("Shows the model's reasoning, folded, above the answer.")).tag(
        config=True
    )
    on_empty = Enum(
        ("notice", "wait", "raise"),
        "notice",
        help=later(
            "Shows a notice when the money is gone, waits for a top-up and goes on, or only "
            "raises InsufficientBalance."
        ),
    ).tag(config=True)
    wait_hours = Float(
        24.0,
        min=0,
        help=later("Waits for a top-up so many hours, by a button or with --on-empty wait."),
    ).tag(config=True)
    explain_after = Float(
        180.0,
        min=0,
        help=later("Explains after so many seconds why a top-up may not be there yet."),
    ).tag(config=True)
    retries = Integer(
        3,
        min=0,
        help=later(
            "Asks so often again, after growing pauses, where surely nothing was billed: the API "
            "is overloaded, or the network down."
        ),
    ).tag(config=True)
    guard = Bool(
        True,
        help=later(
            "Shows the notice also below ordinary cells that meet DeepSeek's empty balance."
        ),
    ).tag(config=True)
    concurrency = Integer(
        None,
        allow_none=True,
        min=1,
        help=later(
            "Has at most so many rows of --each under way at once; None: as many as the account "
            "allows (2,500 for flash, 500 for pro)."
        ),
    ).tag(config=True)
    data_tokens = Integer(
        1000, min=1, help=later("Bounds what one {{value}} adds to a prompt, in tokens.")
    ).tag(config=True)
    chat_tokens = Integer(
        32_000,
        min=1,
        help=later(
            "Sends at most so many tokens of a conversation's earlier turns along; the oldest are "
            "left out first."
        ),
    ).tag(config=True)
    budget = _Amount(
        None, allow_none=True, help=later("Lets a cell spend no more than this, in your currency.")
    ).tag(config=True)
    day_limit = _Amount(
        None,
        allow_none=True,
        help=later(
            "Lets all notebooks together spend no more than this on a day, in your currency."
        ),
    ).tag(config=True)
    repair = Bool(
        True,
        help=later(
            "Sends an answer that is not the JSON asked for (--json, --schema) back once, to be "
            "put right."
        ),
    ).tag(config=True)
    off_peak = Bool(False, help=later("Waits for the cheaper hours before each question.")).tag(
        config=True
    )
    cache = Bool(
        False,
        help=later(
            "Shows answers that the very same questions had before, from the ledger and for "
            "nothing."
        ),
    ).tag(config=True)
    prices = Dict(
        help=later(
            "Your own prices per million tokens, stronger than the published ones: by model and "
            "currency, such as {'my-model': {'CNY': '0.02 1 4'}} (cached input, input, output)."
        )
    ).tag(config=True)
    timeout = Float(
        300.0,
        min=0.1,
        help=later("Gives an answer up after so many seconds without a sign of life."),
    ).tag(config=True)
    warn_below = Dict(
        {"CNY": "5", "USD": "1"},
        help=later("Calls the balance low under these amounts, by currency."),
    ).tag(config=True)
    keep = Enum(
        ("all", "figures", "nothing"),
        "all",
        help=later("Keeps questions and answers in the ledger, only their figures, or nothing."),
    ).tag(config=True)

    def __init__(self, shell: InteractiveShell, **settings: Any) -> None:
        self._language_before = chosen()
        self._workspace: Workspace | None = None
        super().__init__(shell, **settings)
        self._succeeded: set[str] = set()
        self._failure: Failure | None = None
        self.given = _Given({}, [], None)

    @property
    def workspace(self) -> Workspace:
        """What lives in this notebook; made on first use, since loading has to be quick."""
        if self._workspace is None:
            from .workspace import Workspace

            shell: Any = self.shell
            self._workspace = Workspace(shell, self, self._succeeded)
        return self._workspace

    @validate("warn_below")
    def _amounts_only(self, proposal: Any) -> Any:
        for currency, mark in proposal["value"].items():
            if amount(str(mark)) is None:
                raise TraitError(
                    t(
                        "warn_below takes an amount for each currency, such as {example}, "
                        "and {mark!r} for {currency!r} is none.",
                        example="{'CNY': '5'}",
                        mark=mark,
                        currency=currency,
                    )
                )
        return proposal["value"]

    @validate("prices")
    def _prices_only(self, proposal: Any) -> Any:
        from .errors import InvalidOption
        from .prices import own_prices

        try:
            own_prices(proposal["value"])
        except InvalidOption as error:
            raise TraitError(str(error)) from None
        return proposal["value"]

    @observe("language")
    def _speak(self, change: Any) -> None:
        if change["new"] == "auto":
            put_back(self._language_before)
        else:
            set_language(change["new"])
        describe()

    @observe("keep")
    def _keep_otherwise(self, _: object) -> None:
        if self._workspace is not None:
            self._workspace.account.renew()

    def before_cell(self, info: ExecutionInfo) -> None:
        """Take away the widget that stands in a cell which runs again (`pre_run_cell`)."""
        if self._workspace is not None:
            self._workspace.notices.clear(info)

    def turn_away(self, lines: list[str]) -> list[str]:
        """Let a re-run do nothing whose cell was run by hand meanwhile."""
        if self._workspace is not None and self._workspace.notices.turned_away():
            return ["pass\n"]
        return lines

    def after_cell(self, result: ExecutionResult) -> None:
        """Look at how a cell ended (`post_run_cell`); what fails here hurts no cell."""
        error = result.error_in_exec
        try:
            self._note_failure(result, error or result.error_before_exec)
            if result.success and self._workspace is not None:
                self._workspace.notices.ran(result)
            elif result.success:
                self._succeeded.add(getattr(result.info, "cell_id", None) or "")
            elif error is None:
                return
            elif self.guard:
                from .recognise import is_insufficient_balance

                if is_insufficient_balance(error):
                    self.workspace.notices.guard(result, error)
        except Exception:
            LOG.exception("the end of a cell was not looked at")

    def _note_failure(self, result: ExecutionResult, error: BaseException | None) -> None:
        """Keep the text of what has failed, for `%deepseek fix`; our own errors tell the way."""
        if error is not None:
            from .last_error import failure_of

            source = getattr(result.info, "raw_cell", None) or ""
            self._failure = failure_of(source, error) or self._failure

    def last_failure(self) -> Failure | None:
        """Give how a cell failed last; one of before the extension was loaded counts too."""
        from .last_error import failure_of, source_of

        error = getattr(sys, "last_value", None)
        if self._failure is None and error is not None and (source := source_of(error)):
            return failure_of(source, error)
        return self._failure

    @classmethod
    def class_get_trait_help(cls, trait: Any, inst: Any = None, helptext: str | None = None) -> str:
        """Describe a setting, in the user's language, for `%config DeepSeekMagics`."""
        if helptext is not None or language() == "en":
            return super().class_get_trait_help(trait, inst, helptext)
        head, *rest = super().class_get_trait_help(trait, inst, "").splitlines()
        lines = textwrap.indent("\n".join(wrapped(t(trait.help), 76)), "    ")
        return "\n".join([head, lines, *rest])

    def close(self) -> None:
        """Leave nothing behind."""
        self.language = "auto"
        if self._workspace is not None:
            self._workspace.close()

    # -- the cell magic -----------------------------------------------------------

    @no_var_expand
    @line_cell_magic
    def deepseek(self, line: str, cell: str | None = None) -> None:
        """Ask DeepSeek, or manage the account; all of it: %deepseek -h"""  # noqa: D400, D415
        try:
            if cell is None:
                from .commands import Commands

                Commands(self).run(line)
            else:
                self.ask(line, cell)
        except BaseException as error:
            if not hasattr(error, "_render_traceback_"):
                raise
            # rich draws its box from the frames below one that has this name: there are none.
            _rich_traceback_guard = True
            raise error.with_traceback(None)  # noqa: B904  # it is the same error

    def ask(self, line: str, text: str, row: Pending | None = None) -> None:
        """Ask the question of a cell and bind the answer where the line says so.

        *row* is the pending cell, where it is not the one that is running.
        """
        from . import options as opts
        from . import preflight

        if preflight.like_a_key(f"{line}\n{text}"):
            raise preflight.key_found()
        options = opts.parse(line)
        if options.help:
            print(_manual())
            return
        ask = self._ask_rows if options.each is not None else self._ask_once
        ask(options, line, text, self._terms(options), row)

    def go_on(
        self,
        text: str,
        out: str | None,
        *,
        max_tokens: int | None = None,
        dry_run: bool = False,
    ) -> None:
        """Go on, in a cell whose code is *text*, with the answer that broke off or was cut last.

        It is taken as the line of its own cell says, and bound to *out* too; *max_tokens*
        bounds the rest.
        """
        from . import options as opts

        begun = self.workspace.begun() or self.workspace.newest_unfinished()
        begun = replace(begun, max_tokens=max_tokens)
        known = begun.line is not None
        options = opts.parse(begun.line or "") if known else opts.Options(json=begun.question.json)
        if dry_run:
            terms = self._terms(options)
            self.workspace.preview(begun.rest, repair=self._repairs(options), **terms)
            return
        value = self._answer(options, begun.question, text, begun=begun, **self._terms(options))
        if out is not None:
            self.workspace.shell.user_ns[out] = value

    def _terms(self, options: Options) -> dict[str, Any]:
        return {
            "budget": _first(options.budget, self.budget),
            "anyway": options.anyway,
            "off_peak": options.off_peak or self.off_peak,
        }

    def _ask_once(
        self, options: Options, line: str, text: str, terms: dict[str, Any], row: Pending | None
    ) -> None:
        begun = None if options.dry_run else self.workspace.begun(row)
        if begun is not None:  # what it was asked counts, whatever its names stand for by now
            self._answer(options, begun.question, _whole(line, text), row=row, begun=begun, **terms)
            return
        request = self.request(options, text, self._schema(options))
        cache = (options.cache or self.cache) and not options.fresh
        terms = {**terms, "chat": options.chat, "chat_tokens": self.chat_tokens}
        if options.dry_run:
            self.workspace.preview(request, cache=cache, repair=self._repairs(options), **terms)
            return
        self._answer(options, request, _whole(line, text), row=row, cache=cache, **terms)

    def _answer(
        self,
        options: Options,
        request: Request,
        text: str,
        *,
        row: Pending | None = None,
        begun: Unfinished | None = None,
        **terms: Any,
    ) -> Any:
        """Ask, bind what the options make of the answer, and give it."""
        schema = self._schema(options)
        answer = self.workspace.ask(
            request,
            text=text,
            on_empty=_first(options.on_empty, self.on_empty),
            row=row,
            schema=schema,
            repair=self._repairs(options),
            fresh=options.fresh,
            begun=begun,
            **terms,
        )
        value = _value(answer, schema) if request.json else answer
        self._bind(options, value)
        if options.code:
            self.workspace.place_code(answer)
        return value

    def _ask_rows(
        self, options: Options, line: str, text: str, terms: dict[str, Any], row: Pending | None
    ) -> None:
        from .row_cells import Rows, data_of, model_of

        names = self.workspace.shell.user_ns
        settings = self._settings(options)
        rows = Rows(
            data=data_of(options.each or "", names),
            template=text.strip("\n"),
            settings=settings,
            model=question("", **settings).model,
            names=names,
            column=_first(options.column, "answer"),
            limit=options.limit,
            concurrency=_first(options.concurrency, self.concurrency),
            schema=None if options.schema is None else model_of(options.schema, names),
            json=options.json,
            repair=self._repairs(options),
            fresh=options.fresh,
            data_tokens=self.data_tokens,
            out=options.out,
        )
        if options.dry_run:
            self.workspace.preview_rows(rows, **terms)
            return
        self.workspace.ask_rows(
            rows,
            text=_whole(line, text),
            bind=lambda frame: self._bind(options, frame),
            on_empty=_first(options.on_empty, self.on_empty),
            row=row,
            **terms,
        )

    def _bind(self, options: Options, value: object) -> None:
        if options.out is not None:
            self.workspace.shell.user_ns[options.out] = value

    def _repairs(self, options: Options) -> bool:
        return self.repair and not options.no_repair

    def _schema(self, options: Options) -> Schema | None:
        if options.schema is None:
            return None
        from .row_cells import model_of
        from .schemas import schema_of

        return schema_of(model_of(options.schema, self.workspace.shell.user_ns))

    def _settings(self, options: Options) -> dict[str, Any]:
        """Give the settings of one question: the cell's options first, then the notebook's."""
        return {
            "model": _first(options.model, self.model),
            "think": _first(options.think, self.think),
            "system": _first(options.system, self.system),
            "temperature": _first(options.temperature, self.temperature),
            "top_p": _first(options.top_p, self.top_p),
            "max_tokens": _first(options.max_tokens, self.max_tokens),
            "stop": options.stop,
        }

    def request(self, options: Options, text: str, schema: Schema | None = None) -> Request:
        """Make the request of a cell: its own options first, then the notebook's settings."""
        from .placeholders import expand

        names = self.workspace.shell.user_ns
        prompt = text if options.raw else expand(text, names, bound=self.data_tokens)
        settings = self._settings(options)
        if schema is not None:
            parts = (settings["system"], schema.instructions())
            settings["system"] = "\n\n".join(part for part in parts if part)
        return question(
            prompt.strip("\n"),
            **settings,
            json=options.json or schema is not None,
            images=self._images(options),
        )

    def _images(self, options: Options) -> tuple[Image | ImageLink, ...]:
        if not options.image:
            return ()
        from . import images
        from .row_cells import image_of

        names = self.workspace.shell.user_ns
        return tuple(one for text in options.image for one in images.read(image_of(text, names)))


def _value(answer: Answer, schema: Schema | None) -> Any:
    """Give what a cell binds that asked for JSON; one that was kept is read only now."""
    if schema is None:
        return answer.json()
    return schema.bound(answer.parsed if answer.schema is schema else schema.object(answer.text))


def _whole(line: str, text: str) -> str:
    """Give the whole cell as it stands."""
    return f"%%deepseek {line}".rstrip() + f"\n{text}"


def _manual() -> str:
    from .commands import manual

    return manual()


# IPython asks so for the text of `%%deepseek?`, which is put together only then.
vars(DeepSeekMagics)["deepseek"].getdoc = _manual

_MAGIC = later("Ask DeepSeek, or manage the account; all of it: %deepseek -h")
_SETTINGS = later("Settings for this notebook; a flag on a cell is stronger.")


def describe() -> None:
    """Choose the language of docstrings, which IPython reads as they are (`%quickref`)."""
    vars(DeepSeekMagics)["deepseek"].__doc__ = t(_MAGIC)
    DeepSeekMagics.__doc__ = t(_SETTINGS)


@context_matcher()
def complete(context: CompletionContext) -> SimpleMatcherResult:
    """Complete options, model names and subcommands after `%%deepseek` and `%deepseek`."""
    from . import options as opts

    line = context.line_with_cursor[: context.cursor_position].lstrip()
    token = context.token
    if line.startswith("%%deepseek "):
        chats = _chat_names() if _CHAT_NEXT.search(line) else []
        found = opts.complete(line.removeprefix("%%deepseek "), token, chats)
    elif line.startswith("%deepseek "):
        found = _next_words(line.removeprefix("%deepseek "))
    else:
        found = []
    return {"completions": [SimpleCompletion(text) for text in found], "suppress": bool(found)}


_CHAT_NEXT = re.compile(r"\s(?:-c|--chat)(?:=|\s+)\S*$")


def _chat_names() -> list[str]:
    """Give the names of the conversations of the notebook; none where nobody can tell."""
    from IPython import get_ipython

    try:
        magics = find(get_ipython())
        return [name for name in magics.workspace.session.talks.names() if name] if magics else []
    except Exception as error:  # noqa: BLE001  # no key, no ledger: there is nothing to propose
        LOG.info("the conversations are not known: %s", error)
        return []


def _next_words(line: str) -> list[str]:
    from .commands import NEXT_WORDS, SUBCOMMANDS
    from .options import quoted

    *before, begun = line.split(" ")
    match [word for word in before if word]:
        case []:
            known = tuple(SUBCOMMANDS)
        case [name]:
            known = NEXT_WORDS.get(name, ())
        case ["chat", "show" | "forget"]:
            known = tuple(quoted(chat) for chat in _chat_names() if chat)
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


@dataclass(frozen=True, slots=True)
class _Given:
    """What the shell was given, as it was given: `%autoreload` makes new functions of ours."""

    hooks: Mapping[str, Callable[..., None]]
    transformers: list[Callable[[list[str]], list[str]]]
    matcher: Any


def load(shell: InteractiveShell) -> None:
    """Register the magics, their completion and their hook; loading twice is harmless."""
    if find(shell) is not None:
        return
    magics = DeepSeekMagics(shell)
    describe()
    shell.register_magics(magics)
    magics.given = _Given(
        {"pre_run_cell": magics.before_cell, "post_run_cell": magics.after_cell},
        [magics.turn_away, help_alone],
        complete,
    )
    for event, hook in magics.given.hooks.items():
        shell.events.register(event, hook)
    shell.Completer.custom_matchers.append(magics.given.matcher)
    shell.input_transformers_cleanup[:0] = magics.given.transformers
    html, text = _answer_formats(shell)
    html.for_type(Answer, _answer_html)
    text.for_type(Answer, _answer_text)


def unload(shell: InteractiveShell) -> None:
    """Take back all that `load` did, as if it had never been."""
    magics = find(shell)
    if magics is None:
        return
    magics.close()
    ours = magics.given
    for event, hook in ours.hooks.items():
        shell.events.unregister(event, hook)
    if ours.matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(ours.matcher)
    for transformer in ours.transformers:
        if transformer in shell.input_transformers_cleanup:
            shell.input_transformers_cleanup.remove(transformer)
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

    return text_shown(answer).html


def _answer_text(answer: Answer, printer: Any, _: bool) -> None:
    from .render import text_shown

    printer.text(text_shown(answer).text)


def _answer_formats(shell: Any) -> tuple[Any, Any]:
    formatters = shell.display_formatter.formatters
    return formatters["text/html"], formatters["text/plain"]


def _first(given: Any, default: Any) -> Any:
    """Give what the cell says, else what the notebook is set to."""
    return default if given is None else given
