"""Each method's loss, written out once more from its paper, in linf."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from quench.attacks import input_gradient
from quench.context import Context
from quench.datasets import Batch
from quench.datasets.digits import Digits
from quench.geometry.l1 import L1
from quench.geometry.linf import Linf
from quench.methods import Method
from quench.methods.aaer import AAER
from quench.methods.elle import ELLE
from quench.methods.fast_eg_l1 import FastEGL1
from quench.methods.fgsm_pgi import FGSMPGI
from quench.methods.free import Free
from quench.methods.grad_align import GradAlign
from quench.methods.liet import LIET
from quench.methods.nuat import NuAT
from quench.methods.sora import SORA
from quench.methods.trades import TRADES
from quench.models.small_cnn import SmallCNN
from quench.threat_model import ThreatModel

EPSILON = 0.2
THREAT = ThreatModel(norm=Linf(), epsilon=EPSILON)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Digits().load(100).train.batch(torch.arange(32))


@pytest.fixture
def model(batch: Batch) -> nn.Module:
    """In eval mode, so that a pass does not depend on which images share it."""
    built = SmallCNN(widths=(8, 8)).build(Digits().load(100).spec(), seed=0).eval()
    for weight in built.parameters():
        weight.data.mul_(1.5)  # not as flat as at its initialisation
    return built


def rng() -> Generator:
    return Generator().manual_seed(0)


def context(**options: object) -> Context:
    return Context(rng(), **{"examples": 100, "progress": 0.5} | options)  # type: ignore[arg-type]


def first(method: Method, model: nn.Module, batch: Batch, lent: Context, threat: ThreatModel = THREAT) -> Tensor:
    return next(iter(method.losses(model, batch, threat, lent))).detach()


def clip(x: Tensor, delta: Tensor, radius: float = EPSILON) -> Tensor:
    """The image x + delta, with delta in the cube and the image in the box."""
    return (x + delta.clamp(-radius, radius)).clamp(0, 1)


def uniform(x: Tensor, radius: float, generator: Generator) -> Tensor:
    return torch.empty_like(x).uniform_(-radius, radius, generator=generator)


def per_example_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="none")


def test_trades(model: nn.Module, batch: Batch) -> None:
    x, y = batch.x, batch.y
    clean = model(x).softmax(1).detach()
    adversarial = (x + 0.001 * torch.randn(x.shape, generator=rng())).clamp(0, 1)
    for _ in range(3):
        at = adversarial.detach().requires_grad_()
        (g,) = torch.autograd.grad(F.kl_div(model(at).log_softmax(1), clean, reduction="sum"), at)
        adversarial = clip(x, adversarial + 0.1 * EPSILON * g.sign() - x)
    divergence = F.kl_div(model(adversarial).log_softmax(1), model(x).softmax(1), reduction="batchmean")
    expected = F.cross_entropy(model(x), y) + 6 * divergence
    torch.testing.assert_close(first(TRADES(steps=3, step_ratio=0.1), model, batch, context()), expected.detach())


@pytest.mark.parametrize("number", [0, 1])
def test_nuat(number: int, model: nn.Module, batch: Batch) -> None:
    x, y = batch.x, batch.y
    weight = 4.5 * 0.5 / 0.9
    start = (x + 0.5 * EPSILON * uniform(x, 1, rng()).sign()).clamp(0, 1).requires_grad_()
    logits = model(start)
    objective = F.cross_entropy(logits, y)
    if number == 1:
        objective = objective + weight * torch.linalg.svdvals(logits - model(x).detach()).sum() / len(y)
    (g,) = torch.autograd.grad(objective, start)
    adversarial = clip(x, start.detach() + EPSILON * g.sign() - x)
    nuclear = torch.linalg.svdvals(model(adversarial) - model(x)).sum() / len(y)
    expected = F.cross_entropy(model(x), y) + weight * nuclear
    torch.testing.assert_close(first(NuAT(), model, batch, context(number=number)), expected.detach())


def test_grad_align(model: nn.Module, batch: Batch) -> None:
    x, y = batch.x, batch.y
    g = input_gradient(model, x, y)
    near = input_gradient(model, x + uniform(x, EPSILON, rng()), y)
    cosine = (g * near).flatten(1).sum(1) / (g.flatten(1).norm(dim=1) * near.flatten(1).norm(dim=1))
    expected = F.cross_entropy(model(clip(x, EPSILON * g.sign())), y) + 0.2 * (1 - cosine.mean())
    torch.testing.assert_close(first(GradAlign(), model, batch, context()), expected.detach())


def test_elle(model: nn.Module, batch: Batch) -> None:
    x, y, generator = batch.x, batch.y, rng()
    one, other = x + uniform(x, EPSILON, generator), x + uniform(x, EPSILON, generator)
    a = torch.rand(len(x), generator=generator)
    between = (1 - a).view(-1, 1, 1, 1) * one + a.view(-1, 1, 1, 1) * other
    chord = (1 - a) * per_example_loss(model, one, y) + a * per_example_loss(model, other, y)
    error = (per_example_loss(model, between, y) - chord).square().mean()
    adversarial = clip(x, EPSILON * input_gradient(model, x, y).sign())
    expected = F.cross_entropy(model(adversarial), y) + 1000 * error
    torch.testing.assert_close(first(ELLE(), model, batch, context()), expected.detach(), rtol=1e-4, atol=1e-4)


class Wavy(nn.Module):
    """Logits that rise and fall within a step, and more so for some images than for others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 10, generator=rng()))

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.weight
        return 3 * (z * (1 + z.mean(1, keepdim=True))).sin()


def test_aaer(batch: Batch) -> None:
    x, y, model = batch.x, batch.y, Wavy()
    start = (x + uniform(x, 2 * EPSILON, rng())).clamp(0, 1)
    adversarial = (start + EPSILON * input_gradient(model, start, y).sign()).clamp(0, 1)
    before, after = model(start), model(adversarial)
    fell = F.cross_entropy(after, y, reduction="none") < F.cross_entropy(before, y, reduction="none")
    assert 0 < fell.sum() < len(y), "so long a step has abnormal examples"
    moved = (after - before).square().sum(1)
    excess = (moved[fell].mean() - moved[~fell].mean()).clamp_min(0)
    assert excess > 0
    expected = F.cross_entropy(after, y) + 0.15 * fell.float().mean() * excess
    torch.testing.assert_close(first(AAER(), model, batch, context()), expected.detach())


def test_liet(model: nn.Module, batch: Batch) -> None:
    x, y, generator = batch.x, batch.y, rng()
    grey = torch.full((10, 1, 8, 8), 0.5)
    directions = EPSILON * input_gradient(model, grey, torch.arange(10)).sign()
    share, coin = torch.rand(2, generator=generator)
    noise = uniform(x, EPSILON, generator)
    replaced = torch.rand(x.shape, generator=generator) < 0.1 + 0.4 * share
    start = (x + torch.where(replaced, noise, directions[y]) * (1 if coin > 0.5 else -1)).clamp(0, 1)
    adversarial = clip(x, start + EPSILON * input_gradient(model, start, y).sign() - x)
    p, q = model(start).softmax(1), model(adversarial).softmax(1)
    middle = (p + q) / 2
    divergence = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)).mean() / 2
    expected = F.cross_entropy(model(adversarial), y) + 100 * 0.5 * divergence
    torch.testing.assert_close(first(LIET(), model, batch, context()), expected.detach())


def test_sora_shortens_its_step_as_the_loss_bends(model: nn.Module, batch: Batch) -> None:
    x, y, generator = batch.x, batch.y, rng()
    start = clip(x, uniform(x, EPSILON, generator))
    share = torch.rand(x.shape, generator=generator)
    step = 2 * EPSILON * 0.02 / (1 - 0.6) * share * input_gradient(model, start, y).sign()
    expected = F.cross_entropy(model((start + step).clamp(0, 1)), y)
    lent = context(memory={"linearity": torch.tensor(0.6)})
    losses = SORA().losses(model, batch, THREAT, lent)
    loss = next(losses)
    torch.testing.assert_close(loss.detach(), expected.detach())
    loss.backward()
    lent.observe(THREAT.norm)
    finish(losses)
    linearity = lent.linearity()
    assert linearity is not None
    torch.testing.assert_close(lent.memory["linearity"], 0.95 * 0.6 + 0.05 * linearity)


def test_free_steps_along_the_gradient_of_the_update(model: nn.Module, batch: Batch) -> None:
    x, y, delta = batch.x, batch.y, torch.zeros_like(batch.x)
    lent = context()
    for loss in Free(replays=3).losses(model, batch, THREAT, lent):
        torch.testing.assert_close(loss.detach(), F.cross_entropy(model(x + delta), y).detach())
        loss.backward()
        delta = clip(x, delta + EPSILON * input_gradient(model, x + delta, y).sign()) - x
    torch.testing.assert_close(lent.shares["delta"], delta)


def test_fgsm_pgi_starts_where_it_ended_with_each_example(model: nn.Module, batch: Batch) -> None:
    x, y = batch.x, batch.y
    start = clip(x, EPSILON * uniform(x, EPSILON, rng()).sign()) - x
    momentum = torch.zeros_like(x)
    memory: dict[str, Tensor] = {}
    for epoch in (0, 1):
        g = input_gradient(model, x + start, y)
        adversarial = clip(x, start + EPSILON * g.sign())
        distance = (model(adversarial) - model(x + start)).square().mean()
        expected = F.cross_entropy(model(adversarial), y) + 10 * distance
        loss = first(FGSMPGI(), model, batch, context(memory=memory, epoch=epoch))
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-5)
        momentum = 0.3 * momentum + g / g.abs().flatten(1).sum(1).view(-1, 1, 1, 1)
        start = clip(x, start + EPSILON * momentum.sign()) - x
        torch.testing.assert_close(memory["eta"][batch.index], start)
    assert not memory["eta"][len(y) :].any(), "others' places are theirs"


def test_fast_eg_l1(model: nn.Module, batch: Batch) -> None:
    x, y, threat = batch.x, batch.y, ThreatModel(norm=L1(), epsilon=2.0)
    start = threat.random_start(x, rng())
    g = input_gradient(model, x + start, y)
    step = 2.0**0.5 * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    delta = L1().project_into_box(start + step, 4.0, -x, 1 - x)
    expected = F.cross_entropy(model(x + delta), y)
    torch.testing.assert_close(first(FastEGL1(), model, batch, context(), threat), expected.detach())


def finish(losses: Iterator[Tensor]) -> None:
    for _ in losses:
        raise AssertionError("one update a batch")
