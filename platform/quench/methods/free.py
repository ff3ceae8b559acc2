"""Training on every replay of a batch, each with the perturbation that the last one left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quench.datasets import Batch
from quench.errors import positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Free(Method):
    """Free adversarial training (Shafahi et al. 2019, arXiv 1904.12843), algorithm 1.

    Each batch is learned from `replays` times; the backward pass that updates the weights also gives
    the gradient for the next delta = P(delta + alpha steepest(g)). delta lives on from batch to batch.
    A replay is an update and costs 3 forward passes' worth of work, so that `replays` fewer
    epochs make an equal budget. In l2 and l1 step and projection are the norm's.
    """

    replays: int = 4
    """m: updates a batch"""
    step_ratio: float = 1.0
    """alpha as a ratio of epsilon"""

    def __post_init__(self) -> None:
        positive(self, "replays", "step_ratio")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        delta = context.shares.get("delta", torch.zeros_like(x))
        if delta.shape != x.shape:  # images or batches of another size
            delta = torch.zeros_like(x)
        for _ in range(self.replays):
            delta = threat.project(x, delta)
            yield context.loss(context.forward(model, x + delta), y)
            delta = delta + threat.step(context.input_gradient, self.step_ratio)
        context.shares["delta"] = threat.project(x, delta)
