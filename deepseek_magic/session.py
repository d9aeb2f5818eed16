"""The way of one query: checked, sent, priced, recorded.

The magic, the button and plain Python all come through `Session.stream`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import preflight
from .client import DEEPSEEK, Client, Model
from .describe import tokens as tokens_of
from .errors import (
    BrokenAnswer,
    ConnectionFailed,
    DeepSeekError,
    NoKey,
    OutOfMoney,
    RequestRefused,
)
from .failures import verdict
from .ledger import Asked, Keep, Ledger, Outcome, State
from .prices import cost, price
from .wire import Answer, Balance, BalanceInfo, Key, Request, Usage, question

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger("deepseek_magic")

FRESH_SECONDS = 0.5
"""How long the error of an empty account waits, at most, for a fresh reading of the balance."""

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


class Session:
    """One account, its ledger, and the questions asked of it.

    *api_key* and *base_url* come from DEEPSEEK_API_KEY and DEEPSEEK_BASE_URL
    when not given, *ledger* is a path or ":memory:", and *timeout* is how many
    seconds the API may be silent during an answer. *currency* is learned from
    the balance when it is not given. *clock* gives the time, aware, which
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
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.base_url = base_url or os.environ.get("DEEPSEEK_BASE_URL") or DEEPSEEK
        self.timeout = timeout
        self.notebook = notebook
        self.ledger = Ledger(ledger_path() if ledger is None else ledger, keep=keep)
        self.spent: dict[str, Decimal] = {}
        """Known costs of this session's queries, by currency."""
        self.listeners: list[Callable[[], None]] = []
        """Called, from any thread, when a balance was read or a query has ended."""
        self.balance_problem: str | None = None
        """Why the newest reading of the balance failed; None when it did not."""
        self._clock = clock
        self._key = Key(api_key.strip()) if isinstance(api_key, str) else api_key
        self._client: Client | None = None
        self._currency = currency
        self._currency_given = currency is not None
        self._waited = False
        self._balance: Balance | None = None
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None
        self._read_again = False
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
        request = prompt if isinstance(prompt, Request) else question(prompt, **settings)
        client = self.client
        if refusal := preflight.refusal(request, client.key):
            raise refusal
        return self._answers(client, request, cell)

    def _answers(self, client: Client, request: Request, cell: str | None) -> Generator[Answer]:
        began = time.monotonic()
        entry = self.ledger.ask(self._asked(request, cell))
        if self.currency is None:
            self.refresh()
        answer = Answer(model=request.model, currency=self.currency)
        sent_at = self._clock()
        state: State = "interrupted"
        error: DeepSeekError | None = None
        try:
            with closing(client.stream(request, idle=self.timeout)) as pieces:
                for piece in pieces:
                    answer = answer.plus(piece)
                    yield answer
            error = verdict(request, answer)
            state = _state(error)
        except DeepSeekError as broken:
            error, state = broken, _state(broken)
        finally:
            answer = replace(answer, seconds=time.monotonic() - began)
            answer = self._priced(answer, sent_at)
            self._record(entry, answer, state, error, sent_at)
        if error is not None:
            raise self._with_facts(error, answer)
        yield answer

    def _with_facts(self, error: DeepSeekError, answer: Answer) -> DeepSeekError:
        """Add what had arrived, and for want of money the last known balance."""
        if answer.text or answer.reasoning or answer.usage:
            error.answer = answer
        if isinstance(error, OutOfMoney):
            self._wait_for_reading(FRESH_SECONDS)
            error.balance = self.last_balance
        return error

    def _priced(self, answer: Answer, sent_at: datetime) -> Answer:
        if answer.usage is not None and self.currency is None and not self._waited:
            self._waited = True  # once: an endpoint that is silent holds up one answer, not all
            self._wait_for_reading()
        found = price(answer.model or "", self.currency, sent_at)
        return replace(answer, cost=cost(answer.usage, found), currency=self.currency)

    def _asked(self, request: Request, cell: str | None) -> Asked:
        return Asked(
            at=self._clock(),
            account=self.account,
            model=request.model,
            think=request.think,
            notebook=self.notebook,
            cell=cell,
            request=json.dumps(request.body(), ensure_ascii=False),
        )

    def _record(
        self, entry: int, answer: Answer, state: State, error: DeepSeekError | None, at: datetime
    ) -> None:
        """Write the end of a call down, add it up, and let the balance be read anew."""
        found = price(answer.model or "", answer.currency, at)
        tokens = asdict(answer.usage or Usage())
        written = self.ledger.end(
            entry,
            Outcome(
                state=state,
                at=self._clock(),
                model=answer.model,
                price=f"{found.hit}/{found.miss}/{found.out}" if found else None,
                band=found.band if found else None,
                currency=answer.currency,
                cost=answer.cost,
                seconds=answer.seconds,
                finish_reason=answer.finish_reason,
                error=None if error is None else str(error),
                trace_id=None if error is None else error.trace_id,
                answer=answer.text or None,
                reasoning=answer.reasoning or None,
                **tokens,
            ),
        )
        if answer.cost is not None and answer.currency is not None:
            with self._lock:
                self.spent[answer.currency] = (
                    self.spent.get(answer.currency, Decimal(0)) + answer.cost
                )
        LOG.info("query ended: state=%s model=%s cost=%s", state, answer.model, answer.cost)
        try:
            written.result(DISK_SECONDS)
        except TimeoutError:
            LOG.warning("the ledger is slow; the record of this answer is still to be written")
        self._tell()
        self.refresh()

    # -- money --------------------------------------------------------------------

    def balance(self) -> Balance:
        """Read the account's balance from the API."""
        try:
            reading = replace(self.client.balance(), read_at=self._clock())
        except DeepSeekError as error:
            self.balance_problem = str(error)
            raise
        self.balance_problem = None
        rows = [
            {"available": reading.available, "currency": info.currency}
            | {part: _digits(getattr(info, part)) for part in ("total", "granted", "topped_up")}
            for info in reading.infos.values()
        ]
        if reading.read_at is not None:
            self.ledger.reading(self.account, reading.read_at, rows)
        self._balance = reading
        self._follow(reading)
        self._tell()
        return reading

    def _follow(self, reading: Balance) -> None:
        """Take the account's currency from *reading*, and stay with it while it holds money."""
        held = reading.infos.get(self._currency or "")
        if self._currency_given or (held is not None and held.total != 0):
            return
        if self._currency is None or (reading.effective or 0) > 0:
            self._currency = reading.currency

    @property
    def last_balance(self) -> Balance | None:
        """The last known balance, with what was spent since; asks the ledger, not the API."""
        if self._balance is None:
            self._balance = self._balance_on_record()
        known = self._balance
        if known is None or known.read_at is None or known.currency is None:
            return known
        spent = self.ledger.spent(self.account, known.read_at).get(known.currency, Decimal(0))
        return replace(known, spent_since=spent)

    @property
    def currency(self) -> str | None:
        """The currency that the account is billed in; None until a balance was read."""
        if self._currency is None and (known := self._balance or self._balance_on_record()):
            self._balance = known
            self._currency = known.currency
        return self._currency

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

    def refresh(self) -> threading.Thread:
        """Read the balance on a thread of its own, and once more if asked meanwhile."""
        with self._lock:
            if self._reading is not None and self._reading.is_alive():
                self._read_again = True
            else:
                self._reading = threading.Thread(
                    target=self._read_balance, name="deepseek_magic balance", daemon=True
                )
                self._reading.start()
            return self._reading

    def _read_balance(self) -> None:
        while not self._closed:
            try:
                self.balance()
            except DeepSeekError as error:
                LOG.debug("the balance was not read: %s", error)
                self._tell()
            with self._lock:
                if not self._read_again:
                    self._reading = None
                    return
                self._read_again = False

    def _wait_for_reading(self, seconds: float = 5.0) -> None:
        reading = self._reading
        if reading is not None:
            reading.join(seconds)

    def _balance_on_record(self) -> Balance | None:
        found = self.ledger.last_reading(self.account)
        if found is None:
            return None
        at, rows = found
        infos = {
            row["currency"]: BalanceInfo(
                row["currency"],
                *(_decimal(row[part]) for part in ("total", "granted", "topped_up")),
            )
            for row in rows
        }
        available = rows[0]["available"]
        return Balance(None if available is None else bool(available), infos, at)

    # -- the account --------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The connection to the API; looks for the key on first use."""
        with self._lock:
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
    def account(self) -> str:
        """A short name of the account for the ledger; the key cannot be read from it."""
        client = self.client
        mark = f"{client.host} {client.key.reveal()}"
        return hashlib.sha256(mark.encode()).hexdigest()[:12]

    def models(self) -> list[Model]:
        """Read the list of models from the API."""
        return self.client.models()

    def close(self) -> None:
        """Close the connections and the ledger; doing it twice is harmless."""
        self._closed = True
        self.listeners.clear()
        self._wait_for_reading(1.0)
        if self._client is not None:
            self._client.close()
        self.ledger.close()

    def _tell(self) -> None:
        for listener in list(self.listeners):
            try:
                listener()
            except Exception:  # an answer that was paid for is given out all the same
                LOG.exception("a listener failed")


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


def _digits(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
