"""What all figures share: colours that most eyes tell apart, panels of threat models, axes of seconds and shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, log10
from typing import Any, NamedTuple, cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

MANY = 200
"""lines or points from which on they are drawn as pixels, also in SVG files"""
_SERIES = 14
"""configurations that a figure can tell apart; of more, the methods are"""
# Okabe and Ito's palette (jfly.uni-koeln.de/color) without its yellow, which white paper swallows.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", ":")


class Style(NamedTuple):
    """How one series is drawn, alike in every panel."""

    colour: str
    marker: str
    dashes: str


Look = dict[str, Style]


def styles(names: Iterable[object]) -> Look:
    """A style for each different name, in the order in which they appear."""
    n, different = len(_COLOURS), dict.fromkeys(map(str, names))
    return {
        name: Style(_COLOURS[i % n], _MARKERS[i % len(_MARKERS)], _DASHES[i // n % len(_DASHES)])
        for i, name in enumerate(different)
    }


def series(runs: pd.DataFrame) -> str:
    """The column that colours stand for: `configuration`, or `method` if there are too many of those."""
    return "configuration" if runs["configuration"].nunique() <= _SERIES else "method"


def threats(runs: pd.DataFrame) -> list[str]:
    """The threat models, weakest first within each norm."""
    return list(dict.fromkeys(runs.sort_values(["norm", "epsilon"], kind="stable")["threat"]))


def panels(count: int, rows: int = 1, height: float = 3.2) -> tuple[Figure, list[list[Axes]]]:
    """A figure no wider than a page, and `rows` axes one above the other for each of `count` threat models."""
    across = ceil(count / ceil(count / 3))
    bands = ceil(count / across)
    figure = Figure(figsize=(6.4 if across == 1 else 0.4 + 3.6 * across, height * rows * bands), layout="constrained")
    grid = figure.subplots(rows * bands, across, squeeze=False)
    places = [(band, column) for band in range(bands) for column in range(across)]
    columns = [[cast("Axes", grid[band * rows + row, column]) for row in range(rows)] for band, column in places]
    for spare in (axes for column in columns[count:] for axes in column):
        spare.remove()
    return figure, columns[:count]


def legend(figure: Figure, look: Look, more: Sequence[Line2D] = ()) -> None:
    """Below the panels, in as many columns as fit."""
    handles = [Line2D([], [], color=s.colour, marker=s.marker, ls=s.dashes, ms=5, label=n) for n, s in look.items()]
    longest = max(len(str(handle.get_label())) for handle in (*handles, *more))
    fit = int(figure.get_figwidth() * 12 / (longest + 8))  # some 12 letters an inch
    columns = min(max(fit, 1), 6)
    figure.set_figheight(figure.get_figheight() + 0.2 * ceil(len([*handles, *more]) / columns))
    below(figure, [*handles, *more], columns)


def below(figure: Figure, handles: Sequence[Line2D], columns: int) -> None:
    """A legend under all panels."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")


def seconds_axis(axes: Axes) -> None:
    """Logarithmic if there is room, with few labels."""
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    low, high = axes.get_xlim()
    decades = log10(high / low) if 0 < low < high else 0.0  # an empty panel has limits of its own
    if decades < 0.5:  # too few round numbers for a logarithmic axis
        axes.set_xscale("linear")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return
    subs = (1, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2 else (1, 3) if decades < 3.5 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_formatter(NullFormatter())


def share_axis(axes: Axes, which: str = "y") -> None:
    """Percent, of what is drawn and a little more, never beyond 0 and 100."""
    axis, limits = (axes.yaxis, axes.get_ylim()) if which == "y" else (axes.xaxis, axes.get_xlim())
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(_percent))
    (axes.set_ylim if which == "y" else axes.set_xlim)(max(limits[0], -0.02), min(limits[1], 1.02))
    axes.grid(alpha=0.3)


def intervals(part: pd.DataFrame, name: str) -> list[Any]:
    """Lengths of the error bars of `name`, downwards and upwards."""
    return [part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name]]


def _plain(seconds: float, _: int | None) -> str:
    return f"{seconds:g}"


def _percent(share: float, _: int | None) -> str:
    return f"{100 * share:.3g} %"
