"""How good a sweep was at any time: the best model so far, over all that the sweep had spent by then."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from quench.analysis.look import below, intervals, panels, seconds_axis, share_axis, threats
from quench.analysis.runs import complete


def anytime_frame(runs: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """One row for each run that was the most robust of its threat model's complete runs when it was complete.

    Columns: `threat`, `run`, `spent` (worker seconds on the train clock by all runs of the threat model until then, by
    the log's times), `best` (its robust accuracy on the held-out images, under the attack that an adaptive sweep
    selects by if there is one), and `robust`, `robust_low`, `robust_high` (test images). A last row for each threat
    model repeats its leader, when all is spent. Runs that only confirm what was selected spend, but do not lead.
    Frames of `runs.Frames`.
    """
    parts = [
        _leaders(part, epochs.loc[epochs["threat"] == threat])
        for threat, part in complete(runs).groupby("threat", sort=False)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _leaders(ended: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    ordered = epochs.sort_values("time", kind="stable")
    before = ordered.groupby("folder")["gpu_seconds"].shift(fill_value=0.0)
    spent = (ordered["gpu_seconds"] - before).clip(lower=0.0).cumsum().to_numpy()
    ended = ended.sort_values("ended", kind="stable").rename(columns={"chosen_by": "best"})
    done = ordered["time"].searchsorted(ended["ended"], side="right")  # epochs of all runs, when each was complete
    leads = ended["best"] > ended["best"].cummax().shift(fill_value=-1.0)
    leaders = ended.assign(spent=spent[done - 1])[leads]
    columns = ["threat", "run", "spent", "best", "robust", "robust_low", "robust_high"]
    return pd.concat([leaders, leaders.tail(1).assign(spent=spent[-1])]).loc[:, columns]


def anytime_figure(frame: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """The held-out accuracy of the leader as steps, and what each leader came to on the test images."""
    names = threats(runs.loc[runs["threat"].isin(frame["threat"])])
    figure, columns = panels(len(names))
    for threat, (axes,) in zip(names, columns, strict=True):
        part = frame.query("threat == @threat")
        axes.plot(part["spent"], part["best"], color="#0072b2", drawstyle="steps-post", lw=1.6)
        judged = part.drop_duplicates("run").dropna(subset=["robust"])
        bars = intervals(judged, "robust")
        axes.errorbar(judged["spent"], judged["robust"], bars, fmt="D", color="#d55e00", ms=4, lw=0.8, alpha=0.8)
        axes.set_title(threat)
        axes.set_xlabel("worker seconds of training, all runs")
        seconds_axis(axes)
        share_axis(axes)
    columns[0][0].set_ylabel("robust accuracy of the leader")
    handles = [Line2D([], [], color="#0072b2", label="held-out images, which decide who leads")]
    handles.append(Line2D([], [], color="#d55e00", marker="D", ls="", ms=4, label="test images, 95 % intervals"))
    below(figure, handles, 2)
    return figure
