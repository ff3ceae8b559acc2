"""What trials will cost, before they begin: the work that they are, at this machine's speed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from heapq import heapreplace

import torch

from quench.speed import Machine
from quench.training.batches import batches_per_epoch
from quench.training.overfitting import FGSM
from quench.training.recipe import Recipe
from quench.trial import best_device, examination, machine


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one trial that runs to its end. Seconds are those of a machine that has nothing else to do."""

    recipe: Recipe
    flops: float
    """floating-point operations of its training, over all workers"""
    train_seconds: float
    """on the train clock; compilation, and what workers wait for each other, left out"""
    probe_seconds: float
    """of judging held-out images while it trains, as if none were fooled"""
    evaluation_seconds: float
    """of judging the test images in the end, as if none were fooled"""

    @property
    def seconds(self) -> float:
        return self.train_seconds + self.probe_seconds + self.evaluation_seconds


@dataclass(frozen=True)
class Estimate:
    """What trials will cost, in their order."""

    costs: tuple[Cost, ...]
    machine: str
    """what the seconds were measured on"""

    @property
    def worker_seconds(self) -> float:
        """Over all trials and workers."""
        return sum(cost.seconds * cost.recipe.workers for cost in self.costs)

    def wall_seconds(self, at_once: int) -> float:
        """From the first trial's start to the last one's end, each beginning as soon as one of `at_once` ends."""
        ends = [0.0] * at_once
        for cost in self.costs:
            heapreplace(ends, ends[0] + cost.seconds)
        return max(ends)


def estimate(recipes: Sequence[Recipe], device: torch.device | None = None) -> Estimate:
    """What `recipes` will cost on machines like this one: about a second of work for each kind of them."""
    device = device or best_device()
    measured = Machine(device)
    with _as_in_a_trial(device):
        costs = tuple(_cost(recipe, measured) for recipe in recipes)
    return Estimate(costs, machine(device)["device"])


def _cost(recipe: Recipe, machine: Machine) -> Cost:
    data, _ = machine.data(recipe)
    epochs, flops, seconds = _epochs(recipe, machine)
    probes = machine.judging(recipe, len(data.validation), {"fgsm": FGSM, "probe": recipe.probe})
    while_training = epochs * probes + _looks(recipe, machine, epochs)
    evaluation = machine.judging(recipe, len(data.test), examination(recipe).attacks)
    checked = min(recipe.reliability, len(data.test))  # by one worker
    doubts = machine.doubting(recipe, checked) if checked else 0.0
    return Cost(
        recipe=recipe,
        flops=flops * recipe.workers,
        train_seconds=seconds,
        probe_seconds=while_training / recipe.workers,
        evaluation_seconds=evaluation / recipe.workers + doubts,
    )


def _looks(recipe: Recipe, machine: Machine, epochs: int) -> float:
    """Seconds of what a sweep chooses by: at the end of an epoch, one at most."""
    selection, count = recipe.selection, min(len(recipe.selection.at), epochs)
    if count == 0:  # data may have too few classes for an attack that is never put
        return 0.0
    images = min(selection.images, recipe.validation)
    return count * machine.judging(recipe, images, {"selection": selection.attack})


def _epochs(recipe: Recipe, machine: Machine) -> tuple[int, float, float]:
    """How many the budget is good for, and what each worker does in them: operations and seconds."""
    examples, batch = len(machine.data(recipe)[0].train), cache(partial(machine.batch, recipe))
    limit = recipe.budget.amount if recipe.budget.measure == "train_seconds" else math.inf
    epochs, flops, seconds = 0, 0.0, 0.0
    while recipe.budget.progress(epochs, partial(float, seconds)) < 1:
        stage = recipe.stage(epochs)
        updates = max(batches_per_epoch(examples, stage.batch_size), 1)
        operations, duration = (updates * each for each in batch(stage))
        end = min(seconds + duration, limit)  # the last epoch is cut short
        epochs, flops, seconds = epochs + 1, flops + operations * (end - seconds) / duration, end
    return epochs, flops, seconds


@contextmanager
def _as_in_a_trial(device: torch.device) -> Iterator[None]:
    """On the CPU a trial under Ray has one thread."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
