"""Searching the ball for an image that the model gets wrong."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from quench.catalogue import Plugin
from quench.datasets import Batch
from quench.threat_model import ThreatModel


class Attack(Plugin):
    """A search; a frozen dataclass whose fields are its strength."""

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Batch, threat: ThreatModel, rng: Generator) -> Tensor:
        """Adversarial examples for `batch.x`: `(N, C, H, W)`, inside the threat model.

        For each example the worst that a search ended in: one that fools the model if any did. The
        model is used in the mode it is in and is not changed; no parameter gradient is left.
        """


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each example's cross-entropy with respect to its pixels: shape of `x`."""
    return ascent_gradient(model, x, lambda logits: F.cross_entropy(logits, y, reduction="none"))[0]


def ascent_gradient(model: nn.Module, x: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The gradient of `objective(model(x))`, `(N,)`, with respect to the pixels, shape of `x`; and its values.

    The values are summed, not averaged, so that an example's gradient does not depend on the batch's
    size. Weights get no gradient: this costs two forward passes' worth, not three.
    """
    pixels = x.detach().requires_grad_()
    with torch.enable_grad():
        values = objective(model(pixels))
        return torch.autograd.grad(values.sum(), pixels)[0], values.detach()
