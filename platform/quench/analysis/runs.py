"""The records of a sweep as data frames; everything else here is made from these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from quench.catalogue import name_of
from quench.config import flatten
from quench.journal import Entry
from quench.record import Record

_NOTHING = float("nan")
_JUDGED = ("clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high", "examples", "judged", "judged_by")
_Told = Sequence[tuple[dict[str, Any], list[Entry]]]
"""each run's identity, and its log"""


@dataclass(frozen=True)
class Frames:
    """What a sweep's records tell. Shares are in [0, 1], times are UTC; what there is not is NaN."""

    runs: pd.DataFrame
    """One row a run: what it was, how it ended, and its final evaluation on the test images.

    Columns: `run` (unique), `folder`, `threat`, `norm`, `epsilon`, `method`, `configuration` (method and whatever
    else the sweep varies), `seed`, `workers`, `phase` and `rung` (of an adaptive sweep), `status`, `lost` (to
    catastrophic overfitting), `machine`, `started`, `ended` (its last entry so far), `epochs`, `train_seconds`,
    `gpu_seconds`, `alarms` and `rollbacks` of the overfitting guard, `held_out` (robust accuracy on the held-out
    images: of the weights that are judged, or so far) and `selection` (the same under the attack that an adaptive
    sweep selects by),
    `unreliable` (the reliability flags of its evaluations, "" for none), `clean`, `robust`, each of these two with
    `_low` and `_high` (95 % Wilson interval), `examples`, `judged` (the checkpoint they are of), `judged_by` (the
    attack), and every field of the recipe by its dotted key.
    """
    epochs: pd.DataFrame
    """One row a run and epoch: the run's identity as above, `time`, and everything that the run reported."""
    events: pd.DataFrame
    """One row for each alarm of an overfitting guard: the run's identity, the epoch, and `overfitting.Event`'s
    fields, `signals` and `usual` as one column each signal (`signals.accuracy`)."""
    keys: tuple[str, ...]
    """what the sweep varies, by the recipe's dotted keys: see `swept`"""

    @staticmethod
    def of(records: Iterable[Record]) -> Frames:
        """Each log is read once."""
        known = list(records)
        told = list(zip(_identities(known), [record.read()[0] for record in known], strict=True))
        recipes = [flatten(record.recipe) for record in known]
        runs = [who | _outcome(log) for who, log in told]
        frame = pd.DataFrame([{**recipe, **run} for run, recipe in zip(runs, recipes, strict=True)])
        frame = frame.loc[:, list(dict.fromkeys(key for rows in (runs, recipes) for row in rows for key in row))]
        return Frames(frame, _epochs(told), _events(told), swept(frame, dict.fromkeys(k for r in recipes for k in r)))


def complete(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that a choice can be made among, with the held-out robust accuracy that it is made by as `chosen_by`.

    Those that came to their own end, be it by catastrophic overfitting: to leave these out would flatter what often
    collapses. Runs that only confirm what was chosen before are none of them.
    """
    measure = "selection" if runs["selection"].notna().any() else "held_out"
    ended = runs.query("status in ('finished', 'catastrophic_overfitting') and phase != 'confirmation'")
    return ended.assign(chosen_by=ended[measure]).dropna(subset=["chosen_by"])


def swept(runs: pd.DataFrame, keys: Iterable[str]) -> tuple[str, ...]:
    """Which of these keys differ between runs of one threat model, the seed and what only judges a run aside.

    A plug-in's own field counts only if it differs between runs of that plug-in: a choice of methods is one key,
    not one more for each field that one of them has and another has not.
    """
    aside = ("seed", "threat", "evaluation", "reliability")
    kept = [key for key in keys if key.partition(".")[0] not in aside]
    values = runs[["threat", *kept]].astype(str)

    def varies(key: str) -> bool:
        parent = key.rpartition(".")[0]
        alike = ["threat", parent] if parent in kept else ["threat"]
        return bool((values.groupby(alike)[key].nunique() > 1).any())

    return tuple(key for key in kept if varies(key))


def _identities(records: Sequence[Record]) -> list[dict[str, Any]]:
    names = Counter(record.name for record in records)
    return [_identity(record, unique=names[record.name] == 1) for record in records]


def _identity(record: Record, unique: bool) -> dict[str, Any]:
    recipe, folder = record.recipe, record.directory.name
    trial = record.about.get("trial") or {}  # adaptive sweeps say what a run was for
    return {
        "run": record.name if unique else f"{record.name} #{folder.partition('-')[0]}",
        "folder": folder,
        "threat": str(recipe.threat),
        "norm": name_of(recipe.threat.norm),
        "epsilon": recipe.threat.epsilon,
        "method": name_of(recipe.method),
        "configuration": record.about["configuration"],
        "seed": recipe.seed,
        "workers": recipe.workers,
        "phase": trial.get("phase", "search"),
        "rung": trial.get("rung", 0),
    }


def _outcome(log: Sequence[Entry]) -> dict[str, Any]:
    states = [entry for entry in log if entry["kind"] == "status"]
    status = states[-1]["status"] if states else "waiting"
    row = {"status": status, "lost": status == "catastrophic_overfitting", "machine": _machine(states)}
    times = [log[0]["time"], log[-1]["time"]] if log else [None, None]
    row |= dict(zip(("started", "ended"), pd.to_datetime(times, unit="ms", utc=True), strict=True))
    row |= {"epochs": 0, "alarms": 0, "rollbacks": 0, "unreliable": _doubts(log)}
    row |= dict.fromkeys(("train_seconds", "gpu_seconds", "held_out", "selection", *_JUDGED), _NOTHING)
    epochs = {entry["epoch"]: entry["metrics"] for entry in log if entry["kind"] == "epoch"}
    for epoch, metrics in [*epochs.items()][-1:]:
        row |= {key: metrics[key] for key in ("train_seconds", "gpu_seconds", "alarms", "rollbacks")}
        row |= {"epochs": epoch} | _held_out(metrics)
    for entry in log:
        if entry["kind"] == "evaluation" and entry["final"]:
            row |= _held_out(epochs[entry["epoch"]]) if entry["epoch"] in epochs else {}
            row |= {
                "examples": entry["examples"],
                "judged": entry["checkpoint"],
                "judged_by": entry["label"].partition(" ")[0],
            }
            for name in ("clean", "robust"):
                share = entry[name]
                row |= {name: share["value"], f"{name}_low": share["low"], f"{name}_high": share["high"]}
    return row


def _held_out(metrics: dict[str, Any]) -> dict[str, float]:
    return {"held_out": metrics["robust_accuracy"], "selection": metrics.get("selection_accuracy", _NOTHING)}


def _machine(states: Sequence[Entry]) -> str:
    """Whatever the run's seconds were measured on: `AMD EPYC, threads: 1`."""
    found = [entry["machine"] for entry in states if "machine" in entry]
    return "; ".join(dict.fromkeys(f"{machine['device']}, threads: {machine['threads']}" for machine in found))


def _doubts(log: Sequence[Entry]) -> str:
    """The names of the reliability flags that any evaluation of the run has raised."""
    flags = [flag["name"] for entry in log if entry["kind"] == "evaluation" for flag in entry.get("flags", ())]
    return ", ".join(dict.fromkeys(flags))


def _epochs(told: _Told) -> pd.DataFrame:
    rows = [
        who | {"time": entry["time"]} | entry["metrics"]
        for who, log in told
        for entry in log
        if entry["kind"] == "epoch"
    ]
    frame = pd.DataFrame(rows)
    return frame if frame.empty else frame.assign(time=pd.to_datetime(frame["time"], unit="ms", utc=True))


def _events(told: _Told) -> pd.DataFrame:
    rows = [
        who | {"epoch": entry["epoch"]} | _flat(event)
        for who, log in told
        for entry in log
        if entry["kind"] == "epoch"
        for event in entry.get("events", ())  # records of older versions have none
    ]
    needed = [
        "run",
        "threat",
        "configuration",
        "epoch",
        "update",
        "train_seconds",
        "robust_accuracy",
        "confirmed",
        "action",
    ]
    return pd.DataFrame(rows, columns=None if rows else needed)


def _flat(event: dict[str, Any]) -> dict[str, Any]:
    nested = {f"{name}.{key}": value for name in ("signals", "usual") for key, value in event[name].items()}
    return {key: value for key, value in event.items() if key not in ("signals", "usual")} | nested
