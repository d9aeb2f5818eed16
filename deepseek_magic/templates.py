"""A question with `{{columns}}`, to be filled in for each row.

A placeholder that is a column's name is that column; any other is an expression in
which columns are names, and `row` is the whole row as a dict. What uses no column
is the same for all rows, and evaluated once.
"""

from __future__ import annotations

import builtins
import dis
import keyword
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from .errors import InvalidOption, nearest, one_line
from .placeholders import SPEC, Placeholder, braced, compiled, text_of, told
from .words import later, t

ROW = "row"
SHOWN = 10
"""Columns named in an error, at most."""

Slot = Callable[[Mapping[str, object]], str]
"""Gives what stands in a template's place for one row."""

_ASIDE = later("""To send two braces as they stand: {{'{{'}}""")


@dataclass(frozen=True, slots=True)
class Template:
    """A question as it was written, ready to be filled in.

    *columns* are those that it uses; None where it may use any of them, through `row`.
    """

    text: str
    columns: tuple[str, ...] | None
    _parts: tuple[str | Slot, ...]

    def fill(self, row: Mapping[str, object]) -> str | None:
        """Write the question about one *row*; None where all that it would ask about is missing.

        An expression that fails raises `InvalidOption`.
        """
        parts, is_blank = list[str](), True
        for part in self._parts:
            if isinstance(part, str):
                parts.append(part)
                continue
            text = part(row)
            parts.append(text)
            if text and not text.isspace():
                is_blank = False
        return None if is_blank else "".join(parts)


def read(
    template: str,
    columns: Sequence[str],
    *,
    names: Mapping[str, object] | None = None,
    bound: int = 1000,
) -> Template:
    """Read a *template* about rows with *columns*; *names* are what else its expressions may use.

    Each name is looked for now, so that no row is asked with one that is not there.
    *bound* is about how many tokens one value may take; strings are given whole.
    """
    known = _Known(tuple(columns), names or {}, bound)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a text that may be no Python at all
        found = list(_pieces(template, known))
    used = [piece.columns for piece in found if isinstance(piece, _Asked)]
    if not any(used):
        raise InvalidOption(
            t("The template asks the same of every row."),
            t("Nothing was sent."),
            t(
                "Put a column where its value belongs: {expression}.",
                expression=braced(columns[0] if columns else "text"),
            ),
            _listed(columns),
        )
    parts = tuple(_part(piece, known) for piece in found)
    return Template(template, _all_used(used, known), parts)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a placeholder may name."""

    columns: tuple[str, ...]
    names: Mapping[str, object]
    bound: int

    def column(self, text: str) -> str | None:
        """Find the column that *text* is the name of."""
        if text in self.columns:
            return text
        return next((name for name in self.columns if name.strip() == text), None)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A placeholder and the columns that it uses (`row` among them), each once.

    *found* is None where the placeholder is a column and no expression.
    """

    columns: tuple[str, ...]
    found: Placeholder | None = None
    spec: str = ""


def _pieces(template: str, known: _Known) -> Iterator[str | _Asked]:
    """Take the template apart: plain text, and what stands in braces."""
    after = 0
    while (start := template.find("{{", after)) >= 0:
        if start > after:
            yield template[after:start]
        end, asked = _literal(template, start + 2, known) or _expression(template, start + 2, known)
        yield asked
        after = end + 2
    if template[after:]:
        yield template[after:]


def _literal(template: str, start: int, known: _Known) -> tuple[int, _Asked] | None:
    """Read a placeholder that is a column's name, with or without a format after it."""
    end = template.find("}}", start)
    source = template[start:end].strip()
    if end < 0:
        return None
    if (column := known.column(source)) is not None:
        return end, _Asked((column,))
    name, colon, spec = source.rpartition(":")
    if colon and SPEC.fullmatch(spec) and (column := known.column(name.strip())) is not None:
        return end, _Asked((column,), spec=spec)
    return None


def _expression(template: str, start: int, known: _Known) -> tuple[int, _Asked]:
    try:
        end, source, code, spec = compiled(template, start, {})
    except InvalidOption as error:
        raise _no_expression(template[start : start + 200], error, known) from error.__cause__
    used = tuple(dict.fromkeys(_names(code)))
    _check(source, used, known)
    columns = tuple(name for name in used if name in known.columns or name == ROW)
    return end, _Asked(columns, Placeholder(start - 2, end + 2, source, code, spec), spec)


def _no_expression(rest: str, error: InvalidOption, known: _Known) -> InvalidOption:
    """Say what was meant by a placeholder that is no Python, if it looks like a column's name."""
    inside, closing, _ = rest.partition("}}")
    inside = inside.strip()
    if closing and re.fullmatch(r"[\w ]+", inside) and (near := nearest(inside, known.columns)):
        return _unknown(inside, inside, near, known)
    odd = (c for c in known.columns if not c.isidentifier() or keyword.iskeyword(c))
    met = next((column for column in odd if column and column in inside), None)
    what = error.told[0]
    if met:
        what = t(
            "{what}; in an expression, that column is row[{column!r}].",
            what=what.rstrip(".。"),
            column=met,
        )
    return InvalidOption(what, t("Nothing was sent."), t(_ASIDE))


def _names(code: CodeType) -> Iterator[str]:
    """Give the names that *code* looks up outside of itself, those of its lambdas and loops too."""
    stored = set[str]()
    for instruction in dis.get_instructions(code):
        name = str(instruction.argval)
        if instruction.opname.startswith(("STORE_NAME", "STORE_GLOBAL")):
            stored.add(name)  # by `:=`
        elif instruction.opname.startswith(("LOAD_NAME", "LOAD_GLOBAL")) and name not in stored:
            yield name
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from (name for name in _names(constant) if name not in stored)


def _check(source: str, used: Sequence[str], known: _Known) -> None:
    for name in used:
        if name in known.columns or name == ROW or name in known.names or hasattr(builtins, name):
            continue
        public = (*known.columns, *(n for n in known.names if n[:1] != "_"))
        raise _unknown(source, name, nearest(name, known.columns) or nearest(name, public), known)


def _unknown(source: str, name: str, near: str | None, known: _Known) -> InvalidOption:
    what = t(
        "{expression} fails: there is no column or name {name} (did you mean {near}?)."
        if near
        else "{expression} fails: there is no column or name {name}.",
        expression=braced(source),
        name=one_line(name, 40),
        near=one_line(near or "", 40),
    )
    return InvalidOption(what, t("Nothing was sent."), _listed(known.columns))


def _listed(columns: Sequence[str]) -> str:
    told = ", ".join(one_line(name, 40) for name in columns[:SHOWN])
    if (rest := len(columns) - SHOWN) > 0:
        return t("Columns are: {names} and {n:,} more.", names=told, n=rest)
    return t("Columns are: {names}.", names=told)


def _all_used(used: Sequence[Sequence[str]], known: _Known) -> tuple[str, ...] | None:
    names = {name for columns in used for name in columns}
    if ROW in names - set(known.columns):
        return None
    return tuple(name for name in known.columns if name in names)


# What stands in a placeholder's place


def _part(piece: str | _Asked, known: _Known) -> str | Slot:
    if isinstance(piece, str):
        return piece
    if piece.found is not None:
        names = {
            name: known.names[name] for name in _names(piece.found.code) if name in known.names
        }
        if not piece.columns:
            return _once(piece.found, names, known.bound)
        return _evaluated(piece.found, piece.columns, names, known)
    return _value(piece.columns[0], piece.spec, known.bound)


def _once(found: Placeholder, names: dict[str, object], bound: int) -> str:
    try:
        return told(found, dict(names), bound)
    except InvalidOption as error:
        raise InvalidOption(*error.told[:-1], t(_ASIDE)) from error.__cause__


def _value(column: str, spec: str, bound: int) -> Slot:
    def value(row: Mapping[str, object]) -> str:
        found = row[column]
        if type(found) is str and not spec:
            return found
        return _text(column, found, spec, bound)

    return value


def _text(column: str, value: Any, spec: str, bound: int) -> str:
    if value is None:
        return ""
    if not spec:
        # Most numbers are told at once; what is longer, by what it is.
        is_short = type(value) is float or (type(value) is int and value.bit_length() < 64)
        return str(value) if is_short else text_of(value, bound)
    try:
        return format(value, spec)
    except Exception as error:
        raise _failed(f"{column}:{spec}", f"{type(error).__name__}: {error}") from error


def _evaluated(
    found: Placeholder, columns: Sequence[str], names: Mapping[str, object], known: _Known
) -> Slot:
    """Make what evaluates an expression for one row, in names of its own."""
    has_row = ROW in columns and ROW not in known.columns
    read = [name for name in columns if name != ROW or not has_row]

    def evaluated(row: Mapping[str, object]) -> str:
        values = {name: row[name] for name in read}
        scope: dict[Any, object] = {**names, **values}
        if has_row:
            scope[ROW] = dict(row)
        try:
            return told(found, scope, known.bound, none="")
        except InvalidOption as error:
            # What cannot be done with a missing value is missing too.
            if any(value is None for value in values.values()):
                return ""
            raise _failed(found.source, error.reason or error.told[0]) from error

    return evaluated


def _failed(source: str, why: str) -> InvalidOption:
    return InvalidOption(
        t(
            "{expression} fails in this row: {why}.",
            expression=braced(source),
            why=one_line(why.rstrip(".。"), 120),
        ),
        t("The row was not asked."),
        t("Mend the value or the expression, and run it again."),
    )
