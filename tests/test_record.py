"""Nothing is lost: logs cut short, runs killed at any moment, checkpoints damaged."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import signal
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import quench.cli
from processes import exit_code, fork
from quench import trial
from quench.durable import alone
from quench.errors import UserError
from quench.record import Record
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import SGD, Checkpoints, Recipe

CPU = torch.device("cpu")


@pytest.fixture
def record(tmp_path: Path, recipe: Recipe) -> Record:
    return Record.create(tmp_path / "run", recipe, experiment="test", configuration="n_fgsm")


def carry_out(record: Record, ahead: bool = False) -> None:
    for _ in trial.run(record, CPU, ahead):
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


def weights_are_equal(one: Record, other: Record) -> bool:
    mine, theirs = (record.checkpoint("last")["model"] for record in (one, other))
    return all(torch.equal(theirs[name], value) for name, value in mine.items())


def dies_at(write: int, record: Record) -> None:
    """Carry out the run in a process that ends, without another word, just before or after a write reaches the disk."""
    left, calls = write, {name: getattr(os, name) for name in ("fsync", "replace")}

    def counted(name: str) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            nonlocal left
            for step in (lambda: None, lambda: calls[name](*arguments)):
                left -= 1
                if left < 0:
                    os._exit(9)
                step()

        return call

    os.fsync, os.replace = counted("fsync"), counted("replace")
    carry_out(record, ahead=True)


@pytest.mark.parametrize("checkpoints", [Checkpoints(), Checkpoints(epochs=3, seconds=0.001)], ids=str)
def test_a_run_that_dies_at_each_of_its_writes_reports_every_epoch_once(
    checkpoints: Checkpoints, tmp_path: Path, recipe: Recipe
) -> None:
    """At its first write, then at its second, and so on until it gets through."""
    recipe = replace(recipe, budget=Epochs(10), checkpoints=checkpoints)
    disturbed, undisturbed = (
        Record.create(tmp_path / name, recipe, experiment="test", configuration="n_fgsm") for name in ("run", "other")
    )
    carry_out(undisturbed)  # first: its children need not import what their parent has
    codes = [9]
    while codes[-1] == 9:
        codes.append(exit_code(fork(partial(dies_at, len(codes), disturbed))))
    assert codes[-1] == 0
    assert len(codes) > 15
    assert epochs(disturbed) == list(range(1, 11))
    assert weights_are_equal(disturbed, undisturbed)
    robust = [entry["metrics"]["robust_accuracy"] for entry in disturbed.entries("epoch")]
    assert robust == [entry["metrics"]["robust_accuracy"] for entry in undisturbed.entries("epoch")]
    assert disturbed.checkpoint("best")["epoch"] == 1 + robust.index(max(robust))
    assert disturbed.status == "finished"
    started = [entry for entry in disturbed.entries("status") if entry["status"] == "running"]
    for measure in ("epoch", "updates", "train_seconds"):
        values = [entry[measure] for entry in started]
        assert values == sorted(values), "every attempt goes on where the one before was saved, its clock too"
    assert {path.name for path in disturbed.directory.glob(".*")} == set(), "nothing half written is left"


def slowly(record: Record) -> None:
    for _ in trial.run(record, CPU):
        time.sleep(0.02)


@pytest.mark.parametrize("signals", [(signal.SIGKILL,), (signal.SIGSTOP, signal.SIGCONT)])
def test_a_process_that_is_replaced_writes_no_more(
    signals: tuple[signal.Signals, ...], tmp_path: Path, recipe: Recipe
) -> None:
    """Killed, or only stopped: then it wakes up when another has done its work."""
    record, undisturbed = (
        Record.create(tmp_path / name, replace(recipe, budget=Epochs(6)), experiment="test", configuration="n_fgsm")
        for name in ("run", "other")
    )
    carry_out(undisturbed)
    child = fork(partial(slowly, record))
    while len(epochs(record)) < 2:
        time.sleep(0.005)
    os.kill(child, signals[0])
    assert record.status == "running", "it cannot say how it ended"
    assert epochs(record)[-1] < 6
    carry_out(record)
    content = {path: path.read_bytes() for path in record.directory.rglob("*") if path.is_file()}
    for other in signals[1:]:
        os.kill(child, other)
    assert exit_code(child) == (3 if signals[1:] else -signal.SIGKILL)
    assert {path: path.read_bytes() for path in record.directory.rglob("*") if path.is_file()} == content
    assert epochs(record) == [1, 2, 3, 4, 5, 6]
    clock = [entry["metrics"]["train_seconds"] for entry in record.entries("epoch")]
    assert clock == sorted(clock)
    assert weights_are_equal(record, undisturbed)


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
    log, best = record.directory / "log.jsonl", record.path("best")
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if '"kind": "epoch"' not in line))
    best.unlink()
    record.mend(record.checkpoints())
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


def test_two_programs_cannot_carry_out_one_run(record: Record) -> None:
    def hold() -> None:
        with alone(record.directory / "recipe.json"):
            os.kill(os.getpid(), signal.SIGSTOP)

    child = fork(hold)
    os.waitpid(child, os.WUNTRACED)
    with pytest.raises(UserError, match=f"{record.directory} is being carried out by another process; end that one"):
        quench.cli._run(["resume", str(record.directory)])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with alone(record.directory / "recipe.json"):
        pass


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/quench-was-here",)


def test_damaged_and_foreign_checkpoints_are_refused(record: Record, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has not finished an epoch"):
        record.checkpoint("best")
    carry_out(record)
    last, best = record.path("last"), record.path("best")
    content = last.read_bytes()
    other = Record.create(tmp_path / "other", replace(recipe, seed=9), experiment="test", configuration="n_fgsm")
    other.path("last").write_bytes(content)
    with pytest.raises(UserError, match="belongs to another recipe than .*; remove it to begin the run again$"):
        carry_out(other)
    assert other.status == "failed"
    weights = next(value for value in record.checkpoint("last")["model"].values() if value.ndim == 2)
    flipped = bytearray(content)
    flipped[content.index(weights.numpy().tobytes()) + 10] ^= 1
    cut = [content[: len(content) * part // 7] for part in range(7)] + [content[:-1]]
    for damage in (*cut, b"not a checkpoint", content[:2000] + bytes(5000) + content[7000:], bytes(flipped)):
        last.write_bytes(damage)
        with pytest.raises(UserError, match=f"not a checkpoint of quench, or damaged .*or put {best} in its place$"):
            record.checkpoints()
    torch.save({"epoch": 1}, last)
    with pytest.raises(UserError, match="it has no model, recipe, updates"):
        record.checkpoint("last")
    with zipfile.ZipFile(last, "w") as archive:
        archive.writestr("data.pkl", b"garbage")
    with pytest.raises(UserError, match="not a checkpoint of quench"):
        record.checkpoint("last")
    for write in (partial(torch.save, Malicious()), lambda path: path.write_bytes(pickle.dumps(Malicious()))):
        write(last)
        with pytest.raises(UserError, match="not a checkpoint of quench"):
            record.checkpoint("last")
    assert not Path("/tmp/quench-was-here").exists()
    best.replace(last)
    assert set(record.checkpoints()) == {"last"}, "as was advised"
    best.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{best} is not .*; remove it to go on without it$"):
        record.checkpoints()


def limited(bytes_: int, record: Record) -> None:
    """Carry out the run in a process whose files can grow no larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
    carry_out(record)


def test_a_full_disk_ends_the_run_and_spoils_nothing(tmp_path: Path, recipe: Recipe) -> None:
    """Full for a checkpoint, in the middle of it; then for the log too."""
    record, undisturbed = (
        Record.create(tmp_path / name, replace(recipe, budget=Epochs(4)), experiment="test", configuration="n_fgsm")
        for name in ("run", "other")
    )
    carry_out(undisturbed)
    run = trial.run(record, CPU)
    next(run)
    run.close()
    before = record.path("last").read_bytes()
    assert exit_code(fork(partial(limited, len(before) // 2, record))) == 1
    (reason,) = [entry["reason"] for entry in record.entries("status")[-1:]]
    assert re.fullmatch(r".*/(best|last)\.pt could not be written \(File too large\)", reason)
    assert record.status == "failed"
    log = record.directory / "log.jsonl"
    assert exit_code(fork(partial(limited, log.stat().st_size + 20, record))) == 1
    assert record.status == "failed", "it could not even say that it was running"
    assert record.path("last").read_bytes() == before
    carry_out(record)
    assert (record.status, epochs(record)) == ("finished", [1, 2, 3, 4])
    assert weights_are_equal(record, undisturbed)
    assert not list(record.directory.glob(".*"))


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
