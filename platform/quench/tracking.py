"""MLflow as a projection of the runs' logs: the only module that writes it.

A sweep is a parent run, each trial a child; both are found again by the tag `quench.id`. MLflow
keeps one point for an identical (key, step, time, value), and these come from the log: writing a
log twice changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The log waits for a server that is away; a thread that waits with it would only hold up the exit.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with a password, if there is one in it

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from quench.catalogue import name_of
from quench.config import flatten
from quench.journal import Entry
from quench.mlflow_view import view_tag
from quench.record import Record, Status
from quench.storage import SweepRecord

_STATUS: dict[Status, str] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
    "catastrophic_overfitting": "FAILED",
    "failed": "FAILED",
}


def default_uri(storage: Path) -> str:
    """`MLFLOW_TRACKING_URI` if it is set, else a SQLite file in the storage folder: no server needed."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.resolve() / 'mlflow.db'}"


def experiments(uri: str) -> list[Experiment]:
    """The experiments recorded there. Raises what MLflow raises, unless it answers."""
    _make_database(uri)
    return list(MlflowClient(tracking_uri=uri).search_experiments())


class Tracker:
    """One MLflow experiment: the sweeps and runs of one experiment file."""

    def __init__(self, uri: str, storage: Path, experiment: str) -> None:
        _make_database(uri)
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        # A server has its own artifact store; with a bare database it is a folder of ours.
        place = None if uri.startswith("http") else (storage.resolve() / "artifacts" / experiment).as_uri()
        self.experiment_id: str = found.experiment_id if found else self._client.create_experiment(experiment, place)
        if not found:
            self._preset(view_tag())
        self._runs: dict[str, str] = {}

    def begin_sweep(self, sweep: SweepRecord) -> None:
        """Find or make the parent run; to be called before the sweep's trials are handed in."""
        about = sweep.about
        self._preset(view_tag(record.recipe for record in sweep.records))
        params = {key: json.dumps(value)[:6000] for key, value in about.items()}
        self._open(about["id"], sweep.name, about["created"], params, {"quench.kind": "sweep"})

    def end_sweep(self, sweep: SweepRecord, status: Status, files: Sequence[Path]) -> None:
        """Log the report on the whole sweep, into a folder named as theirs, and its end."""
        self._preset(view_tag(record.recipe for record in sweep.records))  # an adaptive sweep has few at its beginning
        run = self._runs[sweep.about["id"]]
        for file in files:
            self._client.log_artifact(run, str(file), file.parent.name)
        self._client.set_terminated(run, _STATUS[status])

    def __call__(self, record: Record, entries: list[Entry]) -> None:
        """A sink for a follower: bring MLflow up to these entries."""
        run = self._run(record, entries[0]["time"])
        metrics = [metric for entry in entries for metric in _metrics(entry)]
        if metrics:
            self._client.log_batch(run, metrics=metrics)
        events = {
            f"quench.overfitting.update_{event['update']}": json.dumps(event)[:5000]
            for entry in entries
            for event in entry.get("events", ())
        }
        if events:
            self._client.log_batch(run, tags=[RunTag(key, value) for key, value in events.items()])
        doubts = {
            f"quench.unreliable.{entry['label']}": "; ".join(flag["reason"] for flag in entry["flags"])[:5000]
            for entry in entries
            if entry.get("flags")
        }
        if doubts:
            self._client.log_batch(run, tags=[RunTag(key, value) for key, value in doubts.items()])
        for entry in entries:
            if entry["kind"] == "status":
                self._set_status(record, run, entry)

    def attach(self, record: Record, files: Sequence[Path], folder: str) -> None:
        """Log files made of a run that this tracker has seen, into a folder of its artifacts."""
        for file in files:
            self._client.log_artifact(self._runs[record.about["id"]], str(file), folder)

    def _preset(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_experiment_tag(self.experiment_id, key, value)

    def _run(self, record: Record, started: int) -> str:
        about = record.about
        if about["id"] not in self._runs:
            recipe = record.recipe
            tags = {
                "quench.kind": "run",
                "dataset": name_of(recipe.data),
                "method": name_of(recipe.method),
                "norm": name_of(recipe.threat.norm),
                "epsilon": f"{recipe.threat.epsilon:.4g}",
                "commit": str(about["commit"]),
            }
            if about["sweep"]:
                tags[MLFLOW_PARENT_RUN_ID] = self._runs[about["sweep"]]
            params = {key: str(value) for key, value in flatten(recipe).items()}
            run = self._open(about["id"], record.name, started, params, tags)
            self._client.log_artifact(run, str(record.directory / "recipe.json"))
        return self._runs[about["id"]]

    def _open(self, key: str, name: str, started: int, params: dict[str, str], tags: dict[str, str]) -> str:
        """Find the run of this key, or create it."""
        found = self._client.search_runs([self.experiment_id], f"tags.`quench.id` = '{key}'", max_results=1)
        if found:
            run = found[0].info.run_id
        else:
            tags = {"quench.id": key, **tags}
            run = self._client.create_run(self.experiment_id, started, tags, name).info.run_id
        self._client.log_batch(run, params=[Param(k, v) for k, v in params.items()])
        self._runs[key] = run
        return run

    def _set_status(self, record: Record, run: str, entry: Entry) -> None:
        status = entry["status"]
        tags = {"quench.status": status, "quench.reason": entry.get("reason", "")}
        tags |= {f"machine.{key}": str(value) for key, value in entry.get("machine", {}).items()}
        self._client.log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])
        if status not in _STATUS:
            self._client.update_run(run, status="RUNNING")
            return
        if (record.directory / "best.pt").exists():
            self._client.log_artifact(run, str(record.directory / "best.pt"), "checkpoint")
        self._client.set_terminated(run, _STATUS[status], entry["time"])


def _make_database(uri: str) -> None:
    """Make a SQLite database that is not there yet, whole: one whose making is cut off MLflow could never use."""
    kind, _, place = uri.partition(":///")
    path = Path(place)
    if kind != "sqlite" or "?" in place or path.exists():
        return
    with TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
        aside = Path(folder) / path.name
        MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments(max_results=1)
        with suppress(FileExistsError):  # another was quicker
            os.link(aside, path)


def _metrics(entry: Entry) -> list[Metric]:
    """An entry's numbers, at its epoch: all at one step, so that any can be drawn against any other."""
    time = entry["time"]
    if entry["kind"] == "epoch":
        return [Metric(key, value, time, entry["epoch"]) for key, value in entry["metrics"].items()]
    if entry["kind"] == "evaluation":
        robust = "test_robust_accuracy" if entry["final"] else f"test_robust_accuracy/{entry['label']}"
        shares = {"test_clean_accuracy": entry["clean"], robust: entry["robust"]}
        stages = {key: share for key, share in entry.get("under", {}).items() if "/" in key}
        shares |= {f"test_robust_accuracy/{entry['label']}/{key}": share for key, share in stages.items()}
        return [
            Metric(name if part == "value" else f"{name}_{part}", value, time, entry["epoch"])
            for name, share in shares.items()
            for part, value in share.items()
        ]
    return []
