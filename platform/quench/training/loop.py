"""The training loop: one for every method, norm, dataset and number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from quench.attacks import Attack
from quench.context import SIGNALS, Context
from quench.datasets import Data, Split
from quench.evaluation import Examination, RobustnessReport, evaluate
from quench.randomness import PERTURBATION, generator
from quench.ranks import Ranks
from quench.training.batches import batches_per_epoch, epoch_batches
from quench.training.clock import SharedReading
from quench.training.overfitting import FGSM, CatastrophicOverfitting, Event, Watch
from quench.training.recipe import Recipe
from quench.training.state import TrainState


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
    """the train clock times the workers"""
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


def fit(state: TrainState, recipe: Recipe, data: Data, ranks: Ranks = Ranks()) -> Iterator[EpochReport]:  # noqa: B008
    """Train `state` in place until the recipe's budget is spent or its patience over, one report an epoch.

    Between reports the caller may save the state, or stop. Raises `FloatingPointError` when the loss is no
    longer finite, and after the last report `CatastrophicOverfitting` if the run is lost to that.
    """
    train, probe = data.train.to(state.device), data.validation.to(state.device)
    model: nn.Module = state.model
    if recipe.compile:
        model = torch.compile(model)  # pyright: ignore[reportAssignmentType]
    if ranks.size > 1:
        model = DistributedDataParallel(model, broadcast_buffers=False)

    def judge(judged: nn.Module, attack: Attack) -> RobustnessReport:
        attacks = {"fgsm": FGSM, "probe": attack}
        asked = Examination(attacks=attacks, threat=recipe.threat, seed=recipe.seed, batch_size=recipe.batch_size)
        return evaluate(judged, probe, asked, ranks)

    guard = recipe.guard if recipe.method.adversarial else replace(recipe.guard, action="off")
    watch = Watch(guard, state, lambda judged, attack: _fgsm_and_robust(judge(judged, attack)), ranks)
    while not watch.lost and not _over(state, recipe, ranks):
        with state.clock.running():
            signals = _train_epoch(state, model, recipe, train, ranks, watch)
        if not torch.isfinite(torch.tensor(signals["loss"])):
            raise FloatingPointError(f"training diverged: the loss is {signals['loss']} in epoch {state.epoch}")
        judged = judge(state.judged, recipe.probe)
        if watch.after_epoch(*_fgsm_and_robust(judged)):
            judged = judge(state.judged, recipe.probe)
        fgsm, robust = _fgsm_and_robust(judged)
        if robust > state.best_accuracy:
            state.best_epoch, state.best_accuracy = state.epoch, robust
        yield EpochReport(
            epoch=state.epoch,
            updates=state.updates,
            train_seconds=state.train_seconds,
            gpu_seconds=state.train_seconds * ranks.size,
            learning_rate=state.optimizer.param_groups[0]["lr"],
            train_loss=signals["loss"],
            train_accuracy=signals["accuracy"],
            linearity=signals.get("linearity"),
            alignment=signals.get("alignment"),
            abnormal=signals.get("abnormal"),
            clean_accuracy=judged.clean.value,
            fgsm_accuracy=fgsm,
            robust_accuracy=robust,
            alarms=state.alarms,
            rollbacks=state.rollbacks,
            events=watch.take_events(),
        )
    if watch.lost or state.collapsed:
        raise CatastrophicOverfitting(f"robust only against its own attack, at epoch {state.epoch}")


def _fgsm_and_robust(report: RobustnessReport) -> tuple[float, float]:
    return report.under("fgsm").value, report.under("probe").value


def _over(state: TrainState, recipe: Recipe, ranks: Ranks) -> bool:
    tired = recipe.patience and state.epoch - state.best_epoch >= recipe.patience
    return bool(tired) or recipe.budget.progress(state.epoch, SharedReading(state.clock, ranks)) >= 1


def _train_epoch(
    state: TrainState, model: nn.Module, recipe: Recipe, train: Split, ranks: Ranks, watch: Watch
) -> dict[str, float]:
    """One pass over the images, or as much of one as the budget allows; the means of its signals over all ranks."""
    model.train()
    rng = generator(state.device, recipe.seed, PERTURBATION, state.epoch, ranks.rank)
    context = Context(
        rng, recipe.crafting_statistics, recipe.label_smoothing, state.memory, len(train), epoch=state.epoch
    )
    count, seconds = batches_per_epoch(len(train), recipe.batch_size), SharedReading(state.clock, ranks)
    half = torch.autocast(state.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
    seen: list[Tensor] = []
    for context.number, batch in enumerate(epoch_batches(train, recipe, state.epoch, ranks)):
        context.progress = recipe.budget.progress(state.epoch + context.number / count, seconds)
        if (context.progress >= 1 and seen) or watch.lost:
            break
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr * recipe.schedule(min(context.progress, 1.0))
        threat = recipe.threat
        watch.armed = context.progress >= recipe.epsilon_warmup
        if not watch.armed:
            share = max(context.progress / recipe.epsilon_warmup, 0.01)
            threat = replace(threat, epsilon=share * threat.epsilon)
        method = recipe.guard.eased(recipe.method, state.rollbacks)
        losses = method.losses(model, batch, threat, context)
        while True:
            with half:
                loss = next(losses, None)
            if loss is None:
                break
            seen.append(_update(state, loss, context, recipe))
            watch.after_update(seen[-1])
    for module in [state.model] if state.averaged is None else [state.model, state.averaged]:
        # BatchNorm's running statistics: each rank has seen its own share.
        ranks.average_(buffer for buffer in module.buffers() if buffer.is_floating_point())
    state.epoch += 1
    means = (ranks.total(torch.stack(seen).mean(0)) / ranks.size).tolist()
    return {name: value for name, value in zip(SIGNALS, means, strict=True) if value == value or name == "loss"}


def _update(state: TrainState, loss: Tensor, context: Context, recipe: Recipe) -> Tensor:
    """One optimizer update, and what it lets one observe."""
    state.optimizer.zero_grad()
    loss.backward()
    signals = context.observe(recipe.threat.norm)
    state.optimizer.step()
    state.updates += 1
    if state.averaged is not None:
        state.averaged.update_parameters(state.model)
    return signals
