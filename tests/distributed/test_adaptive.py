"""Sweeps whose trials depend on each other's results, under a real Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from conftest import PROGRAM, REPOSITORY, quench
from quench.record import Record
from quench.storage import SweepRecord
from quench.tracking import default_uri

HEAD = f"""
import sys
sys.path.insert(0, {str(REPOSITORY / "tests")!r})
from conftest import tiny_recipe
from quench.config import override
from quench.sweep import Choice, Confirm, LogUniform, Option, Sweep, Uniform

RECIPE = override(tiny_recipe(), {{"budget.epochs": 4, "selection.attack.steps": 3}})
"""


def begun(storage: Path) -> list[Record]:
    return [Record(path.parent) for path in storage.glob("*/*/recipe.json")]


def test_a_search_goes_on_where_its_driver_was_killed(tmp_path: Path) -> None:
    """kill -9 of the program, and with it of its cluster, while short runs are being promoted."""
    file = tmp_path / "found.py"
    file.write_text(
        HEAD
        + "METHOD = Choice('fgsm_rs', Option('n_fgsm', noise_ratio=Uniform(1, 3)))\n"
        + "SWEEP = Sweep(space={'method': METHOD, 'optimizer.lr': LogUniform(1e-3, 1)}, search='tpe', trials=4,\n"
        + "    scheduler='halving', grace=0.5, confirm=Confirm(finalists=9, seeds=(7, 8), evaluation=RECIPE.evaluation))\n"
    )
    storage = tmp_path / "runs"
    command = [PROGRAM, "sweep", str(file), "--storage", str(storage), "--confirm", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        while not any(record.about["trial"]["rung"] == 1 for record in begun(storage)):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    before = {record: record.read()[0] for record in begun(storage) if record.status == "finished"}
    assert before
    done = quench("resume", "latest", "--storage", storage)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The finalists, trained again on seeds that they were not chosen by" in done.stdout
    (directory,) = storage.glob("found-*")
    records = SweepRecord(directory).records
    assert all(record.status == "finished" for record in records)
    assert all(record.read()[0] == log for record, log in before.items()), "what was finished is not run again"
    assert max(Counter(record.recipe for record in records).values()) == 1
    phases = Counter((one["phase"], one["rung"]) for one in (record.about["trial"] for record in records))
    assert phases["search", 0] == 4
    assert phases["promotion", 1] >= 2
    assert phases["confirmation", 1] == 2
    for record in records:
        epochs = [entry["epoch"] for entry in record.entries("epoch")]
        assert epochs == list(range(1, 2 * 2 ** record.about["trial"]["rung"] + 1)), "a complete run of its length"
        assert "selection_accuracy" in record.entries("epoch")[-1]["metrics"]
    runs = MlflowClient(tracking_uri=default_uri(storage)).search_runs(["1"])
    assert [run.info.status for run in runs] == ["FINISHED"] * (len(records) + 1)


def test_a_population_learns_from_its_best(tmp_path: Path) -> None:
    """Learning rates that do not learn are given up, with their weights, for the one that does."""
    file = tmp_path / "members.py"
    file.write_text(
        HEAD
        + "SWEEP = Sweep(space={'optimizer.lr': LogUniform(1e-7, 0.3), 'method.noise_ratio': Uniform(1, 3)},\n"
        + "    search='random', trials=4, scheduler='pbt', grace=0.5)\n"
    )
    done = quench("sweep", file, "--storage", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    records = begun(tmp_path / "runs")
    assert [record.status for record in records] == ["finished"] * 4
    worst = min(records, key=lambda record: record.recipe.optimizer.lr)
    assert worst.recipe.optimizer.lr < 1e-3, "far too low to learn anything"
    assert worst.entries("change"), "so it has gone on from another"
    assert worst.entries("epoch")[-1]["metrics"]["clean_accuracy"] > 0.2
    for record in records:
        assert [entry["epoch"] for entry in record.entries("epoch")] == list(range(1, 5))
        for change in record.entries("change"):
            assert change["epoch"] == 2
            assert 1e-7 <= change["to"]["optimizer.lr"] <= 0.3
            assert 1 <= change["to"]["method.noise_ratio"] <= 3
            assert change["of"] != record.name
    last = worst.entries("change")[-1]
    assert worst.recipe_now.optimizer.lr == last["to"]["optimizer.lr"]
    after = worst.entries("epoch")[last["epoch"]]
    share = (
        after["epoch"] - after["epoch"] / after["metrics"]["updates"]
    ) / 4  # of the run, at the epoch's last update
    assert after["metrics"]["learning_rate"] == pytest.approx(worst.recipe_now.learning_rate(share))
