"""How robust a model is: every verdict kept, every adversarial example checked, every share with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quench.attacks import Attack, Precision, Victim
from quench.datasets import Batch, Split
from quench.evaluation.intervals import Share, wilson
from quench.ranks import Ranks
from quench.threat_model import ThreatModel

CHUNK = 4
"""batches that are judged together: enough for their queue to keep the batch full to the end"""


@dataclass(frozen=True)
class RobustnessReport:
    """Verdicts on one split, example by example, under one threat model."""

    threat: ThreatModel
    correct: Mapping[str, Tensor]
    """attack's label -> (n,) bool on the CPU: classified correctly without and under it; "clean" is without any"""

    @property
    def n(self) -> int:
        return len(self.correct["clean"])

    @property
    def robust_bits(self) -> Tensor:
        """(n,) bool: correct without and under every attack."""
        return torch.stack(list(self.correct.values())).all(0)

    @property
    def clean(self) -> Share:
        return self.under("clean")

    @property
    def robust(self) -> Share:
        return wilson(int(self.robust_bits.sum()), self.n)

    def under(self, attack: str) -> Share:
        """The share that is correct without attack and under this one."""
        return wilson(int(self.correct[attack].sum()), self.n)


def union(reports: Sequence[RobustnessReport]) -> Share:
    """The share of examples that are robust in every report, of the same split under several threat models."""
    bits = torch.stack([report.robust_bits for report in reports]).all(0)
    return wilson(int(bits.sum()), len(bits))


def evaluate(
    model: nn.Module,
    split: Split,
    attacks: Mapping[str, Attack],
    threat: ThreatModel,
    seed: int,
    batch_size: int,
    ranks: Ranks = Ranks(),  # noqa: B008 - immutable
    precision: Precision = "float32",
) -> RobustnessReport:
    """Judge `model` on `split` (on the model's device), in eval mode and float32 (on GPUs whose
    convolutions use TF32 by default, in that); `precision` is of crafting only.

    Each rank takes its share of the examples; all of them get the whole report.
    """
    mine = torch.arange(ranks.rank, len(split), ranks.size, device=split.labels.device)
    correct: dict[str, Tensor] = {}
    with evaluating(model):
        for index in mine.split(CHUNK * batch_size):
            for name, bits in judge(
                Victim(model, batch_size, precision), split.batch(index), attacks, threat, seed
            ).items():
                whole = correct.setdefault(name, torch.zeros(len(split), device=split.labels.device))
                whole[index] = bits.float()
    return RobustnessReport(threat, {name: ranks.total(bits).bool().cpu() for name, bits in correct.items()})


def judge(
    victim: Victim, batch: Batch, attacks: Mapping[str, Attack], threat: ThreatModel, seed: int
) -> dict[str, Tensor]:
    """Which examples are correct: attack's label -> (N,) bool, "clean" among them.

    Each attack is put to all examples that are right without one. Of an attack of several stages each
    has an entry of its own, `autoattack/square`, which holds what stood up to it and to those before.
    """
    logits = victim.logits(batch.x)
    correct = {"clean": logits.argmax(1) == batch.y}
    for label, attack in attacks.items():
        standing = correct["clean"].clone()
        stages = attack.stages(threat, logits.shape[1])
        for name, stage in stages.items():
            left = standing.nonzero().flatten()
            if len(left):
                part = Batch(batch.x[left], batch.y[left], batch.index[left])
                standing[left] = ~victim.fooled(part, stage(victim, part, threat, seed), threat)
            if len(stages) > 1:
                correct[f"{label}/{name}"] = standing.clone()
        correct[label] = standing
    return correct


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
