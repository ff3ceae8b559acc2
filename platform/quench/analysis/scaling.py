"""What more workers buy: the frame and the figure of `quench scaling`."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter, ScalarFormatter

_MODES = {"strong": ("#4c72b0", "o"), "weak": ("#dd8452", "s")}


def scaling_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a mode and number of workers, over the seeds of `runs.Frames.runs`.

    In `strong` scaling the batch stays what it is with the fewest workers, in `weak` scaling each worker's share of
    it does. Both pass over the same images equally often, so that `speedup` is the ratio of train seconds to those
    of the fewest workers, and `efficiency` that over the ratio of workers. Other columns: `batch_size`, `seeds`, means
    of `train_seconds` (with `_min`, `_max`), `gpu_seconds`, `clean` and `robust`, and the latter's mean 95 % Wilson
    bounds `robust_low` and `robust_high`. Without a finished run it is empty.
    """
    finished = runs.dropna(subset=["robust"])
    if finished.empty:
        return pd.DataFrame()
    fewest = finished["workers"].min()
    batch = finished.loc[finished["workers"] == fewest, "batch_size"].iloc[0]
    wanted = {"strong": finished["batch_size"] == batch}
    wanted["weak"] = finished["batch_size"] * fewest == batch * finished["workers"]
    parts = [_means(finished.loc[rows]).assign(mode=mode) for mode, rows in wanted.items()]
    frame = pd.concat([part for part in parts if len(part) > 1] or parts[:1], ignore_index=True)
    alone = frame.loc[frame["workers"] == fewest, "train_seconds"].iloc[0]
    frame["speedup"] = alone / frame["train_seconds"]
    frame["efficiency"] = frame["speedup"] * fewest / frame["workers"]
    return frame


def _means(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.groupby(["workers", "batch_size"], as_index=False).agg(
        seeds=("seed", "nunique"),
        train_seconds=("train_seconds", "mean"),
        train_seconds_min=("train_seconds", "min"),
        train_seconds_max=("train_seconds", "max"),
        gpu_seconds=("gpu_seconds", "mean"),
        clean=("clean", "mean"),
        robust=("robust", "mean"),
        robust_low=("robust_low", "mean"),
        robust_high=("robust_high", "mean"),
    )


def scaling_figure(frame: pd.DataFrame) -> Figure:
    """Train seconds, efficiency and robust accuracy over the workers, a line for each mode."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    seconds, efficiency, robust = cast("list[Axes]", list(figure.subplots(1, 3)))
    for mode, part in frame.groupby("mode", sort=False):
        colour, marker = _MODES[str(mode)]
        label = {"strong": "strong: same batch", "weak": "weak: same share of it"}[str(mode)]
        x = part["workers"]
        look: dict[str, Any] = {"color": colour, "marker": marker, "label": label, "capsize": 3}
        spread = [part["train_seconds"] - part["train_seconds_min"], part["train_seconds_max"] - part["train_seconds"]]
        seconds.errorbar(x, part["train_seconds"], spread, **look)
        efficiency.errorbar(x, part["efficiency"], **look)
        interval = [part["robust"] - part["robust_low"], part["robust_high"] - part["robust"]]
        robust.errorbar(x, part["robust"], interval, **look)
    first = frame.loc[frame["workers"].idxmin()]
    workers = sorted(set(frame["workers"]))
    ideal = [first["train_seconds"] * first["workers"] / n for n in workers]
    seconds.plot(workers, ideal, color="0.5", ls=":", label="ideal")
    efficiency.axhline(1, color="0.5", ls=":")
    seconds.set_ylabel("train seconds")
    seconds.set_yscale("log")
    seconds.yaxis.set_major_formatter(ScalarFormatter())
    seconds.yaxis.set_minor_formatter(ScalarFormatter())
    efficiency.set_ylabel("efficiency")
    efficiency.set_ylim(0, max(1.1, frame["efficiency"].max() * 1.05))
    robust.set_ylabel("robust accuracy\n(test images, 95 % intervals)")
    robust.set_ylim(0, 1)
    for axes in (efficiency, robust):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    for axes in (seconds, efficiency, robust):
        axes.set_xscale("log", base=2)
        axes.set_xticks(workers, [str(n) for n in workers])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("workers")
        axes.grid(alpha=0.3)
    seconds.legend(frameon=False)
    return figure
