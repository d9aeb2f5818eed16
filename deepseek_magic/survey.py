"""What a question for every row comes to, before any of it is sent.

All rows are read once: each is put into the template, looked through for a key,
and named, so that equal rows and rows answered earlier are known. What is kept of
a row is its name; the rows are read again when they are asked.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any, Protocol

from . import failures, frames, preflight, schemas, templates
from .clearance import estimate_at
from .errors import DeepSeekError, InvalidOption, KeyInText
from .estimate import most_in
from .jobs import Forecast
from .prices import PER
from .records import name_of, shape_of
from .wire import EXACT, Answer, CostRange, Message, Request
from .words import later, sentences, t

if TYPE_CHECKING:
    from .clearance import Clearance, Terms
    from .client import Client
    from .ledger import Ledger
    from .limits import Cap
    from .prices import Price
    from .purse import Purse

LOOKED_UP = 1000
"""So many names are looked up in the ledger at a time."""
SAMPLE = 100
"""So many of the first questions tell how long they are."""
FIRST_READ_SECONDS = 3.0
READ_SECONDS = 1.0


class Asker(Protocol):
    """The session, as far as rows are asked in its name."""

    ledger: Ledger
    timeout: float
    retries: int
    notebook: str | None
    answered: dict[str, Answer]
    unrepaired: dict[str, Answer]
    unfinished: dict[str, datetime]

    @property
    def client(self) -> Client:
        """The connection to the API."""

    @property
    def account(self) -> str:
        """The account's name in the ledger."""

    @property
    def currency(self) -> str | None:
        """The account's currency."""

    @property
    def purse(self) -> Purse:
        """What the account holds."""

    @property
    def clearance(self) -> Clearance:
        """The checks."""

    def now(self) -> datetime:
        """Give the time."""

    def add_up(self, answer: Answer) -> None:
        """Count what an answer cost for this session."""

    def with_facts(self, error: DeepSeekError, answer: Answer) -> DeepSeekError:
        """Add to an error what is known of the account."""

    def tell(self) -> None:
        """Tell whoever listens that something has ended."""

    def refresh(self) -> None:
        """Read the balance on a thread of its own."""


@dataclass(frozen=True, slots=True)
class Questions:
    """A question for every row of *data*: the *template*, what goes with it, and how it is read."""

    data: frames.Data
    template: templates.Template
    settings: Mapping[str, Any]
    schema: schemas.Schema | None = None
    json: bool = False
    repair: bool = True

    def all(self) -> Iterator[Request | str | None]:
        """Give the request of each row, in order; None for a blank one, a text for an error."""
        make = self._maker()
        for piece in self.data.pieces(self.template.columns):
            for row in piece:
                try:
                    prompt = self.template.fill(row)
                except InvalidOption as error:
                    yield str(error)
                else:
                    yield None if prompt is None else make(prompt)

    def _maker(self) -> Callable[[str], Request]:
        """Give what makes a request of a prompt; the settings are read once."""
        first = preflight.request_of("json", **self._all_settings())
        before = first.messages[:-1]

        def make(prompt: str) -> Request:
            return replace(first, messages=(*before, Message("user", prompt)))

        return make

    def _all_settings(self) -> dict[str, Any]:
        settings = dict(self.settings)
        if self.schema is not None:
            parts = (settings.get("system"), self.schema.instructions())
            settings["system"] = "\n\n".join(part for part in parts if part)
        if self.json and "json" not in f"{settings.get('system')} {self.template.text}".lower():
            settings["system"] = with_json(settings.get("system"))
        return {**settings, "json": self.json or self.schema is not None}

    def verdict(self, request: Request, answer: Answer) -> tuple[Any, DeepSeekError | None]:
        """Read what an answer stands for in its row; give that, or why it cannot."""
        # A schema tells more of what is wrong, and bears a fence around the JSON.
        read = request if self.schema is None else replace(request, json=False)
        if error := failures.row_verdict(read, answer):
            return None, error
        if self.schema is None:
            return (answer.json() if self.json else answer.text), None
        try:
            return self.schema.read(answer.text), None
        except DeepSeekError as error:
            return None, error


def with_json(system: str | None) -> str:
    """Add to a system message what the API's JSON mode needs."""
    from .wire import ASK_FOR_JSON

    return f"{system}\n\n{ASK_FOR_JSON}" if system else ASK_FOR_JSON


@dataclass(slots=True)
class Survey:
    """What is known of each row before it is asked.

    *names* are those of the questions, None for a row without one, and *marks* tell
    whether a row is still the same when it is read again; *first* gives the
    first row of each name, *copies* how many rows are equal to it; *kept* are the
    names that have an answer already; *errors*
    are of rows that cannot be asked.
    """

    questions: Questions
    names: list[str | None] = field(default_factory=list)
    marks: array[int] = field(default_factory=lambda: array("q"))
    first: dict[str, int] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    errors: dict[int, str] = field(default_factory=dict)
    sample: list[Request] = field(default_factory=list)
    bytes: int = 0
    key: str = ""
    is_fresh: bool = False

    @property
    def to_ask(self) -> int:
        """The number of questions that have to be sent."""
        return len(self.first) - len(self.kept)


BLANK = later("There is nothing to ask about: the columns of the template are empty in this row.")


def survey(asker: Asker, questions: Questions, *, fresh: bool) -> Survey:
    """Read all rows and find out which have to be asked; sends nothing.

    With *fresh*, answers of before do not count, but for those of the same rows that
    came since they were last begun and not brought to their end.
    """
    found = Survey(questions)
    key, shape = asker.client.key, None
    for row, request in enumerate(questions.all()):
        if not isinstance(request, Request):
            found.names.append(None)
            found.marks.append(0)
            found.errors[row] = t(BLANK) if request is None else request
            continue
        if not found.sample and (refusal := preflight.refusal(request, key)):
            raise refusal
        if reason := preflight.half_a_character(request.messages[-1].content):
            found.names.append(None)
            found.marks.append(0)
            found.errors[row] = sentences(
                t("{reason}.", reason=reason), t("Nothing was sent for this row.")
            )
            continue
        if preflight.like_a_key(request.messages[-1].content, key):
            raise KeyInText(
                t("Row {row} (counted from 0) holds something like a key.", row=row),
                t("Nothing was sent."),
                t("Take it out of the data; a key that stood in a file is best replaced."),
            )
        shape = shape or shape_of(request)
        name = name_of(request, shape)
        found.names.append(name)
        found.marks.append(mark_of(request))
        if name in found.first:
            found.copies[name] = found.copies.get(name, 0) + 1
        else:
            found.first[name] = row
            found.bytes += most_in(request)
            if len(found.sample) < SAMPLE:
                found.sample.append(request)
    found.key, found.is_fresh = _key(found), fresh
    since = asker.unfinished.get(found.key) if fresh else None
    if not fresh or since is not None:
        found.kept = _kept(asker, list(found.first), _longest(found), since)
    return found


def _key(found: Survey) -> str:
    """Name the rows as a whole."""
    return hashlib.blake2b("".join(found.first).encode(), digest_size=15).hexdigest()


def mark_of(request: Request) -> int:
    """Give a number that tells a question from another, within this process."""
    return hash(request.messages[-1].content)


def _longest(found: Survey) -> int | None:
    return found.sample[0].max_tokens if found.sample else None


def _kept(
    asker: Asker, names: Sequence[str], longest: int | None, since: datetime | None
) -> set[str]:
    kept = {name for name in names if name in asker.answered}
    for start in range(0, len(names), LOOKED_UP):
        part = names[start : start + LOOKED_UP]
        kept |= asker.ledger.which_have_answers(asker.account, part, longest, since)
    return kept


def longest_cut(asker: Asker, found: Survey) -> int:
    """Give the tokens of the longest answer to rows of *found* without one that was cut; or 0."""
    names = [name for name in found.first if name not in found.kept]
    parts = (names[start : start + LOOKED_UP] for start in range(0, len(names), LOOKED_UP))
    return max((asker.ledger.longest_cut(asker.account, part) for part in parts), default=0)


# What it would cost


def forecast(asker: Asker, found: Survey, terms: Terms) -> Forecast:
    """Reckon what the rows that are to be asked will cost, and how far the money goes.

    Doubt rests on a reading of its own: a top-up may have come since the last one.
    """
    if asker.purse.known is None:
        asker.purse.refresh()
        asker.purse.wait(FIRST_READ_SECONDS)
    reckoned = _reckoned(asker, found, terms)
    if reckoned.is_doubtful and asker.purse.reread(READ_SECONDS):
        return _reckoned(asker, found, terms)
    return reckoned


def _reckoned(asker: Asker, found: Survey, terms: Terms) -> Forecast:
    at, known = asker.now(), asker.purse.known
    counts = Forecast(
        rows=len(found.names),
        repeated=sum(name is not None for name in found.names) - len(found.first),
        kept=len(found.kept),
        blank=len(found.errors),
        to_ask=found.to_ask,
        at=at,
        currency=asker.currency,
        balance=known,
        limit=_limit(asker, terms.cap),
    )
    if not found.sample or not found.to_ask:
        return counts
    return _with_cost(asker, found, counts)


def _limit(asker: Asker, cap: Cap | None) -> Decimal | None:
    lefts = (None if cap is None else cap.left, asker.clearance.day_left())
    return min((left for left in lefts if left is not None), default=None)


def _with_cost(asker: Asker, found: Survey, counts: Forecast) -> Forecast:
    reckoned = [
        estimate_at(
            asker.ledger,
            asker.account,
            request,
            currency=counts.currency,
            at=counts.at,
            own=asker.clearance.own,
        )
        for request in found.sample
    ]
    dear = reckoned[0][1]
    guesses = [guess for guess, _ in reckoned]
    number, share = found.to_ask, Decimal(found.to_ask) / len(guesses)
    cost = _sum([guess.cost for guess in guesses], share)
    likely = None if cost is None else cost.likely
    balance = counts.balance.effective if counts.balance else None
    bound = _worst(found, dear, guesses[0].longest)
    # As long as no answer of the kind is known, a bound of the user's own says most of it.
    usual = bound if likely is None and found.sample[0].max_tokens is not None else likely
    return replace(
        counts,
        first=found.sample[0],
        tokens_in=int(sum(guess.tokens_in.likely for guess in guesses) * share),
        cost=cost,
        worst=bound,
        covered=_reach(balance, usual, number),
        within=_reach(counts.limit, likely or bound, number),
        reason=guesses[0].reason,
    )


def _sum(ranges: Sequence[CostRange | None], share: Decimal) -> CostRange | None:
    known = [span for span in ranges if span is not None]
    if len(known) < len(ranges):
        return None
    likely = [span.likely for span in known if span.likely is not None]
    with localcontext(EXACT):
        return CostRange(
            sum((span.low for span in known), Decimal(0)) * share,
            sum((span.high for span in known), Decimal(0)) * share,
            sum(likely, Decimal(0)) * share if len(likely) == len(known) else None,
        )


def _worst(found: Survey, dear: Price | None, longest: int) -> Decimal | None:
    """Give what all questions that have to be sent cost at most."""
    if dear is None:
        return None
    with localcontext(EXACT):
        share = Decimal(found.to_ask) / len(found.first)
        return (found.bytes * share * dear.miss + found.to_ask * longest * dear.out) / PER


def _reach(money: Decimal | None, likely: Decimal | None, rows: int) -> int | None:
    """Tell for how many of *rows* the *money* will do, when all cost *likely*."""
    if money is None or not likely:
        return None
    with localcontext(EXACT):
        return min(rows, int(money * rows / likely))
