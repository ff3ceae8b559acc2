"""How robust a model is after so many train seconds of one CPU: a recipe of ours beside fast_adversarial's loop.

    python experiments/benchmarks/time_to_accuracy.py RUN [RUN ...] [--seeds 0 1 2] [--jobs 2] [--out FILE]

Ours:     the recipe of RUN, the folder of a run with a budget in seconds, such as one that `quench sweep
          experiments/cifar10_minute.py` has found, on its data and with its network.
Peers:    fast_adversarial's loop (`published.py`) and settings: batch 128, learning rate 0 to 0.2 and back, weight
          decay 5e-4, padding 4, step 10/255; for as many seconds of wall clock, its batches' included. The same
          settings by our loop, in float32, say what of the difference is the recipe and what the step.
Judged:   by PGD-50-10 on the test images; 95 % intervals. Each training is a process of its own with one thread, JOBS
          at a time; contenders take turns, so that a slow minute hits all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from published import fast_adversarial
from torch import nn

from quench.attacks.pgd import PGD_50_10
from quench.datasets import Data, Split
from quench.durable import write_json
from quench.evaluation import Examination, evaluate
from quench.methods.fgsm_rs import FGSMRS
from quench.record import Record
from quench.training.budgets.seconds import Seconds
from quench.training.loop import fit
from quench.training.recipe import SGD, Augmentation, Recipe
from quench.training.schedules.one_cycle import OneCycle
from quench.training.state import TrainState
from quench.trial import machine

CPU = torch.device("cpu")
Contender = Callable[[Recipe, Data], nn.Module]
"""the recipe with its seconds and seed, and the data -> a trained model"""


def quench(recipe: Recipe, data: Data) -> nn.Module:
    state = TrainState.initial(recipe, data.spec(), CPU)
    for _ in fit(state, recipe, data):
        pass
    return state.judged


def settings(recipe: Recipe) -> Recipe:
    """fast_adversarial's, in place of the recipe's own."""
    return replace(
        recipe,
        method=FGSMRS(step_ratio=1.25),
        batch_size=128,
        optimizer=SGD(lr=0.2, nesterov=False, weight_decay=5e-4),
        schedule=OneCycle(peak=0.4),
        augmentation=Augmentation(padding=4, flip=True),
        label_smoothing=0.0,
        epsilon_warmup=0.0,
        averaging=0.0,
        precision="float32",
    )


def published(recipe: Recipe, data: Data) -> nn.Module:
    """Its loop, with the learning rate that it has when a share of the time is over: up for 40 %, then down."""
    assert isinstance(data.train, Split)
    assert isinstance(recipe.budget, Seconds)
    model, schedule, began = recipe.model.build(data.spec(), recipe.seed), OneCycle(peak=0.4), time.perf_counter()
    limit = recipe.budget.seconds
    torch.manual_seed(recipe.seed)

    def learning_rate() -> float | None:
        spent = (time.perf_counter() - began) / limit
        return 0.2 * schedule(spent) if spent < 1 else None

    epoch = fast_adversarial(model, data.train.images, data.train.labels, 128, learning_rate)
    while learning_rate() is not None:
        epoch()
    return model


CONTENDERS: dict[str, Contender] = {
    "quench, the recipe found": quench,
    "fast_adversarial's settings in quench": lambda recipe, data: quench(settings(recipe), data),
    "fast_adversarial's loop": published,
}


def contend(run: Path, seed: int, name: str) -> dict[str, Any]:
    """A row: seconds, seed, contender, and shares `[value, low, high]`."""
    torch.set_num_threads(1)
    recipe = replace(Record(run).recipe, seed=seed)
    assert isinstance(recipe.budget, Seconds)
    data = recipe.data.load(recipe.validation)
    examination = Examination(
        attacks={"pgd": PGD_50_10}, threat=recipe.threat, seed=0, batch_size=250, precision="bfloat16"
    )
    report = evaluate(CONTENDERS[name](recipe, data), data.test, examination)
    shares = {"clean": report.clean, "robust": report.robust}
    row = {key: [round(v, 4) for v in (s.value, s.low, s.high)] for key, s in shares.items()}
    return {"seconds": recipe.budget.seconds, "seed": seed, "by": name, **row}


def about(run: Path) -> dict[str, Any]:
    """What is trained on what against whom."""
    record = Record(run)
    data = record.recipe.data.load(record.recipe.validation)
    sizes = {"train images": len(data.train), "test images": len(data.test)}
    return {"run": record.name, "threat": str(record.recipe.threat), **sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    found = {**machine(CPU), "torch": torch.__version__, "jobs": asked.jobs, "runs": [about(run) for run in asked.runs]}
    print(json.dumps(found))
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.jobs, context, max_tasks_per_child=1) as pool:
        for row in pool.map(contend, *zip(*product(asked.runs, asked.seeds, CONTENDERS), strict=True)):
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if asked.out:
                write_json(asked.out, {"machine": found, "rows": rows})


if __name__ == "__main__":
    main()
