"""Everything that a sweep comes to, as files: one page to read and to send, its figures, and its frames."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from quench.analysis.overfitting import detections
from quench.analysis.page import page
from quench.analysis.runs import Frames
from quench.analysis.sections import Section, sections
from quench.storage import SweepRecord

_SVG: dict[Any, Any] = {"svg.hashsalt": "quench"}
"""the same figure, the same bytes"""
_MOST = 20_000
"""rows that are written as CSV too; the epochs of a thousand runs would be 50 MB"""


def write_report(sweep: SweepRecord) -> tuple[dict[str, pd.DataFrame], list[Path]]:
    """The frames by name, and the files written into the sweep's folder `report`, the page first.

    The files are `report.html`, each figure as PNG and SVG, each frame as Parquet and, up to `_MOST` rows,
    as CSV.
    """
    directory = sweep.directory / "report"
    frames = Frames.of(sweep.records)
    views = sections(frames, bool(sweep.about.get("scaling")))
    shutil.rmtree(directory, ignore_errors=True)  # an older report may have had other views
    directory.mkdir()
    files = [directory / "report.html"]
    for view in views:
        if isinstance(view, Section) and view.figure:
            files += _drawn(view.figure, directory / view.name)
    files[0].write_text(page(sweep, frames, views, directory), encoding="utf-8")
    tables = {view.name: view.frame for view in views if isinstance(view, Section) and view.frame is not None}
    tables |= {"runs": frames.runs, "epochs": frames.epochs}
    tables |= {} if frames.events.empty else {"events": frames.events}
    tables |= {} if frames.events.empty else {"detections": detections(frames.epochs, frames.events)}
    for name, table in tables.items():
        files += _tabled(table, directory / name)
    return tables, files


def _drawn(figure: Figure, path: Path) -> list[Path]:
    files = [path.with_suffix(".png"), path.with_suffix(".svg")]
    figure.savefig(files[0], dpi=150)
    with matplotlib.rc_context(_SVG):
        figure.savefig(files[1], dpi=150, metadata={"Date": None})
    return files


def _tabled(table: pd.DataFrame, path: Path) -> list[Path]:
    """Parquet has one type a column: what has several (a recipe's lists, names and numbers) is text in it."""
    files = [path.with_suffix(".parquet")]
    mixed = [str(name) for name in table if table[name].dtype == object]
    plain = table.assign(**{name: table[name].map(str, na_action="ignore") for name in mixed})
    plain.to_parquet(files[0], index=False)
    if len(table) <= _MOST:
        files.append(path.with_suffix(".csv"))
        table.to_csv(files[1], index=False)
    return files
