"""Parallel coordinates: every run as a line through its values of the keys that the sweep varies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quench.analysis.look import MANY, threats

_COLOURS = "viridis_r"
"""the most robust runs are dark, and the least pale"""
_ABSENT = -0.12
"""height of the runs whose method, or other part, has no such key"""
_APART = 0.06
"""of two marks nearer to each other only the lower is labelled"""


class Scale(NamedTuple):
    """A key's values as heights in [0, 1], and where what is written beside them."""

    heights: pd.Series
    ticks: list[tuple[float, str]]


def measured(runs: pd.DataFrame) -> tuple[str, str]:
    """The robust accuracy that a sweep's choices are seen by: its column, and what it is in words."""
    if runs["selection"].notna().any():
        return "selection", "robust accuracy (held-out images, the attack that selects)"
    return "robust", "robust accuracy (test images)"


def scale(values: pd.Series, robust: pd.Series | None = None) -> Scale:
    """Numbers by their size, or its logarithm if that has the median nearer to the middle; all else evenly, in the
    order of the mean `robust`."""
    known = values.dropna()
    number = pd.api.types.is_numeric_dtype(known.infer_objects()) and not pd.api.types.is_bool_dtype(known)
    if not number or known.nunique() < 2:
        named = known.astype(str)
        names = sorted(named.unique())
        if robust is not None:
            means = {name: robust[named.index[named == name]].mean() for name in names}
            names.sort(key=means.__getitem__)
        places = np.linspace(0, 1, len(names)) if len(names) > 1 else [0.5]
        at = dict(zip(names, places, strict=True))
        found = Scale(named.map(at), [(at[name], name) for name in names])
    else:
        found = _of_numbers(known.astype(float))
    absent = [(_ABSENT, "none")] if len(known) < len(values) else []
    return Scale(found.heights.reindex(values.index, fill_value=_ABSENT).astype(float), [*absent, *found.ticks])


def _of_numbers(values: pd.Series) -> Scale:
    low, high, middle = values.min(), values.max(), values.median()
    off = abs(middle - (low + high) / 2) / (high - low)
    wide = low > 0 and high / low >= 20
    logarithmic = wide and abs(np.log(middle / np.sqrt(low * high))) / np.log(high / low) < off
    change = np.log if logarithmic else np.asarray
    bottom, top = change(low), change(high)
    marks = sorted(set(values)) if values.nunique() <= 6 else _round_numbers(low, high, logarithmic)

    def height(of: Any) -> Any:
        return (change(of) - bottom) / (top - bottom)

    return Scale(pd.Series(height(values), values.index), [(float(height(mark)), f"{mark:.3g}") for mark in marks])


def _round_numbers(low: float, high: float, logarithmic: bool) -> list[float]:
    if not logarithmic:
        return [mark for mark in MaxNLocator(5).tick_values(low, high) if low <= mark <= high]
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1,) if len(decades) > 4 else (1, 3)
    return [mark for d in decades for digit in steps if low <= (mark := float(f"{digit}e{d}")) <= high]


def parallel_coordinates(runs: pd.DataFrame, keys: Sequence[str]) -> Figure:
    """A panel for each threat model, with its own colours; the most robust runs are drawn last, on top.

    The last axis is what `measured` says. Frame and keys of `runs.Frames`; there must be a run with a result.
    """
    measure = measured(runs)[0]
    known = runs.dropna(subset=[measure])
    names = threats(known)
    width = max(7.0, 1.6 + 1.25 * (len(keys) + 1))
    figure = Figure(figsize=(width, 3.3 * len(names)), layout="constrained")
    grid = cast("list[Axes]", list(figure.subplots(len(names), 1, squeeze=False)[:, 0]))
    for threat, axes in zip(names, grid, strict=True):
        part = known.query("threat == @threat").sort_values(measure)
        _draw(part, keys, measure, axes)
        axes.set_title(threat, loc="left", pad=12)
    return figure


def _draw(part: pd.DataFrame, keys: Sequence[str], measure: str, axes: Axes) -> None:
    scales = {key: scale(part[key], part[measure]) for key in keys if part[key].astype(str).nunique() > 1}
    last = scale(part[measure])
    words = measured(part)[1].replace(" (", "\n(").replace(", ", ",\n")
    scales[words] = Scale(last.heights, [(height, f"{100 * float(text):.3g} %") for height, text in last.ticks])
    heights = np.column_stack([one.heights for one in scales.values()])
    across = np.arange(len(scales))
    lines = [np.column_stack([across, row]) for row in heights]
    many, ranks = len(lines) > MANY, part[measure].rank(pct=True).to_numpy()
    colours = matplotlib.colormaps[_COLOURS](ranks)
    colours[:, 3] = 0.1 + 0.8 * ranks**6 if many else 0.7
    some = LineCollection(lines, colors=colours.tolist(), lw=0.8 if many else 1.1)
    axes.add_collection(some).set_rasterized(many)
    for place, one in enumerate(scales.values()):
        axes.plot([place, place], [0, 1], color="black", lw=0.8)
        for height, text in _apart(one.ticks):
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
            axes.text(place + 0.03, height, text, fontsize=7.5, va="center", bbox=box, zorder=4)
    axes.set_xticks(across, [_wrapped(key) for key in scales], fontsize="small")
    axes.xaxis.set_tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(scales) - 0.55)
    axes.spines[:].set_visible(False)


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    kept: list[tuple[float, str]] = []
    for height, text in sorted(ticks):
        if not kept or height - kept[-1][0] >= _APART:
            kept.append((height, text))
    return kept


def _wrapped(key: str) -> str:
    return key.replace(".", ".\n").replace("_", "_\n" if len(key) > 24 else "_")
