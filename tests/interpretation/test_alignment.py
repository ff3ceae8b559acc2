"""Numbers of gradients against what is known: linear models, and images that one can work out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from quench.attacks import input_gradient
from quench.interpretation.alignment import cosine, etmann_alignment, gini, low_frequency_share, relative_distance
from quench.interpretation.saliency import class_loss, loss_gradient, saliency


def linear(weight: Tensor) -> nn.Module:
    """`(classes, pixels)` -> a model of images with so many pixels, without a bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight), bias=False, dtype=weight.dtype))
    model[1].weight = nn.Parameter(weight)
    return model


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


@given(st.floats(1e-12, 1e12))
def test_a_linear_model_is_aligned_as_its_weights_are(scale: float) -> None:
    """Psi's gradient is the difference of the two rows, whatever their length."""
    weight, x = some(2, 12), some(5, 3, 2, 2, seed=1).abs()
    row = (weight[0] - weight[1]).expand(5, -1)
    expected = F.cosine_similarity(row, x.flatten(1)).abs()
    torch.testing.assert_close(etmann_alignment(linear(weight * scale), x), expected, rtol=1e-4, atol=1e-5)


def test_alignment_is_with_the_runner_up_and_1_for_a_model_that_looks_at_the_image() -> None:
    x = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]]]])
    weight = torch.stack([x.flatten(), torch.zeros(4), -some(4).abs()])
    assert etmann_alignment(linear(weight), x).item() == pytest.approx(1)
    assert etmann_alignment(linear(weight), torch.zeros(1, 1, 2, 2)).item() == 0


def test_the_loss_gradient_has_the_direction_of_cross_entropys() -> None:
    model, x, y = linear(some(4, 12).double()), some(6, 3, 2, 2, seed=1).double(), torch.arange(6) % 4
    assert cosine(loss_gradient(model, x, y), input_gradient(model, x, y)).min().item() == pytest.approx(1)
    logits = model(x)
    torch.testing.assert_close(F.softplus(class_loss(logits, y)), F.cross_entropy(logits, y, reduction="none"))


def test_it_is_right_where_the_model_is_certain() -> None:
    """Cross-entropy's own gradient is rounded to nothing there."""
    weight, x = torch.stack([torch.ones(4), -torch.ones(4), some(4)]), torch.ones(1, 1, 2, 2)
    model, y = linear(30 * weight), torch.tensor([0])
    assert not input_gradient(model, x, y).any()
    toward = model[1].weight[model(x)[0, 1:].argmax() + 1] - model[1].weight[0]
    assert cosine(loss_gradient(model, x, y).flatten(1), toward[None]).item() == pytest.approx(1)


def test_gini_of_one_pixel_and_of_all() -> None:
    one = torch.zeros(1, 1, 4, 5)
    one[0, 0, 2, 3] = -7
    assert gini(one).item() == pytest.approx(1 - 1 / 20)
    assert gini(torch.full((1, 20), 3.0)).item() == pytest.approx(0, abs=1e-6)
    assert gini(torch.zeros(1, 20)).item() == 0
    assert gini(torch.tensor([[0.0, 1.0, 3.0]])).item() == pytest.approx(2 * (2 + 9) / (3 * 4) - 4 / 3)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20), st.floats(1e-10, 1e10))
def test_gini_has_no_scale_no_order_and_falls_when_shared(values: list[float], scale: float) -> None:
    v = torch.tensor([values], dtype=torch.float64)
    index = gini(v).item()
    assert -1e-9 <= index <= 1 - 1 / len(values) + 1e-9
    assert gini(-scale * v.flip(1)).item() == pytest.approx(index, abs=1e-9)
    assert gini((v + v.mean()) / 2).item() <= index + 1e-9


def test_the_spectrum_of_plain_images() -> None:
    row, column = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    board = ((row + column) % 2 * 2.0 - 1).view(1, 1, 16, 16)
    slow = torch.cos(2 * torch.pi * row / 16).view(1, 1, 16, 16)
    assert low_frequency_share(torch.ones(1, 3, 16, 16)).item() == pytest.approx(1)
    assert low_frequency_share(board).item() == pytest.approx(0, abs=1e-6)
    assert low_frequency_share(slow + board).item() == pytest.approx(1 / 3, abs=1e-5), "a cosine has half the energy"
    assert low_frequency_share(1e-30 * (slow + board)).item() == pytest.approx(1 / 3, abs=1e-5)
    assert low_frequency_share(some(4, 3, 64, 48)).mean().item() == pytest.approx(torch.pi / 16, abs=0.02)
    assert low_frequency_share(torch.zeros(1, 1, 8, 8)).isnan().all()


def test_distances_are_shares() -> None:
    a, b = some(3, 5), some(3, 5, seed=1)
    assert relative_distance(a, a).tolist() == [0, 0, 0]
    torch.testing.assert_close(relative_distance(b, a), (a - b).norm(dim=1) / a.norm(dim=1))
    torch.testing.assert_close(relative_distance(b, a, scale=b - a), torch.ones(3))


def test_saliency_is_grey_at_zero_and_cut_at_three_sigma() -> None:
    gradient = torch.zeros(2, 1, 10, 10)
    gradient[0, 0, 0, 0], gradient[0, 0, 5, 5] = 100, -1e-3
    shown = saliency(gradient)
    assert (shown[1] == 0.5).all()
    assert (shown[0, 0, 0, 0], shown[0, 0, 9, 9]) == (1, 0.5)
    assert shown[0, 0, 5, 5] < 0.5
    noise = some(1, 3, 32, 32)
    torch.testing.assert_close(saliency(1e-20 * noise), saliency(noise))
    assert saliency(noise).std().item() == pytest.approx(1 / 6, rel=0.05)
