"""The sum of all changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from quench.errors import require
from quench.geometry import Geometry, per_example


@dataclass(frozen=True, kw_only=True)
class L1(Geometry):
    """`sum |d_i|`; its dual is the l-infinity norm, its ball's corners change a single pixel.

    The steepest direction is such a corner: a step of one pixel, which ascends far too slowly. Steps
    change the share `density` of the pixels instead, all equally (Tramer & Boneh 2019,
    arXiv 1904.13000; APGD-L1, Croce & Hein 2021, arXiv 2103.01208).
    """

    density: float = 0.05
    """share of the pixels and channels that a step changes; at least one of them"""

    def __post_init__(self) -> None:
        require(0 <= self.density <= 1, "density", self.density, "must be from 0 to 1")

    def norm(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).sum(1)

    def random_start(self, like: Tensor, radius: float, rng: Generator) -> Tensor:
        """A uniform point of the sphere (Laplace noise, scaled) times a uniform length in [0, radius]."""
        one, other = (torch.empty_like(like).exponential_(generator=rng) for _ in range(2))
        laplace = one - other
        length = torch.empty(len(like), dtype=like.dtype, device=like.device).uniform_(0, radius, generator=rng)
        return laplace * per_example(length / self.norm(laplace), like)

    def steepest(self, gradient: Tensor) -> Tensor:
        return _top(gradient, 1)

    def step(self, gradient: Tensor, length: float) -> Tensor:
        pixels = gradient[0].numel()
        return length * _top(gradient, max(math.ceil(self.density * pixels), 1))

    def project(self, delta: Tensor, radius: float) -> Tensor:
        unbounded = torch.full_like(delta, torch.inf)
        return self.project_into_box(delta, radius, -unbounded, unbounded)

    def project_into_box(self, delta: Tensor, radius: float, low: Tensor, high: Tensor) -> Tensor:
        """The nearest point of ball and box together (clamping the ball's would waste length at the box).

        It is sign(d) min((|d| - t)+, b) with b the bound on d's side and the smallest t >= 0 that ends
        in the ball. As t falls the norm grows piecewise linearly, with a kink where a component
        starts to grow (t = |d|) and where it reaches its bound (t = |d| - b): sorting finds t exactly.
        """
        boxed = delta.clamp(low, high)
        size = delta.abs().flatten(1)
        bound = torch.where(delta > 0, high, -low).flatten(1)
        kinks = torch.cat([size, (size - bound).clamp_min(0)], 1)
        kinks, order = kinks.sort(dim=1, descending=True)
        growing = torch.where(order < size.shape[1], 1.0, -1.0).to(delta.dtype).cumsum(1)
        after = torch.cat([kinks[:, 1:], torch.zeros_like(kinks[:, :1])], 1)
        reached = (growing * (kinks - after)).cumsum(1)  # the norm at t = after
        last = (reached < radius).sum(1, keepdim=True).clamp_max(kinks.shape[1] - 1)
        excess = (reached.gather(1, last) - radius).clamp_min(0)
        threshold = after.gather(1, last) + excess / growing.gather(1, last).clamp_min(1)
        shrunk = (size - threshold).clamp_min(0).minimum(bound) * delta.flatten(1).sign()
        rounding = (radius / self.norm(shrunk)).clamp(max=1)  # of `size - threshold`, where both are large
        shrunk = (shrunk * rounding[:, None]).view_as(delta)
        return torch.where(per_example(self.norm(boxed) <= radius, delta), boxed, shrunk)

    def allot(self, gain: Tensor, room: Tensor, amount: Tensor) -> Tensor:
        """The component of the largest gain as far as it may go, then the next."""
        most, order = gain.sort(dim=1, descending=True)
        limit = room.gather(1, order)
        worth = most * limit
        left = amount[:, None] - (worth.cumsum(1) - worth)
        taken = (left / most.clamp_min(torch.finfo(gain.dtype).tiny)).clamp_min(0).minimum(limit)
        return torch.zeros_like(gain).scatter(1, order, torch.where(most > 0, taken, 0.0))


def _top(gradient: Tensor, count: int) -> Tensor:
    """The signs of each example's `count` largest components over `count`; zero elsewhere."""
    flat = gradient.flatten(1)
    largest = flat.abs().topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign() / count).view_as(gradient)
