"""A sweep's report as one HTML file that needs nothing else: to read in a browser, to print, to send."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from quench.analysis import wording
from quench.analysis.runs import Frames
from quench.analysis.sections import Missing, Section
from quench.storage import SweepRecord


def page(sweep: SweepRecord, frames: Frames, views: Sequence[Section | Missing], figures: Path) -> str:
    """The page, with the figures of these views as the SVG files in the folder `figures`. Every value is escaped."""
    environment = Environment(
        loader=PackageLoader("quench.analysis", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        sweep=sweep.name,
        facts=facts(sweep, frames),
        sections=[view for view in views if isinstance(view, Section)],
        pictures={path.stem: _picture(path) for path in figures.glob("*.svg")},
        missing=[view for view in views if isinstance(view, Missing)],
        runs=wording.runs_table(frames.runs),
        columns=_columns,
    )


def facts(sweep: SweepRecord, frames: Frames) -> dict[str, str]:
    """What, when, by which code, on which machine."""
    about, runs = sweep.about, frames.runs
    states = ", ".join(
        f"{count} {str(status).replace('_', ' ')}" for status, count in runs["status"].value_counts().items()
    )
    times = runs["started"].min(), runs["ended"].max()
    when = "not yet" if pd.isna(times[0]) else " to ".join(f"{time:%Y-%m-%d %H:%M}" for time in times) + " UTC"
    found = {
        "experiment": about.get("file", about["experiment"]),
        "runs": f"{len(runs)}: {states}",
        "when": when,
        "machine": "; ".join(dict.fromkeys(text for text in runs["machine"] if text)),
        "commit": about["commit"] or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version),
        "search": ", ".join(f"{key} {about[key]}" for key in ("search", "scheduler", "seed") if key in about),
        "space": about.get("space", ""),
        "overrides": ", ".join(f"--{key} {value}" for key, value in about.get("overrides", {}).items()),
    }
    return {key: text for key, text in found.items() if text}


def _picture(path: Path) -> str:
    """As an address that holds the picture itself. As an image it can neither run scripts nor clash with others."""
    return f"data:image/svg+xml;base64,{b64encode(path.read_bytes()).decode()}"


def _columns(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Each heading, and whether the column holds words or numbers."""
    return [(str(name), "words" if table[name].str.contains(r"^[^\d\W]").any() else "numbers") for name in table]
