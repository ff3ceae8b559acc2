"""Training methods: what a batch becomes before the weights learn from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from quench.catalogue import Plugin
from quench.context import Context
from quench.datasets import Batch
from quench.threat_model import ThreatModel

__all__ = ["Context", "Method"]


class Method(Plugin):
    """A training method; a frozen dataclass whose fields are its settings, step sizes as ratios of epsilon."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    """those in which the method is defined; a recipe with another is refused"""
    adversarial: ClassVar[bool] = True
    """whether it looks for adversarial examples at all, and can overfit to them"""
    compiles: ClassVar[bool] = True
    """whether `torch.compile` can differentiate it; not twice (pytorch/pytorch#91469)"""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        """Yield one scalar loss for each optimizer update that the batch is worth.

        The loop runs backward and the optimizer's step between one loss and the next, so what is
        read after a yield has the gradients of that very update. `batch` is not modified.
        """
