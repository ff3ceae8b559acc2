"""Robust accuracy against epsilon, in one pass from the largest ball to the smallest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from quench.attacks import Attack, Victim
from quench.catalogue import name_of
from quench.datasets import Batch, Examples
from quench.errors import require
from quench.evaluation import CHUNK, RobustnessReport
from quench.ranks import Ranks
from quench.threat_model import ThreatModel


def curve(
    victim: Victim,
    split: Examples,
    attack: Attack,
    threat: ThreatModel,
    epsilons: Sequence[float],
    seed: int,
    ranks: Ranks = Ranks(),  # noqa: B008 - immutable
) -> tuple[RobustnessReport, ...]:
    """Judge the victim under `attack` at each of `epsilons` (in pixel units; `threat`'s own is not used).

    One report for each, from the smallest epsilon to the largest. Balls are nested, and so are the verdicts: an
    example that stands in a ball stands in all smaller ones. One that has fallen is tried in the next ball with
    its adversarial example brought into that, and is attacked anew only if this does not fool. The model is
    judged in the mode that it is in (see `evaluating`). Each rank takes its share, as in `evaluate`.

    Raises `InvalidValue` if there are no epsilons, or one that is not above 0.
    """
    require(len(epsilons) > 0, "epsilons", epsilons, "must be one or more numbers above 0")
    balls = [replace(threat, epsilon=epsilon) for epsilon in sorted(set(epsilons), reverse=True)]
    bits = torch.zeros(1 + len(balls), len(split), device=split.labels.device)
    mine = torch.arange(ranks.rank, len(split), ranks.size, device=split.labels.device)
    for index in mine.split(CHUNK * victim.batch_size):
        bits[:, index] = torch.stack(_descend(victim, split.batch(index), attack, balls, seed)).float()
    clean, *standing = ranks.total(bits).bool().cpu()
    reports = [
        RobustnessReport(
            ball, seed, victim.precision, torch.arange(len(split)), {"clean": clean, name_of(attack): robust}
        )
        for ball, robust in zip(balls, standing, strict=True)
    ]
    return tuple(reversed(reports))


def _descend(victim: Victim, batch: Batch, attack: Attack, balls: Sequence[ThreatModel], seed: int) -> list[Tensor]:
    """Which examples are correct, `(N,)` bool: without attack, then in each ball from the largest down."""
    logits = victim.logits(batch.x)
    clean = logits.argmax(1) == batch.y
    found, fallen = batch.x.clone(), clean.clone()
    verdicts = [clean]
    for depth, ball in enumerate(balls):
        left = fallen.nonzero().flatten()
        if len(left):
            part = batch.take(left)
            near = part.x + ball.project(part.x, found[left] - part.x)
            open_ = ~victim.fooled(part, near, ball) if depth else torch.ones_like(part.y, dtype=torch.bool)
            for stage in attack.stages(ball, logits.shape[1]).values():
                asked = open_.nonzero().flatten()
                if len(asked):
                    some = part.take(asked)
                    near[asked] = stage(victim, some, ball, seed)
                    open_[asked] = ~victim.fooled(some, near[asked], ball)
            found[left], fallen[left] = near, ~open_
        verdicts.append(clean & ~fallen)
    return verdicts
