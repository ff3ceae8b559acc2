"""The Euclidean length of a change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from quench.geometry import Geometry, fill, per_example


@dataclass(frozen=True)
class L2(Geometry):
    """`sqrt(sum d_i^2)`; it is its own dual."""

    def norm(self, delta: Tensor) -> Tensor:
        return torch.linalg.vector_norm(delta.flatten(1), dim=1)

    def random_start(self, like: Tensor, radius: float, rng: Generator) -> Tensor:
        """A uniform direction times a uniform length in [0, radius].

        Not uniform in the ball's volume: in an image's dimension that would be the sphere.
        """
        normal = torch.empty_like(like).normal_(generator=rng)
        length = torch.empty(len(like), dtype=like.dtype, device=like.device).uniform_(0, radius, generator=rng)
        return self.steepest(normal) * per_example(length, like)

    def steepest(self, gradient: Tensor) -> Tensor:
        # Divided by its largest entry first: the squares of a confident example's gradient underflow.
        tiny = torch.finfo(gradient.dtype).tiny
        peak = gradient.abs().flatten(1).amax(1).clamp_min(tiny)
        scaled = gradient / per_example(peak, gradient)
        return scaled / per_example(self.norm(scaled).clamp_min(tiny), gradient)

    def project(self, delta: Tensor, radius: float) -> Tensor:
        return delta * per_example((radius / self.norm(delta)).clamp(max=1), delta)

    def allot(self, gain: Tensor, room: Tensor, amount: Tensor) -> Tensor:
        """Each component in proportion to its gain, as far as it may go."""
        return fill(gain, room, gain, amount)
