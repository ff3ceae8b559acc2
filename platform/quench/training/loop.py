"""The training loop: one for every method, norm, dataset and number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from quench.allocator import keep_freed_memory
from quench.attacks import Attack
from quench.datasets import Data, Examples
from quench.evaluation import Examination, RobustnessReport, evaluate
from quench.ranks import Ranks
from quench.training.batches import Feed
from quench.training.epoch import Training
from quench.training.overfitting import FGSM, CatastrophicOverfitting, Event, Watch
from quench.training.recipe import Recipe
from quench.training.state import TrainState
from quench.training.streaming import feed_of


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What the run has come to after an epoch. Accuracies are shares in [0, 1] of the held-out images."""

    epoch: int
    """epochs done"""
    updates: int
    """optimizer updates done"""
    train_seconds: float
    """the train clock so far"""
    gpu_seconds: float
    """the train clock times the workers, each stretch by its own number of them"""
    workers: int
    """data-parallel workers in this epoch"""
    learning_rate: float
    """of the epoch's last update"""
    train_loss: float
    """mean over the epoch's updates, on the batches trained on"""
    train_accuracy: float
    """on the batches trained on, attacked as they were"""
    linearity: float | None
    """mean kappa of SORA, for methods of a single step: below 1 where the loss flattens, below 0 where it falls"""
    alignment: float | None
    """cosine of the input gradients before and after the step, likewise"""
    abnormal: float | None
    """share of the examples whose loss fell in the step, likewise"""
    clean_accuracy: float
    """without attack"""
    fgsm_accuracy: float
    """under one full step from the image: far above `robust_accuracy`, it betrays catastrophic overfitting"""
    robust_accuracy: float
    """under the recipe's probe"""
    selection_accuracy: float | None
    """under the attack that sweeps choose by, where the recipe has one look due"""
    alarms: int
    """of the overfitting guard, so far"""
    rollbacks: int
    """that it has made, so far"""
    events: tuple[Event, ...] = ()
    """what the guard met with in this epoch"""

    def metrics(self) -> dict[str, float]:
        """The numbers alone, for trackers and schedulers; those that the method does not give are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "events"}
        return {name: value for name, value in values.items() if value is not None}


def fit(
    state: TrainState,
    recipe: Recipe,
    data: Data,
    ranks: Ranks = Ranks(),  # noqa: B008 - immutable
    *,
    feed: Feed | None = None,
    save: Callable[[], None] | None = None,
) -> Iterator[EpochReport]:
    """Train `state` in place until the recipe's budget is spent or its patience over, one report an epoch.

    Between reports the caller may save the state, or stop. `save` is called, on all ranks, where the recipe has a
    checkpoint within an epoch: what `state.state_dict` gives then goes on from there. Batches come from `feed`, or
    from `data`. Raises `FloatingPointError` when the loss is no longer finite, and after the last report
    `CatastrophicOverfitting` if the run is lost to that.
    """
    keep_freed_memory()
    held_out = _HeldOut(state, recipe, data.validation.to(state.device), ranks)
    feed = feed or feed_of(data.train.to(state.device), recipe)
    state.clock.workers = ranks.size

    guard = recipe.guard if recipe.method.adversarial else replace(recipe.guard, action="off")
    watch = Watch(guard, state, held_out.watched, ranks)
    training = Training(state, _wrapped(state, recipe, ranks), recipe, len(data.train), feed, ranks, watch, save)
    while not watch.lost and not training.over():
        seen = training.epoch()
        if not torch.isfinite(torch.tensor(seen["loss"])):
            raise FloatingPointError(f"training diverged: the loss is {seen['loss']} in epoch {state.epoch}")
        judged = held_out.probed(state.judged, recipe.probe)
        if watch.after_epoch(*_fgsm_and_robust(judged)):
            judged = held_out.probed(state.judged, recipe.probe)
        fgsm, robust = _fgsm_and_robust(judged)
        if robust > state.best_accuracy:
            state.best_epoch, state.best_accuracy = state.epoch, robust
        yield EpochReport(
            epoch=state.epoch,
            updates=state.updates,
            train_seconds=state.train_seconds,
            gpu_seconds=state.clock.gpu_seconds,
            workers=ranks.size,
            learning_rate=state.optimizer.param_groups[0]["lr"],
            train_loss=seen["loss"],
            train_accuracy=seen["accuracy"],
            linearity=seen.get("linearity"),
            alignment=seen.get("alignment"),
            abnormal=seen.get("abnormal"),
            clean_accuracy=judged.clean.value,
            fgsm_accuracy=fgsm,
            robust_accuracy=robust,
            selection_accuracy=held_out.selected(1.0 if training.over() else training.progress()),
            alarms=state.alarms,
            rollbacks=state.rollbacks,
            events=watch.take_events(),
        )
    if watch.lost or state.collapsed:
        raise CatastrophicOverfitting(f"robust only against its own attack, at epoch {state.epoch}")


@dataclass(frozen=True)
class _HeldOut:
    """The held-out images, and what they say of a run."""

    state: TrainState
    recipe: Recipe
    images: Examples
    ranks: Ranks

    def probed(self, model: nn.Module, attack: Attack) -> RobustnessReport:
        """Under FGSM, `fgsm`, and an attack, `probe`."""
        return self._judged(model, self.images, fgsm=FGSM, probe=attack)

    def watched(self, model: nn.Module, attack: Attack) -> tuple[float, float]:
        """Accuracy under FGSM and under an attack."""
        return _fgsm_and_robust(self.probed(model, attack))

    def selected(self, spent: float) -> float | None:
        """Accuracy of some under the selection's attack, if a look is due when this share of the budget is spent."""
        selection = self.recipe.selection
        passed = sum(share <= spent for share in selection.at)
        if passed <= self.state.looks:
            return None
        self.state.looks = passed
        some = torch.arange(min(selection.images, len(self.images)), device=self.images.labels.device)
        return self._judged(self.state.judged, self.images.take(some), selection=selection.attack).robust.value

    def _judged(self, model: nn.Module, images: Examples, **attacks: Attack) -> RobustnessReport:
        recipe = self.recipe
        asked = Examination(attacks=attacks, threat=recipe.threat, seed=recipe.seed, batch_size=recipe.batch_size)
        return evaluate(model, images, asked, self.ranks)


def _wrapped(state: TrainState, recipe: Recipe, ranks: Ranks) -> nn.Module:
    """The state's model as training calls it: compiled, and averaging its gradients over the workers."""
    model: nn.Module = state.model
    if recipe.compile:
        model = torch.compile(model)  # pyright: ignore[reportAssignmentType]
    return model if ranks.size == 1 else DistributedDataParallel(model, broadcast_buffers=False)


def _fgsm_and_robust(report: RobustnessReport) -> tuple[float, float]:
    return report.under("fgsm").value, report.under("probe").value
