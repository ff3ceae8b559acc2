"""Nothing is lost: logs cut short, runs killed at any moment, checkpoints damaged."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from quench import trial
from quench.errors import UserError
from quench.record import Record
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import SGD, Recipe

CPU = torch.device("cpu")


@pytest.fixture
def record(tmp_path: Path, recipe: Recipe) -> Record:
    return Record.create(tmp_path / "run", recipe, experiment="test", configuration="n_fgsm")


def carry_out(record: Record) -> None:
    for _ in trial.run(record, CPU):
        pass


def epochs(record: Record) -> list[int]:
    return [entry["epoch"] for entry in record.entries("epoch")]


def test_says_what_the_run_is_and_how_it_went(record: Record, recipe: Recipe) -> None:
    assert (record.name, record.status, record.recipe) == ("linf 0.1 n_fgsm s=0", "waiting", recipe)
    carry_out(record)
    assert [entry["kind"] for entry in record.read()[0]] == ["status", "epoch", "epoch", "evaluation", "status"]
    assert record.status == "finished"
    (evaluation,) = record.entries("evaluation")
    assert evaluation["examples"] == 450
    assert evaluation["label"] == "pgd-3-1"
    assert evaluation["robust"]["low"] < evaluation["robust"]["value"] < evaluation["robust"]["high"]
    assert record.about["versions"]["torch"] == version("torch")
    assert record.entries("status")[0]["machine"]["threads"] == torch.get_num_threads()


def test_a_line_cut_short_is_not_read_and_is_dropped(record: Record) -> None:
    record.append("status", status="running")
    log = record.directory / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"kind": "epoch", "epo')
    assert len(record.read()[0]) == 1
    record.append("status", status="finished")
    assert [e["status"] for e in record.read()[0]] == ["running", "finished"]
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_reading_goes_on_where_it_stopped(record: Record) -> None:
    record.append("status", status="running")
    first, offset = record.read()
    record.append("status", status="finished")
    second, _ = record.read(offset)
    assert [e["status"] for e in first + second] == ["running", "finished"]


def _slowly(directory: Path) -> None:
    torch.set_num_threads(1)
    for _ in trial.run(Record(directory), CPU):
        time.sleep(0.05)


@pytest.mark.parametrize("pause", [0.0, 0.03])
def test_killed_and_run_again_every_epoch_is_there_once(tmp_path: Path, recipe: Recipe, pause: float) -> None:
    recipe = replace(recipe, budget=Epochs(6))
    record = Record.create(tmp_path / "run", recipe, experiment="test", configuration="n_fgsm")
    process = mp.get_context("spawn").Process(target=_slowly, args=(record.directory,))
    process.start()
    while len(epochs(record)) < 2:
        time.sleep(0.01)
    time.sleep(pause)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    done = epochs(record)
    assert 2 <= done[-1] < 6
    assert record.status == "running", "a killed process cannot say so"
    carry_out(record)
    assert epochs(record) == [1, 2, 3, 4, 5, 6]
    clock = [entry["metrics"]["train_seconds"] for entry in record.entries("epoch")]
    assert clock == sorted(clock)
    undisturbed = Record.create(tmp_path / "other", recipe, experiment="test", configuration="n_fgsm")
    carry_out(undisturbed)
    for name, value in record.checkpoint("last")["model"].items():
        assert torch.equal(undisturbed.checkpoint("last")["model"][name], value)


def test_a_crash_between_checkpoint_and_log_leaves_no_hole(record: Record) -> None:
    run = trial.run(record, CPU)
    next(run)
    run.close()
    log = record.directory / "log.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if '"kind": "epoch"' not in line))
    assert epochs(record) == []
    carry_out(record)
    assert epochs(record) == [1, 2]


def test_the_best_checkpoint_is_of_the_best_epoch(tmp_path: Path, recipe: Recipe) -> None:
    record = Record.create(
        tmp_path / "run", replace(recipe, budget=Epochs(5)), experiment="test", configuration="n_fgsm"
    )
    carry_out(record)
    robust = [entry["metrics"]["robust_accuracy"] for entry in record.entries("epoch")]
    assert record.checkpoint("best")["epoch"] == 1 + robust.index(max(robust))
    assert record.checkpoint("last")["epoch"] == 5


def test_a_crash_between_the_two_checkpoints_does_not_leave_an_old_best(record: Record) -> None:
    run = trial.run(record, CPU)
    next(run)
    run.close()
    log, best = record.directory / "log.jsonl", record.directory / "best.pt"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if '"kind": "epoch"' not in line))
    best.unlink()
    record.resume()
    assert record.checkpoint("best")["epoch"] == 1
    assert epochs(record) == [1]


def test_a_run_cut_off_after_its_evaluation_is_not_evaluated_twice(record: Record) -> None:
    carry_out(record)
    log = record.directory / "log.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if '"finished"' not in line))
    assert record.unfinished
    carry_out(record)
    assert record.status == "finished"
    assert len(record.entries("evaluation")) == 1


def test_damaged_and_foreign_checkpoints_are_refused(record: Record, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has not finished an epoch"):
        record.checkpoint("best")
    carry_out(record)
    last = record.directory / "last.pt"
    content = last.read_bytes()
    other = Record.create(tmp_path / "other", replace(recipe, seed=9), experiment="test", configuration="n_fgsm")
    (other.directory / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match="belongs to another recipe"):
        other.checkpoint("last")
    for damage in (content[: len(content) // 2], b"", b"not a checkpoint"):
        last.write_bytes(damage)
        with pytest.raises(UserError, match="not a checkpoint of quench, or damaged"):
            record.checkpoint("last")
    torch.save({"epoch": 1}, last)
    with pytest.raises(UserError, match="not a checkpoint of quench"):
        record.checkpoint("last")


def test_a_run_that_diverges_ends_as_failed_with_the_reason(tmp_path: Path, recipe: Recipe) -> None:
    wild = replace(recipe, optimizer=SGD(lr=1e18, momentum=0.0, nesterov=False))
    record = Record.create(tmp_path / "run", wild, experiment="test", configuration="n_fgsm")
    carry_out(record)
    assert record.status == "failed"
    assert "diverged" in record.entries("status")[-1]["reason"]


def test_settling_does_not_overrule_the_run(record: Record) -> None:
    record.settle("stopped", "by the scheduler")
    record.settle("failed", "its process died")
    assert record.status == "stopped"
