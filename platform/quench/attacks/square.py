"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random squares, kept where they help; no gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quench.attacks import Attack, Stage, Victim
from quench.attacks.losses import margin
from quench.attacks.search import Search, Slots, State
from quench.attacks.windows import Sides, Window, peaks_of, two_peaks
from quench.catalogue import name_of
from quench.errors import positive, require
from quench.geometry import per_example
from quench.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random search on the margin, each query a square whose size falls with the number of queries.

    The schedule of sizes is that of 10,000 queries however many there are, as in AutoAttack. Other
    than in the authors' code each example has squares of its own instead of all the batch the same,
    and a square may also touch the image's lower and right border, both as in the paper.
    """

    queries: int = 5000
    """squares tried in each restart, after its start"""
    area: float = 0.8
    """share of the image that the first squares cover (`p_init`)"""
    restarts: int = 1
    """independent searches"""

    def __post_init__(self) -> None:
        positive(self, "queries", "restarts")
        require(0 < self.area <= 1, "area", self.area, "must be above 0 and at most 1")

    def stages(self, threat: ThreatModel, classes: int) -> Mapping[str, Stage]:
        norm = name_of(threat.norm)
        if norm == "linf":
            return {"square": _Flat(self.queries, self.area, self.restarts)}
        return {"square": _Peaks(self.queries, self.area, self.restarts, {"l2": 2, "l1": 1}[norm])}


@dataclass(frozen=True)
class _Square(Search):
    """What all norms share: a proposal is kept if it has the highest margin so far.

    All of a round's random numbers, which are uniform, are drawn when it begins.
    """

    queries: int
    area: float
    restarts: int

    def rounds(self, threat: ThreatModel) -> int:
        return self.restarts

    def looks(self, threat: ThreatModel) -> int:
        return self.queries + 1

    def begin(self, victim: Victim, slots: Slots, threat: ThreatModel, seed: int) -> State:
        first, each = self._numbers(slots.x)
        count = first + self.queries * each
        noise = slots.drawn(seed, lambda rng, _: torch.rand(1, count, generator=rng))
        image = self._start(slots.x, noise[:, :first], threat)
        highest = torch.full_like(slots.y, -torch.inf, dtype=image.dtype)
        squares = noise[:, first:].unflatten(1, (self.queries, each)).clone()
        return {"image": image, "best": image.clone(), "highest": highest, "squares": squares}

    def look(self, victim: Victim, slots: Slots, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        state, tried = slots.state, slots.state["image"]
        logits = victim.scores(tried)
        value = margin(logits, slots.y).to(tried.dtype)
        higher = value > state["highest"]
        state["highest"] = torch.where(higher, value, state["highest"])
        state["best"] = torch.where(per_example(higher, tried), tried, state["best"])
        query = slots.looks.clamp(max=self.queries - 1)  # what follows the last one is not looked at
        noise = state["squares"][torch.arange(len(query), device=query.device), query]
        state["image"] = self._propose(slots.x, state["best"], noise, query, threat)
        return tried, logits.argmax(1) != slots.y

    @abstractmethod
    def _numbers(self, x: Tensor) -> tuple[int, int]:
        """How many random numbers the start and each square of an image need."""

    @abstractmethod
    def _start(self, x: Tensor, noise: Tensor, threat: ThreatModel) -> Tensor:
        """The first image, from uniform numbers `(N, count)`."""

    @abstractmethod
    def _propose(self, x: Tensor, best: Tensor, noise: Tensor, query: Tensor, threat: ThreatModel) -> Tensor:
        """The best image with one square changed, each at its own `query` `(N,)`."""


class _Flat(_Square):
    """Linf (algorithm 2): every pixel is at the ball's border, a square has one sign in each channel."""

    def _numbers(self, x: Tensor) -> tuple[int, int]:
        _, channels, _, width = x.shape
        return channels * width, 2 + channels

    def _start(self, x: Tensor, noise: Tensor, threat: ThreatModel) -> Tensor:
        """Vertical stripes."""
        _, channels, _, width = x.shape
        return (x + threat.epsilon * _signs(noise, x).view(-1, channels, 1, width)).clamp(0, 1)

    def _propose(self, x: Tensor, best: Tensor, noise: Tensor, query: Tensor, threat: ThreatModel) -> Tensor:
        sides = Sides.of(x, self.area, least=1, odd=False)
        square = Window.at(noise[:, 0], noise[:, 1], sides.at(query), x)
        signs = _signs(noise[:, 2:], x)[:, :, None, None]
        return torch.where(square.inside, (x + threat.epsilon * signs).clamp(0, 1), best)


@dataclass(frozen=True)
class _Peaks(_Square):
    """L2 (algorithm 3) and l1 (arXiv 2103.01208): a square has two peaks of opposite sign, added to what is there.

    Its length is what is left of epsilon, what was there, and what is taken from a second square, which
    becomes zero. In l1, as in the authors' code, it is as long in each channel as this would be in all.
    """

    order: int
    """p of the norm"""

    def _numbers(self, x: Tensor) -> tuple[int, int]:
        _, channels, height, width = x.shape
        tile = _tile(x)
        return (height // tile) * (width // tile) * (1 + channels), 5 + channels

    def _start(self, x: Tensor, noise: Tensor, threat: ThreatModel) -> Tensor:
        """A grid of squares, five a side, of random signs and directions, in the middle of the image."""
        _, channels, height, width = x.shape
        tile = _tile(x)
        down, across = height // tile, width // tile
        signs = _signs(noise.view(len(x), 1 + channels, down, across), x)
        signs = signs.repeat_interleave(tile, 2).repeat_interleave(tile, 3)
        peaks = two_peaks(tile, self.order).to(x)
        grid = torch.where(signs[:, :1] > 0, peaks.repeat(down, across), peaks.T.repeat(down, across)) * signs[:, 1:]
        delta, above, left = torch.zeros_like(x), (height - tile * down) // 2, (width - tile * across) // 2
        delta[:, :, above : above + tile * down, left : left + tile * across] = grid
        return self._at_the_border(x, delta, threat)

    def _propose(self, x: Tensor, best: Tensor, noise: Tensor, query: Tensor, threat: ThreatModel) -> Tensor:
        delta, p = best - x, self.order
        sides = Sides.of(x, self.area, least=3, odd=True)
        to, source = (Window.at(noise[:, i], noise[:, i + 1], sides.at(query), x) for i in (0, 2))
        either = to.inside | source.inside
        here = delta * to.inside
        peaks = to.values(peaks_of(sides, p, x.dtype, x.device), sides.level(query), noise[:, 4] > 0.5)
        changed = peaks * _signs(noise[:, 5:], x)[:, :, None, None] + here / (self._length(here) + 1e-12)
        unused = (threat.epsilon**p - per_example(threat.norm.norm(delta), x) ** p).clamp_min(0)
        length = (unused / x.shape[1] + self._length(delta * either) ** p) ** (1 / p)
        changed *= (length if p == 2 else length * x.shape[1]) / (self._length(changed) + 1e-12)
        return self._at_the_border(x, torch.where(to.inside, changed, delta * ~either), threat)

    def _length(self, delta: Tensor) -> Tensor:
        """Of each channel: `(N, C, 1, 1)`."""
        return torch.linalg.vector_norm(delta, ord=self.order, dim=(2, 3), keepdim=True)

    def _at_the_border(self, x: Tensor, delta: Tensor, threat: ThreatModel) -> Tensor:
        """The image of `delta`, in l2 of length epsilon before the box cuts it, in l1 the nearest of ball and box."""
        if self.order == 2:
            delta = delta * per_example(threat.epsilon / threat.norm.norm(delta).clamp_min(1e-12), x)
        return x + threat.project(x, delta)


def _tile(x: Tensor) -> int:
    """The side of the squares that an image starts with."""
    return max(x.shape[2] // 5, 1)


def _signs(uniform: Tensor, like: Tensor) -> Tensor:
    """1 or -1, each as likely, in the dtype of `like`."""
    return torch.where(uniform < 0.5, -1.0, 1.0).to(like.dtype)
