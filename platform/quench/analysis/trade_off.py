"""What a second of training buys: configurations against each other within their threat model, and the figures."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from quench.analysis.look import (
    MANY,
    Look,
    intervals,
    legend,
    panels,
    seconds_axis,
    series,
    share_axis,
    styles,
    threats,
)

_DOUBTED: dict[str, Any] = {"color": "red", "marker": "o", "ms": 13, "mfc": "none", "ls": ""}
"""a ring around a point that its evaluation says not to trust"""
_COLLAPSE: dict[str, Any] = {"color": "black", "marker": "x", "ms": 7, "mew": 1.6, "ls": ""}
_FRONT: dict[str, Any] = {"color": "0.4", "ls": "--", "lw": 1}


def configurations(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a threat model and configuration, over its seeds, cheapest first.

    Columns: `threat`, `configuration`, `seeds`, how many of them were `lost` to catastrophic overfitting or are
    `unreliable` by a flag of their evaluation (and are in the means nevertheless), means of `train_seconds`,
    `clean` and `robust`, `robust_min`, `robust_max`; `on_front`: no configuration for this threat model is both
    faster and more robust; `behind_best` and `faster_than_best`: robust accuracy short of the most robust one's,
    and its train seconds over this one's.
    """
    finished = runs.dropna(subset=["robust"])
    frame = finished.groupby(["threat", "configuration"], sort=False).agg(
        norm=("norm", "first"),
        epsilon=("epsilon", "first"),
        seeds=("seed", "nunique"),
        lost=("lost", "sum"),
        unreliable=("unreliable", _count),
        train_seconds=("train_seconds", "mean"),
        clean=("clean", "mean"),
        robust=("robust", "mean"),
        robust_min=("robust", "min"),
        robust_max=("robust", "max"),
    )
    frame = frame.reset_index().sort_values(["norm", "epsilon", "train_seconds"], ignore_index=True)
    if frame.empty:
        return frame.assign(on_front=False, behind_best=0.0, faster_than_best=0.0)
    parts = [part.assign(**_against_best(part)) for _, part in frame.groupby("threat", sort=False)]
    return pd.concat(parts, ignore_index=True)


def _count(texts: pd.Series) -> int:
    return int((texts != "").sum())


def _against_best(part: pd.DataFrame) -> dict[str, pd.Series]:
    best = part.loc[part["robust"].idxmax()]
    return {
        "on_front": pareto_front(part),
        "behind_best": best["robust"] - part["robust"],
        "faster_than_best": best["train_seconds"] / part["train_seconds"],
    }


def pareto_front(runs: pd.DataFrame, cost: str = "train_seconds", ascending: bool = True) -> pd.Series:
    """Whether no other row has fewer `train_seconds` and at least the `robust` of this one; aligned with `runs`.

    Instead of fewer seconds, it can be more of another column. Compare only rows of one threat model.
    """
    ordered = runs.sort_values([cost, "robust"], ascending=[ascending, False])
    best_so_far = ordered["robust"].cummax().shift(fill_value=-1.0)
    return (ordered["robust"] > best_so_far).reindex(runs.index)


def time_vs_robustness(runs: pd.DataFrame, epochs: pd.DataFrame, events: pd.DataFrame) -> Figure:
    """The trade-off on one page, two panels for each threat model.

    Above, every run on its way (held-out images); below, where it ended (test images), with 95 %
    intervals and the Pareto front; crosses are collapses that a guard has confirmed. The frames are `runs.Frames`'.
    """
    names, by = threats(runs), series(runs)
    look = styles(runs[by])
    figure, columns = panels(len(names), rows=2)
    for threat, (above, below) in zip(names, columns, strict=True):
        draw_curves(epochs.query("threat == @threat"), above, look)
        draw_events(events.query("threat == @threat"), above)
        draw_trade_off(runs.query("threat == @threat"), below, look)
        above.set_title(threat)
        below.set_xlabel("train seconds")
    columns[0][0].set_ylabel("robust accuracy while training\n(held-out images)")
    columns[0][1].set_ylabel("robust accuracy at the end\n(test images, 95 % intervals)")
    legend(figure, look, _explained(runs, events))
    return figure


def clean_vs_robust(runs: pd.DataFrame) -> Figure:
    """Both accuracies on the test images, with their 95 % intervals, a point for each run; dashed, the front."""
    finished, by = runs.dropna(subset=["robust"]), series(runs)
    names = threats(finished)
    look = {name: style for name, style in styles(runs[by]).items() if name in set(finished[by])}
    figure, columns = panels(len(names), height=3.6)
    for threat, (axes,) in zip(names, columns, strict=True):
        part = finished.query("threat == @threat")
        _draw_points(part, axes, look, "clean", xerr=True)
        front = part.loc[pareto_front(part, "clean", ascending=False)].sort_values("clean")
        axes.plot(front["clean"], front["robust"], **_FRONT, drawstyle="steps-pre", zorder=0)
        share_axis(axes, "x")
        share_axis(axes)
        axes.set_title(threat)
        axes.set_xlabel("clean accuracy")
    columns[0][0].set_ylabel("robust accuracy")
    legend(figure, look, [Line2D([], [], **_FRONT, label="Pareto front")])
    return figure


def draw_curves(epochs: pd.DataFrame, axes: Axes, look: Look) -> None:
    """Robust accuracy over the train clock, a line for each run."""
    many = epochs["folder"].nunique() > MANY
    for name, part in epochs.groupby(_column(epochs, look), sort=False):
        style = look[str(name)]
        lines = [run[["train_seconds", "robust_accuracy"]].to_numpy() for _, run in part.groupby("folder", sort=False)]
        some = LineCollection(lines, colors=style.colour, linestyles=style.dashes)
        some.set(alpha=0.3 if many else 0.7, lw=0.6 if many else 1.2, rasterized=many)
        axes.add_collection(some)
    axes.autoscale_view()
    seconds_axis(axes)
    share_axis(axes)


def draw_events(events: pd.DataFrame, axes: Axes, over: str = "train_seconds") -> None:
    """A cross where a guard confirmed catastrophic overfitting, at the robust accuracy that it found."""
    confirmed = events[events["confirmed"].astype(bool)]
    axes.plot(confirmed[over], confirmed["robust_accuracy"], **_COLLAPSE, zorder=5)


def draw_trade_off(runs: pd.DataFrame, axes: Axes, look: Look) -> None:
    """Final robust accuracy against train seconds, a point for each finished run, and the front."""
    finished = runs.dropna(subset=["robust"])
    _draw_points(finished, axes, look, "train_seconds")
    doubted = finished[finished["unreliable"] != ""]
    axes.plot(doubted["train_seconds"], doubted["robust"], **_DOUBTED)
    front = finished.loc[pareto_front(finished)].sort_values(by="train_seconds")
    axes.plot(front["train_seconds"], front["robust"], **_FRONT, drawstyle="steps-post", zorder=0)
    seconds_axis(axes)
    share_axis(axes)


def _draw_points(finished: pd.DataFrame, axes: Axes, look: Look, over: str, xerr: bool = False) -> None:
    """A point for each run with its intervals; of many, faint ones."""
    many, some = len(finished) > MANY, len(finished) > MANY / 5
    axes.set_rasterization_zorder(3 if many else None)
    for name, part in finished.groupby(_column(finished, look), sort=False):
        style = look[str(name)]
        axes.errorbar(
            part[over],
            part["robust"],
            intervals(part, "robust"),
            intervals(part, over) if xerr else None,
            color=style.colour,
            fmt=style.marker,
            ms=3 if many else 5,
            elinewidth=0.5 if some else 0.9,
            alpha=0.4 if many else 0.6 if some else 0.85,
        )


def _column(frame: pd.DataFrame, look: Look) -> str:
    """What the names of `look` are."""
    return "configuration" if set(frame["configuration"]) <= look.keys() else "method"


def _explained(runs: pd.DataFrame, events: pd.DataFrame) -> list[Line2D]:
    """What the legend says besides the series."""
    handles = [Line2D([], [], **_FRONT, label="Pareto front")]
    if (runs["unreliable"] != "").any():
        handles.append(Line2D([], [], **_DOUBTED, label="unreliable evaluation"))
    if events["confirmed"].any():
        handles.append(Line2D([], [], **_COLLAPSE, label="catastrophic overfitting"))
    return handles
