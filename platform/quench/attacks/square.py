"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random squares, kept where they help; no gradients."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from quench.attacks import Attack, Stage, Victim
from quench.attacks.losses import margin
from quench.attacks.search import Search, Slots, State
from quench.catalogue import name_of
from quench.errors import positive, require
from quench.geometry import per_example
from quench.threat_model import ThreatModel

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""queries after which squares have half the area (section 4 of the paper, for 10,000 queries)"""


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

    All of a round's random numbers are drawn when it begins: uniform, some for the start and `_each` for a square.
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
        sides = _Sides.of(x, self.area, least=1, odd=False)
        square = _Window.at(noise[:, 0], noise[:, 1], sides.at(query), x)
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
        sides = _Sides.of(x, self.area, least=3, odd=True)
        to, source = (_Window.at(noise[:, i], noise[:, i + 1], sides.at(query), x) for i in (0, 2))
        either = to.inside | source.inside
        here = delta * to.inside
        peaks = to.values(_peaks_of(sides, p, x.dtype, x.device), sides.level(query), noise[:, 4] > 0.5)
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


@dataclass(frozen=True)
class _Sides:
    """The sides of the squares, each of half the area of the one before."""

    all: tuple[int, ...]

    @staticmethod
    def of(x: Tensor, area: float, least: int, odd: bool) -> _Sides:
        """For images like these; at least `least`, perhaps made odd, and never larger than the image."""
        height, width = x.shape[2:]
        sides = [max(round(math.sqrt(area / 2**i * height * width)), least) for i in range(len(HALVINGS) + 1)]
        return _Sides(tuple(min(side | 1 if odd else side, height, width) for side in sides))

    def level(self, query: Tensor) -> Tensor:
        """How often the area has been halved: `(N,)` int64."""
        return torch.bucketize(query, _constant(HALVINGS, query.device))

    def at(self, query: Tensor) -> Tensor:
        return _constant(self.all, query.device)[self.level(query)]


@dataclass(frozen=True)
class _Window:
    """A square in each example, as the places of all pixels relative to its upper left corner."""

    row: Tensor
    """(N, H, 1) int64"""
    column: Tensor
    """(N, 1, W) int64"""
    inside: Tensor
    """(N, 1, H, W) bool"""

    @staticmethod
    def at(down: Tensor, across: Tensor, side: Tensor, x: Tensor) -> _Window:
        """Somewhere in the image, each place as likely, given two uniform numbers `(N,)`."""
        height, width = x.shape[2:]
        top, left = ((u * (n - side + 1)).long() for u, n in ((down, height), (across, width)))
        row = torch.arange(height, device=x.device) - top[:, None]
        column = torch.arange(width, device=x.device) - left[:, None]
        rows, columns = ((at >= 0) & (at < side[:, None]) for at in (row, column))
        return _Window(row[:, :, None], column[:, None], (rows[:, :, None] & columns[:, None])[:, None])

    def values(self, patterns: Tensor, which: Tensor, turned: Tensor) -> Tensor:
        """One of `patterns` `(K, S, S)` in each square, `turned` ones transposed, and 0 elsewhere: `(N, 1, H, W)`."""
        turned, last = turned[:, None, None], patterns.shape[1] - 1
        first, second = torch.where(turned, self.column, self.row), torch.where(turned, self.row, self.column)
        return patterns[which[:, None, None], first.clamp(0, last), second.clamp(0, last)][:, None] * self.inside


def two_peaks(side: int, order: int) -> Tensor:
    """(side, side): a peak of length 1 in the upper half and one of -1 in the lower, together of length 1.

    A peak is highest in its middle and falls with the larger of the distances down and across, j, as the sum over
    k >= j of (k + 1)^-2, or in l1 (k + 1)^-4 (eq. 2 of the paper).
    """

    def peak(height: int) -> Tensor:
        layers = max(height // 2, side // 2) + 1
        falling = (1 / torch.arange(1, layers + 1) ** (2 if order == 2 else 4)).flip(0).cumsum(0).flip(0)
        down, across = ((torch.arange(n) - n // 2).abs() for n in (height, side))
        heights = falling[torch.maximum(down[:, None], across)]
        return heights / torch.linalg.vector_norm(heights, ord=order) if height else heights

    both = torch.cat([peak(side // 2), -peak(side - side // 2)])
    return both / torch.linalg.vector_norm(both, ord=order)


@cache
def _peaks_of(sides: _Sides, order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`two_peaks` of each side, padded to the largest: `(K, S, S)`."""
    largest = max(sides.all)
    patterns = [F.pad(two_peaks(side, order), (0, largest - side, 0, largest - side)) for side in sides.all]
    return torch.stack(patterns).to(device, dtype)


@cache
def _constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


def _tile(x: Tensor) -> int:
    """The side of the squares that an image starts with."""
    return max(x.shape[2] // 5, 1)


def _signs(uniform: Tensor, like: Tensor) -> Tensor:
    """1 or -1, each as likely, in the dtype of `like`."""
    return torch.where(uniform < 0.5, -1.0, 1.0).to(like.dtype)
