"""AutoAttack against the authors' own, verdict by verdict, on a model that is neither robust nor helpless."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from quench.attacks import Attack, Victim
from quench.attacks.autoattack import AutoAttack
from quench.attacks.fab import FAB
from quench.attacks.pyautoattack import PyAutoAttack
from quench.attacks.square import Square
from quench.attacks.windows import Sides, Window, two_peaks
from quench.catalogue import members, name_of
from quench.datasets import Batch
from quench.errors import InvalidValue
from quench.evaluation import judge
from quench.geometry import Geometry
from quench.geometry.linf import Linf
from quench.threat_model import ThreatModel

NORMS = [member() for member in members(Geometry).values()]
EPSILON = {"linf": 0.15, "l2": 0.8, "l1": 2.0}
STAGES = ["apgd_ce", "apgd_t", "fab_t", "square"]
STEPS, QUERIES = 30, 300

every_norm = pytest.mark.parametrize("norm", NORMS, ids=name_of)


def threat_of(norm: Geometry) -> ThreatModel:
    return ThreatModel(norm=norm, epsilon=EPSILON[name_of(norm)])


@every_norm
def test_verdicts_are_the_authors(norm: Geometry, robust_digits: tuple[nn.Module, Batch]) -> None:
    """After each stage as many images may differ as do between two seeds of the authors' code; after all, one."""
    model, batch = robust_digits
    attacks: dict[str, Attack] = {
        "ours": AutoAttack(steps=STEPS, queries=QUERIES),
        "theirs": PyAutoAttack(steps=STEPS, queries=QUERIES),
    }
    correct = judge(Victim(model, batch_size=100), batch, attacks, threat_of(norm), seed=0)
    differing = [int((correct[f"ours/{name}"] != correct[f"theirs/{name}"]).sum()) for name in STAGES]
    assert max(differing) <= 3
    assert differing[-1] <= 1
    assert 8 < correct["ours"].sum() < len(batch.y) - 8


@every_norm
def test_fab_alone_is_the_authors(norm: Geometry, robust_digits: tuple[nn.Module, Batch]) -> None:
    """There is no chance in it."""
    ours, theirs = _alone(FAB(steps=30), PyAutoAttack(steps=30), "fab_t", norm, robust_digits)
    assert (ours != theirs).sum() <= 1
    assert 10 < ours.sum() < len(ours) - 5


@every_norm
def test_square_alone_fools_no_fewer_than_the_authors(norm: Geometry, robust_digits: tuple[nn.Module, Batch]) -> None:
    ours, theirs = _alone(Square(queries=QUERIES), PyAutoAttack(queries=QUERIES), "square", norm, robust_digits)
    assert ours.sum() >= theirs.sum() - 2
    assert theirs.sum() > 0


def _alone(
    ours: Attack, theirs: Attack, name: str, norm: Geometry, problem: tuple[nn.Module, Batch]
) -> tuple[Tensor, Tensor]:
    """Which of the images that the model has right one stage of each fools."""
    model, batch = problem
    right = (model(batch.x).argmax(1) == batch.y).nonzero().flatten()
    batch, victim, threat = Batch(batch.x[right], batch.y[right], batch.index[right]), Victim(model), threat_of(norm)
    found = (attack.stages(threat, 10)[name](victim, batch, threat, 0) for attack in (ours, theirs))
    one, other = (victim.fooled(batch, images, threat) for images in found)
    return one, other


@every_norm
def test_the_referee_is_set_up_as_its_authors_do(norm: Geometry) -> None:
    from pyautoattack import AutoAttack as Theirs

    model, threat = nn.Flatten(), threat_of(norm)
    capital = {"linf": "Linf", "l2": "L2", "l1": "L1"}[name_of(norm)]
    standard = Theirs(model, norm=capital, eps=threat.epsilon, seed=0)
    standard.fab.targeted = True  # they say so just before it runs
    whole = [standard.apgd, standard.apgd_targeted, standard.fab, standard.square]
    for name, expected in zip(STAGES, whole, strict=True):
        found = PyAutoAttack().attack(name, model, torch.device("cpu"), threat, 10, 0)
        assert {k: str(v) for k, v in vars(found).items()} == {k: str(v) for k, v in vars(expected).items()}


def test_the_referee_leaves_nothing_behind(robust_digits: tuple[nn.Module, Batch]) -> None:
    model, batch = robust_digits
    state = torch.get_rng_state()
    threat = threat_of(Linf())
    for stage in PyAutoAttack(steps=2, queries=5).stages(threat, 10).values():
        stage(Victim(model), batch, threat, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in model.parameters())


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(InvalidValue, match=r"quench\[autoattack\]"):
        PyAutoAttack().stages(threat_of(Linf()), 10)


@pytest.mark.parametrize("attack", [AutoAttack(), PyAutoAttack()], ids=name_of)
def test_stages_and_what_they_need(attack: Attack) -> None:
    assert list(attack.stages(threat_of(Linf()), 4)) == STAGES
    with pytest.raises(InvalidValue, match="needs 4 classes"):
        attack.stages(threat_of(Linf()), 3)


def test_targets_end_with_the_classes() -> None:
    stages = FAB(targets=9).stages(threat_of(Linf()), 5)
    assert stages["fab_t"] == FAB(targets=4)


@pytest.mark.parametrize(("order", "norm"), [(2, "L2"), (1, "L1")])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 29])
def test_two_peaks_are_the_authors(side: int, order: int, norm: str) -> None:
    from pyautoattack.square import SquareAttack

    with torch.random.fork_rng([]):
        theirs = SquareAttack(None, norm=norm, device="cpu").eta(side)
    ours = two_peaks(side, order)
    assert min(float((theirs - turned).abs().max()) for turned in (ours, ours.T)) < 1e-6


def test_squares_shrink_as_the_authors_and_stay_in_the_image() -> None:
    from pyautoattack.square import SquareAttack

    theirs = SquareAttack(None, resc_schedule=False)
    query, x = torch.tensor([0, 10, 11, 50, 51, 200, 201, 999, 4999]), torch.zeros(9, 3, 32, 32)
    sides = Sides.of(x, 0.8, least=1, odd=False).at(query)
    assert sides.tolist() == [round((theirs.p_selection(int(q)) * 32 * 32) ** 0.5) for q in query]
    for u in (0.0, 0.5, 1 - 2**-24):
        inside = Window.at(torch.full((9,), u), torch.full((9,), 1 - u if u else 0.0), sides, x).inside
        assert torch.equal(inside.flatten(1).sum(1), sides**2)
