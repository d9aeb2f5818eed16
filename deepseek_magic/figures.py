"""Figures of Matplotlib and Plotly as text for a model: titles, axes, and what is drawn.

    Matplotlib figure, 1 plot
    Plot: "Sales", x "month" from 1 to 12, y "CNY" from 0 to 400
    - line "2026": 12 points, x from 1 to 12, y from 3 to 390, first 3, last 390

Neither library is imported for this: a figure can only be met where its library is
loaded already.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

_CHARS = 80
_TRACES = 40
_MIDNIGHT = re.compile(r"[T ]00:00:00(\.0+)?$")


def figure_text(value: object) -> str | None:
    """Tell what *value* draws; None where it is no figure."""
    try:
        if (figure := _matplotlib(value)) is not None:
            return "\n".join(_of_matplotlib(figure))
        if _is_of(value, "plotly.basedatatypes", "BaseFigure"):
            return "\n".join(_of_plotly(value))
    except Exception:  # noqa: BLE001  # what draws may be the user's own, and fail in any way
        return None
    return None


def _is_of(value: object, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


def _matplotlib(value: Any) -> Any:
    """Give the figure, or the one plot of it, that *value* is or holds."""
    if _is_of(value, "matplotlib.figure", "FigureBase"):
        return value
    if _is_of(value, "matplotlib.axes", "Axes"):
        return value
    # A grid of seaborn's is no figure of its own, and has one.
    if type(value).__module__.partition(".")[0] == "seaborn":
        return _matplotlib(getattr(value, "figure", None))
    return None


# Matplotlib


def _of_matplotlib(value: Any) -> Iterator[str]:
    plots = [value] if hasattr(value, "get_lines") else list(value.get_axes())
    title = getattr(value, "get_suptitle", str)()
    yield f"Matplotlib figure, {_counted(len(plots), 'plot')}{_named(title)}"
    for number, plot in enumerate(plots, 1):
        yield from _plot(plot, f"Plot {number}" if len(plots) > 1 else "Plot")


def _plot(plot: Any, name: str) -> Iterator[str]:
    axes = [f"{axis}{_axis(plot, axis)}" for axis in "xy"]
    yield f"{name}:{_named(plot.get_title()) or ' no title'}, {', '.join(axes)}"
    bars = list(plot.containers)
    for line in plot.get_lines():
        yield f"- line{_label(line)}: {_points(line.get_xdata(), line.get_ydata())}"
    for group in bars:
        heights = [patch.get_height() for patch in getattr(group, "patches", ())]
        yield f"- bars{_label(group)}: {len(heights):,}, {_range('height', heights)}"
    for drawn in plot.collections:
        yield f"- {_collection(drawn)}"
    for image in plot.images:
        yield f"- image{_label(image)}: {' × '.join(map(str, image.get_array().shape))}"
    for text in list(plot.texts)[:_TRACES]:
        yield f"- text{_named(text.get_text())}"


def _axis(plot: Any, axis: str) -> str:
    """Tell the words at an axis and its ends: as dates or names, where it is one of such."""
    drawn = getattr(plot, f"{axis}axis")
    asked = getattr(drawn, "get_converter", None)  # since Matplotlib 3.10
    kind = type(drawn.converter if asked is None else asked()).__name__
    ends = [_value(end) for end in getattr(plot, f"get_{axis}lim")()]
    if "Date" in kind:
        number = sys.modules["matplotlib.dates"].num2date
        ends = [f"{number(end):%Y-%m-%d}" for end in getattr(plot, f"get_{axis}lim")()]
    named = _named(getattr(plot, f"get_{axis}label")())
    return named if "Category" in kind else f"{named} from {ends[0]} to {ends[1]}"


def _collection(drawn: Any) -> str:
    kind = type(drawn).__name__
    if kind != "PathCollection":
        return f"{kind}{_label(drawn)}"
    offsets = drawn.get_offsets()
    return f"scatter{_label(drawn)}: {_points(offsets[:, 0], offsets[:, 1])}"


def _label(drawn: Any) -> str:
    label = str(drawn.get_label() or "")
    return "" if label.startswith("_") else _named(label)  # those are Matplotlib's own


# Plotly


def _of_plotly(figure: Any) -> Iterator[str]:
    layout, traces = figure.layout, list(figure.data)
    title = getattr(layout.title, "text", None)
    yield f"Plotly figure, {_counted(len(traces), 'trace')}{_named(title)}"
    for axis in ("xaxis", "yaxis"):
        if text := getattr(getattr(layout[axis], "title", None), "text", None):
            yield f"{axis[0]}{_named(text)}"
    for trace in traces[:_TRACES]:
        yield f"- {trace.type}{_named(trace.name)}: {_trace(trace)}"
    if len(traces) > _TRACES:
        yield f"… {len(traces) - _TRACES:,} more traces left out"


def _trace(trace: Any) -> str:
    known = {name: trace[name] for name in ("x", "y", "z", "labels", "values") if name in trace}
    there = {name: data for name, data in known.items() if data is not None}
    if set(there) == {"x", "y"}:
        return _points(there["x"], there["y"])
    return ", ".join(_range(name, list(data)) for name, data in there.items()) or "no data"


# Words and numbers


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _named(name: object) -> str:
    text = " ".join(str(name or "").split())
    return f" {json.dumps(text[:_CHARS], ensure_ascii=False)}" if text else ""


def _points(xs: Any, ys: Any) -> str:
    across, up = list(xs), list(ys)
    ends = f", first {_value(up[0])}, last {_value(up[-1])}" if up else ""
    number = _counted(max(len(across), len(up)), "point")
    return f"{number}, {_range('x', across)}, {_range('y', up)}{ends}"


def _range(name: str, values: Sequence[Any]) -> str:
    """Tell from where to where *values* go; what cannot be compared by its first and last."""
    there = [value for value in values if value is not None and value == value]  # noqa: PLR0124  # NaN
    if not there:
        return f"no {name}"
    try:
        low, high = min(there), max(there)
    except (TypeError, ValueError):  # such as rows of an image
        return f"{name}: {len(there):,} values"
    if isinstance(low, str):
        return f"{name} from {_value(there[0])} to {_value(there[-1])}"
    return f"{name} from {_value(low)} to {_value(high)}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value[:_CHARS], ensure_ascii=False)
    try:
        return format(float(value), ".4g")
    except (TypeError, ValueError):
        return _MIDNIGHT.sub("", str(value))[:_CHARS]
