"""AutoAttack as its authors wrote it, the package pyautoattack: the referee of `autoattack`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quench.attacks import Attack, Stage, Victim
from quench.attacks.autoattack import four_classes
from quench.catalogue import name_of
from quench.datasets import Batch
from quench.errors import InvalidValue, positive
from quench.threat_model import ThreatModel

LOGGER = "auto-attack"
"""the package's own name for it"""


@dataclass(frozen=True, kw_only=True)
class PyAutoAttack(Attack):
    """Version `standard`, in float32 whatever the precision of crafting, in plain batches.

    What is drawn depends on the batch, here as there.
    """

    steps: int = 100
    """gradient steps of each restart or target of the first three attacks"""
    queries: int = 5000
    """queries of Square"""

    def __post_init__(self) -> None:
        positive(self, "steps", "queries")

    def stages(self, threat: ThreatModel, classes: int) -> Mapping[str, Stage]:
        four_classes(self, classes)
        _package()
        return {name: partial(self._run, name, classes) for name in ("apgd_ce", "apgd_t", "fab_t", "square")}

    def _run(self, name: str, classes: int, victim: Victim, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
        """One of its attacks as a `Stage`."""
        with _contained(victim.model, batch.x.device):
            attack = self.attack(name, victim.model, batch.x.device, threat, classes, seed)
            # Its code reshapes in place, which needs plain memory order.
            parts = zip(batch.x.contiguous().split(victim.batch_size), batch.y.split(victim.batch_size), strict=True)
            return torch.cat([attack.perturb(x, y).detach() for x, y in parts])

    def attack(
        self, name: str, model: nn.Module, device: torch.device, threat: ThreatModel, classes: int, seed: int
    ) -> Any:
        """The package's own object, as its `AutoAttack` makes it, but with no more targets than wrong classes."""
        package, l1 = _package(), name_of(threat.norm) == "l1"
        norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[name_of(threat.norm)]
        common: dict[str, Any] = {"norm": norm, "eps": threat.epsilon, "seed": seed, "device": device}
        climbing = {**common, "n_iter": self.steps, "use_largereps": l1, "logger": logging.getLogger(LOGGER)}
        if name == "apgd_ce":
            return package.APGDAttack(model, n_restarts=5 if l1 else 1, **climbing)
        if name == "square":
            return package.SquareAttack(model, n_queries=self.queries, resc_schedule=False, **common)
        if name == "fab_t":
            targets = min(9, classes - 1)
            return package.FABAttack_PT(model, n_iter=self.steps, targeted=True, n_target_classes=targets, **common)
        return package.APGDAttack_targeted(model, n_target_classes=min(5 if l1 else 9, classes - 1), **climbing)


def _package() -> Any:
    try:
        from pyautoattack import autoattack
    except ModuleNotFoundError:
        needed = "needs the package of that name: pip install 'quench[autoattack]'"
        raise InvalidValue("attack", "pyautoattack", needed) from None
    return autoattack


@contextmanager
def _contained(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The package seeds the global generators, logs, warns, and lets FAB leave gradients on the weights: undone."""
    logger = logging.getLogger(LOGGER)
    level, gradients = logger.level, [(weight, weight.grad) for weight in model.parameters()]
    logger.setLevel(logging.CRITICAL)
    for weight, _ in gradients:
        weight.grad = None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for weight, gradient in gradients:
            weight.grad = gradient
