"""The data of a question for every row: its rows piece by piece, and at the end a frame.

    read(data)
    ├── a frame or a series     pandas, Polars (a lazy one is collected)
    ├── whatever speaks Arrow   pyarrow, DuckDB …
    ├── a list                  of texts or other values, or of dicts
    ├── a dict of columns       as pandas reads it
    └── a path                  CSV, TSV, Parquet; some thousand rows at a time

A piece is a list of rows, each a dict of plain Python values in which whatever is
missing (NaN, NaT, NA) is None.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import InvalidOption, one_line
from .words import t

PIECE = 2000
"""Rows in a piece."""
SHOWN = 10
"""Columns named in an error, at most."""

Piece = list[dict[str, object]]
Columns = list[list[object]]

_COMPRESSED = ("", ".gz", ".bz2", ".zip", ".xz", ".zst")
_CSV = tuple(kind + packed for kind in (".csv", ".tsv") for packed in _COMPRESSED)
_PARQUET = (".parquet", ".pq")
_MISSING = frozenset({"NAType", "NaTType"})


@dataclass(frozen=True, slots=True)
class Data:
    """Rows that can be read again and again, and what becomes of them at the end.

    Reading raises `InvalidOption` where a file is not what it was.
    """

    columns: tuple[str, ...]
    _read: Callable[[Sequence[int]], Iterator[Columns]]
    _as_frame: Callable[[], Any]
    _rows: int | None

    def pieces(self, columns: Collection[str] | None = None) -> Iterator[Piece]:
        """Give all rows in order, some at a time; of *columns* alone, if they are named."""
        places = [n for n, c in enumerate(self.columns) if columns is None or c in columns]
        places = places or [0]
        names = [self.columns[place] for place in places]
        for values in self._read(places):
            yield [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    def count(self) -> int | None:
        """Give the number of rows; None where all of them would have to be read for it."""
        return self._rows

    def frame(self, results: Mapping[str, Sequence[Any]]) -> Any:
        """Put *results*, a value for each row, as columns behind those of the data.

        It is a Polars frame where the data was Polars', else one of pandas.
        """
        frame = self._as_frame()
        for name, values in results.items():
            if len(values) != len(frame):
                raise InvalidOption(
                    t(
                        "The data has {now:,} rows now, and had {then:,} when it was asked about.",
                        now=len(frame),
                        then=len(values),
                    ),
                    t("What was answered is kept; run it again with data that stays."),
                )
            frame = _with_column(frame, name, values)
        return frame


def read(data: object, *, limit: int | None = None) -> Data:
    """Read *data*, the first *limit* rows of it; a file is opened, and read when pieces are."""
    found = _read(data, limit)
    if not found.columns:
        raise InvalidOption(t("The data has no columns to ask about."), t("Nothing was sent."))
    twice = sorted({name for name in found.columns if found.columns.count(name) > 1})
    if twice:
        raise InvalidOption(
            t("The data has more than one column named {names}.", names=listed(twice)),
            t("Nothing was sent."),
            t("Give each a name of its own: df.columns = [...]"),
        )
    return found


def is_dask(data: object) -> bool:
    """Tell whether *data* is a frame or a series of Dask; nothing is imported for it."""
    modules = {kind.__module__.partition(".")[0] for kind in type(data).__mro__}
    return bool(modules & {"dask", "dask_expr"}) and hasattr(data, "npartitions")


def new_columns(data: Data, names: Sequence[str]) -> None:
    """Refuse *names* for new columns that the data, or another of them, has already."""
    met = [name for name in dict.fromkeys(names) if name in data.columns]
    if met:
        raise InvalidOption(
            t(
                "The data has a column {names} already, where the results would go.",
                names=listed(met),
            ),
            t("Nothing was sent."),
            t(
                'Another name for the answers: --column NAME or column="NAME"; or without the old '
                "ones: df.drop(columns={columns!r})",
                columns=met,
            ),
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidOption(
            t(
                "Two new columns would be named {names}; `cost` and `error` are taken.",
                names=listed(twice),
            ),
            t("Nothing was sent."),
            t('Choose another: --column NAME or column="NAME", or rename the field.'),
        )


def listed(names: Sequence[str]) -> str:
    """Name columns in an error, the first of many."""
    told = ", ".join(one_line(name, 40) or '""' for name in names[:SHOWN])
    rest = len(names) - SHOWN
    return t("{names} and {n:,} more", names=told, n=rest) if rest > 0 else told


# What data may be


def _read(data: Any, limit: int | None) -> Data:
    if isinstance(data, str | os.PathLike):
        return _file(data, limit)
    if is_dask(data):
        raise InvalidOption(
            t("A Dask frame is read by its partitions, which is not possible here."),
            t("Nothing was sent."),
            t("Load it first: df.compute()"),
        )
    if (found := _polars(data, limit) or _pandas(data, limit)) is not None:
        return found
    if isinstance(data, list | tuple) and not hasattr(data, "_fields"):
        return _list(data[:limit])
    return _others(data, limit)


def _others(data: Any, limit: int | None) -> Data:
    """Read what says of itself that it holds columns or values."""
    pandas, kind = _library("pandas"), type(data).__name__
    with _reading(t("{kind} as data", kind=_article(kind))):
        if hasattr(data, "__arrow_c_stream__"):
            return _arrow(_library("pyarrow").table(data).slice(0, limit))
        if hasattr(data, "__dataframe__"):
            return _frame_of_pandas(pandas.api.interchange.from_dataframe(data), limit)
        if isinstance(data, Mapping):
            return _frame_of_pandas(pandas.DataFrame(dict(data)), limit)
        if hasattr(data, "__array__") and getattr(data, "ndim", 0) == 1:
            return _frame_of_pandas(pandas.Series(data, name="text").to_frame(), limit)
    raise InvalidOption(
        t("{kind} has no rows to ask about.", kind=_article(kind)),
        t("Nothing was sent."),
        t(
            "Give a DataFrame, a list of texts or dicts, or the path of a file: "
            '"rows.csv", "rows.parquet"'
        ),
    )


def _article(kind: str) -> str:
    name = one_line(kind, 40)
    return t("An {kind}" if kind[:1].lower() in "aeiou" else "A {kind}", kind=name)


def _is(data: object, library: str, *names: str) -> bool:
    # What is of a library that is not loaded cannot have been made.
    loaded = sys.modules.get(library)
    return isinstance(data, tuple(getattr(loaded, name) for name in names if hasattr(loaded, name)))


def _starts(rows: int) -> range:
    return range(0, rows, PIECE)


def _name(name: object) -> str:
    """Write a column's name; of one on several levels all that say something."""
    if isinstance(name, tuple):
        return " ".join(str(part) for part in name if part != "")
    return str(name)


# pandas


def _pandas(data: Any, limit: int | None) -> Data | None:
    if _is(data, "pandas", "Series"):
        data = data.to_frame("text" if data.name is None else data.name)
    return _frame_of_pandas(data, limit) if _is(data, "pandas", "DataFrame") else None


def _frame_of_pandas(data: Any, limit: int | None) -> Data:
    data = data.iloc[:limit].copy(deep=False)

    def pieces(places: Sequence[int]) -> Iterator[Columns]:
        for start in _starts(len(data)):
            part = data.iloc[start : start + PIECE]
            yield [_values(part.iloc[:, place]) for place in places]

    return Data(tuple(map(_name, data.columns)), pieces, data.copy, len(data))


def _values(series: Any) -> list[object]:
    """Give a series of pandas as Python values."""
    if str(series.dtype) in {"float32", "float16"}:
        # 0.1 as it is written, not the 0.10000000149011612 that it is as a longer number.
        values = [float(str(value)) for value in series.array]
    else:
        values = series.tolist()
    if series.dtype == object:
        return list(map(_plain, values))
    gone = series.isna()
    if not gone.any():
        return list(values)
    return [
        None if is_gone else value for value, is_gone in zip(values, gone.tolist(), strict=True)
    ]


def _plain(value: Any) -> object:
    """Give one value as Python's own; None for what is missing."""
    kind = type(value)
    if kind is str or value is None:
        return value
    if kind.__module__ == "numpy" and hasattr(value, "item"):
        if kind.__name__ in {"datetime64", "timedelta64"}:
            return value if value == value else None  # noqa: PLR0124  # NaT is not itself
        if getattr(value, "ndim", 1) == 0:
            value = value.item()
    if isinstance(value, float | Decimal):
        return None if value != value else value  # noqa: PLR0124  # NaN is not itself
    return None if kind.__name__ in _MISSING else value


# Polars


def _polars(data: Any, limit: int | None) -> Data | None:
    if _is(data, "polars", "LazyFrame"):
        with _reading(t("the lazy frame")):
            data = (data if limit is None else data.head(limit)).collect()
    if _is(data, "polars", "Series"):
        data = data.to_frame(data.name or "text")
    if not _is(data, "polars", "DataFrame"):
        return None
    kept = data if limit is None else data.head(limit)

    def pieces(places: Sequence[int]) -> Iterator[Columns]:
        for start in _starts(len(kept)):
            part = kept.slice(start, PIECE)
            yield [_without_nan(part.to_series(place).to_list()) for place in places]

    return Data(tuple(kept.columns), pieces, kept.clone, len(kept))


def _without_nan(values: list[Any]) -> list[object]:
    return [None if value != value else value for value in values]  # noqa: PLR0124  # NaN is not itself


# Lists


def _series(pandas: Any, rows: list[Any]) -> Any:
    try:
        return pandas.Series(rows, dtype=None if rows else "object")
    except UnicodeEncodeError:  # half a character, which the text type of pandas does not take
        return pandas.Series(rows, dtype="object")


def _list(data: Sequence[Any]) -> Data:
    pandas, rows = _library("pandas"), list(data)
    keyed = sum(isinstance(row, Mapping) for row in rows)
    if keyed not in {0, len(rows)}:
        raise InvalidOption(
            t(
                "The list holds {dicts:,} dicts and {others:,} other values.",
                dicts=keyed,
                others=len(rows) - keyed,
            ),
            t("Nothing was sent."),
            t("Give a list of the one or of the other."),
        )
    keys = list(dict.fromkeys(chain.from_iterable(rows))) if keyed else []

    def pieces(places: Sequence[int]) -> Iterator[Columns]:
        for start in _starts(len(rows)):
            part = rows[start : start + PIECE]
            if not keyed:
                yield [[_plain(row) for row in part]]
            else:
                yield [[_plain(row.get(keys[place])) for row in part] for place in places]

    def frame() -> Any:
        if keyed:
            return pandas.DataFrame([dict(row) for row in rows], columns=pandas.Index(keys))
        return pandas.DataFrame({"text": _series(pandas, rows)})

    return Data(tuple(map(_name, keys)) if keyed else ("text",), pieces, frame, len(rows))


# Arrow


def _arrow(table: Any) -> Data:
    places_kept, names = _arrow_columns(table.schema)

    def pieces(places: Sequence[int]) -> Iterator[Columns]:
        for start in _starts(len(table)):
            part = table.slice(start, PIECE)
            yield [_listed_values(part.column(places_kept[place])) for place in places]

    return Data(names, pieces, table.to_pandas, len(table))


def _arrow_columns(schema: Any) -> tuple[list[int], tuple[str, ...]]:
    """Give places and names of the columns; those that pandas has kept an index in are none."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    kept = [(place, name) for place, name in enumerate(schema.names) if name not in index]
    return [place for place, _ in kept], tuple(name for _, name in kept)


def _listed_values(column: Any) -> list[object]:
    return [_plain(value) for value in column.to_pylist()]


# Files


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was when it was first looked at."""

    path: Path
    seen: tuple[int, int]

    def check(self) -> None:
        """Refuse a file that is another one now: its rows would get each other's answers."""
        try:
            is_same = self.seen == _stamp(self.path)
        except OSError:
            is_same = False
        if not is_same:
            raise InvalidOption(
                t("{file} has changed since it was first read.", file=_shown(self.path)),
                t("No further row was asked, and what was answered is kept."),
                t("Run it again when the file stays as it is."),
            )


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _shown(path: object) -> str:
    return one_line(str(path), 100)


def _file(data: str | os.PathLike[str], limit: int | None) -> Data:
    text = os.fspath(data)
    ending = text[-20:].lower()
    if not ending.endswith((*_CSV, *_PARQUET)):
        raise InvalidOption(
            t(
                '"{text}" is one text, or no file of a kind that is read here.',
                text=one_line(text, 40),
            ),
            t("Nothing was sent."),
            t(
                'Give a list: ["…", "…"], or a path that ends in .csv, .tsv or .parquet; for '
                "other files: import pandas, and read them into a DataFrame"
            ),
        )
    path = Path(text).expanduser()
    reader = _parquet if ending.endswith(_PARQUET) else _csv
    with _reading(_shown(text)):
        if path.is_dir():
            raise InvalidOption(
                t("{file} is a folder.", file=_shown(text)),
                t("Nothing was sent."),
                t("Read it first: {code}", code=f"df = pandas.read_parquet({str(path)!r})"),
            )
        return reader(_File(path, _stamp(path)), limit)


def _csv(file: _File, limit: int | None) -> Data:
    pandas, path = _library("pandas"), file.path
    tabs = "\t" if ".tsv" in path.suffixes[-2:] or ".TSV" in path.suffixes[-2:] else ","
    load = partial(pandas.read_csv, path, sep=tabs, low_memory=False)
    header = list(load(nrows=0).columns)

    def pieces(places: Sequence[int]) -> Iterator[Columns]:
        file.check()
        left = sys.maxsize if limit is None else limit
        # Nullable types: a whole number stays one in a column where others are missing.
        # Always whole chunks, so that the types do not hang on the limit.
        with (
            _reading(_shown(path)),
            load(chunksize=PIECE, dtype_backend="numpy_nullable") as chunks,
        ):
            for chunk in chunks:
                part = chunk.iloc[:left]
                yield [_values(part[header[place]]) for place in places]
                left -= len(part)
                if left <= 0:
                    break
        file.check()

    def frame() -> Any:
        file.check()
        with _reading(_shown(path)):
            return load(nrows=limit)

    return Data(tuple(map(_name, header)), pieces, frame, None)


def _parquet(file: _File, limit: int | None) -> Data:
    _library("pandas")
    opened = partial(_library("pyarrow.parquet", "pyarrow").ParquetFile, file.path)
    with opened() as first:
        schema, rows = first.schema_arrow, first.metadata.num_rows
    _, names = _arrow_columns(schema)
    count = rows if limit is None else min(rows, limit)

    def batches(columns: list[str] | None = None) -> Iterator[Any]:
        file.check()
        left = count
        with _reading(_shown(file.path)), opened() as parquet:
            for batch in parquet.iter_batches(PIECE, columns=columns):
                yield batch.slice(0, left)
                left -= min(len(batch), left)
                if not left:
                    break
        file.check()

    def pieces(places: Sequence[int]) -> Iterator[Columns]:
        wanted = [names[place] for place in places]
        for batch in batches(wanted):
            yield [_listed_values(batch.column(name)) for name in wanted]

    def frame() -> Any:
        return _library("pyarrow").Table.from_batches(batches(), schema=schema).to_pandas()

    return Data(names, pieces, frame, count)


def _library(name: str, package: str | None = None) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        package = package or name
        raise InvalidOption(
            t("This data takes {package}, which is not installed.", package=package),
            t("Nothing was sent."),
            t("Install it: %pip install {package}", package=package),
        ) from error


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Say in one line why *what* cannot be read; readers fail in many ways."""
    try:
        yield
    except InvalidOption:
        raise
    except FileNotFoundError as error:
        raise InvalidOption(
            t("There is no file {file}.", file=what),
            t("Nothing was sent."),
            t("Which folder this is: %pwd"),
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidOption(
            t("{file} is not written in UTF-8.", file=what),
            t("Nothing was sent."),
            t("Read it first: {code}", code='df = pandas.read_csv("…", encoding="latin-1")'),
        ) from error
    except Exception as error:
        reason = one_line(str(error), 120) or type(error).__name__
        raise InvalidOption(
            t("{file} cannot be read ({why}).", file=what, why=reason),
            t("Nothing was sent."),
            t("Load it into a DataFrame first, and give that."),
        ) from error


# Results


def _with_column(frame: Any, name: str, values: Sequence[Any]) -> Any:
    if _is(frame, "polars", "DataFrame"):
        return frame.with_columns(_polars_series(name, list(values)))
    pandas = sys.modules["pandas"]
    key: Any = name
    if frame.columns.nlevels > 1:
        key = (name, *[""] * (frame.columns.nlevels - 1))
    elif not isinstance(frame.columns.dtype, pandas.StringDtype):
        # Categories, intervals and the like take no other name among them.
        frame.columns = frame.columns.astype(object)
    series = pandas.Series(list(values), index=frame.index, dtype=_dtype(values))
    frame.insert(frame.shape[1], key, series)
    return frame


def _dtype(values: Sequence[Any]) -> str:
    """Choose what pandas can reckon with and nothing is lost in; `object` keeps all as it is."""
    kinds = set(map(type, values)) - {type(None)}
    is_whole = None not in values if kinds <= {int, bool} else True
    if kinds == {bool}:
        return "bool" if is_whole else "boolean"
    if kinds == {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return "int64" if is_whole else "Int64"
    return "float64" if kinds == {float} else "object"


def _polars_series(name: str, values: list[Any]) -> Any:
    polars = sys.modules["polars"]
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return polars.Series(name, values, dtype=polars.String)
    try:
        dtype = None
        if kinds == {Decimal}:
            digits = (value.as_tuple().exponent for value in values if value is not None)
            dtype = polars.Decimal(38, max(0, *(-int(digit) for digit in digits), 0))
        made = polars.Series(name, values, dtype=dtype, strict=False)
        if made.to_list() == values:
            return made
    except Exception:  # noqa: BLE001, S110  # what has no type of Polars' own is kept as it is
        pass
    return polars.Series(name, values, dtype=polars.Object)
