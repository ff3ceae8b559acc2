"""The geometry of a perturbation: how long it is, where it may start, which way is up, what is near.

Everything that distinguishes one norm from another lives here; attacks and methods are written
once, over this interface.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Generator, Tensor

from quench.catalogue import Plugin


class Geometry(Plugin):
    """A norm on perturbations. Tensors are `(N, ...)`, in pixel units; each example is on its own.

    Laws, which the tests hold every member to (p is the norm, q its dual):

    - `norm(project(d, r)) <= r`; `project` is the nearest point in the Euclidean sense, so it is
      idempotent and leaves the interior alone;
    - `<g, steepest(g)> = ||g||_q` with `norm(steepest(g)) <= 1`;
    - `norm(random_start(x, r, rng)) <= r`.
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


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """`(N,)` -> `(N, 1, ..., 1)`, to scale the examples of `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
