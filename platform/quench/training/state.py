"""Everything that training changes, and that a checkpoint must therefore hold."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from quench.datasets import ImageSpec
from quench.training.batch_norm import synchronised
from quench.training.clock import Clock
from quench.training.recipe import Recipe

_COUNTERS = ("epoch", "updates", "best_epoch", "best_accuracy", "alarms", "rollbacks", "collapsed", "looks")


@dataclass
class Within:
    """A place within an epoch, to go on from. The order of examples and their augmentation follow from the recipe."""

    batches: int
    """done"""
    rng: Tensor
    """state of the method's generator"""
    observed: Tensor
    """(updates, 6): what `Context.observe` saw, added up over the workers"""


class MovingAverage(AveragedModel):
    """The exponential moving average of a model's weights and buffers; at first, what they are after an update.

    torch's own moves its counter to the device at every update, and waits for that.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self._decay = decay

    def update_parameters(self, model: nn.Module) -> None:
        weight = 1 - self._decay if int(self.n_averaged) else 1.0  # the counter is on the CPU
        mine, its = (_values(each) for each in (self.module, model))
        torch._foreach_lerp_(mine[True], its[True], weight)  # pyright: ignore
        torch._foreach_copy_(mine[False], its[False])  # pyright: ignore
        self.n_averaged += 1


def _values(model: nn.Module) -> dict[bool, list[Tensor]]:
    """Weights and buffers: those that are numbers of any size, and those that count."""
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for value in (*model.parameters(), *model.buffers()):
        found[value.is_floating_point()].append(value.detach())
    return found


@dataclass
class TrainState:
    """A run between two updates; equal on all workers, but for running statistics and shares within an epoch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel | None
    device: torch.device
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """what the method keeps between batches"""
    places: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """what it keeps for each place in the batch, as it was when the epoch began or the run was saved"""
    within: Within | None = None
    """how far the epoch had come when the run was saved in the middle of it"""
    epoch: int = 0
    """epochs done"""
    updates: int = 0
    """optimizer updates done"""
    best_epoch: int = 0
    """the first epoch with `best_accuracy`"""
    best_accuracy: float = -1.0
    """highest robust accuracy on the held-out images so far"""
    alarms: int = 0
    """of the overfitting guard"""
    rollbacks: int = 0
    """how often the guard has gone back; each makes the method a little milder"""
    collapsed: bool = False
    """whether the weights were catastrophically overfitted when they were last judged"""
    looks: int = 0
    """of the recipe's selection, done"""
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(self.device)

    @property
    def train_seconds(self) -> float:
        """The train clock's reading."""
        return self.clock.seconds

    @staticmethod
    def initial(recipe: Recipe, images: ImageSpec, device: torch.device) -> TrainState:
        """Before the first epoch; weights depend on the recipe's seed alone."""
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        dtype = torch.float64 if recipe.precision == "float64" else torch.float32
        model = recipe.model.build(images, recipe.seed).to(device, dtype)
        if recipe.batch_norm == "sync":
            model = synchronised(model)
        model.to(memory_format=layout)  # pyright: ignore[reportCallIssue] - in torch, not in its stubs
        sgd = recipe.optimizer
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=sgd.lr,
            momentum=sgd.momentum,
            nesterov=sgd.nesterov,
            weight_decay=sgd.weight_decay,
            fused=True,
        )
        averaged = None
        if recipe.averaging:
            averaged = MovingAverage(model, recipe.averaging)
        return TrainState(model, optimizer, averaged, device)

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept: the moving average if there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that it loads with `weights_only=True`."""
        return {
            **self._learned(),
            **{name: getattr(self, name) for name in _COUNTERS},
            "train_seconds": self.train_seconds,
            "gpu_seconds": self.clock.gpu_seconds,
            "places": self.places,
            "within": None if self.within is None else vars(self.within),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._learn(saved)
        # Checkpoints of earlier versions know of no looks, and no more than the train clock.
        for name in _COUNTERS:
            setattr(self, name, saved.get(name, 0))
        self.clock.go_on(saved["train_seconds"], saved.get("gpu_seconds", saved["train_seconds"]))
        self.places = {name: value.to(self.device) for name, value in saved.get("places", {}).items()}
        within = saved.get("within")
        self.within = None if within is None else Within(**within)

    def snapshot(self) -> dict[str, Any]:
        """A copy, on the device, of what is learned, without the counters: see `go_back`."""
        return deepcopy(self._learned())

    def go_back(self, snapshot: dict[str, Any]) -> None:
        """Weights, optimizer, average and memory as they were; epochs, updates and the clock go on."""
        self._learn(deepcopy(snapshot))

    def _learned(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "memory": self.memory,
        }

    def _learn(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(saved["averaged"])
        # The dictionary itself is shared with the method's context.
        self.memory.clear()
        self.memory.update({name: value.to(self.device) for name, value in saved["memory"].items()})


def judged_weights(saved: dict[str, Any]) -> dict[str, Tensor]:
    """Of a `state_dict`: what `TrainState.judged` has learned, by name."""
    averaged: dict[str, Tensor] | None = saved["averaged"]
    if averaged is None:
        return saved["model"]
    return {key.removeprefix("module."): value for key, value in averaged.items() if key.startswith("module.")}
