"""How well `quench.cost` foretells what a trial takes: estimated and measured seconds, method by method.

    python experiments/benchmarks/cost.py [--deep] [--repeats 2] [--methods n_fgsm pgd ...]

Recipes:   small: the digits experiment (8x8, batch 64, three convolutions), 10 epochs; deep: the digits enlarged to
           32x32, PreActResNet-18 at half width in bfloat16, batch 32, 1 epoch. Every method in linf.
Measured:  each trial trained and judged whole, as in a sweep, by one thread, each time after an estimate of its own;
           of several repeats the fastest trial, and the lowest estimate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from measuring import about

from quench.attacks.pgd import PGD
from quench.catalogue import members, name_of
from quench.cost import Cost, estimate
from quench.datasets.digits import Digits
from quench.durable import write_json
from quench.geometry.linf import Linf
from quench.methods import Method
from quench.models.preact_resnet import PreActResNet
from quench.models.small_cnn import SmallCNN
from quench.record import Record
from quench.threat_model import ThreatModel
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import Recipe
from quench.trial import run

SMALL = Recipe(
    data=Digits(),
    model=SmallCNN(widths=(32, 64, 64)),
    threat=ThreatModel(norm=Linf(), epsilon=0.15),
    method=members(Method)["n_fgsm"](),
    budget=Epochs(10),
    batch_size=64,
    validation=150,
    probe=PGD(steps=3),
    evaluation=PGD(steps=20),
)
DEEP = replace(
    SMALL,
    data=Digits(size=32),
    model=PreActResNet(width=32),
    precision="bfloat16",
    budget=Epochs(1),
    batch_size=32,
    validation=64,
    evaluation=PGD(steps=2),
)


def measured(recipe: Recipe) -> tuple[float, float]:
    """Train seconds and all seconds of a trial."""
    with tempfile.TemporaryDirectory() as folder:
        record = Record.create(Path(folder) / "run", recipe, experiment="cost", configuration=name_of(recipe.method))
        started = time.perf_counter()
        train_seconds = [report.train_seconds for report in run(record, torch.device("cpu"))][-1]
        return train_seconds, time.perf_counter() - started


def row(recipe: Recipe, costs: list[Cost], runs: list[tuple[float, float]]) -> dict[str, object]:
    train, whole = (min(times) for times in zip(*runs, strict=True))
    foretold = min(cost.train_seconds for cost in costs)
    none_fooled = min(cost.seconds - cost.train_seconds for cost in costs)
    return {
        "method": name_of(recipe.method),
        "GFLOP": round(costs[0].flops / 1e9, 1),
        "train s": round(train, 2),
        "estimated": round(foretold, 2),
        "ratio": round(foretold / train, 2),
        "judging s": round(whole - train, 2),
        "if none is fooled": round(none_fooled, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deep", action="store_true", help="the deep recipe instead of the small one")
    parser.add_argument("--repeats", type=int, default=2)
    linf = [name for name, kind in members(Method).items() if "linf" in kind.norms]
    parser.add_argument("--methods", nargs="+", default=linf)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipe = DEEP if asked.deep else SMALL
    recipes = [replace(recipe, method=members(Method)[name]()) for name in asked.methods]
    costs: list[list[Cost]] = [[] for _ in recipes]
    runs: list[list[tuple[float, float]]] = [[] for _ in recipes]
    for _ in range(asked.repeats):
        for number, each in enumerate(recipes):
            costs[number] += estimate([each], torch.device("cpu")).costs
            runs[number].append(measured(each))
    rows = [row(*each) for each in zip(recipes, costs, runs, strict=True)]
    machine = about(recipe="deep" if asked.deep else "small", repeats=asked.repeats)
    print(json.dumps(machine))
    for each in rows:
        print("  ".join(f"{key} {value}" for key, value in each.items()))
    if asked.out:
        write_json(asked.out, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
