"""The contract of `Method`, for every method in every norm, and what an update costs."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

from conftest import CountFlops
from quench.attacks import input_gradient
from quench.catalogue import members, name_of
from quench.datasets import Batch
from quench.datasets.digits import Digits
from quench.geometry import Geometry
from quench.geometry.l2 import L2
from quench.geometry.linf import Linf
from quench.methods import Context, Method
from quench.methods.fgsm_rs import FGSMRS
from quench.methods.n_fgsm import NFGSM
from quench.methods.pgd import PGDTraining
from quench.methods.standard import Standard
from quench.models.small_cnn import SmallCNN
from quench.threat_model import ThreatModel

METHODS = [member() for member in members(Method).values()]
NORMS = [member() for member in members(Geometry).values()]
every_method = pytest.mark.parametrize("method", METHODS, ids=name_of)
every_norm = pytest.mark.parametrize("norm", NORMS, ids=name_of)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Digits().load(100).train.batch(torch.arange(32))


@pytest.fixture
def model(batch: Batch) -> nn.Module:
    return SmallCNN(widths=(8, 8)).build(Digits().load(100).spec(), seed=0)


def context(seed: int = 0, **options: object) -> Context:
    return Context(Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


def trained_on(method: Method, model: nn.Module, batch: Batch, threat: ThreatModel, lent: Context) -> Tensor:
    """The images of the forward pass whose loss is yielded: the last one that the model saw."""
    seen: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for _ in method.losses(model, batch, threat, lent):
        pass
    handle.remove()
    return seen[-1]


@every_method
@every_norm
def test_contract(method: Method, norm: Geometry, model: nn.Module, batch: Batch) -> None:
    threat, x = ThreatModel(norm=norm, epsilon=0.2), batch.x.clone()
    model.train()
    losses = [float(loss.detach()) for loss in method.losses(model, batch, threat, context())]
    again = [float(loss.detach()) for loss in method.losses(model, batch, threat, context())]
    assert losses == again, "a function of model, batch and generator"
    assert torch.equal(batch.x, x)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters()), "crafting leaves no weight gradients"
    lent = context()
    next(method.losses(model, batch, threat, lent)).backward()
    assert all(p.grad is not None for p in model.parameters()), "the loss reaches every weight"
    assert len(lent.seen) == 1
    assert 0 <= int(lent.seen[0][1]) <= len(batch.y)


@every_norm
@pytest.mark.parametrize("method", [Standard(), FGSMRS(), PGDTraining()], ids=name_of)
def test_trains_on_images_inside_the_threat_model(
    method: Method, norm: Geometry, model: nn.Module, batch: Batch
) -> None:
    threat = ThreatModel(norm=norm, epsilon=0.2)
    assert threat.contains(batch.x, trained_on(method, model, batch, threat, context())).all()


@every_norm
def test_n_fgsm_leaves_the_ball_by_its_noise_but_not_the_box(norm: Geometry, model: nn.Module, batch: Batch) -> None:
    threat = ThreatModel(norm=norm, epsilon=0.2)
    x = trained_on(NFGSM(noise_ratio=2.0, step_ratio=1.0), model, batch, threat, context())
    assert ThreatModel(norm=norm, epsilon=0.2 * 3).contains(batch.x, x).all()
    assert not threat.contains(batch.x, x).all()


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=name_of)
def test_single_steps_are_the_papers_formulas(norm: Geometry, model: nn.Module, batch: Batch) -> None:
    """Written out once more, from the papers: sign and clip in linf, g / ||g|| and rescaling in l2."""
    model.eval()
    threat, epsilon = ThreatModel(norm=norm, epsilon=0.2), 0.2

    def step(x: Tensor) -> Tensor:
        g = input_gradient(model, x, batch.y)
        return g.sign() if isinstance(norm, Linf) else g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    def clip(delta: Tensor) -> Tensor:
        if isinstance(norm, Linf):
            return delta.clamp(-epsilon, epsilon)
        length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return torch.where(length > epsilon, delta * epsilon / length, delta)

    def start(ratio: float) -> Tensor:
        eta = norm.random_start(batch.x, ratio * epsilon, Generator().manual_seed(0))
        return (batch.x + eta).clamp(0, 1) - batch.x

    eta = start(1.0)
    expected = (batch.x + clip(eta + 1.25 * epsilon * step(batch.x + eta))).clamp(0, 1)
    torch.testing.assert_close(trained_on(FGSMRS(), model, batch, threat, context()), expected)
    eta = start(2.0)
    expected = (batch.x + eta + epsilon * step(batch.x + eta)).clamp(0, 1)
    torch.testing.assert_close(trained_on(NFGSM(), model, batch, threat, context()), expected)


@every_method
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_crafting_leaves_batchnorm_alone(method: Method, statistics: str, model: nn.Module, batch: Batch) -> None:
    """The running statistics are those of one train-mode pass: over the images trained on."""
    model.train()
    threat = ThreatModel(norm=Linf(), epsilon=0.2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = trained_on(method, model, batch, threat, context(statistics=statistics))
    after = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(before)
    model(x)
    assert all(torch.equal(after[k], v) for k, v in model.state_dict().items())


COST = {"standard": 0, "fgsm_rs": 1, "n_fgsm": 1, "pgd": 7}
"""method -> gradients that crafting takes; an update costs (2 x gradients + 3) forward passes"""


@every_method
def test_an_update_costs_what_the_literature_counts(method: Method, model: nn.Module, batch: Batch) -> None:
    """2F for each crafting gradient (no weight gradients), 3F for the update, whose first layer needs
    no input gradient."""
    model.train()
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    with CountFlops() as forward, torch.no_grad():
        model(batch.x)
    with CountFlops() as first, torch.no_grad():
        convolution(batch.x)
    with CountFlops() as update:
        for loss in method.losses(model, batch, ThreatModel(norm=Linf(), epsilon=0.2), context()):
            loss.backward()
    assert update.total == (2 * COST[name_of(method)] + 3) * forward.total - first.total


def test_label_smoothing_is_in_the_loss_of_the_update(batch: Batch) -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([0, 0])
    smooth, plain = context(label_smoothing=0.2).loss(logits, y), context().loss(logits, y)
    uniform = -logits.log_softmax(1).mean()
    torch.testing.assert_close(smooth, 0.8 * plain + 0.2 * uniform)
