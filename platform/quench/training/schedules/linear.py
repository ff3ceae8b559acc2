"""Straight lines between given points."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from quench.errors import require
from quench.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """The factor at some points of the run, and in proportion between them; OneCycle has three."""

    at: tuple[float, ...] = (0.0, 0.4, 1.0)
    """progress at each point, rising from 0 to 1"""
    factors: tuple[float, ...] = (0.0, 1.0, 0.0)
    """the factor at each"""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.at)) and self.at[:1] == (0,) and self.at[-1:] == (1,)
        require(rising, "at", self.at, "must rise from 0 to 1")
        allowed = f"must be {len(self.at)} numbers from 0 to 1, one for each of `at`"
        fits = len(self.factors) == len(self.at) and all(0 <= factor <= 1 for factor in self.factors)
        require(fits, "factors", self.factors, allowed)

    def __call__(self, progress: float) -> float:
        points = zip(self.at, self.factors, strict=True)
        (start, low), (end, high) = next(pair for pair in pairwise(points) if progress <= pair[1][0])
        return low + (high - low) * (progress - start) / (end - start)
