"""Training on one gradient step from where each class is attacked in general."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quench.attacks import ascent_gradient
from quench.context import crafting
from quench.datasets import Batch
from quench.errors import not_negative, positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class LIET(Method):
    """LIET (Pan et al., ICCV 2025): label-information starts, and agreement before and after the step.

    nu_c is the step that most raises the loss of class c on a plain grey image. A start is nu_y with a random
    share of its entries replaced by noise, in a random sign; delta = P(start + alpha steepest(g)). The loss

        CE(f(x + delta), y) + lambda JS(f(x + start), f(x + delta))

    is differentiated through both; lambda grows linearly to `weight` over the run. An update costs 7
    forward passes' worth of work. The authors train with strong label smoothing (0.6, the
    rest spread unevenly) and averaged weights: `label_smoothing`, spread evenly, and `averaging`
    of the recipe. In l2 and l1, which they do not treat, steps, noise and projection are the norm's.
    """

    weight: float = 100.0
    """lambda at the end of the run"""
    noise_ratio: float = 1.0
    """size of the noise as a ratio of epsilon; 2 above linf 8/255"""
    step_ratio: float = 1.0
    """alpha as a ratio of epsilon"""
    project: bool = True
    """bring delta back into the ball; not above linf 8/255"""
    refresh: int = 10
    """batches between two looks at the grey image"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio", "refresh")
        not_negative(self, "weight", "noise_ratio")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        if context.number % self.refresh == 0 or "directions" not in context.memory:
            context.memory["directions"] = _class_directions(model, x, threat, context)
        start = threat.project(x, self._start(context.memory["directions"][y], threat, context))
        gradient, before = context.gradient_and_logits(model, x + start, y)
        moved = start + threat.step(gradient, self.step_ratio)
        delta = threat.project(x, moved) if self.project else threat.clamp(x, moved)
        after = context.forward(model, x + delta)
        disagreement = context.mean(_jensen_shannon(before.log_softmax(1), after.log_softmax(1)))
        yield context.loss(after, y) + self.weight * context.progress * disagreement

    def _start(self, directions: Tensor, threat: ThreatModel, context: Context) -> Tensor:
        share, coin = torch.empty(2, device=directions.device).uniform_(generator=context.rng)
        noise = context.noise(threat, directions, self.noise_ratio)
        noisy = context.uniform(directions) < 0.1 + 0.4 * share
        return torch.where(noisy, noise, directions) * (coin - 0.5).sign()


def _class_directions(model: nn.Module, like: Tensor, threat: ThreatModel, context: Context) -> Tensor:
    """nu: `(classes, C, H, W)`."""
    grey = torch.full_like(like[:1], 0.5)
    with crafting(model, "running") as bare:
        bare = getattr(bare, "_orig_mod", bare)  # torch.compile would make graphs for batches of any size from now on
        with torch.no_grad():
            labels = torch.arange(bare(grey).shape[1], device=like.device)
        images = grey.expand(len(labels), *like.shape[1:])
        return threat.step(ascent_gradient(bare, images, lambda logits: context.losses(logits, labels))[0], 1.0)


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """`(N,)`: the divergence of two distributions, given by log-probabilities `(N, classes)`."""
    middle = (p.exp() + q.exp()).div(2).clamp_min(1e-12).log()
    return ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1)) / 2
