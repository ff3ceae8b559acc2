"""What became of a sweep's finalists on seeds that they were not chosen by."""

from __future__ import annotations

import pandas as pd


def confirmed_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a configuration that was confirmed, those of a threat model together, the best first.

    Columns: `threat`, `configuration`, `seeds`, how many of the fresh runs were `lost` or are `unreliable`; `found` and
    `again`, by which the rows are ordered: robust accuracy on held-out images under the sweep's selection, when it was
    chosen and on fresh seeds, lost runs counting as 0; and on the test images, of the fresh seeds, means of
    `train_seconds`, `clean`, `robust`, `robust_low` and `robust_high`. Empty if nothing was confirmed.
    """
    counted = runs.assign(selection=runs["selection"].where(~runs["lost"], 0.0), doubted=runs["unreliable"] != "")
    fresh = counted.query("phase == 'confirmation'").dropna(subset=["robust"])
    fresh = fresh.assign(configuration=fresh["configuration"].str.removesuffix(" confirmed"))
    columns = {name: (name, "mean") for name in ("train_seconds", "clean", "robust", "robust_low", "robust_high")}
    table = fresh.groupby(["threat", "configuration"]).agg(
        seeds=("seed", "nunique"),
        lost=("lost", "sum"),
        unreliable=("doubted", "sum"),
        again=("selection", "mean"),
        **columns,  # pyright: ignore[reportArgumentType] - pandas takes pairs
    )
    chosen = searched(counted).groupby(["threat", "configuration"]).agg(found=("selection", "mean"))
    table = table.join(chosen).reset_index()
    return table.sort_values(["threat", "again"], ascending=[True, False], ignore_index=True)


def searched(runs: pd.DataFrame) -> pd.DataFrame:
    """All other runs."""
    return runs.query("phase != 'confirmation'")
