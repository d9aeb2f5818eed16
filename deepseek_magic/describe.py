"""Python values as text for a model: what it is, its shape, as much of it as a bound allows.

    describe(value, bound=1000)
    ├── a string              as it stands, whatever its length
    ├── a frame or a series   shape, columns with type and missing count, the first rows
    ├── what is not computed  a lazy frame of Polars or Dask: its columns
    ├── a NumPy array         type, shape, the first values
    ├── a figure              Matplotlib's or Plotly's: titles, axes, what is drawn
    ├── bytes                 their number
    ├── dict, list, dataclass …   as JSON, with "… 12 more" where something is left out
    └── anything else         `str(value)`

A bound counts tokens. No library is imported for this: a frame of pandas can
only be met where pandas is loaded already.
"""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import islice
from numbers import Number
from typing import TYPE_CHECKING, Any

from .figures import figure_text
from .tokens import by_character as tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_NOTE = 35  # tokens kept free for the words about rows, cuts and what is left out
_WIDEST = 10  # characters of a token, at the most that are looked at
_ROWS = 5  # rows worth shortening the texts for
_CUTS = (400, 200, 100, 50, 25, 12)  # characters of one cell, the most generous first
_DIGITS = 15  # a longer number is a fraction in full binary precision
_PLAIN = re.compile(r'[^\s",](?:[^",\n\r\t]*[^\s",])?')
_JSON_WORDS = {None: "null", True: "true", False: "false"}


def describe(value: object, *, bound: int) -> str:
    """Tell *value* as text of at most about *bound* tokens.

    Strings are the user's own words and are given whole; everything else says
    what it leaves out.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if (table := _table_of(value)) is not None:
        return _table(table, bound)
    if _is(value, "numpy", "ndarray") and value.shape:  # type: ignore[attr-defined]  # ndarray
        return _array(value, bound)
    if (title := _title(value)) is not None:
        return title
    if _members(value) is not None:
        return _nested(value, bound)
    return _cut(_lazy(value) or figure_text(value) or _text(value), bound)


def _is(value: object, module: str, *names: str) -> bool:
    loaded = sys.modules.get(module)
    kinds = tuple(kind for name in names if (kind := getattr(loaded, name, None)) is not None)
    return isinstance(value, kinds)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # a value's own code may fail in any way
        return f"<unprintable {type(value).__name__}>"


def _short(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


def _cut(text: str, bound: int) -> str:
    if len(text) <= bound * _WIDEST and tokens(text) <= bound:
        return text
    kept = text[: max(bound - _NOTE, 1) * _WIDEST]
    while len(kept) > 1 and (spent := tokens(kept)) > max(bound - _NOTE, 1):
        kept = kept[: min(len(kept) - 1, len(kept) * max(bound - _NOTE, 1) // spent)]
    return f"{kept}… {len(text) - len(kept):,} more characters left out"


def _left_out(**counts: int) -> str:
    """Say what is missing, such as "… 4,990 more rows, 1 more column left out"."""
    told = [f"{n:,} more {what if n > 1 else what[:-1]}" for what, n in counts.items() if n > 0]
    return f"… {', '.join(told)} left out" if told else ""


# Nested values


def _title(value: object) -> str | None:
    """Give the one line that stands for a value too big or too raw to be told inside another."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{type(value).__name__}, {memoryview(value).nbytes:,} bytes>"
    if (table := _table_of(value)) is not None:
        return f"<{table.heading}>"
    if _is(value, "numpy", "ndarray") and value.shape:  # type: ignore[attr-defined]  # ndarray
        return f"<{_array_heading(value)}>"
    return None


@dataclass(frozen=True, slots=True)
class _Members:
    opening: str
    closing: str
    count: int
    items: Iterable[tuple[str, object]]


def _members(value: object) -> _Members | None:
    """Look into a container: each item with the label that stands before it."""
    name = type(value).__name__
    if isinstance(value, dict):
        labelled = ((f"{_label(key)}: ", item) for key, item in value.items())
        return _Members("{", "}", len(value), labelled)
    if isinstance(value, tuple) and (names := getattr(type(value), "_fields", None)):
        named = ((f"{key}=", item) for key, item in zip(names, value, strict=False))
        return _Members(f"{name}(", ")", len(value), named)
    for kind, opening, closing in ((tuple, "(", ")"), (list | deque, "[", "]")):
        if isinstance(value, kind):
            return _Members(opening, closing, len(value), (("", item) for item in value))
    if isinstance(value, set | frozenset):
        return _Members("{", "}", len(value), (("", item) for item in value))
    if _has_generated_repr(value):
        # A field that its class hides, a key for example, stays hidden.
        told = [f.name for f in fields(value) if f.repr]  # type: ignore[arg-type]  # a dataclass
        attributes = ((f"{field}=", getattr(value, field, None)) for field in told)
        return _Members(f"{name}(", ")", len(told), attributes)
    return None


def _has_generated_repr(value: object) -> bool:
    """Tell a plain dataclass from one that says itself how it reads."""
    kind = type(value)
    # `dataclasses` wraps the method it generates against recursion; one written by hand is not.
    generated = hasattr(kind.__repr__, "__wrapped__")
    return is_dataclass(kind) and generated and kind.__str__ is object.__str__


def _label(key: object) -> str:
    return "".join(_parts(key, items=5, chars=100, depth=1))


def _parts(value: object, *, items: int, chars: int, depth: int) -> Iterator[str]:
    """Write *value* piece by piece, so that who reads can stop at a bound."""
    if isinstance(value, str):
        yield json.dumps(_short(str.__str__(value), chars), ensure_ascii=False)
    elif value is None or isinstance(value, bool):
        yield _JSON_WORDS[value]
    elif isinstance(value, Number):
        yield _short(_text(value), max(chars, 40))
    elif (title := _title(value)) is not None:
        yield title
    elif (members := _members(value)) is not None:
        yield from _member_parts(members, items=items, chars=chars, depth=depth)
    else:
        yield json.dumps(_short(_text(value), chars), ensure_ascii=False)


def _member_parts(members: _Members, *, items: int, chars: int, depth: int) -> Iterator[str]:
    shown = min(members.count, items if depth else 0)
    yield members.opening
    for position, (label, item) in enumerate(islice(members.items, shown)):
        yield f", {label}" if position else label
        yield from _parts(item, items=items, chars=chars, depth=depth - 1)
    if shown < members.count:
        yield f"{', ' if shown else ''}… {members.count - shown:,} more"
    yield members.closing


def _nested(value: object, bound: int) -> str:
    """Write a container with the most generous limits that fit."""
    limits = ((bound * 4, bound * 4, 20), (100, 400, 8), (40, 150, 6), (15, 80, 5), (6, 40, 4))
    for items, chars, depth in (*limits, (3, 20, 3), (2, 12, 1)):
        parts = _parts(value, items=max(items, 1), chars=max(chars, 2), depth=depth)
        if (text := _joined(parts, bound)) is not None:
            return text
    return _cut("".join(_parts(value, items=1, chars=12, depth=1)), bound)


def _joined(parts: Iterable[str], bound: int) -> str | None:
    kept, length = [], 0
    for part in parts:
        kept.append(part)
        length += len(part)
        if length > bound * _WIDEST:
            return None
    text = "".join(kept)
    return text if tokens(text) <= bound else None


# Arrays


def _array_heading(array: Any) -> str:
    return f"NumPy array, {array.dtype}, shape {array.shape}"


def _array(array: Any, bound: int) -> str:
    """Tell an array: in rows if all of it fits, else its first values in one line."""
    heading = _short(_array_heading(array), 200)
    room = bound - tokens(heading) - _NOTE
    if array.size * 0.6 <= room and array.dtype != object:
        whole = sys.modules["numpy"].array2string(array, separator=", ", threshold=array.size + 1)
        if tokens(whole) <= room:
            return f"{heading}\n{whole}"
    values, spent = list[str](), 0
    for value in array.flat:
        text = _cell(value, 40)
        spent += tokens(text + ", ")
        if spent > room:
            break
        values.append(text)
    rest = array.size - len(values)
    note = f"\n… {rest:,} more values left out" if rest else ""
    return f"{heading}\nFirst values: {', '.join(values)}{note}" if values else f"{heading}{note}"


# Tables


@dataclass(frozen=True, slots=True)
class _Column:
    """One column; *head* gives its first cells, None for a missing one."""

    name: str
    type: str
    missing: int
    head: Callable[[int], list[object]]
    is_index: bool = False

    @property
    def line(self) -> str:
        missing = f", {self.missing:,} missing" if self.missing else ""
        return f"- {_cell(self.name, 60)}: {_short(self.type, 80)}{missing}"


@dataclass(frozen=True, slots=True)
class _Table:
    """A frame or a series; *columns* are read one by one, for each costs a pass over its data."""

    kind: str
    rows: int
    width: int | None
    columns: Iterator[_Column]

    @property
    def heading(self) -> str:
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        if self.width is None:
            return f"{self.kind}, {rows}"
        return f"{self.kind}, {rows} × {self.width:,} column{'' if self.width == 1 else 's'}"


def _table_of(value: Any) -> _Table | None:
    if _is(value, "pandas", "DataFrame"):
        rows, width = value.shape
        return _Table("pandas DataFrame", rows, width, _pandas_columns(value))
    if _is(value, "pandas", "Series"):
        return _Table("pandas Series", len(value), None, _pandas_columns(value))
    if _is(value, "polars", "DataFrame"):
        return _Table("Polars DataFrame", value.height, value.width, _polars_columns(value))
    if _is(value, "polars", "Series"):
        return _Table("Polars Series", len(value), None, iter([_polars_column(value)]))
    return _arrow_table(value)


def _arrow_table(value: Any) -> _Table | None:
    if _is(value, "pyarrow", "Table", "RecordBatch"):
        kind = f"Arrow {type(value).__name__}"
        return _Table(kind, value.num_rows, value.num_columns, _arrow_columns(value))
    if _is(value, "pyarrow", "Array", "ChunkedArray"):
        return _Table("Arrow array", len(value), None, iter([_arrow_column("values", value)]))
    return None


def _lazy(value: Any) -> str | None:
    """Tell the columns of a frame that is not computed; nothing is computed for it."""
    if _is(value, "polars", "LazyFrame"):
        kind, types = "Polars LazyFrame", value.collect_schema()
    elif _is(value, "dask.dataframe", "DataFrame"):
        kind, types = f"Dask DataFrame in {value.npartitions:,} partitions", value.dtypes
    else:
        return None
    lines = (f"- {_cell(_text(name), 60)}: {_short(_text(of), 80)}" for name, of in types.items())
    return "\n".join([f"{kind}, {len(types):,} columns, rows not computed", *lines])


def _pandas_columns(data: Any) -> Iterator[_Column]:
    index = data.index
    plain = _is(index, "pandas", "RangeIndex") and (index.start, index.step) == (0, 1)
    levels = range(0 if plain and index.name is None else index.nlevels)
    for level in levels:
        name = "index" if index.names[level] is None else _text(index.names[level])
        kind = index[:0].get_level_values(level).dtype
        head = partial(_pandas_head, index, level=level)
        yield _Column(name, f"{kind} (index)", 0, head, is_index=True)
    if data.ndim == 1:
        yield _pandas_column(data, "values" if data.name is None else data.name)
        return
    for position in range(data.shape[1]):
        # By position: names may be met twice.
        yield _pandas_column(data.iloc[:, position], data.columns[position])


def _pandas_column(series: Any, name: object) -> _Column:
    missing = int(series.isna().sum())
    return _Column(_text(name), _text(series.dtype), missing, partial(_pandas_head, series))


def _pandas_head(data: Any, count: int, level: int | None = None) -> list[object]:
    head = data.iloc[:count] if level is None else data[:count].get_level_values(level)
    # Through `.array`, for a series gives float32 as a longer float64.
    pairs = zip(head.array, head.isna(), strict=True)
    return [None if gone else value for value, gone in pairs]


def _polars_columns(frame: Any) -> Iterator[_Column]:
    return (_polars_column(frame.get_column(name)) for name in frame.columns)


def _polars_column(series: Any) -> _Column:
    def head(count: int) -> list[object]:
        return list(series.head(count).to_list())

    return _Column(series.name or "values", _text(series.dtype), series.null_count(), head)


def _arrow_columns(table: Any) -> Iterator[_Column]:
    names = table.schema.names  # by position, as names may be met twice
    return (_arrow_column(name, table.column(place)) for place, name in enumerate(names))


def _arrow_column(name: str, array: Any) -> _Column:
    def head(count: int) -> list[object]:
        return list(array.slice(0, count).to_pylist())

    return _Column(name or "values", _text(array.type), array.null_count, head)


def _cell(value: object, chars: int) -> str:
    """Write one cell: bare where that is unambiguous, else quoted as JSON; NA is missing."""
    if value is None:
        return "NA"
    text = _short(_cell_text(value, chars), chars)
    bare = _PLAIN.fullmatch(text) and text.isprintable() and text != "NA"
    return text if bare else json.dumps(text, ensure_ascii=False)


def _cell_text(value: object, chars: int) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if _title(value) is None and _members(value) is not None:
        parts = _parts(value, items=chars, chars=chars, depth=5)
        return _until(parts, chars)
    text = _title(value) or _text(value)
    if isinstance(value, float) and len(text) > min(chars, _DIGITS):
        # What binary fractions add (0.30000000000000004) tells a model nothing.
        return format(value, ".4g" if chars < _DIGITS else ".10g")
    return text


def _until(parts: Iterable[str], chars: int) -> str:
    text = ""
    for part in parts:
        text += part
        if len(text) > chars:
            break
    return text


def _table(table: _Table, bound: int) -> str:
    """Tell a table: heading, a line per column, the first rows, what is left out."""
    heading = table.heading
    columns = _fitting_columns(table, bound - tokens(heading) - _NOTE)
    lines = [heading, *(column.line for column in columns)]
    room = bound - tokens("\n".join(lines)) - _NOTE
    rows, cut = _fitting_rows(columns, table.rows, room)
    if rows:
        count = f"First {len(rows):,} rows" if len(rows) < table.rows else "Rows"
        texts = f", texts cut at {cut} characters" if cut else ""
        lines += [f"{count} as CSV{texts}:", ",".join(_cell(c.name, 60) for c in columns), *rows]
    shown = sum(not column.is_index for column in columns)
    rest = table.rows - len(rows) if table.width != 0 else 0
    left = {"rows": rest, "columns": (table.width or shown) - shown}
    return "\n".join(line for line in (*lines, _left_out(**left)) if line)


def _fitting_columns(table: _Table, room: int) -> list[_Column]:
    """Read as many columns as leave room for a few rows of them."""
    columns, spent = list[_Column](), 0
    for column in table.columns:
        cells = [_cell(cell, 25) for cell in column.head(min(_ROWS, 2))]
        spent += tokens(f"{column.line}\n{_cell(column.name, 60)},{','.join(cells)}\n")
        if spent > room:
            break
        columns.append(column)
    return columns


def _fitting_rows(columns: list[_Column], count: int, room: int) -> tuple[list[str], int | None]:
    """Write as many rows as fit, and give the cut where texts had to be shortened."""
    room -= tokens(",".join(_cell(column.name, 60) for column in columns))
    if not columns or room <= 0:
        return [], None
    most = min(count, 1 + room * 10 // (3 * len(columns)))
    heads = [column.head(most) for column in columns]
    rows = list[str]()
    for cut in _CUTS:
        rows = _rows(heads, cut, room)
        if len(rows) >= min(count, _ROWS):
            break
    shown = (cell for head in heads for cell in head[: len(rows)])
    shortened = any(len(_cell_text(cell, cut)) > cut for cell in shown)
    return rows, cut if shortened else None


def _rows(heads: list[list[object]], cut: int, room: int) -> list[str]:
    rows = list[str]()
    for cells in zip(*heads, strict=True):
        row = ",".join(_cell(cell, cut) for cell in cells)
        room -= tokens(row + "\n")
        if room < 0:
            break
        rows.append(row)
    return rows
