"""The largest change of any pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from quench.geometry import Geometry, fill


@dataclass(frozen=True)
class Linf(Geometry):
    """`max |d_i|`; its dual is the l1 norm, its ball a cube."""

    def norm(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).amax(1)

    def random_start(self, like: Tensor, radius: float, rng: Generator) -> Tensor:
        """Uniform in the cube, as in FGSM-RS (arXiv 2001.03994)."""
        return torch.empty_like(like).uniform_(-radius, radius, generator=rng)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, delta: Tensor, radius: float) -> Tensor:
        return delta.clamp(-radius, radius)

    def allot(self, gain: Tensor, room: Tensor, amount: Tensor) -> Tensor:
        """All components equally, as far as each may go."""
        return fill(gain, room, (gain > 0).to(gain.dtype), amount)
