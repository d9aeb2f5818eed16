"""The stamps of a saved notebook are read and added up, whatever the file holds."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic import stamps
from deepseek_magic.errors import InvalidOption
from deepseek_magic.sandbox import Sandbox
from deepseek_magic.stamps import Stamp, Stamps, by_model, of_file, of_notebook
from deepseek_magic.wire import CostRange, Usage
from harness.kernels import Kernels

TOKENS = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "prompt_cache_hit_tokens": 64,
    "prompt_cache_miss_tokens": 36,
    "reasoning_tokens": None,
}


def stamp(**changes: Any) -> dict[str, Any]:
    """Give the stamp of an ordinary answer with some *changes*."""
    return {
        "model": "deepseek-flash",
        "cost": "0.0123",
        "currency": "CNY",
        "finish_reason": "stop",
        "ending": "done",
        "cost_range": None,
        "tokens": TOKENS,
        **changes,
    }


def notebook(*found: object) -> dict[str, Any]:
    """Give a notebook in which one cell shows an answer for each of the stamps *found*."""
    outputs = [
        {"output_type": "display_data", "data": {}, "metadata": {"deepseek_magic": one}}
        for one in found
    ]
    others = [{"output_type": "stream", "name": "stdout", "text": "hello"}]
    return {
        "nbformat": 4,
        "cells": [
            {"cell_type": "markdown", "source": "# Title"},
            {"cell_type": "code", "source": "", "outputs": [*others, *outputs]},
        ],
    }


def test_a_stamp_is_read() -> None:
    """Model, currency, cost and tokens are what the output says of its answer."""
    found = of_notebook(notebook(stamp()))

    assert found == Stamps(
        (Stamp("deepseek-flash", "CNY", Decimal("0.0123"), usage=Usage(100, 50, 64, 36)),)
    )


def test_an_answer_that_is_shown_again_counts_once() -> None:
    """A kept answer that is shown once more was paid for where it was asked."""
    found = of_notebook(notebook(stamp(), stamp(again=True)))

    assert (len(found.stamps), found.unreadable) == (1, 0)


def test_an_old_stamp_is_read() -> None:
    """A stamp without tokens and range, as earlier versions wrote it, has its cost all the same."""
    old = stamp(cost=None)
    del old["cost_range"], old["tokens"]

    assert of_notebook(notebook(old)) == Stamps((Stamp("deepseek-flash", "CNY"),))


def test_a_range_is_read() -> None:
    """A cost that is not known to the digit keeps its bounds."""
    found = of_notebook(notebook(stamp(cost=None, cost_range=["0.01", "1E-1"])))

    assert found.stamps[0].cost_range == CostRange(Decimal("0.01"), Decimal("0.1"))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": 7},
        {"model": ["deepseek-flash"]},
        {"currency": "yuan"},
        {"currency": {}},
        {"cost": 0.1},
        {"cost": True},
        {"cost": "much"},
        {"cost": "-1"},
        {"cost": "NaN"},
        {"cost": "1e13"},
        {"cost": "1e-999999"},
        {"cost": "0." + "1" * 100},
        {"cost_range": "0.1"},
        {"cost_range": ["0.1"]},
        {"cost_range": ["0.1", None]},
        {"cost_range": ["0.2", "0.1"]},
        {"cost_range": {"low": "0.1", "high": "0.2"}},
        {"tokens": [1, 2]},
        {"tokens": {"prompt_tokens": -1}},
        {"tokens": {"prompt_tokens": 1.5}},
        {"tokens": {"prompt_tokens": True}},
        {"tokens": {"prompt_tokens": 10**100}},
    ],
)
def test_a_stamp_of_wrong_types_is_counted(changes: dict[str, Any]) -> None:
    """A stamp in which something is not of its type is unreadable, and the others are read."""
    found = of_notebook(notebook(stamp(), stamp(**changes), stamp()))

    assert len(found.stamps) == 2
    assert found.unreadable == 1


@pytest.mark.parametrize("data", [None, 7, "stamp", [], {}, {"model": None}, {"cost": "1"}])
def test_what_is_no_stamp_is_counted(data: object) -> None:
    """Metadata of our name that is no stamp at all is unreadable too."""
    assert of_notebook(notebook(data)) == Stamps((), 1)


def test_a_name_can_be_shown() -> None:
    """Half a character in a name is replaced, and a name without end is cut."""
    found = of_notebook(notebook(stamp(model="a\ud800"), stamp(model="x" * 10**6)))

    assert [len((one.model or "").encode()) for one in found.stamps] == [2, 200]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
strange = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {"model": json_values | st.text(), "cost": json_values | st.decimals().map(str)},
        optional={
            "currency": json_values | st.just("CNY"),
            "cost_range": json_values | st.lists(st.decimals().map(str), max_size=3),
            "tokens": json_values
            | st.dictionaries(st.sampled_from(Usage.__slots__), json_values | st.integers()),
        },
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(strange, max_size=5))
def test_any_stamp_is_read_or_counted(found: list[object]) -> None:
    """Whatever JSON stands where a stamp should be, it is added up or counted as unreadable."""
    read = of_notebook(notebook(*found))

    assert len(read.stamps) + read.unreadable == len(found)
    assert sum(row["queries"] for row in by_model(read.stamps)) == len(read.stamps)


@settings(max_examples=100, deadline=None)
@given(json_values, json_values, json_values)
def test_any_notebook_is_read(cells: object, outputs: object, metadata: object) -> None:
    """Cells, outputs and metadata of any type are passed over."""
    for made in (
        {"cells": cells},
        {"cells": [cells, {"outputs": outputs}]},
        {"cells": [{"outputs": [outputs, {"metadata": metadata}]}]},
    ):
        assert of_notebook(made).stamps == ()


# -- the file -------------------------------------------------------------------------


def test_a_file_is_read(tmp_path: Path) -> None:
    """The stamps of a file are those of its notebook, with a byte order mark or without."""
    path = tmp_path / "a b.ipynb"
    plain = json.dumps(notebook(stamp(model="模型")), ensure_ascii=False).encode()

    for data in (plain, b"\xef\xbb\xbf" + plain):
        path.write_bytes(data)
        assert [one.model for one in of_file(path).stamps] == ["模型"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is not the JSON that Jupyter saves"),
        (b"{", "it is not the JSON that Jupyter saves"),
        (b"\xff\xfe{}", "it is not the JSON that Jupyter saves"),
        (b"[" * 10**6, "it is not the JSON that Jupyter saves"),
        (b'{"cells": [' + b"9" * 10**5 + b"]}", "it is not the JSON that Jupyter saves"),
        (b"[]", "it has no cells"),
        (b"null", "it has no cells"),
        (b'{"cells": {}}', "it has no cells"),
        (b'{"worksheets": []}', "jupyter nbconvert --to notebook"),
    ],
)
def test_a_file_that_is_no_notebook_is_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    """A file that is damaged, hostile or something else is told in one line."""
    path = tmp_path / "a.ipynb"
    path.write_bytes(data)

    with pytest.raises(InvalidOption) as raised:
        of_file(path)

    assert says in str(raised.value)
    assert str(raised.value).startswith("a.ipynb is ")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_has_a_near_one(tmp_path: Path) -> None:
    """A wrong name is told with the notebook beside it that is meant."""
    (tmp_path / "analysis.ipynb").write_text("{}")

    with pytest.raises(InvalidOption) as near:
        of_file(tmp_path / "anlysis.ipynb")
    with pytest.raises(InvalidOption) as far:
        of_file(tmp_path / "no" / "where.ipynb")

    assert f"Did you mean {tmp_path / 'analysis.ipynb'}?" in str(near.value)
    assert "Did you mean" not in str(far.value)
    assert "There is no file" in str(far.value)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "~no-such-user-here/a.ipynb", "\n\n\x1b[31m"])
def test_a_name_that_cannot_be_is_one_line(name: str) -> None:
    """A name that no file can have is told in one printable line."""
    with pytest.raises(InvalidOption) as raised:
        of_file(Path(name))

    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


def test_a_folder_is_said(tmp_path: Path) -> None:
    """A folder is no notebook, and what to name instead is said."""
    with pytest.raises(InvalidOption, match=r"is a folder\. Name the notebook in it"):
        of_file(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """What is no file, and could be read for ever, is not opened."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(InvalidOption, match="is no file"):
        of_file(tmp_path / "pipe")


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    """A file that no front end could open is refused by its size."""
    path = tmp_path / "large.ipynb"
    with path.open("wb") as file:
        file.truncate(stamps.MOST_BYTES + 1)

    with pytest.raises(InvalidOption, match="was not read"):
        of_file(path)


# -- adding up ------------------------------------------------------------------------


def test_answers_are_added_up_by_model() -> None:
    """Costs, ranges and tokens add up by model and currency; what is not known is counted apart."""
    found = of_notebook(
        notebook(
            stamp(),
            stamp(cost="0.01"),
            stamp(cost=None, cost_range=["0.001", "0.2"]),
            stamp(cost=None, tokens=None),
            stamp(model="deepseek-v4-pro", currency="USD", cost=None),
        )
    )

    flash, pro = by_model(found.stamps)

    assert flash == {
        "model": "deepseek-flash",
        "currency": "CNY",
        "queries": 4,
        "cost": Decimal("0.0223"),
        "cost_low": Decimal("0.0233"),
        "cost_high": Decimal("0.2223"),
        "ranged": 1,
        "unpriced": 1,
        "saved": None,
        "prompt_tokens": 300,
        "completion_tokens": 150,
        "prompt_cache_hit_tokens": 192,
        "prompt_cache_miss_tokens": 108,
        "reasoning_tokens": None,
    }
    assert (pro["currency"], pro["cost"], pro["cost_high"], pro["unpriced"]) == (
        "USD",
        None,
        None,
        1,
    )


# -- what the product writes ----------------------------------------------------------


@pytest.mark.kernel
def test_a_notebook_that_was_run_adds_up_to_the_bill(
    kernel: Kernels, api: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stamps of a saved notebook come to what the account was billed for its answers."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
    path = tmp_path / "run.ipynb"
    asked = ("%%deepseek -t off\nWhy?", "%%deepseek -t low -m pro\nAnd why that?")

    ran = kernel.run(["%load_ext deepseek_magic", *asked])
    nbformat.write(ran.notebook, path)

    found = of_file(path)
    rows = by_model(found.stamps)
    assert ran.error is None
    assert [row["model"] for row in rows] == ["deepseek-flash", "deepseek-v4-pro"]
    assert sum(row["cost"] for row in rows) == api.billed
    assert all(row["completion_tokens"] for row in rows)
    assert found.unreadable == 0
