"""Figures in a prompt: told as text, with what is drawn and where it goes."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from deepseek_magic.describe import describe
from deepseek_magic.figures import figure_text

pytest.importorskip("matplotlib")


@pytest.fixture
def subplots() -> Any:
    """Give a function that makes a figure with plots, without a window."""
    from matplotlib.figure import Figure

    def make(**grid: int) -> Any:
        figure = Figure()
        plots: Any = figure.subplots(**grid)  # type: ignore[call-overload]  # rows or columns
        return figure, plots

    return make


def test_a_line(subplots: Any) -> None:
    """A line has its name, its points, and where it begins and ends."""
    figure, plot = subplots()
    plot.plot([1, 2, 3], [10.0, 40.0, 20.5], label="2026")
    plot.set(title="Sales", xlabel="month", ylabel="CNY", xlim=(0, 4), ylim=(0, 50))

    assert figure_text(figure) == (
        "Matplotlib figure, 1 plot\n"
        'Plot: "Sales", x "month" from 0 to 4, y "CNY" from 0 to 50\n'
        '- line "2026": 3 points, x from 1 to 3, y from 10 to 40, first 10, last 20.5'
    )
    assert figure_text(plot) == figure_text(figure)


def test_several_plots(subplots: Any) -> None:
    """Bars, points, pictures and words each have their line, plot by plot."""
    figure, (left, right) = subplots(ncols=2)
    figure.suptitle("Both")
    left.bar(["a", "b"], [3, 5])
    right.scatter([1, 2], [3, 4], label="cloud")
    right.imshow([[1, 2, 3], [4, 5, 6]])
    right.text(0, 0, "here")

    told = figure_text(figure)

    assert told is not None
    assert told.startswith('Matplotlib figure, 2 plots "Both"\nPlot 1: no title, x, y from 0 ')
    assert "- bars: 2, height from 3 to 5" in told
    assert '- scatter "cloud": 2 points, x from 1 to 2, y from 3 to 4, first 3, last 4' in told
    assert "- image: 2 × 3" in told
    assert '- text "here"' in told


def test_dates_names_and_gaps(subplots: Any) -> None:
    """What is drawn over dates or names keeps them; missing values are left out."""
    import pandas as pd

    figure, plot = subplots()
    days = pd.date_range("2026-01-01", periods=3)
    plot.plot(days, [1.0, float("nan"), 3.0])
    plot.plot([], [], label="nothing")

    told = figure_text(figure)

    assert told is not None
    assert "no title, x from 2025-12-31" in told
    assert "3 points, x from 2026-01-01 to 2026-01-03, y from 1 to 3" in told
    assert '- line "nothing": 0 points, no x, no y' in told


def test_it_keeps_to_the_bound(subplots: Any) -> None:
    """A figure with many lines is cut as any other value is."""
    figure, plot = subplots()
    for number in range(200):
        plot.plot([1, 2], [number, number + 1], label=f"line {number}")

    told = describe(figure, bound=100)

    assert len(told) < 600
    assert "more characters left out" in told


def test_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure of Plotly has its title, its axes and its traces.

    It stands for Plotly here what its figures offer: attributes by name and by key.
    """
    module = ModuleType("plotly.basedatatypes")

    class BaseFigure:
        data: Any
        layout: Any

    class Named(dict[str, Any]):
        __getattr__ = dict.get

    monkeypatch.setattr(module, "BaseFigure", BaseFigure, raising=False)
    monkeypatch.setitem(sys.modules, "plotly.basedatatypes", module)
    figure, title = BaseFigure(), SimpleNamespace
    figure.layout = Named(
        title=title(text="Sales"),
        xaxis=Named(title=title(text="month")),
        yaxis=Named(title=title(text=None)),
    )
    figure.data = (
        Named(type="scatter", name="2026", x=("Jan", "Feb"), y=(3, 1)),
        Named(type="pie", name=None, labels=("a", "b"), values=(1, 2)),
    )

    assert figure_text(figure) == (
        'Plotly figure, 2 traces "Sales"\n'
        'x "month"\n'
        '- scatter "2026": 2 points, x from "Jan" to "Feb", y from 1 to 3, first 3, last 1\n'
        '- pie: labels from "a" to "b", values from 1 to 2'
    )


def test_what_is_no_figure() -> None:
    """Anything else is left to others."""
    assert figure_text(object()) is None
    assert figure_text(3) is None
