"""Everything that a sweep comes to, as files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from quench.analysis.plots import time_vs_robustness
from quench.analysis.runs import configurations, detections, epoch_frame, event_frame, run_frame
from quench.analysis.scaling import scaling_figure, scaling_frame
from quench.storage import SweepRecord


def write_report(sweep: SweepRecord) -> tuple[dict[str, pd.DataFrame], list[Path]]:
    """The frames by name, and the files written into the sweep's folder, the figure first.

    The files are `time_vs_robustness.png`, `configurations.csv`, `runs.csv`, `epochs.csv`, if an
    overfitting guard gave alarms `events.csv` and `detections.csv`, and of `quench scaling` `scaling.png` and
    `scaling.csv`. Without a finished epoch there are none.
    """
    runs, epochs = run_frame(sweep.records), epoch_frame(sweep.records)
    table, events = configurations(runs), event_frame(sweep.records)
    if epochs.empty:
        return {"configurations": table}, []
    figure = sweep.directory / "time_vs_robustness.png"
    time_vs_robustness(runs, epochs, events).savefig(figure, dpi=150)
    files = [figure]
    frames = {"configurations": table, "runs": runs, "epochs": epochs}
    frames |= {} if events.empty else {"events": events, "detections": detections(epochs, events)}
    if sweep.about.get("scaling") and not (scaling := scaling_frame(runs)).empty:
        files.insert(0, sweep.directory / "scaling.png")
        scaling_figure(scaling).savefig(files[0], dpi=150)
        frames["scaling"] = scaling
    for name, frame in frames.items():
        files.append(sweep.directory / f"{name}.csv")
        frame.to_csv(files[-1], index=False)
    return frames, files
