"""Real faults in data-parallel runs: workers killed and stopped, the driver killed, nodes lost and found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from conftest import quench, tiny_recipe
from processes import exit_code, fork, workers_of
from quench import trial
from quench.config import override
from quench.record import Record

HERE = Path(__file__).parent
IMPATIENT = "from quench import cli; from quench.distributed import cluster, train; train.{}; cli.main()"
"""the program, with less patience than users are given"""
EXPERIMENT = (
    f"import sys\nsys.path.insert(0, {str(HERE.parent)!r})\nfrom conftest import tiny_recipe\nRECIPE = tiny_recipe()\n"
)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.py"
    file.write_text(EXPERIMENT)
    return file


def wait_for(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    while not condition():
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.02)


def the_run(process: subprocess.Popen[str], storage: Path) -> Record:
    wait_for(process, lambda: list(storage.glob("*/log.jsonl")))
    (log,) = storage.glob("*/log.jsonl")
    return Record(log.parent)


def starts(record: Record) -> list[dict[str, Any]]:
    return [entry for entry in record.entries("status") if entry["status"] == "running"]


def epochs(record: Record) -> list[int]:
    return [entry["epoch"] for entry in record.entries("epoch")]


def wait_for_epochs(process: subprocess.Popen[str], record: Record, attempt: int, more: int) -> None:
    """Until the run was started so often, and has then reported so many epochs more."""
    wait_for(process, lambda: len(starts(record)) >= attempt)
    wait_for(process, lambda: epochs(record)[-1:] >= [starts(record)[attempt - 1]["epoch"] + more])


def check_the_clock(record: Record) -> None:
    """Every attempt has gone on from the reading of a checkpoint: neither reset, nor with what was lost."""
    clock = {entry["epoch"]: entry["metrics"]["train_seconds"] for entry in record.entries("epoch")}
    assert list(clock.values()) == sorted(clock.values())
    for before, after in pairwise(starts(record)):
        assert after["epoch"] > before["epoch"]
        assert after["train_seconds"] == clock[after["epoch"]]


def as_rank(record: Record, rank: int, size: int) -> None:
    """Carry out the run as one of `size` processes, without Ray."""
    dist.init_process_group("gloo", f"file://{record.directory / 'store'}", rank=rank, world_size=size)
    for _ in trial.run(record, torch.device("cpu")):
        pass


def test_whatever_is_killed_or_stopped_the_run_ends_as_if_nothing_had_been(experiment: Path, tmp_path: Path) -> None:
    """A worker is killed, the first one stopped, then the driver killed: weights and verdicts are the same bits."""
    recipe = override(tiny_recipe(), {"budget.epochs": 24, "workers": 2})
    undisturbed = Record.create(tmp_path / "undisturbed", recipe, experiment="", configuration="")
    ranks = [fork(partial(as_rank, undisturbed, rank, 2)) for rank in range(2)]
    assert [exit_code(rank) for rank in ranks] == [0, 0]

    storage = tmp_path / "runs"
    words = ["train", experiment, "--storage", storage, "--budget.epochs", 24, "--workers", 2, "--worker-timeout", 15]
    # Ray Train starts the workers again the first time, and the run itself the next.
    command = [sys.executable, "-c", IMPATIENT.format("RESTARTS = 1"), *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True) as driver:
        record = the_run(driver, storage)
        for attempt, (fault, first) in enumerate({signal.SIGKILL: False, signal.SIGSTOP: True}.items()):
            wait_for_epochs(driver, record, attempt + 1, 3)
            rank0 = starts(record)[-1]["machine"]["pid"]
            (other,) = {*workers_of(driver.pid)} - {rank0}
            os.kill(rank0 if first else other, fault)
        wait_for_epochs(driver, record, 3, 3)
        driver.kill()
    assert record.status == "running"
    done = quench("resume", record.directory.name, "--storage", storage)
    assert done.returncode == 0, done.stdout + done.stderr

    assert record.status == "finished"
    assert epochs(record) == list(range(1, 25))
    assert len(starts(record)) == 4
    check_the_clock(record)
    saved, expected = (run.checkpoint("last") for run in (record, undisturbed))
    assert saved["updates"] == expected["updates"]
    assert all(torch.equal(saved["model"][name], value) for name, value in expected["model"].items())
    (verdicts,), (others,) = (run.entries("evaluation") for run in (record, undisturbed))
    assert (verdicts["clean"], verdicts["robust"]) == (others["clean"], others["robust"])


def test_an_elastic_run_shrinks_and_grows_with_the_cluster(experiment: Path, tmp_path: Path) -> None:
    """A node is killed, then another comes; the weights are those of one worker that was left alone."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    changes = {"budget.epochs": 1000, "workers": 2, "min_workers": 1, "precision": "float64", "batch_norm": "sync"}
    often = IMPATIENT.format("SECONDS_BETWEEN_SIZES = 1")
    words = ["train", experiment, "--storage", tmp_path / "runs"]
    words += [word for key, value in changes.items() for word in (f"--{key}", value)]
    start = partial(subprocess.Popen, text=True, env=environment, stdout=subprocess.PIPE)
    with start([sys.executable, str(HERE / "nodes.py")], stdin=subprocess.PIPE) as nodes:
        address = ["--address", nodes.stdout.readline().strip()]
        with start([sys.executable, "-c", often, *map(str, words), *address]) as driver:
            record = the_run(driver, tmp_path / "runs")
            for attempt, what in enumerate(["remove\n", "add\n"]):
                wait_for_epochs(driver, record, attempt + 1, 2)
                nodes.stdin.write(what)
                nodes.stdin.flush()
            wait_for_epochs(driver, record, 3, 2)
            driver.send_signal(signal.SIGINT)
            driver.communicate()
        nodes.stdin.close()

    assert [start["workers"] for start in starts(record)] == [2, 1, 2]
    reports = [entry["metrics"] for entry in record.entries("epoch")]
    assert epochs(record) == [*range(1, len(reports) + 1)]
    assert [report["updates"] for report in reports] == [9 * epoch for epoch in epochs(record)], "batches stay as large"
    check_the_clock(record)
    alone = Record.create(tmp_path / "alone", record.recipe, experiment="", configuration="")
    saved = record.checkpoint("last")
    run = trial.run(alone, torch.device("cpu"))
    while next(run).epoch < saved["epoch"]:
        pass
    run.close()
    for name, value in alone.checkpoint("last")["model"].items():
        torch.testing.assert_close(saved["model"][name], value)
