"""The contract of `Method`, for every method in every norm, and what an update costs."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

from quench.attacks import input_gradient
from quench.catalogue import members, name_of
from quench.context import SIGNALS, signals
from quench.datasets import Batch
from quench.datasets.digits import Digits
from quench.flops import CountFlops
from quench.geometry import Geometry
from quench.geometry.l2 import L2
from quench.geometry.linf import Linf
from quench.methods import Context, Method
from quench.methods.elle import ELLE
from quench.methods.fgsm import FGSM
from quench.methods.fgsm_pgi import FGSMPGI
from quench.methods.fgsm_rs import FGSMRS
from quench.methods.free import Free
from quench.methods.grad_align import GradAlign
from quench.methods.liet import LIET
from quench.methods.n_fgsm import NFGSM
from quench.methods.pgd import PGDTraining
from quench.methods.standard import Standard
from quench.models.small_cnn import SmallCNN
from quench.threat_model import ThreatModel

METHODS = [member() for member in members(Method).values()]
NORMS = {name: member() for name, member in members(Geometry).items()}
every_method = pytest.mark.parametrize("method", METHODS, ids=name_of)
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=name_of)
every_pair = pytest.mark.parametrize(
    ("method", "norm"),
    [pytest.param(m, NORMS[norm], id=f"{name_of(m)}-{norm}") for m in METHODS for norm in m.norms],
)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Digits().load(100).train.batch(torch.arange(32))


@pytest.fixture
def model(batch: Batch) -> nn.Module:
    return SmallCNN(widths=(8, 8)).build(Digits().load(100).spec(), seed=0)


def context(seed: int = 0, **options: object) -> Context:
    return Context(Generator().manual_seed(seed), **{"examples": 100, "progress": 0.5} | options)  # type: ignore[arg-type]


def learn(method: Method, model: nn.Module, batch: Batch, threat: ThreatModel, lent: Context) -> list[Tensor]:
    """What the loop does with a batch, without the optimizer's step; what was observed of each update."""
    seen: list[Tensor] = []
    for loss in method.losses(model, batch, threat, lent):
        model.zero_grad()
        loss.backward()
        seen.append(lent.observe(threat.norm))
    return seen


def trained_on(method: Method, model: nn.Module, batch: Batch, threat: ThreatModel, lent: Context) -> Tensor:
    """The images of the forward pass whose loss is yielded: the last one that the model saw."""
    seen: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    learn(method, model, batch, threat, lent)
    handle.remove()
    return seen[-1]


@every_pair
def test_contract(method: Method, norm: Geometry, model: nn.Module, batch: Batch) -> None:
    threat, x = ThreatModel(norm=norm, epsilon=0.2), batch.x.clone()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lent = context()
    loss = next(method.losses(model, batch, threat, lent))
    assert all(p.grad is None for p in model.parameters()), "crafting leaves no weight gradients"
    loss.backward()
    assert all(p.grad is not None for p in model.parameters()), "the loss reaches every weight"
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(batch.x, x)
    assert all(module.training for module in model.modules())
    seen = dict(zip(SIGNALS, signals(lent.observe(norm)[None]).tolist(), strict=True))
    assert 0 <= seen["accuracy"] <= 1
    model.load_state_dict(before)
    again = next(method.losses(model, batch, threat, context()))
    assert torch.equal(loss, again), "a function of model, batch and generator"


SINGLE_STEP = {"fgsm", "fgsm_rs", "n_fgsm", "grad_align", "elle", "aaer", "sora", "liet", "fgsm_pgi", "fast_eg_l1"}


@every_pair
def test_signals_of_single_steps(method: Method, norm: Geometry, model: nn.Module, batch: Batch) -> None:
    (seen, *_) = learn(method, model, batch, ThreatModel(norm=norm, epsilon=0.05), context())
    told = dict(zip(SIGNALS, signals(seen[None]).tolist(), strict=True))
    if name_of(method) in SINGLE_STEP:
        assert -1 <= told["linearity"] <= 1
        assert -1 <= told["alignment"] <= 1
        assert 0 <= told["abnormal"] <= 1
    else:
        assert all(told[name] != told[name] for name in ("linearity", "alignment", "abnormal")), "NaN"


def test_signals_are_1_on_a_linear_loss_and_tell_a_step_too_far(batch: Batch) -> None:
    """kappa and the cosine are 1 while the gradient does not change; a bent loss that falls is abnormal."""

    class Bowl(nn.Module):
        """Logits whose loss falls again beyond a pixel's middle."""

        def __init__(self, curved: bool) -> None:
            super().__init__()
            self.curved, self.weight = curved, nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            s = (x - 0.5).flatten(1).sum(1) * self.weight * 1e-3
            return torch.stack([torch.zeros_like(s), -s.square() * 1e6 if self.curved else s], 1)

    flat = Batch(torch.full((4, 1, 2, 2), 0.499), torch.zeros(4, dtype=torch.long), torch.arange(4))
    threat = ThreatModel(norm=NORMS["linf"], epsilon=0.05)
    straight = signals(learn(FGSM(), Bowl(curved=False), flat, threat, context())[0][None])
    torch.testing.assert_close(straight[2:], torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    bent = signals(learn(FGSM(), Bowl(curved=True), flat, threat, context())[0][None])
    torch.testing.assert_close(bent[2:], torch.tensor([-1.0, -1.0, 1.0]), atol=1e-3, rtol=0)


@every_norm
@pytest.mark.parametrize(
    "method", [Standard(), FGSM(), FGSMRS(), PGDTraining(), Free(), GradAlign(), ELLE(), FGSMPGI(), LIET()], ids=name_of
)
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


ONE_PASS = [m for m in METHODS if name_of(m) not in ("trades", "nuat", "free") and "linf" in m.norms]


@pytest.mark.parametrize("method", ONE_PASS, ids=name_of)
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


COST = {
    "standard": 3, "fgsm": 5, "fgsm_rs": 5, "n_fgsm": 5, "fast_eg_l1": 5, "sora": 5, "aaer": 5, "free": 4 * 3, "pgd": 2 * 7 + 3,
    "trades": 1 + 2 * 10 + 6, "nuat": 2 + 6, "liet": 7, "fgsm_pgi": 7, "elle": 14, "grad_align": 11,
}  # fmt: skip
"""method -> forward passes' worth of work for a batch, as the literature counts it: 2 for an input gradient,
3 for an update; Free's four replays are four updates"""
FIRST_LAYERS = {"standard": 1, "trades": 2, "nuat": 2, "elle": 3}
"""input gradients that are not needed of the first convolution (an image's own pixels learn nothing), in images"""


@every_method
def test_an_update_costs_what_the_literature_counts(method: Method, model: nn.Module, batch: Batch) -> None:
    """No weight gradients in an attack pass, no pass too many: exactly, but for the first convolution."""
    model.train()
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    with CountFlops() as forward, torch.no_grad():
        model(batch.x)
    with CountFlops() as first, torch.no_grad():
        convolution(batch.x)
    lent = context(memory={"directions": torch.zeros(10, *batch.x.shape[1:])}, number=2)
    with CountFlops() as update:
        learn(method, model, batch, ThreatModel(norm=NORMS[method.norms[0]], epsilon=0.2), lent)
    name = name_of(method)
    expected = COST[name] * forward.total - FIRST_LAYERS.get(name, 0) * first.total
    # A nuclear norm has products of its own, and a second derivative's cost is not a whole number of passes.
    assert update.total == pytest.approx(expected, rel={"nuat": 1e-3, "grad_align": 0.05}.get(name, 0))


def test_label_smoothing_is_in_the_loss_of_the_update(batch: Batch) -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([0, 0])
    smooth, plain = context(label_smoothing=0.2).loss(logits, y), context().loss(logits, y)
    uniform = -logits.log_softmax(1).mean()
    torch.testing.assert_close(smooth, 0.8 * plain + 0.2 * uniform)
