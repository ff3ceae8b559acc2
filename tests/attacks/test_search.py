"""The engine: batches that stay full come to the verdicts of plain loops."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from quench.attacks import Attack, Victim, input_gradient
from quench.attacks.apgd import APGD
from quench.attacks.autoattack import AutoAttack
from quench.attacks.fab import FAB
from quench.attacks.pgd import PGD
from quench.attacks.square import Square
from quench.catalogue import members, name_of
from quench.datasets import Batch
from quench.geometry import Geometry
from quench.randomness import JUDGEMENT, generator
from quench.threat_model import ThreatModel

NORMS = [member() for member in members(Geometry).values()]
EPSILON = {"linf": 0.15, "l2": 0.8, "l1": 2.0}
SEARCHES = [
    PGD(steps=4, restarts=3),
    APGD(loss="ce", steps=12, restarts=2),
    APGD(loss="targeted", steps=12, targets=2),
    FAB(steps=10, targets=2),
    Square(queries=40, restarts=2),
]


@pytest.fixture
def problem(robust_digits: tuple[nn.Module, Batch]) -> tuple[nn.Module, Batch]:
    """In double precision, where the size of a batch does not show."""
    model, batch = robust_digits
    keep = (model(batch.x).argmax(1) == batch.y).nonzero().flatten()[:16]
    double = Batch(batch.x[keep].double(), batch.y[keep], batch.index[keep])
    return deepcopy(model).double(), double


@pytest.mark.parametrize("norm", NORMS, ids=name_of)
@pytest.mark.parametrize("attack", SEARCHES, ids=str)
def test_verdicts_do_not_depend_on_the_batch(attack: Attack, norm: Geometry, problem: tuple[nn.Module, Batch]) -> None:
    model, batch = problem
    threat = ThreatModel(norm=norm, epsilon=EPSILON[name_of(norm)])
    (stage,) = attack.stages(threat, 10).values()
    whole = stage(Victim(model, batch_size=16), batch, threat, 5)
    for size in (1, 7):
        torch.testing.assert_close(stage(Victim(model, batch_size=size), batch, threat, 5), whole, rtol=0, atol=1e-9)
    fooled = Victim(model).fooled(batch, whole, threat)
    assert 0 < fooled.sum() < len(fooled), "the search is neither hopeless nor trivial, or this says nothing"


@pytest.mark.parametrize("norm", NORMS, ids=name_of)
def test_pgd_is_the_plain_loop(norm: Geometry, problem: tuple[nn.Module, Batch]) -> None:
    """Every restart on every example to its end, with the same random numbers."""
    model, batch = problem
    threat = ThreatModel(norm=norm, epsilon=EPSILON[name_of(norm)])
    attack, seed = PGD(steps=5, restarts=3, step_ratio=0.4), 7
    fooled = torch.zeros(len(batch.y), dtype=torch.bool)
    for restart in range(attack.restarts):
        delta = torch.cat([_start(threat, x[None], seed, i, restart) for i, x in enumerate(batch.x)])
        fooled |= model(batch.x + delta).argmax(1) != batch.y
        for _ in range(attack.steps):
            gradient = input_gradient(model, batch.x + delta, batch.y)
            delta = threat.project(batch.x, delta + threat.step(gradient, 0.4))
            fooled |= model(batch.x + delta).argmax(1) != batch.y
    batch = Batch(batch.x, batch.y, torch.arange(len(batch.y)))
    victim = Victim(model, batch_size=8)
    assert torch.equal(victim.fooled(batch, attack(victim, batch, threat, seed), threat), fooled)
    assert 0 < fooled.sum() < len(fooled)


def _start(threat: ThreatModel, x: Tensor, seed: int, index: int, restart: int) -> Tensor:
    return threat.random_start(x, generator(torch.device("cpu"), seed, JUDGEMENT, index, restart))


@pytest.mark.parametrize("norm", NORMS, ids=name_of)
def test_low_precision_reports_only_what_fools_the_model_itself(
    norm: Geometry, robust_digits: tuple[nn.Module, Batch]
) -> None:
    """What is crafted in bfloat16 is judged in float32 before it is called found."""
    model, batch = robust_digits
    threat = ThreatModel(norm=norm, epsilon=EPSILON[name_of(norm)])
    for stage in AutoAttack(steps=5, queries=30).stages(threat, 10).values():
        found = stage(Victim(model, batch_size=16, precision="bfloat16"), batch, threat, 0)
        changed = (found != batch.x).flatten(1).any(1)
        assert changed.any()
        assert (model(found).argmax(1) != batch.y)[changed].all()
        assert threat.contains(batch.x, found).all()
