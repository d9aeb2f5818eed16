"""The stamps of a saved notebook: what the outputs that are in it say of their cost.

Each answer that a cell shows bears its model and cost in the metadata of its
output. A notebook is anybody's file, so nothing of it is taken on trust.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

from .errors import InvalidOption, nearest, one_line
from .wire import EXACT, NAME_CHARACTERS, CostRange, Usage, amount
from .words import sentences, t

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MOST_BYTES = 2**28
"""A notebook above this is not read: no front end opens it either."""
_MOST_DIGITS = 60
_SMALLEST = Decimal("1e-30")
_MOST_TOKENS = 10**9


@dataclass(frozen=True, slots=True)
class Stamp:
    """What one output says of its answer; None is "not known".

    Where *cost* is not known to the digit, *cost_range* has its bounds.
    """

    model: str | None
    currency: str | None = None
    cost: Decimal | None = None
    cost_range: CostRange | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Stamps:
    """The stamps of a notebook, and how many more of it cannot be read."""

    stamps: tuple[Stamp, ...] = ()
    unreadable: int = 0


def of_file(path: Path) -> Stamps:
    """Read the stamps of the notebook at *path*; what is none is an `InvalidOption`."""
    return of_notebook(_parsed(_bytes(path), path.name))


def _bytes(path: Path) -> bytes:
    name = one_line(str(path), 100)
    try:
        path = path.expanduser()
        if path.is_dir():
            raise InvalidOption(
                t("{name} is a folder. Name the notebook in it: {name}/FILE.ipynb", name=name)
            )
        # A pipe or a device would never end.
        if path.exists() and not path.is_file():
            raise InvalidOption(
                t("{name} is no file, so no notebook can be read from it.", name=name)
            )
        if path.stat().st_size > MOST_BYTES:
            raise InvalidOption(
                t(
                    "{name} has more than {most:,} MB, too much for a notebook. It was not read.",
                    name=name,
                    most=MOST_BYTES // 10**6,
                )
            )
        return path.read_bytes()
    except FileNotFoundError:
        missing = t("There is no file {name}.", name=name)
        raise InvalidOption(sentences(missing, _near(path))) from None
    except (OSError, ValueError, RuntimeError) as error:
        why = one_line(str(getattr(error, "strerror", None) or error), 80)
        raise InvalidOption(t("{name} cannot be read: {why}.", name=name, why=why)) from None


def _near(path: Path) -> str:
    try:
        near = nearest(path.name, sorted(found.name for found in path.parent.glob("*.ipynb")))
    except OSError:
        near = None
    if near is None:
        return ""
    return t("Did you mean {near}?", near=one_line(str(path.with_name(near)), 100))


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    """Parse the JSON of a notebook of format 4."""
    name = one_line(name, 100)
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise InvalidOption(
            t(
                "{name} is no notebook: it is not the JSON that Jupyter saves. Name an .ipynb "
                "file.",
                name=name,
            )
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("cells"), list):
        old = isinstance(found, dict) and isinstance(found.get("worksheets"), list)
        why = t(
            "{name} is a notebook of an old format. Convert it first: jupyter nbconvert --to "
            "notebook FILE"
            if old
            else "{name} is no notebook: it has no cells. Name an .ipynb file.",
            name=name,
        )
        raise InvalidOption(why)
    return found


def of_notebook(notebook: Mapping[str, Any]) -> Stamps:
    """Collect the stamps of a notebook of format 4, as its JSON says them."""
    read = [_stamp(found) for found in _found(notebook)]
    stamps = tuple(stamp for stamp in read if stamp is not None)
    return Stamps(stamps, len(read) - len(stamps))


def _found(notebook: Mapping[str, Any]) -> Iterator[object]:
    for cell in _rows(notebook.get("cells")):
        for output in _rows(cell.get("outputs")):
            metadata = output.get("metadata")
            if isinstance(metadata, dict) and "deepseek_magic" in metadata:
                found = metadata["deepseek_magic"]
                if not (isinstance(found, dict) and found.get("again") is True):
                    yield found


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _stamp(data: object) -> Stamp | None:
    """Read one stamp; None when something in it is not of its type."""
    if not isinstance(data, dict) or "model" not in data or "cost" not in data:
        return None
    try:
        return Stamp(
            model=_text(data["model"]),
            currency=_currency(data.get("currency")),
            cost=_amount(data["cost"]),
            cost_range=_range(data.get("cost_range")),
            usage=_usage(data.get("tokens")),
        )
    except ValueError:
        return None


def _text(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("no text")  # noqa: TRY004  # one kind of error for all that is wrong
    return value.encode("utf-8", "replace").decode()[:NAME_CHARACTERS] or None


def _currency(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and re.fullmatch("[A-Z]{3}", value)):
        raise ValueError("no currency")
    return value


def _amount(value: object) -> Decimal | None:
    """Read an amount as it is stamped, a string; one of absurdly many digits is none."""
    if value is None:
        return None
    found = amount(value) if isinstance(value, str) and len(value) <= _MOST_DIGITS else None
    if found is None or 0 < found < _SMALLEST:
        raise ValueError("no amount")
    return found or Decimal(0)  # whatever exponent a zero was written with


def _range(value: object) -> CostRange | None:
    if value is None:
        return None
    ends = value if isinstance(value, list) and len(value) == 2 else (None, None)
    low, high = map(_amount, ends)
    if low is None or high is None or low > high:
        raise ValueError("no range")
    return CostRange(low, high)


def _usage(value: object) -> Usage | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("no counts")  # noqa: TRY004  # one kind of error for all that is wrong
    return Usage(*(_count(value.get(name)) for name in Usage.__slots__))


def _count(value: object) -> int | None:
    if value is not None and not (type(value) is int and 0 <= value < _MOST_TOKENS):
        raise ValueError("no count")
    return value


# Adding up


def by_model(stamps: Sequence[Stamp]) -> list[dict[str, Any]]:
    """Add up *stamps* by model and currency, in the form of the ledger's `usage`."""
    groups: dict[tuple[str | None, str | None], list[Stamp]] = {}
    for stamp in stamps:
        groups.setdefault((stamp.model, stamp.currency), []).append(stamp)
    return [
        {"model": model, "currency": currency, **_sums(group)}
        for (model, currency), group in groups.items()
    ]


def _sums(stamps: Sequence[Stamp]) -> dict[str, Any]:
    exact = [stamp.cost for stamp in stamps if stamp.cost is not None]
    ranges = [one.cost_range for one in stamps if one.cost is None and one.cost_range is not None]
    known = bool(exact or ranges)
    with localcontext(EXACT):
        cost = sum(exact, Decimal(0))
        low = cost + sum((span.low for span in ranges), Decimal(0))
        high = cost + sum((span.high for span in ranges), Decimal(0))
    return {
        "queries": len(stamps),
        "cost": cost if exact else None,
        "cost_low": low if known else None,
        "cost_high": high if known else None,
        "ranged": len(ranges),
        "unpriced": len(stamps) - len(exact) - len(ranges),
        "saved": None,
        **{name: _total(stamps, name) for name in Usage.__slots__},
    }


def _total(stamps: Sequence[Stamp], name: str) -> int | None:
    """Add up a count where it is known; None where it nowhere is."""
    counts = [getattr(stamp.usage, name, None) for stamp in stamps]
    known = [number for number in counts if number is not None]
    return sum(known) if known else None
