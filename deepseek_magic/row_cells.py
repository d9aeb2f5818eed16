"""The way of a question for every row through a cell: forecast, bar, summary, notice."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .elements import Shown
from .errors import (
    DeepSeekError,
    InsufficientBalance,
    Interrupted,
    InvalidOption,
    OutOfMoney,
    OverLimit,
    nearest,
    one_line,
)
from .render import line_html
from .row_view import row_view
from .rows import Ended, ended_shown, reach_line
from .schemas import schema_of
from .words import later, sentences, t

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .jobs import Forecast, Progress
    from .notices import Notices
    from .row_view import RowView
    from .session import Session
    from .waits import Asking, Waits

YES, NO = ("", "y", "yes"), ("n", "no")


_FILE = re.compile(r"(?s).+\.((csv|tsv)(\.(gz|bz2|zip|xz|zst))?|parquet|pq)", re.IGNORECASE)


def data_of(text: str, names: Mapping[str, object]) -> object:
    """Give what the option --each means: the path of a file, or the value of an expression."""
    if _FILE.fullmatch(text) and _is_no_attribute(text, names):
        return text
    return _value("--each", text, names)


_PICTURE = re.compile(r"(?s).+\.(png|jpe?g|webp|gif|svg|pdf|bmp|tiff?|heic|avif)", re.IGNORECASE)
_ADDRESS = re.compile(r"(?s)(https?://|\.{0,2}/|~|[A-Za-z]:\\).*", re.IGNORECASE)


def image_of(text: str, names: Mapping[str, object]) -> object:
    """Give what the option --image means: a path, an address, or the value of an expression."""
    is_file = _PICTURE.fullmatch(text) is not None or _is_file(text)
    is_path = is_file and _is_no_attribute(text, names)
    return text if is_path or _ADDRESS.fullmatch(text) else _value("--image", text, names)


def _is_file(text: str) -> bool:
    """Tell whether *text* is the path of a file, and no code that is as long as none."""
    with suppress(OSError, ValueError):
        return Path(text).is_file()
    return False


def _is_no_attribute(text: str, names: Mapping[str, object]) -> bool:
    return text.partition(".")[0] not in names or Path(text).expanduser().exists()


def model_of(text: str, names: Mapping[str, object]) -> object:
    """Give what the option --schema names."""
    return _value("--schema", text, names)


def _value(option: str, text: str, names: Mapping[str, object]) -> object:
    said = one_line(text, 60)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a text that may be no Python at all
            code = compile(text, option, "eval", 0, True)  # no flags of this file
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        why = getattr(error, "msg", None) or error
        raise InvalidOption(
            t(
                '{option} "{text}" is no expression of Python ({why}), nor a file of a kind that '
                "is read here."
                if option in ("--each", "--image")
                else '{option} "{text}" is no expression of Python ({why}).',
                option=option,
                text=said,
                why=one_line(str(why), 60),
            ),
            t("Nothing was sent."),
        ) from None
    try:
        return eval(code, dict(names))  # noqa: S307  # the user's own code, in the user's kernel
    except NameError as error:
        near = nearest(error.name or "", [name for name in names if name[:1] != "_"])
        raise InvalidOption(
            t(
                '{option} "{text}" names {name}, which does not exist in this notebook.',
                option=option,
                text=said,
                name=one_line(error.name or t("something"), 40),
            ),
            t("Did you mean {word}?", word=one_line(near, 40)) if near else "",
            t("Nothing was sent."),
            t("Define it in a cell above, then run this one again.")
            if text.isidentifier()
            else t(
                "An expression with quotation marks in it goes in quotes as a whole: "
                '{option} "{code}"',
                option=option,
                code=_EXAMPLES[option],
            ),
        ) from error
    except Exception as error:
        why = one_line(f"{type(error).__name__}: {error}", 120)
        raise InvalidOption(
            t('{option} "{text}" fails: {why}.', option=option, text=said, why=why),
            t("Nothing was sent."),
        ) from error


_EXAMPLES = {
    "--each": "df[df.lang == 'de']",
    "--schema": "models['label']",
    "--image": "figures['sales']",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """What a cell asks about every row.

    *settings* are those of one question, *model* its full name. *names* is the
    notebook's namespace, *out* the name that the frame is bound to.
    """

    data: object
    template: str
    settings: Mapping[str, Any]
    model: str
    names: Mapping[str, object]
    column: str = "answer"
    limit: int | None = None
    concurrency: int | None = None
    schema: object = None
    json: bool = False
    repair: bool = True
    fresh: bool = False
    data_tokens: int = 1000
    out: str | None = None

    def asked(self) -> dict[str, Any]:
        """Give what `Session.forecast` takes beside data and template."""
        return {
            "column": self.column,
            "data_tokens": self.data_tokens,
            "limit": self.limit,
            "schema": self.schema,
            "json": self.json,
            "fresh": self.fresh,
            "names": self.names,
            **self.settings,
        }

    @property
    def new(self) -> tuple[str, ...]:
        """The columns of the answers."""
        if self.schema is None:
            return (self.column,)
        return schema_of(self.schema).columns(self.column)


class After(Protocol):
    """Gives what follows the figures in the line: what is left, what is to be warned of."""

    def __call__(self, *, answered: bool) -> list[str]:
        """Give it; *answered* tells that the rows have come to their end."""


class RowCell:
    """The run of one cell that asks about every row."""

    def __init__(
        self,
        shell: InteractiveShell,
        session: Session,
        waits: Waits,
        notices: Notices,
        asking: Asking,
        *,
        alone: bool,
    ) -> None:
        self._shell = shell
        self._session = session
        self._waits = waits
        self._notices = notices
        self._asking = asking
        self._alone = alone

    def run(self, rows: Rows, bind: Callable[[Any], object], after: After) -> None:
        """Ask until all rows have had their turn; *bind* is given each frame that there is."""
        confirm: Callable[[Forecast], object] | None = self._confirm
        while True:
            view = row_view(self._shell, attended=self._asking.attended, alone=self._alone)
            try:
                ended = self._asked(rows, view, confirm)
            except OutOfMoney as error:
                empty = error
                self._partial(rows, view, error, bind, after)
            except (DeepSeekError, Interrupted) as error:
                self._partial(rows, view, error, bind, after)
                raise
            except BaseException:
                view.drop()
                raise
            else:
                bind(ended.frame)
                self._end(rows, view, _with(ended, after(answered=True)))
                return
            self._alone = False  # what stands there is to stay
            self._waits.for_money(empty, self._asking)
            confirm = None

    def _asked(
        self, rows: Rows, view: RowView, confirm: Callable[[Forecast], object] | None
    ) -> Ended:
        latest: list[Progress] = []

        def told(now: Progress) -> None:
            latest[:] = [now]
            view.show(now)

        frame = self._session.map(
            rows.data,
            rows.template,
            concurrency=rows.concurrency,
            budget=self._asking.cap,
            anyway=self._asking.anyway,
            progress=told,
            confirm=confirm,
            repair=rows.repair,
            cell=self._asking.place.cell,
            **rows.asked(),
        )
        return Ended(latest[0], frame, rows.new)

    def _partial(
        self,
        rows: Rows,
        view: RowView,
        error: DeepSeekError | Interrupted,
        bind: Callable[[Any], object],
        after: After,
    ) -> None:
        """Bind and show what there is when a job ends early; the error is the caller's."""
        if error.partial is not None:
            bind(error.partial)
        now = error.progress
        if now is None or not (now.done or now.cost is None or now.cost):
            view.drop()
            return
        ended = Ended(now, error.partial, rows.new, _ending(error))
        self._end(rows, view, _with(ended, after(answered=False)))

    def _end(self, rows: Rows, view: RowView, ended: Ended) -> None:
        view.end(ended_shown(ended, _advice(rows)), _stamp(rows, ended))

    # -- before -------------------------------------------------------------------

    def _confirm(self, forecast: Forecast) -> None:
        """Say that the money may not do, and ask whether to go on where somebody can answer."""
        line = reach_line(forecast)
        if not line:
            return
        if not self._is_asked():
            self._notices.publish(Shown(line_html(line), line))
            return
        question = sentences(line, t("Ask as far as it goes? [Y/n] "))
        while (said := _input(question).strip().lower()) not in (*YES, *NO):
            question = t("Please answer y (ask as far as it goes) or n (send nothing): ")
        if said in NO:
            raise Interrupted(
                sentences(
                    t("the rows were not asked. Nothing was sent."),
                    t("For fewer: --limit N; without being asked: --anyway"),
                )
            )

    def _is_asked(self) -> bool:
        """Tell whether somebody sits in front who has not decided yet."""
        asking, cell = self._asking, self._asking.cell
        if asking.anyway or asking.on_empty != "notice":
            return False
        if cell is not None:
            return cell.parent["content"].get("allow_stdin") is True and not cell.replayed
        if getattr(self._shell, "kernel", None) is not None:
            return False
        return sys.stdin is not None and sys.stdin.isatty()


def _input(question: str) -> str:
    """Ask in whatever is in front; no answer means no."""
    try:
        return input(question)
    except EOFError:
        return NO[0]
    except KeyboardInterrupt:
        raise Interrupted(t("the rows were not asked. Nothing was sent.")) from None


def _with(ended: Ended, after: list[str]) -> Ended:
    return replace(ended, after=tuple(after))


def _ending(error: DeepSeekError | Interrupted) -> str:
    """Say in two words why this is not the whole."""
    match error:
        case InsufficientBalance():
            return OUT_OF_MONEY
        case OverLimit():
            return LIMIT_REACHED
        case Interrupted():
            return INTERRUPTED
        case _:
            return ENDED_EARLY


OUT_OF_MONEY, LIMIT_REACHED = later("out of money"), later("limit reached")
INTERRUPTED, ENDED_EARLY = later("interrupted"), later("ended early")


def _advice(rows: Rows) -> str:
    """Say how to get at the frame, where it has no name."""
    if rows.out is not None:
        return ""
    return t(
        "The frame is bound to no name. Run the cell again without --fresh and with -o NAME: what "
        "is answered costs nothing."
        if rows.fresh
        else "The frame is bound to no name. Run the cell again with -o NAME: what is answered "
        "costs nothing."
    )


def _stamp(rows: Rows, ended: Ended) -> dict[str, Any]:
    """Give what the output's metadata says of the job; an unknown cost is null."""
    now = ended.progress
    return {
        "model": rows.model,
        "cost": None if now.cost is None else str(now.cost),
        "cost_range": None,
        "currency": now.currency,
        "tokens": None,
        "ending": ended.ending or "done",
        "rows": {
            "all": now.rows,
            "asked": now.asked,
            "kept": now.kept,
            "repeated": now.repeated,
            "failed": now.failed,
        },
    }
