"""Training on the images as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from quench.datasets import Batch
from quench.methods import Context, Method
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Standard(Method):
    """min E[loss(f(x), y)]: the baseline, 3 forward passes' worth of work an update."""

    adversarial: ClassVar[bool] = False

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        yield context.loss(model(batch.x), batch.y)
