"""What the training loop lends a method for one batch, and what it learns back from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from quench.attacks import ascent_gradient
from quench.geometry import Geometry
from quench.models import batch_norms
from quench.ranks import Ranks
from quench.threat_model import ThreatModel

Statistics = Literal["batch", "running"]
SIGNALS = ("loss", "accuracy", "linearity", "alignment", "abnormal")
"""what `Context.observe` measures of an update; NaN where it has no meaning"""


@dataclass
class Context:
    """One batch's worth of means for a method, used again for the next.

    A single-step method takes one `gradient`, makes its images, and yields the `loss` of `forward`;
    from these `observe` reads, after the backward pass, how straight the loss was between the two.

    On several workers a method sees its worker's share of the batch. So that they learn together what one worker
    would from all of it, it draws by `noise`, `uniform` or `drawn`, averages by `mean`, and takes what is no
    mean over examples from the `whole` batch.
    """

    rng: Generator
    """source of the method's randomness, on the model's device; at the same place on all workers"""
    statistics: Statistics = "batch"
    """BatchNorm while crafting: the batch's own statistics, or the running ones; never updated"""
    label_smoothing: float = 0.0
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """what a method keeps from batch to batch, the same on all workers; checkpointed"""
    shares: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """... and what it keeps for each place in the batch: of this worker's share, `(n, ...)`; checkpointed"""
    examples: int = 0
    """training images, for memories with a place for each"""
    progress: float = 0.0
    """share of the run that is over, in [0, 1)"""
    epoch: int = 0
    """epochs done"""
    number: int = 0
    """of the batch within its epoch"""
    ranks: Ranks = Ranks()  # noqa: RUF009 - immutable
    rows: int = 0
    """examples in the whole batch, of which each worker has a share"""
    _gradients: int = 0
    _start: tuple[Tensor, Tensor] | None = None
    _images: Tensor | None = None
    _losses: Tensor | None = None
    _correct: Tensor | None = None
    _slopes: Tensor | None = None

    def drawn(self, like: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """`draw(like)` on one worker; on several, what it draws for the whole batch, and of that this one's share.

        `like` is `(n, ...)`, `draw` takes its numbers from `rng` and looks at its argument's shape alone. Every worker
        draws everything, which is little beside a forward pass, and leaves `rng` at the same place on all of them.
        """
        if self.ranks.size == 1:
            return draw(like)
        everyone = like.new_empty_strided((self.rows, *like.shape[1:]), like.stride())
        return draw(everyone)[self.ranks.share(self.rows)]

    def noise(self, threat: ThreatModel, x: Tensor, ratio: float = 1.0) -> Tensor:
        """The norm's random start, within `ratio` x epsilon of `x` `(n, ...)`, and perhaps outside the box."""
        return self.drawn(x, lambda like: threat.norm.random_start(like, ratio * threat.epsilon, self.rng))

    def random_start(self, threat: ThreatModel, x: Tensor, ratio: float = 1.0) -> Tensor:
        """`noise`, cut so that x + delta is in the pixel box."""
        return threat.clamp(x, self.noise(threat, x, ratio))

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform in [0, 1), in the shape, dtype and device of `like` `(n, ...)`."""
        return self.drawn(like, lambda like: torch.empty_like(like).uniform_(generator=self.rng))

    def whole(self, values: Tensor) -> Tensor:
        """`values` `(n, ...)` of all examples in the batch, `(rows, ...)`: see `Ranks.whole`."""
        return self.ranks.whole(values, self.rows)

    def mean(self, values: Tensor) -> Tensor:
        """This worker's part of the mean of `values` `(n,)` over the batch: the mean of the parts is that mean."""
        return values.mean() if self.ranks.size == 1 else values.sum() * (self.ranks.size / self.rows)

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
        return self._images.grad * (self._rows(self._images) / self.ranks.size)

    def _rows(self, share: Tensor) -> int:
        """Examples in the whole batch, of which this worker's are in `share`; one worker need not be told."""
        return len(share) if self.ranks.size == 1 else self.rows

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """Each example's cross-entropy, with the recipe's label smoothing: `(N,)`."""
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=self.label_smoothing)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The `mean` of `losses`; what the training accuracy and the signals are read from."""
        losses = self.losses(logits, y)
        self._losses, self._correct = losses.detach(), logits.detach().argmax(1) == y
        return self.mean(losses)

    def observe(self, geometry: Geometry) -> Tensor:
        """What the update just computed says, left on the device: `(6,)`, to be added up over the workers.

        With g0 the gradient that the one crafting step followed, s its steepest direction, and g1 the
        gradient at the image that was trained on: the means over the batch of loss, correct, <s, g1>, <s, g0>,
        cos(g0, g1), and loss fell in the step. `signals` makes of them what is reported.
        """
        assert self._losses is not None, "every update calls context.loss"
        assert self._correct is not None
        parts = [self._losses.sum(), self._correct.sum()]
        self._slopes = None
        if self._gradients == 1 and self._start is not None and self._images is not None:
            (before, start_losses), after = self._start, self.input_gradient
            uphill = geometry.steepest(before)
            self._slopes = torch.stack([(uphill * after).sum(), (uphill * before).sum()])
            alignment = F.cosine_similarity(before.flatten(1), after.flatten(1), eps=1e-30).sum()
            parts += [*self._slopes, alignment, (self._losses < start_losses).sum()]
        else:
            parts += [torch.full_like(parts[0], torch.nan)] * 4
        self._gradients, self._start = 0, None
        return torch.stack([part.to(parts[0].dtype) for part in parts]) / self._rows(self._losses)

    def linearity(self) -> Tensor | None:
        """kappa of the latest update, over the whole batch: see `signals`. None where `observe` could not tell."""
        return None if self._slopes is None else _linearity(self.ranks.total(self._slopes.clone()))

    def _note(self, gradient: Tensor, losses: Tensor) -> None:
        self._gradients, self._start = self._gradients + 1, (gradient.detach(), losses.detach())


def signals(observed: Tensor) -> Tensor:
    """A value for each of `SIGNALS`: the mean over updates of what `Context.observe` saw, added up over the workers.

    `observed` is `(updates, 6)`. Besides loss and accuracy:

    - linearity, kappa = mean <s, g1> / mean <s, g0>, cut to [-1, 1] (SORA, arXiv 2606.00738): below 1 where the loss
      flattens, below 0 where it falls again. (A mean of ratios, as published, is ruled by the examples
      that have next to no gradient);
    - alignment = mean cos(g0, g1);
    - abnormal: the share of examples whose loss fell in the step (AAER, arXiv 2404.08154).
    """
    loss, accuracy, after, before, alignment, abnormal = observed.unbind(1)
    linearity = _linearity(torch.stack([after, before]))
    return torch.stack([value.mean() for value in (loss, accuracy, linearity, alignment, abnormal)])


def _linearity(slopes: Tensor) -> Tensor:
    after, before = slopes
    return (after / before.clamp_min(torch.finfo(slopes.dtype).tiny)).clamp(-1, 1)


@contextmanager
def crafting(model: nn.Module, statistics: Statistics, frozen: bool = True) -> Iterator[nn.Module]:
    """The model without its data-parallel wrapper, set so that a pass leaves no trace in its buffers.

    `frozen` weights get no gradients: eager autograd would leave them out by itself, a compiled
    backward pass would compute them and throw them away.
    """
    bare: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    weights = [weight for weight in bare.parameters() if weight.requires_grad and frozen]
    layers = [layer for layer in batch_norms(bare) if layer.training]
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
