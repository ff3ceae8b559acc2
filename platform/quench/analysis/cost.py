"""What a sweep has cost, and what ending runs early has saved."""

from __future__ import annotations

from typing import cast

import pandas as pd


def cost_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each status that runs have ended in, and `all`.

    Columns: `status`, `runs`, `epochs`, `train_hours` (the train clock, summed over the runs), `worker_hours` (times
    the workers of each), `wall_hours` (from a run's first entry to its last, pauses and evaluation included, summed)
    and `unspent_hours`: worker hours of the budget that were left when the run ended, a budget in epochs at the run's
    own seconds for each. Frame of `runs.Frames`.
    """
    workers = runs["gpu_seconds"] / runs["train_seconds"]
    each = pd.DataFrame(
        {
            "status": runs["status"],
            "runs": 1,
            "epochs": runs["epochs"],
            "train_hours": runs["train_seconds"] / 3600,
            "worker_hours": runs["gpu_seconds"] / 3600,
            "wall_hours": (runs["ended"] - runs["started"]).dt.total_seconds() / 3600,
            "unspent_hours": _unspent_seconds(runs) * workers / 3600,
        }
    )
    twice = pd.concat([each, each.assign(status="all")])
    return cast("pd.DataFrame", twice.groupby("status", as_index=False, sort=False).sum())


def _unspent_seconds(runs: pd.DataFrame) -> pd.Series:
    """On the train clock; NaN for runs that have not finished an epoch."""
    columns = runs.reindex(columns=["budget.epochs", "budget.seconds"]).astype(float)
    a_pass = runs["train_seconds"] / runs["epochs"].replace(0, float("nan"))
    left = (columns["budget.epochs"] - runs["epochs"]) * a_pass
    return left.fillna(columns["budget.seconds"] - runs["train_seconds"]).clip(lower=0.0)
