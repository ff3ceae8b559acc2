"""Training on one gradient step, on a loss that is kept straight between random points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quench.context import crafting
from quench.datasets import Batch
from quench.errors import not_negative, positive
from quench.geometry import per_example
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class ELLE(Method):
    """ELLE (Rocamora et al. 2024, arXiv 2401.11618): FGSM, and a penalty on the loss's local curvature.

    CE(f(x + delta), y) + weight mean (l(c) - (1 - a) l(x1) - a l(x2))^2, where x1 and x2 are random in the
    ball round x, c = (1 - a) x1 + a x2 with a uniform in [0, 1], and l is an example's loss. No second
    derivatives: 14 forward passes' worth of work an update. The adaptive weight of ELLE-A is left
    out, and x + delta is kept in the pixel box. In l2 and l1 the ball and the step are the norm's.
    """

    weight: float = 1000.0
    """lambda; 1000 at linf 8/255, 5000 at 10/255 to 20/255 on CIFAR-10"""
    step_ratio: float = 1.0
    """alpha as a ratio of epsilon"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio")
        not_negative(self, "weight")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        delta = threat.project(x, threat.step(context.gradient(model, x, y), self.step_ratio))
        one, other = (x + context.noise(threat, x) for _ in range(2))
        a = context.uniform(x.new_empty(len(x)))
        between = one + per_example(a, x) * (other - one)
        with crafting(model, context.statistics, frozen=False) as bare:
            ends = context.losses(bare(torch.cat([one, other, between])), y.repeat(3)).view(3, -1)
        curvature = context.mean((ends[2] - (1 - a) * ends[0] - a * ends[1]).square())
        yield context.loss(context.forward(model, x + delta), y) + self.weight * curvature
