"""Seconds of training until a robust accuracy is reached: candidates on held-out images, then fresh seeds on the test.

Time:      the train clock, from initial weights to the last update, the guard's confirmations included, probes not.
           The first run has to compile; without that, its first epoch is counted as long as the others. One GPU.
Judged:    the last weights (their moving average), never chosen by test images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from gpu_setup import Rows, adapted, loaded, read
from torch import Tensor

from fast_cifar10_linf8 import RECIPE
from quench import ThreatModel
from quench.attacks import Attack, Precision
from quench.attacks.apgd_ce_t import APGDCET
from quench.attacks.autoattack import AutoAttack
from quench.attacks.pgd import PGD_50_10
from quench.datasets import Data, Examples
from quench.evaluation import Examination, evaluate
from quench.geometry.l2 import L2
from quench.methods.fgsm_rs import FGSMRS
from quench.methods.liet import LIET
from quench.methods.n_fgsm import NFGSM
from quench.models.preact_resnet import PreActResNet
from quench.training.budgets.epochs import Epochs
from quench.training.loop import fit
from quench.training.overfitting import CatastrophicOverfitting
from quench.training.recipe import SGD, Recipe
from quench.training.state import TrainState

SEEDS = 1000
"""the first seed of the runs that count: candidates are compared by others"""


@dataclass(frozen=True)
class Goal:
    """A share of test images to be robust on, and who may try."""

    robust: float
    attack: Attack
    precision: Precision
    """of crafting in the end"""
    quick: Attack
    """for held-out images"""
    candidates: dict[str, Recipe]
    """the first is what to do unless the search knows better"""


def sized(recipe: Recipe, width: int, epochs: int, **changes: Any) -> Recipe:
    return replace(recipe, model=PreActResNet(width=width), budget=Epochs(epochs), **changes)


LIET_RECIPE = replace(RECIPE, method=LIET(), batch_size=256, label_smoothing=0.4, averaging=0.998)
LINE = replace(RECIPE, threat=ThreatModel(norm=L2(), epsilon=128 / 255), method=FGSMRS(), batch_size=256)
GOALS = {
    "pgd45": Goal(
        0.45,
        PGD_50_10,
        "float32",
        PGD_50_10,
        {
            "n_fgsm, width 64, 15 epochs": sized(RECIPE, 64, 15),
            "n_fgsm, width 64, 10 epochs, batch 256": sized(RECIPE, 64, 10, batch_size=256),
            "n_fgsm, width 64, 12 epochs": sized(RECIPE, 64, 12),
            "n_fgsm, width 48, 15 epochs": sized(RECIPE, 48, 15),
            "n_fgsm, width 64, 20 epochs": sized(RECIPE, 64, 20),
            "n_fgsm, width 32, 20 epochs": sized(RECIPE, 32, 20),
            "lr x 0.5": replace(RECIPE, optimizer=replace(RECIPE.optimizer, lr=0.1)),
            "step 1.25": replace(RECIPE, method=NFGSM(step_ratio=1.25)),
            "fgsm_rs": replace(RECIPE, method=FGSMRS()),
        },
    ),
    "l2_70": Goal(
        0.70,
        PGD_50_10,
        "float32",
        PGD_50_10,
        {f"fgsm_rs, {epochs} epochs": sized(LINE, 64, epochs) for epochs in (40, 30, 60)}
        | {"n_fgsm, 40 epochs": sized(LINE, 64, 40, method=NFGSM(noise_ratio=1.0))},
    ),
    "aa49": Goal(
        0.49,
        AutoAttack(),
        "bfloat16",
        APGDCET(steps=50, targets=9),
        {f"liet, {epochs} epochs": sized(LIET_RECIPE, 64, epochs) for epochs in (60, 40, 100)}
        | {"liet, 60 epochs, lr x 0.5": sized(LIET_RECIPE, 64, 60, optimizer=SGD(lr=0.1, scaling="sqrt"))},
    ),
}


def search(asked: argparse.Namespace) -> None:
    """Each candidate once, uncompiled, on held-out images."""
    rows = Rows("search", asked)
    for goal in asked.goals:
        for name in list(GOALS[goal].candidates)[: asked.candidates]:
            if rows.late():
                return
            rows.measure(partial(tried, asked, GOALS[goal], name), goal=goal, candidate=name)


def tried(asked: argparse.Namespace, goal: Goal, name: str) -> dict[str, Any]:
    """What a candidate comes to on held-out images."""
    row, state, data = trained(asked, replace(goal.candidates[name], compile=False))
    return row | robust(asked, state, goal.candidates[name], data.validation, goal.quick, "bfloat16")


def time_to(asked: argparse.Namespace) -> None:
    """The chosen candidate of each goal, seed after seed, on test images; and what they come to together."""
    rows = Rows("time_to", asked)
    for goal in asked.goals:
        name, done = chosen(goal, asked), list[dict[str, Any]]()
        torch._dynamo.reset()
        for seed in range(SEEDS, SEEDS + asked.seeds):
            if rows.late():
                break
            row = rows.measure(partial(run, asked, GOALS[goal], name, seed), goal=goal, candidate=name, seed=seed)
            done += [] if row is None else [row]
        if done:
            rows.add(goal=goal, candidate=name, runs=len(done), wanted=GOALS[goal].robust, **dict(means(done)))


def run(asked: argparse.Namespace, goal: Goal, name: str, seed: int) -> dict[str, Any]:
    """What a candidate comes to on test images."""
    recipe = replace(goal.candidates[name], seed=seed)
    row, state, data = trained(asked, recipe)
    return row | robust(asked, state, recipe, some(data.test, asked.judged), goal.attack, goal.precision)


def trained(asked: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], TrainState, Data]:
    """A run of the recipe, its seconds and its last state."""
    recipe = adapted(recipe, asked)
    if asked.epochs:
        recipe = replace(recipe, budget=Epochs(asked.epochs))
    if asked.batch:
        recipe = replace(recipe, batch_size=asked.batch)
    data = loaded(recipe.data, recipe.validation)
    state, ends, lost = TrainState.initial(recipe, data.spec(), asked.device), [0.0], False
    try:
        for report in fit(state, recipe, data):
            ends.append(report.train_seconds)
    except CatastrophicOverfitting:
        lost = True
    epochs = [after - before for before, after in pairwise(ends)]
    usual = statistics.median(epochs[1:] or epochs)
    row = {
        "train_seconds": round(sum(epochs), 2),
        "without_compilation": round(usual + sum(epochs[1:]), 2),
        "collapsed": lost,
    }
    return row, state, data


def robust(
    asked: argparse.Namespace, state: TrainState, recipe: Recipe, images: Examples, attack: Attack, crafted: Precision
) -> dict[str, Any]:
    """Clean and robust shares of the last weights, with their intervals, and the seconds that this took."""
    started = time.perf_counter()
    question = Examination(
        attacks={"goal": attack}, threat=recipe.threat, seed=0, batch_size=asked.judging_batch, precision=crafted
    )
    report = evaluate(state.judged, images.to(asked.device), question)
    return {
        "clean": round(report.clean.value, 4),
        "robust": round(report.robust.value, 4),
        "interval": [round(bound, 4) for bound in report.robust[1:]],
        "images": report.n,
        "crafted_in": crafted,
        "judging_seconds": round(time.perf_counter() - started, 1),
    }


def some(images: Examples, most: int) -> Examples:
    """A random sample, the same for every seed; all of them if `most` is 0."""
    order = images.shuffled(torch.Generator().manual_seed(0))
    return images.take(_first(order, most)) if most else images


def _first(order: Tensor, most: int) -> Tensor:
    return order[:most].sort().values


def chosen(goal: str, asked: argparse.Namespace) -> str:
    """The fastest candidate that the search found above the goal by more than chance; the first if there is none."""
    able: list[dict[str, Any]] = []
    for row in read(asked, "search"):
        wanted = GOALS[goal].robust
        margin = (wanted * (1 - wanted) / row.get("images", 1)) ** 0.5  # a standard error
        if row["goal"] == goal and row.get("robust", 0.0) > wanted + margin:
            able.append(row)
    first = (
        min(able, key=lambda row: row["without_compilation"])["candidate"]
        if able
        else next(iter(GOALS[goal].candidates))
    )
    return asked.candidate or first


def means(runs: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Over the seeds; the first one's seconds are those with compilation."""
    yield "with_compilation", runs[0]["train_seconds"]
    for key in ("without_compilation", "clean", "robust"):
        values = [run[key] for run in runs]
        yield key, round(statistics.mean(values), 4)
        yield f"{key}_sd", round(statistics.stdev(values), 4) if len(values) > 1 else None
