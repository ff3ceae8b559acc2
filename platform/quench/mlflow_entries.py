"""What the entries of a run's log are to MLflow: metrics, tags, inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from quench.catalogue import name_of
from quench.config import encode
from quench.journal import Entry
from quench.record import Record

PARTS = ("train", "validation", "test")
"""of the data: to train on, to watch the run by, to judge it by"""


def metrics_of(entries: Iterable[Entry]) -> list[Metric]:
    """Their numbers, each at its entry's time and epoch: the same however often they are asked for."""
    return [
        Metric(key, value, entry["time"], entry["epoch"])
        for entry in entries
        if entry["kind"] in ("epoch", "evaluation", "change")
        for key, value in _numbers(entry)
    ]


def _numbers(entry: Entry) -> Iterator[tuple[str, float]]:
    """An epoch's are all at one step, so that any can be drawn against any other."""
    if entry["kind"] == "epoch":
        yield from entry["metrics"].items()
        yield from ((f"system/{key}", value) for key, value in entry.get("system", {}).items())
        return
    if entry["kind"] == "change":  # MLflow's parameters are what the run began with
        yield from ((key, value) for key, value in entry["to"].items() if isinstance(value, (int, float)))
        return
    robust = "test_robust_accuracy" if entry["final"] else f"test_robust_accuracy/{entry['label']}"
    shares = {"test_clean_accuracy": entry["clean"], robust: entry["robust"]}
    stages = {key: share for key, share in entry.get("under", {}).items() if "/" in key}
    shares |= {f"test_robust_accuracy/{entry['label']}/{key}": share for key, share in stages.items()}
    for name, share in shares.items():
        yield from ((name if part == "value" else f"{name}_{part}", value) for part, value in share.items())


def tags_of(entries: Iterable[Entry]) -> dict[str, str]:
    """How the run stands and on what machine, every alarm of its guard, every number that its sweep has changed while
    it ran, and every reason not to trust an evaluation."""
    tags: dict[str, str] = {}
    for entry in entries:
        if entry["kind"] == "status":
            tags |= {"status": entry["status"], "reason": entry.get("reason", "")}
            tags |= {f"machine.{key}": str(value) for key, value in entry.get("machine", {}).items()}
        if entry["kind"] == "change":
            tags[f"quench.change.epoch_{entry['epoch']}"] = json.dumps({"to": entry["to"], "of": entry["of"]})
        for event in entry.get("events", ()):
            tags[f"quench.overfitting.update_{event['update']}"] = json.dumps(event)
        if entry.get("flags"):
            tags[f"quench.unreliable.{entry['label']}"] = "; ".join(flag["reason"] for flag in entry["flags"])
    return tags


@dataclass(frozen=True)
class Inputs:
    """The images that an attempt at a run was made on, by the digests in its log."""

    record: Record
    data: Entry
    """`Data.about` of what was loaded"""

    def datasets(self) -> list[DatasetInput]:
        return [DatasetInput(self._dataset(part), [InputTag(MLFLOW_DATASET_CONTEXT, part)]) for part in PARTS]

    def _dataset(self, part: str) -> Dataset:
        about, source = self.data[part], encode(self.record.recipe.data)
        classes, shape = len(self.data["classes"]), self.data["shape"]
        return Dataset(
            name=name_of(self.record.recipe.data),
            digest=about["digest"],
            source_type="quench",
            source=json.dumps(source),
            profile=json.dumps({"images": about["examples"], "classes": classes, "shape": shape}),
        )


def inputs_of(record: Record, entries: Iterable[Entry]) -> Inputs | None:
    """Of the latest attempt among the entries; those of earlier versions do not say."""
    found = [entry["data"] for entry in entries if "data" in entry]
    return Inputs(record, found[-1]) if found else None
