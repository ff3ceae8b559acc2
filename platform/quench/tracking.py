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
from typing import TYPE_CHECKING

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The log waits for a server that is away; a thread that waits with it would only hold up the exit.
# What is asked twice may be made twice, if the first answer was lost; the log is gone through again instead.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with a password, if there is one in it

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from quench.catalogue import name_of
from quench.config import flatten
from quench.journal import Entry
from quench.mlflow_entries import inputs_of, metrics_of, tags_of
from quench.mlflow_view import view_tag
from quench.notes import run_note, sweep_note
from quench.record import Record
from quench.registry import Registry, most_robust
from quench.standing import Status
from quench.storage import SweepRecord

if TYPE_CHECKING:
    import pandas as pd

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
        self._registry = Registry(self._client, self.experiment_id)
        self._runs: dict[str, str] = {}
        self._states: dict[str, str] = {}
        """MLflow's status of each of these runs"""
        self._made: set[str] = set()
        """what this tracker has begun to make, and so knows that nobody had before"""
        self._introduced: set[str] = set()
        """runs that MLflow knows all about but what their logs say"""

    def begin_sweep(self, sweep: SweepRecord, status: Status) -> None:
        """Find or make the parent run; to be called before the sweep's trials are handed in."""
        about = sweep.about
        self._preset(view_tag(record.recipe for record in sweep.records))
        run = self._open(about["id"], sweep.name, about["created"], {}, known=True)
        tags = {"quench.kind": "sweep", "quench.record": str(sweep.directory), "commit": str(about["commit"])}
        self._log(run, [], {key: json.dumps(value) for key, value in about.items()}, {**tags, "status": status})
        self._end(run, status, sweep.last_word)

    def end_sweep(self, sweep: SweepRecord, table: pd.DataFrame | None, files: Sequence[Path]) -> None:
        """Log the figures and tables of the whole sweep, how it stands, and its most robust models."""
        self._preset(view_tag(record.recipe for record in sweep.records))  # an adaptive sweep has few at its beginning
        run = self._runs[sweep.about["id"]]
        for file in files:
            self._client.log_artifact(run, str(file), file.parent.name)
        self._end(run, sweep.status, sweep.last_word)
        chosen = most_robust(sweep.records)
        models = [self._registry.register(record, self._run(record), among) for record, among in chosen.items()]
        self._log(run, [], {}, {"status": sweep.status, MLFLOW_RUN_NOTE: sweep_note(table, models)})

    def __call__(self, record: Record, entries: list[Entry]) -> None:
        """A sink for a follower: bring MLflow up to these entries, in as few requests as it takes."""
        about, tags, params = record.about, tags_of(entries), dict[str, str]()
        new = about["id"] not in self._introduced
        if new:
            tags = _standing(record) | tags
            params = {key: str(value) for key, value in flatten(record.recipe).items()}
        run, states = self._run(record), [entry for entry in entries if entry["kind"] == "status"]
        judged = any(entry["kind"] == "evaluation" for entry in entries)
        ended = bool(states) and states[-1]["status"] in _STATUS
        if judged or ended:
            tags[MLFLOW_RUN_NOTE] = run_note(record)
        self._log(run, metrics_of(entries), params, tags)
        if new:
            self._client.log_artifact(run, str(record.directory / "recipe.json"))
            self._introduced.add(about["id"])
        if inputs := inputs_of(record, states):
            self._client.log_inputs(run, inputs.datasets())
        if states:
            self._end(run, states[-1]["status"], states[-1]["time"])
        if ended and not about["sweep"] and most_robust([record]):
            self._registry.register(record, run)
        if any(entry["kind"] == "evaluation" and not entry["final"] for entry in entries):
            self._registry.refresh(record, run)

    def attach(self, record: Record, files: Sequence[Path], folder: str) -> None:
        """Log files made of a run that this tracker has seen, into a folder of its artifacts."""
        for file in files:
            self._client.log_artifact(self._runs[record.about["id"]], str(file), folder)

    def _preset(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_experiment_tag(self.experiment_id, key, value)

    def _run(self, record: Record) -> str:
        about, parent = record.about, record.about["sweep"]
        if about["id"] in self._runs:
            return self._runs[about["id"]]
        started = next((entry["time"] for entry in record.read()[0]), about["created"])
        tags = {MLFLOW_PARENT_RUN_ID: self._runs[parent]} if parent else {}
        return self._open(about["id"], record.name, started, tags, known=parent not in self._made)

    def _open(self, key: str, name: str, started: int, tags: dict[str, str], known: bool) -> str:
        """Find the run of this key, or make it. Only if it may be `known` to MLflow is it looked for.

        One that this tracker has tried to make may be: the answer can have been lost.
        """
        found: Sequence[Run] = ()
        if known or key in self._made:
            found = self._client.search_runs([self.experiment_id], f"tags.`quench.id` = '{key}'", max_results=1)
        if found:
            run = found[0]
        else:
            self._made.add(key)
            run = self._client.create_run(self.experiment_id, started, {"quench.id": key, **tags}, name)
        self._runs[key], self._states[run.info.run_id] = run.info.run_id, run.info.status
        return run.info.run_id

    def _log(self, run: str, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]) -> None:
        """All at once, as far as MLflow takes it."""
        short = [Param(key, value[:6000]) for key, value in params.items()]
        self._client.log_batch(run, metrics, short, [RunTag(key, value[:8000]) for key, value in tags.items()])

    def _end(self, run: str, status: Status, time: int) -> None:
        """Or go on, if that is how the run stands."""
        if status in _STATUS:
            self._client.set_terminated(run, _STATUS[status], time)
        elif self._states[run] != "RUNNING":
            self._client.update_run(run, status="RUNNING")
        self._states[run] = _STATUS.get(status, "RUNNING")


def _standing(record: Record) -> dict[str, str]:
    """The tags of a run that do not change."""
    recipe = record.recipe
    return {
        "quench.kind": "run",
        "quench.record": str(record.directory),
        "dataset": name_of(recipe.data),
        "method": name_of(recipe.method),
        "norm": name_of(recipe.threat.norm),
        "epsilon": f"{recipe.threat.epsilon:.4g}",
        "commit": str(record.about["commit"]),
    }


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
