"""APGD-CE+T: the first half of AutoAttack (Croce & Hein 2020, arXiv 2003.01690), for a second look at many models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quench.attacks import Attack, Stage
from quench.attacks.apgd import APGD
from quench.attacks.autoattack import in_turn
from quench.errors import positive
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class APGDCET(Attack):
    """Auto-PGD on cross-entropy, and on the targeted difference of logits ratio for what stood up to that.

    Two losses with different blind spots: a model that only hides its gradient from the one is found by the other.
    With fewer than four classes the second is not defined, and left out.
    """

    steps: int = 100
    """gradient steps of the first, and for each target of the second"""
    targets: int = 9
    """how many of the likeliest wrong classes the second aims at, at most"""

    def __post_init__(self) -> None:
        positive(self, "steps", "targets")

    def stages(self, threat: ThreatModel, classes: int) -> Mapping[str, Stage]:
        both = (APGD(steps=self.steps), APGD(loss="targeted", steps=self.steps, targets=self.targets))
        return in_turn(both if classes >= 4 else both[:1], threat, classes)
