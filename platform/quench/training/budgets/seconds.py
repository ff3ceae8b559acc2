"""So much time on the train clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quench.errors import require
from quench.training.budgets import Budget


@dataclass(frozen=True)
class Seconds(Budget):
    """The same time for every run: the learning rate follows the clock, the last epoch is cut short.

    Runs are then as reproducible as the machine's speed.
    """

    measure = "train_seconds"

    seconds: float = 60.0
    """on the train clock"""

    def __post_init__(self) -> None:
        require(0 < self.seconds < float("inf"), "seconds", self.seconds, "must be above 0")

    @property
    def amount(self) -> float:
        return self.seconds

    def progress(self, epochs: float, train_seconds: Callable[[], float]) -> float:
        return train_seconds() / self.seconds
