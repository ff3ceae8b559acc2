"""So many passes over the training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quench.errors import positive
from quench.training.budgets import Budget


@dataclass(frozen=True)
class Epochs(Budget):
    """The same work for every run, whatever it costs."""

    measure = "epoch"

    epochs: int = 30
    """passes over the training images"""

    def __post_init__(self) -> None:
        positive(self, "epochs")

    @property
    def amount(self) -> float:
        return self.epochs

    def progress(self, epochs: float, train_seconds: Callable[[], float]) -> float:
        return epochs / self.epochs
