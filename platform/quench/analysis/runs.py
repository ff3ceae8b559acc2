"""The records of a sweep as data frames, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from quench.catalogue import name_of
from quench.config import flatten
from quench.record import Record


def run_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a run: what it was, how it ended, and its final evaluation on the test images.

    Columns: `run`, `threat`, `norm`, `epsilon`, `method`, `configuration` (method and
    whatever else the sweep varies), `seed`, `workers`, `status`, `lost` (to
    catastrophic overfitting), `epochs`, `train_seconds`, `gpu_seconds`,
    `alarms` and `rollbacks` of the overfitting guard, `unreliable` (the reliability flags of its evaluations, "" for
    none), `clean`, `robust`, each of these two with `_low` and
    `_high` (95 % Wilson interval), `examples`, `judged` (the checkpoint they are of), and every field of
    the recipe by its dotted key. Shares are in [0, 1]; not finished is NaN.
    """
    return pd.DataFrame([_run(record) for record in records])


def epoch_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a run and epoch: the run's identity, as in `run_frame`, and everything it reported."""
    rows = [{**_identity(record), **entry["metrics"]} for record in records for entry in record.entries("epoch")]
    return pd.DataFrame(rows)


def event_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row for each alarm of an overfitting guard: the run's identity, the epoch, and `overfitting.Event`'s
    fields, `signals` and `usual` as one column each signal (`signals.accuracy`)."""
    rows = [
        {**_identity(record), "epoch": entry["epoch"], **_flat(event)}
        for record in records
        for entry in record.entries("epoch")
        for event in entry.get("events", ())  # records of older versions have none
    ]
    return pd.DataFrame(
        rows,
        columns=None if rows else ["run", "threat", "configuration", "update", "train_seconds", "confirmed", "action"],
    )


def _flat(event: dict[str, Any]) -> dict[str, Any]:
    nested = {f"{name}.{key}": value for name in ("signals", "usual") for key, value in event[name].items()}
    return {key: value for key, value in event.items() if key not in ("signals", "usual")} | nested


def detections(epochs: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """One row a run: when it collapsed, as one knows afterwards, and when its guard noticed.

    Afterwards, a run has collapsed if it ends with less than half of its best robust accuracy on the held-out
    images; `onset` is the update at the end of the first epoch after which it stayed there, and NaN for a
    healthy run. `detected` is the update of the first confirmed alarm, `late` how many updates after the
    onset's epoch began, `cause` its signal; `false_alarms` counts those that were not confirmed. `bent` is the
    update at the end of the first epoch whose linearity was 0.2 below the run's highest.
    """
    return pd.DataFrame([_detection(str(run), part, events) for run, part in epochs.groupby("run", sort=False)])


def _detection(run: str, epochs: pd.DataFrame, events: pd.DataFrame) -> dict[str, Any]:
    healthy = epochs["robust_accuracy"] >= epochs["robust_accuracy"].cummax() / 2
    last = int(healthy.to_numpy().nonzero()[0][-1])
    row: dict[str, Any] = {"run": run, "configuration": epochs["configuration"].iloc[0], "onset": float("nan")}
    if last + 1 < len(epochs):
        row["onset"] = epochs["updates"].iloc[last + 1]
    if "linearity" in epochs:
        fell = epochs.loc[epochs["linearity"] < epochs["linearity"].cummax() - 0.2, "updates"]
        row["bent"] = fell.iloc[0] if len(fell) else float("nan")
    mine = events.loc[events["run"] == run].to_dict("records")
    confirmed = [event for event in mine if event["confirmed"]]
    row["false_alarms"] = len(mine) - len(confirmed)
    for event in confirmed[:1]:
        row |= {"detected": event["update"], "cause": event["cause"]}
        row["late"] = event["update"] - epochs["updates"].iloc[last] if row["onset"] == row["onset"] else float("nan")
    return row


def configurations(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a threat model and configuration, over its seeds, cheapest first.

    Columns: `threat`, `configuration`, `seeds`, how many of them were `lost` to catastrophic overfitting or are
    `unreliable` by a flag of their evaluation (and are in the means nevertheless), means of `train_seconds`,
    `clean` and `robust`, `robust_min`, `robust_max`; `on_front`: no configuration for this threat model is both
    faster and more robust; `behind_best` and `faster_than_best`: robust accuracy short of the most robust one's,
    and its train seconds over this one's.
    """
    finished = runs.dropna(subset=["robust"])
    frame = finished.groupby(["threat", "configuration"], sort=False).agg(
        norm=("norm", "first"),
        epsilon=("epsilon", "first"),
        seeds=("seed", "nunique"),
        lost=("lost", "sum"),
        unreliable=("unreliable", _count),
        train_seconds=("train_seconds", "mean"),
        clean=("clean", "mean"),
        robust=("robust", "mean"),
        robust_min=("robust", "min"),
        robust_max=("robust", "max"),
    )
    frame = frame.reset_index().sort_values(["norm", "epsilon", "train_seconds"], ignore_index=True)
    if frame.empty:
        return frame.assign(on_front=False, behind_best=0.0, faster_than_best=0.0)
    parts = [part.assign(**_against_best(part)) for _, part in frame.groupby("threat", sort=False)]
    return pd.concat(parts, ignore_index=True)


def _count(texts: pd.Series) -> int:
    return int((texts != "").sum())


def pareto_front(runs: pd.DataFrame) -> pd.Series:
    """Whether no other row has fewer `train_seconds` and at least the `robust` of this one; aligned with `runs`.

    Compare only rows of one threat model.
    """
    ordered = runs.sort_values(["train_seconds", "robust"], ascending=[True, False])
    best_so_far = ordered["robust"].cummax().shift(fill_value=-1.0)
    return (ordered["robust"] > best_so_far).reindex(runs.index)


def _against_best(part: pd.DataFrame) -> dict[str, pd.Series]:
    best = part.loc[part["robust"].idxmax()]
    return {
        "on_front": pareto_front(part),
        "behind_best": best["robust"] - part["robust"],
        "faster_than_best": best["train_seconds"] / part["train_seconds"],
    }


def _identity(record: Record) -> dict[str, Any]:
    recipe = record.recipe
    return {
        "run": record.name,
        "threat": str(recipe.threat),
        "norm": name_of(recipe.threat.norm),
        "epsilon": recipe.threat.epsilon,
        "method": name_of(recipe.method),
        "configuration": record.about["configuration"],
        "seed": recipe.seed,
        "workers": recipe.workers,
    }


def _doubts(record: Record) -> str:
    """The names of the reliability flags that any evaluation of the run has raised."""
    flags = [flag["name"] for entry in record.entries("evaluation") for flag in entry.get("flags", ())]
    return ", ".join(dict.fromkeys(flags))


def _run(record: Record) -> dict[str, Any]:
    status = record.status
    row = _identity(record) | {"status": status, "lost": status == "catastrophic_overfitting"}
    row |= {"epochs": 0, "alarms": 0, "rollbacks": 0, "unreliable": _doubts(record)}
    row |= {key: float("nan") for key in ("train_seconds", "gpu_seconds", "clean", "robust")}
    for entry in record.entries("epoch")[-1:]:
        row["epochs"] = entry["epoch"]
        row |= {key: entry["metrics"][key] for key in ("train_seconds", "gpu_seconds", "alarms", "rollbacks")}
    for entry in record.entries("evaluation"):
        if entry["final"]:
            row |= {"examples": entry["examples"], "judged": entry["checkpoint"]}
            for name in ("clean", "robust"):
                share = entry[name]
                row |= {name: share["value"], f"{name}_low": share["low"], f"{name}_high": share["high"]}
    return row | {key: value for key, value in flatten(record.recipe).items() if key not in row}
