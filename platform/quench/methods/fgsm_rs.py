"""Training on one gradient step from a random start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from quench.datasets import Batch
from quench.errors import positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class FGSMRS(Method):
    """FGSM with a random start (Wong, Rice & Kolter 2020, arXiv 2001.03994), algorithm 3.

    delta = P(eta + alpha steepest(grad loss(x + eta))) with eta uniform in the ball. In the
    Euclidean norm it is the single-step training of Goodwin, Brown & Helus (arXiv 2007.03832):
    eta a random direction of random length, the step along g / ||g||. In l1, which neither treats, the step
    is sparse; `fast_eg_l1` is the method made for that norm.

    An update costs 5 forward passes' worth of work. Departs from the published loop in one thing:
    the crafting pass computes no weight gradients, which it threw away (6 units of work).
    """

    step_ratio: float = 1.25
    """alpha as a ratio of epsilon; in l2, 0.875 to 1.25 are in use"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        eta = context.random_start(threat, x)
        step = threat.step(context.gradient(model, x + eta, y), self.step_ratio)
        yield context.loss(context.forward(model, x + threat.project(x, eta + step)), y)
