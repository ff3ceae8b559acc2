"""Training on one gradient step, on a loss that is kept straight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quench.context import crafting
from quench.datasets import Batch
from quench.errors import not_negative, positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class GradAlign(Method):
    """GradAlign (Andriushchenko & Flammarion 2020, arXiv 2007.02617): FGSM, and gradients that agree.

    CE(f(x + delta), y) + weight (1 - mean cos(grad loss(x), grad loss(x + eta))), delta as in FGSM and
    eta random in the ball. The first gradient is a constant (it made delta); the second is
    differentiated again: about 11 forward passes' worth of work an update. Its passes leave BatchNorm's
    running statistics alone, which the published loop moves. In l2 and l1 eta and the step are the norm's.
    """

    compiles: ClassVar[bool] = False

    weight: float = 0.2
    """lambda; 0.2 at linf 8/255, 2 at 16/255 on CIFAR-10"""
    step_ratio: float = 1.0
    """alpha as a ratio of epsilon"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio")
        not_negative(self, "weight")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        here = context.gradient(model, x, y)
        near = (x + context.noise(threat, x)).requires_grad_()
        with crafting(model, context.statistics, frozen=False) as bare:
            (there,) = torch.autograd.grad(context.losses(bare(near), y).sum(), near, create_graph=True)
        known = here.flatten(1).any(1)  # an example without a gradient has no direction to agree on
        cosine = F.cosine_similarity(here.flatten(1), there.flatten(1), eps=1e-12)
        known, cosine = context.whole(known), context.whole(cosine)
        misaligned = (known * (1 - cosine)).sum() / known.sum().clamp_min(1)
        delta = threat.project(x, threat.step(here, self.step_ratio))
        yield context.loss(context.forward(model, x + delta), y) + self.weight * misaligned
