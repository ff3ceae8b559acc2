"""How robust a model is: every verdict kept, every adversarial example checked, every share with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from quench.attacks import Attack
from quench.datasets import Split
from quench.ranks import Ranks
from quench.threat_model import ThreatModel


class Share(NamedTuple):
    """A share of examples, in [0, 1], with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def wilson(successes: int, n: int, z: float = 1.959964) -> Share:
    """Wilson's score interval for a binomial share (Wilson 1927); `z` = 1.96 covers 95 %."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Share(share, max(centre - half, 0.0), min(centre + half, 1.0))


@dataclass(frozen=True)
class RobustnessReport:
    """Verdicts on one split, example by example, under one threat model."""

    threat: ThreatModel
    correct: Mapping[str, Tensor]
    """attack's label -> (n,) bool on the CPU: still classified correctly; "clean" is without attack"""

    @property
    def n(self) -> int:
        return len(self.correct["clean"])

    @property
    def robust_bits(self) -> Tensor:
        """(n,) bool: correct without and under every attack."""
        return torch.stack(list(self.correct.values())).all(0)

    @property
    def clean(self) -> Share:
        return wilson(int(self.correct["clean"].sum()), self.n)

    @property
    def robust(self) -> Share:
        return wilson(int(self.robust_bits.sum()), self.n)

    def under(self, attack: str) -> Share:
        """The share that is correct without attack and under this one."""
        return wilson(int((self.correct["clean"] & self.correct[attack]).sum()), self.n)


def union(reports: Sequence[RobustnessReport]) -> Share:
    """The share of examples that are robust in every report, of the same split under several threat models."""
    bits = torch.stack([report.robust_bits for report in reports]).all(0)
    return wilson(int(bits.sum()), len(bits))


def evaluate(
    model: nn.Module,
    split: Split,
    attacks: Mapping[str, Attack],
    threat: ThreatModel,
    rng: Generator,
    batch_size: int,
    ranks: Ranks = Ranks(),  # noqa: B008 - immutable
) -> RobustnessReport:
    """Judge `model` on `split` (on the model's device), in eval mode and float32 (on GPUs whose
    convolutions use TF32 by default, in that).

    Each rank takes its share of the examples; all of them get the whole report. An example that
    is wrong without attack is not attacked. Raises `RuntimeError` if an attack leaves the threat
    model: such a verdict would mean nothing.
    """
    correct = {name: torch.zeros(len(split), device=split.labels.device) for name in ("clean", *attacks)}
    mine = torch.arange(ranks.rank, len(split), ranks.size, device=split.labels.device)
    with evaluating(model), torch.no_grad():
        for index in mine.split(batch_size):
            batch = split.batch(index)
            right = model(batch.x).argmax(1) == batch.y
            correct["clean"][index] = right.float()
            batch = split.batch(index[right])
            for name, attack in attacks.items() if len(batch.y) else ():
                adversarial = attack(model, batch, threat, rng)
                outside = ~threat.contains(batch.x, adversarial)
                if outside.any():
                    raise RuntimeError(f"{name} left the threat model {threat} on {int(outside.sum())} examples")
                correct[name][batch.index] = (model(adversarial).argmax(1) == batch.y).float()
    return RobustnessReport(threat, {name: ranks.total(bits).bool().cpu() for name, bits in correct.items()})


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards each in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
