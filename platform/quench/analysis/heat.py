"""Two numeric keys against each other: robust accuracy on a grid, collapsed cells marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quench.analysis.parallel import measured
from quench.threat_model import pixels

_PREFERRED = ("threat.epsilon", "method.step_ratio")
_MOST = 12
"""values of a key that have a row or column each; more are taken together, in eight parts of equal count"""
_PARTS = 8
_WORST = 0.2
"""points of robust accuracy behind the best at which the colours end"""


def heat_keys(runs: pd.DataFrame, keys: Sequence[str]) -> tuple[str, str] | None:
    """The two numeric keys to draw, epsilon and the step's size if they vary, or None if there are no two.

    Epsilon counts only with so few values that each can have a column: robust accuracies against different
    adversaries have no mean.
    """
    varied = [key for key in keys if pd.api.types.is_numeric_dtype(runs[key].infer_objects())]
    varied = [key for key in varied if not pd.api.types.is_bool_dtype(runs[key].dropna().infer_objects())]
    if 2 <= runs.groupby("norm")["threat.epsilon"].nunique().max() <= _MOST:
        varied.append("threat.epsilon")
    ordered = sorted(varied, key=lambda key: (key not in _PREFERRED, _PREFERRED.index(key) if key in _PREFERRED else 0))
    for i, x in enumerate(ordered):
        for y in ordered[i + 1 :]:
            if heat_frame(runs, x, y).empty is False:
                return x, y
    return None


def heat_frame(runs: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """One row for each cell of each facet: `facet` (norm or threat model, and method), `x`, `y`, `runs`, `robust`
    (mean; see `parallel.measured`), `behind` (how far that is behind the best cell of the same threat model in this
    facet) and `lost`: runs lost to catastrophic overfitting. Facets with fewer than four cells, or one value of
    either, are left out.
    """
    measure = measured(runs)[0]
    known = runs.dropna(subset=[measure, x, y])
    adversary = "norm" if x == "threat.epsilon" else "threat"
    cells = known.assign(x=_parts(known[x]), y=_parts(known[y]), facet=known[adversary] + ", " + known["method"])
    grid = cells.groupby(["facet", "x", "y"], sort=True, observed=True, as_index=False)
    frame = grid.agg(runs=("seed", "size"), robust=(measure, "mean"), lost=("lost", "sum"))
    alike = ["facet", "x"] if x == "threat.epsilon" else ["facet"]
    frame["behind"] = frame.groupby(alike)["robust"].transform("max") - frame["robust"]
    parts = [
        part for _, part in frame.groupby("facet") if len(part) > 3 and part["x"].nunique() > 1 < part["y"].nunique()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _parts(values: pd.Series) -> pd.Series:
    """The values themselves, or if there are many the middles (medians) of parts of equal count."""
    if values.nunique() <= _MOST:
        return values.astype(float)
    parts = pd.qcut(values.astype(float), _PARTS, duplicates="drop")
    return values.astype(float).groupby(parts, observed=True).transform("median")


def heat_map(frame: pd.DataFrame, x: str, y: str) -> Figure:
    """A panel for each facet. Numbers are robust accuracy in percent, colours how far behind the best, × collapses."""
    facets = list(dict.fromkeys(frame["facet"]))
    widest, highest = (max(part[key].nunique() for _, part in frame.groupby("facet")) for key in ("x", "y"))
    across = max(1, min(3, len(facets), int(10.5 / (0.9 + 0.55 * widest))))
    down = -(-len(facets) // across)
    size = (max(5.0, across * (0.9 + 0.55 * widest) + 0.8), down * (1.1 + 0.36 * highest))
    figure = Figure(figsize=size, layout="constrained")
    grid = cast("list[Axes]", list(figure.subplots(down, across, squeeze=False).flat))
    image: Any = None
    for facet, axes in zip(facets, grid, strict=False):
        image = _draw(frame.query("facet == @facet"), x, axes)
        axes.set_title(facet, fontsize="medium")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
    for spare in grid[len(facets) :]:
        spare.remove()
    bar = figure.colorbar(image, ax=grid[: len(facets)], extend="max", pad=0.01, aspect=25)
    bar.set_label("points behind the best", fontsize="small")
    return figure


def _draw(part: pd.DataFrame, x: str, axes: Axes) -> Any:
    values, lost = (part.pivot(index="y", columns="x", values=name) for name in ("behind", "lost"))
    robust = part.pivot(index="y", columns="x", values="robust")
    colours: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": 100 * _WORST}
    image = axes.imshow(100 * values.to_numpy(), **colours, aspect="auto", origin="lower")
    for row, column in zip(*np.nonzero(robust.notna().to_numpy()), strict=True):
        dark = values.iat[row, column] < _WORST / 2
        collapsed = lost.iat[row, column] > 0
        text = f"{100 * robust.iat[row, column]:.0f}" + ("×" if collapsed else "")
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    name = pixels if x == "threat.epsilon" else "{:.3g}".format
    axes.set_xticks(range(values.shape[1]), [name(value) for value in values.columns], fontsize=8)
    axes.set_yticks(range(values.shape[0]), [f"{value:.3g}" for value in values.index], fontsize=8)
    return image
