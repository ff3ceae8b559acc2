"""Everything that training changes, and that a checkpoint must therefore hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from quench.datasets import ImageSpec
from quench.training.recipe import Recipe


@dataclass
class TrainState:
    """A run between two epochs. Random numbers are functions of (seed, epoch, rank), so `epoch` holds them."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel | None
    device: torch.device
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """what the method keeps between batches"""
    epoch: int = 0
    """epochs done"""
    updates: int = 0
    """optimizer updates done"""
    train_seconds: float = 0.0
    """the train clock: data, crafting, updates and compilation; no evaluation, checkpoint or tracking"""

    @staticmethod
    def initial(recipe: Recipe, images: ImageSpec, device: torch.device) -> TrainState:
        """Before the first epoch; weights depend on the recipe's seed alone."""
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        model = recipe.model.build(images, recipe.seed).to(device)
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
            averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging), use_buffers=True)
        return TrainState(model, optimizer, averaged, device)

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept: the moving average if there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that it loads with `weights_only=True`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "memory": self.memory,
            "epoch": self.epoch,
            "updates": self.updates,
            "train_seconds": self.train_seconds,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(saved["averaged"])
        self.memory = {name: value.to(self.device) for name, value in saved["memory"].items()}
        self.epoch, self.updates, self.train_seconds = saved["epoch"], saved["updates"], saved["train_seconds"]
