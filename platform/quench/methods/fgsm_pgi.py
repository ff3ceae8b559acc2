"""Training on one gradient step from where the last visit to the example ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quench.datasets import Batch
from quench.errors import not_negative, positive, require
from quench.geometry import per_example
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class FGSMPGI(Method):
    """FGSM with a prior-guided start (FGSM-MEP of Jia et al. 2022, arXiv 2207.08859).

    Each training image keeps a perturbation eta and a momentum m. With g the gradient at x + eta,

        delta = P(eta + alpha steepest(g)),  m <- momentum m + g / ||g||_1,  eta <- P(eta + alpha steepest(m)),

    and the loss is CE(f(x + delta), y) + weight mean (f(x + delta) - f(x + eta))^2, over examples and
    logits, differentiated through both. Every `reset` epochs eta starts anew as random
    noise of full size and m as 0. An update costs 7 forward passes' worth of work, the memory two copies
    of the training images in float32.

    As published, eta belongs to the image as the network sees it: random crops and flips are not undone.
    x + eta is kept in the pixel box, and g scaled by each example's own norm instead of the batch's. In l2
    and l1 steps and projection are the norm's. Every worker keeps the whole memory, and hears what the others
    change in it: with each update two images for each example.
    """

    weight: float = 10.0
    """lambda"""
    momentum: float = 0.3
    """mu"""
    step_ratio: float = 1.0
    """alpha as a ratio of epsilon"""
    reset: int = 40
    """epochs after which the memory begins anew"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio", "reset")
        not_negative(self, "weight")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "must be from 0 to below 1")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        for name in ("eta", "momentum"):
            if name not in context.memory:
                context.memory[name] = x.new_zeros(context.examples, *x.shape[1:])
        eta, past = (context.memory[name][batch.index] for name in ("eta", "momentum"))
        if context.epoch % self.reset == 0:
            eta, past = threat.step(context.noise(threat, x), 1.0), torch.zeros_like(x)
        eta = threat.project(x, eta)
        gradient, before = context.gradient_and_logits(model, x + eta, y)
        size = gradient.abs().flatten(1).sum(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        momentum = self.momentum * past + gradient / per_example(size, x)
        index, moved = context.whole(batch.index), threat.project(x, eta + threat.step(momentum, self.step_ratio))
        context.memory["momentum"][index] = context.whole(momentum)
        context.memory["eta"][index] = context.whole(moved)
        after = context.forward(model, x + threat.project(x, eta + threat.step(gradient, self.step_ratio)))
        yield context.loss(after, y) + self.weight * context.mean((after - before).square().mean(1))
