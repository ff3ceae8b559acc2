"""How robust a model is after so many train seconds of one CPU: a recipe of ours beside fast_adversarial's loop.

    python experiments/benchmarks/time_to_accuracy.py RUN [RUN ...] [--data FOLDER] [--jobs 2] [--out FILE]

Ours:     the recipe of RUN, the folder of a run with a budget in seconds, such as one that `quench sweep
          experiments/cifar10_minute.py` has found, on its data (or those in FOLDER) and with its network; and
          fast_adversarial's settings in our loop: batch 128, learning rate 0 to 0.2 and back, weight decay 5e-4,
          padding 4, step 10/255. Both in the run's precision.
Peers:    fast_adversarial's loop (`published.py`) with its settings, in float32 and in bfloat16, and in that with the
          learning rate, schedule, weight decay, batch and padding of RUN; each for as many seconds of wall clock, its
          batches' included. It pads by zeros, where ours reflects, and its attack's pass moves BatchNorm's statistics.
Fairness: the same network, images and seconds; the seeds are none that RUN was chosen by. But RUN is what a search with
          our loop came to prefer, its network included.
Judged:   the last weights, by PGD-50-10 on the test images; 95 % intervals. Each training is a process of its own with
          one thread, JOBS at a time; contenders take turns, so that a slow minute hits all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from measuring import about
from published import fast_adversarial
from torch import nn

from quench.attacks.pgd import PGD_50_10
from quench.config import encode, override
from quench.datasets import Data, Split
from quench.durable import write_json
from quench.evaluation import Examination, evaluate
from quench.methods.fgsm_rs import FGSMRS
from quench.record import Record
from quench.training.budgets.seconds import Seconds
from quench.training.loop import fit
from quench.training.overfitting import CatastrophicOverfitting, Guard
from quench.training.recipe import SGD, Augmentation, Recipe
from quench.training.schedules.one_cycle import OneCycle
from quench.training.state import TrainState

Contender = Callable[[Recipe, Data], tuple[nn.Module, int, float]]
"""the recipe with its seconds and seed, and the data -> a trained model, its updates and its seconds"""


def quench(recipe: Recipe, data: Data) -> tuple[nn.Module, int, float]:
    state = TrainState.initial(recipe, data.spec(), torch.device("cpu"))
    with suppress(CatastrophicOverfitting):  # which is a result too
        for _ in fit(state, recipe, data):
            pass
    return state.judged, state.updates, state.train_seconds


def settings(recipe: Recipe) -> Recipe:
    """fast_adversarial's, in place of the recipe's own."""
    return replace(
        recipe,
        method=FGSMRS(step_ratio=1.25),
        batch_size=128,
        optimizer=SGD(lr=0.2, nesterov=False, weight_decay=5e-4),
        schedule=OneCycle(peak=0.5),
        augmentation=Augmentation(padding=4, flip=True),
        label_smoothing=0.0,
        epsilon_warmup=0.0,
        averaging=0.0,
        guard=Guard(),
    )


def published(recipe: Recipe, data: Data, half: bool) -> tuple[nn.Module, int, float]:
    """Its loop with what it can take of the recipe's settings; learning rates follow the share of the time spent."""
    assert isinstance(data.train, Split)
    assert isinstance(recipe.budget, Seconds)
    model, limit, updates = recipe.model.build(data.spec(), recipe.seed), recipe.budget.seconds, 0
    torch.manual_seed(recipe.seed)
    began = time.perf_counter()

    def learning_rate() -> float | None:
        nonlocal updates
        spent = (time.perf_counter() - began) / limit
        updates += spent < 1
        return recipe.learning_rate(spent) if spent < 1 else None

    epoch = fast_adversarial(
        *(model, data.train.images, data.train.labels, recipe.batch_size, learning_rate),
        weight_decay=recipe.optimizer.weight_decay,
        padding=recipe.augmentation.padding,
        half=half,
    )
    while time.perf_counter() - began < limit:
        epoch()
    return model, updates, time.perf_counter() - began


CONTENDERS: dict[str, Contender] = {
    "quench, the recipe found": quench,
    "quench, fast_adversarial's settings": lambda recipe, data: quench(settings(recipe), data),
    "fast_adversarial's loop, the settings found, bfloat16": partial(published, half=True),
    "fast_adversarial's loop, bfloat16": lambda recipe, data: published(settings(recipe), data, half=True),
    "fast_adversarial's loop": lambda recipe, data: published(settings(recipe), data, half=False),
}


def recipe_of(run: Path, folder: str | None) -> Recipe:
    changes = {} if folder is None else {"data.of": "image_folder", "data.of.root": folder}
    return override(Record(run).recipe, changes)


def contend(run: Path, folder: str | None, seed: int, name: str) -> dict[str, Any]:
    """A row: run, seed, contender, and shares `[value, low, high]`."""
    torch.set_num_threads(1)
    recipe = replace(recipe_of(run, folder), seed=seed)
    data = recipe.data.load(recipe.validation)
    model, updates, seconds = CONTENDERS[name](recipe, data)
    asked = {"attacks": {"pgd": PGD_50_10}, "threat": recipe.threat, "precision": "bfloat16"}
    report = evaluate(model, data.test, Examination(**asked, seed=0, batch_size=250))
    shares = {"clean": report.clean, "robust": report.robust}
    row = {key: [round(v, 4) for v in (s.value, s.low, s.high)] for key, s in shares.items()}
    return {
        "run": str(run),
        "seconds": recipe.budget.amount,
        "seed": seed,
        "by": name,
        "updates": updates,
        "train seconds": round(seconds, 2),
        **row,
    }


def described(run: Path, folder: str | None) -> dict[str, Any]:
    """What is trained on what against whom."""
    recipe = recipe_of(run, folder)
    data = recipe.data.load(recipe.validation)
    sizes = {"train images": len(data.train), "test images": len(data.test)}
    return {"run": str(run), **sizes, "recipe": encode(recipe)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--data", help="a folder of images, of which the run's subset is taken instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2000, 2001, 2002])
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    runs = [described(run, asked.data) for run in asked.runs]
    machine = about(jobs=asked.jobs, seeds=asked.seeds, runs=runs)
    print(json.dumps(machine))
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.jobs, context, max_tasks_per_child=1) as pool:
        turns = product(asked.runs, [asked.data], asked.seeds, CONTENDERS)
        for row in pool.map(contend, *zip(*turns, strict=True)):
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if asked.out:
                write_json(asked.out, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
