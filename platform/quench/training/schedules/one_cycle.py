"""Up, then down."""

from __future__ import annotations

from dataclasses import dataclass

from quench.errors import require
from quench.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """Linear from 0 to 1 and back to 0: the triangle of fast training (Smith & Topin, arXiv 1708.07120)."""

    peak: float = 0.4
    """progress at which the learning rate is highest"""

    def __post_init__(self) -> None:
        require(0 < self.peak < 1, "peak", self.peak, "must be between 0 and 1, exclusive")

    def __call__(self, progress: float) -> float:
        return progress / self.peak if progress < self.peak else (1 - progress) / (1 - self.peak)
