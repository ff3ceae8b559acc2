"""The squares of the Square attack (arXiv 1912.00049): how large, where, and what is drawn in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""queries after which squares have half the area (section 4 of the paper, for 10,000 queries)"""


@dataclass(frozen=True)
class Sides:
    """The sides of the squares, each of half the area of the one before."""

    all: tuple[int, ...]

    @staticmethod
    def of(x: Tensor, area: float, least: int, odd: bool) -> Sides:
        """For images like these; at least `least`, perhaps made odd, and never larger than the image."""
        height, width = x.shape[2:]
        sides = [max(round(math.sqrt(area / 2**i * height * width)), least) for i in range(len(HALVINGS) + 1)]
        return Sides(tuple(min(side | 1 if odd else side, height, width) for side in sides))

    def level(self, query: Tensor) -> Tensor:
        """How often the area has been halved: `(N,)` int64."""
        return torch.bucketize(query, _constant(HALVINGS, query.device))

    def at(self, query: Tensor) -> Tensor:
        return _constant(self.all, query.device)[self.level(query)]


@dataclass(frozen=True)
class Window:
    """A square in each example, as the places of all pixels relative to its upper left corner."""

    row: Tensor
    """(N, H, 1) int64"""
    column: Tensor
    """(N, 1, W) int64"""
    inside: Tensor
    """(N, 1, H, W) bool"""

    @staticmethod
    def at(down: Tensor, across: Tensor, side: Tensor, x: Tensor) -> Window:
        """Somewhere in the image, each place as likely, given two uniform numbers `(N,)`."""
        height, width = x.shape[2:]
        top, left = ((u * (n - side + 1)).long() for u, n in ((down, height), (across, width)))
        row = torch.arange(height, device=x.device) - top[:, None]
        column = torch.arange(width, device=x.device) - left[:, None]
        rows, columns = ((at >= 0) & (at < side[:, None]) for at in (row, column))
        return Window(row[:, :, None], column[:, None], (rows[:, :, None] & columns[:, None])[:, None])

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
def peaks_of(sides: Sides, order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`two_peaks` of each side, padded to the largest: `(K, S, S)`."""
    largest = max(sides.all)
    patterns = [F.pad(two_peaks(side, order), (0, largest - side, 0, largest - side)) for side in sides.all]
    return torch.stack(patterns).to(device, dtype)


@cache
def _constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)
