"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from quench.attacks import Attack, input_gradient
from quench.datasets import Batch
from quench.errors import positive
from quench.threat_model import ThreatModel


def ascend(
    gradient: Callable[[Tensor], Tensor], x: Tensor, delta: Tensor, threat: ThreatModel, steps: int, step_ratio: float
) -> Tensor:
    """`steps` times delta <- P(delta + step_ratio epsilon steepest(gradient(x + delta))): `(N, ...)`."""
    for _ in range(steps):
        delta = threat.project(x, delta + threat.step(gradient(x + delta), step_ratio))
    return delta


def usual_step_ratio(steps: int) -> float:
    """2.5 / steps: the ball can be crossed, and the last steps still refine (arXiv 1706.06083)."""
    return 2.5 / steps


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """`restarts` searches of `steps` steps each; one step from zero with ratio 1 is FGSM."""

    steps: int = 20
    """gradient steps of each restart"""
    restarts: int = 1
    """independent searches, of which the worst counts, example by example"""
    step_ratio: float | None = None
    """step size as a ratio of epsilon; 2.5 / steps if not given"""
    random_start: bool = True
    """start at a random point of the ball instead of at the image"""

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "step_ratio")

    def __call__(self, model: nn.Module, batch: Batch, threat: ThreatModel, rng: Generator) -> Tensor:
        worst = batch.x.clone()
        highest = torch.full_like(batch.y, -torch.inf, dtype=torch.float32)
        standing = torch.arange(len(batch.y), device=batch.y.device)
        for _ in range(self.restarts):
            x, y = batch.x[standing], batch.y[standing]
            found = x + self._search(model, x, y, threat, rng)
            with torch.no_grad():
                logits = model(found)
            fooled = logits.argmax(1) != y
            loss = F.cross_entropy(logits.float(), y, reduction="none")
            worse = fooled | (loss > highest[standing])
            worst[standing[worse]] = found[worse]
            highest[standing[worse]] = loss[worse]
            standing = standing[~fooled]
            if len(standing) == 0:
                break
        return worst

    def _search(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, rng: Generator) -> Tensor:
        delta = threat.random_start(x, rng) if self.random_start else torch.zeros_like(x)
        ratio = self.step_ratio or usual_step_ratio(self.steps)
        return ascend(lambda at: input_gradient(model, at, y), x, delta, threat, self.steps, ratio)
