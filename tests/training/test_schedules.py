from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quench.catalogue import members, name_of
from quench.errors import InvalidValue
from quench.training.schedules import Schedule
from quench.training.schedules.linear import Linear
from quench.training.schedules.one_cycle import OneCycle
from quench.training.schedules.piecewise import Piecewise

SCHEDULES = [member() for member in members(Schedule).values()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
@given(progress=st.floats(0, 1, exclude_max=True))
def test_is_a_factor(schedule: Schedule, progress: float) -> None:
    assert 0 <= schedule(progress) <= 1


def test_one_cycle_is_a_triangle() -> None:
    schedule = OneCycle(peak=0.4)
    assert [schedule(p) for p in (0, 0.2, 0.4, 0.7, 0.999)] == pytest.approx([0, 0.5, 1, 0.5, 0.001 / 0.6])


def test_piecewise_drops() -> None:
    schedule = Piecewise(drops=(0.5, 0.75), factor=0.1)
    assert [schedule(p) for p in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_linear_goes_through_its_points() -> None:
    schedule = Linear(at=(0.0, 0.2, 0.6, 1.0), factors=(0.0, 1.0, 0.1, 0.0))
    assert [schedule(p) for p in (0, 0.1, 0.2, 0.4, 0.6, 0.8)] == pytest.approx([0, 0.5, 1, 0.55, 0.1, 0.05])
    assert [Linear()(p) for p in (0.1, 0.4, 0.9)] == pytest.approx([OneCycle()(p) for p in (0.1, 0.4, 0.9)])


def test_impossible_settings_are_refused() -> None:
    for at, factors, key in (
        ((0.0, 0.5), (0, 1), "at"),
        ((0.0, 1.0), (1, 2), "factors"),
        ((0.0, 1.0), (1,), "factors"),
    ):
        with pytest.raises(InvalidValue, match=key):
            Linear(at=at, factors=factors)
    with pytest.raises(InvalidValue, match="peak"):
        OneCycle(peak=1.0)
    with pytest.raises(InvalidValue, match="drops"):
        Piecewise(drops=(0.7, 0.5))
