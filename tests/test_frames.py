from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic import frames
from deepseek_magic.errors import InvalidOption

LABELS = st.sampled_from(["a", "b", "c"])
CELLS = st.none() | st.integers(-9, 9) | st.text(max_size=5)


def rows(data: frames.Data) -> list[Mapping[str, object]]:
    return [row for piece in data.pieces() for row in piece]


def two_rows(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"n": [1, 2], **columns})


@pytest.mark.parametrize(
    ("given_data", "expected"),
    [
        (two_rows(t=["x", None]), [{"n": 1, "t": "x"}, {"n": 2, "t": None}]),
        (two_rows()["n"], [{"n": 1}, {"n": 2}]),
        (pd.Series(["x", "y"]), [{"text": "x"}, {"text": "y"}]),
        (pd.Index(["x", "y"]), [{"text": "x"}, {"text": "y"}]),
        (pd.DataFrame([["x", "y"]]), [{"0": "x", "1": "y"}]),
        (pd.DataFrame({"f": [0.1]}, dtype="float32"), [{"f": 0.1}]),
        (pd.DataFrame({"i": pd.array([1, None], dtype="Int64")}), [{"i": 1}, {"i": None}]),
        (pd.DataFrame({"d": pd.Series([pd.NaT])}), [{"d": None}]),
        (pd.DataFrame({"c": pd.Categorical(["x", None])}), [{"c": "x"}, {"c": None}]),
        (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "max")])), [{"a max": 1}]),
        (pl.DataFrame({"f": [1.5, float("nan"), None]}), [{"f": 1.5}, {"f": None}, {"f": None}]),
        (pl.LazyFrame({"n": [1]}), [{"n": 1}]),
        (pl.Series(["x"]), [{"text": "x"}]),
        (pl.Series("name", ["x"]), [{"name": "x"}]),
        (["x", None, "y"], [{"text": "x"}, {"text": None}, {"text": "y"}]),
        (("x",), [{"text": "x"}]),
        ([1, 2.5, Decimal("NaN")], [{"text": 1}, {"text": 2.5}, {"text": None}]),
        ([{"b": 1}, {"a": 2}], [{"b": 1, "a": None}, {"b": None, "a": 2}]),
        ({"a": ["x"], "b": [[1]]}, [{"a": "x", "b": [1]}]),
        ([], []),
        (pd.DataFrame({"a": []}), []),
    ],
)
def test_every_kind_of_data_gives_rows(
    given_data: object, expected: list[dict[str, object]]
) -> None:
    """Whatever holds rows gives them in order as Python values, None for what is missing."""
    data = frames.read(given_data)

    found = rows(data)

    assert found == expected
    assert data.count() == len(expected)
    assert rows(data) == found, "a second reading gives the same"
    for row in found:
        assert {type(value).__module__ for value in row.values()} <= {"builtins", "decimal"}


def test_whatever_speaks_arrow_is_read() -> None:
    """A table of pyarrow, and a reader that gives its rows but once, are read and read again."""
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"n": [1, None], "t": ["x", "y"]})

    for given_data in (table, table.to_reader()):
        data = frames.read(given_data)

        assert rows(data) == rows(data) == [{"n": 1, "t": "x"}, {"n": None, "t": "y"}]
        assert list(data.frame({"answer": ["a", "b"]}).columns) == ["n", "t", "answer"]


@settings(max_examples=25, deadline=None)
@given(
    table=st.lists(st.tuples(LABELS, LABELS, CELLS, CELLS), max_size=8),
    limit=st.none() | st.integers(1, 9),
)
def test_a_frame_comes_back_as_it_was(table: list[tuple[Any, ...]], limit: int | None) -> None:
    """Order, index (with repeated labels), types and cells stay; new columns stand behind them."""
    index = pd.MultiIndex.from_tuples([row[:2] for row in table], names=["x", "y"])
    given_data = pd.DataFrame({"a": [r[2] for r in table], "b": [r[3] for r in table]}, index=index)
    before = given_data.copy(deep=True)

    data = frames.read(given_data, limit=limit)
    answers = [f"answer {n}" for n in range(len(rows(data)))]
    frame = data.frame({"answer": answers, "error": [None] * len(answers)})

    pd.testing.assert_frame_equal(given_data, before)
    pd.testing.assert_frame_equal(frame[["a", "b"]], before.iloc[:limit])
    assert list(frame.columns) == ["a", "b", "answer", "error"]
    assert list(frame["answer"]) == answers
    assert frame["error"].isna().all()


@pytest.mark.parametrize(
    "columns",
    [
        pd.CategoricalIndex(["x", "y"]),
        pd.interval_range(0, 2),
        pd.MultiIndex.from_tuples([("x", "y"), ("x", "z")]),
        pd.RangeIndex(2),
        pd.date_range("2024-01-01", periods=2),
    ],
)
def test_unusual_columns_take_new_ones(columns: pd.Index[Any]) -> None:
    """Columns that are no texts keep their places, and results are found by their name."""
    given_data = pd.DataFrame([[1, 2], [3, 4]], columns=columns)

    frame = frames.read(given_data).frame({"answer": ["a", "b"]})

    assert list(frame["answer"]) == ["a", "b"]
    assert list(frame.columns[:2]) == list(columns)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_costs_add_up_exactly(library: str) -> None:
    """Costs are Decimal in either library's frame, and a missing one is left out of the sum."""
    costs = [Decimal("0.000001230000000001"), None, Decimal(2)]
    given_data: Any = pd.DataFrame({"t": list("abc")})
    if library == "polars":
        given_data = pl.DataFrame({"t": list("abc")})

    frame = frames.read(given_data).frame({"cost": costs, "error": [None, "x", None]})

    assert type(frame).__module__.startswith(library)
    assert frame["cost"].sum() == Decimal("2.000001230000000001")
    missing = frame["error"].isna() if library == "pandas" else frame["error"].is_null()
    assert list(missing) == [True, False, True]


@pytest.mark.parametrize(
    ("values", "pandas_type"),
    [
        ([1, 2], "int64"),
        ([1, None], "Int64"),
        ([True, False], "bool"),
        ([True, None], "boolean"),
        ([1.5, None], "float64"),
        ([2**70, 1], "object"),
        (["x", None], "object"),
        ([1, "x"], "object"),
        ([{"a": 1}, {"b": [2]}], "object"),
        ([[1], [2, 3]], "object"),
        ([None, None], "object"),
    ],
)
def test_nothing_is_lost_in_a_new_column(values: list[Any], pandas_type: str) -> None:
    """Numbers get a type to reckon with, all else stays what it is, in both libraries."""
    in_pandas = frames.read(pd.DataFrame({"t": ["a", "b"]})).frame({"new": values})["new"]
    in_polars = frames.read(pl.DataFrame({"t": ["a", "b"]})).frame({"new": values})["new"]

    assert in_pandas.dtype == pandas_type
    assert [None if value is None else in_pandas[n] for n, value in enumerate(values)] == values
    assert list(in_pandas.isna()) == [value is None for value in values]
    assert in_polars.to_list() == values


def test_polars_data_need_no_pandas() -> None:
    """Where pandas is missing, a Polars frame is asked about all the same."""
    code = """
import sys
sys.modules["pandas"] = None
import polars
from deepseek_magic import frames
data = frames.read(polars.DataFrame({"t": ["x"]}))
print(list(data.pieces()), data.frame({"answer": ["a"]}).rows())
try:
    frames.read(["x"])
except Exception as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    first, second = ran.stdout.splitlines()
    assert first == "[[{'t': 'x'}]] [('x', 'a')]"
    assert second.endswith("Nothing was sent. Install it: %pip install pandas")


# Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    whole = pd.DataFrame({"n": pd.array([1, None, 3], dtype="Int64"), "t": ["x", "ä", None]})
    whole.to_csv(tmp_path / "rows.csv", index=False)
    whole.to_csv(tmp_path / "rows.csv.gz", index=False)
    whole.to_csv(tmp_path / "rows.tsv", index=False, sep="\t")
    return tmp_path


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.tsv"])
def test_a_text_file_is_read(folder: Path, name: str) -> None:
    """Rows of a file are those that pandas reads, but whole numbers stay whole."""
    for path in (folder / name, str(folder / name)):
        data = frames.read(path)

        found = rows(data)

        assert [(row["n"], row["t"]) for row in found] == [(1, "x"), (None, "ä"), (3, None)]
        assert [type(row["n"]) for row in found] == [int, type(None), int]
        assert data.frame({"answer": list("abc")})["n"].isna().tolist() == [False, True, False]


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    """A Parquet file gives its rows, and the frame the index that it was saved with."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    saved = pd.DataFrame({"n": [1, None], "t": ["x", "y"]}, index=pd.Index([7, 7], name="id"))
    saved.to_parquet(path)
    data = frames.read(path)

    found, frame = rows(data), data.frame({"answer": ["a", "b"]})

    assert data.columns == ("n", "t")
    assert data.count() == 2
    assert found == [{"n": 1.0, "t": "x"}, {"n": None, "t": "y"}]
    pd.testing.assert_frame_equal(frame[["n", "t"]], saved)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("limit", [None, 1, frames.PIECE, frames.PIECE + 1, 3 * frames.PIECE])
def test_a_file_is_read_in_pieces(tmp_path: Path, ending: str, limit: int | None) -> None:
    """A long file comes piece by piece and in order, as far as the limit, whatever is wanted."""
    path, length = tmp_path / f"rows.{ending}", 2 * frames.PIECE + 5
    saved = pd.DataFrame({"n": range(length), "t": "x"})
    if ending == "csv":
        saved.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        saved.to_parquet(path)
    data, expected = frames.read(path, limit=limit), min(limit or length, length)

    pieces = list(data.pieces(["n"]))

    assert [row["n"] for piece in pieces for row in piece] == list(range(expected))
    assert all(list(row) == ["n"] for piece in pieces for row in piece)
    assert max(map(len, pieces)) <= frames.PIECE
    assert len(data.frame({"answer": ["a"] * expected})) == expected


def test_a_file_that_changes_is_refused(folder: Path) -> None:
    """When a file is another one at the second reading, no row gets another's answer."""
    data = frames.read(folder / "rows.csv")
    rows(data)
    (folder / "rows.csv").write_text("n,t\n9,z\n", encoding="utf-8")

    with pytest.raises(InvalidOption, match="has changed since it was first read"):
        rows(data)
    with pytest.raises(InvalidOption, match="has changed since it was first read"):
        data.frame({"answer": list("abc")})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.csv", None, "There is no file"),
        ("empty.csv", b"", "cannot be read"),
        ("latin.csv", b"t\n\xe9\n", 'encoding="latin-1"'),
        ("ragged.csv", b"a,b\n1,2\n1,2,3,4\n", "cannot be read"),
        ("damaged.parquet", b"PAR1 but not really", "cannot be read"),
        ("damaged.csv.gz", b"no gzip", "cannot be read"),
        ("rows.xlsx", b"", "ends in .csv, .tsv or .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    """What is wrong with a file is said before anything is sent."""
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(InvalidOption) as raised:
        rows(frames.read(tmp_path / name))

    assert words in str(raised.value)
    assert "Nothing was sent." in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """A data set in a folder is read by the user first."""
    (tmp_path / "rows.parquet").mkdir()

    with pytest.raises(InvalidOption, match=r"is a folder.*Nothing was sent.*read_parquet"):
        frames.read(os.fspath(tmp_path / "rows.parquet"))


# Refusals


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("one text", '"one text" is one text'),
        ("", '"" is one text'),
        (5, "An int has no rows"),
        (None, "A NoneType has no rows"),
        ({"x"}, "A set has no rows"),
        (iter("ab"), "has no rows"),
        (["x", {"t": "y"}], "1 dicts and 1 other values"),
        ({"a": [1], "b": [1, 2]}, "same length"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column named a"),
        (pd.DataFrame([[1, 2]], columns=["1", 1]), "more than one column named 1"),
        (pd.DataFrame(index=[1, 2]), "no columns"),
    ],
)
def test_what_holds_no_rows_is_one_line(wrong: object, words: str) -> None:
    """Data that cannot be asked about are refused before anything is sent."""
    with pytest.raises(InvalidOption) as raised:
        frames.read(wrong)

    assert words in str(raised.value)
    assert "Nothing was sent." in str(raised.value)
    assert "\n" not in str(raised.value)


def test_new_columns_are_new() -> None:
    """A column of results takes no other's place, and the error says what to write instead."""
    data = frames.read(pd.DataFrame({"answer": ["x"], "cost": [1]}))

    frames.new_columns(data, ["label", "error"])
    with pytest.raises(InvalidOption, match=r"--column NAME.*drop\(columns=\['answer', 'cost'\]\)"):
        frames.new_columns(data, ["answer", "cost", "error"])
    with pytest.raises(InvalidOption, match="Two new columns would be named error"):
        frames.new_columns(data, ["error", "error"])


def test_results_of_another_length_are_refused() -> None:
    """Results that do not fit the rows are not put beside wrong ones."""
    with pytest.raises(InvalidOption, match="has 2 rows now, and had 1"):
        frames.read(["x", "y"]).frame({"answer": ["a"]})


def test_a_list_that_changes_meanwhile_changes_nothing() -> None:
    """Rows are those that were given, whatever becomes of the list."""
    given_data = ["x", "y"]
    data = frames.read(given_data)

    given_data.clear()

    assert [row["text"] for row in rows(data)] == ["x", "y"]


def test_dask_is_known_without_loading_it() -> None:
    """Only a frame or series of Dask is taken for one."""
    assert not frames.is_dask(pd.DataFrame())
    assert not frames.is_dask(["x"])
    dask = pytest.importorskip("dask.dataframe")
    partitions = dask.from_pandas(pd.DataFrame({"t": ["x", "y"]}), npartitions=2)

    assert frames.is_dask(partitions)
    assert frames.is_dask(partitions["t"])
    with pytest.raises(InvalidOption, match=r"df\.compute\(\)"):
        frames.read(partitions)
