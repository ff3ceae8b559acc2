"""Asking a model for the signs in `reliability`: on a few images, with cheap attacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from quench.attacks import Attack, Victim
from quench.attacks.losses import cross_entropy
from quench.attacks.pgd import PGD, usual_step_ratio
from quench.datasets import Batch, Split
from quench.evaluation import judge
from quench.evaluation.reliability import (
    Flag,
    batch_dependent_outputs,
    black_box_beats_white_box,
    gradients_in_forward,
    loss_falls,
    more_restarts_help,
    probabilities,
    random_outputs,
    stands_in_the_whole_box,
    zero_gradients,
)
from quench.randomness import JUDGEMENT, generator
from quench.threat_model import ThreatModel

STEPS = 20
"""of the gradient attacks"""
RESTARTS = 4
"""of each half of the restarts"""


def flags(
    victim: Victim,
    split: Split,
    threat: ThreatModel,
    standing: Tensor,
    black_box: Attack,
    seed: int,
    most: int = 256,
) -> tuple[Flag, ...]:
    """Every sign of an unreliable evaluation that the victim shows, in the mode that it is in (see `evaluating`).

    `standing` is `(n,)` bool, on any device: the examples of `split` that stood up to the white-box attack
    (`RobustnessReport.robust_bits`); `black_box` is put to `most` of them at most, drawn at random. All else is
    asked of `most` of the split, for the price of some 10 restarts of PGD.
    """
    batch = _sample(split, torch.arange(len(split)), most, seed)
    logits = victim.logits(batch.x)
    right = _take(batch, (logits.argmax(1) == batch.y).nonzero().flatten())
    found = [
        random_outputs(logits, victim.logits(batch.x)) or batch_dependent_outputs(*in_other_company(victim, batch.x)),
        probabilities(logits),
        gradients_in_forward(kept_for_gradients(victim, batch.x)),
    ]
    if len(right.y):
        gradients, losses = climb(victim, right, threat)
        found += [zero_gradients(gradients), loss_falls(losses), more_restarts_help(*restarted(victim, batch, threat, seed))]
        if len(logits.argmax(1).unique()) > 1:  # a constant's accuracy never falls
            found.append(stands_in_the_whole_box(grown(victim, right, threat, seed)))
    stood = _sample(split, standing.cpu().nonzero().flatten(), most, seed)
    if len(stood.y):
        verdicts = judge(victim, stood, {"black_box": black_box}, threat, seed)
        found.append(black_box_beats_white_box(verdicts["clean"], verdicts["black_box"]))
    return tuple(flag for flag in found if flag is not None)


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


def restarted(victim: Victim, batch: Batch, threat: ThreatModel, seed: int) -> tuple[Tensor, Tensor]:
    """Which examples stand up to some restarts of PGD, and to as many again."""
    attack = PGD(steps=STEPS, restarts=RESTARTS)
    half = judge(victim, batch, {"pgd": attack}, threat, seed)["pgd"]
    left, whole = half.nonzero().flatten(), half.clone()
    if len(left):
        whole[left] = judge(victim, _take(batch, left), {"pgd": attack}, threat, seed + 1)["pgd"]
    return half, whole


def grown(victim: Victim, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
    """Which examples stand while epsilon doubles until the ball holds every image; what has fallen stays down."""
    largest = float(threat.norm.norm(torch.ones_like(batch.x[:1])))
    standing = torch.ones_like(batch.y, dtype=torch.bool)
    epsilon = threat.epsilon
    while standing.any():
        left = standing.nonzero().flatten()
        ball = replace(threat, epsilon=epsilon)
        standing[left] = judge(victim, _take(batch, left), {"pgd": PGD(steps=STEPS)}, ball, seed)["pgd"]
        if epsilon >= largest:
            break
        epsilon = min(2 * epsilon, largest)
    return standing


def _sample(split: Split, among: Tensor, most: int, seed: int) -> Batch:
    order = torch.randperm(len(among), generator=generator(torch.device("cpu"), seed, JUDGEMENT))
    return split.batch(among[order[:most]].to(split.labels.device))


def _take(batch: Batch, index: Tensor) -> Batch:
    return Batch(batch.x[index], batch.y[index], batch.index[index])
