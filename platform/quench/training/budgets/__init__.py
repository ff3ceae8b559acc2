"""How long a run lasts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

from quench.catalogue import Plugin


class Budget(Plugin):
    """What a run may spend; schedules and warm-ups follow the share of it that is spent."""

    measure: ClassVar[Literal["epoch", "train_seconds"]]
    """the number of an epoch's report that the budget limits"""

    @property
    @abstractmethod
    def amount(self) -> float:
        """How much of the measure there is to spend."""

    @abstractmethod
    def progress(self, epochs: float, train_seconds: Callable[[], float]) -> float:
        """The share that is spent, after `epochs` and by the train clock, which is asked only if it matters."""
