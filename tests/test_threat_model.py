from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from quench.catalogue import members, name_of
from quench.errors import InvalidValue
from quench.geometry import Geometry
from quench.geometry.l2 import L2
from quench.geometry.linf import Linf
from quench.threat_model import ThreatModel

NORMS = [member() for member in members(Geometry).values()]


@pytest.mark.parametrize("norm", NORMS, ids=name_of)
@given(epsilon=st.floats(1e-3, 3), seed=st.integers(0, 2**31), size=st.floats(0.01, 30))
def test_projection_and_start_stay_in_ball_and_box(norm: Geometry, epsilon: float, seed: int, size: float) -> None:
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    rng = Generator().manual_seed(seed)
    x = torch.rand(4, 3, 4, 4, generator=rng)
    for delta in (threat.random_start(x, rng), threat.project(x, size * torch.randn(x.shape, generator=rng))):
        assert threat.contains(x, x + delta).all()


def test_contains_refuses_what_is_outside() -> None:
    x = torch.full((3, 1, 2, 2), 0.95)
    adversarial = x.clone()
    adversarial[1] += 0.02  # outside the ball
    adversarial[2] += 0.06  # outside the box as well
    assert ThreatModel(norm=Linf(), epsilon=0.01).contains(x, adversarial).tolist() == [True, False, False]
    assert ThreatModel(norm=Linf(), epsilon=0.10).contains(x, adversarial).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("norm", "epsilon", "written"),
    [
        (Linf(), 8 / 255, "linf 8/255"),
        (L2(), 128 / 255, "l2 128/255"),
        (L2(), 0.5, "l2 0.5"),
        (Linf(), 0.15, "linf 0.15"),
    ],
)
def test_is_written_as_the_field_writes_it(norm: Geometry, epsilon: float, written: str) -> None:
    assert str(ThreatModel(norm=norm, epsilon=epsilon)) == written


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_an_impossible_epsilon(epsilon: float) -> None:
    with pytest.raises(InvalidValue, match="epsilon"):
        ThreatModel(norm=Linf(), epsilon=epsilon)
