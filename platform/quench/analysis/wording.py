"""Frames in words, for pages: numbers as people read them, and what they were measured on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

_MOST = 10
"""configurations of a threat model that a page lists"""


def held_out(runs: pd.DataFrame) -> str:
    """`150 held-out training images under pgd, 3 steps`."""
    attack = _some(runs["probe"])
    if "probe.steps" in runs:
        attack += f", {_some(runs['probe.steps'].dropna().astype(int))} steps"
    return f"{_some(runs['validation'].map('{:,}'.format))} held-out training images under the probe ({attack})"


def tested(runs: pd.DataFrame) -> str:
    """`450 test images under pgd-20-1`."""
    judged = runs.dropna(subset=["examples"])
    if judged.empty:
        return "the test images"
    return f"{_some(judged['examples'].astype(int).map('{:,}'.format))} test images under {_some(judged['judged_by'])}"


def _some(values: Iterable[object]) -> str:
    """Each different one, and an ellipsis if there are many."""
    different = list(dict.fromkeys(map(str, values)))
    return " or ".join(different if len(different) <= 3 else [*different[:3], "..."])


def percent(value: float) -> str:
    return "" if pd.isna(value) else f"{100 * value:.1f} %"


def ranged(row: dict[str, Any], name: str) -> str:
    """`82.7 % (82.2 - 83.3)`: the mean over the seeds and their range."""
    if pd.isna(row[name]):
        return ""
    low, high = row[f"{name}_min"], row[f"{name}_max"]
    return percent(row[name]) + (f" ({100 * low:.1f} - {100 * high:.1f})" if high > low else "")


def duration(hours: float) -> str:
    """`12.5 s`, `3.1 min`, `7.25 h`."""
    if pd.isna(hours):
        return ""
    seconds = 3600 * hours
    for unit, size in (("s", 120), ("min", 7200)):
        if seconds < size:
            return f"{seconds / (size / 120):.1f} {unit}"
    return f"{hours:,.2f} h"


def configurations_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Of many, those on the front and the most robust ones."""
    place = frame.groupby("threat")["robust"].rank(ascending=False, method="first")
    rows = frame.loc[frame["on_front"] | (place <= _MOST)].to_dict("records")
    return pd.DataFrame(
        {
            "threat model": row["threat"],
            "training": f"{row['configuration']}{' *' if row['on_front'] else ''}",
            "seeds": _seeds(row, "lost", "unreliable"),
            "train s": f"{row['train_seconds']:.2f}",
            "clean": percent(row["clean"]),
            "robust": ranged(row, "robust"),
            "behind": f"{100 * row['behind_best']:.1f}",
            "faster": f"{row['faster_than_best']:.1f}x",
        }
        for row in rows
    )


def confirmed_table(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "threat model": row["threat"],
            "training": row["configuration"],
            "found": percent(row["found"]),
            "again": percent(row["again"]),
            "seeds": _seeds(row, "lost", "unreliable"),
            "train s": f"{row['train_seconds']:.2f}",
            "clean": percent(row["clean"]),
            "robust": percent(row["robust"]),
            "95 %": f"{100 * row['robust_low']:.1f} - {100 * row['robust_high']:.1f}",
        }
        for row in frame.to_dict("records")
    )


def _seeds(row: dict[str, Any], *doubts: str) -> str:
    """`5, 1 lost`"""
    return ", ".join([str(row["seeds"]), *(f"{row[key]} {key}" for key in doubts if row[key])])


def cut(frame: pd.DataFrame) -> str:
    """What to say if `configurations_table` leaves some out."""
    left = len(frame) - len(configurations_table(frame))
    return f" The front and the {_MOST} most robust ones; {left} others are in configurations.csv." if left else ""


def leaderboard_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A line a time limit: who leads, and who is next."""
    rows: list[dict[str, str]] = []
    for _, part in frame.groupby(["threat", "seconds"], sort=False):
        first, *others = part.to_dict("records")
        rows.append(
            {
                "threat model": first["threat"],
                "within": f"{first['seconds']:g} s",
                "leads": first["configuration"],
                "seeds": _seeds(first, "lost"),
                "train s": f"{first['train_seconds']:.2f}",
                "robust, held out": ranged(first, "held_out"),
                "robust, test": ranged(first, "robust"),
                "next": next((f"{row['configuration']}, {percent(row['held_out'])}" for row in others), ""),
            }
        )
    return pd.DataFrame(rows)


def cost_table(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ended": row["status"].replace("_", " "),
            "runs": str(row["runs"]),
            "epochs": f"{row['epochs']:,}",
            "train time": duration(row["train_hours"]),
            "worker time": duration(row["worker_hours"]),
            "wall time": duration(row["wall_hours"]),
            "left of the budget": duration(row["unspent_hours"]),
        }
        for row in frame.to_dict("records")
    )


def runs_table(runs: pd.DataFrame) -> pd.DataFrame:
    """All of them, shortly."""
    return pd.DataFrame(
        {
            "run": row["folder"].partition("-")[0],
            "threat model": row["threat"],
            "training": row["configuration"],
            "seed": str(row["seed"]),
            "status": row["status"].replace("_", " "),
            "epochs": str(row["epochs"]),
            "train s": "" if pd.isna(row["train_seconds"]) else f"{row['train_seconds']:.2f}",
            "held out": percent(row["held_out"]),
            "clean": percent(row["clean"]),
            "robust": percent(row["robust"]),
            "95 %": "" if pd.isna(row["robust"]) else f"{100 * row['robust_low']:.1f} - {100 * row['robust_high']:.1f}",
            "doubts": row["unreliable"],
        }
        for row in runs.to_dict("records")
    )
