"""Sweeps under a real Ray cluster, through the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from mlflow import MlflowClient
from nbclient import NotebookClient
from PIL import Image

from conftest import PROGRAM, REPOSITORY, RealSweep, quench, quench_here
from quench.record import Record
from quench.storage import SweepRecord
from quench.tracking import default_uri

NAMES = [
    "linf 0.1 standard s=0",
    "linf 0.1 standard s=1",
    "linf 0.1 n_fgsm s=0",
    "linf 0.1 n_fgsm s=1",
    "l2 0.5 fgsm_rs s=0",
    "linf 0.1 n_fgsm x2 s=0",
]


FILES = {"report.html"} | {
    f"{name}.{kind}"
    for names, kinds in (
        (("time_vs_robustness", "clean_vs_robust", "anytime", "parallel_coordinates"), ("png", "svg")),
        (("anytime", "configurations", "leaderboard", "cost", "runs", "epochs"), ("csv", "parquet")),
    )
    for name in names
    for kind in kinds
}


def test_every_trial_is_recorded_once(real_sweep: RealSweep) -> None:
    records = SweepRecord(real_sweep.directory).records
    assert [record.name for record in records] == NAMES
    for record in records:
        assert record.status == "finished"
        assert [entry["epoch"] for entry in record.entries("epoch")] == [1, 2]
        assert len(record.entries("evaluation")) == 1
    assert records[-1].entries("status")[0]["workers"] == 2
    clock = records[-1].entries("epoch")[-1]["metrics"]
    assert clock["gpu_seconds"] == 2 * clock["train_seconds"]
    processes = {record.entries("status")[0]["machine"]["pid"] for record in records[:-1]}
    assert len(processes) < 5, "trials of one worker share actors"


def test_a_trial_under_ray_computes_what_the_core_computes(real_sweep: RealSweep, tmp_path: Path) -> None:
    import torch

    from quench import trial

    under_ray = SweepRecord(real_sweep.directory).records[2]
    here = Record.create(tmp_path / "run", under_ray.recipe, experiment="test", configuration="n_fgsm")
    for _ in trial.run(here, torch.device("cpu")):
        pass
    for mine, theirs in zip(here.entries("epoch"), under_ray.entries("epoch"), strict=True):
        assert mine["metrics"]["train_loss"] == pytest.approx(theirs["metrics"]["train_loss"], rel=1e-5)


def test_the_terminal_shows_trials_front_figure_and_ui(real_sweep: RealSweep) -> None:
    out = real_sweep.output
    assert re.search(r"trial +method +norm +epsilon +epoch +clean +robust +train s", out)
    for name in NAMES:
        assert re.search(re.escape(name) + r" .* 2/2 +\d+\.\d% +\d+\.\d% +\d+\.\d +finished", out)
    assert re.search(r"linf 0\.1 +standard \* +2 ", out)
    assert f"report: {real_sweep.directory / 'report' / 'report.html'}" in out
    assert f"ui --storage {real_sweep.storage}" in out


def test_mlflow_has_the_sweep_and_its_trials(real_sweep: RealSweep) -> None:
    client = MlflowClient(tracking_uri=default_uri(real_sweep.storage))
    runs = client.search_runs(["1"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert sorted(run.info.run_name or "" for run in children) == sorted(NAMES)
    (parent,) = [run for run in runs if run not in children]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    files = {Path(file.path).name for file in client.list_artifacts(parent.info.run_id, "report")}
    assert files == FILES
    for run in children:
        history = client.get_metric_history(run.info.run_id, "robust_accuracy")
        assert [point.step for point in history] == [1, 2]
        assert run.data.metrics["test_robust_accuracy"] <= run.data.metrics["test_clean_accuracy"]


def test_report_makes_figures_and_tables_again(real_sweep: RealSweep) -> None:
    report = real_sweep.directory / "report"
    shutil.rmtree(report)
    done = quench("report", "latest", "--storage", real_sweep.storage)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in report.iterdir()} == FILES
    with Image.open(report / "time_vs_robustness.png") as image:
        assert image.width > 1000
    runs = pd.read_csv(report / "runs.csv")
    assert list(runs["run"]) == NAMES
    assert (runs["robust_low"] <= runs["robust"]).all()
    assert len(pd.read_parquet(report / "epochs.parquet")) == 2 * len(NAMES)


@pytest.fixture(scope="module")
def scaling_sweep(real_sweep: RealSweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep's runs on one worker and on two, as `quench scaling` would have recorded them."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-scaling"
    for record in (SweepRecord(real_sweep.directory).records[number] for number in (2, 5)):
        shutil.copytree(record.directory, folder / record.directory.name)
    about = json.loads((real_sweep.directory / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(about | {"scaling": True}))
    return folder


def test_report_says_what_workers_bought(scaling_sweep: Path) -> None:
    done = quench_here("report", "tiny-scaling", "--storage", scaling_sweep.parent)
    assert done.returncode == 0, done.stderr
    assert "What more workers buy" in done.stdout
    assert "strong   2        128" in done.stdout
    with Image.open(scaling_sweep / "report" / "scaling.png") as image:
        assert image.width > 1000
    assert pd.read_csv(scaling_sweep / "report" / "scaling.csv")["workers"].to_list() == [1, 2]


def test_notebooks_run_on_it(real_sweep: RealSweep, scaling_sweep: Path) -> None:
    """One after the other in one kernel, which imports torch once; each begins with an empty namespace."""
    together, parts = nbformat.v4.new_notebook(), {}
    for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        sweep = scaling_sweep if path.stem == "scaling" else real_sweep.directory
        environment = f"import os\nos.environ['QUENCH_SWEEP'] = {str(sweep)!r}"
        cells = [nbformat.v4.new_code_cell(source) for source in (environment, "%reset -f")]
        parts[path.stem] = [*cells, *nbformat.read(path, as_version=4).cells]
        together.cells += parts[path.stem]
    nothing = "from pathlib import Path\nfrom quench.storage import find_sweep\nfind_sweep(Path('none'), 'demo')"
    together.cells.append(nbformat.v4.new_code_cell(nothing, metadata={"tags": ["raises-exception"]}))
    NotebookClient(together, timeout=120, resources={"metadata": {"path": REPOSITORY / "notebooks"}}).execute()
    for name, cells in parts.items():
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in outputs), name
    (error,) = together.cells[-1].outputs
    assert error.traceback[0].startswith("sweep = 'demo': none holds no sweep; start one with"), (
        "one line, no traceback"
    )


def write_sweep(folder: Path, definition: str) -> Path:
    file = folder / "tiny.py"
    head = "from dataclasses import replace\nfrom conftest import tiny_recipe\nfrom quench import Choice, Sweep\n"
    head += "from quench.config import override\nfrom quench.training.budgets.epochs import Epochs\n"
    file.write_text(f"import sys\nsys.path.insert(0, {str(REPOSITORY / 'tests')!r})\n{head}{definition}")
    return file


def test_a_killed_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """kill -9 of a trial's process; `test_faults` does the like to data-parallel workers."""
    definition = "RECIPE = replace(tiny_recipe(), budget=Epochs(40))\nSWEEP = Sweep(space={})\n"
    command = [PROGRAM, "sweep", str(write_sweep(tmp_path, definition)), "--storage", str(tmp_path / "runs")]
    killed: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None:
            for path in (tmp_path / "runs").glob("tiny-*/*/recipe.json"):
                record = Record(path.parent)
                if not killed and len(record.entries("epoch")) >= 3:
                    killed.append(record.entries("status")[-1]["machine"]["pid"])
                    os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.02)
        output = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, output
    first, second = [entry for entry in record.entries("status") if entry["status"] == "running"]
    assert second["epoch"] >= 3, "from the checkpoint, not from the beginning"
    assert [first["machine"]["pid"]] == killed != [second["machine"]["pid"]]
    assert [entry["epoch"] for entry in record.entries("epoch")] == list(range(1, 41))
    assert record.status == "finished"


def test_asha_stops_what_lags_within_its_threat_model(tmp_path: Path) -> None:
    """Learning rates that do not learn are stopped; the stronger adversary's trials are not, for that alone.

    Trials that report no epoch do not end the sweep: one diverges in its first; of another only the evaluation is left
    to resume.
    """
    definition = (
        "RECIPE = override(tiny_recipe(), {'budget.epochs': 8, 'optimizer.nesterov': False})\n"
        "RATES = {'optimizer.lr': Choice(0.1, 1e-6, 1e-7), 'threat.epsilon': Choice(0.05, 0.3)}\n"
        "SWEEP = Sweep(space=[RATES, {'optimizer.lr': 1e18}], scheduler='asha')\n"
    )
    done = quench("sweep", write_sweep(tmp_path, definition), "--storage", tmp_path / "runs")
    assert done.returncode == 1, done.stdout + done.stderr
    (directory,) = (tmp_path / "runs").glob("tiny-*")
    *records, diverged = SweepRecord(directory).records
    assert (diverged.status, diverged.entries("epoch")) == ("failed", [])
    good = [record for record in records if record.recipe.optimizer.lr == 0.1]
    assert [record.status for record in good] == ["finished"] * 2
    stopped = [record for record in records if record.status == "stopped"]
    assert stopped
    for record in stopped:
        assert record.entries("status")[-1]["reason"] == "by the scheduler"
        assert len(record.entries("epoch")) < 8
    assert json.loads((directory / "sweep.json").read_text())["scheduler"] == "asha"
    log, verdicts = good[0].directory / "log.jsonl", good[0].entries("evaluation")[0]["robust"]
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"evaluation"' not in line and '"finished"' not in line))
    shutil.rmtree(good[0].directory / "verdicts")
    ends = {record: record.read() for record in records if record != good[0]}
    done = quench("resume", directory.name, "--storage", tmp_path / "runs")
    assert done.returncode == 1, "the other diverges again"
    assert "Traceback" not in done.stderr
    again = Record(good[0].directory)
    assert (again.status, again.entries("evaluation")[0]["robust"]) == ("finished", verdicts)
    assert {record: record.read() for record in ends} == ends, "who was finished or stopped stays so"


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    """Ctrl-C ends all of it, and `quench resume` carries out what is left, once."""
    definition = (
        "RECIPE = replace(tiny_recipe(), budget=Epochs(20))\nSWEEP = Sweep(space={'seed': Choice(*range(4))})\n"
    )
    command = [PROGRAM, "sweep", str(write_sweep(tmp_path, definition)), "--storage", str(tmp_path / "runs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not any(Record(p.parent).status == "finished" for p in (tmp_path / "runs").glob("tiny-*/*/recipe.json")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    (directory,) = (tmp_path / "runs").glob("tiny-*")
    records = SweepRecord(directory).records
    before = {record.name for record in records if record.status == "finished"}
    assert 0 < len(before) < 4
    assert {record.status for record in records} == {"finished", "interrupted"}
    done = quench("resume", directory.name, "--storage", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    for record in records:
        assert [entry["epoch"] for entry in record.entries("epoch")] == list(range(1, 21))
        assert record.status == "finished"
        starts = [entry for entry in record.entries("status") if entry["status"] == "running"]
        assert len(starts) == 1 or record.name not in before, "what was finished is not run again"
    runs = MlflowClient(tracking_uri=default_uri(tmp_path / "runs")).search_runs(["1"])
    assert [run.info.status for run in runs] == ["FINISHED"] * 5
