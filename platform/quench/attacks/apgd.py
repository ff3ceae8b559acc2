"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690; in l1 2021, arXiv 2103.01208): steps that find their own size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quench.attacks import Attack, Stage
from quench.attacks.climb import Loss
from quench.attacks.momentum import Momentum
from quench.attacks.sparse import Sparse
from quench.catalogue import name_of
from quench.errors import positive, require
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD on one loss. In l1 it begins in larger balls and takes sparse steps; see `Sparse`."""

    loss: Loss = "ce"
    """cross-entropy, difference of logits ratio, or that towards one wrong class after the other"""
    steps: int = 100
    """gradient steps of each restart or target"""
    restarts: int = 1
    """independent searches; of the targeted loss, one for each target"""
    targets: int = 9
    """how many of the likeliest wrong classes the targeted loss aims at, at most"""

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "targets")

    def stages(self, threat: ThreatModel, classes: int) -> Mapping[str, Stage]:
        least = {"ce": 2, "dlr": 3, "targeted": 4}[self.loss]
        require(classes >= least, "attack.loss", self.loss, f"needs {least} classes; these data have {classes}")
        rounds = min(self.targets, classes - 1) if self.loss == "targeted" else self.restarts
        kind = Sparse if name_of(threat.norm) == "l1" else Momentum
        return {
            {"ce": "apgd_ce", "dlr": "apgd_dlr", "targeted": "apgd_t"}[self.loss]: kind(self.loss, self.steps, rounds)
        }
