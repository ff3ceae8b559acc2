"""Training methods: what a batch becomes before the weights learn from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.parallel import DistributedDataParallel

from quench.attacks import input_gradient
from quench.catalogue import Plugin
from quench.datasets import Batch
from quench.threat_model import ThreatModel

Statistics = Literal["batch", "running"]


@dataclass
class Context:
    """What the loop lends a method for one batch, and what it learns back from it."""

    rng: Generator
    """source of the method's randomness, on the model's device"""
    statistics: Statistics = "batch"
    """BatchNorm while crafting: the batch's own statistics, or the running ones; never updated"""
    label_smoothing: float = 0.0
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """what a method keeps from batch to batch; checkpointed"""
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    """(mean loss, number correct) of each update, still on the device: reading them would stall it"""

    def gradient(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """`attacks.input_gradient` on the bare model (no all-reduce), its BatchNorm buffers untouched."""
        with crafting(model, self.statistics) as bare:
            return input_gradient(bare, x, y)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of an update, with the recipe's label smoothing."""
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        self.seen.append((loss.detach(), (logits.detach().argmax(1) == y).sum()))
        return loss


class Method(Plugin):
    """A training method; a frozen dataclass whose fields are its settings, step sizes as ratios of epsilon."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        """Yield one scalar loss for each optimizer update that the batch is worth.

        The loop runs backward and the optimizer's step between one loss and the next, so what is
        read after a yield has the gradients of that very update. `batch` is not modified.
        """


@contextmanager
def crafting(model: nn.Module, statistics: Statistics) -> Iterator[nn.Module]:
    """The model without its data-parallel wrapper, set so that a pass leaves no trace in it.

    Weights are frozen: eager autograd would leave them out by itself, a compiled backward pass would
    compute their gradients and throw them away.
    """
    bare: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    weights = [weight for weight in bare.parameters() if weight.requires_grad]
    layers = [layer for layer in bare.modules() if isinstance(layer, _BatchNorm) and layer.training]
    for weight in weights:
        weight.requires_grad_(False)
    for layer in layers:
        # In train mode without tracking a layer normalises by the batch and updates nothing.
        layer.track_running_stats = False
        layer.training = statistics == "batch"
    try:
        yield bare
    finally:
        for weight in weights:
            weight.requires_grad_(True)
        for layer in layers:
            layer.track_running_stats = True
            layer.training = True
