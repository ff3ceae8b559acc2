"""The training loop: one for every method, norm, dataset and number of workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from quench.attacks.pgd import PGD
from quench.datasets import Data, Split
from quench.evaluation import evaluate
from quench.methods import Context
from quench.ranks import Ranks
from quench.training.batches import JUDGEMENT, PERTURBATION, batches_per_epoch, epoch_batches, generator
from quench.training.recipe import Recipe
from quench.training.state import TrainState

FGSM = PGD(steps=1, step_ratio=1.0, random_start=False)


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
    clean_accuracy: float
    """without attack"""
    fgsm_accuracy: float
    """under one full step from the image: far above `robust_accuracy`, it betrays catastrophic overfitting"""
    robust_accuracy: float
    """under the recipe's probe"""

    def metrics(self) -> dict[str, float]:
        """Flat, for trackers and schedulers."""
        return asdict(self)


def fit(state: TrainState, recipe: Recipe, data: Data, ranks: Ranks = Ranks()) -> Iterator[EpochReport]:  # noqa: B008
    """Train `state` in place to the recipe's last epoch, one report an epoch.

    Between reports the caller may save the state, or stop. Raises `FloatingPointError` when the
    loss is no longer finite.
    """
    train, probe = data.train.to(state.device), data.validation.to(state.device)
    model: nn.Module = state.model
    if recipe.compile:
        model = torch.compile(model)  # pyright: ignore[reportAssignmentType]
    if ranks.size > 1:
        model = DistributedDataParallel(model, broadcast_buffers=False)
    while state.epoch < recipe.epochs:
        started = time.perf_counter()
        loss, accuracy = _train_epoch(state, model, recipe, train, ranks)
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)
        state.train_seconds += time.perf_counter() - started
        if not torch.isfinite(torch.tensor(loss)):
            raise FloatingPointError(f"training diverged: the loss is {loss} in epoch {state.epoch}")
        rng = generator(state.device, recipe.seed, JUDGEMENT, state.epoch, ranks.rank)
        report = evaluate(
            state.judged, probe, {"fgsm": FGSM, "probe": recipe.probe}, recipe.threat, rng, recipe.batch_size, ranks
        )
        yield EpochReport(
            epoch=state.epoch,
            updates=state.updates,
            train_seconds=state.train_seconds,
            gpu_seconds=state.train_seconds * ranks.size,
            learning_rate=state.optimizer.param_groups[0]["lr"],
            train_loss=loss,
            train_accuracy=accuracy,
            clean_accuracy=report.clean.value,
            fgsm_accuracy=report.under("fgsm").value,
            robust_accuracy=report.under("probe").value,
        )


def _train_epoch(
    state: TrainState, model: nn.Module, recipe: Recipe, train: Split, ranks: Ranks
) -> tuple[float, float]:
    """One pass over the images; the mean loss and the accuracy on what was trained on, over all ranks."""
    model.train()
    rng = generator(state.device, recipe.seed, PERTURBATION, state.epoch, ranks.rank)
    context = Context(rng, recipe.crafting_statistics, recipe.label_smoothing, state.memory)
    count = batches_per_epoch(len(train), recipe.batch_size)
    half = torch.autocast(state.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
    for number, batch in enumerate(epoch_batches(train, recipe, state.epoch, ranks)):
        factor = recipe.schedule((state.epoch + number / count) / recipe.epochs)
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr * factor
        losses = recipe.method.losses(model, batch, recipe.threat, context)
        while True:
            with half:
                loss = next(losses, None)
            if loss is None:
                break
            _update(state, loss)
    for module in [state.model] if state.averaged is None else [state.model, state.averaged]:
        # BatchNorm's running statistics: each rank has seen its own share.
        ranks.average_(buffer for buffer in module.buffers() if buffer.is_floating_point())
    state.epoch += 1
    seen = torch.stack([torch.stack([loss / ranks.size, right / recipe.batch_size]) for loss, right in context.seen])
    loss, accuracy = ranks.total(seen.mean(0)).tolist()
    return loss, accuracy


def _update(state: TrainState, loss: Tensor) -> None:
    state.optimizer.zero_grad()
    loss.backward()
    state.optimizer.step()
    state.updates += 1
    if state.averaged is not None:
        state.averaged.update_parameters(state.model)
