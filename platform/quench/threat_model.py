"""What an adversary may do to an image: move it within a ball of a norm, and within the pixel box [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from quench.catalogue import name_of
from quench.errors import InvalidValue, require
from quench.geometry import Geometry

TOLERANCE = 1e-5
"""of radius and box, for rounding in float32: relative, and a tenth of it absolute"""


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """All x + delta with `norm(delta) <= epsilon` and every pixel in [0, 1]."""

    norm: Geometry
    """the norm that measures a perturbation"""
    epsilon: float
    """radius of the ball, in pixel units (8/255 on the [0, 1] scale)"""

    def __post_init__(self) -> None:
        require(
            0 < self.epsilon < float("inf"), "epsilon", self.epsilon, "must be above 0, in pixel units, such as 8/255"
        )

    @staticmethod
    def parse(text: str, key: str = "threats") -> ThreatModel:
        """`linf:8/255`, `l2:0.5`, `l1:12`. Raises `InvalidValue` for anything else."""
        from quench.config import decode  # not needed to train

        norm, colon, epsilon = text.partition(":")
        require(bool(colon), key, text, "must be NORM:EPSILON, such as linf:8/255")
        try:
            return decode(ThreatModel, {"norm": norm, "epsilon": epsilon})
        except InvalidValue as error:
            raise error.under(key) from None

    def __str__(self) -> str:
        """The field's way of writing it: `linf 8/255`, `l2 0.5`."""
        return f"{name_of(self.norm)} {pixels(self.epsilon)}"

    def random_start(self, x: Tensor, rng: Generator, ratio: float = 1.0) -> Tensor:
        """A random perturbation of `x` `(N, ...)` within `ratio` x epsilon and the box."""
        return self.clamp(x, self.norm.random_start(x, ratio * self.epsilon, rng))

    def step(self, gradient: Tensor, ratio: float) -> Tensor:
        """The norm's step uphill, of length `ratio` x epsilon."""
        return self.norm.step(gradient, ratio * self.epsilon)

    def project(self, x: Tensor, delta: Tensor, ratio: float = 1.0) -> Tensor:
        """`delta` brought into the ball of radius `ratio` x epsilon, and x + delta into the box."""
        return self.norm.project_into_box(delta, ratio * self.epsilon, -x, 1 - x)

    def clamp(self, x: Tensor, delta: Tensor) -> Tensor:
        """`delta` cut so that x + delta is in the box; its norm is left alone."""
        return (x + delta).clamp(0, 1) - x

    def contains(self, x: Tensor, adversarial: Tensor, tolerance: float = TOLERANCE) -> Tensor:
        """`(N,)` bool: whether each adversarial example is one of `x`, to a relative `tolerance`."""
        near = self.norm.norm(adversarial - x) <= self.epsilon * (1 + tolerance) + tolerance * 1e-1
        flat = adversarial.flatten(1)
        return near & (flat.amin(1) >= -tolerance) & (flat.amax(1) <= 1 + tolerance)


def pixels(epsilon: float) -> str:
    """A radius as the field writes it: `8/255`, `0.5`."""
    steps = epsilon * 255
    plain = len(f"{epsilon:g}") <= 5 or abs(steps - round(steps)) > 1e-6
    return f"{epsilon:.4g}" if plain else f"{round(steps)}/255"
