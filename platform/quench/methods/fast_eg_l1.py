"""Training on one Euclidean step, for the l1 norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from quench.datasets import Batch
from quench.errors import positive
from quench.geometry.l2 import L2
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class FastEGL1(Method):
    """Fast-EG-L1 (Jiang et al., ICML 2023): single-step training in l1 that does not overfit catastrophically.

    delta = P(eta + alpha g / ||g||_2), eta random in the ball, g the gradient at x + eta: a Euclidean
    step, of which the projection onto the l1 ball of radius `radius_ratio` epsilon (and the pixel box, in one;
    the authors clamp afterwards) keeps what matters. Defined in l1 only. The length of eta is
    uniform in [0, epsilon] here. The paper crafts in eval mode: `crafting_statistics = "running"`.
    An update costs 5 forward passes' worth of work.
    """

    norms: ClassVar[tuple[str, ...]] = ("l1",)

    step_ratio: float = 1.0
    """alpha as a ratio of the root of epsilon"""
    radius_ratio: float = 2.0
    """radius of the ball that is trained on, as a ratio of epsilon"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio", "radius_ratio")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        eta = context.random_start(threat, x)
        step = self.step_ratio * threat.epsilon**0.5 * L2().steepest(context.gradient(model, x + eta, y))
        delta = threat.project(x, eta + step, ratio=self.radius_ratio)
        yield context.loss(context.forward(model, x + delta), y)
