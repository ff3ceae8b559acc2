"""Training on one gradient step, as long as the loss is straight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from quench.datasets import Batch
from quench.errors import positive, require
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class SORA(Method):
    """SORA (ICML 2026, arXiv 2606.00738): the step follows the linearity kappa seen in the last updates.

    delta = eta + alpha u * steepest(grad loss(x + eta)), eta random in the ball, u uniform in [0, 1] for
    each pixel, no projection onto the ball, x + delta in the pixel box. `Context.observe` measures kappa
    of each update from gradients that are there anyway; with k the moving average,

        alpha = step_ratio epsilon min(1, tolerance / (1 - k)).

    An update costs 5 forward passes' worth of work. In l1 start and step are the norm's, which the paper does
    not treat.
    """

    step_ratio: float = 2.0
    """alpha at its longest, as a ratio of epsilon"""
    tolerance: float = 0.02
    """1 - kappa up to which the step is not shortened"""
    memory: float = 0.95
    """weight of the past in the moving average of kappa"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio", "tolerance")
        require(0 <= self.memory < 1, "memory", self.memory, "must be from 0 to below 1")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        linearity = context.memory.get("linearity", x.new_full((), 0.99))
        shorter = (self.tolerance / (1 - linearity).clamp_min(1e-6)).clamp_max(1)
        eta = context.random_start(threat, x)
        step = threat.step(context.gradient(model, x + eta, y), self.step_ratio)
        delta = threat.clamp(x, eta + shorter * context.uniform(x) * step)
        yield context.loss(context.forward(model, x + delta), y)
        seen = context.linearity()
        if seen is not None:
            linearity = self.memory * linearity + (1 - self.memory) * seen
        context.memory["linearity"] = linearity
