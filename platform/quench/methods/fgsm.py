"""Training on one gradient step from the image itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from quench.datasets import Batch
from quench.errors import positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class FGSM(Method):
    """FGSM training (Goodfellow et al. 2015, arXiv 1412.6572): delta = alpha steepest(grad loss(x)).

    Prone to catastrophic overfitting: a baseline, and what a guard is tested on. An update costs 5
    forward passes' worth of work. Departs from the paper's loss, half of which is clean: all of it
    is adversarial here, as in later work. In l2 and l1 the step is the norm's.
    """

    step_ratio: float = 1.0
    """alpha as a ratio of epsilon"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        delta = threat.step(context.gradient(model, x, y), self.step_ratio)
        yield context.loss(context.forward(model, x + threat.project(x, delta)), y)
