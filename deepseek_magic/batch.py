"""A question for every row, from the data to the frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from . import frames, schemas, templates
from .clearance import Terms
from .crowd import Job
from .elements import money
from .errors import (
    DeepSeekError,
    InsufficientBalance,
    Interrupted,
    InvalidOption,
    OutOfMoney,
    one_line,
)
from .progress import bar
from .survey import Questions, forecast, survey
from .wire import Answer
from .words import sentences, t

if TYPE_CHECKING:
    from .jobs import Forecast, Progress
    from .survey import Asker


@dataclass(frozen=True, slots=True)
class Asking:
    """What a caller wants of a question for every row; see `Session.map`."""

    data: object
    template: str
    settings: Mapping[str, Any]
    column: str = "answer"
    limit: int | None = None
    concurrency: int | None = None
    schema: object = None
    json: bool = False
    fresh: bool = False
    names: Mapping[str, object] | None = None
    cell: str | None = None
    data_tokens: int = 1000
    repair: bool = True

    def __post_init__(self) -> None:
        if self.settings.get("images"):
            raise InvalidOption(
                t(
                    "`images` do not go with a question for every row: there is no picture per "
                    "row yet."
                ),
                t("Nothing was sent."),
                t(
                    "Ask in a loop: {code}",
                    code="[session.ask(question, images=[one]) for one in pictures]",
                ),
            )


def ask_rows(
    asker: Asker,
    asking: Asking,
    terms: Terms,
    *,
    progress: bool | Callable[[Progress], object],
    confirm: Callable[[Forecast], object] | None,
) -> Any:
    """Ask about every row; give the frame, or raise with the frame so far in `.partial`."""
    questions = _questions(asking)
    frames.new_columns(questions.data, _columns(asking, questions))
    found = survey(asker, questions, fresh=asking.fresh)
    if confirm is not None and (reckoned := forecast(asker, found, terms)).is_doubtful:
        confirm(reckoned)
    if asking.fresh:
        asker.unfinished.setdefault(found.key, asker.now())
    job = Job(asker, found, terms, at_once=asking.concurrency, cell=asking.cell)
    with bar(progress) as told:
        try:
            job.run(told)
        except (DeepSeekError, KeyboardInterrupt) as error:
            ended = _told(asker, job, error)
            ended.progress = job.progress
            with suppress(Exception):  # such as a file that has changed
                ended.partial = _frame(questions, asking, job)
            raise ended from None
    asker.unfinished.pop(found.key, None)
    try:
        return _frame(questions, asking, job)
    except Exception as fault:
        raise DeepSeekError(
            t(
                "All rows were asked, and no frame could be made of them ({why}).",
                why=one_line(repr(fault)),
            ),
            t(
                "Nothing is lost: run it again with other data types, and the answers come from "
                "the ledger for nothing."
            ),
        ) from fault


def forecast_of(asker: Asker, asking: Asking, terms: Terms) -> Forecast:
    """Reckon what `ask_rows` would ask and what that costs; sends nothing of it."""
    questions = _questions(asking)
    frames.new_columns(questions.data, _columns(asking, questions))
    return forecast(asker, survey(asker, questions, fresh=asking.fresh), terms)


def known_rows(asker: Asker, asking: Asking) -> Any:
    """Give the frame that `ask_rows` would, with the answers of earlier alone; sends nothing."""
    questions = _questions(asking)
    job = Job(asker, survey(asker, questions, fresh=asking.fresh), Terms())
    job.settle()
    return _frame(questions, asking, job)


def _questions(asking: Asking) -> Questions:
    for name, value in (("limit", asking.limit), ("concurrency", asking.concurrency)):
        if value is not None and (type(value) is not int or value < 1):
            raise InvalidOption(
                t(
                    "`{name}` cannot be {value!r}; it is a whole number from 1.",
                    name=name,
                    value=value,
                ),
                t("Nothing was sent."),
            )
    read = frames.read(asking.data, limit=asking.limit)
    schema = None if asking.schema is None else schemas.schema_of(asking.schema)
    filled = templates.read(
        asking.template, read.columns, names=asking.names, bound=asking.data_tokens
    )
    return Questions(read, filled, asking.settings, schema, asking.json, asking.repair)


def _columns(asking: Asking, questions: Questions) -> tuple[str, ...]:
    schema = questions.schema
    new = (asking.column,) if schema is None else schema.columns(asking.column)
    return (*new, "cost", "error")


def _frame(questions: Questions, asking: Asking, job: Job) -> Any:
    results, schema = job.tally.results, questions.schema
    columns: dict[str, list[Any]] = {}
    if schema is None or not schema.fields:
        columns[asking.column] = results.values
    else:
        for name in schema.fields:
            columns[name] = [None if row is None else row.get(name) for row in results.values]
    columns |= {"cost": results.costs, "error": results.errors}
    return questions.data.frame(columns)


# Words


def _told(
    asker: Asker, job: Job, error: DeepSeekError | KeyboardInterrupt
) -> DeepSeekError | Interrupted:
    """Add to an error how many rows are done, how many are left and what these will cost."""
    if not isinstance(error, DeepSeekError):
        return Interrupted(
            sentences(
                t("the rows were stopped."),
                job.tally.counted(),
                t("Run again: only the missing ones are asked."),
            )
        )
    if isinstance(error, OutOfMoney):
        asker.with_facts(error, Answer())
    if isinstance(error, InsufficientBalance):
        next_step: tuple[str, ...] = (
            t("Top up, then run it again: only the missing rows are asked."),
        )
    else:
        next_step = error.told[1:]
    error.retell(error.what, job.tally.counted(), _rest(job), *next_step)
    return error


def _rest(job: Job) -> str:
    progress = job.progress
    if progress.expected is None or progress.cost is None or progress.currency is None:
        return ""
    rest = max(progress.expected - progress.cost, Decimal(0))
    if not rest:
        return ""
    return t("They will cost about {money}.", money=money(rest, progress.currency))
