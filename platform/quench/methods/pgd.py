"""Training on the worst image that several gradient steps find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from quench.attacks.pgd import ascend, usual_step_ratio
from quench.datasets import Batch
from quench.errors import positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class PGDTraining(Method):
    """Madry et al. 2018 (arXiv 1706.06083), eq. 2.1 with the inner maximum by `steps` of PGD.

    An update costs 2 `steps` + 3 forward passes' worth of work. In l1, which the paper does not treat,
    steps are sparse as in SLIDE and APGD-L1 (see `geometry.l1`).
    """

    steps: int = 7
    """gradient steps of the attack"""
    step_ratio: float | None = None
    """step size as a ratio of epsilon; 2.5 / steps if not given"""

    def __post_init__(self) -> None:
        positive(self, "steps", "step_ratio")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        delta = context.random_start(threat, x)
        ratio = self.step_ratio or usual_step_ratio(self.steps)
        delta = ascend(lambda at: context.gradient(model, at, y), x, delta, threat, self.steps, ratio)
        yield context.loss(context.forward(model, x + delta), y)
