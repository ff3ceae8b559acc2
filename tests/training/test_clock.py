"""A clock that many updates ask is read as often as need be, and not more."""

from __future__ import annotations

from math import log2

import torch
from hypothesis import given
from hypothesis import strategies as st

from quench.ranks import Ranks
from quench.training.clock import Clock, SharedReading


class Told(Clock):
    now, reads = 0.0, 0

    @property
    def on_host(self) -> float:
        self.reads += 1
        return self.now


@given(pace=st.floats(1e-4, 3.0), questions=st.integers(1, 400))
def test_a_reading_is_never_later_than_its_interval(pace: float, questions: int) -> None:
    clock = Told(torch.device("cpu"))
    reading = SharedReading(clock, Ranks(), interval=0.1)
    for _ in range(questions):
        clock.now += pace
        assert 0 <= clock.now - reading() <= 0.1
    assert clock.reads <= min(questions, 2 * questions * pace / 0.1 + max(log2(0.1 / pace), 0) + 3)
