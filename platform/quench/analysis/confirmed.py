"""What became of a sweep's finalists on seeds that they were not chosen by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from quench.analysis.runs import run_frame
from quench.campaign import outcome
from quench.record import Record


def confirmed_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a configuration that was confirmed, those of a threat model together, the best first.

    Columns: `threat`, `configuration`, `seeds`; on held-out images, under the recipe's selection, what it was chosen by
    and what it came to on fresh seeds, `found` and `again`, by which the rows are ordered; and on the test images, of
    the fresh seeds, means of `clean`, `robust`, `robust_low`, `robust_high` and `train_seconds`, and `unreliable`, how
    many of them a flag of their evaluation doubts. Empty if nothing was confirmed.
    """
    ended = [record for record in records if not record.unfinished and record.about.get("trial")]
    rows = [_row(record) for record in ended]
    if not any(row["phase"] == "confirmation" for row in rows):
        return pd.DataFrame()
    frame = pd.concat([pd.DataFrame(rows), _results(ended)], axis=1)
    top = frame["rung"].max()
    chosen = frame[(frame["phase"] != "confirmation") & (frame["rung"] == top)]
    found = chosen.groupby(["threat", "candidate"])["selection"].mean().rename("found")
    again = frame[frame["phase"] == "confirmation"].groupby(["threat", "candidate"])
    columns = {name: (name, "mean") for name in ("clean", "robust", "robust_low", "robust_high", "train_seconds")}
    table = again.agg(
        configuration=("configuration", "first"),
        seeds=("seed", "nunique"),
        again=("selection", "mean"),
        unreliable=("doubted", "sum"),
        **columns,  # pyright: ignore[reportArgumentType] - pandas takes pairs
    )
    table = table.join(found).reset_index()
    return table.sort_values(["threat", "again"], ascending=[True, False], ignore_index=True)


def _row(record: Record) -> dict[str, Any]:
    about = record.about["trial"]
    return {key: about[key] for key in ("phase", "rung", "candidate")} | {"selection": outcome(record).selection}


def _results(records: list[Record]) -> pd.DataFrame:
    runs = run_frame(records)
    names = runs["configuration"].str.removesuffix(" confirmed")
    kept = ["threat", "seed", "clean", "robust", "robust_low", "robust_high", "train_seconds"]
    return runs[kept].assign(configuration=names, doubted=runs["unreliable"] != "")
