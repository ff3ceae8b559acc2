"""What the platform adds to a trial: trivial ones by `quench sweep`, and by plain Ray Tune with its MLflow callback.

    python experiments/benchmarks/sweep_scale.py [--trials 1000] [--reports 20] [--at-once 2] [--out FILE]

Trials:     networks of a single layer on the digits, an update an epoch, one report for each; random learning rates.
Contenders: - bare: `fit` and one evaluation, one trial after the other in one process, nothing written anywhere;
            - quench: `quench sweep`, with everything it does: records, checkpoints, MLflow, report;
            - plain: Ray Tune as its documentation has it, the same `fit` and evaluation in a function that calls
              tune.report, and Ray's MLflowLoggerCallback. It writes no checkpoints; actors are used again, which is
              not its default, and spares it seconds a trial.
            The last two in a process of their own, MLflow in a SQLite file.
Numbers:    wall-clock seconds from the first trial's start to the end of the last, a trial's share of them
            (times the trials at once), what is left of that without the bare trial's seconds, the same with trials of a
            single report, and from both the cost of a report; peak memory of the driver.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measuring import about

from quench import LogUniform, Sweep
from quench.attacks.pgd import PGD
from quench.beside import repeatedly
from quench.config import decode, encode, override
from quench.datasets.digits import Digits
from quench.durable import write_json
from quench.evaluation import Examination, evaluate
from quench.geometry.linf import Linf
from quench.methods.n_fgsm import NFGSM
from quench.models.small_cnn import SmallCNN
from quench.sweep.trials import trials
from quench.threat_model import ThreatModel
from quench.training.budgets.epochs import Epochs
from quench.training.loop import fit
from quench.training.recipe import SGD, Recipe
from quench.training.state import TrainState

TRIVIAL = Recipe(
    data=Digits(),
    model=SmallCNN(widths=(4,)),
    threat=ThreatModel(norm=Linf(), epsilon=0.1),
    method=NFGSM(),
    batch_size=1247,
    optimizer=SGD(lr=0.1),
    validation=100,
    probe=PGD(steps=1),
    evaluation=PGD(steps=1),
    reliability=0,
)
SPACE = {"optimizer.lr": LogUniform(1e-3, 1e-1)}
BARE = 20
"""trials that the bare loop is measured on"""


def reports(recipe: Recipe) -> Iterator[dict[str, float]]:
    """The trial, without a platform."""
    data = recipe.data.load(recipe.validation)
    state = TrainState.initial(recipe, data.spec(), torch.device("cpu"))
    for report in fit(state, recipe, data):
        yield report.metrics()
    asked = Examination(attacks={"pgd": recipe.evaluation}, threat=recipe.threat, seed=0, batch_size=recipe.batch_size)
    evaluate(state.judged, data.test, asked)


def bare(recipes: list[Recipe]) -> float:
    """Seconds a trial."""
    list(reports(recipes[0]))
    started = time.perf_counter()
    for recipe in recipes:
        list(reports(recipe))
    return (time.perf_counter() - started) / len(recipes)


def plain(recipes: list[Recipe], folder: Path, at_once: int) -> None:
    """Ray Tune with its own MLflow callback."""
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    from quench.distributed.cluster import connected

    def trial(config: dict[str, Any]) -> None:
        for metrics in reports(decode(Recipe, config["recipe"])):
            tune.report(metrics)

    with connected("local", 1):
        callback = MLflowLoggerCallback(f"sqlite:///{folder / 'mlflow.db'}", experiment_name="plain")
        tune.Tuner(
            tune.with_resources(trial, {"CPU": 1}),
            param_space={"recipe": tune.grid_search([encode(recipe) for recipe in recipes])},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=True),
            run_config=tune.RunConfig(name="plain", storage_path=str(folder), callbacks=[callback], verbose=0),
        ).fit()


EXPERIMENT = """
import sys
sys.path.insert(0, {here!r})
from sweep_scale import SPACE, TRIVIAL, override
from quench import Sweep

RECIPE = override(TRIVIAL, {{"budget.epochs": {reports}}})
SWEEP = Sweep(space=SPACE, search="random", trials={trials})
"""


def driver(contender: str, count: int, length: int, at_once: int) -> dict[str, float]:
    """Seconds of the contender's process without its start, and its peak memory in MB."""
    with TemporaryDirectory() as folder:
        if contender == "quench":
            file = Path(folder) / "trivial.py"
            here = str(Path(__file__).parent.resolve())
            file.write_text(EXPERIMENT.format(here=here, reports=length, trials=count))
            words = ["-c", "from quench.cli import main; main()", "sweep", str(file)]
            words += ["--storage", folder, "--concurrent", str(at_once)]
        else:
            words = [__file__, "--only", folder, "--trials", str(count), "--reports", str(length)]
            words += ["--at-once", str(at_once)]
        started = time.perf_counter()
        with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, env=one_thread()) as process:
            peak = watched(process)
        assert process.returncode == 0
        return {"seconds": time.perf_counter() - started, "driver MB": round(peak / 2**20)}


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def watched(process: subprocess.Popen[bytes]) -> int:
    """Waits for the process; the most memory that it has had resident, in bytes."""
    import psutil

    found, own = [0], psutil.Process(process.pid)

    def look() -> None:
        with suppress(psutil.Error):  # it has just ended
            found.append(own.memory_info().rss)

    with repeatedly(look, 0.5, "memory"):
        process.wait()
    return max(found)


def chosen(count: int, length: int) -> list[Recipe]:
    recipe = override(TRIVIAL, {"budget": Epochs(length)})
    return [trial.recipe for trial in trials(recipe, Sweep(space=SPACE, search="random", trials=count))]


def measure(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each contender."""
    few, base = max(asked.trials // 5, 4 * asked.at_once), {n: bare(chosen(BARE, n)) for n in (1, asked.reports)}
    yield {"by": "bare", "seconds a trial": round(base[asked.reports], 3)}
    for contender in ("quench", "plain"):
        start = driver(contender, asked.at_once, 1, asked.at_once)["seconds"]
        found = {"short": driver(contender, few, 1, asked.at_once)}
        found["long"] = driver(contender, asked.trials, asked.reports, asked.at_once)
        each = {
            name: (row["seconds"] - start) * asked.at_once / (count - asked.at_once)
            for (name, row), count in zip(found.items(), (few, asked.trials), strict=True)
        }
        per_report = (each["long"] - base[asked.reports] - each["short"] + base[1]) / (asked.reports - 1)
        yield {
            "by": contender,
            "seconds": round(found["long"]["seconds"], 1),
            "start s": round(start, 1),
            "seconds a trial": round(each["long"], 3),
            "overhead a trial": round(each["long"] - base[asked.reports], 3),
            "overhead a report": round(per_report, 4),
            "driver MB": found["long"]["driver MB"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--reports", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.only:
        plain(chosen(asked.trials, asked.reports), asked.only, asked.at_once)
        return
    machine = about("ray", "mlflow", trials=asked.trials, reports=asked.reports, at_once=asked.at_once)
    print(json.dumps(machine))
    rows: list[dict[str, Any]] = []
    for row in measure(asked):
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if asked.out:
        write_json(asked.out, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
