"""What the rules of `reliability` judge by, measured on a batch: outputs, gradients, losses, and who still stands."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from quench.attacks import Attack, Victim
from quench.attacks.losses import cross_entropy
from quench.attacks.pgd import usual_step_ratio
from quench.datasets import Batch
from quench.evaluation import judge
from quench.threat_model import ThreatModel

STEPS = 20
"""of the gradient ascent whose loss is watched"""


def still_standing(
    victim: Victim, batch: Batch, standing: Tensor, attack: Attack, threat: ThreatModel, seed: int
) -> Tensor:
    """Which of the examples that stand, `(N,)` bool, do so after `attack` too."""
    left, after = standing.nonzero().flatten(), standing.clone()
    if len(left):
        after[left] = judge(victim, batch.take(left), {"attack": attack}, threat, seed)["attack"]
    return after


def outgrown(victim: Victim, batch: Batch, standing: Tensor, attack: Attack, threat: ThreatModel, seed: int) -> Tensor:
    """Which of the examples stand while epsilon doubles until the ball holds every image; the fallen stay down."""
    whole = float(threat.norm.norm(torch.ones_like(batch.x[:1])))
    epsilon = threat.epsilon
    while epsilon < whole and standing.any():
        epsilon = min(2 * epsilon, whole)
        standing = still_standing(victim, batch, standing, attack, replace(threat, epsilon=epsilon), seed)
    return standing


def in_other_company(victim: Victim, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of some of the images `(n, C, H, W)`, among themselves and among their negatives.

    Both batches have one size: of two sizes, a device may compute the same image in two ways.
    """
    some = x[: max(victim.batch_size // 2, 1)]
    with torch.no_grad():
        return tuple(victim.model(torch.cat([some, other])).float()[: len(some)] for other in (some, 1 - some))


def kept_for_gradients(victim: Victim, x: Tensor) -> int:
    """How many tensors a forward pass keeps for a backward pass though it is asked to keep none."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        victim.logits(x[:1])
    return len(kept)


def climb(victim: Victim, batch: Batch, threat: ThreatModel) -> tuple[Tensor, list[float]]:
    """The input gradients at the images, and the mean cross-entropy after 0, 1, ... steps of PGD from them."""
    gradients, losses = [], torch.zeros(STEPS + 1, dtype=torch.float64)
    for part in torch.arange(len(batch.y), device=batch.y.device).split(victim.batch_size):
        x, y = batch.x[part], batch.y[part]
        delta = torch.zeros_like(x)
        for step in range(STEPS + 1):
            gradient, loss, _ = victim.gradient(x + delta, lambda logits, y=y: cross_entropy(logits, y))
            losses[step] += loss.double().sum().cpu() / len(batch.y)
            if step == 0:
                gradients.append(gradient)
            delta = threat.project(x, delta + threat.step(gradient, usual_step_ratio(STEPS)))
    return torch.cat(gradients), losses.tolist()
