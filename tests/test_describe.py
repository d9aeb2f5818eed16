from __future__ import annotations

import datetime as dt
import subprocess
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic.describe import describe
from deepseek_magic.tokens import approximate
from deepseek_magic.tokens import by_character as tokens


class Unprintable:
    """Has no text."""

    def __repr__(self) -> str:
        raise ValueError("no text")


@dataclass
class Person:
    """Keeps one field out of its repr."""

    name: str
    key: str = field(default="sk-secret", repr=False)


@dataclass
class Worded:
    """Says itself how it reads."""

    text: str

    def __str__(self) -> str:
        return self.text


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


class Colour(StrEnum):
    """A string with a name."""

    RED = "red"


def sales(rows: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": range(rows),
            "name": ["Ann, B", "x" * 900, None, "NA", ""] * (rows // 5),
            "price": [0.1 + 0.2, np.nan, np.inf, 1e10, 2.5] * (rows // 5),
        }
    )


# Tokens


@pytest.mark.parametrize("bound", [100, 300, 1000])
@pytest.mark.parametrize(
    "value",
    [
        sales(5000),
        pd.DataFrame({"note": ["The coat is warm, and came a day late."] * 5000}),
        pd.DataFrame({"备注": ["大衣很暖和，就是晚到了一天。"] * 5000}),
        pd.DataFrame(np.arange(40_000).reshape(5000, 8) / 7),
        [{"id": n, "name": f"row {n}", "tags": ["new", "vip"]} for n in range(5000)],
        np.arange(5000) / 7,
        Worded("The coat is warm, and came a day late. " * 5000),
    ],
    ids=["sales", "english", "chinese", "numbers", "records", "array", "text"],
)
def test_a_bound_is_used_and_kept(value: object, bound: int) -> None:
    """What there is too much of fills most of its bound and, give or take a seventh, no more."""
    told = describe(value, bound=bound)

    assert approximate(told).likely <= bound * 8 / 7
    assert tokens(told) >= bound * 0.4


# Plain values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it stands", "as it stands"),
        (Colour.RED, "red"),
        (None, "None"),
        (True, "True"),
        (3, "3"),
        (2.5, "2.5"),
        (np.float32(0.1), "0.1"),
        (np.array(7), "7"),
        (pd.Timestamp("2024-05-01"), "2024-05-01 00:00:00"),
        (b"123", "<bytes, 3 bytes>"),
        (memoryview(b"1234"), "<memoryview, 4 bytes>"),
        (Worded("its own words"), "its own words"),
        (Unprintable(), "<unprintable Unprintable>"),
        pytest.param(10**5000, "<unprintable int>", id="huge"),
    ],
)
def test_plain_values_are_told_by_their_text(value: object, text: str) -> None:
    """A value that is no container becomes its own text, or says why it has none."""
    assert describe(value, bound=100) == text


def test_a_string_is_never_cut() -> None:
    """The user's own text is sent whole, whatever the bound."""
    text = "word " * 10_000

    assert describe(text, bound=10) == text


def test_the_text_of_an_object_is_cut_at_the_bound() -> None:
    """A long text of an object ends with how much of it is missing."""
    told = describe(Worded("x" * 10_000), bound=100)

    shown = told.count("x")
    assert tokens(told) <= 100
    assert told == f"{'x' * shown}… {10_000 - shown:,} more characters left out"


# Nested values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True]}, '{"a": [1, 2.5, null, true]}'),
        ({1: "one", (2, 3): 'say "hi"'}, r'{1: "one", (2, 3): "say \"hi\""}'),
        ([], "[]"),
        ((1, "é"), '(1, "é")'),
        ({4}, "{4}"),
        (Point(1, 2), "Point(x=1, y=2)"),
        ([Person("Ann")], '[Person(name="Ann")]'),
        (Person("Ann"), 'Person(name="Ann")'),
        ([dt.date(2024, 1, 2)], '["2024-01-02"]'),
        ([b"12"], "[<bytes, 2 bytes>]"),
        ([Unprintable()], '["<unprintable Unprintable>"]'),
        ([sales(5)], "[<pandas DataFrame, 5 rows × 3 columns>]"),
        ([np.arange(3, dtype="int64")], "[<NumPy array, int64, shape (3,)>]"),
    ],
)
def test_containers_are_told_as_json(value: object, text: str) -> None:
    """Containers become JSON; what JSON has no form for is told in one short form."""
    assert describe(value, bound=200) == text


def test_a_hidden_field_stays_hidden() -> None:
    """A field that a dataclass keeps out of its repr is not sent."""
    assert "sk-secret" not in describe({"who": [Person("Ann")]}, bound=200)


def test_a_long_list_says_how_many_items_are_left_out() -> None:
    """The items shown and the items counted add up to all."""
    told = describe(list(range(1_000_000)), bound=60)

    *shown, rest = told.strip("[]").split(", ")
    assert [int(item) for item in shown] == list(range(len(shown)))
    assert len(shown) > 5
    assert rest == f"… {1_000_000 - len(shown):,} more"
    assert tokens(told) <= 60


def test_many_big_items_are_each_shown_in_part() -> None:
    """Where the items are big, several are shown shortened rather than one whole."""
    rows = [{"id": i, "text": "lorem ipsum " * 50} for i in range(1000)]

    told = describe(rows, bound=200)

    assert told.count('"id"') >= 3
    assert "lorem…" in told or "ipsum…" in told or "…" in told.split("}")[0]
    assert "more]" in told


def test_a_list_that_holds_itself_ends() -> None:
    """A cycle is cut off, not followed for ever."""
    ring: list[object] = [1]
    ring.append(ring)

    assert describe(ring, bound=100).startswith("[1, [1, ")


# Arrays


def test_a_small_array_is_told_whole() -> None:
    """An array that fits is given with type, shape and all values."""
    told = describe(np.array([[1, 2], [3, 4]], dtype="int64"), bound=100)

    assert told == "NumPy array, int64, shape (2, 2)\n[[1, 2],\n [3, 4]]"


def test_a_big_array_is_told_by_its_first_values() -> None:
    """An array that does not fit says how many values are left out."""
    told = describe(np.arange(10_000, dtype="int64").reshape(100, 100), bound=100)

    heading, first, rest = told.split("\n")
    values = first.removeprefix("First values: ").split(", ")
    assert heading == "NumPy array, int64, shape (100, 100)"
    assert values[:3] == ["0", "1", "2"]
    assert rest == f"… {10_000 - len(values):,} more values left out"
    assert tokens(told) <= 100


@pytest.mark.parametrize("array", [np.array([]), np.zeros((0, 3)), np.array([Unprintable()])])
def test_odd_arrays_are_told(array: Any) -> None:
    """Empty arrays and arrays of objects have a description too."""
    assert describe(array, bound=100).startswith(f"NumPy array, {array.dtype}, shape {array.shape}")


# Tables


def test_a_small_frame_is_told_whole() -> None:
    """A frame that fits has its shape, its columns with missing counts, and all its rows."""
    told = describe(sales(5).drop(index=1), bound=1000)

    assert told == (
        "pandas DataFrame, 4 rows × 3 columns\n"
        "- index: int64 (index)\n"
        "- id: int64\n"
        f"- name: {sales(5).name.dtype}, 1 missing\n"
        "- price: float64\n"
        "Rows as CSV:\n"
        "index,id,name,price\n"
        '0,0,"Ann, B",0.3\n'
        "2,2,NA,inf\n"
        '3,3,"NA",10000000000.0\n'
        '4,4,"",2.5'
    )


def test_a_long_frame_says_what_is_left_out() -> None:
    """The first rows are shown with long texts cut, and the rest is counted."""
    told = describe(sales(5000), bound=500)

    lines = told.splitlines()
    assert lines[0] == "pandas DataFrame, 5,000 rows × 3 columns"
    assert "- price: float64, 1,000 missing" in lines
    header = next(line for line in lines if line.startswith("First "))
    shown = int(header.split()[1])
    cut = int(header.split()[-2])
    assert shown >= 5
    assert "x" * (cut - 1) + "…" in told
    assert "x" * cut not in told
    assert lines[-1] == f"… {5000 - shown:,} more rows left out"
    assert len(lines) == 1 + 3 + 2 + shown + 1
    assert tokens(told) <= 500


def test_a_text_with_an_ellipsis_is_not_called_cut() -> None:
    """Only texts that were shortened here are said to be."""
    told = describe(pd.DataFrame({"a": ["wait…"]}), bound=200)

    assert "cut" not in told


def test_a_wide_frame_leaves_out_columns_and_still_shows_rows() -> None:
    """Of many columns as many are told as leave room for some rows of them."""
    told = describe(pd.DataFrame(np.full((20, 500), 1.5)), bound=400)

    lines = told.splitlines()
    columns = sum(line.startswith("- ") for line in lines)
    header = next(i for i, line in enumerate(lines) if line.startswith("First "))
    rows = lines[header + 2 : -1]
    assert columns > 10
    assert rows[0] == ",".join(["1.5"] * columns)
    assert len(rows) >= 2
    assert lines[-1] == f"… {20 - len(rows)} more rows, {500 - columns} more columns left out"
    assert tokens(told) <= 400


def test_numbers_are_rounded_and_not_cut() -> None:
    """A number in a narrow cell keeps its size; no digit is cut off as from a text."""
    frame = pd.DataFrame(np.full((3, 200), 0.001234567890123456))

    told = describe(frame, bound=300)

    assert "0.001235" in told or "0.00123456789" in told
    assert "cut" not in told


def test_labels_of_several_levels_are_kept() -> None:
    """A MultiIndex shows as columns of its own, and tuples name the columns."""
    frame = pd.DataFrame({"k": ["a", "b"], "n": [1, 2], "v": [3, 4]})
    grouped = frame.groupby(["k", "n"]).agg({"v": ["min", "max"]})

    told = describe(grouped, bound=500)

    assert "- k: " in told
    assert "- n: int64 (index)" in told
    assert "k,n,\"('v', 'min')\",\"('v', 'max')\"\na,1,3,3\nb,2,4,4" in told
    assert "2 rows × 2 columns" in told


def test_columns_of_one_name_are_both_told() -> None:
    """Duplicate names do not mix up their columns."""
    told = describe(pd.DataFrame([[1, "x"]], columns=["a", "a"]), bound=200)

    assert told.endswith("a,a\n1,x")


@pytest.mark.parametrize(
    ("values", "kind", "cell"),
    [
        (pd.Categorical(["low"]), "category", "low"),
        (pd.to_datetime(["2024-05-01 12:00"]).tz_localize("Asia/Shanghai"), "Asia/Shanghai", "+08"),
        (pd.array([None], dtype="Int64"), "Int64, 1 missing", "NA"),
        (pd.array([True], dtype="boolean"), "boolean", "True"),
        (pd.to_timedelta(["1 day"]), "timedelta64", "1 days"),
        (pd.period_range("2024-05", periods=1, freq="M"), "period[M]", "2024-05"),
        (np.array([0.1], dtype="float32"), "float32", "\n0.1\n"),
        ([{"a": [1]}], "object", r'"{\"a\": [1]}"'),
        ([Unprintable()], "object", "<unprintable Unprintable>"),
        (["two\nlines"], "", r'"two\nlines"'),
        ([3 + 4j], "complex128", "(3+4j)"),
    ],
)
def test_every_type_of_column_is_told(values: Any, kind: str, cell: str) -> None:
    """Each type of column has its name and a cell on one line."""
    told = describe(pd.DataFrame({"c": values}), bound=300)

    schema, _, rows = told.partition("Rows as CSV:")
    assert kind in schema
    assert cell in rows + "\n"
    assert rows.count("\n") == 2


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (pd.DataFrame(), "pandas DataFrame, 0 rows × 0 columns"),
        (pd.DataFrame(index=range(3)), "pandas DataFrame, 3 rows × 0 columns"),
        (
            pd.DataFrame({"a": pd.Series([], dtype="int64")}),
            "pandas DataFrame, 0 rows × 1 column\n- a: int64",
        ),
        (pl.DataFrame(), "Polars DataFrame, 0 rows × 0 columns"),
        (
            pl.DataFrame(schema={"a": pl.Int64}),
            "Polars DataFrame, 0 rows × 1 column\n- a: Int64",
        ),
    ],
)
def test_empty_frames_have_no_rows(frame: object, text: str) -> None:
    """A frame without cells is told by its shape and columns."""
    assert describe(frame, bound=200) == text


def test_a_series_is_told_like_a_column() -> None:
    """A series has its length, name, type and missing count; an unnamed one holds values."""
    named = pd.Series([1.5, None], name="price", index=["a", "b"])

    told = describe(named, bound=200)
    unnamed = describe(pd.Series([1]), bound=200)

    assert told.startswith("pandas Series, 2 rows\n- index: ")
    assert told.endswith("- price: float64, 1 missing\nRows as CSV:\nindex,price\na,1.5\nb,NA")
    assert unnamed.endswith("values\n1")


def test_a_polars_frame_is_told_like_any_other() -> None:
    """Polars keeps null (missing) and NaN (a number) apart."""
    frame = pl.DataFrame({"a": [1.5, float("nan"), None], "b": [[1], None, [2, 3]]})

    told = describe(frame, bound=300)

    assert told == (
        "Polars DataFrame, 3 rows × 2 columns\n"
        "- a: Float64, 1 missing\n"
        "- b: List(Int64), 1 missing\n"
        "Rows as CSV:\n"
        "a,b\n"
        "1.5,[1]\n"
        "nan,NA\n"
        'NA,"[2, 3]"'
    )


def test_a_polars_series_of_objects_is_told() -> None:
    """A series of Polars may hold Python's objects."""
    series = pl.Series("o", [Unprintable(), None], dtype=pl.Object)

    assert describe(series, bound=200).endswith("o\n<unprintable Unprintable>\nNA")


def test_a_frame_is_left_as_it_is() -> None:
    """Describing changes neither cells nor labels."""
    frame = sales(10).set_index("id")
    before = frame.copy(deep=True)

    describe(frame, bound=200)

    pd.testing.assert_frame_equal(frame, before)


def test_only_the_cells_shown_are_made_into_text() -> None:
    """The work on text grows with the bound and not with the rows."""

    class Counted:
        made = 0

        def __str__(self) -> str:
            Counted.made += 1
            return "counted"

    frame = pd.DataFrame({"c": [Counted() for _ in range(50_000)]})

    describe(frame, bound=100)

    assert 0 < Counted.made < 2000


CELLS = st.one_of(
    st.none(),
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.text(max_size=300),
    st.dates(),
    st.lists(st.integers(), max_size=50),
)


@given(
    data=st.integers(0, 30).flatmap(
        lambda rows: st.lists(
            st.tuples(st.text(max_size=100), st.lists(CELLS, min_size=rows, max_size=rows)),
            max_size=12,
        )
    ),
    bound=st.integers(100, 600),
)
@settings(max_examples=60, deadline=None)
def test_no_frame_passes_the_bound(data: list[tuple[str, list[object]]], bound: int) -> None:
    """Whatever a frame holds, its description keeps to the bound."""
    columns = [pd.Series(cells, dtype=object) for _, cells in data]
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    frame.columns = pd.Index([name for name, _ in data], dtype=object)

    told = describe(frame, bound=bound)

    assert tokens(told) <= bound


NESTED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner, inner)
    ),
    max_leaves=100,
)


@given(value=NESTED.filter(lambda value: not isinstance(value, str)), bound=st.integers(60, 300))
@settings(max_examples=100, deadline=None)
def test_no_container_passes_the_bound(value: object, bound: int) -> None:
    """Whatever a container holds, its description keeps to the bound."""
    assert tokens(describe(value, bound=bound)) <= bound


def test_describing_loads_no_library() -> None:
    """Nothing is imported to tell what a value is."""
    program = (
        "import sys; from deepseek_magic.describe import describe; describe([{1: 2}], bound=50); "
        "assert not {'pandas', 'polars', 'numpy'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", program], check=True)


# Arrow, and what is not computed


def test_arrow() -> None:
    """A table of Arrow reads as any other does; an array is a single column."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"city": ["Bonn", None], "people": [336_000, 12]})

    assert describe(table, bound=1000) == (
        "Arrow Table, 2 rows × 2 columns\n"
        "- city: string, 1 missing\n"
        "- people: int64\n"
        "Rows as CSV:\n"
        "city,people\n"
        "Bonn,336000\n"
        "NA,12"
    )
    assert describe(table.to_batches()[0], bound=1000).startswith("Arrow RecordBatch, 2 rows × 2 ")
    assert describe(table["people"], bound=1000) == (
        "Arrow array, 2 rows\n- values: int64\nRows as CSV:\nvalues\n336000\n12"
    )


def test_nothing_is_computed_to_be_told() -> None:
    """A lazy frame tells its columns; its rows are not computed for that."""
    polars = pytest.importorskip("polars")
    asked = list[int]()

    def slow(column: object) -> object:
        asked.append(1)
        return column

    lazy = polars.LazyFrame({"n": [1, 2]}).with_columns(
        polars.col("n").map_batches(slow, return_dtype=polars.Int64).alias("m")
    )

    told = describe(lazy, bound=1000)

    assert told == "Polars LazyFrame, 2 columns, rows not computed\n- n: Int64\n- m: Int64"
    assert not asked


def test_a_frame_of_dask() -> None:
    """A frame of Dask tells its columns and partitions."""
    dask = pytest.importorskip("dask.dataframe")
    frame = dask.from_pandas(pd.DataFrame({"n": [1, 2], "t": [0.5, 1.5]}), npartitions=2)

    assert describe(frame, bound=1000) == (
        "Dask DataFrame in 2 partitions, 2 columns, rows not computed\n- n: int64\n- t: float64"
    )
