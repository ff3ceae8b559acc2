"""Training on one gradient step from strong noise, without projecting it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from quench.datasets import Batch
from quench.errors import not_negative, positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class NFGSM(Method):
    """Noise-FGSM (de Jorge et al. 2022, arXiv 2202.01181), algorithm 1.

    delta = eta + alpha steepest(grad loss(x + eta)) with eta random in `noise_ratio` times the
    ball: noise that may leave the ball, and stays in the image that is trained on. x + delta is
    kept in the pixel box. An update costs 5 forward passes' worth of work.

    The paper treats l-infinity. In l2 and l1 we take the same form with eta a random direction of
    length U[0, noise_ratio epsilon].
    """

    noise_ratio: float = 2.0
    """k: radius of the noise as a ratio of epsilon"""
    step_ratio: float = 1.0
    """alpha as a ratio of epsilon"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio")
        not_negative(self, "noise_ratio")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        eta = context.random_start(threat, x, self.noise_ratio)
        step = threat.step(context.gradient(model, x + eta, y), self.step_ratio)
        yield context.loss(context.forward(model, x + threat.clamp(x, eta + step)), y)
