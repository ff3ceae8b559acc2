"""What the training loop lends a method for one batch, and what it learns back from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.parallel import DistributedDataParallel

from quench.attacks import ascent_gradient
from quench.geometry import Geometry

Statistics = Literal["batch", "running"]
SIGNALS = ("loss", "accuracy", "linearity", "alignment", "abnormal")
"""what `observe` measures of an update; NaN where it has no meaning"""


@dataclass
class Context:
    """One batch's worth of means for a method, used again for the next.

    A single-step method takes one `gradient`, makes its images, and yields the `loss` of `forward`;
    from these `observe` reads, after the backward pass, how straight the loss was between the two.
    """

    rng: Generator
    """source of the method's randomness, on the model's device"""
    statistics: Statistics = "batch"
    """BatchNorm while crafting: the batch's own statistics, or the running ones; never updated"""
    label_smoothing: float = 0.0
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """what a method keeps from batch to batch; checkpointed"""
    examples: int = 0
    """training images, for memories with a place for each"""
    progress: float = 0.0
    """share of the run that is over, in [0, 1)"""
    epoch: int = 0
    """epochs done"""
    number: int = 0
    """of the batch within its epoch"""
    linearity: Tensor | None = None
    """of the latest update, where `observe` could tell"""
    _gradients: int = 0
    _start: tuple[Tensor, Tensor] | None = None
    _images: Tensor | None = None
    _losses: Tensor | None = None
    _correct: Tensor | None = None

    def gradient(
        self, model: nn.Module, x: Tensor, y: Tensor, objective: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """The gradient of each example's loss with respect to its pixels: shape of `x`.

        The loss is the cross-entropy that the weights learn from too, or `objective`, logits `(N, classes)`
        -> `(N,)`. On the bare model (no all-reduce), which keeps no trace of it. Two forward passes' worth.
        """
        with crafting(model, self.statistics) as bare:
            gradient, losses = ascent_gradient(bare, x, objective or (lambda logits: self.losses(logits, y)))
        self._note(gradient, losses)
        return gradient

    def gradient_and_logits(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """`gradient`, and the logits `(N, classes)` on the way to it, from which the weights can learn as well."""
        pixels = x.detach().requires_grad_()
        with crafting(model, self.statistics, frozen=False) as bare:
            logits = bare(pixels)
            losses = self.losses(logits, y)
            (gradient,) = torch.autograd.grad(losses.sum(), pixels, retain_graph=True)
        self._note(gradient, losses)
        return gradient, logits

    def forward(self, model: nn.Module, adversarial: Tensor) -> Tensor:
        """The logits to learn from. After the backward pass `input_gradient` is known: a convolution's worth."""
        self._images = adversarial.detach().requires_grad_()
        return model(self._images)

    @property
    def input_gradient(self) -> Tensor:
        """The gradient, with respect to the images of `forward`, of the loss that was yielded: `(N, C, H, W)`.

        Per example: the mean's 1/N is taken out.
        """
        assert self._images is not None, "the loss comes from forward's logits"
        assert self._images.grad is not None, "read after the yield"
        return self._images.grad * len(self._images)

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """Each example's cross-entropy, with the recipe's label smoothing: `(N,)`."""
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=self.label_smoothing)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean of `losses`; what the training accuracy and the signals are read from."""
        losses = self.losses(logits, y)
        self._losses, self._correct = losses.detach(), logits.detach().argmax(1) == y
        return losses.mean()

    def observe(self, geometry: Geometry) -> Tensor:
        """What the update just computed says: a value for each of `SIGNALS`, left on the device.

        With g0 the gradient that the one crafting step followed, s its steepest direction, and g1 the
        gradient at the image that was trained on (SORA, arXiv 2606.00738):

        - linearity, kappa = sum <s, g1> / sum <s, g0> over the examples, cut to [-1, 1]: below 1 where the loss
          flattens, below 0 where it falls again. (A mean of ratios, as published, is ruled by the examples
          that have next to no gradient);
        - alignment = mean cos(g0, g1);
        - abnormal: the share of examples whose loss fell in the step (AAER, arXiv 2404.08154).
        """
        assert self._losses is not None, "every update calls context.loss"
        assert self._correct is not None
        values = [self._losses.mean(), self._correct.float().mean()]
        if self._gradients == 1 and self._start is not None and self._images is not None:
            (before, start_losses), after = self._start, self.input_gradient
            uphill = geometry.steepest(before)
            slope = (uphill * before).sum().clamp_min(torch.finfo(before.dtype).tiny)
            linearity = ((uphill * after).sum() / slope).clamp(-1, 1)
            alignment = F.cosine_similarity(before.flatten(1), after.flatten(1), eps=1e-30).mean()
            self.linearity = linearity
            values += [linearity, alignment, (self._losses < start_losses).float().mean()]
        else:
            values += [torch.full_like(values[0], torch.nan)] * 3
        self._gradients, self._start = 0, None
        return torch.stack([value.float() for value in values])

    def _note(self, gradient: Tensor, losses: Tensor) -> None:
        self._gradients, self._start = self._gradients + 1, (gradient.detach(), losses.detach())


@contextmanager
def crafting(model: nn.Module, statistics: Statistics, frozen: bool = True) -> Iterator[nn.Module]:
    """The model without its data-parallel wrapper, set so that a pass leaves no trace in its buffers.

    `frozen` weights get no gradients: eager autograd would leave them out by itself, a compiled
    backward pass would compute them and throw them away.
    """
    bare: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    weights = [weight for weight in bare.parameters() if weight.requires_grad and frozen]
    layers = [layer for layer in bare.modules() if isinstance(layer, _BatchNorm) and layer.training]
    for weight in weights:
        weight.requires_grad_(False)
    for layer in layers:
        # In train mode without tracking a layer normalises by the batch and updates nothing.
        layer.track_running_stats = False
        layer.training = statistics == "batch"
    try:
        yield bare
    finally:
        for weight in weights:
            weight.requires_grad_(True)
        for layer in layers:
            layer.track_running_stats = True
            layer.training = True
