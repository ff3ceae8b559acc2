"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quench.attacks import Attack, Stage, Victim
from quench.attacks.search import Search, Slots, State
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
class PGD(Attack, Search):
    """`restarts` searches of `steps` steps each; one step from zero with ratio 1 is FGSM.

    An example is fooled if any image on the way fools the model, the start and the end among them.
    """

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

    def stages(self, threat: ThreatModel, classes: int) -> Mapping[str, Stage]:
        return {"pgd": self}

    def rounds(self, threat: ThreatModel) -> int:
        return self.restarts

    def looks(self, threat: ThreatModel) -> int:
        return self.steps + 1

    def begin(self, victim: Victim, slots: Slots, threat: ThreatModel, seed: int) -> State:
        if not self.random_start:
            return {"delta": torch.zeros_like(slots.x)}
        return {"delta": slots.drawn(seed, lambda rng, image: threat.random_start(image, rng))}

    def look(self, victim: Victim, slots: Slots, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        x, delta = slots.x, slots.state["delta"]
        tried = x + delta
        gradient, _, logits = victim.gradient(tried, lambda out: F.cross_entropy(out, slots.y, reduction="none"))
        step = threat.step(gradient, self.step_ratio or usual_step_ratio(self.steps))
        slots.state["delta"] = threat.project(x, delta + step)
        return tried, logits.argmax(1) != slots.y


PGD_50_10 = PGD(steps=50, restarts=10, step_ratio=0.25)
"""the field's habit for final numbers: 10 restarts of 50 steps, of 2/255 at linf 8/255 (arXiv 2001.03994)"""
