"""Images that are made: inside their ball, further along than they began; representations and seeds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn

from quench.datasets import Batch
from quench.datasets.digits import Digits
from quench.errors import InvalidValue, UserError
from quench.interpretation.alignment import relative_distance
from quench.interpretation.representation import Representation, fake_relu, telling_features
from quench.interpretation.synthesis import (
    Descent,
    gaussian_seed,
    grey_noise,
    raising_feature,
    towards_class,
    towards_representation,
)
from quench.models import Model
from quench.models.preact_resnet import PreActResNet
from quench.models.small_cnn import SmallCNN

DATA = Digits().load(100)
BATCH = DATA.test.batch(torch.arange(12))
MODEL = SmallCNN(widths=(8, 8)).build(DATA.spec(), seed=0).eval()


@settings(max_examples=15)
@given(st.integers(1, 5), st.floats(0.001, 0.3), st.floats(0.001, 1.0))
def test_a_descent_ends_in_ball_and_box(steps: int, step: float, radius: float) -> None:
    found = Descent(steps=steps, step=step, radius=radius)(MODEL, towards_class(BATCH.y), BATCH.x)
    assert found.min() >= 0
    assert found.max() <= 1
    length = (found - BATCH.x).flatten(1).norm(dim=1)
    assert (length <= min(radius, steps * step) * math.sqrt(64) * (1 + 1e-4) + 1e-4).all()


def test_a_target_gains_probability_and_nothing_else_changes() -> None:
    target = (BATCH.y + 1) % 10
    before = {key: value.clone() for key, value in MODEL.state_dict().items()}
    x = BATCH.x.clone()
    found = Descent(steps=20, step=0.02, radius=0.3)(MODEL, towards_class(target), BATCH.x)
    there = [MODEL(images).softmax(1).gather(1, target[:, None]) for images in (BATCH.x, found)]
    assert (there[1] > there[0]).all()
    assert torch.equal(x, BATCH.x)
    assert all(torch.equal(value, before[key]) for key, value in MODEL.state_dict().items())
    assert all(weight.grad is None for weight in MODEL.parameters())
    again = Descent(steps=20, step=0.02, radius=0.3)(MODEL, towards_class(target), BATCH.x)
    assert torch.equal(found, again)


@pytest.mark.parametrize("model", [SmallCNN(widths=(8, 8)), PreActResNet(width=4)])
def test_the_representation_is_what_the_last_layer_reads(model: Model) -> None:
    network = model.build(DATA.spec(), seed=0).eval()
    representation = Representation(network)
    torch.testing.assert_close(representation.last(representation(BATCH.x)), network(BATCH.x))
    representation(BATCH.x)
    assert not representation.last._forward_pre_hooks


def test_a_model_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(UserError, match="Conv2d has no linear layer"):
        Representation(nn.Conv2d(1, 1, 1))


def test_inversion_comes_nearer_and_stays_at_the_target() -> None:
    representation = Representation(MODEL)
    wanted = representation(BATCH.x).detach()
    descend = Descent(steps=40, step=0.005)
    assert torch.equal(descend(representation, towards_representation(wanted), BATCH.x), BATCH.x)
    start = BATCH.x.roll(-1, 0)
    errors = [
        relative_distance(representation(images), wanted)
        for images in (BATCH.x, descend(representation, towards_representation(wanted), start), start)
    ]
    assert not errors[0].any()
    assert (errors[1] < 0.5 * errors[2]).all()


def test_a_feature_that_is_off_can_be_turned_on() -> None:
    """Here the only feature is max(0, mean - 0.6), which has no gradient at 0.5."""
    inner = nn.Linear(4, 1)
    inner.weight, inner.bias = nn.Parameter(torch.full((1, 4), 0.25)), nn.Parameter(torch.tensor([-0.6]))
    model = nn.Sequential(nn.Flatten(), inner, nn.ReLU(), nn.Linear(1, 2))
    representation, start = Representation(model), torch.full((3, 1, 2, 2), 0.5)
    raised = raising_feature(torch.zeros(3, dtype=torch.int64))
    descend = Descent(steps=5, step=0.1)
    assert torch.equal(descend(representation, raised, start), start)
    with fake_relu(model):
        found = descend(representation, raised, start)
    torch.testing.assert_close(representation(found), torch.full((3, 1), 0.4))
    assert not model[2]._backward_hooks


def test_the_telling_feature_is_the_one_that_decides_for_the_class() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3, bias=False))
    model[1].weight = nn.Parameter(torch.tensor([[1.0, 0.1, 0.0], [9.0, 0.0, 1.0], [1.0, 1.0, 1.0]]))
    x = torch.tensor([[1.0, 1, 0], [1, 0, 1]]).view(2, 1, 1, 3)  # the first feature is large, and tells nothing
    batch = Batch(x, torch.tensor([0, 1]), torch.arange(2))
    assert telling_features(model, batch).tolist() == [1, 2, -1]


def test_seeds_have_the_mean_and_covariance_of_their_class() -> None:
    images = 0.5 + 0.05 * torch.randn(40, 1, 2, 2, generator=Generator().manual_seed(0))
    rng = Generator().manual_seed(1)
    drawn = torch.stack([gaussian_seed(images, rng) for _ in range(3000)]).flatten(1)
    torch.testing.assert_close(drawn.mean(0), images.flatten(1).mean(0), atol=0.005, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), images.flatten(1).T.cov(), atol=3e-4, rtol=0)
    assert torch.equal(gaussian_seed(images[:1], rng), images[0]), "one image has no spread"


def test_noise_is_grey() -> None:
    noise = grey_noise(torch.zeros(4, 3, 32, 32), Generator().manual_seed(0))
    assert (noise.mean().item(), noise.std().item()) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.05, abs=0.01))


@pytest.mark.parametrize("fields", [{"steps": 0}, {"step": 0.0}, {"radius": -1.0}])
def test_a_descent_that_goes_nowhere_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InvalidValue, match="must be above 0"):
        Descent(**({"steps": 1, "step": 0.1} | fields))  # pyright: ignore[reportArgumentType]
