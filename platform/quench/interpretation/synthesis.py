"""Images made by descending an objective of the model: one loop, several objectives, several places to start.

The published radii and steps are for images of 224 x 224 x 3, whose box [0, 1]^d has the diagonal sqrt(d) = 388;
here they are given as shares of that diagonal, which makes sense for images of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from quench.attacks import ascent_gradient
from quench.attacks.pgd import ascend
from quench.errors import positive
from quench.geometry.l2 import L2
from quench.interpretation.alignment import relative_distance
from quench.interpretation.saliency import class_loss
from quench.threat_model import ThreatModel

Objective = Callable[[Tensor], Tensor]
"""what a model gives `(N, ...)` -> `(N,)`, to be made small"""


@dataclass(frozen=True, kw_only=True)
class Descent:
    """x <- P(x - step g / ||g||_2), with P onto the Euclidean ball around the start, and the box [0, 1]."""

    steps: int
    """how many"""
    step: float
    """length of a step, as a share of the diagonal sqrt(C H W) of the box"""
    radius: float = 1.0
    """of the ball, as a share of that diagonal; 1 is all of the box"""

    def __post_init__(self) -> None:
        positive(self, "steps", "step", "radius")

    def __call__(self, model: nn.Module, objective: Objective, start: Tensor) -> Tensor:
        """Where each image of `start`, `(N, C, H, W)` in [0, 1], ends: in [0, 1] and in its ball.

        `objective` is of what `model` gives; the model is used in the mode it is in and is not changed.
        """
        threat = ThreatModel(norm=L2(), epsilon=self.radius * math.sqrt(start[0].numel()))

        def downhill(x: Tensor) -> Tensor:
            return -ascent_gradient(model, x, objective)[0]

        delta = ascend(downhill, start, torch.zeros_like(start), threat, self.steps, self.step / self.radius)
        return (start + delta).clamp(0, 1)


def towards_class(y: Tensor) -> Objective:
    """Of logits `(N, classes)`: how far each is from class `y`, `(N,)` int64."""
    return lambda logits: class_loss(logits, y)


def towards_representation(target: Tensor) -> Objective:
    """Of representations `(N, D)`: ||r - target|| / ||target||, as in Engstrom et al. (arXiv 1906.00945), section 3."""
    return lambda representation: relative_distance(representation, target)


def raising_feature(index: Tensor) -> Objective:
    """Of representations `(N, D)`: minus feature `index`, `(N,)` int64, of each."""
    return lambda representation: -representation.gather(1, index[:, None])[:, 0]


def gaussian_seed(images: Tensor, rng: Generator) -> Tensor:
    """A draw from the Gaussian with the mean and covariance of `images` `(n, C, H, W)`: `(C, H, W)` in [0, 1].

    The start of class synthesis (Santurkar et al., arXiv 1906.09453). It is mean + X^T z / sqrt(n - 1) with X the
    centred images and z standard normal, which has exactly that covariance, and never forms it.
    """
    mean = images.mean(0)
    z = torch.empty(len(images), dtype=images.dtype, device=images.device).normal_(generator=rng)
    return (mean + torch.tensordot(z, images - mean, dims=1) / math.sqrt(max(len(images) - 1, 1))).clamp(0, 1)


def grey_noise(like: Tensor, rng: Generator) -> Tensor:
    """N(1/2, 1/20) for every pixel, in the shape of `like` and in [0, 1]: where feature visualisation starts."""
    return torch.empty_like(like).normal_(0.5, 0.05, generator=rng).clamp(0, 1)
