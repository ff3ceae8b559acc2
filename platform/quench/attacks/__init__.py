"""Searching the ball for an image that the model gets wrong."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quench.catalogue import Plugin
from quench.datasets import Batch
from quench.threat_model import ThreatModel

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Victim:
    """A model under attack, in the mode that it is to be judged in; it is not changed, and gets no gradients."""

    model: nn.Module
    """pixels in [0, 1] `(N, C, H, W)` -> logits `(N, classes)`"""
    batch_size: int = 250
    """examples that go through the model at once"""
    precision: Precision = "float32"
    """arithmetic of crafting (float32: as torch's settings have it, by default TF32 in a GPU's convolutions); verdicts
    are always those of float32 in earnest"""

    def logits(self, x: Tensor) -> Tensor:
        """What verdicts are made from: `(N, classes)` float32, with any number of examples."""
        with torch.no_grad(), exactly():
            return torch.cat([self.model(_for_convolutions(part)).float() for part in x.split(self.batch_size)])

    def scores(self, x: Tensor) -> Tensor:
        """The logits in the precision of crafting: for searches that ask without gradients."""
        with torch.no_grad(), self._crafting(x):
            return self.model(_for_convolutions(x)).float()

    def gradient(self, x: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """`ascent_gradient` of `objective`, logits `(N, classes)` -> `(N,)`; its values; and the logits.

        Zero where the model does not let gradients through to its pixels, which raises a flag of reliability.
        """
        seen: list[Tensor] = []

        def watched(logits: Tensor) -> Tensor:
            seen.append(logits.detach().float())
            return objective(logits.float())

        with self._crafting(x):
            gradient, values = ascent_gradient(self.model, _for_convolutions(x), watched, blocked="zero")
        return gradient, values, seen[0]

    def fooled(self, batch: Batch, adversarial: Tensor, threat: ThreatModel) -> Tensor:
        """The verdict, `(N,)` bool: misclassified, and within the threat model; images outside do not count."""
        return (self.logits(adversarial).argmax(1) != batch.y) & threat.contains(batch.x, adversarial)

    def _crafting(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


Stage = Callable[[Victim, Batch, ThreatModel, int], Tensor]
"""(victim, batch, threat, seed) -> adversarial images, shaped like the batch's, or the image where none was found"""


class Attack(Plugin):
    """A way to look for adversarial examples; a frozen dataclass whose fields are its strength."""

    @abstractmethod
    def stages(self, threat: ThreatModel, classes: int) -> Mapping[str, Stage]:
        """The searches that it is made of, in their order: each gets the examples that stood up to those before.

        Raises `InvalidValue` if it is not defined for this threat model or number of classes.
        """


@contextmanager
def exactly() -> Iterator[None]:
    """float32 products of float32 factors, whatever torch is set to: it may round them to 10 bits on a GPU (TF32; in
    convolutions it does by default), and to 7 on a CPU (bfloat16)."""
    before = [(place, name, getattr(place, name)) for place, name, _ in _ROUNDING]
    try:
        for place, name, exact in _ROUNDING:
            setattr(place, name, exact)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def _rounding() -> list[tuple[Any, str, object]]:
    """Where torch is told how to multiply float32, under which name, and what makes it exact."""
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "conv"):  # since torch 2.9
        places = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
        return [(place, "fp32_precision", "ieee") for place in places]
    return [(backends.cudnn, "allow_tf32", False), (backends.cuda.matmul, "allow_tf32", False)]


_ROUNDING = _rounding()


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each example's cross-entropy with respect to its pixels: shape of `x`."""
    return ascent_gradient(model, x, lambda logits: F.cross_entropy(logits, y, reduction="none"))[0]


def ascent_gradient(
    model: nn.Module,
    x: Tensor,
    objective: Callable[[Tensor], Tensor],
    blocked: Literal["error", "zero"] = "error",
) -> tuple[Tensor, Tensor]:
    """The gradient of `objective(model(x))`, `(N,)`, with respect to the pixels, shape of `x`; and its values.

    The values are summed, not averaged, so that an example's gradient does not depend on the batch's
    size. Weights get no gradient: this costs two forward passes' worth, not three. A model that its pixels'
    gradient is `blocked` in (detached, or computed without) is an error, unless that is to count as zero.
    """
    pixels = x.detach().requires_grad_()
    with torch.enable_grad():
        values = objective(model(pixels))
        if blocked == "zero" and not values.requires_grad:
            return torch.zeros_like(pixels), values
        (gradient,) = torch.autograd.grad(values.sum(), pixels, materialize_grads=blocked == "zero")
        return gradient, values.detach()


def _for_convolutions(x: Tensor) -> Tensor:
    """In the memory order that convolutions prefer."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
