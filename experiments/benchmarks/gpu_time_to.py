"""Seconds of training until a robust accuracy is reached: candidates on held-out images, then fresh seeds on the test.

Time:      the train clock, from initial weights to the last update, with compilation, and without (the first epoch
           counted as long as the others); probes and the guard's confirmations are not on it. One GPU.
Judged:    the last weights (their moving average), never chosen by test images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from gpu_setup import Rows, adapted, read
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


SIZES = [(64, 15), *((width, epochs) for width in (32, 48) for epochs in (10, 15, 20)), (64, 10), (64, 20)]
LIET_RECIPE = replace(RECIPE, method=LIET(), batch_size=256, label_smoothing=0.4, averaging=0.998)
LINE = replace(RECIPE, threat=ThreatModel(norm=L2(), epsilon=128 / 255), method=FGSMRS(step_ratio=1.0))
GOALS = {
    "pgd45": Goal(
        0.45,
        PGD_50_10,
        "float32",
        PGD_50_10,
        {f"n_fgsm, width {width}, {epochs} epochs": sized(RECIPE, width, epochs) for width, epochs in SIZES}
        | {
            "fgsm_rs, width 64, 15 epochs": replace(RECIPE, method=FGSMRS()),
            "lr x 0.5": replace(RECIPE, optimizer=replace(RECIPE.optimizer, lr=0.1)),
            "lr x 2": replace(RECIPE, optimizer=replace(RECIPE.optimizer, lr=0.4)),
            "batch 256": replace(RECIPE, batch_size=256),
            "label smoothing 0.3": replace(RECIPE, label_smoothing=0.3),
            "step 1.25": replace(RECIPE, method=NFGSM(step_ratio=1.25)),
        },
    ),
    "aa49": Goal(
        0.49,
        AutoAttack(),
        "bfloat16",
        APGDCET(steps=50, targets=9),
        {f"liet, {epochs} epochs": sized(LIET_RECIPE, 64, epochs) for epochs in (40, 30, 60)}
        | {"liet, 40 epochs, lr x 0.5": sized(LIET_RECIPE, 64, 40, optimizer=SGD(lr=0.1, scaling="sqrt"))},
    ),
    "l2_70": Goal(
        0.70,
        PGD_50_10,
        "float32",
        PGD_50_10,
        {f"fgsm_rs, {epochs} epochs": sized(LINE, 64, epochs) for epochs in (30, 20, 40)}
        | {"n_fgsm, 30 epochs": sized(LINE, 64, 30, method=NFGSM(noise_ratio=1.0))},
    ),
}


def search(asked: argparse.Namespace) -> None:
    """Each candidate once, uncompiled, on held-out images."""
    rows = Rows("search", asked)
    for goal in asked.goals:
        for name in list(GOALS[goal].candidates)[: asked.candidates]:
            if rows.late():
                return
            row, state, data = trained(asked, replace(GOALS[goal].candidates[name], compile=False))
            row |= robust(asked, state, GOALS[goal].candidates[name], data.validation, GOALS[goal].quick, "bfloat16")
            rows.add(goal=goal, candidate=name, **row)


def time_to(asked: argparse.Namespace) -> None:
    """The chosen candidate of each goal, seed after seed, on test images; and what they come to together."""
    rows = Rows("time_to", asked)
    for goal in asked.goals:
        wanted, name, done = GOALS[goal], chosen(goal, asked), list[dict[str, Any]]()
        torch._dynamo.reset()
        for seed in range(SEEDS, SEEDS + asked.seeds):
            if rows.late():
                break
            recipe = replace(wanted.candidates[name], seed=seed)
            row, state, data = trained(asked, recipe)
            row |= robust(asked, state, recipe, some(data.test, asked.judged), wanted.attack, wanted.precision)
            rows.add(goal=goal, candidate=name, seed=seed, **row)
            done.append(row)
        if done:
            rows.add(goal=goal, candidate=name, runs=len(done), wanted=wanted.robust, **dict(means(done)))


def trained(asked: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], TrainState, Data]:
    """A run of the recipe, its seconds and its last state."""
    recipe = adapted(recipe, asked)
    if asked.epochs:
        recipe = replace(recipe, budget=Epochs(asked.epochs))
    if asked.batches != [128, 512, 1024]:
        recipe = replace(recipe, batch_size=asked.batches[0])
    started = time.perf_counter()
    data = recipe.data.load(recipe.validation)
    loaded = time.perf_counter() - started
    state, ends, lost = TrainState.initial(recipe, data.spec(), asked.device), [0.0], False
    try:
        ends += [report.train_seconds for report in fit(state, recipe, data)]
    except CatastrophicOverfitting:
        lost = True
    epochs = [after - before for before, after in pairwise(ends)]
    usual = statistics.median(epochs[1:] or epochs)
    row = {
        "train_seconds": round(sum(epochs), 2),
        "without_compilation": round(usual + sum(epochs[1:]), 2),
        "load_seconds": round(loaded, 2),
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
    """The fastest candidate that the search found a point above the goal; the first if there is none."""
    able = [row for row in read(asked, "search") if row["goal"] == goal and row["robust"] > GOALS[goal].robust + 0.01]
    first = next(iter(GOALS[goal].candidates))
    return min(able, key=lambda row: row["train_seconds"])["candidate"] if able else first


def means(runs: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    for key in ("train_seconds", "without_compilation", "clean", "robust"):
        values = [run[key] for run in runs]
        yield key, round(statistics.mean(values), 4)
        yield f"{key}_sd", round(statistics.stdev(values), 4) if len(values) > 1 else None
