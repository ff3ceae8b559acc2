"""Attacks against what is known: linear models, whose nearest adversarial example has a closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

from quench.attacks import Attack, Victim, input_gradient
from quench.attacks.autoattack import AutoAttack
from quench.attacks.fab import FAB
from quench.attacks.pgd import PGD
from quench.attacks.pyautoattack import PyAutoAttack
from quench.attacks.square import Square
from quench.catalogue import members, name_of
from quench.datasets import Batch
from quench.flops import CountFlops
from quench.geometry import Geometry
from quench.geometry.l1 import L1
from quench.geometry.linf import Linf
from quench.models.small_cnn import SmallCNN
from quench.threat_model import ThreatModel

NORMS = [member() for member in members(Geometry).values()]
CHEAP = {
    "autoattack": AutoAttack(steps=8, queries=30),
    "fab": FAB(steps=10, targets=3),
    "pyautoattack": PyAutoAttack(steps=4, queries=20),
    "square": Square(queries=60),
}
"""weaker than they are, where that is enough"""
ATTACKS = [CHEAP.get(name) or member() for name, member in members(Attack).items()]
DUAL_ORDER = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def search(attack: Attack, model: nn.Module, batch: Batch, threat: ThreatModel, seed: int = 0) -> Tensor:
    """All its stages, each on what stood up to those before."""
    adversarial, victim = batch.x.clone(), Victim(model, batch_size=16)
    for stage in attack.stages(threat, model(batch.x).shape[1]).values():
        standing = (~victim.fooled(batch, adversarial, threat)).nonzero().flatten()
        part = Batch(batch.x[standing], batch.y[standing], batch.index[standing])
        adversarial[standing] = stage(victim, part, threat, seed)
    return adversarial


class Linear(nn.Module):
    """Two classes divided by a plane, logits 0 and <w, x> + b, and two that are never likely."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight + self.bias
        never = torch.full_like(score, -9.0)
        return torch.stack([torch.zeros_like(score), score, never, never - 1], 1)


def linear_problem() -> tuple[Linear, Batch]:
    """Images in the middle of the box, near a plane that divides them, and a model that has them right."""
    weight = torch.randn(12, generator=rng(1))
    x = 0.45 + 0.1 * torch.rand(16, 3, 2, 2, generator=rng(2))
    model = Linear(weight, -float(weight.sum()) * 0.5)
    return model, Batch(x, model(x).argmax(1), torch.arange(16))


@pytest.mark.parametrize("norm", NORMS, ids=name_of)
@pytest.mark.parametrize("attack", [a for a in ATTACKS if not isinstance(a, PyAutoAttack)], ids=name_of)
def test_reaches_the_boundary_of_a_linear_model_and_not_beyond(attack: Attack, norm: Geometry) -> None:
    """distance = |<w, x> + b| / ||w||_dual: fooled if epsilon is above it, never if below.

    APGD's steps in l1 keep to as many components as the best perturbation so far has, and need some room;
    so do Square's few shapes and queries. The authors' Square needs images of five pixels a side.
    """
    model, batch = linear_problem()
    above = 1.5 if isinstance(norm, L1) and not isinstance(attack, PGD | FAB) else 1.05
    above = 6 if isinstance(attack, Square) else above
    score = model(batch.x)[:, 1]
    dual = torch.linalg.vector_norm(model.weight, ord=DUAL_ORDER[name_of(norm)])
    for example, distance in enumerate((score.abs() / dual).tolist()):
        one = Batch(batch.x[example : example + 1], batch.y[example : example + 1], batch.index[example : example + 1])
        for factor, fooled in ((0.98, False), (above, True)):
            threat = ThreatModel(norm=norm, epsilon=factor * distance)
            adversarial = search(attack, model, one, threat)
            assert threat.contains(one.x, adversarial).all()
            assert bool(model(adversarial).argmax(1) != one.y) == fooled


@pytest.fixture
def digits_model() -> tuple[nn.Module, Batch]:
    from quench.datasets.digits import Digits

    data = Digits().load(100)
    return SmallCNN(widths=(8, 8)).build(data.spec(), seed=0), data.test.batch(torch.arange(40))


@pytest.mark.parametrize("norm", NORMS, ids=name_of)
@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_contract(attack: Attack, norm: Geometry, digits_model: tuple[nn.Module, Batch]) -> None:
    """Inside the threat model; a function of its generator; leaves model, gradients and batch alone."""
    model, batch = digits_model
    model.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    x = batch.x.clone()
    threat = ThreatModel(norm=norm, epsilon=0.3)
    adversarial = search(attack, model, batch, threat)
    assert threat.contains(batch.x, adversarial).all()
    assert torch.equal(adversarial, search(attack, model, batch, threat))
    assert torch.equal(batch.x, x)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert not adversarial.requires_grad


def test_restarts_only_ever_fool_more(digits_model: tuple[nn.Module, Batch]) -> None:
    """The first restarts of a longer search are the shorter search: what it fooled stays fooled."""
    model, batch = digits_model
    model.eval()
    batch = Batch(batch.x, model(batch.x).argmax(1), batch.index)
    threat, before = ThreatModel(norm=Linf(), epsilon=0.04), torch.zeros(40, dtype=torch.bool)
    counts: list[int] = []
    for restarts in (1, 3, 10):
        adversarial = PGD(steps=2, restarts=restarts)(Victim(model), batch, threat, 3)
        fooled = model(adversarial).argmax(1) != batch.y
        assert (fooled | ~before).all()
        before = fooled
        counts.append(int(fooled.sum()))
    assert counts[0] < counts[-1] < 40, "the search is neither hopeless nor trivial, or this says nothing"


def test_one_step_without_start_is_fgsm(digits_model: tuple[nn.Module, Batch]) -> None:
    model, batch = digits_model
    model.eval()
    batch = Batch(batch.x, model(batch.x).argmax(1), batch.index)
    threat = ThreatModel(norm=Linf(), epsilon=0.1)
    expected = (batch.x + 0.1 * input_gradient(model, batch.x, batch.y).sign()).clamp(0, 1)
    found = PGD(steps=1, step_ratio=1.0, random_start=False)(Victim(model), batch, threat, 0)
    fooled = model(expected).argmax(1) != batch.y
    torch.testing.assert_close(found[fooled], expected[fooled])
    assert torch.equal(found[~fooled], batch.x[~fooled])


def test_input_gradient_is_per_example_and_costs_two_forward_passes(digits_model: tuple[nn.Module, Batch]) -> None:
    model, batch = digits_model
    model.eval()
    together = input_gradient(model, batch.x, batch.y)
    alone = torch.cat([input_gradient(model, batch.x[i : i + 1], batch.y[i : i + 1]) for i in range(40)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-7)
    with CountFlops() as forward, torch.no_grad():
        model(batch.x)
    with CountFlops() as both:
        input_gradient(model, batch.x, batch.y)
    assert both.total == 2 * forward.total > 0


def test_verdicts_are_float32_in_earnest_and_crafting_as_torch_is_set_to() -> None:
    convolutions, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    seen: list[tuple[str, str]] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((convolutions.fp32_precision, products.fp32_precision))
            return x.flatten(1)

    torch.set_float32_matmul_precision("high")
    try:
        victim = Victim(Watched())
        victim.logits(torch.rand(2, 1, 2, 2))
        victim.gradient(torch.rand(2, 1, 2, 2), lambda logits: logits.sum(1))
        assert seen == [("ieee", "ieee"), ("tf32", "tf32")]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
