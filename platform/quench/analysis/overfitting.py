"""How runs collapse into catastrophic overfitting, and when their guard noticed."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from quench.analysis.look import styles
from quench.analysis.trade_off import draw_events

_ROWS = (("fgsm_accuracy", "robust_accuracy"), ("linearity", "abnormal", "train_accuracy"))


def detections(epochs: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """One row a run: when it collapsed, as one knows afterwards, and when its guard noticed.

    Afterwards, a run has collapsed if it ends with less than half of its best robust accuracy on the held-out
    images; `onset` is the update at the end of the first epoch after which it stayed there, and NaN for a
    healthy run. `detected` is the update of the first confirmed alarm, `late` how many updates after the
    onset's epoch began, `cause` its signal; `false_alarms` counts those that were not confirmed. `bent` is the
    update at the end of the first epoch whose linearity was 0.2 below the run's highest.
    """
    return pd.DataFrame([_detection(str(run), part, events) for run, part in epochs.groupby("run", sort=False)])


def _detection(run: str, epochs: pd.DataFrame, events: pd.DataFrame) -> dict[str, Any]:
    healthy = epochs["robust_accuracy"] >= epochs["robust_accuracy"].cummax() / 2
    last = int(healthy.to_numpy().nonzero()[0][-1])
    row: dict[str, Any] = {"run": run, "configuration": epochs["configuration"].iloc[0], "onset": float("nan")}
    if last + 1 < len(epochs):
        row["onset"] = epochs["updates"].iloc[last + 1]
    if "linearity" in epochs:
        fell = epochs.loc[epochs["linearity"] < epochs["linearity"].cummax() - 0.2, "updates"]
        row["bent"] = fell.iloc[0] if len(fell) else float("nan")
    mine = events.loc[events["run"] == run].to_dict("records")
    confirmed = [event for event in mine if event["confirmed"]]
    row["false_alarms"] = len(mine) - len(confirmed)
    for event in confirmed[:1]:
        row |= {"detected": event["update"], "cause": event["cause"]}
        row["late"] = event["update"] - epochs["updates"].iloc[last] if row["onset"] == row["onset"] else float("nan")
    return row


def overfitting(epochs: pd.DataFrame, events: pd.DataFrame) -> Figure:
    """How runs collapse, a column for each configuration and a line for each seed.

    Above, accuracy on the held-out images under FGSM and under the probe, below the signals of the
    training passes; crosses are collapses that a guard has confirmed. Frames of `runs.Frames`.
    """
    names = list(dict.fromkeys(epochs["configuration"]))
    figure = Figure(figsize=(3.4 * len(names) + 0.6, 6.4), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey="row")
    for column, name in enumerate(names):
        mine = epochs.query("configuration == @name")
        for axes, keys in zip(cast("list[Axes]", grid[:, column]), _ROWS, strict=True):
            for key, style in styles(keys).items():
                for _, run in mine.groupby("run"):
                    if key in run:
                        axes.plot(run["epoch"], run[key], color=style.colour, alpha=0.7, lw=1)
            axes.grid(alpha=0.3)
        draw_events(events.query("configuration == @name"), cast("Axes", grid[0, column]), "epoch")
        grid[0, column].set_title("\n".join(name.split()), fontsize="small")
        grid[1, column].set_xlabel("epoch")
    for axes, keys in zip(cast("list[Axes]", grid[:, 0]), _ROWS, strict=True):
        look = styles(keys).items()
        handles = [Line2D([], [], color=style.colour, label=key.replace("_", " ")) for key, style in look]
        axes.legend(handles=handles, fontsize="small", loc="best")
    grid[0, 0].set_ylabel("accuracy on held-out images")
    grid[1, 0].set_ylabel("signals of the training passes")
    return figure
