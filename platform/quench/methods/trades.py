"""Training on clean images, and on agreeing with oneself about their worst neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quench.attacks.pgd import ascend, usual_step_ratio
from quench.context import crafting
from quench.datasets import Batch
from quench.errors import not_negative, positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class TRADES(Method):
    """TRADES (Zhang et al. 2019, arXiv 1901.08573): min CE(f(x), y) + beta max KL(f(x) || f(x + delta)).

    The inner maximum by `steps` of PGD on the divergence from a start of tiny noise (standard
    deviation 0.001). The paper crafts in eval mode: `crafting_statistics = "running"`. An update costs
    2 `steps` + 7 forward passes' worth of work. In l2 and l1 steps and projection are the norm's.
    """

    beta: float = 6.0
    """weight of the divergence"""
    steps: int = 10
    """gradient steps of the attack"""
    step_ratio: float | None = None
    """step size as a ratio of epsilon; 2.5 / steps if not given"""

    def __post_init__(self) -> None:
        positive(self, "steps", "step_ratio")
        not_negative(self, "beta")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        with crafting(model, context.statistics) as bare, torch.no_grad():
            clean = bare(x).log_softmax(1)
        noise = context.drawn(x, lambda like: torch.empty_like(like).normal_(0, 0.001, generator=context.rng))
        ratio = self.step_ratio or usual_step_ratio(self.steps)

        def gradient(at: Tensor) -> Tensor:
            return context.gradient(model, at, y, lambda logits: _divergence(clean, logits.log_softmax(1)))

        delta = ascend(gradient, x, threat.project(x, noise), threat, self.steps, ratio)
        adversarial, clean = model(x + delta), model(x)
        divergence = context.mean(_divergence(clean.log_softmax(1), adversarial.log_softmax(1)))
        context.loss(adversarial, y)
        yield context.mean(context.losses(clean, y)) + self.beta * divergence


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each example, from log-probabilities `(N, classes)`."""
    return (p.exp() * (p - q)).sum(1)
