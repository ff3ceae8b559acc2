"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690; in l1 2021, arXiv 2103.01208): four searches that differ in kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from quench.attacks import Attack, Stage, Victim
from quench.attacks.apgd import APGD
from quench.attacks.fab import FAB
from quench.attacks.square import Square
from quench.catalogue import name_of
from quench.datasets import Batch
from quench.errors import positive, require
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """The authors' version `standard`: Auto-PGD on cross-entropy, then on the targeted difference of logits
    ratio, FAB-T, and Square, each on what stood up to those before.

    In l1 that is five restarts of the first and five targets of the second, else one and nine.
    """

    steps: int = 100
    """gradient steps of each restart or target of the first three"""
    queries: int = 5000
    """queries of Square"""

    def __post_init__(self) -> None:
        positive(self, "steps", "queries")

    def stages(self, threat: ThreatModel, classes: int) -> Mapping[str, Stage]:
        four_classes(self, classes)
        l1 = name_of(threat.norm) == "l1"
        attacks = (
            APGD(loss="ce", steps=self.steps, restarts=5 if l1 else 1),
            APGD(loss="targeted", steps=self.steps, targets=5 if l1 else 9),
            FAB(steps=self.steps, targets=9),
            Square(queries=self.queries),
        )
        return in_turn(attacks, threat, classes)


def in_turn(attacks: Sequence[Attack], threat: ThreatModel, classes: int) -> dict[str, Stage]:
    """The stages of these attacks, one after the other, each with random numbers of its own."""
    return {
        name: _with_own_seed(stage, number, len(attacks))
        for number, attack in enumerate(attacks)
        for name, stage in attack.stages(threat, classes).items()
    }


def four_classes(attack: Attack, classes: int) -> None:
    """Raise `InvalidValue` with fewer: the targeted difference of logits ratio has the fourth largest logit in it."""
    require(classes >= 4, "attack", name_of(attack), f"needs 4 classes; these data have {classes}; try apgd, or pgd")


def _with_own_seed(stage: Stage, number: int, count: int) -> Stage:
    """`stage`, the `number`th of `count`: no two of them, of any two seeds, draw the same random numbers."""

    def seeded(victim: Victim, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
        return stage(victim, batch, threat, seed * count + number)

    return seeded
