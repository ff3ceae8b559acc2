"""MLflow for real, on a SQLite file: it says what the logs say, once."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from conftest import GULLIBLE, quench_here
from processes import exit_code, fork
from quench import trial
from quench.analysis.runs import Frames
from quench.config import flatten, override
from quench.evaluation.reliability import Flag
from quench.record import Record
from quench.storage import SweepRecord
from quench.sweep import Sweep
from quench.sweep.trials import trials
from quench.tracking import Tracker, default_uri
from quench.training.recipe import Recipe


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepRecord:
    """Two runs: one finished, one stopped after an epoch."""
    from conftest import tiny_recipe
    from quench import Choice

    chosen = trials(tiny_recipe(), Sweep(space={"seed": Choice(0, 1)}))
    made = SweepRecord.create(tmp_path_factory.mktemp("runs") / "tiny-1", "tiny", chosen, {"file": "tiny.py"})
    finished, stopped = made.records
    for _ in trial.run(finished, torch.device("cpu")):
        pass
    run = trial.run(stopped, torch.device("cpu"))
    next(run)
    run.close()
    stopped.settle("stopped", "by the scheduler")
    return made


def project(sweep: SweepRecord) -> None:
    """Everything, from the beginning, by a tracker that remembers nothing."""
    done = quench_here("sync", sweep.directory, "--storage", sweep.directory.parent)
    assert (done.returncode, done.stdout.strip()) == (0, "tiny-1: 2 runs, finished"), done.stderr


@pytest.fixture(scope="module")
def client(sweep: SweepRecord) -> MlflowClient:
    project(sweep)
    project(sweep)
    return MlflowClient(tracking_uri=default_uri(sweep.directory.parent))


def find(client: MlflowClient, key: str) -> str:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.`quench.id` = '{key}'")
    return run.info.run_id


def assert_equals_its_log(client: MlflowClient, record: Record) -> None:
    """Point for point: nothing is missing, nothing is there twice or from elsewhere."""
    run, logged = client.get_run(find(client, record.about["id"])), record.entries("epoch")
    metrics = run.data.metrics
    for part, prefix in (("metrics", ""), ("system", "system/")):
        for key in logged[0][part]:
            points = [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, prefix + key)]
            assert points == [(e["epoch"], e["time"], e[part][key]) for e in logged], key
            del metrics[prefix + key]
    judged = record.entries("evaluation")
    assert len([m for key in metrics for m in client.get_metric_history(run.info.run_id, key)]) == 6 * len(judged)
    assert run.data.params == {key: str(value) for key, value in flatten(record.recipe).items()}


def test_writing_twice_changes_nothing(sweep: SweepRecord, client: MlflowClient) -> None:
    assert len(client.search_runs(["1"])) == 3
    for record in sweep.records:
        assert_equals_its_log(client, record)


def test_trials_are_children_with_their_recipe(sweep: SweepRecord, client: MlflowClient) -> None:
    parent = find(client, sweep.about["id"])
    for record in sweep.records:
        run = client.get_run(find(client, record.about["id"]))
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.run_name == record.name
        assert run.data.tags["norm"] == "linf"
        names = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert names == {"recipe.json"}
        path = Path(client.download_artifacts(run.info.run_id, "recipe.json"))
        assert json.loads(path.read_text())["id"] == record.about["id"]
        data = record.recipe.data.load(record.recipe.validation)
        seen = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
        assert {part: one.digest for part, one in seen.items()} == {
            part: getattr(data, part).digest() for part in ("train", "validation", "test")
        }
        assert {one.name for one in seen.values()} == {"digits"}


def test_runs_end_as_their_logs_say(sweep: SweepRecord, client: MlflowClient) -> None:
    infos = [client.get_run(find(client, key)) for key in [sweep.about["id"], *(r.about["id"] for r in sweep.records)]]
    assert [run.info.status for run in infos] == ["FINISHED", "FINISHED", "KILLED"]
    assert infos[2].data.tags["reason"] == "by the scheduler"
    evaluation = sweep.records[0].entries("evaluation")[0]
    metrics = infos[1].data.metrics
    assert metrics["test_robust_accuracy"] == evaluation["robust"]["value"]
    assert metrics["test_robust_accuracy_low"] == evaluation["robust"]["low"]
    assert "test_robust_accuracy" not in infos[2].data.metrics


def test_a_stronger_evaluation_does_not_replace_the_final_one(sweep: SweepRecord, client: MlflowClient) -> None:
    from quench.attacks.pgd import PGD

    record = sweep.records[0]
    state, data = trial.restore(record, "last", torch.device("cpu"))
    attack = PGD(steps=5, restarts=2)
    asked = replace(trial.examination(record.recipe), attacks={"pgd": attack})
    verdicts = trial.examine(state, record, data, asked)
    trial.enter_evaluation(record, [verdicts], state.epoch, "last", [Flag("zero gradients", "all of them")])
    project(sweep)
    tags = client.get_run(find(client, record.about["id"])).data.tags
    assert tags["quench.unreliable.pgd-5-2"] == "all of them"
    metrics = client.get_run(find(client, record.about["id"])).data.metrics
    assert metrics["test_robust_accuracy/pgd-5-2"] == verdicts.report().robust.value
    assert metrics["test_robust_accuracy"] == record.entries("evaluation")[0]["robust"]["value"]


def test_a_collapse_is_told(client: MlflowClient, sweep: SweepRecord, tmp_path: Path) -> None:
    recipe = override(sweep.records[0].recipe, GULLIBLE | {"guard.action": "stop"})
    record = Record.create(tmp_path / "run", recipe, experiment="tiny", configuration="fgsm")
    for _ in trial.run(record, torch.device("cpu")):
        pass
    storage = sweep.directory.parent
    Tracker(default_uri(storage), storage, "tiny")(record, record.read()[0])
    run = client.get_run(find(client, record.about["id"]))
    assert (run.info.status, run.data.tags["status"]) == ("FAILED", "catastrophic_overfitting")
    assert run.data.metrics["alarms"] >= 1
    told = [json.loads(text) for key, text in run.data.tags.items() if key.startswith("quench.overfitting.update_")]
    (stop,) = [event for event in told if event["confirmed"]]
    assert stop["action"] == "stopped"
    frame = Frames.of([record]).events.sort_values("update")
    assert len(frame) == len(told)
    assert frame["action"].iloc[-1] == "stopped"
    assert frame["robust_accuracy"].iloc[-1] == stop["robust_accuracy"]


def test_a_single_run_has_no_parent(tmp_path: Path, recipe: Recipe) -> None:
    record = Record.create(tmp_path / "run", recipe, experiment="alone", configuration="n_fgsm")
    record.append("status", status="running")
    tracker = Tracker(default_uri(tmp_path), tmp_path, "alone")
    tracker(record, record.read()[0])
    (run,) = MlflowClient(tracking_uri=default_uri(tmp_path)).search_runs(["1"])
    assert run.info.status == "RUNNING"
    assert "mlflow.parentRunId" not in run.data.tags


def test_killed_while_the_database_is_made_it_leaves_none_that_mlflow_cannot_use(tmp_path: Path) -> None:
    child = fork(lambda: Tracker(default_uri(tmp_path), tmp_path, "tiny"))
    while not any(path.stat().st_size > 100_000 for path in tmp_path.rglob("mlflow.db")):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert exit_code(child) == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()
