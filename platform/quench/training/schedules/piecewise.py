"""Constant, with drops."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from quench.errors import require
from quench.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Piecewise(Schedule):
    """1 at first, multiplied by `factor` at each drop: the schedule of long runs."""

    drops: tuple[float, ...] = (0.5, 0.75)
    """progress at each drop, rising"""
    factor: float = 0.1

    def __post_init__(self) -> None:
        rising = list(self.drops) == sorted(self.drops) and all(0 < d < 1 for d in self.drops)
        require(rising, "drops", self.drops, "must rise, each between 0 and 1, exclusive")
        require(0 < self.factor <= 1, "factor", self.factor, "must be above 0 and at most 1")

    def __call__(self, progress: float) -> float:
        return self.factor ** bisect_right(self.drops, progress)
