"""One pass over all radii comes to what separate evaluations do, for fewer calls of the model."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from quench.attacks import Attack, Victim
from quench.attacks.apgd import APGD
from quench.attacks.pgd import PGD
from quench.datasets import Split
from quench.errors import InvalidValue
from quench.evaluation import Examination, evaluate, evaluating
from quench.evaluation.curve import curve
from quench.geometry import Geometry
from quench.geometry.l1 import L1
from quench.geometry.l2 import L2
from quench.geometry.linf import Linf
from quench.ranks import Ranks
from quench.threat_model import ThreatModel

EPSILONS = {
    Linf(): (0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
    L2(): (0.2, 0.4, 0.6, 0.8, 1.2, 1.6),
    L1(): (0.5, 1.0, 2.0, 3.0, 4.0, 6.0),
}


class Counted(nn.Module):
    """Counts the images that go through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


@pytest.mark.parametrize("attack", [PGD(steps=10, restarts=2), APGD(steps=10)], ids=["pgd", "apgd"])
@pytest.mark.parametrize("norm", EPSILONS, ids=["linf", "l2", "l1"])
def test_it_is_what_separate_evaluations_find_for_less(
    norm: Geometry, attack: Attack, robust: nn.Module, digits: Split
) -> None:
    threat, model = ThreatModel(norm=norm, epsilon=1.0), Counted(robust)
    with evaluating(model):
        reports = curve(Victim(model, 20), digits, attack, threat, EPSILONS[norm], seed=0)
    spent, model.images = model.images, 0
    asked = Examination(attacks={"it": attack}, threat=threat, seed=0, batch_size=20)
    apart = [evaluate(model, digits, replace(asked, threat=replace(threat, epsilon=e))) for e in EPSILONS[norm]]
    assert spent < 0.8 * model.images
    for one, other in zip(reports, apart, strict=True):
        assert one.threat == other.threat
        assert torch.equal(one.correct["clean"], other.correct["clean"])
        assert abs(one.robust.value - other.robust.value) <= 0.03
    assert reports[0].robust.value > reports[-1].robust.value
    for smaller, larger in pairwise(reports):
        assert not (larger.robust_bits & ~smaller.robust_bits).any()


class Threshold(nn.Module):
    """Says 1 where the image's mean is above one half: an image is robust if it is epsilon away from that."""

    def forward(self, x: Tensor) -> Tensor:
        score = 20 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([torch.zeros_like(score), score], 1)


def greys() -> Split:
    grey = torch.tensor([10, 100, 120, 135, 150, 240], dtype=torch.uint8)
    return Split(grey.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), torch.tensor([0, 0, 0, 1, 1, 0]))


@pytest.mark.parametrize("batch_size", [1, 500])
def test_verdicts_of_a_model_whose_margins_are_known(batch_size: int) -> None:
    threat = ThreatModel(norm=Linf(), epsilon=1.0)
    reports = curve(Victim(Threshold(), batch_size), greys(), PGD(steps=5), threat, (0.05, 0.01, 0.2, 0.05), seed=0)
    assert [report.threat.epsilon for report in reports] == [0.01, 0.05, 0.2]
    assert [report.robust_bits.int().tolist() for report in reports] == [
        [1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 0],
    ]
    assert set(reports[0].correct) == {"clean", "pgd"}


def test_shares_of_several_workers_add_up_to_the_whole() -> None:
    class Alone(Ranks):
        """Worker r of 2, without a group to sum over."""

        def total(self, value: Tensor) -> Tensor:
            return value

    def bits(ranks: Ranks) -> Tensor:
        threat = ThreatModel(norm=Linf(), epsilon=1.0)
        reports = curve(Victim(Threshold(), 2), greys(), PGD(steps=5), threat, (0.05, 0.2), 0, ranks)
        return torch.stack([report.robust_bits for report in reports])

    first, second = (bits(Alone(rank, 2)) for rank in (0, 1))
    assert torch.equal(first | second, bits(Ranks()))
    assert not (first & second).any()


@pytest.mark.parametrize("epsilons", [(), (0.1, 0.0)])
def test_radii_are_checked(epsilons: tuple[float, ...]) -> None:
    with pytest.raises(InvalidValue, match="epsilon"):
        curve(Victim(Threshold()), greys(), PGD(), ThreatModel(norm=Linf(), epsilon=1.0), epsilons, 0)
