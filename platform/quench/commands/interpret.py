"""`quench interpret`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from quench.carry_out import print_places
from quench.config import override
from quench.console import terminal
from quench.errors import require
from quench.follow import Follower
from quench.projection import attaching
from quench.record import Record
from quench.storage import SweepRecord, find, new_directory

if TYPE_CHECKING:
    import pandas as pd


def interpret(arguments: Namespace, changes: dict[str, Any]) -> int:
    """What runs have learnt to look at, side by side on the same images: pictures, numbers and paired tests."""
    from quench.analysis.features import interpret as look
    from quench.interpretation.views import Interpretation

    how = override(Interpretation(), changes)
    records = list(dict.fromkeys(run for name in arguments.runs for run in _trained(find(arguments.storage, name))))
    features = look(records, how, arguments.checkpoint)
    files = features.write(new_directory(arguments.storage, "interpretation"))
    console = terminal()
    console.print(features_table(features.summary, features.paired))
    for file in files:
        console.print(str(file), soft_wrap=True, highlight=False)
    followers = {"MLflow": Follower(records, attaching(arguments, records, files))}
    followers["MLflow"].pump()
    print_places(console, arguments, followers, records[0].directory)
    return 0


def _trained(found: Record | SweepRecord) -> list[Record]:
    """The run, or those of a sweep that came to their end, lost ones among them."""
    if isinstance(found, Record):
        return [found]
    ended = [record for record in found.records if record.status in ("finished", "catastrophic_overfitting")]
    require(bool(ended), "run or sweep", found.name, "none of its runs has finished")
    return ended


def features_table(summary: pd.DataFrame, paired: pd.DataFrame) -> Table:
    """`analysis.paired`'s two frames for people: each number of each model, and against the first model."""
    reference, others = summary["model"].iloc[0], not paired.empty
    columns = [
        "",
        "model",
        "mean",
        *([f"less {reference}'s", "p"] if others else []),
        *(["kept"] if "kept" in paired else []),
    ]
    table = Table(
        *columns,
        title=f"Means and paired differences over {summary['images'].max()} test images, with 95 % intervals",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    differences = {(row["metric"], row["model"]): row for row in paired.to_dict("records")}
    for metric, models in summary.groupby("metric", sort=False):
        for place, row in enumerate(models.to_dict("records")):
            cells = [str(metric).replace("_", " ") if place == 0 else "", str(row["model"])]
            cells.append(_with_interval(row["mean"], row["low"], row["high"], ".3f"))
            other = differences.get((metric, row["model"]))
            if other is not None:
                cells.append(_with_interval(other["difference"], other["low"], other["high"], "+.3f"))
                cells.append(f"{other['p_holm']:.2g}" if other["p_holm"] >= 1e-4 else "<1e-4")
                if other.get("kept", float("nan")) == other.get("kept"):
                    cells.append(_with_interval(other["kept"], other["kept_low"], other["kept_high"], ".0%"))
            table.add_row(*cells)
        table.add_section()
    caption = (
        "p: paired t-test over images, after Holm for all rows; of these weights, not of other seeds'" if others else ""
    )
    kept = f"\nkept: of what sets {reference} apart from standard training" if "kept" in paired else ""
    table.caption = caption + kept
    table.caption_justify = "left"
    return table


def _with_interval(value: float, low: float, high: float, style: str) -> str:
    return f"{value:{style}} [{low:{style}}, {high:{style}}]"
