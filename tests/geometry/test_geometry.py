"""The laws of `Geometry`, for every norm in the catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.optimize import linprog
from torch import Generator, Tensor

from quench.catalogue import members, name_of
from quench.geometry import Geometry
from quench.geometry.l1 import L1
from quench.geometry.linf import Linf

NORMS = [member() for member in members(Geometry).values()]
DUAL_ORDER = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}

every_norm = pytest.mark.parametrize("norm", NORMS, ids=name_of)
entries = st.floats(-10, 10, allow_nan=False, width=64)
perturbations = arrays(np.float64, (3, 2, 2, 2), elements=entries).map(torch.from_numpy)
radii = st.floats(1e-3, 5)


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@every_norm
@given(delta=perturbations, radius=radii)
def test_project_ends_in_the_ball(norm: Geometry, delta: Tensor, radius: float) -> None:
    assert (norm.norm(norm.project(delta, radius)) <= radius * (1 + 1e-12)).all()


@every_norm
@given(delta=perturbations, radius=radii)
def test_project_is_idempotent(norm: Geometry, delta: Tensor, radius: float) -> None:
    once = norm.project(delta, radius)
    torch.testing.assert_close(norm.project(once, radius), once, rtol=1e-12, atol=1e-12)


@every_norm
@given(delta=perturbations, radius=radii)
def test_project_leaves_the_interior_alone(norm: Geometry, delta: Tensor, radius: float) -> None:
    inside = norm.norm(delta) <= radius
    assert torch.equal(norm.project(delta, radius)[inside], delta[inside])


@every_norm
@given(delta=perturbations, radius=radii, seed=st.integers(0, 2**31))
def test_project_is_the_nearest_point(norm: Geometry, delta: Tensor, radius: float, seed: int) -> None:
    """No other point of the ball is closer: <d - P(d), z - P(d)> <= 0 for every z in it."""
    nearest = norm.project(delta, radius)
    other = norm.random_start(delta, radius, rng(seed))
    inner = ((delta - nearest) * (other - nearest)).flatten(1).sum(1)
    assert (inner <= 1e-9 * (1 + delta.abs().max() ** 2)).all()


@every_norm
@given(delta=perturbations, radius=radii)
def test_examples_do_not_depend_on_their_batch(norm: Geometry, delta: Tensor, radius: float) -> None:
    for function in (norm.norm, norm.steepest, lambda d: norm.project(d, radius)):
        alone = torch.cat([function(delta[i : i + 1]) for i in range(len(delta))])
        torch.testing.assert_close(function(delta), alone, rtol=1e-13, atol=0)


@every_norm
@given(gradient=perturbations)
def test_steepest_attains_the_dual_norm(norm: Geometry, gradient: Tensor) -> None:
    direction = norm.steepest(gradient)
    peak = gradient.abs().flatten(1).amax(1).clamp_min(1e-300)  # so that the oracle's squares do not underflow
    dual = peak * torch.linalg.vector_norm(gradient.flatten(1) / peak[:, None], ord=DUAL_ORDER[name_of(norm)], dim=1)
    assert (norm.norm(direction) <= 1 + 1e-12).all()
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), dual, rtol=1e-9, atol=1e-300)


@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_steepest_survives_tiny_and_huge_gradients_in_float32(norm: Geometry, scale: float) -> None:
    gradient = torch.randn(4, 3, 5, 5, generator=rng())
    torch.testing.assert_close(norm.steepest(gradient * scale), norm.steepest(gradient), rtol=1e-4, atol=1e-6)


@every_norm
def test_steepest_of_a_zero_gradient_is_zero(norm: Geometry) -> None:
    assert torch.equal(norm.steepest(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


@every_norm
@given(gradient=perturbations, length=radii)
def test_a_step_is_no_longer_than_asked_and_goes_uphill(norm: Geometry, gradient: Tensor, length: float) -> None:
    step = norm.step(gradient, length)
    assert (norm.norm(step) <= length * (1 + 1e-12)).all()
    assert ((gradient * step).flatten(1).sum(1) >= 0).all()


@every_norm
@given(delta=perturbations, radius=radii, seed=st.integers(0, 2**31))
def test_project_into_box_ends_in_ball_and_box(norm: Geometry, delta: Tensor, radius: float, seed: int) -> None:
    x = torch.rand(delta.shape, generator=rng(seed), dtype=delta.dtype)
    x[:, 0, 0] = x[:, 0, 0].round()  # pixels at the box's border too
    once = norm.project_into_box(delta, radius, -x, 1 - x)
    assert (norm.norm(once) <= radius * (1 + 1e-12)).all()
    assert ((once >= -x) & (once <= 1 - x)).all()
    torch.testing.assert_close(norm.project_into_box(once, radius, -x, 1 - x), once, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", [Linf(), L1()], ids=name_of)
@given(delta=perturbations, radius=radii, seed=st.integers(0, 2**31))
def test_project_into_box_is_the_nearest_point(norm: Geometry, delta: Tensor, radius: float, seed: int) -> None:
    """As in `test_project_is_the_nearest_point`, over ball and box together."""
    x = torch.rand(delta.shape, generator=rng(seed), dtype=delta.dtype)
    nearest = norm.project_into_box(delta, radius, -x, 1 - x)
    other = norm.random_start(delta, radius, rng(seed + 1)).clamp(-x, 1 - x)
    for inside in (other, norm.project_into_box(delta + other, radius, -x, 1 - x)):
        inner = ((delta - nearest) * (inside - nearest)).flatten(1).sum(1)
        assert (inner <= 1e-9 * (1 + delta.abs().max() ** 2)).all()


def test_l1_projection_known_answers() -> None:
    delta = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [-0.2, 0.1, 0.3], [-4.0, 4.0, 0.0]])
    expected = torch.tensor([[2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [-0.2, 0.1, 0.3], [-1.0, 1.0, 0.0]])
    high = torch.tensor([[9.0], [1.5], [9.0], [9.0]]).expand(4, 3)
    torch.testing.assert_close(L1().project_into_box(delta, 2.0, -high, high), expected)


def test_l1_steps_change_the_asked_share_of_the_pixels() -> None:
    gradient = torch.randn(4, 3, 8, 8, generator=rng())
    for density, pixels in ((0.0, 1), (0.05, 10), (1.0, 192)):
        step = L1(density=density).step(gradient, 2.0)
        assert (step != 0).flatten(1).sum(1).tolist() == [pixels] * 4
        torch.testing.assert_close(L1().norm(step), torch.full((4,), 2.0))
    assert torch.equal(L1(density=0.0).step(gradient, 1.0), L1().steepest(gradient))


@every_norm
@given(radius=radii, seed=st.integers(0, 2**31))
def test_random_start_is_in_the_ball_and_follows_its_generator(norm: Geometry, radius: float, seed: int) -> None:
    like = torch.zeros(5, 3, 4, 4, dtype=torch.float64)
    start = norm.random_start(like, radius, rng(seed))
    assert (norm.norm(start) <= radius * (1 + 1e-12)).all()
    assert torch.equal(start, norm.random_start(like, radius, rng(seed)))
    assert start.dtype == like.dtype
    assert start.shape == like.shape


def test_linf_start_is_uniform_in_the_cube() -> None:
    start = members(Geometry)["linf"]().random_start(torch.zeros(500, 1, 4, 4), 2.0, rng())
    assert stats.kstest(start.flatten().numpy(), stats.uniform(-2, 4).cdf).pvalue > 1e-3


def test_l2_start_has_uniform_length_and_direction() -> None:
    l2 = members(Geometry)["l2"]()
    start = l2.random_start(torch.zeros(4000, 1, 2, 2), 2.0, rng())
    assert stats.kstest(l2.norm(start).numpy(), stats.uniform(0, 2).cdf).pvalue > 1e-3
    # One coordinate of a uniform direction in 4 dimensions: (1 + c) / 2 is Beta(3/2, 3/2).
    coordinate = l2.steepest(start).flatten(1)[:, 0]
    assert stats.kstest(((1 + coordinate) / 2).numpy(), stats.beta(1.5, 1.5).cdf).pvalue > 1e-3


def test_l1_start_has_uniform_length_and_direction() -> None:
    start = L1().random_start(torch.zeros(4000, 1, 1, 3), 2.0, rng())
    length = L1().norm(start)
    assert stats.kstest(length.numpy(), stats.uniform(0, 2).cdf).pvalue > 1e-3
    # One coordinate's share of a uniform point of the simplex in 3 dimensions is Beta(1, 2).
    share = (start.abs().flatten(1) / length[:, None])[:, 0]
    assert stats.kstest(share.numpy(), stats.beta(1, 2).cdf).pvalue > 1e-3
    assert start.sign().mean() == pytest.approx(0, abs=0.03)


@every_norm
@settings(max_examples=30)
@given(normal=perturbations.map(lambda t: t.round(decimals=2)), seed=st.integers(0, 2**31), share=st.floats(-1.5, 1.5))
def test_to_plane_is_the_shortest_way_there(norm: Geometry, normal: Tensor, seed: int, share: float) -> None:
    """On the plane if box and plane meet, else at the nearest corner; and no shorter one is, says linear programming."""
    x = torch.rand(normal.shape, generator=rng(seed), dtype=normal.dtype)
    x[:, 0, 0] = x[:, 0, 0].round()  # pixels at the box's border too
    most = (normal.abs() * torch.where(normal * share > 0, 1 - x, x)).flatten(1).sum(1)
    amount = share * most
    found = norm.to_plane(normal, amount, -x, 1 - x)
    assert ((x + found >= -1e-12) & (x + found <= 1 + 1e-12)).all()
    reached = (normal * found).flatten(1).sum(1)
    torch.testing.assert_close(
        reached, most * share if abs(share) <= 1 else most * np.sign(share), rtol=1e-9, atol=1e-12
    )
    assert (found[normal == 0] == 0).all()
    for i in range(len(x)):
        w, d, low = (t[i].flatten().numpy() for t in (normal, found, -x))
        assert _shortest(name_of(norm), w, float(reached[i]), low, low + 1, d) >= -1e-5


def _shortest(norm: str, w: np.ndarray, amount: float, low: np.ndarray, high: np.ndarray, found: np.ndarray) -> float:
    """How much longer the shortest change with <w, d> = amount is than `found`; below 0 if `found` is not it."""
    if norm == "l2":  # the nearest point of a convex set is the one that <found, . - found> >= 0 throughout it
        done = linprog(found, A_eq=w[None], b_eq=[amount], bounds=np.stack([low, high], 1))
        return done.fun - found @ found if done.success else 0.0
    n, one = len(w), np.eye(len(w))
    over = one if norm == "l1" else np.ones((n, 1))
    above = np.block([[one, -over], [-one, -over]])  # |d_i| <= t_i, or t
    costs = np.r_[np.zeros(n), np.ones(over.shape[1])]
    bounds = [*zip(low, high, strict=True), *[(0, None)] * over.shape[1]]
    plane = np.r_[w, np.zeros(over.shape[1])][None]
    done = linprog(costs, A_ub=above, b_ub=np.zeros(2 * n), A_eq=plane, b_eq=[amount], bounds=bounds)
    length = np.abs(found).sum() if norm == "l1" else np.abs(found).max()
    return done.fun - length if done.success else 0.0


@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_to_plane_survives_tiny_and_huge_gradients_in_float32(norm: Geometry, scale: float) -> None:
    x, normal = torch.rand(4, 3, 5, 5, generator=rng()), torch.randn(4, 3, 5, 5, generator=rng(1))
    expected = norm.to_plane(normal, torch.full((4,), 0.5), -x, 1 - x)
    torch.testing.assert_close(norm.to_plane(normal * scale, torch.full((4,), 0.5 * scale), -x, 1 - x), expected)


@every_norm
def test_without_a_normal_there_is_no_way_to_the_plane(norm: Geometry) -> None:
    x = torch.rand(2, 3, 4, 4, generator=rng())
    for amount in (torch.zeros(2), torch.ones(2)):
        assert torch.equal(norm.to_plane(torch.zeros_like(x), amount, -x, 1 - x), torch.zeros_like(x))
