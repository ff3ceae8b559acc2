"""Who leads if there are so many seconds for a run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from quench.analysis.runs import complete

_LATE = 1.05
"""a run may be this much late: a budget in seconds ends with the update that it falls into"""


def leaderboard(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a threat model, time limit and place (the first three), of the configurations complete by then.

    A run counts from the train second at which it was complete: in the middle of its schedule it is no model that
    one would use. Places are by robust accuracy on the held-out images, under the attack that an adaptive sweep
    selects by if there is one. Columns: `threat`, `seconds` (1, 2 or 5 times a power of ten), `place`,
    `configuration`, `seeds`, how many of them were `lost`, and means over the seeds: `train_seconds`, `held_out` with
    `_min` and `_max`, and `robust` (test images) with `_min` and `_max`. Frame of `runs.Frames`.
    """
    ended = complete(runs)
    table = ended.groupby(["threat", "configuration"], as_index=False, sort=False).agg(
        norm=("norm", "first"),
        epsilon=("epsilon", "first"),
        seeds=("seed", "nunique"),
        lost=("lost", "sum"),
        train_seconds=("train_seconds", "mean"),
        held_out=("chosen_by", "mean"),
        held_out_min=("chosen_by", "min"),
        held_out_max=("chosen_by", "max"),
        robust=("robust", "mean"),
        robust_min=("robust", "min"),
        robust_max=("robust", "max"),
    )
    parts = [
        part.loc[part["train_seconds"] <= _LATE * limit].head(3).assign(seconds=limit)
        for _, part in table.sort_values(["norm", "epsilon", "held_out"], ascending=[True, True, False]).groupby(
            "threat", sort=False
        )
        for limit in limits(part["train_seconds"].min(), part["train_seconds"].max())
    ]
    if not parts:
        return pd.DataFrame()
    frame = pd.concat(parts, ignore_index=True).drop(columns=["norm", "epsilon"])
    frame.insert(1, "place", frame.groupby(["threat", "seconds"]).cumcount() + 1)
    frame.insert(1, "seconds", frame.pop("seconds"))
    return frame


def limits(fastest: float, slowest: float) -> list[float]:
    """1, 2 and 5 times powers of ten: from the first that the fastest run keeps to the first that all keep."""
    decades = range(int(np.floor(np.log10(fastest))) - 1, int(np.ceil(np.log10(slowest))) + 1)
    grid = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    kept = [limit for limit in grid if fastest <= _LATE * limit]
    return kept[: 1 + sum(_LATE * limit < slowest for limit in kept)]
