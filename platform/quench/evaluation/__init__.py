"""How robust a model is: every verdict kept, every adversarial example checked, every share with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quench.allocator import keep_freed_memory
from quench.attacks import Attack, Precision, Victim
from quench.datasets import Batch, Examples
from quench.evaluation.intervals import Share, wilson
from quench.ranks import Ranks
from quench.threat_model import ThreatModel

CHUNK = 4
"""batches that are judged together: enough for their queue to keep the batch full to the end"""


@dataclass(frozen=True)
class RobustnessReport:
    """Verdicts on examples of one split under one threat model; of all of them, or of a random sample.

    They are given in eval mode and in float32, without TF32, whatever the `precision` of crafting.
    """

    threat: ThreatModel
    """in pixel units"""
    seed: int
    """of the attacks' random numbers"""
    precision: Precision
    index: Tensor
    """(n,) int64, ascending, on the CPU: the examples' places in the split"""
    correct: Mapping[str, Tensor]
    """attack's label -> (n,) bool on the CPU: classified correctly without and under it; "clean" is without any"""

    @property
    def n(self) -> int:
        return len(self.index)

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
    """The share of examples that are robust in every report, of those that all of them judged."""
    known = [dict(zip(r.index.tolist(), r.robust_bits.tolist(), strict=True)) for r in reports]
    common = set(known[0]).intersection(*known)
    return wilson(sum(all(bits[i] for bits in known) for i in common), len(common))


class Judged(NamedTuple):
    """The verdicts on some examples: their places in the split, and what `judge` says of them, on the CPU."""

    places: Tensor
    correct: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What is asked of a model: everything that decides the verdicts."""

    attacks: Mapping[str, Attack]
    """label -> attack; each is put to every example"""
    threat: ThreatModel
    seed: int
    batch_size: int
    """examples that go through the model at once"""
    precision: Precision = "float32"
    """arithmetic of crafting"""

    def parts(self, index: Tensor, ranks: int = 1) -> Sequence[Tensor]:
        """`index` `(n,)` as what is judged and kept together: an eighth, but a batch at least and `CHUNK` at most."""
        size = min(max(len(index) // 8, self.batch_size), CHUNK * self.batch_size)
        return index.split(size * ranks)

    def part(
        self,
        model: nn.Module,
        split: Examples,
        index: Tensor,
        ranks: Ranks = Ranks(),  # noqa: B008 - immutable
    ) -> Judged:
        """Judge the examples at `index` `(n,)` of `split`, on the model's device and in eval mode.

        Each rank takes its share; all of them get all verdicts.
        """
        keep_freed_memory()
        index = index.to(split.labels.device)
        mine = torch.arange(ranks.rank, len(index), ranks.size, device=index.device)
        victim = Victim(model, self.batch_size, self.precision)
        with evaluating(model):
            found = judge(victim, split.batch(index[mine]), self.attacks, self.threat, self.seed)
        correct: dict[str, Tensor] = {}
        for name, bits in found.items():
            whole = torch.zeros(len(index), device=index.device)
            whole[mine] = bits.float()
            correct[name] = ranks.total(whole).bool().cpu()
        return Judged(index.cpu(), correct)

    def report(self, parts: Iterable[Judged]) -> RobustnessReport:
        """All that was judged, as one. Raises `ValueError` if that is nothing."""
        places, verdicts = zip(*parts, strict=True)
        index, order = torch.cat(places).sort()
        correct = {name: torch.cat([part[name] for part in verdicts])[order] for name in verdicts[0]}
        return RobustnessReport(self.threat, self.seed, self.precision, index, correct)


def evaluate(
    model: nn.Module,
    split: Examples,
    examination: Examination,
    ranks: Ranks = Ranks(),  # noqa: B008 - immutable
) -> RobustnessReport:
    """Judge `model` on all of `split`."""
    parts = examination.parts(torch.arange(len(split)), ranks.size)
    return examination.report(examination.part(model, split, part, ranks) for part in parts)


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
