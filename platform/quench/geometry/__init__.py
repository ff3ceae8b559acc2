"""The geometry of a perturbation: how long it is, where it may start, which way is up, what is near.

Everything that distinguishes one norm from another lives here; attacks and methods are written
once, over this interface.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Generator, Tensor

from quench.catalogue import Plugin


class Geometry(Plugin):
    """A norm on perturbations. Tensors are `(N, ...)`, in pixel units; each example is on its own.

        Laws, which the tests hold every member to (p is the norm, q its dual):

        - `norm(project(d, r)) <= r`; `project` is the nearest point in the Euclidean sense, so it is
          idempotent and leaves the interior alone;
        - `<g, steepest(g)> = ||g||_q` with `norm(steepest(g)) <= 1`;
        - `norm(random_start(x, r, rng)) <= r`;
    - `<g, to_plane(g, a, low, high)> = a` between the bounds, and nothing shorter does it.
    """

    @abstractmethod
    def norm(self, delta: Tensor) -> Tensor:
        """Length of each perturbation: `(N, ...)` -> `(N,)`."""

    @abstractmethod
    def random_start(self, like: Tensor, radius: float, rng: Generator) -> Tensor:
        """A random perturbation in the ball of `radius`, in the shape, dtype and device of `like`."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """argmax of <gradient, d> over norm(d) <= 1; zero where the gradient is zero."""

    @abstractmethod
    def project(self, delta: Tensor, radius: float) -> Tensor:
        """The point of the ball of `radius` nearest to `delta`."""

    def step(self, gradient: Tensor, length: float) -> Tensor:
        """A step of `length` uphill: along `steepest`, unless that makes a poor step in this norm."""
        return length * self.steepest(gradient)

    def project_into_box(self, delta: Tensor, radius: float, low: Tensor, high: Tensor) -> Tensor:
        """`delta` brought into the ball, then between `low` and `high` (shaped like it; low <= 0 <= high).

        The second keeps the first: it moves every component towards zero. What comes out is the
        nearest point of both in l-infinity; in l2 a near one, as is the field's habit.
        """
        return self.project(delta, radius).clamp(low, high)

    def to_plane(self, normal: Tensor, amount: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The shortest change `d`, in this norm, with <normal, d> = amount and low <= d <= high.

        `amount` is `(N,)`, everything else `(N, ...)` with low <= 0 <= high. Where no change between
        the bounds amounts to so much, that which comes nearest; zero where `normal` is zero. It is the
        projection onto plane and box of FAB (Croce & Hein 2020, arXiv 1907.02044, section 2 and appendix).
        """
        flat = normal.flatten(1)
        # Only the ratio of the two matters: the sizes of a confident example's gradient are brought to 1.
        peak = flat.abs().amax(1).clamp_min(torch.finfo(normal.dtype).tiny)
        uphill = flat / peak[:, None] * amount.sign()[:, None]
        room = torch.where(uphill > 0, high.flatten(1), -low.flatten(1))
        return (uphill.sign() * self.allot(uphill.abs(), room, amount.abs() / peak)).view_as(normal)

    @abstractmethod
    def allot(self, gain: Tensor, room: Tensor, amount: Tensor) -> Tensor:
        """The shortest `t` with sum gain_i t_i = amount and 0 <= t <= room: `to_plane` with all signs positive.

        `gain` and `room` are `(N, P)` and not negative, `amount` is `(N,)`; all of `room` (where `gain` is
        above 0) if that is not enough.
        """


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """`(N,)` -> `(N, 1, ..., 1)`, to scale the examples of `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def fill(gain: Tensor, room: Tensor, speed: Tensor, amount: Tensor) -> Tensor:
    """`t = min(room, level speed)`, `(N, P)`, at the `level` where sum gain_i t_i = amount, or all of `room`.

    The sum is concave and piecewise linear in the level, so Newton's method from below never overshoots, and
    ends as soon as no further component becomes full: a handful of times, each cheaper than a sort's share.
    """
    level = torch.zeros_like(amount)
    while True:
        full = room <= level[:, None] * speed
        left = amount - (gain * room * full).sum(1)
        slope = (gain * speed * ~full).sum(1)
        # All full is not infinitely high, which times a speed of 0 would not be a number.
        higher = (left / slope).nan_to_num(nan=0.0).clamp(max=torch.finfo(level.dtype).max).maximum(level)
        if not bool((higher > level).any()):
            return room.minimum(level[:, None] * speed)
        level = higher
