"""The way of one query: checked, sent, priced, recorded.

The magic, the button and plain Python all come through `Session.stream`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from . import continuation, limits, preflight, prices, schemas
from .books import Books
from .chats import HISTORY_TOKENS, Chat, Chats, NextTurn, Turn
from .clearance import Admitted, Clearance, Terms, estimate_at
from .client import DEEPSEEK, Client, Model
from .elements import clock_time, money
from .errors import (
    BrokenAnswer,
    DeepSeekError,
    InsufficientBalance,
    InvalidOption,
    NoKey,
    OutOfMoney,
    RequestRefused,
    UnusableAnswer,
    WrongKey,
)
from .failures import beside, with_way_on
from .home import find_key, ledger_path
from .ledger import Asked, Keep, Ledger, Outcome, State
from .limits import Cap
from .purse import Purse
from .records import FREE, Ended, answer_of, as_sent, at_most, name_of, price_columns, state_of
from .repair import (
    Reading,
    asked_again,
    both,
    is_put_off,
    is_repair,
    problems_of,
    repair_of,
    together,
    unrepaired,
    with_form,
)
from .top_up import Look, Watch, pauses
from .wire import EXACT, Answer, Balance, CostRange, Key, Request, Usage
from .words import sentences, t

if TYPE_CHECKING:
    import pandas as pd

    from .estimate import Estimate
    from .jobs import Forecast, Progress
    from .limits import Preview

LOG = logging.getLogger("deepseek_magic")

FRESH_SECONDS = 0.5
"""How long the error of an empty account waits, at most, for a fresh reading of the balance."""

READING_SECONDS = 5.0
"""How long a session's first answer waits for the reading that tells the currency."""

RETRY_AFTER_AT_MOST = 60.0
"""A pause that the API asks for and that is longer than these seconds is the user's to decide."""

CURRENCY_SECONDS = 0.25
"""How long an account's first question waits for it, at most."""

DAY_SECONDS = 86400.0

FRESH = timedelta(seconds=2)

BROKEN_FOR = timedelta(days=7)
"""An answer that broke off longer ago is not gone on with unless it is given."""

DISK_SECONDS = 2.0
"""How long an answer waits for its record to be on disk before it is given out all the same."""

LOOK_SECONDS = 30.0
"""How often a wait for cheaper hours looks at the clock, at the least: it may be set, or sleep."""


def now() -> datetime:
    """Give the time, aware."""
    return datetime.now(UTC)


class Session:
    """One account, its ledger, and the questions asked of it.

    *api_key* and *base_url* come from DEEPSEEK_API_KEY and DEEPSEEK_BASE_URL
    when not given, *ledger* is a path or ":memory:", and *timeout* is how many
    seconds the API may be silent during an answer. A question that was turned
    away unbilled, by an overloaded API or a network that is down, is asked
    again up to *retries* times, after growing pauses. *currency* is learned
    from the balance when it is not given. *day_limit* is what all kernels together
    may spend on a day, in that currency; None sets no limit. *prices* are the
    user's own, per million tokens, as `prices.own_prices` reads them. *clock* gives
    the time, aware, which decides the price. Safe to use from several threads.
    """

    def __init__(
        self,
        *,
        api_key: str | Key | None = None,
        base_url: str | None = None,
        ledger: str | Path | None = None,
        timeout: float = 300.0,
        currency: str | None = None,
        keep: Keep = "all",
        notebook: str | None = None,
        retries: int = 3,
        day_limit: object = None,
        prices: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.base_url = base_url or os.environ.get("DEEPSEEK_BASE_URL") or DEEPSEEK
        self.timeout = timeout
        self.retries = retries
        self.notebook = notebook
        self.ledger = Ledger(ledger_path() if ledger is None else ledger, keep=keep)
        self.spent: dict[str, Decimal] = {}
        """What this session's queries cost, by currency; of a range its likely figure."""
        self.listeners: list[Callable[[], None]] = []
        """Called, from any thread, when a balance was read or a query has ended."""
        self.answered: dict[str, Answer] = {}
        """Answers to rows, by the name of the question, where the ledger keeps no texts."""
        self.unrepaired: dict[str, Answer] = {}
        """Answers that are no good and were paid for, when their repair could not be, by name."""
        self.unfinished: dict[str, datetime] = {}
        """When rows that were to be asked anew were begun, as long as they are not all done."""
        self._clock = clock
        self._key = Key(api_key.strip()) if isinstance(api_key, str) else api_key
        self._currency = currency
        self._waited = self._asked_currency = False
        self._watch = Watch()
        self.was_refused = False
        """Whether the last answer came after a refusal: a balance known before it is no more."""
        self._last: Answer | None = None
        self._unpriced: list[tuple[Ended, Outcome]] = []
        self._unsure: dict[str, Ended] = {}
        """Questions that may have been billed although no answer came, by what was sent."""
        self._lock = threading.RLock()
        self._client: Client | None = None
        self._purse: Purse | None = None
        self._clearance: Clearance | None = None
        self._books: Books | None = None
        self._chats: Chats | None = None
        self._swept = False
        self._closed = False
        self.day_limit = day_limit
        self.own_prices = prices
        self.warn_below: Mapping[str, Decimal] = {}
        """Under these amounts, by currency, `alerts` warns of a low balance."""

    def __repr__(self) -> str:
        return f"Session(base_url={self.base_url!r}, ledger={self.ledger.path!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- asking -------------------------------------------------------------------

    def ask(self, prompt: str | Request, *, cell: str | None = None, **settings: Any) -> Answer:
        """Ask *prompt* and return the whole answer.

        *settings* are those of `stream`. An error that comes after part of an
        answer had arrived carries that part as `.answer`.
        """
        answer = Answer()
        with closing(self.stream(prompt, cell=cell, **settings)) as answers:
            for answer in answers:  # noqa: B007  # the last one is the whole
                pass
        return answer

    def stream(
        self,
        prompt: str | Request,
        *,
        cell: str | None = None,
        budget: object = None,
        anyway: bool = False,
        off_peak: bool = False,
        cache: bool = False,
        schema: object = None,
        repair: bool = True,
        chat: str | NextTurn | None = None,
        chat_tokens: int = HISTORY_TOKENS,
        **settings: Any,
    ) -> Generator[Answer]:
        """Ask *prompt* and give the growing answer; the last one has its cost.

        The settings are `model` ("flash", "pro" or a name of the API's),
        `think` ("off", "low", "high", "max"), `system`, `temperature`, `top_p`,
        `max_tokens`, `stop`, `json` and `images` (figures, PIL images, bytes, paths
        or addresses, one or a list); the API's defaults hold for those not given.
        *cell* names the place in the ledger. *budget* is what the question may cost
        at most, in the account's currency, or a `limits.Cap` that it shares with
        others; without `max_tokens` it sets one. A question that the limits or the
        balance do not cover raises `OverLimit` or `InsufficientBalance` before
        anything is sent, unless *anyway*. With *off_peak* it waits for the cheaper
        hours. With *cache* a question that has its answer in the ledger gets that
        one, for nothing. Closing the generator closes the connection; what was
        received until then is recorded.

        *schema* asks for JSON that fits it, and puts what it says into `.parsed`: a
        model of Pydantic, `list[Model]`, a dataclass, whatever else Pydantic takes for a
        type, or a JSON schema as a dict. An answer that is not the JSON asked for is sent
        back once, to be put right, within the same *budget*: a note says so, the text then
        grows anew, and the last answer has the cost of both. With *repair* False that is
        not done.

        With *chat* it goes on with the conversation of that name, "" for the notebook's
        own: the turns before it, up to *chat_tokens* of the newest, are sent along, and it
        becomes one when its answer is whole. The turn stands in the place of its *cell*, and
        takes that of an earlier one; without a cell it is added at the end.
        """
        form = None if schema is None else schemas.schema_of(schema)
        request = self._request(prompt, {**settings, "schema": form, "repair": repair})
        turn = self._turn(request, chat, cell=cell, tokens=chat_tokens)
        request, reading = request if turn is None else turn.request, Reading(form, turn)
        asking = self._admitted(
            *(request, cell, Terms(_cap(budget), anyway), reading),
            before=None,
            repair=repair,
            off_peak=off_peak,
        )
        return self._cached_or(request, reading, asking) if cache else asking

    def resume(
        self, begun: Answer | BaseException | None = None, *, cell: str | None = None, **terms: Any
    ) -> Answer:
        """Go on with an answer that broke off or was cut, and return the whole of it.

        *begun* is the answer so far, or an error that carries one; None is what
        `broken` gives. Only the rest is written, and billed with what it goes on from
        as its input: text, usage and cost are those of all parts together, what is not
        known of one is not known of the whole, and `.rest` has the last part alone.
        What can be set beside are `max_tokens` of the rest, `budget`, `anyway`,
        `off_peak`, `schema` and `repair`, as for `stream`: without a `schema` that of the
        answer counts, and the whole is read as one text. An answer that has come to its
        end, or of which no word had arrived, raises `InvalidOption`.
        """
        answer = Answer()
        with closing(self.resume_stream(begun, cell=cell, **terms)) as answers:
            for answer in answers:  # noqa: B007  # the last one is the whole
                pass
        return answer

    def resume_stream(
        self,
        begun: Answer | BaseException | None = None,
        *,
        cell: str | None = None,
        max_tokens: int | None = None,
        budget: object = None,
        anyway: bool = False,
        off_peak: bool = False,
        schema: object = None,
        repair: bool = True,
    ) -> Generator[Answer]:
        """Do what `resume` does, and give the growing answer, which begins with what there is."""
        preflight.READERS["json"]("repair", repair)
        before = continuation.beginning(self._broken() if begun is None else begun)
        request = continuation.rest_of(before, max_tokens)
        form = before.schema if schema is None else schemas.schema_of(schema)
        terms, reading = Terms(_cap(budget), anyway), Reading(form, before.turn)
        return self._admitted(
            request, cell, terms, reading, before=before, repair=repair, off_peak=off_peak
        )

    def _broken(self) -> Answer:
        if (found := self.broken()) is None:
            raise InvalidOption(
                t(
                    "The ledger knows no answer of the last days that broke off or was cut, so "
                    "there is nothing to go on with."
                ),
                t("Nothing was sent."),
                t("Ask anew."),
            )
        return found

    def broken(self) -> Answer | None:
        """Give the newest answer of this notebook that broke off and can go on; None without one.

        It is read from the ledger, also after a restart, where that keeps texts.
        """
        found = continuation.broken_of(self._entries())
        if found is None or found.request is None:
            return found
        return replace(found, turn=self.talks.asked(found.request))

    def is_under_way(self, begun: Answer) -> bool:
        """Tell whether a kernel of this notebook goes on with *begun*, or has done so."""
        return continuation.is_under_way(self._entries(), begun)

    def _entries(self) -> list[continuation.Entry]:
        self._sweep()
        since = self._clock() - BROKEN_FOR
        rows = self.ledger.newest(self.account, self.notebook, since)
        found = (continuation.entry(row, answer_of(row)) for row in rows)
        return [one for one in found if one is not None]

    def _admitted(
        self,
        request: Request,
        cell: str | None,
        terms: Terms,
        reading: Reading,
        *,
        before: Answer | None,
        repair: bool,
        off_peak: bool,
    ) -> Generator[Answer]:
        """Ask *request*, which goes on from what was *before*, and read what comes."""
        client = self.client
        if refusal := preflight.refusal(request, client.key, answers_too=reading.turn is None):
            raise refusal
        if reading.turn is not None and before is None:
            self.talks.take(reading.turn)
        # A repair that has gone on was the one that there is.
        repairs = repair and request.json and not is_repair(continuation.question_of(request))
        ask = self._repaired if repairs else self._answers
        return ask(client, request, cell, terms, reading, before=before, off_peak=off_peak)

    def _cached_or(
        self, request: Request, reading: Reading, asking: Generator[Answer]
    ) -> Generator[Answer]:
        """Give the answer that is known already, else that of *asking*, and keep it."""
        if (known := self.cached(request)) is not None:
            known, error = reading.read(request, known)
            if error is None:
                yield self._in_chat(reading.turn, known)
                return
        answer = Answer()
        for answer in asking:
            yield answer
        if answer.finish_reason == "stop" and self.ledger.keep != "all":
            self.answered[name_of(request)] = answer

    def cached(self, request: Request) -> Answer | None:
        """Give the newest whole answer to the same question, which costs nothing; None without one.

        The same is what all that shapes an answer is the same of. Where the ledger
        keeps no texts, it is an answer of this session that was asked with `cache`. An
        answer that has gone on is not among them: a call that brought its end has counts
        of a part, beside the text of the whole.
        """
        if request.goes_on:
            return None
        name = name_of(request)
        found = self.ledger.answers_to(self.account, [name], request.max_tokens).get(name)
        answer = self.answered.get(name) if found is None else answer_of(found)
        if answer is None:
            return None
        at = answer.asked or (self.now() if found is None else found["sent"])
        return replace(answer, asked=at, cost=Decimal(0), cost_range=None, seconds=None, note="")

    def _request(self, prompt: str | Request, settings: dict[str, Any]) -> Request:
        """Make the request of a question; a schema goes into its system message."""
        settings = dict(settings)
        schema = settings.pop("schema", None)
        chat, cell = settings.pop("chat", None), settings.pop("cell", None)
        tokens = settings.pop("chat_tokens", HISTORY_TOKENS)
        preflight.READERS["json"]("repair", settings.pop("repair", True))
        if not isinstance(prompt, Request):
            prompt = preflight.request_of(prompt, **settings)
        request = with_form(prompt, None if schema is None else schemas.schema_of(schema))
        turn = self._turn(request, chat, cell=cell, tokens=tokens)
        return request if turn is None else turn.request

    # -- conversations --------------------------------------------------------------

    @property
    def talks(self) -> Chats:
        """The conversations of this notebook; made on first use, as it needs the key."""
        with self._lock:
            if self._chats is None:
                self._chats = Chats(self.ledger, self.account, self.notebook, self._clock)
            return self._chats

    def chats(self) -> list[Chat]:
        """Give the conversations of this notebook in figures, the one used last first."""
        return self.talks.chats()

    def chat(self, name: str = "") -> list[Turn]:
        """Give the turns of a conversation in the order in which they are sent along."""
        return self.talks.turns(name)

    def forget_chat(self, name: str = "") -> int:
        """Forget a conversation, and give the number of its turns.

        What was asked and answered in it goes from the ledger too; what that cost stays.
        """
        return self.talks.forget(name)

    def _turn(
        self, request: Request, chat: str | NextTurn | None, *, cell: str | None, tokens: int
    ) -> NextTurn | None:
        """Give *request* its history; with one that was given already, it is in *request*."""
        if isinstance(chat, NextTurn):
            return replace(chat, request=request)
        if chat is None:
            return None
        return self.talks.next_turn(request, chat, cell=cell, bound=tokens)

    def _in_chat(self, turn: NextTurn | None, answer: Answer) -> Answer:
        return answer if turn is None else self.talks.keep(turn, answer)

    def _repaired(
        self,
        client: Client,
        request: Request,
        cell: str | None,
        terms: Terms,
        reading: Reading,
        *,
        before: Answer | None,
        off_peak: bool,
    ) -> Generator[Answer]:
        """Ask, and ask once more where the answer is not the JSON that was asked for."""
        asked = client, request, cell, terms, reading
        if before is None and (earlier := self._sent_back(request, reading)) is not None:
            yield from self._repair(asked, *earlier, off_peak=off_peak, is_earlier=True)
            return
        try:
            yield from self._answers(*asked, before=before, off_peak=off_peak)
        except UnusableAnswer as error:
            wrong, first = error, reading.paid or Answer(model=request.model)
            if not problems_of(error, first):
                raise
        else:
            return
        question = continuation.with_room(continuation.question_of(request), before)
        yield from self._repair((client, question, cell, terms, reading), first, wrong)

    def _sent_back(
        self, request: Request, reading: Reading
    ) -> tuple[Answer, UnusableAnswer] | None:
        """Give the answer that was paid for when its repair could not be, and what is wrong."""
        first = self.unrepaired.pop(name_of(request), None) if self.unrepaired else None
        if first is None:
            return None
        _, wrong = reading.read(request, first)
        if isinstance(wrong, UnusableAnswer) and problems_of(wrong, first):
            return first, wrong
        return None

    def _repair(
        self,
        asked: tuple[Client, Request, str | None, Terms, Reading],
        first: Answer,
        wrong: UnusableAnswer,
        *,
        off_peak: bool = False,
        is_earlier: bool = False,
    ) -> Generator[Answer]:
        """Ask for what is *wrong* with the *first* answer to be put right."""
        client, question, cell, terms, reading = asked
        problems = problems_of(wrong, first)
        again, reading.paid = repair_of(question, first, problems), None
        reading.name = name_of(question)
        try:
            if preflight.like_a_key(first.text, client.key):
                raise preflight.key_found()
            if refusal := preflight.refusal(again, client.key, answers_too=reading.turn is None):
                raise refusal
            yield asked_again(first, wrong)
            asked = client, again, cell, terms, reading
            for answer in self._answers(*asked, before=None, off_peak=off_peak):
                yield together(first, answer)
        except DeepSeekError as error:
            why = error
            if is_put_off(error):
                self.unrepaired[reading.name] = first
                if is_earlier:
                    raise
        else:
            return
        finally:
            self._last = both(first, reading.paid)
        found = unrepaired(wrong, why, both(first, reading.paid))
        _say_way_on(found, both(first, reading.paid))
        raise found

    def _answers(
        self,
        client: Client,
        request: Request,
        cell: str | None,
        terms: Terms,
        reading: Reading,
        *,
        before: Answer | None,
        off_peak: bool,
    ) -> Generator[Answer]:
        """Ask, and ask again after a pause where nothing can have been billed."""
        begun = replace(before or Answer(model=request.model), finish_reason=None, note="")
        if off_peak and (begins := prices.off_peak_from(self._clock())) > self._clock():
            when = clock_time(begins, self._clock())
            yield replace(begun, note=t("Waiting for off-peak hours, from {when}.", when=when))
            self.wait_off_peak()
        if before is not None:
            yield begun
        for attempt in range(self.retries + 1):
            try:
                yield from self._once(client, request, cell, terms, reading, before=before)
            except DeepSeekError as error:
                pause = _pause(error, attempt) if attempt < self.retries else None
                if pause is None:
                    raise
                what = error.what
            else:
                return
            LOG.info("asking again in %.1f s: attempt %d of %d", pause, attempt + 1, self.retries)
            again = t(
                "Asking again in {pause:.0f} s ({n} of {most}).",
                pause=pause,
                n=attempt + 1,
                most=self.retries,
            )
            note = sentences(what, again)
            yield replace(begun, currency=begun.currency or self.currency, note=note)
            time.sleep(pause)

    def _once(
        self,
        client: Client,
        request: Request,
        cell: str | None,
        terms: Terms,
        reading: Reading,
        *,
        before: Answer | None,
    ) -> Generator[Answer]:
        """Send *request* once; *answer* is what comes, and with what was *before* the whole."""
        began = time.monotonic()
        answer = Answer(
            model=request.model,
            currency=self.currency,
            request=request,
            schema=reading.schema,
            turn=reading.turn,
        )
        state: State = "interrupted"
        error: DeepSeekError | None = None
        going: Admitted | None = None
        try:
            if answer.currency is None:
                self._look_for_currency()
            going = self.clearance.admit(
                request, terms, lambda sent, at: self._asked(sent, cell, at, reading)
            )
            with closing(client.stream(going.call.request, idle=self.timeout)) as pieces:
                for piece in pieces:
                    answer = answer.plus(piece)
                    yield _whole(before, answer)
            read, error = reading.read(going.call.request, _whole(before, answer))
            answer = replace(answer, parsed=read.parsed)
            state = state_of(error)
            self.was_refused = self._watch.refused_at is not None
            self._watch.paid()
        except DeepSeekError as broken:
            error, state = broken, state_of(broken)
        finally:
            if going is not None:
                answer = replace(answer, seconds=time.monotonic() - began)
                note = partial(self._note_end, going, answer, state, error, before)
                try:
                    ended, outcome, written = note()
                except BaseException:  # interrupted in the midst of it: to note it twice is no harm
                    note()
                    raise
                answer = self._record(ended, outcome, written, before)
                reading.paid = reading.paid if state in FREE else _whole(before, answer)
        if answer.currency is None and answer.usage is not None:
            answer = self._priced_late(ended)
            reading.paid = _whole(before, answer)
        if error is not None:
            raise self.with_facts(error, _in_all(before, answer, state, error))
        answer = _whole(before, self._with_earlier_try(ended, answer))
        yield self._in_chat(reading.turn, answer)

    def map(
        self,
        data: object,
        template: str,
        *,
        column: str = "answer",
        limit: int | None = None,
        concurrency: int | None = None,
        budget: object = None,
        anyway: bool = False,
        schema: object = None,
        json: bool = False,
        repair: bool = True,
        fresh: bool = False,
        progress: bool | Callable[[Progress], object] = True,
        names: Mapping[str, object] | None = None,
        confirm: Callable[[Forecast], object] | None = None,
        cell: str | None = None,
        data_tokens: int = 1000,
        **settings: Any,
    ) -> Any:
        """Ask the *template* about every row of *data*, many at once; give a DataFrame.

        *data* is a DataFrame or Series (pandas, Polars, Dask, anything that speaks
        Arrow), a list of texts or dicts, or the path of a CSV or Parquet file;
        `{{name}}` stands for a column, *names* are what else expressions may use. The
        frame has the columns and the index of *data*, then *column* with the answers
        (parsed with *json*; with *schema*, if it has fields, a column for each of them
        instead), `cost` in the account's currency and `error`, None where there is
        none. An answer that is not the JSON asked for is sent back once, unless *repair* is
        False, at the cost of its row. Equal rows are asked once, the first bears the cost;
        rows answered earlier come from the ledger for nothing, unless *fresh*.

        At most *concurrency* requests are under way, else as many as the account
        allows. *data_tokens* bounds what one value that is no text adds to a question.
        *budget*, a sum for all rows, is spent as far as it goes. The settings
        are those of `stream`. *progress* is True for a bar, False, or is called with
        how far it is; *confirm* is called before anything is sent where the money may
        not do. Whatever ends it early has the frame so far in `.partial`:
        `InsufficientBalance`, `OverLimit`, or `Interrupted` after an interrupt. Called
        again, it asks for the missing rows alone.
        """
        from . import batch, cluster, frames  # one question needs none of it

        asking = batch.Asking(
            *(data, template, settings, column, limit, concurrency, schema, json, fresh, names),
            cell=cell,
            data_tokens=data_tokens,
            repair=preflight.READERS["json"]("repair", repair),
        )
        terms = Terms(_cap(budget), anyway)
        if frames.is_dask(data):
            alike = partial(
                type(self),
                base_url=self.base_url,
                timeout=self.timeout,
                currency=self.currency,
                keep=self.ledger.keep,
                notebook=self.notebook,
                retries=self.retries,
                prices={model: dict(own) for model, own in self._prices.items()},
                clock=self._clock,
            )
            return cluster.ask_partitions(
                self, asking, terms, make=alike, progress=progress, confirm=confirm
            )
        return batch.ask_rows(self, asking, terms, progress=progress, confirm=confirm)

    def forecast(
        self,
        data: object,
        template: str,
        *,
        column: str = "answer",
        budget: object = None,
        limit: int | None = None,
        schema: object = None,
        json: bool = False,
        repair: bool = True,
        fresh: bool = False,
        names: Mapping[str, object] | None = None,
        data_tokens: int = 1000,
        **settings: Any,
    ) -> Forecast:
        """Tell what `map` would ask and what that would cost; sends nothing of it."""
        from . import batch, cluster, frames

        asking = batch.Asking(
            data,
            template,
            settings,
            limit=limit,
            schema=schema,
            json=json,
            repair=repair,
            fresh=fresh,
            names=names,
            column=column,
            data_tokens=data_tokens,
        )
        terms = Terms(_cap(budget))
        if frames.is_dask(data):
            return cluster.forecast_partitions(self, asking, terms)
        return batch.forecast_of(self, asking, terms)

    def now(self) -> datetime:
        """Give the time of this session's clock."""
        return self._clock()

    def take_last(self) -> Answer | None:
        """Give, once, what was recorded last.

        Nothing else tells the cost of a question that was interrupted.
        """
        last, self._last = self._last, None
        return last

    def _look_for_currency(self) -> None:
        """Read the balance, and let an account's first question wait a moment for its currency."""
        self.refresh()
        if not self._asked_currency:
            self._asked_currency = True
            self.purse.wait(CURRENCY_SECONDS)

    def with_facts(self, error: DeepSeekError, answer: Answer) -> DeepSeekError:
        """Add what had arrived, and for want of money the last known balance."""
        if answer.text or answer.reasoning or answer.usage:
            error.answer = answer
        if isinstance(error, OutOfMoney):
            at = self._clock()
            if not error.unsent:
                self.purse.wait(FRESH_SECONDS)
            error.balance = known = self.last_balance
            if isinstance(error, InsufficientBalance):
                fresh = known and known.read_at and known.read_at >= at - FRESH
                with self._lock:
                    self._watch.refused(known if fresh else None, time.monotonic())
                if not error.unsent:
                    error.retell(*(beside(line, known) for line in error.told))
        return error

    def _asked(self, request: Request, cell: str | None, at: datetime, reading: Reading) -> Asked:
        return Asked(
            at=at,
            account=self.account,
            model=request.model,
            think=request.think,
            json=request.json,
            notebook=self.notebook,
            cell=cell,
            request=as_sent(request),
            question=reading.name or name_of(request),
            chat=None if reading.turn is None else self.talks.tag(reading.turn.chat),
        )

    def _note_end(
        self,
        going: Admitted,
        answer: Answer,
        state: State,
        error: DeepSeekError | None,
        before: Answer | None,
    ) -> tuple[Ended, Outcome, Future[None]]:
        """Give back what was reserved and not spent, and write the end of a call down.

        The figures are those of the call, the text is the whole, with what was *before*.
        """
        _say_way_on(error, _whole(before, answer))
        ended = Ended(going.call, answer, state, self._clock(), error)
        priced, outcome = ended.outcome(self.currency, self._own)
        if before is not None and state not in FREE:
            whole = _whole(before, answer)
            outcome = replace(outcome, answer=whole.text or None, reasoning=whole.reasoning or None)
        going.settle(priced, billed=state not in FREE)
        return replace(ended, answer=priced), outcome, self.ledger.end(going.call.entry, outcome)

    def _record(
        self, ended: Ended, outcome: Outcome, written: Future[None], before: Answer | None
    ) -> Answer:
        """Add up what a call cost, wait for the disk, and let the balance be read anew."""
        answer = ended.answer
        self._last = _in_all(before, answer, ended.state, ended.error)
        if before is not None and ended.state not in FREE:  # what it cost is in the whole
            self._unsure.pop(_name(continuation.question_of(ended.call.request)), None)
        if ended.is_unsure:
            self._unsure[_name(ended.call.request)] = ended
        if answer.currency is None and (answer.usage is not None or ended.is_unsure):
            self._unpriced.append((ended, outcome))
        self.add_up(answer)
        try:
            written.result(DISK_SECONDS)
        except KeyboardInterrupt:  # it is on its way to the disk all the same
            LOG.info("interrupted while an answer was written down")
            raise
        except Exception as failed:  # noqa: BLE001  # an answer that was paid for is given out
            LOG.info("the record of this answer is not on disk yet: %r", failed)
        LOG.info("query ended: state=%s model=%s cost=%s", ended.state, answer.model, answer.cost)
        self.tell()
        self.refresh()
        return answer

    def _with_earlier_try(self, ended: Ended, answer: Answer) -> Answer:
        """Say that the same question may have been billed before, where its answer never came."""
        before = self._unsure.pop(_name(ended.call.request), None)
        if before is None:
            return answer
        bound = at_most(before.priced(answer.currency, self._own)[0])
        note = t(
            "an earlier try, at {at}, may have been billed too"
            if bound is None
            else "an earlier try, at {at}, may have been billed too, at most {most}",
            at=f"{before.call.at.astimezone():%H:%M}",
            most=money(bound, answer.currency),
        )
        return replace(answer, note=note)

    def _priced_late(self, ended: Ended) -> Answer:
        """Price a first answer, whose currency is being read."""
        if not self._waited:
            self._waited = True  # once: an endpoint that is silent holds up one answer, not all
            self.purse.wait(READING_SECONDS)
        return ended.priced(self.currency, self._own)[0]

    def _price_waiting(self) -> None:
        """Price what was answered before the currency was known."""
        with self._lock:
            if self._unpriced and self.currency is not None:
                waiting, self._unpriced = self._unpriced, []
                for ended, outcome in waiting:
                    answer, found = ended.priced(self.currency, self._own)
                    priced = replace(outcome, **price_columns(answer, found))
                    self.ledger.end(ended.call.entry, priced)
                    self.add_up(answer)
                self.purse.rebase()

    def add_up(self, answer: Answer) -> None:
        """Count what *answer* cost for this session."""
        span = answer.cost_range
        paid = answer.cost if span is None else (span.likely or span.low)
        if paid is not None and answer.currency is not None:
            with self._lock:
                before = self.spent.get(answer.currency, Decimal(0))
                self.spent[answer.currency] = EXACT.add(before, paid)

    # -- money --------------------------------------------------------------------

    def balance(self) -> Balance:
        """Read the account's balance from the API."""
        return self.purse.read()

    @property
    def last_balance(self) -> Balance | None:
        """The last known balance, with what was spent since; asks the ledger, not the API."""
        return self.purse.known

    @property
    def balance_problem(self) -> str | None:
        """Why the newest reading of the balance failed; None when it did not."""
        return self.purse.problem

    @property
    def currency(self) -> str | None:
        """The currency that the account is billed in; None until a balance was read."""
        return self.purse.currency

    def refresh(self) -> None:
        """Read the balance on a thread of its own."""
        if not self._closed:
            self.purse.refresh()

    @property
    def day_limit(self) -> Decimal | None:
        """What all kernels together may spend on a day; None sets no limit."""
        return self._day_limit

    @day_limit.setter
    def day_limit(self, value: object) -> None:
        self._day_limit = limits.read_amount("day_limit", value)
        if self._clearance is not None:
            self._clearance.day_limit = self._day_limit

    @property
    def own_prices(self) -> Mapping[str, Mapping[str, object]]:
        """The user's own prices, per million tokens; they are stronger than the published ones."""
        return self._prices

    @own_prices.setter
    def own_prices(self, value: Mapping[str, Mapping[str, object]]) -> None:
        self._own = prices.own_prices(value)
        self._prices = value
        if self._clearance is not None:
            self._clearance.own = self._own

    def reprice(self) -> int:
        """Price the earlier queries whose price was not known then; give their number."""
        found = self.ledger.reprice(self.account, self._price_of, currency=self.currency)
        self.purse.rebase()
        return found

    def _price_of(self, row: Mapping[str, Any]) -> Decimal | CostRange | None:
        currency = row["currency"] or self.currency
        found = prices.price(row["model"], currency, row["sent"], own=self._own)
        last = prices.price(row["model"], currency, row["ended"], own=self._own)
        return prices.paid(Usage(**{name: row[name] for name in Usage.__slots__}), found, last)

    def estimate(
        self,
        prompt: str | Request,
        *,
        currency: str | None = None,
        at: datetime | None = None,
        **settings: Any,
    ) -> Estimate:
        """Reckon tokens and cost of a question before it is asked; sends nothing.

        The settings are those of `stream`. Without *currency* the account's counts,
        where it is known; *at* is now, if it is not given.
        """
        request = self._request(prompt, settings)
        account: str | None = None
        try:
            account, currency = self.account, currency or self.currency
        except NoKey:
            currency = currency or self._currency
        when = at or self._clock()
        guess, _ = estimate_at(
            self.ledger,
            account,
            request,
            currency=currency,
            at=when,
            own=self._own,
            exactly=True,
        )
        return guess

    def preview(self, prompt: str | Request, *, budget: object = None, **settings: Any) -> Preview:
        """Tell what a question would cost and what the checks would say; sends nothing of it.

        Only the balance may be read for it. Needs the account's key.
        """
        request, cap = self._request(prompt, settings), _cap(budget)
        in_chat = settings.get("chat") is not None or request.goes_on
        if refusal := preflight.refusal(request, self.client.key, answers_too=not in_chat):
            raise refusal
        return self.clearance.preview(request, cap)

    def wait_off_peak(
        self,
        *,
        told: Callable[[datetime], object] | None = None,
        stop: threading.Event | None = None,
    ) -> bool:
        """Block until the off-peak hours, a few hours at most; True when they have come.

        *told* is called with the moment at which they begin, at each look at the
        clock. False means that *stop* was set.
        """
        stop = stop or threading.Event()
        while (left := prices.off_peak_from(at := self._clock()) - at) > timedelta(0):
            if told is not None:
                told(at + left)
            if stop.wait(min(left.total_seconds(), LOOK_SECONDS)):
                return False
        return True

    def wait(
        self,
        seconds: float = DAY_SECONDS,
        *,
        told: Callable[[Look], object] | None = None,
        stop: threading.Event | None = None,
    ) -> Balance:
        """Block until the account has money, for at most *seconds*; give the balance.

        It looks every few seconds at first, then ever less often. After a refusal
        a figure counts that has risen since; one that contradicts the refusal, or
        cannot be read, lets a try through now and then. *told* is called after
        each look that found nothing. `InsufficientBalance` is raised after
        *seconds*, or soon after *stop* is set; a key that is not accepted ends
        the wait at once.
        """
        began, since = time.monotonic(), self._clock()
        stop = stop or threading.Event()
        for pause in pauses():
            reading, problem = self._looked()
            passed = time.monotonic() - began
            with self._lock:
                if self._watch.arrived(reading, time.monotonic()):
                    return reading or self.last_balance or Balance()
            if passed >= seconds or stop.is_set():
                break
            pause = min(pause, max(seconds - passed, 0.01))  # noqa: PLW2901
            until = since + timedelta(seconds=seconds)
            if told is not None:
                told(Look(self._clock(), reading, problem, pause, since, until))
            LOG.info("waiting for a top-up: the next look in %.0f s", pause)
            if stop.wait(pause):
                break
        raise InsufficientBalance(
            t(
                "No money has come in {span}, so the wait has ended.",
                span=_hours(time.monotonic() - began),
            ),
            t("Nothing was sent."),
            t("Top up, then run the cell again, or: %deepseek wait"),
            balance=self.last_balance,
        )

    def _looked(self) -> tuple[Balance | None, str | None]:
        try:
            return self.balance(), None
        except (NoKey, WrongKey):
            raise
        except DeepSeekError as error:
            return None, str(error)

    def kept(self, request: Request, since: datetime) -> Answer | None:
        """Give the answer to the very same *request* that arrived after *since*; None without one.

        It was paid for, and costs nothing more.
        """
        row = self.ledger.kept(self.account, as_sent(request), since) or self._mended(
            request, since
        )
        return None if row is None else answer_of(row)

    def _mended(self, request: Request, since: datetime) -> dict[str, Any] | None:
        """Find the answer to *request* that is whole since it has gone on."""
        for row in self.ledger.newest(self.account, self.notebook, since):
            found = continuation.entry(row, answer_of(row))
            if found and found.before and as_sent(found.question) == as_sent(request):
                return row if row["state"] == "done" else None
        return None

    def usage(
        self, by: str | Iterable[str] = ("day", "model", "notebook"), *, days: int | None = None
    ) -> pd.DataFrame:
        """Add up this account's queries as a DataFrame, *by* day, model, notebook or cell.

        Costs are in *currency*: *cost* is the sum of those that are known to the
        digit; *cost_low* and *cost_high* bound the sum of all that have a bound,
        *ranged* of them a range. *unpriced* counts queries of which nothing is
        known, and which are in no sum. *saved* is what DeepSeek's cache has saved.
        With *days*, only that many days up to today count.
        """
        return self.books.usage(by, days)

    def findings(self) -> list[str]:
        """Compare what is recorded with the balance over time; say what does not fit, if any."""
        return self.books.findings()

    def alerts(self) -> list[str]:
        """Give the warnings that have come up, each once."""
        self.books.warn_below = self.warn_below
        return self.books.alerts(self.last_balance)

    # -- the account --------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The connection to the API; looks for the key on first use."""
        with self._lock:
            if self._closed:
                raise DeepSeekError(
                    t("The session is closed."),
                    t("Nothing was sent."),
                    t("Make a new one: Session()"),
                )
            if self._client is None:
                self._key = self._key or find_key()
                if self._key is None:
                    raise NoKey(
                        t("There is no key."),
                        t("Nothing was sent."),
                        t(
                            "Type one in with %deepseek login, or set DEEPSEEK_API_KEY before "
                            "Jupyter or Python starts. Without an account: %deepseek sandbox on "
                            "(in Python: deepseek_magic.Sandbox)"
                        ),
                    )
                self._client = Client(self._key, self.base_url)
            return self._client

    @property
    def purse(self) -> Purse:
        """What the account holds; made on first use, as it needs the key."""
        with self._lock:
            if self._purse is None:
                self._purse = Purse(
                    self.client,
                    self.ledger,
                    self.account,
                    currency=self._currency,
                    clock=self._clock,
                    told=self._after_reading,
                )
            return self._purse

    @property
    def clearance(self) -> Clearance:
        """The checks before a question; made on first use, as it needs the key."""
        with self._lock:
            if self._clearance is None:
                self._sweep()
                self._clearance = Clearance(self.ledger, self.purse, self.account, self._clock)
                self._clearance.day_limit, self._clearance.own = self._day_limit, self._own
            return self._clearance

    def _sweep(self) -> None:
        """Let go, once, of what calls of ended kernels have reserved."""
        if not self._swept:
            self._swept = True
            self.ledger.sweep(self._clock())

    @property
    def books(self) -> Books:
        """What the ledger tells of the account; made on first use, as it needs the key."""
        with self._lock:
            if self._books is None:
                self._sweep()
                self._books = Books(self.ledger, self.account, self._clock)
            return self._books

    @cached_property
    def account(self) -> str:
        """A short name of the account for the ledger; the key cannot be read from it."""
        root = re.sub(r"/(v1|beta|anthropic)$", "", self.client.base_url)
        mark = f"{root} {self.client.key.reveal()}"
        return hashlib.sha256(mark.encode()).hexdigest()[:12]

    def models(self) -> list[Model]:
        """Read the list of models from the API."""
        return self.client.models()

    def close(self) -> None:
        """Close the connections and the ledger; doing it twice is harmless.

        An answer that is still under way is recorded all the same.
        """
        self._closed = True
        self.listeners.clear()
        try:
            if self._purse is not None:
                self._purse.close()
            if self._books is not None:
                self._books.close()
            if self._chats is not None:
                self._chats.close()
            if self._client is not None:
                self._client.close()
        finally:
            self.ledger.close()

    def _after_reading(self) -> None:
        self._price_waiting()
        self.books.compare_soon()
        self.tell()

    def tell(self) -> None:
        """Tell the listeners that a balance was read, or that something has ended."""
        for listener in list(self.listeners):
            try:
                listener()
            except Exception:  # an answer that was paid for is given out all the same
                LOG.exception("a listener failed")


def _whole(before: Answer | None, answer: Answer) -> Answer:
    """Give *answer* with what was *before*, if it has gone on."""
    return answer if before is None else continuation.joined(before, answer)


def _say_way_on(error: DeepSeekError | None, answer: Answer) -> None:
    """Say in *error* that its answer can go on, where it can."""
    broken = isinstance(error, BrokenAnswer | UnusableAnswer)
    if error is not None and broken and continuation.can_go_on(answer):
        error.retell(*with_way_on(error.told))


def _in_all(
    before: Answer | None, answer: Answer, state: State, error: DeepSeekError | None
) -> Answer:
    """Do so for a call that has ended; one that cost nothing changes nothing of what there is."""
    unsent = error is not None and state in FREE
    return before if before is not None and unsent else _whole(before, answer)


def _name(request: Request) -> str:
    """Name a question, whatever bound a limit has set to its answer."""
    return as_sent(replace(request, max_tokens=None))


def _cap(budget: object) -> Cap | None:
    if isinstance(budget, Cap):
        return budget
    found = limits.read_amount("budget", budget)
    return None if found is None else Cap(found)


def _pause(error: DeepSeekError, attempt: int) -> float | None:
    """Give the seconds until a question is asked again; None where it is not."""
    if not error.may_be_retried or error.may_be_billed:
        return None
    named = error.retry_after if isinstance(error, RequestRefused) else None
    if named is not None and named > RETRY_AFTER_AT_MOST:
        return None
    own = float(2**attempt) * random.uniform(0.75, 1.25)  # noqa: S311  # no secret hangs on it
    return max(named or 0.0, own)


def _hours(seconds: float) -> str:
    if seconds >= 7200:
        return t("{n:.0f} hours", n=seconds / 3600)
    return t("{n:.0f} minutes", n=seconds / 60) if seconds >= 120 else t("{n:.0f} s", n=seconds)
