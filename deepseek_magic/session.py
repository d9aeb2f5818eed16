"""The way of one query: checked, sent, priced, recorded.

The magic, the button and plain Python all come through `Session.stream`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import preflight
from .client import DEEPSEEK, Client, Model
from .describe import tokens as tokens_of
from .errors import (
    BrokenAnswer,
    ConnectionFailed,
    DeepSeekError,
    InsufficientBalance,
    NoKey,
    OutOfMoney,
    RequestRefused,
    WrongKey,
)
from .failures import beside, verdict
from .ledger import Asked, Keep, Ledger, Outcome, State
from .prices import Price, cost, price
from .purse import Purse
from .top_up import Look, Watch, pauses
from .wire import EXACT, Answer, Balance, Key, Request, Usage

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger("deepseek_magic")

FRESH_SECONDS = 0.5
"""How long the error of an empty account waits, at most, for a fresh reading of the balance."""

READING_SECONDS = 5.0
"""How long a session's first answer waits for the reading that tells the currency."""

RETRY_AFTER_AT_MOST = 60.0
"""A pause that the API asks for and that is longer than these seconds is the user's to decide."""

DAY_SECONDS = 86400.0

FRESH = timedelta(seconds=2)

DISK_SECONDS = 2.0
"""How long an answer waits for its record to be on disk before it is given out all the same."""


def now() -> datetime:
    """Give the time, aware."""
    return datetime.now(UTC)


def ledger_path() -> Path:
    """Give the path of the user's ledger; DEEPSEEK_MAGIC_HOME moves its folder."""
    if home := os.environ.get("DEEPSEEK_MAGIC_HOME"):
        return Path(home).expanduser() / "ledger.sqlite"
    from platformdirs import user_data_path

    return user_data_path("deepseek_magic", appauthor=False) / "ledger.sqlite"


def find_key() -> Key | None:
    """Look for a key in DEEPSEEK_API_KEY, then in the system's keyring if there is one."""
    if text := os.environ.get("DEEPSEEK_API_KEY", "").strip():
        return Key(text)
    try:
        import keyring

        stored = keyring.get_password("deepseek_magic", "api_key")
    except Exception as error:  # noqa: BLE001  # no package, no backend, or a locked one
        LOG.debug("no key from the keyring: %s", type(error).__name__)
        return None
    return Key(stored.strip()) if stored else None


@dataclass(frozen=True, slots=True)
class _Ended:
    """A call that has ended: its entry, what came of it, the model asked for, and when."""

    entry: int
    answer: Answer
    asked: str
    at: datetime

    def priced(self, currency: str | None) -> tuple[Answer, Price | None]:
        """Price the answer: as the model that answered, else as the one that was asked."""
        models = (self.answer.model or self.asked, self.asked)
        found = next((p for model in models if (p := price(model, currency, self.at))), None)
        paid = cost(self.answer.usage, found)
        return replace(self.answer, cost=paid, currency=currency), found

    def outcome(
        self, currency: str | None, state: State, error: DeepSeekError | None, at: datetime
    ) -> tuple[Answer, Outcome]:
        """Give the priced answer, and what the ledger is told of it."""
        answer, found = self.priced(currency)
        return answer, Outcome(
            state=state,
            at=at,
            model=answer.model,
            seconds=answer.seconds,
            finish_reason=answer.finish_reason,
            error=None if error is None else str(error),
            trace_id=None if error is None else error.trace_id,
            answer=answer.text or None,
            reasoning=answer.reasoning or None,
            **_price_columns(answer, found),
            **asdict(answer.usage or Usage()),
        )


def _price_columns(answer: Answer, found: Price | None) -> dict[str, Any]:
    """Give the columns of the ledger that are known once the currency is."""
    return {
        "price": f"{found.hit}/{found.miss}/{found.out}" if found else None,
        "band": found.band if found else None,
        "currency": answer.currency,
        "cost": answer.cost,
    }


class Session:
    """One account, its ledger, and the questions asked of it.

    *api_key* and *base_url* come from DEEPSEEK_API_KEY and DEEPSEEK_BASE_URL
    when not given, *ledger* is a path or ":memory:", and *timeout* is how many
    seconds the API may be silent during an answer. A question that was turned
    away unbilled, by an overloaded API or a network that is down, is asked
    again up to *retries* times, after growing pauses. *currency* is learned
    from the balance when it is not given. *clock* gives the time, aware, which
    decides the price. Safe to use from several threads.
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
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.base_url = base_url or os.environ.get("DEEPSEEK_BASE_URL") or DEEPSEEK
        self.timeout = timeout
        self.retries = retries
        self.notebook = notebook
        self.ledger = Ledger(ledger_path() if ledger is None else ledger, keep=keep)
        self.spent: dict[str, Decimal] = {}
        """Known costs of this session's queries, by currency."""
        self.listeners: list[Callable[[], None]] = []
        """Called, from any thread, when a balance was read or a query has ended."""
        self._clock = clock
        self._key = Key(api_key.strip()) if isinstance(api_key, str) else api_key
        self._currency = currency
        self._waited = False
        self._watch = Watch()
        self.was_refused = False
        """Whether the last answer came after a refusal: a balance known before it is no more."""
        self._unpriced: list[tuple[_Ended, Outcome]] = []
        self._lock = threading.RLock()
        self._client: Client | None = None
        self._purse: Purse | None = None
        self._closed = False

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
        self, prompt: str | Request, *, cell: str | None = None, **settings: Any
    ) -> Generator[Answer]:
        """Ask *prompt* and give the growing answer; the last one has its cost.

        The settings are `model` ("flash", "pro" or a name of the API's),
        `think` ("off", "low", "high", "max"), `system`, `temperature`, `top_p`,
        `max_tokens`, `stop` and `json`; the API's defaults hold for those not
        given. *cell* names the place in the ledger. Closing the generator closes
        the connection; what was received until then is recorded.
        """
        request = prompt
        if not isinstance(request, Request):
            request = preflight.request_of(request, **settings)
        client = self.client
        if refusal := preflight.refusal(request, client.key):
            raise refusal
        return self._answers(client, request, cell)

    def _answers(self, client: Client, request: Request, cell: str | None) -> Generator[Answer]:
        """Ask, and ask again after a pause where nothing can have been billed."""
        for attempt in range(self.retries + 1):
            try:
                yield from self._once(client, request, cell)
            except DeepSeekError as error:
                pause = _pause(error, attempt) if attempt < self.retries else None
                if pause is None:
                    raise
                note = f"{str(error).partition('. ')[0]}. Asked again in {pause:.0f} s"
            else:
                return
            LOG.info("asking again in %.1f s: attempt %d of %d", pause, attempt + 1, self.retries)
            turn = f" ({attempt + 1} of {self.retries})."
            yield Answer(model=request.model, currency=self.currency, note=note + turn)
            time.sleep(pause)

    def _once(self, client: Client, request: Request, cell: str | None) -> Generator[Answer]:
        began, sent_at = time.monotonic(), self._clock()
        answer = Answer(model=request.model, currency=self.currency)
        state: State = "interrupted"
        error: DeepSeekError | None = None
        entry: int | None = None
        try:
            entry = self.ledger.ask(self._asked(request, cell, sent_at))
            if answer.currency is None:
                self.refresh()
            with closing(client.stream(request, idle=self.timeout)) as pieces:
                for piece in pieces:
                    answer = answer.plus(piece)
                    yield answer
            error = verdict(request, answer)
            state = _state(error)
            self.was_refused = self._watch.refused_at is not None
            self._watch.paid()
        except DeepSeekError as broken:
            error, state = broken, _state(broken)
        finally:
            if entry is not None:
                answer = replace(answer, seconds=time.monotonic() - began)
                ended = _Ended(entry, answer, request.model, sent_at)
                answer = self._record(ended, state, error)
        if answer.currency is None and answer.usage is not None:
            answer = self._priced_late(ended)
        if error is not None:
            raise self._with_facts(error, answer)
        yield answer

    def _with_facts(self, error: DeepSeekError, answer: Answer) -> DeepSeekError:
        """Add what had arrived, and for want of money the last known balance."""
        if answer.text or answer.reasoning or answer.usage:
            error.answer = answer
        if isinstance(error, OutOfMoney):
            at = self._clock()
            self.purse.wait(FRESH_SECONDS)
            error.balance = known = self.last_balance
            if isinstance(error, InsufficientBalance):
                fresh = known and known.read_at and known.read_at >= at - FRESH
                with self._lock:
                    self._watch.refused(known if fresh else None, time.monotonic())
                error.args = (beside(str(error), known),)
        return error

    def _asked(self, request: Request, cell: str | None, at: datetime) -> Asked:
        return Asked(
            at=at,
            account=self.account,
            model=request.model,
            think=request.think,
            notebook=self.notebook,
            cell=cell,
            request=_as_sent(request),
        )

    def _record(self, ended: _Ended, state: State, error: DeepSeekError | None) -> Answer:
        """Write the end of a call down, add it up, and let the balance be read anew."""
        answer, outcome = ended.outcome(self.currency, state, error, self._clock())
        written = self.ledger.end(ended.entry, outcome)
        try:
            written.result(DISK_SECONDS)
        except KeyboardInterrupt:  # it is on its way to the disk all the same
            LOG.info("interrupted while an answer was written down")
            raise
        except Exception as failed:  # noqa: BLE001  # an answer that was paid for is given out
            LOG.info("the record of this answer is not on disk yet: %r", failed)
        if answer.cost is not None:
            self._spend(answer)
        elif answer.currency is None and answer.usage is not None:
            self._unpriced.append((ended, outcome))
        LOG.info("query ended: state=%s model=%s cost=%s", state, answer.model, answer.cost)
        self._tell()
        self.refresh()
        return answer

    def _priced_late(self, ended: _Ended) -> Answer:
        """Price a first answer, whose currency is being read."""
        if not self._waited:
            self._waited = True  # once: an endpoint that is silent holds up one answer, not all
            self.purse.wait(READING_SECONDS)
        return ended.priced(self.currency)[0]

    def _price_waiting(self) -> None:
        """Price what was answered before the currency was known."""
        with self._lock:
            if self._unpriced and self.currency is not None:
                waiting, self._unpriced = self._unpriced, []
                for ended, outcome in waiting:
                    answer, found = ended.priced(self.currency)
                    self.ledger.end(ended.entry, replace(outcome, **_price_columns(answer, found)))
                    self._spend(answer)

    def _spend(self, answer: Answer) -> None:
        if answer.cost is not None and answer.currency is not None:
            with self._lock, localcontext(EXACT):
                before = self.spent.get(answer.currency, Decimal(0))
                self.spent[answer.currency] = before + answer.cost

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

    def likely_cost(self, request: Request) -> Decimal | None:
        """Give what a question of this kind will probably cost, by the answers so far.

        None while the currency, the price, or the usual length is not known.
        """
        out = self.ledger.typical_out(request.model, request.think)
        if out is None:
            return None
        if request.max_tokens is not None:
            out = min(out, request.max_tokens)
        tokens = sum(tokens_of(message.content) for message in request.messages)
        now = self._clock()
        guess = Usage(tokens, out, prompt_cache_hit_tokens=0, prompt_cache_miss_tokens=tokens)
        return cost(guess, price(request.model, self.currency, now))

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
            f"No money has come in {_hours(time.monotonic() - began)}, so the wait has ended. "
            "Nothing was sent. Top up, then run the cell again, or: %deepseek wait",
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
        row = self.ledger.kept(self.account, _as_sent(request), since)
        return None if row is None else answer_of(row)

    def usage(self) -> pd.DataFrame:
        """Add up this account's queries by day, model and notebook, as a DataFrame.

        *cost* is in *currency*; *unpriced* counts queries whose cost is not
        known and not in the sum.
        """
        try:
            import pandas as pd
        except ImportError:
            raise DeepSeekError(
                "Session.usage() gives a DataFrame, and pandas is not installed: pip install pandas"
            ) from None
        rows = self.ledger.usage(self.account)
        names = ("day", "model", "notebook", "currency", "queries", "cost", "unpriced")
        return pd.DataFrame(rows, columns=[*names, *Usage.__slots__])

    # -- the account --------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The connection to the API; looks for the key on first use."""
        with self._lock:
            if self._closed:
                raise DeepSeekError(
                    "The session is closed. Nothing was sent. Make a new one: Session()"
                )
            if self._client is None:
                self._key = self._key or find_key()
                if self._key is None:
                    raise NoKey(
                        "There is no key. Nothing was sent. Type one in with %deepseek login, or "
                        "set DEEPSEEK_API_KEY before Jupyter starts. Without an account: "
                        "%deepseek sandbox on"
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
            if self._client is not None:
                self._client.close()
        finally:
            self.ledger.close()

    def _after_reading(self) -> None:
        self._price_waiting()
        self._tell()

    def _tell(self) -> None:
        for listener in list(self.listeners):
            try:
                listener()
            except Exception:  # an answer that was paid for is given out all the same
                LOG.exception("a listener failed")


def answer_of(row: Mapping[str, Any]) -> Answer:
    """Read the answer of an entry of the ledger."""
    usage = Usage(**{name: row[name] for name in Usage.__slots__})
    return Answer(
        text=row["answer"],
        reasoning=row["reasoning"] or "",
        usage=None if usage == Usage() else usage,
        **{n: row[n] for n in ("model", "finish_reason", "cost", "currency", "seconds")},
    )


def _as_sent(request: Request) -> str:
    return json.dumps(request.body(), ensure_ascii=False)


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
    for size, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def _state(error: DeepSeekError | None) -> State:
    match error:
        case None:
            return "done"
        case ConnectionFailed():
            return "failed"
        case BrokenAnswer():
            return "partial"
        case OutOfMoney() | RequestRefused():
            return "partial" if error.may_be_billed else "refused"
        case _:
            return "unusable"
