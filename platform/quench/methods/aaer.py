"""Training on one gradient step, against examples whose loss falls in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from quench.datasets import Batch
from quench.errors import not_negative, positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class AAER(Method):
    """AAER (Lin et al. 2024, arXiv 2404.08154) on N-FGSM: regularises abnormal adversarial examples.

    An example is abnormal if the step made its loss smaller. With V the mean squared distance, over a set
    of examples, between logits before and after the step, and what is before it constant, the loss is

        CE(f(x + delta), y) + weight share(abnormal) max(V(abnormal) - V(normal), 0)

    with V(normal) constant too. The authors' code adds the fall of the losses, as a constant, which
    trains nothing: left out. An update costs 5 forward passes' worth of work. In l2 and l1 noise and
    step are the norm's.
    """

    weight: float = 0.15
    """lambda_1 lambda_3; 0.15 at linf 8/255, 0.55 at 12/255, 1.5 at 16/255 on CIFAR-10"""
    noise_ratio: float = 2.0
    """radius of the noise as a ratio of epsilon"""
    step_ratio: float = 1.0
    """alpha as a ratio of epsilon"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio")
        not_negative(self, "weight", "noise_ratio")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        eta = context.random_start(threat, x, self.noise_ratio)
        starts: list[Tensor] = []

        def keep(logits: Tensor) -> Tensor:
            starts.append(logits.detach())
            return context.losses(logits, y)

        step = threat.step(context.gradient(model, x + eta, y, keep), self.step_ratio)
        logits, (start,) = context.forward(model, x + threat.clamp(x, eta + step)), starts
        loss, moved = context.loss(logits, y), (logits - start).square().sum(1)
        abnormal = (context.losses(logits, y) < context.losses(start, y)).to(moved.dtype)
        moved, abnormal = context.whole(moved), context.whole(abnormal)
        excess = (_mean(moved, abnormal) - _mean(moved, 1 - abnormal).detach()).clamp_min(0)
        some_normal = abnormal.mean() < 1
        yield loss + self.weight * some_normal * abnormal.mean() * excess


def _mean(values: Tensor, members: Tensor) -> Tensor:
    """Over the examples with 1 in `members`; 0 if there is none."""
    return (values * members).sum() / members.sum().clamp_min(1)
