"""Everything that a sweep comes to, as files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from quench.analysis.plots import time_vs_robustness
from quench.analysis.runs import configurations, detections, epoch_frame, event_frame, run_frame
from quench.storage import SweepRecord


def write_report(sweep: SweepRecord) -> tuple[pd.DataFrame, list[Path]]:
    """The frame of `configurations`, and the files written into the sweep's folder, the figure first.

    The files are `time_vs_robustness.png`, `configurations.csv`, `runs.csv`, `epochs.csv` and, if an
    overfitting guard gave alarms, `events.csv` and `detections.csv`.
    Without a finished epoch there are none.
    """
    runs, epochs = run_frame(sweep.records), epoch_frame(sweep.records)
    table, events = configurations(runs), event_frame(sweep.records)
    if epochs.empty:
        return table, []
    figure = sweep.directory / "time_vs_robustness.png"
    time_vs_robustness(runs, epochs, events).savefig(figure, dpi=150)
    files = [figure]
    frames = {"configurations": table, "runs": runs, "epochs": epochs}
    frames |= {} if events.empty else {"events": events, "detections": detections(epochs, events)}
    for name, frame in frames.items():
        files.append(sweep.directory / f"{name}.csv")
        frame.to_csv(files[-1], index=False)
    return table, files
