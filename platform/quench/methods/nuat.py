"""Training on clean images, and on a batch whose logits an attack cannot shift together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quench.catalogue import name_of
from quench.context import crafting
from quench.datasets import Batch
from quench.errors import not_negative, positive
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class NuAT(Method):
    """Nuclear-norm adversarial training (Sriramanan et al., NeurIPS 2021).

    CE(f(x), y) + lambda ||f(x + delta) - f(x)||_* / N, the nuclear norm of the batch's N x classes matrix;
    delta = P(eta + epsilon steepest(g)) where eta is +-`start_ratio` epsilon by fair coins, and g
    the gradient of the cross-entropy and, on every other batch, of the nuclear term too. lambda
    grows from 0 to `weight` over 90 % of the run. The paper crafts in eval mode:
    `crafting_statistics = "running"`. An update costs 8 to 9 forward passes' worth of work.
    In l2 and l1 the start is a random point of the ball of that radius. The norm of N x classes grows
    like the root of N: `weight` belongs to batches of 64.
    """

    weight: float = 4.5
    """lambda at its highest"""
    start_ratio: float = 0.5
    """size of the start as a ratio of epsilon"""
    step_ratio: float = 1.0
    """size of the step as a ratio of epsilon"""

    def __post_init__(self) -> None:
        positive(self, "step_ratio")
        not_negative(self, "weight", "start_ratio")

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        x, y = batch.x, batch.y
        weight = self.weight * min(context.progress / 0.9, 1)
        eta = context.noise(threat, x, self.start_ratio)
        if name_of(threat.norm) == "linf":
            eta = self.start_ratio * threat.epsilon * eta.sign()
        eta = threat.clamp(x, eta)
        also_nuclear = context.number % 2 == 1
        with crafting(model, context.statistics) as bare, torch.no_grad():
            clean = bare(x) if also_nuclear else torch.empty(0)

        def objective(logits: Tensor) -> Tensor:
            losses = context.losses(logits, y)
            if not also_nuclear:
                return losses
            # The sum over this worker's examples is its part of the term: see `Ranks.whole`.
            return losses + weight * _nuclear(context.whole(logits - clean)) / (len(y) * context.ranks.size)

        step = threat.step(context.gradient(model, x + eta, y, objective), self.step_ratio)
        adversarial = model(x + threat.project(x, eta + step))
        context.loss(adversarial, y)
        clean = model(x)
        moved = context.whole(adversarial - clean)
        yield context.mean(context.losses(clean, y)) + weight * _nuclear(moved) / len(moved)


def _nuclear(logits: Tensor) -> Tensor:
    """The sum of the singular values of `(N, classes)`."""
    full = logits if logits.dtype == torch.float64 else logits.float()
    return torch.linalg.matrix_norm(full, ord="nuc")
