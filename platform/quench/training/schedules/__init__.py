"""The learning rate as a function of progress."""

from __future__ import annotations

from abc import abstractmethod

from quench.catalogue import Plugin


class Schedule(Plugin):
    """A pure function, so that a run stopped and resumed, or given another budget, needs no state."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """The factor on the peak learning rate, in [0, 1], at `progress` in [0, 1]."""
