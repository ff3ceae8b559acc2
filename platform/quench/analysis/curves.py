"""Robust accuracy over epsilon: the frame, the figure, the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from quench.catalogue import name_of
from quench.evaluation import RobustnessReport


def curve_frame(curves: Mapping[str, Sequence[RobustnessReport]]) -> pd.DataFrame:
    """One row a run and epsilon, the clean accuracy at 0 among them.

    Columns: `run`, `norm`, `epsilon` (pixel units), `threat`, `examples`, `robust` with `robust_low` and
    `robust_high` (95 % Wilson interval), shares in [0, 1].
    """
    rows = [
        {
            "run": run,
            "norm": name_of(report.threat.norm),
            "epsilon": epsilon,
            "threat": threat,
            "examples": report.n,
            "robust": share.value,
            "robust_low": share.low,
            "robust_high": share.high,
        }
        for run, reports in curves.items()
        for epsilon, threat, report, share in [
            (0.0, "clean", reports[0], reports[0].clean),
            *((r.threat.epsilon, str(r.threat), r, r.robust) for r in reports),
        ]
    ]
    return pd.DataFrame(rows)


def robustness_curve(frame: pd.DataFrame) -> Figure:
    """A line a run, with its 95 % intervals as a band."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for run, part in frame.groupby("run", sort=False):
        (line,) = axes.plot(part["epsilon"], part["robust"], "o-", ms=4, label=str(run))
        axes.fill_between(part["epsilon"], part["robust_low"], part["robust_high"], color=line.get_color(), alpha=0.15)
    axes.set_xlabel(f"epsilon ({frame['norm'].iloc[0]}, pixels in [0, 1])")
    axes.set_ylabel("robust accuracy\n(test images, 95 % intervals)")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def write_curves(frame: pd.DataFrame, directory: Path) -> list[Path]:
    """`robustness_curve.png` and `robustness_curve.csv` in a new folder."""
    directory.mkdir(parents=True)
    figure, table = directory / "robustness_curve.png", directory / "robustness_curve.csv"
    robustness_curve(frame).savefig(figure, dpi=150)
    frame.to_csv(table, index=False)
    return [figure, table]
