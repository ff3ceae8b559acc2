from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor, nn

from quench.attacks import Attack, Stage, Victim
from quench.attacks.pgd import PGD
from quench.datasets import Batch, Split
from quench.evaluation import Examination, RobustnessReport, evaluate, evaluating
from quench.evaluation.intervals import wilson
from quench.geometry.linf import Linf
from quench.ranks import Ranks
from quench.threat_model import ThreatModel

THREAT = ThreatModel(norm=Linf(), epsilon=0.2)


@given(n=st.integers(1, 10_000), share=st.floats(0, 1))
def test_wilson_is_scipys(n: int, share: float) -> None:
    successes = round(share * n)
    oracle = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=1e-6)
    assert found.value == successes / n


class Threshold(nn.Module):
    """Says 1 where the image's mean is above one half; an image is robust if it is 0.2 away from that."""

    def forward(self, x: Tensor) -> Tensor:
        score = 20 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([torch.zeros_like(score), score], 1)


def split() -> Split:
    """Grey images: wrong, robust, robust, not robust, not robust."""
    grey = torch.tensor([10, 20, 240, 100, 150], dtype=torch.uint8)
    return Split(grey.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), torch.tensor([1, 0, 1, 0, 1]))


def judged(
    attacks: dict[str, Attack],
    batch_size: int = 4,
    model: nn.Module | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - immutable
) -> RobustnessReport:
    asked = Examination(attacks=attacks, threat=THREAT, seed=0, batch_size=batch_size)
    return evaluate(model or Threshold(), split(), asked, ranks)


@pytest.mark.parametrize("batch_size", [1, 2, 500])
def test_counts_what_is_right_and_stays_right(batch_size: int) -> None:
    report = judged({"pgd": PGD(steps=5)}, batch_size)
    assert report.correct["clean"].tolist() == [False, True, True, True, True]
    assert report.robust_bits.tolist() == [False, True, True, False, False]
    assert (report.n, report.clean.value, report.robust.value, report.under("pgd").value) == (5, 0.8, 0.4, 0.4)


def test_robust_means_under_every_attack() -> None:
    weak = PGD(steps=1, step_ratio=0.01, random_start=False)
    report = judged({"weak": weak, "strong": PGD(steps=5)}, 4)
    assert report.under("weak").value == 0.8
    assert report.robust.value == report.under("strong").value == 0.4


def test_shares_of_several_workers_add_up_to_the_whole() -> None:
    whole = judged({"pgd": PGD(steps=5)}, 4)

    class Alone(Ranks):
        """Worker r of 2, without a group to sum over."""

        def total(self, value: Tensor) -> Tensor:
            return value

    parts = [judged({"pgd": PGD(steps=5)}, ranks=Alone(r, 2)) for r in (0, 1)]
    for name, bits in whole.correct.items():
        assert torch.equal(parts[0].correct[name] | parts[1].correct[name], bits)
        assert not (parts[0].correct[name] & parts[1].correct[name]).any()


@dataclass(frozen=True)
class Cheat(Attack):
    """Inverts the image, which may be far outside the ball."""

    def stages(self, threat: ThreatModel, classes: int) -> dict[str, Stage]:
        def invert(victim: Victim, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
            return 1 - batch.x

        return {"invert": invert}


def test_an_image_outside_the_threat_model_does_not_count() -> None:
    report = judged({"cheat": Cheat()}, 4)
    assert report.robust_bits.tolist() == [False, True, True, True, False]


def test_eval_mode_is_on_while_judging_and_modes_come_back() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.Dropout(), Threshold()))
    model[1].eval()
    modes = [m.training for m in model.modules()]
    with evaluating(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == modes
    before = model[0].running_mean.clone()
    judged({"pgd": PGD(steps=1)}, model=model)
    assert torch.equal(model[0].running_mean, before)
    assert [m.training for m in model.modules()] == modes
