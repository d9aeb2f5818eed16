"""Do the readings of the balance fit what is recorded? Other use and new prices, told in a line.

The API's figure lags and is rounded, so a charge may show at any time between
the sending of its question and half an hour after its end. Two readings are
therefore compared with the least and the most that can have been charged
between them, and what lies within that is no finding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Literal

from .wire import EXACT
from .words import sentences, t

if TYPE_CHECKING:
    from .entries import Spending

Kind = Literal["other use", "prices"]
Event = Literal["more", "less"]
Reading = tuple[datetime, Decimal]

LAG = timedelta(minutes=30)
STEP = Decimal("0.01")
SKEW = timedelta(minutes=2)
"""A figure is this much newer than its reading at most; clocks of two machines differ so much."""

SLACK = Decimal("0.01")
"""This part of what is recorded may be missing unsaid, as a bill has roundings of its own."""

DOUBT = Decimal("0.02")
"""A reading counts when this part of the spending before it, or a step, is not settled at most."""

STEADY = Decimal("0.01")
"""So much a ratio may vary between one comparison and the next and still be the same."""

CHANCE = Decimal("0.2")
"""Scattered use may look like a steady ratio with this probability at most."""

APART = timedelta(days=3)
"""Other use that comes back within this time is one finding."""

OTHERS = 3
"""For each comparison that does not fit a ratio, so many have to."""

ZERO, ONE = Decimal(0), Decimal(1)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the readings of the balance tell beyond the ledger.

    *amount* is what the balance lost between *since* and *until* beyond the
    *recorded* spending of that time, negative where it lost less. Where costs
    are ranges, it is the part that no cost within them explains.
    """

    kind: Kind
    since: datetime
    until: datetime
    amount: Decimal
    currency: str
    recorded: Decimal = ZERO

    @property
    def name(self) -> str:
        """What is told once: the same while the finding grows, and anew in another month."""
        return f"{self.kind} {self.currency} {self.since:%Y-%m}"

    def text(self) -> str:
        """Say it in one line, in the reader's time, with what to do."""
        return _of_prices(self) if self.kind == "prices" else _of_other_use(self)


def findings(
    readings: Sequence[Reading],
    spending: Sequence[Spending],
    currency: str,
    *,
    lag: timedelta = LAG,
    step: Decimal = STEP,
) -> list[Finding]:
    """Compare *readings* of the balance in *currency* with the recorded *spending*.

    *spending* has to reach back by *lag* further than the readings, or what was
    charged before them looks like other use. *lag* is the time after which a
    charge shows at the latest, *step* the unit of the readings. A top-up, and
    spending that nobody can bound, end a comparison.
    """
    with localcontext(EXACT):
        own = [one for one in spending if one.currency in (currency, None)]
        marks = list(_marks(sorted(readings), own, lag, step))
        gaps = list(_gaps(marks, 2 * step))
        runs = _runs(gaps)
        events = [gap for gap in gaps if gap.event is not None]
        rest = [gap for gap in events if not any(_explains(run, gap) for run in runs)]
        found = [_prices(run, own, currency) for run in runs]
        less = [gap for gap in rest if gap.event == "less" and not gap.may_be_a_top_up]
        if less:
            found.append(_prices(less, own, currency))
        found += _other_use([gap for gap in rest if gap.event == "more"], currency)
        return sorted(found, key=lambda one: (one.since, one.kind))


# Readings, and what may be in them


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums of spending up to each of *times*: the least, the most, and how much is unknown."""

    times: list[datetime]
    low: list[Decimal]
    high: list[Decimal]
    unknown: list[int]

    def until(self, at: datetime) -> tuple[Decimal, Decimal, int]:
        n = bisect_right(self.times, at)
        return self.low[n], self.high[n], self.unknown[n]


def _sums(rows: list[tuple[datetime, Spending]]) -> _Sums:
    rows.sort(key=lambda row: row[0])
    return _Sums(
        times=[at for at, _ in rows],
        low=list(accumulate((one.low for _, one in rows), initial=ZERO)),
        high=list(accumulate((one.high or ZERO for _, one in rows), initial=ZERO)),
        unknown=list(accumulate((int(one.high is None) for _, one in rows), initial=0)),
    )


@dataclass(frozen=True, slots=True)
class _Mark:
    """A reading that tells something: what is surely in its *total*, and what may be.

    The sums count from the beginning. Between marks of two *stretches* nothing
    can be said, and where *empties* differ, nothing of a fall that is too small.
    """

    at: datetime
    total: Decimal
    sure_low: Decimal
    sure_high: Decimal
    maybe_low: Decimal
    maybe_high: Decimal
    stretch: int
    empties: int

    # The total and all that was spent before it stay the same while the two fit. Each
    # is the figure that favours a fit: as the earlier of two marks, or as the later.

    @property
    def more_from(self) -> Decimal:
        return self.total + self.sure_high * (1 + SLACK)

    @property
    def more_to(self) -> Decimal:
        return self.total + self.maybe_high * (1 + SLACK)

    @property
    def less_from(self) -> Decimal:
        return self.total + self.maybe_low * (1 - SLACK)

    @property
    def less_to(self) -> Decimal:
        return self.total + self.sure_low * (1 - SLACK)

    def contradicts(self, later: _Mark, event: Event, tolerance: Decimal) -> bool:
        """Tell whether less, or more, is left at *later* than what is recorded explains."""
        if event == "more":
            return self.more_from > later.more_to + tolerance
        return self.empties == later.empties and self.less_from + tolerance < later.less_to


def _marks(
    readings: list[Reading], own: Sequence[Spending], lag: timedelta, step: Decimal
) -> Iterator[_Mark]:
    ended = _sums([(one.at, one) for one in own if one.at is not None])
    sent = _sums([(one.sent, one) for one in own])
    stretch = empties = blind = 0
    before: Decimal | None = None
    last: _Mark | None = None
    for at, total in readings:
        sure_low, sure_high, sure_unknown = ended.until(at - lag - SKEW)
        maybe_low, maybe_high, maybe_unknown = sent.until(at + SKEW)
        stretch += before is not None and total > before + 2 * step  # a top-up
        # An empty account pays less than is recorded: its balance stops at 0.
        empties += total <= 2 * step
        before = total
        passed = sure_low - (last.maybe_low if last else ZERO)
        if maybe_unknown > sure_unknown or maybe_high - sure_high > max(step, DOUBT * passed):
            continue
        stretch += maybe_unknown > blind
        blind = maybe_unknown
        last = _Mark(at, total, sure_low, sure_high, maybe_low, maybe_high, stretch, empties)
        yield last


# What happened between two marks


@dataclass(frozen=True, slots=True, eq=False)
class _Gap:
    """The time between two marks: what the balance lost, and what is recorded at least and most.

    An *event* is a fall that nothing recorded explains ("more"), or one that is
    too small for it ("less").
    """

    since: datetime
    until: datetime
    fall: Decimal
    low: Decimal
    high: Decimal
    tolerance: Decimal
    event: Event | None = None

    @property
    def amount(self) -> Decimal:
        """What was lost beyond what is recorded: the part that no cost in its range explains."""
        return self.fall - (self.low if self.event == "less" else self.high)

    @property
    def recorded(self) -> Decimal:
        return self.low if self.event == "less" else self.high

    @property
    def ratio(self) -> tuple[Decimal, Decimal] | None:
        """Between which bounds the bill stands to what is recorded; None where nothing is."""
        if self.low <= 0:
            return None
        least = max(self.fall - self.tolerance, ZERO) / self.high
        return least * (1 - STEADY), (self.fall + self.tolerance) / self.low * (1 + STEADY)

    @property
    def may_be_a_top_up(self) -> bool:
        """Whether a whole amount, as people pay it in, explains a fall that is too small."""
        least = (self.low - self.fall - self.tolerance).to_integral_value(ROUND_CEILING)
        most = (self.high - self.fall + self.tolerance).to_integral_value(ROUND_FLOOR)
        return max(least, ONE) <= most


def _gap(first: _Mark, last: _Mark, tolerance: Decimal, event: Event | None = None) -> _Gap:
    return _Gap(
        since=first.at,
        until=last.at,
        fall=first.total - last.total,
        low=max(last.sure_low - first.maybe_low, ZERO),
        high=last.maybe_high - first.sure_high,
        tolerance=tolerance,
        event=event,
    )


def _gaps(marks: Sequence[_Mark], tolerance: Decimal) -> Iterator[_Gap]:
    """Divide the time into events, each as short as the marks allow, and the calm between them."""
    for _, stretch in groupby(marks, key=lambda mark: mark.stretch):
        yield from _divided(list(stretch), tolerance)


def _divided(marks: list[_Mark], tolerance: Decimal) -> Iterator[_Gap]:
    begins = 0  # the marks from here on fit together
    most, least = marks[0].more_from, marks[0].less_from
    for n, mark in enumerate(marks[1:], 1):
        if mark.empties != marks[n - 1].empties:
            least = Decimal("Infinity")
        event: Event | None = None
        if most > mark.more_to + tolerance:
            event = "more"
        elif least + tolerance < mark.less_to:
            event = "less"
        if event is None:
            most, least = max(most, mark.more_from), min(least, mark.less_from)
            continue
        first = next(
            i for i in range(n - 1, -1, -1) if marks[i].contradicts(mark, event, tolerance)
        )
        if first > begins:
            yield _gap(marks[begins], marks[first], tolerance)
        yield _gap(marks[first], mark, tolerance, event)
        begins, most, least = n, mark.more_from, mark.less_from
    if begins < len(marks) - 1:
        yield _gap(marks[begins], marks[-1], tolerance)


# What it may mean


def _runs(gaps: Sequence[_Gap]) -> list[list[_Gap]]:
    """Find the events in which the bill stands in one ratio to what is recorded: new prices."""
    events = [gap for gap in gaps if gap.event is not None and gap.ratio is not None]
    runs: list[list[_Gap]] = []
    taken: set[int] = set()
    for n, gap in enumerate(gaps):
        if gap.event is not None and id(gap) not in taken:
            run = _run(gaps[n:])
            if _is_steady(run, len(events) - len(run)):
                runs.append(run)
                taken.update(map(id, run))
    return runs


def _run(gaps: Sequence[_Gap]) -> list[_Gap]:
    """Follow the ratio of the first of *gaps* for as long as the others have it too."""
    run, others, common = [gaps[0]], 0, gaps[0].ratio
    for gap in gaps[1:]:
        ratio = gap.ratio
        if common is None or ratio is None:
            continue
        both = max(common[0], ratio[0]), min(common[1], ratio[1])
        fits = both[0] <= both[1]
        if gap.event == gaps[0].event and fits:
            run.append(gap)
            common = both
        elif not fits:
            others += 1
            if gap.event is None or OTHERS * others > len(run):
                break
    return run


def _explains(run: Sequence[_Gap], gap: _Gap) -> bool:
    """Tell whether the prices of *run*, once they hold, leave nothing of *gap* to tell."""
    if gap in run:
        return True
    if gap.since < run[0].since or gap.event != run[0].event:
        return False
    least, most = _common(run)
    if gap.event == "more":
        return gap.fall - gap.tolerance <= most * gap.high
    return gap.fall + gap.tolerance >= least * gap.low


def _common(run: Sequence[_Gap]) -> tuple[Decimal, Decimal]:
    ratios = [ratio for gap in run if (ratio := gap.ratio) is not None]
    return max(low for low, _ in ratios), min(high for _, high in ratios)


def _is_steady(run: Sequence[_Gap], others: int) -> bool:
    """Tell whether falls that are scattered, as those *others* are, would hardly agree so well."""
    ratios = [ratio for gap in run if (ratio := gap.ratio) is not None]
    if len(ratios) < 2:
        return False
    least, most = _common(run)
    common = (least + most) / 2
    if common == 1:
        return False
    widths = [(high - low) / abs(common - 1) for low, high in ratios]
    chance = ONE
    for one, other in pairwise(widths):
        chance *= min((one + other) / 2, ONE)
    return chance * (1 + others) <= CHANCE


def _prices(gaps: Sequence[_Gap], own: Sequence[Spending], currency: str) -> Finding:
    """Date new prices by the first spending that they can have met."""
    met = (one.sent for one in own if gaps[0].since < one.sent <= gaps[0].until)
    return Finding(
        kind="prices",
        since=min(met, default=gaps[0].since),
        until=gaps[-1].until,
        amount=sum((gap.amount for gap in gaps), ZERO),
        currency=currency,
        recorded=sum((gap.recorded for gap in gaps), ZERO),
    )


def _other_use(gaps: Sequence[_Gap], currency: str) -> Iterator[Finding]:
    """Put falls together that are not far *apart*."""
    found: list[list[_Gap]] = []
    for gap in gaps:
        if found and gap.since - found[-1][-1].until <= APART:
            found[-1].append(gap)
        else:
            found.append([gap])
    for near in found:
        yield Finding(
            kind="other use",
            since=near[0].since,
            until=near[-1].until,
            amount=sum((gap.amount for gap in near), ZERO),
            currency=currency,
            recorded=sum((gap.recorded for gap in near), ZERO),
        )


# The words


def _of_other_use(one: Finding) -> str:
    since, until = one.since.astimezone(), one.until.astimezone()
    end = f"{until:%H:%M}" if until.date() == since.date() else f"{until:%Y-%m-%d %H:%M}"
    what = t(
        "Between {since} and {until} the balance fell by {amount} {currency} more than is recorded "
        "here: other use of this account, such as another computer or key, or a gift that has "
        "expired, or prices have changed: %deepseek prices."
        if one.recorded
        else "Between {since} and {until} the balance fell by {amount} {currency} more than is "
        "recorded here: other use of this account, such as another computer or key, or a gift "
        "that has expired.",
        since=f"{since:%Y-%m-%d %H:%M}",
        until=end,
        amount=_cents(one.amount),
        currency=one.currency,
    )
    return sentences(what, t("DeepSeek's own list: https://platform.deepseek.com/usage"))


def _of_prices(one: Finding) -> str:
    with localcontext(EXACT):
        ratio = _cents((one.recorded + one.amount) / one.recorded)
    return t(
        "Prices may have changed since {day}: the balance falls by about {ratio} {currency} for "
        "each {currency} recorded here. Compare: %deepseek prices",
        day=f"{one.since.astimezone():%Y-%m-%d}",
        ratio=ratio,
        currency=one.currency,
    )


def _cents(amount: Decimal) -> str:
    return f"{amount.quantize(Decimal('0.01'), context=EXACT):,}"
