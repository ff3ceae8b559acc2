"""Frames drawn: each function takes a frame and the axes to draw on, and computes nothing."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from quench.analysis.runs import pareto_front

Look = dict[str, tuple[str, str]]
"""configuration -> its colour and marker, the same in every panel"""
_COLOURS = ("#4c72b0", "#dd8452", "#2a9d5c", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#64b5cd")
_DOUBTED: dict[str, Any] = {"color": "red", "marker": "o", "ms": 13, "mfc": "none", "ls": ""}
"""a ring around a point that its evaluation says not to trust"""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def time_vs_robustness(runs: pd.DataFrame, epochs: pd.DataFrame, events: pd.DataFrame) -> Figure:
    """The trade-off on one page: a column for each threat model.

    Above, every run on its way (held-out images); below, where it ended (test images), with 95 %
    intervals and the Pareto front; crosses are collapses that a guard has confirmed. The frames are as
    `analysis.runs` makes them.
    """
    threats = list(dict.fromkeys(epochs.sort_values(["norm", "epsilon"])["threat"]))
    look = styles(epochs)
    figure = Figure(figsize=(4.2 * len(threats) + 0.6, 7.6), layout="constrained")
    grid = figure.subplots(2, len(threats), squeeze=False, sharey=True)
    for column, threat in enumerate(threats):
        above, below = cast("Axes", grid[0, column]), cast("Axes", grid[1, column])
        draw_curves(epochs.query("threat == @threat"), above, look)
        draw_events(events.query("threat == @threat"), above)
        draw_trade_off(runs.query("threat == @threat"), below, look)
        above.set_title(threat)
        below.set_xlabel("train seconds")
    grid[0, 0].set_ylabel("robust accuracy while training\n(held-out images)")
    grid[1, 0].set_ylabel("robust accuracy at the end\n(test images, 95 % intervals)")
    handles = [Line2D([], [], color=c, marker=m, linestyle="-", label=name) for name, (c, m) in look.items()]
    handles.append(Line2D([], [], color="0.4", linestyle="--", label="Pareto front"))
    if (runs["unreliable"] != "").any():
        handles.append(Line2D([], [], **_DOUBTED, label="unreliable evaluation"))
    if events["confirmed"].any():
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", label="catastrophic overfitting"))
    fit = int(figure.get_figwidth() * 11 / (max(len(name) for name in look) + 8))  # some 11 letters an inch
    figure.legend(handles=handles, loc="outside lower center", ncols=max(min(fit, 6), 1), frameon=False)
    figure.suptitle("What a second of training buys")
    return figure


def overfitting(epochs: pd.DataFrame, events: pd.DataFrame) -> Figure:
    """How runs collapse, a column for each configuration and a line for each seed.

    Above, accuracy on the held-out images under FGSM and under the probe, below the signals of the
    training passes; crosses are collapses that a guard has confirmed. Frames of `analysis.runs`.
    """
    names = list(dict.fromkeys(epochs["configuration"]))
    figure = Figure(figsize=(3.4 * len(names) + 0.6, 6.4), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey="row")
    rows = (("fgsm_accuracy", "robust_accuracy"), ("linearity", "abnormal", "train_accuracy"))
    for column, name in enumerate(names):
        mine = epochs.query("configuration == @name")
        for axes, keys in zip(cast("list[Axes]", grid[:, column]), rows, strict=True):
            for key, colour in zip(keys, _COLOURS, strict=False):
                for _, run in mine.groupby("run"):
                    if key in run:
                        axes.plot(run["epoch"], run[key], color=colour, alpha=0.7, lw=1)
            axes.grid(alpha=0.3)
        draw_events(events.query("configuration == @name"), cast("Axes", grid[0, column]), "epoch")
        grid[0, column].set_title("\n".join(name.split()), fontsize="small")
        grid[1, column].set_xlabel("epoch")
    for axes, keys in zip(cast("list[Axes]", grid[:, 0]), rows, strict=True):
        handles = [Line2D([], [], color=c, label=k.replace("_", " ")) for k, c in zip(keys, _COLOURS, strict=False)]
        axes.legend(handles=handles, fontsize="small", loc="best")
    grid[0, 0].set_ylabel("accuracy on held-out images")
    grid[1, 0].set_ylabel("signals of the training passes")
    return figure


def draw_curves(epochs: pd.DataFrame, axes: Axes, look: Look) -> None:
    """Robust accuracy over the train clock, a line for each run."""
    for _, run in epochs.groupby("run", sort=False):
        axes.plot(
            run["train_seconds"],
            run["robust_accuracy"],
            color=look[run["configuration"].iloc[0]][0],
            alpha=0.8,
            lw=1.3,
        )
    _seconds_and_shares(axes)


def draw_events(events: pd.DataFrame, axes: Axes, over: str = "train_seconds") -> None:
    """A cross where a guard confirmed catastrophic overfitting, at the robust accuracy that it found."""
    confirmed = events[events["confirmed"].astype(bool)]
    if not confirmed.empty:
        axes.plot(confirmed[over], confirmed["robust_accuracy"], "x", color="black", ms=7, mew=1.6, zorder=5)


def draw_trade_off(runs: pd.DataFrame, axes: Axes, look: Look) -> None:
    """Final robust accuracy against train seconds, a point for each finished run, and the front."""
    finished = runs.dropna(subset=["robust"])
    for configuration, part in finished.groupby("configuration", sort=False):
        colour, marker = look[str(configuration)]
        errors = [part["robust"] - part["robust_low"], part["robust_high"] - part["robust"]]
        axes.errorbar(
            part["train_seconds"], part["robust"], errors, color=colour, fmt=marker, ms=6, capsize=2, lw=1, alpha=0.85
        )
    doubted = finished[finished["unreliable"] != ""]
    axes.plot(doubted["train_seconds"], doubted["robust"], **_DOUBTED)
    front = finished.loc[pareto_front(finished)].sort_values(by="train_seconds")
    axes.plot(front["train_seconds"], front["robust"], color="0.4", ls="--", lw=1, drawstyle="steps-post", zorder=0)
    _seconds_and_shares(axes)


def styles(epochs: pd.DataFrame) -> Look:
    """A colour and a marker for each configuration, in the order in which they appear."""
    names = dict.fromkeys(epochs["configuration"])
    n = len(_COLOURS)  # beyond which colours come again, with other markers
    return {name: (_COLOURS[i % n], _MARKERS[(i + i // n) % len(_MARKERS)]) for i, name in enumerate(names)}


def _seconds_and_shares(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_formatter(FuncFormatter(_plain))
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(alpha=0.3)


def _plain(seconds: float, _: int | None) -> str:
    """1, 2 and 5 times the powers of ten; the ticks between go without a label."""
    return f"{seconds:g}" if f"{seconds:e}"[0] in "125" else ""
